"""The console scripts as a terminal sees them: exit status, standard output, standard error."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from processes import BIN, KILLED, as_script, end, run, start

NAMES = [
    f'instruments_{n}'
    for n in 'data train search grid predict evaluate export leaderboard quickstart demo'.split()
]


@pytest.fixture
def shell(tmp_path):
    "`shell('instruments_data', ...)` runs a script in an empty folder: `code`, `out`, `err`"

    def read(name):
        return (tmp_path / name).read_text(errors='replace')

    return lambda *args: SimpleNamespace(
        code=run(as_script, tmp_path, *args), out=read('stdout'), err=read('stderr')
    )


def test_a_script_from_cold():
    "As installed, with nothing imported before"
    r = subprocess.run([BIN / 'instruments_predict', '-h'], capture_output=True, text=True)
    assert (r.returncode, r.stderr) == (0, '') and 'usage: instruments_predict' in r.stdout


@pytest.mark.parametrize('name', NAMES)
def test_help(name, shell):
    r = shell(name, '-h')
    assert (r.code, r.err) == (0, '') and f'usage: {name}' in r.out and '-h, --help' in r.out


WRONG = '''
train                                            recipe
train no-such                                    no-such
train sounds-cnn --data nowhere                  nowhere
train sounds-cnn --data ESC --epochs -1          -1
train sounds-cnn --data ESC --epochs many        many
train sounds-cnn --data ESC --epochs 1.5         1.5
train sounds-cnn --data ESC --fold 9             9
train sounds-cnn --data ESC --fold x             x
train sounds-cnn --data ESC --fold -1            -1
train sounds-cnn --data ESC --seed x             x
train sounds-cnn --data ESC --seed -1            -1
train sounds-cnn --data ESC --split thirds       thirds
train sounds-cnn --data ESC --evil               evil
train sounds-cnn --data ESC --fold all --seeds 0 --seeds
train sounds-cnn --data ESC --fold all --seeds x x
train sounds-cnn --data ESC --fold 0 --seeds 2   --seeds
train sounds-cnn --data ESC --fold all --jobs 0  --jobs
train sounds-cnn --data ESC --fold all --jobs -2 -2
train sounds-cnn --data ESC --fold all --out TXT TXT
train sounds-cnn --data ESC --out TXT            TXT
train sounds-cnn --data ESC --out TXT/below      TXT
train sounds-cnn --data ESC --fold all --cluster nowhere://x nowhere://x
train sounds-cnn --layout folders                --data
train sounds-cnn --layout flat --data ESC        flat
train sounds-cnn --layout folders --data TXT     TXT
train sounds-cnn --layout folders --data ESC/meta meta
train photos-cnn --layout folders --data ESC     ESC
train sounds-cnn --labels nowhere.csv            nowhere.csv:
train sounds-cnn --labels TXT                    TXT,
train sounds-cnn --labels TXT --layout folders   --labels
train sounds-cnn --labels TXT --dataset esc50    --dataset
data --labels nowhere.csv                        nowhere.csv:
data esc50 --labels TXT                          --labels
evaluate                                         labelled
evaluate no-such ESC                             no-such:
evaluate MODEL nowhere                           nowhere:
evaluate MODEL ESC --data ESC                    --data
evaluate MODEL ESC --map dog                     --map
evaluate MODEL ESC --report nowhere/r.html       nowhere:
search                                           recipe
search no-such                                   no-such
search sounds-cnn --trials 0                     --trials
search sounds-cnn --trials many                  many
search sounds-cnn --seed -1                      -1
search sounds-cnn --jobs 0                       --jobs
search sounds-cnn --epochs x                     x
data                                             name
data --audit                                     name
data --root nowhere --audit                      nowhere
data --root TXT                                  TXT
data --root ESC/meta                             meta
data esc5                                        esc5
data esc50                                       esc50
data esc50 --root nowhere                        nowhere
data esc50 --synthesize                          --root
data esc50 --synthesize --root TXT               TXT
data irmas_notes --fetch --root here             irmas_notes
predict                                          model
predict MODEL                                    paths
predict none.safetensors ESC                     none.safetensors
predict ESC ESC                                  ESC
predict TXT ESC                                  TXT
predict MODEL nowhere.wav                        nowhere.wav
predict MODEL SOUND --csv nowhere/x.csv          nowhere
predict MODEL SOUND --csv ESC                    ESC
leaderboard                                      folder
leaderboard nowhere                              nowhere:
leaderboard TXT                                  TXT:
quickstart --epochs -1                           -1
quickstart --epochs x                            x'''.strip().splitlines()


@pytest.mark.parametrize('line', [re.sub(' +', ' ', w) for w in WRONG])
def test_wrong_arguments(line, shell, esc, model, items, tmp_path):
    "Status 2, and at the end a sentence that names what is wrong: the last word of `line`"
    (tmp_path / 'file.txt').write_text('hello')
    stand = dict(ESC=esc, MODEL=model, SOUND=items.path[0], TXT='file.txt')
    command, *args, named = re.sub('|'.join(stand), lambda m: str(stand[m[0]]), line).split(' ')
    r = shell(f'instruments_{command}', *args)
    said = r.err.strip().split('\n')[-1]
    print(r.err)
    assert r.code == 2 and 'Traceback' not in r.err and named in said and len(said) < 400


def test_labels_for_a_folder(shell, model, items, tmp_path):
    "A row a file, in order; a broken one has its error, and the exit status says so"
    d = tmp_path / 'sounds'
    (d / 'more').mkdir(parents=True)
    (d / 'notes.txt').write_text('no sound')
    names = ['a.wav', 'b "x", y.wav', 'broken.wav', 'more/ü.wav']
    for n in names:
        (d / n).write_bytes(b'RIFF0000' if n == 'broken.wav' else Path(items.path[0]).read_bytes())
    r = shell('instruments_predict', model, d, '--csv', 'out.csv')
    t = pd.read_csv(tmp_path / 'out.csv', keep_default_na=False)
    assert r.code == 1 and '4 files' in r.out and '1 of them' in r.out
    assert r.err == f'{model} was trained on synthetic stand-ins\n'
    assert list(t) == ['path', 'label', 'prob', 'error'] and t.path.tolist() == [
        str(d / n) for n in names
    ]
    assert (
        (t.label == '').tolist()
        == (t.error != '').tolist()
        == (t.prob == '').tolist()
        == [False, False, True, False]
    )
    assert shell('instruments_predict', model, d / 'a.wav').code == 0
    r = shell('instruments_predict', model, d)
    assert r.code == 1 and len(r.out.splitlines()) == 4 and 'broken.wav: cannot be decoded' in r.out


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems refuse such names')
def test_a_name_that_is_no_text(shell, model, items, tmp_path):
    d = tmp_path / 'sounds'
    d.mkdir()
    (d / os.fsdecode(b'caf\xe9.wav')).write_bytes(Path(items.path[0]).read_bytes())
    for more in ([], ['--csv', 'out.csv']):
        r = shell('instruments_predict', model, d, *more)
        assert r.code == 0 and r.err.count('\n') == 1, r.err
    assert b'caf' in (tmp_path / 'out.csv').read_bytes()


def test_a_killed_training_goes_on(shell, esc, tmp_path):
    args = ['instruments_train', 'sounds-cnn', '--data', esc, '--epochs', '2', '--out', 'runs/a']
    p, until = start(as_script, tmp_path, *args), time.time() + 60
    while not (tmp_path / 'runs/.a.partial/checkpoint.pt').exists():
        assert p.exitcode is None and time.time() < until
        time.sleep(0.01)
    p.kill()
    assert end(p) == KILLED and not (tmp_path / 'runs/a').exists()
    r = shell(*args, '--resume')
    assert (
        r.code == 0
        and 'Traceback' not in r.err
        and 'report.html' in r.out
        and (tmp_path / 'runs/a/report.html').exists()
    ), r.err
    r = shell('instruments_leaderboard', 'runs')
    assert (r.code, r.err) == (0, '') and 'sounds-cnn' in r.out
    r = shell(*args)
    assert r.code == 2 and 'runs/a exists already' in r.err
