/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is wrong with a reference picture. A soft face in the film is most often a soft face in the picture.
 *
 * Everything but the blocks of JPEG is measured on the picture as the model sees it, scaled and cropped to the size of the frames: a
 * photograph of 12 megapixels may be soft from pixel to pixel and sharp at 704x384.
 *
 *   sharpness   the spectrum of rows and columns: fine detail against that of twice the size. Pictures' spectra fall as 1/f, which
 *               makes it 0.5; one that was enlarged twice has 0.2, four times 0.05
 *   noise       Immerkaer's difference of two Laplacians, in the flattest tenth of 8x8 squares
 *   blocks      steps across every 8th border against steps elsewhere, on the picture as it is
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "doctor.h"
#include "nets/picture.h"
#include "spectrum.h"

#define SQUARE 8                                    // pixels, of what noise is looked for in
#define LINE   128                                  // pixels, of a piece of a row or column

typedef struct Plane {
    float *v;                           // [h][w] luma, 0 .. 255
    int w, h;
} Plane;

static int plane_new(Plane *p, int w, int h)
{
    *p = (Plane){ .v = calloc((size_t)w * (size_t)h, sizeof(float)), .w = w, .h = h };
    return p->v != NULL;
}

static float at(const Plane *p, int x, int y)
{
    x = x < 0 ? 0 : x >= p->w ? p->w - 1 : x;
    y = y < 0 ? 0 : y >= p->h ? p->h - 1 : y;
    return p->v[(size_t)y * (size_t)p->w + (size_t)x];
}

static int luma(Plane *p, const uint8_t *rgb, int w, int h)
{
    if (!plane_new(p, w, h))
        return 0;
    for (int64_t i = 0; i < (int64_t)w * h; i++)
        p->v[i] = 0.2126f * rgb[3 * i] + 0.7152f * rgb[3 * i + 1] + 0.0722f * rgb[3 * i + 2];
    return 1;
}

/* ---- sharpness ------------------------------------------------------------------------------------------------------ */

typedef struct Lines {                  // mean power of pieces of rows and columns, by frequency
    Spectrum s;
    double power[LINE / 2];
    int64_t nb;
} Lines;

static void add_line(Lines *l, const Plane *p, int x0, int y0, int dx, int dy)
{
    float v[LINE], mean = 0;

    for (int i = 0; i < LINE; i++)
        mean += (v[i] = at(p, x0 + i * dx, y0 + i * dy)) / LINE;
    for (int i = 0; i < LINE; i++)
        v[i] -= mean;
    spectrum_power(&l->s, v);
    for (int i = 0; i < LINE / 2; i++)
        l->power[i] += l->s.out[i].re;
    l->nb++;
}

/* Amplitude in a band, in cycles a pixel. */
static double band(const Lines *l, double from, double to)
{
    double sum = 0;
    int nb = 0;

    for (int i = (int)(from * LINE); i < (int)(to * LINE); i++, nb++)
        sum += l->power[i];
    return sqrt(sum / nb / (double)l->nb) / LINE;
}

/* Fine detail against that of twice the size, for the finest of three sizes where it lacks: about 0.5 where the spectrum falls as 1/f.
 * (Enlarging by 4 leaves copies of what there is in the finest octave, and a hole in the third.) NAN: nothing to see. */
static double sharpness(const Plane *p)
{
    Lines l = { .nb = 0 };
    double least = NAN;

    if (!spectrum_open(&l.s, LINE)) {
        spectrum_close(&l.s);
        return NAN;
    }
    for (int y = 0; y < p->h; y += 2)
        for (int x = 0; x < p->w - LINE / 2; x += LINE / 2)
            add_line(&l, p, x, y, 1, 0);
    for (int x = 0; x < p->w; x += 2)
        for (int y = 0; y < p->h - LINE / 2; y += LINE / 2)
            add_line(&l, p, x, y, 0, 1);
    spectrum_close(&l.s);
    for (int i = 0; i < 3 && l.nb; i++) {
        const double from = 0.25 - i / 16.0, coarse = band(&l, from / 2, 0.75 * from), r = band(&l, from, 1.5 * from) / coarse;

        if (coarse > 0.01)
            least = fmin(least, r);                                 // fmin(NAN, r) is r
    }
    return least;
}

double doctor_sharpness(const uint8_t *luma, int w, int h)
{
    Plane p;
    double s = NAN;

    if (!plane_new(&p, w, h))
        return s;
    for (int64_t i = 0; i < (int64_t)w * h; i++)
        p.v[i] = luma[i];
    s = sharpness(&p);
    free(p.v);
    return s;
}

/* ---- noise --------------------------------------------------------------------------------------------------------- */

/* Standard deviation of the noise of one square of pixels: mean of |second difference of second differences| * sqrt(pi / 2) / 6. */
static float square_noise(const Plane *p, int x0, int y0)
{
    double sum = 0;

    for (int y = y0; y < y0 + SQUARE; y++)
        for (int x = x0; x < x0 + SQUARE; x++)
            sum += fabs(at(p, x - 1, y - 1) - 2 * at(p, x, y - 1) + at(p, x + 1, y - 1) - 2 * at(p, x - 1, y) + 4 * at(p, x, y) -
                        2 * at(p, x + 1, y) + at(p, x - 1, y + 1) - 2 * at(p, x, y + 1) + at(p, x + 1, y + 1));
    return (float)(sum / (SQUARE * SQUARE) * 1.2533 / 6);
}

static double noise(const Plane *p)
{
    const int cols = p->w / SQUARE, rows = p->h / SQUARE, nb = cols * rows;
    float *v = malloc(sizeof(*v) * (size_t)(nb ? nb : 1));
    double n = NAN;

    for (int i = 0; v && i < nb; i++)
        v[i] = square_noise(p, i % cols * SQUARE, i / cols * SQUARE);
    if (v && nb) {
        qsort(v, (size_t)nb, sizeof(*v), doctor_by_value);
        n = v[nb / 10];
    }
    free(v);
    return n;
}

/* ---- JPEG ---------------------------------------------------------------------------------------------------------- */

/* Steps between columns x - 1 and x, less what their neighbours' slope explains, for each x mod 8. */
static void steps(double sum[8], const Plane *p)
{
    double nb[8] = { 0 };

    for (int y = 0; y < p->h; y++)
        for (int x = 2; x + 1 < p->w; x++) {
            const double step = at(p, x, y) - at(p, x - 1, y);
            const double slope = (at(p, x - 1, y) - at(p, x - 2, y) + at(p, x + 1, y) - at(p, x, y)) / 2;

            sum[x % 8] += fabs(step - slope);
            nb[x % 8]++;
        }
    for (int i = 0; i < 8; i++)
        sum[i] /= nb[i] > 0 ? nb[i] : 1;
}

/* How much larger the steps across one border of eight are than half-way to the next; 0: no blocks. (A picture that was enlarged has
 * as large ones there.) */
static double blockiness(const Plane *p)
{
    double step[8] = { 0 };
    int most = 0;

    if (p->w < 64 || p->h < 64)
        return 0;
    steps(step, p);
    for (int i = 0; i < 8; i++)
        most = step[i] > step[most] ? i : most;
    return step[(most + 4) % 8] > 0.05 ? step[most] / step[(most + 4) % 8] - 1 : 0;
}

/* ---- light --------------------------------------------------------------------------------------------------------- */

typedef struct Light {
    double mean, range;                 // of luma; range: from the 2nd to the 98th percentile
    double black, white;                // share of pixels at the ends
} Light;

/* Of the middle half of the picture, where the face is; a white wall is nobody's fault. */
static Light light_of(const Plane *p)
{
    int64_t count[256] = { 0 }, nb = 0, seen = 0;
    int lo = -1, hi = 255;
    Light l = { 0 };

    for (int y = p->h / 4; y < p->h - p->h / 4; y++)
        for (int x = p->w / 4; x < p->w - p->w / 4; x++, nb++)
            count[(int)at(p, x, y)]++;
    for (int i = 0; i < 256; i++) {
        l.mean += (double)(count[i] * i) / (double)nb;
        seen += count[i];
        if (lo < 0 && seen * 50 > nb)
            lo = i;
        if (seen * 50 < nb * 49)
            hi = i + 1;
    }
    l.range = hi - lo;
    for (int i = 0; i < 4; i++) {
        l.black += (double)count[i] / (double)nb;
        l.white += (double)count[255 - i] / (double)nb;
    }
    return l;
}

static void judge_light(Findings *f, const Plane *p)
{
    const Light l = light_of(p);
    const double off = fabs(l.mean - 122);

    doctor_number(f, "picture", "mean brightness of its middle", l.mean, "of 255", doctor_judge(off, 82, 95),
                  "the face is too %s: light it anew, or set its levels in an image editor", l.mean < 122 ? "dark" : "bright");
    doctor_number(f, "picture", "range of brightness", l.range, "of 255", doctor_judge(l.range, 50, 25),
                  "the picture is flat: raise its contrast");
    doctor_number(f, "picture", "burnt out or drowned", 100 * (l.black + l.white), "% of its middle",
                  doctor_judge(l.black + l.white, 0.35, 0.7), "%s parts of the face have no drawing: take one with softer light",
                  l.white > l.black ? "white" : "black");
}

/* ---- all of it ------------------------------------------------------------------------------------------------------ */

static void judge_size(Findings *f, int w, int h, int out_w, int out_h)
{
    const double by_w = (double)out_w / w, by_h = (double)out_h / h, scale = by_w > by_h ? by_w : by_h;
    const double kept = (double)out_w * out_h / (scale * w * scale * h);

    doctor_number(f, "picture", "enlarged for the frames by", scale, "times", doctor_judge(scale, 1.2, 2),
                  "%dx%d is small for frames of %dx%d: take a larger picture, or a smaller size", w, h, out_w, out_h);
    doctor_number(f, "picture", "kept of it", 100 * kept, "%", doctor_judge(kept, 0.5, 0.25),
                  "its middle is cut out for frames of %dx%d: crop it around the face yourself, or leave size= away", out_w, out_h);
}

static void judge_detail(Findings *f, const Plane *p)
{
    const double s = sharpness(p), n = noise(p);

    if (isnan(s))
        doctor_words(f, "picture", "sharpness", BAD, "nothing can be seen in it"), doctor_remedy(f, "take another picture");
    else
        doctor_number(f, "picture", "sharpness", s, "", doctor_judge(s, 0.27, 0.19),
                      "it is soft at the size of the frames, and so will be the film: take the original, not an enlarged or saved-again copy");
    doctor_number(f, "picture", "noise", n, "of 255", doctor_judge(n, 4, 10), "it is noisy: take one with more light, or denoise it");
}

void doctor_picture(Findings *f, const uint8_t *rgb, int w, int h, int out_w, int out_h)
{
    uint8_t *seen = malloc((size_t)out_w * (size_t)out_h * 3);
    Plane whole = { 0 }, p = { 0 };
    double blocks;

    judge_size(f, w, h, out_w, out_h);
    if (seen && avt_picture_cover(seen, out_w, out_h, rgb, 3 * (int64_t)w, w, h) >= 0 && luma(&p, seen, out_w, out_h) &&
        luma(&whole, rgb, w, h)) {
        judge_detail(f, &p);
        blocks = blockiness(&whole);
        doctor_number(f, "picture", "blocks of JPEG", blocks, "", doctor_judge(blocks, 1.2, 2.5),
                      "it was saved with too much compression: take the original");
        judge_light(f, &p);
        doctor_face(f, seen, out_w, out_h);
    } else {
        doctor_words(f, "picture", "looked at", DOUBTFUL, "no memory for %dx%d", w, h);
        doctor_remedy(f, "give a smaller picture");
    }
    free(whole.v);
    free(p.v);
    free(seen);
}
