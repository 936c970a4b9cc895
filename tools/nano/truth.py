# SPDX-License-Identifier: LGPL-2.1-or-later
"""The true motion of a recording whose text is known, by forced alignment.   truth.py --wav a.wav --text "..." > curves.csv

pocketsphinx carries its own acoustic model: one pass aligns the words, a second one the phones, in frames of 10 ms.
"""
import argparse
import re
import sys

import numpy as np

import face
import motion
import speech


def align(wave, text):
    """-> [(start_s, end_s, viseme)]"""
    from pocketsphinx import Decoder
    d = Decoder(samprate=16000, lm=None, loglevel="FATAL")
    pcm = (np.clip(wave, -1, 1) * 32767).astype(np.int16).tobytes()
    words = re.findall(r"[a-z']+", text.lower())
    unknown = [w for w in words if d.lookup_word(w) is None]
    if unknown:
        raise ValueError("not in the dictionary: " + " ".join(unknown))
    d.set_align_text(" ".join(words))
    for again in (False, True):
        if again:
            d.set_alignment()
        d.start_utt()
        d.process_raw(pcm, full_utt=True)
        d.end_utt()
    return [(p.start / 100, (p.start + p.duration) / 100, motion.from_arpabet(p.name)) for w in d.get_alignment() for p in w]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--wav", required=True)
    p.add_argument("--text", required=True)
    o = p.parse_args()
    w = speech.read(o.wav)
    c = motion.express(motion.curves(w, align(w, o.text)))
    np.savetxt(sys.stdout, c, fmt="%.4f", delimiter=",", header=",".join(face.CURVES), comments="")


if __name__ == "__main__":
    main()
