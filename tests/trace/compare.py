#!/usr/bin/env python3
"""Runs the trace on two engines and compares what they tell, field by field.

usage: compare.py ENGINE ENGINE TRACE DIRECTORY GUESTS_DIRECTORY [NAME]

A difference prints both lines and names the fields. Behind one the rest of that guest's run means little, so the
comparison goes on at the next run. Exit status: 0 without a difference, 1 with one, 77 where an engine cannot run.
"""

import os
import subprocess
import sys

NOT_USABLE = 77
TIME_LIMIT = 100     # seconds for all runs of one engine


def trace(engine, command):
    """The runs of a trace: {title: lines}; None where the engine cannot run."""
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=TIME_LIMIT,
                                env={**os.environ, 'BULKHEAD_ENGINE': engine})
        output, code = result.stdout.decode(), result.returncode
    except subprocess.TimeoutExpired as expired:
        output, code = (expired.stdout or b'').decode(), f'none: it does not end in {TIME_LIMIT} s'
    if code == NOT_USABLE:
        print(output, end='')
        return None
    runs, lines = {}, []
    for line in output.splitlines():
        if line.startswith('== '):
            lines = runs.setdefault(line[3:], [])
        else:
            lines.append(line)
    if code != 0:
        print(f'{engine}: exit code {code}')
        lines.append(f'ended with={code}')
    return runs


def fields(line):
    return dict(word.partition('=')[::2] for word in line.split())


def compare(title, engines, one, other):
    """True when the lines are the same; prints the first difference. An engine may lack the exits that a guest is for."""
    for engine, run in zip(engines, (one, other)):
        if run == ['lacking exits']:
            print(f'{title}: not compared, {engine} has no such exits')
            return True
    for number in range(max(len(one), len(other))):
        lines = [run[number] if number < len(run) else '(nothing)' for run in (one, other)]
        if lines[0] == lines[1]:
            continue
        first, second = map(fields, lines)
        names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
        exits = sum(line.startswith('exit ') for line in one[:number + 1])
        print(f'{title}: exit {exits}, line {number + 1}: {" ".join(names)}')
        # The exit that the line belongs to.
        start = max((n for n in range(number) if n < len(one) and one[n].startswith('exit ')), default=number)
        for line in one[start:number]:
            print(f'      both: {line}')
        for engine, line in zip(engines, lines):
            print(f'{engine:>10}: {line}')
        return False
    return True


def main():
    engines, command = sys.argv[1:3], sys.argv[3:]
    traces = [trace(engine, command) for engine in engines]
    if None in traces:
        sys.exit(NOT_USABLE)
    titles = list({**traces[0], **traces[1]})
    good = sum(compare(title, engines, *(runs.get(title, []) for runs in traces)) for title in titles)
    exits = sum(line.startswith('exit ') for lines in traces[0].values() for line in lines)
    print(f'{len(titles)} runs, {exits} exits, {len(titles) - good} runs that differ')
    sys.exit(0 if titles and good == len(titles) and exits > 0 else 1)


main()
