"""Tracked runs in processes of their own: all of them tracked, none held up."""

from dataclasses import replace

import pytest

from instruments_nbdev.data import gtzan
from instruments_nbdev.gtzan_mlp_cnn import grid_recipes, run_grid
from instruments_nbdev.synthesis import synthesize

pytest.importorskip('wandb', reason='pip install "instruments_nbdev[track]"')


def test_two_jobs_track_what_they_run(tmp_path, monkeypatch):
    for k in ('WANDB_API_KEY', 'WANDB_MODE'):
        monkeypatch.delenv(k, raising=False)
    synthesize(gtzan, tmp_path, tracks=7, seconds=1.0, sr=8000, classes=['blues', 'jazz', 'metal'])
    items = gtzan.items(tmp_path)
    front = (
        'audio_transforms.LogMel',
        dict(sr=8000, n_fft=512, hop_length=256, n_mels=32, norm='clip'),
    )
    small = [
        replace(
            r,
            store=('storage.sound_store', dict(sr=8000)),
            window=8000,
            front_end=front,
            epochs=1,
            bs=8,
        )
        for r in grid_recipes('activation-spectrogram')[:2]
    ]
    runs = run_grid(
        small,
        items,
        tmp_path / 'grid',
        jobs=2,
        track=True,
        cache=tmp_path / 'cache',
        progress=False,
    )
    assert len(runs) == 2 and len(list((tmp_path / 'grid/wandb').glob('offline-run-*'))) == 2
