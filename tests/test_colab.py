"""The lessons' Colab cell: the same in all of them, and it installs the package from nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / '.ci'))

import colab_install  # noqa: E402
import colab_lessons  # noqa: E402

REQUIREMENTS = {
    'torch': Requirement('torch>=2.11,<2.12'),
    'fastai': Requirement('fastai>=2.8.7,<2.9'),
    'numpy': Requirement('numpy'),
}


# The cell in the notebooks


@pytest.mark.parametrize('path', colab_lessons.lessons(), ids=lambda path: path.stem)
def test_each_lesson_has_the_cell(path):
    assert path.name not in colab_lessons.wrong_lessons(), 'make colab'


def test_the_cell_does_nothing_outside_of_colab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    exec(colab_lessons.cell_source(), {})
    assert sys.path == before
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())


def notebook(*sources):
    return {'cells': [{'cell_type': 'code', 'source': source} for source in sources]}


def test_the_cell_comes_before_all_other_code():
    old = "import sys\nif 'google.colab' in sys.modules: pass"
    written = colab_lessons.with_colab_cell(notebook('#| default_exp data', 'import os', old))
    sources = [colab_lessons.source(cell) for cell in written['cells']]
    assert sources == ['#| default_exp data', colab_lessons.cell_source(), 'import os']
    assert colab_lessons.with_colab_cell(written) == written


# What it installs


def test_packages_that_fit_stay():
    versions = {'torch': '2.11.0+cu128', 'fastai': '2.8.2', 'numpy': '2.0.2'}
    lines = ['# tested', 'torch==2.11.0', 'numpy==2.5.5', 'fastai==2.8.7', 'captum==0.9.0']
    needed = colab_install.needed_constraints(lines, REQUIREMENTS, versions)
    assert needed == ['fastai==2.8.7', 'captum==0.9.0']


@pytest.mark.parametrize(
    'versions, says',
    [
        ({'torch': '2.11.0+cu128'}, 'stays'),
        ({'torch': '2.9.0+cu126'}, 'will be replaced'),
        ({}, 'will be installed'),
    ],
)
def test_one_line_about_torch(versions, says):
    line = colab_install.torch_line(REQUIREMENTS, versions)
    assert says in line
    assert '\n' not in line


def test_the_requirements_are_read():
    requirements = colab_install.read_requirements(ROOT)
    assert str(requirements['torchaudio'].specifier) == '==2.11.0'
    assert {'torch', 'fastai', 'librosa'} <= requirements.keys()


# A whole session


def git(folder, *args):
    identity = ['-c', 'user.name=test', '-c', 'user.email=test@example.org']
    command = ['git', *identity, *args]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope='module')
def remote(tmp_path_factory):
    "A git repository of the working tree as it is, with the Colab cell in its lessons"
    folder = tmp_path_factory.mktemp('remote') / 'instruments_nbdev'
    try:
        names = git(ROOT, 'ls-files', '-coz', '--exclude-standard').split('\0')
    except subprocess.CalledProcessError:
        pytest.skip('not a git clone')
    for name in filter(None, names):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    colab_lessons.write_lessons(folder)
    git(folder, 'init', '-q', '-b', 'main')
    git(folder, 'add', '-A')
    git(folder, 'commit', '-q', '-m', 'as it is')
    return folder


@pytest.fixture
def python(tmp_path):
    "The Python of a new environment that has all packages of this one, as Colab has its own"
    env = tmp_path / 'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', env], check=True)
    bin_folder = env / Path(sysconfig.get_path('scripts')).name
    python = bin_folder / Path(sys.executable).name
    ask = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    packages = subprocess.run([python, '-c', ask], check=True, capture_output=True, text=True)
    colab_packages = Path(packages.stdout.strip()) / 'colab.pth'
    colab_packages.write_text(sysconfig.get_path('purelib') + '\n')
    return python


def code_of(path):
    cells = colab_lessons.read_notebook(path)['cells']
    return [colab_lessons.source(cell) for cell in cells if cell['cell_type'] == 'code']


def session(python, folder, remote, sources):
    "What a Colab session in `folder` prints; packages can only come from what is installed"
    cells = folder.parent / 'cells.json'
    cells.write_text(json.dumps(sources), encoding='utf-8')
    env = os.environ | {
        'INSTRUMENTS_REPO': remote.as_uri(),
        'MPLBACKEND': 'agg',
        'PIP_NO_INDEX': '1',
        'PYTHONPATH': '',
    }
    env.pop('INSTRUMENTS_HOME', None)
    script = ROOT / 'tests/colab_session.py'
    done = subprocess.run(
        [python, script, cells], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ten_cells_of_a_lesson_run_in_an_empty_folder(remote, python, tmp_path):
    content = tmp_path / 'content'
    content.mkdir()
    lesson = colab_lessons.lessons(remote)[0]
    sources = code_of(lesson)[:10]
    where = 'import instruments_nbdev, os; print("from", instruments_nbdev.__file__, os.getcwd())'

    out = session(python, content, remote, [*sources, where])
    checkout = content / 'instruments_nbdev'
    assert f'Fetching {remote.as_uri()}' in out
    assert re.search(r'PyTorch \S+ stays', out)
    assert 'Successfully installed instruments_nbdev' in out
    assert f'from {checkout}/instruments_nbdev/__init__.py {checkout}/nbs' in out
    assert (python.parent / 'instruments_predict').exists()

    # After a restart the session begins in the first folder again; pip has nothing to do.
    cell = colab_lessons.cell_source()
    elsewhere = 'os.chdir("/")'
    again = session(python, content, remote, [cell, elsewhere, cell, where])
    assert again.count('already installed') == 2
    assert 'Fetching' not in again
    assert f'{checkout}/nbs' in again
