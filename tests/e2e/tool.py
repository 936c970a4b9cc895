#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tests of the tool, with a tiny model on the CPU: what it reads, what it writes, what it says and with which exit code.

    tool.py --tool build/avatar --media build/tests/media --model DIR [CASE...]

One line a case, then "N passed, N failed, N skipped". Every run has a time limit: a hang is a failure.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import zlib

import tool_harness
from tool_harness import LIMIT, Film, Nut, Run, Skip, case, face, fails, interrupt, media, read_picture, read_sound, require, speak

A = argparse.Namespace()


# ---- what it reads

@case
def wav_16k(tmp):
    """Frames to the sound's end, the sound itself bit for bit, one after the other."""
    n = 7680 + 1000
    wav = media.wav(tmp / 'a.wav', n)
    r = speak(wav, face(tmp), '-o', tmp / 'o.nut')
    require(r.ret == 0, r.what)
    nut = Nut(tmp / 'o.nut')
    nut.check(14, n)
    pcm = struct.pack('<%dh' % n, *media.samples(n))
    sums = [(a * 640, len(pcm[a * 1280:a * 1280 + 1280]), zlib.adler32(pcm[a * 1280:a * 1280 + 1280])) for a in range(14)]
    require(nut.sound == sums, 'the sound is not the one that went in')
    require(nut.order == [0, 1] * 14, 'each frame is followed by its sound')
    again = speak(wav, face(tmp), '-o', tmp / 'p.nut')
    require(again.ret == 0 and (tmp / 'o.nut').read_bytes() == (tmp / 'p.nut').read_bytes(), 'one seed gives one file')


@case
def wav_other_rates(tmp):
    for rate, channels in ((8000, 1), (44100, 2), (48000, 6), (16000, 2)):
        wav = media.wav(tmp / 'a.wav', rate * 3 // 10, rate, channels)
        require(speak(wav, face(tmp), '-o', tmp / 'o.nut').ret == 0, rate, channels)
        nut = Nut(tmp / 'o.nut')
        nut.exact = False
        nut.check(8, 4800)
    mono = read_sound(media.wav(tmp / 'm.wav', 1600), tmp)
    stereo = read_sound(media.wav(tmp / 's.wav', 1600, channels=2), tmp)
    require(max(abs(a - b) for a, b in zip(mono, stereo)) < 1e-4, 'two equal channels are not one')
    require([round(v * 32768) for v in mono] == media.samples(1600), 'samples of 16 kHz mono are not left alone')


def flac(path, nb):
    """FLAC at its plainest: one frame after another of samples as they are."""
    def crc(data, poly, bits):
        v = 0
        for byte in data:
            v ^= byte << (bits - 8)
            for _ in range(8):
                v = (v << 1 ^ (poly if v >> (bits - 1) & 1 else 0)) & ((1 << bits) - 1)
        return v
    pcm, size = media.samples(nb), 576
    require(nb % size == 0)
    info = struct.pack('>HH6xQ16x', size, size, 16000 << 44 | 15 << 36 | nb)
    out = b'fLaC' + bytes([0x80, 0, 0, len(info)]) + info
    for k in range(nb // size):
        head = bytes([0xff, 0xf8, 0x25, 0x08, k])                   # 576 samples, 16 kHz; mono, 16 bits; number (below 128)
        body = head + bytes([crc(head, 0x07, 8), 2]) + struct.pack('>%dh' % size, *pcm[k * size:(k + 1) * size])
        out += body + struct.pack('>H', crc(body, 0x8005, 16))
    path.write_bytes(out)
    return path


@case
def compressed_sound(tmp):
    """FLAC gives what WAV gives."""
    require(speak(media.wav(tmp / 'a.wav', 5760), face(tmp), '-o', tmp / 'o.nut').ret == 0)
    r = speak(flac(tmp / 'a.flac', 5760), face(tmp), '-o', tmp / 'p.nut')
    require(r.ret == 0, r.what)
    require((tmp / 'o.nut').read_bytes() == (tmp / 'p.nut').read_bytes(), 'FLAC differs from WAV')


@case
def mp3(tmp):
    wav = media.wav(tmp / 'a.wav', 5760)
    if speak(wav, face(tmp), '-c:a', 'libmp3lame', '-o', tmp / 'a.mkv').ret:
        raise Skip('libavcodec has no encoder of MP3')
    require(speak(tmp / 'a.mkv', face(tmp), '-o', tmp / 'o.nut').ret == 0)
    require(9 <= len(Nut(tmp / 'o.nut').video) <= 12)


@case
def stdin_wav_and_raw(tmp):
    n = 3000
    wav = media.wav(tmp / 'a.wav', n)
    whole = pathlib.Path(wav).read_bytes()
    require(speak(wav, face(tmp), '-o', tmp / 'o.nut').ret == 0)
    want = (tmp / 'o.nut').read_bytes()
    raw = ('--input_format', 's16le')
    for data, what, how in ((whole, 'wav', ()), (whole[44:], 'raw', raw)):
        r = speak('-', face(tmp), '-o', tmp / 'p.nut', *how, stdin=data)
        require(r.ret == 0, r.what)
        require((tmp / 'p.nut').read_bytes() == want, what + ' on stdin differs from the file')
    fails(speak('-', face(tmp), '-o', tmp / 'p.nut', stdin=b''), 1, 'stdin')
    fails(speak('-', face(tmp), '-o', tmp / 'p.nut', *raw, stdin=b''), 1, 'stdin', 'no sound')
    r = speak('-', face(tmp), '-o', tmp / 'p.nut', *raw, stdin=whole[44:45 + 2 * n - 1280])
    require(r.ret == 0 and len(Nut(tmp / 'p.nut').video) == (n - 640 + 639) // 640, r.what)


def turned(p):
    """By EXIF orientation, the rows of a picture that is stored as `p`."""
    mirror, flip, transpose = [row[::-1] for row in p], p[::-1], [list(c) for c in zip(*p)]
    return {1: p, 2: mirror, 3: [row[::-1] for row in flip], 4: flip, 5: transpose, 6: [row[::-1] for row in transpose],
            7: [row[::-1] for row in transpose[::-1]], 8: transpose[::-1]}


@case
def pictures(tmp):
    """PNG exactly, alpha dropped, every EXIF orientation, of JPEG, PNG and TIFF, as an upright picture of the same pixels."""
    rows = media.face(40, 24)
    plain = read_picture(face(tmp, w=40, h=24), tmp)
    require(plain == [[r[3 * x:3 * x + 3] for x in range(40)] for r in rows], 'PNG')
    require(read_picture(face(tmp, 'alpha.png', w=40, h=24, alpha=True), tmp) == plain, 'PNG with alpha')
    jpeg = pathlib.Path(__file__).resolve().parent / 'filter' / 'portrait.jpg'
    for o, rows in turned(read_picture(jpeg, tmp)).items():
        require(read_picture(media.set_orientation(jpeg, tmp / 'o.jpg', o), tmp) == rows, 'EXIF orientation', o)
    for o, rows in turned(plain).items():
        require(read_picture(media.set_orientation(tmp / 'face.png', tmp / 'o.png', o), tmp) == rows, 'eXIf orientation', o)
        require(read_picture(media.tiff(tmp / 'o.tif', 40, 24, o), tmp) == rows, 'TIFF orientation', o)


@case
def formats_and_sizes(tmp):
    wav = media.wav(tmp / 'a.wav', 700)
    for fmt, per_pixel in (('yuv420p', 1.5), ('yuv444p', 3), ('nv12', 1.5), ('rgb24', 3), ('gbrp', 3)):
        r = speak(wav, face(tmp), '--format', fmt, '--size', '80x64', '-o', tmp / 'o.nut')
        require(r.ret == 0, r.what)
        nut = Nut(tmp / 'o.nut')
        nut.check(2, 700, '80x64', fmt)
        require(all(v[1] == 80 * 64 * per_pixel for v in nut.video), fmt)


@case
def tails(tmp):
    wav = media.wav(tmp / 'a.wav', 1900)
    for tail, frames in (('ceil', 3), ('floor', 2), ('block', 12)):
        require(speak(wav, face(tmp), '--tail=' + tail, '-o', tmp / 'o.nut').ret == 0)
        Nut(tmp / 'o.nut').check(frames, 1900)


# ---- where it writes

@case
def stdout_pipe(tmp):
    wav = media.wav(tmp / 'a.wav', 3000)
    require(speak(wav, face(tmp), '-o', tmp / 'o.nut').ret == 0)
    r = speak(wav, face(tmp), '-o', '-')
    require(r.ret == 0, r.what)
    (tmp / 'p.nut').write_bytes(r.out)
    want, have = Nut(tmp / 'o.nut'), Nut(tmp / 'p.nut')             # a pipe has no index at its end
    require((want.streams, want.video, want.sound) == (have.streams, have.video, have.sound))


@case
def default_name(tmp):
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    p = subprocess.run([os.path.abspath(A.tool), 'speak', '--model', os.path.abspath(A.model), wav, png], cwd=tmp, stderr=subprocess.PIPE,
                       timeout=LIMIT)
    require(p.returncode == 0 and b'avatar.mp4' in p.stderr, p.stderr)
    require(Film(tmp / 'avatar.mp4').frames == 1)


@case
def disk_full(tmp):
    if not os.path.exists('/dev/full'):
        raise Skip('no /dev/full')
    wav = media.wav(tmp / 'a.wav', 16000)
    fails(speak(wav, face(tmp), '-o', '/dev/full'), 1, 'No space left')
    with open('/dev/full', 'wb') as full:
        fails(speak(wav, face(tmp), '-o', '-', stdout=full), 1, 'No space left')


@case
def reader_goes_away(tmp):
    wav = media.wav(tmp / 'a.wav', 5 * 16000)
    p = subprocess.Popen([A.tool, 'speak', '--model', A.model, '--seed', '3', wav, face(tmp), '-o', '-'], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    p.stdout.read(1000)
    p.stdout.close()
    err = p.stderr.read().decode()
    require(p.wait(LIMIT) == 1 and 'avatar: ' in err and 'ipe' in err, p.returncode, err)


@case
def interrupted(tmp):
    """The first SIGINT or SIGTERM ends the file: whole frames, their sound and no more."""
    wav = media.wav(tmp / 'a.wav', 20 * 16000)
    for sig in (signal.SIGINT, signal.SIGTERM):
        out = tmp / 'o.nut'
        ret, err, _ = interrupt([A.tool, 'speak', '--model', A.model, '--seed', '3', '--size', '128x128', wav, face(tmp), '-o', out],
                                lambda: any(f.stat().st_size > 100000 for f in tmp.glob('.avatar-*')), sig)
        require(ret == 1 and 'interrupted' in err, ret, err)
        nut = Nut(out)
        require(0 < len(nut.video) < 500, len(nut.video))
        nut.check(len(nut.video), 640 * len(nut.video), '128x128')
        require('after %d frames' % len(nut.video) in err, err, len(nut.video))
        out.unlink()


# ---- what it says

@case
def wrong_arguments(tmp):
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    for args, word in (((), 'usage'), (('speak',), 'usage'), (('speak', wav), 'usage'), (('speak', wav, png, wav), 'usage'), (('fly',), 'fly'),
                       (('speak', wav, png, '--sped', '1'), '--sped'), (('speak', wav, png, '--seed'), 'seed'),
                       (('speak', wav, png, '--seed', 'x'), 'x'), (('speak', wav, png, '--size', '64'), '64'),
                       (('speak', wav, png, '--steps=4x'), '4x'), (('speak', wav, png, '--format', 'bmp'), 'bmp'),
                       (('speak', wav, png, '--tail', 'half'), 'half'), (('inspect',), 'usage'), (('plan', 'a', 'b'), 'usage'),
                       (('plan', '--size', '65x64'), '16'), (('plan', '--no-steps'), '--no-steps')):
        r = Run(*args)
        fails(r, 2, word)
        require(not r.out, 'talk on stdout', r.what)


@case
def wrong_values(tmp):
    """What only the library can refuse: exit code 1, its sentence, and nothing is written."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    out = tmp / 'o.nut'
    out.write_bytes(b'precious')
    for args, word in ((('--plan', 'fast'), 'plan=fast'), (('--devices', 'gpu'), 'devices=gpu'), (('--steps', '101'), 'steps=101'),
                       (('--model', tmp), 'config.json'), (('--model', '/nonexistent'), '/nonexistent'), (('--opts', 'a=b'), 'opts')):
        fails(speak(wav, png, *args, '-o', out), 1, word)
        require(out.read_bytes() == b'precious', args, 'wrote the file before it refused')
    fails(speak(wav, png, '--size', '65x64', '-o', out), 1, 'size=65x64')
    fails(speak(wav, png, '--seed', '-5', '-o', out), 1, 'seed=-5')


@case
def useless_films_are_announced(tmp):
    """nano with its own kind of picture says nothing; with another size or kind of picture, one line each before the first frame."""
    nano = pathlib.Path(__file__).resolve().parents[2] / 'model' / 'nano'
    wav = media.wav(tmp / 'a.wav', 640)
    for name, size, lines in (('anna', '128x128', ()), ('ben', '128x128', ()), ('clara', '128x128', ()), ('anna', '192x192', ('size=192x192',))):
        r = Run('speak', '--model', nano, wav, nano / 'faces' / (name + '.png'), '--size', size, '-o', tmp / 'o.nut')
        require(r.ret == 0 and r.err.count('warning') == len(lines) and all(w in r.err for w in lines), name, r.what)
    r = Run('speak', '--model', nano, wav, noise(tmp / 'noise.png'), '-o', tmp / 'o.nut')
    require(r.ret == 0 and r.err.count('warning') == 1 and 'of a kind' in r.err, r.what)


def noise(path):
    """What no model knows: a picture of dots."""
    rows = [bytes((x * y * 37 + c * 91 + (x ^ y) * 13) & 255 for x in range(96) for c in range(3)) for y in range(96)]
    keep, media.face = media.face, lambda w, h, alpha: rows
    try:
        return media.png(path)
    finally:
        media.face = keep


@case
def models_by_name(tmp):
    """A name without a slash: in AVATAR_MODELS, in its order, then installed, then here; what is nowhere is told with all of that."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    for folder, name in (('first', 'first'), ('second', 'second'), ('.', 'here')):
        shutil.copytree(A.model, tmp / folder / ('here' if folder == '.' else 'mine'))
        (tmp / folder / ('here' if folder == '.' else 'mine') / 'avatar.json').write_text('{"name": "the %s", "lora": "none", "size": "64x64"}' % name)
    env = dict(os.environ, AVATAR_MODELS='%s::%s/second:%s/first' % (tmp / 'none', tmp, tmp))
    for model, want in (('mine', 'the second'), ('here', 'the here'), ('./here', 'the here')):
        p = subprocess.run([os.path.abspath(A.tool), 'speak', wav, png, '--lora', 'none', '--cpu_threads', '1', '--model', model, '-o', str(tmp / 'o.nut')], cwd=tmp, env=env,
                           stderr=subprocess.PIPE, timeout=LIMIT)
        require(p.returncode == 0 and want.encode() in p.stderr, model, p.stderr)
        p = subprocess.run([os.path.abspath(A.tool), 'inspect', model], cwd=tmp, env=env, stdout=subprocess.PIPE, timeout=LIMIT)
        require(p.returncode == 0 and want.encode() in p.stdout, model, p.stdout)
    for env, word in ((env, str(tmp / 'first')), ({'PATH': ''}, 'not set')):
        r = Run('speak', wav, png, '--model', 'mina', '-o', tmp / 'o.nut', env=env)
        fails(r, 1, 'model=mina', 'AVATAR_MODELS', word)


@case
def missing_and_damaged_files(tmp):
    wav, png = media.wav(tmp / 'a.wav', 3000), face(tmp)
    whole = pathlib.Path(wav).read_bytes()
    out = tmp / 'o.nut'
    fails(speak('/nonexistent.wav', png, '-o', out), 1, '/nonexistent.wav', 'No such file')
    fails(speak(wav, '/nonexistent.png', '-o', out), 1, '/nonexistent.png', 'No such file')
    fails(speak(wav, png, '-o', '/nonexistent/o.nut'), 1, '/nonexistent/o.nut', 'No such file')
    fails(speak(png, png, '-o', out), 1, 'face.png', 'no sound')
    fails(speak(wav, wav, '-o', out), 1, 'a.wav', 'no picture')
    (tmp / 'empty').write_bytes(b'')
    fails(speak(tmp / 'empty', png, '-o', out), 1, 'empty')
    fails(speak(wav, tmp / 'empty', '-o', out), 1, 'empty')
    (tmp / 'text.png').write_bytes(b'<html>not found</html>' * 40)
    fails(speak(wav, tmp / 'text.png', '-o', out), 1, 'text.png')
    (tmp / 'cut.png').write_bytes(pathlib.Path(png).read_bytes()[:600])
    fails(speak(wav, tmp / 'cut.png', '-o', out), 1, 'cut.png')
    require(not out.exists(), 'a file was written')
    (tmp / 'cut.wav').write_bytes(whole[:44 + 2 * 1500])            # as much sound as there is
    r = speak(tmp / 'cut.wav', png, '-o', out)
    require(r.ret == 0, r.what)
    Nut(out).check(3, 1500)
    (tmp / 'head.wav').write_bytes(whole[:44])
    fails(speak(tmp / 'head.wav', png, '-o', out), 1, 'head.wav', 'no sound')
    media.wav(tmp / 'nan.wav', 0, floats=[0.1] * 1000 + [float('nan')] * 10)
    fails(speak(tmp / 'nan.wav', png, '-o', out), 1, 'sample 1000 ')


@case
def inspect_and_plan(tmp):
    r = Run('inspect', A.model)
    require(r.ret == 0 and b'complete' in r.out and b'spiece.model' in r.out, r.what, r.out)
    require(r.out.count(b'\n') <= 24, 'more than one screen')
    fails(Run('inspect', '/nonexistent'), 1, '/nonexistent')
    for args in (('--model', A.model, '--size', '64x64'), ('--model', A.model, '--devices', 'cpu|cpu', '--plan', 'layer'),
                 ('--devices', 'cuda0|cuda1|cuda2|cuda3', '--plan', 'layer'), ()):
        r = Run('plan', *args)
        require(r.ret == 0 and b'weights' in r.out and not r.err, r.what)
    fails(Run('plan', '--plan', 'fast'), 1, 'fast')
    fails(Run('plan', '--precision', 'fp12'), 1, 'fp12')
    four = json.loads(Run('plan', '--devices', 'cuda0|cuda1|cuda2|cuda3', '--plan', 'layer', '--json').out)
    assert len(four['ranks']) == 4 and four['precision'] == 'bf16', four
    for r in four['ranks']:
        parts = [r[k] for k in ('weights', 'state', 'scratch', 'workspace', 'messages')]
        assert r['sum'] == sum(parts) and all(p > 0 for p in parts) and r['sum'] < 24e9, r
    for nb in 4, 5:                                                 # cards of 24 GB: each rank fits, with the front where that is
        p = json.loads(Run('plan', '--devices', '|'.join('cuda%d' % i for i in range(nb)), '--plan', 'layer', '--memory', '22.15', '--json').out)
        assert all(r['sum'] + (p['front']['sum'] if r['device'] == p['front']['device'] else 0) <= 22.15e9 for r in p['ranks']), p
    fails(Run('plan', '--devices', 'cuda0|cuda1', '--memory', '22.15', '--offload', 'none'), 1, 'does not fit')
    fails(Run('plan', '--devices', 'cuda0|cuda1', '--memory', '22.15|x'), 2, '22.15|x')
    one = json.loads(Run('plan', '--devices', 'cuda0', '--json').out)['ranks'][0]
    wide = json.loads(Run('plan', '--devices', 'cuda0', '--precision', 'f32', '--json').out)['ranks'][0]
    assert one['state'] < 47e9 < 1.9 * one['state'] < wide['state'], (one, wide)
    ops = json.loads(Run('plan', '--devices', 'cuda0', '--ops', '--json').out)
    assert ops['calls'] == sum(o['calls'] for o in ops['ops']) <= 750 and abs(ops['flops'] / 120.8e12 - 1) < 1e-2, ops['calls']
    floor = json.loads(Run('plan', '--devices', 'cuda0', '--ops', '--gpus', 'h100', '--json').out)
    assert floor['gpu'] == 'h100' and 120 < floor['floor_ms'] < 240 and floor['floor_ms'] > 1e3 * floor['flops'] / 989e12
    fails(Run('plan', '--ops', '--gpus', 'h1'), 2, 'h1')
    assert b'attention' in Run('plan', '--model', A.model, '--size', '64x64', '--ops').out
    for args in (('--help',), ('speak', '--help'), ('plan', '--help'), ('inspect', '--help'), ('--version',)):
        r = Run(*args)
        require(r.ret == 0 and r.out and not r.err, r.what)


import tool_convert     # noqa: E402,F401
import tool_doctor      # noqa: E402,F401: their cases
import tool_films       # noqa: E402,F401
import tool_hostile     # noqa: E402,F401
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / 'hostile'))
import tool_beside      # noqa: E402,F401
import tool_folders     # noqa: E402,F401
import tool_media       # noqa: E402,F401
import tool_values      # noqa: E402,F401
import tool_world       # noqa: E402,F401
import tool_monitor     # noqa: E402,F401
import tool_plan        # noqa: E402,F401


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tool', required=True)
    parser.add_argument('--media', required=True)
    parser.add_argument('--model', required=True)
    parser.add_argument('--jobs', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('cases', nargs='*')
    parser.parse_args(namespace=A)
    A.tool, A.media, A.model = (os.path.abspath(p) for p in (A.tool, A.media, A.model))     # cases work in folders of their own
    tool_harness.A = A
    sys.exit(tool_harness.run_cases(A.cases, A.jobs))
