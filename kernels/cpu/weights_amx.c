/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Weights of bf16 for AMX, packed as amx.h says, whatever they are for: the source is [Cout][Cin][runs][taps], a run [taps][Cin]. */
#include <string.h>

#include "base/half.h"
#include "cpu/amx.h"

typedef struct Packing {
    int64_t cout, cin, runs, taps;
    int64_t deep;                       // tiles of a run
} Packing;

static Packing packing_of(WeightUse use, const int64_t *dim)
{
    Packing p = { .cout = dim[0], .cin = dim[1], .runs = use == WEIGHT_CONV3D ? dim[2] * dim[3] : 1,
                  .taps = use == WEIGHT_CONV3D ? dim[4] : use == WEIGHT_CONV1D ? dim[2] : 1 };

    p.deep = (p.taps * p.cin + DEEP - 1) / DEEP;
    return p;
}

static size_t bytes_of(const Packing *p)
{
    return (size_t)((p->cout + SIDE - 1) / SIDE * p->runs * p->deep * TILE16) * sizeof(uint16_t);
}

size_t avt_amx_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    const Packing p = packing_of(use, dim);

    return use == WEIGHT_PLAIN ? avt_plain_weight_bytes(be, use, act, dtype, nd, dim) : bytes_of(&p);
}

/* Channel o of the result into its column of the tiles */
static void pack_column(const Packing *p, uint16_t *to, DType dtype, const void *src, int64_t o)
{
    const int64_t nb = p->cin * p->runs * p->taps;
    int64_t cin = 0, run = 0, tap = 0;
    float piece[CHUNK];

    for (int64_t i = 0; i < nb; i += CHUNK) {
        const int64_t some = min_i64(CHUNK, nb - i);

        avt_to_f32(piece, dtype, src, o * nb + i, some);
        for (int64_t j = 0; j < some; j++) {
            const uint64_t k = (uint64_t)(tap * p->cin + cin), tile = (uint64_t)(run * p->deep) + k / DEEP;

            to[tile * TILE16 + k % DEEP / 2 * 2 * SIDE + k % 2] = avt_f32_bf16(piece[j]);
            tap = tap + 1 < p->taps ? tap + 1 : 0;
            run = tap ? run : run + 1 < p->runs ? run + 1 : 0;
            cin += !tap && !run;
        }
    }
}

/* Numbers k .. k + nb - 1 of a row of the source, in bf16, filled up with zeros to CHUNK */
static void take_row(uint16_t to[CHUNK], DType dtype, const void *src, int64_t at, int64_t nb)
{
    float piece[CHUNK];

    if (dtype == DT_BF16) {
        memcpy(to, (const char *)src + 2 * at, 2 * (size_t)nb);
    } else {
        avt_to_f32(piece, dtype, src, at, nb);
        for (int64_t i = 0; i < nb; i++)
            to[i] = avt_f32_bf16(piece[i]);
    }
    memset(to + nb, 0, (size_t)(CHUNK - nb) * sizeof(*to));
}

/* Sixteen rows of a product's weight: a tile is their turned square of words, a word being a pair of numbers. */
static void pack_rows(const Packing *p, uint16_t *to, DType dtype, const void *src, int64_t o)
{
    const int64_t rows = min_i64(SIDE, p->cout - o);
    uint16_t row[SIDE][CHUNK];

    memset(row, 0, sizeof(row));
    for (int64_t k = 0; k < p->cin; k += CHUNK) {
        for (int64_t r = 0; r < rows; r++)
            take_row(row[r], dtype, src, (o + r) * p->cin + k, min_i64(CHUNK, p->cin - k));
        for (int64_t t = 0; t < CHUNK && k + t < p->deep * DEEP; t += DEEP, to += TILE16) {
            uint32_t turned[SIDE][SIDE];

            for (int r = 0; r < SIDE; r++) {
                uint32_t word[SIDE];

                memcpy(word, row[r] + t, sizeof(word));
                for (int i = 0; i < SIDE; i++)
                    turned[i][r] = word[i];
            }
            memcpy(to, turned, sizeof(turned));
        }
    }
}

int avt_amx_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const Packing p = packing_of(use, dst->dim);
    const int64_t group = p.runs * p.deep * TILE16;

    if (use == WEIGHT_PLAIN || dtype > DT_F64)
        return avt_plain_weight_put(be, dst, use, dtype, src);
    dst->dtype = DT_BF16;
    if (!src || !avt_numel(*dst))
        return 0;
    if (use == WEIGHT_LINEAR) {
#pragma omp parallel for num_threads(be->threads)
        for (int64_t o = 0; o < p.cout; o += SIDE)
            pack_rows(&p, (uint16_t *)dst->data + o / SIDE * group, dtype, src, o);
        return 0;
    }
    memset(dst->data, 0, bytes_of(&p));
#pragma omp parallel for num_threads(be->threads)
    for (int64_t o = 0; o < p.cout; o++)
        pack_column(&p, (uint16_t *)dst->data + o / SIDE * group + o % SIDE * 2, dtype, src, o);
    return 0;
}
