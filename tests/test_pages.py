"""What every page of the site has: its place in the sidebar, a title, alt texts, a Colab badge."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / 'nbs'
NOTEBOOKS = sorted(p for p in NBS.rglob('*.ipynb') if not p.name.startswith(('_', '.')))
LESSONS = sorted(NBS.glob('0*.ipynb'))
COLAB = 'https://colab.research.google.com'
IN_REPOSITORY = 'github/instruments-nbdev/instruments_nbdev/blob/main/nbs'
TITLE = re.compile(r'# (.+)\n+> (.+)')
FIG_ALT = re.compile(r'^#\| ?fig-alt: *\S', re.M)
EMPTY_ALT = re.compile(r'!\[\s*\]\(|<img(?![^>]*\balt="[^"])[^>]*>')


def name(path):
    return path.relative_to(NBS).as_posix()


def cells(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def source(cell):
    return ''.join(cell['source'])


def title_and_subject(path):
    "The title of a notebook, and the line below it that says what it is about"
    for cell in cells(path):
        found = TITLE.match(source(cell))
        if cell['cell_type'] == 'markdown' and found:
            return found[1], found[2]
    return None


def config():
    return yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))


def entries(contents):
    "Notebooks of a part of the sidebar, in their order"
    for item in contents:
        if isinstance(item, str):
            yield item
        elif 'href' in item:
            yield item['href']
        else:
            yield from entries(item['contents'])


def test_the_sidebar_has_each_notebook_once():
    listed = list(entries(config()['website']['sidebar']['contents']))
    assert sorted(listed) == sorted(name(path) for path in NOTEBOOKS)


def test_both_places_have_the_same_settings():
    assert (NBS / '_quarto.yml').samefile(ROOT / '_quarto.yml')


def test_what_the_site_needs_is_there():
    found = config()
    for path in (found['format']['html']['css'], found['website']['favicon']):
        assert (NBS / path).is_file(), path
    assert (NBS / found['website']['image'].lstrip('/')).is_file()


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_a_title_and_a_subject(path):
    assert title_and_subject(path), 'the first Markdown cell is not "# Title", then "> Subject"'


@pytest.mark.parametrize('path', LESSONS, ids=name)
def test_a_lesson_begins_with_its_number_and_its_badge(path):
    markdown = [cell for cell in cells(path) if cell['cell_type'] == 'markdown']
    title, _ = title_and_subject(path)
    assert title.split()[0] == path.name[:2]
    badge = (
        f'[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/{IN_REPOSITORY}/{path.name})'
    )
    # nbdev drops what else a title's cell holds, so the badge has a cell of its own.
    assert source(markdown[1]) == badge


def test_the_index_has_the_titles_of_all_notebooks():
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    missing = []
    for path in NOTEBOOKS:
        title, subject = title_and_subject(path)
        row = f'| [{title}](nbs/{name(path)}) | {subject.rstrip(".")} |'
        if row not in readme and path.stem != 'index':
            missing.append(row)
    assert not missing, 'run nbs/index.ipynb again, then `make readme`'


def has_picture(cell):
    outputs = cell.get('outputs', [])
    return any(kind.startswith('image/') for o in outputs for kind in o.get('data', {}))


def lacks_alternative_text(cell):
    if cell['cell_type'] == 'markdown':
        return bool(EMPTY_ALT.search(source(cell)))
    return has_picture(cell) and not FIG_ALT.search(source(cell))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=name)
def test_pictures_have_an_alternative_text(path):
    missing = [cell['id'] for cell in cells(path) if lacks_alternative_text(cell)]
    assert not missing, 'cells with a picture but without `#| fig-alt: …`'
