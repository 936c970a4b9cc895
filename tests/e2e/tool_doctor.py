# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cases of tool.py: `avatar doctor`. Each fault is planted into something healthy; the finding that it is about says so, and said nothing of
the kind before. Healthy are: the shipped portraits, tests/gold/lips.wav, the embedded model, and recordings of others where installed.

  topic      planted faults (the case that plants them)
  picture    soft enlargements, noise, compression blocks, dark, flat, burnt, without detail, too small, too long (doctor_picture); no face, small ones,
             two, one cut off (doctor_faces); one that the VAE does not know (doctor_blocks); one whose film stands still (doctor_motion)
  sound      clipped, quiet, noisy, echo, narrow, of a telephone, channels against each other, one empty, late, few words, music, silence, too short
             (doctor_sound)
  prompt     too long, characters that are unknown, not UTF-8 (doctor_prompt)
  memory     too little (doctor_memory), held by others (doctor_holders, doctor_devices), paging while it runs (doctor_paging)
  precision, latents   LoRA at another strength, none, absurd (doctor_blocks)
  devices    driver, capability, heat, ECC (doctor_devices); slow copies, NCCL, MPI (doctor_copies, doctor_starts)
  files      missing, NaN, cut, no folder (doctor_files); named or shaped otherwise (doctor_names); changed (doctor_manifest, doctor_published); LoRA of another model, without effect, damaged, none (doctor_lora),
             without effect on a layer, absurd in one (doctor_lora_by_layer)
  ffmpeg     none, one without the filter, a filter of another version (doctor_ffmpeg)
  film       soft, drifting, frozen, seams (doctor_film); lips behind the sound (doctor_lips)
"""
import array
import glob
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import time
import wave

import tool_harness
from tool_harness import Run, Skip, case, cropped, media, require

SRC = pathlib.Path(__file__).resolve().parents[2]
NANO = SRC / 'model/nano'
SPEECH = SRC / 'tests/gold/lips.wav'
ORDER = ('good', 'doubtful', 'bad')


def doctor(*args, **kw):
    r = Run('doctor', '--json', *args, **kw)
    d = json.loads(r.out)
    worst = max((f['verdict'] for f in d['findings']), key=ORDER.index)
    require(d['verdict'] == worst and r.ret == ORDER.index(worst), r.what, d['verdict'])
    require(all(bool(f['remedy']) or f['verdict'] == 'good' for f in d['findings']), 'a fault without a remedy', d)
    return d['findings']


def of(findings, topic):
    return [f for f in findings if f['topic'] == topic]


def healthy(findings, topic):
    bad = [f for f in of(findings, topic) if f['verdict'] != 'good']
    require(of(findings, topic) and not bad, topic, bad)


def found(findings, topic, what, verdict=None):
    """The finding is there and not good (or exactly `verdict`)."""
    hit = [f for f in of(findings, topic) if f['what'] == what]
    require(hit and any(f['verdict'] == verdict if verdict else f['verdict'] != 'good' for f in hit), topic, what, verdict, hit)


# ---- pictures, [y][x] of luma

def textured(n=256, seed=4):
    """A picture with a spectrum of 1/f: octaves of smooth noise, each half as strong as the one before."""
    rnd = random.Random(seed)
    out = [[0.0] * n for _ in range(n)]
    step = n // 2
    while step:
        grid = [[rnd.uniform(-1, 1) for _ in range(n // step + 2)] for _ in range(n // step + 2)]
        for y in range(n):
            gy, fy = divmod(y, step)
            fy /= step
            for x in range(n):
                gx, fx = divmod(x, step)
                fx /= step
                a, b = grid[gy], grid[gy + 1]
                out[y][x] += step ** 0.7 * ((1 - fy) * ((1 - fx) * a[gx] + fx * a[gx + 1]) + fy * ((1 - fx) * b[gx] + fx * b[gx + 1]))
        step //= 2
    top = max(abs(v) for row in out for v in row)
    return [[124 + 100 * v / top for v in row] for row in out]


def softened(p, k):
    """Made k times smaller, and as large again."""
    n, m = len(p), len(p) // k
    small = [[sum(p[k * y + j][k * x + i] for j in range(k) for i in range(k)) / k / k for x in range(m)] for y in range(m)]

    def at(y, x):
        fy, fx = max(0, min(m - 1.001, (y + 0.5) / k - 0.5)), max(0, min(m - 1.001, (x + 0.5) / k - 0.5))
        iy, ix = int(fy), int(fx)
        fy, fx = fy - iy, fx - ix
        return (1 - fy) * ((1 - fx) * small[iy][ix] + fx * small[iy][ix + 1]) + fy * ((1 - fx) * small[iy + 1][ix] + fx * small[iy + 1][ix + 1])
    return [[at(y, x) for x in range(n)] for y in range(n)]


def in_blocks(p):
    """What the strongest compression leaves of each 8x8 square: its mean, and a little of the rest."""
    out = [row[:] for row in p]
    for y in range(0, len(p), 8):
        for x in range(0, len(p), 8):
            mean = sum(p[y + j][x + i] for j in range(8) for i in range(8)) / 64
            for j in range(8):
                for i in range(8):
                    out[y + j][x + i] = mean + 0.25 * (p[y + j][x + i] - mean)
    return out


def ppm(path, p):
    data = bytes(max(0, min(255, round(v))) for row in p for v in row for _ in range(3))
    path.write_bytes(b'P6 %d %d 255\n' % (len(p[0]), len(p)) + data)
    return path


def picture_of(path, tmp):
    """(width, height, rgb) of a file, as the tool reads it."""
    p = subprocess.run([tool_harness.A.media, 'picture', str(path), str(tmp / 'rgb')], stdout=subprocess.PIPE, check=True)
    w, h = (int(v) for v in p.stdout.split())
    return w, h, (tmp / 'rgb').read_bytes()


def each(p, f):
    return [[f(v) for v in row] for row in p]


@case
def doctor_portraits(tmp):
    """None of the shipped pictures is called anything but good."""
    for face in sorted((NANO / 'faces').glob('*.png')):
        healthy(doctor(face), 'picture')


@case
def doctor_picture(tmp):
    p = textured()
    size = ('--size', '256x256')
    rnd = random.Random(1)
    healthy([f for f in doctor(ppm(tmp / 'p.ppm', p), *size) if f['what'] != 'face'], 'picture')        # it has none
    planted = (
        ('soft.ppm', softened(p, 2), 'sharpness'), ('softer.ppm', softened(p, 4), 'sharpness'),
        ('noisy.ppm', each(p, lambda v: v + rnd.gauss(0, 20)), 'noise'), ('blocks.ppm', in_blocks(p), 'blocks of JPEG'),
        ('dark.ppm', each(p, lambda v: 0.15 * v), 'mean brightness of its middle'), ('flat.ppm', each(p, lambda v: 120 + 0.1 * (v - 120)), 'range of brightness'),
        ('burnt.ppm', each(p, lambda v: 4 * v - 150), 'burnt out or drowned'), ('grey.ppm', each(p, lambda v: 128), 'sharpness'),
        ('small.ppm', [row[64:128] for row in p[64:128]], 'enlarged for the frames by'), ('long.ppm', [row[:48] for row in p], 'kept of it'),
    )
    for name, picture, what in planted:
        found(doctor(ppm(tmp / name, picture), *size), 'picture', what)
    require([f for f in of(doctor(tmp / 'softer.ppm', *size), 'picture') if f['what'] == 'sharpness'][0]['verdict'] == 'bad', 'four times enlarged is bad')
    found(doctor(tmp / 'none.png'), 'input', 'read', 'bad')


# ---- sounds

def read_wav(path):
    with wave.open(str(path)) as w:
        v = array.array('h', w.readframes(w.getnframes()))
        return [x / 32768 for x in v[::w.getnchannels()]], w.getframerate()


def write_wav(path, *channels, rate=16000):
    pcm = array.array('h', (max(-32768, min(32767, round(32767 * c[i]))) for i in range(len(channels[0])) for c in channels))
    path.write_bytes(media.wav_head(2 * len(pcm), rate, len(channels)) + pcm.tobytes())
    return path


def low_pass(x, cut, taps=81):
    """cut: of the sample rate"""
    k = [(2 * cut if i == 0 else math.sin(2 * math.pi * cut * i) / (math.pi * i)) * (0.54 + 0.46 * math.cos(2 * math.pi * i / taps))
         for i in range(-(taps // 2), taps // 2 + 1)]
    return [sum(a * b for a, b in zip(k, x[i:i + taps])) for i in range(len(x) - taps)]


@case
def doctor_recordings(tmp):
    """No recording of speech is called bad, and hardly one doubtful."""
    paths = [SPEECH] + glob.glob('/usr/share/pocketsphinx/test/data/*/*.wav') + glob.glob('/usr/share/sounds/alsa/[FRS]*.wav')
    for path in paths:
        healthy(doctor(path), 'sound')


@case
def doctor_sound(tmp):
    x, rate = read_wav(SPEECH)
    rnd = random.Random(2)
    hiss = [rnd.gauss(0, 1) for _ in x]
    loud = math.sqrt(sum(v * v for v in x) / len(x))
    t = [i / rate for i in range(6 * rate)]
    chord = [0.08 * sum(math.sin(2 * math.pi * f * h * s) / h for f in (220, 277.2, 329.6) for h in (1, 2, 3)) for s in t]
    delayed = [a + 0.5 * b for a, b in zip(x + [0] * 3000, [0] * 3000 + x)]
    narrow = low_pass(x[:40000], 3400 / rate)
    found(doctor(write_wav(tmp / 'loud.wav', [8 * v for v in x])), 'sound', 'clipped samples', 'bad')
    found(doctor(write_wav(tmp / 'quiet.wav', [0.005 * v for v in x])), 'sound', 'level of speech')
    found(doctor(write_wav(tmp / 'noise.wav', [0.5 * (v + loud * n) for v, n in zip(x, hiss)])), 'sound', 'speech above the room', 'bad')
    found(doctor(write_wav(tmp / 'echo.wav', [0.6 * v for v in delayed])), 'sound', 'echo')
    found(doctor(write_wav(tmp / 'narrow.wav', narrow)), 'sound', 'bandwidth')
    found(doctor(write_wav(tmp / 'phone.wav', narrow[::2], rate=8000)), 'sound', 'sample rate')
    found(doctor(write_wav(tmp / 'anti.wav', x, [-v for v in x])), 'sound', 'channels', 'bad')
    found(doctor(write_wav(tmp / 'left.wav', x, [0] * len(x))), 'sound', 'channels')
    found(doctor(write_wav(tmp / 'late.wav', [0] * 80000 + x)), 'sound', 'silence at its start')
    few = doctor(write_wav(tmp / 'few.wav', x[:16000] + [1e-4 * rnd.gauss(0, 1) for _ in range(40 * rate)]))
    found(few, 'sound', 'frames with speech')
    found(few, 'sound', 'blocks with speech')
    found(doctor(write_wav(tmp / 'music.wav', chord)), 'sound', 'pauses between syllables')
    found(doctor(write_wav(tmp / 'silence.wav', [0] * 32000)), 'sound', 'frames with speech', 'bad')
    found(doctor(write_wav(tmp / 'short.wav', x[:4000])), 'sound', 'length')


@case
def doctor_raw_sound(tmp):
    """Samples without a head, in a file whose name libavformat takes for pictures."""
    (tmp / 'a.raw').write_bytes(SPEECH.read_bytes()[44:])
    for name in ('a.raw', 'a.pcm'):
        (tmp / name).write_bytes((tmp / 'a.raw').read_bytes())
        healthy(doctor(tmp / name, '--input_format', 's16le'), 'sound')


# ---- model, prompt

def linked_model(tmp, *own):
    """The embedded model, its files linked, those in `own` copied so that they may be spoilt."""
    m = tmp / 'model'
    shutil.rmtree(m, ignore_errors=True)
    shutil.copytree(NANO, m, copy_function=os.link if os.stat(tmp).st_dev == os.stat(NANO).st_dev else shutil.copy2)
    for name in own:
        (m / name).unlink()
        shutil.copyfile(NANO / name, m / name)
    return m


def with_header(path, change):
    """A safetensors file with its header's text changed, padded to what it was or longer."""
    data = path.read_bytes()
    n = struct.unpack('<Q', data[:8])[0]
    head = change(json.loads(data[8:8 + n]))
    text = json.dumps(head).encode()
    text += b' ' * (-len(text) % 8)
    path.write_bytes(struct.pack('<Q', len(text)) + text + data[8 + n:])


@case
def doctor_files(tmp):
    w2v = 'wav2vec2-large-xlsr-53-english/model.safetensors'
    healthy(doctor(), 'files')
    m = linked_model(tmp)
    (m / 'Wan2.1_VAE.pth').unlink()
    found(doctor('--model', m), 'files', 'there', 'bad')
    m = linked_model(tmp, w2v)
    data = bytearray((m / w2v).read_bytes())
    head = json.loads(data[8:8 + struct.unpack('<Q', data[:8])[0]])
    tensor = [t for t in head.values() if t.get('dtype') in ('F32', 'BF16', 'F16')][3]
    at = 8 + struct.unpack('<Q', data[:8])[0] + tensor['data_offsets'][0]
    data[at:at + 4] = {'F32': struct.pack('<f', math.nan), 'BF16': b'\xc0\x7f\xc0\x7f', 'F16': b'\x00\x7e\x00\x7e'}[tensor['dtype']]
    (m / w2v).write_bytes(data)
    found(doctor('--model', m), 'files', 'numbers', 'bad')
    data[at:at + 4] = bytes(4)
    half = len(data) // 2
    (m / w2v).write_bytes(data[:half] + bytes(len(data) - half))     # made as large as it will be, and never filled
    found(doctor('--model', m), 'files', 'numbers', 'doubtful')
    (m / w2v).write_bytes(data[:len(data) // 2])
    found(doctor('--model', m), 'files', 'readable', 'bad')
    found(doctor('--model', tmp / 'nowhere'), 'files', 'folder', 'bad')


@case
def doctor_names(tmp):
    """A tensor of another name, and one of another shape, in each kind of network's file: found without a picture, so of a large model as well."""
    w2v, dit, what = 'wav2vec2-large-xlsr-53-english/model.safetensors', 'diffusion_pytorch_model-00001-of-00002.safetensors', 'names and shapes'

    def renamed(head):
        head['x.weight'] = head.pop('wav2vec2.encoder.layers.0.attention.k_proj.weight')
        return head

    def turned(head):
        name = [k for k in head if k.endswith('ffn.0.weight')][0]
        head[name]['shape'].reverse()
        return head

    healthy([f for f in doctor() if f['what'] == what], 'files')
    for name, change, word in ((w2v, renamed, 'k_proj'), (dit, turned, 'ffn.0.weight')):
        m = linked_model(tmp, name)
        with_header(m / name, change)
        d = doctor('--model', m)
        found(d, 'files', what, 'bad')
        require(any(word in f['text'] for f in d if f['what'] == what), d)


@case
def doctor_manifest(tmp):
    m = linked_model(tmp, 'avatar.json')
    r = Run('inspect', '--manifest', m)
    require(r.ret == 0 and len(r.out.splitlines()) > 10, r.what)
    (m / 'SHA256SUMS').write_bytes(r.out)
    require(subprocess.run(['sha256sum', '--quiet', '-c', 'SHA256SUMS'], cwd=m).returncode == 0, 'sha256sum does not agree')
    healthy(doctor('--model', m), 'files')
    (m / 'avatar.json').write_text((m / 'avatar.json').read_text() + '\n')
    found(doctor('--model', m), 'files', 'checksums', 'bad')


@case
def doctor_published(tmp):
    """A file as large as the published one, and another: named. The embedded model's are smaller, and nothing is said of them."""
    spiece = 'google/umt5-xxl/spiece.model'
    m = linked_model(tmp, spiece)
    require(not any(f['what'] == 'published files' for f in doctor('--model', m)), 'nano')
    with open(m / spiece, 'r+b') as f:
        f.truncate(4548313)
    found(doctor('--model', m), 'files', 'published files', 'doubtful')


def scaled_layer(path, layer, factor):
    """A LoRA of bf16 whose pairs of a layer are so much stronger."""
    data = bytearray(path.read_bytes())
    n = struct.unpack('<Q', data[:8])[0]
    for name, t in json.loads(data[8:8 + n]).items():
        if '.blocks.%d.' % layer in name and '.lora_B.' in name:
            lo, hi = (8 + n + x for x in t['data_offsets'])
            for at in range(lo, hi, 2):
                v = struct.unpack('<f', b'\0\0' + data[at:at + 2])[0] * factor
                data[at:at + 2] = struct.pack('<f', v)[2:]
    path.write_bytes(data)


@case
def doctor_lora(tmp):
    name, effect = 'liveavatar.safetensors', 'effect of the LoRA'
    m = linked_model(tmp, name)
    with_header(m / name, lambda h: {k.replace('self_attn', 'other_attn'): v for k, v in h.items()})
    found(doctor('--model', m), 'files', 'LoRA', 'bad')
    data = (NANO / name).read_bytes()
    head = 8 + struct.unpack('<Q', data[:8])[0]
    (m / name).write_bytes(data[:head] + bytes(len(data) - head))
    found(doctor('--model', m), 'files', effect, 'doubtful')
    (m / name).write_bytes(b'no LoRA')
    found(doctor('--model', m), 'files', 'LoRA', 'bad')
    (m / name).unlink()
    found(doctor('--model', m), 'files', 'LoRA')
    healthy(doctor('--model', m, '--lora', NANO / name), 'files')


@case
def doctor_lora_by_layer(tmp):
    """Each layer's change is told; one that the file leaves alone, and one that it changes beyond measure, are found by name."""
    name, what = 'liveavatar.safetensors', 'effect of the LoRA'
    m = linked_model(tmp, name)

    def effect(*args):
        return [f for f in doctor('--model', m, *args) if f['what'] == what][0]

    whole, full = effect(), effect('--full')
    require(len(whole['each']) == 4 and abs(sum(whole['each']) / 4 - whole['value']) < 1e-3 * whole['value'], whole)
    require(len(full['each']) == 4 and full['each'] != whole['each'], 'all products, not queries alone', full)
    order = sorted(range(4), key=whole['each'].__getitem__)
    require('in blocks.%d, most' % order[0] in whole['text'] and whole['text'].endswith('in blocks.%d' % order[3]), whole['text'])
    r = Run('doctor', '--model', m)
    require([x for x in r.out.decode().splitlines() if what in x and 'least' in x and 'most' in x], r.out)
    scaled_layer(m / name, 2, 0)
    f = effect()
    require(f['verdict'] == 'doubtful' and 'blocks.2 ' in f['remedy'] and f['each'][2] == 0, f)
    shutil.copyfile(NANO / name, m / name)
    scaled_layer(m / name, 1, 64)
    f = effect()
    require(f['verdict'] == 'bad' and 'blocks.1 ' in f['remedy'] and abs(f['each'][1] / whole['each'][1] - 64) < 0.1, f)


@case
def doctor_prompt(tmp):
    healthy(doctor('--prompt', 'a smile'), 'prompt')
    found(doctor('--prompt', 'word ' * 700), 'prompt', 'length')
    found(doctor('--prompt', 'a smile \U0001f9ff \ue123'), 'prompt', 'unknown to the tokenizer')
    found(doctor('--prompt', os.fsdecode(b'\xff\xfe')), 'prompt', 'text', 'bad')


# ---- the machine

@case
def doctor_memory(tmp):
    healthy([f for f in doctor() if f['what'] == 'host'], 'memory')
    found(doctor('--size', '4096x4096'), 'memory', 'host', 'bad')


def path_with(folder, script):
    folder.mkdir(exist_ok=True)
    if script:
        (folder / 'ffmpeg').write_text('#!/bin/sh\n' + script)
        (folder / 'ffmpeg').chmod(0o755)
    (folder / 'sh').exists() or os.symlink('/bin/sh', folder / 'sh')
    return {**os.environ, 'PATH': str(folder)}


@case
def doctor_ffmpeg(tmp):
    version = 'case "$*" in *-version*) echo "ffmpeg version 7.1";; *) echo " %s  |->V  words%s.";; esac\n'
    own = Run('--version').out.decode().split()[1]
    found(doctor(env=path_with(tmp / 'none', None)), 'ffmpeg', 'on the path', 'doubtful')
    found(doctor(env=path_with(tmp / 'stock', version % ('.. scale', ''))), 'ffmpeg', 'filter avatar', 'doubtful')
    healthy(doctor(env=path_with(tmp / 'ours', version % ('.. avatar', ' (libavatar %s)' % own))), 'ffmpeg')
    for words in ('', ' (libavatar 0.0.9)', ' (libavatar 10.0.0)'):
        found(doctor(env=path_with(tmp / 'old', version % ('.. avatar', words))), 'ffmpeg', "the filter's version", 'doubtful')


def largest_processes():
    """Names by descending memory, as /proc says."""
    out = []
    for f in glob.glob('/proc/[0-9]*/status'):
        try:
            d = dict(line.split(':', 1) for line in open(f) if ':' in line)
            out.append((-int(d.get('VmRSS', '0 kB').split()[0]), d['Name'].strip()))
        except OSError:
            pass
    return [name for _, name in sorted(out)]


@case
def doctor_holders(tmp):
    """Who has the host's memory: named in any case, a fault where the plan has too little."""
    fine = [f for f in doctor() if f['what'] == 'held by other programs']
    require(len(fine) == 1 and fine[0]['verdict'] == 'good' and fine[0]['text'].split(' (')[0] in largest_processes()[:8], fine, largest_processes()[:8])
    found(doctor('--size', '4096x4096'), 'memory', 'held by other programs')


@case
def doctor_paging(tmp):
    """Memory that goes to disk while two blocks are made: /proc/vmstat is another file, the numbers of which grow."""
    what = 'paged while it ran'
    healthy([f for f in doctor(NANO / 'faces/anna.png') if f['what'] == what], 'memory')
    if os.getuid() or not shutil.which('unshare') or subprocess.run(['unshare', '-m', 'true'], stderr=subprocess.DEVNULL).returncode:
        raise Skip('nobody here can put a file over /proc/vmstat: that takes root, and a root that is no chroot')
    (tmp / 'vmstat').write_text('pswpin %012d\npswpout 0\n' % 0)
    script = ('mount --bind %s/vmstat /proc/vmstat && ( i=0; while sleep 0.02; do i=$((i + 20000)); printf "pswpin %%012d\n" $i 1<>%s/vmstat; done ) & loop=$!; '
              '"$@"; kill $loop' % (tmp, tmp))
    p = subprocess.run(['unshare', '-m', 'sh', '-c', script, 'sh', tool_harness.A.tool, 'doctor', '--json', NANO / 'faces/anna.png'],
                       stdout=subprocess.PIPE, timeout=tool_harness.LIMIT)
    found(json.loads(p.stdout)['findings'], 'memory', what, 'doubtful')


@case
def doctor_copies(tmp):
    """Each way between two GPUs is measured, on the emulated ones; a machine without GPUs says so."""
    row = [f for f in doctor() if f['what'] == 'copies between GPUs']
    require(len(row) == 1 and row[0]['verdict'] == 'good' and 'no GPU' in row[0]['text'], row)
    simt = pathlib.Path(tool_harness.A.tool).parent / 'simt/avatar'
    if not simt.exists():
        raise Skip('no emulated GPU: make simt')
    p = subprocess.run([simt, 'doctor', '--json'], stdout=subprocess.PIPE, timeout=tool_harness.LIMIT)
    rows = [f for f in json.loads(p.stdout)['findings'] if f['what'] == 'copies between GPUs']
    require(len(rows) == 2, rows)
    for a, b, f in ((0, 1, rows[0]), (1, 0, rows[1])):
        require(f['text'].startswith('cuda%d to cuda%d ' % (a, b)) and float(f['text'].split()[3]) > 0, f)


NCCL = r'''
#include <unistd.h>
int ncclGetVersion(int *v) { *v = 22705; return 0; }
int ncclCommInitAll(void **comm, int nb, const int *dev) { (void)comm, (void)dev; if (nb != 1) _exit(1); sleep(HANGS); return RET; }
'''


def built(tmp, name, text, *flags):
    (tmp / (name + '.c')).write_text(text)
    subprocess.run(['cc', '-shared', '-fPIC', *flags, '-o', tmp / name, tmp / (name + '.c')], check=True)


@case
def doctor_starts(tmp):
    """NCCL that starts, fails, and hangs; MPI that starts, allows no threads, and is not there."""
    if not shutil.which('cc'):
        raise Skip('no C compiler')
    env = {**os.environ, 'LD_LIBRARY_PATH': str(tmp)}
    card = ['-DDRIVER="580.65"', '-DUSED=0u', '-DMAJOR=9', '-DTHROTTLE=0', '-DECC=0']
    healthy([f for f in doctor() if f['what'] in ('NCCL', 'MPI')], 'devices')
    built(tmp, 'libnvidia-ml.so.1', NVML, *card)
    for hangs, ret, verdict, words in ((0, 0, 'good', '2.27 starts on 1 GPU'), (0, 2, 'doubtful', 'error 2'), (60, 0, 'doubtful', 'within 10 s')):
        built(tmp, 'libnccl.so.2', NCCL, '-DHANGS=%d' % hangs, '-DRET=%d' % ret)
        d = doctor(env=env)
        found(d, 'devices', 'NCCL', verdict)
        require(any(words in f['text'] for f in d if f['what'] == 'NCCL'), words, d)
    plugin = pathlib.Path(tool_harness.A.tool).parent / 'libavatar_mpi.so'
    if not plugin.exists():
        raise Skip('no MPI in this build')
    (mpi,) = [f for f in doctor('--full') if f['what'] == 'MPI']
    require(mpi['verdict'] == 'good' and 'MPI_THREAD_MULTIPLE' in mpi['text'], mpi)
    wants = [line.split()[1] for line in subprocess.run(['nm', '-D', plugin], stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()
             if ' U ' in line and 'mpi' in line.lower()]
    needed = subprocess.run(['readelf', '-d', plugin], stdout=subprocess.PIPE, check=True).stdout.decode()
    name = [w.strip('[]') for w in needed.split() if w.startswith('[libmpi')]
    if not name:
        raise Skip('an MPI of another name')
    text = ''.join('char %s[1024];\n' % w if w.startswith('ompi_') else 'int %s(void *a, void *b, int c, int *level) { %s return 0; }\n' %
                   (w, '*level = 1;' if w == 'MPI_Init_thread' else '*(int *)a = 0;' if w in ('MPI_Initialized', 'MPI_Finalized') else '') for w in wants)
    built(tmp, name[0], text)
    (mpi,) = [f for f in doctor('--full', env=env) if f['what'] == 'MPI']
    require(mpi['verdict'] == 'doubtful' and 'MPI_THREAD_MULTIPLE' in mpi['text'], mpi)


NVML = r'''
#include <string.h>
#ifndef NAME
#define NAME "a card"
#endif
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned instance[2]; } Process;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { strncpy(t, DRIVER, n); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = 0; return i; }
int nvmlDeviceGetName(void *d, char *t, unsigned n) { strncpy(t, NAME, n); return d != 0; }
int nvmlDeviceGetMemoryInfo(void *d, Memory *m) { *m = (Memory){ 24000000000u, 24000000000u - USED, USED }; return d != 0; }
int nvmlDeviceGetCudaComputeCapability(void *d, int *a, int *b) { *a = MAJOR; *b = 0; return d != 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, unsigned long long *r) { *r = THROTTLE; return d != 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, Process *p)
{ *n = USED ? 1 : 0; if (USED) p->pid = 1, p->used = USED; return d != 0; }
int nvmlDeviceGetTotalEccErrors(void *d, int c, int k, unsigned long long *n) { *n = ECC; return d != 0 || c + k != 1; }
'''


@case
def doctor_devices(tmp):
    """What NVIDIA's management library tells, by a false one."""
    if not shutil.which('cc'):
        raise Skip('no C compiler')
    (tmp / 'nvml.c').write_text(NVML)
    built(tmp, 'libnccl.so.2', NCCL, '-DHANGS=0', '-DRET=0')        # a real one would look for the card
    fine = {'DRIVER': '"580.65"', 'USED': '0u', 'MAJOR': '9', 'THROTTLE': '0', 'ECC': '0'}

    def seen(**changed):
        flags = ['-D%s=%s' % kv for kv in {**fine, **changed}.items()]
        subprocess.run(['cc', '-shared', '-fPIC', *flags, '-o', tmp / 'libnvidia-ml.so.1', tmp / 'nvml.c'], check=True)
        return doctor(env={**os.environ, 'LD_LIBRARY_PATH': str(tmp)})
    healthy(seen(), 'devices')
    found(seen(DRIVER='"570.10"'), 'devices', 'driver', 'bad')
    found(seen(MAJOR='7'), 'devices', 'GPU', 'bad')
    found(seen(THROTTLE='0x40'), 'devices', 'clocks')
    found(seen(ECC='3'), 'devices', 'memory errors', 'bad')
    d = seen(USED='20000000000u')
    found(d, 'memory', 'held by others on a GPU')
    require(any('(1) 20.00 GB' in f['text'] for f in d), 'the process is named', d)


# ---- two blocks

@case
def doctor_blocks(tmp):
    """A picture that the model's VAE does not know, a LoRA at another strength, files that do not belong together."""
    ours = doctor(SPEECH, NANO / 'faces/anna.png')
    for topic in ('latents', 'precision', 'picture'):
        healthy(ours, topic)
    require(any(f['what'] == "given back by the model's VAE" for f in ours) and any(f['what'] == 'off the known answer' for f in ours), ours)
    if not any('no dlib' in f['text'] for f in ours):
        face = [f for f in ours if f['what'] == 'its face alone']
        require(len(face) == 1 and face[0]['unit'] == 'dB' and face[0]['verdict'] == 'good', face)
    rnd = random.Random(3)
    found(doctor(ppm(tmp / 'p.ppm', [[rnd.choice((0, 255)) for _ in range(128)] for _ in range(128)])), 'picture', "given back by the model's VAE", 'bad')
    found(doctor('--quick', '--opts', 'lora_alpha=60'), 'latents', 'off the known answer', 'bad')
    found(doctor('--quick', '--lora', 'none'), 'latents', 'off the known answer', 'bad')
    found(doctor('--quick', '--opts', 'lora_alpha=1e30'), 'latents', 'two blocks', 'bad')
    require([f for f in doctor('--quick', '--precision', 'f32') if f['topic'] == 'precision' and f['text'].startswith('f32')], 'f32')


@case
def doctor_motion(tmp):
    """A face a third larger in the frame than the model's own, which its VAE gives back as well as those: its film stands still, doctor makes it and sees."""
    faces, what, large = NANO / 'faces', 'moves with the sound', cropped(NANO / 'faces/anna.png', tmp / 'large.ppm', 0.75, tmp)
    for picture in (faces / 'anna.png', faces / 'ben.png'):
        seen = [f for f in doctor(SPEECH, picture) if f['what'] == what]
        require(len(seen) == 1 and seen[0]['verdict'] == 'good' and seen[0]['value'] > 20, seen)
    ill = doctor(SPEECH, large)
    found(ill, 'picture', what)
    require(all(f['verdict'] == 'good' for f in ill if 'VAE' in f['what'] or f['what'] == 'its face alone'), 'nothing else tells', ill)
    silence = tmp / 'silence.wav'
    silence.write_bytes(media.wav_head(400000) + bytes(400000))
    for args, why in (((large,), 'name the sound'), ((silence, large), '4 s of speech')):
        seen = [f for f in doctor(*args) if f['what'] == what]
        require(len(seen) == 1 and seen[0]['verdict'] == 'good' and seen[0]['value'] is None and why in seen[0]['text'], args, seen)


@case
def doctor_faces(tmp):
    """Where the build has dlib: shipped faces are seen, whole and from the front; two, a small one, one that is cut off, none are told."""
    w, h, rgb = picture_of(NANO / 'faces/ben.png', tmp)
    if any('no dlib' in f['text'] for f in doctor(NANO / 'faces/ben.png')):
        raise Skip('this build has no dlib (libdlib-dev)')

    def ppm_of(name, rows):
        (tmp / name).write_bytes(b'P6 %d %d 255\n' % (len(rows[0]) // 3, len(rows)) + b''.join(rows))
        return tmp / name
    rows = [rgb[3 * w * y:3 * w * (y + 1)] for y in range(h)]
    ground = rows[2][:3]
    seen = [f for f in doctor(ppm_of('one.ppm', rows), '--size', '128x128') if f['what'].startswith('face')]
    require(len(seen) == 4 and all(f['verdict'] == 'good' for f in seen), seen)
    found(doctor(ppm_of('two.ppm', [r + r for r in rows]), '--size', '256x128'), 'picture', 'faces')
    small = [ground * (3 * w)] * h + [ground * w + r + ground * w for r in rows] + [ground * (3 * w)] * h
    found(doctor(ppm_of('small.ppm', small), '--size', '128x128'), 'picture', "face, of the frame's height")
    found(doctor(ppm_of('none.ppm', [ground * w] * h), '--size', '128x128'), 'picture', 'face', 'doubtful')
    found(doctor(ppm_of('cut.ppm', [r[3 * 110:] for r in rows]), '--size', '96x128'), 'picture', 'face, whole')


# ---- finished films

def y4m(path, frames):
    """Luma [y][x] a frame; 4:4:4 with grey colours, or (luma, u, v)."""
    n = len(frames[0][0] if isinstance(frames[0], tuple) else frames[0])
    with open(path, 'wb') as f:
        f.write(b'YUV4MPEG2 W%d H%d F25:1 Ip C444\n' % (n, n))
        for frame in frames:
            luma, u, v = frame if isinstance(frame, tuple) else (frame, 128, 128)
            f.write(b'FRAME\n' + bytes(max(0, min(255, round(x))) for row in luma for x in row) + bytes([u]) * (n * n) + bytes([v]) * (n * n))
    return path


@case
def doctor_film(tmp):
    big = textured(192)
    soft = softened(big, 4)

    def window(p, x):
        return [row[x:x + 128] for row in p[32:160]]
    sway = [4 + abs(i % 46 - 23) for i in range(48)]
    ref = ('--picture', ppm(tmp / 'ref.ppm', window(big, 16)))
    film = [window(big, x) for x in sway]
    healthy(doctor(y4m(tmp / 'fine.y4m', film), *ref, '-o', tmp / 'c.svg'), 'film')
    svg = (tmp / 'c.svg').read_text()
    require(svg.count('<polyline') == 5 and '>0 s</text>' in svg and '>1.5 s</text>' in svg, 'five curves over their time', svg)
    planted = (
        ([window(soft, x) for x in sway], 'sharpness against the picture'),
        ([window(soft if i > 36 else big, x) for i, x in enumerate(sway)], 'sharpness, end against start'),
        ([(p, 128 + i // 4, 128 - i // 4) for i, p in enumerate(film)], 'drift of colour'),
        ([film[i // 2 * 2] for i in range(48)], 'repeated frames'),
        ([window(big, 2 + i // 12 * 12 + i % 12 % 2) for i in range(48)], 'change across block borders'),
    )
    for frames, what in planted:
        found(doctor(y4m(tmp / 'film.y4m', frames), *ref), 'film', what)
    found(doctor(SPEECH, *ref), 'film', 'read', 'bad')
    one = doctor(y4m(tmp / 'one.y4m', film[:1]), *ref)
    require('one frame' in one[0]['text'], one)


@case
def doctor_large_film(tmp):
    """Beyond the sizes of the published model the pixels cost what reading them does: judged as they are, 18 times as many took 16 times as long."""
    big = textured(192)

    def film(k, name):
        lines = [b''.join(bytes([max(0, min(255, round(v)))]) * k for v in line) for line in big[32:160]]
        with open(tmp / name, 'wb') as f:
            f.write(b'YUV4MPEG2 W%d H%d F25:1 Ip Cmono\n' % (128 * k, 128 * k))
            for i in range(16):
                f.write(b'FRAME\n' + b''.join(line[i * k:(i + 128) * k] * k for line in lines))
        before = os.times().children_user
        d = doctor(tmp / name, '--picture', tmp / 'ref.ppm')
        healthy(d, 'film')
        return os.times().children_user - before

    ppm(tmp / 'ref.ppm', [row[16:144] for row in big[32:160]])
    large, small = film(32, 'large.y4m'), film(7, 'small.y4m')
    require(large < 8 * small, large, small)


@case
def doctor_lips(tmp):
    """A film of the embedded model, whose sound is then moved inside the file."""
    face, film = NANO / 'faces/ben.png', tmp / 'film.nut'
    r = Run('speak', SPEECH, face, '--seed', 1, '--quiet', '-o', film)
    require(r.ret == 0, r.what)
    healthy(doctor(film, '--picture', face), 'film')
    data = film.read_bytes()
    with wave.open(str(SPEECH)) as w:
        pcm = w.readframes(w.getnframes())
    pieces = [pcm[i:i + 1280] for i in range(0, len(pcm) - 1279, 1280)]
    late = 9                                                        # frames
    at, out = 0, []
    for i, piece in enumerate(pieces):
        k = data.index(piece, at)
        out += [data[at:k], pieces[i - late] if i >= late else bytes(1280)]
        at = k + 1280
    (tmp / 'late.nut').write_bytes(b''.join(out) + data[at:])
    found(doctor(tmp / 'late.nut', '--picture', face), 'film', 'lips behind the sound', 'bad')


# ---- known answers

@case
def verify(tmp):
    answer, model = tmp / 'a.safetensors', ('--model', tool_harness.A.model)
    r = Run('verify', answer, *model, '--record', '--precision', 'f32', '--cpu-level', 0)
    require(r.ret == 0, r.what)
    same = json.loads(Run('verify', answer, *model, '--precision', 'f32', '--cpu-level', 0, '--json').out)
    require(same['worst_block'] == 0, 'how far it is, not how it was rounded', same)
    for args in (('--precision', 'f32'), ('--precision', 'bf16'), ('--devices', 'cpu|cpu', '--plan', 'layer'), ('--devices', 'cpu|cpu|cpu|cpu', '--plan', 'timestep')):
        r = Run('verify', answer, *model, *args, '--json')
        d = json.loads(r.out)
        require(r.ret == 0 and d['verdict'] == 'good' and 0 <= d['worst_block'] < d['limit'], args, r.what, r.out)
    r = Run('verify', answer, *model, '--prompt', 'something else')
    require(r.ret == 2 and b'NOT' in r.out, 'another prompt passes', r.what, r.out)
    answer.write_bytes(answer.read_bytes()[:-100])
    require(Run('verify', answer, *model).ret == 1, 'a truncated answer passes')
    require(Run('verify', tmp / 'none', *model).ret == 1, 'no answer passes')


@case
def verify_seeded_on_a_full_disk(tmp):
    """No byte and no name is left there: one sentence, no crash."""
    if os.getuid() or not shutil.which('unshare') or subprocess.run(['unshare', '-m', 'true'], stderr=subprocess.DEVNULL).returncode:
        raise Skip('nobody here can mount a small disk: that takes root, and a root that is no chroot')
    script = 'mount -t tmpfs -o size=1m,nr_inodes=7 tmpfs %s && TMPDIR=%s "$0" verify %s/a --seeded 2' % (tmp, tmp, tmp)
    p = subprocess.run(['unshare', '-m', 'sh', '-c', script, tool_harness.A.tool], stderr=subprocess.PIPE, timeout=tool_harness.LIMIT)
    require(p.returncode == 1 and b'No space left on device' in p.stderr, p.returncode, p.stderr)


@case
def verify_seeded(tmp):
    """Random weights of the published shapes, of 2 heads for a test: an answer that other plans and precisions give, other weights do not; nothing is left."""
    answer, env = tmp / 'seeded.safetensors', dict(os.environ, TMPDIR=str(tmp))

    def run(*args, heads=2):
        r = Run('verify', answer, '--seeded', heads, *args, env=env)
        require(not list(tmp.glob('avatar-seeded-*')), 'the folder is left')
        return r

    r = run('--record', '--precision', 'f32')
    require(r.ret == 0 and b'64x64' in r.out, r.what)
    for args in ((), ('--devices', 'cpu|cpu', '--plan', 'layer'), ('--precision', 'int8'), ('--precision', 'fp8'), ('--offload', 'weights')):
        require(run(*args).ret == 0, args)
    require(run(heads=3).ret == 2, 'other weights pass')
    for args in (('--seeded', 41), ('--seeded', -1), ('--seeded', 2, '--model', 'nano')):
        require(Run('verify', answer, *args).ret in (1, 2), args)
    r = Run('verify', '--seeded', 2, env=env)
    require(r.ret == 2 and 'name the FILE' in r.err and not r.out, r.what)
    for command in (('verify', str(answer)), ('bench', '--damage')):            # a signal ends it, whatever it does
        p = subprocess.Popen([tool_harness.A.tool, *command, '--seeded', '2'], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not list(tmp.glob('avatar-seeded-*/avatar.json')):
            time.sleep(0.01)
        p.terminate()
        err = p.communicate(timeout=tool_harness.LIMIT)[1].decode()
        require(p.returncode == 1 and 'interrupted' in err and not list(tmp.glob('avatar-seeded-*')), command, p.returncode, err)
    shipped = (NANO / 'seeded.safetensors').read_bytes()
    head = json.loads(shipped[8:8 + struct.unpack('<Q', shipped[:8])[0]])
    require(head['latents']['shape'] == [2, 3 * 16 * 8 * 8] and head['__metadata__'] == {'size': '64x64', 'steps': '4'}, head)


@case
def verify_nano(tmp):
    """The shipped answer is that of the shipped model; another LoRA is not."""
    require(Run('verify').ret == 0, 'model/nano/verify.safetensors: record it anew: build/avatar verify --record --precision f32 --cpu-level 0')
    require(Run('verify', '--lora', 'none').ret == 2, 'without its LoRA it passes')
