"""Several trainings at once, in parallel jobs."""

import time
from dataclasses import replace

import psutil
import pytest

import instruments_nbdev.experiments as E
import instruments_nbdev.training as T
from instruments_nbdev.experiments import cross_validate
from instruments_nbdev.model import TrainingError
from processes import KILLED, end, run, start, train


def jobs(recipe, items, out):
    E.threads_each = lambda _: 1
    cross_validate(recipe, items, out=out, jobs=2, speed={}, progress=False)


def running(p):
    try:
        return (
            p.status() != psutil.STATUS_ZOMBIE or p.num_threads() > 1
        )  # while one thread is dying, files stay locked
    except psutil.NoSuchProcess:
        return False


def wait_for(done, seconds, what):
    until = time.time() + seconds
    while not done():
        assert time.time() < until, what
        time.sleep(0.02)


def test_parallel_jobs_killed_and_gone_on_with(tiny, items, tmp_path, monkeypatch):
    out = tmp_path / 'cv'
    p = start(jobs, tiny, items, out)
    wait_for(lambda: list(out.glob('fold*/run.json')) or p.exitcode is not None, 120, 'no run')
    workers = psutil.Process(p.pid).children(recursive=True)
    p.kill()
    assert end(p) == KILLED
    for w in workers:  # a worker would finish its run first; the power cut takes all
        if running(w):
            w.kill()
    wait_for(lambda: not any(map(running, workers)), 20, 'killed jobs still run')

    def made():
        return {f: f.stat().st_mtime_ns for f in out.glob('fold*/run.json')}

    before = made()
    print(f'killed after {len(before)} of 5 runs')
    assert len(before) < 5 and not (out / 'run.json').exists()
    monkeypatch.setattr(T, 'write_report', lambda path, *_: path.write_text('…'))
    monkeypatch.setattr(E, 'threads_each', lambda _: 1)
    cv, unbroken = (
        cross_validate(tiny, items, out=o, speed={}, progress=False)
        for o in (out, tmp_path / 'unbroken')
    )
    assert before.items() <= made().items(), 'a finished run was made again'
    assert cv.summary() == unbroken.summary() and cv.table().notna().all(None)


def test_a_run_of_another_recipe_is_not_taken_for_ones_own(tiny, items, tmp_path):
    assert run(train, tiny, items, tmp_path / 'cv/fold1-seed0') == 0
    with pytest.raises(TrainingError, match='fold1-seed0'):
        cross_validate(replace(tiny, lr=0.5), items, out=tmp_path / 'cv', speed={}, progress=False)
