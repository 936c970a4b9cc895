#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plans on CPU ranks: the time from block to block that `avatar plan` reckons, from what `avatar bench --calibrate` has measured call by call,
against the same model's film. Prints a table; exit code 1 when a plan is off by more than 10 %, or a rank
has more than 3 % of its time for neither ops nor waiting.

Others on the machine only ever add time, to a calibration as to a film, on a shared one up to half of it: what counts is the least of each,
found in turn, until some turns on end have bettered neither.

plan.py --tool AVATAR [--model M] [--size WxH] [PLAN ...]
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import wave

FACE = sorted((pathlib.Path(__file__).resolve().parents[2] / 'model' / 'nano' / 'faces').glob('*.png'))[0]
LIMIT, OVERHEAD = 10, 3           # per cent
BLOCKS, SKIP = 32, 8              # of a film; those at its start that do not count
ON_END, MOST, BETTER = 3, 12, 0.98        # turns without a better one, after which it is enough; turns at most; what is called better
PLANS = {
    'one rank': ('--devices', 'cpu', '--plan', 'sequential'),
    'layer over 2': ('--devices', 'cpu|cpu', '--plan', 'layer'),
    'wave over 2': ('--devices', 'cpu', '--plan', 'wave', '--vae-device', 'cpu:own'),
    'tensor2': ('--devices', 'cpu|cpu', '--plan', 'tensor2'),
}


def inputs(tmp):
    """A voice that hums: what is said takes no other time than anything else."""
    with wave.open(str(tmp / 'a.wav'), 'wb') as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(16000)
        w.writeframes(b''.join(struct.pack('<h', int(6000 * math.sin(0.05 * i) * math.sin(0.0008 * i))) for i in range(BLOCKS * 7680)))


def tool(*args):
    """What it prints; what it says is heard when it fails, as a humming voice moves no mouth, which it would say of each film."""
    r = subprocess.run([A.tool] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=A.env)
    if r.returncode:
        sys.exit(r.stderr.decode())
    return r.stdout


def reckoned(args):
    tool('bench', '--calibrate', *A.options, *args)
    p = json.loads(tool('plan', '--json', *A.options, *args))
    return p['block'], p['calibrated'], p['bound']


def measured(tmp, args):
    """Seconds from block to block: the median over a film, as a calibration takes it of its calls. And own_share() of the rank that has most of it."""
    stats = tmp / 'stats'
    stats.unlink(missing_ok=True)
    tool('speak', *A.options, '--seed', '1', '--stats', str(stats), '--quiet', '-o', '-', *args, str(tmp / 'a.wav'), str(FACE))
    lines = [json.loads(line) for line in stats.read_text().splitlines()][SKIP:]
    return statistics.median(b['time'] - a['time'] for a, b in zip(lines, lines[1:])), max(own_share(lines, r) for r in range(len(lines[0]['ranks'])))


def own_share(lines, rank):
    """Of a rank's time: what went neither into ops nor into waiting for others, per cent."""
    uses = [line['ranks'][rank]['use'] for line in lines[1:]]
    return 100 * sum(u['messages'] + u['rest'] for u in uses) / sum(sum(u.values()) for u in uses)


def best_of_turns(tmp, args):
    """-> the least seconds of a block as reckoned, with what else that calibration says, and as measured, with the rank's own share; turns that it took"""
    (block, real), since, turn = (reckoned(args), measured(tmp, args)), 0, 1
    while since < ON_END and turn < MOST:
        b, r = reckoned(args), measured(tmp, args)
        since = 0 if b[0] < BETTER * block[0] or r[0] < BETTER * real[0] else since + 1
        block, real, turn = min(b, block), min(r, real), turn + 1
    return block, real, turn


def main():
    off = 0
    with tempfile.TemporaryDirectory(prefix='avatar-plan-') as folder:
        tmp = pathlib.Path(folder)
        A.env = dict(os.environ, XDG_CACHE_HOME=folder, OMP_WAIT_POLICY='passive')
        A.options = ['--model', A.model] + (['--size', A.size] if A.size else [])
        inputs(tmp)
        print('%-14s %12s %12s %8s %10s %6s  %s' % ('ms a block', 'reckoned', 'measured', 'off', 'overhead', 'turns', 'what bounds it'))
        for name in A.plans or PLANS:
            (block, known, bound), (real, own), turns = best_of_turns(tmp, PLANS[name])
            wrong = 100 * (block / real - 1)
            off += abs(wrong) > LIMIT or own > OVERHEAD
            print('%-14s %12.1f %12.1f %+7.1f%% %9.2f%% %6d  %s%s' % (name, 1e3 * block, 1e3 * real, wrong, own, turns, bound,
                                                                     '' if known > 0.999 else ', %.0f %% known' % (100 * known)), flush=True)
    return 1 if off else 0


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tool', required=True)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--size')
    parser.add_argument('plans', nargs='*')
    A = parser.parse_args()
    sys.exit(main())
