#!/usr/bin/env python3
"""Moves the ticking guest from process to process: through many of them, with either side killed or the connection cut
at each step, and at random moments. At most one process runs it, and no tick is lost or happens twice.

usage: move.py hops BULKHEAD GUEST COUNT
       move.py steps BULKHEAD GUEST
       move.py random BULKHEAD GUEST COUNT
       move.py ends BULKHEAD GUEST
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

from machine import Field, SECONDS, expect, expect_error, expect_ticks, fail, needs_engine

HEADER = 16                                         # a stream's head, and a frame's header: tag, length, checksum


def test_hops(field, count):
    """Over unix and tcp in turn, each time without a pause in between."""
    machine = field.run()
    machines = [machine]
    machine.wait_tick()
    for n in range(count):
        target, address = field.receive(f'unix:{field.new_path()}' if n % 2 else 'tcp:127.0.0.1:0')
        code, text = field.ask('migrate', machine.control, address, '--quiet')
        expect(code == 0 and text == '', f'hop {n}: exit code {code}', text, machine.messages, target.messages)
        expect(field.done(machine) == 0, f'hop {n}: the source ends otherwise', machine.messages)
        expect('moved to ' in machine.messages, f'hop {n}: the source does not say that it moved', machine.messages)
        target.wait_tick()
        machine = target
        machines.append(machine)
    machine.type(b'p')
    expect(field.done(machine) == 0, 'the guest does not power off', machine.messages)
    print(f'{count} hops, {expect_ticks(*machines)} ticks')


class Proxy:
    """Between source and target. Before it passes a certain frame on, it does something."""

    def __init__(self, field, target, tag, number, action):
        self.path = field.new_path()
        self.target = target
        self.tag, self.number, self.action = tag, number, action
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.there = socket.socket(socket.AF_UNIX)
        self.here = None
        self.done = threading.Event()
        self.main = threading.Thread(target=self.run)
        self.main.start()

    @staticmethod
    def read(connection, size):
        data = b''
        while len(data) < size:
            more = connection.recv(size - len(data))
            if not more:
                raise ConnectionError
            data += more
        return data

    def copy(self, source, sink, head):
        try:
            sink.sendall(self.read(source, head))
            while True:
                frame = self.read(source, HEADER)
                frame += self.read(source, int.from_bytes(frame[4:8], 'little'))
                if frame[:4] == self.tag:
                    self.number -= 1
                    if self.number < 0 and not self.done.is_set():
                        self.done.set()
                        if self.action(self):
                            return
                sink.sendall(frame)
        except OSError:
            self.cut()

    def cut(self):
        for connection in (self.here, self.there):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def run(self):
        self.here, _ = self.listener.accept()
        self.there.connect(self.target)
        back = threading.Thread(target=self.copy, args=[self.there, self.here, 0])
        back.start()
        self.copy(self.here, self.there, HEADER)
        back.join()
        for each in (self.here, self.there, self.listener):
            each.close()


def kill_source(proxy):
    proxy.source.kill()
    proxy.source.process.wait()
    return False                                    # what it has sent is passed on


def kill_target(proxy):
    proxy.machine.kill()
    proxy.machine.process.wait()
    proxy.cut()
    return True


def cut(proxy):
    proxy.cut()
    return True


def expect_here(field, source, target, what):
    """The guest goes on at the source, and the target has said why it has nothing, if it could."""
    code = field.done(target)
    expect(code in (1, -signal.SIGKILL), f'{what}: the target ends with {code}', target.messages)
    expect(target.console == b'', f'{what}: the target has run it', target.console)
    source.wait_tick()
    source.type(b'p')
    expect(field.done(source) == 0, f'{what}: the source does not go on', source.messages)
    expect_ticks(source, what=what)


def expect_there(field, source, target, what):
    target.wait_tick()
    target.type(b'p')
    expect(field.done(target) == 0, f'{what}: the target does not go on', target.messages)
    expect_ticks(source, target, what=what)


def expect_nowhere(field, source, target, what):
    """The source does not know, and stays as it is until it is told."""
    source.wait_for(lambda seen: 'migrate --resume' in seen.messages, f'{what}: word of the source on what to do')
    before = source.printed()
    expect_error(f'{what}: nothing else is served', field.ask('save', source.control, field.path('no')), 1, 'paused')
    expect(source.printed() == before, f'{what}: the source runs', source.console[len(before):])


def step(field, tag, number, action, expected):
    what = f'{action.__name__} before {tag.decode()} {number}'
    source = field.run()
    source.wait_tick()
    target, address = field.receive(f'unix:{field.new_path()}')
    proxy = Proxy(field, address.removeprefix('unix:'), tag, number, action)
    proxy.source, proxy.machine = source, target
    code, text = field.ask('migrate', source.control, f'unix:{proxy.path}', '--quiet', '--rounds', '2')
    proxy.main.join()
    expect(proxy.done.is_set(), f'{what}: it never came', text)
    expect(code == (0 if expected == 'moved' else 1), f'{what}: exit code {code}', text)
    if expected == 'here':
        expect_here(field, source, target, what)
    elif expected == 'lost':                        # with the process that had it
        expect(field.done(source) == -signal.SIGKILL and field.done(target) == 1 and target.console == b'',
               f'{what}: the target has run it', target.messages)
    elif expected == 'there':                       # and the source is dead
        expect(field.done(source) == -signal.SIGKILL, what)
        expect_there(field, source, target, what)
    elif expected == 'unknown there':
        expect_nowhere(field, source, target, what)
        source.process.send_signal(signal.SIGTERM)
        expect(field.done(source) == 128 + signal.SIGTERM, what, source.messages)
        expect_there(field, source, target, what)
    elif expected == 'unknown':                     # and it does not run there: the user looks, and resumes
        expect_nowhere(field, source, target, what)
        expect(field.done(target) in (1, -signal.SIGKILL) and target.console == b'', what, target.messages)
        expect(field.ask('migrate', '--resume', source.control) == (0, ''), f'{what}: no way to go on')
        source.wait_tick()
        source.type(b'p')
        expect(field.done(source) == 0, what, source.messages)
        expect_ticks(source, what=what)
    print('ok', what)


def test_steps(field):
    for tag, number in ((b'CONF', 0), (b'PAGE', 0), (b'PAGE', 1), (b'DEVS', 0), (b'HOST', 0), (b'PART', 0),
                        (b'END_', 0), (b'REDY', 0)):
        step(field, tag, number, kill_source, 'lost')
        step(field, tag, number, kill_target, 'here')
        step(field, tag, number, cut, 'here')
    step(field, b'GO__', 0, kill_source, 'there')
    step(field, b'GO__', 0, kill_target, 'unknown')
    step(field, b'GO__', 0, cut, 'unknown')
    step(field, b'RUNS', 0, kill_source, 'there')
    step(field, b'RUNS', 0, cut, 'unknown there')


def duration(field):
    """How long a move takes here."""
    source = field.run()
    source.wait_tick()
    target, address = field.receive(f'unix:{field.new_path()}')
    begin = time.monotonic()
    code, text = field.ask('migrate', source.control, address, '--quiet')
    end = time.monotonic()
    expect(code == 0, 'a plain move fails', text)
    target.wait_tick()
    target.type(b'p')
    expect(field.done(source) == 0 and field.done(target) == 0, 'a plain move', source.messages, target.messages)
    return end - begin


def test_random(field, count):
    """One side is killed, or the command is, or interrupted, after a random time. Whoever is left tells whether it has
    the machine; never both have."""
    seed = int.from_bytes(os.urandom(4), 'little')
    choose = random.Random(seed)
    came = {}
    longest = 1.2 * duration(field)
    print('seed', seed)
    for n in range(count):
        source = field.run()
        source.wait_tick()
        target, address = field.receive(f'unix:{field.new_path()}')
        victim = choose.choice(['source', 'target', 'command', 'interrupt'])
        after = choose.random() * longest
        with subprocess.Popen([field.bulkhead, 'migrate', source.control, address, '--quiet'], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as command:
            try:
                command.wait(timeout=after)
            except subprocess.TimeoutExpired:
                pass
            process = {'source': source.process, 'target': target.process}.get(victim, command)
            process.send_signal(signal.SIGINT if victim == 'interrupt' else signal.SIGKILL)
            text = command.stderr.read().decode()
            code = command.wait(timeout=SECONDS)
        result = settle(field, source, target, address, victim,
                        f'{n}: {victim} after {after:.4f} s, exit code {code}, {text}')
        came[victim, result] = came.get((victim, result), 0) + 1
    for (victim, result), times in sorted(came.items()):
        print(f'{times:4} times {victim}: {result}')


def settle(field, source, target, address, victim, what):
    """Who has the machine, once everything has come to rest. Checks that it is one of the two at most."""
    # The command may have been killed before it was there: then this is who comes, and goes.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address.removeprefix('unix:'))
    # Either the target runs it and the source has ended or is paused, or the target gives up.
    target.wait_for(lambda seen: seen.console or seen.open == 0, 'end or tick of the target')
    if target.console:
        if victim != 'target':
            target.wait_tick()
        expect(victim in ('source', 'target') or field.done(source) == 0, f'{what}: the source goes on',
               source.messages)
        if victim == 'target':
            # It may have run until it was killed; the source has ended, or keeps what it has.
            source.wait_for(lambda seen: seen.open == 0 or '--resume' in seen.messages, f'{what}: word of the source')
        expect_ticks(source, target, what=what)
        target.kill()
        field.done(target)
        return 'it ran at the target'
    field.done(target)
    if victim == 'source':
        expect(source.process.wait() == -signal.SIGKILL, what)
        expect_ticks(source, what=what)
        return 'it is lost with the source'
    shown = len(source.console)
    source.wait_for(lambda seen: seen.open == 0 or '--resume' in seen.messages or len(seen.console) > shown, what)
    if source.open == 0:
        expect(victim == 'target' and 'moved to' in source.messages, f'{what}: nobody has it', source.messages)
        return 'it moved, and died there before it said anything'
    if '--resume' in source.messages:
        return 'the source does not know'
    source.wait_tick()
    source.type(b'p')
    expect(field.done(source) == 0, f'{what}: the source does not go on', source.messages)
    expect_ticks(source, what=what)
    return 'it runs at the source'


def move_in_background(field, source, address, *arguments):
    """A move that goes on for as long as the guest runs: there are rounds enough."""
    command = subprocess.Popen([field.bulkhead, 'migrate', source.control, address, '--rounds', '1000000', '--downtime',
                                '0', '--bandwidth', '1', *arguments], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for line in command.stderr:
        if b'round 2:' in line:
            return command
    fail('the move does not get to a second round')
    return None


def ended_while_moving(field, what, act, code, *texts):
    """ACT ends the machine, or the move, in the middle."""
    source = field.run()
    source.wait_tick()
    target, address = field.receive(f'unix:{field.new_path()}')
    command = move_in_background(field, source, address)
    act(source, command)
    text = command.stderr.read().decode()
    expect_error(what, (command.wait(timeout=SECONDS), text), code, *texts)
    expect(field.done(target) == 1 and target.console == b'', f'{what}: the target', target.messages)
    return source


def test_ends(field):
    source = ended_while_moving(field, 'cancelled', lambda source, command: command.send_signal(signal.SIGINT),
                                128 + signal.SIGINT, 'cancelled')
    source.wait_tick()
    source.type(b'p')
    expect(field.done(source) == 0, 'cancelled: the source does not go on', source.messages)
    expect_ticks(source)

    for what, key, text in (('power-off', b'p', 'powered off'), ('reset', b'r', 'asked for a reset'),
                            ('Ctrl-A x', b'\x01x', 'ended by the user')):
        source = ended_while_moving(field, what, lambda source, command, key=key: source.type(key), 1, text)
        expect(field.done(source) == 0 and text in source.messages, f'{what}: the source', source.messages)

    # A guest that writes faster than it can be sent is stopped after so many rounds.
    source = field.run()
    source.wait_tick()
    source.type(b'm')
    source.wait_for(lambda seen: b'm\n' in seen.console, 'line that says that it hurries')
    target, address = field.receive('tcp:0')
    result = field.path('json')
    code, text = field.ask('migrate', source.control, address.replace('0.0.0.0', 'localhost'), '--rounds', '3',
                           '--downtime', '0', '--json', result)
    with open(result, encoding='utf-8') as file:
        summary = json.load(file)
    # One with the guest paused comes behind them. A guest that got no processor has written nothing: the last round.
    expect(code == 0 and 2 <= summary['rounds'] <= 4 and summary['result'] == 'moved', 'rounds', text, summary)
    expect(summary['bytes'] > 1 << 20, 'what was written is not sent', summary)
    expect(field.done(source) == 0, 'rounds: the source', source.messages)
    target.wait_tick()
    target.type(b'p')
    expect(field.done(target) == 0, 'rounds: the target', target.messages)
    expect_ticks(source, target)
    print('ok rounds')
    refused(field)


def refused(field):
    source = field.run()
    source.wait_tick()
    control = source.control
    expect_error('nobody waits', field.ask('migrate', control, f'unix:{field.path("none")}'), 1, 'No such file')
    expect_error('no such host', field.ask('migrate', control, 'tcp:no.such.host.invalid:1'), 1, 'no.such.host')
    expect_error('no port', field.ask('migrate', control, 'tcp:localhost'), 2, 'HOST:PORT')
    expect_error('nothing to resume', field.ask('migrate', '--resume', control), 1, 'nothing to resume')
    expect_error('control in use', field.ask('run', '--flat', f'{field.guest}@0x7c00', '--control', control), 1,
                 'listens there already')
    expect_error('control is a file', field.ask('run', '--flat', f'{field.guest}@0x7c00', '--control', field.guest), 1,
                 'no socket')
    expect_error('no machine', field.ask('migrate', field.path('none'), f'unix:{control}'), 1)

    # The other side closes at once, and speaks another language.
    for what, said in (('closed', b''), ('nonsense', b'HTTP/1.1 400 Bad Request\r\n\r\n')):
        with socket.create_server(('127.0.0.1', 0)) as server:
            def answer(server=server, said=said):
                connection, _ = server.accept()
                connection.sendall(said)
                connection.close()
            thread = threading.Thread(target=answer)
            thread.start()
            expect_error(what, field.ask('migrate', control, f'127.0.0.1:{server.getsockname()[1]}'), 1)
            thread.join()
    target, address = field.receive('tcp:127.0.0.1:0')
    with socket.create_connection(('127.0.0.1', int(address.split(':')[-1]))) as connection:
        connection.sendall(b'GET / HTTP/1.1\r\n\r\n')
        expect(field.done(target) == 1 and 'no saved machine' in target.messages, 'a stranger', target.messages)
    target, _ = field.receive('tcp:127.0.0.1:0')
    target.process.send_signal(signal.SIGTERM)
    expect(field.done(target) == 128 + signal.SIGTERM and 'signal' in target.messages, 'signal', target.messages)

    # Killed, it leaves its socket; the next one takes its place.
    source.wait_tick()
    source.kill()
    field.done(source)
    expect(os.path.exists(control), 'the socket of a killed machine is gone')
    code, text = field.ask('run', '--flat', f'{field.guest}@0x7c00', '--control', control, '--timeout', '0.2')
    expect(code == 124 and not os.path.exists(control), 'a stale socket is not replaced, or not removed', text)
    print('ok stale socket')


def main():
    needs_engine()
    mode, bulkhead, guest, *more = sys.argv[1:]
    with Field(bulkhead, guest) as field:
        {'hops': test_hops, 'steps': test_steps, 'random': test_random, 'ends': test_ends}[mode](
            field, *(int(each) for each in more))


main()
