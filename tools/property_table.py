#!/usr/bin/env python3
"""Writes the table of properties into docs/api/properties.md, from the table that the library is built with.

usage: property_table.py TREE           rewrites the part of the page between its two marks
       property_table.py --check TREE   exits with 1 when the page is not what would be written

Fails as well when a code of the header has no row, or a row no code; and when a row names a test that does not exist.
"""

import os
import re
import sys

from made_part import bring_up_to_date

TABLE, PAGE, HEADER = 'src/partition/properties.def', 'docs/api/properties.md', 'include/WinHvPlatformDefs.h'
BEGIN, END = '<!-- properties: made by tools/property_table.py -->', '<!-- end of properties -->'
HEAD = ['| property | bytes | what it is | range | default | when | engines | difference from Windows | tests |',
        '|---|---|---|---|---|---|---|---|---|']
WHEN = {'BEFORE_SETUP': 'before', 'ANY_TIME': 'any time'}

ROW = re.compile(r'^PROPERTY\(((?:[^()"]|"[^"]*"|\((?:[^()]|\([^()]*\))*\))*)\)$', re.M)
FIELD = re.compile(r'\s*((?:[^,()"]|"[^"]*"|\([^()]*\))+)(?:,|$)')
CALL = re.compile(r'^(\w+)(?:\((.*)\))?$')
TEXT = re.compile(r'"([^"]*)"')


def number(word):
    return f'{int(word):,}'


def range_of(column):
    """The words for a range."""
    kind, arguments = CALL.match(column).groups()
    at = [argument.strip() for argument in (arguments or '').split(',')]
    return {
        'ANYTHING': lambda: 'any',
        'NUMBER': lambda: number(at[0]) if at[0] == at[1] else f'{number(at[0])} to {number(at[1])}',
        'UP_TO': lambda: f'{number(at[0])} to {number(at[1])}, or to what the engine has',
        'EXACTLY': lambda: "the capability's value alone",
        'FREQUENCY': lambda: f"{number(at[0])} to {number(at[1])}, or the capability's value alone",
        'CHOICE': lambda: f'0 to {number(at[0])}',
        'CHOICE_IF': lambda: f'0 to {number(at[0])}, or 0 alone where the capability is off',
        'BITS': lambda: 'bits that the capability has',
        'BANKS': lambda: f'{at[0]} banks, of bits that the capability has' if at[0] != '1'
                         else '1 bank, of bits that the capability has',
        'HOST_NODE': lambda: 'a node of the host',
        'RESULT2_FLAGS': lambda: 'known flags only',
        'MSR_ACTIONS': lambda: 'known actions, reserved bytes 0',
    }[kind]()


def default_of(column, is_list):
    kind, argument = CALL.match(column).groups()
    if is_list:
        return 'empty'
    return {'ZERO': '0', 'CONSTANT': argument, 'OFFERED': "the capability's"}[kind]


def rows_of(tree):
    with open(os.path.join(tree, TABLE), encoding='utf-8') as file:
        text = file.read()
    text = text[text.index('*/') + 2:]      # the heading speaks of rows too
    rows = []
    for match in ROW.finditer(text):
        columns = [column.strip() for column in FIELD.findall(match[1])]
        if len(columns) != 10:
            sys.exit(f'{TABLE}: {columns[0]}: {len(columns)} columns')
        rows.append(columns[:6] + [''.join(TEXT.findall(column)) for column in columns[6:]])
    if len(rows) != len(re.findall(r'^PROPERTY\(', text, re.M)):
        sys.exit(f'{TABLE}: not all rows can be read')
    return rows


def check_codes(tree, rows):
    with open(os.path.join(tree, HEADER), encoding='utf-8') as file:
        codes = sorted(re.findall(r'^ +WHvPartitionPropertyCode(\w+) =', file.read(), re.M))
    names = sorted(row[0] for row in rows)
    if codes != names:
        sys.exit(f'{TABLE} and {HEADER} differ: {sorted(set(codes) ^ set(names)) or "a row is there twice"}')


def check_test(tree, name, test):
    file, case = test.split(' ')
    for suite in ('api', 'unit'):
        path = os.path.join(tree, 'tests', suite, f'test_{file}.c')
        if os.path.exists(path):
            with open(path, encoding='utf-8') as source:
                if re.search(rf'cmocka_unit_test\w*\({case}[,)]', source.read()):
                    return
    sys.exit(f'{TABLE}: {name}: there is no test "{test}"')


def line_of(tree, row):
    name, size, storage, when, bounds, default, meaning, engines, difference, tests = row
    is_list = storage.startswith('LIST')
    tests = tests.split(', ') if tests else []
    for test in tests:
        check_test(tree, name, test)
    cells = [f'`{name}`', f'list of {size}' if is_list else size, meaning, range_of(bounds), default_of(default, is_list),
             WHEN[when], engines, difference or '-', ', '.join(f'`{test}`' for test in tests) or '-']
    return '| ' + ' | '.join(cells) + ' |'


def main():
    check = sys.argv[1:2] == ['--check']
    tree, = sys.argv[1 + check:]
    page = os.path.join(tree, PAGE)
    rows = rows_of(tree)
    check_codes(tree, rows)
    made = '\n'.join(HEAD + [line_of(tree, row) for row in rows])
    bring_up_to_date(page, BEGIN, END, made, check, f'tools/property_table.py {tree}')


main()
