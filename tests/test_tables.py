"""Labels in tables, by the commands: small copies of the layouts in which real ones come.

What a table may say, and every sentence about what is wrong with one, is tested in the notebooks
`label_rows` and `tables`.
"""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from instruments_nbdev.app import instruments_data, instruments_train
from instruments_nbdev.custom_cnn import CustomCNN
from instruments_nbdev.data import esc50, instruments30
from instruments_nbdev.formats import ffmpeg_path
from instruments_nbdev.photo_transforms import Photo
from instruments_nbdev.prediction_app import instruments_evaluate
from instruments_nbdev.recipes import RECIPES, Part, Recipe
from instruments_nbdev.runs import Run
from instruments_nbdev.storage import photo_store
from instruments_nbdev.synthesis import synthesize
from instruments_nbdev.tables import table_items

CLASSES = ('dog', 'cat', 'church_bells')


@pytest.fixture(scope='module')
def clips(esc):
    "Some synthetic clips: path, label, group, fold"
    items = esc50.items(esc)
    return items[items.label.isin(CLASSES)].reset_index(drop=True)


@pytest.fixture
def few_pixels(monkeypatch):
    "The name of a recipe for photos that trains in a moment"
    recipe = Recipe('few-pixels').replace(
        window=0,
        store=Part(photo_store, size=32),
        front_end=Part(Photo, size=32),
        backbone=Part(CustomCNN, channels=(8, 16), head=0),
        bs=4,
        split='official',
    )
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    return recipe.name


@pytest.fixture
def several_labels(tiny, monkeypatch):
    "The name of a recipe for several labels that trains in a moment"
    monkeypatch.setitem(RECIPES, 'several', tiny.replace(name='several', multi_label=True))
    return 'several'


def write_table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='') as f:
        writer = csv.writer(f)
        writer.writerows([columns.split(','), *rows])
    return path


def copy(path, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def urbansound(root, clips):
    "audio/fold1/FSID-CLASS-0-K.wav and metadata/UrbanSound8K.csv"
    rows = []
    for k, clip in enumerate(clips.itertuples()):
        number = CLASSES.index(clip.label)
        recording = f'{clip.fold}00{number}'
        name = f'{recording}-{number}-0-{k}.wav'
        copy(clip.path, root / f'audio/fold{clip.fold}' / name)
        rows.append((name, recording, 58.5, 62.5, 1, clip.fold, number, clip.label))
    columns = 'slice_file_name,fsID,start,end,salience,fold,classID,class'
    return write_table(root / 'metadata/UrbanSound8K.csv', columns, rows)


def fsd50k(root, clips):
    "FSD50K.dev_audio, FSD50K.eval_audio and FSD50K.ground_truth with dev.csv and eval.csv"
    dev, test = [], []
    for k, clip in enumerate(clips.itertuples()):
        fname = str(10_000 + 7 * k)
        labels = 'cat,Animal' if clip.label == 'cat' else clip.label
        row = (fname, labels, ','.join(['/m/0'] * len(labels.split(','))))
        if clip.fold == 1:
            copy(clip.path, root / f'FSD50K.eval_audio/{fname}.wav')
            test.append(row)
        else:
            copy(clip.path, root / f'FSD50K.dev_audio/{fname}.wav')
            dev.append((*row, 'val' if clip.fold == 2 else 'train'))
    truth = root / 'FSD50K.ground_truth'
    write_table(truth / 'eval.csv', 'fname,labels,mids', test)
    return write_table(truth / 'dev.csv', 'fname,labels,mids,split', dev)


def kaggle(root, clips):
    "train.csv beside audio_train, with ids for names"
    rows = []
    for k, clip in enumerate(clips.itertuples()):
        copy(clip.path, root / f'audio_train/{k:08x}.wav')
        rows.append((f'{k:08x}', clip.label))
    return write_table(root / 'train.csv', 'id,label', rows)


def audacity(root, clips):
    "Recordings of one class each, and beside each a label track with a line a clip"
    root.mkdir()
    for (label, fold), own in clips.groupby(['label', 'fold']):
        sounds = [sf.read(path)[0] for path in own.path]
        sf.write(root / f'{label}, evening {fold}.flac', np.concatenate(sounds), 8000)
        lines = [f'{k:.6f}\t{k + 1:.6f}\t{label}\n' for k in range(len(own))]
        (root / f'{label}, evening {fold}.txt').write_text(''.join(lines))
    return root


def esc50_copy(root, clips):
    "audio and meta/esc50.csv, with files in another format than the table says"
    rows = []
    for clip in clips.itertuples():
        name, target = Path(clip.path).name, CLASSES.index(clip.label)
        x, sr = sf.read(clip.path)
        (root / 'audio').mkdir(parents=True, exist_ok=True)
        sf.write(root / 'audio' / Path(name).with_suffix('.flac'), x, sr)
        rows.append((name, clip.fold, target, clip.label, False, clip.group, 'A'))
    columns = 'filename,fold,target,category,esc10,src_file,take'
    return write_table(root / 'meta/esc50.csv', columns, rows)


LAYOUTS = [urbansound, fsd50k, kaggle, audacity, esc50_copy]
SPLITS = dict(urbansound='folds', esc50_copy='folds', fsd50k='official')


@pytest.mark.parametrize('write', LAYOUTS, ids=lambda f: f.__name__)
def test_looked_at_and_trained_on(write, clips, several_labels, tmp_path, capsys):
    table = write(tmp_path / 'mine', clips)
    several = write is fsd50k
    instruments_data(labels=str(table), audit=True)
    said = capsys.readouterr().out
    n = int((clips.fold > 1).sum()) if several else len(clips)
    assert f'{n} sounds in {3 + several} classes' in said and 'files unreadable' not in said
    assert ('UrbanSound8K: ' in said or 'UrbanSound8K they are' in said) == (write is urbansound)
    recipe = several_labels if several else 'sounds-cnn'
    out = str(tmp_path / 'run')
    instruments_train(recipe, labels=str(table), epochs=1, out=out)
    run = Run(out)
    assert run.model.labels == sorted([*CLASSES, *(['Animal'] * several)])
    assert run.record['recipe']['split'] == SPLITS.get(write.__name__, 'dealt')
    assert (run.path / 'report.html').exists()
    if write in (urbansound, esc50_copy):
        assert run.record['metrics']['test']['n'] == (clips.fold == 1).sum()
    if write is audacity:  # both parts of a recording are on one side
        sides = run.predictions.groupby(run.predictions.path.map(lambda p: Path(p).parent))
        assert (sides.size() == 2).all() and (sides.split.nunique() == 1).all()


@pytest.mark.parametrize('write', LAYOUTS, ids=lambda f: f.__name__)
def test_evaluated(write, clips, model, tmp_path, capsys):
    table = write(tmp_path / 'mine', clips)
    page, log = tmp_path / 'page.html', tmp_path / 'log.csv'
    status = instruments_evaluate(
        str(model), str(table), quiet=True, report=str(page), csv=str(log)
    )
    said = capsys.readouterr()
    n = int((clips.fold > 1).sum()) if write is fsd50k else len(clips)
    assert status == 0 and f'{n} clips' in said.out and len(pd.read_csv(log)) == n
    if write in (urbansound, audacity):
        assert 'of 15 recordings' in said.out
    assert ('the model has no label Animal: 0 items left out' in said.err) == (write is fsd50k)
    assert 'Reliability' in page.read_text() and '<audio' in page.read_text()


def test_the_same_scores_from_folders_and_from_a_table(clips, model, tmp_path, capsys):
    for clip in clips.itertuples():
        copy(clip.path, tmp_path / 'folders' / clip.label / Path(clip.path).name)
    rows = sorted(
        (f'{label}/{Path(path).name}', label) for path, label in zip(clips.path, clips.label)
    )
    table = write_table(tmp_path / 'folders/t.csv', 'path,label', rows)
    said = []
    for where in (tmp_path / 'folders', table):
        assert instruments_evaluate(str(model), str(where)) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and 'truth church bells' in said[0]


def test_labels_of_others(clips, model, tmp_path, capsys):
    "A map, names for people, labels that are unknown, and a table of which nothing is left"
    names = dict(dog='Hund', cat='CAT', church_bells='Church bells')
    rows = [(clip.path, names[clip.label]) for clip in clips.itertuples()]
    rows += [(rows[0][0], 'bark'), rows[0]]
    home = str(Path(clips.path[0]).parent)
    table = str(write_table(tmp_path / 't.csv', 'path,label', rows))
    assert instruments_evaluate(str(model), table, data=home, map='Hund=dog', quiet=True) == 0
    said = capsys.readouterr()
    assert 'the model has no label bark: 0 items left out, 1 item without it' in said.err
    assert f'{len(clips)} clips' in said.out and '1 label given twice' in said.err
    assert instruments_evaluate(str(model), table, data=home, quiet=True) == 0
    n_dogs = int((clips.label == 'dog').sum())
    said = capsys.readouterr()
    assert f'no label Hund, bark: {n_dogs} items left out' in said.err
    assert f'{len(clips) - n_dogs} clips' in said.out
    pairs = write_table(tmp_path / 'm.csv', 'old,new', [('Hund', 'dog'), ('bark', 'dog')])
    instruments_evaluate(str(model), table, data=home, map=str(pairs), quiet=True)
    assert 'no label' not in capsys.readouterr().err
    lone = str(write_table(tmp_path / 'u.csv', 'path,label', [(clips.path[0], 'unicorn')]))
    assert instruments_evaluate(str(model), lone, data=home) == 1
    assert 'the model has no label unicorn: 1 item left out' in capsys.readouterr().err
    for wrong, why in {
        'Hund=dgo': "no label 'dgo'",
        'Hund': 'neither',
        'a=': 'not a label',
    }.items():
        with pytest.raises(SystemExit) as e:
            instruments_evaluate(str(model), table, data=home, map=wrong)
        assert e.value.code == 2 and why in capsys.readouterr().err


def test_a_recording_that_cannot_be_read(clips, model, tmp_path, capsys):
    copy(clips.path[0], tmp_path / 'a.wav')
    (tmp_path / 'b.wav').write_bytes(b'RIFF0000')
    rows = [('a.wav', 'dog', 0, 0.5), ('b.wav', 'dog', 0, 0.5), ('b.wav', 'cat', 1, 2)]
    table = str(write_table(tmp_path / 't.csv', 'path,label,start,end', rows))
    assert instruments_evaluate(str(model), table, quiet=True) == 1
    said = capsys.readouterr()
    assert '1 clip' in said.out and 'b.wav cannot be decoded' in said.err
    with pytest.raises(SystemExit):
        instruments_train('sounds-cnn', labels=table, out=str(tmp_path / 'run'))
    assert 'b.wav' in capsys.readouterr().err and not (tmp_path / 'run').exists()


def test_every_fold_tested(clips, tmp_path, capsys):
    table = esc50_copy(tmp_path / 'mine', clips[clips.fold < 3])
    instruments_train(
        'sounds-cnn', labels=str(table), fold='all', epochs=1, out=str(tmp_path / 'cv')
    )
    assert {f.name for f in (tmp_path / 'cv').iterdir() if f.is_dir()} == {
        'fold1-seed0',
        'fold2-seed0',
    }


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "image_train.csv beside photos in one folder, as in a competition"
    root = tmp_path_factory.mktemp('photos')
    home = synthesize(instruments30, root, classes=('banjo', 'tuba'), px=64)
    rows = []
    for k, item in enumerate(instruments30.items(home, classes=('banjo', 'tuba')).itertuples()):
        copy(item.path, root / f'images/{k:04d}.jpg')
        rows.append((f'{k:04d}.jpg', item.label, item.split))
    return write_table(root / 'images_train.csv', 'image,label,split', rows)


def test_photos(photos, few_pixels, tmp_path, capsys):
    out = str(tmp_path / 'run')
    images = str(photos.parent / 'images')
    instruments_train(few_pixels, labels=str(photos), data=images, epochs=1, out=out)
    run = Run(out)
    assert run.record['metrics']['test']['n'] == 4
    page = tmp_path / 'page.html'
    capsys.readouterr()
    status = instruments_evaluate(
        out, str(photos), data=images, split='test', report=str(page), quiet=True
    )
    said = capsys.readouterr()
    assert status == 0 and '4 photos; 95 % intervals by bootstrap over photos' in said.out
    assert 'macro F1' in said.out and 'micro F1' not in said.out
    right = run.record['metrics']['test']['accuracy']
    assert f'top answer right  {right:>8.3f}' in said.out
    assert page.read_text().count('<img') >= 3
    instruments_evaluate(out, str(photos.parent / 'instruments30'), split='test', quiet=True)
    assert '4 photos; ' in capsys.readouterr().out


def test_what_does_not_fit(photos, clips, model, tmp_path, capsys):
    sounds = kaggle(tmp_path / 'mine', clips)
    several = fsd50k(tmp_path / 'fsd', clips)
    for call, why in [
        (lambda: instruments_train('sounds-cnn', labels=str(photos)), 'is for sounds'),
        (lambda: instruments_train('photos-cnn', labels=str(sounds)), 'is for photos'),
        (lambda: instruments_train('sounds-cnn', labels=str(several)), 'of irmas-efficient'),
        (lambda: instruments_train('sounds-cnn', labels='none.csv'), 'no such table'),
        (lambda: instruments_evaluate(str(model), str(photos)), 'the model is for sounds'),
        (lambda: instruments_evaluate(str(model), 'none.csv'), 'no such folder or table'),
        (lambda: instruments_evaluate(str(model), str(sounds), split='test'), 'has no split'),
        (lambda: instruments_data(labels='none.csv'), 'no such table'),
        (lambda: instruments_data('esc50', labels=str(sounds)), 'a table of your own'),
    ]:
        with pytest.raises(SystemExit) as e:
            call()
        said = capsys.readouterr().err
        assert e.value.code == 2 and why in said and said.count('\n') == 1, said


def test_parts_of_what_only_ffmpeg_reads(tmp_path):
    "They are cut, too, and not the whole recording twice"
    ffmpeg = ffmpeg_path()
    if not ffmpeg:
        pytest.skip('pip install "instruments_nbdev[formats]"')
    sf.write(tmp_path / 'x.wav', np.sin(np.arange(80_000) / 9) * 0.3, 8000)
    call = [ffmpeg, '-loglevel', 'error', '-i', str(tmp_path / 'x.wav'), str(tmp_path / 'x.m4a')]
    subprocess.run(call, check=True, stdin=subprocess.DEVNULL)
    (tmp_path / 'x.wav').unlink()
    (tmp_path / 't.csv').write_text('path,label,start,end\nx.m4a,dog,0,2\nx.m4a,cat,5,7\n')
    items, _ = table_items(tmp_path / 't.csv', cache=tmp_path / 'cache')
    assert items.path.nunique() == 2
    assert [sf.info(path).duration for path in items.path] == [2, 2]
