#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measures of a talking picture against the truth.

    measure.py VIDEO --face-seed N --wav SPEECH [--text TEXT | --truth CSV]        -> JSON

Frames are [n, S, S, 3] in 0..1, of a face of face.py. The opening is read without any model: the soft count of dark pixels in the
mouth's box; the drawn truth itself correlates with its curve at .97, since teeth and tongue are not dark. The other curves are read
by a Reader, ridge regression from pixels to curves, fitted on pictures of that very face with a babble on its lips.
"""
import argparse
import json
import sys

import numpy as np

import face
import motion

SPOKEN, SHUT = .3, .04                                       # true opening: surely open, surely closed
LIDS = {"half": (.25, .75), "closed": (.85, 2.)}             # true blink: phases of a lid
RIDGE = 2.                                                   # of 500 pictures: soft or slightly wrong pixels are still read
UNSPECIFIED = 2                                              # FFmpeg's AVCOL_SPC_UNSPECIFIED
LOOKS = {"smiling": (8, 1), "sad": (8, -1), "left": (9, -1), "right": (9, 1)}       # curve and sign; "neutral": none of them


def inside(x, box):
    y0, y1, x0, x1 = box
    return x[:, y0:y1, x0:x1]


def opening(x, box):
    """Dark (cavity) area in the box, in pixels."""
    return np.clip((.30 - inside(x, box) @ np.float32([.3, .59, .11])) / .15, 0, 1).sum((1, 2))


def corr(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-5 and b.std() > 1e-5 else 0.   # what stands still follows nothing


def lag(a, b, n=8):
    """Offset of the best correlation, in frames; positive: a is late -> (offset, r)"""
    r = {k: corr(a[max(0, k):len(a) + min(0, k)], b[max(0, -k):len(b) - max(0, k)]) for k in range(-n, n + 1)}
    k = max(r, key=lambda j: (r[j], -abs(j)))
    return k, r[k]


def quiet(t, n=2):
    """Frames in silence: truly shut, and so are n neighbours on each side. Lips that close for p, b and m are not silence."""
    shut = np.pad(t < SHUT, n, constant_values=True)
    return np.logical_and.reduce([shut[i:i + len(t)] for i in range(2 * n + 1)])


def ajar(idle, spoken, base):
    """Opening where nothing is said as a share of that in speech; base: dark pixels that are not the mouth's, such as a beard's"""
    return float((idle - base) / max(spoken - base, 1.))      # a mouth that never opens: in pixels


def psnr(a, b):
    return float(-10 * np.log10(np.mean((a - b) ** 2) + 1e-12))


def still(drawn, ref):
    """[S, S]: what no expression in the drawn frames moves"""
    return np.abs(drawn - ref).max((0, 3)) < .012


def identity(x, ref, mask):
    """PSNR of what does not move, against the reference picture [S, S, 3]"""
    return psnr(x[:, mask], ref[mask])


def sharpness(x, box):
    """Mean gradient in the box."""
    c = inside(x, box)
    return float(np.abs(np.diff(c, axis=1)).mean() + np.abs(np.diff(c, axis=2)).mean())


def drift(a, b, f, ref, mask):
    """Largest change between frames that say the same at two times, as shares -> dict"""
    s = a.shape[1]
    boxes = face.mouth_box(f, s), face.eye_box(f, s), (0, s, 0, s)
    return dict(sharpness=max(abs(sharpness(b, x) / sharpness(a, x) - 1) for x in boxes),
                colour=float(np.abs(b.mean((0, 1, 2), np.float64) / a.mean((0, 1, 2), np.float64) - 1).max()),
                identity=abs(identity(b, ref, mask) / identity(a, ref, mask) - 1))


def pictures(f, curves, size=128):
    return np.stack([face.draw(f, p, size) for p in curves]).astype(np.float32) / 255


def babble(seconds, seed=3):
    """Curves of visemes in random order, with moods and gazes: every shape of the mouth, no language -> [frames, 10]"""
    rng = np.random.default_rng(seed)
    level, seg, t = np.zeros(16000 * seconds, np.float32), [], .3
    while t < seconds:
        for d in rng.uniform(.04, .16, rng.integers(4, 25)):
            seg.append((t, t + d, motion.NAMES[rng.integers(1, len(motion.NAMES))]))
            level[int(16000 * t):int(16000 * (t + d))] = rng.uniform(.1, 1)
            t += d
        t += rng.uniform(.05, .8)
    c = motion.curves(level * rng.normal(0, .1, len(level)).astype(np.float32), seg)
    return np.concatenate([c, rng.choice([0, 0, 1, -1], (len(c), 2)) * rng.uniform(.5, 1, (len(c), 2))], 1).astype(np.float32)


class Reader:
    """Pixels -> the ten curves, for one face: the mouth's from the mouth, eyes and brows from the eyes, nod and mood from both"""
    FROM = dict(blink=1, brow=1, nod=2, mood=2, gaze=1)

    def __init__(self, f, size=128):
        c = babble(20)
        self.boxes = face.mouth_box(f, size), face.eye_box(f, size)
        x = self.pixels(pictures(f, c, size))
        self.mean, self.target = [v.mean(0) for v in x], c.mean(0)
        x = [v - m for v, m in zip(x, self.mean)]
        self.w = [v.T @ np.linalg.solve(v @ v.T + RIDGE * np.eye(len(v)), c - self.target) for v in x]

    def pixels(self, x):
        parts = [x[:, a:b, c:d].reshape(len(x), -1) for a, b, c, d in self.boxes]
        return [*parts, np.concatenate(parts, 1)]

    def __call__(self, x):
        read = [(v - m) @ w + self.target for v, m, w in zip(self.pixels(x), self.mean, self.w)]
        return np.stack([read[self.FROM.get(name, 0)][:, i] for i, name in enumerate(face.CURVES)], 1)


def shows(read, look):
    """Is the look, a key of LOOKS or "neutral", what a Reader read from a video's frames?"""
    m = read.mean(0)
    return bool(np.abs(m[8:]).max() < .5 if look == "neutral" else LOOKS[look][1] * m[LOOKS[look][0]] > .5)


def lids(x, drawn, blink, box):
    """The eyes' box in each phase of LIDS against the drawn frames, which say what a lid should look like -> dict, None where no frame has it"""
    r = {}
    for name, (a, b) in LIDS.items():
        at = (blink > a) & (blink < b)
        r[f"eyes_{name}"] = psnr(inside(x[at], box), inside(drawn[at], box)) if at.any() else None
        r[f"sharp_{name}"] = sharpness(x[at], box) / sharpness(drawn[at], box) if at.any() else None
    return r


def measure(x, f, truth, reader=None, soft=None):
    """Frames of face f, true curves [n, 10] -> dict. soft: the first frames of the drawn truth as the model's VAE gives them back,
    or None: sharpness is a share of theirs, and what is dark in them while the mouth is shut is not its opening."""
    n, size = min(len(x), len(truth)), x.shape[1]
    x, truth = x[:n], truth[:n]
    box, eyes = face.mouth_box(f, size), face.eye_box(f, size)
    drawn, ref = pictures(f, truth, size), pictures(f, [face.NEUTRAL], size)[0]
    soft = drawn if soft is None else soft[:n]
    o, d, t, mask = opening(x, box), opening(drawn, box), truth[:, 0], still(drawn, ref)
    q, spoken, k = quiet(t), t > SPOKEN, len(soft)
    r = dict(zip(("opening", "lag", "best"), (corr(o, t), *lag(o, t))))
    r["shut"] = float(d[q].mean() + (opening(soft, box) - d[:k])[q[:k]].mean()) if q[:k].any() else 0.
    r["spoken"] = float(o[spoken].mean()) if spoken.any() else None
    r["silence"] = ajar(o[q].mean(), r["spoken"], r["shut"]) if q.any() and spoken.any() else None
    r.update(mouth_psnr=psnr(inside(x, box), inside(drawn, box)), psnr=psnr(x, drawn),
             identity_first=identity(x[:25], ref, mask), identity_last=identity(x[-25:], ref, mask),
             sharp_mouth=sharpness(x[:k], box) / sharpness(soft, box), sharp_eyes=sharpness(x[:k], eyes) / sharpness(soft, eyes))
    r.update(lids(x, drawn, truth[:, face.CURVES.index("blink")], eyes))
    read = (reader or Reader(f, size))(x)
    for i, name in enumerate(face.CURVES[:8]):
        r["r_" + name] = corr(read[:, i], truth[:, i])
    r["mood"], r["gaze"] = float(read[:, 8].mean()), float(read[:, 9].mean())
    return r


def read_video(source, keep=None):
    """A path or a pipe of NUT -> frames, or those whose number is in `keep`. YUV that does not say which is BT.709, as ours."""
    import av
    with av.open(source, **({} if isinstance(source, str) else {"format": "nut"})) as c:
        if not c.streams.video:
            raise ValueError(f"{source}: no video in it")
        out = []
        for i, v in enumerate(c.decode(video=0)):
            if keep is None or i in keep:
                named = v.format.is_rgb or v.colorspace != UNSPECIFIED
                out.append(v.reformat(format="rgb24", src_colorspace=None if named else "ITU709").to_ndarray())
    return np.stack(out).astype(np.float32) / 255


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("video")
    p.add_argument("--face-seed", type=int, required=True)
    p.add_argument("--wav", help="what is said; wanted with --text")
    p.add_argument("--text", help="its words: the truth is their alignment")
    p.add_argument("--truth", help="curves, CSV of truth.py")
    o = p.parse_args()
    if o.truth:
        c = np.loadtxt(o.truth, delimiter=",", skiprows=1, dtype=np.float32)[:, :8]
    elif o.wav and o.text:
        import speech
        import truth
        w = speech.read(o.wav)
        try:
            c = motion.curves(w, truth.align(w, o.text))
        except ValueError as e:
            sys.exit(f"measure.py: {o.wav}: {e}")
    else:
        p.error("the truth is missing: --truth CSV, or --wav SPEECH and --text TEXT")
    try:
        x = read_video(o.video)
    except (OSError, ValueError) as e:
        sys.exit(f"measure.py: {e}")
    if x.shape[1] != x.shape[2]:
        sys.exit(f"measure.py: {o.video} is {x.shape[2]}x{x.shape[1]}; faces are measured in square pictures")
    print(json.dumps(measure(x, face.identity(o.face_seed), motion.express(c)), indent=2))


if __name__ == "__main__":
    main()
