#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tests of the avatar filter in a built ffmpeg, with a tiny model on the CPU.

    run.py --bin build/ffmpeg/bin --model DIR [--tool build/avatar] [--simt build/simt/lib] [--jobs 2] [--patience N] [CASE...]

One line a case, then "N passed, N failed, N skipped". Each run of ffmpeg has a time limit: a hang is the typical failure.
"""
import argparse
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import Env, main     # noqa: E402
import cases_basic                # noqa: E402,F401
import cases_streams              # noqa: E402,F401
import cases_live                 # noqa: E402,F401
import cases_clock                # noqa: E402,F401
import cases_pictures             # noqa: E402,F401
import cases_changes              # noqa: E402,F401
import cases_ends                 # noqa: E402,F401
import cases_odd                  # noqa: E402,F401
import cases_bad                  # noqa: E402,F401
import cases_cuda                 # noqa: E402,F401

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--bin', required=True, type=pathlib.Path)
    p.add_argument('--model', required=True)
    p.add_argument('--tool')
    p.add_argument('--simt', type=pathlib.Path, metavar='DIR', help='of the library with the emulated GPU')
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--patience', type=float, default=1, metavar='N', help='time limits N times as long, for a busy machine')
    p.add_argument('cases', nargs='*')
    a = p.parse_args()
    Env.bin, Env.model, Env.tool, Env.patience = a.bin.resolve(), a.model, a.tool, a.patience
    Env.simt = a.simt and a.simt.resolve()
    text = subprocess.run([str(Env.bin / 'ffmpeg'), '-version'], stdout=subprocess.PIPE).stdout.decode()
    Env.version = tuple(int(x) for x in re.search(r'version n?(\d+)\.(\d+)', text).groups())
    print('ffmpeg %d.%d in %s' % (*Env.version, Env.bin))
    sys.exit(main(a.cases, a.jobs))
