# SPDX-License-Identifier: LGPL-2.1-or-later
"""Phonemes with times + the sound itself -> motion curves at 25 fps.

Every curve is a function of the speech, nothing is random: a model that hears the sound can know all of it, so nothing is
averaged away in few denoising steps. Mouth: weighted viseme targets blurred and divided by the blurred weights (after Cohen
and Massaro), so that p, b, m and f, v win over their neighbours and lips really close. Nod and brow follow the energy, blinks
come a fixed delay after pauses begin and long ones end; what a pause is, the sound says too, not an aligner. Curves are sampled at
frame centres, 40 i + 20 ms.
"""
import numpy as np
from scipy import ndimage

#             open  width round teeth tongue weight
VISEME = {
    "sil": (.00, .00, .00, .00, .00, .6), "PBM": (.00, -.1, .10, .00, .00, 3.), "FV": (.10, .10, .00, .90, .00, 2.),
    "TH": (.22, .10, .00, .50, .90, 1.2), "TD": (.22, .20, .00, .60, .30, .7), "SZ": (.14, .40, .00, 1.0, .00, 1.2),
    "SH": (.20, -.5, .70, .90, .00, 1.3), "KG": (.25, .05, .00, .30, .00, .5), "L": (.30, .10, .00, .40, .80, .8),
    "R": (.22, -.4, .50, .30, .00, .9), "W": (.14, -.8, 1.0, .00, .00, 1.6), "IY": (.26, .90, .00, .70, .10, 1.),
    "EH": (.55, .50, .00, .60, .20, 1.), "AE": (.80, .50, .00, .50, .30, 1.2), "AA": (1.0, .00, .10, .25, .30, 1.3),
    "AO": (.75, -.45, .65, .15, .00, 1.2), "OW": (.50, -.7, .95, .00, .00, 1.3), "UW": (.22, -.9, 1.0, .00, .00, 1.3),
    "UH": (.40, -.1, .20, .30, .10, .8), "H": (.35, .00, .00, .30, .00, .3)}
NAMES = list(VISEME)

# espeak-ng mnemonics: diphthongs and affricates first, then by the first letter
_LONG = (("tS", "SH"), ("dZ", "SH"), ("aI", "AA"), ("aU", "AA"), ("OI", "AO"), ("oU", "OW"), ("eI", "EH"), ("i@", "IY"),
         ("e@", "EH"), ("U@", "UW"), ("O@", "AO"), ("o@", "AO"), ("A@", "AA"), ("I#", "IY"), ("a#", "UH"), ("aa", "AE"))
_SHORT = dict(zip("pbmfvTDtdn*szSZkgNxlrRwWjiIeEaAV0OouU@3h?",
                  ("PBM PBM PBM FV FV TH TH TD TD TD TD SZ SZ SH SH KG KG KG KG L R R W W IY IY IY EH EH AE AA UH AO AO OW UW UH "
                   "UH R H sil").split()))

# flite, festival and the CMU aligner name phones in their own ways; all three are close to ARPABET
_ARPA = dict(aa="AA", ae="AE", ah="UH", ao="AO", aw="AA", ax="UH", ay="AA", b="PBM", ch="SH", d="TD", dh="TH", dx="TD", eh="EH",
             el="L", em="PBM", en="TD", er="R", axr="R", ey="EH", f="FV", g="KG", hh="H", hv="H", ih="IY", ix="IY", iy="IY", jh="SH",
             k="KG", l="L", m="PBM", n="TD", ng="KG", nx="TD", ow="OW", oy="AO", p="PBM", pau="sil", sil="sil", h="H", r="R", s="SZ",
             sh="SH", t="TD", th="TH", uh="UH", uw="UW", v="FV", w="W", y="IY", z="SZ", zh="SH", ssil="sil")
_ARPA["#"] = _ARPA["h#"] = _ARPA["brth"] = "sil"


def from_espeak(p):
    p = p.strip("',_:;%=~|!")
    q = "".join(ch for ch in p if ch not in "2#-:'")
    if not q:
        return "sil"
    for pre, v in _LONG:
        if p.startswith(pre):
            return v
    return _SHORT.get(q[0], "UH")


def from_arpabet(p):
    return _ARPA.get(p.lower().strip("012"), "UH")


def smooth(x, sigma):
    """Gaussian along axis 0."""
    r = int(4 * sigma + 1)
    k = np.exp(-.5 * (np.arange(-r, r + 1) / sigma) ** 2)
    k /= k.sum()
    return np.apply_along_axis(lambda a: np.convolve(np.pad(a, r, mode="edge"), k, "valid"), 0, x)


def energy(wave, n):
    """Loudness in 20 ms windows at 100 Hz, 1 at the clip's loud places."""
    e = np.sqrt(np.convolve(wave ** 2, np.ones(320) / 320, "same")[::160][:n])
    e = np.pad(e, (0, n - len(e)))
    return e / (np.percentile(e, 95) + 1e-4)


def speaking(e):
    """Energy at 100 Hz -> is someone speaking: louder than a tenth of the loud places; gaps under .2 s are not pauses, clicks not speech"""
    pad = 20
    loud = np.pad(e > .1, pad)
    return ndimage.binary_opening(ndimage.binary_closing(loud, np.ones(20)), np.ones(6))[pad:-pad]


def closed(t):
    """Hundredths of a second from the middle of a blink -> how far the lids are down: 0.16 s in all"""
    return np.exp(-.5 * (t / 7.5) ** 4)


def blinks(on):
    """Speaking or not, at 100 Hz -> closed lids: a blink of 0.16 s in every pause, and where speech begins after half a second of none"""
    n = len(on)
    edge = np.flatnonzero(np.diff(on.astype(int), prepend=0, append=0))
    starts, ends, before = edge[::2], edge[1::2], np.concatenate([[-n], edge[1:-1:2]])
    at = [e + 12 for e in ends if e < n] + [s + 6 for s, last in zip(starts, before) if s - last >= 50]
    return np.max([closed(np.arange(n) - i) for i in at], 0) if at else np.zeros(n)


def blinking(c, rng):
    """Curves -> with about a blink more for each second, of any phase: lids close rarely in speech, and each phase is another picture"""
    t = np.arange(len(c)) * 4
    at = [4 * rng.uniform(-2, len(c) + 2) for _ in range(1 + len(c) // 25)]
    c = c.copy()
    c[:, 5] = np.maximum(c[:, 5], np.max([closed(t - i) for i in at], 0))
    return c


def curves(wave, seg):
    """wave: clean speech at 16 kHz; seg: [(start_s, end_s, viseme)] -> [frames, 8]: the first eight of face.CURVES"""
    n = len(wave) // 160 + 1
    t = np.zeros((n, 6))
    t[:] = VISEME["sil"]
    for s, e, v in seg:
        a = int(round(s * 100))
        b = max(a + 1, int(round(e * 100)))
        t[a:b] = VISEME[v]
    w = t[:, 5:6]
    m = smooth(t[:, :5] * w, 4) / smooth(w, 4)
    m[:, 0] *= 1 - .9 * smooth((w == 3.).astype(float), 1.6)[:, 0]
    e = energy(wave, n)
    e1, e2 = smooth(e[:, None], 8)[:, 0], smooth(e[:, None], 40)[:, 0]
    nod = np.clip(e1 - e2, -1, 1) + .35 * (e2 - .4)
    brow = np.clip(smooth(np.clip(e - .7, 0, 1)[:, None], 12)[:, 0] * 2.2, 0, 1)
    blink = blinks(speaking(e))
    c = np.concatenate([m, blink[:, None], brow[:, None], nod[:, None]], 1)
    return c[np.minimum(np.arange(len(wave) // 640) * 4 + 2, n - 1)].astype(np.float32)


def express(c, mood=0., gaze=0.):
    """[frames, 8] + what the prompt asks for -> [frames, 10] for face.draw"""
    return np.concatenate([c, np.tile(np.float32([mood, gaze]), (len(c), 1))], 1)
