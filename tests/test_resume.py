"""A training killed with SIGKILL, at any moment and any number of times, ends as if unbroken."""

import json

import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file

from instruments_nbdev.augmentation import CircularShift, Gain, WaveMixup
from instruments_nbdev.recipes import Part
from instruments_nbdev.runs import FILES
from instruments_nbdev.training import fit
from processes import KILLED, dies_before, dies_writing, run

AUGMENT = Part(CircularShift), Part(Gain)
RECIPES = dict(
    plain={},
    averaged=dict(ema=0.9),
    best=dict(save_best=True, lr=0.5),  # so fast that the best is not the last
    augmented=dict(augment=AUGMENT, mixup=Part(WaveMixup)),
)


class KeepEachEpoch(Callback):
    "A checkpoint after each epoch, though these epochs are short"

    order = 61  # before `Checkpoint`

    def after_epoch(self):
        self.learn.checkpoint.last = 0.0


def train(recipe, items, out, trap=(), speed=None, begun=None):
    """Goes on where the last training was killed.

    `trap` is a function of processes.py with its arguments, `begun` an event that is set.
    """
    if trap:
        trap[0](*trap[1:])
    if begun:
        begun.set()
    kw = dict(resume=True, speed=speed or {}, progress=False, cbs=(KeepEachEpoch(),))
    fit(recipe, items, out=out, **kw)


def record(out):
    return json.loads((out / 'run.json').read_text())


def is_whole(out):
    "Is there a run at `out`? If so, all of it and nothing else"
    if not out.exists():
        return False
    assert {p.name for p in out.iterdir()} == set(FILES) and record(out)['metrics']
    return True


def steady(r):
    "What of a record does not depend on the time it took"
    epochs = [{k: v for k, v in e.items() if k != 'seconds'} for e in r['epochs']]
    return epochs, [r[k] for k in ('metrics', 'config', 'data_hash', 'recipe', 'seed')]


def assert_same_run(a, b):
    x, y = (load_file(p / 'model.safetensors') for p in (a, b))
    assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x), 'other weights'
    assert steady(record(a)) == steady(record(b))
    assert (a / 'predictions.csv').read_text() == (b / 'predictions.csv').read_text()


def kills_until_done(out, arguments, most=40):
    "Trains in processes that die one after another, until one gets through: how many died"
    for n in range(1, most):
        code = run(train, *arguments(n))
        if is_whole(out):
            return n - 1
        assert code == KILLED
    raise AssertionError('no process gets any further')


def test_killed_before_every_change_to_the_disk(tiny, items, tmp_path):
    "The first process dies before its first change, the next before its second, and so on"
    recipe = tiny.replace(calibrate=True)
    unbroken, broken = tmp_path / 'a/run', tmp_path / 'b/run'
    assert run(train, recipe, items, unbroken) == 0 and is_whole(unbroken)

    def arguments(n):
        return recipe, items, broken, (dies_before, n, broken.parent)

    kills = kills_until_done(broken, arguments)
    print(f'{kills} kills')
    assert kills > 12
    assert_same_run(unbroken, broken)


@pytest.mark.parametrize('name', RECIPES)
def test_killed_at_the_end_of_every_epoch(name, tiny, items, tmp_path):
    "Each process gets one epoch further, and dies when the next one is about to be kept"
    recipe = tiny.replace(epochs=6, **RECIPES[name])
    unbroken, broken = tmp_path / 'a/run', tmp_path / 'b/run'
    assert run(train, recipe, items, unbroken) == 0
    trap = dies_before, 3, 'checkpoint.pt', {'os.rename'}
    kills = kills_until_done(broken, lambda _: (recipe, items, broken, trap))
    print(f'{name}: {kills} kills')
    assert kills > 1
    assert_same_run(unbroken, broken)


@pytest.mark.parametrize('name', ['checkpoint', 'model.safetensors'])
def test_killed_while_writing_weights(name, tiny, items, tmp_path):
    unbroken, broken = tmp_path / 'a/run', tmp_path / 'b/run'
    for _ in range(2):
        assert run(train, tiny, items, broken, (dies_writing, name)) == KILLED
    assert not is_whole(broken)
    assert run(train, tiny, items, broken) == 0 and is_whole(broken)
    assert run(train, tiny, items, unbroken) == 0
    assert_same_run(unbroken, broken)


def test_the_record_says_how_it_was_trained(tiny, items, tmp_path):
    "A resumed run is finished with the settings it was trained with, not with newly chosen ones"
    out = tmp_path / 'run'
    speed = dict(channels_last=True)
    assert run(train, tiny, items, out, (dies_before, 1, 'run.json'), speed) == KILLED
    assert run(train, tiny, items, out) == 0 and record(out)['config'].get('channels_last')
