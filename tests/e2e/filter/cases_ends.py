# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a run ends: by the reader's wish in silence, endless input in bounded memory, Ctrl-C soon; channels of all kinds; progress."""
import math
import re
import struct

from harness import Env, case, expect, ffmpeg, filt, frames, video
import media

ENDS = ('graph was closed', 'not shown', 'lost')


def silent(r):
    log = getattr(r, 'result', r).text()
    assert not any(w in log for w in ENDS), log[-900:]


@case
def end_wanted_by_the_reader_is_silent(d):
    """-t, -frames:v, -shortest, and an output that a filter ends."""
    graph = '[0:a]' + filt(image=d.png())
    for mode in ('offline', 'live'):
        graph = '[0:a]' + filt(image=d.png(), mode=mode)
        for args, nb in ((['-t', '1'], 25), (['-frames:v', '7'], 7)):
            f = expect(frames('-i', d.wav(113600), '-filter_complex', graph, *args), nb)
            silent(f)
        silent(expect(frames('-i', d.wav(113600), '-filter_complex', graph + ',trim=end=0.4'), 10))
        silent(ffmpeg('-i', d.wav(113600), '-i', d.wav(16000), '-filter_complex', graph + '[v]', '-map', '[v]', '-map', '1:a', '-c:v', 'ffv1',
                      '-c:a', 'flac', '-shortest', d / 'o.mkv'))


def endless(d, mode):
    """A file in a loop, sound padded for ever: five seconds of film in bounded memory."""
    graph = '[0:a]' + filt(image=d.png(), mode=mode) + '[v]'
    ffmpeg('-stream_loop', '-1', '-i', d.wav(16000), '-filter_complex', graph, '-map', '[v]', '-map', '0:a', '-t', '5', '-c:v', 'ffv1', '-c:a', 'flac',
           d / 'o.mkv', mem_mb=1600, timeout=100)
    assert video(d / 'o.mkv')['nb_read_frames'] == '125'
    graph = '[0:a]apad,asplit[s][a];[s]%s[v]' % filt(image=d.png(), mode=mode)
    ffmpeg('-i', d.wav(16000), '-filter_complex', graph, '-map', '[v]', '-map', '[a]', '-t', '5', '-c:v', 'ffv1', '-c:a', 'flac', d / 'o.mkv',
           mem_mb=1600, timeout=100)
    assert video(d / 'o.mkv')['nb_read_frames'] == '125'


@case
def end_of_endless_sound_live(d):
    endless(d, 'live')


@case
def end_of_endless_sound_offline(d):
    endless(d, 'offline')


@case
def end_by_interrupt_of_endless_sound(d):
    """Ctrl-C while a file runs in a loop: little is read ahead, nothing made of what was."""
    for mode, limit in (('live', 5), ('offline', 15)):
        r = ffmpeg('-stream_loop', '-1', '-i', d.wav(16000), '-filter_complex', '[0:a]' + filt(image=d.png(), mode=mode), '-f', 'null', '-', ok=False,
                   interrupt=4, timeout=100)
        assert r.code in (0, 255) and r.seconds < 4 + limit * Env.patience, '%s: %.1f s, exit code %d' % (mode, r.seconds, r.code)


@case
def end_by_interrupt_of_a_long_film(d):
    """Ctrl-C while minutes of film could still be made of what was read: the block in progress ends it, and the file is whole."""
    r = ffmpeg('-i', d.wav(960000), '-filter_complex', '[0:a]' + filt(image=d.png(), size='256x256', steps=30), '-c:v', 'ffv1', d / 'o.mkv',
               ok=False, interrupt=5, timeout=60)
    assert r.code in (0, 255) and r.seconds < 5 + 15 * Env.patience, '%.1f s, exit code %d' % (r.seconds, r.code)
    assert 0 < int(video(d / 'o.mkv')['nb_read_frames']) < 1500


@case
def end_when_live_reads_a_file(d):
    """Live mode on ten minutes of file: the session has seconds of it, not all, when the reader takes one frame."""
    r = ffmpeg('-loglevel', 'debug', '-f', 'lavfi', '-i', 'anullsrc=r=16000:cl=mono:d=600', '-filter_complex', '[0:a]' + filt(image=d.png(), mode='live'),
               '-frames:v', '20', '-f', 'null', '-', mem_mb=1600, timeout=60)
    silent(r)
    assert r.seconds < 30, r.seconds


def extensible(path, mask, channels, nb=16000):
    """A wav whose channels have the places of `mask`; each is a tone of its own."""
    data = b''.join(struct.pack('<%dh' % channels, *[int(8000 * math.sin(0.02 * (c + 1) * i)) for c in range(channels)]) for i in range(nb))
    guid = struct.pack('<I', 1) + bytes.fromhex('00001000800000aa00389b71')
    head = struct.pack('<4sIHHIIHHHHI', b'fmt ', 40, 0xfffe, channels, 16000, 32000 * channels, 2 * channels, 16, 22, 16, mask) + guid
    body = b'WAVE' + head + struct.pack('<4sI', b'data', len(data)) + data
    with open(path, 'wb') as f:
        f.write(struct.pack('<4sI', b'RIFF', len(body)) + body)
    return path


@case
def channels_without_gains_are_mixed_evenly(d):
    """SL+SR, FL+FC, FL+LFE, BL+BR, a top pair: layouts that swresample refuses."""
    for mask in (0x600, 0x5, 0x9, 0x30, 0x5000):
        wav = extensible(d / ('%x.wav' % mask), mask, 2)
        f = expect(frames('-i', wav, '-filter_complex', '[0:a]' + filt(image=d.png())), 25)
        assert f.result.text().count('in equal parts') == 1, '%x: %s' % (mask, f.result.text()[-600:])


@case
def channels_with_gains_are_not(d):
    """Stereo and 5.1 as swresample does, in silence; two equal channels are what one is, to rounding."""
    for mask, nb in ((0x3, 2), (0x3f, 6)):
        f = expect(frames('-i', extensible(d / ('%x.wav' % mask), mask, nb), '-filter_complex', '[0:a]' + filt(image=d.png())), 25)
        assert 'in equal parts' not in f.result.text() and 'cancel' not in f.result.text()


@case
def channels_that_cancel_are_told(d):
    mono = media.samples(32000)
    data = [x / 32768 for v in mono for x in (v, -v)]
    f = expect(frames('-i', d.wav(32000, channels=2, floats=data), '-filter_complex', '[0:a]' + filt(image=d.png())), 50)
    assert f.result.text().count('cancel each other') == 1, f.result.text()[-600:]


@case
def progress_is_told_in_long_runs(d):
    """Each five seconds a line: how far, how fast, the time left; none in a short run."""
    f = frames('-i', d.wav(16000), '-filter_complex', '[0:a]' + filt(image=d.png()))
    assert ' left\n' not in f.result.text()
    graph = "[0:a]%s,realtime" % filt(image=d.png())
    r = ffmpeg('-i', d.wav(208000), '-filter_complex', graph, '-f', 'null', '-')
    told = re.findall(r'\] (\d+) %, [\d.]+ fps, \d+:\d\d left\n', r.text())
    assert 1 <= len(told) <= 3 and all(0 < int(t) < 100 for t in told), r.text()[-600:]
