"""Puts the Colab cell of colab_cell.py into every lesson: `make colab`; `--check` only compares."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CELL_FILE = ROOT / '.ci/colab_cell.py'
CELL_ID = '13dff917'
MARK = "'google.colab' in sys.modules"


def lessons(root=ROOT):
    return sorted((root / 'nbs').glob('0*.ipynb'))


def cell_source():
    return CELL_FILE.read_text(encoding='utf-8').rstrip('\n')


def read_notebook(path):
    return json.loads(path.read_text(encoding='utf-8'))


def write_notebook(notebook, path):
    "Writes a notebook as nbdev_clean does"
    text = json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False)
    path.write_text(text + '\n', encoding='utf-8')


def source(cell):
    return ''.join(cell['source'])


def is_colab_cell(cell):
    return cell['cell_type'] == 'code' and MARK in source(cell)


def is_first_code(cell):
    "Is this a code cell that needs the package? `#| default_exp` alone does not."
    if cell['cell_type'] != 'code':
        return False
    statements = [line for line in source(cell).splitlines() if not line.startswith('#')]
    return any(line.strip() for line in statements)


def with_colab_cell(notebook):
    "The notebook with exactly one Colab cell, before all other code"
    cells = [cell for cell in notebook['cells'] if not is_colab_cell(cell)]
    place = next(i for i, cell in enumerate(cells) if is_first_code(cell))
    colab_cell = {
        'cell_type': 'code',
        'execution_count': None,
        'id': CELL_ID,
        'metadata': {},
        'outputs': [],
        'source': cell_source().splitlines(keepends=True),
    }
    cells.insert(place, colab_cell)
    return {**notebook, 'cells': cells}


def wrong_lessons(root=ROOT):
    "Names of the lessons whose Colab cell is missing, different or not the first code"
    names = []
    for path in lessons(root):
        cells = read_notebook(path)['cells']
        found = [source(cell) for cell in cells if is_colab_cell(cell)]
        first = next(source(cell) for cell in cells if is_first_code(cell))
        if found != [cell_source()] or first != cell_source():
            names.append(path.name)
    return names


def write_lessons(root=ROOT):
    names = wrong_lessons(root)
    for name in names:
        path = root / 'nbs' / name
        write_notebook(with_colab_cell(read_notebook(path)), path)
    return names


def main():
    if '--check' in sys.argv:
        names = wrong_lessons()
        if names:
            sys.exit(f'{", ".join(names)}: not the Colab cell of .ci/colab_cell.py; `make colab`')
        return
    print('written into', ', '.join(write_lessons()) or 'no lesson: all have it')


if __name__ == '__main__':
    main()
