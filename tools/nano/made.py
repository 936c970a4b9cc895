# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the transformer makes of drawn portraits that talk: its latents, and the curves that it should have followed.

    made.py --model model/nano --speech build/nano/speech.pt --out build/nano/made --count 200        (run again: goes on)

The decoder learns from them (train_vae.py --made) to draw the true picture of what it will be given: the transformer's latents are a
little softer than the encoder's, and may be of drawings that looked otherwise, while the decoder alone decides what a picture looks like.
Files of 4 clips of 96 frames; the motion latents that the product has before them come first.
"""
import argparse
import os
import random
import time

import numpy as np
import torch

import audio
import encode_clips
import face
import model
import motion
import parallel
import speech
import text
from train_vae import BEFORE, frames

BLOCKS, FILE = 8, 4


@torch.no_grad()
def clip(m, pool, seed):
    """-> latents f16 [16, BEFORE + 3 BLOCKS, 16, 16], true curves [12 BLOCKS, 10], the person's seed"""
    rng = random.Random(seed)
    who = rng.randrange(face.HELD_OUT)
    w, seg = pool[rng.randrange(len(pool))]
    w = np.pad(w, (0, max(0, 7680 * BLOCKS - len(w))))[:7680 * BLOCKS]
    mood, gaze = (rng.choice([0, 1, -1]) for _ in range(2)) if rng.random() < .3 else (0, 0)
    prompt = text.prompt(rng, mood, gaze) if mood or gaze else m.prompt
    still = frames(face.for_training(who), [face.NEUTRAL] * encode_clips.STILLS)
    z = m.vae.encode(still.contiguous(memory_format=torch.channels_last_3d))
    before = torch.cat([z, z[:, :, 3:4].expand(-1, -1, 15, -1, -1)], 2)
    heard, rows = audio.features(m.audio, w, 12 * BLOCKS)[None], m.t5(*text.batch(m.spm, [prompt], m.dit.text_len))
    made = m.dit.generate(z[:, :, :1], before, heard, rows, torch.Generator().manual_seed(seed))
    return dict(z=torch.cat([before[:, :, :BEFORE], made], 2)[0].half(), p=motion.express(motion.curves(w, seg), mood, gaze), seed=who)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="model/nano")
    p.add_argument("--speech", default="build/nano/speech.pt")
    p.add_argument("--out", default="build/nano/made")
    p.add_argument("--count", type=int, default=200)
    o = p.parse_args()
    parallel.start(1)
    m, pool = model.Nano(o.model), parallel.load(o.speech)
    os.makedirs(o.out, exist_ok=True)
    t0 = time.time()
    for k in range(-(-o.count // FILE)):
        path = f"{o.out}/{k:05d}.pt"
        if not os.path.exists(path):
            encode_clips.keep([clip(m, pool, FILE * k + i) for i in range(FILE)], path)
            print(f"{FILE * (k + 1)} clips, {time.time() - t0:.0f} s", flush=True)


if __name__ == "__main__":
    main()
