"""Reads the log of a Meson test run: what each case of each program came to.

A program that speaks cmocka has cases; any other one counts as a single case without a name. What a case prints
about itself is kept: 'skipped: REASON', and 'refused as documented: WHAT' when its engine lacks something and the
case has verified that it says so.
"""

import json
import re

PASSED = ('OK', 'EXPECTEDFAIL')
RUN = re.compile(r'^\[ RUN      \] (\S+)$')
END = re.compile(r'^\[ +(OK|FAILED|SKIPPED) +\] (\S+)$')
NOTE = re.compile(r'^(skipped|refused as documented): (.*)$')
FAILED = re.compile(r'^\[  FAILED  \] (\S+)$', re.MULTILINE)


def read_log(path):
    """The entries of a log; none, and a line about it, when it cannot be read."""
    try:
        with open(path, encoding='utf-8') as log:
            return [json.loads(line) for line in log if line.strip()]
    except (OSError, ValueError) as error:
        print(f'{path}: {error}')
        return []


def name_of(test):
    """The test's name without its project and suites."""
    return test['name'].split(' / ')[-1]


def cases_of(test):
    """Returns {case: (outcome, note)}: 'pass', 'refused', 'skip' or 'fail'."""
    outcomes, order, notes = {}, [], {}
    current = ''
    for line in (test.get('stdout') or '').splitlines():
        if match := RUN.match(line):
            current = match[1]
            order.append(current)
        elif match := NOTE.match(line):
            notes.setdefault(current, {}).setdefault(match[1], []).append(match[2])
        elif match := END.match(line):
            outcomes[match[2]] = match[1]
    failed = set(FAILED.findall(test.get('stderr') or ''))
    if not order:
        order, outcomes[''] = [''], 'SKIPPED' if test['result'] == 'SKIP' else \
            'OK' if test['result'] in PASSED else 'FAILED'
    cases = {}
    for case in order:
        note = notes.get(case, {})
        refused = ', '.join(dict.fromkeys(note.get('refused as documented', [])))
        # A program that died has said nothing of the case that it was in.
        if case in failed or outcomes.get(case, 'FAILED') == 'FAILED':
            cases[case] = ('fail', '')
        elif outcomes[case] == 'SKIPPED':
            cases[case] = ('skip', ', '.join(note.get('skipped', ['no reason told'])))
        else:
            cases[case] = ('refused', refused) if refused else ('pass', '')
    return cases
