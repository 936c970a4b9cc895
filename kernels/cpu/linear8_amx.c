/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Products of i8 in AMX tiles: two of rows by two of columns at a time. The rows of a piece are copied into tiles of 1 KB. */
#include <cpuid.h>
#include <string.h>

#include "cpu/amx.h"
#include "cpu/linear8.inc.h"

enum { BLOCK = MOST };

static void copy_rows(int8_t *to, const int8_t *x, int64_t k, int64_t nb, int64_t depth)
{
    for (int64_t r = 0; r < (nb + BLOCK - 1) / BLOCK * BLOCK; r++)
        for (int64_t i = 0; i < depth; i += 64) {
            int8_t *row = to + r / 16 * 16 * depth + i * 16 + r % 16 * 64;
            const int64_t some = r < nb ? min_i64(64, k - i) : 0;

            memcpy(row, some ? x + r * k + i : x, (size_t)some);
            memset(row + some, 0, (size_t)(64 - some));
        }
}

static void block_sums(int32_t (*sum)[GROUP8], const int8_t *rows, const int8_t *w, const int32_t *all, int64_t depth)
{
    const int8_t *a = rows, *b = rows + 16 * depth;

    (void)all;
    for (int half = 0; half < 2; half++, w += 32 * depth) {
        __asm__ volatile("" ::: "memory");                          // gcc does not know that tiles are loaded from memory
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t k = 0; k < 16 * depth; k += 1024) {
            _tile_loadd(4, a + k, 64);
            _tile_loadd(6, w + k, 64);
            _tile_dpbssd(0, 4, 6);
            _tile_loadd(7, w + 16 * depth + k, 64);
            _tile_dpbssd(1, 4, 7);
            _tile_loadd(5, b + k, 64);
            _tile_dpbssd(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
        _tile_stored(0, sum[0] + 32 * half, 256);
        _tile_stored(1, sum[0] + 32 * half + 16, 256);
        _tile_stored(2, sum[16] + 32 * half, 256);
        _tile_stored(3, sum[16] + 32 * half + 16, 256);
        __asm__ volatile("" ::: "memory");
    }
}

int avt_cpu_has_amx8(void)
{
    unsigned a, b, c, d = 0;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & 1u << 25);
}

int avt_amx_linear8(Backend *be, const OpCall *c)
{
    static const Level8 level = { BLOCK, copy_rows, block_sums, avt_amx_open, avt_amx_close };

    return linear8(&level, be, c);
}
