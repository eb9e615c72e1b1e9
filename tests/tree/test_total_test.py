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


TOLD = '''[ RUN      ] test_apic
skipped: no reason at all
[  SKIPPED ] test_apic
[ RUN      ] test_exits
refused as documented: CPUID exits
[       OK ] test_exits
'''


def entry(name, result, stderr='', stdout=''):
    return {'name': name, 'result': result, 'stdout': stdout, 'stderr': stderr}


# The log (None: no file), the expected skips, the last line, and whether it is a success; perhaps what the host is, and
# a line that must be there.
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
    # A skip that only one kind of host may have.
    ([entry('a', 'OK'), entry('c-kvm', 'SKIP')], '*-kvm where no-kvm', '1 passed, 0 failed, 1 skipped', True, 'no-kvm'),
    ([entry('a', 'OK'), entry('c-kvm', 'SKIP')], '*-kvm where no-kvm', '1 passed, 0 failed, 1 skipped', False,
     'paravirtual'),
    ([entry('b', 'OK', CMOCKA)], 'b:test_apic where paravirtual', '3 passed, 0 failed, 1 skipped', True, 'paravirtual'),
    ([entry('b', 'OK', CMOCKA)], 'b:test_apic where paravirtual', '3 passed, 0 failed, 1 skipped', False, 'no-kvm'),
    # The kvm column is missing.
    ([entry('a-soft', 'OK')], '', '1 passed, 0 failed, 0 skipped', False),
    ([entry('a-soft', 'OK'), entry('a-kvm', 'OK')], '', '2 passed, 0 failed, 0 skipped', True),
    # Reasons and refusals are told.
    ([entry('b', 'OK', CMOCKA, TOLD)], 'b:*', '3 passed, 0 failed, 1 skipped', True, 'no-kvm',
     'skipped: b:test_apic (no reason at all)'),
    ([entry('b', 'OK', CMOCKA, TOLD)], 'b:*', '3 passed, 0 failed, 1 skipped', True, 'no-kvm',
     '1 of those that passed verified a refusal, as documented'),
]


def main():
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        log, skips = os.path.join(directory, 'testlog.json'), os.path.join(directory, 'skips')
        for entries, expected_skips, last_line, success, *more in CASES:
            if os.path.exists(log):
                os.remove(log)
            if entries is not None:
                with open(log, 'w', encoding='utf-8') as file:
                    file.writelines(json.dumps(line) + '\n' for line in entries)
            with open(skips, 'w', encoding='utf-8') as file:
                file.write(expected_skips + '\n')
            host = ['--host', more[0]] if more else []
            result = subprocess.run([sys.executable, sys.argv[1]] + host + [skips, log],
                                    stdout=subprocess.PIPE, text=True, check=False)
            lines = result.stdout.splitlines()
            if lines[-1] != last_line or (result.returncode == 0) != success or (more[1:] and more[1] not in lines):
                print(f'{entries}: exit code {result.returncode}\n{result.stdout}')
                failures += 1
    print(f'{len(CASES)} logs, {failures} failures')
    sys.exit(1 if failures else 0)


main()
