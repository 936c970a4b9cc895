/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What goes into the layers of the diffusion transformer: shapes and positions, time, text, patches, packed motion.
 *
 * Motion packer: the last 19 latents, newest to oldest as 1 | 2 | 16 frames, in patches of 1x2x2, 2x4x4, 4x8x8:
 *   tokens [h w] ++ [H/4 W/4] ++ [4 H/8 W/8]; rows and columns that do not fill a patch are dropped.
 * Positions: noisy frames f0 ..; the reference 30 + roll; the buckets at -1, -3, and -19, -14, -9, -4 for ever.
 */
#include <math.h>

#include "nets/dit.h"

#define REF_FRAME 30                    // of the reference while nothing is rolled

/* Motion buckets in token order: first of the 19 frames, how many, patch in time and space. */
static const struct {
    int first, nb, pt, p;
} buckets[3] = { { 18, 1, 1, 2 }, { 16, 2, 2, 4 }, { 0, 16, 4, 8 } };

DitShape avt_dit_shape(int64_t H, int64_t W)
{
    const int64_t h = H / 2, w = W / 2, n = h * w;
    DitShape s = { .H = H, .W = W, .h = h, .w = w, .n = n, .N = DIT_BLOCK * n, .ring = DIT_RING * n, .Lc = n };

    for (int i = 0; i < 3; i++) {
        s.bucket[i] = buckets[i].nb / buckets[i].pt * (H / buckets[i].p) * (W / buckets[i].p);
        s.Lc += s.bucket[i];
    }
    return s;
}

TeamCut avt_dit_cut(const DitShape *s, int sink_pass)
{
    return sink_pass ? (TeamCut){ 2, { s->n, s->Lc - s->n } } : (TeamCut){ DIT_BLOCK, { s->n, s->n, s->n } };
}

int64_t avt_dit_rows(const Dit *d, const DitShape *s, int sink_pass)
{
    const TeamCut cut = avt_dit_cut(s, sink_pass);

    return avt_team_rows(&d->team, &cut);
}

void avt_dit_grid_block(RopeGrid *g, const DitShape *s, int64_t f0, int half)
{
    *g = (RopeGrid){
        .nb_groups = 1, .half = half,
        .group[0] = { .f_start = f0, .f_cnt = DIT_BLOCK, .f_size = DIT_BLOCK, .h_cnt = (int)s->h, .h_size = (int)s->h,
                      .w_cnt = (int)s->w, .w_size = (int)s->w },
    };
}

void avt_dit_grid_sink(RopeGrid *g, const DitShape *s, int64_t roll, int half)
{
    const int h = (int)s->h, w = (int)s->w;

    *g = (RopeGrid){ .nb_groups = 4, .half = half };
    g->group[0] = (RopeGroup){ .f_start = REF_FRAME + roll, .f_cnt = 1, .f_size = 1, .h_cnt = h, .h_size = h, .w_cnt = w, .w_size = w };
    for (int i = 0; i < 3; i++)
        g->group[1 + i] = (RopeGroup){
            .f_start = buckets[i].first - DIT_MOTION, .f_cnt = buckets[i].nb / buckets[i].pt, .f_size = buckets[i].nb,
            .h_cnt = (int)s->H / buckets[i].p, .h_size = h, .w_cnt = (int)s->W / buckets[i].p, .w_size = w,
        };
}

void avt_dit_grid_reference(RopeGrid *g, const DitShape *s, int64_t roll, int half)
{
    avt_dit_grid_sink(g, s, roll, half);
    g->nb_groups = 1;
}

/* ---- time and text ---------------------------------------------------------------------------------------------- */

void avt_dit_sinusoid(float *out, int freq_dim, float t)
{
    const int half = freq_dim / 2;

    for (int i = 0; i < half; i++) {
        const double angle = t * pow(10000, -(double)i / half);

        out[i] = (float)cos(angle);
        out[half + i] = (float)sin(angle);
    }
}

int avt_dit_time(Backend *be, Arena *scratch, const Dit *d, DitTime *out, float t)
{
    const int64_t D = d->cfg.dim;
    const size_t mark = avt_arena_mark(scratch);
    float *host = avt_malloc(MEM_NET, sizeof(*host) * (size_t)d->cfg.freq_dim);
    Tensor s, y;

    if (!host)
        return AVT_ERR(ENOMEM);
    s = avt_new(scratch, DT_F32, 1, d->cfg.freq_dim);
    y = avt_new(scratch, DT_F32, 1, D);
    avt_dit_sinusoid(host, d->cfg.freq_dim, t);
    avt_upload(be, s, host);
    avt_free(host);
    avt_linear(be, y, s, &d->time0, ACT_SILU);
    avt_linear(be, avt_view(out->e, 1, D), y, &d->time2, ACT_NONE);
    avt_act(be, y, out->e, ACT_SILU);
    avt_linear(be, avt_view(out->e0, 1, 6 * D), y, &d->time_proj, ACT_NONE);
    avt_arena_release(scratch, mark);
    return avt_dit_modulation(be, d, out);
}

int avt_dit_modulation(Backend *be, const Dit *d, DitTime *out)
{
    for (int i = 0; i < d->l1 - d->l0; i++)
        avt_add(be, avt_at(out->layers, i), d->layer[i].modulation, out->e0);
    if (d->head_modulation.be)
        avt_add(be, out->head, d->head_modulation, out->e);
    return be->status;
}

/* Where a text's product goes that ends as `keys`: there at once, or to where it is converted from. */
static Tensor text_rows(Arena *scratch, const Dit *d, Tensor keys, int64_t M)
{
    const DType act = avt_arena_backend(scratch)->act;

    return keys.dtype == act ? avt_view(keys, M, d->width) : avt_new(scratch, act, M, d->width);
}

/* factor: the embedded rows, as the products take them */
static void text_layer(Backend *be, Arena *scratch, const Dit *d, DitKeys *out, int i, Tensor factor)
{
    const DitAttention *a = &d->layer[i].cross;
    const int64_t M = factor.dim[0];
    const size_t mark = avt_arena_mark(scratch);
    const Tensor k = text_rows(scratch, d, out->k[i], M), v = text_rows(scratch, d, out->v[i], M);

    avt_linear_group(be, 2, (const Tensor[]){ k, v }, factor, (const Linear *const[]){ &a->k, &a->v });
    avt_team_norm_rope(&d->team, be, scratch, &(TeamNorm){ out->k[i], k, a->norm_k, AVT_NONE }, 1, d->cfg.eps, d->cfg.dim);
    if (out->v[i].dtype != be->act)
        avt_dit_keep(be, out->v[i], avt_reshape(v, 3, out->v[i].dim));
    avt_arena_release(scratch, mark);
}

int avt_dit_text_keys(Backend *be, Arena *scratch, const Dit *d, DitKeys *out, Tensor embedded)
{
    const size_t mark = avt_arena_mark(scratch);
    Tensor factor = AVT_NONE;
    int ret = 0;

    for (int i = 0; i < d->l1 - d->l0 && (ret = avt_dit_reach(d, i)) >= 0; i++) {
        if (!i)                                                     // the layers' products are of one type
            factor = avt_factor(be, scratch, &d->layer[i].cross.k, embedded);
        text_layer(be, scratch, d, out, i, factor);
    }
    avt_arena_release(scratch, mark);
    return ret < 0 ? ret : be->status;
}

int avt_dit_text(Backend *be, Arena *scratch, const Dit *d, Tensor embedded, Tensor context)
{
    const int64_t M = d->cfg.text_len, L = context.dim[0];
    const size_t mark = avt_arena_mark(scratch);
    Tensor padded, y;

    AVT_REQUIRE(be->log, context.nd == 2 && L <= M);
    padded = avt_new(scratch, be->act, M, d->cfg.text_dim);
    y = avt_new(scratch, be->act, M, d->cfg.dim);
    if (L < M)
        avt_fill(be, avt_rows(padded, L, M - L), 0);                // padding rows become the biases, and are attended (no mask)
    if (L > 0)
        avt_copy(be, avt_rows(padded, 0, L), context);
    avt_linear(be, y, padded, &d->text0, ACT_GELU_TANH);
    avt_linear(be, embedded, y, &d->text2, ACT_NONE);
    avt_arena_release(scratch, mark);
    return be->status;
}

/* ---- tokens ----------------------------------------------------------------------------------------------------- */

/* out [M, D] = tokens first .. of x [T, 16, H, W], patches through a stride = kernel convolution; added to `res` (opt). */
static void embed(Backend *be, Arena *scratch, Tensor out, Tensor res, Tensor x, const Linear *l, int pt, int p, int64_t first)
{
    const size_t mark = avt_arena_mark(scratch);
    const int64_t tokens = x.dim[0] / pt * (x.dim[2] / p) * (x.dim[3] / p);
    const Tensor patches = avt_new(scratch, DT_F32, tokens, x.dim[1] * pt * p * p), own = avt_rows(patches, first, out.dim[0]);

    avt_patchify(be, patches, x, pt, p, p);
    if (res.be)
        avt_linear_add(be, out, res, own, l, AVT_NONE);
    else
        avt_linear(be, out, own, l, ACT_NONE);
    avt_arena_release(scratch, mark);
}

int avt_dit_embed_block(Backend *be, Arena *scratch, const Dit *d, Tensor x, Tensor latents, Tensor pose)
{
    const int64_t n = latents.dim[2] / 2 * (latents.dim[3] / 2);
    const int64_t first = avt_team_first(&d->team, n, d->team.part), own = avt_team_share(&d->team, n, d->team.part);
    const Tensor mask = avt_at(d->mask, 0);

    for (int f = 0; f < DIT_BLOCK; f++) {
        const Tensor to = avt_rows(x, f * own, own);

        embed(be, scratch, to, AVT_NONE, avt_rows(latents, f, 1), &d->patch, 1, 2, first);
        if (pose.be)
            embed(be, scratch, to, to, avt_rows(pose, f, 1), &d->cond, 1, 2, first);
    }
    if (!pose.be)
        avt_add(be, x, x, d->cond.b);                               // a pose of zeros leaves its bias
    avt_add(be, x, x, mask);
    return be->status;
}

/* The last 19 frames of motion: motion itself, or zeros in front of it when it is shorter. */
static Tensor last_frames(Backend *be, Arena *scratch, Tensor motion)
{
    const int64_t T = motion.dim[0], missing = DIT_MOTION - T;
    Tensor frames;

    if (missing <= 0)
        return avt_rows(motion, -missing, DIT_MOTION);
    frames = avt_new(scratch, DT_F32, DIT_MOTION, motion.dim[1], motion.dim[2], motion.dim[3]);
    avt_fill(be, avt_rows(frames, 0, missing), 0);
    avt_copy(be, avt_rows(frames, missing, T), motion);
    return frames;
}

/* out [M, D] = packed tokens first .. first + M - 1. */
static void pack(Backend *be, Arena *scratch, const Dit *d, Tensor out, Tensor motion, int64_t first)
{
    const Linear *const l[3] = { &d->pack1, &d->pack2, &d->pack4 };
    const DitShape s = avt_dit_shape(motion.dim[2], motion.dim[3]);
    const size_t mark = avt_arena_mark(scratch);
    const Tensor frames = last_frames(be, scratch, motion);
    const int64_t end = first + out.dim[0];
    int64_t row = 0;

    for (int i = 0; i < 3; row += s.bucket[i++]) {
        const int64_t from = first > row ? first : row, to = end < row + s.bucket[i] ? end : row + s.bucket[i];

        if (from < to)
            embed(be, scratch, avt_rows(out, from - first, to - from), AVT_NONE, avt_rows(frames, buckets[i].first, buckets[i].nb), l[i],
                  buckets[i].pt, buckets[i].p, from - row);
    }
    avt_arena_release(scratch, mark);
}

int avt_dit_pack_motion(Backend *be, Arena *scratch, const Dit *d, Tensor out, Tensor motion)
{
    pack(be, scratch, d, out, motion, 0);
    return be->status;
}

int avt_dit_embed_sink(Backend *be, Arena *scratch, const Dit *d, Tensor x, Tensor ref, Tensor motion)
{
    const DitShape s = avt_dit_shape(ref.dim[2], ref.dim[3]);
    const Team *t = &d->team;
    const int64_t n = avt_team_share(t, s.n, t->part), rest = x.dim[0] - n;
    const Tensor head = avt_rows(x, 0, n), tail = avt_rows(x, n, rest);

    AVT_REQUIRE(be->log, ref.nd == 4 && ref.dim[0] == 1 && rest > 0);
    embed(be, scratch, head, AVT_NONE, ref, &d->patch, 1, 2, avt_team_first(t, s.n, t->part));
    avt_add(be, head, head, avt_at(d->mask, 1));
    if (motion.be)
        pack(be, scratch, d, tail, motion, avt_team_first(t, s.Lc - s.n, t->part));
    else
        avt_fill(be, tail, 0);
    avt_add(be, tail, tail, avt_at(d->mask, 2));
    return be->status;
}
