/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Weights of i8 for VNNI and AMX, packed as codes8.h says. Rows and columns that are filled up are zero. */
#include "cpu/codes8.h"

size_t avt_codes8_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    (void)be, (void)use, (void)act, (void)dtype, (void)nd;
    return (size_t)avt_codes8_columns(dim[0]) * ((size_t)avt_codes8_depth(dim[1]) + sizeof(int32_t));
}

/* Columns o .. o + 15 of the product, which are rows of the source: tiles [depth / 64][16][16][4] */
static void pack_tiles(int8_t *to, int32_t *sum, const int8_t *src, int64_t rows, int64_t k)
{
    const int64_t depth = avt_codes8_depth(k);

    memset(to, 0, (size_t)(TILE8_SIDE * depth));
    memset(sum, 0, TILE8_SIDE * sizeof(*sum));
    for (int64_t c = 0; c < rows; c++)
        for (int64_t i = 0; i < k; i++) {
            to[i / 4 * 4 * TILE8_SIDE + c * 4 + i % 4] = src[c * k + i];
            sum[c] += src[c * k + i];
        }
}

int avt_codes8_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const int64_t n = dst->dim[0], k = dst->dim[1], depth = avt_codes8_depth(k), columns = avt_codes8_columns(n);
    int32_t *sum = (int32_t *)((char *)dst->data + columns * depth);

    (void)use;
    if (dtype != DT_I8)
        return AVT_ERR(EINVAL);
    if (!src || !avt_numel(*dst))
        return 0;
#pragma omp parallel for num_threads(be->threads)
    for (int64_t o = 0; o < columns; o += TILE8_SIDE)
        pack_tiles((int8_t *)dst->data + o * depth, sum + o, (const int8_t *)src + o * k, o < n ? min_i64(TILE8_SIDE, n - o) : 0, k);
    return 0;
}
