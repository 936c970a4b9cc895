/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * exp in f32 that a compiler can vectorize: no table, no branch, no call. Within 1.5 units in the last place (tests/unit/exp.c).
 *
 *   x = n ln2 + r, |r| <= ln2 / 2;   e^x = 2^n e^r;   e^r by its series to r^7
 *
 * n is rounded by adding 1.5 * 2^23, whose last bits then hold it; ln2 is taken off in two parts, so that n * part is exact;
 * 2^n is multiplied in two halves, so that results near overflow and below 2^-126 come out right.
 */
#ifndef AVT_CPU_EXP_H
#define AVT_CPU_EXP_H

#include "base/half.h"

static inline float avt_exp(float x)
{
    const float shift = 0x1.8p23f, ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0106p-13f;
    float v, n, r, p;
    int32_t i;

    x = x < -104 ? -104 : x;                                        // 0 below, infinity above; NaN stays
    x = x > 89 ? 89 : x;
    v = x * 0x1.715476p0f + shift;                                  // 1 / ln2
    n = v - shift;
    r = x - n * ln2_high - n * ln2_low;
    p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1;
    i = (int32_t)(avt_f32_bits(v) - avt_f32_bits(shift));
    return p * avt_bits_f32((uint32_t)((i >> 1) + 127) << 23) * avt_bits_f32((uint32_t)(i - (i >> 1) + 127) << 23);
}

#endif
