"""Runs on a real Dask scheduler and its workers are the runs that one would make alone."""

import subprocess
import sys
import warnings

import pytest
from safetensors.torch import load_file

from instruments_nbdev.experiments import cross_validate
from instruments_nbdev.recipes import TrainingError
from instruments_nbdev.search import search, search_record
from test_search import SPACE, steady

try:
    import distributed
except ImportError:
    warnings.warn('NO TEST WITH A CLUSTER: Dask is not installed', stacklevel=1)
    pytest.skip('pip install "instruments_nbdev[cluster]"', allow_module_level=True)


def dask(name, *args):
    return subprocess.Popen(
        [sys.executable, '-m', f'distributed.cli.dask_{name}', *args, '--no-dashboard'],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    "Address of a scheduler with two workers in processes of their own, and the workers"
    f = tmp_path_factory.mktemp('dask') / 'scheduler.json'
    told = f'worker --nthreads 1 --no-nanny --scheduler-file {f} --local-directory {f.parent}'
    worker = told.split()
    ps = [
        dask('scheduler', '--host', '127.0.0.1', '--port', '0', '--scheduler-file', str(f)),
        dask(*worker),
        dask(*worker),
    ]
    with distributed.Client(scheduler_file=str(f), timeout=60, set_as_default=False) as c:
        c.wait_for_workers(2, timeout=120)
        address = c.scheduler.address
    yield address, ps[1:]
    for p in ps:
        p.kill()
        p.wait(30)


# One thread for each run: the last digit of a sum depends on their number
QUIET = dict(threads=1, speed={}, progress=False)


@pytest.fixture(scope='module')
def alone(tiny, items, tmp_path_factory):
    return cross_validate(tiny, items, out=tmp_path_factory.mktemp('alone') / 'cv', **QUIET)


def figures(run):
    "What of a record does not depend on the time it took"
    epochs = [{k: v for k, v in e.items() if k != 'seconds'} for e in run.record['epochs']]
    return epochs, [run.record[k] for k in ('metrics', 'data_hash', 'recipe', 'seed', 'config')]


def assert_same(cv, alone):
    assert cv.summary() == alone.summary() and cv.table().equals(alone.table())
    for a, b in zip(cv.runs, alone.runs):
        x, y = (load_file(run.path / 'model.safetensors') for run in (a, b))
        assert x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x)
        assert figures(a) == figures(b)
        assert (a.path / 'predictions.csv').read_text() == (b.path / 'predictions.csv').read_text()


def test_cross_validation(cluster, alone, tiny, items, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address, _ = cluster  # a relative folder is one of ours, not of the workers
    assert_same(cross_validate(tiny, items, out='cv', cluster=address, **QUIET), alone)
    assert (tmp_path / 'cv/run.json').exists()


def test_search(cluster, tiny, items, tmp_path):
    "Five trials, none of which can be pruned yet"
    there = search(tiny, items, SPACE, 5, out=tmp_path / 'a', cluster=cluster[0], **QUIET)
    here = search(tiny, items, SPACE, 5, out=tmp_path / 'b', **QUIET)
    a, b = search_record(there), search_record(here)
    assert a['counts'] == {'complete': 5} and steady(a) == steady(b)


KILLER = """
import glob, os, time
while not glob.glob("{out}/.fold*.partial"):
    time.sleep(.005)
os.kill({pid}, 9)
"""


def test_a_worker_is_killed(cluster, alone, tiny, items, tmp_path):
    "Its run is made on the other one"
    address, workers = cluster
    out = tmp_path / 'cv'
    code = KILLER.format(out=out, pid=workers[0].pid)
    killer = subprocess.Popen([sys.executable, '-c', code])
    assert_same(cross_validate(tiny, items, out=out, cluster=address, **QUIET), alone)
    assert killer.wait(10) == 0 and workers[0].wait(10) == -9


def test_nobody_there(tiny, items, tmp_path):
    for address in ('tcp://127.0.0.1:1', 'nowhere://x'):
        with pytest.raises(TrainingError, match=f'{address}: no Dask scheduler'):
            cross_validate(tiny, items, out=tmp_path / 'cv', cluster=address, progress=False)
