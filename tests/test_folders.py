"""A person's own folder, as untidy as they come, by every kind of recipe.

Real weights are used where $INSTRUMENTS_WEIGHTS names them.
"""

import os
import shutil

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from instruments_nbdev.app import instruments_train
from instruments_nbdev.data import DATASETS
from instruments_nbdev.model import RECIPES
from instruments_nbdev.training import Run

PITCH = {'my dog': 300, 'größe $x_{$': 900, '教会の鐘': 2500}
FORMATS = [
    ('wav', 8000, 'PCM_16', 0.2),
    ('flac', 44100, 'PCM_24', 1.0),
    ('ogg', 48000, 'VORBIS', 3.0),
    ('mp3', 44100, 'MPEG_LAYER_III', 7.0),
    ('aiff', 22050, 'PCM_16', 0.5),
]


def tone(hz, sr, seconds, rng):
    "Stereo tone (T, 2) of about that pitch, in noise"
    x = np.sin(
        2 * np.pi * hz * rng.uniform(0.9, 1.1) * np.arange(int(sr * seconds)) / sr
    ) * 0.3 + 0.05 * rng.standard_normal(int(sr * seconds))
    return np.stack([x, x * rng.uniform(0.2, 1)], 1)


@pytest.fixture(scope='module')
def sounds(tmp_path_factory):
    "Five sounds a class, each of another format, rate and length; and what else lies about"
    d, rng = tmp_path_factory.mktemp('own') / 'my sounds', np.random.default_rng(0)
    for c, hz in PITCH.items():
        (d / c).mkdir(parents=True)
        for i, (ext, sr, kind, seconds) in enumerate(FORMATS):
            sf.write(d / c / f'{i} é.{ext}', tone(hz, sr, seconds, rng), sr, subtype=kind)
    (d / 'once').mkdir()
    sf.write(d / 'once/only.wav', tone(5000, 16000, 1.0, rng), 16000)
    (d / 'empty').mkdir()
    (d / '.hidden').mkdir()
    (d / 'once/notes.txt').write_text('x')
    shutil.copy(d / 'my dog/0 é.wav', d / '.hidden')
    return d


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Four photos a class, of any mode, size and format"
    d, rng = tmp_path_factory.mktemp('own') / 'my photos', np.random.default_rng(0)
    for k, c in enumerate(PITCH):
        (d / c).mkdir(parents=True)
        for i, (ext, mode) in enumerate(
            [('jpg', 'RGB'), ('png', 'RGBA'), ('webp', 'RGB'), ('png', 'L')]
        ):
            x = rng.integers(0, 120, (80 + 40 * i, 90, 3))
            x[..., k] += 120
            Image.fromarray(x.astype('uint8')).convert(mode).save(d / c / f'{i}.{ext}')
    return d


def train(recipe, folder, out, **kw):
    instruments_train(recipe, data=str(folder), layout='folders', out=str(out), **kw)
    return Run(out)


KINDS = (
    'sounds-cnn',
    'sounds-mn04',
    'genres-mn04',
    'irmas-efficient',
    'photos-cnn',
)


@pytest.mark.parametrize('recipe', KINDS)
def test_every_kind_of_recipe(recipe, sounds, photos, tmp_path, capsys):
    folder = sounds if RECIPES[recipe].data.window else photos
    run = train(recipe, folder, tmp_path / 'run', weights='none', epochs=1)
    said = capsys.readouterr().out
    assert {f.name for f in run.path.iterdir()} == {
        'model.safetensors',
        'run.json',
        'predictions.csv',
        'report.html',
    }
    assert (
        run.model.labels == sorted([*PITCH, 'once'] if folder is sounds else PITCH)
        and run.record['metrics']['test']['n'] >= 3
    )
    first = sorted(f for f in folder.rglob('*.*') if 'my dog' in f.parts)[0]
    assert set(run.model.predict(first).index) == set(run.model.labels)
    if folder is sounds:
        assert (
            'left out: 1 file (once/notes.txt); nothing to use in empty' in said
            and 'not tested: once' in said
        )


@pytest.mark.parametrize('recipe, kept', [('genres-mn04', False), ('irmas-efficient', True)])
def test_a_head_starts_from_rows_of_its_own_labels(recipe, kept, tmp_path):
    "Ten classes that are no genres begin with no genre's row; IRMAS's eleven labels keep theirs"
    rng = np.random.default_rng(0)
    classes = DATASETS['irmas_notes'].classes if kept else [f'class {k}' for k in range(10)]
    for k, c in enumerate(classes):
        (tmp_path / 'own' / c).mkdir(parents=True)
        for i in range(4):
            sf.write(
                tmp_path / 'own' / c / f'{i}.wav',
                tone(200 + 150 * k + 10 * i, 8000, 0.5, rng),
                8000,
            )
    run = train(recipe, tmp_path / 'own', tmp_path / 'run', weights='none', epochs=1, fold='0')
    assert ('start' in run.record['recipe']['backbone'][1]) == kept


def test_a_head_alone(photos, tmp_path):
    "`photos-lite0` trains no epoch; from a few photos no confidence threshold is fitted"
    run = train('photos-lite0', photos, tmp_path / 'run', weights='none')
    assert run.record['recipe']['epochs'] == 0 and len(run.predictions)
    assert (
        run.model.confidence_threshold == 0
        and 'confidence_threshold' not in run.record
        and run.record['recipe']['about'].endswith("; a folder of one's own")
    )


def test_trained_on_everything(sounds, tmp_path, capsys):
    run = train('sounds-cnn', sounds, tmp_path / 'run', fold='0', epochs=1)
    assert (
        f'trained on all {5 * len(PITCH) + 1} items' in capsys.readouterr().out
        and not run.record['metrics']
        and not len(run.predictions)
    )


def test_every_file_tested_once(sounds, tmp_path, capsys):
    "A class of one recording cannot be learned and tested: it is named before any training"
    with pytest.raises(SystemExit):
        train('sounds-cnn', sounds, tmp_path / 'cv', fold='all')
    assert (
        'add recordings of once (1 file), or leave them out' in capsys.readouterr().err
        and not (tmp_path / 'cv').exists()
    )
    run = train(
        'sounds-cnn', sounds, tmp_path / 'cv', fold='all', epochs=1, classes=','.join(PITCH)
    )
    assert run.record['cv']['n'] == 15 and run.record['cv']['folds'] == 5


def test_its_own_split(photos, tmp_path, capsys):
    "train, valid and test inside the folder are kept to the file"
    d = tmp_path / 'split'
    for part, files in dict(train='12', val='3', test='0').items():
        for f in photos.rglob('*.*'):
            if f.stem in files:
                (d / part / f.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(f, d / part / f.parent.name)
    run = train('photos-cnn', d, tmp_path / 'run', epochs=1)
    assert '6 train, 3 valid, 3 test' in capsys.readouterr().out
    assert (
        all(
            f'{os.sep}{dict(valid="val").get(r.split, r.split)}{os.sep}' in r.path
            for r in run.predictions.itertuples()
        )
        and run.record['recipe']['split'] == 'official'
    )


@pytest.mark.skipif(
    not os.environ.get('INSTRUMENTS_WEIGHTS'),
    reason='INSTRUMENTS_WEIGHTS names no folder of pretrained weights',
)
def test_few_sounds_from_real_weights(tmp_path):
    "Eight short clips a class tell three tones apart, by small batches and a short average"
    rng, d = np.random.default_rng(1), tmp_path / 'tones'
    for c, hz in PITCH.items():
        (d / c).mkdir(parents=True)
        for i in range(8):
            sf.write(d / c / f'{i}.wav', tone(hz, 32000, 1.0, rng), 32000)
    run = train('sounds-mn04', d, tmp_path / 'run')
    assert (
        run.record['metrics']['valid']['accuracy'] == run.record['metrics']['test']['accuracy'] == 1
    )
