#!/usr/bin/env python3
"""Holds the public headers against the public-domain headers of the same API in mingw-w64-common.

Everything is taken from those headers when the test runs: each enumerator and macro, each type with its
size, each member with its offset, each bit-field with its position, and each prototype. The facts are
measured by one generated C program, compiled twice: against their headers with Windows' rules for bit-fields
(-mms-bitfields), and against ours with the host's rules.

differences.txt lists where ours differ on purpose. A difference that is not listed fails the test, and so
does a listed one that does not exist.

usage: compare.py CC THEIR_INCLUDE_DIR OUR_INCLUDE_DIR DIFFERENCES
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

THEIR_HEADERS = ['winhvplatformdefs.h', 'winhvplatform.h', 'winhvemulation.h']

# The Windows types that their headers take from elsewhere, written down independently of our own.
SHIM = '''
#ifndef SHIM
#define SHIM
#define WINAPI_FAMILY_PARTITION(x) 1
#define WINAPI_PARTITION_DESKTOP 1
#define __C89_NAMELESS
#define WINAPI
#define CALLBACK
#define VOID void
#define ANYSIZE_ARRAY 1
#define DECLSPEC_ALIGN(x) __attribute__((aligned(x)))
#define C_ASSERT(e) _Static_assert(e, #e)
#define DEFINE_ENUM_FLAG_OPERATORS(e) _Static_assert(1, "")
typedef unsigned char UINT8;
typedef unsigned short UINT16, USHORT, WCHAR;
typedef unsigned int UINT32;
typedef unsigned long UINT64;
typedef int HRESULT, WINBOOL;
typedef void *PVOID, *HANDLE;
typedef struct { UINT32 a; UINT16 b, c; UINT8 d[8]; } GUID;
typedef struct { UINT32 a; int b; } LUID;
typedef enum { PowerDeviceUnspecified } DEVICE_POWER_STATE;
#endif
'''
SHIM_NAMES = ['apiset.h', 'apisetcconv.h', 'minwindef.h', 'winapifamily.h']

PROLOGUE = '''
#include <stddef.h>
#include <stdio.h>
#include <string.h>
static void bits(const char *name, const void *value, size_t size)
{
    const unsigned char *bytes = value;
    long first = -1, count = 0;
    for (size_t i = 0; i < size * 8; i++)
        if (bytes[i / 8] >> (i % 8) & 1) {
            first = first < 0 ? (long)i : first;
            count++;
        }
    printf("%s bits %ld+%ld\\n", name, first, count);
}
'''


def fail(message):
    print(message, file=sys.stderr)
    sys.exit(1)


def run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


class Facts:
    """What their headers declare."""

    def __init__(self):
        self.values = []      # enumerators and macros
        self.types = []       # names of types that have a size
        self.members = []     # (type, path, is bit-field)
        self.prototypes = []  # declarations, to be repeated after our headers


def split_top(text, separator=';'):
    """Splits at separators that are outside of braces."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == '{') - (char == '}')
        if char == separator and depth == 0:
            parts.append(' '.join(text[start:at].split()))
            start = at + 1
    return [part for part in parts if part]


def read_members(facts, type_name, prefix, body):
    for declaration in split_top(body):
        nested = re.fullmatch(r'(?:struct|union) \{(.*)\} ?(\w*)', declaration)
        if nested:
            inner = f'{prefix}{nested[2]}.' if nested[2] else prefix
            if nested[2]:
                facts.members.append((type_name, prefix + nested[2], False))
            read_members(facts, type_name, inner, nested[1])
            continue
        plain = re.fullmatch(r'[\w ]+?[ *]+(\w+) ?(?:\[.*\])? ?(?:: ?(\d+))?', declaration)
        if not plain:
            fail(f'cannot read a member of {type_name}: {declaration}')
        facts.members.append((type_name, prefix + plain[1], plain[2] is not None))


def read_declaration(facts, declaration):
    if declaration.startswith('_Static_assert'):
        return
    body = re.fullmatch(r'typedef (enum|struct|union) (?:__attribute__ ?\(\(.*?\)\) )?(\w+) \{(.*)\} ?(.*)',
                        declaration)
    if body:
        kind, _, inside, names = body.groups()
        names = [name for name in re.split(r'[ ,]+', names) if name]
        facts.types += [name.lstrip('*') for name in names]
        if kind == 'enum':
            facts.values += re.findall(r'(\w+) ?(?:=[^,]*)?(?:,|$)', inside)
        else:
            read_members(facts, names[0], '', inside)
        return
    if re.match(r'HRESULT \w+ ?\(', declaration) or re.match(r'typedef HRESULT', declaration):
        facts.prototypes.append(declaration)
        return
    alias = re.fullmatch(r'typedef [\w ]+?[ *]+(\w+)', declaration)
    if not alias:
        fail(f'cannot read a declaration: {declaration}')
    facts.types.append(alias[1])


def read_facts(cc, their_dir):
    source = ''.join(f'#include <{name}>\n' for name in SHIM_NAMES[:1] + THEIR_HEADERS)
    main = os.path.join(their_dir, 'all.c')
    with open(main, 'w', encoding='utf-8') as out:
        out.write(source)
    text = run([cc, '-E', '-P', '-I', their_dir, main]).stdout
    shim = run([cc, '-E', '-P', '-x', 'c', os.path.join(their_dir, SHIM_NAMES[0])]).stdout
    facts = Facts()
    shim_declarations = set(split_top(shim))
    for declaration in split_top(text):
        if declaration not in shim_declarations:
            read_declaration(facts, declaration)
    for name in THEIR_HEADERS:
        with open(os.path.join(their_dir, name), encoding='utf-8') as header:
            facts.values += re.findall(r'^#define (WHV_\w+) +\S', header.read(), re.M)
    return facts


def program(facts, includes, left_out, prototypes):
    lines = [f'#include <{name}>' for name in includes] + [PROLOGUE]
    lines += [f'{declaration};' for declaration in prototypes]
    lines += ['int main(void)', '{']
    for name in facts.values:
        if name not in left_out:
            lines.append(f'printf("{name} value %lld\\n", (long long)({name}));')
    for name in facts.types:
        if name not in left_out:
            lines.append(f'printf("{name} size %zu align %zu\\n", sizeof({name}), _Alignof({name}));')
    for owner, path, is_bits in facts.members:
        label = f'{owner}.{path}'
        if label in left_out:
            continue
        if is_bits:
            lines.append(f'{{ {owner} v; memset(&v, 0, sizeof(v)); v.{path} = ~0ull; '
                         f'bits("{label}", &v, sizeof(v)); }}')
        else:
            lines.append(f'printf("{label} offset %zu size %zu\\n", offsetof({owner}, {path}), '
                         f'sizeof((({owner} *)0)->{path}));')
    return '\n'.join(lines + ['return 0;', '}', ''])


def measure(cc, directory, name, text, flags):
    source, binary = os.path.join(directory, name + '.c'), os.path.join(directory, name)
    with open(source, 'w', encoding='utf-8') as out:
        out.write(text)
    compiled = run([cc, '-std=gnu11', '-Wno-overflow', '-o', binary, source] + flags)
    if compiled.returncode != 0:
        fail(f'{name} does not compile; a name may be missing:\n{compiled.stderr[:6000]}')
    return dict(line.split(' ', 1) for line in run([binary]).stdout.splitlines())


def has_member(cc, directory, label, flags):
    owner, path = label.split('.', 1)
    source = os.path.join(directory, 'absent.c')
    with open(source, 'w', encoding='utf-8') as out:
        out.write(f'#include "WinHvPlatform.h"\nvoid f({owner} *v);\n'
                  f'void f({owner} *v) {{ (void)v->{path}; }}\n')
    return run([cc, '-std=gnu11', '-fsyntax-only', source] + flags).returncode == 0


def read_differences(path):
    differences = {}
    with open(path, encoding='utf-8') as rows:
        for row in rows:
            if row.strip() and not row.startswith('#'):
                name, kind, reason = (part.strip() for part in row.split('|'))
                if kind not in ('absent', 'differs') or not reason:
                    fail(f'{path}: cannot read the row of {name}')
                differences[name] = kind
    return differences


def compare_error_values(cc, directory, their_include, flags):
    """Compares the HRESULTs and Win32 errors that both winerror.h and our wintypes.h define."""
    ours_text = run([cc, '-E', '-dM', '-include', 'bulkhead/wintypes.h', '-x', 'c', '/dev/null'] +
                    flags).stdout
    ours = set(re.findall(r'^#define ((?:S|E|ERROR|WHV_E)_\w+) ', ours_text, re.M))
    with open(os.path.join(their_include, 'winerror.h'), encoding='utf-8') as header:
        rows = re.findall(r'^#define (\w+) +(\S.*)$', header.read(), re.M)
    rows = [(name, value) for name, value in rows if name in ours]
    theirs = ('typedef int HRESULT;\n#define __MSABI_LONG(x) x\n#define _HRESULT_TYPEDEF_(x) ((HRESULT)x)\n' +
              ''.join(f'#define {name} {value}\n' for name, value in rows))
    body = ('#include <stdio.h>\nint main(void)\n{\n' +
            ''.join(f'printf("{name} value %d\\n", (int)({name}));\n' for name, _ in rows) + 'return 0;\n}\n')
    their_values = measure(cc, directory, 'their_errors', theirs + body, [])
    our_values = measure(cc, directory, 'our_errors', '#include "bulkhead/wintypes.h"\n' + body, flags)
    wrong = [name for name in their_values if our_values.get(name) != their_values[name]]
    if wrong or len(rows) < 10:
        fail(f'error values differ: {wrong} ({len(rows)} compared)')
    return len(rows)


def main():
    cc, their_include, our_include, differences_path = sys.argv[1:]
    if not os.path.exists(os.path.join(their_include, THEIR_HEADERS[0])):
        print(f'skipped: no {THEIR_HEADERS[0]} in {their_include} (package mingw-w64-common)')
        sys.exit(77)
    our_flags = ['-I', our_include]
    with tempfile.TemporaryDirectory() as directory:
        for name in SHIM_NAMES:
            with open(os.path.join(directory, name), 'w', encoding='utf-8') as out:
                out.write(SHIM)
        for name in THEIR_HEADERS:
            shutil.copy(os.path.join(their_include, name), directory)
        facts = read_facts(cc, directory)
        differences = read_differences(differences_path)
        absent = {name for name, kind in differences.items() if kind == 'absent'}
        theirs = measure(cc, directory, 'theirs', program(facts, SHIM_NAMES[:1] + THEIR_HEADERS, set(), []),
                         ['-I', directory, '-mms-bitfields'])
        # Their prototypes after our headers: a difference is a conflicting declaration.
        prototypes = ['typedef BOOL WINBOOL'] + facts.prototypes
        ours = measure(cc, directory, 'ours',
                       program(facts, ['WinHvPlatform.h', 'WinHvEmulation.h'], absent, prototypes), our_flags)
        problems = []
        for name, fact in theirs.items():
            listed = differences.pop(name, None)
            if listed == 'absent':
                if has_member(cc, directory, name, our_flags):
                    problems.append(f'{name} is listed as absent, but is there')
            elif listed == 'differs':
                if ours[name] == fact:
                    problems.append(f'{name} is listed as different, but is the same: {fact}')
            elif ours[name] != fact:
                problems.append(f'{name}: theirs {fact}, ours {ours[name]}')
        problems += [f'{name} is listed, but is not in their headers' for name in differences]
        if problems:
            fail('\n'.join(problems))
        errors = compare_error_values(cc, directory, their_include, our_flags)
    print(f'{len(facts.values)} values, {len(facts.types)} types, {len(facts.members)} members, '
          f'{len(facts.prototypes)} prototypes and {errors} error values agree')
    if len(facts.values) < 400 or len(facts.prototypes) < 70:
        fail('their headers were not read in full')


main()
