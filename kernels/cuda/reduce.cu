/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * count_nonfinite: out i32 [1] = how many elements are NaN or infinite, at most 2^31 - 1.
 *
 * Lanes count, warps add, and a warp that has found any adds to the result: none of them in a healthy tensor. Floor: one read.
 */
#include "cuda/kernel.cuh"

static __device__ __forceinline__ int is_bad(float v)
{
    return (__float_as_uint(v) & 0x7f800000) == 0x7f800000;
}

/* *total += n, which stays at the largest int */
static __device__ __forceinline__ void add_saturating(int *total, int n)
{
    int seen = 0, want;

    do {
        want = seen;
        seen = atomicCAS(total, want, want > INT32_MAX - n ? INT32_MAX : want + n);
    } while (seen != want);
}

template <class T, class S> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
count_nonfinite_kernel(int *total, const T *x, int64_t nb)
{
    int bad = 0;

    EACH_PACK(at, nb, S::V) {
        float v[S::V];

        load_pack<S::V, S::WIDE>(v, x + at, nb - at);
#pragma unroll
        for (int i = 0; i < S::V; i++)
            bad += is_bad(v[i]);
    }
    for (int o = 16; o; o >>= 1)
        bad += __shfl_xor_sync(FULL, bad, o);
    if (bad && threadIdx.x % 32 == 0)
        add_saturating(total, bad);
}

template <class T, class S> static int launch_count(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t nb = avt_numel(c->x), packs = divide_up(nb, S::V), most = (int64_t)SPAN_BLOCKS * cuda->multiprocessors;
    const dim3 grid(at_most(divide_up(packs, SPAN_THREADS), most));          // of whole warps, however few the packs

    return avt_cuda_check(be, LAUNCH((count_nonfinite_kernel<T, S>), grid, dim3(SPAN_THREADS), 0, cuda->stream, (int *)c->out.data,
                                     (const T *)c->x.data, nb), "count_nonfinite");
}

int avt_cuda_count_nonfinite(Backend *be, const OpCall *c)
{
    const int ret = avt_cuda_check(be, cudaMemsetAsync(c->out.data, 0, sizeof(int32_t), avt_cuda(be)->stream), "count_nonfinite");

    if (ret < 0 || !avt_numel(c->x))
        return ret;
    return by_type(c->x.dtype, [&](auto as) {
        using T = TYPE(as);

        return aligned16(c->x.data) ? launch_count<T, Shape<wide_pack<T>, true>>(be, c) : launch_count<T, Shape<1, false>>(be, c);
    });
}
