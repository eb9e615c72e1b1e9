#!/usr/bin/env python3
"""Boots the guest here and under QEMU by turns, runs bench.c, and prints the medians side by side.

usage: report.py BUILD_DIR BOOTS KERNEL INITRAMFS
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

BANNER = b'bulkhead-guest: cpus='
APPEND = 'console=ttyS0 panic=-1 bulkhead.batch'
TIME_LIMIT = 300
QEMU = 'qemu-system-x86_64 -accel tcg -cpu max -M q35 -nic none -m 512 -nographic -no-reboot'.split()


def say(text):
    print(text, file=sys.stderr, flush=True)


def boot(command):
    """Seconds from the start of the command to the first line of the guest's user space."""
    start = time.monotonic()
    seconds, output = None, b''
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        while chunk := os.read(process.stdout.fileno(), 65536):
            output += chunk
            if seconds is None and BANNER in output:
                seconds = time.monotonic() - start
            if time.monotonic() - start > TIME_LIMIT:
                process.kill()
        code = process.wait()
    if seconds is None or code != 0:
        reached = 'not reached' if seconds is None else 'reached'
        sys.exit(f'{" ".join(command)}: user space {reached}, exit code {code}\n'
                 + output[-2000:].decode('utf-8', 'replace'))
    return seconds


def boots(build, count, kernel, initramfs):
    """Medians: the seconds of each machine; instructions and instructions per second of a boot here."""
    guest = ['--kernel', kernel, '--initrd', initramfs, '--append', APPEND]
    times = {'here': [], 'here, 2 processors': [], 'qemu': []}
    summaries = []
    with tempfile.TemporaryDirectory() as directory:
        summary = os.path.join(directory, 'summary.json')
        here = [os.path.join(build, 'cli/bulkhead'), 'run', '--memory', '512M', '--quiet',
                '--timeout', str(TIME_LIMIT)] + guest
        commands = {
            'here': here + ['--json', summary],
            'here, 2 processors': here + ['--cpus', '2'],
            'qemu': QEMU + ['-kernel', kernel, '-initrd', initramfs, '-append', APPEND],
        }
        # By turns, so that what else the host does falls on all of them.
        for turn in range(count):
            for name, command in commands.items():
                times[name].append(boot(command))
                say(f'boot {turn + 1} of {count}, {name}: {times[name][-1]:.2f} s')
            with open(summary, encoding='utf-8') as file:
                summaries.append(json.load(file))
    medians = {name: statistics.median(values) for name, values in times.items()}
    instructions = statistics.median(s['instructions'] for s in summaries)
    rate = statistics.median(s['instructions_per_second'] for s in summaries)
    return medians, instructions, rate


def row(name, here, other='', ratio='', wanted=''):
    print(f'{name:<44} {here:>12} {other:>12} {ratio:>8}  {wanted}')


def main():
    build, count = sys.argv[1], int(sys.argv[2])
    say('bench.c ...')
    output = subprocess.run([os.path.join(build, 'bench/bench')], stdout=subprocess.PIPE, text=True,
                            check=True).stdout
    figures = {name: float(value) for name, value in (line.split() for line in output.splitlines())}
    medians, instructions, rate = boots(build, count, *sys.argv[3:5])

    row('', 'here', 'QEMU TCG', 'ratio', 'wanted')
    for name, title in (('here', 'boot to user space, 1 processor'),
                        ('here, 2 processors', 'boot to user space, 2 processors')):
        ratio = medians[name] / medians['qemu']
        row(title, f'{medians[name]:.2f} s', f'{medians["qemu"]:.2f} s', f'{ratio:.2f}',
            'ratio 4 or less' if name == 'here' else '(QEMU: 1 processor)')
    # QEMU does not count; the guest is the same, so about the same number of instructions is behind its time.
    qemu_rate = instructions / medians['qemu']
    row('instructions of the boot and power-off', f'{instructions / 1e6:.0f} M')
    row('instructions per second, boot', f'{rate / 1e6:.0f} M/s', f'{qemu_rate / 1e6:.0f} M/s',
        f'{qemu_rate / rate:.2f}')
    row('instructions per second, integer loop', f'{figures["loop_instructions_per_second"] / 1e6:.0f} M/s',
        wanted='100 M/s or more')
    row('port exit', f'{figures["port_exit_ns"]:.0f} ns')
    row('port exit, completed by set-registers', f'{figures["port_round_trip_ns"]:.0f} ns',
        wanted='200 ns or less')
    row('MMIO exit', f'{figures["mmio_exit_ns"]:.0f} ns')
    row('MMIO exit, completed by set-registers', f'{figures["mmio_round_trip_ns"]:.0f} ns')
    row('create, set up, 1 processor, map 1 GiB, delete', f'{figures["life_us"]:.0f} us',
        wanted='100 us or less')


main()
