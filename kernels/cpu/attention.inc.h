/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attention in vectors, with everything lying on its side: a lane is a query.
 *
 *   scores  s[key][query] = k q^T              keys are read number by number, where they are; q^T is packed once a block
 *   weights p[key][query] = exp(s - top)       maximum and sum run down the columns: no reduction across lanes
 *   result  o[d][query]  += v^T p              values are read number by number, from a copy of a tile
 *
 * so nothing is transposed, and both products are one inner loop: ROWS x COLS vectors of sums, fed with broadcasts. The copy is for the second:
 * what it reads one after another lies a token apart in values, for 12 heads of 128 6 KB, and meets in a few sets of the near cache.
 * A block is COLS vectors of queries of one head; keys come in tiles of KEYS, first segment, then second. The running maximum is that of
 * plain C (kernels/cpu/attention.c).
 *
 * A task takes up to BLOCKS blocks of a head past each tile, so that keys and values, which no near cache holds, come from memory the
 * fewer times: x 1.5 to 2 on a Xeon at 768 queries x 12 x 128, 3840 keys.
 *
 * Bits do not depend on the number of threads: a block is one thread's, and knows nothing of the others.
 */
#include <math.h>
#include <string.h>

#include "cpu/simd.h"

#ifdef LEVEL

enum { ROWS = VN == 16 ? 8 : 4, COLS = 3, KEYS = 64, MAX_QUERIES = COLS * VN, BLOCKS = 8 };

typedef struct Flash {                  // a block of queries under way, in a thread's part of the workspace
    int64_t hd, stride;                 // floats from one token to the next: all heads
    int64_t nb, cols, ld;               // queries, vectors, lanes
    float *q;                           // [hd][ld], times scale
    float *p;                           // [KEYS + ROWS][ld]
    float *o;                           // [hd + ROWS][ld]
    float *top, *sum;                   // [ld]
    float *bias;                        // bias of lane i and key j at bias[i - j], or NULL
} Flash;

/* s[ROWS][cols] (+)= sum over k of x[row][k * step] w[k][cols]; x holds the rows' addresses. */
INLINE void product(float *s, const float *const x[ROWS], int64_t step, const float *w, int64_t ld, int64_t nb, int add, const int cols)
{
    V acc[ROWS][COLS];

    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < cols; c++)
            acc[r][c] = add ? v_load(s + r * ld + c * VN) : v_set(0);
    for (int64_t k = 0; k < nb; k++) {
        V b[COLS];

        for (int c = 0; c < cols; c++)
            b[c] = v_load(w + k * ld + c * VN);
        for (int r = 0; r < ROWS; r++) {
            const V a = v_set(x[r][k * step]);

            for (int c = 0; c < cols; c++)
                acc[r][c] = v_fma(a, b[c], acc[r][c]);
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < cols; c++)
            v_store(s + r * ld + c * VN, acc[r][c]);
}

static void product_of(const Flash *f, float *s, const float *const x[ROWS], int64_t step, const float *w, int64_t nb, int add)
{
    if (f->cols == 3)
        product(s, x, step, w, f->ld, nb, add, 3);
    else if (f->cols == 2)
        product(s, x, step, w, f->ld, nb, add, 2);
    else
        product(s, x, step, w, f->ld, nb, add, 1);
}

/* Rows past the end repeat the last one; what they give is not looked at. */
static void scores(const Flash *f, const float *k, int64_t nb)
{
    for (int64_t j = 0; j < nb; j += ROWS) {
        const float *x[ROWS];

        for (int64_t r = 0; r < ROWS; r++)
            x[r] = k + min_i64(j + r, nb - 1) * f->stride;
        product_of(f, f->p + j * f->ld, x, 1, f->q, f->hd, 0);
    }
}

/* tile[hd / ROWS][nb][ROWS] = v; what is behind the last of hd repeats it */
static void take_values(float *tile, const float *v, int64_t stride, int64_t hd, int64_t nb)
{
    for (int64_t j = 0; j < nb; j++, v += stride, tile += ROWS) {
        int64_t d = 0;

        for (; d + ROWS <= hd; d += ROWS)
            memcpy(tile + d * nb, v + d, ROWS * sizeof(*v));
        for (int64_t r = 0; d < hd && r < ROWS; r++)
            tile[d * nb + r] = v[min_i64(d + r, hd - 1)];
    }
}

static void add_values(const Flash *f, const float *tile, int64_t nb)
{
    for (int64_t d = 0; d < f->hd; d += ROWS) {
        const float *x[ROWS];

        for (int64_t r = 0; r < ROWS; r++)
            x[r] = tile + d * nb + r;
        product_of(f, f->o + d * f->ld, x, ROWS, f->p, nb, 1);
    }
}

/* Scores into weights, for one vector of queries. */
INLINE void soften(const Flash *f, int64_t first_key, int64_t nb, int64_t lane)
{
    float *p = f->p + lane;
    const V old = v_load(f->top + lane);
    V top = old, sum = v_set(0), shrink;

    for (int64_t j = 0; j < nb; j++) {
        V s = v_load(p + j * f->ld);

        if (f->bias) {
            s = v_add(s, v_load(f->bias + lane - first_key - j));
            v_store(p + j * f->ld, s);
        }
        top = v_max(s, top);
    }
    for (int64_t j = 0; j < nb; j++) {
        const V e = v_exp(v_sub(v_load(p + j * f->ld), top));

        v_store(p + j * f->ld, e);
        sum = v_add(sum, e);
    }
    shrink = v_exp(v_sub(old, top));
    v_store(f->sum + lane, v_fma(v_load(f->sum + lane), shrink, sum));
    v_store(f->top + lane, top);
    if (v_equal(old, top))
        return;
    for (int64_t d = 0; d < f->hd; d++)
        v_store(f->o + d * f->ld + lane, v_mul(v_load(f->o + d * f->ld + lane), shrink));
}

/* Keys and values of one segment, a tile at a time, past all the blocks */
static void attend(const Flash *f, int nb_blocks, float *tile, const float *k, const float *v, int64_t nb)
{
    for (int64_t j = 0; j < nb; j += KEYS) {
        const int64_t n = min_i64(KEYS, nb - j);

        take_values(tile, v + j * f->stride, f->stride, f->hd, n);
        for (int b = 0; b < nb_blocks; b++) {
            scores(&f[b], k + j * f->stride, n);
            for (int64_t c = 0; c < f[b].cols; c++)
                soften(&f[b], j, n, c * VN);
            add_values(&f[b], tile, n);
        }
    }
}

static int64_t flash_floats(int64_t hd, int64_t nb_bias)
{
    return MAX_QUERIES * (hd + KEYS + ROWS + hd + ROWS + 2) + (nb_bias + VN - 1) / VN * VN;
}

static void flash_init(Flash *f, float *work, const OpCall *c, int64_t head, int64_t first)
{
    const int64_t n = c->out.dim[0], heads = c->out.dim[1], hd = c->out.dim[2];

    f->hd = hd;
    f->stride = heads * hd;
    f->nb = min_i64(MAX_QUERIES, n - first);
    f->cols = (f->nb + VN - 1) / VN;
    f->ld = f->cols * VN;
    f->q = work;
    f->p = f->q + hd * f->ld;
    f->o = f->p + (KEYS + ROWS) * f->ld;
    f->top = f->o + (hd + ROWS) * f->ld;
    f->sum = f->top + f->ld;
    memset(f->q, 0, (size_t)(hd * f->ld) * sizeof(float));
    memset(f->o, 0, (size_t)((hd + ROWS) * f->ld) * sizeof(float));
    transpose(f->q, f->ld, (const float *)c->in[0].data + first * f->stride + head * hd, f->stride, f->nb, hd);
    for (int64_t i = 0; i < hd * f->ld; i += VN)
        v_store(f->q + i, v_mul(v_load(f->q + i), v_set(c->u.attention.scale)));
    for (int64_t i = 0; i < f->ld; i++) {
        f->top[i] = -INFINITY;
        f->sum[i] = 0;
    }
}

/* One head's column of the table, turned round: rel[j - i + N - 1] becomes bias[i - j], i being the lane. */
static void take_bias(Flash *f, const OpCall *c, int64_t head, int64_t first)
{
    const int64_t n = c->out.dim[0], m = c->in[1].dim[0], heads = c->out.dim[1];
    const float *rel = (const float *)c->in[5].data + head;

    f->bias = f->sum + f->ld + m;
    for (int64_t d = 1 - m; d < f->ld; d++)                         // d = i - j
        f->bias[d] = d < f->nb ? rel[(n - 1 - first - d) * heads] : 0;
}

/* out = o / sum */
static void finish_queries(const Flash *f, const OpCall *c, int64_t head, int64_t first)
{
    for (int64_t i = 0; i < f->cols; i++) {
        const V part = v_div(v_set(1), v_load(f->sum + i * VN));

        for (int64_t d = 0; d < f->hd; d++)
            v_store(f->o + d * f->ld + i * VN, v_mul(v_load(f->o + d * f->ld + i * VN), part));
    }
    transpose((float *)c->out.data + first * f->stride + head * f->hd, f->stride, f->o, f->ld, f->hd, f->nb);
}

static void attend_blocks(const OpCall *c, float *work, int64_t size, int64_t head, int64_t first, int nb)
{
    float *const tile = work + nb * size;
    const float *in[5];
    Flash f[BLOCKS] = { { 0 } };

    for (int i = 1; i < 5; i++)
        in[i] = c->in[i].be ? (const float *)c->in[i].data + head * c->out.dim[2] : NULL;
    for (int b = 0; b < nb; b++) {
        flash_init(&f[b], work + b * size, c, head, first + b * MAX_QUERIES);
        if (c->in[5].be)
            take_bias(&f[b], c, head, first + b * MAX_QUERIES);
    }
    attend(f, nb, tile, in[1], in[2], c->in[1].dim[0]);
    if (in[3])
        attend(f, nb, tile, in[3], in[4], c->in[3].dim[0]);
    for (int b = 0; b < nb; b++)
        finish_queries(&f[b], c, head, first + b * MAX_QUERIES);
}

static int attention(Backend *be, const OpCall *c)
{
    const int64_t heads = c->out.dim[1], blocks = (c->out.dim[0] + MAX_QUERIES - 1) / MAX_QUERIES;
    const int64_t fair = blocks * heads / (3 * be->threads);        // three tasks a thread, so that all end at about the same time
    const int64_t step = fair < 1 ? 1 : min_i64(fair, BLOCKS), tasks = (blocks + step - 1) / step;
    const int64_t size = (flash_floats(c->out.dim[2], c->in[5].be ? c->in[1].dim[0] + MAX_QUERIES : 0) + VN - 1) / VN * VN;
    const int64_t own = step * size + (c->out.dim[2] + ROWS - 1) / ROWS * ROWS * KEYS;
    float *work = avt_cpu_work(be, (size_t)(be->threads * own) * sizeof(float));

    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel for num_threads(be->threads) schedule(dynamic)
    for (int64_t i = 0; i < tasks * heads; i++) {
        const int64_t first = i % tasks * step;

        if (!avt_cpu_given_up(be))
            attend_blocks(c, work + avt_cpu_thread() * own, size, i / tasks, first * MAX_QUERIES, (int)min_i64(step, blocks - first));
    }
    return 0;
}

#endif
