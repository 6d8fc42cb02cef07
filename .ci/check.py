"""Reads what a run or a command has written: `check.py record DIR…`, `check.py beats SHARE DIR`, `check.py table CSV BAD`, `check.py right SHARE CSV`."""

import csv, json, sys
from pathlib import Path

RECORD = {
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
METRIC = {'accuracy', 'n', 'low', 'high', 'macro_f1', 'constant'}


def record(*dirs):
    "Each run folder is whole: all keys of run.json, a model and a report"
    assert dirs, 'no run was written'
    for d in map(Path, dirs):
        run = json.loads((d / 'run.json').read_text(encoding='utf-8'))
        missing = RECORD - run.keys()
        assert not missing and run['metrics'], f'{d}/run.json lacks {missing or "metrics"}'
        for name, m in run['metrics'].items():
            assert METRIC <= m.keys(), f'{d}/run.json: {name} lacks {METRIC - m.keys()}'
        for name in ('model.safetensors', 'report.html'):
            assert (d / name).stat().st_size, f'{d}/{name} is empty'


def beats(share, folder):
    "The one run below `folder` has a test accuracy above `share`"
    (path,) = Path(folder).rglob('run.json')
    m = json.loads(path.read_text(encoding='utf-8'))['metrics']['test']
    print(
        f'test accuracy {m["accuracy"]:.3f} on {m["n"]} clips ({m["low"]:.3f} to {m["high"]:.3f}); '
        f'best constant answer {m["constant"]:.3f}'
    )
    assert m['accuracy'] > float(share), f'not above {share}'


def table(path, bad):
    "A table of predictions: its header, a row a file, `bad` of them without a label and with an error"
    with open(path, newline='', encoding='utf-8') as f:
        header, *rows = csv.reader(f)
    assert header == ['path', 'label', 'prob', 'error'], header
    assert (
        len(rows) == int(bad) + 1
        and all(bool(r[1]) != bool(r[3]) for r in rows)
        and sum(not r[1] for r in rows) == int(bad)
    ), rows


def right(share, path):
    "More than `share` of the files in a table of predictions are labelled as the folder that they lie in"
    with open(path, newline='', encoding='utf-8') as f:
        rows = list(csv.DictReader(f))
    hits = sum(r['label'] == Path(r['path']).parent.name for r in rows)
    print(f'{hits} of {len(rows)} right')
    assert rows and hits > float(share) * len(rows), f'not above {share}'


if __name__ == '__main__':
    {f.__name__: f for f in (record, beats, table, right)}[sys.argv[1]](*sys.argv[2:])
