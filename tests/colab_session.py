"""A Colab session in small: `colab_session.py CELLS.json` runs code cells one after the other.

The module google.colab is there, the current folder is empty, and an error ends the session.
"""

import json
import sys
import types
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell


class Shell(InteractiveShell):
    "A shell without windows, so that `%matplotlib inline` works"

    def enable_gui(self, gui=None):
        pass


def fake_colab():
    google = types.ModuleType('google')
    google.colab = types.ModuleType('google.colab')
    sys.modules['google'] = google
    sys.modules['google.colab'] = google.colab


def run_cells(sources):
    shell = Shell.instance(colors='nocolor')
    for number, source in enumerate(sources, start=1):
        print(f'cell {number}', flush=True)
        shell.run_cell(source).raise_error()


if __name__ == '__main__':
    cells = json.loads(Path(sys.argv[1]).read_text(encoding='utf-8'))
    fake_colab()
    run_cells(cells)
