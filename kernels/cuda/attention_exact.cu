/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attention in f32, for every type, head size and alignment: what the kernel of tensor cores does not take, and all of precision=f32.
 *
 *      out[i] = sum_j exp(s[i, j] - max) v[j] / sum_j exp(s[i, j] - max),   s = scale q k^T (+ rel)
 *
 * A block of 256 threads has 64 queries of a head and goes through the keys, 64 at a time, those of the second segment behind those of the
 * first; maximum, sum and result are scaled when the maximum rises (Milakov and Gimelshein, "Online normalizer calculation for softmax").
 * Thread (y, x) has rows y, y + 16, .. of the scores and of the result, so a row's factors never leave 16 neighbouring lanes.
 *
 *      scores      32 elements of q and k at a time -> [64, 64] in registers, then their exponentials in shared memory
 *      result      16 values at a time; a block has 64 or 128 columns of it: a larger head is computed by several blocks, scores anew
 */
#include "cuda/attention.cuh"

enum { QUERIES = 64, KEYS = 64, CHUNK = 32, CHUNK_ROW = CHUNK + 4, WEIGHT_ROW = KEYS + 4, VALUES = 16, THREADS = 256 };
enum { ROOM = QUERIES * CHUNK_ROW + KEYS * CHUNK_ROW };             // floats; the values lie there when the scores are done

typedef struct Kept {                   // keys, values or queries
    const void *p;
    const float *scale;                 // of codes, [rows, NH]; or NULL
    DType dtype;
} Kept;

static __device__ __forceinline__ void put4(float *tile, float4 v)
{
    store4(tile, DT_F32, 0, v);
}

/* Elements d .. d + 3 of a head's row, zeros behind its end */
static __device__ __forceinline__ float4 head_part(const Attention &a, const Kept &p, size_t row, int head, int d)
{
    const size_t of_head = row * a.heads + head, at = of_head * a.hd + d;
    float4 v;

    if (d >= a.hd)
        return make_float4(0, 0, 0, 0);
    v = a.by4 ? load4(p.p, p.dtype, at) : load_some(p.p, p.dtype, at, a.hd - d);
    if (p.scale) {
        const float scale = p.scale[of_head];

        v.x *= scale, v.y *= scale, v.z *= scale, v.w *= scale;
    }
    return v;
}

/* 64 rows of p from `first` on, elements d0 .. d0 + 31, into a tile; rows behind `nb` are zero. */
static __device__ __forceinline__ void fetch_chunk(const Attention &a, float *tile, const Kept &p, size_t base, int first, int nb, int head, int d0)
{
    const int row = threadIdx.x / 4, part = threadIdx.x % 4 * 8;

#pragma unroll 1
    for (int i = part; i < part + 8; i += 4)
        put4(tile + row * CHUNK_ROW + i, first + row < nb ? head_part(a, p, base + first + row, head, d0 + i) : make_float4(0, 0, 0, 0));
}

static __device__ __forceinline__ void add_dot(float &sum, float4 a, float4 b)
{
    sum = a.w * b.w + (a.z * b.z + (a.y * b.y + (a.x * b.x + sum)));
}

/* s += of 32 elements */
static __device__ __forceinline__ void add_scores(float s[4][4], const float *q, const float *k, int y, int x)
{
#pragma unroll 2
    for (int i = 0; i < CHUNK; i += 4) {
        float4 l[4], r[4];

#pragma unroll
        for (int j = 0; j < 4; j++) {
            l[j] = load4(q, DT_F32, (y + 16 * j) * CHUNK_ROW + i);
            r[j] = load4(k, DT_F32, (x + 16 * j) * CHUNK_ROW + i);
        }
#pragma unroll
        for (int j = 0; j < 16; j++)
            add_dot(s[j / 4][j % 4], l[j / 4], r[j % 4]);
    }
}

/* Over the 16 lanes of a row */
static __device__ __forceinline__ float row_max(float v)
{
    for (int o = 8; o; o >>= 1)
        v = fmaxf(v, __shfl_xor_sync(FULL, v, o));
    return v;
}

static __device__ __forceinline__ float row_sum(float v)
{
    for (int o = 8; o; o >>= 1)
        v += __shfl_xor_sync(FULL, v, o);
    return v;
}

/* o[row][4 columns] += weights[row, 16] values[16, columns] */
template <int GROUPS> static __device__ __forceinline__ void add_values(float4 o[4][GROUPS], const float *weight, const float *value, int y, int x)
{
#pragma unroll 1
    for (int i = 0; i < VALUES; i += 4) {
        float w[4][4];

#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float4 four = load4(weight, DT_F32, (y + 16 * j) * WEIGHT_ROW + i);

            w[j][0] = four.x, w[j][1] = four.y, w[j][2] = four.z, w[j][3] = four.w;
        }
#pragma unroll
        for (int key = 0; key < 4; key++)
#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                const float4 v = load4(value, DT_F32, (i + key) * 64 * GROUPS + 64 * g + 4 * x);

#pragma unroll
                for (int j = 0; j < 4; j++) {
                    o[j][g].x += w[j][key] * v.x;
                    o[j][g].y += w[j][key] * v.y;
                    o[j][g].z += w[j][key] * v.z;
                    o[j][g].w += w[j][key] * v.w;
                }
            }
    }
}

/* Scores into weights, in place and in shared memory; top, sum and result follow the new maximum. */
template <int GROUPS> static __device__ __forceinline__ void weigh(const Attention &a, float s[4][4], float top[4], float sum[4], float4 o[4][GROUPS],
                                                                   float *weight, int q0, int k0, int nb, int head, int y, int x)
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int query = q0 + y + 16 * j;
        float most = top[j], factor;

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = k0 + x + 16 * i;

            s[j][i] *= a.scale;
            if (a.rel && query < a.n && key < nb)
                s[j][i] += a.rel[(size_t)(key - query + a.n - 1) * a.heads + head];
            if (key >= nb)
                s[j][i] = -INFINITY;
            most = fmaxf(most, s[j][i]);
        }
        most = row_max(most);
        factor = expf(top[j] - most);
        top[j] = most;
        sum[j] *= factor;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float w = expf(s[j][i] - most);

            sum[j] += w;
            weight[(y + 16 * j) * WEIGHT_ROW + x + 16 * i] = w;
        }
#pragma unroll
        for (int g = 0; g < GROUPS; g++)
            o[j][g].x *= factor, o[j][g].y *= factor, o[j][g].z *= factor, o[j][g].w *= factor;
    }
}

/* 16 values from `first` on, 64 * GROUPS columns from d0 on */
template <int GROUPS> static __device__ __forceinline__ void fetch_values(const Attention &a, float *value, const Kept &v, size_t base, int first, int nb,
                                                                          int head, int d0)
{
    const int row = threadIdx.x / 16;

#pragma unroll 1
    for (int i = threadIdx.x % 16 * 4; i < 64 * GROUPS; i += 64)
        put4(value + row * 64 * GROUPS + i,
             first + row < nb ? head_part(a, v, base + first + row, head, d0 + i) : make_float4(0, 0, 0, 0));
}

/* Block (x, y, z): queries 64 x .., head y, columns 64 GROUPS (z mod parts) .. of item z / parts of the batch */
template <int GROUPS> __global__ void __launch_bounds__(THREADS, 1) exact_kernel(Attention a, Scales scales, int parts)
{
    SMEM_STATIC(float4, room, ROOM / 4);
    SMEM_STATIC(float4, weights, QUERIES * WEIGHT_ROW / 4);
    float *q = (float *)room, *k = q + QUERIES * CHUNK_ROW, *weight = (float *)weights;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16, head = blockIdx.y, q0 = blockIdx.x * QUERIES;
    const int d0 = (int)(blockIdx.z % parts) * 64 * GROUPS;
    const size_t item = blockIdx.z / parts;
    const Kept queries = { a.q, scales.q, a.q_dtype };
    float top[4] = { -INFINITY, -INFINITY, -INFINITY, -INFINITY }, sum[4] = {};
    float4 o[4][GROUPS] = {};

    for (int i = 0; i < 2; i++) {
        const Segment part = i ? a.part[1] : a.part[0];             // no index: it would need local memory
        const Kept keys = { part.k, i ? scales.of[1][0] : scales.of[0][0], part.dtype };
        const Kept values = { part.v, i ? scales.of[1][1] : scales.of[0][1], part.v_dtype };

        for (int k0 = 0; k0 < part.nb; k0 += KEYS) {
            float s[4][4] = {};

            for (int d = 0; d < a.hd; d += CHUNK) {
                __syncthreads();
                fetch_chunk(a, q, queries, item * a.n, q0, a.n, head, d);
                fetch_chunk(a, k, keys, item * part.nb, k0, part.nb, head, d);
                __syncthreads();
                add_scores(s, q, k, y, x);
            }
            weigh<GROUPS>(a, s, top, sum, o, weight, q0, k0, part.nb, head, y, x);
            for (int v0 = 0; v0 < KEYS && k0 + v0 < part.nb; v0 += VALUES) {
                __syncthreads();
                fetch_values<GROUPS>(a, q, values, item * part.nb, k0 + v0, part.nb, head, d0);
                __syncthreads();
                add_values<GROUPS>(o, weight + v0, q, y, x);
            }
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int query = q0 + y + 16 * j;
        const size_t at = ((item * a.n + query) * a.heads + head) * a.hd;
        const float all = row_sum(sum[j]);

#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            const float4 v = make_float4(o[j][g].x / all, o[j][g].y / all, o[j][g].z / all, o[j][g].w / all);
            const int d = d0 + 64 * g + 4 * x;

            if (query < a.n && d < a.hd) {
                if (a.by4) {
                    store4(a.out, a.out_dtype, at + d, v);
                } else {
                    store_value(a.out, a.out_dtype, at + d, v.x);
                    if (d + 1 < a.hd)
                        store_value(a.out, a.out_dtype, at + d + 1, v.y);
                    if (d + 2 < a.hd)
                        store_value(a.out, a.out_dtype, at + d + 2, v.z);
                    if (d + 3 < a.hd)
                        store_value(a.out, a.out_dtype, at + d + 3, v.w);
                }
            }
        }
    }
}

int avt_cuda_attention_exact(Backend *be, const Attention *a, const Scales *s, int batch)
{
    const int groups = a->hd > 64 ? 2 : 1, parts = (a->hd + 64 * groups - 1) / (64 * groups);
    const dim3 grid((unsigned)((a->n + QUERIES - 1) / QUERIES), (unsigned)a->heads, (unsigned)(batch * parts));

    return avt_cuda_check(be, LAUNCH(groups > 1 ? exact_kernel<2> : exact_kernel<1>, grid, THREADS, 0, avt_cuda(be)->stream, *a, *s, parts),
                          "attention");
}
