# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sentences, three synthesizers with phoneme times, and what a microphone does to speech.

espeak-ng through its library: espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, NULL, espeakINITIALIZE_PHONEME_EVENTS) and a
callback; an event of type 7 has the phoneme's mnemonic in id.string and its START in `sample` (22050 Hz); the next event's start
is its end. flite prints 'phone:end' pairs (-psdur), festival saves its segments. Voices built from recorded speakers matter:
an encoder that hears espeak alone fails on everything else.
"""
import ctypes as C
import os
import random
import re
import subprocess
import tempfile
from collections import Counter
from math import gcd

import numpy as np
from scipy.io import wavfile
from scipy.signal import fftconvolve, lfilter, resample_poly

import motion

RATE = 16000
ESPEAK = [a + v for a in ("en", "en-us", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-us-nyc")
          for v in ("", "+m1", "+m2", "+m3", "+m4", "+m6", "+m7", "+f1", "+f2", "+f3", "+f5")]
# other throats: variants that people wrote, Klatt's synthesizer among them
ESPEAK_MORE = [a + "+" + v for a in ("en", "en-us", "en-gb-x-rp") for v in (
    "Alex Alicia Andrea Andy Annie Denis Diogo Gene Henrique Hugo Jacky Lee Marco Mario Michael Mike Storm Tweaky adam anika "
    "antonio aunty belinda benjamin boris caleb croak david ed edward grandma grandpa gustave iven john kaukovalta klatt klatt2 "
    "klatt3 klatt4 linda marcelo max michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph travis victor "
    "zac").split()]
ESPEAK_HELD_OUT = ["en-us+m5", "en-gb-x-rp+f4", "en+m8", "en-us+m8"]
FLITE = ["slt", "awb", "kal16", "kal"]
FLITE_HELD_OUT = ["rms"]
FESTIVAL = ["kal_diphone", "cmu_us_slt_arctic_hts"]            # festvox-kallpc16k, festvox-us-slt-hts
FESTIVAL_HELD_OUT = ["ked_diphone"]                          # festvox-kdlpc16k
HARVARD = ["The birch canoe slid on the smooth planks.", "Glue the sheet to the dark blue background.",
           "It's easy to tell the depth of a well.", "These days a chicken leg is a rare dish.",
           "Rice is often served in round bowls.", "The juice of lemons makes fine punch.",
           "The box was thrown beside the parked truck.", "The hogs were fed chopped corn and garbage.",
           "Four hours of steady work faced us.", "A large size in stockings is hard to sell."]   # held out


class _Id(C.Union):
    _fields_ = [("number", C.c_int), ("name", C.c_char_p), ("string", C.c_char * 8)]


class _Event(C.Structure):
    _fields_ = [("type", C.c_int), ("uid", C.c_uint), ("text_position", C.c_int), ("length", C.c_int),
                ("audio_position", C.c_int), ("sample", C.c_int), ("user", C.c_void_p), ("id", _Id)]


_lib, _pcm, _events = None, [], []


@C.CFUNCTYPE(C.c_int, C.POINTER(C.c_short), C.c_int, C.POINTER(_Event))
def _on_synth(pcm, n, ev):
    if n > 0:
        _pcm.append(np.ctypeslib.as_array(pcm, (n,)).copy())
    i = 0
    while ev[i].type:
        if ev[i].type == 7:
            _events.append((ev[i].sample, ev[i].id.string.decode("utf8", "replace")))
        i += 1
    return 0


def espeak(text, voice="en-us", rate=165, pitch=50, spread=50):
    """-> (16 kHz f32, [(start_s, end_s, viseme)])"""
    global _lib
    if _lib is None:
        _lib = C.CDLL("libespeak-ng.so.1")
        _lib.espeak_Initialize(2, 0, None, 1)
        _lib.espeak_SetSynthCallback(_on_synth)
    _pcm.clear()
    _events.clear()
    _lib.espeak_SetVoiceByName(voice.encode())
    for p, v in ((1, rate), (3, pitch), (4, spread)):
        _lib.espeak_SetParameter(p, v, 0)
    b = text.encode() + b"\0"
    _lib.espeak_Synth(b, len(b), 0, 1, 0, 1, None, None)
    _lib.espeak_Synchronize()
    w = np.concatenate(_pcm).astype(np.float32) / 32768
    ends = [s for s, _ in _events[1:]] + [len(w)]
    seg = [(s / 22050, e / 22050, motion.from_espeak(p)) for (s, p), e in zip(_events, ends) if e > s]
    return resample_poly(w, 320, 441).astype(np.float32), seg


def read(path):
    """A wav file -> mono f32 at 16 kHz"""
    sr, w = wavfile.read(path)
    if w.dtype == np.uint8:
        w = (w.astype(np.int16) - 128) * 256
    w = w.astype(np.float32) / (1 if w.dtype.kind == "f" else 2. ** (8 * w.dtype.itemsize - 1))
    w = w.mean(1) if w.ndim > 1 else w
    g = gcd(sr, RATE)
    return resample_poly(w, RATE // g, sr // g).astype(np.float32) if sr != RATE else w


def flite(text, voice="slt", stretch=1.0, pitch=None):
    with tempfile.TemporaryDirectory() as d:
        cmd = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}", "-psdur", "-t", text, "-o", d + "/a.wav"]
        if pitch:
            cmd[3:3] = ["--setf", f"int_f0_target_mean={pitch:.0f}"]
        out = subprocess.run(cmd, capture_output=True, text=True, check=True).stdout
        w = read(d + "/a.wav")
    seg, s = [], 0.
    for p, e in re.findall(r"([a-z]+):([\d.]+)", out):
        seg.append((s, float(e), motion.from_arpabet(p)))
        s = float(e)
    return w, seg


def festival(texts, voice="kal_diphone", stretch=1.0):
    """Many sentences at once, since the program takes a second to start -> [(wave, seg)]"""
    out = []
    with tempfile.TemporaryDirectory() as d:
        s = [f"(voice_{voice})", f"(Parameter.set 'Duration_Stretch {stretch:.3f})"]
        for i, t in enumerate(texts):
            t = t.replace('"', "").replace("\\", "")
            s.append(f'(set! u (utt.synth (Utterance Text "{t}")))(utt.save.wave u "{d}/{i}.wav" \'riff)(utt.save.segs u "{d}/{i}.seg")')
        with open(d + "/a.scm", "w") as f:
            f.write("\n".join(s))
        subprocess.run(["festival", "-b", d + "/a.scm"], capture_output=True, check=True)
        for i in range(len(texts)):
            seg, s0 = [], 0.
            for line in open(f"{d}/{i}.seg").read().split("#\n", 1)[1].splitlines():
                e, _, p = line.split()[:3]
                seg.append((s0, float(e), motion.from_arpabet(p)))
                s0 = float(e)
            out.append((read(f"{d}/{i}.wav"), seg))
    return out


_words = None


def words():
    """Words from the system's licence texts and Python's own help, and common ones with many lip closures."""
    global _words
    if _words is None:
        import pydoc_data.topics
        t = " ".join(pydoc_data.topics.topics.values())
        d = "/usr/share/common-licenses"
        for f in sorted(os.listdir(d)) if os.path.isdir(d) else []:
            t += " " + open(os.path.join(d, f), errors="ignore").read()
        n = Counter(re.findall(r"\b[a-z]{2,11}\b", t.lower()))
        _words = sorted(w for w, c in n.items() if c >= 2 and re.search("[aeiouy]", w))
        _words += ("hello my name is the boy mother father bob blue moon purple food water apple open wow show home people baby big fish "
                   "five very think this that leaves over above happy summer winter weather oh we you they people remember").split() * 4
    return _words


def sentence(rng):
    n = rng.randint(5, 13)
    w = [rng.choice(words()) for _ in range(n)]
    for i in range(2, n - 1):
        if rng.random() < .18:
            w[i] += rng.choice([",", ",", ".", ";"])
    return " ".join(w).capitalize() + rng.choice(".." "?!")


def room(w, rng, nr):
    """A short exponential tail of noise: a room without a name."""
    t = rng.uniform(.05, .3)
    n = int(t * RATE)
    h = nr.normal(0, 1, n) * np.exp(-6.9 * np.arange(n) / n) * rng.uniform(.02, .12)
    h[0] = 1
    return fftconvolve(w, h)[:len(w)]


def music(n, rng, nr):
    """Chords of a few decaying harmonic notes."""
    t, out = np.arange(n) / RATE, np.zeros(n)
    for _ in range(rng.randint(3, 10)):
        f, at = 110 * 2 ** (rng.randint(0, 36) / 12), rng.uniform(0, n / RATE)
        k = np.clip(t - at, 0, None)
        note = sum(np.sin(2 * np.pi * f * h * k) / h for h in range(1, 5))
        out += note * np.exp(-k * rng.uniform(1, 5)) * (t > at)
    return out


def colour(w, rng):
    """A microphone, a loudspeaker, another throat: loudness over frequency wanders by some 8 dB from octave to octave."""
    f = np.fft.rfft(w)
    octave = np.log2(np.maximum(np.fft.rfftfreq(len(w), 1 / RATE), 60) / 60)
    db = np.interp(octave, range(8), [rng.gauss(0, 8) for _ in range(8)])
    return np.fft.irfft(f * 10 ** (db / 20), len(w))


def noise(n, rng, nr):
    """White, dark, bright or musical, deviation 1."""
    if rng.random() < .2:
        x = music(n, rng, nr)
    else:
        x = lfilter([1], [1, rng.choice([0, -.9, -.98, .7])], nr.normal(0, 1, n))
    return x / (x.std() + 1e-9)


def degrade(w, rng, nr):
    """Equalisation, room, telephone band, noise, level: what is between a mouth and a file."""
    w = w / (np.sqrt(np.mean(w[np.abs(w) > 1e-3] ** 2)) + 1e-6 if (np.abs(w) > 1e-3).any() else 1)   # speech at 1
    if rng.random() < .6:
        w = lfilter([1, rng.uniform(-.75, .6)], [1, rng.uniform(-.4, .4)], w)
    if rng.random() < .5:
        w = colour(w, rng)
        w = w / (w.std() + 1e-6)
    if rng.random() < .35:
        w = room(w, rng, nr)
    if rng.random() < .2:
        w = resample_poly(resample_poly(w, 1, 2), 2, 1)[:len(w)]
    if rng.random() < .75:
        w = w + noise(len(w), rng, nr) * 10 ** rng.uniform(-3, -.8)
    return (w / (w.std() + 1e-6) * 10 ** (rng.uniform(-35, -10) / 20)).astype(np.float32)


def utterance(seed, voices=ESPEAK):
    """A random espeak utterance in silence -> (clean wave, seg)"""
    rng = random.Random(seed)
    w, seg = espeak(sentence(rng), rng.choice(voices), rng.randint(125, 215), rng.randint(20, 80),
                    rng.randint(20, 80))
    return pad(w, seg, rng)


def pad(w, seg, rng):
    lead, tail = rng.uniform(.1, .7), rng.uniform(.2, .8)
    w = np.concatenate([np.zeros(int(lead * RATE)), w, np.zeros(int(tail * RATE))]).astype(np.float32)
    return w, [(s + lead, e + lead, v) for s, e, v in seg]
