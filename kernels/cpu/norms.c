/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * squares, norm_rope, channel_norm, layer_norm: a row at a time, every sum in f64.
 *
 * The variance is taken around the mean in a second pass, so a large common offset costs no digits.
 */
#include <math.h>

#include "cpu/plain.h"

enum { LANES = 8 };

/* sum of (x - mean)^2, in eight interleaved sums so that it vectorizes in one fixed order */
static double sum_squares(const float *x, int64_t nb, double mean)
{
    double s[LANES] = { 0 }, sum = 0;
    int64_t i = 0;

    for (; i + LANES <= nb; i += LANES)
        for (int j = 0; j < LANES; j++)
            s[j] += (x[i + j] - mean) * (x[i + j] - mean);
    for (int j = 0; j < LANES; j++)
        sum += s[j];
    for (; i < nb; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

static double sum_values(const float *x, int64_t nb)
{
    double s[LANES] = { 0 }, sum = 0;
    int64_t i = 0;

    for (; i + LANES <= nb; i += LANES)
        for (int j = 0; j < LANES; j++)
            s[j] += x[i + j];
    for (int j = 0; j < LANES; j++)
        sum += s[j];
    for (; i < nb; i++)
        sum += x[i];
    return sum;
}

/* Heads of a row: neighbouring pairs turned by the angles of its token. */
static void rotate_row(float *x, int64_t nb, const float *table, int64_t hd)
{
    for (int64_t i = 0; i < nb; i += 2) {
        const float *t = table + i % hd, a = x[i], b = x[i + 1];

        x[i] = a * t[0] - b * t[1];
        x[i + 1] = a * t[1] + b * t[0];
    }
}

int avt_plain_squares(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->x), width = avt_last_dim(c->x);

#pragma omp parallel for num_threads(be->threads) if (nb * width > PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++)
        ((float *)c->out.data)[r] = (float)sum_squares((const float *)c->x.data + r * width, width, 0);
    return 0;
}

int avt_plain_norm_rope(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->x), width = avt_last_dim(c->x), hd = 2 * c->norm_rope.table.dim[1];
    const float *w = c->norm_rope.w.data, *squares = c->norm_rope.squares.data, *table = c->norm_rope.table.data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++) {
        const float *x = (const float *)c->x.data + r * width;
        float *out = (float *)c->out.data + r * width;
        const double sum = squares ? squares[r] : sum_squares(x, width, 0);
        const float f = (float)(1 / sqrt(sum / (double)c->u.norm.width + c->u.norm.eps));

        for (int64_t i = 0; i < width; i++)
            out[i] = x[i] * f * w[i];
        if (table)
            rotate_row(out, width, table + r * hd, hd);
    }
    return 0;
}

int avt_plain_channel_norm(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->in[0]), width = avt_last_dim(c->in[0]);
    const Act act = c->u.norm.act;
    const float *w = c->in[1].data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++) {
        const float *x = (const float *)c->in[0].data + r * width;
        float *out = (float *)c->out.data + r * width;
        const double f = sqrt((double)width) / fmax(sqrt(sum_squares(x, width, 0)), 1e-12);

        for (int64_t i = 0; i < width; i++)
            out[i] = (float)(x[i] * f) * w[i];
        avt_act_row(act, out, width);
    }
    return 0;
}

/* out = (x - mean) / sqrt(var + eps) */
static void normalize(float *out, const float *x, int64_t nb, float eps)
{
    const double mean = sum_values(x, nb) / (double)nb;
    const double f = 1 / sqrt(sum_squares(x, nb, mean) / (double)nb + eps);

    for (int64_t i = 0; i < nb; i++)
        out[i] = (float)((x[i] - mean) * f);
}

int avt_plain_layer_norm(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->x), width = avt_last_dim(c->x), run = avt_norm_run(c);
    const float *w = c->norm.w.data, *b = c->norm.b.data, plus = (float)c->u.norm.plus;

#pragma omp parallel for num_threads(be->threads) if (nb * width > PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++) {
        const int64_t at = r / run * width;
        float *out = (float *)c->out.data + r * width;

        normalize(out, (const float *)c->x.data + r * width, width, c->u.norm.eps);
        if (w)
            for (int64_t i = 0; i < width; i++)
                out[i] *= plus + w[at + i];
        if (b)
            for (int64_t i = 0; i < width; i++)
                out[i] += b[at + i];
        avt_act_row(c->u.norm.act, out, width);
    }
    return 0;
}
