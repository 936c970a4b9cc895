# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mistakes: each one gives no frame, one clear sentence and an error, and never hangs."""
import os

from harness import case, expect, fails, ffmpeg, filt, frames

PAD = '[0:a][1:v]'


def refused(d, *words, **opts):
    opts.setdefault('image', d.png())
    f = frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(**opts), ok=False)
    assert len(f) == 0, '%d frames came out all the same' % len(f)
    fails(f, *words)


@case
def model_is_missing(d):
    refused(d, 'model', 'nowhere', model=d / 'nowhere')


@case
def image_is_missing(d):
    refused(d, 'image=', 'gone.png', image=d / 'gone.png')


@case
def image_is_no_picture(d):
    with open(d / 'text.png', 'w') as f:
        f.write('not a picture at all\n' * 50)
    refused(d, 'image=', image=d / 'text.png')
    refused(d, 'image=', image=d.wav(640))


@case
def image_is_truncated(d):
    with open(d.png(), 'rb') as f:
        data = f.read()
    with open(d / 'cut.png', 'wb') as f:
        f.write(data[:60])
    refused(d, 'image=', image=d / 'cut.png')


@case
def image_name_with_percent(d):
    ffmpeg('-i', d.png(), '-update', '1', d / 'p%%03d.png')
    os.rename(d.png(), d / '100%d.png')
    f = frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d / '100%d.png'))
    expect(f, 1)


@case
def options_refused(d):
    refused(d, 'format', format='gray')
    refused(d, 'steps', steps=0)
    refused(d, 'plan', plan='nonsense')
    refused(d, 'preset=nonsense', 'preview', preset='nonsense')
    refused(d, 'toaster', devices='toaster')
    refused(d, 'nonsense', opts='nonsense=1')
    refused(d, 'tail', tail='nonsense')
    refused(d, 'seed', seed=-5)
    refused(d, 'ption', nonsense=1)


@case
def lora_refused(d):
    refused(d, 'gone.safetensors', lora=d / 'gone.safetensors')


@case
def no_second_input(d):
    r = frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(), ok=False)
    assert len(r) == 0
    fails(r)


@case
def pads_swapped(d):
    r = frames('-i', d.wav(640), '-i', d.png(), '-filter_complex', '[1:v][0:a]' + filt(), ok=False)
    assert len(r) == 0
    fails(r)


@case
def used_as_a_simple_filter(d):
    fails(ffmpeg('-i', d.wav(640), '-af', filt(image=d.png()), '-f', 'null', '-', ok=False))


@case
def picture_input_without_a_picture(d):
    graph = "[1:v]select=0[p];[0:a][p]" + filt()
    r = frames('-i', d.wav(8000), '-i', d.png(), '-filter_complex', graph, ok=False)
    assert len(r) == 0
    fails(r, 'ended without a picture')


@case
def sound_is_not_a_number(d):
    bad = d.wav(8000, floats=[0.1] * 4000 + [float('nan')] * 10 + [0.1] * 3990)
    r = frames('-i', bad, '-filter_complex', '[0:a]' + filt(image=d.png()), ok=False)
    fails(r)


@case
def tiny_and_odd_pictures(d):
    for w, h in ((1, 1), (2, 300), (301, 7)):
        expect(frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d.png(w, h))), 1)


@case
def disk_full(d):
    if not os.path.exists('/dev/full'):
        return
    r = ffmpeg('-i', d.wav(64000), '-filter_complex', '[0:a]' + filt(image=d.png()), '-c:v', 'rawvideo', '-c:a', 'pcm_s16le', '-f', 'nut',
               '/dev/full', ok=False)
    fails(r, 'No space left')
