/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Elements of f32 or bf16, to and from f32, codes to f32, and activations: for kernels that are written once and read the type as data.
 * The branch on a type is the same for all threads of a launch. A code is read as its number, without a scale.
 *
 * Four at a time (load4, store4) wants an address that is a multiple of four elements; can_load4() asks on the host.
 */
#ifndef AVT_CUDA_VALUES_CUH
#define AVT_CUDA_VALUES_CUH

#include "cuda/gpu.cuh"
#include "kernels.h"

static __device__ __forceinline__ bool is_code(DType t)
{
    return t == DT_I8 || t == DT_F8_E4M3;
}

/* An element's bits, and what they say; zero bits are zero in every type */
static __device__ __forceinline__ uint32_t load_bits(const void *p, DType dtype, size_t i)
{
    if (is_code(dtype))
        return ((const uint8_t *)p)[i];
    return dtype == DT_F32 ? ((const uint32_t *)p)[i] : ((const uint16_t *)p)[i];
}

static __device__ __forceinline__ float value_of_code(uint32_t code, DType type)
{
    return type == DT_I8 ? (float)(signed char)code : __half2float(__half(__nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)code, __NV_E4M3)));
}

/* Two codes of e4m3 in the low bytes */
static __device__ __forceinline__ float2 values_of_codes(uint32_t two)
{
    return __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)two, __NV_E4M3)));
}

static __device__ __forceinline__ float value_of_bits(uint32_t bits, DType dtype)
{
    if (is_code(dtype))
        return value_of_code(bits, dtype);
    return dtype == DT_F32 ? __uint_as_float(bits) : bf_lo(bits);
}

static __device__ __forceinline__ float load_value(const void *p, DType dtype, size_t i)
{
    return value_of_bits(load_bits(p, dtype, i), dtype);
}

/* p[i .. i + 3], the words as they lie */
static __device__ __forceinline__ uint4 load4_bits(const void *p, DType dtype, size_t i)
{
    if (dtype == DT_F32)
        return ld16((const float *)p + i);
    if (is_code(dtype)) {
        const uint32_t word = ((const uint32_t *)p)[i / 4];

        return make_uint4(word & 0xff, word >> 8 & 0xff, word >> 16 & 0xff, word >> 24);
    }

    const uint2 v = ld8((const uint16_t *)p + i);

    return make_uint4(v.x & 0xffff, v.x >> 16, v.y & 0xffff, v.y >> 16);
}

static __device__ __forceinline__ float4 values_of_bits(uint4 v, DType dtype)
{
    return make_float4(value_of_bits(v.x, dtype), value_of_bits(v.y, dtype), value_of_bits(v.z, dtype), value_of_bits(v.w, dtype));
}

static __device__ __forceinline__ float4 load4(const void *p, DType dtype, size_t i)
{
    return values_of_bits(load4_bits(p, dtype, i), dtype);
}

/* p[i .. i + 3], of which the first `nb` are there; zeros for the rest */
static __device__ __forceinline__ float4 load_some(const void *p, DType dtype, size_t i, int nb)
{
    const uint32_t x = load_bits(p, dtype, i), y = nb > 1 ? load_bits(p, dtype, i + 1) : 0, z = nb > 2 ? load_bits(p, dtype, i + 2) : 0;

    return values_of_bits(make_uint4(x, y, z, nb > 3 ? load_bits(p, dtype, i + 3) : 0), dtype);
}

static __device__ __forceinline__ void store_value(void *p, DType dtype, size_t i, float v)
{
    if (dtype == DT_F32)
        ((float *)p)[i] = v;
    else
        ((unsigned short *)p)[i] = __bfloat16_as_ushort(__float2bfloat16_rn(v));       // bits: see from_f32()
}

/* p[i .. i + 3] = v */
static __device__ __forceinline__ void store4(void *p, DType dtype, size_t i, float4 v)
{
    if (dtype == DT_F32)
        st16((float *)p + i, make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)));
    else
        st8((bf16 *)p + i, make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)));
}

/*
 * x / (1 + e^-y), which is 0 far below zero and x far above, never NaN. For a result in f32 to its last digits; one that will be rounded
 * to bf16 takes the device's own exp and division, whose error of 2^-21 cannot be seen in it and which take a third of the time.
 */
template <class TO> static __device__ __forceinline__ float gated(float x, float y);
template <> __device__ __forceinline__ float gated<float>(float x, float y) { return x / (1 + expf(-y)); }
template <> __device__ __forceinline__ float gated<bf16>(float x, float y) { return __fdividef(x, 1 + __expf(-y)); }

/* act(v) for a result of type TO. gelu: (1 + tanh(u)) / 2 = 1 / (1 + e^-2u), which keeps its digits far below zero */
template <class TO> static __device__ __forceinline__ float activate(Act act, float v)
{
    switch (act) {
    case ACT_SILU:      return gated<TO>(v, v);
    case ACT_GELU_TANH: return gated<TO>(v, 1.5957691216f * (v + 0.044715f * v * v * v));
    case ACT_GELU_ERF:  return 0.5f * v * (1 + erff(v * 0.7071067812f));
    case ACT_CLAMP:     return v < -1 ? -1 : v > 1 ? 1 : v;         // NaN stays
    default:            return v;
    }
}

/* May rows of `row` elements that begin at p be read four at a time? */
static inline bool can_load4(const void *p, DType dtype, int64_t row)
{
    return row % 4 == 0 && (uintptr_t)p % (4 * avt_dtype_size(dtype)) == 0;
}

#endif
