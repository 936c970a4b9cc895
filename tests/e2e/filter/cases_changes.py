# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands: at the sound's time from in front of the filter, at the next block from behind; refused ones leave no trace."""
from harness import case, expect, ffmpeg, filt, frames, probe

GAP = "asetpts='PTS+if(gte(T,2),100/TB,0)'"


def tags(d, nb, graph):
    """Metadata of each frame."""
    found = probe('amovie=%s,%s' % (d.wav(nb), graph), '-f', 'lavfi', '-show_entries', 'frame_tags')['frames']
    return [f['tags'] for f in found]


def commands(d, text, name='c.cmd'):
    with open(d / name, 'wb') as f:
        f.write(text if isinstance(text, bytes) else text.encode())
    return 'asendcmd=f=%s' % (d / name)


@case
def command_in_front_acts_at_its_sound(d):
    """Prompts at 0.96 and 2.4 s, in any size of pieces: from block 2 and 5 on, offline and live."""
    cmd = commands(d, "0.96 avatar prompt 'a hat'; 2.4 avatar prompt 'no hat'; 2.4 avatar seed 9;")
    for mode in ('offline', 'live'):
        for pieces in (320, 1024, 4096):
            graph = 'asetnsamples=%d:p=0,%s,%s' % (pieces, cmd, filt(image=d.png(), mode=mode, metadata=1))
            t = tags(d, 64000, graph)
            assert [int(x['lavfi.avatar.prompt_id']) for x in t] == [0] * 24 + [1] * 36 + [2] * 40, (mode, pieces)
            assert [int(x['lavfi.avatar.seed']) for x in t] == [7] * 60 + [9] * 40, (mode, pieces)


@case
def command_between_blocks_acts_on_the_next(d):
    t = tags(d, 32000, 'asetnsamples=320:p=0,%s,%s' % (commands(d, "0.5 avatar prompt 'a hat';"), filt(image=d.png(), metadata=1)))
    assert [int(x['lavfi.avatar.prompt_id']) for x in t] == [0] * 24 + [1] * 26


@case
def command_in_front_and_a_new_take(d):
    """What was said behind the jump of the clock is not taken by the take before it."""
    cmd = commands(d, "2.2 avatar seed 9;")
    graph = 'asetnsamples=1024:p=0,%s,%s,%s' % (cmd, GAP, filt(image=d.png(), metadata=1))
    t = tags(d, 64000, graph)
    first = next(i for i, x in enumerate(t) if i and x['lavfi.avatar.frame'] == '0')
    assert all(x['lavfi.avatar.seed'] == '7' for x in t[:first]), 'the take before the jump changed'
    assert t[-1]['lavfi.avatar.seed'] == '9', t[-1]


@case
def command_behind_acts_on_the_next_block(d):
    """sendcmd behind the filter: on a block that has not begun, a few behind the picture, and a line says from when on."""
    graph = "[0:a]%s,sendcmd=c='0.2 avatar seed 9',metadata=print:file=%s" % (filt(image=d.png(), metadata=1), d / 'log')
    f = expect(frames('-i', d.wav(96000), '-filter_complex', graph), 150)
    with open(d / 'log') as log:
        seeds = [line.split('=')[1].strip() for line in log if 'avatar.seed' in line]
    at = seeds.index('9')
    assert at % 12 == 0 and 12 <= at <= 84 and set(seeds[at:]) == {'9'}, seeds
    assert 'too late for the pictures before %.3f s' % (at / 25) in f.result.text(), f.result.text()[-900:]


@case
def command_after_the_end_says_so(d):
    graph = "[0:a]%s,sendcmd=c='0.6 avatar seed 9'" % filt(image=d.png())
    f = expect(frames('-i', d.wav(10000), '-filter_complex', graph), 16)
    assert 'comes too late: all pictures' in f.result.text(), f.result.text()[-900:]


@case
def command_refused_leaves_no_trace(d):
    """A prompt that is not UTF-8, a picture too wide, a missing one, a seed out of range, then a jump of the clock: the stream goes on."""
    want = [p for p, _ in frames('-i', d.wav(64000), '-filter_complex', '[0:a]asetnsamples=1024:p=0,%s,%s' % (GAP, filt(image=d.png())))]
    assert 100 <= len(want) <= 103, len(want)
    ffmpeg('-f', 'lavfi', '-i', 'color=red:s=40000x16', '-frames:v', '1', d / 'wide.png')
    bad = (b"0.1 avatar prompt 'caf\xe9';\n", ('0.1 avatar image %s;' % (d / 'wide.png')).encode(), b'0.1 avatar image gone.png;',
           b'0.1 avatar seed 99999999999;')
    for i, text in enumerate(bad):
        for mode in ('offline', 'live'):
            graph = '[0:a]asetnsamples=1024:p=0,%s,%s,%s' % (commands(d, text, 'c%d' % i), GAP, filt(image=d.png(), mode=mode))
            f = frames('-loglevel', 'verbose', '-i', d.wav(64000), '-filter_complex', graph)
            assert [p for p, _ in f] == want, '%s, %s: %d frames\n%s' % (text, mode, len(f), f.result.text()[-900:])


@case
def command_picture_of_another_ratio(d):
    """The next take has the size of the first: cut to it, or with compat=upstream, whose size is the picture's, refused."""
    for compat in ('none', 'upstream'):
        graph = '[0:a]asetnsamples=1024:p=0,%s,%s,%s' % (commands(d, '0.1 avatar image %s;' % d.png(40, 160)), GAP,
                                                            filt(image=d.png(), compat=compat, size='128x128'))
        f = frames('-i', d.wav(40000), '-filter_complex', graph, timeout=120)
        assert ('same ratio' in f.result.text()) == (compat == 'upstream') and f[-1][0] > 2500, f.result.text()[-900:]


@case
def command_picture_is_a_pipe(d):
    import os
    os.mkfifo(d / 'fifo.png')
    graph = '[0:a]%s,%s' % (commands(d, '0.1 avatar image %s;' % (d / 'fifo.png')), filt(image=d.png()))
    f = expect(frames('-i', d.wav(16000), '-filter_complex', graph, timeout=30), 25)
    assert 'is a pipe' in f.result.text()


@case
def command_storm(d):
    """A thousand commands in a second."""
    text = ''.join("%.3f avatar %s;\n" % (i / 1000, ('prompt a%d' % i, 'seed %d' % i, 'late wait', 'metadata 1', 'image %s' % d.png(48, 96))[i % 5])
                   for i in range(1000))
    for mode in ('offline', 'live'):
        expect(frames('-i', d.wav(32000), '-filter_complex', '[0:a]%s,%s' % (commands(d, text), filt(image=d.png(), mode=mode))), 50)
