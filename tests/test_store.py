"""The store of decoded sounds: two processes build it at once, or one is killed half-way."""

import shutil
from itertools import count

import numpy as np
import pytest

from instruments_nbdev.storage import decode, sound_store
from processes import CTX, KILLED, dies_before, dies_reading, end, run, start


def build(paths, cache, trap=(), gate=None):
    if trap:
        trap[0](*trap[1:])
    if gate:
        gate.wait(60)
    sound_store(paths, 8000, cache=cache, progress=False)


def right(paths, cache, n=1):
    "The store opens as it is, holds the samples of its files; there are only the `n` stores"

    def stamps():
        return {p: p.stat().st_mtime_ns for p in cache.rglob('*.i16')}

    before, store = stamps(), sound_store(paths, 8000, cache=cache, progress=False)
    assert len(before) == n and stamps() == before, 'built again'
    assert not [p.name for p in cache.rglob('*') if 'tmp' in p.name]
    for i, p in enumerate(paths):
        np.testing.assert_array_equal(store[i], np.rint(decode(p)[0] * 32768).astype(int))


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
    assert run(build, paths, tmp_path / 'cache', (dies_reading, paths[20])) == KILLED
    assert list(tmp_path.rglob('*.tmp')) and not list(tmp_path.rglob('*.i16'))
    assert run(build, paths, tmp_path / 'cache') == 0
    right(paths, tmp_path / 'cache')


def test_killed_before_every_change_to_the_disk(paths, tmp_path):
    for n in count(1):
        if (
            code := run(build, paths, tmp_path / 'cache', (dies_before, n, tmp_path / 'cache'))
        ) == 0:
            break
        assert code == KILLED
    print(f'{n - 1} kills')
    assert n > 8
    right(paths, tmp_path / 'cache')
