# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clocks: stamps that jitter, drift, come in bursts, jump and begin again; samples are counted, and none is lost in silence."""
import subprocess
import threading
import time

from harness import Env, case, crcs, expect, ffmpeg, filt, frames, probe
import media


def through(d, nb, change, *args, mode='offline', **opts):
    """Sound of nb samples in pieces of 1024 through a filter that changes it, then the avatar."""
    graph = '[0:a]asetnsamples=1024:p=0,%s,%s' % (change, filt(image=d.png(), mode=mode, **opts))
    return frames('-i', d.wav(nb), *args, '-filter_complex', graph)


def quiet(f):
    log = f.result.text()
    assert 'silence' not in log and 'cut there' not in log and 'new take' not in log, log[-900:]
    return f


def corrections(d, nb, change, **opts):
    """Seconds of silence put in and of sound cut, as the last frame's metadata have them."""
    graph = 'amovie=%s,asetnsamples=1024:p=0,%s,%s' % (d.wav(nb), change, filt(image=d.png(), metadata=1, **opts))
    tags = probe(graph, '-f', 'lavfi', '-show_entries', 'frame_tags')['frames'][-1]['tags']
    return float(tags['lavfi.avatar.filled']), float(tags['lavfi.avatar.cut'])


@case
def clock_aac_over_hls(d):
    """AAC frames of 64 and 43 ms in MPEG-TS segments, whose stamps are not those of the samples: all of it is spoken."""
    for rate in (16000, 24000):
        ffmpeg('-i', d.wav(7 * rate, rate), '-c:a', 'aac', '-f', 'hls', '-hls_time', '1', '-hls_list_size', '0', d / ('%d.m3u8' % rate))
        for mode in ('offline', 'live'):
            f = quiet(frames('-i', d / ('%d.m3u8' % rate), '-filter_complex', '[0:a]' + filt(image=d.png(), mode=mode)))
            assert 175 <= len(f) <= 179, '%d frames' % len(f)
            expect(f, len(f), first=f[0][0])


@case
def clock_jitter_of_a_frame(d):
    """Stamps that are a frame early or late by turns change nothing at all."""
    want = expect(frames('-i', d.wav(64000), '-filter_complex', '[0:a]' + filt(image=d.png())), 100)
    for change, first in (('mod(N\\,2)*0.064', 0), ('1+(mod(N\\,3)-1)*0.08', 23), ('1+(mod(N+1\\,3)-1)*0.08', 25)):
        f = through(d, 64000, "asetpts='PTS+(%s)/TB'" % change, '-copyts')
        assert crcs(quiet(expect(f, 100, first=first))) == crcs(want), change


@case
def clock_bursts_stamped_on_arrival(d):
    """A quarter of a second at a time, stamped when it arrives: nothing is cut or filled, live."""
    with open(d.wav(64000), 'rb') as f:
        data = f.read()[44:]
    layout = ['-ac', '1'] if Env.version < (6,) else ['-ch_layout', 'mono']
    cmd = [str(Env.bin / 'ffmpeg'), '-nostats', '-probesize', '32', '-analyzeduration', '0', '-use_wallclock_as_timestamps', '1', '-f', 's16le',
           '-ar', '16000', *layout, '-i', 'pipe:0', '-filter_complex', '[0:a]' + filt(image=d.png(), mode='live'), '-an', '-c:v', 'rawvideo',
           '-f', 'framecrc', '-']
    p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def feed():
        start = time.monotonic()
        for i in range(0, len(data), 8000):
            time.sleep(max(0, start + i / 32000 - time.monotonic()))
            p.stdin.write(data[i:i + 8000])
            p.stdin.flush()
        p.stdin.close()
    feeder = threading.Thread(target=feed)
    feeder.start()
    out, err = {}, {}
    readers = [threading.Thread(target=lambda: out.setdefault('', p.stdout.read())), threading.Thread(target=lambda: err.setdefault('', p.stderr.read()))]
    for t in readers:
        t.start()
    for t in [feeder] + readers:
        t.join(60)
    assert p.wait(10) == 0, err[''].decode()[-800:]
    log = err[''].decode()
    assert 'silence' not in log and 'cut there' not in log and 'a new take' not in log, log[-900:]
    nb = sum(not line.startswith(b'#') for line in out[''].splitlines())
    assert nb == 100, '%d frames of 100' % nb


@case
def clock_drift_is_followed(d):
    """A clock that is 0.4 % slow or fast: after 20 s it is 80 ms off, and the pictures have followed to 20 ms, without a word."""
    f = quiet(through(d, 320000, "asetpts='PTS*1.004'"))
    assert 501 <= len(f) <= 502, '%d frames, 502 by the clock, 500 by the samples' % len(f)
    f = quiet(through(d, 320000, "asetpts='PTS*0.996'"))
    assert 498 <= len(f) <= 499, '%d frames, 498 by the clock, 500 by the samples' % len(f)


@case
def clock_lost_packet_is_made_up_for(d):
    """One frame of 64 ms is lost: within max_drift, so nothing is filled at once, but after some seconds the rest is in its place."""
    f = quiet(through(d, 240000, "aselect='not(eq(n,20))'"))
    assert 374 <= len(f) <= 375, len(f)
    f = through(d, 48000, "aselect='not(eq(n,20))'", max_drift=0.05)
    assert f.result.text().count('was filled with silence') in (0, 1)
    assert corrections(d, 48000, "aselect='not(between(n,20,22))'") == (0.192, 0)
    assert corrections(d, 48000, "aselect='not(between(n,20,22))'", max_drift=0.3) == (0, 0)


@case
def clock_episode_is_told_once(d):
    """Five holes in a row: one line, all of them counted."""
    change = "aselect='not(between(mod(n\\,10),3,6))'"
    f = through(d, 48000, change)
    assert f.result.text().count('was filled with silence') == 1, f.result.text()[-900:]
    filled, cut = corrections(d, 48000, change)
    assert 0.256 * 4 <= filled <= 0.256 * 5 and not cut, (filled, cut)


@case
def clock_overlap_is_counted(d):
    filled, cut = corrections(d, 48000, "asetpts='PTS-if(gte(T,1),0.5/TB,0)'")
    assert not filled and 0.43 <= cut <= 0.51, (filled, cut)


def one_new_take(f, nb):
    log = f.result.text()
    assert log.count('a new take starts') == 1, log[-900:]
    assert nb <= len(f) <= nb + 2, '%d frames, wanted %d' % (len(f), nb)
    pts = [p for p, _ in f]
    assert all(b > a for a, b in zip(pts, pts[1:])), 'pictures go back in time: %s' % pts
    return pts


@case
def clock_jumps_back(d):
    """An hour back, ten seconds back with max_gap=5, and a clock that begins again at 0: a new take, and no sound is lost."""
    for mode in ('offline', 'live'):
        pts = one_new_take(through(d, 64000, "asetpts='PTS-if(gte(T,2),3600/TB,0)'", '-copyts', mode=mode), 100)
        assert pts[-1] <= 103, pts[-3:]
        one_new_take(through(d, 64000, "asetpts='PTS+if(gte(T,2),0,10/TB)'", '-copyts', mode=mode, max_gap=5), 100)
        one_new_take(through(d, 64000, "asetpts='if(gte(T,2),PTS-2.048/TB,PTS)'", '-copyts', mode=mode), 100)


@case
def clock_jumps_forward(d):
    for mode in ('offline', 'live'):
        pts = one_new_take(through(d, 64000, "asetpts='PTS+if(gte(T,2),3600/TB,0)'", '-copyts', mode=mode), 100)
        assert pts[-1] > 90000, pts[-3:]


@case
def clock_at_the_limits_of_arithmetic(d):
    """Stamps near the ends of 64 bits, and both in one stream: frames come, and no hang."""
    for change in ("asetpts='9.2e18+N'", "asetpts='-9.2e18+N'", "asetpts='if(lt(N,16),-9.2e18,9.2e18)'", "asetpts='if(lt(N,16),9.2e18,-9.2e18)'"):
        f = through(d, 32000, change, '-fps_mode', 'passthrough')
        assert len(f) >= 25, '%s: %d frames\n%s' % (change, len(f), f.result.text()[-600:])


@case
def clock_without_stamps(d):
    """No stamps at all: the samples are all there is."""
    with open(d / 's.raw', 'wb') as f:
        f.write(b''.join(int(v).to_bytes(2, 'little', signed=True) for v in media.samples(32000)))
    layout = ['-ac', '1'] if Env.version < (6,) else ['-ch_layout', 'mono']
    graph = "[0:a]asetpts='NAN',%s" % filt(image=d.png())
    quiet(expect(frames('-f', 's16le', '-ar', '16000', *layout, '-i', d / 's.raw', '-filter_complex', graph), 50))
