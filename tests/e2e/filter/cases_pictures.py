# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pictures as they come: several in one file, of other sizes and formats, damaged, in tiles. The first one that decodes counts."""
import os
import socket
import threading
import time

from harness import Env, Skip, case, crcs, expect, fails, ffmpeg, filt, frames
import media

PAD = '[0:a][1:v]'
NB = 53120          # 3.3 s, 83 frames


def pixels(d, image):
    return ffmpeg('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=image, format='rgb24'), '-f', 'rawvideo', '-').out


def distance(a, b):
    assert len(a) == len(b) > 0
    return sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5


def join(path, *parts):
    with open(path, 'wb') as out:
        for part in parts:
            with open(part, 'rb') as f:
                out.write(f.read())
    return path


def first_counts(d, *inputs, first, **opts):
    """The inputs give what their first picture alone gives: as many frames, the same ones, from the start."""
    want = crcs(expect(frames('-i', d.wav(NB), '-i', first, '-filter_complex', PAD + filt(**opts)), 83))
    f = expect(frames('-i', d.wav(NB), *inputs, '-filter_complex', PAD + filt(**opts)), 83)
    assert 'new take' not in f.result.text() and 'hole' not in f.result.text(), f.result.text()[-900:]
    assert crcs(f) == want, 'the avatar is made of another picture'


@case
def picture_with_a_preview_behind(d):
    """A phone's JPEG has a smaller one behind it, and no .jpg in its name."""
    ffmpeg('-f', 'lavfi', '-i', 'color=green:s=40x30', '-frames:v', '1', '-pix_fmt', 'yuvj420p', d / 'preview.jpg')
    media.set_orientation(d.jpeg(), d / 'face.jpg', 1)                                  # with EXIF, by which it is known for a JPEG
    both = join(d / 'both', d / 'face.jpg', d / 'preview.jpg')
    for mode in ('offline', 'live'):
        first_counts(d, '-i', both, first=d.jpeg(), mode=mode)
    f = expect(frames('-i', d.wav(NB), '-filter_complex', '[0:a]' + filt(image=both)), 83)
    assert crcs(f) == crcs(frames('-i', d.wav(NB), '-filter_complex', '[0:a]' + filt(image=d.jpeg())))


@case
def picture_of_a_sequence_before_the_sound(d):
    """Pictures of two sizes are there before any sound, so ffmpeg sets up its graph by the second."""
    ffmpeg('-i', d.png(), '-pix_fmt', 'gray', d / 'f1.png')
    ffmpeg('-i', d.png(48, 64), '-pix_fmt', 'gray', d / 'f2.png')
    with open(d.wav(NB), 'rb') as f:
        sound = f.read()[-2 * NB:]
    os.mkfifo(d / 'sound')

    def late_sound():
        with open(d / 'sound', 'wb') as f:
            time.sleep(.5)
            f.write(sound)
    graph = '[1:v]null[p];[0:a][p]'                          # ffmpeg asks for what the graph names first
    for size in ('64x64', None):
        want = crcs(expect(frames('-i', d.wav(NB), '-i', d / 'f1.png', '-filter_complex', PAD + filt(size=size)), 83))
        writer = threading.Thread(target=late_sound)
        writer.start()
        f = expect(frames('-f', 's16le', '-ar', '16000', '-i', d / 'sound', '-i', d / 'f%d.png', '-filter_complex', graph + filt(size=size)), 83)
        writer.join()
        assert crcs(f) == want or not size and 'a later one of 48x64' in f.result.text(), f.result.text()[-900:]


@case
def picture_sequence_of_sizes_and_formats(d):
    """One picture a second, each of another size or pixel format than the one before."""
    ffmpeg('-i', d.png(), d / 'f1.png')
    ffmpeg('-i', d.png(48, 64), d / 'f2.png')
    ffmpeg('-i', d.png(), '-pix_fmt', 'gray', d / 'f3.png')
    ffmpeg('-i', d.png(200, 100), '-pix_fmt', 'rgba', d / 'f4.png')
    for mode in ('offline', 'live'):
        first_counts(d, '-framerate', '1', '-i', d / 'f%d.png', first=d / 'f1.png', mode=mode)
    first_counts(d, '-framerate', '25', '-i', d / 'f%d.png', first=d / 'f1.png')


@case
def picture_changes_beside_two_filters(d):
    """Two instances in the rebuilt graph: each goes on with its own stream."""
    ffmpeg('-i', d.png(), d / 'f1.png')
    ffmpeg('-i', d.png(48, 64), d / 'f2.png')
    graph = '[0:a]asplit[a][b];[1:v]split[p][q];[a][p]%s[x];[b][q]%s[y];[x][y]hstack' % (filt(), filt(seed=9))
    want = crcs(expect(frames('-i', d.wav(NB), '-i', d / 'f1.png', '-filter_complex', graph), 83))
    assert crcs(expect(frames('-i', d.wav(NB), '-framerate', '1', '-i', d / 'f%d.png', '-filter_complex', graph), 83)) == want


@case
def picture_behind_a_damaged_packet(d):
    """image= of a video whose first packet is damaged takes the first picture that decodes, as the second input does."""
    ffmpeg('-i', d.png(), '-i', d.png(64, 64), '-filter_complex', '[1:v]scale=96:96[b];[0:v][b]concat', '-c:v', 'png', '-pix_fmt', 'rgb24', d / 'v.nut')
    with open(d / 'v.nut', 'rb') as f:
        data = bytearray(f.read())
    at = data.find(b'IDAT') + 12
    data[at:at + 40] = bytes(40)
    with open(d / 'bad.nut', 'wb') as f:
        f.write(data)
    ffmpeg('-i', d.png(64, 64), '-vf', 'scale=96:96', d / 'second.png')
    got = pixels(d, d / 'bad.nut')
    assert distance(got, pixels(d, d / 'second.png')) < 0.2 * distance(got, pixels(d, d.png())), 'not the picture that decodes first'


@case
def picture_in_tiles(d):
    """tiles.heic is media.face(96, 96), made with pillow-heif: a grid of 2 x 2 pictures of 64 x 64, whose edge is to be cut."""
    if Env.version < (7, 1):
        raise Skip('FFmpeg knows tiles from 7.1 on')
    want = pixels(d, d.png())
    got = distance(pixels(d, str(Env.top / 'tests/e2e/filter/tiles.heic')), want)
    assert got < 0.1 * distance(pixels(d, media.gif(d / 'grey.gif', colors=((128, 128, 128),))), want), 'not the whole picture: distance %.0f' % got


@case
def picture_that_never_comes(d):
    """A server that says nothing is an error after 20 s, in image= and in a command, which goes on with the picture it had."""
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen(5)
        url = 'tcp://127.0.0.1:%d' % server.getsockname()[1]
        with open(d / 'c', 'w') as commands:
            commands.write('0.0 avatar image %s;' % url)
        f = frames('-i', d.wav(640), '-filter_complex', '[0:a]asendcmd=f=%s,%s' % (d / 'c', filt(image=d.png())), timeout=60)
        assert 'cannot be used: Connection timed out' in f.result.text(), f.result.text()[-900:]
        expect(f, 1)
        image = url.replace(':', '\\\\:')
        fails(frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=image), timeout=60, ok=False), 'cannot be used: Connection timed out')


@case
def picture_that_is_damaged(d):
    """Half a photograph, as image= and by a command, is told; a whole one, or a TIFF with a tag that its decoder does not know, is not."""
    with open(Env.top / 'tests/e2e/filter/portrait.jpg', 'rb') as f:
        data = f.read()
    with open(media.tiff(d / 'face.tif'), 'rb') as f:
        tiff = f.read()
    for name, part in (('whole.jpg', data), ('half.jpg', data[:len(data) // 2]), ('whole.tif', tiff)):
        with open(d / name, 'wb') as out:
            out.write(part)
        by_command = "[0:a]asendcmd=c='0.0 avatar image %s',%s" % (d / name, filt(image=d.png()))
        for graph in ('[0:a]' + filt(image=d / name), by_command):
            f = expect(frames('-i', d.wav(640), '-filter_complex', graph), 1)
            assert f.result.text().count('is damaged') == (name == 'half.jpg'), f.result.text()[-900:]


@case
def picture_of_oblong_pixels(d):
    """Pixels that are not square squeeze a face: told, for a file and for the second input; of square ones nothing is said."""
    for sar in (1, 2):
        ffmpeg('-i', d.png(), '-c:v', 'png', '-aspect', sar, d / 'p.nut')
        for f in (frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d / 'p.nut')),
                  frames('-i', d.wav(640), '-i', d / 'p.nut', '-filter_complex', PAD + filt())):
            assert f.result.text().count('pixels are 2:1') == (sar == 2), f.result.text()[-900:]
            expect(f, 1)
