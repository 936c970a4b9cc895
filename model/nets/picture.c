/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reference picture: its size, resampling, crop. See picture.h.
 *
 * Pillow's bilinear resampling, bit for bit (Resample.c of Pillow): two passes, rows first, each a weighted sum of 8-bit
 * values with weights in fixed point (22 bits), rounded to 8 bits. Making a picture smaller widens the triangle to the
 * step between the results, so that every source pixel counts. Traps: the box is f32, as Pillow's is; the first and last
 * pixel that count are chosen by truncation of centre -+ support + 0.5; Pillow 11 and older always begin with the rows,
 * which is what we do, Pillow 13 begins with the cheaper direction.
 */
#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "nets/picture.h"

#define WEIGHT_BITS 22                  // 32 bits less 8 of the value less 2 of head room

/* ---- sizes ---------------------------------------------------------------------------------------------------- */

static int side_of(double pixels)
{
    const double side = 16 * round(pixels / 16);

    return side < 64 ? 64 : (int)side;
}

void avt_picture_size(int *w, int *h, int iw, int ih, int64_t area)
{
    *w = side_of(sqrt((double)area * iw / ih));
    *h = side_of(sqrt((double)area * ih / iw));
}

static int64_t up_to_64(int64_t v)
{
    return (v + 63) / 64 * 64;
}

void avt_picture_size_upstream(int *w, int *h, int iw, int ih, int64_t area)
{
    const double a = (double)ih * iw, b = 63.0 * (ih + iw), c = 63.0 * 63.0 - (double)area;
    double lo = 0.1, hi = 1;
    int64_t tw, th;

    if (a > (double)area) {
        lo = (-b + sqrt(b * b - 2 * a * c)) / (2 * a);              // 2ac, where 4ac would be right: the original's
        hi = sqrt((double)area / a);
    }
    for (int i = 0; i < 100; i++) {
        const double s = hi - (hi - lo) * i / 100;

        th = up_to_64((int64_t)(ih * s));
        tw = up_to_64((int64_t)(iw * s));
        if (th * tw <= area) {
            *w = (int)tw;
            *h = (int)th;
            return;
        }
    }
    tw = (int64_t)(sqrt((double)area * ((double)iw / ih)) / 64) * 64;
    th = (int64_t)(sqrt((double)area / ((double)iw / ih)) / 64) * 64;
    if (tw >= iw || th >= ih) {
        tw = iw / 64 * 64;
        th = ih / 64 * 64;
    }
    *w = (int)tw;
    *h = (int)th;
}

/* ---- resampling ----------------------------------------------------------------------------------------------- */

/* One direction: result i is the weighted sum of `nb` values from `first` on. */
typedef struct Taps {
    int max;                            // weights of a result
    int *first, *nb;                    // [size]
    int32_t *weight;                    // [size, max], WEIGHT_BITS of fraction
} Taps;

static void close_taps(Taps *t)
{
    avt_freep(&t->first);
    avt_freep(&t->nb);
    avt_freep(&t->weight);
}

static void fill_taps(Taps *t, int i, double *w, int in, double centre, double support)
{
    int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
    const double shrink = 1 / support;
    double sum = 0;

    first = first < 0 ? 0 : first;
    end = end > in ? in : end;
    t->first[i] = first;
    t->nb[i] = end - first;
    for (int k = 0; k < end - first; k++) {
        const double x = fabs((k + first - centre + 0.5) * shrink);

        w[k] = x < 1 ? 1 - x : 0;
        sum += w[k];
    }
    for (int k = 0; k < end - first; k++)
        t->weight[(int64_t)i * t->max + k] = (int32_t)((sum != 0 ? w[k] / sum : w[k]) * (1 << WEIGHT_BITS) + 0.5);
}

static int open_taps(Taps *t, int out, int in, float from, float to)
{
    const double step = (double)(to - from) / out, support = step < 1 ? 1 : step;
    double *w;

    t->max = (int)ceil(support) * 2 + 1;
    t->first = avt_calloc(MEM_NET, (size_t)out, sizeof(*t->first));
    t->nb = avt_calloc(MEM_NET, (size_t)out, sizeof(*t->nb));
    t->weight = avt_calloc(MEM_NET, (size_t)out * (size_t)t->max, sizeof(*t->weight));
    w = avt_calloc(MEM_NET, (size_t)t->max, sizeof(*w));
    if (t->first && t->nb && t->weight && w)
        for (int i = 0; i < out; i++)
            fill_taps(t, i, w, in, from + (i + 0.5) * step, support);
    avt_free(w);
    return t->first && t->nb && t->weight && w ? 0 : AVT_ERR(ENOMEM);
}

/* One RGB value out of `nb` that lie `stride` bytes apart. */
static void weigh(uint8_t out[3], const uint8_t *in, int64_t stride, const int32_t *w, int nb)
{
    for (int c = 0; c < 3; c++) {
        int32_t sum = 1 << (WEIGHT_BITS - 1);

        for (int k = 0; k < nb; k++)
            sum += in[k * stride + c] * w[k];
        sum >>= WEIGHT_BITS;
        out[c] = (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
    }
}

static int resample(uint8_t *dst, int w, int h, const uint8_t *src, int64_t stride, int iw, int ih, const double box[4])
{
    Taps tx = { 0 }, ty = { 0 };
    uint8_t *rows = NULL;                                           // the source rows that count, already w wide
    int top, nb, ret;

    if ((ret = open_taps(&tx, w, iw, (float)box[0], (float)box[2])) < 0 ||
        (ret = open_taps(&ty, h, ih, (float)box[1], (float)box[3])) < 0)
        goto end;
    top = ty.first[0];
    nb = ty.first[h - 1] + ty.nb[h - 1] - top;
    rows = avt_calloc(MEM_NET, (size_t)nb, (size_t)w * 3);
    ret = rows ? 0 : AVT_ERR(ENOMEM);
    for (int y = 0; rows && y < nb; y++)
        for (int x = 0; x < w; x++)
            weigh(rows + ((int64_t)y * w + x) * 3, src + (top + y) * stride + tx.first[x] * 3, 3,
                  tx.weight + (int64_t)x * tx.max, tx.nb[x]);
    for (int y = 0; rows && y < h; y++)
        for (int x = 0; x < w; x++)
            weigh(dst + ((int64_t)y * w + x) * 3, rows + ((int64_t)(ty.first[y] - top) * w + x) * 3, (int64_t)w * 3,
                  ty.weight + (int64_t)y * ty.max, ty.nb[y]);
end:
    avt_free(rows);
    close_taps(&tx);
    close_taps(&ty);
    return ret;
}

int avt_picture_resize(uint8_t *dst, int w, int h, const uint8_t *src, int iw, int ih, const double box[4])
{
    return resample(dst, w, h, src, (int64_t)iw * 3, iw, ih, box);
}

/* ---- fitting -------------------------------------------------------------------------------------------------- */

int avt_picture_cover(uint8_t *dst, int w, int h, const uint8_t *src, int64_t stride, int iw, int ih)
{
    const double sx = (double)w / iw, sy = (double)h / ih, s = sx > sy ? sx : sy;
    const double bw = sx > sy ? iw : w / s, bh = sx > sy ? h / s : ih;
    const double box[4] = { (iw - bw) / 2, (ih - bh) / 2, (iw + bw) / 2, (ih + bh) / 2 };

    return resample(dst, w, h, src, stride, iw, ih, box);
}

/* Python's round(d / 2): half to even. */
static int half_even(int d)
{
    return d % 2 == 0 ? d / 2 : (d - 1) / 2 % 2 == 0 ? (d - 1) / 2 : (d + 1) / 2;
}

static int offset(int resized, int wanted)
{
    return resized < wanted ? -((wanted - resized) / 2) : half_even(resized - wanted);
}

UpstreamFit avt_picture_fit_upstream(int w, int h, int iw, int ih)
{
    const int side = w < h ? w : h;
    UpstreamFit f = { .resized_w = side, .resized_h = side };

    if (iw < ih)
        f.resized_h = (int)((double)((int64_t)side * ih) / iw);
    else
        f.resized_w = (int)((double)((int64_t)side * iw) / ih);
    f.left = offset(f.resized_w, w);
    f.top = offset(f.resized_h, h);
    return f;
}

int avt_picture_upstream(uint8_t *dst, int w, int h, const uint8_t *src, int64_t stride, int iw, int ih)
{
    const UpstreamFit f = avt_picture_fit_upstream(w, h, iw, ih);
    const double box[4] = { 0, 0, iw, ih };
    uint8_t *resized = avt_calloc(MEM_NET, (size_t)f.resized_h, (size_t)f.resized_w * 3);
    int ret = AVT_ERR(ENOMEM);

    if (resized)
        ret = resample(resized, f.resized_w, f.resized_h, src, stride, iw, ih, box);
    if (ret >= 0)
        memset(dst, 0, (size_t)w * (size_t)h * 3);
    for (int y = 0; ret >= 0 && y < h; y++)
        for (int x = 0; x < w; x++) {
            const int sx = x + f.left, sy = y + f.top;

            if (sx >= 0 && sx < f.resized_w && sy >= 0 && sy < f.resized_h)
                memcpy(dst + ((int64_t)y * w + x) * 3, resized + ((int64_t)sy * f.resized_w + sx) * 3, 3);
        }
    avt_free(resized);
    return ret;
}
