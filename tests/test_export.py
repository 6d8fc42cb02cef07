"""Bundled models as ONNX, beside PyTorch: on real recordings and photos where they are at hand ($INSTRUMENTS_DATA), and in a process without either"""

import os, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pytest, torch
from instruments_nbdev.data import DATASETS
from instruments_nbdev.files import DataError
from instruments_nbdev.export import (
    TOLERANCE,
    agreement,
    export_onnx,
    need_onnx,
    onnx_facts,
    read_onnx,
)
from instruments_nbdev.model import TrainingError, bundled, load_model
from processes import CTX
from test_files import refusal, small

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
    "About `n` real items of a data set, evenly from it; without them the test says so and is left out"
    try:
        paths = DATASETS[name].items(Path(DATA or 'nowhere') / name).path.tolist()
    except (DataError, KeyError):
        warnings.warn(f'{name} is not in INSTRUMENTS_DATA: agreement on real items is left out')
        pytest.skip(f'{name} is not here')
    return paths[:: max(1, len(paths) // n)]


@pytest.mark.parametrize('name', bundled())
def test_real_items(name, exported):
    clf, f = exported(name)
    files = some(clf.recipe.data)
    found = agreement(clf, f, files)
    assert found['n'] == len(files) == found['same'] and found['apart'] < TOLERANCE, found


@pytest.mark.parametrize('data', ['gtzan', 'irmas_notes'])
def test_sounds_of_other_sets(data, exported):
    "Other rates, lengths and levels than the model was trained on"
    clf, f = exported('sounds')
    files = some(data, 25)
    assert agreement(clf, f, files)['apart'] < TOLERANCE


@pytest.mark.parametrize('name', bundled())
def test_neither_torch_nor_this_package(name, exported, tmp_path):
    "The graph and its facts are enough, for one item and for three"
    clf, f = exported(name)
    m = onnx_facts(clf)
    shape = (m['window'],) if m['kind'] == 'sound' else (3, m['size'], m['size'])
    x = (
        np.random.default_rng(0).standard_normal((3, *shape)).astype('float32') * 0.1
        if m['kind'] == 'sound'
        else np.random.default_rng(0).integers(256, size=(3, *shape), dtype='uint8')
    )
    np.save(tmp_path / 'x.npy', x)
    code = (
        'import sys; sys.modules |= dict(torch=None, instruments_nbdev=None)\nimport json, numpy as np, onnxruntime as ort\n'
        's, x = ort.InferenceSession(sys.argv[1]), np.load(sys.argv[2]); m = json.loads(s.get_modelmeta().custom_metadata_map["instruments_nbdev"])\n'
        'one, three = (s.run(None, {"x": v})[0] for v in (x[:1], x)); assert three.shape == (3, len(m["labels"])) and abs(one - three[:1]).max() < 1e-5\n'
        'assert m["several"] or abs(three.sum(1) - 1).max() < 1e-5'
    )
    r = subprocess.run(
        [sys.executable, '-c', code, f, tmp_path / 'x.npy'], capture_output=True, text=True
    )
    assert (r.returncode, r.stderr) == (0, '')


def test_nothing_of_this_machine_is_in_the_file(exported):
    data = exported('sounds')[1].read_bytes()
    assert not any(
        w.encode() in data
        for w in (str(Path(__file__).parents[1]), sys.prefix, '.py', 'site-packages')
    )


def test_a_full_disk_leaves_nothing(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(
        torch.onnx.ONNXProgram,
        'save',
        lambda self, to: (Path(to).write_bytes(b'half'), os.close(-1)),
    )
    with pytest.raises(OSError):
        export_onnx(exported('sounds')[0], tmp_path / 'a.onnx')
    assert not list(tmp_path.iterdir())


def without_extra():
    "What an export says where the extra is not installed; nothing of it was needed to get so far"
    import instruments_nbdev.app

    assert not {'onnx', 'onnxscript', 'onnxruntime'} & set(sys.modules)
    sys.modules |= dict(onnx=None, onnxscript=None, onnxruntime=None)
    try:
        instruments_nbdev.app.export_onnx(load_model('sounds'), 'x.onnx')
    except TrainingError as e:
        return str(e)


def test_without_the_extra():
    with CTX.Pool(1) as p:
        said = p.apply(without_extra)
    assert (
        said
        == 'onnx and onnxscript and onnxruntime cannot be found: pip install "instruments_nbdev[onnx]"'
    )


def read(path):
    return read_onnx(path).labels


def test_damaged_files(small, exported, tmp_path):
    "Cut, or with a byte turned over: an error in one sentence or a model, and never a crash"
    data, bad = exported('sounds')[1].read_bytes(), tmp_path / 'bad.onnx'

    def said(b):
        bad.write_bytes(b)
        try:
            return 'model' if small(read, bad) else ''
        except TrainingError as e:
            return f'TrainingError: {e}'

    for i in range(8):
        assert refusal(said(data[: len(data) * i // 8]), bad), i
    for i in [
        *range(0, 200, 29),
        *range(200, len(data), len(data) // 12),
        *range(len(data) - 4000, len(data), 499),
    ]:
        assert (
            words := said(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        ) == 'model' or refusal(words, bad), (i, words)
