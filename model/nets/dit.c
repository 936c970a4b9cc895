/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Forward of the diffusion transformer's layers and head (reference causal_model_s2v.py).
 *
 *   u = LN(x) (1 + m1) + m0          x += m2 * o(attention(q, ring ++ sink))          a block's keys go into the ring first
 *   u = LN(x; norm3)                 x += o(attention(q, text))
 *   u = LN(x) (1 + m4) + m3          x += m5 * ffn2(gelu(ffn0(u)))                     then, after some layers, the audio
 *
 * x is f32; q and attention have the backend's type of activations, rings and sinks their own (Dit.kv), to which the norm of keys gives
 * them, codes a row of each head; values, and what parts of a team have exchanged, are converted on their way in.
 * A product whose weight is codes takes codes: u and the FFN's inside are made as such (avt_new_factor()), attention's results become such; in int8
 * between f32 queries and keys as well.
 * Keys in the ring are rotated once, at their absolute frame, and so are the motion keys of the sink, which stand still. The reference
 * moves along with the stream: its keys are also kept as they come out of the norm and are rotated anew for each block, into their
 * place in front of the motion keys. A sink item attends to itself alone.
 * Scratch is marked and released around each step, so that the peak is the largest step of one item: the FFN, N (D + DF) values.
 */
#include <math.h>
#include <stdio.h>

#include "nets/rings.h"

static Tensor heads(const Dit *d, Tensor x)                         // [M, heads hd] -> [M, heads, hd]
{
    const int64_t hd = d->cfg.dim / d->cfg.nb_heads;

    return avt_view(x, x.dim[0], x.dim[1] / hd, hd);
}

static Tensor flat(Tensor x)                                        // [M, heads, hd] -> [M, heads hd]
{
    return avt_view(x, x.dim[0], x.dim[1] * x.dim[2]);
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

/* What a product takes, of x's shape. */
static Tensor factor_like(Arena *scratch, const Linear *l, Tensor x)
{
    return avt_new_factor(scratch, l, x.nd, x.dim);
}

/* An activation of the shape of u, which is spent: in its place, if it is none of codes. */
static Tensor instead_of(Arena *scratch, Tensor u)
{
    return u.scale ? like(scratch, u) : u;
}

/* Of M rows, `width` columns: an activation. */
static Tensor rows_like(Arena *scratch, int64_t M, int64_t width)
{
    return avt_new(scratch, avt_arena_backend(scratch)->act, M, width);
}

static int by_heads(const Dit *d)
{
    return d->team.way == TEAM_HEADS;
}

static int is_converted(const Backend *be, Tensor keys)
{
    return keys.dtype != be->act;
}

/* Where the product of u's rows goes that ends as `keys` [M, heads held, hd]: there at once, or to where heads are exchanged or converted
 * from. */
static Tensor product_of(Arena *scratch, const Dit *d, Tensor keys, Tensor u)
{
    return by_heads(d) || is_converted(avt_arena_backend(scratch), keys) ? rows_like(scratch, u.dim[0], d->width) : flat(keys);
}

/* Where heads of such a product x come together: in their place, or where they are converted from. */
static Tensor gathered(Backend *be, Arena *scratch, const Dit *d, Tensor keys, Tensor x)
{
    if (!by_heads(d))
        return heads(d, x);
    return is_converted(be, keys) ? like(scratch, keys) : keys;
}

static void convert(Backend *be, Tensor keys, Tensor x)
{
    if (is_converted(be, keys))
        avt_dit_keep(be, keys, x);
}

/* x [own tokens, D] of such a product, to its place. */
static TeamHeads kept(const Dit *d, Tensor keys, Tensor x, const TeamCut *cut)
{
    return (TeamHeads){ keys, heads(d, x), cut };
}

/* q of u, of_heads its heads held, and the block's keys and values into their place in the ring. Keys that are not exchanged go there by
 * their norm. */
static void fill_ring(Backend *be, Arena *scratch, const Dit *d, const DitAttention *a, DitItem *it, int i, Tensor q, Tensor of_heads, Tensor u)
{
    const int64_t N = it->shape->N, slot = it->f0 % DIT_RING * it->shape->n;
    const TeamCut cut = avt_dit_cut(it->shape, 0);
    const size_t mark = avt_arena_mark(scratch);
    const Tensor to_k = avt_rows(it->ring->k[i], slot, N), to_v = avt_rows(it->ring->v[i], slot, N);
    const Tensor k = product_of(scratch, d, to_k, u), v = product_of(scratch, d, to_v, u);
    const Tensor all_k = gathered(be, scratch, d, to_k, k), all_v = gathered(be, scratch, d, to_v, v);

    avt_linear_group(be, 3, (const Tensor[]){ k, v, q }, u, (const Linear *const[]){ &a->k, &a->v, &a->q });
    avt_team_norm_rope(&d->team, be, scratch, (const TeamNorm[]){ { by_heads(d) ? k : to_k, k, a->norm_k, it->rope },
                                                                  { q, q, a->norm_q, it->rope } }, 2, d->cfg.eps, d->cfg.dim);
    if (by_heads(d)) {
        avt_team_to_heads(&d->team, be, scratch, (const TeamHeads[]){ kept(d, all_k, k, &cut), kept(d, all_v, v, &cut),
                                                                      kept(d, heads(d, of_heads), q, &cut) }, 3);
        convert(be, to_k, all_k);
    }
    convert(be, to_v, all_v);
    avt_arena_release(scratch, mark);
}

/* x [N, heads, hd] as its codes of i8, in scratch */
static Tensor turned(Backend *be, Arena *scratch, Tensor x)
{
    const Tensor codes = x.be ? avt_new_codes(scratch, DT_I8, x.nd, x.dim) : AVT_NONE;

    if (x.be)
        avt_quantize(be, codes, x);
    return codes;
}

/* att = attention of q over one or two segments, each of keys and values. Where layers are i8 and activations f32, on a CPU without tiles, queries
 * and keys become codes as well: attention would be half of the pass. */
static void attend_over(Backend *be, Arena *scratch, const Dit *d, Tensor att, Tensor q, Tensor k1, Tensor v1, Tensor k2, Tensor v2)
{
    const size_t mark = avt_arena_mark(scratch);
    Tensor of_heads = heads(d, q);

    if (be->product == DT_I8 && be->act == DT_F32 && !k1.scale && !k2.scale) {
        of_heads = turned(be, scratch, of_heads);
        k1 = turned(be, scratch, k1);
        k2 = turned(be, scratch, k2);
    }
    avt_attention(be, heads(d, att), of_heads, k1, v1, k2, v2, AVT_NONE, scale_of(d));
    avt_arena_release(scratch, mark);
}

/* The reference's keys of the sink, at the place where they are for this block. */
static void turn_reference(Backend *be, const DitItem *it, int i)
{
    avt_rope(be, avt_rows(it->sink->k[i], 0, it->shape->n), it->sink->ref[i], it->rope_sink);
}

/* att = attention of the block's q over the ring so far, this block included, and over the sink. */
static void attend_block(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i, Tensor att, Tensor q)
{
    const int64_t n = it->shape->n, frames = it->f0 + DIT_BLOCK < DIT_RING ? it->f0 + DIT_BLOCK : DIT_RING;

    turn_reference(be, it, i);
    attend_over(be, scratch, d, att, q, avt_rows(it->ring->k[i], 0, frames * n), avt_rows(it->ring->v[i], 0, frames * n), it->sink->k[i],
                it->sink->v[i]);
}

/* own: the sink's keys as this pass itself sees them, AVT_NONE: as they are kept */
static void attend_sink(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i, Tensor att, Tensor q, Tensor own)
{
    attend_over(be, scratch, d, att, q, own.be ? heads(d, own) : it->sink->k[i], it->sink->v[i], AVT_NONE, AVT_NONE);
}

/* q of u, and the sink's keys and values of layer i, which are all that the last layer has to give (q: AVT_NONE). own: see attend_sink(). */
static void fill_sink(Backend *be, Arena *scratch, const Dit *d, const DitAttention *a, DitItem *it, int i, Tensor q, Tensor of_heads, Tensor own,
                      Tensor u)
{
    const TeamCut cut = avt_dit_cut(it->shape, 1), first = { 1, { it->shape->n } };
    const size_t mark = avt_arena_mark(scratch);
    const Tensor k = product_of(scratch, d, it->sink->k[i], u), v = product_of(scratch, d, it->sink->v[i], u);
    const Tensor all_k = gathered(be, scratch, d, it->sink->k[i], k), all_v = gathered(be, scratch, d, it->sink->v[i], v);
    const int64_t n = by_heads(d) ? avt_team_rows(&d->team, &first) : it->shape->n;
    const Tensor ref = by_heads(d) ? rows_like(scratch, n, d->width) : flat(it->sink->ref[i]);
    TeamNorm norm[4] = { { ref, avt_rows(k, 0, n), a->norm_k, AVT_NONE } };
    int nb = 1;

    avt_linear_group(be, q.be ? 3 : 2, (const Tensor[]){ k, v, q }, u, (const Linear *const[]){ &a->k, &a->v, &a->q });
    if (own.be)
        norm[nb++] = (TeamNorm){ own, k, a->norm_k, it->rope };
    norm[nb++] = (TeamNorm){ by_heads(d) ? k : it->sink->k[i], k, a->norm_k, it->rope_sink };
    if (q.be)
        norm[nb++] = (TeamNorm){ q, q, a->norm_q, it->rope };
    avt_team_norm_rope(&d->team, be, scratch, norm, nb, d->cfg.eps, d->cfg.dim);
    if (by_heads(d)) {
        TeamHeads h[4] = { kept(d, it->sink->ref[i], ref, &first), kept(d, all_k, k, &cut), kept(d, all_v, v, &cut) };

        if (q.be)
            h[3] = kept(d, heads(d, of_heads), q, &cut);
        avt_team_to_heads(&d->team, be, scratch, h, q.be ? 4 : 3);
        convert(be, it->sink->k[i], all_k);
    }
    convert(be, it->sink->v[i], all_v);
    avt_arena_release(scratch, mark);
}

static int is_last_sink(const Dit *d, const DitItem *it, int i)
{
    return it->sink_pass && d->l0 + i == d->cfg.nb_layers - 1 && !it->probe;
}

/* The attention of q, of the heads held, in the tokens and heads that o's product wants; u is spent. */
static Tensor attend(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i, Tensor q, Tensor own, Tensor u)
{
    const TeamCut cut = avt_dit_cut(it->shape, it->sink_pass);
    const int64_t M = it->sink_pass ? it->shape->Lc : it->shape->N;
    const Tensor own_rows = d->team.way == TEAM_COLUMNS ? AVT_NONE : instead_of(scratch, u);
    const Tensor att = d->team.nb > 1 ? rows_like(scratch, M, d->keys) : own_rows;

    if (it->sink_pass)
        attend_sink(be, scratch, d, it, i, att, q, own);
    else
        attend_block(be, scratch, d, it, i, att, q);
    if (!by_heads(d))
        return att;
    avt_team_to_tokens(&d->team, be, scratch, heads(d, own_rows), heads(d, att), &cut);
    return own_rows;
}

static void self_attention(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i, Tensor m)
{
    const TeamCut cut = avt_dit_cut(it->shape, it->sink_pass);
    const DitAttention *a = &d->layer[i].self;
    const size_t mark = avt_arena_mark(scratch);
    const Tensor u = factor_like(scratch, &a->q, it->x), own = it->sink_pass && it->given_rope.be ? like(scratch, it->x) : AVT_NONE;
    Tensor all, q, of_heads;

    avt_norm_modulate(be, u, it->x, avt_at(m, 1), avt_at(m, 0), d->cfg.eps);
    all = avt_team_all(&d->team, be, scratch, u, &cut);
    q = is_last_sink(d, it, i) ? AVT_NONE : rows_like(scratch, all.dim[0], d->width);
    of_heads = q.be && by_heads(d) ? rows_like(scratch, it->sink_pass ? it->shape->Lc : it->shape->N, d->keys) : q;
    if (it->sink_pass)
        fill_sink(be, scratch, d, a, it, i, q, of_heads, own, all);
    else
        fill_ring(be, scratch, d, a, it, i, q, of_heads, all);
    if (q.be)
        avt_team_linear_add(&d->team, be, scratch, it->x, attend(be, scratch, d, it, i, of_heads, own, u), &a->o, avt_at(m, 2), &cut);
    avt_arena_release(scratch, mark);
}

/* Over text and over sound every part has the keys of its products' heads: nothing of q is exchanged. */
static void text_attention(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i)
{
    const TeamCut cut = avt_dit_cut(it->shape, it->sink_pass);
    const DitLayer *l = &d->layer[i];
    const size_t mark = avt_arena_mark(scratch);
    const Tensor u = factor_like(scratch, &l->cross.q, it->x);
    Tensor all, q, att;

    avt_layer_norm(be, u, it->x, l->norm3_w, l->norm3_b, d->cfg.eps, ACT_NONE);
    all = avt_team_all(&d->team, be, scratch, u, &cut);
    q = rows_like(scratch, all.dim[0], d->width);
    att = d->team.way == TEAM_COLUMNS ? rows_like(scratch, all.dim[0], d->width) : instead_of(scratch, u);
    avt_linear(be, q, all, &l->cross.q, ACT_NONE);
    avt_team_norm_rope(&d->team, be, scratch, &(TeamNorm){ q, q, l->cross.norm_q, AVT_NONE }, 1, d->cfg.eps, d->cfg.dim);
    attend_over(be, scratch, d, att, q, it->text->k[i], it->text->v[i], AVT_NONE, AVT_NONE);
    avt_team_linear_add(&d->team, be, scratch, it->x, att, &l->cross.o, AVT_NONE, &cut);
    avt_arena_release(scratch, mark);
}

static void feed_forward(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i, Tensor m)
{
    const TeamCut cut = avt_dit_cut(it->shape, it->sink_pass);
    const DitLayer *l = &d->layer[i];
    const size_t mark = avt_arena_mark(scratch);
    const Tensor u = factor_like(scratch, &l->ffn0, it->x);
    Tensor all, y;

    avt_norm_modulate(be, u, it->x, avt_at(m, 4), avt_at(m, 3), d->cfg.eps);
    all = avt_team_all(&d->team, be, scratch, u, &cut);
    y = avt_new_factor(scratch, &l->ffn2, 2, (const int64_t[]){ all.dim[0], l->ffn0.w.dim[0] });
    avt_linear(be, y, all, &l->ffn0, ACT_GELU_TANH);
    avt_team_linear_add(&d->team, be, scratch, it->x, y, &l->ffn2, avt_at(m, 5), &cut);
    avt_arena_release(scratch, mark);
}

static void run_layer(Backend *be, Arena *scratch, const Dit *d, DitItem *it, int i)
{
    const TeamCut cut = avt_dit_cut(it->shape, it->sink_pass);
    const DitLayer *l = &d->layer[i];
    const Tensor m = avt_at(it->time->layers, i);

    self_attention(be, scratch, d, it, i, m);
    if (!is_last_sink(d, it, i)) {
        text_attention(be, scratch, d, it, i);
        feed_forward(be, scratch, d, it, i, m);
        see_layer(it, d->l0 + i, "after_block", it->x);
    }
    if (l->inject && it->audio) {
        avt_dit_inject(be, scratch, d, l->inject, it->x, it->audio, &cut);
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

/* Of the rows that norms see: by heads they are own tokens'. */
static Tensor make_own_table(Backend *be, Arena *scratch, const Dit *d, const RopeGrid *g, const TeamCut *cut)
{
    const Tensor all = make_table(be, scratch, d, g);
    Tensor own;

    if (!by_heads(d))
        return all;
    own = avt_new(scratch, DT_F32, avt_team_rows(&d->team, cut), all.dim[1], 2);
    avt_team_own(&d->team, be, own, all, cut);
    return own;
}

static void make_tables(Backend *be, Arena *scratch, const Dit *d, DitItem *it)
{
    const TeamCut cut = avt_dit_cut(it->shape, it->sink_pass);
    RopeGrid own, sink;

    if (it->sink_pass)
        avt_dit_grid_sink(&own, it->shape, 0, d->rope_half);
    else
        avt_dit_grid_block(&own, it->shape, it->f0, d->rope_half);
    avt_dit_grid_reference(&sink, it->shape, roll_of(it), d->rope_half);
    it->rope = it->given_rope.be ? it->given_rope : make_own_table(be, scratch, d, &own, &cut);
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
    if (it->x.dim[0] != avt_dit_rows(d, it->shape, it->sink_pass) || (d->team.nb > 1 && (it->given_rope.be || it->given_rope_sink.be)))
        return 0;
    return it->sink_pass || (it->ring && it->f0 >= 0 && it->f0 % DIT_BLOCK == 0 && it->ring->k[0].dim[0] == it->shape->ring);
}

int avt_dit_layers(Backend *be, Arena *scratch, const Dit *d, DitItem *items, int nb_items)
{
    const size_t mark = avt_arena_mark(scratch);
    int ret = 0;

    for (int j = 0; j < nb_items; j++)
        AVT_REQUIRE(be->log, item_is_sound(d, &items[j]));
    for (int j = 0; j < nb_items; j++) {
        make_tables(be, scratch, d, &items[j]);
        if (d->l0 == 0)
            see(&items[j], "layer_in_0", items[j].x);
    }
    for (int i = 0; i < d->l1 - d->l0 && ret >= 0; i++) {
        ret = avt_dit_reach(d, i);
        for (int j = 0; j < nb_items && ret >= 0; j++) {
            avt_rings_take(d->rings, items, nb_items, d->l1 - d->l0, i, j);
            run_layer(be, scratch, d, &items[j], i);
            avt_rings_give(d->rings, items, nb_items, i, j);
        }
    }
    avt_arena_release(scratch, mark);
    return ret < 0 ? ret : be->status;
}

/* ---- head ------------------------------------------------------------------------------------------------------- */

int avt_dit_head(Backend *be, Arena *scratch, const Dit *d, Tensor velocity, Tensor x, const DitTime *time)
{
    const int64_t n = velocity.dim[2] / 2 * (velocity.dim[3] / 2);
    const TeamCut cut = { DIT_BLOCK, { n, n, n } };
    const size_t mark = avt_arena_mark(scratch);
    const Tensor m = time->head, y = avt_new(scratch, DT_F32, x.dim[0], 64);
    const Tensor u = avt_new_dims(scratch, DT_F32, 2, x.dim), all = d->team.nb > 1 ? avt_new(scratch, DT_F32, DIT_BLOCK * n, 64) : y;

    avt_norm_modulate(be, u, x, avt_at(m, 1), avt_at(m, 0), d->cfg.eps);
    avt_linear(be, y, u, &d->head, ACT_NONE);
    if (d->team.nb > 1)
        avt_team_gather(&d->team, be, all, y, &cut);
    avt_unpatchify(be, velocity, all, 2, 2);
    avt_arena_release(scratch, mark);
    return be->status;
}
