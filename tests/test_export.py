"""Bundled models as ONNX, beside PyTorch and in a process without it.

Real recordings and photos are used where $INSTRUMENTS_DATA names them.
"""

import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from instruments_nbdev.data import DATASETS
from instruments_nbdev.export import TOLERANCE, agreement, export_onnx, onnx_facts, read_onnx
from instruments_nbdev.files import DataError
from instruments_nbdev.graphs import need_onnx
from instruments_nbdev.model import load_model
from instruments_nbdev.model_files import bundled
from instruments_nbdev.recipes import TrainingError
from processes import CTX
from test_files import refusal, small  # noqa: F401 (small is a fixture)

try:
    need_onnx()
except TrainingError as e:
    pytest.skip(str(e), allow_module_level=True)
DATA = os.environ.get('INSTRUMENTS_DATA')  # read before conftest hides it


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "`exported(name)`: a bundled model and its ONNX file, made once"
    d, made = tmp_path_factory.mktemp('onnx'), {}

    def get(name):
        if name not in made:
            made[name] = (clf := load_model(name)), export_onnx(clf, d / f'{name}.onnx')
        return made[name]

    return get


def some(name, n=40):
    "About `n` real items of a data set, evenly from it; without them the test is left out"
    try:
        paths = DATASETS[name].items(Path(DATA or 'nowhere') / name).path.tolist()
    except (DataError, KeyError):
        warnings.warn(f'{name} is not in INSTRUMENTS_DATA: no real items', stacklevel=2)
        pytest.skip(f'{name} is not here')
    return paths[:: max(1, len(paths) // n)]


@pytest.mark.parametrize('name', bundled())
def test_real_items(name, exported):
    clf, f = exported(name)
    files = some(clf.recipe.data.dataset)
    found = agreement(clf, f, files)
    assert found['n'] == len(files) == found['same'] and found['apart'] < TOLERANCE, found


@pytest.mark.parametrize('data', ['gtzan', 'irmas_notes'])
def test_sounds_of_other_sets(data, exported):
    "Other rates, lengths and levels than the model was trained on"
    clf, f = exported('sounds')
    files = some(data, 25)
    assert agreement(clf, f, files)['apart'] < TOLERANCE


STRANGER = """
import json, sys
sys.modules |= dict(torch=None, instruments_nbdev=None)
import numpy as np, onnxruntime as ort

session = ort.InferenceSession(sys.argv[1])
meta = json.loads(session.get_modelmeta().custom_metadata_map["instruments_nbdev"])
x = np.load(sys.argv[2])
one, three = (session.run(None, {"x": v})[0] for v in (x[:1], x))
assert three.shape == (3, len(meta["labels"]))
assert abs(one - three[:1]).max() < 1e-5
assert meta["several"] or abs(three.sum(1) - 1).max() < 1e-5
"""


def noise(facts):
    "Three items as the graph takes them"
    rng = np.random.default_rng(0)
    if facts['kind'] == 'sound':
        return 0.1 * rng.standard_normal((3, facts['window'])).astype('float32')
    return rng.integers(256, size=(3, 3, facts['size'], facts['size']), dtype='uint8')


@pytest.mark.parametrize('name', bundled())
def test_neither_torch_nor_this_package(name, exported, tmp_path):
    "The graph and its facts are enough, for one item and for three"
    clf, f = exported(name)
    np.save(tmp_path / 'x.npy', noise(onnx_facts(clf)))
    command = [sys.executable, '-c', STRANGER, f, tmp_path / 'x.npy']
    r = subprocess.run(command, capture_output=True, text=True)
    assert (r.returncode, r.stderr) == (0, '')


def test_nothing_of_this_machine_is_in_the_file(exported):
    data = exported('sounds')[1].read_bytes()
    for word in (str(Path(__file__).parents[1]), sys.prefix, '.py', 'site-packages'):
        assert word.encode() not in data


def export_to_a_full_disk(model, path):
    "The error of an export where a file may have no more than 50 kB"
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    try:
        export_onnx(load_model(model), path)
    except OSError as e:
        return str(e)


def test_a_full_disk_leaves_nothing(model, tmp_path):
    with CTX.Pool(1) as pool:
        said = pool.apply(export_to_a_full_disk, [model, tmp_path / 'a.onnx'])
    assert said and not list(tmp_path.iterdir())


def without_extra():
    "What an export says where the extra is not installed; nothing of it was needed to get so far"
    import instruments_nbdev.prediction_app  # noqa: F401 (what it imports is looked at)

    names = ('onnx', 'onnxscript', 'onnxruntime')
    assert not set(names) & set(sys.modules)
    sys.modules |= dict.fromkeys(names)
    try:
        export_onnx(load_model('sounds'), 'x.onnx')
    except TrainingError as e:
        return str(e)


def test_without_the_extra():
    with CTX.Pool(1) as pool:
        said = pool.apply(without_extra)
    missing = 'onnx and onnxscript and onnxruntime cannot be found'
    assert said == f'{missing}: pip install "instruments_nbdev[onnx]"'


def read(path):
    return read_onnx(path).labels


def test_damaged_files(small, exported, tmp_path):  # noqa: F811
    "Cut, or with a byte turned over: an error in one sentence or a model, and never a crash"
    data, bad = exported('sounds')[1].read_bytes(), tmp_path / 'bad.onnx'

    def said(content):
        bad.write_bytes(content)
        try:
            return 'model' if small(read, bad) else ''
        except TrainingError as e:
            return f'TrainingError: {e}'

    for i in range(8):
        assert refusal(said(data[: len(data) * i // 8]), bad), i
    n = len(data)
    places = [*range(0, 200, 29), *range(200, n, n // 12), *range(n - 4000, n, 499)]
    for i in places:
        turned = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        words = said(turned)
        assert words == 'model' or refusal(words, bad), (i, words)
