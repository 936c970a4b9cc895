# SPDX-License-Identifier: LGPL-2.1-or-later
"""Frame counts, time stamps, the ways to give a picture, what goes into a file, what repeats."""
import glob
import json
import os
import re
import shutil
import subprocess

from harness import (Env, Skip, audio, case, crcs, expect, fails, ffmpeg, filt, frames, probe, run, video)
import media

BLOCK = 7680        # samples of a block of 12 frames
PAD = '[0:a][1:v]'


def with_picture(d, nb, *args, **opts):
    return frames('-i', d.wav(nb), *args, '-filter_complex', '[0:a]' + filt(image=d.png(), **opts))


@case
def help_lists_options(d):
    text = run('ffmpeg', '-h', 'filter=avatar').out.decode()
    for word in ('Make a picture talk', 'model', 'image', 'lora', 'prompt', 'size', 'compat', 'upstream', 'seed', 'steps', 'devices',
                 'plan', 'vae_device', 'cpu_threads', 'format', 'hw_format', 'max_gap', 'max_drift', 'tail', 'floor', 'metadata', 'opts', 'dynamic'):
        assert word in text, word + ' is missing in\n' + text


@case
def another_library(d):
    """A library of another minor version than the filter was built for may lack what that calls: refused, with both versions."""
    if not shutil.which('cc'):
        raise Skip('no compiler here to make another library with')
    description = run('ffmpeg', '-h', 'filter=avatar').out.decode()
    own = re.search(r'\(libavatar (\d+\.\d+\.\d+)\)', description).group(1)
    with open(d / 'other.c', 'w') as f:
        f.write('unsigned avatar_version(void) { return 99 << 16 | 2 << 8 | 1; }')
    subprocess.run(['cc', '-shared', '-fPIC', '-o', d / 'other.so', d / 'other.c'], check=True)
    r = ffmpeg('-i', d.wav(5000), '-filter_complex', '[0:a]' + filt(image=d.png()), '-f', 'null', '-', ok=False,
               env={'LD_PRELOAD': str(d / 'other.so')})
    fails(r, 'built for libavatar ' + own, '99.2.1 is loaded')


@case
def length_one_second(d):
    expect(with_picture(d, 16000), 25)


@case
def length_shorter_than_a_block(d):
    expect(with_picture(d, 5000), 8)


@case
def length_a_tenth_of_a_second(d):
    expect(with_picture(d, 1600), 3)


@case
def length_one_sample(d):
    expect(with_picture(d, 1), 1)


@case
def length_a_block(d):
    expect(with_picture(d, BLOCK), 12)


@case
def length_a_block_and_a_sample(d):
    expect(with_picture(d, BLOCK + 1), 13)


@case
def length_nothing(d):
    f = with_picture(d, 0)
    expect(f, 0)
    expect(frames('-i', d.wav(0), '-i', d.png(), '-filter_complex', PAD + filt()), 0)


@case
def tail_ceil_floor_block(d):
    nb = BLOCK + 3 * 640 + 100
    expect(with_picture(d, nb, tail='ceil'), 16)
    expect(with_picture(d, nb, tail='floor'), 15)
    expect(with_picture(d, nb, tail='block'), 24)


@case
def same_seed_same_frames(d):
    a, b = (expect(with_picture(d, BLOCK), 12) for _ in range(2))
    assert crcs(a) == crcs(b), 'the same command line gave two videos'
    assert crcs(a) != crcs(with_picture(d, BLOCK, seed=8)), 'another seed changed nothing'


@case
def frames_differ(d):
    f = expect(with_picture(d, 2 * BLOCK), 24)
    assert len(set(crcs(f))) == 24, 'some frames are equal: dropped or doubled ones'


@case
def picture_from_pad_or_file(d):
    pad = expect(frames('-i', d.wav(8000), '-i', d.png(), '-filter_complex', PAD + filt()), 13)
    assert crcs(pad) == crcs(expect(with_picture(d, 8000), 13)), 'pad and image= give different videos'
    for fmt in ('yuvj420p', 'gray', 'yuv410p'):
        ffmpeg('-i', d.png(), '-c:v', 'rawvideo', '-pix_fmt', fmt, d / 'p.nut')
        pad, image = (crcs(frames('-i', d.wav(640), *a)) for a in (('-i', d / 'p.nut', '-filter_complex', PAD + filt()),
                                                                  ('-filter_complex', '[0:a]' + filt(image=d / 'p.nut'))))
        assert pad == image, 'pad and image= give different videos in ' + fmt


@case
def picture_alpha_is_dropped(d):
    rgba, rgb = (frames('-i', d.wav(1600), '-filter_complex', '[0:a]' + filt(image=d.png(alpha=a))) for a in (True, False))
    assert crcs(expect(rgba, 3)) == crcs(expect(rgb, 3)), 'transparency leaked into the picture'


@case
def picture_of_other_kinds(d):
    """Grey, 16 bits a channel, YUV: image= converts as FFmpeg's own scaler does for the second input."""
    for kind, fmt, exact in (('png', 'gray', True), ('png', 'gray16be', True), ('png', 'rgb48be', False), ('jpg', 'yuvj420p', False)):
        ffmpeg('-i', d.png(), '-pix_fmt', fmt, '-q:v', '1', d / ('o.' + kind))
        pad = frames('-i', d.wav(640), '-i', d / ('o.' + kind), '-filter_complex', PAD + filt())
        file = frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d / ('o.' + kind)))
        assert crcs(expect(file, 1)) == crcs(expect(pad, 1)) or not exact, fmt + ' is converted in another way'


@case
def picture_animated(d):
    """The first picture of an animation is the reference, in a file and at the second input."""
    both, first = media.gif(d / 'b.gif'), media.gif(d / 'f.gif', colors=((200, 60, 60),))
    want = crcs(expect(frames('-i', d.wav(8000), '-filter_complex', '[0:a]' + filt(image=first)), 13))
    assert crcs(frames('-i', d.wav(8000), '-filter_complex', '[0:a]' + filt(image=both))) == want, 'image= took another picture'
    assert crcs(frames('-i', d.wav(8000), '-i', both, '-filter_complex', PAD + filt())) == want, 'the second input took another picture'


@case
def picture_ratio_gives_size(d):
    """Without size: the picture's ratio at the area that the model's avatar.json names."""
    shutil.copytree(Env.model, d / 'model')
    with open(d / 'model/avatar.json', 'w') as f:
        f.write('{"area": 16384, "lora": "none"}')
    for w, h, want in ((120, 60, (176, 96)), (60, 60, (128, 128)), (30, 120, (64, 256))):
        for source in (['-i', d.png(w, h)], []):
            graph = ('[0:a][1:v]' if source else '[0:a]') + filt(model=d / 'model', size=None, image=None if source else d.png(w, h))
            ffmpeg('-i', d.wav(640), *source, '-filter_complex', graph, '-c:v', 'ffv1', '-an', d / 'o.mkv')
            s = video(d / 'o.mkv')
            assert (s['width'], s['height']) == want, '%dx%d gives %dx%d' % (w, h, s['width'], s['height'])


@case
def preset_gives_size(d):
    """Size and steps of a set-up's name; size= wins over it, in front of it or behind."""
    for opts, want in ((dict(size=None, steps=None, preset='preview'), (384, 256)), (dict(size='64x96', preset='long'), (64, 96)),
                       (dict(preset='long', size='64x96'), (64, 96))):
        ffmpeg('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d.png(), **opts), '-c:v', 'ffv1', '-an', d / 'o.mkv')
        s = video(d / 'o.mkv')
        assert (s['width'], s['height']) == want, '%s gives %dx%d' % (opts, s['width'], s['height'])


@case
def picture_looped(d):
    expect(frames('-i', d.wav(8000), '-loop', '1', '-i', d.png(), '-filter_complex', PAD + filt()), 13)


@case
def picture_from_a_video(d):
    ffmpeg('-f', 'lavfi', '-i', 'testsrc=s=96x96:d=2', '-i', d.wav(16000), '-c:v', 'libx264', '-c:a', 'aac', d / 'v.mp4')
    expect(frames('-i', d.wav(8000), '-i', d / 'v.mp4', '-filter_complex', PAD + filt()), 13)
    expect(frames('-i', d.wav(8000), '-filter_complex', '[0:a]' + filt(image=d / 'v.mp4')), 13)
    same = frames('-i', d / 'v.mp4', '-filter_complex', '[0:a][0:v]' + filt())
    assert 25 <= len(same) <= 27, '%d frames from one file for both inputs' % len(same)


# How to store a picture so that showing it by EXIF orientation n gives it upright, with the transpose filter alone.
STORED = {2: 'transpose=2,transpose=0', 3: 'transpose=1,transpose=1', 4: 'transpose=1,transpose=0', 5: 'transpose=0',
          6: 'transpose=2', 7: 'transpose=3', 8: 'transpose=1'}


@case
def picture_exif_orientation(d):
    """A JPEG that says how to turn it gives what the upright JPEG gives; coding turned pixels costs a little. PNG, TIFF and WebP, as files, likewise."""
    def pixels(*inputs, image=None):
        graph = '[0:a]' + ('' if image else '[1:v]') + filt(image=image, size='96x64', format='rgb24')
        return ffmpeg('-i', d.wav(640), *inputs, '-filter_complex', graph, '-f', 'rawvideo', '-').out
    right = pixels(image=d.jpeg(96, 64))
    for n, turn in STORED.items():
        ffmpeg('-i', d.png(96, 64), '-vf', turn + ',format=yuvj444p', '-q:v', '1', d / 'turned.jpg')
        media.set_orientation(d / 'turned.jpg', d / 'exif.jpg', n)
        wrong = distance(pixels(image=d / 'turned.jpg'), right)
        got = distance(pixels(image=d / 'exif.jpg'), right)
        assert got < 0.4 * wrong, 'image=, orientation %d: distance %.0f, not turned %.0f' % (n, got, wrong)
        got = distance(pixels('-i', d / 'exif.jpg'), right)
        assert got < 0.4 * wrong, 'second input, orientation %d: distance %.0f, not turned %.0f' % (n, got, wrong)
    right = pixels(image=d.png(96, 64))
    for n, turn in STORED.items():
        ffmpeg('-i', d.png(96, 64), '-vf', turn, '-pix_fmt', 'rgb24', d / 'turned.png')
        assert pixels(image=media.set_orientation(d / 'turned.png', d / 'exif.png', n)) == right, 'image=, PNG of orientation %d' % n
    if ffmpeg('-i', d.png(96, 64), '-c:v', 'libvpx', '-frames:v', '1', '-f', 'image2', d / 'f.vp8', ok=False).code == 0:
        with open(d / 'f.vp8', 'rb') as f:
            vp8 = f.read()
        plain, upside_down = (pixels(image=media.webp(d / 'o.webp', vp8, 96, 64, n)) for n in (1, 3))
        got = distance(upside_down, pixels(image=media.set_orientation(d.png(96, 64), d / 'exif.png', 3)))
        assert got < 0.7 * distance(upside_down, plain), 'WebP: distance %.0f, not turned %.0f' % (got, distance(upside_down, plain))
    assert pixels(image=media.tiff(d / 'o.tif', 96, 64, 3)) == pixels(image=media.set_orientation(d.png(96, 64), d / 'exif.png', 3)), 'TIFF'


def distance(a, b):
    assert len(a) == len(b)
    return sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5


@case
def formats_one_is_offered(d):
    for name in ('yuv420p', 'yuv444p', 'nv12', 'rgb24', 'gbrp'):
        ffmpeg('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d.png(), format=name), '-an', '-c:v', 'rawvideo', d / 'o.nut')
        s = video(d / 'o.nut')
        assert s['pix_fmt'] == name and s['nb_read_frames'] == '1', '%s came out as %s' % (name, s['pix_fmt'])


@case
def formats_agree(d):
    """The luma of the three YUV formats is one, and BT.709 of the two RGB formats is it, to rounding."""
    def raw(name):
        return ffmpeg('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d.png(), format=name), '-f', 'rawvideo', '-').out
    n = 64 * 64
    want, rgb, planar = raw('yuv420p')[:n], raw('rgb24'), raw('gbrp')
    assert raw('yuv444p')[:n] == want and raw('nv12')[:n] == want, 'the YUV formats differ in luma'
    assert planar == rgb[1::3] + rgb[2::3] + rgb[0::3], 'gbrp is not rgb24'
    luma = [16 + 219 / 255 * (0.2126 * r + 0.7152 * g + 0.0722 * b) for r, g, b in zip(rgb[0::3], rgb[1::3], rgb[2::3])]
    assert max(abs(a - b) for a, b in zip(luma, want)) <= 1.01, 'luma is not BT.709 of the RGB'


@case
def file_mp4_has_sound_and_tags(d):
    ffmpeg('-i', d.wav(20000), '-i', d.jpeg(), '-filter_complex', PAD + filt(), d / 'o.mp4')
    s, a = video(d / 'o.mp4'), audio(d / 'o.mp4')
    want = dict(codec_name='h264', pix_fmt='yuv420p', color_range='tv', color_space='bt709', color_primaries='bt709',
                color_transfer='bt709', r_frame_rate='25/1', nb_read_frames='32', width=64, height=64)
    for key, value in want.items():
        assert s.get(key) == value, '%s is %s, wanted %s' % (key, s.get(key), value)
    assert float(s['start_time']) == 0 and a['codec_name'] == 'aac'
    assert abs(float(a['duration']) - 1.25) < 0.07, 'the sound lasts %s s, wanted 1.25' % a['duration']


@case
def file_mkv_mapped_by_hand(d):
    ffmpeg('-i', d.wav(20000), '-filter_complex', '[0:a]' + filt(image=d.png()) + '[v]', '-map', '[v]', '-map', '0:a', '-c:v', 'libx264',
           '-c:a', 'aac', d / 'o.mkv')
    s = video(d / 'o.mkv')
    assert s['nb_read_frames'] == '32' and s['color_space'] == 'bt709' and s['color_range'] == 'tv', s
    assert audio(d / 'o.mkv')['codec_name'] == 'aac'


@case
def file_hls(d):
    ffmpeg('-i', d.wav(48000), '-filter_complex', '[0:a]' + filt(image=d.png()), '-c:v', 'libx264', '-g', '25', '-c:a', 'aac', '-f', 'hls',
           '-hls_time', '1', '-hls_list_size', '0', d / 'o.m3u8')
    assert video(d / 'o.m3u8')['nb_read_frames'] == '75'
    assert len(glob.glob(d / '*.ts')) == 3


@case
def lavfi_source(d):
    graph = 'amovie=%s,%s' % (d.wav(8000), filt(image=d.png()))
    expect(frames('-f', 'lavfi', '-i', graph), 13)
    graph = 'amovie=%s,asplit[a][out1];movie=%s[v];[a][v]%s[out0]' % (d.wav(8000), d.png(), filt())
    ffmpeg('-f', 'lavfi', '-i', graph, d / 'o.mp4')
    assert video(d / 'o.mp4')['nb_read_frames'] == '13' and audio(d / 'o.mp4')
    assert len(probe('amovie=%s,%s' % (d.wav(8000), filt(image=d.png())), '-f', 'lavfi', '-show_frames')['frames']) == 13


@case
def metadata_on_frames(d):
    graph = 'amovie=%s,%s' % (d.wav(8000), filt(image=d.png(), metadata=1))
    tags = [f['tags'] for f in probe(graph, '-f', 'lavfi', '-show_entries', 'frame=pts_time:frame_tags')['frames']]
    assert [int(t['lavfi.avatar.frame']) for t in tags] == list(range(13)), tags
    assert [int(t['lavfi.avatar.block']) for t in tags] == [n // 12 for n in range(13)]
    assert all(t['lavfi.avatar.seed'] == '7' and t['lavfi.avatar.prompt_id'] == '0' for t in tags)
    assert all(t['lavfi.avatar.precision'] in ('f32', 'bf16') for t in tags), tags[0]
    assert all(abs(float(t['lavfi.avatar.audio_pts']) - n / 25) < 1e-6 for n, t in enumerate(tags))
    assert [n for n, t in enumerate(tags) if 'lavfi.avatar.compute_ms' in t] == [0, 12], 'compute_ms is not on first frames'
    graph = 'amovie=%s,%s' % (d.wav(640), filt(image=d.png()))
    assert 'tags' not in probe(graph, '-f', 'lavfi', '-show_entries', 'frame=pts_time:frame_tags')['frames'][0]


COMMA = """#include <locale.h>
__attribute__((constructor)) static void host(void)
{
    setlocale(LC_ALL, "comma");
}
"""


@case
def metadata_has_a_point(d):
    """Also in a host whose locale writes 0,5: ffmpeg sets none, so a library in front of it does."""
    (d.path / 'comma.src').write_text('LC_NUMERIC\ndecimal_point ","\nthousands_sep ""\ngrouping -1\nEND LC_NUMERIC\n')
    (d.path / 'host.c').write_text(COMMA)
    subprocess.run(['localedef', '--no-archive', '-c', '-i', 'comma.src', '-f', 'ANSI_X3.4-1968', './comma'], cwd=d.path, capture_output=True)
    subprocess.run(['cc', '-shared', '-fPIC', '-o', d / 'host.so', d / 'host.c'], check=True)
    if not (d.path / 'comma').exists():
        raise Skip('no locale with a decimal comma could be made: install locales')
    graph = 'amovie=%s,%s' % (d.wav(1280), filt(image=d.png(), metadata=1))
    env = dict(LOCPATH=str(d.path), LC_ALL='comma', LD_PRELOAD=str(d / 'host.so'))
    r = run('ffprobe', '-loglevel', 'error', '-of', 'json', '-f', 'lavfi', '-show_entries', 'frame_tags', graph, env=env)
    assert r.code == 0, r.text()
    tags = [f['tags'] for f in json.loads(r.out)['frames']]
    for key in 'audio_pts', 'filled', 'cut':
        assert tags[1]['lavfi.avatar.' + key] == ('0.040000' if key == 'audio_pts' else '0.000'), (key, tags)


@case
def metadata_filter_prints(d):
    ffmpeg('-i', d.wav(8000), '-filter_complex', '[0:a]%s,metadata=print:file=%s' % (filt(image=d.png(), metadata=1), d / 'log'),
           '-f', 'null', '-')
    with open(d / 'log') as f:
        assert f.read().count('lavfi.avatar.frame=') == 13


@case
def statistics(d):
    """stats=FILE: a line of JSON a block."""
    frames('-i', d.wav(3 * 7680), '-filter_complex', '[0:a]' + filt(image=d.png(), stats=d / 's.jsonl'))
    with open(d / 's.jsonl') as f:
        assert [json.loads(x)['frame'] for x in f] == [0, 12, 24]


@case
def sound_of_other_kinds(d):
    """44.1 kHz stereo, 48 kHz 5.1, 12 and 13 channels without names, 8 kHz: as many frames as the sound lasts."""
    for rate, channels in ((44100, 2), (48000, 6), (48000, 12), (16000, 13), (8000, 1)):
        f = frames('-i', d.wav(rate, rate, channels), '-filter_complex', '[0:a]' + filt(image=d.png()))
        assert 25 <= len(f) <= 26, '%d frames for 1 s at %d Hz' % (len(f), rate)
        expect(f, len(f))
    ffmpeg('-i', d.wav(48000, 48000), '-c:a', 'aac', d / 'a.m4a')
    f = frames('-i', d / 'a.m4a', '-filter_complex', '[0:a]' + filt(image=d.png()))
    assert 25 <= len(f) <= 27, len(f)


@case
def real_sound_real_picture(d):
    sounds = sorted(glob.glob('/usr/share/sounds/alsa/Front_*.wav'))
    if not sounds:
        raise Skip('no recorded words: install alsa-utils')
    portrait = Env.top / 'tests/e2e/filter/portrait.jpg'
    seconds = float(probe(sounds[0], '-show_format')['format']['duration'])
    ffmpeg('-i', sounds[0], '-i', portrait, '-filter_complex', PAD + filt(), d / 'o.mp4')
    s = video(d / 'o.mp4')
    assert abs(int(s['nb_read_frames']) - seconds * 25) <= 1.01, '%s frames for %.3f s' % (s['nb_read_frames'], seconds)
    assert abs(float(audio(d / 'o.mp4')['duration']) - seconds) < 0.07


@case
def real_speech_raw(d):
    path = '/usr/share/pocketsphinx/test/data/goforward.raw'
    if not glob.glob(path):
        raise Skip('no recorded sentence: install pocketsphinx-testdata')
    with open(path, 'rb') as f:
        nb = len(f.read()) // 2
    layout = ['-ac', '1'] if Env.version < (6,) else ['-ch_layout', 'mono']
    expect(frames('-f', 's16le', '-ar', '16000', *layout, '-i', path, '-filter_complex', '[0:a]' + filt(image=d.png())), -(-nb // 640))


@case
def tool_gives_the_same_bytes(d):
    if not Env.tool or not os.path.exists(Env.tool):
        raise Skip('no build/avatar')
    args = [Env.tool, 'speak', d.wav(10000), d.png(), '--model', Env.model, '--size', '64x64', '--seed', '7', '--steps', '1',
            '-o', d / 'o.nut']
    p = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    assert p.returncode == 0, p.stderr.decode()
    assert crcs(frames('-i', d / 'o.nut', '-map', '0:v')) == crcs(expect(with_picture(d, 10000), 16)), 'tool and filter differ'


@case
def plans_give_the_same_frames(d):
    """The lists of devices pass through FFmpeg's two levels of quoting, and the split does not show in the pictures."""
    want = crcs(expect(with_picture(d, 16000, steps=2), 25))
    for more in (dict(plan='wave'), dict(plan='layer', devices='cpu\\|cpu'), dict(devices="'cpu|cpu'", vae_device='cpu\\\\:own')):
        assert crcs(expect(with_picture(d, 16000, steps=2, **more), 25)) == want, '%s changes the pictures' % more


@case
def compat_upstream(d):
    """The original gives whole clips of 48 frames and drops the first 3."""
    expect(with_picture(d, 16000, compat='upstream'), 45)


@case
def no_conversion_needed(d):
    """16 kHz mono float and an RGB picture go in as they are: nothing is inserted by FFmpeg."""
    fl = d.wav(1600, floats=[v / 32768 for v in media.samples(1600)])
    a = frames('-noauto_conversion_filters', '-i', fl, '-i', d.png(), '-filter_complex', PAD + filt())
    assert crcs(expect(a, 3)) == crcs(expect(with_picture(d, 1600), 3)), 'f32 and s16 samples of the same sound differ'


@case
def size_refused(d):
    fails(with_bad(d, size='100x100'), 'size', '16')
    fails(with_bad(d, size='32x32'), 'size')


def with_bad(d, **opts):
    r = frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d.png(), **opts), ok=False)
    assert len(r) == 0, 'frames came out all the same'
    return r
