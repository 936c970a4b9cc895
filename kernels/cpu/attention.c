/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Attention over two segments of keys, without the N x M matrix: the softmax is carried along.
 *
 *   for a block of 128 queries of one head, for each tile of 64 keys (first segment, then second):
 *       s = scale * q k^T + bias;  m' = max(m, max s);  p = exp(s - m')
 *       out = out * exp(m - m') + p v;  sum = sum * exp(m - m') + sum p;  m = m'
 *   out /= sum
 *
 * `out` itself holds the running result. Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
 * Keys and values are packed into panels a tile at a time and in pieces of at most 128 of hd, so no head is too wide.
 */
#include <math.h>
#include <string.h>

#include "cpu/exp.h"
#include "cpu/plain.h"

enum { QUERIES = 128, KEYS = 64, PIECE = 128 };

typedef struct Block {                          // a block of queries of one head and what is known of it so far
    const float *q;                             // query i at q + i * stride
    float *out;
    int64_t stride, hd, nb;
    const float *rel;                           // bias of query i and key j at rel + (j - i) * heads, or NULL
    int64_t heads;
    float scale;
    float top[QUERIES], sum[QUERIES];
    float s[QUERIES][KEYS];                     // scores, then exp(scores - top)
    float pack[KEYS * PIECE];
} Block;

/* pack[key / 8][d][key % 8]: columns are keys, absent ones zero */
static void pack_keys(float *pack, const float *k, int64_t stride, int64_t nb_keys, int64_t nb_d)
{
    for (int64_t j = 0; j < panels_of(nb_keys) * PANEL; j++) {
        float *column = pack + j / PANEL * PANEL * nb_d + j % PANEL;

        for (int64_t d = 0; d < nb_d; d++)
            column[d * PANEL] = j < nb_keys ? k[j * stride + d] : 0;
    }
}

/* pack[d / 8][key][d % 8]: columns are elements of the value, absent ones zero */
static void pack_values(float *pack, const float *v, int64_t stride, int64_t nb_keys, int64_t nb_d)
{
    for (int64_t p = 0; p < panels_of(nb_d); p++)
        for (int64_t j = 0; j < nb_keys; j++)
            for (int64_t i = 0; i < PANEL; i++)
                *pack++ = p * PANEL + i < nb_d ? v[j * stride + p * PANEL + i] : 0;
}

static void scores(Block *b, const float *k, int64_t nb_keys)
{
    memset(b->s, 0, sizeof(b->s));
    for (int64_t d = 0; d < b->hd; d += PIECE) {
        const int64_t nb_d = min_i64(PIECE, b->hd - d);

        pack_keys(b->pack, k + d, b->stride, nb_keys, nb_d);
        for (int64_t i = 0; i < b->nb; i += TILE) {
            const float *x[TILE];

            for (int64_t r = 0; r < TILE; r++)
                x[r] = b->q + min_i64(i + r, b->nb - 1) * b->stride + d;
            for (int64_t p = 0; p < panels_of(nb_keys); p++) {
                float acc[TILE][PANEL] = { { 0 } };

                panel_add(acc, x, b->pack + p * PANEL * nb_d, nb_d);
                for (int r = 0; r < TILE; r++)
                    for (int j = 0; j < PANEL; j++)
                        b->s[i + r][p * PANEL + j] += acc[r][j];
            }
        }
    }
}

/* Scores of query i into weights; the running maximum, sum and result follow. */
static void soften(Block *b, int64_t i, int64_t first_key, int64_t nb_keys)
{
    float *s = b->s[i], *out = b->out + i * b->stride, top = b->top[i], old, sum;

    for (int64_t j = 0; j < nb_keys; j++)
        s[j] *= b->scale;
    for (int64_t j = 0; b->rel && j < nb_keys; j++)
        s[j] += b->rel[(first_key + j - i) * b->heads];
    top = fmaxf(top, row_max(s, nb_keys));
    for (int64_t j = 0; j < nb_keys; j++)
        s[j] = avt_exp(s[j] - top);
    sum = row_sum(s, nb_keys);
    old = avt_exp(b->top[i] - top);
    if (old != 1)
        for (int64_t d = 0; d < b->hd; d++)
            out[d] *= old;
    b->sum[i] = b->sum[i] * old + sum;
    b->top[i] = top;
}

static void add_panel(float *restrict out, const float *restrict v, int64_t nb)
{
    if (nb == PANEL)                            // nearly always: a known number vectorizes
        for (int j = 0; j < PANEL; j++)
            out[j] += v[j];
    else
        for (int64_t j = 0; j < nb; j++)
            out[j] += v[j];
}

static void add_values(Block *b, const float *v, int64_t nb_keys)
{
    for (int64_t d = 0; d < b->hd; d += PIECE) {
        const int64_t nb_d = min_i64(PIECE, b->hd - d);

        pack_values(b->pack, v + d, b->stride, nb_keys, nb_d);
        for (int64_t i = 0; i < b->nb; i += TILE) {
            const float *x[TILE] = { b->s[i], b->s[i + 1], b->s[i + 2], b->s[i + 3] };

            for (int64_t p = 0; p < panels_of(nb_d); p++) {
                float acc[TILE][PANEL] = { { 0 } };

                panel_add(acc, x, b->pack + p * PANEL * nb_keys, nb_keys);
                for (int64_t r = 0; r < min_i64(TILE, b->nb - i); r++)
                    add_panel(b->out + (i + r) * b->stride + d + p * PANEL, acc[r], min_i64(PANEL, nb_d - p * PANEL));
            }
        }
    }
}

static void attend(Block *b, const float *k, const float *v, int64_t nb)
{
    for (int64_t j = 0; j < nb; j += KEYS) {
        const int64_t nb_keys = min_i64(KEYS, nb - j);

        scores(b, k + j * b->stride, nb_keys);
        for (int64_t i = 0; i < b->nb; i++)
            soften(b, i, j, nb_keys);
        add_values(b, v + j * b->stride, nb_keys);
    }
}

static void attend_block(const OpCall *c, int64_t head, int64_t first)
{
    const int64_t n = c->out.dim[0], heads = c->out.dim[1], hd = c->out.dim[2], stride = heads * hd;
    const float *in[5];
    Block b = { .stride = stride, .hd = hd, .heads = heads, .scale = c->u.attention.scale, .nb = min_i64(QUERIES, n - first) };

    for (int i = 0; i < 5; i++)
        in[i] = c->in[i].be ? (const float *)c->in[i].data + head * hd : NULL;
    b.q = in[0] + first * stride;
    b.out = (float *)c->out.data + head * hd + first * stride;
    if (c->in[5].be)
        b.rel = (const float *)c->in[5].data + head + (n - 1 - first) * heads;
    for (int64_t i = 0; i < b.nb; i++) {
        b.top[i] = -INFINITY;
        memset(b.out + i * stride, 0, (size_t)hd * sizeof(float));
    }
    attend(&b, in[1], in[2], c->in[1].dim[0]);
    if (in[3])
        attend(&b, in[3], in[4], c->in[3].dim[0]);
    for (int64_t i = 0; i < b.nb; i++)
        for (int64_t d = 0; d < hd; d++)
            b.out[i * stride + d] *= 1 / b.sum[i];
}

int avt_plain_attention(Backend *be, const OpCall *c)
{
    const int64_t blocks = (c->out.dim[0] + QUERIES - 1) / QUERIES, nb = blocks * c->out.dim[1];

#pragma omp parallel for num_threads(be->threads) schedule(dynamic)
    for (int64_t i = 0; i < nb; i++)
        if (!avt_cpu_given_up(be))
            attend_block(c, i / blocks, i % blocks * QUERIES);
    return 0;
}
