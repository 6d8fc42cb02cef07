"""A hundred malformed sounds and a hundred malformed photos, made here from a seed.

Some of them can be read after all.
"""

import io
import os
import pickle
import random
import struct
import zipfile
import zlib

import numpy as np
import soundfile as sf
from PIL import Image

TONE = np.sin(np.arange(4000) / 9) / 2


def sound(x=TONE, sr=8000, **kw):
    sf.write(b := io.BytesIO(), np.asarray(x), sr, **kw)
    return b.getvalue()


def picture(size=(40, 30), mode='RGB'):
    "A gradient"
    w, h = size
    y, x = np.mgrid[:h, :w]
    a = np.stack([255 * x // w, 255 * y // h, (x * y) % 256], -1).astype('u1')
    return Image.fromarray(a).convert(mode)


def photo(im=None, kind='PNG', **kw):
    (im or picture()).save(b := io.BytesIO(), kind, **kw)
    return b.getvalue()


def patched(data, at, value):
    return data[:at] + value + data[at + len(value) :]


def cut(base, rng, each):
    "Each file cut: at its start, somewhere in its header, half-way, and just before its end"

    def places(n):
        return [1, 4, 13, n // 2, n - 1, *rng.sample(range(14, min(n // 2, 400)), each - 5)]

    return {f'cut at {n}.{ext}': data[:n] for ext, data in base.items() for n in places(len(data))}


def flipped(base, rng, n):
    "Files with up to four wrong bytes among their first hundred"

    def one(data):
        data = bytearray(data)
        for i in rng.sample(range(100), rng.randint(1, 4)):
            data[i] ^= rng.randint(1, 255)
        return bytes(data)

    return {
        f'flipped {i}.{ext}': one(base[ext]) for i, ext in enumerate(rng.choices(list(base), k=n))
    }


class Evil:
    "Opened by pickle, it leaves a trace"

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return open, (self.trace, 'w')


PDF, HTML = (
    b'%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n',
    b'<!doctype html><script>alert(1)</script><p>hello</p>\n',
)


def strangers(good, ext, trace):
    "Other kinds of files glued before or behind a good one, or alone under its name"
    with zipfile.ZipFile(z := io.BytesIO(), 'w') as f:
        f.writestr('../evil.txt', 'evil')
    other = dict(pdf=PDF, html=HTML, zip=z.getvalue(), pickle=pickle.dumps(Evil(trace)))
    return {
        f'{k} {how}.{ext}': data
        for k, v in other.items()
        for how, data in dict(before=v + good, behind=good + v, alone=v).items()
    }


def odd(d, ext, good):
    "Names that are no regular files, or that nobody would give one; gives them"
    (d / f'folder.{ext}').mkdir()
    (d / f'folder.{ext}' / f'inside.{ext}').write_bytes(good)
    os.mkfifo(d / f'pipe.{ext}')
    (d / f'loop.{ext}').symlink_to(d / f'loop.{ext}')
    (d / f'dangling.{ext}').symlink_to(d / 'nowhere')
    (d / f'device.{ext}').symlink_to('/dev/zero')
    (d / f'memory.{ext}').symlink_to('/proc/self/mem')
    (d / f'locked.{ext}').write_bytes(good)
    (d / f'locked.{ext}').chmod(0)
    (d / f'new\nline.{ext}').write_bytes(b'x')
    return [
        f'folder.{ext}/inside.{ext}',
        *(
            f'{n}.{ext}'
            for n in ('pipe', 'loop', 'dangling', 'device', 'memory', 'locked', 'new\nline')
        ),
    ]


def wrong_numbers(wav, aiff, flac):
    "Lengths, rates and counts that are lies, in headers that are whole"
    at = dict(riff=4, fmt=16, tag=20, channels=22, rate=24, align=32, bits=34, data=40)
    lies = dict(
        riff=[0, 1, 2**31 - 1, 2**32 - 1],
        fmt=[0, 15, 2**31 - 1],
        data=[0, 3, 2**31 - 1, 2**32 - 1],
        rate=[0, 1, 999, 2**31, 2**32 - 1],
    )
    short = dict(tag=[0, 0x55, 0xFFFF], channels=[0, 100, 0xFFFF], align=[0], bits=[0, 1, 0xFFFF])
    out = {
        f'{k} {v}.wav': patched(wav, at[k], struct.pack('<I', v))
        for k, vs in lies.items()
        for v in vs
    }
    out |= {
        f'{k} {v}.wav': patched(wav, at[k], struct.pack('<H', v))
        for k, vs in short.items()
        for v in vs
    }
    return out | {
        'channels.aiff': patched(aiff, aiff.index(b'COMM') + 8, b'\xff\xff'),
        'rate.aiff': patched(aiff, aiff.index(b'COMM') + 16, b'\x7f' + b'\xff' * 9),
        'claims.flac': patched(flac, 21, b'\x0f' + b'\xff' * 4),
        'rate.flac': patched(flac, 18, bytes(3)),
    }


def wrong_samples():
    kinds = dict(wav=dict(format='WAV', subtype='FLOAT'))
    x = {
        'nan': [np.nan] * 99,
        'one nan': [*TONE, np.nan],
        'inf': [0, np.inf],
        'minus inf': [-np.inf] * 9,
        'huge': TONE * 1e30,
        'none': [],
        'one': [0.5],
        'hundred': np.zeros((50, 100)),
    }
    out = {f'{k}.wav': sound(v, **kinds['wav']) for k, v in x.items()}
    return out | {
        'doubles.wav': sound([1e300, -1e300], format='WAV', subtype='DOUBLE'),
        'none.flac': sound([], format='FLAC'),
        'none.ogg': sound([], format='OGG'),
        'none.aiff': sound([], format='AIFF'),
    }


def noise(heads, ext, rng):
    return {
        f'noise {i}.{ext}': h + rng.randbytes(rng.randint(1, 3000)) for i, h in enumerate(heads)
    }


def sounds(d, trace, seed=0, n=100):
    "`n` malformed sounds below the folder `d`: their names"
    rng, base = (
        random.Random(seed),
        {k: sound(format=k.upper()) for k in ('wav', 'flac', 'ogg', 'mp3', 'aiff')},
    )
    files = (
        cut(base, rng, 6)
        | wrong_numbers(*(base[k] for k in ('wav', 'aiff', 'flac')))
        | wrong_samples()
    )
    files |= noise(
        [b'', b'RIFF\0\0\0\0WAVEfmt ', b'fLaC', b'OggS\0\2', b'ID3\3\0'], 'wav', rng
    ) | strangers(base['wav'], 'wav', trace)
    files['zero bytes.wav'] = b''
    return write(d, files, base, 'wav', rng, n)


def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def png(w, h, bits=1, colour=0, data=None, extra=b''):
    "A black PNG of any size, or one that only claims it; `colour` 0 is grey, 2 RGB, 6 RGBA"
    if data is None:
        data = zlib.compress(bytes(1 + (w * bits * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8) * h, 1)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, colour, 0, 0, 0))
        + extra
        + chunk(b'IDAT', data)
        + chunk(b'IEND', b'')
    )


def giants(base):
    "Sides of 30,000, true or claimed, and little files that would fill the memory"
    bomb, side = zlib.compress(bytes(2**26)), struct.pack('<H', 30_000)
    sof = base['jpg'].index(b'\xff\xc0') + 5
    return {
        'wide.png': png(30_000, 1),
        'high.png': png(1, 30_000),
        'wide.jpg': photo(picture((30_000, 2)), 'JPEG'),
        'large.png': png(30_000, 2_000, 8),
        'coloured.png': png(30_000, 1_300, 8, 6),
        'square.png': png(30_000, 30_000),
        'above.png': png(30_000, 4_000),
        'claims.png': png(30_000, 30_000, 8, 2, b'x'),
        'claims little.png': png(30_000, 2_000, 8, 2, b'x'),
        'zero sides.png': png(0, 0),
        'claims.gif': patched(base['gif'], 6, side * 2),
        'claims.jpg': patched(base['jpg'], sof, struct.pack('>HH', 30_000, 30_000)),
        'claims.bmp': patched(base['bmp'], 18, struct.pack('<ii', 30_000, 30_000)),
        'negative.bmp': patched(base['bmp'], 18, struct.pack('<ii', -40, 2**31 - 1)),
        'text.png': png(9, 9, extra=chunk(b'zTXt', b'k\0\0' + bomb)),
        'profile.png': png(9, 9, extra=chunk(b'iCCP', b'k\0\0' + bomb)),
        'inflates.png': png(9, 9, data=bomb),
    }


def modes():
    "What cameras and programs do write, if seldom: most of it is good"
    deep = Image.fromarray((np.arange(1200).reshape(30, 40) * 50).astype('u2'))
    real = Image.fromarray(np.full((9, 9), np.nan, 'f4'))
    frames = dict(save_all=True, append_images=[picture().rotate(90)] * 3)
    exif = Image.Exif()
    exif[0x112] = 99
    out = {f'{m}.png': photo(picture(mode=m)) for m in ('1', 'L', 'LA', 'P', 'RGBA')} | {
        'CMYK.jpg': photo(picture(mode='CMYK'), 'JPEG'),
        'CMYK.tif': photo(picture(mode='CMYK'), 'TIFF'),
    }
    out |= {
        '16 bit.png': photo(deep),
        '16 bit.tif': photo(deep, 'TIFF'),
        'nan.tif': photo(real, 'TIFF'),
        'LAB.tif': photo(picture(mode='LAB'), 'TIFF'),
    }
    out |= {
        f'frames.{k}': photo(None, kind, **frames)
        for k, kind in dict(gif='GIF', webp='WEBP', png='PNG', tif='TIFF').items()
    }
    out |= {f'one pixel.{k}': photo(picture((1, 1)), kind) for k, kind in KINDS.items()}
    broken = dict(
        turned=exif,
        cut=b'Exif\0\0II*\0',
        noise=b'Exif\0\0' + bytes(range(256)),
        loop=b'Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\xff\xff\xff\xff\x08\0\0\0',
    )
    return out | {f'exif {k}.jpg': photo(None, 'JPEG', exif=v) for k, v in broken.items()}


KINDS = dict(jpg='JPEG', png='PNG', webp='WEBP', gif='GIF', bmp='BMP', tif='TIFF')


def photos(d, trace, seed=0, n=100):
    "`n` malformed photos below the folder `d`: their names"
    rng, base = random.Random(seed), {k: photo(None, kind) for k, kind in KINDS.items()}
    files = (
        cut({k: base[k] for k in ('jpg', 'png', 'webp', 'gif', 'bmp', 'tif')}, rng, 5)
        | giants(base)
        | modes()
        | strangers(base['jpg'], 'jpg', trace)
    )
    files['zero bytes.jpg'] = b''
    return write(d, files, base, 'jpg', rng, n)


def write(d, files, base, ext, rng, n):
    d.mkdir(parents=True)
    names = odd(d, ext, base[ext])
    files |= flipped(base, rng, n - len(files) - len(names))
    for name, data in files.items():
        (d / name).write_bytes(data)
    return [*files, *names]
