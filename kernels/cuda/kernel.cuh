/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernels that are no product share: packs of numbers, activations, sums over a team of lanes, how work is spread.
 *
 *   pack    V neighbouring numbers of any float type, in registers as f32. Wide: their address is a multiple of 16 bytes, and V is how
 *           many of the narrowest type of the call 16 bytes hold, so that no access is smaller. Else a number at a time.
 *   team    the lanes that share a row: 1, 2, 4 .. 32 of a warp, several teams a block; or a block, of whole warps
 *   span    rows x packs over a grid of blocks of 256 threads, x along the row. Loops stride by the grid: any size fits any grid.
 *
 * A kernel is a template over the types of its result and operands and a Shape; by_type() and by_shape() pick it.
 */
#ifndef AVT_CUDA_KERNEL_CUH
#define AVT_CUDA_KERNEL_CUH

#include <math.h>

#include "cuda/cuda.h"
#include "cuda/values.cuh"

/* ---- packs ----------------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float to_f32(float v) { return v; }
static __device__ __forceinline__ float to_f32(bf16 v) { return __bfloat162float(v); }
static __device__ __forceinline__ float to_f32(__half v) { return __half2float(v); }
static __device__ __forceinline__ void from_f32(float *p, float v) { *p = v; }
/* Stored as bits: g++ does not show the bed what a call returns into memory. */
static __device__ __forceinline__ void from_f32(bf16 *p, float v) { *(unsigned short *)p = __bfloat16_as_ushort(__float2bfloat16_rn(v)); }
static __device__ __forceinline__ void from_f32(__half *p, float v) { *(unsigned short *)p = __half_as_ushort(__float2half_rn(v)); }

/* 16 bytes of a type: 4 or 8 numbers */
static __device__ __forceinline__ void unpack16(float v[4], uint4 u, float)
{
    v[0] = __uint_as_float(u.x);
    v[1] = __uint_as_float(u.y);
    v[2] = __uint_as_float(u.z);
    v[3] = __uint_as_float(u.w);
}

static __device__ __forceinline__ void unpack16(float v[8], uint4 u, bf16)
{
    const uint32_t word[4] = { u.x, u.y, u.z, u.w };

#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = bf_lo(word[i]);
        v[2 * i + 1] = bf_hi(word[i]);
    }
}

static __device__ __forceinline__ void unpack16(float v[8], uint4 u, __half)
{
    const uint32_t word[4] = { u.x, u.y, u.z, u.w };

#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = __half2float(__ushort_as_half((unsigned short)(word[i] & 0xffff)));
        v[2 * i + 1] = __half2float(__ushort_as_half((unsigned short)(word[i] >> 16)));
    }
}

static __device__ __forceinline__ uint4 pack16(const float v[4], float)
{
    return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3]));
}

static __device__ __forceinline__ uint4 pack16(const float v[8], bf16)
{
    return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

static __device__ __forceinline__ uint32_t pack_f16(float lo, float hi)
{
    return __half_as_ushort(__float2half_rn(lo)) | (uint32_t)__half_as_ushort(__float2half_rn(hi)) << 16;
}

static __device__ __forceinline__ uint4 pack16(const float v[8], __half)
{
    return make_uint4(pack_f16(v[0], v[1]), pack_f16(v[2], v[3]), pack_f16(v[4], v[5]), pack_f16(v[6], v[7]));
}

/* Numbers p[0 .. V), of which `left` are there; those behind are 0. */
template <int V, bool WIDE, class T> static __device__ __forceinline__ void load_pack(float v[V], const T *p, int64_t left)
{
    constexpr int step = 16 / (int)sizeof(T);

    static_assert(!WIDE || V % step == 0, "no access of a wide pack is smaller than 16 bytes");
    if (WIDE && left >= V) {
#pragma unroll
        for (int i = 0; i + step <= V; i += step)
            unpack16(v + i, ld16(p + i), T());
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            v[i] = i < left ? to_f32(p[i]) : 0;
    }
}

template <int V, bool WIDE, class T> static __device__ __forceinline__ void store_pack(T *p, const float v[V], int64_t left)
{
    constexpr int step = 16 / (int)sizeof(T);

    static_assert(!WIDE || V % step == 0, "no access of a wide pack is smaller than 16 bytes");
    if (WIDE && left >= V) {
#pragma unroll
        for (int i = 0; i + step <= V; i += step)
            st16(p + i, pack16(v + i, T()));
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            if (i < left)
                from_f32(p + i, v[i]);
    }
}

/* Pairs of a pack turned by t = cos, sin, cos, sin .. */
template <int V> static __device__ __forceinline__ void turn_pack(float v[V], const float t[V])
{
#pragma unroll
    for (int i = 0; i + 1 < V; i += 2) {
        const float a = v[i], b = v[i + 1];

        v[i] = __fadd_rn(__fmul_rn(a, t[i]), -__fmul_rn(b, t[i + 1]));          // told, so that every kernel has the same bits
        v[i + 1] = __fadd_rn(__fmul_rn(a, t[i + 1]), __fmul_rn(b, t[i]));
    }
}

/* ---- activations ------------------------------------------------------------------------------------------------------------- */

template <class TO, int V, Act ACT> static __device__ __forceinline__ void activate_each(float v[V])
{
#pragma unroll
    for (int i = 0; i < V; i++)
        v[i] = activate<TO>(ACT, v[i]);
}

/* v = act(v), for a result of type TO: one branch a pack */
template <class TO, int V> static __device__ __forceinline__ void act_pack(float v[V], Act act)
{
    switch (act) {
    case ACT_SILU:      return activate_each<TO, V, ACT_SILU>(v);
    case ACT_GELU_TANH: return activate_each<TO, V, ACT_GELU_TANH>(v);
    case ACT_GELU_ERF:  return activate_each<TO, V, ACT_GELU_ERF>(v);
    case ACT_CLAMP:     return activate_each<TO, V, ACT_CLAMP>(v);
    default:            return;
    }
}

/* ---- sums over a team -------------------------------------------------------------------------------------------------------- */

/*
 * v[i] = the sum of the team's v[i], the same bits in every lane. All threads of the block take part, those without a row with zeros.
 * part: shared, 32 N numbers; free again when the call returns.
 */
template <int N> static __device__ __forceinline__ void team_sum(float v[N], int team, float *part)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

#pragma unroll
    for (int i = 0; i < N; i++)
        for (int o = team < 32 ? team / 2 : 16; o; o >>= 1)
            v[i] += __shfl_xor_sync(FULL, v[i], o);
    if (team <= 32)
        return;
#pragma unroll
    for (int i = 0; i < N; i++)
        if (!lane)
            part[32 * i + warp] = v[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        v[i] = lane < team / 32 ? part[32 * i + lane] : 0;
        for (int o = 16; o; o >>= 1)
            v[i] += __shfl_xor_sync(FULL, v[i], o);
    }
    __syncthreads();
}

/* ---- spreading work ---------------------------------------------------------------------------------------------------------- */

enum {
    SPAN_THREADS = 256,                 // of a block
    SPAN_RESIDENT = 4,                  // blocks that a multiprocessor holds at least: up to 64 registers. Left to itself ptxas spills to reach 32
    SPAN_BLOCKS = 32                    // most blocks a multiprocessor in a grid
};

typedef struct Span {
    dim3 grid, block;
} Span;

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline unsigned at_most(int64_t n, int64_t most) { return (unsigned)(n < most ? n : most); }

/** Blocks for `rows` rows of `packs`, both at least 1; one row has y = 1, so that its kernel need not look at y. */
static inline Span span_of(const Cuda *cuda, int64_t rows, int64_t packs)
{
    const int64_t most = (int64_t)SPAN_BLOCKS * cuda->multiprocessors;
    int x = 1, y = 1;
    Span s;

    while (x < SPAN_THREADS && x < packs)
        x *= 2;
    while (x * y < SPAN_THREADS && y < rows)
        y *= 2;
    s.block = dim3((unsigned)x, (unsigned)y);
    s.grid.x = at_most(divide_up(packs, x), most);
    s.grid.y = at_most(divide_up(rows, y), most / s.grid.x ? most / s.grid.x : 1);
    return s;
}

/* In a kernel of a span, one thread each: row r of nb; the pack of V numbers from `at` on of nb numbers. */
#define EACH_ROW(r, nb) \
    for (int64_t r = (int64_t)blockIdx.y * blockDim.y + threadIdx.y; r < (nb); r += (int64_t)gridDim.y * blockDim.y)
#define EACH_PACK(at, nb, V) \
    for (int64_t at = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * (V); at < (nb); at += (int64_t)gridDim.x * blockDim.x * (V))

/* ---- picking a kernel -------------------------------------------------------------------------------------------------------- */

template <int PACK, bool IS_WIDE> struct Shape {
    static constexpr int V = PACK;
    static constexpr bool WIDE = IS_WIDE;
};

/* Numbers in a wide pack of a call of such types */
template <class... T> static constexpr int wide_pack = ((sizeof(T) == 4) && ...) ? 4 : 8;

template <class T> struct As {                                      // a type as an argument
    using type = T;
};
#define TYPE(as) typename decltype(as)::type

/* pick(As<type>) for f32 or bf16 */
template <class F> static inline auto by_type(DType t, F pick)
{
    return t == DT_F32 ? pick(As<float>()) : pick(As<bf16>());
}

/* Are these addresses multiples of 16 bytes? NULL is. */
template <class... P> static inline bool aligned16(const P *...p)
{
    return (((uintptr_t)p | ...) & 15) == 0;
}

#endif
