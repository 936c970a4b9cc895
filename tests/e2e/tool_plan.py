# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: avatar plan --gpus, which needs neither model nor card."""
import json
import os
import re
import resource
import shutil
import subprocess
import xml.dom.minidom

import tool_doctor
import tool_harness
from tool_harness import Run, Skip, case, face, fails, media, require


def plan(*args, **kw):
    r = Run('plan', '--json', *args, **kw)
    require(r.ret in (0, 1), r.what)
    d = json.loads(r.out)
    require(d['fits'] == (r.ret == 0), r.what)
    return d


def on_card(d, name):
    return sum(r['sum'] for r in d['ranks'] + [d['front']] if r['device'] == name)


@case
def plan_of_small_cards(tmp):
    """Where the original's FSDP ran out of memory: 14B at 704x384 on 4 and 5 cards of 24 GB, of which 22.15 are usable."""
    for n in (4, 5):
        d = plan('--gpus', '%dx24' % n, '--size', '704x384')
        require(d['fits'] and d['plan'].startswith('layer') and d['usable'] == 22150000000 and d['precision'] == 'bf16', d)
        require(d['options'].startswith('devices=cuda0|cuda1|cuda2|cuda3:plan=layer'), d['options'])
        require(all(on_card(d, 'cuda%d' % i) <= d['usable'] for i in range(n)), d)
        require(all(sum(r['parts'].values()) == r['state'] and r['parts']['rings'] > 5 * r['parts']['sinks'] > 0 for r in d['ranks'] if r['parts']['text']), d)
        require([r['parts']['vae'] > 1e9 for r in d['ranks']].count(True) == 1, d)
        require(b'25.65 GB' in Run('plan', '--gpus', '%dx24' % n).out, 'FSDP')
    d = plan('--gpus', '2x24', '--size', '704x384', '--offload', 'none')
    require(not d['fits'], 'two cards of 24 GB cannot hold 33 GB of weights and 46 GB of rings')


@case
def plan_takes_the_fastest(tmp):
    """The same options give what the search says; more or faster cards are never slower; what does not fit comes with what does."""
    one, two = plan('--gpus', 'h200'), plan('--gpus', '2xh200')
    require(one['fits'] and two['fits'] and two['fps'] > one['fps'] > 5, one['fps'], two['fps'])
    require(plan('--gpus', '4x4090')['fps'] > plan('--gpus', '4x3090')['fps'], 'a faster card is slower')
    d = plan('--gpus', '5x80')
    require(d['plan'].startswith('timestep') and d['options'].endswith(':vae_device=cuda4'), d['plan'], d['options'])
    opts = dict(x.split('=') for x in d['options'].split(':'))
    p = json.loads(Run('plan', '--json', '--precision', 'bf16', *[a for k, v in opts.items() for a in ('--' + k, v)]).out)
    require([r['sum'] for r in p['ranks']] == [r['sum'] for r in d['ranks']], 'the options say another plan')
    d = plan('--gpus', '1x80', '--size', '704x384')
    require(d['fits'] and d['usable'] == 84000000000, 'an 80 GB card of HBM shows 84.9e9 bytes, of which a context takes some')
    off = ('--gpus', '1x80', '--size', '704x384', '--offload', 'weights')
    wave, alone = (plan(*off, '--plan', p) for p in ('wave', 'sequential'))
    require(wave['fits'] and wave['ranks'][0]['coming'] == wave['ranks'][0]['host'] > 28e9, 'layers that come')
    require(b'they are hidden' in Run('plan', *off, '--plan', 'wave').out, 'a wave hides the copies')
    require(alone['bound'] == 'layers that come from the host' and alone['fps'] < wave['fps'], 'one item a walk waits for them')
    require(d['offload'] == 'none' and d['missing'] == 0, 'all on the card', d)
    require(plan('--gpus', '4x24', '--plan', 'layer')['plan'] == plan('--gpus', '4x24')['plan'], 'another plan')


@case
def plan_says_why(tmp):
    """What else was looked at, and what of it: what fits is slower, what lacks memory lacks it when it is asked for by name."""
    for gpus in ('4x24', '5x80', '1x80', '16x48'):
        d = plan('--gpus', gpus)
        require(d['others'] and all(x['lack'] > 0 or x['fps'] <= d['fps'] * 1.001 for x in d['others']), gpus, d['others'])
        for x in d['others']:
            if '+' in x['plan'] or 'alone' in x['plan'] or gpus == '16x48':
                continue
            named = plan('--gpus', gpus, '--plan', x['plan'], '--offload', 'none')
            if x['lack'] > 0 or not x['bound']:                     # of what is too slow in any case memory was not looked at
                require(named['fits'] == (x['lack'] == 0), gpus, x, named['plan'])
            alone = [y['fps'] for y in d['others'] if y['plan'] == x['plan'] + ', VAE alone']       # by name the faster of the two is found
            if named['fits']:
                require(named['fps'] <= max([x['fps'], *alone]) * 1.001 and (x['bound'] or named['fps'] > x['fps'] * 0.999), gpus, x, named['fps'])
    out = Run('plan', '--gpus', '4x24').out.decode()
    require('why: the fastest that fits of 13 ways' in out and 'slower: layer+tensor2 at most 3.' in out and 'without room: layer, VAE alone lacks' in out, out)
    require(b'why: ' not in Run('plan', '--gpus', '4x24', '--plan', 'layer').out, 'it was asked for')


@case
def plan_of_cards_that_are_here(tmp):
    """What the driver says, by a false one: memory that is free, and the card by its name, else by its size."""
    if not shutil.which('cc'):
        raise Skip('no C compiler')
    (tmp / 'nvml.c').write_text(tool_doctor.NVML)

    def here(name, used, *args):
        subprocess.run(['cc', '-shared', '-fPIC', '-DDRIVER="580.65"', '-DMAJOR=8', '-DTHROTTLE=0', '-DECC=0', '-DUSED=%su' % used, '-DNAME="%s"' % name,
                        '-o', tmp / 'libnvidia-ml.so.1', tmp / 'nvml.c'], check=True)
        return Run('plan', '--gpus', 'here', '--host-memory', '128G', *args, env=dict(os.environ, LD_LIBRARY_PATH=str(tmp)))

    known = here('NVIDIA GeForce RTX 4090', 4000000000)
    require(known.ret == 0 and b'published rates of 4090' in known.out and b' of 19.40' in known.out, known.what, known.out)
    require(b"of 24 GB 4.60 are counted as others', the driver's" in known.out, known.out)
    fps = [json.loads(here(name, 0, '--json').out)['fps'] for name in ('NVIDIA GeForce RTX 4090', 'NVIDIA GeForce RTX 3090', 'a card')]
    require(fps[0] > 1.3 * fps[1] and fps[1] == fps[2], fps)
    require(b'rates of a usual card of that size, 3090' in here('a card', 0).out, 'the assumption is said')


@case
def plan_takes_from_the_host_what_must_be(tmp):
    """offload=auto: what does not fit comes from the host, layers first, then rings and sinks, and the price is said; nothing else is taken away."""
    for gpus, offload in (('1x72', 'weights'), ('1x24', 'all'), ('1x16', 'all'), ('2x24', 'all'), ('4x24', 'none')):
        d = plan('--gpus', gpus, '--size', '704x384')
        require(d['fits'] and d['offload'] == offload and (d['width'], d['steps'], d['precision']) == (704, 4, 'bf16'), gpus, d)
        none = plan('--gpus', gpus, '--size', '704x384', '--offload', 'none')
        require(d['missing'] > 0 and not none['fits'] if offload != 'none' else d['missing'] == 0, gpus, d, none)
        require(none['fits'] or not [x for x in none['instead'] if x['offload'] != 'none'], 'offload=none is obeyed', none)
        require(offload == 'none' or (':offload=%s:' % offload in d['options'] and d['host'] > 28e9), d['options'])
    r = Run('plan', '--gpus', '1x24', '--size', '704x384')
    require(b'offload=auto: layers, rings and sinks come from the host, as cuda0 would lack 60.' in r.out and b'on paper: 1.1 fps' in r.out, r.out)
    d = plan('--gpus', '1x12', '--size', '704x384')
    require(not d['fits'] and [x['offload'] for x in d['instead']] == ['all'] and d['instead'][0]['width'] < 704, d['instead'])
    x = d['instead'][0]
    require(plan('--gpus', '1x12', '--size', '%dx%d' % (x['width'], x['height']), '--steps', x['steps'])['fits'], x)
    light = plan('--gpus', '1x12', '--size', '704x384', '--precision', 'int8')
    require(light['fits'] and d['lighter']['precision'] == 'int8' and d['lighter']['offload'] == 'all' and abs(d['lighter']['fps'] - light['fps']) < 1e-3, d['lighter'], light)
    require(b'instead: --precision int8 --offload all fits' in Run('plan', '--gpus', '1x12').out, 'the other precision is offered')
    require(plan('--gpus', '1x8')['lighter'] is None and plan('--gpus', '1x10', '--precision', 'int8')['lighter'] is None, 'nothing lighter')
    r = Run('plan', '--devices', 'cuda0', '--memory', '22.15')
    require(r.ret == 0 and b'offload all' in r.out.splitlines()[0] and 'offload=auto: layers, rings and sinks' in r.err, r.out, r.err)
    fails(Run('plan', '--devices', 'cuda0', '--memory', '22.15', '--host-memory', '32'), 1, 'offload=auto: with layers', 'still lacks')


@case
def plan_of_the_readme(tmp):
    """The table of small cards is what the command says."""
    text = open(os.path.join(os.path.dirname(__file__), '../../README.md')).read()
    rows = [[c.strip() for c in line.strip('|').split('|')] for line in text.splitlines() if re.match(r'\| \dx\d\d \|', line)]
    require(len(rows) == 8, rows)
    for gpus, precision, offload, name, used, host, fps in rows:
        d = plan('--gpus', gpus, '--size', '704x384', '--precision', precision)
        most = max(on_card(d, 'cuda%d' % i) for i in range(int(gpus[0])))
        have = (d['offload'], d['plan'].split()[0], '%.1f of %.2f' % (most / 1e9, d['usable'] / 1e9), '%.1f' % (d['host'] / 1e9), '%.1f' % d['fps'])
        require(d['fits'] and have == (offload, name, used, host, fps), gpus, have)


@case
def plan_splits_layers(tmp):
    """Teams: what is asked for is what is shown, less memory by columns, less traffic by heads; taken by itself where it is faster."""
    whole = plan('--gpus', '2xb200', '--link', 'nvlink', '--plan', 'layer')
    tensor, ulysses = (plan('--gpus', '2xb200', '--link', 'nvlink', '--plan', p) for p in ('tensor2', 'ulysses2'))
    require(tensor['options'] == 'devices=cuda0|cuda1:plan=tensor2' and ulysses['plan'].startswith('ulysses2 on cuda0|cuda1'), tensor, ulysses)
    require(tensor['ranks'][0]['weights'] < 0.55 * ulysses['ranks'][0]['weights'], tensor['ranks'], ulysses['ranks'])
    require(abs(tensor['ranks'][0]['state'] / ulysses['ranks'][0]['state'] - 1) < 0.05, 'rings by heads, both')
    require(tensor['exchange'] > 3 * ulysses['exchange'] > 0 and whole['exchange'] == 0, tensor['exchange'], ulysses['exchange'])
    require(tensor['first_frame'] < whole['first_frame'], 'an item takes as long as on one card')
    slow, fast = plan('--gpus', '16x80', '--link', '100g'), plan('--gpus', '16x80', '--link', 'nvlink')
    require('+' in fast['plan'] and fast['fps'] > plan('--gpus', '16x80', '--plan', 'layer')['fps'] and fast['fps'] >= slow['fps'], fast['plan'])
    require(plan('--gpus', '4x80', '--plan', 'layer+tensor2')['plan'].startswith('layer+tensor2'), 'layer+tensor2')
    require(b'pass between the parts' in Run('plan', '--gpus', '2xb200', '--plan', 'tensor2').out, 'exchange')
    fails(Run('plan', '--gpus', '4x80', '--plan', 'tensor2'), 1, 'tensor2')
    one, four = (plan('--gpus', '16x48', '--link', 'nvlink', '--vae-split', n) for n in ('1', '4'))
    require(four['fps'] > one['fps'] and four['options'].endswith(':vae_split=4') and four['plan'].count('+VAE') == 4, one['fps'], four)


@case
def plan_with_the_front_elsewhere(tmp):
    """Encoders of speech and text on the CPU take nothing of a card, and the options to paste say so."""
    with_front = plan('--gpus', '1x80')
    d = plan('--gpus', '1x80', '--front-device', 'cpu')
    require(d['front']['device'] == 'cpu' and d['options'].endswith(':front_device=cpu'), d['front'], d['options'])
    require('front_device' not in with_front['options'], with_front['options'])
    lines = {x: Run('plan', '--gpus', '1x80', *x).out.decode() for x in ((), ('--front-device', 'cpu'))}
    require(' 82.49 of 84.00' in lines[()] and ' 81.36 of 84.00' in lines['--front-device', 'cpu'], lines)


@case
def plan_of_host_memory(tmp):
    """Layers that wait in the host's memory need room there, on paper as on the machine."""
    args = ('--gpus', '1x80', '--size', '704x384', '--offload', 'weights', '--host-memory')
    d = plan(*args, '128G')
    require(d['fits'] and 28e9 < d['host'] < 29e9, d['host'])
    require(plan(*args, '29')['fits'] and not plan(*args, '28')['fits'], 'the limit')
    r = Run('plan', *args, '20')
    require(r.ret == 1 and b'28.12 GB of 20.00  TOO MUCH' in r.out and b'the host lacks 8.12 GB' in r.out, r.out)
    fails(Run('plan', '--devices', 'cuda0', '--offload', 'weights', '--host-memory', '20'), 1, '--host-memory', 'of 20.00')
    for words in ('x', '0', '-1', '128T'):
        fails(Run('plan', '--gpus', '1x80', '--host-memory', words), 2, '--host-memory')


@case
def plan_says_what_would_change(tmp):
    """A step fewer, a smaller size, another precision, each by itself, of the plan that was found."""
    args = ('--gpus', '4x24', '--size', '704x384')
    d = plan(*args)
    steps, size, precision = d['changes']
    most = max(on_card(d, 'cuda%d' % i) for i in range(4))
    require((steps['steps'], steps['width']) == (3, 704) and steps['fps'] > d['fps'] and steps['most'] < most, steps, d['fps'])
    require(size['steps'] == 4 and size['width'] < 704 and size['fps'] > d['fps'] and size['most'] < most, size)
    require(precision['precision'] == 'int8' and (precision['width'], precision['steps']) == (704, 4) and precision['most'] < most, precision)
    require(abs(plan(*args, '--steps', '3', '--plan', 'layer')['fps'] - steps['fps']) < 1e-3, 'the same as when it is asked for')
    r = Run('plan', *args)
    require(all(w in r.out for w in (b'with --steps 3: ', b'with --size 624x336: ', b'with --precision int8: ')), r.out)


@case
def plan_of_a_preset(tmp):
    """The four set-ups by name; what is said besides wins, in front of it or behind."""
    for name, size, steps in (('preview', (384, 256), 3), ('standard', (704, 384), 4), ('long', (688, 368), 4), ('quality', (704, 384), 4)):
        d = plan('--gpus', '1x80' if name == 'quality' else '4x24', '--preset', name)
        require(d['fits'] and (d['width'], d['height']) == size and d['steps'] == steps, name, d)
    require(d['plan'].startswith('sequential'), d['plan'])
    for args in (('--steps', 2, '--size', '640x384', '--preset', 'preview'), ('--preset', 'preview', '--steps', 2, '--size', '640x384')):
        d = plan('--gpus', '4x24', *args)
        require((d['width'], d['height'], d['steps']) == (640, 384, 2), d)
    fails(Run('plan', '--preset', 'best'), 2, 'preset=best')


@case
def what_does_not_fit_says_what_does(tmp):
    """A session that is refused names the nearest that fits, and makes nothing smaller by itself."""
    free = int(re.search(r'MemAvailable: *(\d+)', open('/proc/meminfo').read()).group(1)) * 1024
    if free > 45e9:
        raise Skip('this machine has memory for a film of 4096x4096')
    r = Run('speak', media.wav(tmp / 'a.wav', 7680), face(tmp), '-o', tmp / 'o.nut', '--size', '4096x4096')
    fails(r, 1, '4096x4096 with', 'GB are free; what fits: size=')
    require('x' in r.err.split('what fits: size=')[1] and not (tmp / 'o.nut').exists(), r.err)


@case
def plan_knows_the_time_of_a_cpu(tmp):
    """Calls that were measured are kept for this processor; a plan of them has a time, and says how much of it was measured."""
    env = dict(os.environ, XDG_CACHE_HOME=str(tmp))
    model = tool_harness.A.model
    on = ('--model', model, '--size', '64x64', '--devices', 'cpu')
    before = Run('plan', *on, env=env)
    require(b'avatar bench --calibrate' in before.out and 'fps' not in json.loads(Run('plan', '--json', *on, env=env).out), before.out)
    r = Run('bench', '--calibrate', *on, env=env)
    files = list((tmp / 'avatar').iterdir())
    require(r.ret == 0 and len(files) == 1 and files[0].suffix == '.rates', r.what, files)
    d = json.loads(Run('plan', '--json', *on, env=env).out)
    require(d['calibrated'] > 0.999 and d['fps'] > 0 and abs(d['block'] * d['fps'] / 12 - 1) < 1e-3, d)
    large = json.loads(Run('plan', '--json', '--model', model, '--size', '128x128', '--devices', 'cpu', env=env).out)
    require(large['calibrated'] < 0.5 and large['block'] > 2 * d['block'], 'four times the pixels, reckoned from others', large, d)
    files[0].write_text('2 5 x\n' + files[0].read_text())
    require(json.loads(Run('plan', '--json', *on, env=env).out)['block'] == d['block'], 'a line that is none is left out')
    fails(Run('bench', '--calibrate', '--devices', 'cuda0', env=env), 1, 'avatar plan --gpus')
    fails(Run('bench', env=env), 2)


@case
def plan_is_quick_and_shown(tmp):
    plan('--gpus', '4x24', '-o', tmp / 'p.svg', preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (1, 1)))     # a second of processor time does
    for gpus, most in (('16x24', 1), ('64x24', 1), ('8x6', 2)):      # many teams to try, most cards; nothing fits but with all from the host
        plan('--gpus', gpus, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (most, most)))
    svg = xml.dom.minidom.parse(str(tmp / 'p.svg'))
    require(len(svg.getElementsByTagName('rect')) > 4 * 6 + 4 * 4 * 4, 'bars and blocks')
    text = ' '.join(t.firstChild.data for t in svg.getElementsByTagName('text') if t.firstChild)
    require('22.13 of 22.15 GB' in text and 'fps on paper' in text, text)
    r = Run('plan', '--gpus', '2x48+1x24')
    require(b'of 24 GB 1.85 are counted as the driver' in Run('plan', '--gpus', '4x24').out, 'the context')
    require(b'of 48 GB 3.70' in r.out and b'of 24 GB 1.85' in r.out and b'of 8 GB 0.62' in Run('plan', '--gpus', '1x8').out, 'the context of each size', r.out)
    require(b'of 84.9 GB 0.90' in Run('plan', '--gpus', 'h100').out, 'of HBM')
    require(r.ret == 0 and r.out.count(b' of 44.30') == 2 and r.out.count(b' of 22.15') == 1, r.out)


def pieces(path):
    """{block's colour: [(from, to), ...]} of a picture's time line, in the order of time."""
    out = {}
    for r in xml.dom.minidom.parse(str(path)).getElementsByTagName('rect'):
        if r.getAttribute('stroke') == 'white':
            x = float(r.getAttribute('x'))
            out.setdefault(r.getAttribute('fill'), []).append((x, x + float(r.getAttribute('width'))))
    return {k: sorted(v) for k, v in out.items()}


@case
def plan_picture_is_true(tmp):
    """A block's step begins when the one before is through, and under `sequential` a block when the one before has its pictures."""
    for gpus, name in (('4x24', 'layer'), ('5x80', 'timestep'), ('1x80', 'sequential'), ('1x16', 'sequential'), ('1x48', 'wave')):
        require(plan('--gpus', gpus, '-o', tmp / 'p.svg')['plan'].startswith(name), gpus)
        blocks = pieces(tmp / 'p.svg')
        require(len(blocks) == 4 and all(len(v) >= 5 for v in blocks.values()), gpus, blocks)
        for way in blocks.values():
            require(all(b[0] > a[1] - 0.2 for a, b in zip(way, way[1:])), gpus, 'a block is at two places', way)
        ways = sorted(blocks.values())
        require(name != 'sequential' or all(b[0][0] > a[-1][1] - 0.2 for a, b in zip(ways, ways[1:])), gpus, 'blocks overlap', ways)
    d = plan('--gpus', '4x24', '-o', tmp / 'p.svg')                 # what is drawn of a card is what --json says of it
    width = {}
    for r in xml.dom.minidom.parse(str(tmp / 'p.svg')).getElementsByTagName('rect'):
        if r.getAttribute('height') == '20':
            width.setdefault(r.getAttribute('y'), []).append(float(r.getAttribute('width')))
    require(len(width) == 4 and all(len(w) == 12 for w in width.values()), width)
    for bar, rank in zip((w for _, w in sorted(width.items(), key=lambda v: int(v[0]))), d['ranks']):
        parts = [rank['weights']] + list(rank['parts'].values()) + [rank['scratch'], rank['workspace'], rank['messages']]
        require(all(abs(w - bar[0] * v / rank['weights']) < 0.5 for w, v in zip(bar, parts)), bar, parts)
    r = Run('plan', '--gpus', '1x12', '-o', tmp / 'p.svg')
    text = (tmp / 'p.svg').read_text()
    require(r.ret == 1 and 'does not fit, 2.26 GB are missing' in text and 'GB of its memory' in text and not pieces(tmp / 'p.svg'), text)


@case
def plan_words(tmp):
    for gpus in ('', 'x', '0x24', '4x', '4xfast', '24x', '65x24', '4x24+', '-1x24'):
        fails(Run('plan', '--gpus', gpus), 2, '--gpus')
    fails(Run('plan', '--gpus', '4x24', '--link', 'string'), 2, '--link')
    fails(Run('plan', '--gpus', 'here'), 2, 'driver')
    fails(Run('plan', '--gpus', '3x80', '--plan', 'timestep'), 1, 'timestep')
    fails(Run('plan', '--gpus', '4x24', '--size', '700x384'), 2, '700x384')
