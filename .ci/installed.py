"""Tries the installed package: imports every module, predicts with every bundled model.

Run by the Python of the environment to be tried, in an empty folder outside the repository.
"""

import csv
import pkgutil
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image, ImageDraw

import instruments_nbdev

# Which file each bundled model is asked about.
MODELS = {
    'sounds': 'tone.wav',
    'genres': 'tone.wav',
    'instruments': 'tone.wav',
    'photos': 'drawn.png',
}


def import_all():
    "Imports every module and says how many there are"
    names = [m.name for m in pkgutil.walk_packages(instruments_nbdev.__path__)]
    for name in names:
        import_module(f'{instruments_nbdev.__name__}.{name}')
    print(f'{len(names)} modules imported from {Path(instruments_nbdev.__file__).parent}')


def write_tone(path):
    "Five seconds of 440 Hz"
    rate = 16000
    time = np.arange(5 * rate) / rate
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * time), rate)


def draw_picture(path):
    "A drum: an ellipse on a box"
    picture = Image.new('RGB', (320, 240), 'white')
    pen = ImageDraw.Draw(picture)
    pen.rectangle((80, 100, 240, 200), fill='darkred')
    pen.ellipse((80, 70, 240, 130), fill='beige', outline='black', width=3)
    picture.save(path)


def bundled_names():
    folder = Path(instruments_nbdev.__file__).parent / 'models'
    return {path.stem for path in folder.glob('*.safetensors')}


def predict(command, model, file):
    "The row that `instruments_predict` writes for a file"
    table = Path(f'{model}.csv')
    status = command(model, [file], csv=str(table))
    assert not status, f'{model}: exit status {status}'
    with open(table, newline='', encoding='utf-8') as f:
        (row,) = csv.DictReader(f)
    assert row['label'], f'{model}: {row}'
    assert not row['error'], f'{model}: {row}'
    return row


def main():
    import_all()
    write_tone('tone.wav')
    draw_picture('drawn.png')
    assert bundled_names() == MODELS.keys(), 'a bundled model is not tried here'
    (found,) = entry_points(group='console_scripts', name='instruments_predict')
    command = found.load()
    for model, file in MODELS.items():
        row = predict(command, model, file)
        print(f'{model}: {file} is {row["label"]} ({float(row["prob"]):.0%})')


if __name__ == '__main__':
    main()
