"""The pages of the site: notebooks as nbdev processes them, with links that lead somewhere.

pages.py           writes _proc/, which Quarto can render
pages.py --site    also renders it, to _docs/

nbdev turns each name in backticks into a link. It does so inside the text of other links, where
Markdown allows none, in the comments of signatures, which are code, and to names that have no
heading. Such links become plain code here, and all others relative, so that a copy of the site
anywhere leads to itself.
"""

import argparse
import ast
import base64
import inspect
import io
import json
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

from fastcore import docments
from nbdev import quarto, serve
from nbdev.config import get_config
from nbdev.processors import FilterDefaults
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PROCESSED = ROOT / '_proc'
SITE = ROOT / '_docs'

FENCED = re.compile(r'(^[ \t]*(?P<fence>```+|~~~+).*?^[ \t]*(?P=fence)[ \t]*$)', re.M | re.S)
HEADING = re.compile(r'^#{1,6}[ \t]+(.+?)[ \t]*#*$', re.M)
GIVEN_ANCHOR = re.compile(r'\s*\{[^}]*#([\w.-]+)[^}]*\}$')
LINK_TEXT = re.compile(r'\[([^\]]*)\]\([^)]*\)')
OUTPUT_FILE = re.compile(r'^output-file: (\S+)$', re.M)


def join(lines):
    "A notebook stores a text as a string or as a list of lines"
    return ''.join(lines)


# --- what nbdev makes ---
def has_only_imports(cell):
    statements = cell.parsed_() or []
    return all(isinstance(statement, (ast.Import, ast.ImportFrom)) for statement in statements)


def run_only_definitions(cell):
    """Keeps nbdev from running a cell that imports and also does something else.

    It runs cells to show signatures, which need exported code and imports only. What else a cell
    does may rest on a cell that was not run.
    """
    is_shown = cell.directives_.keys() & {'export', 'exports', 'exporti', 'exec_doc'}
    if cell.cell_type != 'code' or is_shown or 'show_doc(' in cell.source:
        return
    if not has_only_imports(cell):
        cell.directives_['eval:'] = ['false']


def signature(symbol, **kwargs):
    "That of inspect, except that a type which nobody has imported yet stays a name"
    try:
        return inspect.signature(symbol, **kwargs)
    except NameError:
        return inspect.signature(symbol)


class PageFilter(FilterDefaults):
    "nbdev's processors of a page, which run no test"

    def base_procs(self):
        processors = super().base_procs()
        names = [processor.__name__ for processor in processors]
        processors.insert(names.index('exec_show_docs'), run_only_definitions)
        return processors


def process():
    "What `nbdev_proc_nbs` does, in this process, less its installing of Quarto and this package"
    shutil.rmtree(PROCESSED, ignore_errors=True)
    quarto._ensure_quarto = lambda: None
    serve.FilterDefaults = PageFilter
    docments.signature = signature
    quarto.nbdev_proc_nbs.__wrapped__(n_workers=0)


def site_address():
    config = get_config()
    return f'{config.doc_host}{config.doc_baseurl}/'


# --- what a page holds ---
def markdown_of(notebook):
    "The Markdown of each cell and of each output that is shown as Markdown"
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
            yield join(cell['source'])
        for output in cell.get('outputs', []):
            if 'text/markdown' in output.get('data', {}):
                yield join(output['data']['text/markdown'])
            elif output['output_type'] == 'stream' and 'output: asis' in join(cell['source']):
                yield join(output['text'])


def without_fences(markdown):
    return FENCED.sub('', markdown)


def slug(heading):
    "The anchor that Pandoc makes of a heading"
    text = LINK_TEXT.sub(r'\1', heading).replace('`', '').lower()
    text = re.sub(r'[^\w\-. ]', '', text).replace(' ', '-')
    return re.sub(r'^[^a-z]+', '', text)


def anchors(texts):
    "The anchors of all headings of a page; one that comes again is counted"
    found = set()
    times = {}
    for text in texts:
        for heading in HEADING.findall(without_fences(text)):
            given = GIVEN_ANCHOR.search(heading)
            if given:
                found.add(given[1])
                continue
            name = slug(heading)
            times[name] = times.get(name, -1) + 1
            found.add(f'{name}-{times[name]}' if times[name] else name)
    return found


def html_name(path, notebook):
    "What Quarto calls a page, in the page's folder: nbdev leaves out the number of a lesson"
    given = OUTPUT_FILE.search(join(notebook['cells'][0]['source']))
    return given[1] if given else f'{path.stem}.html'


# --- mending ---
class Mender:
    "Mends the links that nbdev made on the pages of a site"

    def __init__(self, address, anchors_of):
        self.anchors_of = anchors_of  # page -> its anchors, pages as in html_name
        self.address = address
        made = rf'\[(?P<code>`[^`\n]+`)\]\({re.escape(address)}(?P<target>[^)\s]*)\)'
        self.made = re.compile(made)
        unnamed = re.sub(r'\?P<\w+>', '?:', made)
        self.around = re.compile(rf'\[(?:[^\[\]]|{unnamed})*{unnamed}(?:[^\[\]]|{unnamed})*\]\(')

    def unlink(self, text):
        return self.made.sub(r'\g<code>', text)

    def target(self, link):
        "Page and anchor to which a link can lead: the class, where a method has no heading"
        page, _, anchor = link.partition('#')
        known = self.anchors_of.get(page)
        if known is None:
            return None
        for name in (anchor, anchor.partition('.')[0]):
            if name in known:
                return page, name
        return None

    def relink(self, match, here):
        "One of nbdev's links, relative to the page `here`, or its text alone"
        target = self.target(match['target'])
        if target is None:
            return match['code']
        page, anchor = target
        path = '' if page == here else posixpath.relpath(page, posixpath.dirname(here) or '.')
        return f'[{match["code"]}]({path}#{anchor})'

    def prose(self, text, here):
        text = self.around.sub(lambda match: self.unlink(match[0]), text)
        return self.made.sub(lambda match: self.relink(match, here), text)

    def __call__(self, markdown, here):
        "The Markdown of a page with links mended, and none left in code"
        parts = []
        end = 0
        for block in FENCED.finditer(markdown):
            parts += [self.prose(markdown[end : block.start()], here), self.unlink(block[0])]
            end = block.end()
        return ''.join([*parts, self.prose(markdown[end:], here)])


def mend_page(notebook, here, mend):
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown':
            cell['source'] = mend(join(cell['source']), here)
        for output in cell.get('outputs', []):
            data = output.get('data', {})
            if 'text/markdown' in data:
                data['text/markdown'] = mend(join(data['text/markdown']), here)


# --- figures on white ---
def is_on_white(png):
    "Are all corners of a picture white? It is given as in a notebook, in base64."
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert('RGBA')
    right, bottom = picture.width - 1, picture.height - 1
    corners = [picture.getpixel((x, y)) for x in (0, right) for y in (0, bottom)]
    return all(min(corner) > 245 for corner in corners)


def mark_white_figures(notebook):
    "Gives cells whose figures are not transparent a class, for which styles.css has a rule"
    for cell in notebook['cells']:
        data = [output.get('data', {}) for output in cell.get('outputs', [])]
        pictures = [join(d['image/png']) for d in data if 'image/png' in d]
        if any(is_on_white(picture) for picture in pictures):
            cell['source'] = '#| classes: on-white\n' + join(cell['source'])


# --- all together ---
def read_pages(folder):
    "Processed notebooks by their place on the site, such as reference/files.html"
    pages = {}
    for path in sorted(folder.rglob('*.ipynb')):
        notebook = json.loads(path.read_text(encoding='utf-8'))
        place = path.with_name(html_name(path, notebook)).relative_to(folder).as_posix()
        pages[place] = path, notebook
    return pages


def mend_pages():
    "Mends the links of all processed notebooks, and marks figures that are not transparent"
    pages = read_pages(PROCESSED)
    anchors_of = {place: anchors(markdown_of(notebook)) for place, (_, notebook) in pages.items()}
    mend = Mender(site_address(), anchors_of)
    for place, (path, notebook) in pages.items():
        mend_page(notebook, place, mend)
        mark_white_figures(notebook)
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1), encoding='utf-8')


def render():
    "The site, by Quarto"
    if not shutil.which('quarto'):
        sys.exit('The site needs Quarto: https://quarto.org')
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=PROCESSED, check=True)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(PROCESSED / SITE.name, SITE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--site', action='store_true', help='render the site, to _docs/')
    args = parser.parse_args()
    process()
    mend_pages()
    if args.site:
        render()


if __name__ == '__main__':
    main()
