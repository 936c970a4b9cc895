# SPDX-License-Identifier: LGPL-2.1-or-later
"""Synthesise the speech, then train the audio encoder.   train_audio.py --minutes 15 --out build/nano/audio.pt

With --start it goes on from a model folder, which lacks the head that teaches the curves: for the first steps the heads learn alone.

Held out: the flite voice rms, the festival voice ked_diphone, four espeak voices, the Harvard sentences, every recording.
"""
import argparse
import math
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

import audio
import model
import motion
import muon
import parallel
import speech

WEIGHT = 12., 8., 8., 5., 5., 4., 4., 4.                     # of the curves
CROP = 120                                                   # frames of 20 ms
HEADS = 300                                                  # steps with --start in which the heads learn alone
SHARE = .2, .2, .4, .2                                       # of espeak, its other voices, flite, festival: recorded speakers are few


def synthesise(first, count, path):
    """count times espeak, another of its voices, flite; then as many of festival -> list of (wave, seg), kept in a file."""
    if os.path.exists(path):
        return parallel.load(path)
    out, t0 = [], time.time()
    for i in range(count):
        out.append(speech.utterance(first + i))
        out.append(speech.utterance(first + i + 3_000_000, speech.ESPEAK_MORE))
        rng = random.Random(first + i + 1_000_000)
        w, seg = speech.flite(speech.sentence(rng), rng.choice(speech.FLITE), rng.uniform(.8, 1.3))
        if rng.random() < .5:                                # another speaker: faster or slower tape
            w, seg = tape(w, seg, rng.uniform(.85, 1.18))
        out.append(speech.pad(w, seg, rng))
    for i in range(0, count, 20):
        rng = random.Random(first + i + 2_000_000)
        said = speech.festival([speech.sentence(rng) for _ in range(20)], speech.FESTIVAL[i // 20 % 2], rng.uniform(.8, 1.3))
        for w, seg in said:
            if rng.random() < .5:
                w, seg = tape(w, seg, rng.uniform(.85, 1.18))
            out.append(speech.pad(w, seg, rng))
    torch.save(out, path)
    print(f"{len(out)} utterances, {sum(len(w) for w, _ in out) / 16000 / 3600:.2f} h of speech in {time.time() - t0:.0f} s", flush=True)
    return out


def tape(w, seg, k):
    """Play k times faster: pitch and formants move together."""
    x = np.interp(np.arange(0, len(w) - 1, k), np.arange(len(w)), w).astype(np.float32)
    return x, [(s / k, e / k, v) for s, e, v in seg]


def held_out():
    """name -> [(wave, seg)]"""
    h = speech.HARVARD
    r = {"espeak, unseen sentences": [speech.espeak(t, speech.ESPEAK[(i * 17) % len(speech.ESPEAK)], 150 + 5 * i, 35 + 4 * i) for i, t in enumerate(h)],
         "espeak, unseen voices": [speech.espeak(t, speech.ESPEAK_HELD_OUT[i % 4], 150 + 5 * i, 35 + 4 * i) for i, t in enumerate(h)],
         "flite rms": [speech.flite(t, "rms") for t in h]}
    try:
        r["festival ked"] = speech.festival(h, speech.FESTIVAL_HELD_OUT[0])
    except (OSError, ValueError, IndexError) as e:
        print("no festival ked:", e)
    return {k: [(w, s, motion.curves(w, s)) for w, s in v] for k, v in r.items()}


@torch.no_grad()
def evaluate(m, sets):
    for name, items in sets.items():
        r = []
        for w, seg, c in items:
            k, y = audio.targets(w, seg, c)
            h = m(torch.as_tensor(audio.normalise(w))[None])[-1]
            p = m.curves(h)[0].cpu().numpy()
            r.append([np.corrcoef(p[:, i], y[:, i])[0, 1] if y[:, i].std() > 1e-6 else np.nan for i in range(8)]
                     + [(m.classes(h)[0].argmax(-1).cpu().numpy() == k).mean()])
        v = np.nanmean(np.array(r), 0)
        print(f"  {name:26s} r open {v[0]:.3f} width {v[1]:.3f} round {v[2]:.3f} teeth {v[3]:.3f} tongue {v[4]:.3f} blink {v[5]:.3f} "
              f"brow {v[6]:.3f} nod {v[7]:.3f} class {v[8]:.2f}", flush=True)


def crop_of(item, rng, nr):
    w, k, y = item
    if rng.random() < .04:                                   # noise or music alone: a closed mouth
        w = speech.noise(CROP * 320 + 80, rng, nr)
        k, y = np.zeros(CROP, np.int64), np.zeros((CROP, 8), np.float32)
        y[:, 7] = .35 * -.4
        return audio.normalise(w), k, y
    fast = rng.uniform(.85, 1.18) if rng.random() < .5 else 1.   # another speaker: faster or slower tape
    n = min(len(k), math.ceil(CROP * fast))
    a = rng.randrange(max(1, len(k) - n))
    w, k, y = w[a * 320:(a + n - 1) * 320 + 400], k[a:a + n], y[a:a + n]
    if fast != 1:
        t = np.arange(int(n / fast)) * fast
        w = np.interp(np.arange(0, len(w) - 1, fast), np.arange(len(w)), w).astype(np.float32)
        k = k[np.minimum(np.round(t).astype(int), n - 1)][:CROP]
        y = np.stack([np.interp(t, np.arange(n), c) for c in y.T], 1).astype(np.float32)[:CROP]
    short = CROP - len(k)
    if short > 0:
        k = np.pad(k, (0, short))
        y = np.concatenate([y, np.repeat(y[-1:] * [0, 0, 0, 0, 0, 0, 0, 1], short, 0)]).astype(np.float32)
    n = CROP * 320 + 80
    w = np.pad(w[:n], (0, max(0, n - len(w))))
    return audio.normalise(speech.degrade(w, rng, nr) if rng.random() < .85 else w), k, y


def loss_of(m, x, k, y, half=False, heads=False):
    """heads: they alone are taught"""
    with parallel.half(half), torch.set_grad_enabled(not heads):
        h = m(x)[-1]
    h = h.float()
    return F.cross_entropy(m.classes(h).flatten(0, 1), k.flatten()) + ((m.curves(h) - y) ** 2 * torch.tensor(WEIGHT)).mean()


def draw(nb, count, rng):
    """An index into what synthesise made, by SHARE."""
    kind = rng.choices(range(4), SHARE)[0]
    return 3 * rng.randrange(count) + kind if kind < 3 else rng.randrange(3 * count, nb)


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--minutes", type=float, default=15)
    a.add_argument("--utterances", type=int, default=900, help="of each synthesizer")
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--batch", type=int, default=8, help="of each worker; eight times as many on a GPU")
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--half", type=float, default=.9, help="share of the time in bf16 arithmetic")
    a.add_argument("--start", help="a model folder to go on from, when there is no checkpoint")
    a.add_argument("--out", default="build/nano/audio.pt")
    a.add_argument("--data-only", action="store_true")
    o = a.parse_args()
    rank, o.workers = parallel.start(1 if o.data_only else o.workers)
    said = synthesise(10_000, o.utterances, os.path.join(os.path.dirname(o.out), "speech.pt"))
    if o.data_only:
        return
    items = [(w, *audio.targets(w, s, motion.curves(w, s))) for w, s in said]
    sets = held_out() if rank == 0 else None
    torch.manual_seed(0)
    m = model.load_audio(o.start).train() if o.start else audio.Wav2Vec2(**audio.CONFIG)
    if rank == 0:
        print(f"{sum(p.numel() for p in m.parameters()) / 1e6:.2f} M parameters, {len(items)} utterances", flush=True)
    wide = [p for n, p in m.named_parameters() if p.ndim > 1 and p.shape[1] > 1 and n.split(".")[0] not in ("classes", "curves")]
    opt = muon.Optimizer(m.parameters(), wide, (.9, .98), .01)
    spent, step = 0., 0
    if os.path.exists(o.out):
        d = parallel.load(o.out)
        m.load_state_dict(d["m"])
        opt.load_state_dict(d["opts"])
        spent, step = d["spent"], d["step"]
    rng, nr = random.Random(step * 8 + rank), np.random.default_rng(step * 8 + rank)
    torch.manual_seed(step * 8 + rank)
    t0, last = parallel.clock() - spent, parallel.clock()

    def save():
        torch.save(dict(m=m.state_dict(), opts=opt.state_dict(), spent=parallel.clock() - t0, step=step), o.out + ".new")
        os.replace(o.out + ".new", o.out)

    while (f := parallel.agree((parallel.clock() - t0) / 60 / o.minutes)[0]) < 1:
        lr = o.lr * min(1, (step + 1) / 100) * (.02 + .98 * (.5 + .5 * math.cos(math.pi * f)))
        crops = [crop_of(items[draw(len(items), o.utterances, rng)], rng, nr) for _ in range(o.batch * parallel.wide())]
        x, k, y = (torch.as_tensor(np.stack(v)) for v in zip(*crops))
        loss = loss_of(m, x, k, y, f < o.half, bool(o.start) and step < HEADS)
        opt.descend(loss, lr)
        step += 1
        if rank == 0 and parallel.clock() - last > 120:
            last = parallel.clock()
            print(f"min {(last - t0) / 60:.1f} of {o.minutes:.0f} step {step} loss {loss:.3f}", flush=True)
            m.eval()
            evaluate(m, sets)
            save()
    if rank:
        return
    save()
    print("final", step)
    evaluate(m, sets)


if __name__ == "__main__":
    main()
