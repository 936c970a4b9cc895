# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Pillow and torchvision make of pictures: the reference picture's way, without our code.

    pip install "pillow<12" numpy torch torchvision safetensors
    python tests/ref/picture_ref.py [tests/gold]

(Pillow 12 and later choose the order of the two passes by cost.) Writes
  pillow.h                                 bilinear resizes of noise with a box, for tests/unit/picture.c. The source picture of a
                                           case is bytes of the generator x = 1664525 x + 1013904223 (upper 8 bits), seeded with
                                           the case's number + 1, so that the test makes it again
  parity/image_preprocess.safetensors      torchvision's resize of the short side and centre crop, as the original calls them
  parity/ref_image_*.png, resolution.json  the pictures, and the geometry alone; the search for a size is restated here from the
                                           original's description, torchvision has none
"""
import json
import math
import pathlib
import sys

import numpy as np
import PIL
from PIL import Image
from safetensors.numpy import save_file
from torchvision.transforms import functional

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


def write_header(path):
    with open(path, "w") as f:
        def put(text):
            f.write(text + "\n")

        put("/* SPDX-License-Identifier: LGPL-2.1-or-later */")
        put(f"/* Made by tests/ref/picture_ref.py with Pillow {PIL.__version__}: bilinear resizes of noise. Do not edit. */")
        put("static const struct PillowCase {\n    int iw, ih, w, h;\n    double box[4];\n    const uint8_t *rgb;\n"
            "} pillow_cases[] = {")
        for i, (iw, ih, w, h, box) in enumerate(CASES):
            box = box or (0, 0, iw, ih)
            picture = Image.fromarray(noise(iw * ih * 3, i + 1).reshape(ih, iw, 3))
            got = np.asarray(picture.resize((w, h), Image.BILINEAR, box=box)).reshape(-1)
            put(f"    {{ {iw}, {ih}, {w}, {h}, {{ {', '.join(repr(float(v)) for v in box)} }}, (const uint8_t[]){{")
            for k in range(0, len(got), 24):
                put("        " + ", ".join(str(v) for v in got[k:k + 24]) + ",")
            put("    } },")
        put("};")


# name, picture (height, width), target (height, width)
PICTURES = [("crop", (77, 50), (64, 64)), ("pad", (45, 81), (64, 128)), ("both", (120, 59), (192, 64))]


def drawn(h, w, seed):
    """Edges, slopes and noise."""
    y, x = np.mgrid[0:h, 0:w]
    rgb = np.stack([255 * ((x // 7 + y // 5) % 2), 255 * x / w, 255 * y / h], -1)
    rgb += np.random.default_rng(seed).normal(0, 25, rgb.shape)
    return Image.fromarray(rgb.clip(0, 255).astype(np.uint8))


def write_pictures(root):
    out = {}
    for i, (name, (h, w), target) in enumerate(PICTURES):
        picture = drawn(h, w, i)
        picture.save(root / f"ref_image_{name}.png", optimize=True)
        resized = functional.resize(picture, min(target))
        cropped = np.asarray(functional.center_crop(resized, target))
        out[f"out.{name}.resized_u8"] = np.asarray(resized)
        out[f"out.{name}.cropped_u8"] = cropped
        out[f"out.{name}.pixels"] = np.ascontiguousarray((cropped.astype(np.float32) / 255 * 2 - 1).transpose(2, 0, 1))
    save_file(out, root / "image_preprocess.safetensors")


def less_than_area(h, w, area, step=64):
    """The original's search for a size (get_size_less_than_area)."""
    if h * w <= area:
        high, low = 1.0, 0.1
    else:
        a, b, c = h * w, (step - 1) * (h + w), (step - 1) ** 2 - area
        low, high = (-b + math.sqrt(b * b - 2 * a * c)) / (2 * a), math.sqrt(area / a)
    for i in range(100):
        scale = high - (high - low) * i / 100
        size = [math.ceil(int(side * scale) / step) * step for side in (h, w)]
        if size[0] * size[1] <= area:
            return size
    size = [int(math.sqrt(area * h / w) / step) * step, int(math.sqrt(area * w / h) / step) * step]
    return size if size[0] < h and size[1] < w else [h // step * step, w // step * step]


def fit(image, target):
    """What torchvision does to a picture of this size, read off the result: its pixels say where they came from."""
    h, w = functional.resize(Image.new("L", (image[1], image[0])), min(target)).size[::-1]
    marks = 1 + np.arange(h)[:, None] * w + np.arange(w)[None]
    got = np.asarray(functional.center_crop(Image.fromarray(marks.astype(np.int32), "I"), target))
    rows, columns = np.nonzero(got.any(1))[0], np.nonzero(got.any(0))[0]
    top, left = int(rows[0]), int(columns[0])
    first = int(got[top, left]) - 1
    return {"image": list(image), "target": list(target), "resized": [h, w],
            "pad_left_top_right_bottom": [left, top, target[1] - 1 - int(columns[-1]), target[0] - 1 - int(rows[-1])],
            "crop_top": first // w, "crop_left": first % w}


def write_resolution(path):
    images = [(100, 77), (77, 100), (79, 100), (300, 200), (720, 1280), (1280, 720), (1344, 768), (400, 720), (64, 64), (1000, 333)]
    areas = [98304, 253184, 270336, 288000]
    sizes = [{"height": h, "width": w, "target_area": a, "result": less_than_area(h, w, a)} for h, w in images for a in areas]
    targets = [(64, 64), (384, 704), (704, 384), (128, 192)]
    fits = [fit(image, target) for image in images for target in targets]
    path.write_text(json.dumps({"get_size_less_than_area": sizes, "resize_center_crop": fits}, indent=1) + "\n")


def main():
    if int(PIL.__version__.split(".")[0]) >= 12:
        sys.exit("Pillow older than 12 is needed, this is " + PIL.__version__)
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/gold")
    write_header(root / "pillow.h")
    write_pictures(root / "parity")
    write_resolution(root / "parity" / "resolution.json")


main()
