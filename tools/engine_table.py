#!/usr/bin/env python3
"""Prints what each test came to on each engine: pass, refused as documented, or skip with its reason.

usage: engine_table.py TESTLOG_JSON

A test that runs on engines is registered once for each, as NAME-ENGINE. "refused" means that the engine lacks what the
case needs and that the case has verified the refusal which docs/engines.md promises.
"""

import sys

from test_log import cases_of, name_of, read_log

ENGINES = ('soft', 'kvm')
WORDS = {'pass': 'pass', 'refused': 'refused', 'skip': 'skip', 'fail': 'FAIL', 'absent': '-'}


def main():
    table = {}
    for test in read_log(sys.argv[1]):
        name, _, engine = name_of(test).rpartition('-')
        if engine in ENGINES and not name.endswith('-soft'):    # which would be a comparison of engines
            for case, outcome in cases_of(test).items():
                table.setdefault(name, {}).setdefault(case, {})[engine] = outcome
    totals = {engine: {} for engine in ENGINES}
    print(f'{"test":<56}' + ''.join(f'{engine:<9}' for engine in ENGINES))
    for name, cases in table.items():
        # A program that was skipped as a whole has told of no case: its skip stands for each of them.
        whole = cases.pop('', {}) if len(cases) > 1 else {}
        for case, outcomes in cases.items():
            title = f'{name}: {case}' if case else name
            line, notes = f'{title:<56}', []
            for engine in ENGINES:
                kind, note = outcomes.get(engine) or whole.get(engine) or ('absent', '')
                totals[engine][kind] = totals[engine].get(kind, 0) + 1
                line += f'{WORDS[kind]:<9}'
                if note:
                    notes.append(note if whole.get(engine) is None else 'the whole program, see below')
            print(f'{line}{"; ".join(notes)}'.rstrip())
        for engine, (kind, note) in whole.items():
            print(f'{name + ": all on " + engine:<56}{WORDS[kind]}: {note}')
    for engine in ENGINES:
        counts = ', '.join(f'{number} {WORDS[kind]}' for kind, number in sorted(totals[engine].items()))
        print(f'{engine}: {counts}')


main()
