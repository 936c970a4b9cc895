/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Codes: a row of numbers as one byte each and one f32, its scale. Products of codes are what precision=int8 and fp8 are fast by.
 *
 *   f8_e4m3   code = x * 448 / max|x|, to nearest, ties to even                              x' = code * scale
 *   i8        y = x R;  code = y * 127 / max|y|, to nearest, ties to even                    x' = code * scale R
 *
 * R turns each group of a row's numbers by a regular Hadamard matrix: 4^k of them, 256 at most, as many as divide the row. It is
 * symmetric and its own inverse, so a product of two rotated rows is the product of the rows: it is applied to weights when they are
 * loaded and to activations here, and never undone. It spreads an outlier over its group; as every row of R has the same sum, a mean
 * that a row has is not gathered into one number (which the usual, Sylvester's, does). Source: arXiv 2512.03673.
 *
 *        1 [ 1  1  1 -1 ]
 *   H4 = - [ 1  1 -1  1 ]        R = H4 x H4 x ..  (Kronecker)
 *        2 [ 1 -1  1  1 ]
 *          [-1  1  1  1 ]
 *
 * Each step is a sum of two f32 or a product with a power of two, so that the bits are the same however it is compiled. A row with a
 * NaN or an infinity gets the scale NaN: what is made of it is NaN. A row below 1e-30 is zero, with scale 1.
 */
#ifndef AVT_QUANTIZE_H
#define AVT_QUANTIZE_H

#include "base/half.h"
#include "tensor.h"

/* to = one H4 of from's four quarters, interleaved: after log4(g) of these each number is back in its place. */
static inline void avt_rotate_step(float *restrict to, const float *restrict from, int64_t g)
{
    const int64_t q = g / 4;

#pragma omp simd
    for (int64_t i = 0; i < q; i++) {
        const float a = from[i] + from[q + i], b = from[i] - from[q + i];
        const float c = from[2 * q + i] + from[3 * q + i], d = from[2 * q + i] - from[3 * q + i];

        to[4 * i] = 0.5f * (a + d);
        to[4 * i + 1] = 0.5f * (a - d);
        to[4 * i + 2] = 0.5f * (b + c);
        to[4 * i + 3] = 0.5f * (c - b);
    }
}

/** v[k] R, and back again, by groups of g. */
static inline void avt_rotate_row(float *v, int64_t k, int64_t g)
{
    float other[CODE_GROUP];

    for (int64_t at = 0; g > 1 && at < k; at += g) {
        float *from = v + at, *to = other;

        for (int64_t n = g; n > 1; n /= 4) {
            float *last = from;

            avt_rotate_step(to, from, g);
            from = to;
            to = last;
        }
        if (from == other)
            memcpy(v + at, other, (size_t)g * sizeof(*v));
    }
}

/** codes[k] and the scale of v[k], which is rotated in place. @return the scale */
static inline float avt_quantize_row(uint8_t *restrict codes, DType type, float *restrict v, int64_t k)
{
    const float most = type == DT_I8 ? 127 : 448;
    int32_t bits = 0;                                               // of the largest: a maximum of whole numbers is one in any vector
    float bad = 0, top, inverse;

    avt_rotate_row(v, k, avt_code_group(type, k));
#pragma omp simd reduction(max : bits) reduction(+ : bad)
    for (int64_t i = 0; i < k; i++) {
        const int32_t a = (int32_t)(avt_f32_bits(v[i]) & 0x7fffffff), number = a > 0x7f800000 ? 0 : a;

        bits = number > bits ? number : bits;
        bad += v[i] - v[i];                                         // NaN, when there is one, or an infinity
    }
    top = avt_bits_f32((uint32_t)bits);
    inverse = top > 1e-30f ? most / top : 0;
    if (type == DT_I8)
#pragma omp simd
        for (int64_t i = 0; i < k; i++)
            codes[i] = (uint8_t)avt_f32_bits(v[i] * inverse + 0x1.8p23f);           // the low byte is the nearest integer
    else
#pragma omp simd
        for (int64_t i = 0; i < k; i++)
            codes[i] = avt_f32_e4m3(v[i] * inverse);
    return (top > 1e-30f ? top / most : 1) + bad;
}

/** v[k] = code * scale, not rotated back. */
static inline void avt_widen_row(float *restrict v, DType type, const uint8_t *restrict codes, float scale, int64_t k)
{
    if (type == DT_I8)
#pragma omp simd
        for (int64_t i = 0; i < k; i++)
            v[i] = (float)(int8_t)codes[i] * scale;
    else
#pragma omp simd
        for (int64_t i = 0; i < k; i++)
            v[i] = avt_e4m3_f32(codes[i]) * scale;
}

/** codes[rows, k], scale[rows] of src[rows, k], `dtype` in host memory at any alignment, over all cores. @return 0 or ENOMEM */
int avt_quantize_rows(uint8_t *codes, float *scale, DType type, DType dtype, const void *src, int64_t rows, int64_t k);
/** The numbers that codes stand for: v[rows, k], rotated back by groups of g. */
void avt_dequantize_rows(float *v, DType type, const uint8_t *codes, const float *scale, int64_t rows, int64_t k, int64_t g);

#endif
