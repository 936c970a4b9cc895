/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * quantize to i8 in vectors, where groups have 256, 64 or 16 numbers: a group is 16, 4 or 1 vectors, and H4 x H4 x H4 x H4 turns it without
 * leaving them. The first two steps are between vectors, the third between their quarters, the last within these; a smaller group has no
 * first ones. What is added to what is as in quantize.h, so that codes and scales have the same bits.
 */
#include "cpu/simd.h"
#include "quantize.h"

#ifdef __AVX512F__

enum { IN_GROUP = CODE_GROUP / VN, TOGETHER = 4096 };               // vectors of the largest group; numbers of short rows that go together

INLINE void turn_four(V *v, int step)                               // H4 of four vectors
{
    const V a = v_add(v[0], v[step]), b = v_sub(v[0], v[step]), c = v_add(v[2 * step], v[3 * step]), d = v_sub(v[2 * step], v[3 * step]);
    const V half = v_set(0.5f);

    v[0] = v_mul(half, v_add(a, d));
    v[step] = v_mul(half, v_sub(a, d));
    v[2 * step] = v_mul(half, v_add(b, c));
    v[3 * step] = v_mul(half, v_sub(c, b));
}

INLINE V signs(__mmask16 minus)                                     // 1, or -1: a product with it is exact, so that a sum is one instruction
{
    return _mm512_mask_blend_ps(minus, v_set(1), v_set(-1));
}

INLINE V turn_quarters(V v)                                         // H4 of a vector's quarters
{
    const V sign = signs(0xf0f0), swapped = _mm512_shuffle_f32x4(v, v, 0xb1), abcd = v_fma(v, sign, swapped);
    const V aacc = _mm512_shuffle_f32x4(abcd, abcd, 0xa0), ddbb = _mm512_shuffle_f32x4(abcd, abcd, 0x5f);

    return v_mul(v_set(0.5f), v_fma(ddbb, sign, aacc));
}

INLINE V turn_within(V v)                                           // H4 of each quarter's numbers
{
    const V sign = signs(0xaaaa), swapped = v_swap(v), abcd = v_fma(v, sign, swapped);
    const V aacc = v_even(abcd), ddbb = _mm512_permute_ps(abcd, 0x5f);

    return v_mul(v_set(0.5f), v_fma(ddbb, sign, aacc));
}

/* to = a group of nb vectors, turned; its largest number into top, NaN into bad where one is none or infinite */
INLINE void turn_group(float *to, const void *x, DType type, int64_t at, V *top, V *bad, const int nb)
{
    V v[IN_GROUP];

    for (int i = 0; i < nb; i++)
        v[i] = load_typed(x, type, at + i * VN, VN);
    for (int i = 0; i < 4 && nb == IN_GROUP; i++)
        turn_four(v + i, 4);
    for (int i = 0; i + 4 <= nb; i += 4)
        turn_four(v + i, 1);
    for (int i = 0; i < nb; i++) {
        v[i] = turn_within(turn_quarters(v[i]));
        *top = v_max(v_abs(v[i]), *top);
        *bad = v_fma(v[i], v_set(0), *bad);
        v_store(to + i * VN, v[i]);
    }
}

INLINE void quantize_row(const OpCall *c, float *row, int64_t r, int64_t k, const int nb)
{
    int8_t *codes = (int8_t *)c->out.data + r * k;
    V tops = v_set(0), bad = v_set(0), inverse;
    float top;

    for (int64_t i = 0; i < k; i += nb * VN)
        turn_group(row + i, c->x.data, c->x.dtype, r * k + i, &tops, &bad, nb);
    top = v_top(tops);
    inverse = v_set(top > 1e-30f ? 127 / top : 0);
    for (int64_t i = 0; i < k; i += VN) {
        const V code = v_add(v_mul(v_load(row + i), inverse), v_set(0x1.8p23f));    // the low byte is the nearest integer

        _mm_storeu_si128((__m128i *)(codes + i), _mm512_cvtepi32_epi8(_mm512_castps_si512(code)));
    }
    ((float *)c->out.scale)[r] = (top > 1e-30f ? top / 127 : 1) + v_sum(bad);
}

static void quantize_rows(const OpCall *c, float *row, int64_t r, int64_t end, int64_t k)
{
    const int64_t nb = avt_code_group(DT_I8, k) / VN;

    for (; r < end; r++)
        if (nb == IN_GROUP)
            quantize_row(c, row, r, k, IN_GROUP);
        else if (nb == 4)
            quantize_row(c, row, r, k, 4);
        else
            quantize_row(c, row, r, k, 1);
}

static int quantize(Backend *be, const OpCall *c)
{
    const int64_t rows = avt_rows_of(c->out), k = avt_last_dim(c->out), step = k < TOGETHER ? TOGETHER / k : 1;
    float *work;

    if (c->out.dtype != DT_I8 || avt_code_group(DT_I8, k) < VN)
        return avt_plain_quantize(be, c);
    work = avt_cpu_work(be, (size_t)k * (size_t)be->threads * sizeof(*work));
    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel for num_threads(be->threads) if (rows * k > be->grain)
    for (int64_t r = 0; r < rows; r += step)
        quantize_rows(c, work + avt_cpu_thread() * k, r, min_i64(rows, r + step), k);
    return 0;
}

#endif
