# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: pictures that are damaged, servers that say nothing or never end, stacks and threads that are too few. README.md has the list."""
import base64
import concurrent.futures
import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import tool_harness
from tool_harness import Film, Run, Skip, case, face, fails, media, require, speak


def photograph():
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'filter', 'portrait.jpg'), 'rb') as f:
        return f.read()


def findings(*args, code=2):
    r = Run('doctor', '--model', tool_harness.A.model, '--json', *args)
    require(r.ret == code, 'wanted exit code', code, '--', r.what)
    return json.loads(r.out)['findings']


# ---- pictures

@case
def damaged_pictures(tmp):
    """A decoder gives what is there of half a photograph, the rest in grey: told, by speak and by doctor; of a whole one nothing is said."""
    wav, jpeg = media.wav(tmp / 'a.wav', 640), photograph()
    turned = bytearray(jpeg)
    for i in range(len(jpeg) // 2, len(jpeg) - 20, 50):
        turned[i] ^= 0x10
    for name, data in (('whole', jpeg), ('with more behind it', jpeg + b'more'), ('half', jpeg[:len(jpeg) // 2]), ('turned', bytes(turned))):
        (tmp / 'p.jpg').write_bytes(data)
        r = speak(wav, tmp / 'p.jpg', '-o', tmp / 'o.nut')
        require(r.ret == 0 and ('is damaged' in r.err) == (name in ('half', 'turned')), name, r.what)
        read = [f['text'] for f in findings(tmp / 'p.jpg', code=2) if f['topic'] == 'picture' and f['what'] == 'read']
        require(bool(read) == (name in ('half', 'turned')) and all('damaged' in t for t in read), name, read)
    r = speak(wav, media.tiff(tmp / 'p.tif'), '-o', tmp / 'o.nut')
    require(r.ret == 0 and 'is damaged' not in r.err, 'TIFF', r.what)
    require('is damaged' not in speak(wav, '-', '-o', tmp / 'o.nut', stdin=jpeg).err and 'is damaged' in speak(wav, '-', '-o', tmp / 'o.nut', stdin=jpeg[:9000]).err)


@case
def picture_within_its_name(tmp):
    with open(face(tmp), 'rb') as f:
        url = 'data:image/png;base64,' + base64.b64encode(f.read()).decode()
    wav = media.wav(tmp / 'a.wav', 640)
    for picture, out in ((url, 'o.nut'), (tmp / 'face.png', 'p.nut')):
        r = speak(wav, picture, '-o', tmp / out)
        require(r.ret == 0 and len(url) > 4096, r.what)
    require((tmp / 'o.nut').read_bytes() == (tmp / 'p.nut').read_bytes())


@case
def oblong_pixels(tmp):
    """JFIF says how wide a pixel is against its height: 2:1, and a face is squeezed in films of square ones."""
    wav, jpeg = media.wav(tmp / 'a.wav', 640), photograph()
    at = jpeg.index(b'JFIF\0') + 7
    for wide in (1, 2):
        (tmp / 'p.jpg').write_bytes(jpeg[:at] + struct.pack('>BHH', 0, 1, wide) + jpeg[at + 5:])
        r = speak(wav, tmp / 'p.jpg', '-o', tmp / 'o.nut')
        require(r.ret == 0 and ('taken for square' in r.err) == (wide == 2), wide, r.what)


@case
def names_command_no_terminal(tmp):
    """Files may be called what clears a terminal: spelled out wherever a name is told."""
    esc, nut = tmp / 'a\x1b[2J\nb', tmp / 'a\x1b[2J.nut'
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    shutil.copytree(tool_harness.A.model, esc)
    films = [('speak', *names, '--model', esc, '--seed', 3) for names in ((wav, png, '-o', nut), (esc, png, '-o', nut), (wav, esc, '-o', nut), (wav, png, '-o', esc))]
    for args in films + [('inspect', esc), ('inspect', nut), ('plan', '--model', esc), ('top', nut), ('plot', nut, '-o', nut), ('speak', '--%s' % esc), ('speak', '--size', esc),
                         (esc,), ('convert', '--model', esc, '--precision', 'int8', '-o', esc), ('verify', esc, '--model', esc), ('doctor', nut, '--model', esc), ('verify', tmp / 'a', '--record', '--seeded', 2)]:
        r = Run(*args, env=dict(os.environ, TMPDIR=str(nut)))
        require(b'\x1b' not in r.out and '\x1b' not in r.err, r.what, r.out)


# ---- servers

@contextlib.contextmanager
def server(talk):
    """Where it is; talk(connection) goes on with each that comes."""
    s = socket.socket()
    s.bind(('127.0.0.1', 0))
    s.listen(5)

    def answer(c):
        with c, contextlib.suppress(OSError):
            talk(c)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(s.accept()[0],), daemon=True).start()
    threading.Thread(target=serve, daemon=True).start()
    yield '127.0.0.1:%d' % s.getsockname()[1]
    s.close()


def endless_wav(c):
    """Five seconds of sound a second, as long as somebody hears them."""
    c.recv(4096)
    head = media.wav_head(0x7fffff00)
    c.sendall(b'HTTP/1.0 200 OK\r\nContent-Type: audio/wav\r\n\r\n' + head)
    while True:
        c.sendall(bytes(32000))
        time.sleep(0.2)


def drips(c):
    """A byte a second, and never a whole header."""
    c.recv(4096)
    for byte in b'HTTP/1.0 200 OK\r\nX-Slow: ' + b'x' * 1000:
        c.sendall(bytes([byte]))
        time.sleep(1)


def asked(talk, scheme, *args):
    """What the doctor finds at such a server, and the seconds that it takes."""
    start = time.monotonic()
    with server(talk) as place:
        return findings('%s://%s/a.wav' % (scheme, place), *args), time.monotonic() - start


@case
def doctor_waits_for_no_server(tmp):
    """One that says nothing, one that drips, one whose sound never ends: a verdict within a minute, on what has come by then."""
    silent = lambda c: time.sleep(300)                                                  # noqa: E731
    servers = ((silent, 'tcp', 'input', 'nothing of it came'), (drips, 'http', 'input', 'nothing of it came'), (endless_wav, 'http', 'sound', 'only its first'),
               (silent, 'tcp', 'film', 'nothing of it came', '--picture', face(tmp)))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda s: asked(s[0], s[1], *s[4:]), servers))
    for (talk, _, topic, word, *_), (seen, took) in zip(servers, answers):
        said = [f['text'] for f in seen if f['topic'] == topic and f['what'] == 'read']
        require(took < 100 and len(said) == 1 and word in said[0], topic, took, said)
        require([f['what'] for f in seen if f['topic'] == 'sound'].count('length') == (topic == 'sound'), seen)


@case
def doctor_reads_no_device(tmp):
    for f in ('/dev/zero', '/dev/urandom', '/dev/null'):
        said = [x['text'] for x in findings(f, '--input-format', 's16le') if x['topic'] == 'input']
        require(len(said) == 1 and 'only once' in said[0], said)


@case
def doctor_waits_for_no_file(tmp):
    """One that says of itself that it is empty, as those of /proc do, of which one keeps its reader for ever; a pipe where a film should be."""
    empty, pipe, wav, png = tmp / 'empty', tmp / 'pipe', media.wav(tmp / 'a.wav', 640), face(tmp)
    empty.write_bytes(b'')
    os.mkfifo(pipe)
    for args in ((empty,), ('/proc/kmsg',), (wav, empty), (empty, '--input-format', 's16le'), (empty, '--picture', png), (wav, '--picture', empty), ('/proc/kmsg', '--picture', png)):
        said = [x['text'] for x in findings(*args) if x['topic'] == 'input']
        require(len(said) == 1 and 'is empty (0 bytes)' in said[0], args, said)
    for args in ((pipe, '--picture', png), ('-', '--picture', png), (wav, '--picture', pipe)):
        said = [x['text'] for x in findings(*args)]
        require(len(said) == 1 and 'only once' in said[0], args, said)


# ---- limits

def limited(what, kb, hard, *args):
    """convert would find what it has made before."""
    if args[0] == 'convert':
        shutil.rmtree(args[-1], ignore_errors=True)
    return Run(*args, preexec_fn=lambda: resource.setrlimit(what, (kb << 10, hard)))


@case
def stacks_of_a_few_kilobytes(tmp):
    """A soft limit is raised; a hard one is told."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    model, no = ('--model', tool_harness.A.model), resource.RLIM_INFINITY
    for args in (('plan', *model), ('doctor', *model), ('inspect', tool_harness.A.model), ('convert', *model, '--precision', 'int8', '-o', tmp / 'c'),
                 ('speak', *model, wav, png, '-o', tmp / 'o.mp4')):
        want = limited(resource.RLIMIT_STACK, 8192, no, *args).ret
        for kb in (32, 64):
            r = limited(resource.RLIMIT_STACK, kb, no, *args)
            require(r.ret == want, kb, 'kB', r.what)
            fails(limited(resource.RLIMIT_STACK, kb, kb << 10, *args), 1, 'ulimit -s')
    require(Film(tmp / 'o.mp4').frames == 1)


@case
def memory_for_no_thread(tmp):
    """Wherever the address space ends, there is a sentence."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    model = ('--model', tool_harness.A.model)
    for args in (('speak', *model, wav, png, '-o', tmp / 'o.nut'), ('bench', '--damage', *model), ('convert', *model, '--precision', 'int8', '-o', tmp / 'c')):
        codes = []
        for mb in range(200, 420, 10):
            r = limited(resource.RLIMIT_AS, mb << 10, mb << 20, *args)
            require(r.ret == 0 or r.ret in (1, 127) and r.err.strip(), mb, 'MB', r.what)
            codes.append(r.ret)
        require(1 in codes, codes)


@case
def memory_for_fewer_bits(tmp):
    """Weights that find no room are refused with what does fit, and that does. Shapes of 8 heads: 0.21 GB in f32; the libraries' own appetite is a few MB."""
    def at(mb, precision):
        return limited(resource.RLIMIT_AS, mb << 10, mb << 20, 'verify', tmp / 'a', '--record', '--seeded', 8, '--cpu-threads', 1, '--precision', precision)

    for mb in range(640, 4000, 40):
        r = at(mb, 'f32')
        if r.ret == 0 or 'what fits: precision=int8' in r.err:
            break
    fails(r, 1, 'the weights take', 'what fits: precision=int8')
    require('the weights take' not in at(mb, 'int8').err and at(mb + 100, 'int8').ret == 0, mb, 'MB')


@case
def time_is_up(tmp):
    """SIGXCPU comes again with each second: no second word of it ends what is being tidied up, nor leaves gigabytes; two others do end it, tidily."""
    def left():
        return [p.name for p in tmp.iterdir() if p.name.startswith('avatar-seeded')]

    args, env = ('verify', '--seeded', 40, '--cpu-threads', 1), dict(os.environ, TMPDIR=str(tmp))
    r = Run(*args, env=env, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 60)))
    require(r.ret == 1 and 'interrupted' in r.err and not left(), r.what, left())
    p = subprocess.Popen([tool_harness.A.tool] + [str(a) for a in args], env=env, stderr=subprocess.PIPE)
    while p.poll() is None and not left():
        time.sleep(0.02)
    time.sleep(0.3)
    p.send_signal(signal.SIGTERM)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=tool_harness.LIMIT)[1].decode()
    require(p.returncode == 1 and 'interrupted' in err and not left(), p.returncode, err, left())


@case
def threads_for_random_weights(tmp):
    """Where no thread is to be had libgomp ends the program: a sentence instead, and no folder is left."""
    if os.getuid():
        raise Skip('only root can become a user without other processes')
    if not all(p.stat().st_mode & 1 for p in pathlib.Path(__file__).resolve().parents):
        raise Skip('this tree lies where other users may not look')
    tmp.chmod(0o777)
    user = 10000 + os.getpid() % 50000

    def become(nb):
        resource.setrlimit(resource.RLIMIT_NPROC, (nb, nb))
        os.setgid(user)
        os.setuid(user)

    codes = []
    for nb in (1, 2, 3, 4, 6, 20):
        r = Run('verify', tmp / 'a', '--record', '--seeded', 2, '--cpu-threads', 2, env=dict(os.environ, TMPDIR=str(tmp), OMP_NUM_THREADS='4'),
                preexec_fn=lambda: become(nb))
        require('libgomp' not in r.err and (r.out or r.err) and not [p for p in tmp.iterdir() if p.name.startswith('avatar-seeded')], nb, r.what)
        codes.append(r.ret)
    require(codes[0] == 1 and codes[-1] == 0, codes)
