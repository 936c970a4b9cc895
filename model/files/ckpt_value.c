/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Values of checkpoint tensors: the search for NaN and infinities. It runs over whole models, so it goes in pieces over the
 * cores, and inside a piece in loops that vectorize. Data may start at any address: values are fetched by memcpy.
 */
#include <string.h>

#include "files/ckpt.h"

#define PIECE 65536

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, 2);
    return v;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, 4);
    return v;
}

/* Is a value of the piece not finite? The exponent is all ones; e4m3fn knows only NaN, 0x7f and 0xff. */
static int any_bad(const uint8_t *p, DType dtype, int64_t nb)
{
    int bad = 0;

    switch (dtype) {
    case DT_F32:
#pragma omp simd reduction(| : bad)
        for (int64_t i = 0; i < nb; i++)
            bad |= (get32(p + 4 * i) & 0x7f800000) == 0x7f800000;
        break;
    case DT_BF16: case DT_F16: {
        const uint16_t mask = dtype == DT_BF16 ? 0x7f80 : 0x7c00;
        uint16_t any = 0;

#pragma omp simd reduction(| : any)
        for (int64_t i = 0; i < nb; i++)
            any |= (uint16_t)((get16(p + 2 * i) & mask) == mask);
        bad = any;
        break;
    }
    case DT_F8_E4M3: case DT_F8_E5M2: {
        const uint8_t mask = dtype == DT_F8_E4M3 ? 0x7f : 0x7c;

        for (int64_t i = 0; i < nb; i++)
            bad |= (p[i] & mask) == mask;
        break;
    }
    case DT_F64:
        for (int64_t i = 0; i < nb; i++)
            bad |= (get32(p + 8 * i + 4) & 0x7ff00000) == 0x7ff00000;
        break;
    default:
        break;
    }
    return bad;
}

int64_t avt_nonfinite(DType dtype, const void *values, int64_t nb)
{
    const size_t size = avt_dtype_size(dtype);
    const uint8_t *p = values;
    int64_t first = nb;

#pragma omp parallel for reduction(min : first) if (nb > 4 * PIECE)
    for (int64_t i = 0; i < nb; i += PIECE)
        if (any_bad(p + (size_t)i * size, dtype, nb - i < PIECE ? nb - i : PIECE) && i < first)
            first = i;
    while (first < nb && !any_bad(p + (size_t)first * size, dtype, 1))
        first++;
    return first < nb ? first : -1;
}
