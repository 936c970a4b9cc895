#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every command line that the documents print is run as printed: those of doc/avatar.texi, doc/avatar.1.in, README.md, doc/live.md.

    examples.py --src DIR --tool build/avatar --model DIR [--bin build/ffmpeg/bin] [WORD...]      blocks with one of the words

Files of the names that they use lie there; the published model's folder becomes that of --model, sizes small ones, a server a file.
Without an ffmpeg that has the filter only the lines of the tool run.
"""
import argparse
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / 'filter'))
import media                      # noqa: E402

OURS = ('avatar', 'ffmpeg', 'ffprobe', 'espeak-ng', 'arecord')
OTHERS = ('make', 'mpirun', 'git', 'pip', 'hf', 'cd', './configure', 'tools/setup.sh', 'apt-get', '-f', '-g', 'export', 'AVATAR_MODELS')     # not run here
STAND_INS = (('/models/live-avatar', '{model}'), ('704x384', '96x64'), ('rtmp://HOST/live/KEY', 'server.flv'), ('"srt://HOST:PORT"', 'server.ts'))


def texi(text):
    for block in re.findall(r'@example\n(.*?)@end example', text, re.S):
        yield re.sub(r'@([@{}])', r'\1', block)


def man(text):
    for block in re.findall(r'^\.EX\n(.*?)^\.EE', text, re.S | re.M):
        yield block.replace('\\-', '-').replace('\\e', '\\').replace('\\(dq', '"')


def markdown(text):
    yield from re.findall(r'^```sh\n(.*?)^```', text, re.S | re.M)


def commands(block):
    """The block's lines, those that go on joined; comments dropped."""
    lines = re.sub(r'\\\n\s*', ' ', block)
    lines = re.sub(r'\|\n\s*', '| ', lines)
    for line in lines.split('\n'):
        line = re.sub(r'(^|\s)#\s.*', '', line).strip()
        if line:
            yield line


def program(line):
    words = [w for w in line.split() if not re.match(r'^[A-Z_]+=', w)]
    return words[0] if words else ''


def make_inputs(folder):
    for name in ('speech.wav', 'speech.mp3', 'a.wav', 'b.wav', 'hello.wav'):
        media.wav(folder / name, 12800)
    for name in ('face.png', 'a.png', 'b.png', 'face.jpg'):
        media.png(folder / name, 64, 64)
    bin = folder / 'bin'
    bin.mkdir()
    (folder / 'raw').write_bytes(struct.pack('<12800h', *media.samples(12800)))
    stub = '#!/bin/sh\ncat "%s"\n'
    (bin / 'arecord').write_text(stub % (folder / 'raw'))
    if not shutil.which('espeak-ng'):
        (bin / 'espeak-ng').write_text(stub % (folder / 'speech.wav'))
    for p in bin.iterdir():
        p.chmod(0o755)


def run(line, folder, env):
    """'' or what went wrong."""
    inputs = {p.name for p in folder.iterdir()}
    p = subprocess.run(['bash', '-eo', 'pipefail', '-c', line], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, timeout=300)
    if line.startswith('avatar doctor') and p.returncode <= 2 and p.stdout:     # its verdict, on inputs that are toys
        return ''
    if p.returncode:
        return 'exit code %d: %s' % (p.returncode, p.stderr.decode(errors='replace')[-600:])
    for word in re.findall(r'\b[\w-]+\.(?:mp4|mkv|mov|webm|ts|nut|flv)\b', line):
        if not (folder / word).exists() or not (folder / word).stat().st_size:
            return word + ' was not made'
        if word not in inputs:
            (folder / word).unlink()
    return ''


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for o in ('src', 'tool', 'model'):
        parser.add_argument('--' + o, required=True, type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument('--bin', type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument('words', nargs='*')
    a = parser.parse_args()
    has_filter = a.bin and (a.bin / 'ffmpeg').exists()
    passed = failed = skipped = 0
    folder = pathlib.Path(tempfile.mkdtemp(prefix='avatar-examples-'))
    make_inputs(folder)
    env = dict(os.environ, OMP_WAIT_POLICY='passive', PATH='%s:%s:%s%s' % (folder / 'bin', a.tool.parent, '%s:' % a.bin if has_filter else '', os.environ['PATH']))
    for name, blocks in (('doc/avatar.texi', texi), ('doc/avatar.1.in', man), ('README.md', markdown), ('doc/live.md', markdown)):
        for block in blocks((a.src / name).read_text()):
            for line in commands(block):
                first = program(line)
                if first in OTHERS or (a.words and not any(w in line for w in a.words)):
                    continue
                if not has_filter and re.search(r'\bff(mpeg|probe)\b', line):
                    skipped += 1
                    continue
                real = line
                for old, new in STAND_INS:
                    real = real.replace(old, new.format(model=a.model))
                why = run(real, folder, env) if first in OURS else '%r is neither ours nor in the list of others' % first
                print('%s %s: %s%s' % ('FAIL' if why else 'ok  ', name, line, '\n     ' + why if why else ''), flush=True)
                failed, passed = failed + bool(why), passed + (not why)
    shutil.rmtree(folder, ignore_errors=True)
    if skipped:
        print('SKIPPED: %d lines want an ffmpeg with the filter: make ffmpeg' % skipped)
    print('%d passed, %d failed, %d skipped' % (passed, failed, skipped))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
