/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * squares, norm_rope, channel_norm, layer_norm in vectors, from f32 or bf16 to either. Sums are kept in double precision as in plain C, so
 * that huge, tiny and far-off-centre rows come out the same; what is gained is width, and exp without a call.
 */
#include <math.h>

#include "cpu/simd.h"

#ifdef LEVEL

enum {
    QUICK = 24 * VN,                    // longer rows are summed in double precision only
    BATCH = 1024                          // numbers: shorter rows go several at a time
};

typedef struct Row {                    // nb numbers and their place in the result
    const void *x;
    void *out;
    DType from, to;                     // f32 or bf16
    int64_t nb;
} Row;

INLINE Row row_of(const OpCall *c, int64_t r, int64_t nb, DType from, DType to)
{
    return (Row){ (const char *)c->x.data + r * nb * typed_size(from), (char *)c->out.data + r * nb * typed_size(to),
                  from, to, nb };
}

INLINE V row_load(const Row *r, int64_t i)
{
    return load_typed(r->x, r->from, i, r->nb - i);
}

INLINE void row_store(const Row *r, int64_t i, V a)
{
    store_typed(r->out, r->to, i, a, r->nb - i);
}

INLINE double row_at(const Row *r, int64_t i)
{
    return r->from == DT_F32 ? ((const float *)r->x)[i] : avt_bf16_f32(((const uint16_t *)r->x)[i]);
}

INLINE double lane_sum(const Row *r)
{
    V2 s = v2_set(0);
    double sum;
    int64_t i = 0;

    for (; i + VN <= r->nb; i += VN)
        s = v2_add(s, v2_wide(row_load(r, i)));
    sum = v2_sum(s);
    for (; i < r->nb; i++)
        sum += row_at(r, i);
    return sum;
}

/* sum of (x - mean)^2 */
INLINE double lane_squares(const Row *r, double mean)
{
    V2 s = v2_set(0);
    double sum;
    int64_t i = 0;

    for (; i + VN <= r->nb; i += VN) {
        const V2 d = v2_sub(v2_wide(row_load(r, i)), v2_set(mean));

        s = v2_add(s, v2_mul(d, d));
    }
    sum = v2_sum(s);
    for (; i < r->nb; i++)
        sum += (row_at(r, i) - mean) * (row_at(r, i) - mean);
    return sum;
}

/* x f w of a vector from number i on */
INLINE V scaled(const Row *r, int64_t i, const float *w, double f)
{
    return v_mul(v2_narrow(v2_mul(v2_wide(row_load(r, i)), v2_set(f))), load_some(w + i, r->nb - i));
}

/* act((x - mean) f w + b); w and b may be NULL. plus: 1 when w is a scale that is added to one */
INLINE void row_affine(const Row *r, const float *w, const float *b, float eps, float plus, Act act)
{
    const double mean = lane_sum(r) / (double)r->nb, f = 1 / sqrt(lane_squares(r, mean) / (double)r->nb + eps);

    for (int64_t i = 0; i < r->nb; i += VN) {
        V a = v2_narrow(v2_mul(v2_sub(v2_wide(row_load(r, i)), v2_set(mean)), v2_set(f)));

        if (w)
            a = v_mul(a, v_add(v_set(plus), load_some(w + i, r->nb - i)));
        if (b)
            a = v_add(a, load_some(b + i, r->nb - i));
        row_store(r, i, v_act(act, a, r->to));
    }
}

/* A row's heads: normed, then pairs turned by its token's angles, table [hd / 2][cos, sin]. */
INLINE void row_turn(const Row *r, const float *w, double f, const float *table, int64_t hd)
{
    for (int64_t h = 0; h < r->nb; h += hd)
        for (int64_t i = 0; i < hd; i += VN) {
            const Row head = { r->x, r->out, r->from, r->to, h + hd };
            const V a = scaled(&head, h + i, w, f), t = load_some(table + i, hd - i);

            row_store(&head, h + i, v_addsub(v_mul(a, v_even(t)), v_mul(v_swap(a), v_odd(t))));
        }
}

INLINE void squares_rows(const OpCall *c, int64_t first, int64_t nb, DType from, DType to)
{
    (void)to;                           // sums are f32 in every precision
    for (int64_t i = first; i < first + nb; i++) {
        const Row r = row_of(c, i, avt_last_dim(c->x), from, from);

        ((float *)c->out.data)[i] = (float)lane_squares(&r, 0);
    }
}

INLINE void norm_rope_rows(const OpCall *c, int64_t first, int64_t nb, DType from, DType to)
{
    const int64_t width = avt_last_dim(c->x), hd = 2 * c->norm_rope.table.dim[1];
    const float *squares = c->norm_rope.squares.data, *table = c->norm_rope.table.data, *w = c->norm_rope.w.data;

    for (int64_t i = first; i < first + nb; i++) {
        const Row r = row_of(c, i, width, from, to);
        const double sum = squares ? squares[i] : lane_squares(&r, 0);
        const double f = 1 / sqrt(sum / (double)c->u.norm.width + c->u.norm.eps);

        if (table)
            row_turn(&r, w, f, table + i * hd, hd);
        else
            for (int64_t k = 0; k < r.nb; k += VN)
                row_store(&r, k, scaled(&r, k, w, f));
    }
}

/* sums of x^2 in f32, to be added up */
INLINE V quick_squares(const Row *r)
{
    V s = v_set(0);

    for (int64_t i = 0; i < r->nb; i += VN) {
        const V a = row_load(r, i);

        s = v_fma(a, a, s);
    }
    return s;
}

/* factor[k] = root / |x| of rows first .. first + nb - 1, nb <= VN, in f32; 0 where squares or factor leave its range */
INLINE void quick_factors(const OpCall *c, int64_t first, int64_t nb, DType from, DType to, float factor[VN])
{
    const int64_t width = avt_last_dim(c->x);
    const V root = v_set((float)sqrt((double)width));
    V square[VN], sum;

#pragma GCC unroll 16
    for (int k = 0; k < VN; k++) {
        const Row r = row_of(c, first + min_i64(k, nb - 1), width, from, to);

        square[k] = width <= QUICK ? quick_squares(&r) : v_set(0);
    }
    sum = v_sums(square);
    v_store(factor, v_within(sum, 1e-20f, 1e20f, v_div(root, v_root(sum))));
}

INLINE void channel_row(const Row *r, const float *w, Act act)
{
    const double size = sqrt(lane_squares(r, 0)), f = sqrt((double)r->nb) / (size > 1e-12 ? size : 1e-12);

    for (int64_t i = 0; i < r->nb; i += VN)
        row_store(r, i, v_act(act, scaled(r, i, w, f), r->to));
}

INLINE void channel_row_quick(const Row *r, const float *w, float f, Act act)
{
    for (int64_t i = 0; i < r->nb; i += VN)
        row_store(r, i, v_act(act, v_mul(v_mul(row_load(r, i), v_set(f)), load_some(w + i, r->nb - i)), r->to));
}

/* VN rows at a time, so that their roots and divisions are one. */
INLINE void channel_norm_rows(const OpCall *c, int64_t first, int64_t nb, DType from, DType to)
{
    const int64_t width = avt_last_dim(c->x);
    const float *w = c->norm.w.data;
    float factor[VN];

    for (int64_t i = 0; i < nb; i++) {
        const Row r = row_of(c, first + i, width, from, to);

        if (i % VN == 0)
            quick_factors(c, first + i, min_i64(VN, nb - i), from, to, factor);
        if (factor[i % VN] > 0)
            channel_row_quick(&r, w, factor[i % VN], c->u.norm.act);
        else
            channel_row(&r, w, c->u.norm.act);
    }
}

INLINE void layer_norm_rows(const OpCall *c, int64_t first, int64_t nb, DType from, DType to)
{
    const int64_t width = avt_last_dim(c->x), run = avt_norm_run(c);
    const float *w = c->norm.w.data, *b = c->norm.b.data;

    for (int64_t i = first; i < first + nb; i++) {
        const int64_t at = i / run * width;
        const Row r = row_of(c, i, width, from, to);

        row_affine(&r, w ? w + at : NULL, b ? b + at : NULL, c->u.norm.eps, (float)c->u.norm.plus, c->u.norm.act);
    }
}

/* NAME_any(): NAME_rows() with types that the compiler knows. */
#define ANY_TYPE(name)                                                          \
    static void name##_any(const OpCall *c, int64_t first, int64_t nb)          \
    {                                                                           \
        if (c->x.dtype == DT_F32 && c->out.dtype == DT_F32)                     \
            name##_rows(c, first, nb, DT_F32, DT_F32);                          \
        else if (c->x.dtype == DT_F32)                                          \
            name##_rows(c, first, nb, DT_F32, DT_BF16);                         \
        else if (c->out.dtype == DT_F32)                                        \
            name##_rows(c, first, nb, DT_BF16, DT_F32);                         \
        else                                                                    \
            name##_rows(c, first, nb, DT_BF16, DT_BF16);                        \
    }
ANY_TYPE(squares)
ANY_TYPE(norm_rope)
ANY_TYPE(channel_norm)
ANY_TYPE(layer_norm)

static int by_rows(Backend *be, const OpCall *c, void (*rows)(const OpCall *c, int64_t first, int64_t nb))
{
    const int64_t nb = avt_rows_of(c->x), width = avt_last_dim(c->x), step = width < BATCH ? BATCH / (width + 1) + 1 : 1;

#pragma omp parallel for num_threads(be->threads) if (nb * width > be->grain)
    for (int64_t i = 0; i < nb; i += step)
        rows(c, i, min_i64(step, nb - i));
    return 0;
}

static int squares(Backend *be, const OpCall *c)
{
    return by_rows(be, c, squares_any);
}

static int norm_rope(Backend *be, const OpCall *c)
{
    return by_rows(be, c, norm_rope_any);
}

static int channel_norm(Backend *be, const OpCall *c)
{
    return by_rows(be, c, channel_norm_any);
}

static int layer_norm(Backend *be, const OpCall *c)
{
    return by_rows(be, c, layer_norm_any);
}

#endif
