"""Checks what a run or a command has written; `python .ci/check.py` lists the checks.

check.py record DIR…        each run folder is whole
check.py beats SHARE DIR    the one run below DIR has a test accuracy above SHARE
check.py table CSV BAD      a table of predictions in which BAD files could not be read
check.py right SHARE CSV    more than SHARE of the files are labelled as the folder they lie in
"""

import csv
import json
import sys
from pathlib import Path

RECORD_KEYS = {
    'recipe',
    'seed',
    'seconds',
    'device',
    'versions',
    'data_hash',
    'config',
    'epochs',
    'metrics',
}
METRIC_KEYS = {'accuracy', 'n', 'low', 'high', 'macro_f1', 'constant'}


def read_record(path):
    return json.loads(path.read_text(encoding='utf-8'))


def read_table(path):
    "The header and the rows of a CSV file"
    with open(path, newline='', encoding='utf-8') as f:
        header, *rows = csv.reader(f)
    return header, rows


def record(*folders):
    "Each run folder has all keys of its record, a model and a report"
    assert folders, 'no run was written'
    for folder in map(Path, folders):
        run = read_record(folder / 'run.json')
        missing = RECORD_KEYS - run.keys()
        assert not missing, f'{folder}/run.json lacks {missing}'
        assert run['metrics'], f'{folder}/run.json has no metrics'
        for name, metric in run['metrics'].items():
            missing = METRIC_KEYS - metric.keys()
            assert not missing, f'{folder}/run.json: {name} lacks {missing}'
        for name in ('model.safetensors', 'report.html'):
            assert (folder / name).stat().st_size, f'{folder}/{name} is empty'


def beats(share, folder):
    "The one run below `folder` has a test accuracy above `share`"
    (path,) = Path(folder).rglob('run.json')
    test = read_record(path)['metrics']['test']
    interval = f'{test["low"]:.3f} to {test["high"]:.3f}'
    print(f'test accuracy {test["accuracy"]:.3f} on {test["n"]} clips ({interval})')
    print(f'majority-class baseline {test["constant"]:.3f}')
    assert test['accuracy'] > float(share), f'not above {share}'


def table(path, bad):
    "A table of `bad` files with an error and one with a label, no file with both or neither"
    header, rows = read_table(path)
    assert header == ['path', 'label', 'prob', 'error'], header
    assert len(rows) == int(bad) + 1, rows
    for _, label, _, error in rows:
        assert bool(label) != bool(error), rows
    unread = [row for row in rows if row[3]]
    assert len(unread) == int(bad), rows


def right(share, path):
    "More than `share` of the files in a table are labelled as the folder that they lie in"
    header, rows = read_table(path)
    label = header.index('label')
    file = header.index('path')
    hits = sum(row[label] == Path(row[file]).parent.name for row in rows)
    print(f'{hits} of {len(rows)} right')
    assert rows, f'{path} has no rows'
    assert hits > float(share) * len(rows), f'not above {share}'


CHECKS = {'record': record, 'beats': beats, 'table': table, 'right': right}

if __name__ == '__main__':
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        sys.exit(__doc__)
    CHECKS[sys.argv[1]](*sys.argv[2:])
