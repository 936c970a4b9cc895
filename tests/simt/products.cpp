/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arithmetic of the libraries' doubles: plain loops, in f32, in an order of their own. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <string.h>

#include "products.h"

namespace bed {

size_t size_of(Number t)
{
    return t == Number::F32 || t == Number::I32 ? 4 : t == Number::I8 || t == Number::E4M3 ? 1 : 2;
}

float get_number(const void *p, size_t i, Number t)
{
    if (t == Number::F32)
        return ((const float *)p)[i];
    if (t == Number::I32)
        return (float)((const int32_t *)p)[i];
    if (t == Number::I8)
        return ((const int8_t *)p)[i];
    if (t == Number::E4M3)
        return __half2float(__half(__nv_cvt_fp8_to_halfraw(((const uint8_t *)p)[i], __NV_E4M3)));
    return t == Number::BF16 ? __bfloat162float(((const __nv_bfloat16 *)p)[i]) : __half2float(((const __half *)p)[i]);
}

void put_number(void *p, size_t i, Number t, float v)
{
    if (t == Number::F32)
        ((float *)p)[i] = v;
    else if (t == Number::I32)
        ((int32_t *)p)[i] = (int32_t)v;
    else if (t == Number::BF16)
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(v);
    else
        ((__half *)p)[i] = __float2half_rn(v);
}

float to_tf32(float v)
{
    uint32_t bits;

    memcpy(&bits, &v, 4);
    if ((bits & 0x7f800000) != 0x7f800000)
        bits = (bits + 0xfff + (bits >> 13 & 1)) & ~(uint32_t)0x1fff;
    memcpy(&v, &bits, 4);
    return v;
}

/* Four results of a row of a, which stays in registers. */
static void four(float *out, const float *a, const float *b, int64_t k)
{
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;

#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t i = 0; i < k; i++) {
        s0 += a[i] * b[i];
        s1 += a[i] * b[k + i];
        s2 += a[i] * b[2 * k + i];
        s3 += a[i] * b[3 * k + i];
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
}

static float one(const float *a, const float *b, int64_t k)
{
    float s = 0;

#pragma omp simd reduction(+ : s)
    for (int64_t i = 0; i < k; i++)
        s += a[i] * b[i];
    return s;
}

void multiply(float *out, const float *a, const float *b, int64_t m, int64_t n, int64_t k)
{
    enum { ROWS = 64 };                                             // of b, which stay in the cache

    for (int64_t j0 = 0; j0 < n; j0 += ROWS)
        for (int64_t i = 0; i < m; i++) {
            const int64_t end = j0 + ROWS < n ? j0 + ROWS : n;
            int64_t j = j0;

            for (; j + 4 <= end; j += 4)
                four(out + i * n + j, a + i * k, b + j * k, k);
            for (; j < end; j++)
                out[i * n + j] = one(a + i * k, b + j * k, k);
        }
}

void multiply_whole(int32_t *out, const float *a, const float *b, int64_t m, int64_t n, int64_t k)
{
    enum { RUN = 1024 };                                            // products of 127 and 127 that f32 sums exactly

    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int32_t sum = 0;

            for (int64_t k0 = 0; k0 < k; k0 += RUN)
                sum += (int32_t)one(a + i * k + k0, b + j * k + k0, k - k0 < RUN ? k - k0 : (int64_t)RUN);
            out[i * n + j] = sum;
        }
}

}   // namespace bed
