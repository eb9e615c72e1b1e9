#!/usr/bin/env python3
"""Boots Debian's cloud kernel, or SeaBIOS, with the `bulkhead` command, and looks at what the guest says.

usage: boot.py linux BULKHEAD GUEST_FILES CPUS
       boot.py paused TEST_CLI_BOOT GUEST_FILES CPUS
       boot.py firmware BULKHEAD IMAGE
"""

import os
import signal
import subprocess
import sys

SKIP = 77


def run(command, seconds):
    """Runs it without a terminal. It has a timeout of its own of so many seconds, and a hang is a failure too."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            timeout=seconds + 30, check=False)
    return result.returncode, result.stdout.decode('utf-8', 'replace')


def expect(good, what, text):
    if not good:
        sys.exit(f'{text}\n{what}')


def find_guest(guest_files):
    files = subprocess.run([guest_files, '--cached'], stdout=subprocess.PIPE, text=True, check=False)
    if files.returncode == SKIP:
        print('skipped: the guest is not there; tools/guest_files fetches it')
        sys.exit(SKIP)
    return files.stdout.splitlines()


def expect_linux(command, seconds, cpus):
    code, text = run(command, seconds)
    expect(f'bulkhead-guest: cpus={cpus}\r\n' in text, f'user space does not say: {cpus} processors', text)
    expect(code == 0, f'the run ends with exit code {code}', text)
    print('\n'.join(text.splitlines()[-8:]))


def boot_linux(bulkhead, guest_files, cpus):
    kernel, initramfs = find_guest(guest_files)
    expect_linux([bulkhead, 'run', '--kernel', kernel, '--initrd', initramfs, '--cpus', cpus, '--memory', '512M',
                  '--append', 'console=ttyS0 panic=-1 bulkhead.batch', '--timeout', '120'], 120, cpus)


def boot_paused(test, guest_files, cpus):
    expect_linux([test, *find_guest(guest_files), cpus], 150, cpus)


def boot_firmware(bulkhead, image):
    if not os.path.exists(image):
        print(f'skipped: no {image}')
        sys.exit(SKIP)
    if os.environ.get('BULKHEAD_ENGINE') == 'kvm' and not os.access('/dev/kvm', os.R_OK | os.W_OK):
        print('skipped: there is no /dev/kvm that opens')
        sys.exit(SKIP)
    # Without a disk it would wait for one; the banner is enough.
    command = [bulkhead, 'run', '--firmware', image, '--debug-console', '0x402', '--timeout', '40']
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        text = ''
        for line in process.stdout:
            text += line.decode('utf-8', 'replace')
            if 'SeaBIOS (version ' in text:
                process.terminate()
                break
        text += process.stdout.read().decode('utf-8', 'replace')
        code = process.wait()
    expect('SeaBIOS (version ' in text, f'no banner on the debug port; exit code {code}', text)
    expect(code == 128 + signal.SIGTERM, f'ended by SIGTERM, it says exit code {code}', text)
    print('\n'.join(text.splitlines()[:1]))


def main():
    if sys.argv[1] == 'linux':
        boot_linux(*sys.argv[2:])
    elif sys.argv[1] == 'paused':
        boot_paused(*sys.argv[2:])
    else:
        boot_firmware(*sys.argv[2:])


main()
