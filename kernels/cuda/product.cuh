/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A product of our own, for every shape, type and alignment, exact in f32:
 *
 *      out[m, n] = finish(sum_k a[m, k] w[n, k])
 *
 * A block of 256 threads computes 64 x 64 results, 16 k at a time: thread (y, x) the rows y, y + 16, .. and the columns x, x + 16, ..
 * a[m, k] comes from a Source: rows of a matrix (linear.cu), or pixels under the taps of a convolution (conv.cu), so that a convolution
 * is this product and copies nothing. The sums pass through shared memory once more, so that neighbours write neighbours and the finish,
 * which is long, is in the code once. Rows of the shared tiles are 20 words apart: eight lanes that read 16 bytes each meet all banks.
 * Limits: multiply-adds of f32, no tensor cores. It serves what the libraries do not take, and small models.
 */
#ifndef AVT_CUDA_PRODUCT_CUH
#define AVT_CUDA_PRODUCT_CUH

#include "cuda/cuda.h"
#include "cuda/values.cuh"

enum { TILE = 64, TILE_K = 16, TILE_ROW = TILE_K + 4, SUMS_ROW = TILE + 1, TILE_THREADS = 256 };

/* What follows the sum v, of codes times own[m] scale[n]: out = act(v + bias) or res + gate * (v + bias); a group of columns begins at
 * `column`. */
typedef struct Finish {
    void *out;
    const void *res;                    // as out, may be out; or NULL
    const float *bias, *gate;           // [N] or NULL
    int64_t row;                        // elements of a row of out and res
    DType dtype;                        // of out and res
    Act act;
    const float *own, *scale;           // of codes: [M], [N]; or both NULL
} Finish;

/** linear.cu: out = finish(v [rows, n]), sums of type f32 or i32; v may be f->out. */
int avt_cuda_finish(Backend *be, const void *v, DType sums, const Finish *f, int64_t rows, int64_t n);
/** quantize.cu: the codes, rows first .. first + rows - 1 of `out`, of what avt_cuda_finish() would give in bf16 of sums v [rows, f->row]. */
int avt_cuda_finish_codes(Backend *be, Tensor out, const void *v, DType sums, const Finish *f, int64_t first, int64_t rows);
/** Can it, of rows of n? */
bool avt_cuda_can_finish_codes(const Finish *f, int64_t n);
/** linear.cu: n elements of another type; a multiple of 4, as the addresses are. */
int avt_cuda_convert(Backend *be, void *out, DType to, const void *x, DType from, int64_t n);

/* A matrix, row-major */
typedef struct Rows {
    const void *p;
    DType dtype;
    int nb, k;                          // rows and columns that there are; beyond them are zeros
    int64_t row;                        // elements from one row to the next
    int by4;                            // can_load4()

    struct Cursor { size_t at; bool in; };

    __device__ __forceinline__ Cursor open(int m, int) const { return { (size_t)m * row, m < nb }; }

    __device__ __forceinline__ float4 read(const Cursor &c, int i) const
    {
        if (!c.in || i >= k)
            return make_float4(0, 0, 0, 0);
        return by4 ? load4(p, dtype, c.at + i) : load_some(p, dtype, c.at + i, k - i);
    }
} Rows;

static inline Rows rows_of(const void *p, DType dtype, int64_t nb, int64_t k)
{
    return { p, dtype, (int)nb, (int)k, k, can_load4(p, dtype, k) };
}

/* The sum of row m and column n, which is element `at` of the result */
static __device__ __forceinline__ float finished(const Finish &f, float v, size_t at, int64_t m, int n)
{
    if (f.own)
        v = __fmul_rn(v, f.own[m] * f.scale[n]);                    // told, as codes (quantize.cu) are made of the same bits
    if (f.bias)
        v = __fadd_rn(v, f.bias[n]);
    v = activate<float>(f.act, v);
    if (f.gate)
        v *= f.gate[n];
    return f.res ? load_value(f.res, f.dtype, at) + v : v;
}

/* Alignment: 16 bytes. */
static __device__ __forceinline__ void put_tile_row(float *tile, float4 v)
{
    st16(tile, make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z), __float_as_uint(v.w)));
}

static __device__ __forceinline__ float4 tile_row(const float *tile)
{
    return load4(tile, DT_F32, 0);
}

static __device__ __forceinline__ void add_product(float &sum, float4 a, float4 b)
{
    sum = a.w * b.w + (a.z * b.z + (a.y * b.y + (a.x * b.x + sum)));
}

/* Block (x, y, z): rows 64 x .., columns 64 y .. of group z, which has n columns, the rows of w of its own. */
template <class Source> __global__ void __launch_bounds__(TILE_THREADS) product_kernel(Source a, Rows w, Finish f, int m, int n, int k)
{
    SMEM_STATIC(float4, room, TILE * SUMS_ROW / 4);
    float *tiles = (float *)room, *left = tiles, *right = tiles + TILE * TILE_ROW;
    const int x = threadIdx.x % 16, y = threadIdx.x / 16, group = blockIdx.z;
    const int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE;
    const int row = threadIdx.x / 4, part = threadIdx.x % 4 * 4;                // of the tiles, what this thread fetches
    const auto from_a = a.open(m0 + row, group);
    auto from_w = w.open(group * n + n0 + row, 0);
    float sum[4][4] = {};

    from_w.in = n0 + row < n;
    for (int k0 = 0; k0 < k; k0 += TILE_K) {
        const float4 next_a = a.read(from_a, k0 + part), next_w = w.read(from_w, k0 + part);

        __syncthreads();
        put_tile_row(left + row * TILE_ROW + part, next_a);
        put_tile_row(right + row * TILE_ROW + part, next_w);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE_K; i += 4) {
            float4 l[4], r[4];

#pragma unroll
            for (int j = 0; j < 4; j++) {
                l[j] = tile_row(left + (y + 16 * j) * TILE_ROW + i);
                r[j] = tile_row(right + (x + 16 * j) * TILE_ROW + i);
            }
#pragma unroll
            for (int j = 0; j < 16; j++)
                add_product(sum[j / 4][j % 4], l[j / 4], r[j % 4]);
        }
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 16; j++)
        tiles[(y + 16 * (j / 4)) * SUMS_ROW + x + 16 * (j % 4)] = sum[j / 4][j % 4];
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < TILE * TILE; i += TILE_THREADS) {
        const int at_m = m0 + i / TILE, at_n = n0 + i % TILE, column = group * n + at_n;
        const size_t at = (size_t)at_m * f.row + column;

        if (at_m < m && at_n < n)
            store_value(f.out, f.dtype, at, finished(f, tiles[i / TILE * SUMS_ROW + i % TILE], at, at_m, column));
    }
}

/** The product on cuda->stream; n columns in each of `groups`. */
template <class Source> static int run_product(Backend *be, Source a, Rows w, Finish f, int64_t m, int64_t n, int64_t k, int groups)
{
    const dim3 grid((unsigned)((m + TILE - 1) / TILE), (unsigned)((n + TILE - 1) / TILE), (unsigned)groups);

    return avt_cuda_check(be, LAUNCH(product_kernel<Source>, grid, TILE_THREADS, 0, avt_cuda(be)->stream, a, w, f, (int)m, (int)n, (int)k),
                          "product");
}

#endif
