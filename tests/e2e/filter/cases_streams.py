# SPDX-License-Identifier: LGPL-2.1-or-later
"""Time stamps that jump, graphs that are rebuilt, several filters, commands, interruption, live inputs."""
import socket
import subprocess
import threading
import time

from harness import Env, audio, case, crcs, expect, fails, ffmpeg, filt, frames, video

PAD = '[0:a][1:v]'


@case
def starts_where_the_sound_starts(d):
    f = frames('-itsoffset', '2.48', '-i', d.wav(8000), '-copyts', '-filter_complex', '[0:a]' + filt(image=d.png()))
    expect(f, 13, first=62)


@case
def start_is_rounded(d):
    f = frames('-itsoffset', '2.51', '-i', d.wav(8000), '-copyts', '-filter_complex', '[0:a]' + filt(image=d.png()))
    expect(f, 13, first=63)


@case
def seek_with_copyts(d):
    f = frames('-ss', '1', '-copyts', '-i', d.wav(32000), '-filter_complex', '[0:a]' + filt(image=d.png()))
    expect(f, 25, first=25)


@case
def short_gap_is_filled(d):
    """A second cut out of the middle keeps its place: as many frames as without the cut, one warning."""
    cut = "aselect='not(between(t,1,1.99))'"
    f = frames('-i', d.wav(48000), '-filter_complex', '[0:a]%s,%s' % (cut, filt(image=d.png())))
    assert f.result.text().count('was filled with silence') == 1, f.result.text()[-800:]
    expect(f, 75)


@case
def long_gap_starts_a_new_take(d):
    graph = "[0:a]asetpts='PTS+if(gte(T,1),4/TB,0)',%s" % filt(image=d.png(), max_gap=2)
    f = frames('-i', d.wav(32000), '-filter_complex', graph)
    assert f.result.text().count('a new take starts') == 1, f.result.text()[-800:]
    pts = [p for p, _ in f]
    cut = next(i for i in range(1, len(pts)) if pts[i] != pts[i - 1] + 1)
    assert pts[0] == 0 and all(b == a + 1 for a, b in zip(pts[cut:], pts[cut + 1:])), pts
    assert abs(pts[cut] - pts[cut - 1] - 100) <= 2 and 50 <= len(pts) <= 52, (cut, pts[cut - 1:cut + 1], len(pts))


@case
def overlap_is_cut(d):
    f = frames('-i', d.wav(32000), '-filter_complex', "[0:a]asetpts='PTS-if(gte(T,1),0.5/TB,0)',%s" % filt(image=d.png()))
    assert f.result.text().count('was cut there') == 1, f.result.text()[-800:]
    assert 37 <= len(f) <= 39, '%d frames' % len(f)
    expect(f, len(f))


@case
def small_jitter_is_left_alone(d):
    f = frames('-i', d.wav(32000), '-filter_complex', "[0:a]asetpts='PTS+mod(N\\,2)*0.02/TB',%s" % filt(image=d.png()))
    assert 'silence' not in f.result.text() and 'cut' not in f.result.text()
    expect(f, 50)


@case
def output_cut_short(d):
    graph = '[0:a]' + filt(image=d.png())
    expect(frames('-i', d.wav(48000), '-filter_complex', graph, '-t', '1'), 25)
    expect(frames('-i', d.wav(48000), '-filter_complex', graph, '-frames:v', '7'), 7)
    ffmpeg('-i', d.wav(16100), '-filter_complex', graph, '-c:v', 'ffv1', '-c:a', 'flac', '-shortest', d / 'o.mkv')
    assert video(d / 'o.mkv')['nb_read_frames'] in ('25', '26')


def changing(d, second=1):
    """One second at 48 kHz, then one at 32 kHz, at `second`, as AAC in one MPEG-TS: the tool rebuilds the graph between the two."""
    with open(d / 'c.ts', 'wb') as out:
        for rate, offset in ((48000, 0), (32000, second)):
            ffmpeg('-i', d.wav(rate, rate), '-c:a', 'aac', '-muxdelay', '0', '-muxpreload', '0', '-output_ts_offset', offset, d / 'p.ts')
            with open(d / 'p.ts', 'rb') as f:
                out.write(f.read())
    return d / 'c.ts'


def rebuilt(f):
    """The second instance goes on where the first one was: nothing is lost, nothing is warned of."""
    log = f.result.text()
    assert 'econfiguring filter graph' in log or Env.version < (7,), 'the graph was not rebuilt\n' + log[-1500:]
    assert 'hole' not in log and 'cut' not in log and 'new take' not in log, log[-1500:]
    assert 50 <= len(f) <= 54, len(f)
    expect(f, len(f), first=f[0][0])
    assert f[0][0] <= 1, f[0]


@case
def rebuild_with_image(d):
    rebuilt(frames('-i', changing(d), '-copyts', '-filter_complex', '[0:a]' + filt(image=d.png())))


@case
def rebuild_with_movie(d):
    rebuilt(frames('-i', changing(d), '-copyts', '-filter_complex', 'movie=%s[v];[0:a][v]%s' % (d.png(), filt())))


@case
def rebuild_with_loop(d):
    rebuilt(frames('-i', changing(d), '-loop', '1', '-i', d.png(), '-copyts', '-filter_complex', PAD + filt()))


@case
def rebuild_with_single_picture(d):
    """The only picture went to the first instance, which leaves it to the second."""
    rebuilt(frames('-i', changing(d), '-i', d.png(), '-copyts', '-filter_complex', PAD + filt()))


@case
def rebuild_beside_a_slow_network(d):
    """A filter beside, whose picture takes three seconds each time the graph is built: nothing of the stream is lost meanwhile."""
    with open(d.png(), 'rb') as f:
        answer = b'HTTP/1.0 200 OK\r\nContent-Type: image/png\r\n\r\n' + f.read()
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen(9)

        def serve():
            while True:
                try:
                    c = server.accept()[0]
                except OSError:
                    return
                with c:
                    c.recv(4096)
                    time.sleep(3)
                    c.sendall(answer)
        threading.Thread(target=serve, daemon=True).start()
        graph = 'movie=http\\\\://127.0.0.1\\\\:%d/p.png:f=png_pipe[m];[0:a]%s[v];[v][m]overlay' % (server.getsockname()[1], filt(image=d.png()))
        rebuilt(frames('-i', changing(d), '-copyts', '-filter_complex', graph, timeout=120))
        server.shutdown(socket.SHUT_RDWR)


@case
def rebuild_live(d):
    """Live too, and with commands' changes kept."""
    graph = "[0:a]asendcmd=c='0.0 avatar seed 8',%s" % filt(image=d.png(), mode='live')
    rebuilt(frames('-i', changing(d), '-copyts', '-filter_complex', graph))


@case
def rebuild_behind_a_jump(d):
    """What came before a hole longer than max_gap is all shown, when the graph is built anew at that hole; a seamless one has none."""
    for second, opts in ((1, dict(max_gap='0.1')), (5, dict(max_gap=2)), (5, dict(max_gap=2, mode='live'))):
        f = frames('-dts_delta_threshold', '100', '-i', changing(d, second), '-copyts', '-filter_complex', '[0:a]' + filt(image=d.png(), **opts))
        log = f.result.text()
        assert 50 <= len(f) <= 55, '%d frames of two seconds, %s\n%s' % (len(f), opts, log[-900:])
        assert log.count('a new take starts') == (second > 1) and 'not become frames' not in log, log[-900:]
        assert ('econfiguring filter graph' in log or Env.version < (7,)) and sorted(set(p for p, _ in f)) == [p for p, _ in f], log[-900:]


@case
def two_instances(d):
    graph = '[0:a]%s[l];[1:a]%s[r];[l][r]hstack' % (filt(name='avatar@l', image=d.png()), filt(name='avatar@r', image=d.png(64, 96), seed=9))
    expect(frames('-i', d.wav(16000), '-i', d.wav(9000), '-filter_complex', graph), 25)


@case
def two_outputs(d):
    graph = '[0:a]asplit[a][b];[1:v]split[p][q];[a][p]%s[x];[b][q]%s[y]' % (filt(), filt(seed=9))
    ffmpeg('-i', d.wav(16000), '-i', d.png(), '-filter_complex', graph, '-map', '[x]', '-f', 'framecrc', d / 'x', '-map', '[y]', '-f',
           'framecrc', d / 'y')
    with open(d / 'x') as x, open(d / 'y') as y:
        a, b = x.read(), y.read()
    assert a.count('\n0,') == b.count('\n0,') == 25 and a != b


@case
def command_seed(d):
    graph = "[0:a]asendcmd=c='0.0 avatar seed 8',%s" % filt(image=d.png())
    a = expect(frames('-i', d.wav(16000), '-filter_complex', graph), 25)
    b = expect(frames('-i', d.wav(16000), '-filter_complex', '[0:a]' + filt(image=d.png())), 25)
    assert crcs(a) != crcs(b), 'the command changed nothing'


@case
def command_prompt_and_image(d):
    plain = expect(frames('-i', d.wav(16000), '-filter_complex', '[0:a]' + filt(image=d.png())), 25)
    for what, arg in (('prompt', 'hat'), ('image', d.png(64, 96))):
        graph = "[0:a]asendcmd=c='0.0 avatar@me %s %s',%s" % (what, arg, filt(name='avatar@me', image=d.png()))
        f = expect(frames('-i', d.wav(16000), '-filter_complex', graph), 25)
        assert crcs(f) != crcs(plain), what + ' changed nothing'


@case
def command_behind_the_filter(d):
    graph = "[0:a]%s,sendcmd=c='0.2 avatar metadata 1',metadata=print:file=%s" % (filt(image=d.png()), d / 'log')
    expect(frames('-i', d.wav(16000), '-filter_complex', graph), 25)
    with open(d / 'log') as f:
        assert 1 <= f.read().count('lavfi.avatar.frame=') <= 20


@case
def command_refused(d):
    graph = "[0:a]asendcmd=c='0.0 avatar %s',%s"
    for bad in ('steps 3', 'nonsense 1', 'image %s' % (d / 'missing.png')):
        expect(frames('-loglevel', 'verbose', '-i', d.wav(8000), '-filter_complex', graph % (bad, filt(image=d.png()))), 13)
    fails(frames('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(image=d.png(), enable='0'), ok=False), 'imeline')


@case
def sound_is_held_back(d):
    """40 s of silence from the filter while the same sound is encoded into the same file: no deadlock, no overflow."""
    ffmpeg('-f', 'lavfi', '-i', 'anullsrc=r=16000:cl=mono:d=40', '-filter_complex', '[0:a]asplit[s][a];[s]%s[v]' % filt(image=d.png()),
           '-map', '[v]', '-map', '[a]', '-c:v', 'libx264', '-preset', 'ultrafast', '-c:a', 'aac', d / 'o.mp4', timeout=120)
    assert video(d / 'o.mp4')['nb_read_frames'] == '1000'
    assert abs(float(audio(d / 'o.mp4')['duration']) - 40) < 0.1


@case
def long_reference_video_in_flat_memory(d):
    """30 s of 720p as reference is 2 GB of pictures if they pile up."""
    f = frames('-f', 'lavfi', '-i', 'anullsrc=r=16000:cl=mono:d=2', '-f', 'lavfi', '-i', 'color=red:s=1280x720:r=25:d=30', '-filter_complex',
               PAD + filt(), mem_mb=1600, timeout=120)
    expect(f, 50)


@case
def interrupted(d):
    """Ctrl-C in the middle of a real-time run: out within seconds."""
    start = time.monotonic()
    r = ffmpeg('-re', '-f', 'lavfi', '-i', 'anullsrc=r=16000:cl=mono', '-filter_complex', '[0:a]' + filt(image=d.png()), '-f', 'null', '-',
               ok=False, interrupt=2, timeout=30)
    assert time.monotonic() - start < 15 and r.code in (0, 255), 'exit code %d after %.1f s' % (r.code, time.monotonic() - start)


@case
def pipe_at_real_time(d):
    with open(d.wav(16000), 'rb') as f:
        data = f.read()[44:]
    layout = ['-ac', '1'] if Env.version < (6,) else ['-ch_layout', 'mono']
    expect(frames('-f', 's16le', '-ar', '16000', *layout, '-i', 'pipe:0', '-filter_complex', '[0:a]' + filt(image=d.png()), stdin=data), 25)
    expect(frames('-re', '-i', d.wav(16000), '-filter_complex', '[0:a]' + filt(image=d.png())), 25)


@case
def rtmp_to_a_listener(d):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        url = 'rtmp://127.0.0.1:%d/live/x' % s.getsockname()[1]
    listen = threading.Thread(target=lambda: ffmpeg('-listen', '1', '-i', url, '-c', 'copy', d / 'o.mkv', ok=False, timeout=50))
    listen.start()
    time.sleep(1)
    ffmpeg('-i', d.wav(32000), '-filter_complex', '[0:a]' + filt(image=d.png()), '-c:v', 'libx264', '-preset', 'veryfast', '-g', '25',
           '-c:a', 'aac', '-f', 'flv', url, timeout=40)
    listen.join()
    assert video(d / 'o.mkv')['nb_read_frames'] == '50' and audio(d / 'o.mkv')['codec_name'] == 'aac'


@case
def stock_ffmpeg_reads_a_pipe(d):
    """nut on stdout into another ffmpeg: frames and sound unchanged."""
    first = subprocess.Popen([str(Env.bin / 'ffmpeg'), '-nostdin', '-loglevel', 'error', '-i', d.wav(16000), '-filter_complex',
                              '[0:a]' + filt(image=d.png()), '-c:v', 'rawvideo', '-c:a', 'pcm_s16le', '-f', 'nut', '-'],
                             stdout=subprocess.PIPE)
    data = first.communicate(timeout=60)[0]
    f = frames('-f', 'nut', '-i', 'pipe:0', '-map', '0:v', stdin=data)
    assert crcs(expect(f, 25)) == crcs(frames('-i', d.wav(16000), '-filter_complex', '[0:a]' + filt(image=d.png())))
