"""Several trainings at once, in parallel jobs."""

import time

import psutil
import pytest

from instruments_nbdev.experiments import cross_validate
from instruments_nbdev.recipes import TrainingError
from instruments_nbdev.training import fit
from processes import KILLED, end, start

QUIET = dict(speed={}, progress=False)


def two_jobs(recipe, items, out):
    cross_validate(recipe, items, out=out, jobs=2, threads=1, **QUIET)


def is_running(process):
    "While one thread is dying, files stay locked: a zombie of several threads still runs"
    try:
        return process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


def wait_for(done, seconds, what):
    until = time.time() + seconds
    while not done():
        assert time.time() < until, what
        time.sleep(0.02)


def finished_runs(out):
    "The records in a folder, with the time at which each was written"
    return {f: f.stat().st_mtime_ns for f in out.glob('fold*/run.json')}


def test_parallel_jobs_killed_and_gone_on_with(tiny, items, tmp_path):
    items, out = items[items.fold <= 3], tmp_path / 'cv'
    p = start(two_jobs, tiny, items, out)
    wait_for(lambda: finished_runs(out) or p.exitcode is not None, 120, 'no run')
    workers = psutil.Process(p.pid).children(recursive=True)
    p.kill()
    assert end(p) == KILLED
    for worker in workers:  # it would finish its run first; the power cut takes all
        if is_running(worker):
            worker.kill()
    wait_for(lambda: not any(map(is_running, workers)), 20, 'killed jobs still run')

    before = finished_runs(out)
    print(f'killed after {len(before)} of 3 runs')
    assert len(before) < 3 and not (out / 'run.json').exists()
    cv = cross_validate(tiny, items, out=out, threads=1, **QUIET)
    assert before.items() <= finished_runs(out).items(), 'a finished run was made again'
    unbroken = cross_validate(tiny, items, out=tmp_path / 'unbroken', threads=1, **QUIET)
    assert cv.summary() == unbroken.summary() and cv.table().notna().all(None)


def test_a_run_of_another_recipe_is_not_taken_for_ones_own(tiny, items, tmp_path):
    fit(tiny.replace(epochs=1), items, out=tmp_path / 'cv/fold1-seed0', **QUIET)
    with pytest.raises(TrainingError, match='fold1-seed0'):
        cross_validate(tiny, items, out=tmp_path / 'cv', threads=1, **QUIET)
