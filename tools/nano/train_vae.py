# SPDX-License-Identifier: LGPL-2.1-or-later
"""Train the VAE on portraits drawn on the fly.   train_vae.py --minutes 65 --out build/nano/vae.pt   (run again: goes on)

Minutes are those of one core (parallel.clock). With --start it goes on from another VAE, with long clips from the first step; with --decoder-of the decoder alone: the latents stay
as they are, so clips and DiT need not wait for the last decibel. With --made it learns to draw what the transformer makes, too (made.py).

Crops first as single frames, then clips of 5, 9, and 33 to 65 frames: a VAE that saw only short clips wanders in colour on long
ones, since the causal stack looks back more than 20 latents. The plan is by time spent, so a slower machine trains less, not longer.
"""
import argparse
import copy
import glob
import math
import os
import random

import numpy as np
import torch
import torch.nn.functional as F

import face
import model
import motion
import muon
import parallel
import speech
import vae

# until (share of the time), [(batch of each worker, frames, crop)], drawn at random
PLAN = [(.04, [(12, 1, 64)]), (.25, [(4, 5, 64)]), (.4, [(2, 9, 64), (4, 5, 64)]), (.5, [(2, 17, 64)]),
        (1., [(2, 17, 64), (1, 33, 64), (1, 65, 48), (1, 17, 128)])]
BEFORE = 7                                                   # motion latents of a made clip that come before the first generated one


def clip(seed, n, rng, tracks):
    """n frames of one person -> (f32 [3, n, 128, 128], identity)"""
    f = face.for_training(seed)
    c = tracks[rng.randrange(len(tracks))]
    a = rng.randrange(max(1, len(c) - n))
    c = motion.blinking(c[a:a + n], rng) if rng.random() < .5 else c[a:a + n]
    if rng.random() < .15:                                   # stills, as in the product's motion latents
        c = np.repeat(c[:1], n, 0)
    c = np.concatenate([c, np.repeat(c[-1:], n - len(c), 0)])
    mood, gaze = (rng.uniform(-1, 1) if rng.random() < .5 else 0 for _ in range(2))
    return frames(f, motion.express(c, mood, gaze))[0], f


def frames(f, curves):
    """-> f32 [1, 3, n, 128, 128] in [-1, 1]"""
    x = np.stack([face.draw(f, p) for p in curves])
    return torch.as_tensor(x).permute(3, 0, 1, 2).float()[None] / 127.5 - 1


def weights(f, eyes, mouth):
    """[1, 1, 128, 128]"""
    w = torch.ones(1, 1, 128, 128)
    for (y0, y1, x0, x1), k in ((face.eye_box(f), eyes), (face.mouth_box(f), mouth)):
        w[..., y0:y1, x0:x1] = k
    return w


def batch(b, n, crop, rng, tracks, eyes, mouth):
    xs, ws = [], []
    for _ in range(b):
        x, f = clip(rng.randrange(face.HELD_OUT), n, rng, tracks)
        m, e, w = face.mouth_box(f), face.eye_box(f), weights(f, eyes, mouth)
        if crop < 128:
            cy, cx = rng.randrange(128), rng.randrange(128)
            if rng.random() < .65:
                box = m if rng.random() < .6 else e
                cy, cx = (box[0] + box[1]) // 2 + rng.randint(-20, 20), 64 + rng.randint(-26, 26)
            a, c = min(max(cy - crop // 2, 0), 128 - crop), min(max(cx - crop // 2, 0), 128 - crop)
            x, w = x[..., a:a + crop, c:c + crop], w[..., a:a + crop, c:c + crop]
        if rng.random() < .3:
            x, w = x.flip(-1), w.flip(-1)
        xs.append(x)
        ws.append(w)
    return torch.stack(xs).contiguous(memory_format=torch.channels_last_3d), torch.stack(ws)


class Made:
    """Windows of 64x64 pixels around eyes or mouth of the clips in a folder, new files taken in as they come"""
    LATENTS, WARM = 6, 2                                     # the first ones only warm the causal filters

    def __init__(self, folder):
        self.folder, self.files, self.clips = folder, set(), []

    def refresh(self):
        for f in sorted(set(glob.glob(self.folder + "/*.pt")) - self.files):
            self.clips += parallel.load(f)
            self.files.add(f)

    def start_of(self, d, rng, eyed):
        """Any latent, or of four the one where a lid comes down"""
        def shut(a):
            a -= BEFORE
            return d["p"][4 * (a + self.WARM):4 * (a + self.LATENTS), face.CURVES.index("blink")].max()
        return max((rng.randrange(BEFORE, d["z"].shape[1] - self.LATENTS) for _ in range(4 if eyed else 1)), key=shut)

    def window(self, rng, eyes, mouth):
        """-> latents [16, LATENTS, 8, 8], weights [1, 1, 64, 64], true frames [3, 4 (LATENTS - WARM), 64, 64]"""
        d, eyed = rng.choice(self.clips), rng.random() < .5
        f, a = face.for_training(d["seed"]), self.start_of(d, rng, eyed)
        shown = d["p"][4 * (a - BEFORE + self.WARM):4 * (a - BEFORE + self.LATENTS)]
        box, w = (face.eye_box if eyed else face.mouth_box)(f), weights(f, eyes, mouth)
        y, x = (box[0] + box[1]) // 16 - 4 + rng.randint(-1, 1), 4 + rng.randint(-2, 2)
        y, x = (min(8, max(0, v)) for v in (y, x))
        part = (..., slice(8 * y, 8 * y + 64), slice(8 * x, 8 * x + 64))
        inner = F.pad(torch.ones(48, 48), (8, 8, 8, 8))      # beyond the rim there is a picture, not nothing
        return d["z"][:, a:a + self.LATENTS, y:y + 8, x:x + 8].float(), w[part] * inner, frames(f, shown)[0][part]

    def batch(self, b, rng, eyes, mouth):
        return (torch.stack(v).to(parallel.here()) for v in zip(*(self.window(rng, eyes, mouth) for _ in range(b))))


def difference(d, w):
    """d: what is off [B, 3, T, H, W] -> L1, L1 of its gradients, both weighted"""
    edge = ((d[..., 1:, :] - d[..., :-1, :]).abs() * w[..., 1:, :]).mean() + ((d[..., 1:] - d[..., :-1]).abs() * w[..., 1:]).mean()
    return (d.abs() * w).mean(), edge


def loss_made(m, z, w, y, half):
    """z: normalised latents that the transformer made; y: what they should show but for the first ones"""
    with parallel.half(half):
        x = m.render(z * m.std.view(1, -1, 1, 1, 1) + m.mean.view(1, -1, 1, 1, 1))
    rec, edge = difference(x[:, :, -y.shape[2]:].float() - y, w)
    return rec + edge, rec, z


def loss_of(m, x, w, half, fixed=False):
    """fixed: the encoder stays; latents get the small errors that a sampler makes"""
    with parallel.half(half):
        with torch.set_grad_enabled(not fixed):
            mu, lv = m.moments(x)
            lv = lv.clamp(-12, 4)
        z = mu + torch.exp(.5 * lv) * torch.randn_like(mu)
        y = m.render(z + .08 * torch.rand(()) * m.std.view(1, -1, 1, 1, 1) * torch.randn_like(mu) if fixed else z)
    mu, lv, d = mu.float(), lv.float(), y.float() - x
    rec, edge = difference(d, w)
    slow = F.avg_pool3d(d, (1, 8, 8)).abs().mean()                       # colours of large areas
    kl = 0 if fixed else .5 * (mu ** 2 + lv.exp() - 1 - lv).mean()
    return rec + edge + 2 * slow + 3e-4 * kl, rec, mu


def psnr(e):
    return -10 * math.log10(float(e) + 1e-12)


@torch.no_grad()
def evaluate(m, clips):
    """-> mean PSNR: whole picture, mouth, eyes, last eight frames"""
    r = []
    for x, f in clips:
        e = (m.render(m.moments(x[None])[0]).clamp(-1, 1)[0] - x) ** 2 / 4
        parts = [e, *(e[..., a:b, c:d] for a, b, c, d in (face.mouth_box(f), face.eye_box(f))), e[:, -8:]]
        r.append([psnr(x.mean()) for x in parts])
    return np.mean(r, 0).tolist()


@torch.no_grad()
def statistics(m, rng, tracks):
    """Mean and deviation of raw latents over moving clips, into the buffers."""
    z = torch.cat([m.moments(clip(3_000_000 + i, 17, rng, tracks)[0][None])[0] for i in range(32)]).transpose(0, 1).flatten(1)
    m.mean.copy_(z.mean(1))
    m.std.copy_(z.std(1))


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--minutes", type=float, default=65)
    a.add_argument("--width", type=int, default=16)
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--workers", type=int, default=2)
    a.add_argument("--half", type=float, default=.9, help="share of the time in bf16 arithmetic")
    a.add_argument("--out", default="build/nano/vae.pt")
    a.add_argument("--start", help="a checkpoint or a model folder to go on from, when there is no checkpoint")
    a.add_argument("--decoder-of", help="a checkpoint or a model folder; its decoder alone is trained on, the latents stay")
    a.add_argument("--made", help="a folder of made.py; six of ten steps of the decoder are then of these latents")
    o = a.parse_args()
    rank, o.workers = parallel.start(o.workers)
    torch.manual_seed(0)
    old = o.decoder_of or o.start
    m = (model.load_vae(old) if old else vae.keep_colours(vae.VAE(o.width))).channels_last()
    plan, boxes = (PLAN[-1:], (5., 8.)) if old else (PLAN, (2.5, 4.))    # later, mouth and eyes weigh more
    made = Made(o.made) if o.made else None
    ema = copy.deepcopy(m)
    taught = [*m.conv2.parameters(), *m.decoder.parameters()] if o.decoder_of else list(m.parameters())
    wide = [p for p in taught if p.dim() >= 4 and min(p.shape[0], p[0].numel()) >= 8]
    opt = muon.Optimizer(taught, wide, (.9, .99))
    spent, step, log = 0., 0, []
    if os.path.exists(o.out):
        d = parallel.load(o.out)
        m.load_state_dict(d["live"])
        ema.load_state_dict(d["m"])
        opt.load_state_dict(d["opts"])
        spent, step, log = d["spent"], d["step"], d["log"]
    rng, same = random.Random(step * 8 + rank), random.Random(step)
    torch.manual_seed(step * 8 + rank)
    tracks = [motion.curves(*speech.utterance(s)) for s in range(200)]
    held = random.Random(5)
    clips = [clip(2_000_000 + i, 33, held, tracks) for i in range(3)]
    t0, last, seen = parallel.clock() - spent, parallel.clock(), 0

    def save():
        torch.save(dict(m=ema.state_dict(), live=m.state_dict(), opts=opt.state_dict(), spent=parallel.clock() - t0, step=step,
                        log=log, width=o.width), o.out + ".new")
        os.replace(o.out + ".new", o.out)

    while (f := parallel.agree((parallel.clock() - t0) / 60 / o.minutes)[0]) < 1:
        b, n, crop = same.choice(next(s for until, s in plan if f < until))
        b *= parallel.wide()
        lr = o.lr * min(1, (step + 1) / 60) * (.03 + .97 * (.5 + .5 * math.cos(math.pi * max(0, f - .3) / .7)))
        if made and (not made.clips or step % 25 == 0):
            made.refresh()
        if made and made.clips and rng.random() < .6:
            loss, rec, mu = loss_made(m, *made.batch(2 * parallel.wide(), rng, *boxes), f < o.half)
        else:
            loss, rec, mu = loss_of(m, *batch(b, n, crop, rng, tracks, *boxes), f < o.half, bool(o.decoder_of))
        opt.descend(loss, lr)
        step += 1
        seen += o.workers * b * n * crop * crop / 128 / 128
        with torch.no_grad():
            k = min(.995, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(ema.parameters()), list(m.parameters()), 1 - k)
        if rank == 0 and parallel.clock() - last > 120:
            with parallel.Threads(o.workers):
                shown = evaluate(ema, clips)
            log.append((round((parallel.clock() - t0) / 60, 1), step, *(round(v, 2) for v in shown)))
            print(f"min {log[-1][0]} of {o.minutes:.0f} step {step} {b}x{n}x{crop} lr {lr:.1e} loss {loss:.4f} rec {rec:.4f} "
                  f"mu {mu.std():.2f} {seen / (parallel.clock() - last):.1f} frames/s | held out, 33 frames: "
                  "{:.2f} mouth {:.2f} eyes {:.2f} last 8 {:.2f} dB".format(*shown), flush=True)
            save()
            last, seen = parallel.clock(), 0
    if rank:
        return
    if not o.decoder_of:
        statistics(ema, random.Random(6), tracks)
    save()
    print("final", step, "held out:", *[f"{v:.2f}" for v in evaluate(ema, clips)], flush=True)


if __name__ == "__main__":
    main()
