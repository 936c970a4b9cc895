# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: avatar convert, and the folders that it writes."""
import json
import os
import pty
import re
import struct
import subprocess
import time

import tool_harness
from tool_harness import Run, case, face, fails, media, require

LAYERS = ('.q.weight', '.k.weight', '.v.weight', '.o.weight', '.ffn.0.weight', '.ffn.2.weight')


def film(tmp, name, *args):
    out = os.path.join(tmp, name + '.nut')
    r = Run('speak', media.wav(tmp / 'a.wav', 9600), face(tmp), '-o', out, '--seed', '3', '--format', 'rgb24', '--quiet', *args)
    require(r.ret == 0, r.what)
    with open(out, 'rb') as f:
        return f.read()


def tensors(folder):
    """Name -> (type, shape, bytes) of the transformer's files"""
    found = {}
    for name in sorted(os.listdir(folder)):
        if not (name.startswith('diffusion_pytorch_model') and name.endswith('.safetensors')):
            continue
        with open(os.path.join(folder, name), 'rb') as f:
            size, = struct.unpack('<Q', f.read(8))
            head, body = json.loads(f.read(size)), f.read()
        head.pop('__metadata__', None)
        end = 0
        for k, v in sorted(head.items(), key=lambda i: i[1]['data_offsets']):
            require(v['data_offsets'][0] == end, name, k)
            end = v['data_offsets'][1]
            found[k] = v['dtype'], v['shape'], body[v['data_offsets'][0]:end]
        require(end == len(body), name)
    return found


@case
def convert_shows_how_long(tmp):
    """On a terminal a line that grows and goes away, with the time that is left; nothing of it with --quiet or in a log of a short run."""
    for args, shown in (((), True), (('--quiet',), False)):
        main, side = pty.openpty()
        out = os.path.join(tmp, 'quiet' if args else 'loud')
        p = subprocess.Popen([tool_harness.A.tool, 'convert', '--precision', 'int8', '-o', out, *args], stdin=subprocess.DEVNULL, stderr=side)
        os.close(side)
        text = b''
        try:
            while piece := os.read(main, 4096):
                text += piece
        except OSError:                                             # the other side is closed
            pass
        os.close(main)
        require(p.wait() == 0, text)
        parts = [int(x) for x in re.findall(rb'convert (\d+) %, \d+:\d\d left\r', text)]
        require(bool(parts) == shown and parts == sorted(parts) and all(x <= 100 for x in parts), text)
        require(not shown or text.rsplit(b'left', 1)[1].startswith(b'\r\x1b[Kavatar: '), 'the line is taken away', text)
    start = time.monotonic()
    r = Run('convert', '--precision', 'fp8', '-o', os.path.join(tmp, 'log'))
    require(r.ret == 0 and '\x1b' not in r.err and len(r.err.splitlines()) <= 1 + (time.monotonic() - start) / 5, r.err)


@case
def codes_are_written_once(tmp):
    """What is made of the converted folder has the bits of what is made of the model; every product of the layers is codes with scales."""
    for precision, dtype in (('int8', 'I8'), ('fp8', 'F8_E4M3')):
        folder = os.path.join(tmp, 'new', precision)
        r = Run('convert', '--model', tool_harness.A.model, '--precision', precision, '-o', folder)
        require(r.ret == 0 and precision in r.err, r.what)
        t, before = tensors(folder), tensors(tool_harness.A.model)
        nb = 0
        for name, (kind, shape, raw) in t.items():
            layer = name.startswith(('blocks.', 'audio_injector.injector.')) and name.endswith(LAYERS)
            require((kind == dtype) == layer, name, kind)
            if layer:
                scale = t[name + '_scale']
                require(shape == before[name][1] and scale[:2] == ('F32', shape[:1]), name)
                require(all(0 < s < 1 for s in struct.unpack('<%df' % shape[0], scale[2])), name)
                require((name + '_rotation' in t) == (precision == 'int8'), name)
                nb += 1
            elif not name.endswith(('_scale', '_rotation')):
                require(kind == before[name][0] and shape == before[name][1], name)
        require(nb >= 20 and set(before) <= set(t), nb)
        index = os.path.join(folder, 'diffusion_pytorch_model.safetensors.index.json')
        require(not os.path.exists(index) or set(json.load(open(index))['weight_map']) == set(t), index)
        want = film(tmp, 'a', '--model', tool_harness.A.model, '--precision', precision)
        require(film(tmp, 'b', '--model', folder, '--precision', precision) == want, precision)
        require(film(tmp, 'c', '--model', folder, '--precision', 'f32') != want, 'f32')


@case
def convert_refuses(tmp):
    """No precision of codes, no folder, a folder that holds a model; one sentence each, and nothing is written."""
    out = os.path.join(tmp, 'x')
    for args in ((), ('--precision', 'bf16'), ('--precision', 'auto')):
        fails(Run('convert', '--model', tool_harness.A.model, '-o', out, *args), 2, 'int8 or fp8')
    require(Run('convert', '--model', tool_harness.A.model, '--precision', 'int8').ret == 2, 'no folder')
    fails(Run('convert', '--model', tool_harness.A.model, '--precision', 'int8', '-o', tool_harness.A.model), 1, 'a model is there already')
    fails(Run('convert', '--model', os.path.join(tmp, 'none'), '--precision', 'int8', '-o', out), 1, 'none')
    require(not os.path.exists(out), out)


@case
def a_lora_is_given_once(tmp):
    """A folder with the LoRA merged says so, and takes none."""
    folder = os.path.join(tmp, 'merged')
    require(Run('convert', '--precision', 'int8', '-o', folder).ret == 0, 'nano')
    said = json.load(open(os.path.join(folder, 'avatar.json')))
    require(said['lora'] == 'merged' and said['name'] == 'nano' and said['size'] == '128x128' and said['steps'] == 4, said)
    lora = os.path.join(os.path.dirname(__file__), '..', '..', 'model', 'nano', 'liveavatar.safetensors')
    fails(Run('speak', media.wav(tmp / 'a.wav', 9600), face(tmp), '-o', tmp / 'x.nut', '--model', folder, '--lora', lora), 1, 'have a LoRA already')
    require(b'in the weights' in Run('inspect', folder).out, 'inspect')


@case
def damage_is_measured(tmp):
    """Each precision against f32, on the embedded model: within what doc/precision.md says."""
    least, lips = {'bf16': 45, 'int8': 36, 'fp8': 38}, {'bf16': 0.005, 'int8': 0.005, 'fp8': 0.02}
    d = json.loads(Run('bench', '--damage', '--json').out)
    got = {p['precision']: p for p in d['precisions']}
    require(set(got) == set(least) and d['width'] == 128 and d['blocks'] == 10, d)
    for name, p in got.items():
        require(p['all'] >= p['worst_block'] >= least[name] and 0.98 <= p['sharpness'] <= 1.02 and p['latents'] > 0, p)
        require(0.98 <= p['mouth'] <= 1.02 and 0.98 <= p['eyes'] <= 1.02, p)
        require(len(p['layers']) == 4 and all(0 < e < 0.05 for e in p['layers']) and p['drift'] is None, 'by layer, and no drift of a short film', p)
        require(p['lips_f32'] > 0.7 and abs(p['lips'] - p['lips_f32']) <= lips[name], 'lips', p)
    require(got['int8']['weights'] < got['bf16']['weights'], got)
    r = Run('bench', '--damage', '--json', '--seeded', 2, '--precision', 'int8', env=dict(os.environ, TMPDIR=str(tmp)))
    require(r.ret == 0 and [p['sharpness'] for p in json.loads(r.out)['precisions']] == [None], 'too small for its spectrum', r.what, r.out)
    require(not [x for x in os.listdir(tmp) if x.startswith('avatar-seeded')], 'the folder is left')
    one = Run('bench', '--damage', face(tmp), '--precision', 'int8')
    require(one.ret == 0 and b'int8' in one.out and b'fp8' not in one.out, one.what)
    require(Run('bench').ret == 2 and Run('bench', '--damage', 'none.png').ret == 1, 'usage')
