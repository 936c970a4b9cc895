/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* act, add, mul, axpy, gate_add: each result depends on one element of each operand. */
#include <math.h>
#include <string.h>

#include "cpu/exp.h"
#include "cpu/plain.h"

static inline float silu(float x)
{
    return x / (1 + avt_exp(-x));
}

static inline float gelu_tanh(float x)          // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), which keeps its digits far below zero
{
    return x / (1 + avt_exp(-1.5957691216f * (x + 0.044715f * x * x * x)));
}

static inline float gelu_erf(float x)
{
    return 0.5f * x * (1 + erff(x * 0.7071067812f));
}

static inline float clamp(float x)
{
    return x < -1 ? -1 : x > 1 ? 1 : x;
}

void avt_act_row(Act act, float *v, int64_t nb)
{
    switch (act) {
    case ACT_SILU:
        for (int64_t i = 0; i < nb; i++)
            v[i] = silu(v[i]);
        break;
    case ACT_GELU_TANH:
        for (int64_t i = 0; i < nb; i++)
            v[i] = gelu_tanh(v[i]);
        break;
    case ACT_GELU_ERF:
        for (int64_t i = 0; i < nb; i++)
            v[i] = gelu_erf(v[i]);
        break;
    case ACT_CLAMP:
        for (int64_t i = 0; i < nb; i++)
            v[i] = clamp(v[i]);
        break;
    case ACT_NONE:
        break;
    }
}

int avt_plain_act(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_numel(c->out), piece = 1024;
    const float *x = c->in[0].data;
    float *out = c->out.data;

#pragma omp parallel for num_threads(be->threads) if (nb > 4 * piece)
    for (int64_t i = 0; i < nb; i += piece) {
        const int64_t n = min_i64(piece, nb - i);

        if (out != x)
            memcpy(out + i, x + i, (size_t)n * sizeof(*out));
        avt_act_row(c->u.act, out + i, n);
    }
    return 0;
}

/* Rows of a, each with the row of b that belongs to it: its own, or the only one. Inline, so that no loop asks which of the two it is. */
static inline int join_rows(Backend *be, const OpCall *c, int times)
{
    const int64_t nb = avt_numel(c->out), width = avt_last_dim(c->in[0]);
    const int64_t step = avt_numel(c->in[1]) == nb ? width : 0;
    const float *a = c->in[0].data, *b = c->in[1].data;
    float *out = c->out.data;

    if (!nb)
        return 0;
#pragma omp parallel for num_threads(be->threads) if (nb > 4 * PARALLEL_MIN)
    for (int64_t r = 0; r < nb / width; r++)
        for (int64_t i = 0; i < width; i++) {
            const float x = a[r * width + i], y = b[r * step + i];

            out[r * width + i] = times ? x * y : x + y;
        }
    return 0;
}

int avt_plain_add(Backend *be, const OpCall *c)
{
    return join_rows(be, c, 0);
}

int avt_plain_mul(Backend *be, const OpCall *c)
{
    return join_rows(be, c, 1);
}

int avt_plain_axpy(Backend *be, const OpCall *c)
{
    const float alpha = c->u.axpy.alpha, beta = c->u.axpy.beta;
    const int64_t nb = avt_numel(c->out);
    const float *x = c->in[0].data, *y = c->in[1].data;
    float *out = c->out.data;

#pragma omp parallel for num_threads(be->threads) if (nb > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++)
        out[i] = alpha * x[i] + beta * y[i];
    return 0;
}

int avt_plain_gate_add(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->in[0]), width = avt_last_dim(c->in[0]);
    const float *x = c->in[0].data, *y = c->in[1].data, *mask = c->in[2].data;
    float *out = c->out.data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > 4 * PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++)
        for (int64_t i = 0; i < width; i++)
            out[r * width + i] = x[r * width + i] + y[r * width + i] * mask[r];
    return 0;
}
