/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* copy, fill. A copy between float types rounds to nearest, ties to even. */
#include <string.h>

#include "base/half.h"
#include "cpu/plain.h"

static void convert(void *dst, DType to, const void *src, DType from, int64_t first, int64_t nb)
{
    float v[CHUNK];
    uint16_t *half = (uint16_t *)dst + first;

    for (int64_t i = 0; i < nb; i += CHUNK) {
        const int64_t n = min_i64(CHUNK, nb - i);

        avt_to_f32(to == DT_F32 ? (float *)dst + first + i : v, from, src, first + i, n);
        if (to == DT_BF16)
            for (int64_t j = 0; j < n; j++)
                half[i + j] = avt_f32_bf16(v[j]);
        if (to == DT_F16)
            for (int64_t j = 0; j < n; j++)
                half[i + j] = avt_f32_f16(v[j]);
    }
}

int avt_plain_copy(Backend *be, const OpCall *c)
{
    const DType to = c->out.dtype, from = c->in[0].dtype;
    const size_t size = avt_dtype_size(to);
    const int64_t nb = avt_numel(c->out), piece = 1 << 14;
    char *dst = c->out.data;
    const char *src = c->in[0].data;

    if (to == from && nb <= 4 * be->grain) {            // a message's tensors: a parallel region of one thread calls the kernel all the same
        memcpy(dst, src, (size_t)nb * size);
        return 0;
    }
#pragma omp parallel for num_threads(be->threads) if (nb > 4 * be->grain)
    for (int64_t i = 0; i < nb; i += piece) {
        const int64_t n = min_i64(piece, nb - i);

        if (to == from)
            memcpy(dst + (size_t)i * size, src + (size_t)i * size, (size_t)n * size);
        else
            convert(dst, to, src, from, i, n);
    }
    return 0;
}

int avt_plain_fill(Backend *be, const OpCall *c)
{
    float *out = c->out.data;
    const int64_t nb = avt_numel(c->out);

#pragma omp parallel for num_threads(be->threads) if (nb > 4 * be->grain)
    for (int64_t i = 0; i < nb; i++)
        out[i] = c->u.value;
    return 0;
}
