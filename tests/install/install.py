#!/usr/bin/env python3
"""Installs the build into a scratch folder, and builds and runs programs against that copy alone.

usage: install.py BUILD_DIR CLIENT_C
"""

import glob
import os
import subprocess
import sys
import tempfile

LINK_NAMES = [['-lbulkhead'], ['-lWinHvPlatform', '-lWinHvEmulation'],
              ['-lwinhvplatform', '-lwinhvemulation']]
MAN_PAGES = ['bulkhead.1', 'bulkhead-run.1', 'bulkhead-info.1']


def run(command, **more):
    result = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if result.returncode != 0:
        sys.exit(f'{" ".join(command)}: exit code {result.returncode}\n{result.stdout}{result.stderr}')
    return result.stdout


def find_one(root, name):
    found = glob.glob(os.path.join(root, '**', name), recursive=True)
    found = [path for path in found if os.path.isfile(path)]
    if len(found) != 1:
        sys.exit(f'{name}: expected once in the installed copy, found {found}')
    return found[0]


def main():
    build, client = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    with tempfile.TemporaryDirectory() as root:
        run(['meson', 'install', '-C', build, '--no-rebuild', '--quiet', '--destdir', root])
        package = os.path.dirname(find_one(root, 'bulkhead.pc'))
        library = os.path.dirname(find_one(root, 'libbulkhead.so'))
        environment = dict(os.environ, PKG_CONFIG_PATH=package, PKG_CONFIG_SYSROOT_DIR=root,
                           LD_LIBRARY_PATH=library)
        compile_flags = run(['pkg-config', '--cflags', 'bulkhead'], env=environment).split()
        link_flags = run(['pkg-config', '--libs', 'bulkhead'], env=environment).split()
        program = os.path.join(root, 'client')
        for compiler, language in (('gcc', 'c'), ('g++', 'c++')):
            for names in [link_flags] + [['-L' + library] + names for names in LINK_NAMES]:
                run([compiler, '-x', language, '-Wall', '-Wextra', '-Werror', client, '-o', program]
                    + compile_flags + names)
                print(f'{language}, {" ".join(names)}: {run([program], env=environment).strip()}')
        print(run([find_one(root, 'bulkhead'), '--version'], env=environment).strip())
        for page in MAN_PAGES:
            if os.path.getsize(find_one(root, page)) == 0:
                sys.exit(f'{page}: empty')
        print('man pages:', ' '.join(MAN_PAGES))


main()
