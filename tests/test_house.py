"""How the repository hangs together: what no single notebook can see."""

import ast
import builtins
import dis
import importlib
import json
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path
from types import CodeType

import pytest

ROOT = Path(__file__).resolve().parents[1]
CFG = ConfigParser(delimiters=['='])
CFG.read(ROOT / 'settings.ini', encoding='utf-8')
CFG = CFG['DEFAULT']
LIB = CFG['lib_name']
PAGES = {'index', '08_design'}  # notebooks that are no module
NBS = sorted(p for p in (ROOT / 'nbs').glob('*.ipynb') if p.name[0] not in '_.')


def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def source(cell):
    return ''.join(cell['source'])


def module(path):
    "The module that a notebook exports to, or None"
    found = re.search(
        r'^#\| ?default_exp (\S+)',
        '\n'.join(source(c) for c in cells(path) if c['cell_type'] == 'code'),
        re.M,
    )
    return found and found[1]


def exported(path):
    return '\n'.join(source(c) for c in cells(path) if re.search(r'^#\| ?export', source(c), re.M))


def imported(src, lib=LIB):
    "Modules of `lib` that `src` imports, however it is written and wherever it stands"
    names = set()
    for node in ast.walk(ast.parse(src)):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(filter(None, [lib if node.level else '', node.module]))
            names |= {base} | {f'{base}.{a.name}' for a in node.names}
    return {n.split('.')[1] for n in names if n.startswith(f'{lib}.')}


def upward(order, sources):
    "Pairs (module, what it imports) that go against `order`, from the first module to the last"
    return [
        (m, i)
        for m, src in sources.items()
        for i in sorted(imported(src))
        if i in order and order.index(i) >= order.index(m)
    ]


def unknown(code, known):
    "Names that code looks up in its module and that only its notebook had"
    own = {
        i.argval for i in dis.get_instructions(code) if i.opname in ('LOAD_GLOBAL', 'LOAD_NAME')
    } - {*known, *dir(builtins), '__annotations__'}
    return own.union(*(unknown(c, known) for c in code.co_consts if isinstance(c, CodeType)))


def test_unknown_names_are_seen():
    assert unknown(
        compile(
            'import os\ndef f(a):\n    b = 1\n    return [os, a, b, len, lost] + [also for _ in a]',
            'm',
            'exec',
        ),
        ['os', 'f'],
    ) == {'lost', 'also'}


@pytest.mark.parametrize('path', [p for p in NBS if module(p)], ids=lambda p: p.stem)
def test_modules_know_their_names(path):
    m = importlib.import_module(f'{LIB}.{module(path)}')
    assert (
        unknown(compile(Path(m.__file__).read_text(encoding='utf-8'), m.__file__, 'exec'), vars(m))
        == set()
    )


def test_upward_imports_are_seen():
    src = (
        f'from {LIB}.data import x\ndef f():\n    from .app import main\n'
        f'    from . import app\n    import {LIB}.app as a, os'
    )
    assert imported(src) == {'data', 'app'}
    assert upward(['data', 'training', 'app'], {'training': src}) == [('training', 'app')]


def test_imports_point_only_downward():
    sources = {m: exported(p) for p in NBS if (m := module(p))}
    wrong = upward(list(sources), sources)
    assert sources and not wrong


@pytest.mark.parametrize('path', [p for p in NBS if p.stem not in PAGES], ids=lambda p: p.stem)
def test_each_notebook_is_one_module(path):
    "`02_custom_cnn.ipynb` is `custom_cnn`: begins by saying so and ends with the export"
    code = [source(c) for c in cells(path) if c['cell_type'] == 'code']
    assert (
        module(path) == re.sub(r'^\d+[a-z]?_', '', path.stem)
        and 'default_exp' in code[0]
        and 'nbdev_export()' in code[-1]
    )


@pytest.mark.parametrize('path', NBS, ids=lambda p: p.stem)
def test_stored_outputs_are_fit_to_read(path):
    for c in cells(path):
        for o in c.get('outputs', []):
            text = ''.join(o.get('text', '')) + ''.join(o.get('data', {}).get('text/plain', ''))
            assert o['output_type'] != 'error' or 'raises' in source(c), (
                f'cell {c["id"]}: a stored error'
            )
            assert not re.search(r'(/home|/root|/tmp|/Users)/\w', text), (
                f'cell {c["id"]}: a path of some machine'
            )
            assert not re.search(r'\bWarning\b|\w+Warning:', text), f'cell {c["id"]}: a warning'


def test_nothing_is_too_large():
    sizes = {p.name: p.stat().st_size for p in NBS}
    assert max(sizes.values()) < 1e6 and sum(sizes.values()) < 8e6, sizes
    tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip('not a git clone')
    files = {
        f: (ROOT / f).stat().st_size
        for f in filter(None, tracked.stdout.split('\0'))
        if (ROOT / f).exists()
    }
    models = {f: s for f, s in files.items() if '/models/' in f}
    assert max(models.values()) < 1e7 and sum(models.values()) < 2e7
    assert (
        not {f: s for f, s in files.items() if s > 5e6 and f not in models}
        and sum(files.values()) < 4e7
    )


@pytest.mark.parametrize('script', CFG['console_scripts'].split())
def test_each_command_is_a_function(script):
    _, _, target = script.partition('=')
    mod, _, name = target.partition(':')
    assert callable(getattr(importlib.import_module(mod), name)), script
