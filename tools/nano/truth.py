#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The true motion of a recording whose text is known, by forced alignment.

    truth.py --wav a.wav --text "What is said." > curves.csv
    truth.py --fixture tests/gold/lips                     a held-out voice and its truth: lips.wav, lips.csv of tests/e2e/lips.c

pocketsphinx carries its own acoustic model: one pass aligns the words, a second one the phones, in frames of 10 ms.
"""
import argparse
import re
import sys

import numpy as np
from scipy.io import wavfile

import face
import motion
import speech

HALF = 38400                                                 # samples of a sentence in the fixture: five blocks
ANNA = 13                                                    # faces of model/nano/faces, from face.HELD_OUT on


def phones(wave, words):
    """One alignment -> [(start_s, end_s, viseme)]; RuntimeError when sound and words do not go together"""
    from pocketsphinx import Decoder
    d = Decoder(samprate=speech.RATE, lm=None, loglevel="FATAL")
    unknown = [w for w in words if d.lookup_word(w) is None]
    if unknown:
        raise ValueError("not in the aligner's dictionary: " + ", ".join(unknown))
    pcm = (wave.clip(-1, 1) * 32767).astype(np.int16).tobytes()
    d.set_align_text(" ".join(words))
    for again in (False, True):
        if again:
            d.set_alignment()
        d.start_utt()
        d.process_raw(pcm, full_utt=True)
        d.end_utt()
    return [(p.start / 100, (p.start + p.duration) / 100, motion.from_arpabet(p.name)) for w in d.get_alignment() for p in w]


def align(wave, text):
    """-> [(start_s, end_s, viseme)]. A floor of noise is added, as the aligner loses its way in digital silence."""
    words = re.findall(r"[a-z']+", text.lower())
    for floor in (3e-4, 1e-3, 3e-3):
        try:
            return phones(wave + np.random.default_rng(0).normal(0, floor, len(wave)), words)
        except RuntimeError:
            pass
    raise ValueError("the sound cannot be aligned with the text: are these its words, and all of them?")


def fixture(path):
    """Two sentences of 2.4 s each, whose openings have little in common (r .1), with the mouth's box of the portrait `anna`"""
    w, seg = np.zeros(2 * HALF, np.float32), []
    for i, text in enumerate((speech.HARVARD[4], speech.HARVARD[2])):
        x, s = speech.espeak(text, speech.ESPEAK_HELD_OUT[0])
        at = i * HALF + 2400
        w[at:at + len(x)] = x
        seg += [(a + at / speech.RATE, b + at / speech.RATE, v) for a, b, v in s]
    wavfile.write(path + ".wav", speech.RATE, (w.clip(-1, 1) * 32767).astype(np.int16))
    box = face.mouth_box(face.identity(face.HELD_OUT + ANNA))
    head = "mouth box of model/nano/faces/anna.png at 128x128: y0, y1, x0, x1; then the true opening of each frame"
    with open(path + ".csv", "w") as f:
        f.write(f"# {head}\n" + ",".join(map(str, box)) + "\n" + "".join(f"{v:.4f}\n" for v in motion.curves(w, seg)[:, 0]))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--wav", help="speech, a WAV file")
    p.add_argument("--text", help="its words")
    p.add_argument("--fixture", metavar="PATH", help="write the fixture of the lip test instead")
    o = p.parse_args()
    if o.fixture:
        return fixture(o.fixture)
    if not o.wav or not o.text:
        p.error("--wav and --text are needed")
    w = speech.read(o.wav)
    try:
        c = motion.express(motion.curves(w, align(w, o.text)))
    except ValueError as e:
        sys.exit(f"truth.py: {o.wav}: {e}")
    np.savetxt(sys.stdout, c, fmt="%.4f", delimiter=",", header=",".join(face.CURVES), comments="")


if __name__ == "__main__":
    main()
