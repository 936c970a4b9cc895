/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How plain C stores weights, by use:
 *
 *   plain    f32, row-major; an ordinary tensor
 *   linear   row-major [N, K], f32, or bf16 when it comes as bf16 (half the memory; widened panel by panel when used)
 *   conv3d   [Cout / 8][kT][kH][kW][Cin][8] f32, missing columns zero: panels, read front to back by the convolution
 *   conv1d   [Cout / 8][k][Cin / groups][8] f32, the same
 */
#include <string.h>

#include "base/half.h"
#include "cpu/plain.h"

int avt_plain_to_f32(float *dst, DType dtype, const void *src, int64_t first, int64_t nb)
{
    const size_t size = avt_dtype_size(dtype);
    const uint8_t *p = (const uint8_t *)src + (size_t)first * size;
    uint16_t h;
    double d;

    if (dtype > DT_F64)
        return AVT_ERR(EINVAL);
    if (dtype == DT_F32) {
        memcpy(dst, p, (size_t)nb * size);
        return 0;
    }
    for (int64_t i = 0; i < nb; i++, p += size) {
        memcpy(&h, p, dtype == DT_BF16 || dtype == DT_F16 ? sizeof(h) : 0);
        switch (dtype) {
        case DT_BF16:    dst[i] = avt_bf16_f32(h);  break;
        case DT_F16:     dst[i] = avt_f16_f32(h);   break;
        case DT_F8_E4M3: dst[i] = avt_e4m3_f32(*p); break;
        case DT_F8_E5M2: dst[i] = avt_e5m2_f32(*p); break;
        default:
            memcpy(&d, p, sizeof(d));
            dst[i] = (float)d;
        }
    }
    return 0;
}

static int64_t product(int nd, const int64_t *dim)
{
    int64_t n = 1;

    for (int i = 0; i < nd; i++)
        n *= dim[i];
    return n;
}

size_t avt_plain_weight_bytes(Backend *be, WeightUse use, DType dtype, int nd, const int64_t *dim)
{
    (void)be;
    if (use == WEIGHT_CONV3D || use == WEIGHT_CONV1D)
        return (size_t)(panels_of(dim[0]) * PANEL * product(nd - 1, dim + 1)) * sizeof(float);
    return (size_t)product(nd, dim) * (use == WEIGHT_LINEAR && dtype == DT_BF16 ? 2 : sizeof(float));
}

/* [Cout, Cin, taps] -> [Cout / 8][taps][Cin][8]: a pass over the source per output channel, a piece at a time. */
static int put_panels(float *dst, DType dtype, const void *src, int64_t cout, int64_t cin, int64_t taps)
{
    float piece[CHUNK];

    memset(dst, 0, (size_t)(panels_of(cout) * PANEL * cin * taps) * sizeof(*dst));
    for (int64_t o = 0; o < cout; o++) {
        float *column = dst + o / PANEL * PANEL * cin * taps + o % PANEL;

        for (int64_t i = 0; i < cin * taps; i += CHUNK) {
            const int64_t nb = min_i64(CHUNK, cin * taps - i);

            if (avt_plain_to_f32(piece, dtype, src, o * cin * taps + i, nb) < 0)
                return AVT_ERR(EINVAL);
            for (int64_t j = 0; j < nb; j++)
                column[((i + j) % taps * cin + (i + j) / taps) * PANEL] = piece[j];
        }
    }
    return 0;
}

int avt_plain_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const int64_t nb = avt_numel(*dst);

    (void)be;
    if (dtype > DT_F64)
        return AVT_ERR(EINVAL);
    dst->dtype = use == WEIGHT_LINEAR && dtype == DT_BF16 ? DT_BF16 : DT_F32;
    dst->packed = use == WEIGHT_PLAIN ? 0 : 1 + (int)use;
    if (!src || !nb)
        return 0;
    if (use == WEIGHT_CONV3D || use == WEIGHT_CONV1D)
        return put_panels(dst->data, dtype, src, dst->dim[0], dst->dim[1], nb / (dst->dim[0] * dst->dim[1]));
    if (dst->dtype == DT_F32)
        return avt_plain_to_f32(dst->data, dtype, src, 0, nb);
    memcpy(dst->data, src, (size_t)nb * sizeof(uint16_t));
    return 0;
}
