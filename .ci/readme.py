"""README.md from nbs/index.ipynb and its stored outputs, without Quarto; `--check` only compares."""

import base64, difflib, json, posixpath, re, shutil, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->\n\n'
LINK = re.compile(r'(\]\(|\b(?:src|href)=")(?![a-z]+:|[#/])([^)\s"]+)')


def text(x):
    return ''.join(x)


def fence(s, lang=''):
    return f'```{lang}\n{s.strip()}\n```' if s.strip() else ''


def rebase(md):
    "Links relative to nbs/, seen from the repository's top"
    return LINK.sub(lambda m: m[1] + posixpath.normpath(f'nbs/{m[2]}'), md)


def directives(src):
    return dict(re.findall(r'^#\|[ \t]*([\w-]+):?[ \t]*(.*?)[ \t]*$', src, re.M))


def output(o, asis, pictures):
    "One stored output as Markdown; a picture goes to `pictures`"
    if o['output_type'] == 'stream':
        return (
            ''
            if o['name'] == 'stderr'
            else rebase(text(o['text']))
            if asis
            else fence(text(o['text']))
        )
    data = o.get('data', {})
    if 'text/markdown' in data:
        return rebase(text(data['text/markdown']))
    if 'image/png' in data:
        name = f'README_files/{len(pictures) + 1}.png'
        pictures[name] = base64.b64decode(text(data['image/png']))
        return f'![]({name})'
    plain = text(data.get('text/plain', ''))
    return '' if plain.startswith('<') else fence(plain)  # `<… object>` says nothing on a page


def cell(c, pictures):
    "One cell as Markdown, by the directives that Quarto would follow"
    src = text(c['source'])
    if c['cell_type'] == 'markdown':
        return rebase(src)
    d = directives(src)
    if (
        c['cell_type'] != 'code'
        or d.keys() & {'hide', 'export', 'default_exp'}
        or d.get('include') == 'false'
    ):
        return ''
    code = '\n'.join(
        l
        for l in src.splitlines()
        if not l.startswith('#|') and not l.rstrip().endswith('#| hide_line')
    )
    parts = [] if d.get('echo') == 'false' else [fence(code, 'python')]
    if d.get('output') != 'false':
        parts += [output(o, d.get('output') == 'asis', pictures) for o in c['outputs']]
    return '\n\n'.join(p for p in parts if p)


def render(nb):
    "The README's text and its pictures (name -> bytes)"
    pictures = {}
    parts = [cell(c, pictures).strip() for c in nb['cells']]
    return HEAD + '\n\n'.join(p for p in parts if p) + '\n', pictures


def check(md, pictures):
    "What is on disk and differs, as a diff"
    old = (ROOT / 'README.md').read_text(encoding='utf-8') if (ROOT / 'README.md').exists() else ''
    diff = list(
        difflib.unified_diff(
            old.splitlines(), md.splitlines(), 'README.md', 'nbs/index.ipynb', lineterm=''
        )
    )
    there = {
        p.relative_to(ROOT).as_posix(): p.read_bytes() for p in (ROOT / 'README_files').glob('*')
    }
    return diff + [
        f'{k}: differs'
        for k in sorted(there.keys() | pictures.keys())
        if there.get(k) != pictures.get(k)
    ]


def write(md, pictures):
    shutil.rmtree(ROOT / 'README_files', ignore_errors=True)
    for name, data in pictures.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(data)
    (ROOT / 'README.md').write_text(md, encoding='utf-8')


if __name__ == '__main__':
    page = render(json.loads((ROOT / 'nbs/index.ipynb').read_text(encoding='utf-8')))
    if '--check' not in sys.argv:
        write(*page)
        print('README.md written')
    elif diff := check(*page):
        sys.exit('\n'.join(diff + ['README.md is not what `make readme` writes']))
