# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure a model folder on faces and speech it never saw.   report.py --model model/nano --out build/nano/report

Writes report.json, report.md (the model card's table) and strips of frames: every second row is generated, the row above it drawn
from the truth. This path is PyTorch's; the same measures of the engine's videos come from measure.py.
"""
import argparse
import json
import os
import random
import re

import numpy as np
import torch
from PIL import Image

import face
import measure
import model
import motion
import speech
import truth

BLOCKS = 14
RECORDINGS = "/usr/share/pocketsphinx/test/data/librivox"    # Debian's pocketsphinx-testdata
ASK = {"smiling": ("A person is smiling.", 8, 1), "sad": ("A sad person.", 8, -1), "left": ("A person looking to the left.", 9, -1),
       "right": ("A person looking to the right.", 9, 1)}


def joined(parts, n):
    """[(wave, seg)] with pauses between, cut or filled to n samples; a little noise"""
    w, seg, at = [np.zeros(8000, np.float32)], [], .5
    for x, s in parts:
        w += [x, np.zeros(6400, np.float32)]
        seg += [(a + at, b + at, v) for a, b, v in s]
        at += len(x) / 16000 + .4
    w = np.concatenate(w)[:n]
    w = np.pad(w, (0, n - len(w)))
    return w + np.random.default_rng(0).normal(0, 1e-4, n).astype(np.float32), seg


def spoken(kind, i):
    h = [speech.HARVARD[(3 * i + k) % 10] for k in range(4)]
    if kind == "espeak":
        return [speech.espeak(t, speech.ESPEAK_HELD_OUT[i % 4], 140 + 10 * (i % 4), 40 + 5 * (i % 5)) for t in h]
    if kind == "flite rms":
        return [speech.flite(t, "rms") for t in h]
    if kind == "festival ked":
        return speech.festival(h, "ked_diphone")
    rows = open(RECORDINGS + "/transcription").read().splitlines()
    line, name = re.match(r"(.*)\((.*)\)", rows[i % len(rows)]).groups()
    w = speech.read(f"{RECORDINGS}/{name}.wav")
    return [(w, truth.align(w, line.replace("<s>", "").replace("</s>", "")))]


def cases(blocks):
    """-> [(kind, face seed, wave, curves)]"""
    n, out = 7680 * blocks, []
    for kind, count in (("espeak", 8), ("flite rms", 4), ("festival ked", 4), ("recordings", 4)):
        for i in range(count):
            try:
                w, seg = joined(spoken(kind, i), n)
            except (OSError, ValueError, IndexError) as e:
                print(f"skipped: {kind} {i}: {e}", flush=True)
                continue
            out.append((kind, face.HELD_OUT + 100 + len(out), w, motion.express(motion.curves(w, seg))))
    return out


def portrait(f):
    return torch.from_numpy(face.draw(f)).permute(2, 0, 1).float() / 127.5 - 1


def talk(m, todo, prompts=None):
    out = []
    for i in range(0, len(todo), 4):
        part = todo[i:i + 4]
        out += m.talk(torch.stack([portrait(face.identity(c[1])) for c in part]), [c[2] for c in part], prompts[i:i + 4] if prompts else None)
    return out


def strip(path, pairs, every=3, first=24, count=14):
    rows = []
    for drawn, made in pairs:
        rows += [np.concatenate([x[first + every * j] for j in range(count)], 1) for x in (drawn, made)]
    Image.fromarray((np.concatenate(rows, 0) * 255).round().clip(0, 255).astype(np.uint8)).save(path)


def table(rows):
    keys = ["opening", "lag", "r_width", "r_round", "r_teeth", "r_blink", "r_nod", "silence", "mouth_psnr", "psnr", "identity_first",
            "identity_last", "sharp_mouth", "sharp_eyes"]
    kinds = list(dict.fromkeys(k for k, _ in rows))
    md = ["| measure | " + " | ".join(f"{k} ({sum(x == k for x, _ in rows)})" for k in kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for key in keys:
        v = [[r[key] for x, r in rows if x == k and r[key] is not None] for k in kinds]
        md.append(f"| {key} | " + " | ".join(f"{np.mean(x):.2f} ({min(x):.2f} to {max(x):.2f})" if x else "-" for x in v) + " |")
    return "\n".join(md)


@torch.no_grad()
def reconstruction(m, n=6):
    """PSNR of 97-frame clips through the VAE: whole, mouth, last 8 frames"""
    r = []
    for i in range(n):
        f = face.identity(face.HELD_OUT + 500 + i)
        c = motion.curves(*speech.utterance(6_000_000 + i))[:97]
        x = measure.pictures(f, motion.express(np.concatenate([c, np.repeat(c[-1:], 97 - len(c), 0)])))
        y = m.vae.decode(m.vae.encode(torch.from_numpy(x).permute(3, 0, 1, 2)[None] * 2 - 1))[0].permute(1, 2, 3, 0).numpy() / 2 + .5
        a, b, c, d = face.mouth_box(f)
        r.append((measure.psnr(x, y), measure.psnr(x[:, a:b, c:d], y[:, a:b, c:d]), measure.psnr(x[-8:], y[-8:])))
    return np.mean(r, 0).tolist()


def asked(m, n=8):
    """Share of faces on which what the prompt asks for is read from the pictures"""
    out, shown = {}, []
    w, seg = joined(spoken("espeak", 1), 7680 * 6)
    todo = [("espeak", face.HELD_OUT + 300 + i, w, None) for i in range(n)]
    readers = [measure.Reader(face.identity(c[1])) for c in todo]
    for name, (prompt, col, sign) in ASK.items():
        x = talk(m, todo, [prompt] * n)
        out[name] = float(np.mean([sign * r(v)[:, col].mean() > .5 for r, v in zip(readers, x)]))
        shown.append(np.concatenate([v[40] for v in x], 1))
    x = talk(m, todo, ["qwerty about nothing"] * n)
    out["unknown is neutral"] = float(np.mean([np.abs(r(v)[:, 8:].mean(0)).max() < .5 for r, v in zip(readers, x)]))
    shown.append(np.concatenate([v[40] for v in x], 1))
    return out, np.concatenate(shown, 0)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="model/nano")
    p.add_argument("--out", default="build/nano/report")
    p.add_argument("--blocks", type=int, default=BLOCKS)
    p.add_argument("--quick", action="store_true", help="lips alone: no prompts, no long run")
    o = p.parse_args()
    torch.set_flush_denormal(True)
    os.makedirs(o.out, exist_ok=True)
    m = model.Nano(o.model)
    todo = cases(o.blocks)
    made = talk(m, todo)
    rows, pairs = [], []
    for (kind, seed, w, c), x in zip(todo, made):
        f = face.identity(seed)
        rows.append((kind, measure.measure(x, f, c)))
        pairs.append((measure.pictures(f, c), x))
        print(kind, {k: round(v, 2) for k, v in rows[-1][1].items() if v is not None}, flush=True)
    for n, part in (("strip_a", pairs[:3]), ("strip_b", [pairs[8], pairs[12], pairs[-1]] if len(pairs) > 12 else pairs[3:6])):
        strip(f"{o.out}/{n}.png", part)
    other = [measure.corr(measure.opening(x, face.mouth_box(face.identity(c[1]))), todo[(i + 1) % len(todo)][3][:, 0]) for i, (c, x) in enumerate(zip(todo, made))]
    quiet = random.Random(1), np.random.default_rng(1)
    noise = (speech.noise(7680 * 6, *quiet) * .01).astype(np.float32)
    hush = talk(m, [("noise", face.HELD_OUT + 400 + i, noise, None) for i in range(4)])
    loud = np.mean([measure.opening(x, face.mouth_box(face.identity(c[1])))[c[3][:, 0] > measure.SPOKEN].mean() for c, x in zip(todo, made)])
    idle = np.mean([measure.opening(x, face.mouth_box(face.identity(face.HELD_OUT + 400 + i))).mean() for i, x in enumerate(hush)])
    md = [table(rows), "", f"Opening against another case's truth: {np.mean(other):.2f} ({min(other):.2f} to {max(other):.2f}). "
          f"Open area in noise without speech against speech: {idle:.1f} / {loud:.1f} pixels.",
          "VAE on unseen 97-frame clips, whole / mouth / last 8 frames: " + " / ".join(f"{v:.1f}" for v in reconstruction(m)) + " dB."]
    if not o.quick:
        share, picture = asked(m)
        Image.fromarray((picture * 255).round().clip(0, 255).astype(np.uint8)).save(o.out + "/prompts.png")
        md.append("Prompts followed, share of faces: " + ", ".join(f"{k} {v:.2f}" for k, v in share.items()) + ".")
        w, seg = joined([speech.espeak(t, "en-us+m5", 160, 50) for t in speech.HARVARD] * 4, 16000 * 60)
        x = talk(m, [("long", face.HELD_OUT + 200, w, None)])[0]
        r = measure.measure(x, face.identity(face.HELD_OUT + 200), motion.express(motion.curves(w, seg)))
        md.append(f"60 s on one face: opening {r['opening']:.2f} at lag {r['lag']}, what does not move against the portrait: "
                  f"{r['identity_first']:.1f} dB in the first, {r['identity_last']:.1f} dB in the last second.")
    with open(o.out + "/report.md", "w") as f:
        f.write("\n".join(md) + "\n")
    with open(o.out + "/report.json", "w") as f:
        json.dump([dict(kind=k, **r) for k, r in rows], f, indent=1)
    print("\n".join(md))


if __name__ == "__main__":
    main()
