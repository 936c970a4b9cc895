# SPDX-License-Identifier: LGPL-2.1-or-later
"""Talking clips as the DiT sees them: latents of [13 stills, 60 moving frames] and audio features.

    encode_clips.py --vae vae.pt --audio audio.pt --speech speech.pt --out clips --count 1200      (run again: goes on)

Stills stand for the product's motion latents: 4 latents, the last of which repeats (vae: a still's latents are constant from there
on). One clip in sixteen has no speech. Files of 25 clips; the last ones of a run may be read while others are being made.
"""
import argparse
import os
import random
import time

import numpy as np
import torch

import audio
import face
import model
import motion
import parallel
import speech
from train_vae import frames

STILLS, MOVING, FILE, HEARD = 13, 60, 25, 5                  # each clip is heard as it is, and through four bad microphones


def quiet(rng, nr):
    """Silence or noise: a closed mouth."""
    n = 640 * (MOVING + 2)
    return (speech.noise(n, rng, nr) * 10 ** rng.uniform(-5, -1.5)).astype(np.float32), []


def said(pool, rng, held_out):
    if not held_out:
        return pool[rng.randrange(len(pool))]
    t = speech.HARVARD[rng.randrange(len(speech.HARVARD))]
    k = rng.randrange(3)
    if k == 0:
        return speech.pad(*speech.espeak(t, rng.choice(speech.ESPEAK_HELD_OUT), rng.randint(130, 200), rng.randint(30, 70)), rng)
    if k == 1:
        return speech.pad(*speech.flite(t, speech.FLITE_HELD_OUT[0]), rng)
    return speech.pad(*speech.espeak(t, rng.choice(speech.ESPEAK), rng.randint(130, 200), rng.randint(30, 70)), rng)


@torch.no_grad()
def clip(v, pool, seed, held_out, half):
    rng, ears, nr = random.Random(seed), random.Random(seed + 1), np.random.default_rng(seed)
    f = face.for_training(seed)
    w, seg = quiet(rng, nr) if rng.random() < 1 / 16 else said(pool, rng, held_out)
    w = np.pad(w, (0, max(0, 640 * MOVING - len(w))))
    c = motion.curves(w, seg) if seg else np.zeros((len(w) // 640, 8), np.float32)
    heard = [w] + [speech.degrade(w, ears, nr) if seg else w for _ in range(HEARD - 1)]
    at = 0 if rng.random() < .5 else rng.randrange(len(c) - MOVING + 1)
    mood, gaze = (rng.choice([0, 0, 1, -1]) for _ in range(2))
    x = frames(f, [face.NEUTRAL] * STILLS + list(motion.express(c[at:at + MOVING], mood, gaze)))
    with parallel.half(half):
        z = v.encode(x.contiguous(memory_format=torch.channels_last_3d))
    return dict(z=z[0].half(), box=torch.tensor([*face.mouth_box(f), *face.eye_box(f)]), say=torch.tensor([mood, gaze])), (heard, len(c), at)


def listen(a, sounds):
    return torch.stack([torch.stack([audio.features(a, w, n)[..., at:at + MOVING].half() for w in heard]) for heard, n, at in sounds])


def keep(x, path):
    torch.save(x, path + ".new")
    os.replace(path + ".new", path)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--vae", default="build/nano/vae.pt")
    p.add_argument("--audio", default="build/nano/audio.pt")
    p.add_argument("--speech", default="build/nano/speech.pt")
    p.add_argument("--out", default="build/nano/clips")
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--count", type=int, default=1200)
    p.add_argument("--part", type=int, default=0, help="this process makes every --parts'th file")
    p.add_argument("--parts", type=int, default=1)
    p.add_argument("--half", action="store_true", help="bf16 arithmetic")
    p.add_argument("--deaf", action="store_true", help="latents alone, while the audio encoder is being trained; a second run adds features")
    o = p.parse_args()
    parallel.start(1)
    v, a = model.load_vae(o.vae), None if o.deaf else model.load_audio(o.audio)
    pool = parallel.load(o.speech)
    os.makedirs(o.out, exist_ok=True)
    t0, made = time.time(), 0
    for k in range(o.first // FILE + o.part, -(-(o.first + o.count) // FILE), o.parts):
        path, seen = f"{o.out}/{k:05d}.pt", f"{o.out}/{k:05d}.seen"
        if os.path.exists(path) or o.deaf and os.path.exists(seen):
            continue
        if not os.path.exists(seen):
            items = [clip(v, pool, k * FILE + i, k * FILE >= face.HELD_OUT, o.half) for i in range(FILE)]
            keep(({key: torch.stack([x[key] for x, _ in items]) for key in items[0][0]}, [s for _, s in items]), seen)
        if not o.deaf:
            d, sounds = parallel.load(seen)
            keep(dict(d, a=listen(a, sounds)), path)
            os.remove(seen)
        made += FILE
        print(f"{k * FILE + FILE} clips, {(STILLS + MOVING) * made / (time.time() - t0):.0f} frames/s", flush=True)


if __name__ == "__main__":
    main()
