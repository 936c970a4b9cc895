/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Products of i8 by VNNI, whose instruction multiplies four numbers of 0 .. 255 with four of -128 .. 127: 128 is added to each x, and what that
 * brings, 128 times the sum of the column, is taken away from where a sum begins.
 *
 *   rows  [K / 64][14 rows][64], so that all of a block's lie at fixed distances from one address
 *   sums  14 rows by 2 vectors of columns: 28 products for 16 loads, 14 of them broadcasts. Two products a cycle want 1.1 loads and 9 bytes
 *         of the weight, which comes from the second cache, as the columns of a piece go past its rows
 */
#include <string.h>

#include "cpu/linear8.inc.h"

enum { BLOCK = 14, BIAS = 128, VECTORS = 2 };

typedef int32_t Sums __attribute__((vector_size(64)));              // gcc 12 keeps an array of __m512i of other lanes than it in memory, too

static void copy_rows(int8_t *to, const int8_t *x, int64_t k, int64_t nb, int64_t depth)
{
    const __m512i bias = _mm512_set1_epi8((char)BIAS);

    for (int64_t r = 0; r < (nb + BLOCK - 1) / BLOCK * BLOCK; r++)
        for (int64_t i = 0; i < depth; i += 64) {
            const int64_t some = r < nb ? min_i64(64, k - i) : 0;
            const __mmask64 mask = some > 0 ? ~0ull >> (64 - some) : 0;
            const __m512i v = _mm512_maskz_loadu_epi8(mask, some > 0 ? x + r * k + i : x);

            _mm512_store_si512(to + r / BLOCK * BLOCK * depth + (i * BLOCK + r % BLOCK * 64), _mm512_xor_si512(v, bias));
        }
}

/* s[rows][vectors] += rows w, over 64 numbers of each */
INLINE void add_up(Sums s[BLOCK][VECTORS], const int8_t *rows, const int8_t *w, int64_t next)
{
    for (int64_t k = 0; k < 64; k += 4) {
        const __m512i a = _mm512_loadu_si512(w + 16 * k), b = _mm512_loadu_si512(w + next + 16 * k);

        for (int i = 0; i < BLOCK; i++) {
            __m512i x;
            int32_t four;

            memcpy(&four, rows + 64 * i + k, sizeof(four));
            x = _mm512_set1_epi32(four);
            s[i][0] = (Sums)_mm512_dpbusd_epi32((__m512i)s[i][0], x, a);
            s[i][1] = (Sums)_mm512_dpbusd_epi32((__m512i)s[i][1], x, b);
        }
    }
}

static void block_sums(int32_t (*sum)[GROUP8], const int8_t *rows, const int8_t *w, const int32_t *all, int64_t depth)
{
    for (int64_t n = 0; n < GROUP8; n += 16 * VECTORS, w += 16 * VECTORS * depth) {
        Sums s[BLOCK][VECTORS];

        for (int i = 0; i < BLOCK; i++)
            for (int j = 0; j < VECTORS; j++)
                s[i][j] = (Sums)_mm512_loadu_si512(all + n + 16 * j) * -BIAS;
        for (int64_t k = 0; k < depth; k += 64)
            add_up(s, rows + k * BLOCK, w + 16 * k, 16 * depth);
        for (int i = 0; i < BLOCK; i++)
            for (int j = 0; j < VECTORS; j++)
                _mm512_store_si512(sum[i] + n + 16 * j, (__m512i)s[i][j]);
    }
}

int avt_cpu_has_vnni(void)
{
    return __builtin_cpu_supports("avx512vnni");
}

int avt_vnni_linear8(Backend *be, const OpCall *c)
{
    static const Level8 level = { BLOCK, copy_rows, block_sums, NULL, NULL };

    return linear8(&level, be, c);
}
