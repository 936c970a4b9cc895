# SPDX-License-Identifier: LGPL-2.1-or-later
"""Train DiT and text encoder together by flow matching.   train_dit.py --minutes 50 --out build/nano/dit.pt   (run again: goes on)

All four blocks of a clip at one of the four time steps; 60 % start at block 0, the others later, most of them with the refreshed
sink, whose reference is the clip's first latent. Loss on the velocity, mouth and eyes weigh more. New clip files are taken in while it runs.
"""
import argparse
import copy
import glob
import math
import os
import random

import numpy as np
import sentencepiece
import torch

import dit
import encode_clips
import face
import model
import muon
import parallel
import text

SHARE = (.36, .31, .31, .02)                                 # the last step is almost nothing: do not spend samples on it
BLOCKS = 4


class Clips:
    def __init__(self, folder, low, high):
        self.folder, self.low, self.high, self.files, self.data = folder, low, high, set(), None

    def refresh(self):
        new = [f for f in sorted(glob.glob(self.folder + "/*.pt")) if f not in self.files and self.low <= int(os.path.basename(f)[:-3]) < self.high]
        if not new:
            return
        parts = [parallel.load(f) for f in new] + ([self.data] if self.data else [])
        self.data = {k: torch.cat([p[k].to(parallel.here()) for p in parts]) for k in parts[0]}
        self.files.update(new)

    def __len__(self):
        return len(self.data["z"]) if self.data else 0


def weights(box):
    """[B, 8] mouth and eye boxes in pixels -> [B,1,1,16,16]"""
    w = torch.ones(len(box), 1, 1, 16, 16)
    for i, (y0, y1, x0, x1, e0, e1, f0, f1) in enumerate(box.tolist()):
        w[i, ..., e0 // 8:(e1 + 7) // 8, f0 // 8:(f1 + 7) // 8] = 2.
        w[i, ..., y0 // 8:(y1 + 7) // 8, x0 // 8:(x1 + 7) // 8] = 4.
    return w


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dit, self.t5 = dit.initialise(dit.DiT(**dit.CONFIG)), text.initialise_t5(text.T5(**text.CONFIG))

    def loss(self, sp, z, a, box, texts, k, s, f0, rd, eps, refresh, half=False):
        """z [B,16,19,16,16]: 4 still latents, 15 moving; s: first block; half: bf16 arithmetic; -> [B]"""
        still = torch.cat([z[:, :, :4], z[:, :, 3:4].expand(-1, -1, 15, -1, -1)], 2)
        ref = z[:, :, 4:5] if refresh else z[:, :, :1]
        x = z[:, :, 4 + 3 * s:4 + 3 * (s + BLOCKS)]
        t = torch.tensor(dit.SIGMAS[:4])[k]
        sg = t.view(-1, 1, 1, 1, 1)
        with parallel.half(half):
            ctx = self.dit.context(self.t5(*text.batch(sp, texts, self.dit.text_len)))
            v = self.dit((1 - sg) * x + sg * eps, 1000 * t, a[..., 12 * s:12 * (s + BLOCKS)], self.dit.sink(ref, still, ctx), ctx, f0, rd)
        return ((v.float() - (eps - x)) ** 2 * weights(box)).mean((1, 2, 3, 4))


@torch.no_grad()
def validate(m, sp, d):
    """-> loss at the first three time steps, and at the first with another clip's sound, and with another prompt"""
    g = torch.Generator(parallel.here()).manual_seed(7)
    z, a, box = d["z"].float(), d["a"][:, -1].float(), d["box"]
    texts = [text.prompt(random.Random(i), *s) for i, s in enumerate(d["say"].tolist())]
    other = [text.prompt(random.Random(i), -s[0] if s[0] else 1, -s[1] if s[1] else 1) for i, s in enumerate(d["say"].tolist())]
    n, r = len(z), []
    for k, aa, tt in ((0, a, texts), (1, a, texts), (2, a, texts), (0, a.roll(1, 0), texts), (0, a, other)):
        eps = torch.randn(n, 16, 3 * BLOCKS, 16, 16, generator=g)
        g.manual_seed(7)
        r.append(float(np.mean([m.loss(sp, z[i:i + 4], aa[i:i + 4], box[i:i + 4], tt[i:i + 4], torch.full((len(z[i:i + 4]),), k), 0, 0, 17,
                                       eps[i:i + 4], False).mean().item() for i in range(0, n, 4)])))
    return r


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--minutes", type=float, default=50)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--batch", type=int, default=2, help="of each worker; eight times as many on a GPU")
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--half", type=float, default=.85, help="share of the time in bf16 arithmetic")
    p.add_argument("--clips", default="build/nano/clips")
    p.add_argument("--tokenizer", default="build/nano/spiece.model")
    p.add_argument("--start", help="a model folder to go on from, when there is no checkpoint")
    p.add_argument("--out", default="build/nano/dit.pt")
    o = p.parse_args()
    rank, o.workers = parallel.start(o.workers)
    o.batch *= parallel.wide()
    if rank == 0 and not os.path.exists(o.tokenizer):
        text.train_tokenizer(o.tokenizer)
    parallel.agree(0)
    sp = sentencepiece.SentencePieceProcessor(model_file=o.tokenizer)
    torch.manual_seed(0)
    m = Model()
    if o.start:
        n = model.Nano(o.start)
        m.dit.load_state_dict(n.dit.state_dict())
        m.t5.load_state_dict(n.t5.state_dict())
    ema = copy.deepcopy(m)
    wide = [q for n, q in m.named_parameters() if q.dim() == 2 and n.startswith(("dit.blocks", "dit.audio_injector", "dit.casual"))]
    opt = muon.Optimizer(m.parameters(), wide, (.9, .98))
    spent, step, log = 0., 0, []
    if os.path.exists(o.out):
        d = parallel.load(o.out)
        m.load_state_dict(d["live"])
        ema.load_state_dict(d["m"])
        opt.load_state_dict(d["opts"])
        spent, step, log = d["spent"], d["step"], d["log"]
    rng, same = random.Random(step * 8 + rank), random.Random(step)
    torch.manual_seed(step * 8 + rank)
    limit = face.HELD_OUT // encode_clips.FILE
    train, held = Clips(o.clips, 0, limit), Clips(o.clips, limit, 1 << 30)
    held.refresh()
    t0, last = parallel.clock() - spent, parallel.clock()
    sums = torch.zeros(4, 2)

    def save():
        torch.save(dict(m=ema.state_dict(), live=m.state_dict(), opts=opt.state_dict(), spent=parallel.clock() - t0, step=step, log=log),
                   o.out + ".new")
        os.replace(o.out + ".new", o.out)

    while (f := parallel.agree((parallel.clock() - t0) / 60 / o.minutes)[0]) < 1:
        if not len(train) or step % 25 == 0:
            train.refresh()
        lr = o.lr * min(1, (step + 1) / 40) * (1 if f < .4 else .02 + .98 * (.5 + .5 * math.cos(math.pi * (f - .4) / .6)))
        i = torch.tensor([rng.randrange(len(train)) for _ in range(o.batch)])
        k = torch.tensor(rng.choices(range(4), SHARE, k=o.batch))
        if same.random() < .6:
            s, f0, refresh = 0, 0, False
        else:
            s, f0 = same.randint(0, encode_clips.MOVING // 12 - BLOCKS), 3 * int(math.exp(same.uniform(0, math.log(1500))))
            refresh = f0 >= 9 and same.random() < .8
        d = {key: v[i] for key, v in train.data.items()}
        texts = [text.prompt(rng, *x) for x in d["say"].tolist()]
        a = d["a"][torch.arange(o.batch), torch.randint(encode_clips.HEARD, (o.batch,))].float()
        loss = m.loss(sp, d["z"].float(), a, d["box"], texts, k, s, f0, same.randint(4, 30),
                      torch.randn(o.batch, 16, 3 * BLOCKS, 16, 16), refresh, f < o.half)
        opt.descend(loss.mean(), lr)
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(m.parameters()), 1 - min(.998, (1 + step) / (10 + step)))
        for kk, v in zip(k.tolist(), loss.tolist()):
            sums[kk] += torch.tensor([v, 1.])
        if rank == 0 and parallel.clock() - last > 420:
            with parallel.Threads(o.workers):
                held.refresh()
                r = validate(ema, sp, held.data) if len(held) else [0.] * 5
            last = parallel.clock()
            log.append((round((last - t0) / 60, 1), step, *r))
            print(f"min {log[-1][0]} of {o.minutes:.0f} step {step} clips {len(train)} lr {lr:.1e} train", *[f"{x / max(1, n):.4f}" for x, n in sums.tolist()],
                  "| val", *[f"{x:.4f}" for x in r[:3]], f"| wrong sound {r[3]:.4f} wrong prompt {r[4]:.4f}", flush=True)
            sums.zero_()
            save()
    if rank == 0:
        save()
        print("final", step, flush=True)


if __name__ == "__main__":
    main()
