# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makers of what the table gives: pictures, sounds and model folders with one thing wrong, each a function of the case's folder."""
import io
import json
import math
import os
import pathlib
import pickle
import shutil
import struct
import zipfile
import zlib

from harness import Env
import media

HERE = pathlib.Path(__file__).resolve().parent


def file(name):
    """A file that stands beside this one."""
    return lambda d: str(HERE / name)


def write(d, name, data):
    with open(d / name, 'wb') as f:
        f.write(data)
    return d / name


# ---- pictures -------------------------------------------------------------------------------------------------------------

def png_bytes(w, h, bits, kind, rows):
    def chunk(tag, data):
        return struct.pack('>I', len(data)) + tag + data + struct.pack('>I', zlib.crc32(tag + data))
    raw = zlib.compressobj(6)
    data = b''.join(raw.compress(b'\0' + row) for row in rows) + raw.flush()
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, bits, kind, 0, 0, 0)) +
            chunk(b'IDAT', data) + chunk(b'IEND', b''))


def flat(w, h):
    """One bit a pixel, so that a huge picture is a small file."""
    return lambda d: write(d, 'flat%dx%d.png' % (w, h), png_bytes(w, h, 1, 0, (b'\xaa' * ((w + 7) // 8) for _ in range(h))))


def face(d):
    return d.png()


def alpha(d):
    return d.png(alpha=True)


def grey_rows():
    for row in media.face(96, 96):
        yield bytes((2 * row[i] + 5 * row[i + 1] + row[i + 2]) // 8 for i in range(0, len(row), 3))


def grey(d):
    return write(d, 'grey.png', png_bytes(96, 96, 8, 0, grey_rows()))


def grey_as_rgb(d):
    return write(d, 'grey3.png', png_bytes(96, 96, 8, 2, (bytes(v for v in row for _ in range(3)) for row in grey_rows())))


def deep(d):
    return write(d, 'deep.png', png_bytes(96, 96, 16, 2, (bytes(v for v in row for _ in range(2)) for row in media.face(96, 96))))


def truncated(keep):
    def make(d):
        with open(d.png(), 'rb') as f:
            data = f.read()
        return write(d, 'cut.png', data[:int(len(data) * keep)])
    return make


def sideways(d):
    """Stored turned by 90 degrees, with an EXIF block that says so."""
    from harness import ffmpeg
    ffmpeg('-i', d.png(), '-vf', 'transpose=2,format=yuvj444p', '-q:v', '1', d / 'turned.jpg')
    return media.set_orientation(d / 'turned.jpg', d / 'exif.jpg', 6)


def text_file(d):
    return write(d, 'text.png', b'not a picture, not a sound\n' * 50)


def empty_file(d):
    return write(d, 'empty', b'')


# ---- sounds ---------------------------------------------------------------------------------------------------------------

def speech(nb, rate=16000, channels=1):
    return lambda d: d.wav(nb, rate, channels)


def floats(values):
    return lambda d: media.wav(d.path / 'floats.wav', len(values), floats=values)


TALK = [v / 32768 for v in media.samples(16000)]


def spoilt(at, what):
    return floats(TALK[:at] + [what] + TALK[at + 1:])


LOUD = floats([max(-1.0, min(1.0, 40 * v)) for v in TALK])
OVER = floats([40 * v for v in TALK])
OFFSET = floats([0.6 + 0.3 * v for v in TALK])
SILENT = floats([0.0] * 16000)
DENORMAL = floats([1e-40 * math.sin(i) for i in range(16000)])


def cut_sound(d):
    """A header that promises a second, and a fifth of it."""
    with open(d.wav(16000), 'rb') as f:
        data = f.read()
    return write(d, 'cut.wav', data[:44 + 2 * 3200])


# ---- model folders --------------------------------------------------------------------------------------------------------

DIT = 'diffusion_pytorch_model.safetensors'
VAE = 'Wan2.1_VAE.safetensors'
T5 = 'models_t5_umt5-xxl-enc-bf16.safetensors'
WAV2VEC2 = 'wav2vec2-large-xlsr-53-english/'
SPIECE = 'google/umt5-xxl/spiece.model'
Q = 'blocks.0.self_attn.q.weight'


def folder(d):
    """A copy whose files may be changed; they are small."""
    path = pathlib.Path(d / 'model')
    if not path.exists():
        shutil.copytree(Env.model, path)
    return path


def without(name):
    def make(d):
        os.remove(folder(d) / name)
        return d / 'model'
    return make


def holding(name, data):
    """One file more, or another one in its place."""
    def make(d):
        with open(folder(d) / name, 'wb') as f:
            f.write(data(d) if callable(data) else data)
        return d / 'model'
    return make


def resized(name, keep):
    """The first part of a file: a share of it, or so many bytes."""
    def make(d):
        path = folder(d) / name
        size = path.stat().st_size
        os.truncate(path, int(size * keep) if keep < 1 else keep)
        return d / 'model'
    return make


def replaced(name, make):
    """make(path) in the place of a file: a link, a pipe, a folder."""
    def change(d):
        path = folder(d) / name
        if path.exists():
            os.remove(path)
        make(path)
        return d / 'model'
    return change


def config(name, **keys):
    """Keys of a JSON file changed; None takes one away."""
    def make(d):
        path = folder(d) / name
        j = json.loads(path.read_text())
        j.update(keys)
        path.write_text(json.dumps({k: v for k, v in j.items() if v is not None}))
        return d / 'model'
    return make


def read_tensors(path):
    data = pathlib.Path(path).read_bytes()
    n = struct.unpack('<Q', data[:8])[0]
    return json.loads(data[8:8 + n]), bytearray(data[8 + n:])


def tensor_bytes(header, data):
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    return struct.pack('<Q', len(text)) + text + bytes(data)


def tensors(name, change):
    """change(header, data) edits a safetensors file in place."""
    def make(d):
        path = folder(d) / name
        header, data = read_tensors(path)
        change(header, data)
        path.write_bytes(tensor_bytes(header, data))
        return d / 'model'
    return make


def drop(key):
    def change(header, data):
        """What follows moves up, as the file must have no holes."""
        a, b = header.pop(key)['data_offsets']
        del data[a:b]
        for t in header.values():
            if t['data_offsets'][0] >= b:
                t['data_offsets'] = [x - (b - a) for x in t['data_offsets']]
    return change


def reshape(key, shape):
    def change(header, data):
        header[key]['shape'] = shape
    return change


def retype(key, dtype):
    def change(header, data):
        header[key]['dtype'] = dtype
    return change


def overlap(header, data):
    names = sorted((k for k in header if k != '__metadata__'), key=lambda k: header[k]['data_offsets'])
    header[names[1]]['data_offsets'] = header[names[0]]['data_offsets']
    header[names[1]]['shape'] = header[names[0]]['shape']


def beyond(header, data):
    header[Q]['data_offsets'] = [0, 2 ** 63 - 1]


def poison(key, value):
    """One element is no number."""
    def change(header, data):
        t = header[key]
        at = t['data_offsets'][0]
        bits = struct.pack('<f', value)
        data[at:at + 4] = bits if t['dtype'] == 'F32' else bits[2:] * 2
    return change


def in_shards(index, shards=None):
    """The transformer in two files with an index; `index` edits its map, `shards` takes files away."""
    def make(d):
        path = folder(d)
        header, data = read_tensors(path / DIT)
        names = sorted(k for k in header if k != '__metadata__')
        where = {}
        for i in range(2):
            part, blob = {}, bytearray()
            for k in names[i::2]:
                a, b = header[k]['data_offsets']
                part[k] = dict(header[k], data_offsets=[len(blob), len(blob) + b - a])
                blob += data[a:b]
                where[k] = 'part-%d.safetensors' % (i + 1)
            (path / ('part-%d.safetensors' % (i + 1))).write_bytes(tensor_bytes(part, blob))
        index(where)
        for name in shards or []:
            os.remove(path / name)
        os.remove(path / DIT)
        (path / (DIT + '.index.json')).write_text(json.dumps({'weight_map': where}))
        return d / 'model'
    return make


def swap(where):
    """Of the index: Q in the wrong one of two shards."""
    where[Q] = 'part-1.safetensors' if where[Q] == 'part-2.safetensors' else 'part-2.safetensors'


class Call:
    """A pickle that calls something when a careless reader loads it."""
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def archive(entries, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', method) as z:
        for name, data in entries:
            z.writestr(name, data)
    return out.getvalue()


def hostile(d):
    return archive([('x/data.pkl', pickle.dumps({'w': Call('touch ' + d / 'called')}, protocol=2)), ('x/data/0', b'\0' * 64)])


def bomb(d):
    """300 MB of zeros, packed to a thousandth."""
    return archive([('x/data.pkl', b'\0' * (300 << 20)), ('x/version', b'3\n')], zipfile.ZIP_DEFLATED)


TARGETS = ('.q.weight', '.k.weight', '.v.weight', '.o.weight', '.ffn.0.weight', '.ffn.2.weight')


def lora(change):
    """A LoRA for every target of the tiny transformer, with the pairs changed by `change`; for lora=FILE."""
    def make(d):
        header, _ = read_tensors(pathlib.Path(Env.model) / DIT)
        pairs = {}
        for name in sorted(header):
            if len(header[name].get('shape', [])) == 2 and name.endswith(TARGETS):
                out, into = header[name]['shape']
                pairs[name[:-7] + '.lora_A.default.weight'] = [2, into]
                pairs[name[:-7] + '.lora_B.default.weight'] = [out, 2]
        pairs = change(pairs)
        at, head = 0, {}
        for name, shape in pairs.items():
            size = 4 * math.prod(shape)
            head[name] = dict(dtype='F32', shape=shape, data_offsets=[at, at + size])
            at += size
        return write(d, 'lora.safetensors', tensor_bytes(head, struct.pack('<f', 0.01) * (at // 4)))
    return make
