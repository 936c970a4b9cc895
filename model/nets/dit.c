/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Forward of the diffusion transformer's layers and head (dit.md 7, 8, 10; causal_model_s2v.py).
 *
 *   u = LN(x) (1 + m1) + m0          x += m2 * o(attention(q, ring ++ sink))          a block's keys go into the ring first
 *   u = LN(x; norm3)                 x += o(attention(q, text))
 *   u = LN(x) (1 + m4) + m3          x += m5 * ffn2(gelu(ffn0(u)))                     then, after some layers, the audio
 *
 * x is f32; u, q, attention and the FFN's inside have the backend's type of activations, rings and sinks their own.
 * Keys in the ring are rotated once, at their absolute frame, and so are the motion keys of the sink, which stand still. The reference
 * moves along with the stream: its keys are also kept as they come out of the norm and are rotated anew for each block, into their
 * place in front of the motion keys. A sink item attends to itself alone.
 * Scratch is marked and released around each step, so that the peak is the largest step of one item: the FFN, N (D + DF) values.
 */
#include <math.h>
#include <stdio.h>

#include "nets/dit.h"

static Tensor heads(const Dit *d, Tensor x)                         // [M, D] -> [M, NH, hd]
{
    return avt_view(x, x.dim[0], d->cfg.nb_heads, d->cfg.dim / d->cfg.nb_heads);
}

static Tensor flat(const Dit *d, Tensor x)                          // [M, NH, hd] -> [M, D]
{
    return avt_view(x, x.dim[0], d->cfg.dim);
}

static float scale_of(const Dit *d)
{
    return 1 / sqrtf((float)(d->cfg.dim / d->cfg.nb_heads));
}

/* An activation of x's shape. */
static Tensor like(Arena *scratch, Tensor x)
{
    return avt_new_dims(scratch, avt_arena_backend(scratch)->act, x.nd, x.dim);
}

static void see(const DitItem *it, const char *name, Tensor t)
{
    if (it->probe)
        it->probe->see(it->probe->opaque, name, t);
}

static void see_layer(const DitItem *it, int layer, const char *what, Tensor t)
{
    char name[64];

    snprintf(name, sizeof(name), "layer_%d_%s", layer, what);
    see(it, name, t);
}

/* The norm of q or k [M, D] over the full width and, with a table, the rotation, in place. */
static void normalize(Backend *be, const Dit *d, Tensor x, Tensor norm, Tensor table)
{
    avt_norm_rope(be, x, x, norm, table, d->cfg.eps);
}

/* q of u, and the block's keys and values into their place in the ring. */
static void fill_ring(Backend *be, const Dit *d, const DitAttention *a, DitItem *it, int i, Tensor q, Tensor u)
{
    const int64_t N = it->shape->N, slot = it->f0 % DIT_RING * it->shape->n;
    const Tensor k = flat(d, avt_rows(it->ring->k[i], slot, N)), v = flat(d, avt_rows(it->ring->v[i], slot, N));

    avt_linear_group(be, 3, (const Tensor[]){ k, v, q }, u, (const Linear *const[]){ &a->k, &a->v, &a->q });
    normalize(be, d, k, a->norm_k, it->rope);
    normalize(be, d, q, a->norm_q, it->rope);
}

/* att = attention of the block's q over the ring so far, this block included, and over the sink. */
static void attend_block(Backend *be, const Dit *d, DitItem *it, int i, Tensor att, Tensor q)
{
    const int64_t n = it->shape->n, frames = it->f0 + DIT_BLOCK < DIT_RING ? it->f0 + DIT_BLOCK : DIT_RING;

    avt_rope(be, avt_rows(it->sink->k[i], 0, n), it->sink->ref[i], it->rope_sink);
    avt_attention(be, heads(d, att), heads(d, q), avt_rows(it->ring->k[i], 0, frames * n), avt_rows(it->ring->v[i], 0, frames * n),
                  it->sink->k[i], it->sink->v[i], AVT_NONE, scale_of(d));
}

/* own: the sink's keys as this pass itself sees them, AVT_NONE: as they are kept */
static void attend_sink(Backend *be, const Dit *d, DitItem *it, int i, Tensor att, Tensor q, Tensor own)
{
    avt_attention(be, heads(d, att), heads(d, q), own.be ? heads(d, own) : it->sink->k[i], it->sink->v[i], AVT_NONE, AVT_NONE, AVT_NONE,
                  scale_of(d));
}

/* q of u, and the sink's keys and values of layer i, which are all that the last layer has to give (q: AVT_NONE). own: see attend_sink(). */
static void fill_sink(Backend *be, const Dit *d, const DitAttention *a, DitItem *it, int i, Tensor q, Tensor own, Tensor u)
{
    const Tensor k = flat(d, it->sink->k[i]), v = flat(d, it->sink->v[i]);

    avt_linear_group(be, q.be ? 3 : 2, (const Tensor[]){ k, v, q }, u, (const Linear *const[]){ &a->k, &a->v, &a->q });
    avt_norm_rope(be, flat(d, it->sink->ref[i]), avt_rows(k, 0, it->shape->n), a->norm_k, AVT_NONE, d->cfg.eps);
    if (own.be)
        avt_norm_rope(be, own, k, a->norm_k, it->rope, d->cfg.eps);
    normalize(be, d, k, a->norm_k, it->rope_sink);
    if (q.be)
        normalize(be, d, q, a->norm_q, it->rope);
}

static int is_last_sink(const Dit *d, const DitItem *it, int i)
{
    return it->sink_pass && d->l0 + i == d->cfg.nb_layers - 1 && !it->probe;
}

static void self_attention(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i, Tensor m)
{
    const DitAttention *a = &d->layer[i].self;
    const size_t mark = avt_arena_mark(scratch);
    const Tensor u = like(scratch, it->x), q = is_last_sink(d, it, i) ? AVT_NONE : like(scratch, it->x);
    const Tensor own = it->sink_pass && it->given_rope.be ? like(scratch, it->x) : AVT_NONE;

    avt_norm_modulate(be, u, it->x, avt_at(m, 1), avt_at(m, 0), d->cfg.eps);
    if (it->sink_pass)
        fill_sink(be, d, a, it, i, q, own, u);
    else
        fill_ring(be, d, a, it, i, q, u);
    if (q.be) {
        if (it->sink_pass)
            attend_sink(be, d, it, i, u, q, own);
        else
            attend_block(be, d, it, i, u, q);
        avt_linear_add(be, it->x, it->x, u, &a->o, avt_at(m, 2));
    }
    avt_arena_release(scratch, mark);
}

static void text_attention(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i)
{
    const DitLayer *l = &d->layer[i];
    const size_t mark = avt_arena_mark(scratch);
    const Tensor u = like(scratch, it->x), q = like(scratch, it->x);

    avt_layer_norm(be, u, it->x, l->norm3_w, l->norm3_b, d->cfg.eps, ACT_NONE);
    avt_linear(be, q, u, &l->cross.q, ACT_NONE);
    normalize(be, d, q, l->cross.norm_q, AVT_NONE);
    avt_attention(be, heads(d, u), heads(d, q), it->text->k[i], it->text->v[i], AVT_NONE, AVT_NONE, AVT_NONE, scale_of(d));
    avt_linear_add(be, it->x, it->x, u, &l->cross.o, AVT_NONE);
    avt_arena_release(scratch, mark);
}

static void feed_forward(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i, Tensor m)
{
    const DitLayer *l = &d->layer[i];
    const size_t mark = avt_arena_mark(scratch);
    const Tensor u = like(scratch, it->x), y = avt_new(scratch, be->act, it->x.dim[0], d->cfg.ffn_dim);

    avt_norm_modulate(be, u, it->x, avt_at(m, 4), avt_at(m, 3), d->cfg.eps);
    avt_linear(be, y, u, &l->ffn0, ACT_GELU_TANH);
    avt_linear_add(be, it->x, it->x, y, &l->ffn2, avt_at(m, 5));
    avt_arena_release(scratch, mark);
}

static void run_layer(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i)
{
    const DitLayer *l = &d->layer[i];
    const Tensor m = avt_at(it->time->layers, i);

    self_attention(be, scratch, d, it, i, m);
    if (!is_last_sink(d, it, i)) {
        text_attention(be, scratch, d, it, i);
        feed_forward(be, scratch, d, it, i, m);
        see_layer(it, d->l0 + i, "after_block", it->x);
    }
    if (l->inject && it->audio) {
        avt_dit_inject(be, scratch, d, l->inject, it->x, it->audio);
        see_layer(it, d->l0 + i, "after_audio", it->x);
    }
}

/* ---- positions -------------------------------------------------------------------------------------------------- */

static Tensor make_table(Backend *be, Arena *scratch, const Dit *d, const RopeGrid *g)
{
    const Tensor t = avt_new(scratch, DT_F32, avt_rope_tokens(g), d->cfg.dim / d->cfg.nb_heads / 2, 2);

    avt_rope_table(be, t, g);
    return t;
}

/* The reference sits at frame max(30, f0 + relative_dist): rolled by what that is beyond 30. */
static int64_t roll_of(const DitItem *it)
{
    const int64_t roll = it->f0 + it->relative_dist - 30;

    return roll > 0 ? roll : 0;
}

static void make_tables(Backend *be, Arena *scratch, const Dit *d, DitItem *it)
{
    RopeGrid own, sink;

    if (it->sink_pass)
        avt_dit_grid_sink(&own, it->shape, 0, d->rope_half);
    else
        avt_dit_grid_block(&own, it->shape, it->f0, d->rope_half);
    avt_dit_grid_reference(&sink, it->shape, roll_of(it), d->rope_half);
    it->rope = it->given_rope.be ? it->given_rope : make_table(be, scratch, d, &own);
    if (it->given_rope_sink.be)
        it->rope_sink = it->given_rope_sink;
    else if (!it->sink_pass)
        it->rope_sink = make_table(be, scratch, d, &sink);
    else
        it->rope_sink = it->given_rope.be ? make_table(be, scratch, d, &own) : it->rope;
}

static int item_is_sound(const Dit *d, const DitItem *it)
{
    if (!it->shape || !it->time || !it->text || !it->sink || it->x.nd != 2 || it->x.dim[1] != d->cfg.dim)
        return 0;
    if (it->sink->k[0].dim[0] != it->shape->Lc || !it->sink->ref || it->sink->ref[0].dim[0] != it->shape->n)
        return 0;
    if (it->sink_pass)
        return it->x.dim[0] == it->shape->Lc;
    return it->ring && it->f0 >= 0 && it->f0 % DIT_BLOCK == 0 && it->x.dim[0] == it->shape->N && it->ring->k[0].dim[0] == it->shape->ring;
}

int avt_dit_layers(Backend *be, Arena *scratch, const Dit *d, DitItem *items, int nb_items)
{
    const size_t mark = avt_arena_mark(scratch);

    for (int j = 0; j < nb_items; j++)
        AVT_REQUIRE(be->log, item_is_sound(d, &items[j]));
    for (int j = 0; j < nb_items; j++) {
        make_tables(be, scratch, d, &items[j]);
        if (d->l0 == 0)
            see(&items[j], "layer_in_0", items[j].x);
    }
    for (int i = 0; i < d->l1 - d->l0; i++)
        for (int j = 0; j < nb_items; j++)
            run_layer(be, scratch, d, &items[j], i);
    avt_arena_release(scratch, mark);
    return be->status;
}

/* ---- head ------------------------------------------------------------------------------------------------------- */

int avt_dit_head(Backend *be, Arena *scratch, const Dit *d, Tensor velocity, Tensor x, const DitTime *time)
{
    const size_t mark = avt_arena_mark(scratch);
    const Tensor m = time->head, y = avt_new(scratch, DT_F32, x.dim[0], 64);
    const Tensor u = avt_new_dims(scratch, DT_F32, 2, x.dim);

    avt_norm_modulate(be, u, x, avt_at(m, 1), avt_at(m, 0), d->cfg.eps);
    avt_linear(be, y, u, &d->head, ACT_NONE);
    avt_unpatchify(be, velocity, y, 2, 2);
    avt_arena_release(scratch, mark);
    return be->status;
}
