/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rotary positions: the table of cos and sin, and the rotation of neighbouring pairs.
 *
 *   pairs of a head of hd = 2 P numbers:   0 .. PF-1 frame | PF .. PF+PH-1 row | PF+PH .. P-1 column,  PH = PW = P / 3
 *   angle = position * 10000^(-i / P_axis), i counted within the axis, in f64
 *
 * Positions of an axis: cnt values spread evenly over start .. start + size - 1, as NumPy's linspace rounds them (the step
 * first, then i * step + start, the last one exactly the end), truncated to integers. A negative start frame counts down from
 * -start and turns the frame pairs backwards; rows and columns always turn forwards.
 */
#include <math.h>

#include "base/half.h"
#include "cpu/plain.h"

static double position(int64_t start, int64_t stop, int cnt, int i)
{
    double step;

    if (cnt < 2)
        return (double)start;
    if (i == cnt - 1)
        return (double)stop;
    step = (double)(stop - start) / (cnt - 1);
    return trunc(i * step + (double)start);
}

/* Position of index i along axis 0 frame, 1 row, 2 column; the sign is the direction of turning. */
static double axis_position(const RopeGroup *g, int axis, int i)
{
    if (axis == 1)
        return position(0, g->h_size - 1, g->h_cnt, i);
    if (axis == 2)
        return position(0, g->w_size - 1, g->w_cnt, i);
    if (g->f_start < 0)
        return -position(-g->f_start, -g->f_start - g->f_size + 1, g->f_cnt, i);
    return position(g->f_start, g->f_start + g->f_size - 1, g->f_cnt, i);
}

static float half_or_float(double v, int half)
{
    return half ? avt_f16_f32(avt_f32_f16((float)v)) : (float)v;
}

/* One pair of all tokens of a group: cos and sin once per position, written wherever it occurs. out: [tokens, pairs, 2],
 * at the pair. */
static void write_pair(float *out, int64_t stride, const RopeGroup *g, int axis, double freq, int half)
{
    const int cnt[3] = { g->f_cnt, g->h_cnt, g->w_cnt };
    const int64_t inner = axis == 0 ? (int64_t)g->h_cnt * g->w_cnt : axis == 1 ? g->w_cnt : 1;
    const int64_t outer = axis == 0 ? 1 : axis == 1 ? g->f_cnt : (int64_t)g->f_cnt * g->h_cnt;

    for (int i = 0; i < cnt[axis]; i++) {
        const double angle = axis_position(g, axis, i) * freq;
        const float c = half_or_float(cos(angle), half), s = half_or_float(sin(angle), half);

        for (int64_t a = 0; a < outer; a++)
            for (int64_t b = 0; b < inner; b++) {
                float *p = out + ((a * cnt[axis] + i) * inner + b) * stride;

                p[0] = c;
                p[1] = s;
            }
    }
}

int avt_plain_rope_table(Backend *be, const OpCall *c)
{
    const RopeGrid *grid = &c->u.rope;
    const int64_t pairs = c->out.dim[1], third = pairs / 3;
    const int64_t nb_of[3] = { pairs - 2 * third, third, third };

#pragma omp parallel for num_threads(be->threads) if (c->out.dim[0] * pairs > PARALLEL_MIN)
    for (int64_t p = 0; p < pairs; p++) {
        const int axis = p < nb_of[0] ? 0 : p < nb_of[0] + third ? 1 : 2;
        const int64_t i = p - (axis > 0 ? nb_of[0] : 0) - (axis > 1 ? third : 0);
        const double freq = 1 / pow(10000, (double)i / (double)nb_of[axis]);
        float *out = (float *)c->out.data + 2 * p;

        for (int g = 0; g < grid->nb_groups; g++) {
            const RopeGroup *group = &grid->group[g];

            write_pair(out, 2 * pairs, group, axis, freq, grid->half);
            out += 2 * pairs * group->f_cnt * group->h_cnt * group->w_cnt;
        }
    }
    return 0;
}

int avt_plain_rope(Backend *be, const OpCall *c)
{
    const int64_t nb = c->out.dim[0], heads = c->out.dim[1], hd = c->out.dim[2];

#pragma omp parallel for num_threads(be->threads) if (nb * heads * hd > PARALLEL_MIN)
    for (int64_t n = 0; n < nb; n++) {
        const float *t = (const float *)c->in[1].data + n * hd;

        for (int64_t h = 0; h < heads; h++) {
            const float *x = (const float *)c->in[0].data + (n * heads + h) * hd;
            float *out = (float *)c->out.data + (n * heads + h) * hd;

            for (int64_t i = 0; i < hd; i += 2) {
                const float a = x[i], b = x[i + 1];

                out[i] = a * t[i] - b * t[i + 1];
                out[i + 1] = a * t[i + 1] + b * t[i];
            }
        }
    }
    return 0;
}
