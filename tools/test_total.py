#!/usr/bin/env python3
"""Adds up test runs of Meson, and ends with the line 'N passed, N failed, N skipped'.

usage: test_total.py [--host WORD,...] EXPECTED_SKIPS TESTLOG_JSON...

A program that speaks cmocka counts by its cases, any other one as a single test. EXPECTED_SKIPS has one line
for each skip that is no failure: 'TEST' or 'TEST:CASE' (with * for any text), perhaps 'where WORD', then '#' and the
reason. With a word, the skip is expected only on a host of which the word is true:

  no-kvm        /dev/kvm does not open
  paravirtual   it does, but the processor has neither vmx nor svm: the kernel interprets ordinary guests

So nothing passes merely because an engine was skipped: where /dev/kvm opens, its column must have run. A test of which
there is one for the soft engine and none for kvm is a failure everywhere. --host overrides what the host is, for tests
of this program. A run without tests, or whose log is missing, is a failure, so that a broken build cannot pass for a
success.
"""

import argparse
import fnmatch
import os
import re
import sys

from test_log import PASSED, cases_of, name_of, read_log

CASES = re.compile(r'^\[  (PASSED |FAILED |SKIPPED) \] (\d+) test\(s\)', re.MULTILINE)
NAMES = re.compile(r'^\[  (FAILED |SKIPPED) \] (\w+)$', re.MULTILINE)
WORDS = ('no-kvm', 'paravirtual')


def host_words():
    """The words of WORDS that are true of this host."""
    try:
        os.close(os.open('/dev/kvm', os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return {'no-kvm'}
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        flags = re.search(r'^flags\s*:(.*)$', file.read(), re.MULTILINE)
    return set() if flags and {'vmx', 'svm'} & set(flags[1].split()) else {'paravirtual'}


def read_expected(path, host):
    """The patterns of the skips that this host may have."""
    patterns = []
    with open(path, encoding='utf-8') as lines:
        for line in lines:
            words = line.split('#')[0].split()
            if not words:
                continue
            if len(words) not in (1, 3) or (len(words) == 3 and (words[1] != 'where' or words[2] not in WORDS)):
                sys.exit(f'{path}: cannot read "{line.strip()}"')
            if len(words) == 1 or words[2] in host:
                patterns.append(words[0])
    return patterns


def count(test):
    """Returns passed, failed, and the names of what was skipped; names what failed."""
    name, result = name_of(test), test['result']
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


def columns_complete(tests):
    """Whether each test of the soft engine has one of the kvm engine beside it; names those that have none."""
    names = {name_of(test) for test in tests}
    lonely = sorted(name for name in names if name.endswith('-soft') and name[:-5] + '-kvm' not in names)
    for name in lonely:
        print(f'not run on kvm: {name}')
    return not lonely


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument('--host')
    parser.add_argument('expected_skips')
    parser.add_argument('logs', nargs='*')
    arguments = parser.parse_args()
    host = host_words() if arguments.host is None else set(arguments.host.split(','))
    expected = read_expected(arguments.expected_skips, host)
    passed = failed = skipped = refused = 0
    good = bool(arguments.logs)
    for path in arguments.logs:
        tests = read_log(path)
        if not tests:
            print(f'no tests: {path}')
            good = False
        good = columns_complete(tests) and good
        for test in tests:
            more_passed, more_failed, names = count(test)
            passed += more_passed
            failed += more_failed
            skipped += len(names)
            cases = cases_of(test)
            refused += sum(outcome == 'refused' for outcome, _ in cases.values())
            for name in names:
                reason = cases.get(name.partition(':')[2], ('', ''))[1]
                known = any(fnmatch.fnmatchcase(name, pattern) for pattern in expected)
                print(f'skipped: {name}' + (f' ({reason})' if reason else '')
                      + ('' if known else ', which was not expected'))
                good = good and known
    if refused:
        print(f'{refused} of those that passed verified a refusal, as documented')
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    sys.exit(0 if good and passed > 0 and failed == 0 else 1)


main()
