"""The bundled models answer as they did when they were made, or before the package was rebuilt."""

import json
from pathlib import Path

import numpy as np
import pytest

from instruments_nbdev.data import esc50, gtzan, instruments30, irmas_notes
from instruments_nbdev.model import load_model
from instruments_nbdev.synthesis import synthesize

BEFORE = json.loads(Path(__file__).with_name('bundled_answers.json').read_text())
SETS = dict(
    sounds=(esc50, dict(clips_per_fold=1, seconds=5.0, sr=22050)),
    genres=(gtzan, dict(tracks=1, seconds=12.0)),
    instruments=(irmas_notes, dict(seed=3, train=2, valid=1)),
    photos=(instruments30, dict(train=1, valid=1, test=1, px=96)),
)


@pytest.mark.parametrize('name', BEFORE)
def test_answers_of_before(name, tmp_path):
    dataset, sizes = SETS[name]
    synthesize(dataset, tmp_path, **sizes)
    files = [str(tmp_path / path) for path in BEFORE[name]]
    rows = list(load_model(name).predict_rows(files))
    assert [row['error'] for row in rows] == [''] * len(files)
    apart = np.abs(np.stack([row['probs'] for row in rows]) - np.array(list(BEFORE[name].values())))
    assert apart.max() < 1e-4
