#!/usr/bin/env python3
"""Builds and runs every C program that stands in a page of the documentation.

usage: doc_examples.py COMPILER INCLUDE_DIR LIBRARY DOCS_DIR

A block that is fenced as `c` is a whole program: it compiles without a warning, ends with 0, and prints what the block
fenced as `text` right after it says, when there is one.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

PROGRAM = re.compile(r'^```c\n(.*?)^```\n(?:\s*```text\n(.*?)^```\n)?', re.MULTILINE | re.DOTALL)


def run(page, command, **more):
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)
    if result.returncode != 0:
        sys.exit(f'{page}: {command[0]} ended with {result.returncode}\n{result.stdout}{result.stderr}')
    return result.stdout


def check_page(page, compiler, include, library):
    with open(page, encoding='utf-8') as file:
        programs = PROGRAM.findall(file.read())
    if not programs:
        sys.exit(f'{page}: no example')
    folder = os.path.dirname(os.path.abspath(library))
    environment = dict(os.environ, BULKHEAD_ENGINE='soft')
    for source, expected in programs:
        with tempfile.TemporaryDirectory() as scratch:
            program = os.path.join(scratch, 'example')
            with open(program + '.c', 'w', encoding='utf-8') as file:
                file.write(source)
            run(page, [compiler, '-std=gnu11', '-Wall', '-Wextra', '-Werror', '-I', include, program + '.c',
                       '-o', program, library, '-Wl,-rpath,' + folder, '-pthread'])
            printed = run(page, [program], env=environment)
        if expected and printed != expected:
            sys.exit(f'{page}: expected\n{expected}and got\n{printed}')
        print(f'{os.path.basename(page)}: builds and runs')


def main():
    compiler, include, library, docs = sys.argv[1:5]
    pages = sorted(glob.glob(os.path.join(docs, '*.md')))
    if not pages:
        sys.exit(f'{docs}: no pages')
    for page in pages:
        check_page(page, compiler, include, library)


main()
