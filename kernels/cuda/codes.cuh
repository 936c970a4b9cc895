/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Codes of rows (quantize.h), by a team of whole warps: a warp has 256 numbers at a time, a lane eight of them side by side.
 *
 *   number   lane * 8 + j      a group of 256: all lanes; of 64, 16: neighbours; of 4: half a lane
 *
 * R is one H4 a digit of the number in base 4, the highest first, so that each result has the bits of quantize.h: digits 3 and 2 are
 * lanes 8 and 2 apart, digit 1 is half a lane's numbers and a neighbour, digit 0 a lane's own. All lanes take part, those without
 * numbers with zeros. A product and a sum that must round apart are told so: the compiler would join them.
 *
 * An op that gives codes gives those of its numbers in bf16, rounded in registers; of f32, and where its rows allow no wide access, the numbers
 * go through the workspace (avt_cuda_codes_apart()).
 */
#ifndef AVT_CUDA_CODES_CUH
#define AVT_CUDA_CODES_CUH

#include "cuda/kernel.cuh"

enum { CODE_PACK = 8 };                                             // numbers of a lane

typedef struct CodeRows {
    uint8_t *code;                      // [rows, width]
    float *scale;                       // [rows]
    DType type;
    int group;                          // that R turns: 1, 4 .. 256
    int by8;                            // rows of codes begin at multiples of 8 bytes
} CodeRows;

/* H4 of what lanes m and 2 m apart have: of four lanes x0 x1 x2 x3, then a b c d, a d c b, the results */
static __device__ __forceinline__ void turn_lanes(float v[CODE_PACK], int m)
{
    const bool odd = threadIdx.x & m;

#pragma unroll
    for (int i = 0; i < CODE_PACK; i++) {
        float other = __shfl_xor_sync(FULL, v[i], m), mine = odd ? other - v[i] : v[i] + other;

        other = __shfl_xor_sync(FULL, mine, 2 * m);
        mine = odd ? other : mine;
        other = __shfl_xor_sync(FULL, mine, m);
        v[i] = 0.5f * (odd ? other - mine : other + mine);
    }
}

/* of what is four apart here and in the neighbour */
static __device__ __forceinline__ void turn_halves(float v[CODE_PACK])
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float sum = v[i] + v[i + 4], other = __shfl_xor_sync(FULL, v[i] - v[i + 4], 1);

        v[i] = 0.5f * (sum + other);
        v[i + 4] = 0.5f * (sum - other);
    }
}

static __device__ __forceinline__ void turn_own(float v[CODE_PACK])
{
#pragma unroll
    for (int i = 0; i < CODE_PACK; i += 4) {
        const float a = v[i] + v[i + 1], b = v[i] - v[i + 1], c = v[i + 2] + v[i + 3], d = v[i + 2] - v[i + 3];

        v[i] = 0.5f * (a + d);
        v[i + 1] = 0.5f * (a - d);
        v[i + 2] = 0.5f * (b + c);
        v[i + 3] = 0.5f * (c - b);
    }
}

static __device__ __forceinline__ void rotate_pack(float v[CODE_PACK], int group)
{
    if (group >= 256)
        turn_lanes(v, 8);
    if (group >= 64)
        turn_lanes(v, 2);
    if (group >= 16)
        turn_halves(v);
    if (group >= 4)
        turn_own(v);
}

/* What a row's scale is made of: top[0] the largest magnitude, top[1] not zero where a number is none. */
static __device__ __forceinline__ void see_pack(float top[2], const float v[CODE_PACK])
{
#pragma unroll
    for (int i = 0; i < CODE_PACK; i++) {
        top[0] = fmaxf(top[0], fabsf(v[i]));
        top[1] = fabsf(v[i]) <= 3.402823466e38f ? top[1] : 1;
    }
}

/* The largest of the team, in every lane; part: shared, 64 numbers, free again when the call returns. */
static __device__ __forceinline__ void team_top(float top[2], int team, float *part)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

#pragma unroll
    for (int i = 0; i < 2; i++)
        for (int o = 16; o; o >>= 1)
            top[i] = fmaxf(top[i], __shfl_xor_sync(FULL, top[i], o));
    if (team <= 32)
        return;
    if (!lane)
        part[warp] = top[0], part[32 + warp] = top[1];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        top[i] = lane < team / 32 ? part[32 * i + lane] : 0;
        for (int o = 16; o; o >>= 1)
            top[i] = fmaxf(top[i], __shfl_xor_sync(FULL, top[i], o));
    }
    __syncthreads();
}

static __device__ __forceinline__ float code_most(DType type) { return type == DT_I8 ? 127 : 448; }

/* What numbers are multiplied by, of a row's top */
static __device__ __forceinline__ float code_factor(const float top[2], DType type)
{
    return top[0] > 1e-30f ? __fdiv_rn(code_most(type), top[0]) : 0;
}

static __device__ __forceinline__ float code_scale(const float top[2], DType type)
{
    if (top[1])
        return __int_as_float(0x7fc00000);
    return top[0] > 1e-30f ? __fdiv_rn(top[0], code_most(type)) : 1;
}

static __device__ __forceinline__ uint32_t code_of(float v, DType type)
{
    if (type == DT_I8)
        return __float_as_uint(__fadd_rn(v, 12582912.f)) & 0xff;    // 1.5 * 2^23: the low byte is the nearest integer
    return __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}

/* Codes of a pack, numbers `at` and on of row r; `left` of them are there. */
static __device__ __forceinline__ void put_codes(const CodeRows &c, int64_t r, int64_t width, int64_t at, const float v[CODE_PACK], float factor)
{
    uint8_t *to = c.code + r * width + at;
    uint32_t word[2] = { 0, 0 };

#pragma unroll
    for (int i = 0; i < CODE_PACK; i++)
        word[i / 4] |= code_of(__fmul_rn(v[i], factor), c.type) << 8 * (i % 4);
    if (c.by8) {
        st8(to, make_uint2(word[0], word[1]));
        return;
    }
#pragma unroll
    for (int i = 0; i < CODE_PACK; i++)
        if (at + i < width)
            to[i] = (uint8_t)(word[i / 4] >> 8 * (i % 4));
}

/* Numbers of which codes are made are those of an activation. */
static __device__ __forceinline__ void round_pack(float v[CODE_PACK])
{
#pragma unroll
    for (int i = 0; i < CODE_PACK; i++)
        v[i] = __bfloat162float(__float2bfloat16_rn(v[i]));
}

static __device__ __forceinline__ void clear_pack(float v[CODE_PACK])
{
#pragma unroll
    for (int i = 0; i < CODE_PACK; i++)
        v[i] = 0;
}

/** Where rows of `width` codes go. */
static inline CodeRows code_rows(Tensor out, int64_t width, int group)
{
    return { (uint8_t *)out.data, (float *)out.scale, out.dtype, group, width % 8 == 0 && (uintptr_t)out.data % 8 == 0 };
}

#endif
