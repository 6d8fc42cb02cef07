"""`make test`: all notebooks by nbdev_test, then tests/ by pytest; the last line counts both."""

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
WORKERS = 2
# Workers that each take every core only wait for one another.
THREADS = max(1, (os.cpu_count() or 1) // WORKERS)

COMPLETED = re.compile(r'- Completed .*?([^/\\]+\.ipynb)$')
FAILED = re.compile(r'\s+(\S+\.ipynb)$')


def environment():
    env = dict(os.environ)
    env['PATH'] = f'{BIN}{os.pathsep}{env["PATH"]}'
    env['PYTHONUNBUFFERED'] = '1'
    env['WANDB_MODE'] = 'offline'
    env['HF_HUB_OFFLINE'] = '1'
    env.setdefault('OMP_NUM_THREADS', str(THREADS))
    return env


def is_hidden(path):
    "Does nbdev leave out this notebook, for its name or for a folder's?"
    return any(part.startswith(('_', '.')) for part in path.relative_to(ROOT).parts)


def notebook_names():
    "The notebooks of nbs/ and its folders; nbdev_test prints no folders, so names must differ"
    paths = [p for p in (ROOT / 'nbs').rglob('*.ipynb') if not is_hidden(p)]
    names = {p.name for p in paths}
    assert len(names) == len(paths), 'two notebooks have the same name'
    return names


def watch(lines):
    "Notebooks that nbdev_test says are completed, and those that it lists as failed at its end"
    completed, failed = set(), set()
    start = time.time()
    for line in lines:
        if match := COMPLETED.match(line):
            completed.add(match[1])
            print(f'  {match[1]} ({time.time() - start:.0f} s)', flush=True)
            continue
        if match := FAILED.match(line):
            failed.add(match[1])
        if line.strip() and not line.startswith('Starting '):
            print(line, end='', flush=True)
    return completed, failed


def test_notebooks():
    "How many notebooks passed and failed; one that a dead worker left unfinished has failed"
    names = notebook_names()
    command = [BIN / 'nbdev_test', '--n_workers', str(WORKERS), '--do_print']
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        completed, failed = watch(process.stdout)
    failed |= names - completed
    if process.returncode and not failed:
        failed = names
    return len(names - failed), len(failed)


def total(suites, key):
    return sum(int(suite.get(key, 0)) for suite in suites)


def test_rest():
    "How many tests of tests/ passed and failed; an error outside any test is one that failed"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / 'report.xml'
        command = [BIN / 'pytest', 'tests', '-q', '-n', str(WORKERS), f'--junitxml={report}']
        status = subprocess.run(command, cwd=ROOT, env=environment()).returncode
        try:
            suites = list(ET.parse(report).iter('testsuite'))
        except (OSError, ET.ParseError):
            return 0, 1
    failed = total(suites, 'failures') + total(suites, 'errors')
    passed = total(suites, 'tests') - failed - total(suites, 'skipped')
    if status and not failed:
        failed = 1
    return passed, failed


def main():
    print('Notebooks', flush=True)
    notebooks_passed, notebooks_failed = test_notebooks()
    print('tests/', flush=True)
    tests_passed, tests_failed = test_rest()
    failed = notebooks_failed + tests_failed
    print(f'{notebooks_passed + tests_passed} passed, {failed} failed')
    sys.exit(failed > 0)


if __name__ == '__main__':
    main()
