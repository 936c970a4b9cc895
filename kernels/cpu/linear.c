/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linear: out[M, N] = act(x[M, K] w[N, K]^T + b), or res + gate * (x w^T + b).
 *
 * A piece of work is 128 rows by one panel of 8 columns. The weight stays row-major; a chunk of the panel at a time is turned
 * into [K][8] and widened to f32, which 128 rows then share.
 */
#include "base/half.h"
#include "cpu/plain.h"

enum { ROWS = 128 };

/* pack[k][j] = w[n + j, k0 + k]; columns beyond the last are zero */
static void pack_panel(float *pack, Tensor w, int64_t n, int64_t k0, int64_t nb_k)
{
    for (int64_t j = 0; j < PANEL; j++) {
        const int64_t at = (n + j) * w.dim[1] + k0;

        if (n + j >= w.dim[0])
            for (int64_t k = 0; k < nb_k; k++)
                pack[k * PANEL + j] = 0;
        else if (w.dtype == DT_BF16)
            for (int64_t k = 0; k < nb_k; k++)
                pack[k * PANEL + j] = avt_bf16_f32(((const uint16_t *)w.data)[at + k]);
        else
            for (int64_t k = 0; k < nb_k; k++)
                pack[k * PANEL + j] = ((const float *)w.data)[at + k];
    }
}

/* sum[rows][8] = x w^T for rows m .. m + nb - 1 and columns n .. n + 7 */
static void multiply(float sum[ROWS][PANEL], const OpCall *c, int64_t m, int64_t nb, int64_t n)
{
    const int64_t depth = c->in[1].dim[1];
    float pack[CHUNK * PANEL];

    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < PANEL; j++)
            sum[i][j] = 0;
    for (int64_t k = 0; k < depth; k += CHUNK) {
        const int64_t nb_k = min_i64(CHUNK, depth - k);

        pack_panel(pack, c->in[1], n, k, nb_k);
        for (int64_t i = 0; i < nb; i += TILE) {
            const float *x[TILE];

            for (int64_t r = 0; r < TILE; r++)
                x[r] = (const float *)c->in[0].data + (m + min_i64(i + r, nb - 1)) * depth + k;
            panel_add(sum + i, x, pack, nb_k);
        }
    }
}

static void tile(const OpCall *c, int64_t m, int64_t nb, int64_t n)
{
    const float *bias = c->in[2].data, *gate = c->in[3].data, *res = c->in[4].data;
    const int64_t width = c->in[1].dim[0];
    float sum[ROWS][PANEL];

    multiply(sum, c, m, nb, n);
    for (int64_t i = 0; i < nb; i++)
        for (int64_t j = 0; j < min_i64(PANEL, width - n); j++) {
            const int64_t at = (m + i) * width + n + j;
            float v = sum[i][j] + (bias ? bias[n + j] : 0);

            v = avt_act_value(c->u.linear.act, v);
            if (gate)
                v *= gate[n + j];
            ((float *)c->out.data)[at] = res ? res[at] + v : v;
        }
}

int avt_plain_linear(Backend *be, const OpCall *c)
{
    const int64_t m = avt_rows_of(c->out), blocks = (m + ROWS - 1) / ROWS, nb = blocks * panels_of(c->in[1].dim[0]);

#pragma omp parallel for num_threads(be->threads) if (m * avt_numel(c->in[1]) > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++) {
        const int64_t first = i % blocks * ROWS;

        tile(c, first, min_i64(ROWS, m - first), i / blocks * PANEL);
    }
    return 0;
}
