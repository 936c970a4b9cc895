# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: outputs that are inputs, standard streams that are closed, limits, and a signal in every place that waits."""
import os
import resource
import shutil
import signal
import subprocess
import time

import tool_harness
from tool_harness import LIMIT, Nut, Run, Skip, after, case, face, fails, interrupt, media, require, speak, watches


def left_over(tmp):
    return [p.name for p in tmp.iterdir() if p.name.startswith('.avatar')]


@case
def output_is_an_input(tmp):
    """Sound, picture, LoRA, a file of the model, also by another name: refused, and not a byte of it is lost."""
    wav, png = media.wav(tmp / 'a.nut', 3000), face(tmp, 'p.nut')
    model = tmp / 'model'
    shutil.copytree(tool_harness.A.model, model)
    os.symlink(wav, tmp / 'link.nut')
    os.link(png, tmp / 'hard.nut')
    os.symlink(model / 'config.json', tmp / 'model.nut')
    (tmp / 'lora.nut').write_bytes(b'lora')
    kept = {p: p.read_bytes() for p in (tmp / 'a.nut', tmp / 'p.nut', model / 'config.json', tmp / 'lora.nut')}
    for out, args in (('a.nut', ()), ('p.nut', ()), ('link.nut', ()), ('hard.nut', ()), ('model.nut', ()), ('lora.nut', ('--lora', tmp / 'lora.nut'))):
        r = Run('speak', '--model', model, wav, png, *args, '-o', tmp / out)
        require(r.ret == 1, out, r.what)
        require(all(p.read_bytes() == data for p, data in kept.items()), out, 'has cost an input')
        if not args:
            fails(r, 1, out, 'input')
    with open(wav, 'rb') as f:
        r = subprocess.run([tool_harness.A.tool, 'speak', '--model', str(model), '-', png, '-o', wav], stdin=f, stderr=subprocess.PIPE,
                           timeout=LIMIT)
    require(r.returncode == 1 and b'input' in r.stderr and kept[tmp / 'a.nut'] == (tmp / 'a.nut').read_bytes(), r.stderr)
    with open(wav, 'ab') as f:
        r = subprocess.run([tool_harness.A.tool, 'speak', '--model', str(model), wav, png, '-o', '-'], stdout=f, stderr=subprocess.PIPE,
                           timeout=LIMIT)
    require(r.returncode == 1 and kept[tmp / 'a.nut'] == (tmp / 'a.nut').read_bytes(), r.stderr)
    require(not left_over(tmp), left_over(tmp))


@case
def link_to_what_is_not_there_yet(tmp):
    """The film is made where the link leads, over several and from another folder, and the link stays; the statistics are not that file."""
    wav, png = media.wav(tmp / 'a.wav', 8000), face(tmp)
    for name in ('disk', 'links'):
        (tmp / name).mkdir()
    os.symlink('../disk/film.nut', tmp / 'links/second')
    os.symlink(tmp / 'links/second', tmp / 'first.nut')
    fails(speak(wav, png, '-o', tmp / 'first.nut', '--stats', tmp / 'disk/film.nut'), 2, '--stats')
    require(speak(wav, png, '-o', 'first.nut', cwd=tmp).ret == 0)
    require((tmp / 'first.nut').is_symlink() and (tmp / 'links/second').is_symlink() and not (tmp / 'disk/film.nut').is_symlink(), 'a link is gone')
    Nut(tmp / 'disk/film.nut').check(13, 8000)
    os.symlink('disk/plan.svg', tmp / 'p.svg')
    require(Run('plan', '--gpus', '1x80', '-o', tmp / 'p.svg').ret == 0 and (tmp / 'disk/plan.svg').stat().st_size > 1000)
    os.symlink('nowhere/film.nut', tmp / 'lost.nut')
    fails(speak(wav, png, '-o', tmp / 'lost.nut'), 1, 'lost.nut', 'No such file')
    require(not left_over(tmp), left_over(tmp))


@case
def failure_leaves_the_old_file(tmp):
    """What had the name stays until the new one is whole: a typing error, a full disk, a limit of the file's size."""
    wav, png, out = media.wav(tmp / 'a.wav', 32000), face(tmp), tmp / 'keep.nut'
    out.write_bytes(b'precious')
    out.chmod(0o640)
    fails(speak(wav, png, '--lora', 'typo', '-o', out), 1, 'typo')
    fails(speak(wav, tmp / 'none.png', '-o', out), 1, 'none.png')
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))       # noqa: E731
    r = speak(wav, png, '--size', '128x128', '-o', out, preexec_fn=small)
    fails(r, 1, 'keep.nut', 'File too large')
    require(r.err.count('File too large') <= 2, r.what)
    require(out.read_bytes() == b'precious' and not left_over(tmp), left_over(tmp))
    os.symlink('keep.nut', tmp / 'link.nut')
    require(speak(wav, png, '-o', tmp / 'link.nut').ret == 0)
    require((tmp / 'link.nut').is_symlink() and out.stat().st_mode & 0o777 == 0o640, 'the link or the mode is gone')
    Nut(out).check(50, 32000)
    fails(speak(wav, png, '-o', tmp, '-f', 'nut'), 1, 'irectory')
    old = os.umask(0o077)
    try:
        require(speak(wav, png, '-o', tmp / 'new.nut').ret == 0 and (tmp / 'new.nut').stat().st_mode & 0o777 == 0o600, 'umask')
    finally:
        os.umask(old)


@case
def standard_streams_closed(tmp):
    """With 1 and 2 closed the file is as ever; with 0 or 1 closed, what needs it fails."""
    wav, png = media.wav(tmp / 'a.wav', 3000), face(tmp)
    require(speak(wav, png, '-o', tmp / 'want.nut').ret == 0)
    line = '"$0" speak --model "$1" --seed 3 --cpu-threads 1 "$2" "$3" -o "$4" '
    for closed in ('>&- 2>&-', '<&- 2>&-', '<&- >&-', '<&- >&- 2>&-'):
        p = subprocess.run(['sh', '-c', line + closed, tool_harness.A.tool, tool_harness.A.model, wav, png, str(tmp / 'o.nut')], timeout=LIMIT,
                           stderr=subprocess.PIPE)
        require(p.returncode == 0 and (tmp / 'o.nut').read_bytes() == (tmp / 'want.nut').read_bytes(), closed, p.returncode)
        (tmp / 'o.nut').unlink()
    for closed, sound, out in (('<&-', '-', str(tmp / 'o.nut')), ('>&-', wav, '-'), ('>&- 2>&-', wav, '-'), ('</', '-', str(tmp / 'o.nut'))):
        p = subprocess.run(['sh', '-c', line + closed, tool_harness.A.tool, tool_harness.A.model, sound, png, out], timeout=LIMIT,
                           stderr=subprocess.PIPE)
        require(p.returncode == 1, closed, p.returncode, p.stderr)
        require('2>&-' in closed or b'avatar: std' in p.stderr, closed, p.stderr)
    require(not left_over(tmp) and not (tmp / 'o.nut').exists())


@case
def stdout_is_full(tmp):
    """Every command: what could not be printed is a failure."""
    if not os.path.exists('/dev/full'):
        raise Skip('no /dev/full')
    with open('/dev/full', 'wb') as full:
        for args in (('--version',), ('--help',), ('speak', '--help'), ('inspect', tool_harness.A.model), ('plan', '--model', tool_harness.A.model)):
            fails(Run(*args, stdout=full), 1, 'stdout', 'No space left')


@case
def libraries_that_print(tmp):
    """ONEDNN_VERBOSE goes to stderr, not between the frames."""
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    r = speak(wav, png, '-o', '-', env=dict(os.environ, ONEDNN_VERBOSE='1', DNNL_VERBOSE='1'))
    require(r.ret == 0 and b'onednn_verbose' not in r.out and b'dnnl_verbose' not in r.out, 'in the stream')
    (tmp / 'o.nut').write_bytes(r.out)
    Nut(tmp / 'o.nut').check(1, 640)


@case
def signals_are_heard(tmp):
    """One SIGINT or SIGTERM, wherever the tool waits: it ends soon (ten seconds on a busy machine), with 1, and leaves nothing half done."""
    wav, png = media.wav(tmp / 'a.wav', 16000), face(tmp)
    long = media.wav(tmp / 'l.wav', 160000)
    fifo = tmp / 'f.nut'
    os.mkfifo(fifo)
    out = tmp / 'o.nut'
    silent, writer = os.pipe()

    def tool(sound, picture, to):
        return [tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, '--quiet', sound, picture, '-o', to]

    places = (('sound: FIFO without a writer', tool(fifo, png, out), None, {}),
              ('picture: FIFO without a writer', tool(wav, fifo, out), None, {}),
              ('output: FIFO without a reader', tool(wav, png, fifo), None, {}),
              ('sound: FIFO with a silent writer', tool(fifo, png, out), os.O_RDWR, {}),
              ('picture: FIFO with a silent writer', tool(wav, fifo, out), os.O_RDWR, {}),
              ('output: FIFO that nobody empties', tool(long, png, fifo), os.O_RDWR, {}),
              ('silent stdin', tool('-', png, out), None, {'stdin': silent}),
              ('picture on a silent stdin', tool(wav, '-', out), None, {'stdin': silent}),
              ('stdout that nobody reads', tool(long, png, '-'), None, {'stdout': subprocess.PIPE}))
    for name, cmd, hold, kw in places:
        for sig in (signal.SIGINT, signal.SIGTERM):
            fd = os.open(fifo, hold) if hold is not None else -1
            p_kw = dict(kw)
            if kw.get('stdout'):                                    # a pipe that communicate() does not empty
                r, w = os.pipe()
                p_kw['stdout'] = w
            ret, err, seconds = interrupt(cmd, after(1.2), sig, **p_kw)
            if fd >= 0:
                os.close(fd)
            if kw.get('stdout'):
                os.close(r), os.close(w)
            require(ret == 1 and seconds < 10, name, sig.name, 'exit code', ret, 'after', seconds, err)
            require('interrupted' in err, name, err)
            require(not out.exists() and not left_over(tmp), name, 'left', left_over(tmp))
    os.close(silent), os.close(writer)


@case
def second_signal(tmp):
    """It ends the program at once, whatever that is doing, and nothing is left beside."""
    wav, png = media.wav(tmp / 'a.wav', 320000), face(tmp)
    cmd = [tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, '--size', '256x256', wav, png, '-o', str(tmp / 'o.mp4')]
    p = subprocess.Popen(cmd, stderr=subprocess.PIPE)
    while not watches(p.pid) or not left_over(tmp):
        time.sleep(0.02)
    p.send_signal(signal.SIGTERM)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=LIMIT)[1].decode()
    require(p.returncode == 1 and 'interrupted' in err, p.returncode, err)
    require(not left_over(tmp), left_over(tmp))


@case
def early_signals(tmp):
    """A signal at any moment of a short run: it ends, and the file is whole or not there."""
    wav, png, out = media.wav(tmp / 'a.wav', 32000), face(tmp), tmp / 'o.mp4'
    for i in range(12):
        ret, err, seconds = interrupt([tool_harness.A.tool, 'speak', '--model', tool_harness.A.model, wav, png, '-o', out], after(0.01 + 0.06 * i),
                                      limit=LIMIT, early=True)
        require(ret in (0, 1, -signal.SIGINT), i, ret, seconds, err)
        if out.exists():
            require(tool_harness.Film(out).frames > 0)
            out.unlink()
        require(not left_over(tmp), i, left_over(tmp))
