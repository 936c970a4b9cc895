/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Codes of whole matrices in host memory, a row at a time on each core: weights, as they are loaded or converted. */
#include "base/err.h"
#include "base/mem.h"
#include "quantize.h"

int avt_quantize_rows(uint8_t *codes, float *scale, DType type, DType dtype, const void *src, int64_t rows, int64_t k)
{
    int failed = 0;

#pragma omp parallel reduction(| : failed) if (rows * k > 65536)
    {
        float *row = avt_malloc(MEM_BACKEND, (size_t)(k + 1) * sizeof(*row));

        failed = !row;
#pragma omp for
        for (int64_t r = 0; r < rows; r++)
            if (row) {
                avt_to_f32(row, dtype, src, r * k, k);
                scale[r] = avt_quantize_row(codes + r * k, type, row, k);
            }
        avt_free(row);
    }
    return failed ? AVT_ERR(ENOMEM) : 0;
}

void avt_dequantize_rows(float *v, DType type, const uint8_t *codes, const float *scale, int64_t rows, int64_t k, int64_t g)
{
#pragma omp parallel for if (rows * k > 65536)
    for (int64_t r = 0; r < rows; r++) {
        avt_widen_row(v + r * k, type, codes + r * k, scale[r], k);
        avt_rotate_row(v + r * k, k, g);
    }
}
