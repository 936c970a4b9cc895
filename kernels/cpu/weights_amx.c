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

int avt_amx_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const Packing p = packing_of(use, dst->dim);
    const int64_t group = p.runs * p.deep * TILE16;

    if (use == WEIGHT_PLAIN || dtype > DT_F64)
        return avt_plain_weight_put(be, dst, use, dtype, src);
    dst->dtype = DT_BF16;
    if (!src || !avt_numel(*dst))
        return 0;
    memset(dst->data, 0, bytes_of(&p));
#pragma omp parallel for num_threads(be->threads)
    for (int64_t o = 0; o < p.cout; o++)
        pack_column(&p, (uint16_t *)dst->data + o / SIDE * group + o % SIDE * 2, dtype, src, o);
    return 0;
}
