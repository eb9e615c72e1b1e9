#!/usr/bin/env python3
"""Tests that the total of ./check counts cases, and cannot take nothing for a success.

usage: test_total_test.py TEST_TOTAL
"""

import json
import os
import subprocess
import sys
import tempfile

CMOCKA = '''[  PASSED  ] 3 test(s).
[  SKIPPED ] 1 test(s), listed below:
[  SKIPPED ] test_apic

 1 SKIPPED TEST(S)
'''
FAILED = '''[  PASSED  ] 2 test(s).
[  FAILED  ] 1 test(s), listed below:
[  FAILED  ] test_map
'''


def entry(name, result, stderr=''):
    return {'name': name, 'result': result, 'stdout': '', 'stderr': stderr}


# The log (None: no file), the expected skips, the last line, and whether it is a success.
CASES = [
    ([entry('a', 'OK'), entry('b', 'OK', CMOCKA)], 'b:test_apic  # why', '4 passed, 0 failed, 1 skipped', True),
    ([entry('b', 'OK', CMOCKA)], '# none', '3 passed, 0 failed, 1 skipped', False),
    ([entry('proj:s / a', 'OK'), entry('proj:s / c', 'SKIP')], 'c', '1 passed, 0 failed, 1 skipped', True),
    ([entry('a', 'OK'), entry('c', 'SKIP')], '', '1 passed, 0 failed, 1 skipped', False),
    ([entry('b', 'FAIL', FAILED)], '', '2 passed, 1 failed, 0 skipped', False),
    # Died after its tests.
    ([entry('b', 'FAIL', CMOCKA)], 'b:test_apic', '3 passed, 1 failed, 1 skipped', False),
    ([entry('a', 'OK'), entry('t', 'TIMEOUT')], '', '1 passed, 1 failed, 0 skipped', False),
    ([], '', '0 passed, 0 failed, 0 skipped', False),
    (None, '', '0 passed, 0 failed, 0 skipped', False),
]


def main():
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        log, skips = os.path.join(directory, 'testlog.json'), os.path.join(directory, 'skips')
        for entries, expected_skips, last_line, success in CASES:
            if os.path.exists(log):
                os.remove(log)
            if entries is not None:
                with open(log, 'w', encoding='utf-8') as file:
                    file.writelines(json.dumps(line) + '\n' for line in entries)
            with open(skips, 'w', encoding='utf-8') as file:
                file.write(expected_skips + '\n')
            result = subprocess.run([sys.executable, sys.argv[1], skips, log], stdout=subprocess.PIPE,
                                    text=True, check=False)
            if result.stdout.splitlines()[-1] != last_line or (result.returncode == 0) != success:
                print(f'{entries}: exit code {result.returncode}\n{result.stdout}')
                failures += 1
    print(f'{len(CASES)} logs, {failures} failures')
    sys.exit(1 if failures else 0)


main()
