/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * quantize: codes and scales of rows (quantize.h), the same bits as the host's.
 *
 * A team of warps has a row: up to 16384 numbers stay in registers, turned, from the first look (for the largest) to the codes; longer rows,
 * and those that begin at odd addresses, are read and turned twice.
 *
 * Floor: one read, a byte a number written. 3168 x 5120 in bf16 (H100, 3.35 TB/s): 49 MB, 15 us; 3168 x 13824: 39 us. R is 52 shuffles
 * for 256 numbers: 63360 groups over 132 multiprocessors, one a clock each, 14 us, which hides behind the memory.
 */
#include "cuda/codes.cuh"

enum { CODE_HELD = 4, CODE_TEAM = 512, CODE_BLOCK = 128 };

typedef struct Quantize {
    CodeRows codes;
    const void *x;
    int64_t rows, width;
    int team;                           // threads of a row: whole warps
} Quantize;

/* One thread's packs of a row, the whole warp together: a warp goes on as long as one of its lanes has numbers. */
template <class T, class S> struct CodeRow {
    const T *x;
    int64_t width, step, first, warp;
    int group;
    float held[S::WIDE ? CODE_HELD : 1][CODE_PACK];

    __device__ __forceinline__ CodeRow(const Quantize &q, int64_t r)
        : x((const T *)q.x + r * q.width), width(r < q.rows ? q.width : 0), step((int64_t)q.team * CODE_PACK),
          first((int64_t)(threadIdx.x % q.team) * CODE_PACK), warp(first / 256 * 256), group(q.codes.group)
    {
    }

    __device__ __forceinline__ void take(float v[CODE_PACK], int64_t at)
    {
        load_pack<CODE_PACK, S::WIDE>(v, x + at, width - at);
        rotate_pack(v, group);
    }

    template <class F> __device__ __forceinline__ void each(bool again, F f)
    {
        if (S::WIDE) {
#pragma unroll
            for (int i = 0; i < CODE_HELD; i++)
                if (warp + i * step < width) {
                    if (!again)
                        take(held[i], first + i * step);
                    f(held[i], first + i * step);
                }
        } else {
            for (int64_t at = first, of_warp = warp; of_warp < width; at += step, of_warp += step) {
                take(held[0], at);
                f(held[0], at);
            }
        }
    }
};

template <class T, class S> static __global__ void __launch_bounds__(CODE_TEAM, 1) quantize_kernel(Quantize q)
{
    SMEM_STATIC(float, part, 64);
    const int nb = blockDim.x / q.team;

    for (int64_t base = (int64_t)blockIdx.x * nb; base < q.rows; base += (int64_t)gridDim.x * nb) {
        const int64_t r = base + threadIdx.x / q.team;
        float top[2] = { 0, 0 };
        CodeRow<T, S> row(q, r);

        row.each(false, [&](const float *v, int64_t) { see_pack(top, v); });
        team_top(top, q.team, part);
        row.each(true, [&](const float *v, int64_t at) {
            if (at < row.width)
                put_codes(q.codes, r, q.width, at, v, code_factor(top, q.codes.type));
        });
        if (r < q.rows && threadIdx.x % q.team == 0)
            q.codes.scale[r] = code_scale(top, q.codes.type);
    }
}

int avt_cuda_quantize(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t width = avt_last_dim(c->out), packs = divide_up(width, CODE_PACK);
    const bool wide = aligned16(c->x.data) && width % CODE_PACK == 0 && packs <= (int64_t)CODE_TEAM * CODE_HELD;
    Quantize q = { code_rows(c->out, width, (int)avt_code_group(c->out.dtype, width)), c->x.data, avt_rows_of(c->out), width, 0 };
    unsigned block, grid;

    if (!avt_numel(c->out))
        return 0;
    q.team = (int)at_most(divide_up(divide_up(packs, CODE_HELD), 32) * 32, CODE_TEAM);
    block = (unsigned)(q.team > 32 ? q.team : (int)CODE_BLOCK);
    grid = at_most(divide_up(q.rows, block / (unsigned)q.team), (int64_t)SPAN_BLOCKS * cuda->multiprocessors);
    return by_type(c->x.dtype, [&](auto from) {
        using T = TYPE(from);

        return avt_cuda_check(be, wide ? LAUNCH((quantize_kernel<T, Shape<CODE_PACK, true>>), grid, block, 0, cuda->stream, q) :
                                         LAUNCH((quantize_kernel<T, Shape<CODE_PACK, false>>), grid, block, 0, cuda->stream, q), "quantize");
    });
}
