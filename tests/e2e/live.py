#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure live streams on loopback: PCM at real time on stdin -> filter (or tool) -> RTMP, MPEG-TS over UDP, HLS, a pipe -> a second ffmpeg
that decodes. Prints a table in Markdown; needs a stock ffmpeg (5.1 or later) as receiver.

    live.py --bin build/ffmpeg/bin --tool build/avatar [--model DIR] [--seconds 12] [NAME...]

The sound has a click every two seconds and the sender paints the frame of that moment white, so that the receiver can tell how far apart
they arrive. Delays are from the moment when a frame's own sound began to be written: a player that starts that much later never stalls.
"""
import argparse
import array
import glob
import math
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
RATE, FRAME, CLICK = 16000, 640, 2
SPEECH = '/usr/share/pocketsphinx/test/data/librivox/*.wav'


def sound(seconds):
    """Speech at a third of full scale (a gliding tone when there is none), and a click at every second multiple of a second."""
    nb, out = int(seconds * RATE), array.array('h')
    for path in sorted(glob.glob(SPEECH)):
        with open(path, 'rb') as f:
            out.frombytes(f.read()[44:])
    if not out:
        out.extend(int(20000 * math.sin(i * 0.05 + 3 * math.sin(i * 0.0005))) for i in range(nb))
    peak = max(map(abs, out))
    out = array.array('h', [v * 10000 // peak for v in (out * (nb // len(out) + 1))[:nb]])
    for start in range(CLICK * RATE, nb - 320, CLICK * RATE):
        for i in range(320):
            out[start + i] = int(30000 * math.sin(2 * math.pi * 2500 * (i + 0.5) / RATE))
    return out


class Feeder(threading.Thread):
    """Writes 20 ms of sound every 20 ms; t0 is when the first of it was written."""
    def __init__(self, pipe, pcm):
        super().__init__()
        self.pipe, self.data, self.t0 = pipe, pcm.tobytes(), None

    def run(self):
        self.t0 = time.monotonic()
        try:
            for i in range(0, len(self.data), 640):
                wait = self.t0 + i / 2 / RATE - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                self.pipe.write(self.data[i:i + 640])
                self.pipe.flush()
            self.pipe.close()
        except BrokenPipeError:
            pass


class Watcher(threading.Thread):
    """Reads a log: arrival, time stamp and mean luma of each video frame, time stamp and length of each piece of sound."""
    VIDEO = re.compile(r'pts_time:([-0-9.]+).* mean:\[(\d+)')
    AUDIO = re.compile(r'Parsed_ashowinfo.* pts_time:([-0-9.]+).* nb_samples:(\d+)')

    def __init__(self, pipe):
        super().__init__()
        self.pipe, self.video, self.audio, self.text = pipe, [], [], []

    def run(self):
        for raw in self.pipe:
            now, line = time.monotonic(), raw.decode('utf-8', 'replace')
            v, a = self.VIDEO.search(line), self.AUDIO.search(line)
            if a:
                self.audio.append((float(a[1]), int(a[2])))
            elif v:
                self.video.append((now, float(v[1]), int(v[2])))
            elif 'showinfo' not in line:
                self.text.append(line)


class Reader(threading.Thread):
    def __init__(self, pipe):
        super().__init__()
        self.pipe, self.data = pipe, b''

    def run(self):
        self.data = self.pipe.read()


def clicks(data, audio):
    """Times of the clicks, by the time stamp of the first decoded sample."""
    pcm, out, last = array.array('h', data[:len(data) // 2 * 2]), [], -RATE
    for i, v in enumerate(pcm):
        if abs(v) > 18000:
            if i - last > RATE:
                out.append(audio[0][0] + i / RATE)
            last = i
    return out


def offsets(flashes, heard):
    """How far each white frame is behind its click, in ms."""
    return [1e3 * min((f - c for c in heard), key=abs) for f in flashes if heard]


def port(kind):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


PAINT = "color=white:s={size}:r=25[w];{v}[w]overlay=shortest=1:enable='not(mod(n,%d))*gt(n,0)'" % (CLICK * 25)
ENCODE = '-c:v libx264 -preset veryfast -tune zerolatency -g 25 -c:a aac'.split()
FAST = '-probesize 32 -analyzeduration 0'.split()
LISTEN = '-probesize 100000 -analyzeduration 100000'.split()


class Run:
    """One way from stdin to a decoder."""
    def __init__(self, name, args, folder):
        self.name, self.args, self.folder = name, args, folder
        rtmp, udp = port(socket.SOCK_STREAM), port(socket.SOCK_DGRAM)
        ways = {
            'rtmp': (['-f', 'flv', 'rtmp://127.0.0.1:%d/live/x' % rtmp], ['-listen', '1', '-i', 'rtmp://127.0.0.1:%d/live/x' % rtmp]),
            'udp': (['-f', 'mpegts', '-muxdelay', '0', 'udp://127.0.0.1:%d?pkt_size=1316' % udp],
                    ['-i', 'udp://127.0.0.1:%d?timeout=9000000&buffer_size=4000000&fifo_size=100000' % udp]),
            'hls': ('-f hls -hls_time 1 -hls_list_size 0 -hls_flags independent_segments'.split() + [folder + '/o.m3u8'],
                    ['-live_start_index', '0', '-i', folder + '/o.m3u8']),
            'nut': ('-c:v rawvideo -c:a pcm_s16le -flush_packets 1 -f nut pipe:1'.split(), ['-i', 'pipe:0']),
            'tool': ([], ['-f', 'nut', '-i', 'pipe:0']),
        }
        self.send, self.listen = ways[name]

    def sender(self):
        a = self.args
        if self.name == 'tool':
            return [a.tool, 'speak', '-', a.picture, '--input_format', 's16le', '--mode', 'live', '--size', a.size, '--seed', '1',
                    '-o', '-'] + (['--model', a.model] if a.model else [])
        filt = 'avatar=image=%s:mode=live:size=%s:seed=1%s' % (a.picture, a.size, ':model=' + a.model if a.model else '')
        graph = '[0:a]asplit[s][a];[s]%s,showinfo[v];%s[o]' % (filt, PAINT.format(size=a.size, v='[v]'))
        return [a.bin / 'ffmpeg', '-nostats', '-hide_banner', *FAST, '-f', 's16le', '-ar', '16000', *a.mono, '-i', 'pipe:0',
                '-filter_complex', graph, '-map', '[o]', '-map', '[a]', *ENCODE, *self.send]

    def receiver(self):
        paint = PAINT.format(size=self.args.size, v='[0:v]') if self.name == 'tool' else '[0:v]null'
        fast = FAST if self.name in ('tool', 'nut') else [] if self.name == 'hls' else LISTEN
        return [self.args.stock, '-nostats', '-hide_banner', '-threads', '1', *fast, *self.listen, '-filter_complex',
                paint + ',showinfo[v];[0:a]ashowinfo,aresample=16000[a]', '-map', '[v]', '-fps_mode', 'passthrough', '-f', 'null', '-', '-map', '[a]',
                '-ac', '1', '-f', 's16le', 'pipe:1']

    def start_receiver(self, source):
        self.rx = subprocess.Popen([str(x) for x in self.receiver()], stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.seen, self.heard = Watcher(self.rx.stderr), Reader(self.rx.stdout)
        self.seen.start()
        self.heard.start()

    def measure(self, pcm):
        piped = self.name in ('nut', 'tool')
        if self.name in ('rtmp', 'udp'):
            self.start_receiver(subprocess.DEVNULL)
            time.sleep(1)
        tx = subprocess.Popen([str(x) for x in self.sender()], stdin=subprocess.PIPE, stdout=subprocess.PIPE if piped else subprocess.DEVNULL,
                              stderr=subprocess.PIPE)
        sent = Watcher(tx.stderr)
        sent.start()
        if piped:
            self.start_receiver(tx.stdout)
            tx.stdout.close()
        time.sleep(1)                                       # programs are up; the model is opened with the first sound
        feeder = Feeder(tx.stdin, pcm)
        feeder.start()
        if self.name == 'hls':
            while not os.path.exists(self.folder + '/o.m3u8') and feeder.is_alive():
                time.sleep(0.02)
            self.start_receiver(subprocess.DEVNULL)
        for t in (feeder, sent, self.seen, self.heard):
            t.join(120)
        code = tx.wait(20), self.rx.wait(20)
        return self.row(feeder.t0, len(pcm), sent, code)

    def row(self, t0, nb, sent, code):
        want, got = -(-nb // FRAME), self.seen.video
        if not got:
            print(''.join(sent.text[-5:] + self.seen.text[-8:]), file=sys.stderr)
            return '| %s | no frame (exit codes %d, %d) |' % (self.name, *code)
        first = got[0][1]
        late = [t - t0 - (pts - first) for t, pts, _ in got]
        steady = late[50:-2] or late                        # a demuxer may hold the last ones until it gives up
        lost = want - len({round((pts - first) * 25) for _, pts, _ in got})
        av = offsets([pts for _, pts, y in got if y > 200], clicks(self.heard.data, self.seen.audio) if self.seen.audio else [])
        out = '%.2f' % (sent.video[0][0] - t0) if sent.video else '-'
        return '| %s | %s | %.2f | %.2f | %.2f | %s | %d of %d |' % (
            self.name, out, got[0][0] - t0, statistics.median(steady), max(steady),
            '%+.0f .. %+.0f' % (min(av), max(av)) if av else '-', lost, want)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--bin', type=pathlib.Path, default=TOP / 'build/ffmpeg/bin')
    p.add_argument('--tool', default=str(TOP / 'build/avatar'))
    p.add_argument('--model', help='default: the embedded model')
    p.add_argument('--picture', default=str(TOP / 'tests/e2e/filter/portrait.jpg'))
    p.add_argument('--size', default='128x128')
    p.add_argument('--stock', default=shutil.which('ffmpeg'))
    p.add_argument('--seconds', type=float, default=12)
    p.add_argument('ways', nargs='*', metavar='NAME', help='nut rtmp udp hls tool (default: all)')
    a = p.parse_args()
    if not a.stock:
        print('SKIPPED: no stock ffmpeg to receive with; install ffmpeg')
        return 0
    version = subprocess.run([str(a.bin / 'ffmpeg'), '-version'], stdout=subprocess.PIPE).stdout.decode()
    a.mono = ['-ac', '1'] if re.search(r'version n?5\.', version) else ['-ch_layout', 'mono']
    pcm = sound(a.seconds)
    print('%s; %d CPUs, load %.1f; model %s, %s; %.0f s of sound\n' % (version.split(' Copyright')[0], os.cpu_count(), os.getloadavg()[0],
                                                                       a.model or 'nano', a.size, a.seconds))
    print('| way | first frame out of the filter, s | first frame decoded, s | delay, median, s | delay, most, s | picture behind sound, ms '
          '| frames lost |\n|---|---|---|---|---|---|---|', flush=True)
    for name in a.ways or ['nut', 'rtmp', 'udp', 'hls', 'tool']:
        with tempfile.TemporaryDirectory(prefix='avatar-live-') as folder:
            print(Run(name, a, folder).measure(pcm), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
