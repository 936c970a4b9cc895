/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* gather, lerp_rows, layer_mix: rows picked out of a table or mixed with each other. */
#include <math.h>
#include <string.h>

#include "cpu/plain.h"

int avt_plain_gather(Backend *be, const OpCall *c)
{
    const int64_t nb = c->out.dim[0], width = c->out.dim[1], rows = c->in[0].dim[0];
    const int32_t *ids = c->in[1].data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > 4 * PARALLEL_MIN)
    for (int64_t n = 0; n < nb; n++) {
        float *out = (float *)c->out.data + n * width;

        if (ids[n] < 0 || ids[n] >= rows)
            memset(out, 0, (size_t)width * sizeof(*out));
        else
            memcpy(out, (const float *)c->in[0].data + ids[n] * width, (size_t)width * sizeof(*out));
    }
    return 0;
}

int avt_plain_lerp_rows(Backend *be, const OpCall *c)
{
    const int64_t nb = c->out.dim[0], width = c->out.dim[1], last = c->in[0].dim[0] - 1;
    const int32_t *index = c->in[1].data;
    const float *weight = c->in[2].data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > 4 * PARALLEL_MIN)
    for (int64_t n = 0; n < nb; n++) {
        const int64_t i = index[n] < 0 ? 0 : index[n];
        const float *a = (const float *)c->in[0].data + min_i64(i, last) * width;
        const float *b = (const float *)c->in[0].data + min_i64(i + 1, last) * width, w = weight[n];
        float *out = (float *)c->out.data + n * width;

        for (int64_t d = 0; d < width; d++)
            out[d] = index[n] < 0 ? 0 : (1 - w) * a[d] + w * b[d];
    }
    return 0;
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

int avt_plain_layer_mix(Backend *be, const OpCall *c)
{
    const int64_t nb = c->in[0].dim[0], layers = c->in[0].dim[1], width = c->in[0].dim[2];
    const float *w = c->in[1].data;
    double total = 0;

    for (int64_t l = 0; l < layers; l++)
        total += silu(w[l]);
#pragma omp parallel for num_threads(be->threads) if (nb * layers * width > PARALLEL_MIN)
    for (int64_t t = 0; t < nb; t++) {
        const float *x = (const float *)c->in[0].data + t * layers * width;
        float *out = (float *)c->out.data + t * width;

        for (int64_t d = 0; d < width; d += CHUNK) {
            const int64_t n = min_i64(CHUNK, width - d);
            double sum[CHUNK] = { 0 };

            for (int64_t l = 0; l < layers; l++) {
                const double part = silu(w[l]) / total;

                for (int64_t i = 0; i < n; i++)
                    sum[i] += part * x[l * width + d + i];
            }
            for (int64_t i = 0; i < n; i++)
                out[d + i] = (float)sum[i];
        }
    }
    return 0;
}
