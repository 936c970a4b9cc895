/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Products of i8, sums in 32 bits, by VNNI or by AMX: what the two share. out[M, N] = act(x w^T + b) * gate + res.
 *
 *   w      [N / 16][K / 64][16 quads of k][16 columns][4]: an instruction's operand is 64 bytes in a row, a tile of AMX 1 KB; then the sums
 *          of the columns, i32. N is filled up to 64, K to 64, with zeros
 *   piece  some rows, as long as they stay in the second cache, by some columns; the rows are copied, in the order that a level wants
 *   block  BLOCK rows by 64 columns of sums, over all of K
 *
 * A sum is exact, so bits depend neither on threads nor on how a product is cut.
 */
#ifndef AVT_CPU_CODES8_H
#define AVT_CPU_CODES8_H

#include "cpu/plain.h"

enum { TILE8_SIDE = 16, TILE8_DEEP = 64, GROUP8 = 64 };             // columns of a tile, numbers of its rows; columns of a block

static inline int64_t avt_codes8_depth(int64_t k)
{
    return (k + TILE8_DEEP - 1) / TILE8_DEEP * TILE8_DEEP;
}

static inline int64_t avt_codes8_columns(int64_t n)
{
    return (n + GROUP8 - 1) / GROUP8 * GROUP8;
}

size_t avt_codes8_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
int    avt_codes8_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);

/* One file each; CpuOp of products of i8, and of an attention whose queries and keys are such codes. */
int avt_vnni_linear8(Backend *be, const OpCall *c);
int avt_amx_linear8(Backend *be, const OpCall *c);
int avt_vnni_attention8(Backend *be, const OpCall *c);
/** Does this machine have what they are made of, besides their level? */
int avt_cpu_has_vnni(void);
int avt_cpu_has_amx8(void);

#endif
