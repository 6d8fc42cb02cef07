"""Runs notebooks from top to bottom and keeps their outputs: `execute.py NOTEBOOK…`.

Pictures are kept with a palette of 256 colours: half the bytes or less, and no visible difference.
Players of `listen` are left out.
"""

import base64
import io
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


def with_palette(png: str) -> str:
    "A PNG in base64 with a palette of its own, if that is smaller"
    data = base64.b64decode(png)
    picture = Image.open(io.BytesIO(data)).convert('RGBA')
    small = io.BytesIO()
    picture.quantize(256, method=Image.Quantize.FASTOCTREE).save(small, 'PNG', optimize=True)
    if small.tell() >= len(data):
        return png
    return base64.b64encode(small.getvalue()).decode() + '\n'


def shrink_pictures(nb):
    for cell in nb.cells:
        for output in cell.get('outputs', []):
            pictures = output.get('data', {})
            if 'image/png' in pictures:
                pictures['image/png'] = with_palette(pictures['image/png'])


def execute(path: Path):
    "Runs one notebook in its own folder and writes it back with its outputs"
    nb = nbformat.read(path, as_version=4)
    NotebookClient(nb, timeout=None, resources={'metadata': {'path': str(path.parent)}}).execute()
    shrink_pictures(nb)
    nbformat.write(nb, path)


if __name__ == '__main__':
    # tqdm warns with a path of this machine wherever ipywidgets is missing
    os.environ['PYTHONWARNINGS'] = 'ignore:IProgress not found'
    os.environ['INSTRUMENTS_PLAYERS'] = '0'  # no recording of a data set is kept
    for name in sys.argv[1:]:
        print(name, flush=True)
        execute(Path(name).resolve())
