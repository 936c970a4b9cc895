# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: --stats, avatar top, avatar plot."""
import json
import os
import subprocess
import time
import xml.dom.minidom

import tool_harness
from tool_harness import LIMIT, Run, case, face, fails, media, require, speak

STAGES = ('wait', 'picture', 'text', 'sink', 'sound', 'layers', 'decode')


def lines(path):
    return [json.loads(x) for x in path.read_text().splitlines()]


@case
def stats_lines(tmp):
    """A line a block, and the time that a rank spends is all of the time that goes by."""
    wav, stats = media.wav(tmp / 'a.wav', 5 * 7680), tmp / 's.jsonl'
    for devices, plan, ranks in (('cpu', 'sequential', 1), ('cpu|cpu', 'layer', 2), ('cpu|cpu|cpu|cpu', 'timestep', 4)):
        stats.unlink(missing_ok=True)
        r = speak(wav, face(tmp), '-o', tmp / 'o.nut', '--stats', stats, '--devices', devices, '--plan', plan)
        require(r.ret == 0, r.what)
        got = lines(stats)
        require([x['block'] for x in got] == list(range(5)) and [x['frame'] for x in got] == [12 * i for i in range(5)], plan, got)
        require(all(len(x['ranks']) == ranks and x['plan'].startswith(plan) and x['size'] == '64x64' for x in got), plan, got[0])
        for rank in range(ranks):
            of = [x['ranks'][rank] for x in got]
            require(all(tuple(x['ms']) == STAGES and min(x['ms'].values()) >= 0 for x in of), of)
            worked = {s: sum(x['ms'][s] for x in of) for s in STAGES}
            require(bool(worked['decode']) == bool(of[0]['vae']), plan, rank, worked)
            require(bool(of[0]['vae']) <= bool(worked['picture']), plan, rank, worked)
            require(bool(of[0]['layers'][1]) <= bool(worked['layers']), plan, rank, worked)
            spent, went = sum(worked.values()) / 1000, got[-1]['time']
            require(0.3 * went * of[0]['vae'] < spent <= 1.02 * went, plan, rank, 'counted', spent, 'of', went)       # others may be done long before
        require(all(x['ranks'][0]['bytes']['weights'] > 0 for x in got), 'no memory')


USES = ('ops', 'waiting', 'messages', 'rest')


@case
def ranks_are_busy_or_wait(tmp):
    """Of the time of a rank less than 3 % (10 % here, where others share the cores) goes into neither ops nor waiting: in the embedded model's films,
    without the blocks at their beginning."""
    wav, stats = media.wav(tmp / 'a.wav', 10 * 7680), tmp / 's.jsonl'
    for devices, more in (('cpu', ('--plan', 'wave', '--vae_device', 'cpu:own')), ('cpu|cpu', ('--plan', 'layer')), ('cpu|cpu', ('--plan', 'tensor2'))):
        stats.unlink(missing_ok=True)
        r = Run('speak', wav, face(tmp), '-o', tmp / 'o.nut', '--stats', stats, '--devices', devices, *more)
        require(r.ret == 0, r.what)
        for rank in range(2):
            of = [x['ranks'][rank]['use'] for x in lines(stats)[4:]]
            require(all(tuple(x) == USES and min(x.values()) >= -0.1 for x in of), of)
            spent = {u: sum(x[u] for x in of) for u in USES}
            require(spent['ops'] > 0 and spent['messages'] > 0, more, rank, spent)
            require(spent['messages'] + spent['rest'] < 0.1 * sum(spent.values()), more, rank, spent)


@case
def stats_cost_nothing(tmp):
    """Of a block of the embedded model, less than 0.5 % goes into its line, of four ranks as of one; in the middle, as the machine has other work."""
    wav, stats = media.wav(tmp / 'a.wav', 5 * 7680), tmp / 's.jsonl'
    for devices, plan in (('cpu', 'sequential'), ('cpu|cpu|cpu|cpu', 'timestep')):
        stats.unlink(missing_ok=True)
        r = Run('speak', wav, face(tmp), '-o', tmp / 'o.nut', '--seed', '3', '--stats', stats, '--devices', devices, '--plan', plan)
        require(r.ret == 0, r.what)
        got = lines(stats)
        line, block = (sorted(x[k] for x in got[1:])[len(got) // 2] for k in ('stats_ms', 'block_ms'))
        print('     a line of %s takes %.4f ms of a block of %.0f' % (plan, line, block))
        require(0 < line < 0.005 * block, plan, line, block)


@case
def stats_are_appended(tmp):
    """A second session goes on behind the first; a file that is something else stays as it is."""
    wav, stats = media.wav(tmp / 'a.wav', 8000), tmp / 's.jsonl'
    for nb in (2, 4):
        require(speak(wav, face(tmp), '-o', tmp / 'o.nut', '--stats', stats).ret == 0)
        require(len(lines(stats)) == nb, len(lines(stats)))
    before = (tmp / 'a.wav').read_bytes()
    fails(speak(wav, face(tmp), '-o', tmp / 'p.nut', '--stats', wav), 1, 'a.wav', 'something else')
    require((tmp / 'a.wav').read_bytes() == before, 'the sound is gone')
    fails(speak(wav, face(tmp), '-o', tmp / 'p.nut', '--stats', tmp / 'no' / 'folder'), 1, 'folder')


@case
def stats_pipe(tmp):
    """A pipe that nobody reads keeps no one; one that is read gets whole lines."""
    os.mkfifo(tmp / 'pipe')
    wav = media.wav(tmp / 'a.wav', 100 * 7680)
    r = speak(media.wav(tmp / 'b.wav', 8000), face(tmp), '-o', tmp / 'o.nut', '--stats', tmp / 'pipe')
    require(r.ret == 0, r.what)
    r = speak(wav, face(tmp), '-o', tmp / 'o.nut', '--stats', tmp / 'pipe')
    require(r.ret == 0 and ('lines found no room' in r.err or 'missing' not in r.err), r.what)
    fd = os.open(tmp / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    cmd = [tool_harness.A.tool, 'speak', '--model', str(tool_harness.A.model), str(tmp / 'b.wav'), str(face(tmp)), '--seed', '3', '-o', str(tmp / 'o.nut'),
           '--stats', str(tmp / 'pipe'), '--quiet']
    p = subprocess.Popen(cmd, stderr=subprocess.DEVNULL)
    text, end = b'', time.time() + LIMIT
    while time.time() < end and text.count(b'\n') < 2:
        try:
            text += os.read(fd, 65536)
        except BlockingIOError:
            pass
        time.sleep(0.02)
    require(p.wait(LIMIT) == 0 and all(json.loads(x)['frames'] for x in text.splitlines()), text)
    os.close(fd)


@case
def top_and_plot(tmp):
    stats = tmp / 's.jsonl'
    require(speak(media.wav(tmp / 'a.wav', 8 * 7680), face(tmp), '-o', tmp / 'o.nut', '--stats', stats, '--devices', 'cpu|cpu', '--plan', 'layer').ret == 0)
    r = Run('top', stats)
    require(r.ret == 0 and b'block 7' in r.out and b'layer on cpu|cpu' in r.out and r.out.count(b'memory') == 2, r.what, r.out)
    r = Run('plot', stats, '-o', tmp / 'c.svg')
    require(r.ret == 0, r.what)
    require(b' blocks</text>' in (tmp / 'c.svg').read_bytes(), 'the axis')
    curves = xml.dom.minidom.parse(str(tmp / 'c.svg')).getElementsByTagName('polyline')
    require(len(curves) == 5 and all(len(c.getAttribute('points').split()) == 8 for c in curves), len(curves))
    fails(Run('top', tmp / 'none'), 1, 'none')
    fails(Run('top', media.wav(tmp / 'b.wav', 8000)), 1, 'no line')
    fails(Run('plot', tmp / 'b.wav', '-o', tmp / 'd.svg'), 1, 'no statistics')


@case
def top_of_a_process(tmp):
    cmd = [tool_harness.A.tool, 'speak', '--model', str(tool_harness.A.model), '-', str(face(tmp)), '--input-format', 's16le', '--mode', 'live', '-o', str(tmp / 'o.nut'),
           '--stats', str(tmp / 's.jsonl'), '--quiet']
    p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    p.stdin.write(bytes(2 * 4 * 7680))
    p.stdin.flush()
    end, r = time.time() + LIMIT, None
    while time.time() < end and p.poll() is None and not (r and r.ret == 0):
        time.sleep(0.1)
        r = Run('top', p.pid)
    p.stdin.close()
    require(r.ret == 0 and b'sequential' in r.out, r.what)
    require(p.wait(LIMIT) == 0)
    fails(Run('top', os.getpid()), 1, 'no file of statistics')
