"""The page in a real browser: files go in by the file chooser, answers come out.

Nothing is fetched from elsewhere, and nothing is left behind.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from instruments_nbdev.data import DATASETS, esc50, instruments30
from instruments_nbdev.model import Recipe, bundled, load_model, save_model
from instruments_nbdev.synthesis import synthesize
from instruments_nbdev.training import fit

pytest.importorskip('gradio', reason='no Gradio: pip install "instruments_nbdev[demo]"')
api = pytest.importorskip(
    'playwright.sync_api',
    reason='no playwright, so no browser to try the page in: pip install playwright',
)

DATA, SHOTS = (
    os.environ.get('INSTRUMENTS_DATA'),
    os.environ.get('INSTRUMENTS_SHOTS'),
)  # conftest.py takes the first away from all other tests
CHROMIUM = next(
    (
        p
        for n in (
            os.environ.get('CHROMIUM'),
            'chromium',
            'chromium-browser',
            'google-chrome',
            'chrome',
        )
        if n and (p := shutil.which(n))
    ),
    None,
)
if not CHROMIUM:
    pytest.skip(
        'no Chromium to try the page in: install it, or name it in $CHROMIUM',
        allow_module_level=True,
    )
ARGS = (
    '--no-sandbox --disable-gpu --disable-background-networking --disable-component-update '
    '--disable-sync --no-first-run '
    '--use-fake-device-for-media-stream --use-fake-ui-for-media-stream'
).split()
WAIT = 90_000  # ms: machines are shared

KINDS = ['chirping_birds', 'church_bells', 'dog', 'keyboard_typing']
EAR = Recipe(
    'tiny-sounds',
    store=('storage.sound_store', dict(sr=16000)),
    split='halves',
    window=16000,
    lr=1e-2,
    epochs=30,
    bs=16,
    label_smoothing=0.1,
    front_end=(
        'audio_transforms.LogMel',
        dict(sr=16000, n_fft=512, hop_length=256, n_mels=48, norm='clip'),
    ),
    augment=(('audio_transforms.CircularShift', dict(max_share=1.0)),),
    body=('custom_cnn.SoundCNN', dict(n_mels=48, widths=(8, 16), groups=1, dropout=0.0)),
)
EYE = Recipe(
    'tiny-photos',
    data='instruments30',
    split='official',
    window=0,
    store=('storage.photo_store', dict(size=112)),
    lr=1e-2,
    epochs=12,
    bs=8,
    label_smoothing=0.1,
    front_end=('photo_transforms.Photo', dict(size=64)),
    body=(
        'custom_cnn.CustomCNN',
        dict(
            channels=(8, 16, 32),
            residual=True,
            stem=2,
            head=0,
            dropout=(0.0, 0.0),
            head_dropout=0.0,
        ),
    ),
)
ODD = [
    '${1+1}',
    '$x^{$ {{6*7}}',
    '<img src=x onerror=alert(1)>',
    'dog\u202egod',
]  # labels of a stranger's model

# In front of the command: whatever it asks of another machine is written down
WATCH = '''import pathlib, sys
def hook(event, args):
    if event not in ('socket.connect', 'socket.getaddrinfo'):
        return
    if "'127.0.0.1'" in repr(args) or "'localhost'" in repr(args):
        return
    with pathlib.Path(__file__).with_name('outside').open('a') as f:
        f.write(repr(args) + '\\n')
sys.addaudithook(hook)
from instruments_nbdev.demo import instruments_demo
sys.exit(instruments_demo())'''


def rightly(run):
    "The test item that the model is most surely right about: path and label"
    t = run.predictions[run.predictions.split == 'test']
    p = t.filter(regex='^p:')
    t = t.assign(conf=p.max(axis=1).where(p.idxmax(axis=1).str[2:] == t.label))
    return t.loc[t.conf.idxmax(), ['path', 'label']]


@pytest.fixture(scope='module')
def own(home):
    "Two models trained in seconds, a sound and a photo that they know, and wrong files"
    d = home / 'demo'
    d.mkdir()
    quick = dict(speed={}, progress=False, cache=home)
    ear = fit(
        EAR,
        esc50.items(synthesize(esc50, d, classes=KINDS, clips_per_fold=8, seconds=2.0, sr=16000)),
        fold=1,
        out=d / 'ear',
        **quick,
    )
    eye = fit(
        EYE,
        instruments30.items(
            synthesize(
                instruments30,
                d,
                classes=['banjo', 'drums', 'violin'],
                train=16,
                valid=8,
                test=4,
                px=112,
            )
        ),
        out=d / 'eye',
        **quick,
    )
    level = load_model(ear.path / 'model.safetensors')
    level.summary['sure'] = 0.7
    save_model(level, ear.path / 'model.safetensors')  # too few clips to fit one
    level.labels = ODD
    save_model(level, d / 'odd.safetensors')

    def clip(label):
        paths = ear.predictions.path[ear.predictions.label == label]
        return sf.read(paths.iloc[0])[0]

    sf.write(
        d / 'four parts.wav',
        np.concatenate(
            [
                clip('dog'),
                clip('church_bells'),
                clip('chirping_birds'),
                np.zeros(16000),
                clip('keyboard_typing'),
            ]
        ),
        16000,
    )
    sf.write(d / 'silence.wav', np.zeros(16000), 16000)
    (d / 'broken.wav').write_bytes(b'RIFF' + bytes(200))
    with open(d / 'large.wav', 'wb') as f:
        f.truncate(51 * 2**20)
    return SimpleNamespace(d=d, ear=ear, eye=eye, sound=rightly(ear), photo=rightly(eye))


def started(folder, cwd, *args):
    "The command as a process in `cwd`, temporary files in `folder`; and the address it prints"
    script = folder / 'instruments_demo.py'
    script.write_text(WATCH)
    (folder / 'tmp').mkdir()
    env = dict(
        os.environ,
        TMPDIR=str(folder / 'tmp'),
        GRADIO_SERVER_NAME='0.0.0.0',
        GRADIO_ALLOWED_PATHS='/',
        GRADIO_ROOT_PATH='http://elsewhere.invalid',
    )  # none of which must count
    p = subprocess.Popen(
        [sys.executable, script, *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        cwd=cwd,
    )
    late = threading.Timer(300, p.kill)
    late.start()
    line = p.stdout.readline()
    late.cancel()
    assert line.startswith('http://127.0.0.1:'), line
    return p, line.split()[0]


@pytest.fixture(scope='module')
def address(own, tmp_path_factory):
    "Where the page is served; at the end it is interrupted, and must leave nothing"
    folder = tmp_path_factory.mktemp('page')
    p, url = started(folder, own.d, 'ear')
    yield url
    files = [f for f in (folder / 'tmp').rglob('*') if f.is_file()]
    p.send_signal(signal.SIGINT)
    assert p.wait(WAIT / 1000) == 0 and not list((folder / 'tmp').glob('instruments_demo-*'))
    assert not (folder / 'outside').exists(), (folder / 'outside').read_text()
    assert (
        any(f.name == Path(own.sound.path).name for f in files) or not files
    )  # the check above was of something, where a file was sent


def test_no_file_but_those_of_the_page(address):
    with pytest.raises(HTTPError, match='403'):
        urlopen(f'{address.rstrip("/")}/gradio_api/file={__file__}')


@pytest.fixture(scope='module')
def chromium():
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield b
        b.close()


@pytest.fixture
def page(chromium, address):
    "The page as opened; a request to another machine or an error of a script fails the test"
    context, wrong = (
        chromium.new_context(
            viewport=dict(width=1180, height=900), permissions=['microphone'], color_scheme='light'
        ),
        [],
    )

    def mine(route):
        route.continue_() if re.match(r'(https?|wss?)://127\.0\.0\.1:', route.request.url) else (
            wrong.append(route.request.url),
            route.abort(),
        )

    context.route(lambda url: not url.startswith(('data:', 'blob:')), mine)
    p = context.new_page()
    p.set_default_timeout(WAIT)
    api.expect.set_options(timeout=WAIT)
    p.on('pageerror', lambda e: wrong.append(str(e)))
    p.goto(address)
    api.expect(p.locator('.hint')).to_be_visible()
    yield p
    context.close()
    assert not wrong


def give(page, path):
    "A file by the file chooser"
    clear = page.locator('#file button[aria-label="Clear"]')
    if clear.count():
        clear.click()
        api.expect(page.locator('.hint')).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.locator('#file button', has_text=re.compile('upload', re.I)).click()
    chooser.value.set_files(path)


def choose(page, model):
    "A model by typing its name"
    box = page.locator('#model input')
    box.fill(str(model))
    box.press('Enter')


def says(page, text):
    api.expect(page.locator('.answer h2')).to_have_text(re.compile(text))


def drawn(page):
    return page.eval_on_selector_all(
        '.result figure img', 'imgs => imgs.map(i => i.complete && i.naturalWidth > 100)'
    )


def fits(page):
    return page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')


def shot(page, name):
    "A picture for the docs, where they are asked for"
    if not SHOTS:
        return
    page.set_viewport_size(page.viewport_size | dict(height=400))
    page.screenshot(path=(f := Path(SHOTS) / f'{name}.png'), full_page=True)
    im = Image.open(f).convert('RGB')
    im.quantize(palette=im.quantize(256, Image.Quantize.MAXCOVERAGE)).save(
        f, optimize=True
    )  # 256 colours for the whole page: dithered, or a photo would have a few flat ones


def test_a_sound(page, own):
    give(page, own.sound.path)
    says(page, own.sound.label.replace('_', ' '))
    api.expect(page.locator('.result figure')).to_have_count(2)
    assert (
        drawn(page) == [True, True] and page.locator('.answer li.said').count() == 1 and fits(page)
    )
    give(page, own.d / 'four parts.wav')
    api.expect(page.locator('.answer p')).to_have_text(re.compile('four.parts'))
    shot(page, 'demo-sound')
    page.set_viewport_size(dict(width=360, height=740))
    assert fits(page)
    shot(page, 'narrow')


def test_a_photo_and_another_model(page, own):
    give(page, own.photo.path)
    says(page, 'is a photo, but this model takes sounds')
    choose(page, 'eye')
    says(page, f'^{own.photo.label} ')
    assert drawn(page) == [True] and 'photos' in page.locator('.model').inner_text()
    choose(page, 'nowhere')
    says(page, 'nowhere: no such model file')


def test_labels_of_a_stranger(page, own):
    "They are shown as they are, and nothing of them runs"
    choose(page, 'odd.safetensors')
    api.expect(page.locator('.model li')).to_have_count(4)
    give(page, own.sound.path)
    api.expect(page.locator('.answer li')).to_have_count(4)
    for names in (page.locator('.model li'), page.locator('.answer li span')):
        assert sorted(names.all_text_contents()) == sorted(ODD)


@pytest.mark.parametrize(
    'name, text',
    [('silence.wav', 'silence.wav is silent'), ('broken.wav', 'broken.wav cannot be decoded')],
)
def test_what_cannot_be_answered(page, own, name, text):
    give(page, own.d / name)
    says(page, text)
    assert not page.locator('.result figure').count()
    give(page, own.sound.path)
    says(page, own.sound.label.replace('_', ' '))  # and the page goes on


def test_a_file_that_is_too_large(page, own):
    give(page, own.d / 'large.wav')
    api.expect(page.get_by_text(re.compile('maximum allowed size', re.I)).first).to_be_visible()
    api.expect(page.locator('.hint')).to_be_visible()


def test_the_microphone(page):
    "Chromium's own, which beeps"
    page.locator('#mic').get_by_role('button', name=re.compile('record', re.I)).click()
    page.wait_for_timeout(2500)
    page.locator('#mic').get_by_role('button', name=re.compile('stop', re.I)).first.click()
    api.expect(page.locator('.answer li').first).to_be_visible()
    assert drawn(page)


@pytest.mark.skipif(not DATA, reason='INSTRUMENTS_DATA is not set: no real clips and photos')
@pytest.mark.parametrize(
    'model, name, k', [('sounds', 'esc50', 7), ('photos', 'instruments30', -3)]
)
def test_bundled_models_on_real_items(page, model, name, k):
    if model not in bundled():
        pytest.skip(f'no bundled model {model}')
    items = DATASETS[name].items(DATA)
    item = (items[items.split == 'test'] if 'split' in items else items).iloc[k]
    choose(page, model)
    give(page, item.path)
    says(page, f'^{item.label.replace("_", " ")} ')
    assert all(drawn(page))
    if model == 'photos':
        shot(page, 'demo-photo')
