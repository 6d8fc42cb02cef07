"""What goes wrong outside the program: power cuts, full disks, two people in one folder, odd files.

Each time there is one clear error, and nothing is lost. Models from strangers are in test_files.py,
kills before every single change to the disk in test_resume.py and test_store.py.
"""

import errno
import hashlib
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import instruments_nbdev.training as T
import malformed
from instruments_nbdev import learner
from instruments_nbdev.custom_cnn import CustomCNN
from instruments_nbdev.data import instruments30
from instruments_nbdev.labels import label_name
from instruments_nbdev.model import load_model
from instruments_nbdev.photo_transforms import Photo
from instruments_nbdev.recipes import Part, Recipe, TrainingError, add_recipe
from instruments_nbdev.storage import photo_store
from instruments_nbdev.synthesis import synthesize
from instruments_nbdev.training import Run, fit
from processes import CTX, KILLED, as_script, end, limit_memory, run, start
from test_resume import RECIPES, assert_same_run, is_whole, train
from test_store import build, right


def said(cwd):
    "What a script wrote, and the last line of its errors"
    out, err = ((cwd / name).read_text(errors='replace') for name in ('stdout', 'stderr'))
    assert 'Traceback' not in err, err
    return SimpleNamespace(out=out, err=err, last=re.split('[\r\n]', err.strip())[-1])


def contents(d):
    return {p: hashlib.md5(p.read_bytes()).hexdigest() for p in sorted(d.rglob('*')) if p.is_file()}


# Kills


def test_killed_at_ten_random_moments(tiny, items, tmp_path, counts):
    "Killed and resumed until there were ten kills; a run that gets through begins a new folder"
    recipe = tiny.replace(epochs=8, ema=0.9, save_best=True, **RECIPES['augmented'])
    rng, begun, kills, runs = random.Random(0), CTX.Event(), 0, 1

    def begin(out):
        begun.clear()
        p = start(train, recipe, items, out, begun=begun)
        assert begun.wait(60)
        return p

    p, t = begin(tmp_path / 'unbroken'), time.time()
    assert end(p) == 0
    longest = time.time() - t
    for _ in range(40):
        p = begin(out := tmp_path / f'run{runs}')
        time.sleep(rng.uniform(0, 0.4 * longest))
        p.kill()
        kills += end(p) == KILLED
        runs += is_whole(out)
        if kills == 10:
            break
    assert kills == 10
    if not is_whole(tmp_path / f'run{runs}'):
        assert run(train, recipe, items, tmp_path / f'run{runs}') == 0
    for i in range(1, runs + 1):
        assert_same_run(tmp_path / 'unbroken', tmp_path / f'run{i}')
    tried = f'{kills} kills at random moments of {runs} training(s)'
    counts(f'{tried}: resumed to the same weights, to the last bit')


# Full disks

SIZE = 4_000_000


@pytest.fixture
def disk(tmp_path):
    "A disk of four megabytes; `fill(kb)` leaves so much room on it, `fill()` makes room again"
    d = tmp_path / 'disk'
    d.mkdir()
    if (
        not shutil.which('mount')
        or subprocess.run(
            ['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'none', d], capture_output=True
        ).returncode
    ):
        warnings.warn('NO TEST ON A FULL DISK: only root may mount one', stacklevel=2)
        pytest.skip('only root may mount a small disk')

    def fill(kb=None):
        (d / 'ballast').unlink(missing_ok=True)
        if kb is not None:
            s = os.statvfs(d)
            (d / 'ballast').write_bytes(bytes(max(0, s.f_bavail * s.f_frsize - 1024 * kb)))

    yield SimpleNamespace(path=d, fill=fill)
    subprocess.run(['umount', '-l', d], check=True)


def train_command(cwd, recipe, *args, cache=None, most=None):
    "`instruments_train` for a recipe of a test; may write no file of more than `most` bytes"
    add_recipe(recipe)
    plain = learner.Checkpoint
    learner.Checkpoint = lambda path, every: plain(path)
    T.write_report = lambda path, *_: path.write_text('…' * 9999)
    # a busy machine would choose otherwise, and get other weights
    T.fastest_settings = lambda *_, **__: {}
    if cache:
        os.environ['INSTRUMENTS_CACHE'] = str(cache)
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    as_script(cwd, 'instruments_train', recipe.name, '--epochs', recipe.optimisation.epochs, *args)


NO_SPACE = os.strerror(errno.ENOSPC)


def no_space(cwd, command, path, why=NO_SPACE):
    "Did a command say in one sentence that there was no room at `path`?"
    s = said(cwd)
    assert re.fullmatch(rf'{command}: {re.escape(str(path))}[^:]*: {why}', s.last), s.err


def full_until_done(disk, run_with, failed, steps=(0, 4, 8, 16, 32, 64, 128, 256, 512)):
    "A command on a disk with more and more room, until there is enough: how often it failed"
    for n, kb in enumerate(steps):
        disk.fill(kb)
        code = run_with()
        if code == 0:
            return n
        assert code == 2
        failed()
    raise AssertionError('no room is enough')


def test_training_on_a_full_disk(disk, tiny, esc, tmp_path, counts):
    "An earlier run stays as it was; once there is room, the next one is the same as anywhere"
    args = '--data', esc, '--resume', '--out'
    before, out = disk.path / 'before', disk.path / 'run'
    for d in (tmp_path / 'alone', before):
        assert run(train_command, tmp_path, tiny, *args, d) == 0
    old = contents(before)

    def failed():
        no_space(tmp_path, 'instruments_train', disk.path)
        assert not out.exists() and contents(before) == old

    n = full_until_done(disk, lambda: run(train_command, tmp_path, tiny, *args, out), failed)
    disk.fill(0)
    assert run(train_command, tmp_path, tiny, *args, disk.path / 'other') == 2
    no_space(tmp_path, 'instruments_train', disk.path)
    disk.fill()
    assert run(train_command, tmp_path, tiny, *args, disk.path / 'other') == 0
    assert contents(before) == old and n > 2
    for d in (before, out, disk.path / 'other'):
        assert_same_run(tmp_path / 'alone', d)
    counts(
        f'{n + 1} trainings on a full disk: one sentence each, earlier runs untouched, then resumed'
    )


def test_building_a_store_on_a_full_disk(disk, tiny, esc, items, tmp_path, counts):
    "Half of it is taken away again, and never taken for a store"
    args = '--data', esc, '--out', tmp_path / 'run'

    def failed():
        no_space(tmp_path, 'instruments_train', disk.path)
        assert (
            not [*disk.path.rglob('*.tmp'), *disk.path.rglob('*.json')]
            and not (tmp_path / 'run').exists()
        )

    n = full_until_done(
        disk,
        lambda: run(train_command, tmp_path, tiny, *args, cache=disk.path),
        failed,
        (0, 64, 512, 1024, 3000),
    )
    assert n > 2
    right(items.path.tolist(), disk.path)
    assert is_whole(tmp_path / 'run')
    counts(f'{n} stores on a full disk: one sentence each, then built')


@pytest.mark.parametrize('most', [500, 2_000, 8_000])
def test_files_that_may_not_grow(most, tiny, esc, tmp_path):
    "A limit on the size of a file instead of a full disk: the same sentence, another reason"
    args = '--data', esc, '--out'
    assert run(train_command, tmp_path, tiny, *args, tmp_path / 'before') == 0
    old = contents(tmp_path / 'before')
    assert run(train_command, tmp_path, tiny, *args, tmp_path / 'run', most=most) == 2
    no_space(tmp_path, 'instruments_train', tmp_path, os.strerror(errno.EFBIG))
    assert not (tmp_path / 'run').exists() and contents(tmp_path / 'before') == old


def predict_command(cwd, *args, temp=None):
    if temp:
        os.environ['TMPDIR'] = str(temp)
        import tempfile

        tempfile.tempdir = None
    as_script(cwd, 'instruments_predict', *args)


def test_predicting_on_a_full_disk(disk, model, esc, tmp_path, counts):
    "A table that was there before stays until the new one is whole; what was answered is kept"
    csv = disk.path / 'out.csv'
    csv.write_text('an older table')
    args = model, esc, '--csv', csv

    def failed():
        line = said(tmp_path).last
        assert 'No space left on device' in line and 'out.csv' in line
        assert csv.read_text() == 'an older table'
        assert set(os.listdir(disk.path)) <= {'ballast', 'out.csv', 'out.csv.part'}

    n = full_until_done(disk, lambda: run(predict_command, tmp_path, *args), failed)
    assert n > 1 and len(pd.read_csv(csv)) == 100
    assert sorted(os.listdir(disk.path)) == ['ballast', 'out.csv']
    disk.fill(100)  # predicting needs no room of its own
    assert run(predict_command, tmp_path, model, esc, temp=disk.path) == 0
    counts(f'{n} predictions on a full disk: one sentence each, the older table untouched')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full here')
def test_a_device_without_room(model, items, tmp_path):
    assert run(predict_command, tmp_path, model, items.path[0], '--csv', '/dev/full') == 2
    no_space(tmp_path, 'instruments_predict', '/dev/full')
    assert Path('/dev/full').is_char_device()


# Two trainings in one folder


def waits(begun, go):
    "From now on a training stops at its second epoch until it may go on"
    plain = learner.Reseed.before_epoch

    def before_epoch(self):
        if self.epoch == 1:
            begun.set()
            go.wait(60)
        plain(self)

    learner.Reseed.before_epoch = before_epoch


def test_second_training_into_one_folder(tiny, items, esc, tmp_path, counts):
    begun, go, out = CTX.Event(), CTX.Event(), tmp_path / 'run'
    first = start(train, tiny, items, out, (waits, begun, go))
    assert begun.wait(60)
    for resume in (False, True):
        with pytest.raises(TrainingError, match='run: another training is writing this folder$'):
            fit(tiny, items, out=out, resume=resume, speed={}, progress=False)
        assert (
            run(train_command, tmp_path, tiny, '--data', esc, '--out', out, *['--resume'] * resume)
            == 2
        )
        assert (
            said(tmp_path).last
            == f'instruments_train: {out}: another training is writing this folder'
        )
    go.set()
    assert end(first) == 0 and run(train, tiny, items, tmp_path / 'alone') == 0
    assert_same_run(out, tmp_path / 'alone')
    assert len(Run(out).record['epochs']) == tiny.optimisation.epochs
    counts('4 second trainings into one folder: one sentence each, the first unhurt')


# Stores


def test_half_a_store(items, tmp_path, counts):
    "With a file cut at every tenth, or full of noise, the store is built anew, never read"
    paths, cache, n = items.path.tolist()[:20], tmp_path / 'cache', 0
    build(paths, cache)
    rng = random.Random(0)
    for f in [p for p in (cache / 'sounds').iterdir() if p.suffix in ('.i16', '.json', '.txt')]:
        good = f.read_bytes()
        for bad in [good[: len(good) * i // 10] for i in range(10)] + [
            rng.randbytes(len(good) // 2)
        ]:
            f.write_bytes(bad)
            build(paths, cache)
            right(paths, cache)
            n += 1
    counts(f'{n} stores cut or damaged: built anew')


# Files from anywhere


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # MB


def labels_of(cwd, model, folder):
    "`instruments_predict` on two cores with little memory; the most that it took goes into a file"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    limit_memory(3 * 2**29)
    begin = peak()
    try:
        as_script(cwd, 'instruments_predict', model, folder)
    finally:
        (cwd / 'peak').write_text(str(peak() - begin))


@pytest.fixture
def photos(tmp_path):
    "A model of photos, and a few that it has learned from"
    classes = instruments30.classes[:3]
    root = synthesize(instruments30, tmp_path, classes=classes, train=4, valid=1, test=1, px=48)
    recipe = Recipe('tiny-photos').replace(
        window=0,
        store=Part(photo_store, size=32),
        front_end=Part(Photo, size=32),
        backbone=Part(CustomCNN, channels=(8, 16), head=0),
        epochs=20,
        bs=4,
        lr=1e-2,
        split='official',
    )
    items = instruments30.items(root, classes=classes)
    run = fit(recipe, items, out=tmp_path / 'photos-run', speed={}, progress=False)
    return run.path / 'model.safetensors', items[items.split == 'train'].path.tolist()[::2]


def mixed(folder, make, trace, good):
    "A folder of malformed files with good ones among them; gives the names of both"
    names, beside = make(folder, trace), [f'good {i}{Path(p).suffix}' for i, p in enumerate(good)]
    for p, name in zip(good, beside):
        shutil.copy(p, folder / name)
    return [s.replace('\n', r'\n') for s in names], beside


def lines_of(cwd, folder):
    "What was said of each file below a folder: one line each"
    lines = [
        line.removeprefix(f'{folder}/').split(': ', 1) for line in said(cwd).out.split('\n')[:-1]
    ]
    assert all(len(line) == 2 and 3 < len(line[1]) < 150 for line in lines), lines
    assert len(dict(lines)) == len(lines), lines
    return dict(lines)


ANSWER = re.compile(r'(?:not sure, perhaps )?(.+) \((\d+) %\)')


def refused(cwd, folder, model, names, good):
    "How many were refused; the good ones beside them are answered as they are alone"
    told = lines_of(cwd, folder)
    assert sorted(told) == sorted([*names, *good])
    for row in load_model(model).predict_paths([folder / g for g in good]).itertuples():
        label, share = ANSWER.fullmatch(told[Path(row.path).name]).groups()
        assert label == label_name(row.label) and abs(int(share) - 100 * row.prob) <= 1
    return sum(not ANSWER.fullmatch(told[name]) for name in names)


@pytest.mark.skipif(
    sys.platform != 'linux', reason='its limits on memory and cores are those of Linux'
)
def test_200_malformed_files(photos, items, tmp_path, counts):
    "A hundred sounds for a bundled model, a hundred photos for another; a process for each"

    def there():
        return sorted(p for d in ('s', 'p') for p in (tmp_path / d).rglob('*'))

    trace = tmp_path / 'trace'
    (of_photos, good), cwds = photos, [tmp_path / 's-out', tmp_path / 'p-out']
    tasks = [
        (
            s := tmp_path / 's',
            'sounds',
            *mixed(s, malformed.sounds, trace, items.path.tolist()[:6]),
        ),
        (p := tmp_path / 'p', of_photos, *mixed(p, malformed.photos, trace, good)),
    ]
    for cwd in cwds:
        cwd.mkdir()
    before, running = (
        there(),
        [start(labels_of, cwd, model, folder) for cwd, (folder, model, *_) in zip(cwds, tasks)],
    )
    assert [end(p, 120) for p in running] == [1, 1] and there() == before and not trace.exists()
    a, b = (refused(cwd, *task) for cwd, task in zip(cwds, tasks))
    n = sum(len(t[2]) for t in tasks)
    assert n == 200 and 'Warning' not in said(cwds[1]).err
    most = max(int((c / 'peak').read_text()) for c in cwds)
    counts(
        f'{n} malformed files: {a + b} refused ({a} sounds, {b} photos), '
        f'{n - a - b} readable after all, 0 crashed; {most} MB at most'
    )
