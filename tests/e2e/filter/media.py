# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sound and pictures for the filter tests, made without any library, the same bytes every time."""
import math
import struct
import zlib

RATE = 16000


def samples(nb, rate=RATE, start=0):
    """Speech-like: a gliding tone with two overtones, in syllables of 0.2 s with pauses."""
    out = []
    for i in range(start, start + nb):
        t = i / rate
        syllable = max(0.0, math.sin(2 * math.pi * 2.5 * t)) * (0.4 + 0.6 * (int(t * 2.5) % 3 != 2))
        f = 130 + 30 * math.sin(2 * math.pi * 0.7 * t)
        v = math.sin(2 * math.pi * f * t) + 0.5 * math.sin(4 * math.pi * f * t) + 0.3 * math.sin(14 * math.pi * f * t)
        out.append(int(9000 * syllable * v / 1.8))
    return out


def wav(path, nb, rate=RATE, channels=1, floats=None):
    """A wav of nb samples per channel; `floats` gives 32-bit float samples instead."""
    if floats is not None:
        data = struct.pack('<%df' % len(floats), *floats)
        tag, bits = 3, 32
    else:
        mono = samples(nb, rate)
        data = struct.pack('<%dh' % (nb * channels), *[v for v in mono for _ in range(channels)])
        tag, bits = 1, 16
    with open(path, 'wb') as f:
        f.write(wav_head(len(data), rate, channels, tag, bits) + data)
    return str(path)


def wav_head(nb_bytes, rate=RATE, channels=1, tag=1, bits=16):
    step = channels * bits // 8
    fmt = struct.pack('<4sIHHIIHH', b'fmt ', 16, tag, channels, rate, rate * step, step, bits)
    return struct.pack('<4sI', b'RIFF', 36 + nb_bytes) + b'WAVE' + fmt + struct.pack('<4sI', b'data', nb_bytes)


def face(w, h, alpha=False):
    """A drawn face, light skin on a green ground, brighter at the left, so that no two corners are alike."""
    rows = []
    for y in range(h):
        row = bytearray()
        for x in range(w):
            u, v = (x + 0.5) / w - 0.5, (y + 0.5) / h - 0.5
            c = (60, 120 + int(60 * u), 90 + int(80 * v))
            if (u / 0.32) ** 2 + (v / 0.42) ** 2 < 1:
                c = (225 - int(40 * u), 180, 150)
            for ex in (-0.12, 0.12):
                if ((u - ex) / 0.05) ** 2 + ((v + 0.1) / 0.04) ** 2 < 1:
                    c = (40, 30, 60)
            if (u / 0.13) ** 2 + ((v - 0.2) / 0.04) ** 2 < 1:
                c = (160, 50, 60)
            row += bytes(c) + (bytes([int(255 * (x + 1) / w)]) if alpha else b'')
        rows.append(bytes(row))
    return rows


def png(path, w=96, h=96, alpha=False):
    def chunk(tag, data):
        return struct.pack('>I', len(data)) + tag + data + struct.pack('>I', zlib.crc32(tag + data))
    raw = b''.join(b'\0' + row for row in face(w, h, alpha))
    with open(path, 'wb') as f:
        f.write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 8, 6 if alpha else 2, 0, 0, 0)) +
                chunk(b'IDAT', zlib.compress(raw, 9)) + chunk(b'IEND', b''))
    return str(path)


def gif(path, w=96, h=96, colors=((200, 60, 60), (60, 60, 200))):
    """An animated GIF, a plain frame for each colour. Clear codes keep every LZW code at three bits."""
    with open(path, 'wb') as f:
        f.write(b'GIF89a' + struct.pack('<HHBBB', w, h, 0x81, 0, 0) + b''.join(bytes(c) for c in colors) + bytes(12 - 3 * len(colors)))
        for index in range(len(colors)):
            codes = []
            for i in range(w * h):
                codes += ([4] if i % 2 == 0 else []) + [index]
            bits = sum(c << (3 * i) for i, c in enumerate(codes + [5]))
            data = bits.to_bytes((3 * len(codes) + 10) // 8, 'little')
            f.write(b'!\xf9\x04\0' + struct.pack('<H', 10) + b'\0\0' + b',' + struct.pack('<HHHHB', 0, 0, w, h, 0) + b'\x02')
            for i in range(0, len(data), 255):
                f.write(bytes([len(data[i:i + 255])]) + data[i:i + 255])
            f.write(b'\0')
        f.write(b';')
    return str(path)


def set_orientation(src, dst, orientation):
    """Copy a JPEG or a PNG with an EXIF block that only says how to turn it (1 to 8)."""
    with open(src, 'rb') as f:
        data = f.read()
    tiff = b'MM\0*\0\0\0\x08' + struct.pack('>HHHIHHI', 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b'Exif\0\0' + tiff
    with open(dst, 'wb') as f:
        if data[1:4] == b'PNG':
            f.write(data[:33] + struct.pack('>I', len(tiff)) + b'eXIf' + tiff + struct.pack('>I', zlib.crc32(b'eXIf' + tiff)) + data[33:])
        else:
            f.write(data[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + data[2:])
    return str(dst)


def webp(path, vp8, w, h, orientation):
    """A key frame of VP8 with an EXIF block that says how to turn it."""
    def chunk(tag, data):
        return tag + struct.pack('<I', len(data)) + data + bytes(len(data) & 1)
    exif = b'II*\0\x08\0\0\0' + struct.pack('<HHHIHHI', 1, 0x0112, 3, 1, orientation, 0, 0)
    body = chunk(b'VP8X', struct.pack('<I', 8) + (w - 1).to_bytes(3, 'little') + (h - 1).to_bytes(3, 'little')) + chunk(b'VP8 ', vp8) + chunk(b'EXIF', exif)
    with open(path, 'wb') as f:
        f.write(b'RIFF' + struct.pack('<I', 4 + len(body)) + b'WEBP' + body)
    return str(path)


def tiff(path, w=96, h=96, orientation=1):
    """The face without compression, with a tag that says how to turn it."""
    tags = ((256, w), (257, h), (258, 8), (259, 1), (262, 2), (273, 8), (274, orientation), (277, 3), (278, h), (279, 3 * w * h))
    pixels = b''.join(face(w, h))
    ifd = struct.pack('<H', len(tags)) + b''.join(struct.pack('<HHII', t, 4 if t in (273, 279) else 3, 1, v) for t, v in tags) + bytes(4)
    with open(path, 'wb') as f:
        f.write(struct.pack('<2sHI', b'II', 42, 8 + len(pixels)) + pixels + ifd)
    return str(path)
