#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A drawn frontal portrait: a seed makes the person, ten numbers make the expression.

    face.py --seed 1000003 --size 512x512 -o face.png        one neutral portrait
    face.py --sheet 48 -o faces.png                          a contact sheet

Everything is drawn in a unit square whose middle is the picture's middle; x right, y down. The mouth's cavity is the one
dark red area of the face, so that its opening can be measured in a picture (measure.py).
"""
import argparse
import colorsys
import math
import random

import cairo
import numpy as np

# The expression: mouth opening, width, rounding, teeth, tongue; blink, brow, nod; mood (1 smile, -1 sad), gaze (1: image right)
CURVES = ["open", "width", "round", "teeth", "tongue", "blink", "brow", "nod", "mood", "gaze"]
NEUTRAL = [0.0] * len(CURVES)
HELD_OUT = 1_000_000                                         # seeds from here on are never trained on

SKIN = [(.98, .87, .78), (.96, .80, .68), (.91, .72, .58), (.84, .63, .47), (.74, .53, .38), (.62, .43, .31), (.52, .35, .25)]
HAIR = [(.11, .09, .09), (.22, .14, .10), (.38, .24, .14), (.58, .39, .20), (.86, .70, .42), (.60, .25, .13), (.55, .55, .57),
        (.82, .82, .83), (.30, .20, .24)]
CAVITY = (.20, .04, .06)
ZOOM, ZY = 1.25, .53                                         # the head fills the picture


def mix(a, b, t):
    return tuple(x + (y - x) * t for x, y in zip(a, b))


def hsv(h, s, v):
    return colorsys.hsv_to_rgb(h % 1, s, v)


def identity(seed):
    """A person: colours and proportions, everything that does not move."""
    r = random.Random(seed * 7919 + 13)
    u = r.uniform
    i = u(0, len(SKIN) - 1.001)
    k = int(i)
    skin = mix(SKIN[k], SKIN[k + 1], i - k)
    hair = tuple(min(1, max(0, c + u(-.04, .04))) for c in r.choice(HAIR))
    hue = u(0, 1)
    face = dict(
        skin=skin, hair=hair, style=r.randrange(6), eye=hsv(r.choice([.07, .08, .1, .3, .55, .6]) + u(-.03, .03), u(.35, .7), u(.3, .6)),
        fw=u(.205, .24), fh=u(.275, .31), jaw=u(.6, .85), ex=u(.088, .103), ey=u(-.052, -.03), es=u(.95, 1.2),
        my=u(.138, .158), mw=u(.086, .1035), lip=u(.85, 1.2), nose=u(.052, .075), nw=u(.018, .028),
        bw=u(.85, 1.15), bt=u(.009, .015), bs=u(-.010, .008), blush=u(0, .3), ear=r.random() < .5,
        cx=u(.487, .513), cy=u(.475, .5), glass=r.random() < .2, beard=0,
        bg0=hsv(hue, u(.08, .35), u(.7, .96)), bg1=hsv(hue + u(-.1, .1), u(.12, .42), u(.45, .85)), bgk=r.randrange(3),
        cloth=hsv(u(0, 1), u(.2, .65), u(.25, .8)), cloth2=hsv(u(0, 1), u(.05, .45), u(.5, .95)), ck=r.randrange(3))
    face["lipc"] = mix(mix(skin, (.75, .27, .29), u(.4, .65)), (.78, .12, .2), u(0, .25))
    if face["style"] in (0, 1, 5) and r.random() < .35:
        face["beard"] = r.choice([1, 2])                     # 1: full, short; 2: moustache
        face["lipc"] = mix(skin, (.88, .48, .46), .6)
    return face


def for_training(seed):
    """A person to train on: every fourth has a full beard, since lips in one need more examples than chance gives. Held-out people
    are as they are."""
    while seed < HELD_OUT and seed % 4 == 0 and identity(seed)["beard"] != 1:
        seed = (seed + 4) % HELD_OUT
    return identity(seed)


def ellipse(c, x, y, a, b):
    c.save()
    c.translate(x, y)
    c.scale(max(a, 1e-4), max(b, 1e-4))
    c.new_sub_path()
    c.arc(0, 0, 1, 0, 2 * math.pi)
    c.restore()


def fill(c, col, a=1.0):
    c.set_source_rgba(*col, a)
    c.fill()


def stroke(c, col, width, a=1.0):
    c.set_source_rgba(*col, a)
    c.set_line_width(width)
    c.stroke()


def soft(c, x, y, a, b, col, alpha):
    """A round spot of colour that fades to nothing at its rim."""
    c.save()
    c.translate(x, y)
    c.scale(a, b)
    g = cairo.RadialGradient(0, 0, 0, 0, 0, 1)
    g.add_color_stop_rgba(0, *col, alpha)
    g.add_color_stop_rgba(1, *col, 0)
    c.set_source(g)
    c.arc(0, 0, 1, 0, 2 * math.pi)
    c.fill()
    c.restore()


def skull(c, w, h, jaw, drop=0.0):
    """The outline of the head: round above, tapered below; drop: how far the chin is down"""
    y = h * .97 + drop
    c.move_to(-w, -h * .25)
    c.curve_to(-w, -h * 1.1, w, -h * 1.1, w, -h * .25)
    c.curve_to(w, h * .35, w * jaw, h * .78 + drop * .8, w * .32, y)
    c.curve_to(w * .15, y + h * .06, -w * .15, y + h * .06, -w * .32, y)
    c.curve_to(-w * jaw, h * .78 + drop * .8, -w, h * .35, -w, -h * .25)
    c.close_path()


def background(c, f):
    g = cairo.LinearGradient(0, -.2, .3, 1.2) if f["bgk"] else cairo.RadialGradient(.5, .42, .1, .5, .5, .8)
    g.add_color_stop_rgb(0, *f["bg0"])
    g.add_color_stop_rgb(1, *f["bg1"])
    c.set_source(g)
    c.paint()


def clothes(c, f, dark):
    w = f["fw"]
    c.move_to(-3, 3)
    c.line_to(-3, 1.0)
    c.line_to(.0, 1.0)
    c.curve_to(.06, .85, .3, .83, .42, .79)
    c.line_to(.58, .79)
    c.curve_to(.7, .83, .94, .85, 1.0, 1.0)
    c.line_to(4, 1.0)
    c.line_to(4, 3)
    c.close_path()
    fill(c, f["cloth"])
    if f["ck"] == 0:                                         # an open collar
        c.move_to(.4, .79)
        c.line_to(.5, .95)
        c.line_to(.6, .79)
        c.close_path()
        fill(c, mix(f["skin"], dark, .6))
    elif f["ck"] == 1:                                       # a round one
        ellipse(c, .5, .79, .13, .05)
        fill(c, f["cloth2"])
    else:                                                    # a shirt
        for s in (-1, 1):
            c.move_to(.5 + s * .1, .78)
            c.line_to(.5, .9)
            c.line_to(.5 + s * .14, .88)
            c.close_path()
            fill(c, f["cloth2"])
    c.move_to(.5 - w * .42, .6)                              # neck
    c.line_to(.5 - w * .45, .8)
    c.curve_to(.47, .86, .53, .86, .5 + w * .45, .8)
    c.line_to(.5 + w * .42, .6)
    c.close_path()
    g = cairo.LinearGradient(0, .72, 0, .84)                 # the chin's shadow
    g.add_color_stop_rgb(0, *mix(dark, (.25, .08, .08), .22))
    g.add_color_stop_rgb(1, *mix(dark, f["skin"], .25))
    c.set_source(g)
    c.fill()


def hair_behind(c, f, w, h):
    c.move_to(-w * 1.18, -h * .3)
    c.curve_to(-w * 1.25, -h * 1.4, w * 1.25, -h * 1.4, w * 1.18, -h * .3)
    b = 1.25 if f["style"] == 2 else .75
    c.curve_to(w * 1.35, h * .4, w * 1.35, h * .9, w * 1.1, h * b)
    c.line_to(-w * 1.1, h * b)
    c.curve_to(-w * 1.35, h * .9, -w * 1.35, h * .4, -w * 1.18, -h * .3)
    fill(c, mix(f["hair"], (0, 0, 0), .18))
    for s in (-1, 1):                                        # light on the falling strands
        for x, k in ((1.04, .35), (1.13, .22)):
            c.move_to(s * w * x, h * .05)
            c.curve_to(s * w * (x + .07), h * .3, s * w * (x + .07), h * .5, s * w * (x - .02), h * (b - .15))
            stroke(c, mix(f["hair"], (1, .93, .82), .35), .010, k)


def hair_on_top(c, f, w, h):
    st = f["style"]
    if st == 0 and not f["ear"]:
        return                                               # bald
    c.move_to(-w * 1.06, -h * .05)
    c.curve_to(-w * 1.2, -h * 1.35, w * 1.2, -h * 1.35, w * 1.06, -h * .05)
    if st in (1, 3):
        c.curve_to(w * .95, -h * .5, w * .4, -h * .75, -w * .3, -h * .62)
        c.curve_to(-w * .7, -h * .55, -w * .95, -h * .4, -w * 1.06, -h * .05)
    elif st in (2, 4):
        c.curve_to(w * .95, -h * .55, w * .5, -h * .7, 0, -h * .72)
        c.curve_to(-w * .5, -h * .7, -w * .95, -h * .55, -w * 1.06, -h * .05)
    else:
        c.curve_to(w * .98, -h * .4, w * .8, -h * .5, w * .2, -h * .48)
        c.curve_to(-w * .4, -h * .46, -w * .9, -h * .5, -w * 1.06, -h * .05)
    g = cairo.LinearGradient(-w * .4, -h * 1.05, w * .3, -h * .3)
    g.add_color_stop_rgb(0, *mix(f["hair"], (1, .95, .9), .16))
    g.add_color_stop_rgb(.7, *f["hair"])
    c.set_source(g)
    c.fill_preserve()
    c.save()
    c.clip()
    strands(c, f, w, h)
    c.restore()


def strands(c, f, w, h):
    """Light on a few strands, along the crown"""
    c.set_line_cap(cairo.LINE_CAP_ROUND)
    for r, a, b, k in ((.80, 1.16, 1.40, .30), (.87, 1.10, 1.46, .42), (.94, 1.20, 1.38, .30), (.84, 1.60, 1.78, .22)):
        c.save()
        c.translate(0, -h * .20)
        c.scale(w * 1.12 * r, h * .92 * r)
        c.new_sub_path()
        c.arc(0, 0, 1, a * math.pi, b * math.pi)
        c.restore()
        stroke(c, mix(f["hair"], (1, .93, .82), .55), .011, k)


def beard(c, f, w, h):
    col = mix(f["hair"], f["skin"], .35)
    if f["beard"] == 1:
        c.move_to(-w * .93, h * .12)
        c.curve_to(-w * .9, h * .62, -w * f["jaw"], h * .82, -w * .32, h * .98)
        c.curve_to(-w * .15, h * 1.04, w * .15, h * 1.04, w * .32, h * .98)
        c.curve_to(w * f["jaw"], h * .82, w * .9, h * .62, w * .93, h * .12)
        c.curve_to(w * .8, h * .5, w * .5, h * .32, 0, h * .36)
        c.curve_to(-w * .5, h * .32, -w * .8, h * .5, -w * .93, h * .12)
        fill(c, col, .85)
        ellipse(c, 0, f["my"] + .004, f["mw"] * 1.15, .045)     # shaven around the lips
        fill(c, mix(f["skin"], col, .15))
    elif f["beard"] == 2:
        y = f["my"] - .030
        c.move_to(-.085, y + .014)
        c.curve_to(-.06, y - .014, -.015, y - .016, 0, y - .008)
        c.curve_to(.015, y - .016, .06, y - .014, .085, y + .014)
        c.curve_to(.04, y + .006, -.04, y + .006, -.085, y + .014)
        fill(c, mix(f["hair"], f["skin"], .2))


def lid_line(c, x, y, a, b, bend):
    """From corner to corner of an eye; bend -1 the open upper lid, 1 the open lower one"""
    c.move_to(x - a, y)
    c.curve_to(x - a * .75, y + 4 / 3 * bend * b, x + a * .75, y + 4 / 3 * bend * b, x + a, y)


def between_lids(c, x, y, a, b, upper, lower):
    c.new_path()
    lid_line(c, x, y, a, b, upper)
    c.curve_to(x + a * .75, y + 4 / 3 * lower * b, x - a * .75, y + 4 / 3 * lower * b, x - a, y)
    c.close_path()


def eyeball(c, f, x, y, gaze, b):
    c.set_source_rgb(.97, .97, .96)
    c.paint()
    gx = x + gaze * .017
    for r, col in ((.94, mix(f["eye"], (0, 0, 0), .35)), (.80, f["eye"]), (.44, (.05, .05, .06))):
        ellipse(c, gx, y, b * r, b * r)
        fill(c, col)
    soft(c, gx, y + b * .45, b * .6, b * .35, mix(f["eye"], (1, 1, 1), .5), .5)
    ellipse(c, gx - b * .3, y - b * .35, b * .2, b * .2)
    fill(c, (1, 1, 1))


def eye(c, f, s, bl, mood, gaze, dark):
    """One eye with its lids; s = -1 left in the picture, 1 right. The upper lid is skin that comes down with the lashes at its edge."""
    x, y = s * f["ex"], f["ey"]
    a, b = .044 * f["es"], .027 * f["es"]
    smile, bl = max(0, mood), min(1, max(0, bl))
    lower = .88 - .16 * bl - .25 * smile * (1 - bl)
    upper = -1 + bl * (1 + lower) + .12 * smile * (1 - bl)
    lash = (.15, .08, .07)
    soft(c, x, y - b * .6, a * 1.5, b * 2.1, dark, .22)
    c.save()
    between_lids(c, x, y, a, b, upper - .05, lower)
    c.clip()
    eyeball(c, f, x, y, gaze, b)
    between_lids(c, x, y - b * .1, a, b, -1.1, upper + .22)   # the lid's shadow on the eye
    fill(c, (.2, .12, .12), .28)
    c.restore()
    between_lids(c, x, y, a, b, -1.12, upper)
    fill(c, mix(f["skin"], dark, .30))
    soft(c, x - a * .15, y + b * (.5 * upper - .55), a * .7, b * .5 * (1 + upper) + 1e-4, mix(f["skin"], (1, 1, .95), .35), .45 * bl)
    c.set_line_cap(cairo.LINE_CAP_ROUND)
    lid_line(c, x, y - b * .12, a * .95, b, -1.22 + .16 * bl)   # the crease
    stroke(c, mix(dark, (.3, .12, .1), .35), .004, .75)
    lid_line(c, x, y, a * .92, b, lower)
    stroke(c, mix(dark, lash, .35), .004, .6)
    lid_line(c, x, y, a, b, upper)
    c.move_to(x + s * a * .97, y)                             # the outer lashes
    c.line_to(x + s * a * 1.18, y - b * .28 * (1 - 1.6 * bl))
    stroke(c, lash, .0085)


def brow(c, f, s, br, mood):
    x, y = s * f["ex"], f["ey"] - .05 - .022 * br - .006 * max(0, mood)
    sad = .020 * max(0, -mood)                               # sad: the inner ends go up
    c.move_to(x - s * .036 * f["bw"], y + .006 - sad)
    c.curve_to(x - s * .01, y - .008 - sad * .6, x + s * .02, y - .010, x + s * .042 * f["bw"], y + .006 + f["bs"])
    stroke(c, mix(f["hair"], (.1, .07, .06), .45), f["bt"])


def glasses(c, f):
    if not f["glass"]:
        return
    for s in (-1, 1):
        ellipse(c, s * f["ex"], f["ey"] + .003, .062, .05)
        stroke(c, (.12, .12, .15), .008, .9)
    c.move_to(-f["ex"] + .06, f["ey"])
    c.line_to(f["ex"] - .06, f["ey"])
    stroke(c, (.12, .12, .15), .007)


def nose(c, f, dark, lite):
    y, w = f["nose"], f["nw"]
    soft(c, w * 1.1, y - .012, w * .9, .030, dark, .40)
    soft(c, -w * .1, y - .045, w * .55, .055, lite, .45)
    soft(c, -w * .15, y - .004, w * .55, w * .5, mix(lite, (1, 1, 1), .5), .55)
    c.move_to(-w, y)
    c.curve_to(-w * .4, y + .016, w * .4, y + .016, w, y)
    stroke(c, mix(dark, (.35, .12, .1), .35), .007, .9)


def lips(c, f, mw, lt, lb, up, lo, ce, k):
    """Both lips as one shape, the upper one in shadow, a light on the lower"""
    soft(c, 0, lo + lb * 2.1, max(.05, mw * .55), .014, mix(f["skin"], (.3, .1, .1), .45), .28)
    c.move_to(-mw * 1.06, ce)
    c.curve_to(-mw * k, up - lt * 1.6, -mw * .15, up - lt * 1.25, 0, up - lt)
    c.curve_to(mw * .15, up - lt * 1.25, mw * k, up - lt * 1.6, mw * 1.06, ce)
    c.curve_to(mw * k, lo + lb * 1.35, -mw * k, lo + lb * 1.35, -mw * 1.06, ce)
    c.close_path()
    g = cairo.LinearGradient(0, up - lt, 0, lo + lb)
    g.add_color_stop_rgb(0, *mix(f["lipc"], (.25, .05, .08), .16))
    g.add_color_stop_rgb(.5, *f["lipc"])
    g.add_color_stop_rgb(1, *mix(f["lipc"], (1, .85, .82), .18))
    c.set_source(g)
    c.fill()


def inside(c, mw, h, my, lo, te, to):
    """What an open mouth shows, within its opening: the dark, the tongue, a row of upper teeth"""
    c.set_source_rgb(*CAVITY)
    c.paint()
    ellipse(c, 0, lo + .006 - h * .25 * to, mw * .55, h * (.30 + .25 * to))
    fill(c, mix(CAVITY, (.84, .40, .42), min(1, .35 + .8 * to)))
    soft(c, 0, lo - h * .30 * to - .004, mw * .3, h * .16, (.98, .68, .66), min(1, .8 * to))
    t = min(.030, .0015 + .36 * h) * min(1, 2.5 * te)
    if t > .001:
        top = my - h * .31
        c.move_to(-mw * .86, my - h - .03)
        c.line_to(mw * .86, my - h - .03)
        c.line_to(mw * .74, top + h * .10 + t * .55)
        c.curve_to(mw * .35, top + t * 1.15, -mw * .35, top + t * 1.15, -mw * .74, top + h * .10 + t * .55)
        c.close_path()
        g = cairo.LinearGradient(-mw * .9, 0, mw * .9, 0)
        for at, k in ((0, .55), (.28, 0), (.72, 0), (1, .55)):
            g.add_color_stop_rgb(at, *mix((.98, .97, .94), CAVITY, k))
        c.set_source(g)
        c.fill()


def mouth(c, f, op, wi, ro, te, to, mood):
    my = f["my"]
    mw = f["mw"] * (1 + .28 * wi - .30 * ro + .14 * max(0, mood))        # half the width
    h = .092 * op                                            # height of the opening
    up, lo = my - h * .30, my + h * .70
    lt, lb = .017 * f["lip"] * (1 + .5 * ro), .024 * f["lip"] * (1 + .35 * ro)
    k = .55 + .25 * ro
    ce = my + h * .12 - .024 * mood                          # the corners
    lips(c, f, mw, lt, lb, up, lo, ce, k)
    line = mix(f["lipc"], (.3, .05, .05), .6)
    if h > .002:
        c.new_path()
        c.move_to(-mw * .88, ce + .004 * mood)
        c.curve_to(-mw * k, my - h * .45, mw * k, my - h * .45, mw * .88, ce + .004 * mood)
        c.curve_to(mw * k, my + h * 1.02, -mw * k, my + h * 1.02, -mw * .88, ce + .004 * mood)
        c.close_path()
        edge = c.copy_path()
        c.save()
        c.clip()
        inside(c, mw, h, my, lo, te, to)
        c.restore()
        c.append_path(edge)
        stroke(c, line, .005, .7)
    else:
        c.move_to(-mw, ce)
        c.curve_to(-mw * .4, my + .004 + .006 * mood, mw * .4, my + .004 + .006 * mood, mw, ce)
        stroke(c, line, .006, .9)
    soft(c, -mw * .08, lo + lb * .52, mw * .42, lb * .34, (1, .93, .90), .50)
    smile_lines(c, f, mw, ce, mood)


def smile_lines(c, f, mw, ce, mood):
    if mood <= .05:
        return
    for s in (-1, 1):
        c.move_to(s * mw * 1.25, ce - .022)
        c.curve_to(s * (mw * 1.25 + .012), ce - .008, s * (mw * 1.25 + .010), ce + .006, s * mw * 1.22, ce + .016)
        stroke(c, mix(f["skin"], (.3, .1, .1), .4), .005, .7 * mood)


def head(c, f, w, h, jaw, dark, lite):
    skin = f["skin"]
    skull(c, w, h, f["jaw"], jaw)
    g = cairo.RadialGradient(-w * .25, -h * .2, w * .3, 0, 0, w * 1.5)
    for o, col in ((0, mix(skin, lite, .5)), (.6, skin), (1, mix(skin, dark, .7))):
        g.add_color_stop_rgb(o, *col)
    c.set_source(g)
    c.fill_preserve()
    c.save()
    c.clip()
    soft(c, w * .92, h * .25, w * .5, h * .9, dark, .40)      # the side away from the light
    for s in (-1, 1):
        soft(c, s * w * .50 - w * .04, h * .20, w * .30, h * .15, mix(skin, (1, 1, .95), .5), .30)
    c.restore()


def paint(c, f, p):
    op, wi, ro, te, to, bl, br, nod, mood, gaze = (float(x) for x in p)
    skin, w, h, st = f["skin"], f["fw"], f["fh"], f["style"]
    dark, lite = mix(skin, (.3, .1, .1), .28), mix(skin, (1, 1, .95), .35)
    dx, dy = .012 * gaze, .020 * nod
    background(c, f)
    c.translate(.5, ZY)
    c.scale(ZOOM, ZOOM)
    c.translate(-.5, -ZY)
    if st in (2, 3):
        c.save()
        c.translate(f["cx"] + dx, f["cy"] + dy)
        hair_behind(c, f, w, h)
        c.restore()
    clothes(c, f, dark)
    c.save()
    c.translate(f["cx"] + dx, f["cy"] + dy)
    if f["ear"] or st in (0, 1):
        for s in (-1, 1):
            ellipse(c, s * w * .99, h * .05, w * .13, h * .17)
            fill(c, mix(skin, dark, .5))
    head(c, f, w, h, .018 * max(0, op), dark, lite)
    for s in (-1, 1):
        soft(c, s * w * .58, h * .34, w * .34, h * .2, (.93, .38, .38), f["blush"] + .12 * max(0, mood))
    beard(c, f, w, h)
    hair_on_top(c, f, w, h)
    c.translate(dx * .5, dy * .45)                           # features move a little more: parallax
    for s in (-1, 1):
        eye(c, f, s, bl, mood, gaze, dark)
        brow(c, f, s, br, mood)
    glasses(c, f)
    nose(c, f, dark, lite)
    mouth(c, f, op, wi, ro, te, to, mood)
    c.restore()


def draw(f, p=NEUTRAL, w=128, h=None):
    """-> uint8 [h, w, 3]"""
    h = h or w
    sf = cairo.ImageSurface(cairo.FORMAT_RGB24, w, h)
    c = cairo.Context(sf)
    c.set_antialias(cairo.ANTIALIAS_BEST)
    s = min(w, h)
    c.translate((w - s) / 2, (h - s) / 2)
    c.scale(s, s)
    paint(c, f, p)
    sf.flush()
    return np.ndarray((h, w, 4), np.uint8, sf.get_data(), strides=(sf.get_stride(), 4, 1))[:, :, 2::-1].copy()


def mouth_box(f, s=128):
    """Fixed pixel box (y0, y1, x0, x1) that holds the mouth at any pose."""
    x, y = (.5 + (f["cx"] - .5) * ZOOM) * s, (ZY + (f["cy"] + f["my"] - ZY) * ZOOM) * s
    return int(y - .075 * ZOOM * s), int(y + .115 * ZOOM * s), int(x - .15 * ZOOM * s), int(x + .15 * ZOOM * s)


def eye_box(f, s=128):
    x, y = (.5 + (f["cx"] - .5) * ZOOM) * s, (ZY + (f["cy"] + f["ey"] - ZY) * ZOOM) * s
    return int(y - .06 * s), int(y + .07 * s), int(x - .19 * s), int(x + .19 * s)


def sheet(n, first, size):
    """Neutral faces in a grid, then three people with their expressions."""
    ex = [NEUTRAL, [1, 0, .1, .25, .3, 0, 0, 0, 0, 0], [.3, .9, 0, .7, .1, 0, 0, 0, 1, 0], [.5, -.7, .95, 0, 0, 0, .3, .3, 0, 0],
          [0, 0, 0, 0, 0, .5, 0, -.4, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, -1, -1]]
    rows = [[draw(identity(first + r * 8 + k), NEUTRAL, size) for k in range(8)] for r in range((n + 7) // 8)]
    rows += [[draw(identity(first + k), e, size) for e in ex] for k in (0, 1, 2)]
    return np.concatenate([np.concatenate(r, 1) for r in rows], 0)


def main():
    from PIL import Image
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--seed", type=int, default=HELD_OUT)
    a.add_argument("--size", default="512x512")
    a.add_argument("--sheet", type=int, metavar="N")
    a.add_argument("-o", "--output", default="face.png")
    o = a.parse_args()
    w, h = (int(v) for v in o.size.split("x"))
    Image.fromarray(sheet(o.sheet, o.seed, 128) if o.sheet else draw(identity(o.seed), NEUTRAL, w, h)).save(o.output)


if __name__ == "__main__":
    main()
