#!/usr/bin/env python3
"""Writes the names of the bits of the platform's words, as its header has them, as tables in C.

usage: bit_names.py HEADER OUTPUT

For each union of one word whose first structure has bits, bit_names_<union> is an array of 64 names that the bit's
number is the index of. Reserved bits have no name, and neither have fields of several bits.
"""

import re
import sys

UNION = re.compile(r'typedef union (\w+) \{(.*?)\n\} ', re.DOTALL)
FIELD = re.compile(r'UINT\d+ (\w+) : (\d+);')
WORD = 64
COMMENT = re.compile(r'/\*.*?\*/', re.DOTALL)


def names_of(body):
    bit = 0
    for name, width in FIELD.findall(body):
        if int(width) == 1 and not name.startswith('Reserved'):
            yield bit, name
        bit += int(width)


def main():
    header, output = sys.argv[1:]
    with open(header, encoding='utf-8') as file:
        text = COMMENT.sub('', file.read())
    with open(output, 'w', encoding='utf-8') as file:
        file.write('/* The names of bits, from the header by tools/bit_names.py. */\n#include <stddef.h>\n')
        for union, body in UNION.findall(text):
            names = list(names_of(body))
            if names and names[-1][0] < WORD:
                file.write(f'\nconst char *const bit_names_{union}[{WORD}] = {{\n')
                file.writelines(f'    [{bit}] = "{name}",\n' for bit, name in names)
                file.write('};\n')


main()
