# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: the films that the tool writes by itself, and every kind of input through a file, a FIFO and stdin."""
import os
import pathlib
import struct
import subprocess
import threading

import tool_harness
from tool_harness import Film, Nut, Run, Skip, case, cropped, face, fails, media, read_picture, read_sound, require, speak, tone

SUFFIXES = {'mp4': ('mov', 'aac'), 'mov': ('mov', 'aac'), 'mkv': ('matroska', 'aac'), 'ts': ('mpegts', 'aac'), 'webm': ('matroska', 'opus')}


@case
def film_by_suffix(tmp):
    """The container that the name says, all frames, sound from the first to the last of them, in step with the picture."""
    wav = tone(tmp / 'a.wav', 0.5, 1.0)
    require(speak(wav, face(tmp), '-o', tmp / 'o.nut').ret == 0)
    plain = Film(tmp / 'o.nut')
    for suffix, (container, audio) in SUFFIXES.items():
        r = speak(wav, face(tmp), '-o', tmp / ('o.' + suffix))
        require(r.ret == 0, r.what)
        f = Film(tmp / ('o.' + suffix))
        require(container in f.container and f.audio == audio and f.size == '64x64', suffix, vars(f))
        require(f.frames == 25 and abs(f.end - f.start - 1) < 0.005, suffix, vars(f))
        require(abs(f.onset - f.start - 0.5) < 0.02, suffix, 'sound and picture are out of step', vars(f))
        require(abs(f.audio_end - f.start - 1) < 0.07, suffix, 'the sound has another length', vars(f))
        require(abs(f.luma - plain.luma) < 1.5, suffix, 'other pictures', f.luma, plain.luma)
    moov = (tmp / 'o.mp4').read_bytes()
    require(0 < moov.index(b'moov') < moov.index(b'mdat'), 'the index is not at the front')
    require([p.name for p in tmp.iterdir() if p.name.startswith('.avatar')] == [], 'something was left beside')


@case
def film_keeps_the_sound(tmp):
    """A film has its sound at the rate and with the channels that came in; NUT what the model heard."""
    for rate, channels, nut_channels in ((44100, 2, 1), (48000, 1, 1), (48000, 6, 1)):
        wav = tone(tmp / 'a.wav', 0.2, 0.4, rate, channels)
        require(speak(wav, face(tmp), '-o', tmp / 'o.mp4').ret == 0)
        f = Film(tmp / 'o.mp4')
        require((f.rate, f.channels) == (rate, min(channels, 2)), vars(f))
        require(abs(f.onset - 0.2) < 0.02, vars(f))
        require(speak(wav, face(tmp), '-o', tmp / 'o.nut').ret == 0)
        f = Film(tmp / 'o.nut')
        require((f.rate, f.channels) == (16000, nut_channels), vars(f))


@case
def film_by_name(tmp):
    """-f, -c:v, -c:a; and what cannot be is refused before anything is read."""
    wav, png = tone(tmp / 'a.wav', 0.1, 0.3), face(tmp)
    r = speak(wav, png, '-f', 'matroska', '-c:v', 'ffv1', '-c:a', 'flac', '-o', tmp / 'film')
    require(r.ret == 0, r.what)
    f = Film(tmp / 'film')
    require((f.video, f.audio, f.frames) == ('ffv1', 'flac', 8), vars(f))
    r = speak(wav, png, '-f', 'mp4', '-o', '-')
    require(r.ret == 0, r.what)
    (tmp / 'pipe.mp4').write_bytes(r.out)
    require(Film(tmp / 'pipe.mp4').frames == 8, 'MP4 through a pipe')
    r = speak(wav, png, '-c:v', 'mpeg4', '-o', tmp / 'old.mp4')
    require(r.ret == 0 and Film(tmp / 'old.mp4').video == 'mpeg4', r.what)
    r = speak(wav, png, '--format', 'rgb24', '-c:v', 'libx264', '-o', tmp / 'rgb.mp4')
    fails(r, 1, 'rgb24', 'libx264', '--format')
    for args, word in ((('-o', tmp / 'o.xyz'), 'o.xyz'), (('-o', tmp / 'o'), '-f'), (('-o', tmp / 'o.png'), 'o.png'), (('-o', tmp / 'o.wav'), 'o.wav'),
                       (('-o', tmp / 'o.gif'), 'o.gif'), (('-f', 'nothing', '-o', tmp / 'o'), 'nothing'),
                       (('-c:v', 'nothing', '-o', tmp / 'o.mp4'), 'nothing'), (('-c:v', 'aac', '-o', tmp / 'o.mp4'), 'aac'),
                       (('-c:a', 'flac', '-o', tmp / 'o.webm'), 'webm'), (('-o', tmp / 'o.m3u8'), 'o.m3u8'), (('-o', ''), 'name')):
        r = speak(wav, png, *args)
        fails(r, 1, word)
        require('Invalid' not in r.err, 'more than the sentence', r.what)
        require(sorted(p.name for p in tmp.iterdir()) == ['a.wav', 'face.png', 'film', 'old.mp4', 'pipe.mp4'], 'a file was made', r.what)


def aiff(path, nb):
    """AIFF: 16 kHz mono, samples with the high byte first."""
    rate = struct.pack('>HQ', 16383 + 13, 16000 << (63 - 13))       # 80-bit float
    comm = struct.pack('>hIh', 1, nb, 16) + rate
    ssnd = struct.pack('>II', 0, 0) + struct.pack('>%dh' % nb, *media.samples(nb))
    body = b'AIFF' + b'COMM' + struct.pack('>I', len(comm)) + comm + b'SSND' + struct.pack('>I', len(ssnd)) + ssnd
    path.write_bytes(b'FORM' + struct.pack('>I', len(body)) + body)
    return path


def film_sounds(tmp):
    """Sound as others have it: the tool's own encoders, in the containers that they usually come in."""
    wav = media.wav(tmp / 'in.wav', 8000)
    yield aiff(tmp / 's.aiff', 8000)
    for name, args in (('s.m4a', ('-c:a', 'aac')), ('s.mkv', ('-c:a', 'libmp3lame')), ('s.ogg', ('-c:v', 'libtheora', '-c:a', 'libvorbis')),
                       ('s.webm', ()), ('s.mov', ('-c:a', 'alac')), ('f.mkv', ('-c:a', 'flac')), ('s.ts', ())):
        if speak(wav, face(tmp), *args, '-o', tmp / name).ret == 0:
            yield tmp / name


@case
def stdin_takes_what_a_file_does(tmp):
    """The same bytes through stdin and through a FIFO give the samples of the file, whatever the format."""
    nb = 0
    for path in film_sounds(tmp):
        want = read_sound(path, tmp)
        require(len(want) > 7000, path.name)
        p = subprocess.run([tool_harness.A.media, 'sound', '-', str(tmp / 'piped')], input=path.read_bytes(), stdout=subprocess.PIPE)
        require(p.returncode == 0 and (tmp / 'piped').read_bytes() == want.tobytes(), path.name, 'on stdin differs')
        os.mkfifo(tmp / 'fifo')
        t = threading.Thread(target=lambda: (tmp / 'fifo').write_bytes(path.read_bytes()), daemon=True)
        t.start()
        require(read_sound(tmp / 'fifo', tmp) == want, path.name, 'in a FIFO differs')
        (tmp / 'fifo').unlink()
        nb += 1
    require(nb >= 5, 'only', nb, 'formats')
    r = speak('-', face(tmp), '-o', tmp / 'o.nut', stdin=b'<html>not found</html>' * 400)
    fails(r, 1, 'stdin', '--input_format s16le')
    r = speak('-', face(tmp), '-o', tmp / 'o.nut', stdin=pathlib.Path(tmp / 'in.wav').read_bytes()[44:])
    fails(r, 1, 'stdin', '--input_format s16le')
    fails(speak(tmp / 'in.wav', face(tmp), '--input_format', 'nothing', '-o', tmp / 'o.nut'), 1, 'nothing')


@case
def picture_on_stdin(tmp):
    png = pathlib.Path(face(tmp)).read_bytes()
    wav = media.wav(tmp / 'a.wav', 640)
    require(speak(wav, face(tmp), '-o', tmp / 'o.nut').ret == 0)
    r = speak(wav, '-', '-o', tmp / 'p.nut', stdin=png)
    require(r.ret == 0 and (tmp / 'o.nut').read_bytes() == (tmp / 'p.nut').read_bytes(), r.what)
    fails(speak('-', '-', '-o', tmp / 'p.nut', stdin=png), 2, 'not both')


@case
def odd_names(tmp):
    """'%', ':', a leading '-' and a name without a suffix are names like any other."""
    plain = read_picture(face(tmp, w=40, h=24), tmp)
    for name in ('100%.png', 'a%03d.png', 'a:b.png', 'plain', 'wrong.jpg', '*.png'):
        require(read_picture(face(tmp, name, w=40, h=24), tmp) == plain, name)
    require(read_picture(face(tmp, 'a%03d.png', w=40, h=24), tmp) == plain)
    media.wav(tmp / '-a.wav', 640)
    face(tmp, '-p.png')
    p = subprocess.run([os.path.abspath(tool_harness.A.tool), 'speak', '--model', os.path.abspath(tool_harness.A.model), '-o', 'x.nut', '--',
                        '-a.wav', '-p.png'], cwd=tmp, stderr=subprocess.PIPE)
    require(p.returncode == 0, p.stderr)
    Nut(tmp / 'x.nut').check(1, 640)


def layout_wav(path, mask, columns):
    """WAVE_FORMAT_EXTENSIBLE with a channel mask: columns of floats."""
    nb, rows = len(columns), list(zip(*columns))
    data = struct.pack('<%df' % (nb * len(rows)), *[v for row in rows for v in row])
    guid = b'\x03\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71'
    fmt = struct.pack('<HHIIHHHHI', 0xfffe, nb, 16000, 16000 * 4 * nb, 4 * nb, 32, 22, 32, mask) + guid
    body = b'WAVE' + b'fmt ' + struct.pack('<I', len(fmt)) + fmt + b'data' + struct.pack('<I', len(data)) + data
    path.write_bytes(b'RIFF' + struct.pack('<I', len(body)) + body)
    return path


@case
def layouts_that_have_no_rule(tmp):
    """Channels that swresample cannot mix have equal parts, and one line says so."""
    ramp = [i / 4000 for i in range(1600)]
    zero = [0.0] * 1600
    for mask, name in ((0x600, 'SL+SR'), (0x5, 'FL+FC'), (0x30, 'BL+BR'), (0x1 | 0x20000, 'FL+'), (0x2, 'FR')):
        columns = [ramp, zero][:bin(mask).count('1')]
        wav = layout_wav(tmp / 'a.wav', mask, columns)
        got = read_sound(wav, tmp)
        require(len(got) == 1600, name, len(got))
        want = [sum(row) / len(columns) for row in zip(*columns)]
        scale = got[1500] / want[1500]
        require(0.3 < scale < 2.1 and max(abs(g - scale * w) for g, w in zip(got, want)) < 1e-3, name, 'is not a mix', scale)
    r = speak(layout_wav(tmp / 'a.wav', 0x5, [ramp, zero]), face(tmp), '-o', tmp / 'o.mp4')
    require(r.ret == 0 and Film(tmp / 'o.mp4').channels == 2, r.what)
    if 'no rule' in r.err:
        require(r.err.count('no rule') == 1 and r.err.count('[SWR') == 0, r.what)


@case
def channels_that_cancel(tmp):
    """L = -R is silence when mixed: said once. Equal channels, and music of two, are not."""
    loud = [0.5 if i // 40 % 2 else -0.5 for i in range(24000)]
    other = [0.5 if i // 31 % 2 else -0.5 for i in range(24000)]
    for right, times in (([-v for v in loud], 1), (loud, 0), (other, 0)):
        r = speak(layout_wav(tmp / 'a.wav', 3, [loud, right]), face(tmp), '-o', tmp / 'o.nut')
        require(r.ret == 0 and r.err.count("other's negative") == times, times, r.what)


@case
def tools_without_encoders(tmp):
    """AVI, FLV: what libavformat would choose."""
    wav = tone(tmp / 'a.wav', 0.1, 0.4)
    for suffix in ('avi', 'flv'):
        r = speak(wav, face(tmp), '-o', tmp / ('o.' + suffix))
        if 'no such encoder' in r.err:
            raise Skip('libavcodec has not got what %s wants' % suffix)
        require(r.ret == 0 and Film(tmp / ('o.' + suffix)).frames == 10, r.what)


@case
def film_that_stands_still_is_told(tmp):
    """The embedded model and a face a third larger in the frame than its own: once, from the film itself; its own faces, and silence, say nothing."""
    root = pathlib.Path(__file__).resolve().parents[2]
    speech, faces, words = root / 'tests/gold/lips.wav', root / 'model/nano/faces', 'hardly moves although there is speech'
    silence = tmp / 'silence.wav'
    silence.write_bytes(media.wav_head(160000) + bytes(160000))
    large = cropped(faces / 'anna.png', tmp / 'large.ppm', 0.75, tmp)
    for sound, picture, args, times in ((speech, large, (), 1), (speech, large, ('--mode', 'live'), 1), (speech, faces / 'anna.png', (), 0),
                                        (speech, faces / 'ben.png', (), 0), (silence, large, (), 0)):
        r = Run('speak', sound, picture, '--seed', 1, '-o', tmp / 'o.nut', *args)
        require(r.ret == 0 and r.err.count(words) == times and 'is of a kind' not in r.err, picture, args, r.what)
