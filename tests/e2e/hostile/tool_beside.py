# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: what stands beside speak (convert, top, plot, doctor, verify) in a hostile world. README.md beside has the list."""
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import time

import tool_harness
import tool_world
from tool_harness import LIMIT, Run, case, face, fails, media, require, speak


def left_over(tmp):
    return [str(p) for p in tmp.rglob('.avatar-*')]


def convert(out, *args, **kw):
    return Run('convert', '--model', tool_harness.A.model, '--precision', 'int8', '-o', out, *args, **kw)


def statistics(tmp):
    path = tmp / 's.jsonl'
    require(speak(media.wav(tmp / 'a.wav', 2 * 7680), face(tmp), '-o', tmp / 'film.mkv', '--stats', path).ret == 0)
    return path


# ---- outputs

@case
def curves_are_not_an_input(tmp):
    """avatar plot and doctor: -o with the name of what they read, or a link to it, is refused, and not a byte of it is lost."""
    stats, png = statistics(tmp), face(tmp)
    os.symlink('s.jsonl', tmp / 'link.svg')
    kept = {p: p.read_bytes() for p in (stats, tmp / 'film.mkv', pathlib.Path(png))}
    for out in (stats, tmp / 'link.svg'):
        fails(Run('plot', stats, '-o', out), 1, 'input', out.name)
    for out in (tmp / 'film.mkv', png):
        require('input' in Run('doctor', tmp / 'film.mkv', '--picture', png, '-o', out).err, out)
    require(all(p.read_bytes() == data for p, data in kept.items()) and not left_over(tmp))


@case
def curves_that_cannot_be_written(tmp):
    """A full disk, a folder, none, no name: exit code 1 and one sentence; what had the name stays."""
    stats, old = statistics(tmp), tmp / 'old.svg'
    old.write_text('precious')
    for args in (('plot', stats), ('plan', '--gpus', '1x80')):
        for out, word in (('/dev/full', 'No space left'), (tmp, 'irectory'), (tmp / 'none' / 'x.svg', 'No such file'), ('', 'No such file')):
            fails(Run(*args, '-o', out), 1, word)
        r = Run(*args, '-o', old, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
        fails(r, 1, 'too large')
    require(old.read_text() == 'precious' and not left_over(tmp), left_over(tmp))


@case
def record_spares_the_model(tmp):
    model = tmp / 'model'
    shutil.copytree(tool_harness.A.model, model)
    config = (model / 'config.json').read_bytes()
    for _ in range(2):                                               # its own answer may be written again
        require(Run('verify', '--model', model, '--record').ret == 0)
    fails(Run('verify', model / 'config.json', '--model', model, '--record'), 1, 'input')
    require((model / 'config.json').read_bytes() == config)


# ---- statistics that are none

@case
def statistics_that_are_none(tmp):
    """Half-written, binary, endless, of another kind: lines that are whole are shown, all others are left out or refused in a sentence."""
    whole = statistics(tmp).read_bytes()
    one, two = whole.splitlines(True)[:2]
    ranks = re.search(rb'\[{.*}\]', one).group()

    def other(old, new):
        require(old in one, old)
        return one.replace(old, new)
    table = (                                                        # bytes, what is shown of them
        (b'', 1), (one[:100], 1), (b'\0' * 5000, 1), (b'{"block":' + b'9' * 9000000, 1), (b'x' * 9000000 + b'\n' + one, 1), (other(ranks, b'[]'), 1),
        (other(ranks, b'7'), 1), (whole[:-len(two) // 2], 0), (one + b'\0\0\n' + two, 0), (b'[' * 200000 + b'\n' + one, 0),
        (other(b'"block": 0', b'"block": 1e999'), 0), (other(b'"ms": {', b'"ms": null, "x": {'), 0), (whole.replace(b'\n', b'\r\n'), 0),
        (other(ranks, b'[%s]' % b','.join([ranks[1:-1]] * 3000)), 0), (other(b'"sequential', b'"\xff\xfe\x1b[31m'), 1),
        (other(b'"sequential', b'"\\u001b[31m'), 0))
    for i, (data, code) in enumerate(table):
        (tmp / 'x').write_bytes(data)
        for args in (('top', tmp / 'x'), ('plot', tmp / 'x', '-o', tmp / 'x.svg')):
            r = Run(*args)
            require(r.ret == code and (code == 0 or r.err.count('\n') == 1) and b'\x1b[31m' not in r.out, i, r.what)
    for name in ('/dev/zero', '/dev/urandom', '/', tmp):
        fails(Run('top', name), 1, str(name))
        fails(Run('plot', name, '-o', tmp / 'y.svg'), 1, str(name))


# ---- convert

@case
def convert_interrupted(tmp):
    """By SIGINT at any moment: a sentence, nothing beside, and the next run makes it whole."""
    nano = pathlib.Path(__file__).resolve().parents[3] / 'model' / 'nano'                  # a tiny model is whole before the signal comes
    source = {p: p.read_bytes() for p in nano.rglob('*') if p.is_file()}
    command = [tool_harness.A.tool, 'convert', '--model', str(nano), '--precision', 'int8', '-o', str(tmp / 'new')]
    out, cut = tmp / 'new', 0
    for i in range(4):
        p = subprocess.Popen(command, stderr=subprocess.PIPE)
        end = time.time() + LIMIT
        while p.poll() is None and time.time() < end and not (tool_harness.watches(p.pid) and (i < 2 or list(tmp.rglob('.avatar-*')))):
            time.sleep(0.001)
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=LIMIT)[1].decode()
        require(p.returncode == 0 or 'interrupted' in err, p.returncode, err)
        require(not left_over(tmp), left_over(tmp))
        cut += p.returncode != 0
        if p.returncode == 0:
            shutil.rmtree(out)
    require(Run(*command[1:]).ret == 0 and Run('verify', '--model', out, '--record').ret == 0, 'the next run makes it whole')
    require(cut and all(p.read_bytes() == data for p, data in source.items()), cut, 'or the source has changed')


@case
def convert_where_it_cannot(tmp):
    """No name, standard output, a file, a link to the model, a link to nowhere, a full disk: refused, and nothing of it appears anywhere,
    nor goes what was there."""
    (tmp / 'link').symlink_to(os.path.abspath(tool_harness.A.model))
    (tmp / 'nowhere').symlink_to(tmp / 'none')
    (tmp / 'file').write_text('precious')
    for out, code, word in (('', 2, 'name a folder'), ('-', 2, 'name a folder'), (tmp / 'file', 1, 'Not a directory'), (tmp / 'link', 1, 'a model is there already'),
                            (tmp / 'nowhere', 1, 'No such file'), ('a' * 300, 1, 'File name too long')):
        fails(convert(out), code, word)
    (tmp / 'mine').mkdir()
    for out in 'full', 'new/er/full/', 'mine/full', 'mine':             # what it made goes, no folder of the user's
        fails(convert(tmp / out, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))), 1, 'File too large')
        require([p.name for p in tmp.iterdir() if p.is_dir() and not p.is_symlink()] == ['mine'] and not any((tmp / 'mine').iterdir()), out, list(tmp.rglob('*')))
    require((tmp / 'file').read_text() == 'precious' and not left_over(tmp) and not os.path.exists('-') and not os.path.exists('/config.json'))


@case
def models_of_somebody_else(tmp):
    """A folder of AVATAR_MODELS, or the model in it, that this user may not read: that is said; one behind it is taken."""
    if os.getuid():
        raise Skip('only root can become another user')
    tmp.chmod(0o755)
    for name in 'open', 'locked', 'shut':
        shutil.copytree(tool_harness.A.model, tmp / name / 'mine')
        (tmp / name).chmod(0o700 if name == 'locked' else 0o755)
        (tmp / name / 'mine').chmod(0o700 if name == 'shut' else 0o755)

    def inspect(models, model='mine'):
        return Run('inspect', model, env=dict(os.environ, AVATAR_MODELS=models), preexec_fn=lambda: os.setuid(10000 + os.getpid() % 50000))

    for name in 'locked', 'shut':
        for r in inspect('%s/none:%s/%s' % (tmp, tmp, name)), inspect('', tmp / name / 'mine'):
            fails(r, 1, str(tmp / name), 'Permission denied')
        require(inspect('%s/%s:%s/open' % (tmp, name, tmp)).ret == 0, name)


@case
def numbers_do_not_wrap(tmp):
    """Beyond 32 bits: as unknown as any other number that is too large."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    for option, value in (('--plan', 'tensor4294967298'), ('--plan', 'layer+ulysses4294967298'), ('--devices', 'cuda4294967296'), ('--devices', '4294967296:cpu'),
                          ('--plan', 'tensor99999999999999999999')):
        fails(speak(wav, png, '--devices', 'cpu|cpu', option, value, '-o', tmp / 'o.nut'), 1, value)


# ---- models of 8 bits, layers from the host

@case
def layers_from_the_host_are_cut(tmp):
    """offload=weights reads its layers again and again: a file that becomes shorter meanwhile is an error, not a SIGBUS."""
    model = tmp / 'model'
    shutil.copytree(tool_harness.A.model, model)
    p = tool_world.long_run(tmp, tmp / 'o.nut', '--model', str(model), '--offload', 'weights')
    os.truncate(model / 'diffusion_pytorch_model.safetensors', 4096)
    ret, err = tool_world.ended(p)
    require(ret == 1 and 'became shorter' in err and not left_over(tmp), ret, err)


@case
def codes_with_bits_turned(tmp):
    """A folder of int8 with bits turned in its header, codes, scales, or cut: a film or a sentence."""
    require(convert(tmp / 'new').ret == 0)
    file = tmp / 'new' / 'diffusion_pytorch_model.safetensors'
    whole, chance = file.read_bytes(), random.Random(5)
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    for i in range(20):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3, 30))):
            data[chance.randrange(chance.choice((200, 3000, len(data))))] ^= 1 << chance.randrange(8)
        file.write_bytes(data[:chance.randrange(len(data))] if i % 5 == 0 else data)
        r = Run('speak', '--model', tmp / 'new', wav, png, '--cpu-threads', '1', '-o', tmp / 'o.nut')
        require(r.ret == 0 or r.ret == 1 and 'stopped after 0 frames' in r.err, i, r.what)


def read_header(path):
    data = path.read_bytes()
    n = struct.unpack('<Q', data[:8])[0]
    return json.loads(data[8:8 + n]), data[8 + n:]


def write_weights(path, tensors):
    """tensors: name -> (dtype, shape, bytes)"""
    head, body = {}, b''
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + body)


def transformer(model):
    """Its tensors, and the file that holds them."""
    file = model / 'diffusion_pytorch_model.safetensors'
    head, body = read_header(file)
    head.pop('__metadata__', None)
    return {k: (v['dtype'], v['shape'], body[slice(*v['data_offsets'])]) for k, v in head.items()}, file


@case
def convert_keeps_all_words(tmp):
    """A prompt of 100 kB with quotes and controls, a name, steps: avatar.json of the new model says the same."""
    model = tmp / 'model'
    shutil.copytree(tool_harness.A.model, model)
    said = {'name': 'n"\\\u0007é', 'prompt': 'A "person"\\ \u0001 語 ' * 5000, 'lora': 'none', 'steps': 3, 'size': '64x64'}
    (model / 'avatar.json').write_text(json.dumps(said))
    require(Run('convert', '--model', model, '--precision', 'fp8', '-o', tmp / 'new').ret == 0)
    require(json.loads((tmp / 'new' / 'avatar.json').read_text()) == said, (tmp / 'new' / 'avatar.json').read_text()[:300])


@case
def convert_keeps_all_tensors(tmp):
    """Names with quotes, backslashes, 1000 letters; 600 shards: each tensor is in the new model, under its name."""
    for shards in (1, 600):
        model, new = tmp / ('model%d' % shards), tmp / ('new%d' % shards)
        shutil.copytree(tool_harness.A.model, model)
        tensors, file = transformer(model)
        tensors.update({'odd "%d\\" ' % i + 'é' * (i % 2 * 400): ('F32', [1], struct.pack('<f', i)) for i in range(600)})
        file.unlink()
        names = sorted(tensors)
        parts = [names[i::shards] for i in range(shards)]
        for i, part in enumerate(parts):
            write_weights(model / ('s%d.safetensors' % i) if shards > 1 else file, {n: tensors[n] for n in part})
        if shards > 1:
            where = {n: 's%d.safetensors' % i for i, part in enumerate(parts) for n in part}
            (model / (file.name + '.index.json')).write_text(json.dumps({'weight_map': where}))
        require(Run('convert', '--model', model, '--precision', 'int8', '-o', new, '--quiet').ret == 0)
        got = {}
        for path in new.glob('*.safetensors'):
            if not path.name.startswith(('Wan', 'models', 'verify')):
                got.update(read_header(path)[0])
        require(set(names) <= set(got), shards, sorted(set(names) - set(got))[:3], len(got))
        if shards > 1:
            map_ = json.loads((new / (file.name + '.index.json')).read_text())['weight_map']
            require(set(got) - {'__metadata__'} == set(map_))
        require(Run('inspect', new).ret == 0)
