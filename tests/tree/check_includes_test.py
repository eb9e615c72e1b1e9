#!/usr/bin/env python3
"""Gives tools/check_includes small trees with one arrow each, and expects the right answer for each.

usage: check_includes_test.py CHECK_INCLUDES
"""

import importlib.machinery
import importlib.util
import os
import sys
import tempfile

# Headers that every tree has.
HEADERS = ['include/WinHvPlatform.h', 'src/partition/partition.h', 'src/engine/engine.h', 'src/engine/one/one.h',
           'src/engine/one/inner.h', 'src/engine/two/two.h', 'src/engine/common/processor.h', 'src/x86/cpu.h',
           'src/os/wait.h', 'src/api/call.h', 'src/emulator/emulator.h', 'cli/bus.h', 'tests/api/api.h',
           'tests/support/engine.h']

# (file, what it includes, whether it may)
ARROWS = [
    ('src/api/a.c', '"api/call.h"', True),
    ('src/api/a.c', '"partition/partition.h"', True),
    ('src/api/a.c', '"engine/engine.h"', False),
    ('src/api/a.c', '"x86/cpu.h"', False),
    ('src/partition/a.c', '"engine/engine.h"', True),
    ('src/partition/a.c', '"engine/one/one.h"', False),
    ('src/partition/a.c', '"api/call.h"', False),
    ('src/engine/engine.h', '"partition/partition.h"', False),
    ('src/engine/engines.c', '"engine/one/one.h"', True),
    ('src/engine/engines.c', '"engine/one/inner.h"', False),
    ('src/engine/one/a.c', '"engine/one/inner.h"', True),
    ('src/engine/one/a.c', '"partition/partition.h"', True),
    ('src/engine/one/a.c', '"x86/cpu.h"', True),
    ('src/engine/one/a.c', '"os/wait.h"', True),
    ('src/engine/one/a.c', '"engine/two/two.h"', False),
    ('src/engine/one/a.c', '"engine/common/processor.h"', True),
    ('src/engine/one/a.c', '"emulator/emulator.h"', False),
    ('src/engine/common/a.c', '"engine/common/processor.h"', True),
    ('src/engine/common/a.c', '"x86/cpu.h"', True),
    ('src/engine/common/a.c', '"engine/one/one.h"', False),
    ('src/partition/a.c', '"engine/common/processor.h"', False),
    ('src/emulator/a.c', '"x86/cpu.h"', True),
    ('src/emulator/a.c', '"partition/partition.h"', False),
    ('src/emulator/a.c', '"os/wait.h"', False),
    ('src/x86/a.c', '"x86/cpu.h"', True),
    ('src/x86/a.c', '<WinHvPlatform.h>', False),
    ('src/x86/a.c', '"os/wait.h"', False),
    ('src/os/a.c', '"os/wait.h"', True),
    ('src/os/a.c', '"WinHvPlatform.h"', False),
    ('src/os/a.c', '<unistd.h>', True),
    ('include/a.h', '"../src/os/wait.h"', False),
    ('cli/devices/a.c', '"../bus.h"', True),
    ('cli/a.c', '<WinHvPlatform.h>', True),
    ('cli/a.c', '"x86/cpu.h"', False),
    ('examples/a.c', '<WinHvPlatform.h>', True),
    ('examples/a.c', '"../cli/bus.h"', False),
    ('bench/a.c', '"partition/partition.h"', False),
    ('tests/api/a.c', '"api.h"', True),
    ('tests/api/a.c', '"../support/engine.h"', True),
    ('tests/api/a.c', '"partition/partition.h"', False),
    ('tests/unit/a.c', '"partition/partition.h"', True),
    ('tests/unit/a.c', '"nowhere.h"', False),
]

FIRST_LINES = [
    ('src/os/a.c', '// Sleeps.\n', True),
    ('src/os/a.c', '#include <unistd.h>\n', False),
    ('src/os/a.c', '', False),
    ('src/os/a.c', '//\n// Sleeps.\n', False),
    ('cli/a.h', '/* a.h: a thing. */\n', True),
    ('tools/a.py', '#!/usr/bin/env python3\n"""Does a thing."""\n', True),
    ('tools/a.py', '#!/usr/bin/env python3\nimport os\n', False),
    ('tools/a', '#!/bin/bash\n# a: does a thing.\n', True),
    ('tools/a', '#!/bin/bash\nset -e\n', False),
    ('src/os/meson.build', "bulkhead_sources += files('wait.c')\n", False),
]


def load(path):
    sys.dont_write_bytecode = True
    loader = importlib.machinery.SourceFileLoader('check_includes', path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader('check_includes', loader))
    loader.exec_module(module)
    return module


def passes(check, path, text):
    with tempfile.TemporaryDirectory() as tree:
        for name in HEADERS:
            os.makedirs(os.path.join(tree, os.path.dirname(name)), exist_ok=True)
            with open(os.path.join(tree, name), 'w', encoding='utf-8') as file:
                file.write('// A header.\n')
        os.makedirs(os.path.join(tree, os.path.dirname(path)), exist_ok=True)
        with open(os.path.join(tree, path), 'w', encoding='utf-8') as file:
            file.write(text)
        files, violations = check.check_tree(tree)
        return files > 0 and not violations


def main():
    check = load(sys.argv[1])
    cases = [(path, f'// A file.\n#include {name}\n', good) for path, name, good in ARROWS] + FIRST_LINES
    wrong = [(path, text, good) for path, text, good in cases if passes(check, path, text) != good]
    for path, text, good in wrong:
        print(f'{path} should {"pass" if good else "fail"}: {text!r}')
    print(f'{len(cases)} cases, {len(wrong)} wrong')
    sys.exit(1 if wrong else 0)


main()
