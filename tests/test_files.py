"""Files from strangers, damaged, foreign or made to harm: models and sounds. All is read in a process of little memory."""
import json, multiprocessing, os, pickle, resource, struct, sys, zipfile
import numpy as np, pytest, soundfile as sf, torch
from safetensors import safe_open
from safetensors.torch import save_file
from instruments_nbdev.training import load_model
from processes import CTX, limit_memory

def labelled(model, paths): return load_model(model).predict_paths(paths)

def outcome(model, sound):
    "What happens when a stranger's model labels a sound, in words"
    try: return 'error' if labelled(model, [sound]).error[0] else 'label'
    except Exception as e: return f'{type(e).__name__}: {e}'

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(1024 if sys.platform == 'linux' else 2**20)   # MB

@pytest.fixture(scope='module')
def small():
    "`small(f, ...)` is `f(...)` in a process that may use 1 GB more than it began with, within 30 s"
    pools = []
    def call(f, *args):
        if not pools: pools.append(CTX.Pool(1, limit_memory))
        try: return pools[0].apply_async(f, args).get(30)
        except multiprocessing.TimeoutError: pools.pop().terminate(); raise
    yield call
    for p in pools: p.terminate()

def refusal(said, path, why=''):
    "Was the file refused in one sentence, by name?"
    return said.startswith(f'TrainingError: {path}') and why in said and '\n' not in said and len(said) < 300+len(str(path))

@pytest.fixture
def bad(tmp_path): return tmp_path/'bad.safetensors'

@pytest.fixture
def said(small, bad, items): return lambda model=bad: small(outcome, model, items.path[0])

# Models

def test_a_whole_model_is_used(said, model): assert said(model) == 'label'

def test_cut_models(said, model, bad):
    data = model.read_bytes()
    for i in range(10): bad.write_bytes(data[:len(data)*i//10]); assert refusal(said(), bad, 'damaged')

def test_flipped_bytes(said, model, bad):
    "In the header, description or weights: an error in one sentence or a model, never anything else"
    data = bytearray(model.read_bytes()); n = 8 + struct.unpack('<Q', data[:8])[0]
    for i in [*range(9), *range(9, n, 37), n, len(data)-1]:
        data[i] ^= 1; bad.write_bytes(data); data[i] ^= 1
        assert (words := said()) == 'label' or refusal(words, bad), (i, words)

class Evil:
    "Opened by pickle, it leaves a trace"
    def __init__(self, trace): self.trace = str(trace)
    def __reduce__(self): return open, (self.trace, 'w')

FOREIGN = {
    'pickle': lambda bad, evil: bad.write_bytes(pickle.dumps(evil)),
    'checkpoint': lambda bad, evil: torch.save(evil, bad),
    'other tensors': lambda bad, _: save_file({'w': torch.ones(2)}, bad),
    'giant header': lambda bad, _: bad.write_bytes(struct.pack('<Q', 2**62) + b'{}'),
    'text': lambda bad, _: bad.write_text('hello'*99),
    'folder': lambda bad, _: bad.mkdir(), 'pipe': lambda bad, _: os.mkfifo(bad), 'missing': lambda bad, _: None}

@pytest.mark.parametrize('name', FOREIGN)
def test_foreign_models(name, said, bad, tmp_path):
    FOREIGN[name](bad, Evil(tmp_path/'trace'))
    assert refusal(words := said(), bad), words
    assert not (tmp_path/'trace').exists()

GONE = object()   # instead of a value: the entry is taken out

def forge(model, path, keys, value):
    "The weights of `model` under another description: `value` at `keys`, or a text that is all of it"
    with safe_open(model, 'pt') as f: text, state = f.metadata()['instruments_nbdev'], {k: f.get_tensor(k) for k in f.keys()}
    if keys:
        part = meta = json.loads(text)
        for k in keys[:-1]: part = part[k]
        if value is GONE: del part[keys[-1]]
        else: part[keys[-1]] = value
        value = json.dumps(meta)
    save_file(state, path, metadata={'instruments_nbdev': value})

FRONT, BODY, STORE = (('recipe', k) for k in ('front_end', 'body', 'store'))
WRONG = {
    (): ['{', '[]', '7', '["x"]', '['*100_000],
    ('format',): [GONE, None, 'x', 99],
    ('labels',): [GONE, None, 7, 'abcdefghij', [None]*10, [['a']]*10, ['a']*10, ['a', 'b']],
    ('recipe',): [GONE, None, [1], 'sounds-cnn'],
    ('recipe', 'evil'): [1],
    BODY: [None, [], 'training.MeanStdLinear', ['training.MeanStdLinear']],
    (*BODY, 0): [None, 'os.system', 'training.os', 'training.fit', '../evil'],
    (*BODY, 1): [None, [1], {}, dict(x=1)],
    (*BODY, 1, 'n_in'): [None, 31, -1, 2**23, 10**12],
    FRONT: [None, 3, [], ['training.fit', {}]],
    (*FRONT, 1, 'n_mels'): [None, 'x', -1, 0, 40, 2**15, 10**12],
    (*FRONT, 1, 'n_fft'): ['x', -1, 0, 2**26, 2**40],
    (*FRONT, 1, 'hop_length'): [0, -5],
    (*FRONT, 1, 'sr'): ['x', 0, 10**400],
    (*FRONT, 1, 'mel_scale'): ['x', 7],
    ('recipe', 'augment_features'): [3, [['training.fit', {}]]],
    ('recipe', 'window'): [None, 'x', -1, .5, 2**26, 10**12],
    (*STORE, 0): [None, 'os.system', 'training.fit']}
WRONG = [(keys, value) for keys, values in WRONG.items() for value in values]
def short(keys, value): return '.'.join(map(str, keys[1:] or keys)) + '=' + ('gone' if value is GONE else json.dumps(value)[:20])

@pytest.mark.parametrize('keys,value', WRONG, ids=[short(*w) for w in WRONG])
def test_wrong_descriptions(keys, value, small, said, model, bad):
    "They are refused before anything large is made"
    forge(model, bad, keys, value); before = small(peak)
    assert refusal(words := said(), bad), words
    assert small(peak) - before < 200, 'megabytes'

@pytest.mark.parametrize('sr', ['x', 0, -8000, 10**12, None])
def test_wrong_rates(sr, said, model, bad):
    forge(model, bad, (*STORE, 1, 'sr'), sr)
    assert (words := said()).startswith(('TrainingError', 'ItemError', 'SoundError')) and repr(sr) in words, words

def test_a_description_calls_nothing(said, model, bad, tmp_path):
    "No other function of this package is a network or a front end: this one would unpack an archive"
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z: z.writestr('a.txt', 'a')
    call = ['data.unpack', dict(archive=str(tmp_path/'a.zip'), dest=str(tmp_path/'trace'))]
    for keys, value in ((FRONT, call), (BODY, call), (('recipe', 'augment_features'), [call])):
        forge(model, bad, keys, value)
        assert refusal(words := said(), bad), words
        assert not (tmp_path/'trace').exists()

# Sounds

def patched(data, at, value): data = bytearray(data); data[at:at+len(value)] = value; return bytes(data)

def write(d, name, x, sr=8000, **kw): sf.write(d/name, np.asarray(x, 'float32'), sr, **kw); return (d/name).read_bytes()

def unusable(d, good, flac, ogg):
    "Sounds that must give an error each"
    floats = {'nan.wav': [np.nan]*99, 'inf.wav': [0, np.inf], 'hundred.wav': np.zeros((50, 100)), 'none.wav': []}
    for name, x in floats.items(): write(d, name, x, subtype='FLOAT')
    raw = {f'cut{n}.wav': good[:n] for n in (0, 3, 8, 12, 20, 36, 43)} | {'cut.flac': flac[:60], 'cut.ogg': ogg[:60],
        'text.wav': b'not a sound', 'text.mp3': b'ID3' + b'\xff'*999, 'new\nline.wav': b'x',
        'bits.wav': patched(good, 34, b'\xff\xff'),
        'channels.wav': patched(good, 22, b'\xff\xff'), 'no channels.wav': patched(good, 22, b'\0\0'),
        'rate.wav': patched(good, 24, b'\xff'*4), 'no rate.wav': patched(good, 24, bytes(4)),
        'claims.flac': patched(flac, 21, b'\x0f' + b'\xff'*4)}
    for name, data in raw.items(): (d/name).write_bytes(data)
    (d/'folder.wav').mkdir(); (d/'loop.wav').symlink_to(d/'loop.wav'); os.mkfifo(d/'pipe.wav')
    return [*floats, *raw, 'folder.wav', 'loop.wav', 'pipe.wav', 'missing.wav']

def test_hostile_sounds(small, model, tmp_path):
    tone = np.sin(np.arange(8000)/9)/2
    good, flac, ogg = (write(tmp_path, n, tone) for n in ('good.wav', 'good.flac', 'good.ogg')); write(tmp_path, 'one.wav', [.5])
    (tmp_path/'claims.wav').write_bytes(patched(good, 40, b'\xf0\xff\xff\xff'))   # four gigabytes, it says
    bad, usable = unusable(tmp_path, good, flac, ogg), ['good.wav', 'good.flac', 'good.ogg', 'one.wav', 'claims.wav']
    names = usable[:2] + bad + usable[2:]; paths = [str(tmp_path/n) for n in names]
    t = small(labelled, model, paths).assign(name=names).set_index('name')
    assert t.path.tolist() == paths
    assert (t.label[bad] == '').all() and t.prob[bad].isna().all() and t.error[bad].str.len().between(5, 120).all()
    assert (t.error[usable] == '').all() and t.label[usable].str.len().all() and t.prob[usable].between(0, 1).all()
    words = {'hundred.wav': '100 channels', 'nan.wav': 'not finite', 'none.wav': 'no samples', 'missing.wav': 'not a file'}
    assert all(w in t.error[name] for name, w in words.items())

def test_a_small_file_of_a_long_sound(small, model, tmp_path):
    "Half a megabyte of silence becomes more than the memory that there is: an error of its own, the others are labelled"
    write(tmp_path, 'good.wav', np.zeros(8000))
    with sf.SoundFile(tmp_path/'long.flac', 'w', 655_350, 1) as f:
        for _ in range(40): f.write(np.zeros(2**22, 'int16'))
    t = small(labelled, model, [str(tmp_path/n) for n in ('good.wav', 'long.flac')])
    assert t.label[0] and bool(t.label[1]) != bool(t.error[1])
