"""Real processes that may be killed.

They are forked from a server that has imported everything, so each costs 0.1 s, not 8.
"""

import contextlib
import itertools
import multiprocessing
import os
import runpy
import signal
import sys
import sysconfig
import threading
from pathlib import Path

from tqdm import tqdm

CTX = multiprocessing.get_context('forkserver')
CTX.set_forkserver_preload(
    [
        'instruments_nbdev.training',
        'instruments_nbdev.app',
        'optuna.visualization.matplotlib',
        'alembic.command',
        'psycopg',
    ]
)
KILLED = -signal.SIGKILL
tqdm.set_lock(
    threading.RLock()
)  # by default one of the system's, which a killed process leaves behind


def start(f, *args, **kw):
    p = CTX.Process(target=f, args=args, kwargs=kw)
    p.start()
    return p


def end(p, seconds=60):
    "The exit status of a process, negative for a signal; one that hangs fails the test"
    p.join(seconds)
    if p.exitcode is None:
        p.kill()
        raise AssertionError(f'still running after {seconds} s')
    return p.exitcode


def run(f, *args, **kw):
    return end(start(f, *args, **kw))


# Traps: each makes the process that calls it kill itself later, at a chosen moment


def die():
    os.kill(os.getpid(), signal.SIGKILL)


CHANGES = {'open', 'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir'}


def dies_before(n, word, changes=CHANGES):
    "Just before its `n`-th change to a file or folder with `word` in its path"
    count = itertools.count(1)

    def writes(event, args):
        return event != 'open' or args[2] & (os.O_WRONLY | os.O_RDWR)

    def hook(event, args):  # Python announces here what it is about to do
        if (
            event in changes
            and str(word) in str(args[0])
            and writes(event, args)
            and next(count) == n
        ):
            die()

    sys.addaudithook(hook)


def dies_reading(path):
    "Just before it opens `path`"
    sys.addaudithook(
        lambda event, args: die() if event == 'open' and str(args[0]) == str(path) else None
    )


def dies_writing(name):
    "Half-way through writing a file with `name` in its own"
    plain = Path.write_bytes

    def write(path, data):
        if name not in path.name:
            return plain(path, data)
        plain(path, data[: len(data) // 2])
        die()

    Path.write_bytes = write


def limit_memory(bytes=2**30):
    "This process may have so much more than it has now: a giant allocation becomes an error"
    import resource

    with contextlib.suppress(OSError):  # only Linux says how much it has
        now = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + bytes, now + bytes))


# The commands

BIN = Path(sysconfig.get_path('scripts'))


def as_script(cwd, name, *args):
    "This process becomes the script `name`, with two files for a terminal"
    for fd, stream in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(os.open(cwd / stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
        setattr(sys, stream, open(fd, 'w', closefd=False))  # noqa: SIM115 (open to the end)
    os.chdir(cwd)
    sys.argv = [str(BIN / name), *map(str, args)]
    try:
        runpy.run_path(sys.argv[0], run_name='__main__')
    finally:
        sys.stdout.flush()
