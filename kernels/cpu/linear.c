/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linear: out[M, N] = act(x[M, K] w[N, K]^T + b), or res + gate * (x w^T + b).
 *
 * A piece of work is 128 rows by 32 columns. The weight stays row-major; a chunk of its 32 rows at a time is turned into four
 * panels of [K][8] and widened to f32, which all 128 rows then share.
 */
#include "base/half.h"
#include "cpu/plain.h"

enum { ROWS = 128, PANELS = 4, COLUMNS = PANELS * PANEL };

/* pack[k][j] = w[n + j, k0 + k]; columns beyond the last are zero */
static void pack_panel(float *restrict pack, Tensor w, int64_t n, int64_t k0, int64_t nb_k)
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

/* sum[panel][row][8] += x w^T over columns k .. k + nb_k - 1 of both, for nb rows from m on and the panels from column n on */
static void multiply_chunk(float sum[PANELS][ROWS][PANEL], const OpCall *c, int64_t m, int64_t nb, int64_t n,
                           int64_t k, int64_t nb_k)
{
    const int64_t width = c->in[1].dim[0], depth = c->in[1].dim[1], panels = min_i64(PANELS, panels_of(width - n));
    float pack[PANELS][CHUNK * PANEL];

    for (int64_t p = 0; p < panels; p++)
        pack_panel(pack[p], c->in[1], n + p * PANEL, k, nb_k);
    for (int64_t i = 0; i < nb; i += TILE) {
        const float *x[TILE];

        for (int64_t r = 0; r < TILE; r++)
            x[r] = (const float *)c->in[0].data + (m + min_i64(i + r, nb - 1)) * depth + k;
        for (int64_t p = 0; p < panels; p++)
            panel_add(sum[p] + i, x, pack[p], nb_k);
    }
}

/* Bias, activation, gate and residual of one row of one panel, into the result. */
static void finish_row(const OpCall *c, float *v, int64_t m, int64_t n, int64_t nb)
{
    const float *bias = c->in[2].data, *gate = c->in[3].data, *res = c->in[4].data;
    const int64_t at = m * c->in[1].dim[0] + n;
    float *out = (float *)c->out.data + at;

    for (int64_t j = 0; bias && j < nb; j++)
        v[j] += bias[n + j];
    avt_act_row(c->u.act, v, nb);
    for (int64_t j = 0; gate && j < nb; j++)
        v[j] *= gate[n + j];
    for (int64_t j = 0; j < nb; j++)
        out[j] = res ? res[at + j] + v[j] : v[j];
}

static void tile(const OpCall *c, int64_t m, int64_t nb, int64_t n)
{
    const int64_t width = c->in[1].dim[0], depth = c->in[1].dim[1];
    float sum[PANELS][ROWS][PANEL] = { { { 0 } } };

    for (int64_t k = 0; k < depth; k += CHUNK)
        multiply_chunk(sum, c, m, nb, n, k, min_i64(CHUNK, depth - k));
    for (int64_t p = 0; n + p * PANEL < width && p < PANELS; p++)
        for (int64_t i = 0; i < nb; i++)
            finish_row(c, sum[p][i], m + i, n + p * PANEL, min_i64(PANEL, width - n - p * PANEL));
}

int avt_plain_linear(Backend *be, const OpCall *c)
{
    const int64_t m = avt_rows_of(c->out), blocks = (m + ROWS - 1) / ROWS;
    const int64_t nb = blocks * ((c->in[1].dim[0] + COLUMNS - 1) / COLUMNS);

#pragma omp parallel for num_threads(be->threads) if (m * avt_numel(c->in[1]) > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++) {
        const int64_t first = i % blocks * ROWS;

        if (!avt_cpu_given_up(be))
            tile(c, first, min_i64(ROWS, m - first), i / blocks * COLUMNS);
    }
    return 0;
}
