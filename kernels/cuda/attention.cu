/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * attention:  out = softmax(scale q k^T + rel) v over two segments of keys
 *
 * The kernel here is for bf16 on tensor cores, in the manner of FlashAttention-2 (Dao, 2023): a block of four warps has 64 queries of a
 * head, a warp 16 of them from the first score to the result, in registers; keys and values come 64 at a time, the next ones copied while
 * these are at work. The second segment's tiles follow the first's: two pointers, no copy of the keys.
 *
 *      score   [16, 64] = q [16, hd] k^T [hd, 64]          16 x 8 pieces; q in registers, k by ldmatrix as it lies
 *      weight  [16, 64] = exp2(score - maximum), to bf16: pieces of the score are those that the next product wants
 *      result  [16, hd] += weight [16, 64] v [64, hd]      v by ldmatrix, turned
 *
 * Keys and values in codes of e4m3 (kv=fp8) are copied as they are, and turned into bf16 tiles, code times scale, rounded once, when they
 * have come: half the bytes of the device's memory, and 64 KB of shared memory in place of 80.
 *
 * Rows of shared tiles are cut into 16 bytes, which are permuted by the row: eight rows meet all banks. A head is 32, 64 or 128 wide there,
 * zeros behind its end; with rel it is at most 64. Other types, sizes, alignments, and scales that are not positive: attention_exact.cu.
 * attention_dnn.cu is cuDNN's, which computes what it is faster at: from sm_90 on all that it can, unless a contest shows otherwise.
 */
#include <stdio.h>

#include "cuda/attention.cuh"
#include "cuda/plans.h"

enum { QUERIES = 64, KEYS = 64, THREADS = 128 };
enum { HEAD_MOST = 128, REL_MOST = 64 };                            // widest head; with rel: what sm_80's registers hold

/* Piece c of row r of a tile whose rows are HD wide */
template <int HD> static __device__ __forceinline__ unsigned char *piece_at(unsigned char *tile, int r, int c)
{
    const int turn = HD == 32 ? r >> 1 & 3 : r & 7;

    return tile + r * HD * 2 + ((c ^ turn) << 4);
}

/* Start copying 64 rows of a head from row `first` of `nb`; what is not there is zero. */
template <int HD> static __device__ __forceinline__ void fetch(unsigned char *tile, const bf16 *src, size_t row, int hd, int first, int nb)
{
    enum { PIECES = HD / 8 };

#pragma unroll
    for (int i = 0; i < KEYS * PIECES / THREADS; i++) {
        const int e = i * THREADS + threadIdx.x, r = e / PIECES, c = e % PIECES;
        const bool there = first + r < nb && c * 8 < hd;

        cp_async16(piece_at<HD>(tile, r, c), there ? src + (size_t)(first + r) * row + c * 8 : src, there);
    }
}

/* The same of codes, rows side by side. */
template <int HD> static __device__ __forceinline__ void fetch_codes(unsigned char *codes, const unsigned char *src, size_t row, int hd, int first, int nb)
{
    enum { PIECES = HD / 16 };

#pragma unroll
    for (int i = 0; i < KEYS * PIECES / THREADS; i++) {
        const int e = i * THREADS + threadIdx.x, r = e / PIECES, c = e % PIECES;
        const bool there = first + r < nb && c * 16 < hd;

        cp_async16(codes + e * 16, there ? src + (size_t)(first + r) * row + c * 16 : src, there);
    }
}

/* Eight codes in two words, times their row's scale */
static __device__ __forceinline__ uint4 numbers_of(uint32_t first, uint32_t second, float scale)
{
    const float2 a = values_of_codes(first & 0xffff), b = values_of_codes(first >> 16);
    const float2 c = values_of_codes(second & 0xffff), d = values_of_codes(second >> 16);

    return make_uint4(pack_bf16(a.x * scale, a.y * scale), pack_bf16(b.x * scale, b.y * scale), pack_bf16(c.x * scale, c.y * scale),
                      pack_bf16(d.x * scale, d.y * scale));
}

/* A tile out of codes that have come; scale[64] */
template <int HD> static __device__ __forceinline__ void decode(unsigned char *tile, const unsigned char *codes, const float *scale)
{
    enum { PIECES = HD / 16 };

#pragma unroll
    for (int i = 0; i < KEYS * PIECES / THREADS; i++) {
        const int e = i * THREADS + threadIdx.x, r = e / PIECES, c = e % PIECES;
        const uint4 u = ld16(codes + e * 16);

        st16(piece_at<HD>(tile, r, 2 * c), numbers_of(u.x, u.y, scale[r]));
        st16(piece_at<HD>(tile, r, 2 * c + 1), numbers_of(u.z, u.w, scale[r]));
    }
}

/* score[16, 64] = q k^T */
template <int HD> static __device__ __forceinline__ void multiply_keys(float score[8][4], const uint32_t q[][4], unsigned char *keys, int lane)
{
#pragma unroll
    for (int k = 0; k < HD / 16; k++)
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            uint32_t b[4];

            ldsm4(b, piece_at<HD>(keys, n * 8 + (lane & 7) + (lane >> 4 << 3), k * 2 + (lane >> 3 & 1)));
            mma_bf16_16816(score[n], q[k], b[0], b[1]);
            mma_bf16_16816(score[n + 1], q[k], b[2], b[3]);
        }
}

/* result[16, hd] += weight v */
template <int HD> static __device__ __forceinline__ void multiply_values(float result[][4], const float weight[8][4], unsigned char *values, int lane)
{
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        const uint32_t a[4] = { pack_bf16(weight[2 * k][0], weight[2 * k][1]), pack_bf16(weight[2 * k][2], weight[2 * k][3]),
                                pack_bf16(weight[2 * k + 1][0], weight[2 * k + 1][1]), pack_bf16(weight[2 * k + 1][2], weight[2 * k + 1][3]) };

#pragma unroll
        for (int n = 0; n < HD / 8; n += 2) {
            uint32_t b[4];

            ldsm4t(b, piece_at<HD>(values, k * 16 + (lane & 15), n + (lane >> 4)));
            mma_bf16_16816(result[n], a, b[0], b[1]);
            mma_bf16_16816(result[n + 1], a, b[2], b[3]);
        }
    }
}

/* score = scale * score + rel, for the lane's two rows; keys from k0 on */
static __device__ __forceinline__ void add_relative(const Attention &a, float score[8][4], int query, int k0, int nb, int head, int lane)
{
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = k0 + n * 8 + (lane & 3) * 2 + (i & 1), at = query + i / 2 * 8;

            score[n][i] *= a.scale;
            if (key < nb && at < a.n)
                score[n][i] += a.rel[(size_t)(key - at + a.n - 1) * a.heads + head];
        }
}

static __device__ __forceinline__ void mask_behind(float score[8][4], int left, int lane)
{
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (n * 8 + (lane & 3) * 2 + (i & 1) >= left)
                score[n][i] = -INFINITY;
}

/* Scores into weights: rows lane / 4 and lane / 4 + 8 of the warp's 16; `unit` turns a score into a power of two. */
template <int HD> static __device__ __forceinline__ void weigh(float score[8][4], float top[2], float sum[2], float result[][4], float unit)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = top[h], factor;

#pragma unroll
        for (int n = 0; n < 8; n++)
            most = fmaxf(most, fmaxf(score[n][2 * h], score[n][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
        factor = exp2f((top[h] - most) * unit);
        top[h] = most;
        sum[h] *= factor;
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                score[n][i] = exp2f((score[n][i] - most) * unit);
                sum[h] += score[n][i];
            }
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            result[n][2 * h] *= factor;
            result[n][2 * h + 1] *= factor;
        }
    }
}

template <int HD> static __device__ __forceinline__ void put_result(const Attention &a, const float result[][4], const float sum[2], size_t base, int query,
                                                                    int lane)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float all = sum[h] + __shfl_xor_sync(FULL, sum[h], 1);
        const size_t at = base + (size_t)(query + 8 * h) * a.heads * a.hd;

        all += __shfl_xor_sync(FULL, all, 2);
        if (query + 8 * h >= a.n)
            continue;
#pragma unroll
        for (int n = 0; n < HD / 8; n++) {
            const float lo = result[n][2 * h] / all, hi = result[n][2 * h + 1] / all;
            const int d = n * 8 + (lane & 3) * 2;

            if (d >= a.hd)
                continue;
            if (a.out_dtype == DT_F32)
                st8((float *)a.out + at + d, make_uint2(__float_as_uint(lo), __float_as_uint(hi)));
            else
                *(uint32_t *)((bf16 *)a.out + at + d) = pack_bf16(lo, hi);
        }
    }
}

/* Block (x, y, z): queries 64 x .., head y, item z of the batch */
template <int HD, bool REL> __global__ void __launch_bounds__(THREADS) mma_kernel(Attention a)
{
    enum { BYTES = KEYS * HD * 2 };
    SMEM_DYNAMIC(smem);
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y, q0 = blockIdx.x * QUERIES, item = blockIdx.z;
    const size_t row = (size_t)a.heads * a.hd;
    const int first_tiles = (a.part[0].nb + KEYS - 1) / KEYS, nb_tiles = first_tiles + (a.part[1].nb + KEYS - 1) / KEYS;
    const int query = q0 + warp * 16 + (lane >> 2);
    const float unit = (REL ? 1.f : a.scale) * 1.4426950408889634f;
    unsigned char *keys = smem + BYTES, *values = smem + 3 * BYTES;
    uint32_t q[HD / 16][4];
    float result[HD / 8][4] = {}, top[2] = { -INFINITY, -INFINITY }, sum[2] = {};
    const auto fetch_tile = [&](int tile, int slot) {
        const bool second = tile >= first_tiles;
        const bf16 *k = (const bf16 *)(second ? a.part[1].k : a.part[0].k), *v = (const bf16 *)(second ? a.part[1].v : a.part[0].v);
        const int nb = second ? a.part[1].nb : a.part[0].nb, first = (second ? tile - first_tiles : tile) * KEYS;
        const size_t base = (size_t)item * nb * row + (size_t)head * a.hd;

        fetch<HD>(keys + slot * BYTES, k + base, row, a.hd, first, nb);
        fetch<HD>(values + slot * BYTES, v + base, row, a.hd, first, nb);
    };

    fetch<HD>(smem, (const bf16 *)a.q + (size_t)item * a.n * row + (size_t)head * a.hd, row, a.hd, q0, a.n);
    fetch_tile(0, 0);
    cp_async_commit();
    for (int t = 0; t < nb_tiles; t++) {
        const int slot = t & 1, k0 = (t < first_tiles ? t : t - first_tiles) * KEYS, nb = t < first_tiles ? a.part[0].nb : a.part[1].nb;
        float score[8][4] = {};

        if (t + 1 < nb_tiles)
            fetch_tile(t + 1, slot ^ 1);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (!t)
#pragma unroll
            for (int k = 0; k < HD / 16; k++)
                ldsm4(q[k], piece_at<HD>(smem, warp * 16 + (lane & 15), k * 2 + (lane >> 4)));
        multiply_keys<HD>(score, q, keys + slot * BYTES, lane);
        if (REL)
            add_relative(a, score, query, k0, nb, head, lane);
        if (nb - k0 < KEYS)
            mask_behind(score, nb - k0, lane);
        weigh<HD>(score, top, sum, result, unit);
        multiply_values<HD>(result, score, values + slot * BYTES, lane);
        __syncthreads();                                            // this slot is the next to be filled
    }
    cp_async_wait<0>();
    put_result<HD>(a, result, sum, (size_t)item * a.n * row + (size_t)head * a.hd, query, lane);
}

/* The same for codes: the next tile's come, and a scale for each thread, while this one's numbers are at work. */
template <int HD> __global__ void __launch_bounds__(THREADS) mma_codes_kernel(Attention a, Scales of_codes)
{
    enum { BYTES = KEYS * HD * 2 };
    SMEM_DYNAMIC(smem);
    SMEM_STATIC(float, scales, 2 * KEYS);                           // of the tile's keys, values
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, head = blockIdx.y, q0 = blockIdx.x * QUERIES, item = blockIdx.z;
    const size_t row = (size_t)a.heads * a.hd;
    const int first_tiles = (a.part[0].nb + KEYS - 1) / KEYS, nb_tiles = first_tiles + (a.part[1].nb + KEYS - 1) / KEYS;
    const int query = q0 + warp * 16 + (lane >> 2);
    const float unit = a.scale * 1.4426950408889634f;
    unsigned char *keys = smem + BYTES, *values = smem + 2 * BYTES, *codes = smem + 3 * BYTES;
    const float *scale_first = threadIdx.x < KEYS ? of_codes.of[0][0] : of_codes.of[0][1];
    const float *scale_second = threadIdx.x < KEYS ? of_codes.of[1][0] : of_codes.of[1][1];
    float next = 0;                                                 // this thread's of the scales to come
    uint32_t q[HD / 16][4];
    float result[HD / 8][4] = {}, top[2] = { -INFINITY, -INFINITY }, sum[2] = {};
    const auto fetch_tile = [&](int tile) {
        const bool second = tile >= first_tiles;
        const unsigned char *k = (const unsigned char *)(second ? a.part[1].k : a.part[0].k), *v = (const unsigned char *)(second ? a.part[1].v : a.part[0].v);
        const int nb = second ? a.part[1].nb : a.part[0].nb, first = (second ? tile - first_tiles : tile) * KEYS;
        const int of_scale = first + (int)(threadIdx.x % KEYS);
        const size_t base = (size_t)item * nb * row + (size_t)head * a.hd;

        fetch_codes<HD>(codes, k + base, row, a.hd, first, nb);
        fetch_codes<HD>(codes + BYTES / 2, v + base, row, a.hd, first, nb);
        next = of_scale < nb ? (second ? scale_second : scale_first)[((size_t)item * nb + of_scale) * a.heads + head] : 0;
    };

    fetch<HD>(smem, (const bf16 *)a.q + (size_t)item * a.n * row + (size_t)head * a.hd, row, a.hd, q0, a.n);
    fetch_tile(0);
    cp_async_commit();
    for (int t = 0; t < nb_tiles; t++) {
        const int k0 = (t < first_tiles ? t : t - first_tiles) * KEYS, nb = t < first_tiles ? a.part[0].nb : a.part[1].nb;
        float score[8][4] = {};

        scales[threadIdx.x] = next;
        cp_async_wait<0>();
        __syncthreads();                                            // the codes are there, the last tile was read
        decode<HD>(keys, codes, scales);
        decode<HD>(values, codes + BYTES / 2, scales + KEYS);
        __syncthreads();
        if (t + 1 < nb_tiles)
            fetch_tile(t + 1);
        cp_async_commit();
        if (!t)
#pragma unroll
            for (int k = 0; k < HD / 16; k++)
                ldsm4(q[k], piece_at<HD>(smem, warp * 16 + (lane & 15), k * 2 + (lane >> 4)));
        multiply_keys<HD>(score, q, keys, lane);
        if (nb - k0 < KEYS)
            mask_behind(score, nb - k0, lane);
        weigh<HD>(score, top, sum, result, unit);
        multiply_values<HD>(result, score, values, lane);
    }
    cp_async_wait<0>();
    put_result<HD>(a, result, sum, (size_t)item * a.n * row + (size_t)head * a.hd, query, lane);
}

template <int HD> static cudaError_t launch(Backend *be, const Attention *a, const Scales *s, int batch)
{
    const bool codes = s->of[0][0];
    const int smem = (codes ? 4 : 5) * KEYS * HD * 2;
    const dim3 grid((unsigned)((a->n + QUERIES - 1) / QUERIES), (unsigned)a->heads, (unsigned)batch);
    void (*const kernel)(Attention) = a->rel ? mma_kernel<HD < REL_MOST ? HD : REL_MOST, true> : mma_kernel<HD, false>;
    const void *const any = codes ? (const void *)mma_codes_kernel<HD> : (const void *)kernel;
    const cudaError_t e = cudaFuncSetAttribute(any, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);

    if (e)
        return e;
    return codes ? LAUNCH(mma_codes_kernel<HD>, grid, THREADS, smem, avt_cuda(be)->stream, *a, *s) :
                   LAUNCH(kernel, grid, THREADS, smem, avt_cuda(be)->stream, *a);
}

int avt_cuda_attention_mma(Backend *be, const Attention *a, const Scales *s, int batch)
{
    return avt_cuda_check(be, a->hd <= 32 ? launch<32>(be, a, s, batch) : a->hd <= 64 ? launch<64>(be, a, s, batch) : launch<128>(be, a, s, batch),
                          "attention");
}

static Segment segment_of(Tensor k, Tensor v, int batched)
{
    if (!k.be)
        return {};
    return { k.data, v.data, k.dtype, v.dtype, (int)k.dim[batched] };
}

static const float *scales_of(Tensor t)
{
    return t.be ? (const float *)t.scale : NULL;
}

static int read_by4(const OpCall *c, int hd)
{
    for (int i = 0; i < 5; i++)
        if (c->in[i].be && !can_load4(c->in[i].data, c->in[i].dtype, hd))
            return 0;
    return can_load4(c->out.data, c->out.dtype, hd);
}

static int all_are(const Attention *a, DType type)
{
    return a->part[0].dtype == type && (!a->part[1].nb || a->part[1].dtype == type);
}

/* Pieces of 16 bytes, and a scale that keeps the order of scores */
static int suits_mma(const Attention *a, const Scales *s)
{
    const uintptr_t all = (uintptr_t)a->q | (uintptr_t)a->out | (uintptr_t)a->part[0].k | (uintptr_t)a->part[0].v | (uintptr_t)a->part[1].k |
                          (uintptr_t)a->part[1].v;
    const int numbers = all_are(a, DT_BF16) && !s->of[0][1] && !s->of[1][1] && a->hd % 8 == 0;
    const int codes = all_are(a, DT_F8_E4M3) && a->hd % 16 == 0 && !a->rel;

    return a->q_dtype == DT_BF16 && (numbers || codes) && a->hd <= (a->rel ? REL_MOST : HEAD_MOST) && a->scale > 0 && all % 16 == 0;
}

static int by_hand(Backend *be, const OpCall *c)
{
    const Tensor q = c->attention.q;
    const int batched = q.nd == 4, batch = batched ? (int)q.dim[0] : 1;
    const Attention a = { q.data, c->out.data, q.dtype, c->out.dtype,
                          { segment_of(c->attention.k1, c->attention.v1, batched), segment_of(c->attention.k2, c->attention.v2, batched) },
                          (const float *)c->attention.rel.data, (int)q.dim[batched], (int)q.dim[batched + 1], (int)q.dim[batched + 2],
                          read_by4(c, (int)q.dim[batched + 2]), c->u.attention.scale };
    const Scales s = { { { scales_of(c->attention.k1), scales_of(c->attention.v1) }, { scales_of(c->attention.k2), scales_of(c->attention.v2) } }, scales_of(c->attention.q) };

    return suits_mma(&a, &s) ? avt_cuda_attention_mma(be, &a, &s, batch) : avt_cuda_attention_exact(be, &a, &s, batch);
}

static int by_choice(Backend *be, const OpCall *c, const CudaChoice *by)
{
    return by->library == BY_HAND ? by_hand(be, c) : avt_cuda_attention_dnn(be, c, by->number);
}

/* ---- contests ---------------------------------------------------------------------------------------------------------------- */

typedef struct AttentionShape {         // all that its time depends on, and the key of the choice
    int64_t kind, n, first, second, heads, hd;          // PLAN_ATTENTION_CHOICE; queries, keys of the segments
} AttentionShape;

static AttentionShape shape_of(const OpCall *c)
{
    return { PLAN_ATTENTION_CHOICE, c->out.dim[0], c->attention.k1.dim[0], c->attention.k2.be ? c->attention.k2.dim[0] : 0, c->out.dim[1], c->out.dim[2] };
}

static void write_shape(char *text, size_t size, const AttentionShape *s)
{
    snprintf(text, size, "attention %lld over %lld+%lld, %lld heads of %lld bf16", (long long)s->n, (long long)s->first, (long long)s->second,
             (long long)s->heads, (long long)s->hd);
}

/* Who may compute it, the one that is taken without a contest first: cuDNN from Hopper on, whose kernels there use the cards' own instructions,
 * but of its engine 8, which is Ampere's. */
static int entrants(CudaChoice *e, int arch)
{
    int nb = 0;

    if (arch >= 90)
        e[nb++] = { BY_DNN, -1 };
    e[nb++] = { BY_HAND, 0 };
    e[nb++] = { BY_DNN, arch >= 90 ? 8 : -1 };
    return nb;
}

/* By who has won for its shape, or without a table by the first. @return ENOSYS: not by cuDNN, or no contest is held for it */
static int by_contest(Backend *be, const OpCall *c)
{
    const AttentionShape shape = shape_of(c);
    const CudaChoice *won = be->tuned ? avt_cuda_choice(be, &shape, sizeof(shape)) : NULL;
    CudaChoice entrant[ENTRANTS_MOST];
    const int nb = entrants(entrant, avt_cuda(be)->arch);
    char text[128];

    if (won || !be->tuned || 4. * (double)(shape.n * (shape.first + shape.second)) * (double)(shape.heads * shape.hd) < be->tuned->least)
        return by_choice(be, c, won ? won : &entrant[0]);
    write_shape(text, sizeof(text), &shape);
    const Contest contest = { &shape, sizeof(shape), text, entrant, nb, by_choice, c, c };
    return avt_cuda_contend(be, &contest);
}

int avt_cuda_attention(Backend *be, const OpCall *c)
{
    int ret = AVT_ERR(ENOSYS);

    if (!avt_numel(c->out))
        return 0;
    if (avt_cuda_attention_suits(c) && avt_cuda_is_aligned(c))
        ret = by_contest(be, c);
    return ret == AVT_ERR(ENOSYS) ? by_hand(be, c) : ret;
}
