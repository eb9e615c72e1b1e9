#!/usr/bin/env python3
"""Adds up test runs of Meson, and ends with the line 'N passed, N failed, N skipped'.

usage: test_total.py EXPECTED_SKIPS TESTLOG_JSON...

A program that speaks cmocka counts by its cases, any other one as a single test. EXPECTED_SKIPS has one line
for each skip that is no failure: 'TEST' or 'TEST:CASE', then '#' and the reason. A run without tests, or whose
log is missing, is a failure, so that a broken build cannot pass for a success.
"""

import json
import re
import sys

PASSED = ('OK', 'EXPECTEDFAIL')
CASES = re.compile(r'^\[  (PASSED |FAILED |SKIPPED) \] (\d+) test\(s\)', re.MULTILINE)
NAMES = re.compile(r'^\[  (FAILED |SKIPPED) \] (\w+)$', re.MULTILINE)


def read_log(path):
    try:
        with open(path, encoding='utf-8') as log:
            return [json.loads(line) for line in log if line.strip()]
    except (OSError, ValueError) as error:
        print(f'{path}: {error}')
        return []


def count(test):
    """Returns passed, failed, and the names of what was skipped; names what failed."""
    name, result = test['name'], test['result']
    if result == 'SKIP':
        return 0, 0, [name]
    text = test.get('stderr') or test.get('stdout') or ''
    counts = {'PASSED': 0, 'FAILED': 0, 'SKIPPED': 0}
    for kind, number in CASES.findall(text):
        counts[kind.strip()] += int(number)
    passed, failed = counts['PASSED'], counts['FAILED']
    # cmocka tells a skipped case's name as it happens and once more in its list.
    names = {case for kind, case in NAMES.findall(text) if kind == 'SKIPPED'}
    skipped = [f'{name}:{case}' for case in sorted(names)]
    if sum(counts.values()) == 0:
        passed = 1 if result in PASSED else 0
    if result not in PASSED and failed == 0:
        failed = 1
    if failed:
        cases = sorted({case for kind, case in NAMES.findall(text) if kind.strip() == 'FAILED'})
        print(f'failed: {name} ({result.lower()})' + ''.join(f' {case}' for case in cases))
    return passed, failed, skipped


def main():
    with open(sys.argv[1], encoding='utf-8') as lines:
        expected = {line.split('#')[0].strip() for line in lines} - {''}
    passed = failed = skipped = 0
    good = len(sys.argv) > 2
    for path in sys.argv[2:]:
        tests = read_log(path)
        if not tests:
            print(f'no tests: {path}')
            good = False
        for test in tests:
            more_passed, more_failed, names = count(test)
            passed += more_passed
            failed += more_failed
            skipped += len(names)
            for name in names:
                known = name.split(' / ')[-1] in expected
                print(f'skipped: {name}' + ('' if known else ', which was not expected'))
                good = good and known
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    sys.exit(0 if good and passed > 0 and failed == 0 else 1)


main()
