/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * copy, act, add, mul, axpy, gate_add, rope in vectors, from f32 or bf16 to f32 or bf16. Slices of SLICE numbers, or rows, are a
 * thread's.
 */
#include "cpu/simd.h"

#ifdef LEVEL

enum { SLICE = 4096 };

static int copy(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_numel(c->out);
    const DType from = c->x.dtype, to = c->out.dtype;

    if (from == to || (from != DT_F32 && from != DT_BF16) || (to != DT_F32 && to != DT_BF16))
        return avt_plain_copy(be, c);
#pragma omp parallel for num_threads(be->threads) if (nb > be->grain)
    for (int64_t p = 0; p < nb; p += SLICE)
        for (int64_t i = p; i < min_i64(p + SLICE, nb); i += VN)
            store_typed(c->out.data, to, i, load_typed(c->x.data, from, i, nb - i), nb - i);
    return 0;
}

static int act(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_numel(c->out);
    const DType from = c->x.dtype, to = c->out.dtype;

#pragma omp parallel for num_threads(be->threads) if (nb > be->grain)
    for (int64_t p = 0; p < nb; p += SLICE)
        for (int64_t i = p; i < min_i64(p + SLICE, nb); i += VN)
            store_typed(c->out.data, to, i, v_act(c->u.act, load_typed(c->x.data, from, i, nb - i), to), nb - i);
    return 0;
}

/* Rows of a, each with the row of b that belongs to it: its own, or the only one. `product` is known where this is inlined. */
static inline __attribute__((always_inline)) int pairs(Backend *be, const OpCall *c, int product)
{
    const int64_t nb = avt_numel(c->out), width = avt_last_dim(c->pair.a), step = avt_numel(c->pair.b) == nb ? width : 0;
    const Tensor a = c->pair.a, b = c->pair.b, out = c->out;

#pragma omp parallel for num_threads(be->threads) if (nb > be->grain)
    for (int64_t r = 0; r < avt_rows_of(a); r++)
        for (int64_t i = 0; i < width; i += VN) {
            const V x = load_typed(a.data, a.dtype, r * width + i, width - i), y = load_typed(b.data, b.dtype, r * step + i, width - i);

            store_typed(out.data, out.dtype, r * width + i, product ? v_mul(x, y) : v_add(x, y), width - i);
        }
    return 0;
}

static int add(Backend *be, const OpCall *c)
{
    return pairs(be, c, 0);
}

static int mul(Backend *be, const OpCall *c)
{
    return pairs(be, c, 1);
}

static int axpy(Backend *be, const OpCall *c)
{
    const V alpha = v_set(c->u.axpy.alpha), beta = v_set(c->u.axpy.beta);
    const Tensor x = c->pair.a, y = c->pair.b, out = c->out;
    const int64_t nb = avt_numel(out);

#pragma omp parallel for num_threads(be->threads) if (nb > be->grain)
    for (int64_t p = 0; p < nb; p += SLICE)
        for (int64_t i = p; i < min_i64(p + SLICE, nb); i += VN)
            store_typed(out.data, out.dtype, i, v_fma(alpha, load_typed(x.data, x.dtype, i, nb - i),
                                                    v_mul(beta, load_typed(y.data, y.dtype, i, nb - i))), nb - i);
    return 0;
}

static int gate_add(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_rows_of(c->x), width = avt_last_dim(c->x);
    const Tensor x = c->gate_add.x, y = c->gate_add.y, out = c->out;
    const float *mask = c->gate_add.mask.data;

#pragma omp parallel for num_threads(be->threads) if (nb * width > be->grain)
    for (int64_t r = 0; r < nb; r++)
        for (int64_t i = r * width, end = i + width; i < end; i += VN)
            store_typed(out.data, out.dtype, i, v_fma(load_typed(y.data, y.dtype, i, end - i), v_set(mask[r]),
                                                    load_typed(x.data, x.dtype, i, end - i)), end - i);
    return 0;
}

/* Pairs turned by their token's angles, table [hd / 2][cos, sin]. */
static int rope(Backend *be, const OpCall *c)
{
    const int64_t heads = c->out.dim[0] * c->out.dim[1], hd = c->out.dim[2];
    const Tensor x = c->rope.x, out = c->out;

#pragma omp parallel for num_threads(be->threads) if (heads * hd > be->grain)
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < hd; i += VN) {
            const V a = load_typed(x.data, x.dtype, h * hd + i, hd - i);
            const V t = load_some((const float *)c->rope.table.data + h / out.dim[1] * hd + i, hd - i);

            store_typed(out.data, out.dtype, h * hd + i, v_addsub(v_mul(a, v_even(t)), v_mul(v_swap(a), v_odd(t))), hd - i);
        }
    return 0;
}

#endif
