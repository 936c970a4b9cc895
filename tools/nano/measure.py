# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measures of a talking picture against the truth.

    measure.py VIDEO --face-seed N --wav SPEECH [--text TEXT | --truth CSV]        -> JSON

Frames are [n, S, S, 3] in 0..1. The opening is read without any model: the soft count of dark pixels in the mouth's box. The
other curves are read by a Reader, ridge regression from pixels to curves, fitted on pictures of that very face, drawn with
speech that is not the speech measured.
"""
import argparse
import json

import numpy as np

import face
import motion
import speech

SPOKEN, SHUT = .3, .04                                       # true opening: surely open, surely closed


def opening(x, box):
    """Dark (cavity) area in the box, in pixels."""
    y0, y1, x0, x1 = box
    return np.clip((.30 - x[:, y0:y1, x0:x1] @ np.float32([.3, .59, .11])) / .15, 0, 1).sum((1, 2))


def corr(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-5 and b.std() > 1e-5 else 0.   # what stands still follows nothing


def lag(a, b, n=8):
    """Offset of the best correlation, in frames; positive: a is late -> (offset, r)"""
    r = {k: corr(a[max(0, k):len(a) + min(0, k)], b[max(0, -k):len(b) - max(0, k)]) for k in range(-n, n + 1)}
    k = max(r, key=lambda j: (r[j], -abs(j)))
    return k, r[k]


def psnr(a, b):
    return float(-10 * np.log10(np.mean((a - b) ** 2) + 1e-12))


def sharpness(x, box):
    """Mean gradient in the box."""
    y0, y1, x0, x1 = box
    c = x[:, y0:y1, x0:x1]
    return float(np.abs(np.diff(c, axis=1)).mean() + np.abs(np.diff(c, axis=2)).mean())


def pictures(f, curves, size=128):
    return np.stack([face.draw(f, p, size) for p in curves]).astype(np.float32) / 255


class Reader:
    """Pixels of mouth and eyes -> the ten curves, for one face"""

    def __init__(self, f, frames=400):
        rng = np.random.default_rng(3)
        c = np.concatenate([motion.curves(*speech.utterance(5_000_000 + i)) for i in range(6)])
        c = c[rng.permutation(len(c))[:frames]]
        say = rng.choice([0, 0, 1, -1], (len(c), 2)) * rng.uniform(.5, 1, (len(c), 2))
        c = np.concatenate([c, say], 1).astype(np.float32)
        self.boxes = face.mouth_box(f), face.eye_box(f)
        x = self.pixels(pictures(f, c))
        self.mean, self.target = x.mean(0), c.mean(0)
        x = x - self.mean
        self.w = x.T @ np.linalg.solve(x @ x.T + .3 * np.eye(len(x)), c - self.target)

    def pixels(self, x):
        return np.concatenate([x[:, a:b, c:d].reshape(len(x), -1) for a, b, c, d in self.boxes], 1)

    def __call__(self, x):
        return (self.pixels(x) - self.mean) @ self.w + self.target


def measure(x, f, truth, reader=None):
    """frames of face f, true curves [n, 10] -> dict"""
    n = min(len(x), len(truth))
    x, truth = x[:n], truth[:n]
    box, eyes = face.mouth_box(f), face.eye_box(f)
    drawn, ref = pictures(f, truth), pictures(f, [face.NEUTRAL])
    o, t = opening(x, box), truth[:, 0]
    shut, spoken = t < SHUT, t > SPOKEN
    base = o[shut].min() if shut.any() else o.min()          # dark pixels that are not the mouth's: a beard
    k, best = lag(o, t)
    still = np.abs(drawn - ref).max((0, 3)) < .012
    r = dict(opening=corr(o, t), lag=k, best=best, silence=float((o[shut].mean() - base) / (o[spoken].mean() - base + 1e-6)) if shut.any() and spoken.any() else None,
             mouth_psnr=psnr(x[:, box[0]:box[1], box[2]:box[3]], drawn[:, box[0]:box[1], box[2]:box[3]]), psnr=psnr(x, drawn),
             identity_first=psnr(x[:25][:, still], ref[:, still].repeat(len(x[:25]), 0)),
             identity_last=psnr(x[-25:][:, still], ref[:, still].repeat(len(x[-25:]), 0)),
             sharp_mouth=sharpness(x, box) / sharpness(drawn, box), sharp_eyes=sharpness(x, eyes) / sharpness(drawn, eyes))
    read = (reader or Reader(f))(x)
    for i, name in enumerate(face.CURVES[:8]):
        r["r_" + name] = corr(read[:, i], truth[:, i])
    r["mood"], r["gaze"] = float(read[:, 8].mean()), float(read[:, 9].mean())
    return r


def read_video(path):
    import av
    with av.open(path) as c:
        return np.stack([v.to_ndarray(format="rgb24") for v in c.decode(video=0)]).astype(np.float32) / 255


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("video")
    p.add_argument("--face-seed", type=int, required=True)
    p.add_argument("--wav", required=True)
    p.add_argument("--text", help="what is said; aligned when no --truth is given")
    p.add_argument("--truth", help="curves, CSV of truth.py")
    o = p.parse_args()
    if o.truth:
        c = np.loadtxt(o.truth, delimiter=",", skiprows=1, dtype=np.float32)[:, :8]
    elif o.text:
        import truth
        w = speech.read(o.wav)
        c = motion.curves(w, truth.align(w, o.text))
    else:
        p.error("one of --text and --truth is needed")
    print(json.dumps(measure(read_video(o.video), face.identity(o.face_seed), motion.express(c)), indent=2))


if __name__ == "__main__":
    main()
