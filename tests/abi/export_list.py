#!/usr/bin/env python3
"""Checks that the library's dynamic symbols are exactly the rows of the table of exported functions.

usage: export_list.py NM LIBRARY FUNCTIONS_DEF TOOLS_DIR
"""

import subprocess
import sys

sys.dont_write_bytecode = True
nm, library, table, tools = sys.argv[1:]
sys.path.insert(0, tools)
from api_table import read_families  # noqa: E402

wanted = {name for _, rows in read_families(table) for name, _ in rows}
listing = subprocess.run([nm, '-D', '--defined-only', library], capture_output=True, text=True,
                         check=True).stdout
found = {line.split()[-1].split('@')[0] for line in listing.splitlines()}
for name in sorted(wanted - found):
    print(f'not exported: {name}')
for name in sorted(found - wanted):
    print(f'exported, but not in the table: {name}')
print(f'{len(found)} exported symbols')
sys.exit(wanted != found)
