"""README.md from nbs/index.ipynb and its stored outputs, without Quarto; `--check` compares."""

import base64
import difflib
import json
import posixpath
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
PICTURES = ROOT / 'README_files'
NOTEBOOK = ROOT / 'nbs/index.ipynb'
HEAD = '<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook. -->\n\n'

# The start of a Markdown or HTML link, and its target where that is relative.
RELATIVE_LINK = re.compile(r'(\]\(|\b(?:src|href)=")(?![a-z]+:|[#/])([^)\s"]+)')
DIRECTIVE = re.compile(r'^#\|[ \t]*([\w-]+):?[ \t]*(.*?)[ \t]*$', re.M)
UNSEEN = {'hide', 'export', 'default_exp'}  # directives whose cells are on no page


def join(lines):
    "A notebook stores a text as a string or as a list of lines"
    return ''.join(lines)


def fence(text, lang=''):
    text = text.strip()
    return f'```{lang}\n{text}\n```' if text else ''


def from_root(markdown):
    "Links relative to nbs/ become links relative to the repository's top folder"

    def replace(match):
        start, target = match.groups()
        return start + posixpath.normpath(f'nbs/{target}')

    return RELATIVE_LINK.sub(replace, markdown)


def stream_markdown(output, asis):
    if output['name'] == 'stderr':
        return ''
    text = join(output['text'])
    return from_root(text) if asis else fence(text)


def output_markdown(output, asis, pictures):
    "One stored output as Markdown; a picture is added to `pictures`"
    if output['output_type'] == 'stream':
        return stream_markdown(output, asis)
    data = output.get('data', {})
    if 'text/markdown' in data:
        return from_root(join(data['text/markdown']))
    if 'image/png' in data:
        name = f'{PICTURES.name}/{len(pictures) + 1}.png'
        pictures[name] = base64.b64decode(join(data['image/png']))
        return f'![]({name})'
    plain = join(data.get('text/plain', ''))
    if plain.startswith('<'):  # `<… object>` tells a reader nothing
        return ''
    return fence(plain)


def shown_code(source):
    "The source without directives and without lines marked `#| hide_line`"
    lines = []
    for line in source.splitlines():
        if line.startswith('#|') or line.rstrip().endswith('#| hide_line'):
            continue
        lines.append(line)
    return '\n'.join(lines)


def code_markdown(cell, pictures):
    "A code cell as Markdown, by the directives that Quarto would follow"
    source = join(cell['source'])
    directives = dict(DIRECTIVE.findall(source))
    if directives.keys() & UNSEEN or directives.get('include') == 'false':
        return ''
    parts = []
    if directives.get('echo') != 'false':
        parts.append(fence(shown_code(source), 'python'))
    if directives.get('output') != 'false':
        asis = directives.get('output') == 'asis'
        for output in cell['outputs']:
            parts.append(output_markdown(output, asis, pictures))
    return '\n\n'.join(filter(None, parts))


def cell_markdown(cell, pictures):
    if cell['cell_type'] == 'markdown':
        return from_root(join(cell['source']))
    if cell['cell_type'] == 'code':
        return code_markdown(cell, pictures)
    return ''


def render(notebook):
    "The README's text, and its pictures as name -> bytes"
    pictures = {}
    parts = [cell_markdown(cell, pictures).strip() for cell in notebook['cells']]
    return HEAD + '\n\n'.join(filter(None, parts)) + '\n', pictures


def differences(text, pictures):
    "What README.md and README_files/ would change, as lines of a diff"
    stored = README.read_text(encoding='utf-8') if README.exists() else ''
    lines = list(
        difflib.unified_diff(
            stored.splitlines(), text.splitlines(), 'README.md', 'nbs/index.ipynb', lineterm=''
        )
    )
    stored_pictures = {f'{PICTURES.name}/{p.name}': p.read_bytes() for p in PICTURES.glob('*')}
    for name in sorted(stored_pictures.keys() | pictures.keys()):
        if stored_pictures.get(name) != pictures.get(name):
            lines.append(f'{name}: differs')
    return lines


def write(text, pictures):
    shutil.rmtree(PICTURES, ignore_errors=True)
    for name, data in pictures.items():
        PICTURES.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(data)
    README.write_text(text, encoding='utf-8')


def main():
    text, pictures = render(json.loads(NOTEBOOK.read_text(encoding='utf-8')))
    if '--check' not in sys.argv:
        write(text, pictures)
        print('README.md written')
        return
    lines = differences(text, pictures)
    if lines:
        sys.exit('\n'.join([*lines, 'README.md is not what `make readme` writes']))


if __name__ == '__main__':
    main()
