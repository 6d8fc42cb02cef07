"""Tracked runs in processes of their own: all of them tracked, none held up."""

import pytest

from instruments_nbdev.jobs import run_jobs
from instruments_nbdev.tracking import Track

pytest.importorskip('wandb', reason='pip install "instruments_nbdev[track]"')


def test_two_jobs_track_what_they_run(tiny, items, tmp_path, monkeypatch):
    for name in ('WANDB_API_KEY', 'WANDB_MODE'):
        monkeypatch.delenv(name, raising=False)
    calls = [(tiny, items, None, seed, tmp_path / f'seed{seed}') for seed in (0, 1)]
    kw = dict(threads=1, progress=False, speed={}, cbs=(Track(tmp_path),))
    runs = run_jobs(calls, jobs=2, **kw)
    assert len(runs) == 2 and len(list((tmp_path / 'wandb').glob('offline-run-*'))) == 2
