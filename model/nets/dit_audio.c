/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The audio side of the diffusion transformer: encoder of a block's speech features, and its injection after some layers.
 *
 *   features [T, layers, C] --mix--> [T, C] --local conv--> tokens x [T, D/4] --trunk--> [T', tokens, D] ++ padding token
 *                                           --global conv--> [T, D/4] --trunk--> final linear --> [T', D]
 *   trunk: LN, SiLU, conv (stride 2), LN, SiLU, conv (stride 2), LN, SiLU; shared by all tokens and both branches
 *
 * All convolutions look back only, over replicated edges. So the original's 73 copies of the first row in front of a block
 * equal one copy, exactly: 13 rows give 4 outputs, of which the first is dropped.
 * Trap: AdaIN gives the shift first, the scale second; its LN has eps 1e-5, all others the config's.
 */
#include <math.h>

#include "nets/dit.h"

#define ADAIN_EPS 1e-5f
#define HOP       12                    // feature rows of a block

static const Conv1dSpec causal1 = { .stride = 1, .groups = 1, .pad0 = 2, .replicate = 1 };
static const Conv1dSpec causal2 = { .stride = 2, .groups = 1, .pad0 = 2, .replicate = 1 };

static int64_t half(int64_t T)
{
    return (T + 1) / 2;
}

/* One group of channels, x [T, D/4] -> out [T', D]. x is overwritten. */
static void trunk(Backend *be, Arena *scratch, const Dit *d, Tensor out, Tensor x)
{
    const int64_t T2 = half(x.dim[0]), D = d->cfg.dim;
    const size_t mark = avt_arena_mark(scratch);
    const Tensor y = avt_new(scratch, be->act, T2, D / 2);
    const float eps = d->cfg.eps;

    avt_layer_norm(be, x, x, AVT_NONE, AVT_NONE, eps, ACT_SILU);
    avt_conv1d(be, y, x, &d->audio_conv2, causal2, ACT_NONE);
    avt_layer_norm(be, y, y, AVT_NONE, AVT_NONE, eps, ACT_SILU);
    avt_conv1d(be, out, y, &d->audio_conv3, causal2, ACT_NONE);
    avt_layer_norm(be, out, out, AVT_NONE, AVT_NONE, eps, ACT_SILU);
    avt_arena_release(scratch, mark);
}

static void encode_local(Backend *be, Arena *scratch, const Dit *d, Tensor local, Tensor mixed)
{
    const int64_t T = mixed.dim[0], T4 = local.dim[0], A = d->cfg.nb_audio_tokens, D = d->cfg.dim;
    const Tensor wide = avt_new(scratch, be->act, T, A * (D / 4)), group = avt_new(scratch, be->act, A, T, D / 4);
    const Tensor token = avt_new(scratch, be->act, A + 1, T4, D);

    avt_conv1d(be, wide, mixed, &d->audio_local, causal1, ACT_NONE);
    avt_transpose(be, group, avt_view(wide, T, A, D / 4));          // the group is the slow half of the channel
    for (int64_t i = 0; i < A; i++)
        trunk(be, scratch, d, avt_at(token, i), avt_at(group, i));
    avt_fill(be, avt_at(token, A), 0);
    avt_add(be, avt_at(token, A), avt_at(token, A), d->audio_padding);
    avt_transpose(be, local, token);                                // [T', A + 1, D]
}

static void encode_global(Backend *be, Arena *scratch, const Dit *d, Tensor global, Tensor mixed)
{
    const Tensor x = avt_new(scratch, be->act, mixed.dim[0], d->cfg.dim / 4);
    const Tensor y = avt_new(scratch, be->act, global.dim[0], d->cfg.dim);

    avt_conv1d(be, x, mixed, &d->audio_global, causal1, ACT_NONE);
    trunk(be, scratch, d, y, x);
    avt_linear(be, global, y, &d->audio_final, ACT_NONE);
}

int avt_dit_audio_encode(Backend *be, Arena *scratch, const Dit *d, Tensor local, Tensor global, Tensor features)
{
    const int64_t T = features.dim[0];
    const size_t mark = avt_arena_mark(scratch);
    size_t branch;
    Tensor mixed;

    AVT_REQUIRE(be->log, features.nd == 3 && local.nd == 3 && global.nd == 2);
    AVT_REQUIRE(be->log, T > 0 && local.dim[0] == half(half(T)) && global.dim[0] == half(half(T)));
    mixed = avt_new(scratch, be->act, T, d->cfg.audio_dim);
    branch = avt_arena_mark(scratch);
    avt_layer_mix(be, mixed, features, d->audio_weights);
    encode_local(be, scratch, d, local, mixed);
    avt_arena_release(scratch, branch);
    encode_global(be, scratch, d, global, mixed);
    avt_arena_release(scratch, mark);
    return be->status;
}

int avt_dit_audio(Backend *be, Arena *scratch, const Dit *d, DitAudio *out, Tensor features)
{
    const int64_t D = d->cfg.dim, tokens = d->cfg.nb_audio_tokens + 1;
    const size_t mark = avt_arena_mark(scratch);
    Tensor window, local, global;

    AVT_REQUIRE(be->log, features.nd == 4 && features.dim[0] == out->nb_actors && features.dim[1] == HOP);
    window = avt_new(scratch, DT_F32, HOP + 1, d->cfg.nb_audio_layers, d->cfg.audio_dim);
    local = avt_new(scratch, be->act, DIT_BLOCK + 1, tokens, D);
    global = avt_new(scratch, be->act, DIT_BLOCK + 1, D);
    for (int a = 0; a < out->nb_actors; a++) {
        const Tensor rows = avt_at(features, a);

        avt_copy(be, avt_rows(window, 0, 1), avt_rows(rows, 0, 1));
        avt_copy(be, avt_rows(window, 1, HOP), rows);
        avt_dit_audio_encode(be, scratch, d, local, global, window);
        avt_copy(be, avt_at(out->local, a), avt_rows(local, 1, DIT_BLOCK));
        avt_copy(be, avt_at(out->global, a), avt_rows(global, 1, DIT_BLOCK));
    }
    avt_arena_release(scratch, mark);
    return be->status;
}

/* g's shifts and scales, table [rows, 2D]; of columns' weights each part has some. */
static void make_table(Backend *be, Arena *scratch, const Dit *d, const DitInject *in, Tensor table, Tensor g)
{
    const TeamCut cut = { 1, { table.dim[1] } };
    const int64_t rows = table.dim[0], own = in->adain.w.dim[0];
    const size_t mark = avt_arena_mark(scratch);
    Tensor part, turned, all;

    if (d->team.way != TEAM_COLUMNS) {
        avt_linear(be, table, g, &in->adain, ACT_NONE);
        return;
    }
    part = avt_new(scratch, DT_F32, rows, own);
    turned = avt_new(scratch, DT_F32, own, rows, 1);
    all = avt_new(scratch, DT_F32, table.dim[1], rows, 1);
    avt_linear(be, part, g, &in->adain, ACT_NONE);
    avt_transpose(be, turned, avt_view(part, rows, own, 1));        // columns lie apart, rows together
    avt_team_gather(&d->team, be, all, turned, &cut);
    avt_transpose(be, avt_view(table, rows, table.dim[1], 1), all);
    avt_arena_release(scratch, mark);
}

int avt_dit_audio_keys(Backend *be, Arena *scratch, const Dit *d, DitAudio *out)
{
    const int64_t D = d->cfg.dim, A = out->nb_actors, rows = avt_rows_of(out->local);
    const size_t mark = avt_arena_mark(scratch);
    const Tensor g = avt_new(scratch, be->act, A * DIT_BLOCK, D), table = avt_new(scratch, DT_F32, A, DIT_BLOCK, 2, D);

    avt_act(be, g, out->global, ACT_SILU);
    for (int j = 0; j < d->cfg.nb_inject; j++) {
        const DitInject *in = &d->injects[j];
        const size_t codes = avt_arena_mark(scratch);
        Tensor k, v;

        if (d->cfg.inject[j] < d->l0 || d->cfg.inject[j] >= d->l1)
            continue;
        k = avt_view(avt_at(out->k, in->index), rows, d->width);
        v = avt_view(avt_at(out->v, in->index), rows, d->width);
        avt_linear_group(be, 2, (const Tensor[]){ k, v }, avt_factor(be, scratch, &in->attn.k, avt_view(out->local, rows, D)),
                         (const Linear *const[]){ &in->attn.k, &in->attn.v });
        avt_arena_release(scratch, codes);
        avt_team_norm_rope(&d->team, be, scratch, &(TeamNorm){ k, k, in->attn.norm_k, AVT_NONE }, 1, d->cfg.eps, D);
        make_table(be, scratch, d, in, avt_view(table, A * DIT_BLOCK, 2 * D), g);
        for (int64_t a = 0; a < A; a++)                             // shift and scale of a frame -> shifts, scales of the frames
            avt_transpose(be, avt_at(avt_at(out->table, in->index), a), avt_at(table, a));
    }
    avt_arena_release(scratch, mark);
    return be->status;
}

/* ---- injection -------------------------------------------------------------------------------------------------- */

/* Actor a: the attention of x [3 n, D] to the tokens of its frame, before the output projection, in scratch. */
static Tensor attend(Backend *be, Arena *scratch, const Dit *d, const DitInject *in, Tensor x, const DitAudio *audio, int a, const TeamCut *cut)
{
    const int64_t m = audio->local.dim[2], hd = d->cfg.dim / d->cfg.nb_heads, NH = d->width / hd;
    const Tensor table = avt_at(avt_at(audio->table, in->index), a);
    const Tensor k = avt_at(avt_at(audio->k, in->index), a), v = avt_at(avt_at(audio->v, in->index), a);
    const Tensor u = avt_new_factor(scratch, &in->attn.q, x.nd, x.dim);
    Tensor all, q, att;
    int64_t n;

    avt_norm_modulate(be, u, x, avt_at(table, 1), avt_at(table, 0), ADAIN_EPS);
    all = avt_team_all(&d->team, be, scratch, u, cut);
    n = all.dim[0] / DIT_BLOCK;
    q = avt_new(scratch, be->act, all.dim[0], d->width);
    att = d->team.way == TEAM_COLUMNS || u.scale ? avt_new(scratch, be->act, all.dim[0], d->width) : u;
    avt_linear(be, q, all, &in->attn.q, ACT_NONE);
    avt_team_norm_rope(&d->team, be, scratch, &(TeamNorm){ q, q, in->attn.norm_q, AVT_NONE }, 1, d->cfg.eps, d->cfg.dim);
    avt_attention(be, avt_view(att, DIT_BLOCK, n, NH, hd), avt_view(q, DIT_BLOCK, n, NH, hd), avt_view(k, DIT_BLOCK, m, NH, hd),
                  avt_view(v, DIT_BLOCK, m, NH, hd), AVT_NONE, AVT_NONE, AVT_NONE, 1 / sqrtf((float)hd));
    return att;
}

/* Several actors see the same x, so it is kept while their masked residuals are added. */
static void inject_masked(Backend *be, Arena *scratch, const Dit *d, const DitInject *in, Tensor x, const DitAudio *audio, const TeamCut *cut)
{
    const Tensor before = avt_new(scratch, DT_F32, x.dim[0], x.dim[1]), y = avt_new_dims(scratch, be->act, 2, x.dim);

    avt_copy(be, before, x);
    for (int a = 0; a < audio->nb_actors; a++) {
        const size_t mark = avt_arena_mark(scratch);
        const Tensor att = attend(be, scratch, d, in, before, audio, a, cut);

        avt_linear(be, y, avt_factor(be, scratch, &in->attn.o, att), &in->attn.o, ACT_NONE);
        avt_gate_add(be, x, x, y, avt_view(avt_at(audio->mask, a), x.dim[0]));
        avt_arena_release(scratch, mark);
    }
}

int avt_dit_inject(Backend *be, Arena *scratch, const Dit *d, const DitInject *in, Tensor x, const DitAudio *audio, const TeamCut *cut)
{
    const size_t mark = avt_arena_mark(scratch);

    AVT_REQUIRE(be->log, x.nd == 2 && x.dim[0] % DIT_BLOCK == 0 && (audio->mask.be ? d->team.nb == 1 : audio->nb_actors == 1));
    if (audio->mask.be)
        inject_masked(be, scratch, d, in, x, audio, cut);
    else
        avt_team_linear_add(&d->team, be, scratch, x, attend(be, scratch, d, in, x, audio, 0, cut), &in->attn.o, AVT_NONE, cut);
    avt_arena_release(scratch, mark);
    return be->status;
}
