/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How plain C stores weights, by use:
 *
 *   plain    f32, row-major; an ordinary tensor
 *   linear   row-major [N, K], f32; bf16 when it comes as bf16 or meets bf16 (half the memory; widened panel by panel when used)
 *            codes as they are, [N, K] of a byte
 *   conv3d   [Cout / 8][kT][kH][kW][Cin][8] f32, missing columns zero: panels, read front to back by the convolution
 *   conv1d   [Cout / 8][k][Cin / groups][8] f32, the same
 *
 * What meets bf16 activations is rounded to bf16, however it is stored.
 */
#include <string.h>

#include "base/half.h"
#include "cpu/plain.h"

static int64_t product(int nd, const int64_t *dim)
{
    int64_t n = 1;

    for (int i = 0; i < nd; i++)
        n *= dim[i];
    return n;
}

static int is_half(WeightUse use, DType act, DType dtype)
{
    return use == WEIGHT_LINEAR && (dtype == DT_BF16 || act == DT_BF16);
}

void avt_round_bf16(float *v, int64_t nb)
{
    for (int64_t i = 0; i < nb; i++)
        v[i] = avt_bf16_f32(avt_f32_bf16(v[i]));
}

size_t avt_plain_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    (void)be;
    if (use == WEIGHT_CONV3D || use == WEIGHT_CONV1D)
        return (size_t)(panels_of(dim[0]) * PANEL * product(nd - 1, dim + 1)) * sizeof(float);
    if (avt_is_code(act) && use == WEIGHT_LINEAR)
        return (size_t)product(nd, dim);
    return (size_t)product(nd, dim) * (is_half(use, act, dtype) ? 2 : sizeof(float));
}

/* [Cout, Cin, taps] -> [Cout / 8][taps][Cin][8]: a pass over the source per output channel, a piece at a time. */
static void put_panels(float *dst, DType act, DType dtype, const void *src, int64_t cout, int64_t cin, int64_t taps)
{
    float piece[CHUNK];

    memset(dst, 0, (size_t)(panels_of(cout) * PANEL * cin * taps) * sizeof(*dst));
    for (int64_t o = 0; o < cout; o++) {
        float *column = dst + o / PANEL * PANEL * cin * taps + o % PANEL;

        for (int64_t i = 0; i < cin * taps; i += CHUNK) {
            const int64_t nb = min_i64(CHUNK, cin * taps - i);

            avt_to_f32(piece, dtype, src, o * cin * taps + i, nb);
            if (act == DT_BF16)
                avt_round_bf16(piece, nb);
            for (int64_t j = 0; j < nb; j++)
                column[((i + j) % taps * cin + (i + j) / taps) * PANEL] = piece[j];
        }
    }
}

static void put_half(uint16_t *dst, DType dtype, const void *src, int64_t nb)
{
    float piece[CHUNK];

    for (int64_t i = 0; i < nb; i += CHUNK) {
        const int64_t n = min_i64(CHUNK, nb - i);

        avt_to_f32(piece, dtype, src, i, n);
        for (int64_t j = 0; j < n; j++)
            dst[i + j] = avt_f32_bf16(piece[j]);
    }
}

int avt_plain_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const int64_t nb = avt_numel(*dst);

    (void)be;
    if (avt_is_code(dst->act) && dtype == dst->act) {
        if (src)
            memcpy(dst->data, src, (size_t)nb);
        return 0;
    }
    if (dtype > DT_F64)
        return AVT_ERR(EINVAL);
    dst->dtype = is_half(use, dst->act, dtype) ? DT_BF16 : DT_F32;
    if (!src || !nb)
        return 0;
    if (use == WEIGHT_CONV3D || use == WEIGHT_CONV1D)
        put_panels(dst->data, dst->act, dtype, src, dst->dim[0], dst->dim[1], nb / (dst->dim[0] * dst->dim[1]));
    else if (dst->dtype == DT_F32)
        avt_to_f32(dst->data, dtype, src, 0, nb);
    else if (dtype != DT_BF16)
        put_half(dst->data, dtype, src, nb);
    else
        memcpy(dst->data, src, (size_t)nb * sizeof(uint16_t));
    return 0;
}
