#!/usr/bin/env python3
"""The partition's properties as the command's user meets them: what is set is what the partition has, in a machine that
was saved too; what is wrong or refused is named; the manual page and `bulkhead info` have all of it.

usage: properties.py BULKHEAD MANUAL_PAGE
"""

import json
import os
import re
import subprocess
import sys
import tempfile

BULKHEAD, MANUAL = sys.argv[1:]
SECONDS = 60
# Prints x, waits for a key, and ends with code 33: mov dx, 0x3f8; mov al, 'x'; out dx, al; mov dx, 0x3fd;
# wait: in al, dx; test al, 1; jz wait; mov al, 0x10; out 0xf4, al; jmp $
GUEST = b'\xba\xf8\x03\xb0x\xee\xba\xfd\x03\xec\xa8\x01\x74\xfb\xb0\x10\xe6\xf4\xeb\xfe'
END = 33

OPTIONS = ['--cpu-cap', '60', '--cpu-weight', '300', '--physical-address-width', '40', '--processor-clock-frequency',
           '1000000000', '--local-apic-emulation-mode', 'xapic', '--no-feature', 'rdtscp', '--no-feature', 'UMIP']
PROPERTIES = {'CpuCap': 60, 'CpuWeight': 300, 'PhysicalAddressWidth': 40, 'ProcessorClockFrequency': 1000000000,
              'LocalApicEmulationMode': 1}
REMOVED = {'rdtscp', 'umip'}

# (options, exit code, what the one line on standard error says)
WRONG = [
    (['--cpu-cap', '0'], 2, "--cpu-cap: '0' is not a number from 1 to 100"),
    (['--cpu-cap', 'half'], 2, "--cpu-cap: 'half' is not a number from 1 to 100"),
    (['--cpu-weight', '10001'], 2, "--cpu-weight: '10001' is not a number from 1 to 10000"),
    (['--cpu-group', '-1'], 2, "--cpu-group: '-1' is not a number from 0 to 18446744073709551615"),
    (['--cpu-cap'], 2, '--cpu-cap needs a value'),
    (['--disable-smt=yes'], 2, '--disable-smt takes no value'),
    (['--cpu', '2'], 2, "'--cpu' could be any of --cpus, --cpu-reserve"),
    (['--local-apic-emulation-mode', 'none'], 2, "--local-apic-emulation-mode: 'none' is none of xapic, x2apic"),
    (['--no-feature', 'turbo'], 2, "--no-feature: 'turbo' is no feature"),
    (['--cpuid-result', '1'], 2, "--cpuid-result: '1' is not LEAF[:SUBLEAF]"),
    (['--msr-action', '0x10:drop'], 2, "--msr-action: '0x10:drop' is not MSR:ACTION"),
    (['--physical-address-width', '52'], 1, '--physical-address-width 52: no engine'),
    (['--numa-node', '65535'], 1, '--numa-node 65535'),
    (['--processor-cl-flush-size', '9'], 1, '--processor-cl-flush-size 9: no engine'),
]


def expect(true, what, *more):
    if not true:
        sys.exit('\n'.join([what, *map(str, more)]))


def command(*arguments, **options):
    result = subprocess.run([BULKHEAD, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=SECONDS,
                            check=False, **{'input': b'', **options})
    return result.returncode, result.stdout, result.stderr.decode()


def summary(path):
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def run(folder, *options):
    """A run to its end; its summary."""
    path = os.path.join(folder, 'summary')
    code, _, text = command('run', '--flat', f'{folder}/guest@0x7c00', '--debug-exit', '0xf4', '--quiet', '--json',
                            path, *options, input=b'k')
    expect(code == END, f'{options}: ends with {code}', text)
    return summary(path)


def expect_set(plain, seen, changes, removed, what):
    expect(seen['properties'] == {**plain['properties'], **changes}, what, seen['properties'])
    expect(removed <= set(plain['features']), 'features that the engine does not have', plain['features'])
    expect(set(seen['features']) == set(plain['features']) - removed, what, seen['features'])
    print('ok', what)


def test_saved(folder, plain):
    """Saved with options, and restored: with the same, and with one that is this host's to say."""
    control, saved = os.path.join(folder, 'control'), os.path.join(folder, 'saved')
    with subprocess.Popen([BULKHEAD, 'run', '--flat', f'{folder}/guest@0x7c00', '--debug-exit', '0xf4', '--quiet',
                           '--control', control, *OPTIONS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as source:
        expect(source.stdout.read(1) == b'x', 'the guest does not begin')
        code, _, text = command('save', control, saved, '--quiet')
        expect(code == 0 and source.wait(timeout=SECONDS) == 0, 'save', code, text)
    for options, changes in (([], {}), (['--cpu-cap', '70'], {'CpuCap': 70})):
        path = os.path.join(folder, 'restored')
        code, _, text = command('restore', saved, '--quiet', '--json', path, *options, input=b'k')
        expect(code == END, f'restore: ends with {code}', text)
        expect_set(plain, summary(path), {**PROPERTIES, **changes}, REMOVED, f'restored with {options}')
    code, _, text = command('restore', saved, '--no-feature', 'smep')
    expect(code == 2 and "unknown option '--no-feature'" in text, 'a feature that would go in mid-flight', code, text)
    code, _, text = command('restore', saved, '--numa-node', '65535')
    expect(code == 1 and '--numa-node 65535' in text, 'a node that is not there', code, text)
    print('ok what a restored machine cannot have')


def test_wrong(folder):
    for options, code, text in WRONG:
        seen = command('run', '--flat', f'{folder}/guest@0x7c00', *options)
        line = seen[2].removeprefix('bulkhead: ')
        expect(seen[0] == code and text in line and line.count('\n') == 1 and
               (code != 2 or line.endswith("; try 'bulkhead run --help'\n")), f'{options}: {seen[0]}', seen[2])
        print('ok', *options)


def test_msr_exits(folder):
    """Only the action "exit" ends the run, at the access, with what it was: mov ecx, 0x10; rdmsr or wrmsr of 5."""
    ends = b'\xb0\x10\xe6\xf4\xeb\xfe'
    load = b'\x66\xb9\x10\x00\x00\x00'
    path = os.path.join(folder, 'msr')
    for what, code in (('read of', b'\x0f\x32'),
                       ('write of 0x5 to', b'\x66\xb8\x05\x00\x00\x00\x66\x31\xd2\x0f\x30')):
        with open(path, 'wb') as file:
            file.write(load + code + ends)
        for action, end in (('exit', 3), ('ignore', END), ('default', END)):
            seen, _, text = command('run', '--flat', f'{path}@0x7c00', '--debug-exit', '0xf4', '--quiet',
                                    '--msr-action', f'0x10:{action}')
            expect(seen == end and (end == END or f'{what} MSR 0x10, whose action is to exit' in text),
                   f'{what} MSR 0x10 with {action}: {seen}', text)
            print('ok', what, 'MSR 0x10:', action)


def test_told(plain):
    """Help, manual page, summary and info know the same options."""
    with open(MANUAL, encoding='utf-8') as file:
        manual = set(re.findall(r'^\.B[IR]* "?(\\-\\-[a-z0-9\\-]+)', file.read(), re.MULTILINE))
    options = set(re.findall(r'^  (--[a-z0-9-]+)', command('run', '--help')[1].decode(), re.MULTILINE))
    expect({name.replace('\\', '') for name in manual} == options, 'the manual page has other options',
           options ^ {name.replace('\\', '') for name in manual})
    code, text, _ = command('info', '--json')
    info = json.loads(text)
    expect(code == 0 and {f'--{row["option"]}' for row in info['properties'].values()} < options, 'info', text)
    expect(all(row['supported'] == (row['hresult'] < 1 << 31) for row in info['properties'].values()), 'info', text)
    expect(set(plain['properties']) < set(info['properties']), 'the summary has others', plain['properties'])
    offered = {name for word in ('ProcessorFeatures', 'ProcessorFeaturesBank1', 'ProcessorXsaveFeatures',
                                 'ProcessorPerfmonFeatures') for name in info['capabilities'][word]['names']}
    expect(set(plain['features']) <= offered, 'a feature that was not offered', plain['features'])
    printed = command('info')[1].decode()
    for name, row in info['properties'].items():
        expect(re.search(rf'^  {name} +--{row["option"]}: {"yes" if row["supported"] else "no"}\b', printed,
                         re.MULTILINE), f'{name} is missing', printed)
    for name in info['capabilities']:
        expect(re.search(rf'^  {name} +(0x|not available)', printed, re.MULTILINE), f'{name} is missing', printed)
    print('ok help, manual page, info')


def main():
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, 'guest'), 'wb') as file:
            file.write(GUEST)
        plain = run(folder)
        expect_set(plain, run(folder, *OPTIONS), PROPERTIES, REMOVED, 'set')
        test_saved(folder, plain)
        test_wrong(folder)
        test_msr_exits(folder)
        test_told(plain)


main()
