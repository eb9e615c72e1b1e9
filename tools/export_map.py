#!/usr/bin/env python3
"""Writes the linker's version script for libbulkhead: the names of the table, and nothing else, are exported.

usage: export_map.py FUNCTIONS_DEF OUTPUT
"""

import sys

sys.dont_write_bytecode = True  # the source tree stays clean
from api_table import read_families  # noqa: E402


def main():
    table, output = sys.argv[1:]
    names = [name for _, rows in read_families(table) for name, _ in rows]
    with open(output, 'w', encoding='utf-8') as script:
        script.write('{\n    global:\n')
        script.writelines(f'        {name};\n' for name in names)
        script.write('    local:\n        *;\n};\n')


main()
