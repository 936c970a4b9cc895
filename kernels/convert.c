/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Numbers of any format as f32. Runs over whole models, so it goes in pieces over the cores, and inside a piece in loops
 * that vectorize. Data may start at any address: values are fetched by memcpy.
 */
#include <string.h>

#include "base/half.h"
#include "tensor.h"

#define PIECE 65536                     // elements that a core takes at a time

/* dst[i] = expression of v, a value of `type` at src */
#define EACH(type, expression)                                                                        \
    for (int64_t i = 0; i < nb; i++) {                                                                \
        type v;                                                                                       \
                                                                                                      \
        memcpy(&v, src + (size_t)i * sizeof(v), sizeof(v));                                           \
        dst[i] = (expression);                                                                        \
    }                                                                                                 \
    break

static void convert(float *dst, DType dtype, const uint8_t *src, int64_t nb)
{
    switch (dtype) {
    case DT_BF16:
#pragma omp simd
        EACH(uint16_t, avt_bf16_f32(v));
    case DT_F16:
#pragma omp simd
        EACH(uint16_t, avt_f16_f32(v));
    case DT_F8_E4M3: EACH(uint8_t, avt_e4m3_f32(v));
    case DT_F8_E5M2: EACH(uint8_t, avt_e5m2_f32(v));
    case DT_F64:     EACH(double, (float)v);
    case DT_I64:     EACH(int64_t, (float)v);
    case DT_I32:     EACH(int32_t, (float)v);
    case DT_U8:      EACH(uint8_t, (float)v);
    case DT_I8:      EACH(int8_t, (float)v);
    default:         memcpy(dst, src, (size_t)nb * sizeof(*dst));
    }
}

void avt_to_f32(float *dst, DType dtype, const void *src, int64_t first, int64_t nb)
{
    const size_t size = avt_dtype_size(dtype);
    const uint8_t *p = (const uint8_t *)src + (size_t)first * size;

#pragma omp parallel for if (nb > 4 * PIECE)
    for (int64_t i = 0; i < nb; i += PIECE)
        convert(dst + i, dtype, p + (size_t)i * size, nb - i < PIECE ? nb - i : PIECE);
}
