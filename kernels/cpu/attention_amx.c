/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attention in bf16 with AMX: both products in tiles, the softmax between them in AVX-512, everything lying on its side.
 *
 *   scores  s[key][query] = k q^T              a tile of keys is 16 rows as they are; q^T is packed once
 *   weights p[key][query] = 2^(c s - top)      a lane is a query: maximum and sum run down the columns; rounded to bf16, in pairs
 *   result  o[d][query]  += v^T p              v^T is packed once a chunk
 *
 * A tile is 1 KB: of the left operand 16 rows of 32 numbers; of the right one 16 pairs of rows, 16 columns, the two of a pair side by
 * side; of sums 16 x 16 f32. All lie in the workspace, in the order in which the products read them, filled up with zeros.
 *
 * A task is some blocks of BLOCK queries of one head. For each chunk of KEYS keys it packs keys and values, which stay in the second
 * cache, and takes its blocks through. Scores and sums are f32. The sum is that of the rounded weights, so that they add up to one.
 * top follows the maximum only when that has risen by more than SLACK: weights may be as large as 2^SLACK, and o is seldom rescaled.
 *
 * Bits do not depend on the number of threads: a query's numbers are its own, whichever block and task it is in.
 *
 * Traps: gcc does not know that a tile is loaded from memory, hence fence(). The tiles' shape is a state of the thread, which others
 * (oneDNN) set for themselves: it is set in each parallel region and released there.
 */
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "cpu/plain.h"

#define LOG2E 1.44269504f
#define INLINE static inline __attribute__((always_inline))

enum {
    SIDE = 16, WIDE = 32,               // rows of a tile, numbers in a row of the left operand
    TILE16 = SIDE * WIDE,               // numbers of bf16 in a tile
    TILE32 = SIDE * SIDE,               // of f32
    BLOCK = 2 * SIDE,                   // queries that a product takes at once
    KEYS = 256, MAX_BLOCKS = 16,
    SLACK = 8
};

typedef struct Heads {                  // the operands of a call, for one head
    int64_t hd, width, stride;          // numbers of a head; a multiple of WIDE; numbers from one token to the next
    const uint16_t *q, *k[2], *v[2];
    const float *rel;                   // bias of query i and key j at rel[(j - i) * nb_heads], or NULL
    int64_t nb_heads, nb, nb_keys[2];
    float c;                            // |scale| / ln 2
    uint32_t sign;                      // of the scale, for both halves of a word
} Heads;

typedef struct Block {                  // 32 queries under way
    uint16_t *q;                        // 2 x [width / 32] tiles
    float *o;                           // 2 x [width / 16] tiles
    float *top, *sum;                   // [32]
} Block;

typedef struct Chunk {                  // keys under way
    int64_t nb, first;                  // keys, number of the first
    uint16_t *k;                        // [KEYS / 16][width / 32] tiles
    uint16_t *v;                        // [width / 16][nb / 32] tiles
    float *s;                           // 2 x [KEYS / 16] tiles; the weights take their places
    float *bias;                        // [KEYS + 32]
} Chunk;

static int64_t width_of(int64_t hd)
{
    return (hd + WIDE - 1) / WIDE * WIDE;
}

INLINE void fence(void)
{
    __asm__ volatile("" ::: "memory");
}

/* c[i][j] (+)= a[i] b[j] for i, j in 0, 1; a tile of c is at c + i * TILE32 + j * c_step. */
INLINE void product(float *c, int64_t c_step, const uint16_t *a, int64_t a_step, const uint16_t *b, int64_t b_step, int64_t nb, int add)
{
    fence();
    if (add) {
        _tile_loadd(0, c, 64);
        _tile_loadd(1, c + c_step, 64);
        _tile_loadd(2, c + TILE32, 64);
        _tile_loadd(3, c + c_step + TILE32, 64);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < nb * TILE16; k += TILE16) {
        _tile_loadd(4, a + k, 64);
        _tile_loadd(6, b + k, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + b_step + k, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + a_step + k, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, 64);
    _tile_stored(1, c + c_step, 64);
    _tile_stored(2, c + TILE32, 64);
    _tile_stored(3, c + c_step + TILE32, 64);
}

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* nb rows of `size` bytes, 64 at most; the rest of the 16 x 64 bytes is zero. */
INLINE void take_rows(uint8_t *dst, const void *src, int64_t stride, int64_t nb, int64_t size)
{
    const __mmask64 mask = size < 64 ? ((__mmask64)1 << size) - 1 : ~(__mmask64)0;

    for (int64_t r = 0; r < SIDE; r++)
        _mm512_storeu_si512(dst + 64 * r, r < nb ? _mm512_maskz_loadu_epi8(mask, (const uint8_t *)src + r * stride) :
                                                   _mm512_setzero_si512());
}

INLINE __m512i four_rows(const uint8_t *p, int64_t stride)          // 16 bytes of each fourth row
{
    __m512i a = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));

    a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + 4 * stride)), 1);
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + 8 * stride)), 2);
    return _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *)(p + 12 * stride)), 3);
}

/* out[c] = word c of 16 rows of `size` bytes, of which nb are there; others are zero. */
INLINE void turn(__m512i out[SIDE], const void *src, int64_t stride, int64_t nb, int64_t size)
{
    uint8_t some[SIDE * 64];
    const uint8_t *p = src;

    if (nb < SIDE || size < 64) {
        take_rows(some, src, stride, nb, size);
        p = some;
        stride = 64;
    }
    for (int g = 0; g < 4; g++) {
        const __m512i a = four_rows(p + 16 * g, stride), b = four_rows(p + 16 * g + stride, stride);
        const __m512i c = four_rows(p + 16 * g + 2 * stride, stride), d = four_rows(p + 16 * g + 3 * stride, stride);
        const __m512i ab0 = _mm512_unpacklo_epi32(a, b), ab1 = _mm512_unpackhi_epi32(a, b);
        const __m512i cd0 = _mm512_unpacklo_epi32(c, d), cd1 = _mm512_unpackhi_epi32(c, d);

        out[4 * g + 0] = _mm512_unpacklo_epi64(ab0, cd0);
        out[4 * g + 1] = _mm512_unpackhi_epi64(ab0, cd0);
        out[4 * g + 2] = _mm512_unpacklo_epi64(ab1, cd1);
        out[4 * g + 3] = _mm512_unpackhi_epi64(ab1, cd1);
    }
}

/* Right operand: q^T, pairs of numbers by queries. */
static void pack_queries(const Heads *h, uint16_t *dst, int64_t first)
{
    const __m512i sign = _mm512_set1_epi32((int)h->sign);

    for (int64_t i = first; i < first + BLOCK; i += SIDE)
        for (int64_t d = 0; d < h->width; d += WIDE, dst += TILE16) {
            __m512i row[SIDE];

            turn(row, h->q + i * h->stride + d, 2 * h->stride, h->nb - i, 2 * (h->hd - d));
            for (int p = 0; p < SIDE; p++)
                _mm512_storeu_si512(dst + WIDE * p, _mm512_xor_si512(row[p], sign));
        }
}

/* Left operand: keys as they are. */
static void pack_keys(const Heads *h, uint16_t *dst, const uint16_t *k, int64_t nb)
{
    for (int64_t j = 0; j < nb; j += SIDE)
        for (int64_t d = 0; d < h->width; d += WIDE, dst += TILE16)
            take_rows((uint8_t *)dst, k + j * h->stride + d, 2 * h->stride, nb - j, 2 * (h->hd - d));
    if (nb % WIDE && nb % WIDE <= SIDE)
        memset(dst, 0, sizeof(*dst) * (size_t)(SIDE * h->width));
}

/* Left operand: v^T. Turned as words, 16 keys at a time, then the halves of the words are sorted: even numbers, odd ones. */
static void pack_values(const Heads *h, uint16_t *dst, const uint16_t *v, int64_t nb)
{
    static const uint16_t even[WIDE] = { 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                         32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62 };
    const __m512i low = _mm512_loadu_si512(even), high = _mm512_or_si512(low, _mm512_set1_epi16(1));
    const int64_t step = (nb + WIDE - 1) / WIDE * TILE16;

    for (int64_t d = 0; d < h->width; d += WIDE, dst += 2 * step)
        for (int64_t j = 0; j < nb; j += WIDE) {
            uint16_t *tile = dst + j / WIDE * TILE16;
            __m512i a[SIDE], b[SIDE];

            turn(a, v + j * h->stride + d, 2 * h->stride, nb - j, 2 * (h->hd - d));
            turn(b, v + (j + SIDE) * h->stride + d, 2 * h->stride, nb - j - SIDE, 2 * (h->hd - d));
            for (int r = 0; r < SIDE; r++) {
                uint16_t *row = tile + (r / (SIDE / 2)) * step + r % (SIDE / 2) * 2 * WIDE;

                _mm512_storeu_si512(row, _mm512_permutex2var_epi16(a[r], low, b[r]));
                _mm512_storeu_si512(row + WIDE, _mm512_permutex2var_epi16(a[r], high, b[r]));
            }
        }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* 2^x to 1e-4, a twentieth of what bf16 keeps; 0 below, NaN stays */
INLINE __m512 exp2_of(__m512 x)
{
    const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.07826797f), f, _mm512_set1_ps(0.22630768f));

    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69542435f));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1)), x);
}

/* s = c s + bias for 16 queries; bias[i - j] of query i */
static void add_bias(float *s, int64_t nb, float c, const float *bias)
{
    for (int64_t j = 0; j < nb; j++)
        _mm512_store_ps(s + SIDE * j, _mm512_fmadd_ps(_mm512_load_ps(s + SIDE * j), _mm512_set1_ps(c), _mm512_loadu_ps(bias - j)));
}

INLINE __m512 highest(const float *s, int64_t nb)
{
    __m512 top[4];

    for (int i = 0; i < 4; i++)
        top[i] = _mm512_load_ps(s);
    for (int64_t j = 0; j < nb; j += 4)
        for (int i = 0; i < 4; i++)
            top[i] = _mm512_max_ps(_mm512_load_ps(s + SIDE * min_i64(j + i, nb - 1)), top[i]);
    return _mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3]));
}

/* Weights of nb keys in the place of their scores, two keys a row; returns sum plus theirs. */
INLINE __m512 weights(float *s, int64_t nb, __m512 c, __m512 top, __m512 sum)
{
    static const uint16_t pairs[WIDE] = { 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31 };
    const __m512i order = _mm512_loadu_si512(pairs), ones = _mm512_set1_epi32(0x3f803f80);
    const __m512 zero = _mm512_setzero_ps();
    float *p = s;

    for (int64_t j = 0; j < nb; j += 2, p += SIDE) {
        const __m512 a = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(s + SIDE * j), c, top));
        const __m512 b = j + 1 < nb ? exp2_of(_mm512_fmsub_ps(_mm512_load_ps(s + SIDE * (j + 1)), c, top)) : zero;
        const __m512i both = _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(b, a));

        _mm512_store_si512(p, both);
        sum = _mm512_dpbf16_ps(sum, (__m512bh)both, (__m512bh)ones);
    }
    for (; (p - s) % TILE32; p += SIDE)
        _mm512_store_ps(p, zero);
    return sum;
}

/* Scores into weights, for 16 queries; bias: of this chunk, or NULL. */
static void soften(const Heads *h, const Chunk *k, float *s, float *o, float *tops, float *sums, const float *bias)
{
    const int first = !k->first;
    const __m512 old = first ? _mm512_set1_ps(-INFINITY) : _mm512_load_ps(tops);
    __m512 c = _mm512_set1_ps(h->c), high, top, sum = first ? _mm512_setzero_ps() : _mm512_load_ps(sums);
    __mmask16 risen;

    if (bias) {
        add_bias(s, k->nb, h->c, bias);
        c = _mm512_set1_ps(1);
    }
    high = _mm512_mul_ps(highest(s, k->nb), c);
    risen = _mm512_cmp_ps_mask(high, _mm512_add_ps(old, _mm512_set1_ps(SLACK)), _CMP_GT_OQ);
    top = _mm512_mask_mov_ps(old, risen, high);
    if (risen && !first) {
        const __m512 shrink = exp2_of(_mm512_sub_ps(old, top));

        sum = _mm512_mul_ps(sum, shrink);
        for (int64_t d = 0; d < h->width; d++)
            _mm512_store_ps(o + SIDE * d, _mm512_mul_ps(_mm512_load_ps(o + SIDE * d), shrink));
    }
    _mm512_store_ps(tops, top);
    _mm512_store_ps(sums, weights(s, k->nb, c, top, sum));
}

/* ---- a task ----------------------------------------------------------------------------------------------------- */

/* The table turned round, for 32 queries from `query` on: bias of lane i and the chunk's key j at bias[i - j]. */
static const float *take_bias(const Heads *h, const Chunk *k, int64_t query)
{
    float *bias = k->bias + k->nb - 1;

    for (int64_t d = 1 - k->nb; d < BLOCK; d++)                     // d = i - j
        bias[d] = query + d - k->first < h->nb ? LOG2E * h->rel[(k->first - query - d) * h->nb_heads] : 0;
    return bias;
}

static void attend(const Heads *h, const Block *b, const Chunk *k, int64_t query)
{
    const int64_t steps = h->width / WIDE, key_steps = (k->nb + WIDE - 1) / WIDE, half = SIDE * h->width;
    const float *bias = h->rel ? take_bias(h, k, query) : NULL;

    for (int64_t j = 0; j < k->nb; j += BLOCK)
        product(k->s + SIDE * j, SIDE * KEYS, k->k + j * h->width, half, b->q, half, steps, 0);
    for (int64_t i = 0; i < BLOCK; i += SIDE)
        soften(h, k, k->s + i * KEYS, b->o + i * h->width, b->top + i, b->sum + i, bias ? bias + i : NULL);
    for (int64_t d = 0; d < h->width; d += WIDE)
        product(b->o + SIDE * d, half, k->v + d / SIDE * key_steps * TILE16, key_steps * TILE16, (const uint16_t *)k->s,
                2 * SIDE * KEYS, key_steps, k->first > 0);
}

/* o / sum to the result, 16 queries and 16 numbers at a time. */
static void finish(const Heads *h, const Block *b, Tensor out, int64_t head, int64_t query)
{
    for (int64_t i = 0; i < min_i64(BLOCK, h->nb - query); i += SIDE)
        for (int64_t d = 0; d < h->hd; d += SIDE) {
            const __mmask16 mask = (__mmask16)((1u << min_i64(SIDE, h->hd - d)) - 1);
            __m512i row[SIDE];

            turn(row, b->o + i * h->width + SIDE * d, 64, SIDE, 64);
            for (int64_t r = 0; r < min_i64(SIDE, h->nb - query - i); r++) {
                const int64_t at = (query + i + r) * h->stride + head * h->hd + d;
                const __m512 v = _mm512_div_ps((__m512)row[r], _mm512_set1_ps(b->sum[i + r]));

                if (out.dtype == DT_F32)
                    _mm512_mask_storeu_ps((float *)out.data + at, mask, v);
                else
                    _mm256_mask_storeu_epi16((uint16_t *)out.data + at, mask, (__m256i)_mm512_cvtneps_pbh(v));
            }
        }
}

static void heads_init(Heads *h, const OpCall *c, int64_t head)
{
    const int64_t n = c->out.dim[0], nb_heads = c->out.dim[1], hd = c->out.dim[2];
    const Tensor k[2] = { c->attention.k1, c->attention.k2 }, v[2] = { c->attention.v1, c->attention.v2 };

    *h = (Heads){ .hd = hd, .width = width_of(hd), .stride = nb_heads * hd, .nb_heads = nb_heads, .nb = n };
    h->q = (const uint16_t *)c->attention.q.data + head * hd;
    for (int i = 0; i < 2 && k[i].be; i++) {
        h->k[i] = (const uint16_t *)k[i].data + head * hd;
        h->v[i] = (const uint16_t *)v[i].data + head * hd;
        h->nb_keys[i] = k[i].dim[0];
    }
    if (c->attention.rel.be)
        h->rel = (const float *)c->attention.rel.data + head + (n - 1) * nb_heads;
    h->c = fabsf(c->u.attention.scale) * LOG2E;
    h->sign = c->u.attention.scale < 0 ? 0x80008000 : 0;
}

/* Bytes; numbers of bf16 have 2, of f32 4. */
static int64_t block_bytes(int64_t width)
{
    return BLOCK * (2 * width + 4 * width + 2 * 4);                 // q, o, top and sum
}

static int64_t task_bytes(int64_t width, int64_t blocks)
{
    return blocks * block_bytes(width) + KEYS * (2 * 2 * width + 4 * BLOCK) + 4 * (KEYS + 2 * BLOCK);       // k and v, s, bias
}

/* Blocks first .. first + nb - 1 of a head; work: task_bytes(), at a multiple of 64. */
static void run_task(const OpCall *c, uint8_t *work, int64_t head, int64_t first, int64_t nb)
{
    Block b[MAX_BLOCKS];
    Chunk k = { 0 };
    Heads h;

    heads_init(&h, c, head);
    for (int64_t i = 0; i < nb; i++, work += block_bytes(h.width)) {
        b[i].o = (float *)work;
        b[i].top = b[i].o + BLOCK * h.width;
        b[i].sum = b[i].top + BLOCK;
        b[i].q = (uint16_t *)(b[i].sum + BLOCK);
        pack_queries(&h, b[i].q, (first + i) * BLOCK);
    }
    k.s = (float *)work;
    k.k = (uint16_t *)(k.s + KEYS * BLOCK);
    k.v = k.k + KEYS * h.width;
    k.bias = (float *)(k.v + KEYS * h.width);
    for (int s = 0; s < 2; s++)
        for (int64_t j = 0; j < h.nb_keys[s]; j += KEYS, k.first += k.nb) {
            k.nb = min_i64(KEYS, h.nb_keys[s] - j);
            pack_keys(&h, k.k, h.k[s] + j * h.stride, k.nb);
            pack_values(&h, k.v, h.v[s] + j * h.stride, k.nb);
            for (int64_t i = 0; i < nb; i++)
                attend(&h, &b[i], &k, (first + i) * BLOCK);
        }
    for (int64_t i = 0; i < nb; i++)
        finish(&h, &b[i], c->out, head, (first + i) * BLOCK);
}

/* How many blocks a task has: few enough that the threads finish together, many enough that packing (PACK blocks' worth) is shared. */
static int64_t blocks_of_task(int64_t blocks, int64_t heads, int threads)
{
    const double pack = 0.5;
    double least = INFINITY;
    int64_t best = 1;

    for (int64_t nb = 1; nb <= min_i64(MAX_BLOCKS, blocks); nb++) {
        const int64_t tasks = (blocks + nb - 1) / nb * heads;
        const double cost = (double)((tasks + threads - 1) / threads) * ((double)nb + pack);

        if (cost < least) {
            least = cost;
            best = nb;
        }
    }
    return best;
}

/* palette 1: eight tiles of 16 rows of 64 bytes */
static const struct {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} shape = { 1, 0, { 0 }, { 64, 64, 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16, 16, 16 } };

static int attention(Backend *be, const OpCall *c)
{
    const int64_t blocks = (c->out.dim[0] + BLOCK - 1) / BLOCK, heads = c->out.dim[1];
    const int64_t nb = blocks_of_task(blocks, heads, be->threads), tasks = (blocks + nb - 1) / nb;
    const int64_t size = task_bytes(width_of(c->out.dim[2]), nb), keys = c->attention.k1.dim[0] + c->attention.k2.dim[0];
    uint8_t *work = avt_cpu_work(be, (size_t)(be->threads * size));

    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel num_threads(be->threads) if (2 * avt_numel(c->out) * keys > TILED * be->grain)
    {
        _tile_loadconfig(&shape);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < heads * tasks; i++) {
            const int64_t first = i % tasks * nb;

            if (!avt_cpu_given_up(be))
                run_task(c, work + avt_cpu_thread() * size, i / tasks, first, min_i64(nb, blocks - first));
        }
        _tile_release();
    }
    return 0;
}

int avt_amx_attention(Backend *be, const OpCall *c)
{
    OpCall bf16 = *c;
    int ret;

    for (int i = 0; i < 5; i++)                                     // q, keys, values
        if (c->in[i].be && c->in[i].dtype != DT_BF16 && !c->in[i].scale)
            return avt_cpu_widened(be, c);
    ret = avt_cpu_decode_keys(be, &bf16);
    return ret < 0 ? ret : attention(be, &bf16);
}
