#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bad and odd input, through the filter in a built ffmpeg and through the tool: the rows are in table.py.

    run.py --bin build/ffmpeg/bin --model DIR [--tool build/avatar] [--jobs 2] [--say] [ROW...]

ROW is a part of a row's name. --say shows what was said. One line a row, then "N passed, N failed, N skipped".
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / 'filter')]
from harness import Env, ffmpeg, filt, limit_memory, run_case     # noqa: E402
import inputs as make                                             # noqa: E402
import table                                                      # noqa: E402

SIZE = 64
FRAME = SIZE * SIZE * 3
SECONDS = 90                            # no row may take longer: a hang


class Said:
    """What one program did: its exit code, its words, its frames (rgb24)."""
    def __init__(self, code, text, pixels):
        self.code, self.text, self.pixels, self.nb = code, text, pixels, len(pixels) / FRAME


def put(value, d):
    """What the table gives, made: a fault is made once and then given to both programs."""
    if not callable(value):
        return value
    d.made = getattr(d, 'made', {})
    if value not in d.made:
        d.made[value] = value(d)
    return d.made[value]


def given(row, d):
    """Sound, picture, model: the row's, or good ones."""
    good = dict(sound=make.speech(640), picture=make.face, model=Env.model)
    return (put(row.given.get(name, good[name]), d) for name in good)


def through_filter(row, d):
    opts = dict(dict(size='%dx%d' % (SIZE, SIZE), format='rgb24'), **row.given.get('opts', {}))
    opts = {k: put(v, d) for k, v in opts.items()}
    sound, picture, model = given(row, d)
    second = row.given.get('second')
    graph = '[0:a]%s%s%s' % ('[1:v]' if second else '', row.given.get('graph', ''),
                             filt(image=None if second else picture, model=model, **opts))
    args = ['-i', sound] + (['-i', picture] if second else []) + ['-filter_complex', graph, '-an', '-f', 'rawvideo', '-']
    r = ffmpeg(*args, ok=False, timeout=SECONDS, mem_mb=row.given.get('mem_mb', 0))
    return Said(r.code, r.text(), r.out)


def through_tool(row, d):
    opts = dict(dict(size='%dx%d' % (SIZE, SIZE), format='rgb24', seed=7, steps=1, cpu_threads=1), **row.given.get('opts', {}))
    sound, picture, model = given(row, d)
    args = [Env.tool, 'speak', sound, picture, '--model', model, '-o', d / 'o.nut']
    for k, v in opts.items():
        args += [] if v is None else ['--' + k, str(put(v, d))]
    try:
        p = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS,
                           preexec_fn=limit_memory(row.given.get('mem_mb', 0)))
    except subprocess.TimeoutExpired:
        raise AssertionError('the tool hangs (%d s)' % SECONDS)
    text = p.stdout.decode('utf-8', 'replace')
    assert p.returncode >= 0, 'the tool was killed by signal %d\n%s' % (-p.returncode, text)
    pixels = b''
    if os.path.exists(d / 'o.nut') and os.path.getsize(d / 'o.nut') > 200:
        pixels = ffmpeg('-i', d / 'o.nut', '-map', '0:v', '-f', 'rawvideo', '-', ok=False).out
    return Said(p.returncode, text, pixels)


def apart(a, b):
    """Mean difference of two videos, in grey levels."""
    n = min(len(a), len(b))
    return sum(abs(x - y) for x, y in zip(a[:n], b[:n])) / n if n else 255


def judge(row, said, by, d):
    """The row's promise against what happened."""
    for word in row.says:
        assert word in said.text, '%s does not say "%s":\n%s' % (by, word, said.text[-1500:])
    assert said.nb == row.frames, '%s gave %g frames, wanted %g\n%s' % (by, said.nb, row.frames, said.text[-1500:])
    if row.refused:
        assert said.code != 0, '%s ended with exit code 0\n%s' % (by, said.text[-800:])
    else:
        assert said.code == 0, '%s ended with exit code %d\n%s' % (by, said.code, said.text[-800:])
    for words in row.never:
        assert words not in said.text, '%s says "%s":\n%s' % (by, words, said.text[-800:])


def case_of(row):
    def check(d):
        if row.function:
            return row.function(d)
        for by, through in (('filter', through_filter), ('tool', through_tool)):
            if by not in row.by:
                continue
            said = through(row, d)
            if show:
                print('---- %s, %s: exit code %d, %g frames' % (row.name, by, said.code, said.nb), interesting(said.text), sep='\n', flush=True)
            judge(row, said, by, d)
            if row.like:
                same, other = (through(table.Row('', row.by, dict(row.given, **g), (), row.frames, False), d).pixels
                               for g in (row.like, dict(picture=make.flat(96, 96))))
                near, far = apart(said.pixels, same), apart(said.pixels, other)
                assert near < 0.4 * far, '%s: %.2f grey levels from what it should be, %.2f from another picture' % (by, near, far)
            row.after(d)
    check.__name__ = row.name
    return check


def interesting(text):
    """Without ffmpeg's account of inputs and outputs."""
    words = re.compile(r'avatar:|usage|terminate|lib|\[Parsed_avatar|.*rror')
    return '\n'.join('     ' + line for line in text.splitlines() if words.match(line))[:2000]


show = False


def main():
    global show
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--bin', required=True, type=pathlib.Path)
    p.add_argument('--model', required=True)
    p.add_argument('--tool', type=pathlib.Path)
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--say', action='store_true')
    p.add_argument('rows', nargs='*')
    a = p.parse_args()
    Env.bin, Env.model, show = a.bin.resolve(), a.model, a.say
    Env.tool = str(a.tool.resolve()) if a.tool and a.tool.exists() else None
    Env.version = (7, 1)
    todo = [r for r in table.ROWS if not a.rows or any(part in r.name for part in a.rows)]
    count = dict(ok=0, FAILED=0, SKIPPED=0)
    with tempfile.TemporaryDirectory(prefix='avatar-bad-') as root, concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        for name, state, why, seconds in pool.map(lambda r: run_case(case_of(r), root), todo):
            count[state] += 1
            print('%-7s %-70s %5.1f s  %s' % (state, name, seconds, why.replace('\n', '\n        ')), flush=True)
    print('%d passed, %d failed, %d skipped' % (count['ok'], count['FAILED'], count['SKIPPED']))
    return 1 if count['FAILED'] or not todo else 0


if __name__ == '__main__':
    sys.exit(main())
