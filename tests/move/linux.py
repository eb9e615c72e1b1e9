#!/usr/bin/env python3
"""Debian's kernel boots to user space and powers off although it is saved and restored, or moved, at several moments.

usage: linux.py saved BULKHEAD GUEST_FILES
       linux.py moved BULKHEAD GUEST_FILES
"""

import subprocess
import sys

from machine import Field, SKIP, expect

# What the console has shown at the moments. The last is early enough for the guest to be there still when it is asked.
MOMENTS = ['', 'Linux version', 'Bringing up', 'Serial: 8250']


def boot(field, guest_files):
    files = subprocess.run([guest_files, '--cached'], stdout=subprocess.PIPE, text=True, check=False)
    if files.returncode == SKIP:
        print('skipped: the guest is not there; tools/guest_files fetches it')
        sys.exit(SKIP)
    kernel, initramfs = files.stdout.splitlines()
    return field.start('run', '--kernel', kernel, '--initrd', initramfs, '--cpus', '2', '--memory', '256M', '--append',
                       'console=ttyS0 panic=-1 bulkhead.batch')


def saved(field, machine):
    """The machine that goes on, and what was printed until then."""
    file = field.new_path()
    code, text = field.ask('save', machine.control, file)
    expect(code == 0, f'save ends with {code}', text, machine.messages)
    expect(field.done(machine) == 0, 'the saved machine', machine.messages)
    return field.start('restore', file), machine.console


def moved(field, machine):
    """There, over one kind of socket, and back again, over the other."""
    console = b''
    for address in (f'unix:{field.new_path()}', 'tcp:127.0.0.1:0'):
        target, address = field.receive(address)
        code, text = field.ask('migrate', machine.control, address)
        expect(code == 0, f'migrate ends with {code}', text, machine.messages, target.messages)
        expect(field.done(machine) == 0, 'the source', machine.messages)
        print(text.splitlines()[-1])
        console += machine.console
        machine = target
    return machine, console


def main():
    mode, bulkhead, guest_files = sys.argv[1:]
    with Field(bulkhead) as field:
        machine = boot(field, guest_files)
        console = b''
        for moment in MOMENTS:
            # Most of it may have been printed before.
            machine.wait_for(lambda seen, moment=moment, past=console: moment.encode() in past + seen.console, moment)
            machine, printed = {'saved': saved, 'moved': moved}[mode](field, machine)
            console += printed
            print(f'{mode} after {moment or "nothing"!r}: {len(console)} bytes of console')
        code = field.done(machine)
        console += machine.console
        text = console.decode('utf-8', 'replace')
        expect(code == 0 and 'powered off' in machine.messages, f'the guest ends with exit code {code}', text,
               machine.messages)
        expect('bulkhead-guest: cpus=2\r\n' in text, 'user space does not say: 2 processors', text)
        expect(text.count('Linux version') == 1 and text.count('Run /init') == 1, 'a part comes twice, or never', text)


main()
