"""Files as phones, zips and strangers name and write them, through the commands.

What needs FFmpeg or pillow-heif is skipped where they are missing.
"""

import contextlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import soundfile as sf
from PIL import Image

from instruments_nbdev import files, inference
from instruments_nbdev.answers import answer, kind_of
from instruments_nbdev.app import instruments_train
from instruments_nbdev.files import ItemError, SoundError, walk
from instruments_nbdev.formats import ffmpeg_path, sound_file
from instruments_nbdev.model import load_model
from instruments_nbdev.prediction_app import instruments_evaluate, instruments_predict
from instruments_nbdev.runs import Run
from instruments_nbdev.storage import decode, decode_photo, photo_store, sound_store
from instruments_nbdev.streams import SoundStream
from processes import CTX

RATE, HZ, SECONDS = 16000, 500, 3

needs_ffmpeg = pytest.mark.skipif(not ffmpeg_path(), reason='no FFmpeg here')
AMR = ('-ar', '8000', '-c:a', 'libopencore_amrnb')
HOW = {
    'memo.m4a': (),
    'MEMO.M4A': ('-c:a', 'alac'),
    'book.m4b': ('-f', 'ipod'),
    'film.mp4': ('-f', 'lavfi', '-i', 'testsrc=d=3:s=64x64:r=5', '-c:v', 'mpeg4'),
    'radio.aac': (),
    'tagged.aac': ('-write_id3v2', '1', '-metadata', 'title=x'),
    'old.wma': (),
    'note.amr': AMR,
    'call.3gp': AMR,
    'chat.webm': ('-c:a', 'libopus'),
    'chat.mka': ('-c:a', 'libvorbis'),
    'apple.caf': ('-c:a', 'alac'),
}


def has_heic():
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        return False
    return True


needs_heic = pytest.mark.skipif(not has_heic(), reason='no pillow-heif here')


def tone(seconds=SECONDS, sr=RATE, hz=HZ):
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * sr)) / sr)


def encode(wav, path, *options):
    "A sound in another format; a test is skipped where this FFmpeg cannot write it"
    call = [ffmpeg_path(), '-y', '-loglevel', 'error', '-i', wav, *options, '-shortest', path]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr.splitlines()[0])
    return path


@pytest.fixture(scope='module')
def wav(tmp_path_factory):
    path = tmp_path_factory.mktemp('tone') / 'tone.wav'
    sf.write(path, tone(), RATE)
    return path


@pytest.fixture
def memo(wav, tmp_path):
    "A recording as a phone makes it"
    return encode(wav, tmp_path / 'memo.m4a')


def heic(path, size=(64, 48)):
    "A photo as a phone makes it: red on the left, blue on the right"
    import pillow_heif

    pillow_heif.register_heif_opener()
    photo = Image.new('RGB', size, 'blue')
    photo.paste('red', (0, 0, size[0] // 2, size[1]))
    photo.save(path, format='HEIF', quality=90)
    return path


def main_frequency(x, sr):
    return np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * sr / len(x)


# Sounds


@needs_ffmpeg
@pytest.mark.parametrize('name', HOW)
def test_sounds_of_phones(name, wav, tmp_path):
    path = encode(wav, tmp_path / name, *HOW[name])
    x, sr = decode(path)
    assert abs(len(x) / sr - SECONDS) < 0.2
    assert abs(main_frequency(x, sr) - HZ) < 2 and abs(np.abs(x).max() - 0.3) < 0.1
    with SoundStream(path) as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream)), x)
    assert kind_of(path.read_bytes()) == kind_of(path.read_bytes()[:64]) == 'sound'
    store = sound_store([path], RATE, cache=tmp_path, progress=False)
    assert abs(len(store[0]) / RATE - SECONDS) < 0.2


@needs_ffmpeg
@pytest.mark.parametrize(
    'name',
    [
        '-i.m4a',
        'a%03d.m4a',
        'concat:a|b.m4a',
        'http:⧸⧸x.m4a',
        'new\nline.m4a',
        'e\u0301 名前 🎻.m4a',
        os.fsdecode(b'\xff\xfe.m4a'),
        'no suffix',
        'a lie.wav',
    ],
)
def test_any_name(name, memo, tmp_path, monkeypatch):
    try:
        shutil.copy(memo, tmp_path / name)
    except OSError as e:
        pytest.skip(f'no such names here: {e.strerror}')
    monkeypatch.chdir(tmp_path)
    assert len(decode(name)[0]) == len(decode(memo)[0])
    with sound_file(name) as sound:
        assert len(sound.read()) == len(decode(memo)[0])


@needs_ffmpeg
def test_a_process_never_stays(memo, tmp_path):
    psutil = pytest.importorskip('psutil')

    def children():
        return [p for p in psutil.Process().children() if 'ffmpeg' in p.name()]

    before = children()
    with sound_file(memo) as sound:
        sound.read(10)
        assert len(children()) == len(before) + 1
    assert children() == before
    with pytest.raises(ZeroDivisionError), sound_file(memo) as sound:
        raise ZeroDivisionError
    (tmp_path / 'half.m4a').write_bytes(memo.read_bytes()[:5000])
    with pytest.raises(SoundError), sound_file(tmp_path / 'half.m4a'):
        pass
    with pytest.raises(SoundError, match='has 2 channels'), SoundStream(memo) as stream:
        raise SoundError(f'has {stream._file.channels + 1} channels')
    blocks = SoundStream(memo)
    with blocks:
        next(iter(blocks))
    assert children() == before


def read_long(path):
    "Seconds of a sound, and how much the most memory grew while it was read, in MB"
    import resource

    with sound_file(path) as sound:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        n = 0
        while len(block := sound.read(2**16)):
            n += len(block)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return n / sound.samplerate, (after - before) / 1024


@needs_ffmpeg
@pytest.mark.skipif(sys.platform != 'linux', reason='memory in other units')
def test_hours_take_no_more_memory_than_seconds(wav, tmp_path, counts):
    short = encode(wav, tmp_path / 'x.aac', '-ar', '8000', '-b:a', '16k')
    long = tmp_path / 'long.aac'
    long.write_bytes(short.read_bytes() * 3600)
    with CTX.Pool(1) as pool:
        seconds, grown = pool.apply(read_long, (long,))
    assert seconds > 3 * 3600 and grown < 20
    counts(f'{seconds / 3600:.1f} hours of AAC read: {grown:.0f} MB more memory')


@needs_ffmpeg
def test_what_is_broken_has_a_reason(memo, tmp_path):
    silent_film = tmp_path / 'film.mp4'
    picture = ('-f', 'lavfi', '-i', 'testsrc=d=1:s=64x64', '-c:v', 'mpeg4')
    subprocess.run([ffmpeg_path(), '-loglevel', 'error', *picture, silent_film], check=True)
    data = memo.read_bytes()
    broken = {
        silent_film: 'has no sound in it',
        'half.m4a': (data[: len(data) // 2], 'cannot be decoded: moov atom not found'),
        'start.m4a': (data[:12], 'cannot be decoded'),
        'zeros.m4a': (data[:32] + bytes(4000), 'cannot be decoded'),
        'other.m4a': (b'no sound', 'cannot be decoded: Format not recognised'),
        'empty.m4a': (b'', 'cannot be decoded'),
    }
    for name, what in broken.items():
        path, reason = tmp_path / name, what
        if isinstance(what, tuple):
            path.write_bytes(what[0])
            reason = what[1]
        with pytest.raises(SoundError) as e:
            decode(path)
        assert str(e.value).startswith(f'{path} {reason}')
        assert '\n' not in str(e.value).removeprefix(str(path)) and len(str(e.value)) < 300


class Server(http.server.BaseHTTPRequestHandler):
    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@needs_ffmpeg
@pytest.mark.parametrize('suffix', ['m4a', 'aac', 'mka', 'wma', 'webm', 'm3u8'])
def test_a_playlist_opens_nothing(suffix, wav, tmp_path):
    with http.server.HTTPServer(('127.0.0.1', 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/x.aac'
        lists = [
            f'#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{url}\n#EXT-X-ENDLIST\n',
            f"ffconcat version 1.0\nfile '{wav}'\n",
            f'[playlist]\nFile1={url}\nNumberOfEntries=1\n',
            f'<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
            f'[Reference]\nRef1={url}\n',
        ]
        for text in lists:
            path = tmp_path / f'list.{suffix}'
            path.write_text(text)
            with pytest.raises(SoundError, match='cannot be decoded'):
                decode(path)
        server.shutdown()
    assert not Server.asked


@pytest.fixture
def no_extras(monkeypatch):
    "Neither FFmpeg nor pillow-heif"
    monkeypatch.setenv('PATH', '')
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    monkeypatch.delitem(Image.OPEN, 'HEIF', raising=False)


INSTALL = 'must be installed: pip install "instruments_nbdev[formats]"'


def test_without_the_extras_a_sentence_says_what_to_install(no_extras, tmp_path, capsys):
    sound, photo = tmp_path / 'memo.m4a', tmp_path / 'IMG_1.HEIC'
    sound.write_bytes(b'\0\0\0\x1cftypM4A \0\0\0\0')
    photo.write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0')
    with pytest.raises(SoundError) as e:
        decode(sound)
    assert str(e.value) == f'{sound} is an MPEG-4 file, for which FFmpeg {INSTALL}'
    with pytest.raises(ItemError) as e:
        decode_photo(photo)
    assert str(e.value) == f'{photo} is HEIC, for which pillow-heif {INSTALL}'
    assert instruments_predict('sounds', [str(sound)]) == 1
    assert instruments_predict('photos', [str(photo)]) == 1
    said = capsys.readouterr().out
    assert f'{sound}: is an MPEG-4 file, for which' in said and f'{photo}: is HEIC, for' in said
    assert answer(sound).headline.startswith('memo.m4a is an MPEG-4 file')
    assert answer(photo).headline.startswith('IMG_1.HEIC is HEIC')
    assert kind_of(photo.read_bytes()) == 'photo' and kind_of(sound.read_bytes()) == 'sound'


@needs_ffmpeg
@needs_heic
def test_a_store_tries_again_once_the_extras_are_there(memo, tmp_path, request):
    photo = heic(tmp_path / 'x.heic')
    request.getfixturevalue('no_extras')
    how = dict(cache=tmp_path / 'cache', skip_broken=True, progress=False)
    assert sound_store([memo], RATE, **how).broken and photo_store([photo], 32, **how).broken
    request.getfixturevalue('monkeypatch').undo()
    assert not sound_store([memo], RATE, **how).broken
    assert not photo_store([photo], 32, **how).broken


# Photos


@needs_heic
def test_heic(tmp_path):
    path = heic(tmp_path / 'IMG_0001.HEIC')
    x = decode_photo(path, 40)
    assert x[:, :15, 0].min() > 200 and x[:, 25:, 2].min() > 200
    assert kind_of(path.read_bytes()) == 'photo'
    (tmp_path / 'half.heic').write_bytes(path.read_bytes()[:300])
    with pytest.raises(ItemError, match='half.heic is none of JPEG'):
        decode_photo(tmp_path / 'half.heic')


@needs_heic
def test_heic_lies_upright(tmp_path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    photo = Image.open(heic(tmp_path / 'x.heic'))
    exif = Image.Exif()
    exif[0x112] = 6  # the camera was held upright: what was left is above
    photo.save(tmp_path / 'y.heic', exif=exif.tobytes(), quality=90)
    x = decode_photo(tmp_path / 'y.heic', 40)
    assert x[:15, :, 0].min() > 200 and x[25:, :, 2].min() > 200


# Trees


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names_below(folder, **options):
    return [os.path.relpath(path, folder) for path in walk(folder, **options)]


def test_a_walk_asks_a_file_nothing(tmp_path, monkeypatch):
    touch(tmp_path, *(f'{i % 10}/{i}.wav' for i in range(2000)))
    asked = []
    plain = os.stat
    monkeypatch.setattr(os, 'stat', lambda path, **kw: asked.append(path) or plain(path, **kw))
    assert len(names_below(tmp_path)) == 2000
    assert len(asked) == 11  # a folder each


def test_loops_end(tmp_path):
    touch(tmp_path, 'top/a/1.wav', 'top/b/2.wav', 'beside/3.wav')
    top = tmp_path / 'top'
    for link, target in {
        'a/itself': '.',
        'a/top': '..',
        'a/b': '../b',
        'b/all': tmp_path,
        'b/disk': '/',
        'c1': '../beside',
        'c2': '../beside',
        'd1': 'd2',
        'd2': 'd1',
    }.items():
        (top / link).symlink_to(target)
    (tmp_path / 'beside/back').symlink_to('../top/a')
    assert names_below(top) == ['a/1.wav', 'b/2.wav', 'c1/3.wav']


def test_thousands_of_folders_in_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        os.mkdir('d')
        os.chdir('d')
    open('x.wav', 'w').close()
    os.chdir(tmp_path)
    try:
        assert [path.count('d') for path in walk('.')] == [1500]
    finally:
        subprocess.run(['rm', '-rf', tmp_path / 'd'], check=True)
    assert not capsys.readouterr().err


def test_a_folder_that_cannot_be_read_is_no_stop(tmp_path, monkeypatch, capsys):
    touch(tmp_path, 'a/1.wav', 'lock\ned/2.wav', 'z/3.wav')
    plain = os.scandir

    def scandir(path):
        if 'lock' in os.fspath(path)[len(str(tmp_path)) :]:
            raise PermissionError(13, 'Permission denied', path)
        return plain(path)

    monkeypatch.setattr(files.os, 'scandir', scandir)
    assert names_below(tmp_path) == ['a/1.wav', 'z/3.wav']
    assert capsys.readouterr().err == f'{tmp_path}/lock\\ned cannot be read: Permission denied\n'


# Commands


@pytest.fixture
def archive(tmp_path, wav):
    "What a zip of a phone and a Mac leaves, in two classes; nobody may write there"
    d = tmp_path / 'an archive'
    sounds = [wav.read_bytes()]
    sf.write(high := io.BytesIO(), tone(hz=3000), RATE, format='WAV')
    sounds.append(high.getvalue())
    for label, data in zip(('Hörner', '笛 🎵'), sounds, strict=True):
        touch(d, f'{label}/._1.wav', f'__MACOSX/{label}/._1.wav', f'{label}/.DS_Store')
        for i in range(4):
            (d / label / f'TAKE {i}.WAV').write_bytes(data)
        (d / label / 'e\u0301 – \u202e.wav').write_bytes(data)
        (d / label / 'new\nline.wav').write_bytes(data)
        with contextlib.suppress(OSError):  # not every file system has such names
            (d / label / os.fsdecode(b'\xff.wav')).write_bytes(data)
        (d / label / 'loop').symlink_to('..')
        (d / label / 'gone.wav').symlink_to('nowhere')
        if ffmpeg_path():
            encode(d / label / 'TAKE 0.WAV', d / label / 'memo.m4a')
    everything = [d, *d.rglob('*')]
    for path in everything:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o555)
    before = {path: os.lstat(path).st_mtime_ns for path in everything}
    yield d
    assert {path: os.lstat(path).st_mtime_ns for path in [d, *d.rglob('*')]} == before
    for path in everything:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


def test_predict(archive, tmp_path, capfd):
    good = [path for path in walk(archive) if 'gone' not in path]
    assert instruments_predict('sounds', [str(archive)], csv=str(tmp_path / 'x.csv')) == 1
    table = pd.read_csv(tmp_path / 'x.csv', keep_default_na=False)
    assert len(table) == len(good) + 2
    broken = table[table.error != '']
    assert [os.path.basename(path) for path in broken.path] == ['gone.wav'] * 2
    assert (table.label[table.error == ''] != '').all()
    assert instruments_predict('sounds', [str(archive)]) == 1
    said = capfd.readouterr().out
    assert len(said.splitlines()) == len(good) + 3 and 'new\\nline.wav: ' in said


@needs_ffmpeg
def test_long_recordings_with_a_bar(archive, memo, tmp_path, monkeypatch, capsys):
    "Also where no header says how long one is, a name is no text, or nothing can be read"
    monkeypatch.setattr(inference, '_LARGE', 1000)
    (tmp_path / 'broken.wav').write_bytes(bytes(2000))
    paths = [*walk(archive), str(memo), str(tmp_path / 'broken.wav')]
    rows = list(load_model('sounds').predict_rows(paths, progress=True))
    assert [row['path'] for row in rows if row['error']] == [str(tmp_path / 'broken.wav')]


def test_a_named_file_is_taken_whatever_its_name(wav, tmp_path, capsys):
    odd = tmp_path / '.hidden.xyz'
    shutil.copy(wav, odd)
    assert instruments_predict('sounds', [str(odd)]) == 0
    assert str(odd) in capsys.readouterr().out


def test_train_and_evaluate(archive, tmp_path, capsys):
    out = tmp_path / 'run'
    how = dict(data=str(archive), layout='folders', epochs=1, weights='none', out=str(out))
    instruments_train('sounds-cnn', **how)
    said = capsys.readouterr().out
    assert 'left out: ' in said and 'new\\nline.wav' in said and 'gone.wav' in said
    run = Run(out)
    assert run.model.labels == ['Hörner', '笛 🎵']
    assert instruments_evaluate(str(out), str(archive)) == 1
    said = capsys.readouterr()
    assert said.err.count('gone.wav is not a file') == 2
    assert len([line for line in said.out.splitlines() if 'truth' in line]) == len(
        [path for path in walk(archive) if 'gone' not in path]
    )


def test_evaluate_with_texts(wav, tmp_path, capsys):
    clips = tmp_path / 'clips'
    clips.mkdir()
    for name in ('A-1', os.fsdecode(b'\xff-1'), 'b\n-2'):
        with contextlib.suppress(OSError):
            shutil.copy(wav, clips / f'{name}.WAV')
            (clips / f'{name}.TXT').write_text('dog')
    touch(clips, '._A-1.WAV', '__MACOSX/x.wav')
    assert instruments_evaluate('sounds', str(clips), csv=str(tmp_path / 'x.csv')) == 0
    assert len(pd.read_csv(tmp_path / 'x.csv')) == len(list(clips.glob('*.TXT')))


@needs_ffmpeg
def test_the_page_takes_them(memo, tmp_path):
    got = answer(memo)
    assert abs(got.seconds - SECONDS) < 0.2 and got.model == 'sounds'
    (tmp_path / 'long.aac').write_bytes(encode(memo, tmp_path / 'x.aac').read_bytes() * 220)
    said = answer(tmp_path / 'long.aac').headline
    assert said.startswith('long.aac lasts more minutes than the 10 that are taken here')
    if has_heic():
        assert answer(heic(tmp_path / 'x.heic')).model == 'photos'
