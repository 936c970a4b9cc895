# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: folders of models that are not what they seem, and files that have grown for weeks. README.md beside has the list."""
import os
import resource
import shutil

import tool_harness
from tool_harness import Run, case, fails, require


def copy_of_model(tmp, name):
    shutil.copytree(tool_harness.A.model, tmp / name)
    return tmp / name


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def convert(model, out):
    return Run('convert', '--model', model, '--precision', 'int8', '-o', out)


def replace(path, make):
    path.unlink(missing_ok=True)
    make(path)


# ---- convert

@case
def convert_spares_its_model(tmp):
    """Into a folder whose files are links to the model's, or whose folders are: refused, and the model is as it was."""
    model = copy_of_model(tmp, 'model')
    want = contents(model)
    for name, link in (('soft', os.symlink), ('hard', os.link)):
        (tmp / name).mkdir()
        for p in model.glob('*.safetensors'):
            link(p, tmp / name / p.name)
        fails(convert(model, tmp / name), 1, name, 'a file of the model', 'folder of its own')
        require(contents(model) == want, name, 'has cost the model a file')
    (tmp / 'deep').mkdir()
    (tmp / 'deep' / 'google').symlink_to(model / 'google')
    require(convert(model, tmp / 'deep').ret == 0 and contents(model) == want, 'what is the same already stays')


@case
def convert_fails_late(tmp):
    """At a file that is a pipe, or cannot be read, after the transformer: told at once, and when that is mended the next run makes it whole."""
    model = copy_of_model(tmp, 'model')
    require(convert(model, tmp / 'want').ret == 0)
    for part in ('google/umt5-xxl/spiece.model', 'Wan2.1_VAE.safetensors', 'wav2vec2-large-xlsr-53-english/preprocessor_config.json'):
        whole, out = (model / part).read_bytes(), tmp / part.replace('/', '-')
        for what, make in (('not a regular file', os.mkfifo), ('not a regular file', lambda p: p.symlink_to('/dev/zero'))):
            replace(model / part, make)
            fails(convert(model, out), 1, part, what)
            require(not list(out.rglob('.avatar-*')), 'left', list(out.rglob('.avatar-*')))
            replace(model / part, lambda p: p.write_bytes(whole))
            r = convert(model, out)
            require(r.ret == 0 and contents(out) == contents(tmp / 'want'), part, r.what)
            shutil.rmtree(out)


# ---- doctor

@case
def sums_that_are_none(tmp):
    """SHA256SUMS is a pipe, a device, three gigabytes of nothing: said, with what helps, as soon as of one that can be read."""
    model = copy_of_model(tmp, 'model')
    sums = model / 'SHA256SUMS'
    for word, make in (('not a regular file', os.mkfifo), ('not a regular file', lambda p: p.symlink_to('/dev/zero')),
                       ('at most 64 MB', lambda p: (p.touch(), os.truncate(p, 3 << 30))), ('is a folder', lambda p: p.mkdir())):
        replace(sums, make)
        r = Run('doctor', '--model', model)
        require(r.ret == 2 and word in r.out.decode() and 'inspect --manifest' in r.out.decode(), word, r.ret, r.out.decode(), r.err)
        if sums.is_dir():
            sums.rmdir()
    sums.write_bytes(os.urandom(1 << 20))
    require('0 files are those of SHA256SUMS' in Run('doctor', '--model', model).out.decode(), 'noise')


# ---- plot

@case
def statistics_of_weeks(tmp):
    """A line takes a few bytes of memory, as curves are made of it; where even these are not there, that is said."""
    lines = tmp / 's.jsonl'
    lines.write_text(''.join('{"block": %d, "fps": %d.5, "ranks": [{"device": "cpu"}]}\n' % (i, i % 50) for i in range(60000)))
    require(Run('plot', lines, '-o', tmp / 'a.svg').ret == 0)

    def limit(size):
        return lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    r = Run('plot', lines, '-o', tmp / 'b.svg', preexec_fn=limit(60 << 20))
    require(r.ret == 0 and (tmp / 'a.svg').read_bytes() == (tmp / 'b.svg').read_bytes(), r.what)
    lines.write_text('{"block": 0, "ranks": [%s]}\n' % ', '.join(['{}'] * 60) * 140000)
    fails(Run('plot', lines, '-o', tmp / 'c.svg', preexec_fn=limit(40 << 20)), 1, 's.jsonl', 'not enough memory')
    require(not (tmp / 'c.svg').exists())


@case
def statistics_beyond_numbers(tmp):
    """Numbers whose sums and differences are none: curves and bars without a NaN, an infinity, three hundred digits."""
    line = '{"block": %d, "fps": %s, "block_ms": %s, "ahead_ms": %s, "ranks": [{"device": "cpu", "ms": {"wait": %s, "layers": 1e308}, "bytes": {"state": 1e308}}]}\n'
    for fps in ('1e308', '1e18', '-1e308'):
        (tmp / 's.jsonl').write_text(line % (0, fps, '-1e308', '1e308', '1e308') + line % (1, '-' + fps.strip('-'), '1e308', '-1e308', '-1e308') + line % (2, 1, 2, 3, 4))
        require(Run('plot', tmp / 's.jsonl', '-o', tmp / 'a.svg').ret == 0)
        svg, screen = (tmp / 'a.svg').read_text(), Run('top', tmp / 's.jsonl').out.decode()
        require(not any(w in t for w in ('nan', 'inf', '0' * 30) for t in (svg, screen)) and len(screen) < 2000, fps, svg, screen)
