/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The vectors that the fast bodies (*.inc.h) are written in: V is 16 floats with AVX-512, 8 with AVX2. A body is compiled once
 * per instruction set, by level_avx2.c, level_avx512.c and, for what rounds to bf16, level_amx.c; everything here is static, so they
 * never meet.
 *
 * exp, erfc: polynomials fitted here (least maximum error over the reduced range), each within 2 units in the last place.
 */
#ifndef AVT_CPU_SIMD_H
#define AVT_CPU_SIMD_H

#include <string.h>

#include "base/half.h"
#include "cpu/plain.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)

typedef __m512 V;
typedef struct V2 { __m512d lo, hi; } V2;                           // the same lanes in double precision
enum { VN = 16 };
#ifdef __AVX512BF16__
#define LEVEL "amx"
#else
#define LEVEL "avx512"
#endif

INLINE V v_load(const float *p)              { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, V a)           { _mm512_storeu_ps(p, a); }
INLINE __mmask16 v_mask(int64_t nb)          { return (__mmask16)((1u << nb) - 1); }
INLINE V v_load_part(const float *p, int64_t nb)           { return _mm512_maskz_loadu_ps(v_mask(nb), p); }
INLINE void v_store_part(float *p, V a, int64_t nb)        { _mm512_mask_storeu_ps(p, v_mask(nb), a); }
INLINE V v_first(V a, int64_t nb, V b)       { return _mm512_mask_blend_ps(v_mask(nb), b, a); }
INLINE V v_set(float a)                      { return _mm512_set1_ps(a); }

INLINE V v_panels(const float *a, const float *b)                   // 8 floats from each
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}

INLINE V v_add(V a, V b)                     { return _mm512_add_ps(a, b); }
INLINE V v_sub(V a, V b)                     { return _mm512_sub_ps(a, b); }
INLINE V v_mul(V a, V b)                     { return _mm512_mul_ps(a, b); }
INLINE V v_div(V a, V b)                     { return _mm512_div_ps(a, b); }
INLINE V v_part(V a)                         { return _mm512_rcp14_ps(a); }                // 1 / a within 2^-11
INLINE V v_root(V a)                         { return _mm512_sqrt_ps(a); }
INLINE V v_fma(V a, V b, V c)                { return _mm512_fmadd_ps(a, b, c); }          // a b + c
INLINE V v_fnma(V a, V b, V c)               { return _mm512_fnmadd_ps(a, b, c); }         // c - a b
INLINE V v_max(V a, V b)                     { return _mm512_max_ps(a, b); }               // b when one is NaN
INLINE V v_min(V a, V b)                     { return _mm512_min_ps(a, b); }
INLINE V v_abs(V a)                          { return _mm512_abs_ps(a); }
INLINE V v_round(V a)                        { return _mm512_roundscale_ps(a, 0); }
INLINE V v_scale2(V a, V n)                  { return _mm512_scalef_ps(a, n); }            // a 2^floor(n)
INLINE V v_fraction(V a)                     { return _mm512_reduce_ps(a, 9); }            // a - floor(a)
INLINE V v_even(V a)                         { return _mm512_moveldup_ps(a); }             // 0 0 2 2 4 4 ...
INLINE V v_odd(V a)                          { return _mm512_movehdup_ps(a); }             // 1 1 3 3 5 5 ...
INLINE V v_swap(V a)                         { return _mm512_permute_ps(a, 0xb1); }        // 1 0 3 2 5 4 ...
INLINE V v_addsub(V a, V b)                  { return _mm512_mask_sub_ps(_mm512_add_ps(a, b), 0x5555, a, b); }     // even: a - b
INLINE float v_sum(V a)                      { return _mm512_reduce_add_ps(a); }
INLINE float v_top(V a)                      { return _mm512_reduce_max_ps(a); }
INLINE V v_quarters(V a, V b)                                       // of each quarter of a, of b: 0 + 1, 2 + 3
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

INLINE V v_sums_of_four(const V *r)                                 // in each quarter: a number for each of the four
{
    const V a = v_add(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
    const V b = v_add(_mm512_unpacklo_ps(r[2], r[3]), _mm512_unpackhi_ps(r[2], r[3]));
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);

    return v_add(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}

INLINE V v_sums(const V r[VN])                                      // lane k: v_sum(r[k])
{
    return v_quarters(v_quarters(v_sums_of_four(r), v_sums_of_four(r + 4)), v_quarters(v_sums_of_four(r + 8), v_sums_of_four(r + 12)));
}

INLINE V v_within(V a, float low, float high, V b)                  // b where a lies between, else 0
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, v_set(low), _CMP_GT_OQ) & _mm512_cmp_ps_mask(a, v_set(high), _CMP_LT_OQ), b);
}

INLINE int v_equal(V a, V b)                 { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) == 0xffff; }

/* bf16: the upper half of an f32. Rounding is to nearest, ties to even; NaN stays NaN (avt_f32_bf16). */
INLINE V v_wide16(__m256i a)                 { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(a), 16)); }
INLINE V v_load16(const uint16_t *p)         { return v_wide16(_mm256_loadu_si256((const __m256i *)p)); }
INLINE V v_load16_part(const uint16_t *p, int64_t nb)      { return v_wide16(_mm256_maskz_loadu_epi16(v_mask(nb), p)); }

#ifdef __AVX512BF16__
INLINE __m256i v_narrow16(V a)               { return (__m256i)_mm512_cvtneps_pbh(a); }     // a subnormal becomes zero
#else
INLINE __m256i v_narrow16(V a)
{
    const __m512i u = _mm512_castps_si512(a), high = _mm512_srli_epi32(u, 16);
    const __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(high, _mm512_set1_epi32(1))));
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);

    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), nan, high, _mm512_set1_epi32(0x40)));
}
#endif

INLINE void v_store16(uint16_t *p, V a)      { _mm256_storeu_si256((__m256i *)p, v_narrow16(a)); }
INLINE void v_store16_part(uint16_t *p, V a, int64_t nb)   { _mm256_mask_storeu_epi16(p, v_mask(nb), v_narrow16(a)); }

INLINE V2 v2_set(double a)                   { return (V2){ _mm512_set1_pd(a), _mm512_set1_pd(a) }; }
INLINE V2 v2_add(V2 a, V2 b)                 { return (V2){ _mm512_add_pd(a.lo, b.lo), _mm512_add_pd(a.hi, b.hi) }; }
INLINE V2 v2_sub(V2 a, V2 b)                 { return (V2){ _mm512_sub_pd(a.lo, b.lo), _mm512_sub_pd(a.hi, b.hi) }; }
INLINE V2 v2_mul(V2 a, V2 b)                 { return (V2){ _mm512_mul_pd(a.lo, b.lo), _mm512_mul_pd(a.hi, b.hi) }; }
INLINE double v2_sum(V2 a)                   { return _mm512_reduce_add_pd(_mm512_add_pd(a.lo, a.hi)); }

INLINE V2 v2_wide(V a)
{
    return (V2){ _mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)) };
}

INLINE V v2_narrow(V2 a)
{
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(a.lo)), _mm512_cvtpd_ps(a.hi), 1);
}

#else

typedef __m256 V;
typedef struct V2 { __m256d lo, hi; } V2;
enum { VN = 8 };
#define LEVEL "avx2"

INLINE __m256i v_mask(int64_t nb)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)nb), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE V v_load(const float *p)              { return _mm256_loadu_ps(p); }
INLINE void v_store(float *p, V a)           { _mm256_storeu_ps(p, a); }
INLINE V v_load_part(const float *p, int64_t nb)           { return _mm256_maskload_ps(p, v_mask(nb)); }
INLINE void v_store_part(float *p, V a, int64_t nb)        { _mm256_maskstore_ps(p, v_mask(nb), a); }
INLINE V v_first(V a, int64_t nb, V b)       { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(v_mask(nb))); }
INLINE V v_set(float a)                      { return _mm256_set1_ps(a); }
INLINE V v_panels(const float *a, const float *b)          { (void)b; return v_load(a); }
INLINE V v_add(V a, V b)                     { return _mm256_add_ps(a, b); }
INLINE V v_sub(V a, V b)                     { return _mm256_sub_ps(a, b); }
INLINE V v_mul(V a, V b)                     { return _mm256_mul_ps(a, b); }
INLINE V v_div(V a, V b)                     { return _mm256_div_ps(a, b); }
INLINE V v_part(V a)                         { return _mm256_rcp_ps(a); }
INLINE V v_root(V a)                         { return _mm256_sqrt_ps(a); }
INLINE V v_fma(V a, V b, V c)                { return _mm256_fmadd_ps(a, b, c); }
INLINE V v_fnma(V a, V b, V c)               { return _mm256_fnmadd_ps(a, b, c); }
INLINE V v_max(V a, V b)                     { return _mm256_max_ps(a, b); }
INLINE V v_min(V a, V b)                     { return _mm256_min_ps(a, b); }
INLINE V v_abs(V a)                          { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE V v_round(V a)                        { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE V v_even(V a)                         { return _mm256_moveldup_ps(a); }
INLINE V v_odd(V a)                          { return _mm256_movehdup_ps(a); }
INLINE V v_swap(V a)                         { return _mm256_permute_ps(a, 0xb1); }
INLINE V v_addsub(V a, V b)                  { return _mm256_addsub_ps(a, b); }
INLINE V v_within(V a, float low, float high, V b)
{
    return _mm256_and_ps(_mm256_and_ps(_mm256_cmp_ps(a, v_set(low), _CMP_GT_OQ), _mm256_cmp_ps(a, v_set(high), _CMP_LT_OQ)), b);
}

INLINE int v_equal(V a, V b)                 { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)) == 0xff; }

INLINE V v_fraction(V a)                     { return _mm256_sub_ps(a, _mm256_floor_ps(a)); }

INLINE V v_scale2(V a, V n)                                         // in two steps: 2^n itself may overflow or be subnormal
{
    const __m256i e = _mm256_cvtps_epi32(_mm256_floor_ps(n)), h = _mm256_srai_epi32(e, 1), bias = _mm256_set1_epi32(127);
    const V p = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(h, bias), 23));
    const V q = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(e, h), bias), 23));

    return v_mul(v_mul(a, p), q);
}

INLINE float v_sum(V a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

INLINE V v_sums_of_four(const V *r)
{
    return _mm256_hadd_ps(_mm256_hadd_ps(r[0], r[1]), _mm256_hadd_ps(r[2], r[3]));
}

INLINE V v_sums(const V r[VN])
{
    const V a = v_sums_of_four(r), b = v_sums_of_four(r + 4);

    return v_add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

INLINE float v_top(V a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));

    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

INLINE V v_load16(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

INLINE __m128i v_narrow16(V a)
{
    const __m256i u = _mm256_castps_si256(a), high = _mm256_srli_epi32(u, 16);
    const __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(high, _mm256_set1_epi32(1))));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    const __m256i r = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);

    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}

INLINE void v_store16(uint16_t *p, V a)      { _mm_storeu_si128((__m128i *)p, v_narrow16(a)); }

INLINE V v_load16_part(const uint16_t *p, int64_t nb)
{
    uint16_t some[8] = { 0 };

    memcpy(some, p, (size_t)nb * sizeof(*p));
    return v_load16(some);
}

INLINE void v_store16_part(uint16_t *p, V a, int64_t nb)
{
    uint16_t some[8];

    v_store16(some, a);
    memcpy(p, some, (size_t)nb * sizeof(*p));
}

INLINE V2 v2_set(double a)                   { return (V2){ _mm256_set1_pd(a), _mm256_set1_pd(a) }; }
INLINE V2 v2_add(V2 a, V2 b)                 { return (V2){ _mm256_add_pd(a.lo, b.lo), _mm256_add_pd(a.hi, b.hi) }; }
INLINE V2 v2_sub(V2 a, V2 b)                 { return (V2){ _mm256_sub_pd(a.lo, b.lo), _mm256_sub_pd(a.hi, b.hi) }; }
INLINE V2 v2_mul(V2 a, V2 b)                 { return (V2){ _mm256_mul_pd(a.lo, b.lo), _mm256_mul_pd(a.hi, b.hi) }; }

INLINE double v2_sum(V2 a)
{
    const __m256d s = _mm256_add_pd(a.lo, a.hi);
    const __m128d h = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));

    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

INLINE V2 v2_wide(V a)
{
    return (V2){ _mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)) };
}

INLINE V v2_narrow(V2 a)
{
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(a.lo)), _mm256_cvtpd_ps(a.hi), 1);
}

#endif

/* A vector, or the nb elements that are left of it */
INLINE V load_some(const float *x, int64_t nb)
{
    return nb >= VN ? v_load(x) : v_load_part(x, nb);
}

INLINE void store_some(float *x, V a, int64_t nb)
{
    if (nb >= VN)
        v_store(x, a);
    else
        v_store_part(x, a, nb);
}

INLINE int64_t typed_size(DType type)
{
    return type == DT_F32 ? 4 : 2;
}

/* The same of activations, f32 or bf16, from number i on. The type does not change in a loop: gcc makes a loop for each. */
INLINE V load_typed(const void *x, DType type, int64_t i, int64_t nb)
{
    if (type == DT_F32)
        return load_some((const float *)x + i, nb);
    return nb >= VN ? v_load16((const uint16_t *)x + i) : v_load16_part((const uint16_t *)x + i, nb);
}

INLINE void store_typed(void *x, DType type, int64_t i, V a, int64_t nb)
{
    if (type == DT_F32)
        store_some((float *)x + i, a, nb);
    else if (nb >= VN)
        v_store16((uint16_t *)x + i, a);
    else
        v_store16_part((uint16_t *)x + i, a, nb);
}

/* e^x; NaN stays NaN. x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r). */
INLINE V v_exp(V x)
{
    const V a = v_min(v_set(89), v_max(v_set(-104), x));            // beyond: infinity, zero
    const V n = v_round(v_mul(a, v_set(1.44269504f)));
    const V r = v_fnma(n, v_set(-2.12194440e-4f), v_fnma(n, v_set(0.693359375f), a));
    V q = v_fma(v_set(0.0013814593f), r, v_set(0.0083687184f));

    q = v_fma(q, r, v_set(0.041668389f));
    q = v_fma(q, r, v_set(0.16666521f));
    q = v_fma(q, r, v_set(0.49999994f));
    return v_scale2(v_add(v_fma(v_mul(r, r), q, r), v_set(1)), n);
}

/* 1 / (1 + e^u) within 4e-6, for what is rounded to bf16 next: no division. u log2(e) = n + f, 0 <= f < 1; 2^f fitted as above;
 * one step of Newton's, for which e^u must not be infinite. */
INLINE V v_sigmoid16(V u)
{
    const V a = v_min(v_set(127), v_max(v_set(-150), v_mul(u, v_set(1.44269504f)))), f = v_fraction(a);
    V q = v_fma(v_set(0.013534167f), f, v_set(0.052011464f)), p;

    q = v_fma(q, f, v_set(0.24144275f));
    q = v_fma(q, f, v_set(0.69300383f));
    q = v_add(v_set(1), v_scale2(v_fma(q, f, v_set(1.0000026f)), a));
    p = v_part(q);
    return v_mul(p, v_fnma(q, p, v_set(2)));
}

/* erfc(z) for z >= 0: t poly(t) e^(-z^2), t = 1 / (1 + 0.33 z) */
INLINE V v_erfc(V z)
{
    static const float c[8] = { 0.18636782f, 0.18281464f, 0.20204686f, 0.044651650f, 0.41314942f, -0.35603753f, 0.46300653f,
                                -0.13599946f };
    const V t = v_div(v_set(1), v_fma(v_set(0.33f), z, v_set(1)));
    V p = v_set(c[7]);

    for (int i = 6; i >= 0; i--)
        p = v_fma(p, t, v_set(c[i]));
    return v_mul(v_mul(p, t), v_exp(v_fnma(z, z, v_set(0))));
}

/* x / (1 + e^u), for a result of type `to` */
INLINE V v_sigmoid(V x, V u, DType to)
{
    if (to == DT_BF16)
        return v_mul(x, v_sigmoid16(u));
    return v_div(x, v_add(v_set(1), v_exp(u)));
}

INLINE V v_act(Act act, V x, DType to)
{
    V u;

    switch (act) {
    case ACT_SILU:
        return v_sigmoid(x, v_sub(v_set(0), x), to);
    case ACT_GELU_TANH:                                             // 0.5 (1 + tanh u) = 1 / (1 + e^(-2u))
        u = v_mul(v_mul(v_set(-1.5957691216f), x), v_fma(v_mul(x, x), v_set(0.044715f), v_set(1)));
        return v_sigmoid(x, u, to);
    case ACT_GELU_ERF:                                              // max(x, 0) - |x| / 2 erfc(|x| / sqrt 2)
        u = v_abs(x);
        return v_fnma(v_mul(v_set(0.5f), u), v_erfc(v_mul(u, v_set(0.70710678f))), v_max(v_set(0), x));
    case ACT_CLAMP:
        return v_min(v_set(1), v_max(v_set(-1), x));
    default:
        return x;
    }
}

/* dst[c][r] = src[r][c], four by four */
INLINE void transpose(float *dst, int64_t dst_ld, const float *src, int64_t src_ld, int64_t rows, int64_t cols)
{
    const int64_t r4 = rows & ~(int64_t)3, c4 = cols & ~(int64_t)3;

    for (int64_t r = 0; r < r4; r += 4)
        for (int64_t c = 0; c < c4; c += 4) {
            __m128 a0 = _mm_loadu_ps(src + r * src_ld + c), a1 = _mm_loadu_ps(src + (r + 1) * src_ld + c);
            __m128 a2 = _mm_loadu_ps(src + (r + 2) * src_ld + c), a3 = _mm_loadu_ps(src + (r + 3) * src_ld + c);

            _MM_TRANSPOSE4_PS(a0, a1, a2, a3);
            _mm_storeu_ps(dst + c * dst_ld + r, a0);
            _mm_storeu_ps(dst + (c + 1) * dst_ld + r, a1);
            _mm_storeu_ps(dst + (c + 2) * dst_ld + r, a2);
            _mm_storeu_ps(dst + (c + 3) * dst_ld + r, a3);
        }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = r < r4 ? c4 : 0; c < cols; c++)
            dst[c * dst_ld + r] = src[r * src_ld + c];
}

#endif
#endif
