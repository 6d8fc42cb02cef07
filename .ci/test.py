"""`make test`: every notebook by nbdev_test, then tests/ by pytest, with one count of both as the last line."""

import os, re, subprocess, sys, tempfile, time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT, BIN = Path(__file__).resolve().parents[1], Path(sys.executable).parent
WORKERS = 2
THREADS = str(
    max(1, (os.cpu_count() or 1) // WORKERS)
)  # workers that each take every core only wait for one another
ENV = dict(
    os.environ,
    PATH=f'{BIN}{os.pathsep}{os.environ["PATH"]}',
    PYTHONUNBUFFERED='1',
    WANDB_MODE='offline',
    HF_HUB_OFFLINE='1',
    OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', THREADS),
)


def notebooks():
    "Passed and failed notebooks; nbdev_test names the failed ones at its end, a worker that died leaves some unfinished"
    hidden = lambda p: any(
        q.startswith(('_', '.')) for q in p.relative_to(ROOT).parts
    )  # as nbdev sees it
    names = {p.name for p in (ROOT / 'nbs').rglob('*.ipynb') if not hidden(p)}
    done, failed, start = set(), set(), time.time()
    cmd = [BIN / 'nbdev_test', '--n_workers', str(WORKERS), '--do_print']
    with subprocess.Popen(
        cmd, cwd=ROOT, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as proc:
        for line in proc.stdout:
            if m := re.match(r'- Completed .*?([^/\\]+\.ipynb)$', line):
                done.add(m[1])
                print(f'  {m[1]} ({time.time() - start:.0f} s)', flush=True)
            elif m := re.match(r'\s+(\S+\.ipynb)$', line):
                failed.add(m[1])
                print(line, end='')
            elif line.strip() and not line.startswith('Starting '):
                print(line, end='', flush=True)
    failed |= names - done
    if proc.returncode and not failed:
        failed = names
    return len(names - failed), len(failed)


def tests():
    "Passed and failed tests of tests/; an error outside any test counts as one that failed"
    with tempfile.TemporaryDirectory() as tmp:
        cmd = [BIN / 'pytest', 'tests', '-q', '-n', str(WORKERS), f'--junitxml={tmp}/r.xml']
        rc = subprocess.run(cmd, cwd=ROOT, env=ENV).returncode
        try:
            suites = list(ET.parse(f'{tmp}/r.xml').iter('testsuite'))
        except (OSError, ET.ParseError):
            return 0, 1
    count = lambda key: sum(int(s.get(key, 0)) for s in suites)
    bad = count('failures') + count('errors')
    return count('tests') - bad - count('skipped'), max(bad, int(rc != 0))


if __name__ == '__main__':
    print('Notebooks', flush=True)
    a = notebooks()
    print('tests/', flush=True)
    b = tests()
    print(f'{a[0] + b[0]} passed, {a[1] + b[1]} failed')
    sys.exit(a[1] + b[1] > 0)
