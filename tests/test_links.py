"""Links in the notebooks' prose and in the Markdown files.

What is in the repository must be there; an address outside is only read for its form.
"""

import json
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    sorted(p for p in (ROOT / 'nbs').glob('*.ipynb') if p.name[0] not in '_.')
    + sorted(ROOT.glob('*.md'))
    + sorted(ROOT.glob('results/*.md'))
)
LINK = re.compile(
    r'\]\(\s*<?([^)\s>]*)>?(?:\s+"[^"]*")?\s*\)|\b(?:href|src)="([^"]*)"|<(https?:[^>\s]*)>|^\[[^\]]+\]:\s*(\S+)',
    re.M,
)
OURS = re.compile(
    r'https://(?:github\.com|colab\.research\.google\.com/github)/instruments-nbdev/instruments_nbdev/(?:blob|tree)/main/([^#?]+)'
)


def prose(path):
    "The Markdown of a page, or of a notebook's prose"
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb':
        return text
    return '\n\n'.join(
        ''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type'] == 'markdown'
    )


def plain(md):
    return re.sub(
        r'(`+)(?!`).*?(?<!`)\1(?!`)',
        '',
        re.sub(r'^( *)(```|~~~).*?^ *\2', '', md, flags=re.M | re.S),
    )  # without code


def links(md):
    return [next(filter(None, m.groups()), '') for m in LINK.finditer(plain(md))]


def slugs(md):
    "Anchors of the headings, as Quarto and as GitHub make them; a name that comes again is counted"
    md = re.sub(r'^( *)(```|~~~).*?^ *\2', '', md, flags=re.M | re.S)
    found = set()
    for keep, start in ((r'[^\w\-. ]', r'^[^a-z]+'), (r'[^\w\- ]', r'^$')):
        seen = {}
        for h in re.findall(r'^#{1,6}\s+(.+?)\s*#*$', md, re.M):
            text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', h).replace('`', '').lower()
            s = re.sub(start, '', re.sub(keep, '', text).replace(' ', '-'))
            n = seen[s] = seen.get(s, -1) + 1
            found.add(f'{s}-{n}' if n else s)
    return found


def fault(link, page):
    "What is wrong with a link on a page, or None"
    if not link:
        return 'is empty'
    u = urlsplit(link)
    if u.scheme == 'mailto':
        return None if re.fullmatch(r'[^@\s]+@[^@\s]+\.\w+', u.path) else 'is no address'
    if u.scheme:
        if u.scheme not in ('http', 'https') or not re.fullmatch(
            r'(localhost|([\w-]+\.)+[a-z]{2,})(:\d+)?', u.netloc
        ):
            return 'is no web address'
        ours = OURS.match(link)
        return (
            None
            if not ours or (ROOT / unquote(ours[1])).exists()
            else f'{ours[1]} is not in the repository'
        )
    target = (page.parent / unquote(u.path)).resolve() if u.path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return f'{u.path} is not in the repository'
    if u.fragment and (
        target.suffix not in ('.ipynb', '.md') or unquote(u.fragment) not in slugs(prose(target))
    ):
        return f'there is no heading #{u.fragment} in {target.name}'


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    wrong = {link: why for link in links(prose(page)) if (why := fault(link, page))}
    assert not wrong


@pytest.mark.parametrize('page', [p for p in PAGES if p.suffix == '.ipynb'], ids=lambda p: p.stem)
def test_a_badge_opens_its_own_notebook(page):
    badges = [link for link in links(prose(page)) if 'colab.research' in link]
    opened = {Path(link).name for link in badges if link.endswith('.ipynb')}
    assert opened <= {page.name}


def test_faults_are_seen(tmp_path):
    page = ROOT / 'README.md'
    for link in (
        'nbs/00_data.ipynb',
        'nbs/00_data.ipynb#splits',
        '#use-it',
        'results/',
        'https://a.org/x#y',
        'http://localhost:8888',
        'mailto:a@b.org',
        'https://github.com/instruments-nbdev/instruments_nbdev/tree/main/results',
    ):
        assert not fault(link, page), link
    for link in (
        '',
        'nbs/none.ipynb',
        'nbs/00_data.ipynb#nothing',
        '#nothing',
        '../elsewhere',
        '/etc/hostname',
        'LICENSE#x',
        'https://',
        'htps://a.org',
        'http://a b.org',
        'mailto:me',
        'https://github.com/instruments-nbdev/instruments_nbdev/blob/main/nbs/none.ipynb',
    ):
        assert fault(link, page), link


def test_links_are_found():
    md = (
        '[a](b.md "t") ![c](d.png) [![e](f)](g) <https://h.org> <a href="i">\n[j]: k\n'
        '`[no](no)` ``[no `x`](no)``\n```\n[no](no)\n```\n[]()'
    )
    assert links(md) == ['b.md', 'd.png', 'f', 'g', 'https://h.org', 'i', 'k', '']
    assert {'a-b', 'a-b-1', '2-cs', 'cs', 'x.y', 'xy', 'd'} == slugs(
        '# A `b`\n## A b\n### 2 C’s\n# X.Y\n```\n# no\n```\n## [D](e)\n'
    )
