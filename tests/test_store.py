"""The store of decoded sounds: two processes build it at once, or one is killed half-way."""

import shutil
from itertools import count

import numpy as np
import pytest

from instruments_nbdev.storage import decode, sound_store
from processes import CTX, KILLED, dies_before, dies_reading, end, run, start


def build(paths, cache, trap=(), gate=None):
    "Makes the store; `trap`: a function that kills this process later, and its arguments"
    if trap:
        trap[0](*trap[1:])
    if gate:
        gate.wait(60)
    sound_store(paths, 8000, cache=cache, progress=False)


def times(cache):
    "When the data file of each store in a cache was written"
    return {path: path.stat().st_mtime_ns for path in cache.rglob('*.i16')}


def right(paths, cache):
    "There is one store and nothing half-done; it opens as it is and holds the samples of its files"
    before = times(cache)
    store = sound_store(paths, 8000, cache=cache, progress=False)
    assert len(before) == 1
    assert times(cache) == before, 'built again'
    assert not [path.name for path in cache.rglob('*') if 'tmp' in path.name]
    for i, path in enumerate(paths):
        samples, _ = decode(path)
        np.testing.assert_array_equal(store[i], np.rint(samples * 32768).astype(int))


@pytest.fixture(scope='module')
def paths(items):
    return items.path.tolist()[:40]


@pytest.mark.parametrize('names', ['the same', 'another'])
def test_two_processes_build_one_store_at_once(names, paths, tmp_path):
    "Also from another folder with the same sounds: they meet where the store is moved into place"
    (tmp_path / 'copy').mkdir()
    copies = [shutil.copy(p, tmp_path / 'copy') for p in paths] if names == 'another' else paths
    gate, cache = CTX.Barrier(2), tmp_path / 'cache'
    both = [start(build, ps, cache, gate=gate) for ps in (paths, copies)]
    assert [end(p) for p in both] == [0, 0]
    right(paths, cache)
    right(copies, cache)


def test_killed_while_decoding(paths, tmp_path):
    cache = tmp_path / 'cache'
    assert run(build, paths, cache, (dies_reading, paths[20])) == KILLED
    assert list(cache.rglob('*.tmp'))
    assert not list(cache.rglob('*.i16'))
    assert run(build, paths, cache) == 0
    right(paths, cache)


def test_killed_before_every_change_to_the_disk(paths, tmp_path):
    cache = tmp_path / 'cache'
    for n in count(1):
        code = run(build, paths, cache, (dies_before, n, cache))
        if code == 0:  # it makes fewer than `n` changes
            break
        assert code == KILLED
    assert n > 8
    right(paths, cache)
