/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attention whose queries and keys are codes of i8, by VNNI: both products in whole numbers, everything lying on its side as in
 * attention.inc.h.
 *
 *   scores  s[key][query] = k q^T              four numbers of each at a time; 128 is added to each of a key, and what that brings is taken
 *                                              away from where a sum begins, as in linear_vnni_avx512.c. These sums are exact
 *   weights p[key][query] = 2^(c s - top + 12) to 0 .. 4096, top being the tile's own highest, so that a tile whose weights are all small
 *                                              keeps their digits; two keys side by side
 *   result  o[d][query]  += v^T p              two keys at a time; a column of a tile's values has a scale of its own, to -8191 .. 8191, so
 *                                              that the sum of 64 products fits 32 bits
 *
 * o and the sum of weights are f32, for a running maximum that rises only by more than SLACK. A weight is wrong by 2^-13 of the tile's
 * largest, a value by 2^-14 of its column's; a NaN comes through: by the sum of the weights, or by the column's scale.
 *
 * A task takes up to BLOCKS blocks of queries of a head past each tile, which is packed once for all of them.
 */
#include <math.h>
#include <string.h>

#include "cpu/codes8.h"
#include "cpu/simd.h"

enum { ROWS = 8, COLS = 3, KEYS = 64, QUERIES = COLS * VN, BLOCKS = 16, BIAS = 128, FOUR = 4, BITS = 12, MOST = 8191, SLACK = 20 };

typedef int32_t Sums __attribute__((vector_size(64)));              // see linear_vnni_avx512.c

typedef struct Block {                  // queries under way
    int64_t nb, cols;                   // queries, vectors of them
    int8_t *q;                          // [depth / 4][cols][16][4]
    int32_t *begin;                     // [cols 16]: -128 times the sum of a query
    float *c;                           // [cols 16]: what a score is multiplied with, besides the key's scale: base 2
    float *top, *sum, *factor;          // [cols 16]; factor: of the tile's weights
    float *o;                           // [width][cols 16]
} Block;

typedef struct Tile {                   // keys and values of a head, packed; scores and weights of a block
    int64_t hd, depth, width;           // of the head; filled up to 4, to 16
    int64_t nb;                         // keys
    uint8_t *k;                         // [KEYS][depth]; behind the last the last one again, up to ROWS
    float *k_scale;                     // [KEYS]
    int16_t *v;                         // [width / ROWS][KEYS / 2][ROWS][2]
    float *v_scale;                     // [width]
    float *s;                           // [KEYS][cols 16]
    int16_t *p;                         // [KEYS / 2][cols][16][2]
} Tile;

/* ---- packing ----------------------------------------------------------------------------------------------------- */

static void take_keys(Tile *t, const int8_t *k, const float *scale, int64_t heads)
{
    for (int64_t j = 0; j < (t->nb + ROWS - 1) / ROWS * ROWS; j++) {
        const int64_t row = min_i64(j, t->nb - 1) * heads;
        uint8_t *to = t->k + j * t->depth;

        for (int64_t d = 0; d < t->hd; d += 64) {
            const __mmask64 mask = ~0ull >> (64 - min_i64(64, t->hd - d));
            const __m512i codes = _mm512_maskz_loadu_epi8(mask, k + row * t->hd + d);

            _mm512_mask_storeu_epi8(to + d, mask, _mm512_xor_si512(codes, _mm512_set1_epi8((char)BIAS)));
        }
        for (int64_t d = t->hd; d < t->depth; d++)
            to[d] = BIAS;
        t->k_scale[j] = scale[row];
    }
}

INLINE V load_masked(Tensor x, int64_t at, __mmask16 mask)
{
    if (x.dtype == DT_F32)
        return _mm512_maskz_loadu_ps(mask, (const float *)x.data + at);
    return v_wide16(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)x.data + at));
}

/* Columns d .. d + 15 of a tile: their scales, and what they are multiplied with */
INLINE V scale_columns(const Tile *t, Tensor v, int64_t at, int64_t step, int64_t d, __mmask16 mask)
{
    V top = v_set(0), bad = v_set(0);

    for (int64_t j = 0; j < t->nb; j++) {
        const V x = load_masked(v, at + j * step, mask);

        top = v_max(v_abs(x), top);
        bad = v_add(bad, v_sub(x, x));                              // NaN, when one is, or an infinity
    }
    v_store(t->v_scale + d, v_add(v_mul(top, v_set(1.0f / MOST)), bad));
    return _mm512_maskz_div_ps(_mm512_cmp_ps_mask(top, v_set(1e-30f), _CMP_GT_OQ), v_set(MOST), top);
}

INLINE __m512i pair_of(V even, V odd)                               // nearest whole numbers, 16 bits each
{
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_cvtps_epi32(even), _mm512_slli_epi32(_mm512_cvtps_epi32(odd), 16));
}

/* v: the element of its tensor that is the tile's first; step: from one key to the next */
static void take_values(Tile *t, Tensor v, int64_t at, int64_t step)
{
    for (int64_t d = 0; d < t->hd; d += VN) {
        const __mmask16 mask = v_mask(min_i64(VN, t->hd - d));
        const V by = scale_columns(t, v, at + d, step, d, mask);

        for (int64_t j = 0; j < t->nb; j += 2) {
            const V even = load_masked(v, at + d + j * step, mask), odd = load_masked(v, at + d + (j + 1) * step, j + 1 < t->nb ? mask : 0);
            const __m512i both = pair_of(v_mul(even, by), v_mul(odd, by));
            int16_t *to = t->v + (d / ROWS * KEYS / 2 + j / 2) * 2 * ROWS;

            _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(both));
            _mm256_storeu_si256((__m256i *)(to + KEYS * ROWS), _mm512_extracti64x4_epi64(both, 1));
        }
    }
}

/* Lane i of a block's queries, turned round where scores are. @return the sum of its codes */
static int32_t take_query(const Tile *t, const Block *b, int64_t i, const int8_t *q, int negative)
{
    const int64_t step = b->cols * VN * FOUR;
    __m512i sums = _mm512_setzero_si512();

    for (int64_t d = 0; d < t->depth; d += 64) {
        const __m512i codes = _mm512_maskz_loadu_epi8(~0ull >> (64 - min_i64(64, t->hd - d)), q + d);
        const __m512i v = negative ? _mm512_sub_epi8(_mm512_setzero_si512(), codes) : codes;
        int8_t some[64];

        _mm512_storeu_si512(some, v);
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), v);
        for (int64_t j = 0; j < min_i64(64, t->depth - d); j += FOUR)
            memcpy(b->q + (d + j) / FOUR * step + i * FOUR, some + j, FOUR);
    }
    return _mm512_reduce_add_epi32(sums);
}

static void take_queries(const Tile *t, Block *b, const OpCall *c, int64_t head, int64_t first)
{
    const Tensor q = c->attention.q;
    const int64_t heads = q.dim[1], ld = b->cols * VN;
    const float scale = c->u.attention.scale;

    for (int64_t i = 0; i < ld; i++) {
        const int64_t row = (first + min_i64(i, b->nb - 1)) * heads + head;

        b->begin[i] = -BIAS * take_query(t, b, i, (const int8_t *)q.data + row * t->hd, scale < 0);
        b->c[i] = fabsf(scale) * 1.44269504f * ((const float *)q.scale)[row];
        b->top[i] = -INFINITY;
        b->sum[i] = 0;
    }
    memset(b->o, 0, (size_t)(t->width * ld) * sizeof(float));
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

INLINE __m512i four_bytes(const void *p)
{
    int32_t four;

    memcpy(&four, p, sizeof(four));
    return _mm512_set1_epi32(four);
}

/* Scores of ROWS keys from j on, times the keys' scales; high: the highest */
INLINE void score_rows(const Tile *t, const Block *b, int64_t j, V high[COLS], const int cols)
{
    const uint8_t *k = t->k + j * t->depth;
    float *s = t->s + j * cols * VN;
    Sums acc[ROWS][COLS];

    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < cols; i++)
            acc[r][i] = (Sums)_mm512_loadu_si512(b->begin + i * VN);
    for (int64_t d = 0; d < t->depth; d += FOUR) {
        __m512i w[COLS];

        for (int i = 0; i < cols; i++)
            w[i] = _mm512_loadu_si512(b->q + (d * cols + i * FOUR) * VN);
        for (int r = 0; r < ROWS; r++) {
            const __m512i x = four_bytes(k + r * t->depth + d);

            for (int i = 0; i < cols; i++)
                acc[r][i] = (Sums)_mm512_dpbusd_epi32((__m512i)acc[r][i], x, w[i]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < cols; i++) {
            const V v = v_mul(_mm512_cvtepi32_ps((__m512i)acc[r][i]), v_set(t->k_scale[j + r]));

            high[i] = v_max(v, high[i]);
            v_store(s + (r * cols + i) * VN, v);
        }
}

/* o[ROWS from d][query] += v^T p */
INLINE void value_rows(const Tile *t, const Block *b, int64_t d, const int cols)
{
    const int16_t *v = t->v + d * KEYS;
    float *o = b->o + d * cols * VN;
    Sums acc[ROWS][COLS];

    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < cols; i++)
            acc[r][i] = (Sums){ 0 };
    for (int64_t j = 0; j < (t->nb + 1) / 2; j++) {
        __m512i w[COLS];

        for (int i = 0; i < cols; i++)
            w[i] = _mm512_loadu_si512(t->p + (j * cols + i) * 2 * VN);
        for (int r = 0; r < ROWS; r++) {
            const __m512i x = four_bytes(v + (j * ROWS + r) * 2);

            for (int i = 0; i < cols; i++)
                acc[r][i] = (Sums)_mm512_dpwssd_epi32((__m512i)acc[r][i], x, w[i]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < cols; i++) {
            const V sum = v_mul(_mm512_cvtepi32_ps((__m512i)acc[r][i]), v_load(b->factor + i * VN));

            v_store(o + (r * cols + i) * VN, v_fma(sum, v_set(t->v_scale[d + r]), v_load(o + (r * cols + i) * VN)));
        }
}

/* ---- softmax ----------------------------------------------------------------------------------------------------- */

/* 2^x to 1e-4, less than half of a weight's last digit; 0 far below, NaN stays */
INLINE V exp2_of(V x)
{
    const V f = v_fraction(x);
    V p = v_fma(v_set(0.07826797f), f, v_set(0.22630768f));

    p = v_fma(p, f, v_set(0.69542435f));
    return v_scale2(v_fma(p, f, v_set(1)), x);
}

/* The running maximum of vector i of queries follows a tile's highest, which comes in high; factor: of the tile's weights */
INLINE void follow(const Tile *t, const Block *b, int i, V high)
{
    const int64_t ld = b->cols * VN;
    float *tops = b->top + i * VN, *sums = b->sum + i * VN;
    const V old = v_load(tops);
    const __mmask16 risen = _mm512_cmp_ps_mask(high, v_add(old, v_set(SLACK)), _CMP_GT_OQ);
    const V top = _mm512_mask_mov_ps(old, risen, high);

    if (risen) {
        const V shrink = _mm512_mask_mov_ps(v_set(1), risen, exp2_of(v_sub(old, top)));

        v_store(sums, v_mul(v_load(sums), shrink));
        for (int64_t d = 0; d < t->width; d++)
            v_store(b->o + d * ld + i * VN, v_mul(v_load(b->o + d * ld + i * VN), shrink));
    }
    v_store(tops, top);
    v_store(b->factor + i * VN, exp2_of(v_sub(v_sub(high, top), v_set(BITS))));
}

/* Scores into weights, for vector i of queries; behind an odd last key is a zero */
INLINE void soften(const Tile *t, const Block *b, int i, V most, const int cols)
{
    const V c = v_load(b->c + i * VN), high = v_mul(most, c), zero = v_sub(high, v_set(BITS));
    const float *s = t->s + i * VN;
    float *sums = b->sum + i * VN;
    V sum = v_set(0);

    follow(t, b, i, high);
    for (int64_t j = 0; j < t->nb; j += 2, s += 2 * cols * VN) {
        const V even = exp2_of(_mm512_fmsub_ps(v_load(s), c, zero));
        const V odd = j + 1 < t->nb ? exp2_of(_mm512_fmsub_ps(v_load(s + cols * VN), c, zero)) : v_set(0);

        sum = v_add(sum, v_add(even, odd));
        _mm512_storeu_si512(t->p + (j / 2 * cols + i) * 2 * VN, pair_of(even, odd));
    }
    v_store(sums, v_fma(sum, v_load(b->factor + i * VN), v_load(sums)));
}

INLINE void attend_tile(const Tile *t, const Block *b, const int cols)
{
    V high[COLS];

    for (int i = 0; i < cols; i++)
        high[i] = v_set(-INFINITY);
    for (int64_t j = 0; j < t->nb; j += ROWS)
        score_rows(t, b, j, high, cols);
    for (int i = 0; i < cols; i++)
        soften(t, b, i, high[i], cols);
    for (int64_t d = 0; d < t->hd; d += ROWS)
        value_rows(t, b, d, cols);
}

static void attend_block(const Tile *t, const Block *b)
{
    if (b->cols == 3)
        attend_tile(t, b, 3);
    else if (b->cols == 2)
        attend_tile(t, b, 2);
    else
        attend_tile(t, b, 1);
}

/* ---- a task ------------------------------------------------------------------------------------------------------ */

typedef struct Work {                   // a thread's part of the workspace, given out front to back; of NULL it is only counted
    char *p;
    int64_t used;
} Work;

static void *cut(Work *w, int64_t size)
{
    char *p = w->p ? w->p + w->used : NULL;

    w->used += (size + 63) / 64 * 64;
    return p;
}

static void block_init(Block *b, const Tile *t, Work *work)
{
    b->q = cut(work, t->depth * QUERIES);
    b->begin = cut(work, QUERIES * 4);
    b->c = cut(work, QUERIES * 4);
    b->top = cut(work, QUERIES * 4);
    b->sum = cut(work, QUERIES * 4);
    b->factor = cut(work, QUERIES * 4);
    b->o = cut(work, t->width * QUERIES * 4);
}

static void tile_init(Tile *t, int64_t hd, Work *work)
{
    *t = (Tile){ .hd = hd, .depth = (hd + FOUR - 1) / FOUR * FOUR, .width = (hd + VN - 1) / VN * VN };
    t->k = cut(work, KEYS * t->depth);
    t->k_scale = cut(work, KEYS * 4);
    t->v = cut(work, KEYS * t->width * 2);
    t->v_scale = cut(work, t->width * 4);
    t->s = cut(work, KEYS * QUERIES * 4);
    t->p = cut(work, KEYS * QUERIES * 2);
}

static int64_t task_bytes(int64_t hd, int64_t blocks)
{
    Work work = { 0 };
    Tile t;
    Block b;

    tile_init(&t, hd, &work);
    for (int64_t i = 0; i < blocks; i++)
        block_init(&b, &t, &work);
    return work.used;
}

static void attend_segment(Tile *t, const Block *b, int nb_blocks, Tensor k, Tensor v, int64_t head)
{
    const int64_t heads = k.dim[1];

    for (int64_t j = 0; j < k.dim[0]; j += KEYS) {
        const int64_t row = j * heads + head;

        t->nb = min_i64(KEYS, k.dim[0] - j);
        take_keys(t, (const int8_t *)k.data + row * t->hd, (const float *)k.scale + row, heads);
        take_values(t, v, row * t->hd, heads * t->hd);
        for (int i = 0; i < nb_blocks; i++)
            attend_block(t, &b[i]);
    }
}

/* out = o / sum */
static void finish(const Tile *t, const Block *b, Tensor out, int64_t head, int64_t first)
{
    const int64_t ld = b->cols * VN, heads = out.dim[1];

    for (int64_t i = 0; i < ld; i += VN) {
        const V part = v_div(v_set(1), v_load(b->sum + i));

        for (int64_t d = 0; d < t->hd; d++)
            v_store(b->o + d * ld + i, v_mul(v_load(b->o + d * ld + i), part));
    }
    transpose((float *)out.data + (first * heads + head) * t->hd, heads * t->hd, b->o, ld, t->hd, b->nb);
}

static void run_task(const OpCall *c, char *own, int64_t head, int64_t first, int nb)
{
    Work work = { .p = own };
    Block b[BLOCKS];
    Tile t;

    tile_init(&t, c->out.dim[2], &work);
    for (int i = 0; i < nb; i++) {
        const int64_t at = first + i * QUERIES;

        block_init(&b[i], &t, &work);
        b[i].nb = min_i64(QUERIES, c->out.dim[0] - at);
        b[i].cols = (b[i].nb + VN - 1) / VN;
        take_queries(&t, &b[i], c, head, at);
    }
    attend_segment(&t, b, nb, c->attention.k1, c->attention.v1, head);
    if (c->attention.k2.be)
        attend_segment(&t, b, nb, c->attention.k2, c->attention.v2, head);
    for (int i = 0; i < nb; i++)
        finish(&t, &b[i], c->out, head, first + i * QUERIES);
}

static int attention(Backend *be, const OpCall *c)
{
    const int64_t heads = c->out.dim[1], blocks = (c->out.dim[0] + QUERIES - 1) / QUERIES, keys = c->attention.k1.dim[0] + c->attention.k2.dim[0];
    const int64_t fair = blocks * heads / (3 * be->threads);        // three tasks a thread, so that all end at about the same time
    const int64_t step = fair < 1 ? 1 : min_i64(fair, BLOCKS), tasks = (blocks + step - 1) / step, size = task_bytes(c->out.dim[2], step);
    char *work = avt_cpu_work(be, (size_t)(be->threads * size));

    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel for num_threads(be->threads) schedule(dynamic) if (2 * avt_numel(c->out) * keys > TILED * be->grain)
    for (int64_t i = 0; i < tasks * heads; i++) {
        const int64_t first = i % tasks * step;

        if (!avt_cpu_given_up(be))
            run_task(c, work + avt_cpu_thread() * size, i / tasks, first * QUERIES, (int)min_i64(step, blocks - first));
    }
    return 0;
}

int avt_vnni_attention8(Backend *be, const OpCall *c)
{
    if (c->out.dtype != DT_F32 || c->attention.v1.scale || c->attention.v2.scale || c->attention.rel.be)
        return avt_cpu_widened(be, c);
    return attention(be, c);
}
