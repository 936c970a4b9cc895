# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of tool.py: values at the edges of their ranges, JSON of every outcome, the cache of calibrations. README.md beside has the list."""
import json
import os
import pathlib
import resource
import shutil
import struct
import subprocess

import tool_harness
from tool_harness import LIMIT, Run, case, face, fails, media, require, speak


def copy_of_model(tmp, name='model'):
    shutil.copytree(tool_harness.A.model, tmp / name)
    return tmp / name


def whole_json(run, code):
    require(run.ret == code, 'wanted exit code', code, '--', run.what)
    return json.loads(run.out, parse_constant=lambda word: require(False, 'no JSON:', word, run.out))


# ---- numbers

@case
def cards_at_the_edges(tmp):
    """Sums of counts beyond 64 bits, sizes that are none: refused, not a crash, and no plan of a NaN."""
    for gpus in ('24+9223372036854775807x24', '9223372036854775807x24', '-1x24', '0x24', '65x24', '1xnan', 'inf', '4x0x18', '4x1e1', '4x 24', '+', '4x', 'x24'):
        fails(Run('plan', '--gpus', gpus), 2, '--gpus', gpus)
    for size in ('nan', 'inf', '0x80', '-1', '0', '65537', '128T', ' 8'):
        fails(Run('plan', '--gpus', '1x24', '--host-memory', size), 2, '--host-memory', size)
        fails(Run('plan', '--model', tool_harness.A.model, '--host-memory', size), 2, '--host-memory', size)
    for size in ('nan', 'inf', '1e300', '-1', '0', '1|', '|1'):
        fails(Run('plan', '--model', tool_harness.A.model, '--memory', size), 2, '--memory', size)


@case
def numbers_that_no_engine_takes(tmp):
    """plan, bench refuse what speak refuses; they do not take it for something else."""
    for args in (('plan',), ('plan', '--gpus', '1x24'), ('plan', '--ops'), ('bench', '--damage'), ('bench', '--calibrate')):
        for option, value in (('steps', '0'), ('steps', '101'), ('precision', 'nope'), ('cpu_level', '77'), ('cpu_threads', '100000'))[:3 if '--gpus' in args else 5]:
            r = Run(*args, '--model', tool_harness.A.model, '--' + option, value, env=dict(os.environ, XDG_CACHE_HOME=str(tmp)))
            fails(r, 1, '%s=%s' % (option, value))
            require(not r.out, r.out)
    fails(Run('plan', '--json=no'), 2, '--json takes no value')
    fails(Run('speak', 'a', 'b', '--quiet=0'), 2, '--quiet takes no value')


@case
def steps_are_the_models(tmp):
    model = copy_of_model(tmp)
    (model / 'avatar.json').write_text('{"lora": "none", "size": "64x64", "steps": 2}')
    for args, want in ((), 2), (('--steps', '3'), 3):
        require(whole_json(Run('plan', '--model', model, '--json', *args), 0)['steps'] == want)
        require(whole_json(Run('plan', '--model', model, '--gpus', '1x24', '--json', *args), 0)['steps'] == want)


# ---- JSON

@case
def json_has_no_nan(tmp):
    """A picture in which nothing can be seen, a recorded answer of NaN: null, and never the same."""
    for d in whole_json(Run('bench', '--damage', '--model', tool_harness.A.model, '--precision', 'int8', '--json'), 0)['precisions']:
        require(d['sharpness'] is None or d['sharpness'] > 0, d)
    model = copy_of_model(tmp)
    require(Run('verify', '--model', model, '--record').ret == 0)
    answer = model / 'verify.safetensors'
    for at in (0, -24 - 4):                                          # the first block, the second
        data = bytearray(answer.read_bytes())
        begin = 8 + struct.unpack('<Q', data[:8])[0] if at == 0 else len(data) + at
        data[begin:begin + 4] = b'\0\0\xc0\x7f'
        (tmp / 'nan.safetensors').write_bytes(data)
        got = whole_json(Run('verify', tmp / 'nan.safetensors', '--model', model, '--json'), 2)
        require(got['verdict'] == 'bad' and got['worst_block'] is None, got)


USELESS = {
    ('bench', '--damage'): ('-o x', '--seed 3', '--mode live', '--format nv12', '--gpus 1x24', '--quiet', '--record'),
    ('bench', '--calibrate'): ('-o x', '--json', '--seconds 9', '--lora none', '--stats x'),
    ('convert', '-o', 'OUT', '--precision', 'int8'): ('--stats x', '--opts lora_alpha=2', '--seed 3', '--size 64x64', '--json', '--no-tune'),
    ('inspect', 'MODEL'): ('--model MODEL', '--json', '-o x', '--quick'),
    ('plan',): ('-o x', '--link pcie4', '--prompt x', '--stats x', '--manifest'),
    ('plan', '--gpus', '1x24'): ('--memory 24', '--devices cpu', '--cpu_threads 1', '--calibrate'),
    ('plan', '--ops'): ('--plan layer', '--offload all', '--memory 24', '-o x'),
    ('verify',): ('--size 64x64', '--steps 2', '-o x', '--stats x', '--full'),
    ('verify', 'OUT', '--record'): ('--json', '--mode live', '--late drop', '-f nut'),
    ('doctor',): ('-o x', '--stats x', '-c:v ffv1', '--seed 3', '--late drop'),
    ('doctor', 'FILM', '--picture', 'x.png'): ('--quick', '--size 64x64'),
    ('top', 'FILM'): ('-o x', '--json', '--quiet'),
    ('plot', 'FILM', '-o', 'OUT'): ('--stats x', '--json', '--size 640x480'),
    ('speak', 'a.wav', 'b.png'): ('--gpus 1x24', '--json', '--record', '--picture x', '--seconds 3', '--ops', '--memory 4'),
    ('worker',): ('--precision int8', '--plan layer', '-o x', '--stats x'),
}


@case
def no_option_is_left_out_in_silence(tmp):
    """What a command has no use for is refused in a sentence with its name, before anything is read or written."""
    (tmp / 'film').write_text('{}\n')
    names = dict(MODEL=tool_harness.A.model, OUT=tmp / 'out', FILM=tmp / 'film')
    for command, given in USELESS.items():
        for option in given:
            words = [names.get(w, w) for w in list(command) + option.split()]
            long = {'-o': '--output', '-f': '--container', '-c:v': '--video_codec', '--no-tune': '--tune'}
            name = option.split()[0]
            r = Run(*words, cwd=tmp, env=dict(os.environ, XDG_CACHE_HOME=str(tmp / 'cache')))
            fails(r, 2, 'has no use for %s;' % long.get(name, name), command[0])
            require(not r.out and os.listdir(tmp) == ['film'], words, os.listdir(tmp))
    fails(Run('bench', '--calibrate', 'face.png'), 2, 'face.png')
    fails(Run('bench', '--damage', '--seeded', '2', '--model', 'x'), 2, '--model')


@case
def names_are_told_as_they_are(tmp):
    """UTF-8 stays what it is in JSON; a file's name does not command the terminal; a device's name is no tag of SVG."""
    name = 'tëxt – 語'
    text = json.dumps(whole_json(Run('doctor', tmp / name, '--model', tmp, '--json'), 2), ensure_ascii=False)
    require(name in text, text)
    model = copy_of_model(tmp)
    (model / 'SHA256SUMS').write_text('0' * 64 + '  \x1b[31mred\n')
    r = Run('doctor', '--model', model)
    require(b'\x1b' not in r.out and b'\\x1b[31mred is not there' in r.out, r.out)
    stats = tmp / 's.jsonl'
    require(speak(media.wav(tmp / 'a.wav', 640), face(tmp), '-o', tmp / 'o.nut', '--stats', stats).ret == 0)
    stats.write_text(stats.read_text().replace('{"device": "cpu", "layers"', '{"device": "<script>&", "layers"'))
    require(Run('plot', stats, '-o', tmp / 'x.svg').ret == 0)
    svg = (tmp / 'x.svg').read_text()
    require('<script>' not in svg and '&#60;script&#62;&#38;' in svg, svg[:600])


def findings(*args, code=2):
    return whole_json(Run('doctor', '--model', tool_harness.A.model, '--json', *args), code)['findings']


@case
def doctor_names_what_is_wrong(tmp):
    """An option that nothing can be made with, a GPU that is not there, samples that are no numbers: bad, and it is said which."""
    for option, value in (('size', '65x64'), ('precision', 'nope'), ('steps', '0'), ('kv', 'fp9'), ('opts', 'a=b')):
        bad = [f for f in findings('--' + option, value) if f['verdict'] == 'bad']
        require([f['topic'] for f in bad] == ['options'] and value.split('=')[0] in bad[0]['remedy'], option, bad)
    require([f['what'] for f in findings('--devices', 'cuda77') if f['verdict'] == 'bad'] == ['GPU'] or shutil.which('nvidia-smi'))
    for name in ('nan', 'inf'):
        sound = media.wav(tmp / 'x.wav', 0, floats=[0.1] * 9000 + [float(name)] * 10 + [0.1] * 9000)
        bad = [(f['what'], f['value']) for f in findings(sound) if f['verdict'] == 'bad']
        require(('samples that are no numbers', 10) in bad, bad)


@case
def doctor_reads_what_speak_reads(tmp):
    """Raw samples that are said to be such, FFmpeg's file:, a name that begins with '-'; a pipe, which can be read once, is refused."""
    wav = pathlib.Path(media.wav(tmp / 'a.wav', 16000))
    (tmp / 'raw').write_bytes(wav.read_bytes()[44:])
    for args in (('file:%s' % wav,), (tmp / 'raw', '--input-format', 's16le')):
        seen = {f['what']: f['value'] for f in findings(*args)}
        require(seen.get('length') == 1 and 'read' not in seen, args, seen)
    os.mkfifo(tmp / 'pipe')
    for name in ('-', tmp / 'pipe'):
        require('only once' in [f for f in findings(name) if f['topic'] == 'input'][0]['text'])


# ---- outputs

@case
def plans_and_statistics_spare_the_model(tmp):
    """plan -o, verify --record, --stats: what the model reads is refused, also when the model goes by a short name."""
    model = copy_of_model(tmp)
    kept = {p: p.read_bytes() for p in model.rglob('*') if p.is_file()}
    by_name = dict(os.environ, AVATAR_MODELS=str(tmp))
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    for name, env in ((model, None), ('model', by_name)):
        config, spoken = model / 'config.json', ('speak', wav, png, '-o', tmp / 'o.nut', '--model', name, '--cpu-threads', 1)
        fails(Run('plan', '--model', name, '--gpus', '1x24', '-o', config, env=env), 1, 'input')
        fails(Run('verify', config, '--model', name, '--record', env=env), 1, 'input')
        for own in ('config.json', 'avatar.json'):
            fails(Run(*spoken, '--stats', model / own, env=env), 1, 'something else')
    require({p: p.read_bytes() for p in model.rglob('*') if p.is_file()} == kept)


@case
def statistics_are_not_the_output(tmp):
    wav, png = media.wav(tmp / 'a.wav', 640), face(tmp)
    for out, stats in ((tmp / 'o.nut', tmp / '.' / 'o.nut'), (tmp / 'o.nut', '%s/../%s/o.nut' % (tmp, tmp.name)), ('-', '/dev/stdout')):
        r = speak(wav, png, '-o', out, '--stats', stats)
        fails(r, 2, '--stats', 'is the output')
        require(not r.out and not (tmp / 'o.nut').exists())
    require(speak(wav, png, '-o', '/dev/null', '-f', 'nut', '--stats', '/dev/null').ret == 0)


@case
def statistics_on_a_full_disk(tmp):
    """What is missing is told with its reason; a line that was cut does not spoil the one behind it."""
    wav, png, stats = media.wav(tmp / 'a.wav', 5 * 7680), face(tmp), tmp / 's.jsonl'
    args = ('-o', '/dev/null', '-f', 'nut', '--stats', stats)
    r = speak(wav, png, '-o', '/dev/null', '-f', 'nut', '--stats', '/dev/full')
    require(r.ret == 0 and '5 lines could not be written' in r.err and 'No space left' in r.err, r.what)
    r = speak(wav, png, *args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY)))
    require(r.ret == 0 and 'could not be written' in r.err and stats.stat().st_size == 1500, r.what)
    whole = stats.read_text().count('\n')
    require(speak(wav, png, *args).ret == 0)
    lines = stats.read_text().split('\n')
    good = [l for l in lines if l.endswith(']}')]
    require(len(good) >= whole + 4 and [json.loads(l) for l in good], lines)


# ---- the cache of calibrations

def calibrated(tmp, *args, **kw):
    return Run(*args, '--model', tool_harness.A.model, env=dict(os.environ, XDG_CACHE_HOME=str(tmp / 'cache')), **kw)


def rates(tmp):
    (tmp / 'cache').mkdir()
    require(calibrated(tmp, 'bench', '--calibrate').ret == 0)
    return next((tmp / 'cache' / 'avatar').glob('*.rates'))


def damaged(lines):
    """The same calls with other values, and what is no call at all."""
    fields = [l.split(' ', 5) for l in lines if not l.endswith(' hop')]
    for values in (('0', '', '', ''), ('-5', '', '', ''), ('', 'nan', 'nan', ''), ('', '0', '0', ''), ('', '1e300', '', ''), ('', '', '', 'inf'), ('', '', '', '1e300'),
                   ('', '', '', 'nan'), ('', '', '', '0'), ('', '', '', '-1')):
        yield '\n'.join(' '.join((values[0] or f[0], f[1], values[1] or f[2], values[2] or f[3], values[3] or f[4], f[5])) for f in fields)
    yield '\n'.join('1 5 1 1 1 linear %d' % i for i in range(400000))
    yield 'x' * 3000000
    yield '\0' * 100000


@case
def calibrations_that_are_none(tmp):
    """A pipe, an endless device, a folder, damaged numbers, 400000 calls: a plan within seconds, and no time that is none."""
    file = rates(tmp)
    good = file.read_text()
    require('fps' in whole_json(calibrated(tmp, 'plan', '--json'), 0))
    file.unlink()
    for make in (lambda: os.mkfifo(file), lambda: file.symlink_to('/dev/zero'), file.mkdir):
        make()
        require('fps' not in whole_json(calibrated(tmp, 'plan', '--json'), 0))
        file.rmdir() if file.is_dir() else file.unlink()
    for i, text in enumerate(damaged(good.splitlines())):
        file.write_text(text)
        plan = whole_json(calibrated(tmp, 'plan', '--json'), 0)
        require('fps' not in plan or plan['fps'] is not None, i, plan)
        require(i >= 10 or 'fps' not in plan, i, plan)
    file.unlink()
    file.mkdir()
    fails(calibrated(tmp, 'bench', '--calibrate'), 1, 'irectory')
    require([p.name for p in file.parent.iterdir()] == [file.name])


@case
def calibrations_of_two_at_once(tmp):
    """Each measures another plan; both are kept. Without a place to keep them nothing is measured in vain in silence."""
    (tmp / 'cache').mkdir()
    env = dict(os.environ, XDG_CACHE_HOME=str(tmp / 'cache'))
    both = [subprocess.Popen([tool_harness.A.tool, 'bench', '--calibrate', '--model', tool_harness.A.model, '--size', size], env=env, stdout=subprocess.PIPE)
            for size in ('64x64', '96x96')]
    require(all(p.communicate(timeout=LIMIT) and p.returncode == 0 for p in both))
    for size in ('64x64', '96x96'):
        require(whole_json(calibrated(tmp, 'plan', '--size', size, '--json'), 0)['calibrated'] == 1, size)
    for home in ({}, {'HOME': ''}, {'XDG_CACHE_HOME': '/' + 'x' * 3000}):
        r = Run('bench', '--calibrate', '--model', tool_harness.A.model, env=dict(home, PATH=os.environ['PATH']))
        fails(r, 1, 'HOME')
    require(not pathlib.Path('/tmp/.cache/avatar').exists())
