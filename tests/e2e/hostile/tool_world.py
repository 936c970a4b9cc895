# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: the world around the tool is odd or changes while it runs. README.md beside has the list of all that was tried."""
import ctypes
import errno
import json
import os
import pathlib
import platform
import pty
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import tool_harness
from tool_harness import LIMIT, Film, Nut, Run, Skip, case, face, fails, interrupt, media, require, speak, watches


def left_over(tmp):
    return [str(p) for p in tmp.rglob('.avatar-*')]


def partial_has(tmp, size):
    return lambda: any(f.stat().st_size > size for f in tmp.rglob('.avatar-*'))


def long_run(tmp, out, *args, **kw):
    """A run that lasts long enough to be met in its middle; it has begun to write when this returns."""
    p = subprocess.Popen([tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, '--seed', '3', '--size', '128x128', '--quiet',
                          media.wav(tmp / 'long.wav', 8 * 16000), face(tmp), '-o', str(out), *args], stderr=subprocess.PIPE, **kw)
    end = time.time() + LIMIT
    while p.poll() is None and time.time() < end and not (watches(p.pid) and partial_has(tmp, 100000)()):
        time.sleep(0.01)
    require(p.poll() is None, 'ended before it was met', p.returncode)
    return p


def ended(p):
    err = p.communicate(timeout=LIMIT)[1].decode()
    return p.returncode, err


# ---- signals

@case
def other_signals(tmp):
    """A terminal that closes, Ctrl-\\, a used-up limit of time: the film ends as SIGTERM ends it, and nothing is left beside."""
    for sig in (signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU):
        p = long_run(tmp, tmp / 'o.nut')
        p.send_signal(sig)
        ret, err = ended(p)
        require(ret == 1 and 'interrupted' in err, sig.name, ret, err)
        require(0 < len(Nut(tmp / 'o.nut').video) < 200 and not left_over(tmp), sig.name, left_over(tmp))
        (tmp / 'o.nut').unlink()


@case
def nohup_is_obeyed(tmp):
    p = long_run(tmp, tmp / 'o.nut', preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    p.send_signal(signal.SIGHUP)
    ret, err = ended(p)
    require(ret == 0, ret, err)
    require(len(Nut(tmp / 'o.nut').video) == 200)


@case
def signals_blocked_by_the_parent(tmp):
    p = long_run(tmp, tmp / 'o.nut', preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64)))
    p.send_signal(signal.SIGTERM)
    require(ended(p)[0] == 1 and not left_over(tmp))


@case
def stop_and_continue(tmp):
    """Stopped and continued all the time: the same film."""
    wav, png = media.wav(tmp / 'a.wav', 16000), face(tmp)
    require(speak(wav, png, '-o', tmp / 'a.nut').ret == 0)
    p = subprocess.Popen([tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, '--seed', '3', '--cpu-threads', '1', '--quiet', wav, png,
                          '-o', str(tmp / 'b.nut')], stderr=subprocess.DEVNULL)
    while p.poll() is None:
        p.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        p.send_signal(signal.SIGCONT)
        time.sleep(0.03)
    require(p.returncode == 0 and (tmp / 'a.nut').read_bytes() == (tmp / 'b.nut').read_bytes())


# ---- what moves

@case
def output_folder_is_moved(tmp):
    """The film arrives in the folder, whatever that is called now."""
    (tmp / 'a').mkdir()
    p = long_run(tmp, tmp / 'a' / 'o.nut')
    (tmp / 'a').rename(tmp / 'b')
    ret, err = ended(p)
    require(ret == 0 and len(Nut(tmp / 'b' / 'o.nut').video) == 200 and not left_over(tmp), ret, err, left_over(tmp))
    p = long_run(tmp, tmp / 'b' / 'o.nut')
    (tmp / 'b').rename(tmp / 'c')
    p.send_signal(signal.SIGTERM)
    p.send_signal(signal.SIGINT)
    ended(p)
    require(not left_over(tmp), left_over(tmp))


@case
def output_folder_goes(tmp):
    (tmp / 'a').mkdir()
    p = long_run(tmp, tmp / 'a' / 'o.nut')
    shutil.rmtree(tmp / 'a')
    ret, err = ended(p)
    require(ret == 1 and 'o.nut' in err and 'No such file' in err, ret, err)


@case
def output_name_is_taken(tmp):
    """By a folder: an error, nothing left; by a link to an input: the link goes, not the input."""
    p = long_run(tmp, tmp / 'o.nut')
    (tmp / 'o.nut').mkdir()
    ret, err = ended(p)
    require(ret == 1 and 'o.nut' in err and 'irectory' in err and not left_over(tmp), ret, err)
    (tmp / 'o.nut').rmdir()
    p = long_run(tmp, tmp / 'o.nut')
    sound = (tmp / 'long.wav').read_bytes()
    (tmp / 'o.nut').symlink_to('long.wav')
    ret, err = ended(p)
    require(ret == 0 and (tmp / 'long.wav').read_bytes() == sound and not (tmp / 'o.nut').is_symlink(), ret, err)


@case
def output_that_keeps_its_place(tmp):
    """A file that is mounted, as into a container, cannot be replaced: it gets the film, or the curves; what is longer is cut; nothing is left beside."""
    if os.getuid() or not shutil.which('unshare') or subprocess.run(['unshare', '-m', 'true'], stderr=subprocess.DEVNULL).returncode:
        raise Skip('nobody here can mount a file: that takes root, and a root that is no chroot')
    wav, png, stats, outer = media.wav(tmp / 'a.wav', 640), face(tmp), tmp / 's.jsonl', tmp / 'outer'
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    for name, old, args in (('o.nut', b'old', ('speak', '--model', tool_harness.A.model, '--seed', 3, wav, png, '--stats', stats)), ('o.svg', b'x' * 1000000, ('plot', stats))):
        out = tmp / name
        outer.write_bytes(old)
        out.write_bytes(b'')
        p = subprocess.run(['unshare', '-m', 'sh', '-c', script, 'sh', outer, out, tool_harness.A.tool, *map(str, args), '-o', out], stderr=subprocess.PIPE, timeout=LIMIT)
        require(p.returncode == 0 and not left_over(tmp), name, p.returncode, p.stderr.decode())
        require(Run(*args, '-o', tmp / ('w' + name)).ret == 0 and outer.read_bytes() == (tmp / ('w' + name)).read_bytes(), name, 'is not what it is elsewhere')
    small = 'mount -t tmpfs -o size=4k tmpfs "$1" && : > "$1/f" && mount --bind "$1/f" "$2" && shift 2 && exec "$@"'
    (tmp / 'small').mkdir()
    out = tmp / 'o.nut'
    args = ('speak', '--model', tool_harness.A.model, '--seed', 3, wav, png, '-o', out)
    p = subprocess.run(['unshare', '-m', 'sh', '-c', small, 'sh', tmp / 'small', out, tool_harness.A.tool, *map(str, args)], stderr=subprocess.PIPE, timeout=LIMIT)
    kept = re.search('whole in (.*)', p.stderr.decode())
    require(p.returncode == 1 and kept and pathlib.Path(kept[1]).read_bytes() == (tmp / 'wo.nut').read_bytes(), 'a place too small', p.returncode, p.stderr.decode())


@case
def working_folder_goes(tmp):
    wav, png, gone = media.wav(tmp / 'a.wav', 640), face(tmp), tmp / 'gone'
    gone.mkdir()

    def leave():
        os.chdir(gone)
        gone.rmdir()
    model, tool = os.path.abspath(tool_harness.A.model), os.path.abspath(tool_harness.A.tool)
    for out, code in (('o.nut', 1), (str(tmp / 'o.nut'), 0)):
        gone.mkdir(exist_ok=True)
        p = subprocess.run([tool, 'speak', '--model', model, wav, png, '-o', out], preexec_fn=leave, stderr=subprocess.PIPE, timeout=LIMIT)
        require(p.returncode == code, out, p.returncode, p.stderr)


# ---- names and streams

@case
def names_as_ffmpeg_has_them(tmp):
    """file:, pipe: mean what they mean there; what is no file is refused, and no file of that name appears."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    require(speak('file:' + wav, 'file:' + png, '-o', 'file:%s' % (tmp / 'o.nut')).ret == 0)
    Nut(tmp / 'o.nut').check(1, 640)
    r = speak('pipe:0', png, '-f', 'nut', '-o', 'pipe:1', stdin=pathlib.Path(wav).read_bytes(), cwd=os.getcwd())
    require(r.ret == 0 and len(r.out) > 6000 and not os.path.exists('pipe:1'), r.what)
    fails(speak(wav, png, '-f', 'flv', '-o', 'rtmp://127.0.0.1:1/live'), 2, 'rtmp://', '-o -')
    fails(speak('-', 'pipe:', '-o', tmp / 'p.nut', stdin=b''), 2, 'not both')


@case
def stdin_is_a_terminal(tmp):
    m, s = pty.openpty()
    for args in (('-', face(tmp)), (media.wav(tmp / 'a.wav', 640), '-')):
        p = subprocess.run([tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, *args, '-o', str(tmp / 'o.nut')], stdin=s,
                           stderr=subprocess.PIPE, timeout=LIMIT)
        require(p.returncode == 2 and b'terminal' in p.stderr, p.returncode, p.stderr)
    os.close(m), os.close(s)


@case
def odd_streams(tmp):
    """Sockets, descriptors that do not wait, drips, a full stderr, one whose reader has gone: the same film."""
    wav, png = media.wav(tmp / 'a.wav', 6000), face(tmp)
    data = pathlib.Path(wav).read_bytes()
    cmd = [tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, '--seed', '3', '--cpu-threads', '1']
    want = speak(wav, png, '-o', '-').out
    a, b = socket.socketpair()
    t = threading.Thread(target=lambda: (a.sendall(data), a.close()))
    t.start()
    require(subprocess.run(cmd + ['-', png, '-o', '-'], stdin=b, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT).stdout == want, 'socket')
    t.join(), b.close()
    r, w = os.pipe()
    os.set_blocking(r, False)
    t = threading.Thread(target=lambda: ([(os.write(w, data[i:i + 997]), time.sleep(0.002)) for i in range(0, len(data), 997)], os.close(w)))
    t.start()
    require(subprocess.run(cmd + ['-', png, '-o', '-'], stdin=r, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT).stdout == want, 'drips')
    t.join(), os.close(r)
    r, w = os.pipe()
    os.set_blocking(w, False)
    got = []
    t = threading.Thread(target=lambda: got.extend(iter(lambda: os.read(r, 700), b'')))
    t.start()
    subprocess.run(cmd + [wav, png, '-o', '-'], stdout=w, stderr=subprocess.PIPE, timeout=LIMIT)
    os.close(w), t.join(), os.close(r)
    require(b''.join(got) == want, 'stdout that does not wait')
    r, w = os.pipe()
    os.close(r)
    with open('/dev/full', 'wb') as full:
        for err in (full, w):
            p = subprocess.run(cmd + [wav, png, '-o', '-'], stdout=subprocess.PIPE, stderr=err, timeout=LIMIT)
            require(p.returncode == 0 and p.stdout == want, 'stderr', err)
    os.close(w)


@case
def devices_as_inputs(tmp):
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    for f in ('/dev/zero', '/dev/urandom', '/dev/null', '/proc/self/mem', '/proc/self/status', '/'):
        fails(speak(f, png, '-o', tmp / 'o.nut'), 1, f)
        fails(speak(wav, f, '-o', tmp / 'o.nut'), 1, f)
    require(not (tmp / 'o.nut').exists() and not left_over(tmp))


@case
def server_that_says_nothing(tmp):
    server = socket.socket()
    server.bind(('127.0.0.1', 0))
    server.listen(5)
    ret, err, seconds = interrupt([tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, 'tcp://127.0.0.1:%d' % server.getsockname()[1], face(tmp),
                                   '-o', tmp / 'o.nut'], tool_harness.after(1))
    server.close()
    require(ret == 1 and seconds < 10 and 'interrupted' in err, ret, seconds, err)


# ---- limits

def without(*calls):
    """In a child: these system calls of x86-64 end with EPERM from now on, as on file systems that have not got them."""
    code = [(0x20, 0, 0, 0)]                                         # the call's number
    for nr in calls:
        code += [(0x15, 0, 1, nr), (0x06, 0, 0, 0x00050000 | errno.EPERM)]
    code.append((0x06, 0, 0, 0x7fff0000))
    text = ctypes.create_string_buffer(b''.join(struct.pack('<HBBI', *c) for c in code))
    prog = ctypes.create_string_buffer(struct.pack('<H6xQ', len(code), ctypes.addressof(text)))

    def deny(libc=ctypes.CDLL(None), text=text):                     # which `prog` points to
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, prog):    # PR_SET_NO_NEW_PRIVS; PR_SET_SECCOMP, a filter
            os._exit(77)
    return deny


@case
def file_systems_that_can_less(tmp):
    """No mode can be given: a film all the same. Nothing can be renamed: it stays beside, whole, and that is said."""
    if platform.machine() != 'x86_64':
        raise Skip('these are numbers of x86-64')
    wav, png = media.wav(tmp / 'a.wav', 8000), face(tmp)
    r = speak(wav, png, '-o', tmp / 'o.nut', preexec_fn=without(91))
    require(r.ret == 0, 'fchmod', r.what)
    Nut(tmp / 'o.nut').check(13, 8000)
    (tmp / 'o.nut').unlink()
    fails(speak(wav, png, '-o', tmp / 'o.nut', preexec_fn=without(82, 264, 316)), 1, 'is whole in %s/.avatar-' % tmp)
    Nut([f for f in tmp.iterdir() if f.name.startswith('.avatar-')][0]).check(13, 8000)


def writes_no_code():
    if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):                      # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
        os._exit(77)


@case
def system_that_denies_code(tmp):
    """As for a service with MemoryDenyWriteExecute: refused with what helps, and plain C, which makes no code, computes."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    r = speak(wav, png, '-o', tmp / 'o.nut', preexec_fn=writes_no_code)
    if r.ret == 77:
        raise Skip('this kernel denies no code')
    fails(r, 1, 'denies this process code', '--cpu-level 0')
    require(speak(wav, png, '-o', tmp / 'o.nut', '--cpu-level', '0', preexec_fn=writes_no_code).ret == 0, 'plain C')
    Nut(tmp / 'o.nut').check(1, 640)


@case
def few_descriptors(tmp):
    """As many as it needs, or an error that says so."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    codes = []
    for nb in range(4, 14):
        r = speak(wav, png, '-o', tmp / 'o.mp4', preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (nb, nb)))
        require(r.ret == 0 or r.ret == 1 and 'Too many open files' in r.err or r.ret == 127, nb, r.what)
        require(r.ret or Film(tmp / 'o.mp4').frames == 1)
        codes.append(r.ret)
    require(codes[-1] == 0 and 1 in codes and not left_over(tmp), codes, left_over(tmp))


@case
def one_core_for_all(tmp):
    wav, png = media.wav(tmp / 'a.wav', 3000), face(tmp)
    r = Run('speak', '--model', tool_harness.A.model, '--seed', '3', '--cpu-threads', '64', wav, png, '-o', tmp / 'o.nut',
            preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
    require(r.ret == 0 and '4 are used' in r.err, r.what)
    Nut(tmp / 'o.nut').check(5, 3000)


# ---- models that are not what they seem

@case
def monstrous_models(tmp):
    """Read as far as a header goes, or refused by size or count: within seconds, whatever it is."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    model = tmp / 'model'
    dit = 'diffusion_pytorch_model.safetensors'

    own = json.loads((pathlib.Path(tool_harness.A.model) / 'config.json').read_text())

    def sparse(name, size):
        with open(model / name, 'r+b') as f:
            f.truncate(size)

    def header(d, more=0):
        text = d.encode() if isinstance(d, str) else json.dumps(d).encode()
        (model / dit).write_bytes(struct.pack('<Q', len(text)) + text)
        if more:
            sparse(dit, 8 + len(text) + more)

    def index(shards):
        (model / dit).unlink()
        (model / (dit + '.index.json')).write_text(json.dumps({'weight_map': shards}))

    def config(make):
        (model / 'config.json').unlink()
        make(model / 'config.json')

    tensor = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    monsters = (
        (lambda: config(lambda p: p.symlink_to('config.json')), 'config.json', 'symbolic links'),
        (lambda: config(lambda p: p.symlink_to('/dev/zero')), 'config.json', 'not a regular file'),
        (lambda: config(lambda p: p.write_text('{"a":' * 100000)), 'config.json', 'too deep'),
        (lambda: config(lambda p: p.write_bytes(b'[' * 40000000)), 'config.json', 'an object was wanted'),
        (lambda: sparse('config.json', 2 << 30), 'config.json', 'at most'),
        (lambda: config(lambda p: p.write_text(json.dumps({**own, **{'k%d' % i: 1 for i in range(650000)}, 'dim': 'x'}))), 'config.json', 'dim'),
        (lambda: config(lambda p: p.write_text(json.dumps({**own, 'audio_inject_layers': [1] * 1900000}))), 'config.json', 'at most 64'),
        (lambda: config(lambda p: p.write_text(json.dumps({**own, 'model_type': 'x' * 60000000}))), 'config.json', 'model_type'),
        (lambda: config(lambda p: p.write_text(json.dumps({**own, 'num_layers': 1024, 'text_len': 65536}))), 'config.json', '1024'),
        (lambda: sparse('avatar.json', 2 << 30), 'avatar.json', 'at most'),
        (lambda: sparse('google/umt5-xxl/spiece.model', 3 << 30), 'spiece.model', 'at most'),
        (lambda: sparse(dit, 60 << 30), dit, 'follow the last tensor'),
        (lambda: header('{%s}' % ','.join('"t%d":%s' % (i, tensor) for i in range(400000)), 4), dit, 'values'),
        (lambda: header({'__metadata__': {'k%d' % i: 'v' * 20 for i in range(100000)}}), dit, 'no audio encoder'),
        (lambda: header({'__metadata__': {'k': 'v' * 50000000}}), dit, 'no audio encoder'),
        (lambda: index({'x%d' % i: 's%d.safetensors' % i for i in range(100000)}), 's0.safetensors', 'cannot be opened'),
        (lambda: index({'x': '/etc/passwd'}), '/etc/passwd', 'bare name'))
    for i, (make, *words) in enumerate(monsters):
        shutil.copytree(tool_harness.A.model, model)
        make()
        before = os.times().children_user
        fails(Run('speak', '--model', model, wav, png, '-o', tmp / 'o.nut'), 1, *words)
        require(os.times().children_user - before < 15, i, 'seconds', os.times().children_user - before)
        shutil.rmtree(model)


@case
def names_of_models(tmp):
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    (tmp / 'self').symlink_to('self')
    for model, word in ((tmp / 'self', 'symbolic links'), ('/' + 'a/' * 2500, 'stopped after 0 frames'), ('a' * 300, 'no model of that name'), ('a\nb\x1b[31m', '\\n')):
        r = Run('speak', '--model', model, wav, png, '-o', tmp / 'o.nut')
        fails(r, 1, word)
        require('\x1b' not in r.err, 'a raw escape', r.what)
