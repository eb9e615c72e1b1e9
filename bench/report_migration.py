#!/usr/bin/env python3
"""Runs bench-migration and prints its figures.

usage: report_migration.py BUILD_DIR ROUNDS
"""

import os
import subprocess
import sys

# name, what it is, its unit, what is wanted
FIGURES = (
    ('shared_64_mib_downtime_ms', 'shared memory, 64 MiB: downtime', 'ms', ''),
    ('shared_4096_mib_downtime_ms', 'shared memory, 4 GiB: downtime', 'ms', '5 ms or less'),
    ('private_64_mib_downtime_ms', 'private memory, 64 MiB, no rounds: downtime', 'ms', ''),
    ('private_1024_mib_downtime_ms', 'private memory, 1 GiB, no rounds: downtime', 'ms', ''),
    ('private_1024_mib_memcpy_ms', 'memcpy of the same into another file', 'ms', ''),
    ('private_1024_mib_throughput_ratio', 'throughput: ours / memcpy', '', '0.80 or more'),
    ('hundred_times_downtime_ms', 'a hundred times there and back: longest downtime', 'ms', ''),
    ('hundred_times_gap_ms', "the same: longest step of the guest's TSC", 'ms', 'no more than the downtime'),
)


def main():
    program = os.path.join(sys.argv[1], 'bench/bench-migration')
    print('bench-migration ...', file=sys.stderr, flush=True)
    output = subprocess.run([program, sys.argv[2]], stdout=subprocess.PIPE, text=True, check=True).stdout
    figures = dict(line.split() for line in output.splitlines())
    for name, title, unit, wanted in FIGURES:
        print(f'{title:<52} {float(figures[name]):>10.2f} {unit:<3} {wanted}')


main()
