#!/usr/bin/env python3
"""Saves the ticking guest to files and restores it: again and again without a tick lost or doubled; what a file, a pipe
or a disk can do to that; and files that are damaged, one way after the other.

usage: saved.py chain BULKHEAD GUEST COUNT
       saved.py ways BULKHEAD GUEST
       saved.py damage BULKHEAD GUEST
"""

import os
import resource
import signal
import stat
import struct
import subprocess
import sys

from machine import Field, SECONDS, expect, expect_error, expect_ticks, needs_engine

HEAD = 16                                           # magic number, version
HEADER = 16                                         # tag, length, checksum


def save(field, *arguments):
    """A running guest that was saved: the machine, the file."""
    machine = field.run()
    machine.wait_tick()
    file = field.new_path()
    code, text = field.ask('save', machine.control, file, '--quiet', *arguments)
    expect(code == 0 and text == '', f'save ends with {code}', text)
    return machine, file


def test_chain(field, count):
    machine = field.run()
    machines = [machine]
    for n in range(count):
        file = field.new_path()
        machine.wait_tick()
        code, text = field.ask('save', machine.control, file, '--quiet')
        expect(code == 0, f'{n}: save ends with {code}', text, machine.messages)
        expect(field.done(machine) == 0 and f'saved to {file}' in machine.messages, f'{n}: the machine',
               machine.messages)
        machine = field.start('restore', file)
        machines.append(machine)
    machine.wait_tick()
    machine.type(b'p')
    expect(field.done(machine) == 0, 'the guest does not power off', machine.messages)
    print(f'{count} files, {expect_ticks(*machines)} ticks')


def goes_on(machine, what):
    machine.wait_tick()
    expect_ticks(machine, what=what)


def refused(field, machine, what, result, code, *texts):
    """Nothing was written, and the machine goes on."""
    expect_error(what, result, code, *texts)
    expect(not [name for name in os.listdir(field.folder.name) if '.part-' in name], f'{what}: something is left')
    goes_on(machine, what)


def test_names(field, machine):
    there = field.path('there')
    with open(there, 'w', encoding='utf-8') as file:
        file.write('precious')
    control = machine.control
    refused(field, machine, 'a file is there', field.ask('save', control, there), 1, 'is there already', '--force')
    with open(there, encoding='utf-8') as file:
        expect(file.read() == 'precious', 'it was touched')
    refused(field, machine, 'a directory', field.ask('save', control, field.folder.name), 1, 'directory')
    os.mkfifo(field.path('pipe'))
    refused(field, machine, 'a pipe', field.ask('save', control, field.path('pipe')), 1, 'no regular file')
    refused(field, machine, 'no directory', field.ask('save', control, field.path('no/file')), 1, 'No such file')
    refused(field, machine, 'no machine', field.ask('save', field.path('none'), field.path('x')), 1, 'No such file')
    refused(field, machine, 'not a directory', field.ask('save', control, there + '/x'), 1, 'Not a directory')
    refused(field, machine, 'no permission', field.ask('save', control, '/proc/bulkhead'), 1, 'cannot write')
    expect(not os.path.exists(field.path('x')), 'something was written')
    code, text = field.ask('save', control, there, '--force', '--keep', '--quiet')
    expect(code == 0 and text == '', f'--force --keep ends with {code}', text)
    expect(stat.S_IMODE(os.stat(there).st_mode) == 0o600, 'others may read it')
    goes_on(machine, '--keep')
    # What was kept can be restored beside the machine that goes on.
    restored = field.start('restore', there)
    restored.wait_tick()
    restored.type(b'p')
    expect(field.done(restored) == 0, 'it does not go on', restored.messages)
    print('ok --force --keep')


def test_streams(field, machine):
    with open('/dev/full', 'wb') as full:
        refused(field, machine, 'full disk', field.ask('save', machine.control, '-', stdout=full), 1, 'No space left')
    reader, writer = os.pipe()
    os.close(reader)
    refused(field, machine, 'no reader', field.ask('save', machine.control, '-', stdout=writer), 1, 'Broken pipe')
    os.close(writer)
    with subprocess.Popen([field.bulkhead, 'save', machine.control, '-', '--quiet'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE) as saver:
        target = field.start('restore', '-', stdin=saver.stdout)
        expect(saver.wait(timeout=SECONDS) == 0, 'save to a pipe')
    target.wait_tick()
    expect(field.done(machine) == 0, 'the source', machine.messages)
    target.process.send_signal(signal.SIGTERM)
    expect(field.done(target) == 128 + signal.SIGTERM, 'the target', target.messages)
    expect_ticks(machine, target)
    print('ok through a pipe')


def test_interrupted(field):
    """The command is stopped before the file has its name: a reader that takes nothing holds it up."""
    for number, code in ((signal.SIGINT, 128 + signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)):
        machine = field.run()
        machine.wait_tick()
        reader, writer = os.pipe()
        with subprocess.Popen([field.bulkhead, 'save', machine.control, '-'], stdin=subprocess.DEVNULL, stdout=writer,
                              stderr=subprocess.PIPE) as saver:
            saver.stderr.readline()                 # of the first round: the machine is paused, and writes
            saver.send_signal(number)
            expect(saver.wait(timeout=SECONDS) == code, f'{number.name}: save', saver.stderr.read())
        goes_on(machine, number.name)
        os.close(reader)
        os.close(writer)
        machine.type(b'p')
        expect(field.done(machine) == 0, number.name, machine.messages)
        print('ok interrupted by', number.name)


def test_limit(field):
    """A disk that is full, as a limit on the size of files stands in for it."""
    machine = field.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)))
    machine.wait_tick()
    file = field.path('large')
    refused(field, machine, 'limit', field.ask('save', machine.control, file), 1, f'cannot write {file}', 'too large')
    expect(not os.path.exists(file), 'something is there')


def test_ways(field):
    machine = field.run()
    machine.wait_tick()
    test_names(field, machine)
    test_limit(field)
    test_streams(field, machine)
    test_interrupted(field)
    for what, name, text in (('nothing there', field.path('none'), 'No such file'),
                             ('a directory', field.folder.name, 'directory'),
                             ('another file', field.guest, 'no saved machine'),
                             ('nothing in it', '/dev/null', 'no saved machine')):
        expect_error(f'restore: {what}', field.ask('restore', name), 1, text)


def frames(data):
    """Where each frame begins, and the end."""
    at, places = HEAD, []
    while at < len(data):
        places.append(at)
        at += HEADER + struct.unpack_from('<I', data, at + 4)[0]
    return [*places, at]


def damaged(data):
    """(what, bytes, what the error says)"""
    places = frames(data)
    newer = bytearray(data)
    newer[8] = 2
    yield 'newer', newer, 'version 2'
    yield 'longer', data + b'\0', 'follows'
    yield 'empty', b'', 'no saved machine'
    cuts = {7, 9, len(data) - 1, *(place + n for place in places[:-1] for n in (0, 4, 20))}
    for cut in sorted(cut for cut in cuts if cut < len(data)):
        yield f'{cut} bytes', data[:cut], 'truncated' if cut > 8 else 'no saved'
    for n in range(1, len(places) - 1):
        yield f'without frame {n}', data[:places[n - 1]] + data[places[n]:], 'damaged'
    first, second, third = places[1:4]
    yield 'swapped', data[:first] + data[second:third] + data[first:second] + data[third:], 'damaged'
    yield 'doubled', data[:second] + data[first:second] + data[second:], 'damaged'
    for at in sorted({*range(8, HEAD), *(place + n for place in places[:-1] for n in (0, 4, 7, 8, 15)),
                      *range(HEAD + HEADER, len(data), len(data) // 40)}):
        flipped = bytearray(data)
        flipped[at] ^= 0x10
        yield f'bit of byte {at}', flipped, ''


def test_damage(field):
    machine, file = save(field)
    expect(field.done(machine) == 0, 'the machine', machine.messages)
    with open(file, 'rb') as saved:
        data = saved.read()
    count = 0
    for what, contents, text in damaged(data):
        bad = field.path('bad')
        with open(bad, 'wb') as out:
            out.write(contents)
        result = subprocess.run([field.bulkhead, 'restore', bad, '--timeout', '10'], stdin=subprocess.DEVNULL,
                                capture_output=True, timeout=SECONDS, check=False)
        message = result.stderr.decode()
        expect(result.returncode == 1 and result.stdout == b'' and message.count('\n') == 1 and bad in message
               and text in message, f'{what}: exit code {result.returncode}', message, result.stdout[:80])
        count += 1
    restored = field.start('restore', file)         # it was the damage, and nothing else
    restored.wait_tick()
    restored.type(b'p')
    expect(field.done(restored) == 0, 'the file itself', restored.messages)
    expect_ticks(machine, restored)
    print(f'{count} damaged files, {len(frames(data)) - 1} frames')


def main():
    needs_engine()
    mode, bulkhead, guest, *more = sys.argv[1:]
    with Field(bulkhead, guest) as field:
        {'chain': test_chain, 'ways': test_ways, 'damage': test_damage}[mode](field, *(int(each) for each in more))


main()
