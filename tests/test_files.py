"""Files from strangers, damaged, foreign or made to harm: models, and a sound.

All is read in a process of little memory.
"""

import json
import multiprocessing
import os
import pickle
import random
import resource
import struct
import sys
import zipfile

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from instruments_nbdev.model import bundled, load_model
from instruments_nbdev.recipes import OLD_FIELDS
from processes import CTX, limit_memory


def labelled(model, paths):
    return load_model(model).predict_paths(paths)


def outcome(model, sound):
    "What happens when a stranger's model labels a sound, in words"
    try:
        return 'error' if labelled(model, [sound]).error[0] else 'label'
    except Exception as e:
        return f'{type(e).__name__}: {e}'


def peak():
    "Most memory that this process has used, MB"
    unit = 1024 if sys.platform == 'linux' else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@pytest.fixture(scope='module')
def small():
    "`small(f, ...)` is `f(...)` in a process that may use 1 GB more than at its start, for 30 s"
    pools = []

    def call(f, *args):
        if not pools:
            pools.append(CTX.Pool(1, limit_memory))
        try:
            return pools[0].apply_async(f, args).get(30)
        except multiprocessing.TimeoutError:
            pools.pop().terminate()
            raise

    yield call
    for p in pools:
        p.terminate()


def refusal(said, path, why=''):
    "Was the file refused in one sentence, by name?"
    return (
        said.startswith(f'TrainingError: {path}')
        and why in said
        and '\n' not in said
        and len(said) < 300 + len(str(path))
    )


@pytest.fixture
def bad(tmp_path):
    return tmp_path / 'bad.safetensors'


@pytest.fixture
def said(small, bad, items):
    return lambda model=bad: small(outcome, model, items.path[0])


# Models


def test_a_whole_model_is_used(said, model):
    assert said(model) == 'label'


def test_cut_models(said, model, bad, counts):
    data = model.read_bytes()
    for i in range(10):
        bad.write_bytes(data[: len(data) * i // 10])
        assert refusal(said(), bad, 'damaged')
    counts('10 model files cut short: refused')


def test_flipped_bytes(said, model, bad, counts):
    "One wrong bit in length, header, description, padding or weights: an error in one sentence"
    data, rng = bytearray(model.read_bytes()), random.Random(0)
    n = 8 + struct.unpack('<Q', data[:8])[0]
    places = [*range(n - 9, n + 1), *range(0, 80), *range(80, len(data), 7), len(data) - 1]
    for i in places:
        bit = 1 << rng.randrange(8)
        data[i] ^= bit
        bad.write_bytes(data)
        data[i] ^= bit
        assert refusal(words := said(), bad), (i, words)
    counts(f'{len(places)} model files with a flipped bit: refused')


def test_changes_that_mean_the_same(said, model, bad):
    "Another kind of white space, a capital letter in a number: still not the file that was saved"
    data = model.read_bytes()
    n = 8 + struct.unpack('<Q', data[:8])[0]
    assert b' ' in data[:n]
    for changed in (
        data.replace(b': ', b':\t', 1),
        data.replace(b'0.01', b'1e-2', 1),
        data[:n].replace(b'digest', b'dixest', 1) + data[n:],
    ):
        assert changed != data
        bad.write_bytes(changed)
        assert refusal(said(), bad), changed[:n]


def test_older_models(said, model, bad):
    "Made before there were digests, they are used; with another entry in their place, they are not"
    forge(model, bad, ('format',), 1)
    assert said() == 'label'
    forge(model, bad, ('dihest',), 'x')
    assert refusal(said(), bad, 'bytes')
    for name, path in bundled().items():
        assert load_model(path).labels, name


def test_a_model_of_before(model, bad):
    "The first format has other names for some fields, weights and entries of the summary"
    with safe_open(model, 'pt') as f:
        description = json.loads(f.metadata()['instruments_nbdev'])
        state = {k.replace('backbone.', 'body.', 1): f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    old_names = {new: old for old, new in OLD_FIELDS.items()}
    recipe = {old_names.get(k, k): v for k, v in description['recipe'].items()}
    assert 'body' in recipe and 'body.fc.weight' in state
    summary = description['summary'] | dict(sure=0.25)
    old = dict(format=1, recipe=recipe, labels=description['labels'], summary=summary)
    save_file(state, bad, metadata={'instruments_nbdev': json.dumps(old)})
    clf, same = load_model(bad), load_model(model)
    assert clf.recipe == same.recipe and clf.confidence_threshold == 0.25
    for name, weight in same.state_dict().items():
        assert torch.equal(weight, clf.state_dict()[name]), name


class Evil:
    "Opened by pickle, it leaves a trace"

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, 'w')


FOREIGN = {
    'pickle': lambda bad, evil: bad.write_bytes(pickle.dumps(evil)),
    'checkpoint': lambda bad, evil: torch.save(evil, bad),
    'other tensors': lambda bad, _: save_file({'w': torch.ones(2)}, bad),
    'giant header': lambda bad, _: bad.write_bytes(struct.pack('<Q', 2**62) + b'{}'),
    'text': lambda bad, _: bad.write_text('hello' * 99),
    'folder': lambda bad, _: bad.mkdir(),
    'pipe': lambda bad, _: os.mkfifo(bad),
    'missing': lambda bad, _: None,
}


@pytest.mark.parametrize('name', FOREIGN)
def test_foreign_models(name, said, bad, tmp_path):
    FOREIGN[name](bad, Evil(tmp_path / 'trace'))
    assert refusal(words := said(), bad), words
    assert not (tmp_path / 'trace').exists()


GONE = object()  # instead of a value: the entry is taken out


def forge(model, path, keys, value):
    "The weights of `model` under another description: `value` at `keys`, or a whole text"
    with safe_open(model, 'pt') as f:
        text = f.metadata()['instruments_nbdev']
        names = list(f.keys())
        state = {name: f.get_tensor(name) for name in names}
    if keys:
        description = json.loads(text)
        description.pop('digest', None)  # it would refuse before the description is looked at
        *above, last = keys
        part = description
        for key in above:
            part = part[key]
        if value is GONE:
            del part[last]
        else:
            part[last] = value
        value = json.dumps(description)
    save_file(state, path, metadata={'instruments_nbdev': value})


FRONT, BODY, STORE = (('recipe', k) for k in ('front_end', 'backbone', 'store'))
WRONG = {
    (): ['{', '[]', '7', '["x"]', '[' * 100_000],
    ('format',): [GONE, None, 'x', 99],
    ('labels',): [GONE, None, 7, 'abcdefghij', [None] * 10, [['a']] * 10, ['a'] * 10, ['a', 'b']],
    ('recipe',): [GONE, None, [1], 'sounds-cnn'],
    ('recipe', 'evil'): [1],
    BODY: [None, [], 'model.MeanStdLinear', ['model.MeanStdLinear']],
    (*BODY, 0): [None, 'os.system', 'training.os', 'training.fit', '../evil'],
    (*BODY, 1): [None, [1], {}, dict(x=1)],
    (*BODY, 1, 'n_in'): [None, 31, -1, 2**23, 10**12],
    FRONT: [None, 3, [], ['training.fit', {}]],
    (*FRONT, 1, 'n_mels'): [None, 'x', -1, 0, 40, 2**15, 10**12],
    (*FRONT, 1, 'n_fft'): ['x', -1, 0, 2**26, 2**40],
    (*FRONT, 1, 'hop_length'): [0, -5],
    (*FRONT, 1, 'sr'): ['x', 0, 10**400],
    (*FRONT, 1, 'mel_scale'): ['x', 7],
    ('recipe', 'augment_features'): [3, [['training.fit', {}]]],
    ('recipe', 'window'): [None, 'x', -1, 0.5, 2**26, 10**12],
    (*STORE, 0): [None, 'os.system', 'training.fit'],
}
WRONG = [(keys, value) for keys, values in WRONG.items() for value in values]


def short(keys, value):
    "The name of a test"
    name = '.'.join(map(str, keys[1:] or keys))
    text = 'gone' if value is GONE else json.dumps(value)[:20]
    return f'{name}={text}'


@pytest.mark.parametrize('keys,value', WRONG, ids=[short(*w) for w in WRONG])
def test_wrong_descriptions(keys, value, small, said, model, bad):
    "They are refused before anything large is made"
    forge(model, bad, keys, value)
    before = small(peak)
    assert refusal(words := said(), bad), words
    assert small(peak) - before < 200, 'megabytes'


@pytest.mark.parametrize('sr', ['x', 0, -8000, 10**12, None])
def test_wrong_rates(sr, said, model, bad):
    forge(model, bad, (*STORE, 1, 'sr'), sr)
    words = said()
    assert words.startswith(('TrainingError', 'ItemError', 'SoundError')), words
    assert repr(sr) in words, words


def test_a_description_calls_nothing(said, model, bad, tmp_path):
    "No other function of this package is a network: this one would unpack an archive"
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as z:
        z.writestr('a.txt', 'a')
    arguments = dict(archive=str(tmp_path / 'a.zip'), dest=str(tmp_path / 'trace'))
    call = ['download.unpack', arguments]
    for keys, value in ((FRONT, call), (BODY, call), (('recipe', 'augment_features'), [call])):
        forge(model, bad, keys, value)
        assert refusal(words := said(), bad), words
        assert not (tmp_path / 'trace').exists()


# Sounds: others in test_faults.py


def test_a_small_file_of_a_long_sound(small, model, tmp_path):
    "Half a megabyte that becomes too much for the memory is an error; other files are labelled"
    sf.write(tmp_path / 'good.wav', np.zeros(8000), 8000)
    with sf.SoundFile(tmp_path / 'long.flac', 'w', 655_350, 1) as f:
        for _ in range(40):
            f.write(np.zeros(2**22, 'int16'))
    t = small(labelled, model, [str(tmp_path / n) for n in ('good.wav', 'long.flac')])
    assert t.label[0] and bool(t.label[1]) != bool(t.error[1])
