"""How the repository hangs together: what no single notebook can see."""

import ast
import builtins
import dis
import importlib
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import CodeType

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
CFG = ConfigParser(delimiters=['='])
CFG.read(ROOT / 'settings.ini', encoding='utf-8')
CFG = CFG['DEFAULT']
LIB = CFG['lib_name']
PAGES = {'index', 'design'}  # notebooks that are no module
NBS = sorted(p for p in (ROOT / 'nbs').rglob('*.ipynb') if p.name[0] not in '_.')
# A module imports from those above it, wherever in its code the import stands.
ORDER = '''
    files formats labels figures machine timing recipes model_files folders label_rows tables
    splits facts layouts data irmas_labels synthesis download audit streams storage
    audio_transforms augmentation effects spectrograms photo_transforms evaluation inference
    model report schedules learner runs training jobs experiments search_space search cards
    tracking weights mobilenet custom_cnn options probe transfer multilayer transfer_recipes
    irmas_multistft irmas_efficient irmas_mel gtzan_mlp_cnn gtzan_grid gtzan_findings
    scoring irmas_held_out graphs export answer_pictures answers predictions training_setup
    commands app prediction_app examples lessons
    demo_html demo races time_to_accuracy augmentation_races prediction_races costs startup
    benchmarks
'''.split()


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
    assert set(sources) == set(ORDER)
    assert not upward(ORDER, sources)


def private_imports(src):
    "Private names that `src` takes from other modules of the package"
    found = []
    for node in ast.walk(ast.parse(src)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith(f'{LIB}.'):
            found += [a.name for a in node.names if a.name.startswith('_')]
    return found


@pytest.mark.parametrize('path', [p for p in NBS if module(p)], ids=lambda p: p.stem)
def test_no_module_takes_private_names_of_another(path):
    assert private_imports(f'from {LIB}.data import _x, y') == ['_x']
    assert private_imports(exported(path)) == []


HEAVY = ('torchvision', 'timm', 'fastai', 'captum', 'scipy', 'sklearn', 'pandas', 'matplotlib')


def loaded_after(code):
    "Which heavy modules a fresh process has imported after `code`"
    look = f'import sys; print(*[m for m in {("torch", *HEAVY)} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', f'{code}; {look}'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split('\n')[-2].split()


def test_commands_begin_without_anything_heavy():
    assert loaded_after(f'import {LIB}.app, {LIB}.prediction_app, {LIB}.demo') == []


def test_predicting_one_clip_takes_little(tmp_path):
    "PyTorch, and nothing that only training, drawing or photos need"
    soundfile.write(tmp_path / 'tone.wav', np.sin(np.arange(80000) * 0.05), 16000)
    code = f"""
from {LIB}.predictions import find_files
from {LIB}.model import load_model
row, = load_model('sounds').predict_rows([{str(tmp_path / 'tone.wav')!r}])
assert not row['error']"""
    assert loaded_after(code) == ['torch']


@pytest.mark.parametrize('path', [p for p in NBS if p.stem not in PAGES], ids=lambda p: p.stem)
def test_each_notebook_is_one_module(path):
    "`02_custom_cnn.ipynb` is `custom_cnn`: it begins by saying so and ends with the export"
    code = [source(c) for c in cells(path) if c['cell_type'] == 'code']
    assert (
        module(path) == re.sub(r'^\d+_', '', path.stem)
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
