"""The page in a real browser, on a desk and a phone, light and dark; and its answers to curl.

Files go in by the file chooser, answers come out. Nothing is fetched from elsewhere, and nothing is
left behind. `INSTRUMENTS_SHOTS` names a folder for pictures of the page.
"""

import json
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
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from instruments_nbdev.data import esc50, instruments30
from instruments_nbdev.examples import EXAMPLES, RATE, example_file, vacuum_cleaner
from instruments_nbdev.model import load_model, save_model

pytest.importorskip('gradio', reason='no Gradio: pip install "instruments_nbdev[demo]"')
try:
    from playwright import sync_api as api
except ImportError:
    api = None

DATA = os.environ.get('INSTRUMENTS_DATA')  # conftest.py takes it away from all other tests
SHOTS = os.environ.get('INSTRUMENTS_SHOTS')
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
CHROMIUM = next(filter(None, map(shutil.which, (os.environ.get('CHROMIUM', ''), *BROWSERS))), None)
CURL = shutil.which('curl')
ARGS = (
    '--no-sandbox --disable-gpu --disable-quic --disable-background-networking '
    '--disable-component-update --disable-sync --no-first-run '
    '--use-fake-device-for-media-stream --use-fake-ui-for-media-stream'
).split()
WAIT = 90_000  # ms: machines are shared
DESK, PHONE = dict(width=1280, height=800), dict(width=390, height=844)
BOTH = [(DESK, 'light'), (DESK, 'dark'), (PHONE, 'light'), (PHONE, 'dark')]
LOOKS = [f'{size["width"]} {theme}' for size, theme in BOTH]

# Labels of a stranger's model
ODD = ['${1+1}', '$x^{$ {{6*7}}', '<img src=x onerror=alert(1)>', 'dog\u202egod']

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


@pytest.fixture(scope='module')
def own(home):
    "The examples and wrong files, and a model with odd labels"
    d = home / 'demo'
    files = {name: example_file(name, d) for name in EXAMPLES}
    clap, mixed, tone, drawn = files.values()
    odd = load_model('sounds')
    odd.labels[: len(ODD)] = ODD
    save_model(odd, d / 'odd.safetensors')
    sf.write(d / 'silence.wav', np.zeros(16000), 16000)
    sf.write(d / 'steady.wav', vacuum_cleaner(12.0), RATE)
    (d / 'broken.wav').write_bytes(b'RIFF' + bytes(200))
    with open(d / 'large.wav', 'wb') as f:
        f.truncate(51 * 2**20)
    return SimpleNamespace(d=d, clap=clap, mixed=mixed, tone=tone, drawn=drawn, labels=odd.labels)


def started(folder, cwd, *args):
    "The command as a process in `cwd`, temporary files in `folder`; and the address it prints"
    script = folder / 'instruments_demo.py'
    script.write_text(WATCH)
    (folder / 'tmp').mkdir()
    must_not_count = dict(
        GRADIO_SERVER_NAME='0.0.0.0',
        GRADIO_ALLOWED_PATHS='/',
        GRADIO_ROOT_PATH='http://elsewhere.invalid',
    )
    p = subprocess.Popen(
        [sys.executable, script, *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | dict(TMPDIR=str(folder / 'tmp')) | must_not_count,
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
    p, url = started(folder, own.d)
    yield url
    assert list((folder / 'tmp').glob('instruments_demo-*'))
    p.send_signal(signal.SIGINT)
    assert p.wait(WAIT / 1000) == 0
    assert not list((folder / 'tmp').glob('instruments_demo-*'))
    assert not (folder / 'outside').exists(), (folder / 'outside').read_text()


def test_no_file_but_those_of_the_page(address):
    with pytest.raises(HTTPError, match='403'):
        urlopen(f'{address.rstrip("/")}/gradio_api/file={__file__}')


# Programs: one address, asked by curl as the docs show it


@pytest.fixture(scope='module')
def curl(address, own):
    "Asks for an answer by curl, in the folder of the files: (status, JSON)"
    if not CURL:
        pytest.skip('no curl to ask the page with: install it')

    def ask(*forms, headers=(), at='answer'):
        options = [option for form in forms for option in ('-F', form)]
        options += [option for header in headers for option in ('-H', header)]
        command = [CURL, '-sS', '-w', r'\n%{http_code}', *options, f'{address}{at}']
        done = subprocess.run(
            command, cwd=own.d, capture_output=True, text=True, check=True, timeout=WAIT / 1000
        )
        text, _, status = done.stdout.rpartition('\n')
        return int(status), json.loads(text)

    return ask


def test_curl_a_short_sound(curl, own):
    status, told = curl(f'file=@{own.clap.name}')
    assert status == 200 and told['file'] == own.clap.name
    assert (told['model'], told['state'], told['label']) == ('sounds', 'sure', 'thunderstorm')
    assert told['headline'].startswith('thunderstorm (') and told['labels'] == ['thunderstorm']
    assert {*told['probs']} == {*load_model('sounds').labels}
    assert told['prob'] == max(told['probs'].values()) == told['probs']['thunderstorm']
    assert (told['seconds'], told['segments']) == (5, [])


def test_curl_a_long_sound(curl, own):
    _, told = curl(f'file=@{own.mixed.name}')
    assert told['state'] == 'mixed' and told['headline'].startswith('chirping birds, then ')
    segments = told['segments']
    assert [part['label'] for part in segments] == told['labels']
    assert all(part['start'] < part['end'] and 0 < part['prob'] <= 1 for part in segments)
    assert (segments[0]['start'], segments[-1]['end']) == (0, told['seconds'])


def test_curl_a_photo_and_a_named_model(curl, own):
    assert curl(f'file=@{own.drawn.name}')[1]['label'] == 'Xylophone'
    assert curl(f'file=@{own.clap.name}', 'model=genres')[1]['model'] == 'genres'
    _, told = curl(f'file=@{own.clap.name}', 'model=odd.safetensors')
    assert told['model'] == 'odd.safetensors' and {*ODD} <= {*told['probs']}


def test_curl_is_not_sure(curl, own):
    _, told = curl(f'file=@{own.tone.name}')
    assert told['state'] == 'unsure' and told['headline'].startswith('Not sure. Perhaps ')
    assert told['labels'] == [] and told['label'] in told['probs']


@pytest.mark.parametrize(
    'forms, status, text',
    [
        (['file=@broken.wav'], 422, 'broken.wav cannot be read'),
        (['file=@silence.wav'], 422, 'silence.wav is silent'),
        (['file=@silence.wav', 'model=photos'], 422, 'photos takes photos'),
        (['file=@silence.wav', 'model=nowhere'], 422, 'nowhere: no such model file'),
        (['file=@large.wav'], 413, 'at most 50 MB'),
        (['model=sounds'], 422, 'curl -F file=@dog.wav'),
        (['file=@silence.wav', 'more=@silence.wav'], 400, 'Too many files'),
    ],
)
def test_curl_and_what_cannot_be_answered(curl, forms, status, text):
    found, told = curl(*forms)
    assert found == status and [*told][-1] == 'error' and text in told['error'], told


def test_only_this_machine_may_ask(curl, own, address):
    for origin in ('http://elsewhere.invalid', 'http://127.0.0.1.elsewhere.invalid', 'null'):
        status, told = curl(f'file=@{own.clap.name}', headers=[f'Origin: {origin}'])
        assert (status, [*told]) == (403, ['error'])
    assert curl(f'file=@{own.clap.name}', headers=[f'Origin: {address.strip("/")}'])[0] == 200


def test_there_is_one_address_and_no_other(curl, address):
    "Gradio's own API has no entries; what the page calls takes no file but one that was uploaded"
    _, told = curl(at='gradio_api/info')
    assert told == dict(named_endpoints={}, unnamed_endpoints={})
    outside = dict(path=__file__, meta=dict(_type='gradio.FileData'))
    body = json.dumps(dict(data=['', outside], fn_index=0)).encode()  # as the page itself asks
    to = f'{address}gradio_api/run/predict'
    with pytest.raises(HTTPError):
        urlopen(Request(to, body, {'Content-Type': 'application/json'}), timeout=60)


@pytest.fixture(scope='module')
def chromium():
    if not api:
        pytest.skip('no playwright, so no browser to try the page in: pip install playwright')
    if not CHROMIUM:
        pytest.skip('no Chromium to try the page in: install it, or name it in $CHROMIUM')
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield b
        b.close()


@pytest.fixture
def opened(chromium, address):
    "Opens the page; a request to another machine or an error of a script fails the test"
    contexts, wrong = [], []

    def mine(route):
        if re.match(r'(https?|wss?)://127\.0\.0\.1:', route.request.url):
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.abort()

    def open_page(size=DESK, theme='light'):
        context = chromium.new_context(
            viewport=size, permissions=['microphone'], color_scheme=theme
        )
        contexts.append(context)
        context.route(lambda url: not url.startswith(('data:', 'blob:')), mine)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        api.expect.set_options(timeout=WAIT)
        page.on('pageerror', lambda e: wrong.append(str(e)))
        page.goto(address)
        api.expect(page.locator('.start')).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture
def page(opened):
    return opened()


def give(page, path):
    "A file by the file chooser"
    clear = page.locator('#file button[aria-label="Clear"]')
    if clear.count():
        clear.click()
        api.expect(page.locator('.start')).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.locator('#file button', has_text=re.compile('upload', re.I)).click()
    chooser.value.set_files(path)


def choose(page, model):
    "One of the models that the page offers"
    page.locator('#model label').get_by_text(model, exact=True).click()


def choose_file(page, path):
    "A model by the path of its file"
    box = page.locator('#own textarea, #own input')
    if not box.is_visible():
        page.get_by_text('Another model file').click()
    box.fill(str(path))
    box.press('Enter')


def says(page, text):
    api.expect(page.locator('.answer h2')).to_have_text(re.compile(text))


def state(page):
    "How the answer is coloured: sure, mixed, unsure or sorry"
    return page.locator('.answer').get_attribute('class').split()[1]


def drawn(page):
    "Pictures of the answer that are there, and described"
    return page.eval_on_selector_all(
        '.result figure img',
        'imgs => imgs.filter(i => i.complete && i.naturalWidth > 100 && i.alt.length > 20).length',
    )


def fits(page):
    return page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')


def still(page):
    "Waits until the page no longer moves"
    before = None
    while (now := page.evaluate('scrollY')) != before:
        before = now
        page.wait_for_timeout(300)


def shot(page, name):
    "A picture for the docs, where they are asked for: a palette of 256 colours"
    if not SHOTS:
        return
    path = Path(SHOTS) / f'{name}.png'
    page.set_viewport_size(page.viewport_size | dict(height=400))
    page.add_style_tag(content='#mic select { visibility: hidden }')  # a fake device's name
    still(page)
    page.screenshot(path=path, full_page=True)
    im = Image.open(path).convert('RGB')
    colours = im.quantize(256, Image.Quantize.MAXCOVERAGE)
    im.quantize(palette=colours).save(path, optimize=True)


def test_a_sound(page, own):
    give(page, own.clap)
    says(page, r'^thunderstorm \(')
    assert state(page) == 'sure' and drawn(page) == 1 and fits(page)
    api.expect(page.locator('.answer li.said')).to_have_count(1)
    assert 'answered by the model sounds' in page.locator('.answer p').first.inner_text()


def test_a_photo_needs_no_choice(page, own):
    give(page, own.drawn)
    says(page, r'^xylophone \(')
    assert state(page) == 'sure' and drawn(page) == 1
    assert 'answered by the model photos' in page.locator('.answer p').first.inner_text()
    give(page, own.clap)  # and back
    says(page, '^thunderstorm')


def test_a_long_sound_is_told_over_time(page, own):
    give(page, own.mixed)
    says(page, '^chirping birds, then keyboard typing, vacuum cleaner, thunderstorm$')
    assert state(page) == 'mixed'
    assert page.locator('.result figure').count() == drawn(page) == 1  # one figure, one time axis
    lines = page.locator('.heard li')
    assert lines.count() >= 4
    lines.nth(2).locator('button').click()
    page.wait_for_function("document.querySelector('.answer audio').currentTime > 5")
    assert not page.locator('.answer .bars').is_visible()  # means over all: on demand
    page.locator('.answer summary').click()
    assert page.locator('.answer .bars').is_visible()


def test_a_long_sound_of_one_thing(page, own):
    give(page, own.d / 'steady.wav')
    says(page, r'^vacuum cleaner \(')
    assert state(page) == 'sure'


def test_a_tone_is_nothing_it_knows(page, own):
    give(page, own.tone)
    says(page, '^Not sure. Perhaps ')
    assert state(page) == 'unsure'
    choose(page, 'genres')
    api.expect(page.locator('.answer p').first).to_contain_text('answered by the model genres')
    says(page, '^classical')  # a held tone has no drums


def test_levels_are_told_in_words(page, own):
    give(page, own.drawn)
    says(page, '^xylophone')
    note = page.locator('.answer .note').inner_text().replace('\xa0', ' ')
    assert re.search(r'at about \d+ %; below it the answer is “not sure”', note)
    assert not re.search(r'\d\.\d', page.locator('.answer').inner_text())  # whole percents


def test_names_are_for_people(page, own):
    assert 'saxophone' in page.locator('.start').inner_text()
    choose(page, 'genres')
    api.expect(page.locator('.model li', has_text='hip-hop')).to_be_visible()
    choose(page, 'instruments')
    api.expect(page.locator('.model li', has_text='organ')).to_be_visible()
    choose(page, 'photos')
    api.expect(page.locator('.model li', has_text='accordion')).to_be_visible()
    text = page.locator('body').inner_text()
    for code in ('hiphop', 'acordian', 'marakas', 'saxaphone', 'church_bells'):
        assert code not in text


@pytest.mark.parametrize('size', [DESK, PHONE], ids=['desk', 'phone'])
def test_the_start_is_full_and_says_what_there_is(opened, size):
    page = opened(size)
    api.expect(page.locator('.start li')).to_have_count(4)
    api.expect(page.locator('.examples button')).to_have_count(4)
    assert fits(page)
    if size is DESK:
        parts = [page.locator(s).bounding_box() for s in ('.start', '#file')]
        assert parts[0]['x'] > parts[1]['x'] + parts[1]['width']  # beside each other
        assert parts[0]['height'] > 0.45 * size['height']


def test_examples(page):
    wanted = ['^thunderstorm', '^chirping birds, then', '^Not sure', '^xylophone']
    buttons = page.locator('.examples button')
    api.expect(buttons).to_have_count(len(wanted))  # `all` does not wait for them
    for button, text in zip(buttons.all(), wanted, strict=True):
        button.click()
        says(page, text)
    api.expect(page.locator('#file')).to_contain_text('xylophone')


# Words of the answer that do not stand on one line
BROKEN = '''() => {
  const broken = []
  for (const box of document.querySelectorAll('.answer h2, .bars span, .chips li, .heard b')) {
    const walk = document.createTreeWalker(box, NodeFilter.SHOW_TEXT)
    for (let node; node = walk.nextNode();)
      for (const word of node.data.matchAll(/[\\w-]+/g)) {
        const range = document.createRange()
        range.setStart(node, word.index)
        range.setEnd(node, word.index + word[0].length)
        const tops = [...range.getClientRects()].map(r => Math.round(r.top))
        if (new Set(tops).size > 1) broken.push(word[0])
      }
  }
  return broken
}'''


def test_on_a_phone_the_page_goes_to_the_answer(opened, own):
    page = opened(PHONE)
    for path, text in ((own.clap, '^thunderstorm'), (own.mixed, '^chirping'), (own.tone, '^Not')):
        give(page, path)
        says(page, text)
        still(page)
        top = page.locator('.answer').bounding_box()['y']
        assert 0 <= top < 100, top
        assert fits(page) and page.evaluate(BROKEN) == []
    choose(page, 'photos')
    says(page, 'is a sound, and photos takes photos')
    labels = page.locator('.model li')
    api.expect(labels).to_have_count(30)  # all of them, in no box that scrolls
    box, last = page.locator('.model').bounding_box(), labels.last.bounding_box()
    assert last['y'] + last['height'] <= box['y'] + box['height'] + 1
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.chips')).overflowY") == 'visible'
    )
    assert page.evaluate(BROKEN) == []
    shot(page, 'narrow')


# The contrast of each text of the answer with what lies behind it, the least first
CONTRAST = '''() => {
  const rgb = s => s.match(/[\\d.]+/g).map(Number)
  const linear = v => v <= 10 ? v / 3294 : ((v / 255 + .055) / 1.055) ** 2.4
  const light = c => {
    const [r, g, b] = c.map(linear)
    return .2126 * r + .7152 * g + .0722 * b
  }
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor)
      if (c.length < 4 || c[3] > .9) return c
    }
    return [255, 255, 255]
  }
  const parts = '.answer h2, .answer > p, .bars span, .bars b, .note, .heard li, figcaption, ' +
    '.titles span, .model p, .chips li, .lead, .start p, .start small'
  return [...document.querySelectorAll(parts)].map(e => {
    const [a, b] = [rgb(getComputedStyle(e).color), behind(e)].map(light).sort((a, b) => b - a)
    return [(a + .05) / (b + .05), e.className || e.tagName]
  }).sort((a, b) => a[0] - b[0])[0]
}'''


@pytest.mark.parametrize('size, theme', BOTH, ids=LOOKS)
def test_both_themes_can_be_read(opened, own, size, theme):
    page = opened(size, theme)
    assert page.evaluate(CONTRAST)[0] >= 4.5
    for path, how in (
        (own.clap, 'sure'),
        (own.mixed, 'mixed'),
        (own.tone, 'unsure'),
        (own.d / 'broken.wav', 'sorry'),
    ):
        give(page, path)
        api.expect(page.locator(f'.answer.{how}')).to_be_visible()
        least = page.evaluate(CONTRAST)
        assert least[0] >= 4.5, least
        if how != 'sorry':
            player = "getComputedStyle(document.querySelector('.answer audio')).colorScheme"
            assert ('dark' in page.evaluate(player)) == (theme == 'dark')


def test_another_model(page, own):
    give(page, own.clap)
    says(page, '^thunderstorm')
    choose(page, 'photos')
    says(page, 'is a sound, and photos takes photos: choose “what fits the file”')
    choose_file(page, own.d / 'nowhere')
    says(page, 'nowhere: no such model file')
    choose(page, 'what fits the file')
    says(page, '^thunderstorm')


def test_labels_of_a_stranger(page, own):
    "They are shown as they are, and nothing of them runs"
    choose_file(page, own.d / 'odd.safetensors')
    api.expect(page.locator('.model li')).to_have_count(10)
    shown = page.locator('.model li').all_text_contents()
    assert {*ODD} <= {*shown}
    give(page, own.clap)
    api.expect(page.locator('.answer li')).to_have_count(5)
    assert {*page.locator('.answer li span').all_text_contents()} <= {*shown}


@pytest.mark.parametrize(
    'name, text',
    [('silence.wav', 'silence.wav is silent'), ('broken.wav', 'broken.wav cannot be read')],
)
def test_what_cannot_be_answered(page, own, name, text):
    give(page, own.d / name)
    says(page, text)
    assert state(page) == 'sorry' and not page.locator('.result figure').count()
    give(page, own.clap)
    says(page, '^thunderstorm')  # and the page goes on


def test_a_file_that_is_too_large(page, own):
    give(page, own.d / 'large.wav')
    api.expect(page.get_by_text(re.compile('maximum allowed size', re.I)).first).to_be_visible()
    assert not page.locator('.answer').count()


def test_the_microphone(page):
    "Chromium's own, which beeps"
    page.locator('#mic').get_by_role('button', name=re.compile('record', re.I)).click()
    page.wait_for_timeout(2500)
    page.locator('#mic').get_by_role('button', name=re.compile('stop', re.I)).first.click()
    api.expect(page.locator('.answer li').first).to_be_visible()
    assert drawn(page)
    assert 'your recording' in page.locator('.answer p').first.inner_text()


def test_the_model_that_was_asked_for_goes_first(own, chromium, tmp_path):
    "Among those of its kind: a photo still goes to another"
    p, url = started(tmp_path, own.d, 'odd.safetensors')
    try:
        page = chromium.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        api.expect(page.locator('.start li')).to_have_count(5)
        give(page, own.clap)
        api.expect(page.locator('.answer p b').first).to_have_text('odd.safetensors')
        give(page, own.drawn)
        says(page, '^xylophone')
        page.close()
    finally:
        p.terminate()
        assert p.wait(WAIT / 1000) == 0
    assert not list((tmp_path / 'tmp').glob('instruments_demo-*'))


@pytest.mark.skipif(not DATA, reason='INSTRUMENTS_DATA is not set: no real clips and photos')
def test_a_real_recording_of_four_things(page, own):
    "Clips of four classes, one after the other"
    items = esc50.items(DATA)
    order = ('dog', 'church_bells', 'vacuum_cleaner', 'thunderstorm')
    clips = [sf.read(items.path[items.label == label].iloc[0]) for label in order]
    path = own.d / 'a walk home.wav'
    sf.write(path, np.concatenate([x for x, _ in clips]), clips[0][1])
    give(page, path)
    says(page, '^dog, then church bells, vacuum cleaner, thunderstorm$')
    assert state(page) == 'mixed'
    shot(page, 'demo-sound')


@pytest.mark.skipif(not DATA, reason='INSTRUMENTS_DATA is not set: no real clips and photos')
def test_a_real_photo(page):
    items = instruments30.items(DATA)
    item = items[items.split == 'test'].iloc[-3]
    give(page, item.path)
    says(page, f'^{item.label} ')
    assert state(page) == 'sure' and drawn(page) == 1
    shot(page, 'demo-photo')
