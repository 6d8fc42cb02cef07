"""What goes wrong outside the program: power cuts, full disks, two people in one folder, files from anywhere. Each time one clear error, and nothing is lost.

Models from strangers are in test_files.py, kills before every single change to the disk in test_resume.py and test_store.py."""
import errno, hashlib, os, random, re, resource, shutil, subprocess, sys, time, warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import pandas as pd, pytest
import instruments_nbdev.training as T
import malformed
from instruments_nbdev.data import instruments30
from instruments_nbdev.training import Recipe, Run, TrainingError, fit, load_model
from processes import CTX, KILLED, as_script, dies_writing, end, limit_memory, run, start, train
from test_resume import RECIPES, record, same_run, whole
from test_store import build, right

def said(cwd):
    "What a script wrote, and the last line of its errors"
    out, err = ((cwd/name).read_text(errors='replace') for name in ('stdout', 'stderr'))
    assert 'Traceback' not in err, err
    return SimpleNamespace(out=out, err=err, last=re.split('[\r\n]', err.strip())[-1])

def contents(d): return {p: hashlib.md5(p.read_bytes()).hexdigest() for p in sorted(d.rglob('*')) if p.is_file()}

# Kills

def test_killed_at_ten_random_moments(tiny, items, tmp_path, counts):
    "Killed and resumed until there were ten kills, in a new folder each time that a run gets through between them"
    recipe = replace(tiny, epochs=8, ema=.9, save_best=True, **RECIPES['augmented']); rng, begun, kills, runs = random.Random(0), CTX.Event(), 0, 1
    p = start(train, recipe, items, tmp_path/'unbroken', begun=begun); assert begun.wait(60); t = time.time(); assert end(p) == 0; longest = time.time()-t
    for _ in range(40):
        begun.clear(); p = start(train, recipe, items, out := tmp_path/f'run{runs}', begun=begun); assert begun.wait(60)
        time.sleep(rng.uniform(0, .4*longest)); p.kill(); kills += end(p) == KILLED
        if whole(out): runs += 1
        if kills == 10: break
    assert kills == 10
    if not whole(tmp_path/f'run{runs}'): assert run(train, recipe, items, tmp_path/f'run{runs}') == 0
    for i in range(1, runs+1): same_run(tmp_path/'unbroken', tmp_path/f'run{i}')
    counts(f'{kills} kills at random moments of {runs} training(s): resumed to the same weights, to the last bit')

# Full disks

SIZE = 4_000_000

@pytest.fixture
def disk(tmp_path):
    "A disk of its own, of four megabytes; `fill(kb)` leaves so much room on it, `fill()` makes room again"
    d = tmp_path/'disk'; d.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={SIZE}', 'none', d], capture_output=True).returncode:
        warnings.warn('NO TEST ON A FULL DISK: only root may mount one'); pytest.skip('only root may mount a small disk')
    def fill(kb=None):
        (d/'ballast').unlink(missing_ok=True)
        if kb is not None: s = os.statvfs(d); (d/'ballast').write_bytes(bytes(max(0, s.f_bavail*s.f_frsize - 1024*kb)))
    yield SimpleNamespace(path=d, fill=fill)
    subprocess.run(['umount', '-l', d], check=True)

def train_command(cwd, recipe, *args, cache=None, most=None):
    "`instruments_train` for a recipe of a test, in a process that may write no file of more than `most` bytes"
    T.RECIPES[recipe.name] = recipe; plain = T.Checkpoint; T.Checkpoint = lambda path, every: plain(path)
    T.write_report = lambda path, *_: path.write_text('…'*9999)
    if cache: os.environ['INSTRUMENTS_CACHE'] = str(cache)
    if most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    as_script(cwd, 'instruments_train', recipe.name, '--epochs', recipe.epochs, *args)

def no_space(cwd, command, path, why=os.strerror(errno.ENOSPC)):
    "Did a command say in one sentence that there was no room at `path`?"
    s = said(cwd); print(repr(s.err)); assert re.fullmatch(rf'{command}: {re.escape(str(path))}[^:]*: {why}', s.last), s.err

def full_until_done(disk, run_with, failed, steps=(0, 4, 8, 16, 32, 64, 128, 256, 512)):
    "A command on a disk with more and more room, until there is enough; gives the number of failures"
    for n, kb in enumerate(steps):
        disk.fill(kb); code = run_with()
        if code == 0: return n
        assert code == 2; failed()
    raise AssertionError('no room is enough')

def test_training_on_a_full_disk(disk, tiny, esc, tmp_path, counts):
    "An earlier run stays as it was; the next one is there in the end, once there is room, and the same as anywhere"
    args = '--data', esc, '--resume', '--out'; before, out = disk.path/'before', disk.path/'run'
    for d in (tmp_path/'alone', before): assert run(train_command, tmp_path, tiny, *args, d) == 0
    def failed(): no_space(tmp_path, 'instruments_train', disk.path); assert not out.exists() and contents(before) == old
    old = contents(before); n = full_until_done(disk, lambda: run(train_command, tmp_path, tiny, *args, out), failed)
    disk.fill(0); assert run(train_command, tmp_path, tiny, *args, disk.path/'other') == 2; no_space(tmp_path, 'instruments_train', disk.path)
    disk.fill(); assert run(train_command, tmp_path, tiny, *args, disk.path/'other') == 0
    assert contents(before) == old and n > 2
    for d in (before, out, disk.path/'other'): same_weights(tmp_path/'alone', d)
    counts(f'{n+1} trainings on a full disk: one sentence each, earlier runs untouched, then resumed')

def same_weights(a, b): x, y = (load_model(d/'model.safetensors').state_dict() for d in (a, b)); assert all(x[k].equal(y[k]) for k in x)

def test_building_a_store_on_a_full_disk(disk, tiny, esc, items, tmp_path, counts):
    args = '--data', esc, '--out', tmp_path/'run'
    def failed(): no_space(tmp_path, 'instruments_train', disk.path); assert not [*disk.path.rglob('*.i16'), *tmp_path.glob('run*')] or not (tmp_path/'run').exists()
    n = full_until_done(disk, lambda: run(train_command, tmp_path, tiny, *args, cache=disk.path), failed, (0, 64, 512, 1024, 3000)); assert n > 2
    assert run(build, (paths := items.path.tolist()[:50]), disk.path) == 0; right(paths, disk.path, 2)
    counts(f'{n} stores on a full disk: one sentence each, then built')

@pytest.mark.parametrize('most', [500, 2_000, 8_000])
def test_files_that_may_not_grow(most, tiny, esc, tmp_path):
    "A limit on the size of a file, where nobody may mount a disk: the same sentence with another reason"
    args = '--data', esc, '--out'; assert run(train_command, tmp_path, tiny, *args, tmp_path/'before') == 0; old = contents(tmp_path/'before')
    assert run(train_command, tmp_path, tiny, *args, tmp_path/'run', most=most) == 2
    no_space(tmp_path, 'instruments_train', tmp_path, os.strerror(errno.EFBIG)); assert not (tmp_path/'run').exists() and contents(tmp_path/'before') == old

def predict_command(cwd, *args, temp=None):
    if temp: os.environ['TMPDIR'] = str(temp); import tempfile; tempfile.tempdir = None
    as_script(cwd, 'instruments_predict', *args)

def test_predicting_on_a_full_disk(disk, model, esc, tmp_path, counts):
    "A table that was there before stays, and there is never half a one"
    csv = disk.path/'out.csv'; csv.write_text('an older table'); args = model, esc, '--csv', csv
    def failed(): no_space(tmp_path, 'instruments_predict', csv); assert csv.read_text() == 'an older table' and sorted(os.listdir(disk.path)) == ['ballast', 'out.csv']
    n = full_until_done(disk, lambda: run(predict_command, tmp_path, *args), failed); assert n > 1 and len(pd.read_csv(csv)) == 100
    disk.fill(100); assert run(predict_command, tmp_path, model, esc, temp=disk.path) == 2; no_space(tmp_path, 'instruments_predict', disk.path)
    counts(f'{n+1} predictions on a full disk: one sentence each, the older table untouched')

@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full here')
def test_a_device_without_room(model, items, tmp_path):
    assert run(predict_command, tmp_path, model, items.path[0], '--csv', '/dev/full') == 2
    no_space(tmp_path, 'instruments_predict', '/dev/full'); assert Path('/dev/full').is_char_device()

# Two trainings in one folder

def waits(begun, go):
    "From now on a training stops at its second epoch until it may go on"
    plain = T.Reseed.before_epoch
    def before_epoch(self):
        if self.epoch == 1: begun.set(); go.wait(60)
        plain(self)
    T.Reseed.before_epoch = before_epoch

def test_second_training_into_one_folder(tiny, items, esc, tmp_path, counts):
    begun, go, out = CTX.Event(), CTX.Event(), tmp_path/'run'
    first = start(train, tiny, items, out, (waits, begun, go)); assert begun.wait(60)
    for resume in (False, True):
        with pytest.raises(TrainingError, match='run: another training is writing this folder$'):
            fit(tiny, items, out=out, resume=resume, speed={}, progress=False)
        assert run(train_command, tmp_path, tiny, '--data', esc, '--out', out, *['--resume']*resume) == 2
        assert said(tmp_path).last == f'instruments_train: {out}: another training is writing this folder'
    go.set(); assert end(first) == 0 and run(train, tiny, items, tmp_path/'alone') == 0
    same_run(out, tmp_path/'alone'); assert len(Run(out).record['epochs']) == tiny.epochs
    counts('4 second trainings into one folder: one sentence each, the first unhurt')

# Stores

def test_half_a_store(items, tmp_path, counts):
    "Each of its files is cut at every tenth, or full of noise: it is built anew, never read as a whole one"
    paths, cache, n = items.path.tolist()[:20], tmp_path/'cache', 0; build(paths, cache); rng = random.Random(0)
    for f in [p for p in (cache/'sounds').iterdir() if p.suffix in ('.i16', '.json', '.txt')]:
        good = f.read_bytes()
        for bad in [good[:len(good)*i//10] for i in range(10)] + [rng.randbytes(len(good)//2)]:
            f.write_bytes(bad); build(paths, cache); right(paths, cache); n += 1
    counts(f'{n} stores cut or damaged: built anew')

# Files from anywhere

def labels_of(cwd, model, *folders):
    "`instruments_predict` on two cores, in a process that may use little more memory than it has; its peak in MB goes into a file"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2]); limit_memory(3*2**29); begin = peak()
    try: as_script(cwd, 'instruments_predict', model, *folders)
    finally: (cwd/'peak').write_text(str(peak()-begin))

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024

@pytest.fixture
def photo_model(tmp_path):
    "A model of photos, and good photos"
    classes = instruments30.classes[:3]; root = instruments30.synthesize(tmp_path, classes=classes, train=4, valid=1, test=1, px=48)
    recipe = Recipe('tiny-photos', window=0, store=('custom_cnn.photo_store', dict(size=32)), front_end=('custom_cnn.Photo', dict(size=32)),
                    body=('custom_cnn.CustomCNN', dict(channels=(8, 16), head=0)), epochs=3, bs=4, split='official')
    items = instruments30.items(root, classes=classes); return fit(recipe, items, out=tmp_path/'photos-run', speed={}, progress=False).path, items.path.tolist()[:6]

ANSWER = re.compile(r'(?:not sure, perhaps )?(.+) \((\d+) %\)')

def lines_of(cwd, folder):
    "File names and what was said of them: a line each"
    lines = [l.removeprefix(f'{folder}/').split(': ', 1) for l in said(cwd).out.split('\n')[:-1]]
    assert all(len(l) == 2 and 3 < len(l[1]) < 150 for l in lines), lines
    return dict(lines), len(lines)

def tried(cwd, folder, names, good, model):
    "How many were refused and answered; the good ones beside them are answered as they are alone"
    t, n = lines_of(cwd, folder); names = [s.replace('\n', r'\n') for s in names]
    assert n == len(t) and sorted(t) == sorted([*names, *good]), 'one line for each file, and no other'
    for name, row in zip(good, load_model(model).predict_paths([folder/g for g in good]).itertuples()):
        label, share = ANSWER.fullmatch(t[name]).groups(); assert label == row.label and abs(int(share) - 100*row.prob) <= 1
    answered = sum(bool(ANSWER.fullmatch(t[name])) for name in names); return len(names)-answered, answered

@pytest.mark.skipif(sys.platform != 'linux', reason='its limits on memory and cores are those of Linux')
def test_200_malformed_files(photo_model, items, tmp_path, counts):
    "A hundred sounds for the bundled model, a hundred photos for another, each with good ones among them, in a process each"
    trace, sounds, photos = tmp_path/'trace', tmp_path/'s', tmp_path/'p'; begin = time.time()
    tasks = {sounds: ('sounds', malformed.sounds(sounds, trace), items.path.tolist()[:6]), photos: (photo_model[0]/'model.safetensors', malformed.photos(photos, trace), photo_model[1])}
    running, told = {}, []
    for folder, (model, names, good) in tasks.items():
        for i, p in enumerate(good): shutil.copy(p, folder/f'good {i}{Path(p).suffix}')
        (cwd := tmp_path/f'{folder.name}-out').mkdir(); before = sorted(folder.rglob('*')); running[folder] = start(labels_of, cwd, model, folder), cwd, before
    for folder, (p, cwd, before) in running.items():
        assert end(p, 120) == 1 and sorted(folder.rglob('*')) == before and not trace.exists()
        model, names, good = tasks[folder]; told.append(tried(cwd, folder, names, [f'good {i}{Path(g).suffix}' for i, g in enumerate(good)], model))
    assert 'Warning' not in said(tmp_path/'p-out').err
    most = max(int((tmp_path/f'{f.name}-out/peak').read_text()) for f in tasks); assert sum(map(sum, told)) == 200
    counts(f'200 malformed files: {sum(t[0] for t in told)} refused, {sum(t[1] for t in told)} readable after all, 0 crashed (100 sounds: {told[0][0]}, 100 photos: {told[1][0]} refused; at most {most} MB)')
