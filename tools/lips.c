/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See lips.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lips.h"

#define GRID 8                          // means of the mouth's place, each way

static LipsFrame *at(const LipsFrame *frame, size_t stride, int64_t i)
{
    return (LipsFrame *)((const char *)frame + (size_t)i * stride);
}

/* From a quarter to three quarters across, and from the middle down. */
static float cell_of(const uint8_t *luma, int w, int h, int i)
{
    const int cw = w / 2 / GRID, ch = h / 2 / GRID, x0 = w / 4 + i % GRID * cw, y0 = h / 2 + i / GRID * ch;
    int64_t sum = 0;

    for (int y = y0; y < y0 + ch; y++)
        for (int x = x0; x < x0 + cw; x++)
            sum += luma[(int64_t)y * w + x];
    return cw && ch ? (float)sum / (float)(cw * ch) : 0;
}

void lips_look(LipsFrame *f, const uint8_t *luma, int w, int h)
{
    for (int i = 0; i < LIPS_CELLS; i++)
        f->cell[i] = cell_of(luma, w, h, i);
}

float lips_loudness(double sum, int nb)
{
    return (float)fmax(0, 10 * log10(sum / nb + 1e-9) + 60);
}

/* The cells' first principal component into `mouth`: power iteration on the covariance, without forming it. */
void lips_find(LipsFrame *frame, size_t stride, int64_t nb)
{
    double mean[LIPS_CELLS] = { 0 }, axis[LIPS_CELLS], next[LIPS_CELLS], length;

    for (int64_t i = 0; i < nb; i++)
        for (int c = 0; c < LIPS_CELLS; c++)
            mean[c] += at(frame, stride, i)->cell[c] / (double)nb;
    for (int c = 0; c < LIPS_CELLS; c++)
        axis[c] = 1 + c % 3;                                        // anything that is not orthogonal to what is sought
    for (int round = 0; round < 50; round++) {
        memset(next, 0, sizeof(next));
        for (int64_t i = 0; i < nb; i++) {
            double along = 0;

            for (int c = 0; c < LIPS_CELLS; c++)
                along += axis[c] * (at(frame, stride, i)->cell[c] - mean[c]);
            at(frame, stride, i)->mouth = (float)along;
            for (int c = 0; c < LIPS_CELLS; c++)
                next[c] += along * (at(frame, stride, i)->cell[c] - mean[c]);
        }
        length = 0;
        for (int c = 0; c < LIPS_CELLS; c++)
            length += next[c] * next[c];
        for (int c = 0; c < LIPS_CELLS && length > 0; c++)
            axis[c] = next[c] / sqrt(length);
    }
}

/* Correlation of the mouth with the loudness `lag` frames before it, of either sign: which end of the axis is open is not known. */
double lips_follow(const LipsFrame *frame, size_t stride, int64_t nb, int lag)
{
    double sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0;
    int64_t n = 0;

    for (int64_t i = LIPS_LAG; i < nb - LIPS_LAG; i++) {
        const double x = at(frame, stride, i)->mouth, y = at(frame, stride, i - lag)->loud;

        n++;
        sx += x, sy += y, sxx += x * x, syy += y * y, sxy += x * y;
    }
    sxx -= sx * sx / (double)n;
    syy -= sy * sy / (double)n;
    return sxx > 0 && syy > 0 ? fabs(sxy - sx * sy / (double)n) / sqrt(sxx * syy) : 0;
}

/* The best lag; *other is the best correlation at one that is far from it. */
int lips_best(const LipsFrame *frame, size_t stride, int64_t nb, double *r, double *other)
{
    int best = 0;

    *r = *other = 0;
    for (int lag = -LIPS_LAG; lag <= LIPS_LAG; lag++)
        if (lips_follow(frame, stride, nb, lag) > *r) {
            *r = lips_follow(frame, stride, nb, lag);
            best = lag;
        }
    for (int lag = -LIPS_LAG; lag <= LIPS_LAG; lag++)
        if (abs(lag - best) > 4)
            *other = fmax(*other, lips_follow(frame, stride, nb, lag));
    return best;
}
