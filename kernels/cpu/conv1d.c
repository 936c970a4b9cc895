/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Convolution over [T, C] in groups: four output times by eight output channels at a time, tap after tap, padding with zeros or
 * with the edge. Weights: [Cout / 8][k][Cin / groups][8], see weights.c. A panel that reaches over the border of two groups is
 * computed for each of them and only the group's own columns are kept.
 */
#include "cpu/plain.h"

static const float zeros[CHUNK];

/* sum = four output times from t on, of the group whose channels begin at `channel` of a row of x */
static void four_times(float sum[TILE][PANEL], const OpCall *c, int64_t t, int64_t channel, const float *w)
{
    const int64_t nb = c->in[0].dim[0], width = c->in[0].dim[1], cin = c->in[1].dim[1], taps = c->in[1].dim[2];
    const Conv1dSpec *s = &c->u.conv1d;

    for (int64_t k = 0; k < taps; k++)
        for (int64_t i = 0; i < cin; i += CHUNK) {
            const float *x[TILE];

            for (int64_t r = 0; r < TILE; r++) {
                const int64_t at = (t + r) * s->stride - s->pad0 + k, edge = at < 0 ? 0 : min_i64(at, nb - 1);

                x[r] = at == edge || s->replicate ? (const float *)c->in[0].data + edge * width + channel + i : zeros;
            }
            panel_add(sum, x, w + (k * cin + i) * PANEL, min_i64(CHUNK, cin - i));
        }
}

/* Four output times of every channel of one group. */
static void group_tile(const OpCall *c, int64_t t, int64_t g)
{
    const int64_t nb = c->out.dim[0], cout = c->out.dim[1], cin = c->in[1].dim[1], taps = c->in[1].dim[2];
    const int64_t first = cout / c->u.conv1d.groups * g, end = cout / c->u.conv1d.groups * (g + 1);
    const float *bias = c->in[2].data;
    float *out = c->out.data;

    for (int64_t o = first / PANEL * PANEL; o < end; o += PANEL) {
        float sum[TILE][PANEL] = { { 0 } };

        four_times(sum, c, t, g * cin, (const float *)c->in[1].data + o * cin * taps);
        for (int64_t r = 0; r < min_i64(TILE, nb - t); r++)
            for (int64_t n = o < first ? first : o; n < min_i64(o + PANEL, end); n++)
                out[(t + r) * cout + n] = sum[r][n - o] + (bias ? bias[n] : 0);
    }
}

int avt_conv1d_act(Backend *be, const OpCall *c)
{
    const Cpu *cpu = be->priv;

    if (c->u.conv1d.act == ACT_NONE)
        return 0;
    return cpu->op[OP_ACT](be, &(OpCall){ .op = OP_ACT, .out = c->out, .in = { c->out }, .u.act = c->u.conv1d.act });
}

int avt_plain_conv1d(Backend *be, const OpCall *c)
{
    const int64_t groups = c->u.conv1d.groups, tiles = (c->out.dim[0] + TILE - 1) / TILE;

#pragma omp parallel for num_threads(be->threads) if (avt_numel(c->out) > 512)
    for (int64_t i = 0; i < tiles * groups; i++)
        if (!avt_cpu_given_up(be))
            group_tile(c, i / groups * TILE, i % groups);
    return avt_conv1d_act(be, c);
}
