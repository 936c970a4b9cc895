/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Products of i8 by VNNI, whose instruction multiplies four numbers of 0 .. 255 with four of -128 .. 127: 128 is added to each x, and what that
 * brings, 128 times the sum of the column, is taken away again.
 */
#include <string.h>

#include "cpu/linear8.inc.h"

enum { BLOCK = 6, BIAS = 128 };

static void copy_rows(int8_t *to, const int8_t *x, int64_t k, int64_t nb, int64_t depth)
{
    for (int64_t r = 0; r < (nb + BLOCK - 1) / BLOCK * BLOCK; r++) {
        for (int64_t i = 0; i < k && r < nb; i++)
            to[r * depth + i] = (int8_t)(x[r * k + i] ^ -128);
        memset(to + r * depth + (r < nb ? k : 0), 0, (size_t)(r < nb ? depth - k : depth));
    }
}

static void block_sums(int32_t (*sum)[GROUP8], const int8_t *rows, const int8_t *w, int64_t depth)
{
    __m512i s[BLOCK][4];

    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < 4; j++)
            s[i][j] = _mm512_setzero_si512();
    for (int64_t k = 0; k < depth; k += 4) {
        __m512i v[4];

        for (int j = 0; j < 4; j++)
            v[j] = _mm512_loadu_si512(w + j * 16 * depth + 16 * k);
        for (int i = 0; i < BLOCK; i++) {
            int32_t four;

            memcpy(&four, rows + i * depth + k, sizeof(four));
            for (int j = 0; j < 4; j++)
                s[i][j] = _mm512_dpbusd_epi32(s[i][j], _mm512_set1_epi32(four), v[j]);
        }
    }
    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < 4; j++)
            _mm512_store_si512(sum[i] + 16 * j, s[i][j]);
}

int avt_cpu_has_vnni(void)
{
    return __builtin_cpu_supports("avx512vnni");
}

int avt_vnni_linear8(Backend *be, const OpCall *c)
{
    static const Level8 level = { BLOCK, BIAS, copy_rows, block_sums, NULL, NULL };

    return linear8(&level, be, c);
}
