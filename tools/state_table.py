#!/usr/bin/env python3
"""Writes the table of calls and states into docs/migration.md, from the table that the tests walk.

usage: state_table.py TABLE PAGE           rewrites the part of the page between its two marks
       state_table.py --check TABLE PAGE   exits with 1 when the page is not what would be written
"""

import re
import sys

from made_part import bring_up_to_date

ROW = re.compile(r'^CALL\((\w+), .*, (\w+), (\w+), (\w+), (\w+), (\w+)\)$')
BEGIN, END = '<!-- states: made by tools/state_table.py -->', '<!-- end of states -->'
WORDS = {'OK': 'yes', 'STATE': '-'}
HEAD = ['| call | created | set up | migrating out | gone | migrating in |', '|---|---|---|---|---|---|']


def table_of(path):
    with open(path, encoding='utf-8') as file:
        rows = [match.groups() for match in map(ROW.match, file.read().splitlines()) if match]
    if not rows:
        sys.exit(f'{path}: no rows')
    return '\n'.join(HEAD + [f'| `{name}` | ' + ' | '.join(WORDS[answer] for answer in answers) + ' |'
                             for name, *answers in rows])


def main():
    check = sys.argv[1:2] == ['--check']
    table, page = sys.argv[1 + check:]
    bring_up_to_date(page, BEGIN, END, table_of(table), check, f'tools/state_table.py {table} {page}')


main()
