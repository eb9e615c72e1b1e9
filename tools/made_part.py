"""The part of a documentation page that a tool writes, between two marks of its own."""

import sys


def bring_up_to_date(page, begin, end, made, check, again):
    """Write it; with `check` exit with 1 instead, and say how to write it `again`, when the page has another."""
    with open(page, encoding='utf-8') as file:
        text = file.read()
    before, rest = text.split(begin)
    _, after = rest.split(end)
    wanted = f'{before}{begin}\n\n{made}\n\n{end}{after}'
    if not check:
        with open(page, 'w', encoding='utf-8') as file:
            file.write(wanted)
    elif text != wanted:
        print(f'{page} is out of date: run {again}', file=sys.stderr)
        sys.exit(1)
