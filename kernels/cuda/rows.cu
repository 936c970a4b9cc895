/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * gather, transpose, lerp_rows, layer_mix: rows picked out of a table or mixed with each other.
 *
 *   gather      out[n, D] = table[ids[n], D]; ids out of range give zeros
 *   transpose   out[B, A, C] = x[A, B, C]: row b A + a is row a B + b
 *   lerp_rows   out[n, D] = (1 - w[n]) x[i[n], D] + w[n] x[min(i[n] + 1, last), D]; i < 0 gives zeros
 *   layer_mix   out[T, C] = sum_l x[T, L, C] silu(w[l]) / sum_l silu(w[l])
 *
 * One read, one write. The turned views of the published model have rows of 128 to 5120 numbers, so a row is copied as it lies; rows of a few
 * numbers are read in pieces of 32 bytes, of which they use a part.
 */
#include "cuda/kernel.cuh"

/* ---- gather, transpose ---------------------------------------------------------------------------------------------------------- */

/* Where row r of the result comes from; -1: nowhere */
struct ById {
    const int32_t *ids;
    int64_t rows;
    __device__ __forceinline__ int64_t operator()(int64_t r) const { return ids[r] < rows ? ids[r] : -1; }
};

struct Turned {
    int64_t a, b;
    __device__ __forceinline__ int64_t operator()(int64_t r) const { return r % a * b + r / a; }
};

template <class TO, class TI, class S, class From> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
pick_kernel(TO *out, const TI *x, From from, int64_t rows, int64_t width)
{
    EACH_ROW(r, rows) {
        const int64_t source = from(r);

        EACH_PACK(at, width, S::V) {
            float v[S::V];

            load_pack<S::V, S::WIDE>(v, x + (source < 0 ? 0 : source) * width + at, source < 0 ? 0 : width - at);
            store_pack<S::V, S::WIDE>(out + r * width + at, v, width - at);
        }
    }
}

template <class TO, class TI, class S, class From> static int launch_pick(Backend *be, const OpCall *c, From from, int64_t rows, int64_t width)
{
    const Cuda *cuda = avt_cuda(be);
    const Span s = span_of(cuda, rows, divide_up(width, S::V));

    return avt_cuda_check(be, LAUNCH((pick_kernel<TO, TI, S, From>), s.grid, s.block, 0, cuda->stream, (TO *)c->out.data,
                                     (const TI *)c->x.data, from, rows, width), avt_op_name(c->op));
}

static int run_gather(Backend *be, const OpCall *c)
{
    const int64_t rows = c->out.dim[0], width = c->out.dim[1];
    const ById from = { (const int32_t *)c->gather.ids.data, c->gather.table.dim[0] };

    return by_type(c->out.dtype, [&](auto to) {
        return by_type(c->x.dtype, [&](auto as) {
            using TO = TYPE(to);
            using TI = TYPE(as);
            constexpr int V = wide_pack<TO, TI>;

            return aligned16(c->out.data, c->x.data) && width % V == 0 ? launch_pick<TO, TI, Shape<V, true>>(be, c, from, rows, width)
                                                                       : launch_pick<TO, TI, Shape<1, false>>(be, c, from, rows, width);
        });
    });
}

static int run_transpose(Backend *be, const OpCall *c)
{
    const int64_t rows = c->out.dim[0] * c->out.dim[1], width = c->out.dim[2];
    const Turned from = { c->x.dim[0], c->x.dim[1] };

    return by_type(c->out.dtype, [&](auto as) {
        using T = TYPE(as);
        constexpr int V = wide_pack<T>;

        return aligned16(c->out.data, c->x.data) && width % V == 0 ? launch_pick<T, T, Shape<V, true>>(be, c, from, rows, width)
                                                                   : launch_pick<T, T, Shape<1, false>>(be, c, from, rows, width);
    });
}

/* ---- lerp_rows, layer_mix: sums of rows ------------------------------------------------------------------------------------------ */

/* Row r of the result is the sum of nb(r) rows of x: row(r, k) times part(r, k). */
struct Lerp {
    const int32_t *index;
    const float *weight;
    int64_t last;
    __device__ __forceinline__ int nb(int64_t r) const { return index[r] < 0 ? 0 : 2; }
    __device__ __forceinline__ int64_t row(int64_t r, int k) const { return min((int64_t)index[r] + k, last); }
    __device__ __forceinline__ float part(int64_t r, int k, double) const { return k ? weight[r] : 1 - weight[r]; }
    __device__ __forceinline__ double total() const { return 1; }
};

struct Mix {
    const float *weight;
    int layers;
    __device__ __forceinline__ double silu(int k) const { return weight[k] / (1 + exp(-(double)weight[k])); }
    __device__ __forceinline__ int nb(int64_t) const { return layers; }
    __device__ __forceinline__ int64_t row(int64_t r, int k) const { return r * layers + k; }
    __device__ __forceinline__ float part(int64_t, int k, double total) const { return (float)(silu(k) / total); }
    __device__ __forceinline__ double total() const
    {
        double sum = 0;                 // weights of both signs may almost cancel

        for (int k = 0; k < layers; k++)
            sum += silu(k);
        return sum;
    }
};

template <class TO, class TI, class S, class Parts> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
mix_kernel(TO *out, const TI *x, Parts parts, int64_t rows, int64_t width)
{
    const double total = parts.total();

    EACH_ROW(r, rows) {
        EACH_PACK(at, width, S::V) {
            float sum[S::V] = { 0 };

            for (int k = 0; k < parts.nb(r); k++) {
                const float part = parts.part(r, k, total);
                float v[S::V];

                load_pack<S::V, S::WIDE>(v, x + parts.row(r, k) * width + at, width - at);
#pragma unroll
                for (int i = 0; i < S::V; i++)
                    sum[i] += part * v[i];
            }
            store_pack<S::V, S::WIDE>(out + r * width + at, sum, width - at);
        }
    }
}

template <class TO, class TI, class S, class Parts> static int launch_mix(Backend *be, const OpCall *c, Parts parts)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t rows = c->out.dim[0], width = c->out.dim[1];
    const Span s = span_of(cuda, rows, divide_up(width, S::V));

    return avt_cuda_check(be, LAUNCH((mix_kernel<TO, TI, S, Parts>), s.grid, s.block, 0, cuda->stream, (TO *)c->out.data,
                                     (const TI *)c->x.data, parts, rows, width), avt_op_name(c->op));
}

template <class Parts> static int run_mix(Backend *be, const OpCall *c, Parts parts)
{
    return by_type(c->out.dtype, [&](auto to) {
        return by_type(c->x.dtype, [&](auto as) {
            using TO = TYPE(to);
            using TI = TYPE(as);
            constexpr int V = wide_pack<TO, TI>;

            return aligned16(c->out.data, c->x.data) && c->out.dim[1] % V == 0 ? launch_mix<TO, TI, Shape<V, true>>(be, c, parts)
                                                                               : launch_mix<TO, TI, Shape<1, false>>(be, c, parts);
        });
    });
}

int avt_cuda_rows(Backend *be, const OpCall *c)
{
    if (!avt_numel(c->out))
        return 0;
    switch (c->op) {
    case OP_GATHER:
        return run_gather(be, c);
    case OP_TRANSPOSE:
        return run_transpose(be, c);
    case OP_LERP_ROWS:
        return run_mix(be, c, Lerp{ (const int32_t *)c->lerp.i.data, (const float *)c->lerp.w.data, c->lerp.x.dim[0] - 1 });
    default:
        return run_mix(be, c, Mix{ (const float *)c->mix.w.data, (int)c->mix.x.dim[1] });
    }
}
