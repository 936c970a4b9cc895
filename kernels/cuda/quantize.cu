/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * quantize: codes and scales of rows (quantize.h), the same bits as the host's; of an activation, or of a product's sums, finished.
 *
 * A team of warps has a row: up to 16384 numbers stay in registers, turned, from the first look (for the largest) to the codes; longer rows,
 * and those that begin at odd addresses, are read and turned twice.
 *
 * Floor: one read, a byte a number written. 3168 x 5120 in bf16 (H100, 3.35 TB/s): 49 MB, 15 us; 3168 x 13824: 39 us. R is 52 shuffles
 * for 256 numbers: 63360 groups over 132 multiprocessors, one a clock each, 14 us, which hides behind the memory. Of sums in i32,
 * 3168 x 13824: 219 MB, 65 us; by way of an activation in bf16 394 MB, 118 us.
 */
#include "cuda/codes.cuh"
#include "cuda/product.cuh"

enum { CODE_HELD = 4, CODE_TEAM = 512, CODE_BLOCK = 128 };

typedef struct Quantize {
    CodeRows codes;
    int64_t rows, width;
    int team;                           // threads of a row: whole warps
} Quantize;

/* Where numbers come from: pack `at` of row r, of which `left` are there. An activation, */
template <class T> struct Numbers {
    const T *x;

    template <bool WIDE> __device__ __forceinline__ void take(float v[CODE_PACK], int64_t r, int64_t width, int64_t at, int64_t left) const
    {
        load_pack<CODE_PACK, WIDE>(v, x + r * width + at, left);
    }
};

static __device__ __forceinline__ void load_sums(float v[CODE_PACK], const float *p) { load_pack<CODE_PACK, true>(v, p, CODE_PACK); }

static __device__ __forceinline__ void load_sums(float v[CODE_PACK], const int32_t *p)
{
#pragma unroll
    for (int i = 0; i < CODE_PACK; i += 4) {
        const uint4 u = ld16(p + i);

        v[i] = (float)(int)u.x;
        v[i + 1] = (float)(int)u.y;
        v[i + 2] = (float)(int)u.z;
        v[i + 3] = (float)(int)u.w;
    }
}

/* or sums of codes, with what finished() (product.cuh) does to each. */
template <class T> struct Sums {
    const T *x;
    Finish f;

    template <bool WIDE> __device__ __forceinline__ void take(float v[CODE_PACK], int64_t r, int64_t width, int64_t at, int64_t left) const
    {
        const float own = left > 0 ? f.own[r] : 0;
        float w[CODE_PACK];

        if (left <= 0)
            return clear_pack(v);
        load_sums(v, x + r * width + at);
        load_pack<CODE_PACK, true>(w, f.scale + at, CODE_PACK);
#pragma unroll
        for (int i = 0; i < CODE_PACK; i++)
            v[i] = __fmul_rn(v[i], own * w[i]);
        if (f.bias) {
            load_pack<CODE_PACK, true>(w, f.bias + at, CODE_PACK);
#pragma unroll
            for (int i = 0; i < CODE_PACK; i++)
                v[i] = __fadd_rn(v[i], w[i]);
        }
        act_pack<float, CODE_PACK>(v, f.act);
        round_pack(v);
    }
};

/* One thread's packs of a row, the whole warp together: a warp goes on as long as one of its lanes has numbers. */
template <class X, class S> struct CodeRow {
    const X &x;
    int64_t r, width, step, first, warp;
    int group;
    float held[S::WIDE ? CODE_HELD : 1][CODE_PACK];

    __device__ __forceinline__ CodeRow(const Quantize &q, const X &x, int64_t r)
        : x(x), r(r), width(r < q.rows ? q.width : 0), step((int64_t)q.team * CODE_PACK),
          first((int64_t)(threadIdx.x % q.team) * CODE_PACK), warp(first / 256 * 256), group(q.codes.group)
    {
    }

    __device__ __forceinline__ void take(float v[CODE_PACK], int64_t at)
    {
        x.template take<S::WIDE>(v, r, width, at, width - at);
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

template <class X, class S> static __global__ void __launch_bounds__(CODE_TEAM, 1) quantize_kernel(Quantize q, X x)
{
    SMEM_STATIC(float, part, 64);
    const int nb = blockDim.x / q.team;

    for (int64_t base = (int64_t)blockIdx.x * nb; base < q.rows; base += (int64_t)gridDim.x * nb) {
        const int64_t r = base + threadIdx.x / q.team;
        float top[2] = { 0, 0 };
        CodeRow<X, S> row(q, x, r);

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

/* ---- launching -------------------------------------------------------------------------------------------------------------- */

static Quantize quantize_of(Tensor out, int64_t rows)
{
    const int64_t width = avt_last_dim(out), lanes = divide_up(divide_up(width, CODE_PACK), CODE_HELD);

    return { code_rows(out, width, (int)avt_code_group(out.dtype, width)), rows, width, (int)at_most(divide_up(lanes, 32) * 32, CODE_TEAM) };
}

static bool is_held(int64_t width)
{
    return width % CODE_PACK == 0 && width <= (int64_t)CODE_TEAM * CODE_HELD * CODE_PACK;
}

template <class S, class X> static int launch(Backend *be, const Quantize &q, const X &x, const char *name)
{
    const Cuda *cuda = avt_cuda(be);
    const unsigned block = (unsigned)(q.team > 32 ? q.team : (int)CODE_BLOCK);
    const unsigned grid = at_most(divide_up(q.rows, block / (unsigned)q.team), (int64_t)SPAN_BLOCKS * cuda->multiprocessors);

    return avt_cuda_check(be, LAUNCH((quantize_kernel<X, S>), grid, block, 0, cuda->stream, q, x), name);
}

int avt_cuda_quantize(Backend *be, const OpCall *c)
{
    const Quantize q = quantize_of(c->out, avt_rows_of(c->out));
    const bool wide = aligned16(c->x.data) && is_held(q.width);

    if (!avt_numel(c->out))
        return 0;
    return by_type(c->x.dtype, [&](auto from) {
        const Numbers<TYPE(from)> x = { (const TYPE(from) *)c->x.data };

        return wide ? launch<Shape<CODE_PACK, true>>(be, q, x, "quantize") : launch<Shape<CODE_PACK, false>>(be, q, x, "quantize");
    });
}

bool avt_cuda_can_finish_codes(const Finish *f, int64_t n)
{
    return is_held(n) && aligned16(f->scale, f->bias) && f->own && f->dtype == DT_BF16 && !f->gate && !f->res;
}

int avt_cuda_finish_codes(Backend *be, Tensor out, const void *v, DType sums, const Finish *f, int64_t first, int64_t rows)
{
    Quantize q = quantize_of(out, rows);

    q.codes.code += first * q.width;
    q.codes.scale += first;
    if (sums == DT_I32)
        return launch<Shape<CODE_PACK, true>>(be, q, Sums<int32_t>{ (const int32_t *)v, *f }, "finishing a product as codes");
    return launch<Shape<CODE_PACK, true>>(be, q, Sums<float>{ (const float *)v, *f }, "finishing a product as codes");
}

/* ---- ops that give codes ----------------------------------------------------------------------------------------------------- */

OpCall avt_cuda_numbers(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    OpCall numbers = *c;

    if (avt_op_gives_codes(c)) {
        numbers = avt_op_numbers(c, NULL);
        numbers.out.data = (char *)cuda->workspace + avt_cuda_workspace(&numbers, cuda->arch);
    }
    return numbers;
}

int avt_cuda_codes_of(Backend *be, const OpCall *c, const OpCall *numbers, int ret)
{
    const OpCall codes = avt_op_codes(c, numbers->out);

    return ret < 0 || !avt_op_gives_codes(c) ? ret : avt_cuda_quantize(be, &codes);
}

int avt_cuda_codes_apart(Backend *be, const OpCall *c, int (*op)(Backend *be, const OpCall *c))
{
    const OpCall numbers = avt_cuda_numbers(be, c);

    return avt_cuda_codes_of(be, c, &numbers, op(be, &numbers));
}
