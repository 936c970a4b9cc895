/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * act, norm_rope, channel_norm, layer_norm in vectors. Sums are kept in double precision as in plain C, so that
 * huge, tiny and far-off-centre rows come out the same; what is gained is width, and exp without a call.
 */
#include <math.h>

#include "cpu/simd.h"

#ifdef LEVEL

enum { QUICK = 24 * VN };               // longer rows are summed in double precision only

INLINE double lane_sum(const float *x, int64_t nb)
{
    V2 s = v2_set(0);
    double sum;
    int64_t i = 0;

    for (; i + VN <= nb; i += VN)
        s = v2_add(s, v2_wide(v_load(x + i)));
    sum = v2_sum(s);
    for (; i < nb; i++)
        sum += x[i];
    return sum;
}

INLINE V2 squares(const float *x, double mean)
{
    const V2 d = v2_sub(v2_wide(v_load(x)), v2_set(mean));

    return v2_mul(d, d);
}

/* sum of (x - mean)^2 */
INLINE double lane_squares(const float *x, int64_t nb, double mean)
{
    V2 s = v2_set(0);
    double sum;
    int64_t i = 0;

    for (; i + VN <= nb; i += VN)
        s = v2_add(s, squares(x + i, mean));
    sum = v2_sum(s);
    for (; i < nb; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

/* act(x f w) for a row */
INLINE void row_scale(float *out, const float *x, const float *w, int64_t nb, double f, Act act)
{
    for (int64_t i = 0; i < nb; i += VN) {
        const V a = v2_narrow(v2_mul(v2_wide(load_some(x + i, nb - i)), v2_set(f)));

        store_some(out + i, v_act(act, v_mul(a, load_some(w + i, nb - i))), nb - i);
    }
}

/* act((x - mean) f w + b) for a row; w and b may be NULL. plus: 1 when w is a scale that is added to one */
INLINE void row_affine(float *out, const float *x, const float *w, const float *b, int64_t nb, float eps, float plus, Act act)
{
    const double mean = lane_sum(x, nb) / (double)nb, f = 1 / sqrt(lane_squares(x, nb, mean) / (double)nb + eps);

    for (int64_t i = 0; i < nb; i += VN) {
        V a = v2_narrow(v2_mul(v2_sub(v2_wide(load_some(x + i, nb - i)), v2_set(mean)), v2_set(f)));

        if (w)
            a = v_mul(a, v_add(v_set(plus), load_some(w + i, nb - i)));
        if (b)
            a = v_add(a, load_some(b + i, nb - i));
        store_some(out + i, v_act(act, a), nb - i);
    }
}

/* Pairs of a row's heads turned by its token's angles, table [hd / 2][cos, sin], a vector or what is left of it at a time. */
INLINE void row_turn(float *x, int64_t nb, const float *table, int64_t hd)
{
    for (int64_t h = 0; h < nb; h += hd)
        for (int64_t i = 0; i < hd; i += VN) {
            const V a = load_some(x + h + i, hd - i), t = load_some(table + i, hd - i);

            store_some(x + h + i, v_addsub(v_mul(a, v_even(t)), v_mul(v_swap(a), v_odd(t))), hd - i);
        }
}

static int norm_rope(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->x), width = avt_last_dim(c->x), hd = 2 * c->norm_rope.table.dim[1];
    const float *squares = c->norm_rope.squares.data, *table = c->norm_rope.table.data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > 4 * PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++) {
        const float *x = (const float *)c->x.data + r * width;
        float *out = (float *)c->out.data + r * width;
        const double sum = squares ? squares[r] : lane_squares(x, width, 0);

        row_scale(out, x, c->norm_rope.w.data, width, 1 / sqrt(sum / (double)c->u.norm.width + c->u.norm.eps), ACT_NONE);
        if (table)
            row_turn(out, width, table + r * hd, hd);
    }
    return 0;
}

/* sum of x^2 in f32 */
INLINE float quick_squares(const float *x, int64_t nb)
{
    V s = v_set(0);

    for (int64_t i = 0; i < nb; i += VN) {
        const V a = load_some(x + i, nb - i);
        s = v_fma(a, a, s);
    }
    return v_sum(s);
}

INLINE void channel_row(float *out, const float *x, const float *w, int64_t nb, double root, Act act)
{
    const float quick = nb <= QUICK ? quick_squares(x, nb) : 0;
    double size;

    if (quick > 1e-20f && quick < 1e20f) {                          // neither squares nor factor leave the range of f32
        const V f = v_set((float)root / sqrtf(quick));

        for (int64_t i = 0; i < nb; i += VN)
            store_some(out + i, v_act(act, v_mul(v_mul(load_some(x + i, nb - i), f), load_some(w + i, nb - i))), nb - i);
        return;
    }
    size = sqrt(lane_squares(x, nb, 0));
    row_scale(out, x, w, nb, root / (size > 1e-12 ? size : 1e-12), act);
}

static int channel_norm(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->in[0]), width = avt_last_dim(c->in[0]);
    const double root = sqrt((double)width);

#pragma omp parallel for num_threads(be->threads) if (nb * width > 4 * PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++)
        channel_row((float *)c->out.data + r * width, (const float *)c->in[0].data + r * width, c->in[1].data, width, root,
                    c->u.norm.act);
    return 0;
}

static int layer_norm(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->x), width = avt_last_dim(c->x), run = avt_norm_run(c);
    const float *w = c->norm.w.data, *b = c->norm.b.data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > 4 * PARALLEL_MIN)
    for (int64_t r = 0; r < nb; r++) {
        const int64_t at = r / run * width;

        row_affine((float *)c->out.data + r * width, (const float *)c->x.data + r * width, w ? w + at : NULL, b ? b + at : NULL, width,
                   c->u.norm.eps, (float)c->u.norm.plus, c->u.norm.act);
    }
    return 0;
}

static int act(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_numel(c->out);
    const float *x = c->in[0].data;
    float *out = c->out.data;

#pragma omp parallel for num_threads(be->threads) if (nb > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i += VN)
        store_some(out + i, v_act(c->u.act, load_some(x + i, nb - i)), nb - i);
    return 0;
}

#endif
