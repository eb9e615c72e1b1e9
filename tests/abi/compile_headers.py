#!/usr/bin/env python3
"""Compiles the clients, and each public header by itself, as C and C++ without a warning.

Compilers that are not installed are named and left out; the first one must be there.

usage: compile_headers.py INCLUDE_DIR CLIENT_C...
"""

import os
import shutil
import subprocess
import sys
import tempfile

C_STANDARDS = ['gnu99', 'c11', 'gnu11', 'c17']
CXX_STANDARDS = ['c++11', 'gnu++11', 'c++14', 'c++17', 'c++20']
COMPILERS = [('gcc', 'c', C_STANDARDS), ('g++', 'c++', CXX_STANDARDS), ('clang', 'c', C_STANDARDS),
             ('clang++', 'c++', CXX_STANDARDS)]
WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wconversion', '-Werror']


def main():
    include, clients = sys.argv[1], sys.argv[2:]
    headers = sorted(name for name in os.listdir(include) if name.endswith('.h'))
    headers += [f'bulkhead/{name}' for name in sorted(os.listdir(os.path.join(include, 'bulkhead')))]
    failures, done = [], 0
    with tempfile.TemporaryDirectory() as directory:
        sources = list(clients)
        for header in headers:
            sources.append(os.path.join(directory, header.replace('/', '_') + '.c'))
            with open(sources[-1], 'w', encoding='utf-8') as out:
                out.write(f'#include "{header}"\n#include "{header}"\n')
        for compiler, language, standards in COMPILERS:
            if not shutil.which(compiler):
                print(f'not installed: {compiler}')
                continue
            for standard in standards:
                command = [compiler, f'-std={standard}', '-fsyntax-only', '-I', include, '-x', language]
                result = subprocess.run(command + WARNINGS + sources, capture_output=True, text=True, check=False)
                done += 1
                if result.returncode != 0:
                    failures.append(f'{compiler} -std={standard}:\n{result.stderr[:3000]}')
    print(f'{len(headers)} headers and {len(clients)} clients, compiled in {done} ways: '
          f'{len(failures)} failures')
    print('\n'.join(failures), file=sys.stderr)
    sys.exit(1 if failures or not done else 0)


main()
