/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "nets/vae_boxes.h"

void avt_vae_see(const VaePass *p, Tensor t, const char *fmt, ...)
{
    char name[80];
    va_list ap;

    if (!p->probe)
        return;
    va_start(ap, fmt);
    vsnprintf(name, sizeof(name), fmt, ap);
    va_end(ap);
    p->probe->see(p->probe->opaque, name, t);
}

Tensor avt_vae_frames(VaePass *p, int64_t t, int64_t h, int64_t w, int64_t c)
{
    return avt_new(p->scratch, p->net->act, t, h, w, c);
}

void avt_vae_remember(VaePass *p, int slot, Tensor x)
{
    const Tensor kept = p->st->slot[slot];
    const int64_t size = kept.dim[0], t = x.dim[0];
    int *nb = &p->st->nb[slot];

    p->st->frames[slot] += t;
    if (t >= size) {
        avt_copy(p->be, kept, avt_rows(x, t - size, size));
        *nb = (int)size;
        return;
    }
    if (*nb)                                                        // size 2, one new frame: the newer one grows old
        avt_copy(p->be, avt_at(kept, 0), avt_at(kept, 1));
    avt_copy(p->be, avt_at(kept, 1), avt_at(x, 0));
    *nb = *nb ? 2 : 1;
}

Tensor avt_vae_past(const VaePass *p, int slot)
{
    const Tensor kept = p->st->slot[slot];
    const int nb = p->st->nb[slot];

    return nb ? avt_rows(kept, kept.dim[0] - nb, nb) : AVT_NONE;
}

/* out = conv(past ++ x) + res; frames before the stream are zeros. Its first frame comes alone, the others in pairs: so do those of
 * the op, wherever the stream is cut. */
static void causal_whole(VaePass *p, const VaeConv *c, Tensor out, Tensor x, Tensor res)
{
    const int pad = (int)c->conv.w.dim[3] / 2;
    const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad_t = 2 - p->st->nb[c->slot], .pad0 = pad, .pad1 = pad,
                            .frame = p->st->frames[c->slot] };

    avt_conv3d(p->be, out, x, avt_vae_past(p, c->slot), &c->conv, res, spec);
    avt_vae_remember(p, c->slot, x);
}

/* Own rows of every frame between [T, own, W, C] and [T, above + own + below, W, C]. */
static void copy_own(const VaePass *p, Tensor wide, Tensor own, int to_wide)
{
    for (int64_t t = 0; t < own.dim[0]; t++) {
        const Tensor rows = avt_rows(avt_at(wide, t), avt_team_above(&p->st->team), own.dim[1]), frame = avt_at(own, t);

        avt_copy(p->be, to_wide ? rows : frame, to_wide ? frame : rows);
    }
}

Tensor avt_vae_neighbours(VaePass *p, Tensor x)
{
    const Team *team = &p->st->team;
    const Tensor wide = avt_new(p->scratch, x.dtype, x.dim[0], x.dim[1] + avt_team_above(team) + avt_team_below(team), x.dim[2], x.dim[3]);

    copy_own(p, wide, x, 1);
    avt_team_halo(team, p->be, p->scratch, wide);
    return wide;
}

/* The same of a part's rows: the rows at the cuts, where zeros stand in for what is beyond, are left out of the result. */
void avt_vae_causal(VaePass *p, const VaeConv *c, Tensor out, Tensor x, Tensor res)
{
    const size_t mark = avt_arena_mark(p->scratch);
    Tensor wide, result;

    if (p->st->team.nb == 1 || c->conv.w.dim[3] == 1) {
        causal_whole(p, c, out, x, res);
        return;
    }
    wide = avt_vae_neighbours(p, x);
    result = avt_new(p->scratch, out.dtype, out.dim[0], wide.dim[1], out.dim[2], out.dim[3]);
    if (res.be) {
        avt_fill(p->be, result, 0);
        copy_own(p, result, res, 1);
    }
    causal_whole(p, c, result, wide, res.be ? result : AVT_NONE);
    copy_own(p, result, out, 0);
    avt_arena_release(p->scratch, mark);
}

int64_t avt_vae_piece(const VaePass *p, int s, int64_t left, int64_t h, int64_t w)
{
    const Team *team = &p->st->team;
    const int64_t most = team->nb > 1 ? h / p->st->own * ((p->st->h + team->nb - 1) / team->nb) : h;
    const int64_t size = most * w * p->net->res[s][0].conv2.conv.w.dim[0] * (int64_t)avt_dtype_size(p->net->act);
    const int64_t fit = p->piece_bytes / size;
    const int64_t nb = fit < 1 ? 1 : fit > 4 ? 4 : fit;

    return nb < left ? nb : left;
}

void avt_vae_conv_1x1(Backend *be, Tensor out, Tensor x, const Conv *c)
{
    avt_conv3d(be, out, x, AVT_NONE, c, AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 1 });
}

/* x + conv2(act(norm(conv1(act(norm(x)))))). The result takes the place of x, or is new when the widths differ. */
Tensor avt_vae_residual(VaePass *p, const VaeResidual *r, Tensor x)
{
    const int64_t t = x.dim[0], h = x.dim[1], w = x.dim[2], c = r->conv2.conv.w.dim[0];
    const int wider = r->shortcut.w.be != NULL;
    const Tensor out = wider ? avt_vae_frames(p, t, h, w, c) : x;
    const size_t mark = avt_arena_mark(p->scratch);
    const Tensor a = wider ? x : avt_vae_frames(p, t, h, w, c), b = avt_vae_frames(p, t, h, w, c);

    if (wider)
        avt_vae_conv_1x1(p->be, out, x, &r->shortcut);
    avt_channel_norm(p->be, a, x, r->norm1, ACT_SILU);              // x itself is not needed again when wider
    avt_vae_causal(p, &r->conv1, b, a, AVT_NONE);
    avt_channel_norm(p->be, b, b, r->norm2, ACT_SILU);
    avt_vae_causal(p, &r->conv2, out, b, out);
    avt_arena_release(p->scratch, mark);
    return out;
}

/* x [rows w, c] of all parts' rows, as keys [n, 1, c]. */
static Tensor all_rows(VaePass *p, Tensor x, int64_t rows)
{
    const TeamCut cut = { 1, { p->st->h } };
    const int64_t width = avt_numel(x) / rows, c = x.dim[1];
    Tensor all;

    if (p->st->team.nb == 1)
        return avt_view(x, x.dim[0], 1, c);
    all = avt_new(p->scratch, x.dtype, p->st->h, width);
    avt_team_gather(&p->st->team, p->be, all, avt_view(x, rows, width), &cut);
    return avt_view(all, avt_numel(all) / c, 1, c);
}

/* x += proj(attention(norm(x))), each frame by itself, one head, no positions. */
static void attention(VaePass *p, const VaeAttention *l, Tensor x)
{
    const int64_t n = x.dim[1] * x.dim[2], c = x.dim[3];
    const size_t mark = avt_arena_mark(p->scratch);
    const Tensor u = avt_new(p->scratch, p->net->act, n, c), row = avt_new(p->scratch, p->net->act, n, 3 * c);
    const Tensor qkv = avt_new(p->scratch, p->net->act, 3, n, c);
    const Tensor q = avt_view(avt_at(qkv, 0), n, 1, c);
    Tensor k, v;

    for (int64_t t = 0; t < x.dim[0]; t++) {
        const Tensor frame = avt_view(avt_at(x, t), n, c);
        const size_t gathered = avt_arena_mark(p->scratch);

        avt_channel_norm(p->be, u, frame, l->norm, ACT_NONE);
        avt_linear(p->be, row, u, &l->qkv, ACT_NONE);
        avt_transpose(p->be, qkv, avt_view(row, n, 3, c));
        k = all_rows(p, avt_at(qkv, 1), x.dim[1]);
        v = all_rows(p, avt_at(qkv, 2), x.dim[1]);
        avt_attention(p->be, avt_view(u, n, 1, c), q, k, v, AVT_NONE, AVT_NONE, AVT_NONE, 1 / sqrtf((float)c));
        avt_linear_add(p->be, frame, frame, u, &l->proj, AVT_NONE);
        avt_arena_release(p->scratch, gathered);
    }
    avt_arena_release(p->scratch, mark);
}

void avt_vae_middle(VaePass *p, Tensor x, const char *side)
{
    avt_vae_residual(p, &p->net->mid[0], x);
    avt_vae_see(p, x, "%s.middle.0", side);
    attention(p, &p->net->attn, x);
    avt_vae_see(p, x, "%s.middle.1", side);
    avt_vae_residual(p, &p->net->mid[1], x);
    avt_vae_see(p, x, "%s.middle.2", side);
}

void avt_vae_head(VaePass *p, Tensor out, Tensor x)
{
    avt_channel_norm(p->be, x, x, p->net->norm_out, ACT_SILU);
    avt_vae_causal(p, &p->net->conv_out, out, x, AVT_NONE);
}
