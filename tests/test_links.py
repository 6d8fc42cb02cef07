"""Links of the site's pages, as they are after processing, and of the Markdown files.

What is in the repository must be there; an address outside is only read for its form.
"""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mistune
import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / '.ci'))
import pages  # noqa: E402

LIB = 'instruments_nbdev'
DOCUMENTS = [*sorted(ROOT.glob('*.md')), *sorted(ROOT.glob('results/*.md'))]
SOURCES = ['.ci', LIB, 'nbs', 'results', 'README.md', 'settings.ini']
REPOSITORY = 'instruments-nbdev/instruments_nbdev'
GITHUB = re.compile(
    rf'https://(?:github\.com|colab\.research\.google\.com/github)/{REPOSITORY}'
    r'/(?:blob|tree)/main/([^#?]+)'
)
SITE = 'https://instruments-nbdev.github.io/instruments_nbdev/'
HOST = re.compile(r'(localhost|([\w-]+\.)+[a-z]{2,})(:\d+)?')
MAIL = re.compile(r'[^@\s]+@[^@\s]+\.\w+')
HTML_LINK = re.compile(r'\b(?:href|src)="([^"]*)"')
RAW_LINK = re.compile(r'\]\([^)\s]*(?:://|\.html|\.ipynb|\.md)')  # in what is shown as it stands

parse_markdown = mistune.create_markdown(renderer='ast', plugins=['table'])


# --- what a text links to ---
def tokens_of(tokens):
    "All tokens of parsed Markdown, those inside of others too"
    for token in tokens:
        yield token
        yield from tokens_of(token.get('children', []))


def links(markdown):
    "Targets of links and pictures, in Markdown and in HTML"
    found = []
    for token in tokens_of(parse_markdown(markdown)):
        if token['type'] in ('link', 'image'):
            found.append(token['attrs']['url'])
        elif token['type'] in ('block_html', 'inline_html'):
            found += HTML_LINK.findall(token['raw'])
    return found


def raw_links(markdown):
    "Links that a reader sees as Markdown: in code, or around another link"
    texts = [
        t['raw']
        for t in tokens_of(parse_markdown(markdown))
        if 'html' not in t['type'] and 'raw' in t
    ]
    return [text for text in texts if RAW_LINK.search(text)] + split_links(markdown)


def split_links(markdown):
    "Where the text of a link holds another link, the end of the outer one is left as text"
    found = []
    for token in tokens_of(parse_markdown(markdown)):
        texts = [child.get('raw', '') for child in token.get('children', [])]
        found += [text for text in texts if text.startswith('](')]
    return found


# --- what is wrong with a link ---
def address_fault(link, url):
    "What is wrong with an address outside, or None"
    if url.scheme == 'mailto':
        return None if MAIL.fullmatch(url.path) else 'is no address'
    if url.scheme not in ('http', 'https') or not HOST.fullmatch(url.netloc):
        return 'is no web address'
    ours = GITHUB.match(link)
    if ours and not (ROOT / unquote(ours[1])).exists():
        return f'{ours[1]} is not in the repository'
    return None


def document_anchors(path):
    "Anchors of the headings of a Markdown file, as GitHub makes them"
    found = set()
    times = {}
    text = pages.without_fences(path.read_text(encoding='utf-8'))
    for heading in pages.HEADING.findall(text):
        plain = pages.LINK_TEXT.sub(r'\1', heading).replace('`', '').lower()
        name = re.sub(r'[^\w\- ]', '', plain).replace(' ', '-')
        times[name] = times.get(name, -1) + 1
        found.add(f'{name}-{times[name]}' if times[name] else name)
    return found


def document_fault(link, document):
    "What is wrong with a link of a Markdown file, or None"
    url = urlsplit(link)
    if url.scheme:
        return address_fault(link, url)
    if not link:
        return 'is empty'
    target = (document.parent / unquote(url.path)).resolve() if url.path else document
    if not target.is_relative_to(ROOT) or not target.exists():
        return f'{url.path} is not in the repository'
    if url.fragment and (
        target.suffix != '.md' or unquote(url.fragment) not in document_anchors(target)
    ):
        return f'there is no heading #{url.fragment} in {target.name}'
    return None


class Site:
    "The processed notebooks below a folder, with the anchors of their headings"

    def __init__(self, folder):
        self.folder = folder
        self.pages = pages.read_pages(folder)
        self.place_of = {path: place for place, (path, _) in self.pages.items()}
        self.anchors = {
            place: pages.anchors(pages.markdown_of(notebook))
            for place, (_, notebook) in self.pages.items()
        }

    def target(self, path, place):
        "The page or file that a path on a page leads to, relative to the site; None if outside"
        target = (self.folder / place).parent / unquote(path)
        target = Path(os.path.normpath(target))
        if target in self.place_of:
            return self.place_of[target]
        if target == self.folder:
            return 'index.html'
        if not target.is_relative_to(self.folder):
            return None
        return target.relative_to(self.folder).as_posix()

    def fault(self, link, place):
        "What is wrong with a link of a page, or None"
        if link.startswith(SITE):
            link = os.path.relpath('/' + link[len(SITE) :], '/' + str(Path(place).parent))
        url = urlsplit(link)
        if url.scheme:
            return address_fault(link, url)
        if not link:
            return 'is empty'
        target = self.target(url.path, place) if url.path else place
        if target is None or not (target in self.anchors or (self.folder / target).is_file()):
            return f'{url.path} is not on the site'
        if url.fragment and unquote(url.fragment) not in self.anchors.get(target, ()):
            return f'there is no heading #{url.fragment} on {target}'
        return None

    def faults(self, place):
        "What is wrong with the links of a page: link -> fault"
        _, notebook = self.pages[place]
        found = {}
        for markdown in pages.markdown_of(notebook):
            for link in links(markdown):
                fault = self.fault(link, place)
                if fault:
                    found[link] = fault
            for text in raw_links(markdown):
                found[text[:200]] = 'is Markdown that a reader sees'
        return found


# --- the tests ---
def process(folder):
    "The pages of a copy of the sources in `folder`, processed as for the site"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__')
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    env = {**os.environ, 'PYTHONPATH': str(folder), 'MPLBACKEND': 'agg', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '.ci/pages.py']
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / '_proc'


def test_links_of_the_site(tmp_path):
    site = Site(process(tmp_path))
    notebooks = [p for p in (ROOT / 'nbs').rglob('*.ipynb') if '/.' not in p.as_posix()]
    assert len(site.pages) == len(notebooks)
    faults = {place: site.faults(place) for place in site.pages}
    assert not {place: found for place, found in faults.items() if found}


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_of_documents(document):
    markdown = document.read_text(encoding='utf-8')
    faults = {link: document_fault(link, document) for link in links(markdown)}
    assert not {link: fault for link, fault in faults.items() if fault}
    assert not raw_links(markdown)


def imported_names(markdown):
    "Pairs (module, name) that Python code in Markdown imports from the package"
    for token in tokens_of(parse_markdown(markdown)):
        if token['type'] == 'block_code' and token.get('attrs', {}).get('info') == 'python':
            for node in ast.walk(ast.parse(token['raw'])):
                if isinstance(node, ast.ImportFrom) and node.module.startswith(LIB):
                    yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_documents_import_what_there_is(document):
    missing = []
    for module, name in imported_names(document.read_text(encoding='utf-8')):
        try:
            getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            if module != LIB or find_spec(f'{LIB}.{name}') is None:
                missing.append(f'{module}.{name}')
    assert not missing


def test_links_are_found():
    markdown = (
        '[a](b.md "t") ![c](d.png) [![e](f)](g) <https://h.org> <a href="i">x</a>\n\n'
        '[j][k]\n\n[k]: l\n\n`[no](no)` ``[no `x`](no)``\n\n```\n[no](no)\n```\n\n[]()\n'
    )
    assert links(markdown) == ['b.md', 'd.png', 'g', 'f', 'https://h.org', 'i', 'l', '']


def test_raw_links_are_seen():
    assert not raw_links('a [`b`](c.html#b), ![d](e.png), f[0](g)\n\n```python\nh[0](i)\n```')
    assert raw_links('[the [`b`](c.html) of it](d.ipynb)')
    assert raw_links('```python\ndef f(a):  # see [`b`](c.html#b)\n```')


@pytest.mark.parametrize(
    'link',
    [
        'nbs/00_data.ipynb',
        'CONTRIBUTING.md',
        '#use-the-models',
        'results/',
        'https://a.org/x#y',
        'http://localhost:8888',
        'mailto:a@b.org',
        f'https://github.com/{REPOSITORY}/tree/main/results',
    ],
)
def test_right_links_of_documents(link):
    assert document_fault(link, ROOT / 'README.md') is None


@pytest.mark.parametrize(
    'link',
    [
        '',
        'nbs/none.ipynb',
        '#nothing',
        '../elsewhere',
        '/etc/hostname',
        'LICENSE#x',
        'https://',
        'htps://a.org',
        'http://a b.org',
        'mailto:me',
        f'https://github.com/{REPOSITORY}/blob/main/nbs/none.ipynb',
    ],
)
def test_wrong_links_of_documents(link):
    assert document_fault(link, ROOT / 'README.md')


@pytest.fixture
def small_site(tmp_path):
    "Two pages, one in a folder, and a picture"

    def write(place, title, markdown):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        front = f'---\noutput-file: {title}.html\ntitle: {title}\n\n---\n'
        raw = {'cell_type': 'raw', 'source': front}
        cell = {'cell_type': 'markdown', 'source': markdown}
        path.write_text(json.dumps({'cells': [raw, cell]}), encoding='utf-8')

    write('index.ipynb', 'index', '')
    write('00_one.ipynb', 'one', '## A `b`\n\n## A b\n\n### 2 C’s\n\n### X.Y\n\n```\n# no\n```\n')
    write('more/two.ipynb', 'two', '## Here\n\n[a](../one.html#a-b) [b](nowhere.html)\n')
    (tmp_path / 'picture.png').touch()
    return Site(tmp_path)


def test_links_of_a_small_site(small_site):
    assert small_site.anchors['one.html'] == {'a-b', 'a-b-1', 'cs', 'x.y'}
    for link in (
        '../one.html#a-b-1',
        '../00_one.ipynb',
        '#here',
        '../picture.png',
        SITE,
        SITE + 'one.html',
    ):
        assert small_site.fault(link, 'more/two.html') is None, link
    for link in ('../one.html#no', 'one.html', '../../README.md', '#no', '', SITE + 'two.html'):
        assert small_site.fault(link, 'more/two.html'), link
    assert list(small_site.faults('more/two.html')) == ['nowhere.html']


def test_made_links_are_mended():
    anchors = {'one.html': {'f', 'thing'}, 'more/two.html': {'g'}}
    mend = pages.Mender(SITE, anchors)
    made = f'[`f`]({SITE}one.html#f)'
    assert mend(f'a {made} b', 'one.html') == 'a [`f`](#f) b'
    assert mend(f'a {made} b', 'more/two.html') == 'a [`f`](../one.html#f) b'
    assert mend(f'[the {made}s](two.ipynb)', 'one.html') == '[the `f`s](two.ipynb)'
    assert mend(f'```python\nx  # {made}\n```', 'one.html') == '```python\nx  # `f`\n```'
    method = f'[`Thing.do`]({SITE}one.html#thing.do)'
    assert mend(method, 'one.html') == '[`Thing.do`](#thing)'
    assert mend(f'[`lost`]({SITE}one.html#lost)', 'one.html') == '`lost`'
