/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bf16 defined by f32: what is bf16 is widened into a buffer, the table's f32 op runs, the result is rounded once, to nearest, ties
 * to even. Every op at every level has this; a level that reads and writes bf16 itself overwrites its entry of op16. So are the keys of an
 * attention that are codes; a level that multiplies bf16 may have them widened to that.
 *
 * Trap: an operand that is the result itself (in place) is widened into a place of its own, and the op no longer works in place;
 * its numbers are the same. Weights (packed) stay as they are: they were put for bf16 activations.
 */
#include "base/half.h"
#include "cpu/plain.h"
#include "quantize.h"

static size_t room_of(Tensor t)
{
    return t.be && !t.packed && (t.dtype == DT_BF16 || t.scale) ? ((size_t)avt_numel(t) * sizeof(float) + 63) / 64 * 64 : 0;
}

/* Codes, a row of each head, to f32 or bf16. */
static void decode(Backend *be, Tensor dst, Tensor src)
{
    const int64_t rows = avt_rows_of(src), k = avt_last_dim(src);

#pragma omp parallel for num_threads(be->threads) if (rows * k > PARALLEL_MIN)
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *codes = (const uint8_t *)src.data + r * k;
        const float scale = ((const float *)src.scale)[r];
        uint16_t *to = (uint16_t *)dst.data + r * k;

        if (dst.dtype == DT_F32)
            avt_widen_row((float *)dst.data + r * k, src.dtype, codes, scale, k);
        else
#pragma omp simd
            for (int64_t i = 0; i < k; i++)
                to[i] = avt_f32_bf16(avt_e4m3_f32(codes[i]) * scale);
    }
}

static void widen(Backend *be, Tensor dst, Tensor src)
{
    float *restrict to = dst.data;
    const uint16_t *restrict from = src.data;
    const int64_t nb = avt_numel(src);

    if (src.scale)
        decode(be, dst, src);
    else
#pragma omp parallel for simd num_threads(be->threads) if (parallel : nb > 4 * PARALLEL_MIN)
        for (int64_t i = 0; i < nb; i++)
            to[i] = avt_bf16_f32(from[i]);
}

static void narrow(Backend *be, uint16_t *restrict dst, const float *restrict src, int64_t nb)
{
#pragma omp parallel for simd num_threads(be->threads) if (parallel : nb > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++)
        dst[i] = avt_f32_bf16(src[i]);
}

static Tensor as_f32(Tensor t, char **room)
{
    t.data = *room;
    *room += room_of(t);
    t.dtype = DT_F32;
    t.scale = NULL;
    return t;
}

int avt_cpu_decode_keys(Backend *be, OpCall *c)
{
    for (int i = 1; i < 5; i++) {
        Tensor t = c->in[i];

        if (!t.scale)
            continue;
        t.dtype = DT_BF16;
        t.scale = NULL;
        t.data = avt_cpu_work(be, avt_nbytes(t));
        if (t.data)
            decode(be, t, c->in[i]);
        else if (!((Cpu *)be->priv)->measuring)
            return AVT_ERR(ENOMEM);
        c->in[i] = t;
    }
    return 0;
}

int avt_cpu_widened(Backend *be, const OpCall *c)
{
    Cpu *cpu = be->priv;
    size_t size = room_of(c->out);
    OpCall wide = *c;
    char *room;
    int ret;

    for (int i = 0; i < OP_MAX_IN; i++)
        size += room_of(c->in[i]);
    room = avt_cpu_work(be, size);
    if (cpu->measuring)
        room = (char *)(uintptr_t)64;                               // addresses that differ: an op asks whether it works in place
    if (!room)
        return AVT_ERR(ENOMEM);
    for (int i = 0; i < OP_MAX_IN; i++)
        if (room_of(c->in[i])) {
            wide.in[i] = as_f32(c->in[i], &room);
            if (!cpu->measuring)
                widen(be, wide.in[i], c->in[i]);
        }
    if (room_of(c->out))
        wide.out = as_f32(c->out, &room);
    if (cpu->measuring && !avt_cpu_wants(cpu, c->op))
        return 0;
    ret = cpu->op[c->op](be, &wide);
    if (ret >= 0 && !cpu->measuring && !avt_cpu_given_up(be) && c->out.dtype == DT_BF16)
        narrow(be, c->out.data, wide.out.data, avt_numel(c->out));
    return ret;
}
