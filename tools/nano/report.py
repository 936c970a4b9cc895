#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Measure a model folder on faces and speech it never saw, and write the table into its card.

    report.py --model model/nano --tool build/avatar --out build/nano/report        what `make nano-report` runs

Videos are the engine's: `avatar speak` on a drawn portrait and a WAV, RGB through its pipe. PyTorch runs the VAE alone, for what it
loses by itself; with --torch the whole chain is PyTorch's, to compare the two. Out come report.json, report.md, strips of frames (every
second row is generated, the row above it drawn from the truth), and sheet.png, ten faces in ten phases. The table goes between the
markers of MODEL/README.md, unless --quick left rows out. About ten minutes on two idle cores.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile

import face
import measure
import model
import motion
import speech
import truth

BLOCK = 7680                                                 # samples
FACES = 20                                                   # that are prompted
BLOCKS = 14                                                  # of a case
LOOP = 20                                                    # seconds after which a long run's speech begins anew
SOFT = 49                                                    # frames of each case that go through the VAE: 4 k + 1
RECORDINGS = "/usr/share/pocketsphinx/test/data/librivox"    # Debian's pocketsphinx-testdata
KINDS = {"espeak": 8, "flite rms": 4, "festival ked": 4, "recordings": 4}
PROMPTS = {"smiling": "A person is smiling.", "sad": "A sad person.", "left": "A person looking to the left.",
           "right": "A person looking to the right.", "neutral": "qwerty about nothing"}
START, END = "<!-- measures -->", "<!-- /measures -->"


def say(*words):
    print(f"{time.monotonic() - BEGAN:5.0f} s ", *words, flush=True)


# ---- what is spoken

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
    """-> [(kind, face, wave, curves)]"""
    out = []
    for kind, count in KINDS.items():
        for i in range(count):
            try:
                w, seg = joined(spoken(kind, i), BLOCK * blocks)
            except (OSError, ValueError, IndexError, subprocess.SubprocessError) as e:
                say(f"skipped: {kind} {i}: {e}")
                continue
            out.append((kind, face.identity(face.HELD_OUT + 100 + len(out)), w, motion.express(motion.curves(w, seg))))
    return out


# ---- who speaks it: talk(face, wave, prompt, keep) -> frames [n, S, S, 3] in 0..1, or those whose number is in `keep`

class Engine:
    def __init__(self, tool, folder, size, tmp):
        self.cmd, self.size = [tool, "speak", "--model", folder, "--format", "rgb24", "--seed", "1", "--precision", "f32", "--quiet"], size
        self.wav, self.png = tmp + "/a.wav", tmp + "/a.png"

    def write(self, f, wave):
        Image.fromarray(face.draw(f, face.NEUTRAL, self.size)).save(self.png)
        wavfile.write(self.wav, speech.RATE, (wave.clip(-1, 1) * 32767).astype(np.int16))

    def talk(self, f, wave, prompt=None, keep=None):
        self.write(f, wave)
        cmd = self.cmd + [self.wav, self.png, "-o", "-"] + (["--prompt", prompt] if prompt else [])
        with subprocess.Popen(cmd, stdout=subprocess.PIPE) as p:
            try:
                x = measure.read_video(p.stdout, keep)
            except (OSError, ValueError):
                x = None                                     # the tool has said why
        if p.returncode or x is None:
            sys.exit("report.py: no video came from " + " ".join(cmd))
        return x


class Torch:
    def __init__(self, m):
        self.m = m

    def talk(self, f, wave, prompt=None, keep=None):
        picture = torch.from_numpy(face.draw(f, face.NEUTRAL, self.m.size[0])).permute(2, 0, 1).float() / 127.5 - 1
        x = self.m.talk(picture[None], [wave], [prompt] if prompt else None)[0]
        return x if keep is None else x[list(keep)]


# ---- what is measured

@torch.no_grad()
def through_vae(m, x):
    """Frames -> what the VAE gives back of them"""
    z = m.vae.encode(torch.from_numpy(x).permute(3, 0, 1, 2)[None] * 2 - 1)
    return m.vae.decode(z)[0].permute(1, 2, 3, 0).numpy() / 2 + .5


def reconstruction(m, n=6):
    """97-frame clips with a blink each second through the VAE -> PSNR of whole, mouth, eyes, last 8 frames; dict of measure.lids"""
    r, lids, rng = [], [], random.Random(0)
    for i in range(n):
        f = face.identity(face.HELD_OUT + 500 + i)
        c = motion.curves(*speech.utterance(6_000_000 + i))[:97]
        c = motion.blinking(np.concatenate([c, np.repeat(c[-1:], 97 - len(c), 0)]), rng)
        x = measure.pictures(f, motion.express(c), m.size[0])
        y, boxes = through_vae(m, x), [b(f, m.size[0]) for b in (face.mouth_box, face.eye_box)]
        parts = [(x, y), *((measure.inside(x, b), measure.inside(y, b)) for b in boxes), (x[-8:], y[-8:])]
        r.append([measure.psnr(*p) for p in parts])
        lids.append(measure.lids(y, x, c[:, 5], boxes[1]))
    return np.mean(r, 0).tolist(), {k: float(np.mean([v[k] for v in lids])) for k in lids[0]}


def lips(m, talk, talks):
    """-> [(kind, measures)], [(drawn, generated)]"""
    rows, pairs = [], []
    for i, (kind, f, w, c) in enumerate(talks):
        drawn = measure.pictures(f, c, m.size[0])
        x = talk(f, w)
        r = measure.measure(x, f, c, soft=through_vae(m, drawn[:SOFT]))
        other = talks[(i + 1) % len(talks)][3][:, 0]
        r["other"] = measure.corr(measure.opening(x, face.mouth_box(f, m.size[0])), other[:len(x)])
        rows.append((kind, r))
        pairs.append((drawn, x))
        said = ("opening", "lag", "r_width", "r_round", "r_blink", "silence")
        say(f"case {i + 1} of {len(talks)}, {kind}:", " ".join(f"{k} {r[k]:.2f}" for k in said if r[k] is not None))
    return rows, pairs


def in_noise(m, talk, talks, rows):
    """Opening in noise without speech as a share of the same face's in speech -> one number a face"""
    out = []
    for (_, f, _, _), (_, r) in list(zip(talks, rows))[:4]:
        n = speech.noise(BLOCK * 6, random.Random(len(out)), np.random.default_rng(len(out)))
        o = measure.opening(talk(f, (n * .01).astype(np.float32)), face.mouth_box(f, m.size[0]))
        out.append(measure.ajar(o.mean(), r["spoken"], r["shut"]))
    say("in noise: " + " ".join(f"{v:.3f}" for v in out))
    return out


def prompts(m, talk):
    """Share of faces on which what the prompt asks for is read from the pictures, by prompt; a picture of all"""
    out, shown = {}, []
    w, _ = joined(spoken("espeak", 1), BLOCK * 4)
    faces = [face.identity(face.HELD_OUT + 300 + i) for i in range(FACES)]
    readers = [measure.Reader(f, m.size[0]) for f in faces]
    for look, prompt in PROMPTS.items():
        x = [talk(f, w, prompt) for f in faces]
        out[look] = float(np.mean([measure.shows(r(v), look) for r, v in zip(readers, x)]))
        shown.append(np.concatenate([v[40] for v in x[:8]], 1))
        say(f"prompt '{prompt}': {look} on {out[look]:.0%}")
    return out, np.concatenate(shown, 0)


# phases of the contact sheet: the prompt, and of which frame most is there, from the true curves by name
PHASES = [(None, lambda c: c["open"] - c["blink"]), (None, lambda c: -c["open"] - c["teeth"] - c["blink"]),
          (None, lambda c: c["round"] - c["blink"] + c["open"] / 4), (None, lambda c: c["width"] - c["blink"]),
          (None, lambda c: c["teeth"] - c["open"] - c["blink"]), ("smiling", lambda c: -c["open"] - c["blink"]),
          (None, lambda c: -abs(c["blink"] - .5)), (None, lambda c: c["blink"]),
          ("left", lambda c: -c["open"] - c["blink"]), ("right", lambda c: -c["open"] - c["blink"])]


def sheet(m, talk):
    """Ten faces, a row each, in the phases: open, shut, rounded, wide, teeth, smile, blink half, blink closed, look left, look right"""
    w, seg = joined(spoken("espeak", 1), BLOCK * 6)
    c = dict(zip(face.CURVES, motion.curves(w, seg)[12:].T))                     # the first frames still show the portrait
    at = [12 + int(np.argmax(most_so(c))) for _, most_so in PHASES]
    rows = []
    for i in range(10):
        f = face.identity(face.HELD_OUT + 320 + i)
        x = {look: talk(f, w, look and PROMPTS[look]) for look in {look for look, _ in PHASES}}
        rows.append(np.concatenate([x[look][k] for (look, _), k in zip(PHASES, at)], 1))
    return np.concatenate(rows, 0)


def long_run(m, talk, seconds, *windows):
    """One face that says the same every 20 s -> frames of each window (first, last second), face, reference, what does not move"""
    f = face.identity(face.HELD_OUT + 200)
    w, seg = joined([speech.espeak(t, speech.ESPEAK_HELD_OUT[0], 160) for t in speech.HARVARD[:6]], speech.RATE * LOOP)
    spans = [range(25 * a, 25 * b) for a, b in windows]
    x = talk(f, np.tile(w, seconds // LOOP), keep={i for s in spans for i in s})
    ref = measure.pictures(f, [face.NEUTRAL], m.size[0])[0]
    mask = measure.still(measure.pictures(f, motion.express(motion.curves(w, seg)), m.size[0]), ref)
    return np.split(x, np.cumsum([len(s) for s in spans])[:-1]), f, ref, mask


def frame_rate(engine, folder, ffmpeg, seconds=30):
    """Frames a second from files to frames on two cores, the start included -> (number, through what)"""
    engine.write(face.identity(face.HELD_OUT), joined(spoken("espeak", 2), speech.RATE * seconds)[0])
    cmd, what = [*engine.cmd, engine.wav, engine.png, "-o", "/dev/null"], "`avatar speak`"
    if os.path.exists(ffmpeg):
        graph = f"[0:a]avatar=model={os.path.abspath(folder)}:image={engine.png}:seed=1:precision=f32[v]"
        cmd, what = [ffmpeg, "-v", "error", "-i", engine.wav, "-filter_complex", graph, "-map", "[v]", "-f", "null", "-"], "ffmpeg"
    cores = sorted(os.sched_getaffinity(0))[:2]
    start = time.monotonic()
    subprocess.run(cmd, check=True, preexec_fn=lambda: os.sched_setaffinity(0, cores))
    rate = 25 * seconds / (time.monotonic() - start)
    say(f"{rate:.1f} frames a second through {what}")
    return rate, what


# ---- the table: values that miss their goal are bold

def least(values, goal):
    return np.mean(values) >= goal


def most(values, goal):
    return np.mean(values) <= goal


def within(values, goal):
    return np.abs(values).max() <= goal


PER_KIND = [  # label, key, factor, digits, how the goal is met, goals of the kinds
    ("opening follows the truth, r", "opening", 1, 2, least, (.93, .85, .85, .75)),
    ("offset of its best r, frames", "lag", 1, 0, within, (1, 1, 1, 1)),
    ("width, r", "r_width", 1, 2, least, (.8, None, None, None)),
    ("rounding, r", "r_round", 1, 2, least, (.8, None, None, None)),
    ("teeth, r", "r_teeth", 1, 2, None, (None,) * 4),
    ("blinks, r", "r_blink", 1, 2, least, (.8, .8, .8, .8)),
    ("nod, r", "r_nod", 1, 2, None, (None,) * 4),
    ("opening in silence, % of that in speech", "silence", 100, 1, most, (5, 5, 5, 5)),
    ("sharpness of the mouth, % of the truth's through the VAE", "sharp_mouth", 100, 1, least, (95,) * 4),
    ("sharpness of the eyes, % of the truth's through the VAE", "sharp_eyes", 100, 1, least, (95,) * 4),
    ("eyes half closed, against the truth, dB", "eyes_half", 1, 1, least, (30,) * 4),
    ("eyes closed, against the truth, dB", "eyes_closed", 1, 1, least, (30,) * 4),
    ("sharpness of half-closed eyes, % of the truth's", "sharp_half", 100, 1, least, (92,) * 4),
    ("sharpness of closed eyes, % of the truth's", "sharp_closed", 100, 1, least, (92,) * 4),
    ("picture against the truth, dB", "psnr", 1, 1, None, (None,) * 4),
    ("mouth against the truth, dB", "mouth_psnr", 1, 1, None, (None,) * 4),
    ("opening against another case's truth, r", "other", 1, 2, None, (None,) * 4)]
SIGN = {least: "≥ ", most: "≤ ", within: "each 0 ± "}


def bold(text, missed):
    return f"**{text}**" if missed else text


def goal_text(how, goals):
    text = ["-" if g is None else f"{g:g}" for g in goals]
    return "" if how is None else SIGN[how] + (text[0] if len(set(text)) == 1 else " / ".join(text))


def by_kind(rows):
    """[(kind, measures)] -> Markdown, a column a kind: mean (least to most)"""
    kinds = [k for k in KINDS if any(x == k for x, _ in rows)]
    names = [f"{k} ({sum(x == k for x, _ in rows)})" for k in kinds]
    md = ["| measure | goal | " + " | ".join(names) + " |", "|---" * (len(kinds) + 2) + "|"]
    for label, key, factor, digits, how, goals in PER_KIND:
        goals, cells = [dict(zip(KINDS, goals))[k] for k in kinds], []
        for kind, goal in zip(kinds, goals):
            v = np.array([r[key] * factor for x, r in rows if x == kind and r[key] is not None])
            text = f"{v.mean():.{digits}f} ({v.min():.{digits}f} to {v.max():.{digits}f})" if len(v) else "-"
            cells.append(bold(text, len(v) and goal is not None and not how(v, goal)))
        md.append(f"| {label} | {goal_text(how, goals)} | " + " | ".join(cells) + " |")
    return md


def alone(rows):
    """[(label, values, digits, how, goals)] -> Markdown; each value has its goal, or all have one"""
    md = ["| measure | goal | value |", "|---|---|---|"]
    for label, values, digits, how, goals in rows:
        goals = goals * len(values) if len(goals) == 1 else goals
        cells = [bold(f"{v:.{digits}f}", not how([v], g)) for v, g in zip(values, goals)]
        md.append(f"| {label} | {goal_text(how, goals)} | {' / '.join(cells)} |")
    return md


def into_card(path, md):
    with open(path) as f:
        before, start, rest = f.read().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        return say(f"{path}: not changed, as it has no {START} ... {END}")
    with open(path, "w") as f:
        f.write(before + START + "\n" + md + "\n" + END + after)
    say(f"{path}: written")


def strip(path, pairs, every=3, first=24, count=14):
    rows = []
    for drawn, made in pairs:
        rows += [np.concatenate(list(x[first::every][:count]), 1) for x in (drawn, made)]
    picture(path, np.concatenate(rows, 0))


def picture(path, x):
    Image.fromarray((x * 255).round().clip(0, 255).astype(np.uint8)).save(path)


def origin(o):
    """By what, of what, where: the line above the table"""
    cmd = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "describe", "--always", "--dirty", "--exclude=*"]
    git = subprocess.run(cmd, capture_output=True, text=True).stdout.strip()
    cpu = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())
    return (f"By `make nano-report` at commit {git or 'unknown'}, through {'PyTorch' if o.torch else 'the engine'}, f32, "
            f"{len(os.sched_getaffinity(0))} cores of {cpu[1] if cpu else 'an unnamed CPU'}, on unseen faces and sentences. "
            "Mean (least to most); **bold**: the goal is missed.")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default="model/nano")
    p.add_argument("--tool", default="build/avatar")
    p.add_argument("--ffmpeg", default="build/ffmpeg/bin/ffmpeg", help="with the filter; without it the tool's frame rate is taken")
    p.add_argument("--out", default="build/nano/report")
    p.add_argument("--blocks", type=int, default=BLOCKS, help="of 0.48 s, each of the twenty cases")
    p.add_argument("--torch", action="store_true", help="videos from PyTorch, not from the engine; the card stays as it is")
    p.add_argument("--quick", action="store_true", help="no runs of 60 s and 600 s, no prompts; the card stays as it is")
    o = p.parse_args()
    if not os.path.exists(o.tool):
        sys.exit(f"report.py: {o.tool} is not there: run make, or name it with --tool")
    torch.set_flush_denormal(True)
    os.makedirs(o.out, exist_ok=True)
    m = model.Nano(o.model)
    with tempfile.TemporaryDirectory() as tmp:
        engine = Engine(o.tool, o.model, m.size[0], tmp)
        report(o, m, engine, Torch(m).talk if o.torch else engine.talk)


def long_measures(m, talk):
    """Rows of the table: identity after a minute, drift after ten"""
    parts, _, ref, mask = long_run(m, talk, 60, (0, 1), (59, 60))
    same = [measure.identity(x, ref, mask) for x in parts]
    say("60 s: " + " ".join(f"{v:.1f}" for v in same))
    parts, f, ref, mask = long_run(m, talk, 600, (10, 20), (590, 600))
    drift = measure.drift(*parts, f, ref, mask)
    say("600 s: " + " ".join(f"{k} {v:.3f}" for k, v in drift.items()))
    return [("60 s: what does not move against the portrait, first / last second, dB", same, 1, least, [32]),
            ("600 s: seconds 590 to 600 against 10 to 20, change of sharpness / colour / identity, %",
             [100 * v for v in drift.values()], 1, most, [2])]


def report(o, m, engine, talk):
    talks = cases(o.blocks)
    rows, pairs = lips(m, talk, talks)
    for name, part in (("strip_a", pairs[:3]), ("strip_b", pairs[8::4] or pairs[-3:])):
        strip(f"{o.out}/{name}.png", part)
    picture(o.out + "/sheet.png", sheet(m, talk))
    noise = 100 * np.mean(in_noise(m, talk, talks, rows))
    rate, what = frame_rate(engine, o.model, o.ffmpeg)
    vae, vae_lids = reconstruction(m)
    single = [("opening in noise without speech, % of that in speech", [noise], 1, most, [5]),
              ("VAE on unseen 97-frame clips: whole / mouth / eyes / last 8 frames, dB", vae, 1, least, [36]),
              ("VAE, eyes half closed / closed: dB", [vae_lids["eyes_half"], vae_lids["eyes_closed"]], 1, least, [30]),
              ("VAE, eyes half closed / closed: sharpness, % of the truth's", [100 * vae_lids[k] for k in ("sharp_half", "sharp_closed")], 1, least, [92]),
              (f"from files to frames through {what}, f32, 2 cores, frames a second", [rate], 0, least, [50])]
    if not o.quick:
        share, shown = prompts(m, talk)
        picture(o.out + "/prompts.png", shown)
        single.append((f"prompts followed, % of {FACES} faces: {' / '.join(share)} (what is not known)",
                       [100 * v for v in share.values()], 0, least, [90]))
        single += long_measures(m, talk)
    md = "\n".join([origin(o), "", *by_kind(rows), "", *alone(single)])
    with open(o.out + "/report.md", "w") as f:
        f.write(md + "\n")
    with open(o.out + "/report.json", "w") as f:
        each = [dict(kind=k, **r) for k, r in rows]
        json.dump(dict(cases=each, single=[(row[0], list(map(float, row[1]))) for row in single]), f, indent=1)
    print(md)
    if not o.quick and not o.torch:
        into_card(o.model + "/README.md", md)


BEGAN = time.monotonic()
if __name__ == "__main__":
    main()
