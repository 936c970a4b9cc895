# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the tool share: a case, a finished run, what a film holds, inputs."""
import array
import multiprocessing
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / 'filter'))
import media                      # noqa: E402

A = None                          # the arguments of tool.py: tool, media, model
LIMIT = 180
CASES = []


class Skip(Exception):
    pass


def case(f):
    CASES.append(f)
    return f


def run_case(f):
    start, word, why = time.monotonic(), 'ok', ''
    with tempfile.TemporaryDirectory(prefix='avatar-tool-', ignore_cleanup_errors=True) as tmp:
        try:
            f(pathlib.Path(tmp))
        except Skip as e:
            word, why = 'SKIPPED', ': %s' % e
        except Exception as e:                                      # noqa: BLE001
            word, why = 'FAIL', ': %s' % (e or repr(e))
    return word, '%-4s%s %s%s %.1f s' % (word, ':' if word == 'SKIPPED' else '', f.__name__, why, time.monotonic() - start)


def run_cases(names, jobs, cases=None):
    """Those of `cases` (CASES) that are named, or all, `jobs` at a time, in processes of their own. A line each, their sum; the exit code."""
    todo = [f for f in cases or CASES if not names or f.__name__ in names]
    if names and len(todo) < len(names):
        raise SystemExit('unknown case among: ' + ' '.join(names))
    count = dict(ok=0, FAIL=0, SKIPPED=0)
    with multiprocessing.get_context('fork').Pool(jobs) as pool:
        for word, line in pool.imap(run_case, todo):
            count[word] += 1
            print(line, flush=True)
    print('%(ok)d passed, %(FAIL)d failed, %(SKIPPED)d skipped' % count)
    return 1 if count['FAIL'] else 0


def require(cond, *what):
    if not cond:
        raise AssertionError(' '.join(str(w) for w in what))


class Run:
    """One finished run of the tool."""

    def __init__(self, *args, stdin=None, stdout=subprocess.PIPE, **kw):
        cmd = [A.tool] + [str(a) for a in args]
        p = subprocess.run(cmd, input=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=LIMIT, **kw)
        self.ret, self.out, self.err = p.returncode, p.stdout, p.stderr.decode()
        self.what = '%s: exit code %d, %s' % (' '.join(cmd[1:]), self.ret, self.err)


def speak(*args, **kw):
    return Run('speak', '--model', A.model, '--seed', 3, '--cpu-threads', 1, *args, **kw)


def fails(run, code, *words):
    """Exit code and one sentence that names what it is about; nothing like a crash."""
    require(run.ret == code, 'wanted exit code', code, '--', run.what)
    for w in words:
        require(w in run.err, 'wanted', repr(w), '--', run.what)


class Nut:
    """What a file of the tool holds: streams, video and sound packets (pts, bytes, sum)."""

    def __init__(self, path):
        text = subprocess.run([A.media, 'nut', str(path)], stdout=subprocess.PIPE, check=True).stdout.decode().split('\n')
        self.streams = [t for t in text if t[:1] in 'va' and t]
        packets = [tuple(int(v) for v in t.split()) for t in text if t[:1].isdigit()]
        self.video = [p[1:] for p in packets if p[0] == 0]
        self.sound = [p[1:] for p in packets if p[0] == 1]
        self.order = [p[0] for p in packets]

    def check(self, frames, samples, size='64x64', fmt='yuv420p'):
        require(self.streams == ['video rawvideo %s %s' % (fmt, size), 'audio pcm_s16le 16000 1'], self.streams)
        require([v[0] for v in self.video] == list(range(frames)), 'frames', [v[0] for v in self.video], 'wanted', frames)
        at = 0
        for pts, size, _ in self.sound:
            require(pts == at, 'sound at', pts, 'wanted', at)
            at += size // 2
        require(abs(at - samples) <= (0 if self.exact else 40), 'samples', at, 'wanted', samples)

    exact = True


def cropped(path, to, keep, tmp):
    """The middle of a picture, as a PPM: its face is 1 / keep as large in the frame."""
    p = subprocess.run([A.media, 'picture', str(path), str(tmp / 'rgb')], stdout=subprocess.PIPE, check=True)
    w, h = (int(v) for v in p.stdout.split())
    rgb, n, x, y = (tmp / 'rgb').read_bytes(), int(w * keep), int(w * (1 - keep) / 2), int(h * (1 - keep) / 2)
    to.write_bytes(b'P6 %d %d 255\n' % (n, n) + b''.join(rgb[3 * (w * (y + i) + x):3 * (w * (y + i) + x + n)] for i in range(n)))
    return to


def face(tmp, name='face.png', **kw):
    return media.png(tmp / name, **kw)


def read_picture(path, tmp):
    p = subprocess.run([A.media, 'picture', str(path), str(tmp / 'rgb')], stdout=subprocess.PIPE, check=True)
    w, h = (int(v) for v in p.stdout.split())
    rgb = (tmp / 'rgb').read_bytes()
    return [[rgb[3 * (y * w + x):3 * (y * w + x) + 3] for x in range(w)] for y in range(h)]


def read_sound(path, tmp):
    subprocess.run([A.media, 'sound', str(path), str(tmp / 'pcm')], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    v = array.array('f')
    v.frombytes((tmp / 'pcm').read_bytes())
    return v


class Film:
    """A film, decoded: its two streams, times in seconds."""

    def __init__(self, path):
        text = subprocess.run([A.media, 'film', str(path)], stdout=subprocess.PIPE, check=True).stdout.decode().split('\n')
        v, a = text[0].split(), text[1].split()
        self.container, self.video, self.size, self.frames = v[0], v[1], v[2], int(v[3])
        self.start, self.end, self.luma = (float(t) for t in v[4:])
        self.audio, self.rate, self.channels = a[0], int(a[1]), int(a[2])
        self.audio_start, self.audio_end, self.onset = (float(t) for t in a[4:])


def tone(path, start, end, rate=16000, channels=1):
    """A wav that is silent but for a tone from `start` s; `end` s long."""
    pcm = array.array('h', [0]) * (int(start * rate) * channels)
    one = array.array('h', (12000 if i * 440 // rate % 2 else -12000 for i in range(int(end * rate) - int(start * rate)) for _ in range(channels)))
    path.write_bytes(media.wav_head(2 * len(pcm + one), rate, channels) + (pcm + one).tobytes())
    return path


def watches(pid):
    """Has the tool begun to wait for signals? Before that they end it as they end any program."""
    try:
        text = pathlib.Path('/proc/%d/status' % pid).read_text()
    except OSError:
        return True
    return int(text.split('SigBlk:')[1].split()[0], 16) >> (signal.SIGINT - 1) & 1


def interrupt(cmd, ready, sig=signal.SIGINT, limit=LIMIT, early=False, **kw):
    """Run, send one signal when ready() says so; (exit code, stderr, seconds from signal to end, or None: there was no end)."""
    p = subprocess.Popen([str(c) for c in cmd], stderr=subprocess.PIPE, **kw)
    end = time.time() + LIMIT
    while time.time() < end and p.poll() is None and not ((early or watches(p.pid)) and ready()):
        time.sleep(0.02)
    t = time.time()
    p.send_signal(sig)
    try:
        err = p.communicate(timeout=limit)[1].decode()
        return p.returncode, err, time.time() - t
    except subprocess.TimeoutExpired:
        p.kill()
        return None, p.communicate()[1].decode(), None


def after(seconds):
    """True from that long after the first question on."""
    first = []

    def passed():
        first.append(time.time())
        return first[-1] - first[0] >= seconds
    return passed
