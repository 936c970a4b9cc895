# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs ffmpeg under a timeout and a memory limit, reads back what came out, counts passed, failed and skipped."""
import concurrent.futures
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import traceback

import media


class Skip(Exception):
    pass


class Env:
    """What the cases work with; filled by main()."""
    bin = model = tool = version = simt = None
    patience = 1
    top = pathlib.Path(__file__).resolve().parents[3]


CASES = []


def case(function):
    CASES.append(function)
    return function


class Result:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    def text(self):
        return self.err.decode('utf-8', 'replace')


def limit_memory(mem_mb):
    def limit():
        if mem_mb:
            resource.setrlimit(resource.RLIMIT_AS, (mem_mb << 20, mem_mb << 20))
    return limit


def run(program, *args, timeout=60, mem_mb=0, stdin=None, interrupt=None, env=None):
    """Run bin/PROGRAM; a hang is a failure. interrupt: seconds after which SIGINT is sent, once. env: variables besides ours."""
    cmd = [str(Env.bin / program), '-hide_banner'] + [str(a) for a in args]
    start = time.monotonic()
    p = subprocess.Popen(cmd, stdin=subprocess.PIPE if stdin else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         preexec_fn=limit_memory(mem_mb), env=dict(os.environ, **env) if env else None)
    try:
        if interrupt:
            time.sleep(interrupt)
            p.send_signal(signal.SIGINT)
        out, err = p.communicate(stdin, timeout=timeout * Env.patience)
    except subprocess.TimeoutExpired:
        p.kill()
        out, err = p.communicate()
        raise AssertionError('hangs (%d s): %s\n%s' % (timeout * Env.patience, ' '.join(cmd), err.decode('utf-8', 'replace')[-800:]))
    r = Result(p.returncode, out, err, time.monotonic() - start)
    if r.code < 0 and not interrupt:
        raise AssertionError('killed by signal %d: %s\n%s' % (-r.code, ' '.join(cmd), r.text()[-800:]))
    r.cmd = ' '.join(cmd)
    return r


def ffmpeg(*args, ok=True, **kw):
    level = ['-loglevel', 'info'] if '-loglevel' not in args else []
    nostdin = [] if kw.get('stdin') else ['-nostdin']
    r = run('ffmpeg', *nostdin, '-nostats', '-y', *level, *args, **kw)
    if ok and r.code != 0:
        raise AssertionError('exit code %d: %s\n%s' % (r.code, r.cmd, r.text()[-1200:]))
    return r


class Frames(list):
    """(pts, crc) of each frame, with the Result they came from."""


def frames(*args, ok=True, **kw):
    """framecrc of the one video stream that the command line gives; time base 1/25."""
    r = ffmpeg(*args, '-an', '-c:v', 'rawvideo', '-bitexact', '-f', 'framecrc', '-', ok=ok, **kw)
    out = Frames()
    for line in r.out.decode().splitlines():
        if line.startswith('#tb 0:'):
            assert line.split()[-1] == '1/25', 'time base is %s' % line
        elif not line.startswith('#') and line:
            f = [x.strip() for x in line.split(',')]
            out.append((int(f[2]), f[5]))
    out.result = r
    return out


def crcs(f):
    return [crc for _, crc in f]


def expect(f, nb, first=0):
    """nb frames, the first at `first`, one step of 1/25 s from each to the next."""
    assert len(f) == nb, '%d frames, wanted %d\n%s' % (len(f), nb, f.result.text()[-600:])
    pts = [p for p, _ in f]
    assert pts == list(range(first, first + nb)), 'pts %s, wanted %d .. %d' % (pts[:5], first, first + nb - 1)
    return f


def fails(r, *words):
    """A clear refusal: no frame, the words in the log; the exit code tells from 7.1 on (5.1 may give 0)."""
    r = getattr(r, 'result', r)
    log = r.text()
    for w in words:
        assert w in log, 'the log does not say "%s":\n%s' % (w, log[-1200:])
    assert r.code != 0 or Env.version < (7,), 'exit code 0\n' + log[-600:]


def probe(path, *what):
    r = run('ffprobe', '-loglevel', 'error', '-of', 'json', *what, path)
    assert r.code == 0, r.text()
    return json.loads(r.out)


def video(path):
    """The video stream of a file, with its frames counted by decoding."""
    s = [x for x in probe(path, '-count_frames', '-show_streams')['streams'] if x['codec_type'] == 'video']
    assert len(s) == 1, '%d video streams in %s' % (len(s), path)
    return s[0]


def audio(path):
    s = [x for x in probe(path, '-show_streams')['streams'] if x['codec_type'] == 'audio']
    assert len(s) == 1, '%d audio streams in %s' % (len(s), path)
    return s[0]


def filt(**opts):
    """avatar=... with the tiny model, small and quick and repeatable unless said otherwise; None leaves an option out."""
    o = dict(model=Env.model, size='64x64', seed=7, steps=1, cpu_threads=1)
    o.update(opts)
    name = o.pop('name', 'avatar')
    return name + '=' + ':'.join('%s=%s' % kv for kv in o.items() if kv[1] is not None)


class Dir:
    """Inputs of one case, in a folder of its own, made when asked for."""
    def __init__(self, path):
        self.path = path

    def __truediv__(self, name):
        return str(self.path / name)

    def wav(self, nb=16000, rate=16000, channels=1, **kw):
        path = self.path / ('s%d_%d_%d%s.wav' % (nb, rate, channels, 'f' if kw else ''))
        return str(path) if path.exists() else media.wav(path, nb, rate, channels, **kw)

    def png(self, w=96, h=96, alpha=False):
        path = self.path / ('p%dx%d%s.png' % (w, h, 'a' if alpha else ''))
        return str(path) if path.exists() else media.png(path, w, h, alpha)

    def jpeg(self, w=96, h=96):
        path = self / ('p%dx%d.jpg' % (w, h))
        if not os.path.exists(path):
            ffmpeg('-i', self.png(w, h), '-pix_fmt', 'yuvj444p', '-q:v', '1', path)
        return path


def run_case(function, root):
    path = pathlib.Path(tempfile.mkdtemp(dir=root))
    start = time.monotonic()
    try:
        function(Dir(path))
        state, why = 'ok', ''
    except Skip as e:
        state, why = 'SKIPPED', str(e)
    except AssertionError as e:
        state, why = 'FAILED', str(e) or traceback.format_exc()
    except Exception:
        state, why = 'FAILED', traceback.format_exc()
    shutil.rmtree(path)
    return function.__name__, state, why, time.monotonic() - start


def main(names, jobs):
    todo = [c for c in CASES if not names or c.__name__ in names]
    count = dict(ok=0, FAILED=0, SKIPPED=0)
    if names and len(todo) < len(names):
        raise SystemExit('unknown case among: ' + ' '.join(names))
    with tempfile.TemporaryDirectory(prefix='avatar-filter-') as root, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for name, state, why, seconds in pool.map(lambda c: run_case(c, root), todo):
            count[state] += 1
            print('%-7s %-28s %5.1f s  %s' % (state, name, seconds, why.replace('\n', '\n        ')), flush=True)
    print('%d passed, %d failed, %d skipped' % (count['ok'], count['FAILED'], count['SKIPPED']))
    return 1 if count['FAILED'] else 0
