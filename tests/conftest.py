"""Shared by all tests: a synthetic ESC-50 and a recipe that trains in a moment.

Nothing of the user's is touched.
"""

import os

os.environ['CUDA_VISIBLE_DEVICES'] = ''  # equal weights to the last bit are promised on a CPU
os.environ.setdefault('OMP_NUM_THREADS', '1')
import pytest

from instruments_nbdev.audio_transforms import LogMel
from instruments_nbdev.data import esc50
from instruments_nbdev.model import MeanStdLinear
from instruments_nbdev.recipes import Part, Recipe
from instruments_nbdev.splits import split_items
from instruments_nbdev.storage import sound_store
from instruments_nbdev.synthesis import synthesize
from instruments_nbdev.training import fit


@pytest.fixture
def counts(record_property):
    "`counts(line)`: what was tried, and how often, is printed below all results"
    return lambda line: record_property('counts', line)


def pytest_terminal_summary(terminalreporter):
    calls = [
        r for rs in terminalreporter.stats.values() for r in rs if getattr(r, 'when', '') == 'call'
    ]
    for line in [v for r in calls for k, v in r.user_properties if k == 'counts']:
        terminalreporter.write_line(line)


@pytest.fixture(scope='session', autouse=True)
def home(tmp_path_factory):
    "A folder with the caches of all tests"
    os.environ.pop('INSTRUMENTS_DATA', None)
    d = tmp_path_factory.mktemp('home')
    os.environ['INSTRUMENTS_CACHE'] = str(d)
    return d


@pytest.fixture(scope='session')
def esc(home):
    return synthesize(esc50, home, clips_per_fold=2, seconds=1.0, sr=8000)


@pytest.fixture(scope='session')
def items(esc):
    return split_items(esc50.items(esc), 'halves', fold=1)


@pytest.fixture(scope='session')
def tiny():
    return Recipe('tiny').replace(
        store=Part(sound_store, sr=8000),
        window=8000,
        lr=1e-2,
        epochs=3,
        bs=16,
        front_end=Part(LogMel, sr=8000, n_fft=256, hop_length=128, n_mels=32),
        backbone=Part(MeanStdLinear, n_in=32),
    )


@pytest.fixture(scope='session')
def model(home, tiny, items):
    "The file of a trained model"
    return fit(tiny, items, out=home / 'run', speed={}, progress=False).path / 'model.safetensors'
