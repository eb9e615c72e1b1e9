#!/usr/bin/env python3
"""Runs bench-kvm and prints its medians: raw KVM, the kvm engine, their ratio.

usage: report_kvm.py BUILD_DIR ROUNDS
"""

import os
import subprocess
import sys

# name, what it is, what is wanted of the ratio
FIGURES = (
    ('out', 'port exit, OUT', 1.05),
    ('in', 'port exit, IN', 1.05),
    ('write', 'MMIO exit, write', 1.05),
    ('read', 'MMIO exit, read', 1.05),
    ('interrupt', 'interrupt without APIC, handler, port exit', 1.10),
    ('message', 'interrupt with APIC, handler, EOI, port exit', 1.10),
    ('life', 'create, set up, 1 processor, map 1 GiB, delete', 1.10),
    ('map', 'map and unmap 1 MiB', 1.10),
)


def row(name, raw, contract='', engine='', ratio='', to_contract='', wanted=''):
    print(f'{name:<48} {raw:>11} {contract:>13} {engine:>11} {ratio:>7} {to_contract:>13}  {wanted}')


def main():
    program = os.path.join(sys.argv[1], 'bench/bench-kvm')
    print('bench-kvm ...', file=sys.stderr, flush=True)
    output = subprocess.run([program, sys.argv[2]], stdout=subprocess.PIPE, text=True, check=True).stdout
    lines = [line.split() for line in output.splitlines()]
    figures = {name: [float(value) for value in values] for name, *values in lines}
    row('', 'raw KVM', 'contract', 'kvm engine', 'ratio', 'to contract', 'wanted')
    for name, title, wanted in FIGURES:
        raw, contract, engine, to_raw, to_contract = figures[name]
        row(title, f'{raw:.2f} us', f'{contract:.2f} us' if contract else '', f'{engine:.2f} us',
            f'{to_raw:.3f}', f'{to_contract:.3f}' if contract else '',
            f'{wanted:.2f} or less' + (' to "contract"' if contract else ''))
    print('\n"contract": the raw loop with what the contract of RIP must cost, by hand: registers out at each exit, the'
          '\ninstruction\'s bytes by way of the guest\'s page tables, the exit\'s context, RIP back in.')


main()
