#!/usr/bin/env python3
"""Runs a program and compares what it prints with a file. usage: compare_output.py EXPECTED PROGRAM"""

import subprocess
import sys

with open(sys.argv[1], encoding='utf-8') as file:
    expected = file.read()
result = subprocess.run([sys.argv[2]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                        check=False)
if result.returncode != 0 or result.stdout != expected:
    sys.exit(f'exit code {result.returncode}; printed:\n{result.stdout}\nexpected:\n{expected}')
