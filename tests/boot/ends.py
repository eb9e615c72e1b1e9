#!/usr/bin/env python3
"""Every way in which a run of the `bulkhead` command ends: code, one clear line, and the terminal as it was.

usage: ends.py BULKHEAD
"""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import time

BULKHEAD = sys.argv[1]
AT = '@0x7c00'
DEBUG_EXIT = ['--debug-exit', '0xf4']
LOOP = b'\xeb\xfe'                                  # jmp $


def guest(folder, code):
    path = os.path.join(folder, 'guest.bin')
    with open(path, 'wb') as file:
        file.write(code)
    return path + AT


def run(arguments, **options):
    result = subprocess.run([BULKHEAD, 'run', *arguments], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                            timeout=60, check=False, **{'stdout': subprocess.PIPE, **options})
    return result.returncode, result.stderr.decode()


def expect(what, result, code, *texts):
    seen, text = result
    if seen != code or not all(part in text for part in texts):
        sys.exit(f'{what}: exit code {seen} instead of {code}, or a text is missing: {texts}\n{text}')
    print('ok', what)


def test_signal(flat, number):
    """Ended by a signal, the run leaves the terminal as it found it."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    # In a session of its own with this as its terminal: in the background the command would leave it alone.
    with subprocess.Popen([BULKHEAD, 'run', '--flat', flat], stdin=slave, stdout=slave, stderr=subprocess.DEVNULL,
                          start_new_session=True,
                          preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) as process:
        deadline = time.monotonic() + 30
        while termios.tcgetattr(slave) == before and time.monotonic() < deadline:
            time.sleep(0.01)                        # until the terminal is raw
        raw = termios.tcgetattr(slave) != before
        process.send_signal(number)
        code = process.wait(timeout=30)
    if not raw or code != 128 + number or termios.tcgetattr(slave) != before:
        sys.exit(f'{number.name}: raw {raw}, exit code {code}, terminal {termios.tcgetattr(slave)}')
    os.close(master)
    os.close(slave)
    print('ok', number.name)


def main():
    with tempfile.TemporaryDirectory() as folder:
        for value in (0x10, 0xff):                  # mov al, value; out 0xf4, al
            flat = guest(folder, bytes([0xb0, value, 0xe6, 0xf4]) + LOOP)
            code = (value << 1 | 1) & 0xff
            expect(f'debug exit {value:#x}', run(['--flat', flat, *DEBUG_EXIT]), code, f'code {code} ')
        # mov dx, 0x3f8; mov al, 'x'; out dx, al; mov al, 0; out 0xf4, al
        flat = guest(folder, b'\xba\xf8\x03\xb0x\xee\xb0\x00\xe6\xf4' + LOOP)
        with open('/dev/full', 'wb') as full:
            expect('full disk', run(['--flat', flat, *DEBUG_EXIT], stdout=full), 1, 'No space left on device')
        # lidt [zeros]; int3: no gate, so a triple fault
        flat = guest(folder, b'\x0f\x01\x1e\x00\x00\xcc' + LOOP)
        expect('triple fault', run(['--flat', flat]), 3, 'triple fault', 'int3')
        flat = guest(folder, LOOP)
        expect('timeout', run(['--flat', flat, '--timeout', '1']), 124, 'time of 1 s')
        expect('too much memory', run(['--flat', flat, '--memory', '64T']), 1, '--memory', 'MiB')
        expect('no such engine', run(['--flat', flat, '--engine', 'none']), 2, 'none')
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            test_signal(flat, number)


main()
