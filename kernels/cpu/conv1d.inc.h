/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conv1d over the panels of plain C ([Cout / 8][k][Cin / groups][8]), eight lanes wide whatever the machine: six output times of
 * two neighbouring panels at a time. oneDNN would want to know the number of groups when a weight is put; this does not.
 */
#include "cpu/simd.h"

#ifdef LEVEL

enum { TIMES = 6 };

/* sum[TIMES][panels] += x[TIMES][nb] w[nb][8 of each panel]; panel: floats from one to the next */
INLINE void tap(__m256 sum[TIMES][2], const float *const x[TIMES], const float *w, int64_t panel, int64_t nb, const int panels)
{
    __m256 acc[TIMES][2];                                           // a copy that no store can alias stays in registers

    for (int r = 0; r < TIMES; r++)
        for (int p = 0; p < panels; p++)
            acc[r][p] = sum[r][p];
    for (int64_t i = 0; i < nb; i++)
        for (int r = 0; r < TIMES; r++) {
            const __m256 a = _mm256_broadcast_ss(x[r] + i);

            for (int p = 0; p < panels; p++)
                acc[r][p] = _mm256_fmadd_ps(a, _mm256_loadu_ps(w + i * PANEL + p * panel), acc[r][p]);
        }
    for (int r = 0; r < TIMES; r++)
        for (int p = 0; p < panels; p++)
            sum[r][p] = acc[r][p];
}

INLINE void taps(__m256 sum[TIMES][2], const OpCall *c, int64_t t, int64_t channel, const float *w, int64_t panel, const int panels)
{
    static const float zeros[CHUNK];
    const int64_t nb = c->in[0].dim[0], width = c->in[0].dim[1], cin = c->in[1].dim[1], end = c->in[1].dim[2];
    const Conv1dSpec *s = &c->u.conv1d;

    for (int64_t k = 0; k < end; k++)
        for (int64_t first = 0; first < cin; first += CHUNK) {
            const float *x[TIMES];

            for (int64_t r = 0; r < TIMES; r++) {
                const int64_t at = (t + r) * s->stride - s->pad0 + k, edge = at < 0 ? 0 : min_i64(at, nb - 1);

                x[r] = at == edge || s->replicate ? (const float *)c->in[0].data + edge * width + channel + first : zeros;
            }
            tap(sum, x, w + (k * cin + first) * PANEL, panel, min_i64(CHUNK, cin - first), panels);
        }
}

/* Columns first .. end - 1 of six output times; they lie in one panel, or fill two. */
INLINE void some_times(const OpCall *c, int64_t t, int64_t first, int64_t end, int64_t channel, const int panels)
{
    const int64_t nb = c->out.dim[0], cout = c->out.dim[1], panel = c->in[1].dim[1] * c->in[1].dim[2] * PANEL;
    const float *w = (const float *)c->in[1].data + first / PANEL * panel, *bias = c->in[2].data;
    __m256 acc[TIMES][2];
    float sum[2 * PANEL];

    for (int r = 0; r < TIMES; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    taps(acc, c, t, channel, w, panel, panels);
    for (int64_t r = 0; r < min_i64(TIMES, nb - t); r++) {
        float *out = (float *)c->out.data + (t + r) * cout;

        for (int p = 0; p < panels; p++)
            _mm256_storeu_ps(sum + p * PANEL, acc[r][p]);
        for (int64_t n = first; n < end; n++)
            out[n] = sum[n - first / PANEL * PANEL] + (bias ? bias[n] : 0);
    }
}

/* Output times t .. end - 1 of one group, two panels at a time: their weights stay in the cache while the times go by. */
static void group_times(const OpCall *c, int64_t t, int64_t end, int64_t g)
{
    const int64_t per = c->out.dim[1] / c->u.conv1d.groups, last = (g + 1) * per, channel = g * c->in[1].dim[1];

    for (int64_t n = g * per, next; n < last; n = next) {
        const int pair = n % PANEL == 0 && n + 2 * PANEL <= last;

        next = min_i64((n / PANEL + 1 + pair) * PANEL, last);
        for (int64_t i = t; i < end; i += TIMES)
            if (pair)
                some_times(c, i, n, next, channel, 2);
            else
                some_times(c, i, n, next, channel, 1);
    }
}

/* Pieces of time long enough to pay for reading the weights, short enough for every thread to have one. */
static int conv1d(Backend *be, const OpCall *c)
{
    const int64_t groups = c->u.conv1d.groups, nb = c->out.dim[0], share = (nb * groups + be->threads - 1) / be->threads;
    const int64_t step = (min_i64(share, 192) + TIMES - 1) / TIMES * TIMES, pieces = (nb + step - 1) / step;

#pragma omp parallel for num_threads(be->threads) if (avt_numel(c->out) > 512)
    for (int64_t i = 0; i < pieces * groups; i++)
        group_times(c, i % pieces * step, min_i64(i % pieces * step + step, nb), i / pieces);
    return avt_conv1d_act(be, c);
}

#endif
