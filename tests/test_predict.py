"""Answers by the thousand: tables that are killed and go on, pipes, clusters; always one table."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
import torch
from filelock import FileLock

from instruments_nbdev.files import DataError
from instruments_nbdev.model import Classifier, load_model, save_model
from instruments_nbdev.model_files import describe_model
from instruments_nbdev.prediction_app import instruments_predict
from instruments_nbdev.predictions import check_table, write_predictions, write_timelines
from instruments_nbdev.recipes import TrainingError
from processes import as_script, end, start
from test_cluster import cluster  # noqa: F401 (a fixture)

COMMAND = [str(Path(sys.executable).with_name('instruments_predict'))]


@pytest.fixture(scope='module')
def archive(tmp_path_factory):
    "A folder with 300 short sounds, one long one, and some that are none"
    folder = tmp_path_factory.mktemp('archive')
    rng = np.random.default_rng(0)
    for i in range(300):
        n = rng.integers(2000, 12000)
        pitch = rng.uniform(100, 2000)
        x = np.sin(2 * np.pi * pitch * np.arange(n) / 8000) * 0.3
        sf.write(folder / f'{i:03}.wav', x, 8000)
    sf.write(folder / '150x.wav', rng.uniform(-0.3, 0.3, 1_200_000), 8000)
    (folder / '020x.wav').write_text('no sound')
    return folder


@pytest.fixture(scope='module')
def model(tiny, tmp_path_factory):
    "A network that knows nothing, but always the same"
    torch.manual_seed(0)
    clf = Classifier(tiny, ['a', 'b', 'c', 'd']).eval()
    return str(save_model(clf, tmp_path_factory.mktemp('model') / 'model.safetensors'))


def predict(model, archive, table, *args):
    "A process that fills a table"
    cwd = Path(table).parent
    return start(as_script, cwd, 'instruments_predict', model, archive, '--out', table, *args)


def is_whole(process):
    "Has it come to its end? One of the files is no sound, so the exit status is 1"
    return end(process, 120) == 1


@pytest.fixture(scope='module')
def unbroken(model, archive, tmp_path_factory):
    "The table that one process makes, with one thread"
    table = tmp_path_factory.mktemp('table') / 'whole.csv'
    assert is_whole(predict(model, archive, table, '--jobs', '1'))
    return table.read_bytes()


def test_two_threads(model, archive, unbroken, tmp_path):
    assert is_whole(predict(model, archive, tmp_path / 'two.csv', '--jobs', '2'))
    assert (tmp_path / 'two.csv').read_bytes() == unbroken


def test_killed_at_ten_random_moments(model, archive, unbroken, tmp_path, counts):
    table, part = tmp_path / 'killed.csv', tmp_path / 'killed.csv.part'
    rng = random.Random(1)
    kills = 0
    while kills < 10:
        process = predict(model, archive, table)
        before = part.stat().st_size if part.exists() else 0
        while process.is_alive() and (not part.exists() or part.stat().st_size <= before):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        if end(process) == 1:  # it got through: another table is begun
            assert table.read_bytes() == unbroken
            table.unlink()
        else:
            kills += 1
    assert is_whole(predict(model, archive, table))
    assert table.read_bytes() == unbroken
    assert sorted(path.name for path in tmp_path.iterdir()) == ['killed.csv', 'stderr', 'stdout']
    counts('a table of predictions: killed ten times, the same in the end')


def test_cluster(cluster, model, archive, unbroken, tmp_path):  # noqa: F811
    address, _ = cluster
    assert is_whole(predict(model, archive, tmp_path / 'there.csv', '--cluster', address))
    assert (tmp_path / 'there.csv').read_bytes() == unbroken
    with pytest.raises(TrainingError, match='no Dask scheduler'):
        paths = [archive / '000.wav']
        clf = load_model(model)
        write_predictions(clf, paths, tmp_path / 'x.csv', False, model, cluster='tcp://127.0.0.1:1')


def test_parquet(model, archive, unbroken, tmp_path):
    pytest.importorskip('pyarrow')
    (tmp_path / 'whole.csv').write_bytes(unbroken)
    assert is_whole(predict(model, archive, tmp_path / 'whole.parquet'))
    csv = pd.read_csv(tmp_path / 'whole.csv', keep_default_na=False)
    parquet = pd.read_parquet(tmp_path / 'whole.parquet')
    assert list(csv) == list(parquet)
    for column in ('path', 'label', 'error'):
        assert csv[column].tolist() == parquet[column].tolist()
    probs = pd.to_numeric(csv.prob).to_numpy()
    np.testing.assert_array_equal(probs, parquet.prob.to_numpy())


def test_another_model_begins_anew(model, archive, unbroken, tmp_path):
    "What another model has said is not kept"
    table = tmp_path / 'table.csv'
    first = json.dumps(dict(unfinished=True, model='another', columns=[])) + '\n'
    Path(f'{table}.part').write_text(first + f'{archive / "000.wav"},nonsense,1,\n')
    assert is_whole(predict(model, archive, table))
    assert table.read_bytes() == unbroken


def test_names_from_a_pipe(model, archive, unbroken):
    "Each is answered while the pipe is still open"
    process = subprocess.Popen(
        [*COMMAND, model, '-', '--json'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for name in ('000.wav', '020x.wav', '150x.wav'):
        process.stdin.write(f'{archive / name}\n')
        process.stdin.flush()
        row = json.loads(process.stdout.readline())
        assert row['path'] == str(archive / name)
        assert ('error' in row) == (name == '020x.wav')
        if 'probs' in row:
            assert row['prob'] == max(row['probs'].values())
            assert f'{archive / name},{row["label"]},' in unbroken.decode()
    process.stdin.close()
    assert process.wait(60) == 1


def test_a_closed_pipe_ends_it_quietly(model, archive):
    command = f'{COMMAND[0]} {model} {archive} | head -n 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.count('\n') == 1
    assert 'Traceback' not in done.stderr and 'rror' not in done.stderr


def test_two_runs_do_not_write_one_table(model, archive, tmp_path):
    table = tmp_path / 'table.csv'
    with FileLock(f'{table}.part.lock'):
        assert end(predict(model, archive, table)) == 2
    assert 'another run is writing this table' in (tmp_path / 'stderr').read_text()
    assert not table.exists()


def test_a_name_that_is_not_utf8(model, archive):
    "It gets its line, and the pipe goes on"
    names = b'\xff.wav\n' + str(archive / '000.wav').encode() + b'\n'
    strict = os.environ | dict(PYTHONIOENCODING='utf-8:strict')
    done = subprocess.run(
        [*COMMAND, model, '-'], input=names, capture_output=True, env=strict, timeout=120
    )
    assert (
        done.returncode == 1 and done.stdout.count(b'\n') == 2 and b'Traceback' not in done.stderr
    )


def test_a_letter_cut_in_two(model, archive, unbroken, tmp_path):
    "A kill in the middle of a letter of two bytes"
    table = tmp_path / 'table.csv'
    clf = load_model(model)
    lines = [line.split(b',')[0].decode() for line in unbroken.splitlines()[1:]]
    with pytest.raises(DataError, match='.csv or .parquet'):
        check_table(tmp_path / 'table.xls')
    write_predictions(clf, lines[:20], table, False, model)
    digest = describe_model(model)['digest']
    facts = dict(unfinished=True, model=digest, columns=['path', 'label', 'prob', 'error'])
    first_line = json.dumps(facts).encode() + b'\n'
    rows = table.read_bytes().split(b'\n', 1)[1].splitlines(keepends=True)
    torn = first_line + b''.join(rows[:17]) + 'ä'.encode()[:1]
    Path(f'{table}.part').write_bytes(torn)
    whole = table.read_bytes()
    write_predictions(clf, lines[:20], table, False, model)
    assert table.read_bytes() == whole


def test_labels_beside_a_sound_are_not_overwritten(model, archive, tmp_path):
    sound = tmp_path / 'song.wav'
    sound.write_bytes((archive / '000.wav').read_bytes())
    sound.with_suffix('.txt').write_text('pia')
    write_timelines(load_model(model), [str(sound)], tmp_path)
    assert sound.with_suffix('.txt').read_text() == 'pia'
    assert (tmp_path / 'song-2.txt').exists() and not (tmp_path / 'song.csv').exists()


def test_arguments(model, archive, tmp_path, capsys):
    empty = tmp_path / 'empty'
    empty.mkdir()
    for args, reason in [
        (dict(paths=[str(archive)], csv='a.csv', out='b.csv'), 'the same table'),
        (dict(paths=[str(archive)], cluster='tcp://x'), '--cluster needs --out'),
        (dict(paths=['-'], timeline='times'), '--timeline does not go with -'),
        (dict(paths=['-', 'a.wav']), '-: names come from standard input or as arguments'),
        (dict(paths=[str(archive)], out='a.xls'), 'a.xls: the name of a table ends in'),
        (dict(paths=[str(archive)], out='a.csv', json=True), '--json and --out'),
        (dict(paths=[str(archive)], timeline=model), 'not a folder'),
        (dict(paths=[str(empty)]), 'holds no sounds or photos'),
        (dict(paths=[str(archive)], jobs='many'), '--jobs must be a whole number'),
    ]:
        with pytest.raises(SystemExit):
            instruments_predict.__wrapped__(model, **args)
        assert reason in capsys.readouterr().err
