/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Small float formats <-> f32, one value at a time. Rounding is to nearest, ties to even; NaN stays NaN.
 *
 *   bf16    1/8/7   the upper half of an f32
 *   f16     1/5/10  IEEE half, subnormals kept
 *   e4m3fn  1/4/3   no infinity, NaN = 0x7F / 0xFF, largest 448 (overflow is clamped on the way in)
 *   e5m2    1/5/2   the upper byte of an f16
 */
#ifndef AVT_BASE_HALF_H
#define AVT_BASE_HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float avt_bits_f32(uint32_t u)
{
    float f;

    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t avt_f32_bits(float f)
{
    uint32_t u;

    memcpy(&u, &f, 4);
    return u;
}

static inline float avt_bf16_f32(uint16_t h)
{
    return avt_bits_f32((uint32_t)h << 16);
}

static inline uint16_t avt_f32_bf16(float f)
{
    const uint32_t u = avt_f32_bits(f);

    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static inline float avt_f16_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, a = (uint32_t)(h & 0x7fff) << 13;
    const uint32_t small = avt_f32_bits((float)(int)(a >> 13) * 0x1p-24f);      // of a subnormal
    const uint32_t big = a >= 0x0f800000 ? a | 0x7f800000 : a + 0x38000000;

    return avt_bits_f32(sign | (a < 0x00800000 ? small : big));                 // no branch: loops vectorize
}

static inline uint16_t avt_f32_f16(float f)
{
    const uint32_t u = avt_f32_bits(f), a = u & 0x7fffffff;
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000);

    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (a >= 0x477ff000)                                            // 65520 and above round to infinity
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000)                                             // below 2^-14: the unit is 2^-24
        return (uint16_t)(sign | (uint16_t)rintf(avt_bits_f32(a) * 0x1p24f));
    return (uint16_t)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}

static inline float avt_e5m2_f32(uint8_t b)
{
    return avt_f16_f32((uint16_t)(b << 8));
}

static inline float avt_e4m3_f32(uint8_t b)
{
    const uint32_t sign = (uint32_t)(b & 0x80) << 24, a = b & 0x7f;
    const uint32_t small = avt_f32_bits((float)(int)a * 0x1p-9f), big = (a << 20) + (120u << 23);

    return avt_bits_f32(sign | (a == 0x7f ? 0x7fc00000 : a < 8 ? small : big));
}

static inline uint8_t avt_f32_e4m3(float f)
{
    const uint32_t u = avt_f32_bits(f), sign = u >> 24 & 0x80, a = u & 0x7fffffff, top = 0x43e00000;      // 448
    const uint32_t clamped = a < top ? a : top;
    const uint32_t small = avt_f32_bits(avt_bits_f32(clamped) * 0x1p9f + 0x1p23f) & 15;    // below 2^-6 the unit is 2^-9; 8 carries on
    const uint32_t big = ((clamped + 0x7ffff + (clamped >> 20 & 1)) >> 20) - (120u << 3);

    return (uint8_t)(sign | (a > 0x7f800000 ? 0x7f : a < 0x3c800000 ? small : big));
}

#endif
