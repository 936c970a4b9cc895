/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Mean and variance of a stream of sound. See loudness.h. */
#include <math.h>
#include <stdlib.h>

#include "engine/loudness.h"

#define PIECES_A_SECOND 50

static double mean_of(const float *pcm, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)pcm[i];
    return sum / (double)n;
}

static double square_of(const float *pcm, int64_t n, double mean)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += ((double)pcm[i] - mean) * ((double)pcm[i] - mean);
    return sum;
}

static void normalize(float *pcm, int64_t n, double mean, double var)
{
    const double gain = 1 / sqrt(var + 1e-7);

    for (int64_t i = 0; i < n; i++)
        pcm[i] = (float)(((double)pcm[i] - mean) * gain);
}

void avt_loudness_init(Loudness *l)
{
    *l = (Loudness){ .var = 0.07 * 0.07, .voiced = PIECES_A_SECOND };       // speech at -23 dBFS, until more is known
}

/* The average over what was voiced so far, over its last 10 s when it is longer; silence (below -50 dBFS), with or without a DC
 * offset, changes nothing. */
void avt_loudness_add(Loudness *l, const float *pcm)
{
    double mean = 0, var = 0, share;

    for (int i = 0; i < LOUDNESS_PIECE; i++)
        mean += (double)pcm[i] / LOUDNESS_PIECE;
    for (int i = 0; i < LOUDNESS_PIECE; i++)
        var += ((double)pcm[i] - mean) * ((double)pcm[i] - mean) / LOUDNESS_PIECE;
    if (var < 1e-5)
        return;
    l->voiced++;
    share = l->voiced < 10 * PIECES_A_SECOND ? 1.0 / (double)l->voiced : 1.0 / (10 * PIECES_A_SECOND);
    l->mean += share * (mean - l->mean);
    l->var += share * (var - l->var);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int avt_loudness_speaks(const float *pcm, int nb)
{
    double power[PIECES_A_SECOND];

    for (int i = 0; i < nb; i++, pcm += LOUDNESS_PIECE)
        power[i] = square_of(pcm, LOUDNESS_PIECE, mean_of(pcm, LOUDNESS_PIECE)) / LOUDNESS_PIECE;
    qsort(power, (size_t)nb, sizeof(power[0]), compare);
    return power[nb - 1] > 1e-4 && power[3 * nb / 4] > 4 * power[nb / 4];
}

void avt_loudness_normalize(const Loudness *l, float *pcm, int64_t n)
{
    normalize(pcm, n, l->mean, l->var > 1e-4 ? l->var : 1e-4);
}

/* Chan's rule for the statistics of two parts together. */
void avt_level_add(Level *l, const float *pcm, int64_t n)
{
    const double mean = n > 0 ? mean_of(pcm, n) : 0, delta = mean - l->mean, all = (double)(l->n + n);

    if (n <= 0)
        return;
    l->square += square_of(pcm, n, mean) + delta * delta * (double)l->n * (double)n / all;
    l->mean += delta * (double)n / all;
    l->n += n;
}

void avt_level_normalize(const Level *l, float *pcm, int64_t n)
{
    normalize(pcm, n, l->mean, l->n > 0 ? l->square / (double)l->n : 0);
}
