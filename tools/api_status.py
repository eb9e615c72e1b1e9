#!/usr/bin/env python3
"""Writes docs/api-status.md, the page that says which functions work, from the table of exported functions.

usage: api_status.py FUNCTIONS_DEF PAGE           writes the page
       api_status.py --check FUNCTIONS_DEF PAGE   exits with 1 when the page is not what would be written
"""

import sys

sys.dont_write_bytecode = True  # the source tree stays clean
from api_table import read_families  # noqa: E402


def page_of(families):
    rows = [row for _, rows in families for row in rows]
    done = sum(implemented for _, implemented in rows)
    lines = [
        '# Which functions work',
        '',
        'This page is made from `src/api/functions.def` by `tools/api_status.py`; do not edit it.',
        '',
        f'The library exports {len(rows)} functions. {done} of them are implemented; the other '
        f'{len(rows) - done} return `E_NOTIMPL`.',
    ]
    for title, rows in families:
        lines += ['', f'## {title}', '', '| function | status |', '|---|---|']
        lines += [f'| `{name}` | {"implemented" if implemented else "returns `E_NOTIMPL`"} |'
                  for name, implemented in rows]
    return '\n'.join(lines) + '\n'


def main():
    arguments = sys.argv[1:]
    check = arguments[0] == '--check'
    table, page = arguments[check:]
    wanted = page_of(read_families(table))
    if not check:
        with open(page, 'w', encoding='utf-8') as out:
            out.write(wanted)
        return 0
    with open(page, encoding='utf-8') as out:
        if out.read() == wanted:
            return 0
    print(f'{page} is out of date: run tools/api_status.py {table} {page}', file=sys.stderr)
    return 1


sys.exit(main())
