"""Reads src/api/functions.def, the table of exported functions, for the scripts that make things of it."""

import re

_ROW = re.compile(r'^API_(FAMILY|FUNCTION|STUB)\((?:"([^"]*)"|(\w+))[,)][ \t]*(\w+)?', re.M)


def read_families(path):
    """Returns the table as [(family title, [(function name, is implemented)])], in its order."""
    with open(path, encoding='utf-8') as table:
        text = table.read()
    text = text[text.index('*/'):]  # the heading speaks of rows too
    families = []
    for kind, title, name, status in _ROW.findall(text):
        if kind == 'FAMILY':
            families.append((title, []))
        elif kind == 'FUNCTION':
            if status != 'IMPLEMENTED':
                raise ValueError(f'{path}: {name}: a row that is not IMPLEMENTED must be an API_STUB')
            families[-1][1].append((name, True))
        else:
            families[-1][1].append((name, False))
    names = [name for _, rows in families for name, _ in rows]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(f'{path}: more than one row for {", ".join(sorted(repeated))}')
    return families
