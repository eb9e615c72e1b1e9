"""Machines of the `bulkhead` command for the tests that save and move them, and what the ticking guest has to say."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading

SECONDS = 120                                       # after that a test hangs
SKIP = 77


def fail(what, *texts):
    sys.exit('\n'.join([what, *(str(text) for text in texts)]))


def needs_engine():
    """Ends the test where the engine that it is run for cannot be had."""
    if os.environ.get('BULKHEAD_ENGINE') == 'kvm' and not os.access('/dev/kvm', os.R_OK | os.W_OK):
        print('skipped: there is no /dev/kvm that opens')
        sys.exit(SKIP)


class Machine:
    """A `bulkhead` process with a machine. What it prints is read all the time."""

    def __init__(self, arguments, control, **options):
        self.control = control
        self.console = b''
        self.messages = ''
        self.changed = threading.Condition()
        self.process = subprocess.Popen([*arguments, '--timeout', str(SECONDS), '--control', control],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        **{'stdin': subprocess.PIPE, **options})
        self.readers = [threading.Thread(target=self.read, args=[self.process.stdout, self.add_console]),
                        threading.Thread(target=self.read, args=[self.process.stderr, self.add_message])]
        self.open = len(self.readers)
        for reader in self.readers:
            reader.start()

    def add_console(self, data):
        self.console += data

    def add_message(self, data):
        self.messages += data.decode()

    def read(self, file, add):
        while True:
            select.select([file], [], [])
            with self.changed:
                if not select.select([file], [], [], 0)[0]:
                    continue                        # `printed` has taken it
                data = os.read(file.fileno(), 65536)
                add(data)
                self.open -= not data
                self.changed.notify_all()
            if not data:
                return

    def printed(self):
        """All that the console has by now, whatever the reader has come to."""
        file = self.process.stdout
        with self.changed:
            while select.select([file], [], [], 0)[0]:
                data = os.read(file.fileno(), 65536)
                if not data:
                    break                           # the reader finds that for itself
                self.add_console(data)
            return self.console

    def wait_for(self, seen, what):
        """Until SEEN is true of this, or the process has closed its output."""
        with self.changed:
            self.changed.wait_for(lambda: seen(self) or self.open == 0, timeout=SECONDS)
            if not seen(self):
                fail(f'no {what}', self.messages, self.console[-500:])

    def wait_tick(self):
        """Until a line more has been printed than now."""
        lines = self.console.count(b'\n')
        self.wait_for(lambda machine: machine.console.count(b'\n') > lines + 1, 'tick')

    def type(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self):
        """Waits for the end; the exit code."""
        code = self.process.wait(timeout=SECONDS)
        for reader in self.readers:
            reader.join()
        for file in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(BrokenPipeError):
                if file is not None:
                    file.close()
        return code

    def kill(self):
        self.process.send_signal(signal.SIGKILL)


class Field:
    """The folder, the command and the machines of a test. Nothing of it is left behind."""

    def __init__(self, bulkhead, guest=None, memory='16M'):
        self.bulkhead = bulkhead
        self.guest = guest
        self.memory = memory
        self.number = 0
        self.machines = []
        self.folder = tempfile.TemporaryDirectory()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for machine in self.machines:
            if machine.process.poll() is None:
                machine.kill()
            machine.end()
        self.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def new_path(self):
        self.number += 1
        return self.path(f's{self.number}')

    def start(self, *arguments, **options):
        machine = Machine([self.bulkhead, *arguments], self.new_path(), **options)
        self.machines.append(machine)
        return machine

    def done(self, machine):
        """A machine that is over: its exit code."""
        self.machines.remove(machine)
        return machine.end()

    def run(self, **options):
        return self.start('run', '--flat', f'{self.guest}@0x7c00', '--memory', self.memory, **options)

    def receive(self, address, *arguments):
        """A machine to come, and the address where it is waited for."""
        machine = self.start('receive', address, *arguments)
        machine.wait_for(lambda seen: '\n' in seen.messages, 'sentence about the address')
        return machine, machine.messages.split('waiting for a machine at ')[1].split('\n')[0]

    def ask(self, *arguments, **options):
        """The command, to its end: exit code and standard error."""
        result = subprocess.run([self.bulkhead, *arguments], stderr=subprocess.PIPE, timeout=SECONDS, check=False,
                                **{'stdin': subprocess.DEVNULL, 'stdout': subprocess.DEVNULL, **options})
        return result.returncode, result.stderr.decode()


def ticks(console):
    """The counts that were printed."""
    return [int(line, 16) for line in console.split(b'\n')[:-1] if line != b'm']


def expect_ticks(*machines, what=''):
    """One count after the other through all of them: nothing is lost, and nothing happens twice."""
    console = b''.join(machine.console for machine in machines)
    counts = ticks(console)
    if counts != list(range(len(counts))) or not counts:
        at = next((n for n, count in enumerate(counts) if n != count), 0)
        fail(f'{what}: the ticks do not follow each other: {counts[max(0, at - 3):at + 3]} after {at}',
             *(machine.messages for machine in machines))
    return len(counts)


def expect(good, what, *texts):
    if not good:
        fail(what, *texts)


def expect_error(what, result, code, *texts):
    """One clear line and nothing else."""
    seen, text = result
    lines = [line for line in text.splitlines() if not line.startswith('round ')]
    good = seen == code and len(lines) == 1 and lines[0].startswith('bulkhead: ')
    expect(good and all(part in text for part in texts),
           f'{what}: exit code {seen} instead of {code}, or not one line with all of {texts}', text)
    print('ok', what, '--', lines[0])
