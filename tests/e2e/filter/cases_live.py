# SPDX-License-Identifier: LGPL-2.1-or-later
"""mode=live: frames while the sound still comes, whatever the size of its pieces; late; hold; sound that pauses."""
import subprocess
import threading
import time

from harness import Env, audio, case, crcs, expect, ffmpeg, filt, frames, probe, video


def live(d, **opts):
    return '[0:a]' + filt(image=d.png(), mode='live', **opts)


@case
def live_counts(d):
    for nb in (0, 1, 1600, 7680, 7681, 30000):
        expect(frames('-i', d.wav(nb), '-filter_complex', live(d)), -(-nb // 640))


@case
def live_does_not_depend_on_pieces(d):
    """Packets of 4096 samples from flac, of another size from wav, 20 ms at a time from a filter: the same frames."""
    ffmpeg('-i', d.wav(40000), d / 's.flac')
    a = expect(frames('-i', d.wav(40000), '-filter_complex', live(d)), 63)
    b = expect(frames('-i', d / 's.flac', '-filter_complex', live(d)), 63)
    c = expect(frames('-f', 'lavfi', '-i', 'amovie=%s,adelay=0' % d.wav(40000), '-filter_complex', live(d)), 63)
    assert crcs(a) == crcs(b) == crcs(c), 'frames depend on the sizes of the packets'
    assert crcs(a) != crcs(frames('-i', d.wav(40000), '-filter_complex', live(d, latency=0))), 'latency changes nothing'


@case
def live_frames_come_while_sound_comes(d):
    """3 s of PCM at real time into stdin: the first frame is out long before the sound ends, and none is lost."""
    with open(d.wav(48000), 'rb') as f:
        data = f.read()[44:]
    layout = ['-ac', '1'] if Env.version < (6,) else ['-ch_layout', 'mono']
    cmd = [str(Env.bin / 'ffmpeg'), '-nostats', '-loglevel', 'error', '-probesize', '32', '-analyzeduration', '0', '-f', 's16le', '-ar', '16000',
           *layout, '-i', 'pipe:0', '-filter_complex', live(d), '-an', '-c:v', 'rawvideo', '-flush_packets', '1', '-f', 'framecrc', '-']
    p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    watchdog = threading.Timer(60, p.kill)
    watchdog.start()
    arrivals = []

    def read():
        for line in p.stdout:
            if not line.startswith(b'#'):
                arrivals.append(time.monotonic())
    reader = threading.Thread(target=read)
    reader.start()
    for i in range(150):                                    # 20 ms at a time
        p.stdin.write(data[i * 640:(i + 1) * 640])
        p.stdin.flush()
        time.sleep(0.02)
    end = time.monotonic()
    p.stdin.close()
    reader.join()
    assert p.wait() == 0 and watchdog.is_alive(), p.stderr.read().decode()[-800:]
    watchdog.cancel()
    assert len(arrivals) == 75, '%d frames' % len(arrivals)
    assert arrivals[0] < end - 0.5, 'the first frame came %.2f s after the end of the sound began' % (arrivals[0] - end + 0.5)


@case
def live_late_repeat(d):
    """All the sound at once is sound far ahead: blocks are left out, and the frame before them fills their time."""
    graph = 'amovie=%s,%s' % (d.wav(160000), filt(image=d.png(), mode='live', late='repeat', max_late=0.5, metadata=1))
    found = probe(graph, '-f', 'lavfi', '-show_entries', 'frame=pts:frame_tags')['frames']
    pts = [x['pts'] for x in found]
    repeated = sum(x['tags']['lavfi.avatar.repeated'] == '1' for x in found)
    assert pts == list(range(250)), 'pts have holes: %s' % pts
    assert repeated >= 12 and repeated % 12 == 0, '%d frames are repeated' % repeated


@case
def live_late_drop(d):
    f = frames('-i', d.wav(160000), '-filter_complex', live(d, late='drop', max_late=0.5), '-fps_mode', 'vfr')
    pts = [p for p, _ in f]
    assert 12 <= len(pts) < 250 and all(b > a for a, b in zip(pts, pts[1:])), (len(pts), pts[:20])


@case
def live_late_wait_loses_nothing(d):
    expect(frames('-i', d.wav(160000), '-filter_complex', live(d, max_late=0.5)), 250)


@case
def live_gap_and_new_take(d):
    cut = "aselect='not(between(t,1,1.99))'"
    expect(frames('-i', d.wav(48000), '-filter_complex', '[0:a]%s,%s' % (cut, live(d)[5:])), 75)
    jump = "asetpts='PTS+if(gte(T,1),4/TB,0)'"
    f = frames('-i', d.wav(32000), '-filter_complex', '[0:a]%s,%s' % (jump, live(d, max_gap=2)[5:]))
    assert 50 <= len(f) <= 52 and f[-1][0] >= 148, (len(f), f[-1])


@case
def hold_goes_on_in_silence(d):
    for mode in ('live', 'offline'):
        expect(frames('-i', d.wav(16000), '-filter_complex', '[0:a]' + filt(image=d.png(), mode=mode, hold=1.5)), 63)
    expect(frames('-i', d.wav(0), '-filter_complex', live(d, hold=1)), 0)


@case
def live_interrupted_file_is_whole(d):
    """Ctrl-C in mid-stream: what was shown until then is a file that plays."""
    r = ffmpeg('-re', '-f', 'lavfi', '-i', 'anullsrc=r=16000:cl=mono', '-filter_complex', live(d), '-c:v', 'libx264', '-preset', 'ultrafast',
               '-tune', 'zerolatency', '-c:a', 'aac', d / 'o.mp4', ok=False, interrupt=4, timeout=40)
    assert r.code in (0, 255), r.text()[-600:]
    s = video(d / 'o.mp4')
    assert int(s['nb_read_frames']) >= 12 and audio(d / 'o.mp4'), s['nb_read_frames']


@case
def live_reader_goes_away(d):
    """The program that reads the pictures stops: an error soon, not a hang."""
    p = subprocess.Popen([str(Env.bin / 'ffmpeg'), '-nostdin', '-loglevel', 'error', '-f', 'lavfi', '-i', 'anullsrc=r=16000:cl=mono',
                          '-filter_complex', live(d), '-an', '-f', 'rawvideo', '-'], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert len(p.stdout.read(10000)) == 10000
    p.stdout.close()
    try:
        p.wait(timeout=30)
    except subprocess.TimeoutExpired:
        p.kill()
        raise AssertionError('goes on without a reader')
