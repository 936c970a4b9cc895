# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes tests/gold/pillow.h: what Pillow's bilinear resize with a box makes of noise.

    pip install "pillow<12" numpy          (12 and later choose the order of the two passes by cost)
    python tests/ref/picture_ref.py > tests/gold/pillow.h

The source picture of a case is bytes of the generator x = 1664525 x + 1013904223 (upper 8 bits), seeded with the case's
number + 1, so that the test makes it again.
"""
import sys

import numpy as np
import PIL
from PIL import Image

# source width, height, result width, height, box (None: the whole picture)
CASES = [
    (8, 8, 8, 8, None),                                 # nothing to do
    (7, 5, 19, 13, None),                               # larger
    (40, 31, 9, 7, None),                               # smaller
    (90, 3, 5, 11, None),                               # much smaller one way, larger the other
    (1, 1, 4, 3, None),
    (33, 47, 1, 1, None),
    (20, 20, 12, 10, (3.0, 4.0, 15.0, 14.0)),           # a crop, no scaling
    (20, 20, 12, 10, (3.25, 4.5, 15.25, 14.5)),         # a crop between the pixels
    (37, 29, 13, 17, (0.3333333333, 1.7, 36.9, 28.05)),
    (37, 29, 21, 8, (10.1, 9.9, 14.4, 20.7)),
    (64, 48, 16, 16, (8.0, 0.0, 56.0, 48.0)),           # cover a square
    (50, 70, 24, 12, (0.0, 22.5, 50.0, 47.5)),          # cover, landscape out of portrait
    (61, 23, 11, 17, (23.058823529, 0.0, 37.941176470, 23.0)),
]


def noise(n, seed):
    out = np.empty(n, np.uint8)
    x = seed
    for i in range(n):
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
        out[i] = x >> 24
    return out


def main():
    if int(PIL.__version__.split(".")[0]) >= 12:
        sys.exit("Pillow older than 12 is needed, this is " + PIL.__version__)
    print("/* SPDX-License-Identifier: LGPL-2.1-or-later */")
    print(f"/* Made by tests/ref/picture_ref.py with Pillow {PIL.__version__}: bilinear resizes of noise. Do not edit. */")
    print("static const struct PillowCase {\n    int iw, ih, w, h;\n    double box[4];\n    const uint8_t *rgb;\n"
          "} pillow_cases[] = {")
    for i, (iw, ih, w, h, box) in enumerate(CASES):
        box = box or (0, 0, iw, ih)
        picture = Image.fromarray(noise(iw * ih * 3, i + 1).reshape(ih, iw, 3))
        got = np.asarray(picture.resize((w, h), Image.BILINEAR, box=box)).reshape(-1)
        print(f"    {{ {iw}, {ih}, {w}, {h}, {{ {', '.join(repr(float(v)) for v in box)} }}, (const uint8_t[]){{")
        for k in range(0, len(got), 24):
            print("        " + ", ".join(str(v) for v in got[k:k + 24]) + ",")
        print("    } },")
    print("};")


main()
