# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The table: what is given, and what must come of it. A row is run through the filter and through the tool, unless `by` says one.

    bad(name, WORDS..., what is given)      refused: an error, every one of the words in the message, no frame
    odd(name, NB, what is given)            merely unusual: NB frames and exit code 0; `like`: they look as with that

Given are sound, picture, model, opts, second=True (the picture as second input), graph (filters before ours), mem_mb (RLIMIT_AS).
"""
import os
import signal
import subprocess
import time

from harness import Env, ffmpeg, filt
from inputs import (DENORMAL, DIT, LOUD, OFFSET, OVER, Q, SILENT, SPIECE, T5, VAE, WAV2VEC2, alpha, beyond, bomb, config,
                    cut_sound, deep, drop, empty_file, face, file, flat, folder, grey, grey_as_rgb, holding, hostile, in_shards, lora,
                    overlap, poison, replaced, reshape, resized, retype, sideways, speech, spoilt, swap, tensors, text_file, truncated, without)

NAN, INF = float('nan'), float('inf')
BOTH = ('filter', 'tool')
ROWS = []


class Row:
    def __init__(self, name, by, given, says, frames, refused, like=None, after=lambda d: None, never=(), function=None):
        self.name, self.by, self.given, self.says, self.frames = name, by, given, says, frames
        self.refused = refused
        self.like, self.after, self.never, self.function = like, after, never, function


def bad(name, *says, by=BOTH, after=lambda d: None, frames=0, **given):
    ROWS.append(Row(name, (by,) if isinstance(by, str) else by, given, says, frames, True, after=after))


def odd(name, frames, *says, by=BOTH, like=None, never=(), **given):
    ROWS.append(Row(name, (by,) if isinstance(by, str) else by, given, says, frames, False, like, never=never))


def row(function):
    """A row that is a story: its docstring says what must come of it."""
    ROWS.append(Row(function.__name__.replace('_', ' ') + ': ' + function.__doc__, BOTH, {}, (), 0, False, function=function))


# ---- the picture ----------------------------------------------------------------------------------------------------------

bad('picture: not there', 'gone.png', 'No such file', picture=lambda d: d / 'gone.png')
bad('picture: text under the name of a picture', 'text.png', picture=text_file)
bad('picture: an empty file', 'empty', picture=empty_file)
bad('picture: a sound file', '.wav', picture=speech(640))
bad('picture: a PNG cut off in its header', 'cut.png', picture=truncated(0.005))
bad('picture: a PNG cut off in the middle', 'cut.png', picture=truncated(0.6))
bad('picture: an animated WebP, which FFmpeg does not decode', 'animated.webp', picture=file('animated.webp'))
bad('picture: wider than 32768', '40000x16', 'scale it first', picture=flat(40000, 16))
odd('picture: 1x1', 1, picture=flat(1, 1))
odd('picture: 1x300', 1, picture=flat(1, 300))
odd('picture: 10000x10000', 1, picture=flat(10000, 10000))
odd('picture: with alpha: it is dropped', 1, picture=alpha, like=dict(picture=face))
odd('picture: grey', 1, picture=grey, like=dict(picture=grey_as_rgb))
odd('picture: 16 bits a channel', 1, picture=deep, like=dict(picture=face))
odd('picture: CMYK JPEG', 1, picture=file('cmyk.jpg'), like=dict(picture=lambda d: d.png(48, 48)))
odd('picture: JPEG stored sideways, EXIF says how to turn it', 1, picture=sideways, like=dict(picture=face))
odd('picture: animated GIF: its first frame', 1, picture=file('animated.gif'), like=dict(picture=lambda d: d.png(48, 48)))
odd('picture: a still WebP', 1, picture=file('still.webp'), like=dict(picture=lambda d: d.png(48, 48)))
odd('picture: grey as second input', 1, by='filter', second=True, picture=grey, like=dict(picture=grey_as_rgb))
odd('picture: an animated GIF as second input: its first frame', 1, by='filter', second=True, picture=file('animated.gif'),
    like=dict(picture=lambda d: d.png(48, 48)))


@row
def no_picture_at_all(d):
    """refused with words, no frame"""
    r = ffmpeg('-i', d.wav(640), '-filter_complex', '[0:a]' + filt(), '-f', 'null', '-', ok=False)
    assert r.code != 0 and 'input pad avatar' in r.text(), r.text()[-800:]
    p = tool('speak', d.wav(640))
    assert p.returncode == 2 and 'usage: avatar speak AUDIO PICTURE' in words(p), words(p)


@row
def two_pictures(d):
    """one is asked for, and nothing guessed"""
    r = ffmpeg('-i', d.wav(640), '-i', d.png(), '-filter_complex', '[0:a][1:v]' + filt(image=d.png()), '-f', 'null', '-', ok=False)
    assert r.code != 0 and 'avatar' in r.text(), r.text()[-800:]
    p = tool('speak', d.wav(640), d.png(), d.png())
    assert p.returncode == 2 and 'usage: avatar speak AUDIO PICTURE' in words(p), words(p)


# ---- the sound ------------------------------------------------------------------------------------------------------------

bad('sound: not there', 'gone.wav', 'No such file', by='tool', sound=lambda d: d / 'gone.wav')
bad('sound: text under another name', 'text.png', by='tool', sound=text_file)
bad('sound: a picture without sound', 'holds no sound', by='tool', sound=face)
bad('sound: one NaN sample', 'sample 9000 of the sound is not a finite number', 'repair the sound', sound=spoilt(9000, NAN))
bad('sound: one infinite sample', 'sample 20 of the sound is not a finite number', 'repair the sound', sound=spoilt(20, INF))
odd('sound: no sample, of a graph', 0, by='filter', sound=speech(0))
bad('sound: no sample', 'holds no sound', by='tool', sound=speech(0))
odd('sound: one sample', 1, sound=speech(1))
odd('sound: silence', 25, sound=SILENT)
odd('sound: numbers too small to be normal', 25, sound=DENORMAL)
odd('sound: clipped', 25, sound=LOUD)
odd('sound: far beyond full scale', 25, sound=OVER)
odd('sound: a constant added', 25, sound=OFFSET)
odd('sound: 8 kHz', 25, sound=speech(8000, 8000))
odd('sound: 48 kHz', 25, sound=speech(48000, 48000))
odd('sound: 96 kHz', 25, sound=speech(96000, 96000))
odd('sound: 5.1', 25, sound=speech(48000, 48000, 6))
odd('sound: 12 channels', 25, sound=speech(48000, 48000, 12))
odd('sound: a file that ends before its header says', 5, sound=cut_sound)
odd('sound: stops for half a second and returns', 50, by='filter', sound=speech(32000), graph="aselect='not(between(t,0.5,1))',")

# ---- the model folder -----------------------------------------------------------------------------------------------------

bad('model: no such folder', 'nowhere', 'no model folder there', model=lambda d: d / 'nowhere')
bad('model: a file', 'is a file', "'model' names the folder", model=text_file)
bad('model: an empty folder', 'config.json', 'is missing', 'Wan2.2-S2V-14B', model=lambda d: os.makedirs(d / 'void') or d / 'void')
for name in ('config.json', DIT, VAE, T5, SPIECE, WAV2VEC2 + 'model.safetensors', WAV2VEC2 + 'config.json',
             WAV2VEC2 + 'preprocessor_config.json'):
    bad('model: no ' + name, name.replace(VAE, 'Wan2.1_VAE.pth').replace(T5, T5[:-11] + 'pth').replace(DIT, DIT + '.index.json'),
        'is missing', model=without(name))
bad('model: a shard that the index names is missing', 'part-2.safetensors', 'the index names this shard',
    model=in_shards(lambda m: None, ['part-2.safetensors']))
bad('model: the index names a tensor that its shard lacks', Q, 'part-', model=in_shards(swap))
bad('model: the index leads out of the folder', '../', model=in_shards(lambda m: m.update({Q: '../part-1.safetensors'})))
odd('model: two shards and an index', 1, model=in_shards(lambda m: None), like=dict(model=lambda d: Env.model))
bad('model: a tensor is missing', Q, 'missing', model=tensors(DIT, drop(Q)))
bad('model: a tensor of the VAE is missing', 'decoder.conv1.weight', model=tensors(VAE, drop('decoder.conv1.weight')))
bad('model: a key of config.json is missing', 'num_heads', 'config.json', model=config('config.json', num_heads=None))
bad('model: a key of wav2vec2 is missing', 'hidden_size', 'config.json', model=config(WAV2VEC2 + 'config.json', hidden_size=None))
bad('model: a key of the wrong type', 'num_layers', 'config.json', model=config('config.json', num_layers='four'))
bad('model: another number of layers than tensors', 'num_layers', 'config.json', model=config('config.json', num_layers=5))
bad('model: heads that do not divide the width', 'num_heads', model=config('config.json', num_heads=7))
bad('model: a model of another kind', 't2v', 'Wan2.2-S2V', model=config('config.json', model_type='t2v'))
bad('model: config.json is not JSON', 'config.json', model=holding('config.json', b'{"dim": 48,'))
bad('model: avatar.json with a value that is not allowed', 'avatar.json', 'size',
    model=holding('avatar.json', b'{"size": "65x64"}'))
bad('model: avatar.json with more steps than there can be', 'avatar.json', '"steps" must be between 1 and 100',
    model=config('avatar.json', steps=101))
bad('model: avatar.json with a byte order mark', 'avatar.json', 'byte order mark', model=holding('avatar.json', b'\xef\xbb\xbf{}'))
bad('model: avatar.json is a link that leads nowhere', 'avatar.json', 'cannot be opened',
    model=replaced('avatar.json', lambda p: os.symlink('gone', p)))
bad('model: names that would command the terminal', '\\x1b[31m', '\\n',
    model=holding('avatar.json', b'{"lora": "\\u001b[31m\\nred"}'))
odd('model: config.json with 50000 keys that nobody knows', 1, 'not known', by='tool',
    model=config('config.json', **{f'key {i}': i for i in range(50000)}))
for name in (DIT, VAE, T5, SPIECE, 'config.json', 'avatar.json'):
    bad(f'model: {name} is a pipe that nobody writes', name, 'not a regular file', model=replaced(name, os.mkfifo))
bad('model: a tensor of another shape', Q, '[24, 96]', model=tensors(DIT, reshape(Q, [24, 96])))
bad('model: a tensor whose shape and bytes disagree', Q, model=tensors(DIT, reshape(Q, [48, 47])))
bad('model: a shape whose product overflows', Q, model=tensors(DIT, reshape(Q, [2 ** 62, 8])))
bad('model: a negative dimension', DIT, 'must be between 0', model=tensors(DIT, reshape(Q, [-48, -48])))
bad('model: a tensor of a type that does not exist', Q, 'F31', model=tensors(DIT, retype(Q, 'F31')))
bad('model: whole numbers where weights are wanted', Q, model=tensors(DIT, retype(Q, 'I32')))
bad('model: a file cut off', DIT, model=resized(DIT, 0.7))
bad('model: a file of 5 bytes', DIT, model=resized(DIT, 5))
bad('model: an empty file', VAE, model=holding(VAE, b''))
bad('model: two tensors on the same bytes', DIT, model=tensors(DIT, overlap))
bad('model: offsets beyond the file', Q, model=tensors(DIT, beyond))
bad('model: a header of 2^63 bytes', DIT, 'header', model=holding(DIT, b'\0\0\0\0\0\0\0\x80{}'))
bad('model: a header of 99 MB that is not there', DIT, model=holding(DIT, b'\0\0\0\x06\0\0\0\0{}'))
bad('model: a zip bomb', 'Wan2.1_VAE.pth', model=holding('Wan2.1_VAE.pth', bomb))
bad('model: a pickle that calls something', 'Wan2.1_VAE.pth', 'system', model=holding('Wan2.1_VAE.pth', hostile),
    after=lambda d: must(not os.path.exists(d / 'called'), 'it was called'))
bad('model: a folder in place of a file', 'Wan2.1_VAE.pth', 'is missing',
    model=lambda d: (os.remove(folder(d) / VAE), os.makedirs(folder(d) / VAE)) and d / 'model')
bad('model: a NaN among the weights', Q, model=tensors(DIT, poison(Q, NAN)))
bad('model: an infinity among the weights of the VAE', 'decoder.conv1.weight',
    model=tensors(VAE, poison('decoder.conv1.weight', INF)))
bad('model: a tokenizer that is none', 'spiece.model', model=holding(SPIECE, b'pieces of nothing'))
bad('model: a tokenizer cut off', 'spiece.model', model=resized(SPIECE, 0.5))
bad('model: wav2vec2 of another width', 'wav2vec2', model=config(WAV2VEC2 + 'config.json', hidden_size=64))

# ---- the LoRA -------------------------------------------------------------------------------------------------------------

odd('lora: one that fits', 1, opts=dict(lora=lora(lambda p: p)))
bad('lora: not there', 'gone.safetensors', opts=dict(lora=lambda d: d / 'gone.safetensors'))
bad('lora: matches nothing', 'lora', opts=dict(lora=lora(lambda p: {k.replace('blocks', 'layers'): v for k, v in p.items()})))
bad('lora: of a wider model', 'lora',
    opts=dict(lora=lora(lambda p: {k: [2 * v[0], v[1]] if '_B' in k else v for k, v in p.items()})))
bad('lora: of a deeper model', 'blocks.9',
    opts=dict(lora=lora(lambda p: dict(p, **{k.replace('blocks.0', 'blocks.9'): v for k, v in p.items()}))))
bad('lora: half of each pair is missing', 'half B is missing',
    opts=dict(lora=lora(lambda p: {k: v for k, v in p.items() if '_A' in k})))
bad('lora: a text file', 'text.png', opts=dict(lora=text_file))
bad('lora: the model asks for one and has none', 'liveavatar.safetensors', 'lora=', model=config('avatar.json', lora='required'))

# ---- options --------------------------------------------------------------------------------------------------------------

bad('option: size is not a multiple of 16', '100x64', '16', 'nearest is 96x64', opts=dict(size='100x64'))
bad('option: size is too small', '32x32', '64', opts=dict(size='32x32'))
bad('option: size is too large', '8192x64', '4096', opts=dict(size='8192x64'))
bad('option: size is no size', 'size', opts=dict(size='wide'))
bad('option: steps=0', 'steps', opts=dict(steps=0))
bad('option: steps=101', 'steps', opts=dict(steps=101))
bad('option: an unknown plan', 'plan=', 'sequential, wave, timestep or layer', opts=dict(plan='spiral'))
bad('option: a plan for several devices on one', 'plan=timestep', 'devices', opts=dict(plan='timestep', steps=4))
bad('option: more parts than heads', 'plan=tensor4', '3 heads', 'the nearest is tensor3', opts=dict(plan='tensor4', devices='cpu|cpu|cpu|cpu'))
bad('option: devices that are no whole teams', 'plan=layer+ulysses2', 'name 2 or 4', opts=dict(plan='layer+ulysses2', devices='cpu|cpu|cpu'))
bad('option: a decoder on more devices than there are', 'vae_split=3', 'split over 2', opts=dict(vae_split=3, devices='cpu|cpu'))
bad('option: more ranks than layers', 'layers', opts=dict(plan='layer', devices='cpu|cpu|cpu|cpu|cpu'))
bad('option: an unknown device', 'toaster', 'cpu', opts=dict(devices='toaster'))
bad('option: an empty device', 'devices', 'cpu', opts=dict(devices='cpu|'))
bad('option: a GPU that is not there', 'cuda7', opts=dict(devices='cuda7'))
bad('option: the VAE on a device that is not there', 'cuda7', opts=dict(vae_device='cuda7'))
bad('option: an unknown expert setting', 'nonsense', 'lora_alpha', opts=dict(opts='nonsense=1'))
bad('option: an expert setting without sense', 'lora_alpha', opts=dict(opts='lora_alpha=-3'))
bad('option: an unknown format', 'format', opts=dict(format='gray'))
bad('option: an unknown tail', 'tail', opts=dict(tail='bushy'))
bad('option: an unknown compat', 'compat', opts=dict(compat='strict'))
bad('option: a seed out of range', 'seed', opts=dict(seed=2 ** 32))
bad('option: an option that does not exist', 'sparkle', opts=dict(sparkle=1))
bad('option: a prompt that is not UTF-8', 'UTF-8', opts=dict(prompt=b'caf\xe9'.decode('utf-8', 'surrogateescape')))
bad('option: -3 threads', 'cpu_threads', opts=dict(cpu_threads=-3))
bad('option: 100000 threads', 'cpu_threads', opts=dict(cpu_threads=100000))
odd('option: 1024 threads: a few a core are used', 1, 'cpu_threads=1024', 'are used', opts=dict(cpu_threads=1024))

# ---- the machine ----------------------------------------------------------------------------------------------------------

bad('machine: memory for a small part of it (RLIMIT_AS)', 'memory', opts=dict(size='1024x1024'), mem_mb=700)


def tool(*args, **kw):
    return subprocess.run([Env.tool] + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=60, **kw)


def words(p):
    return p.stderr.decode('utf-8', 'replace')


def must(ok, why):
    assert ok, why


def speak(d, *args):
    return ['speak', d.wav(48000), d.png(), '--model', Env.model, '--seed', '7', '--cpu_threads', '1'] + list(args)


def graph(d, **opts):
    return ['-i', d.wav(48000), '-filter_complex', '[0:a]' + filt(image=d.png(), **opts), '-c:v', 'rawvideo', '-c:a', 'pcm_s16le',
            '-f', 'nut']


@row
def disk_full(d):
    """an error that says so, at once"""
    p = tool(*speak(d, '--size', '64x64', '-o', '/dev/full'))
    assert p.returncode == 1 and 'No space left' in words(p), (p.returncode, words(p))
    r = ffmpeg(*graph(d), '/dev/full', ok=False)
    assert r.code != 0 and 'No space left' in r.text(), r.text()[-800:]


@row
def output_folder_is_not_there(d):
    """an error that names it"""
    p = tool(*speak(d, '-o', d / 'no/where.nut'))
    assert p.returncode == 1 and 'no/where.nut' in words(p), (p.returncode, words(p))


@row
def closed_pipe(d):
    """the reader goes after a moment: the writer ends with an error, not by a signal"""
    for cmd in ([Env.tool] + speak(d, '--size', '64x64', '-o', '-'), [str(Env.bin / 'ffmpeg'), '-nostdin'] + graph(d) + ['-']):
        p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert len(p.stdout.read(20000)) == 20000
        p.stdout.close()
        err = p.stderr.read().decode('utf-8', 'replace')
        p.stderr.close()
        assert p.wait(timeout=60) > 0 and 'roken pipe' in err, (cmd[0], p.returncode, err[-800:])


def stopped(cmd, sig):
    """Run until frames flow, send the signal in the middle of the next block: seconds, exit code, bytes, words."""
    p = subprocess.Popen(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = p.stdout.read(1 << 18)
    p.send_signal(sig)
    start = time.monotonic()
    out, err = p.communicate(timeout=60)
    return time.monotonic() - start, p.returncode, head + out, err.decode('utf-8', 'replace')


def stop_both(d, sig):
    """
    The tool gives up the block at hand. ffmpeg stops reading, and the filter finishes the sound that it has: as it cannot be told.
    The first block of 128x128 is 295 kB; the tool's, of 30 steps, take a second each.
    """
    for cmd, codes in (([Env.tool] + speak(d, '--size', '128x128', '--steps', '30', '-o', '-'), (1,)),
                       ([str(Env.bin / 'ffmpeg'), '-nostdin'] + graph(d, size='128x128', steps=2) + ['-'], (0, 255))):
        seconds, code, data, err = stopped(cmd, sig)
        assert code in codes, 'exit code %d after %.1f s\n%s' % (code, seconds, err[-800:])
        with open(d / 'o.nut', 'wb') as f:
            f.write(data)
        r = ffmpeg('-i', d / 'o.nut', '-map', '0:v', '-f', 'framecrc', '-', ok=False)
        nb = sum(line.startswith(b'0,') for line in r.out.splitlines())
        assert nb >= 10 and (nb < 75 or cmd[0] != Env.tool), '%s: %d frames of 75 came through' % (cmd[0], nb)


@row
def ctrl_c_in_the_middle_of_a_block(d):
    """out within moments, what was made is there"""
    stop_both(d, signal.SIGINT)


@row
def kill_term_in_the_middle_of_a_block(d):
    """the same"""
    stop_both(d, signal.SIGTERM)


@row
def little_memory(d):
    """whatever RLIMIT_AS is, there are frames or an error with words, never a signal"""
    from harness import limit_memory
    good = 0
    for mb in (60, 100, 140, 180, 220, 260, 300, 350, 400, 500, 700, 1500):
        p = tool(*speak(d, '--size', '64x64', '--steps', '1', '-o', d / 'o.nut'), preexec_fn=limit_memory(mb))
        text = words(p) + p.stdout.decode('utf-8', 'replace')
        assert p.returncode in (0, 1, 127) and text.strip(), '%d MB: exit code %d\n%s' % (mb, p.returncode, text)
        good += p.returncode == 0
    assert good, 'not even 1500 MB were enough\n' + text


@row
def inspect_and_plan_of_a_bad_folder(d):
    """the two look at anything without falling"""
    for broken in (lambda d: d / 'nowhere', without('config.json'), holding(DIT, b'\0\0\0\0\0\0\0\x80{}'), holding(VAE, b'')):
        folder_of = broken(d)
        for command in ('inspect', 'plan'):
            args = [command, folder_of] if command == 'inspect' else [command, '--model', folder_of]
            p = tool(*args)
            text = words(p) + p.stdout.decode()
            assert p.returncode in (0, 1) and text.strip(), '%s %s: exit code %d\n%s' % (command, folder_of, p.returncode, text)
