"""A search that is killed, shared by processes or kept in a database.

It tries the same configurations as one that is not, each of them once.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import pytest
from fastai.callback.core import Callback

from instruments_nbdev.recipes import TrainingError, add_space
from instruments_nbdev.search import search, search_record
from instruments_nbdev.search_space import draw
from processes import CTX, KILLED, dies_before, end, run, start
from test_commands import as_script

optuna = pytest.importorskip(
    'optuna', reason='NO TEST OF SEARCHES: pip install "instruments_nbdev[search]"'
)
SPACE = {
    'opt': ('adam', 'rmsprop', 'sgd'),
    'lr': dict(low=1e-5, high=1e-1, log=True),
    'bs': (8, 16, 32, 64),
}


@pytest.fixture(scope='module')
def four(tiny):
    return tiny.replace(epochs=4)


class Begun(Callback):
    "Leaves a file in `out` for each training that begins, and sets the event `begun`"

    def __init__(self, out, begun=None):
        self.out, self.begun = out, begun

    def before_fit(self):
        (self.out / f'fit-{os.getpid()}-{time.time_ns()}').touch()
        if self.begun:
            self.begun.set()


QUIET = dict(threads=1, speed={}, progress=False)


def searching(recipe, items, out, trap=(), begun=None, trials=8, **kw):
    "A search in a process; `trap` as in processes.py; `begun` as in `Begun`"
    out.mkdir(parents=True, exist_ok=True)
    if trap:
        trap[0](*trap[1:])
    cbs = (Begun(out, begun),)
    search(recipe, items, SPACE, trials, out=out, cbs=cbs, **QUIET, **kw)


def fits(out):
    "Files of the trainings that were begun"
    return list(out.glob('fit-*'))


IN_A_TRIAL = 'checkpoint.pt', {'os.rename'}  # where a trap may be


def record(out):
    return json.loads((out / 'search.json').read_text())


def steady(rec):
    return [{k: v for k, v in r.items() if k != 'seconds'} for r in rec['trials']]


def whole(rec, trials=8):
    "Are these the trials of seed 0, each once and finished?"
    assert [r['params'] for r in rec['trials']] == [draw(SPACE, 0, k) for k in range(trials)]
    return sum(rec['counts'].get(s, 0) for s in ('complete', 'pruned', 'failed')) == trials


def leftovers(out):
    return sorted(p.name for p in out.rglob('*') if p.is_file() and not p.name.startswith('fit-'))


CLEAN = ['claim', 'journal', 'search.json', 'study.journal']


@pytest.fixture(scope='module')
def unbroken(four, items, tmp_path_factory):
    out = tmp_path_factory.mktemp('unbroken') / 'search'
    assert run(searching, four, items, out) == 0 and whole(record(out))
    return out


def test_some_are_pruned_and_nothing_is_left_behind(unbroken):
    rec = record(unbroken)
    print(rec['counts'])
    assert (
        rec['counts']['complete'] >= 5
        and rec['counts'].get('pruned')
        and leftovers(unbroken) == CLEAN
    )
    assert len(fits(unbroken)) == 8


def test_killed_before_its_changes_to_the_disk(four, items, unbroken, tmp_path):
    "Each process dies before its 5th, 19th, 33rd … change to a file or folder; the next goes on"
    out, kills, code = tmp_path / 'search', -1, KILLED
    while code == KILLED:
        kills += 1
        code = run(searching, four, items, out, trap=(dies_before, 5 + 14 * kills, out))
    assert code == 0 and kills > 3 and whole(record(out))
    print(f'{kills} kills')
    assert steady(record(out)) == steady(record(unbroken)) and leftovers(out) == CLEAN


def test_killed_in_the_middle_of_a_trial(four, items, unbroken, tmp_path):
    "The killed trial is done again from its beginning; what was finished is not"
    out = tmp_path / 'search'
    assert run(searching, four, items, out, trap=(dies_before, 7, *IN_A_TRIAL)) == KILLED
    begun = len(fits(out))
    assert 1 < begun < 8 and not (out / 'search.json').exists()
    assert run(searching, four, items, out) == 0 and len(fits(out)) == 8 + 1
    assert steady(record(out)) == steady(record(unbroken)) and leftovers(out) == CLEAN


def shared(four, items, out, n=2, **kw):
    "Records of `n` processes that search together"
    ps = [start(searching, four, items, out, **kw) for _ in range(n)]
    assert [end(p, 120) for p in ps] == [0] * n
    return record(out)


def done_by(out):
    return {f.name.split('-')[1] for f in fits(out)}


def test_two_processes_on_one_journal(four, items, tmp_path):
    out = tmp_path / 'search'
    shared(four, items, out)
    rec = search_record(
        search(four, items, SPACE, 8, out=out, **QUIET)
    )  # whoever ended last has the whole record
    assert whole(rec) and len(fits(out)) == 8 and len(done_by(out)) == 2
    assert rec['counts']['complete'] >= 5 and leftovers(out) == CLEAN


def test_two_jobs(four, items, unbroken, tmp_path):
    "Which are pruned depends on which are ready; a complete trial is the same"
    out = tmp_path / 'search'
    assert run(searching, four, items, out, jobs=2) == 0 and whole(record(out))
    for a, b in zip(steady(record(out)), steady(record(unbroken))):
        n = min(a['epochs'], b['epochs'])
        assert a['params'] == b['params'] and a['curve'][:n] == b['curve'][:n]


def test_a_killed_process_among_two(four, items, tmp_path):
    "The other one takes over what the killed one was at"
    out, begun = tmp_path / 'search', CTX.Event()
    dying = start(
        searching,
        four,
        items,
        out,
        trap=(dies_before, 3, *IN_A_TRIAL),
        begun=begun,
    )
    assert begun.wait(60)
    other = start(searching, four, items, out)
    assert (
        (end(dying), end(other)) == (KILLED, 0) and whole(record(out)) and len(fits(out)) == 8 + 1
    )


# A database server


def no_server(why):
    warnings.warn(f'NO TEST WITH A POSTGRESQL SERVER: {why}', stacklevel=2)
    pytest.skip(why)


def server_programs():
    "Folder of initdb and postgres, or None"
    found = [
        Path(shutil.which('initdb') or '/nowhere').resolve().parent,
        *sorted(Path('/usr/lib/postgresql').glob('*/bin')),
        Path('/opt/homebrew/bin'),
    ]
    return next((d for d in found if (d / 'initdb').exists() and (d / 'postgres').exists()), None)


@pytest.fixture(scope='module')
def postgres():
    "URL of an empty database on a server of our own, which listens on a socket in a new folder"
    if not (bin := server_programs()):
        no_server('initdb and postgres are not installed')
    try:
        import psycopg
    except ImportError:
        no_server('psycopg is not installed: pip install "instruments_nbdev[cluster]"')
    d = Path(tempfile.mkdtemp(prefix='pg'))
    who = (
        dict(user='nobody', extra_groups=[]) if os.name == 'posix' and os.geteuid() == 0 else {}
    )  # it refuses to be root
    if who:
        shutil.chown(d, 'nobody')
    quiet = (
        dict(
            cwd=d,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, HOME=str(d), LC_ALL='C'),
        )
        | who
    )
    subprocess.run(
        [bin / 'initdb', '-D', d / 'data', '-U', 'me', '-A', 'trust', '-E', 'UTF8', '--no-sync'],
        check=True,
        **quiet,
    )
    p = subprocess.Popen(
        [bin / 'postgres', '-D', d / 'data', '-k', d, '-c', 'listen_addresses=', '-c', 'fsync=off'],
        **quiet,
    )
    for _ in range(200):
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(f'host={d} user=me dbname=postgres').close()
            break
        assert p.poll() is None, 'the server has ended'
        time.sleep(0.05)
    yield f'postgresql+psycopg://me@/postgres?host={d}'
    p.terminate()
    p.wait(30)
    shutil.rmtree(d, ignore_errors=True)


def test_killed_and_gone_on_with_in_a_database(four, items, unbroken, postgres, tmp_path):
    out, kw = tmp_path / 'search', dict(storage=postgres)
    for n in (3, 7):
        assert (
            run(
                searching,
                four,
                items,
                out,
                trap=(dies_before, n, *IN_A_TRIAL),
                **kw,
            )
            == KILLED
        )
    assert run(searching, four, items, out, **kw) == 0 and len(fits(out)) == 8 + 2
    assert steady(record(out)) == steady(record(unbroken)) and leftovers(out) == [
        'claim',
        'search.json',
    ]


def test_two_machines_on_one_database(four, items, postgres, tmp_path):
    "They share no folder, and so no lock"
    outs, kw = [tmp_path / 'a', tmp_path / 'b'], dict(storage=postgres)
    four = four.replace(name='two-machines')
    ps = [start(searching, four, items, o, **kw) for o in outs]
    assert [end(p, 120) for p in ps] == [0, 0]
    for o in outs:
        assert done_by(o)
    rec = search_record(search(four, items, SPACE, 8, out=tmp_path / 'c', **QUIET, **kw))
    assert whole(rec) and sum(len(fits(o)) for o in outs) == 8


def test_a_trial_of_a_machine_that_is_gone(four, items, unbroken, tmp_path):
    "It is done again two minutes after its last sign of life, not before"
    import sqlite3

    url, out = f'sqlite:///{tmp_path}/s.db', tmp_path / 'there'
    assert (
        run(
            searching,
            four,
            items,
            out,
            trap=(dies_before, 7, *IN_A_TRIAL),
            storage=url,
        )
        == KILLED
    )
    here = tmp_path / 'here'
    assert run(searching, four, items, here, storage=url) == 0
    assert record(here)['counts']['running'] == 1
    with contextlib.closing(sqlite3.connect(tmp_path / 's.db')) as c:
        c.execute("update trial_heartbeats set heartbeat = datetime('now', '-3 minutes')")
        c.commit()
    assert run(searching, four, items, here, storage=url) == 0 and whole(record(here))


# What is said


def with_space(*args):
    add_space('sounds-cnn', SPACE)
    as_script(*args)


WRONG = {
    'nosql://me:secret@host/db': 'nosql://me:…@host/db',
    'sqlite:////nowhere/at/all.db': 'sqlite:////nowhere/at/all.db',
    'postgresql+psycopg://me:secret@127.0.0.1:1/db': 'me:…@127.0.0.1:1/db',
    'file.txt': 'file.txt',
    'file.txt/below': 'file.txt',
    '.': 'cannot be used',
}


@pytest.mark.parametrize('url', WRONG)
def test_a_storage_that_cannot_be_used(url, esc, tmp_path):
    "Status 2 and one sentence that names it, without its password"
    (tmp_path / 'file.txt').write_text('my notes')
    assert (
        run(
            with_space,
            tmp_path,
            'instruments_search',
            'sounds-cnn',
            '--data',
            esc,
            '--storage',
            url,
        )
        == 2
    )
    said = (tmp_path / 'stderr').read_text()
    print(said)
    assert (
        WRONG[url] in said
        and said.count('\n') == 1
        and 'secret' not in said
        and (tmp_path / 'file.txt').read_text() == 'my notes'
    )


@pytest.mark.parametrize(
    'field,value',
    [
        ('learning_rate', (1.0, 2.0)),
        ('backbone.width', (1, 2)),
        ('tail.width', (1, 2)),
        ('lr', dict(low=1.0)),
        ('lr', 'high'),
        ('bs', (8.5,)),
    ],
)
def test_a_space_that_makes_no_sense(field, value, tiny, items, tmp_path):
    with pytest.raises(TrainingError, match=field.partition('.')[0]) as e:
        search(tiny, items, {field: value}, out=tmp_path / 'search', progress=False)
    assert '\n' not in str(e.value) and not (tmp_path / 'search').exists()


class Looks(Callback):
    "Notes the paths of all items of a training"

    def before_fit(self):
        self.seen = {str(path) for path in self.dls[0].store.paths}


def test_items_of_the_test_part_are_not_looked_at(four, items, tmp_path):
    looks = Looks()
    search(four, items, SPACE, 1, out=tmp_path / 'search', cbs=(looks,), **QUIET)
    assert looks.seen == set(items.path[items.split != 'test'])
