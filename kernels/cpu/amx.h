/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Level amx: bf16 in tiles. What its files share, and the products in tiles_amx.c, by which linear_amx.c, conv3d_amx.c and conv1d_amx.c
 * live: rows that lie somewhere in memory, a fixed step apart, meet a packed weight; the sums are f32 and become results when complete.
 *
 *   A  16 rows of 32 numbers, where they are          B  16 pairs of rows by 16 columns, a pair side by side: 1 KB, packed
 *   sum[16][16] += A B                                 four sums at a time: 2 x 2, or 4 x 1 where one tile of columns is left
 *
 * A packed weight is [columns / 16][runs][deep] tiles B. A run is what lies side by side in the rows: all of a row in a product, the
 * kernel's width times the channels in a convolution. It is filled up with zeros to whole tiles. Rows are then read beyond their runs:
 * what is there must belong to the reader and be a number, as infinity times zero is none.
 *
 * A sum is taken by one thread, run after run, so that bits depend neither on the threads nor on its place in a tile.
 */
#ifndef AVT_CPU_AMX_H
#define AVT_CPU_AMX_H

#include "cpu/plain.h"

enum {
    SIDE = 16, DEEP = 32,               // rows of a tile, numbers in a row of A
    TILE16 = SIDE * DEEP,               // numbers of bf16 in a tile
    TILE32 = SIDE * SIDE,               // of f32
    SUMS = 4                            // tiles of sums in a block
};

typedef struct Rows {                   // a tile of rows
    const uint16_t *at;
    int64_t step;                       // numbers from a row to the next
    int64_t to, nb;                     // they give rows to .. to + nb - 1 of the result; nb <= SIDE
} Rows;

typedef struct Tiles {                  // a product of some tiles of rows with some columns
    const void *ctx;
    Rows (*rows)(const void *ctx, int64_t i);
    int64_t nb;                         // tiles of rows
    int64_t first, end;                 // columns of the result; others of their tiles are left alone
    const uint16_t *w;                  // packed weight
    int64_t w_step;                     // numbers from a column of its tiles to the next
    const int64_t *at;                  // numbers from a row's beginning to each run
    int64_t run, end_run, deep;         // the runs to sum; tiles of each
    float *sum;                         // two blocks; all of them if sums are kept
    int add, keep;                      // go on with the sums that are there; leave them there, without a result
    const float *bias, *gate;           // out = act(sum + bias) * gate + res; or NULL
    Act act;
    Tensor res, out;                    // as rows of `width` numbers; res may be AVT_NONE
    int64_t width;
} Tiles;

/** Around avt_amx_multiply(), in the thread that calls it. */
void avt_amx_open(void);
void avt_amx_close(void);
void avt_amx_multiply(const Tiles *t);

/** How a weight of bf16 for a linear or a convolution is stored. */
size_t avt_amx_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
int    avt_amx_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);

/* One file each; all are CpuOp. Calls whose x is f32 are left to avt_cpu_widened(). */
int avt_amx_attention(Backend *be, const OpCall *c);
int avt_amx_linear(Backend *be, const OpCall *c);
int avt_amx_conv3d(Backend *be, const OpCall *c);
int avt_amx_conv1d(Backend *be, const OpCall *c);

#endif
