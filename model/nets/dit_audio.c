/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The audio side of the diffusion transformer: encoder of a block's speech features, and its injection after some layers.
 *
 *   features [T, layers, C] --mix--> [T, C] --local conv--> tokens x [T, D/4] --trunk--> [T', tokens, D] ++ padding token
 *                                           --global conv--> [T, D/4] --trunk--> final linear --> [T', D]
 *   trunk: LN, SiLU, conv (stride 2), LN, SiLU, conv (stride 2), LN, SiLU; shared by all tokens and both branches
 *
 * All convolutions look back only, over replicated edges. So the original's 73 copies of the first row in front of a block
 * equal one copy, exactly: 13 rows give 4 outputs, of which the first is dropped (dit.md 9.1).
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
    return avt_dit_audio_keys(be, scratch, d, out);
}

int avt_dit_audio_keys(Backend *be, Arena *scratch, const Dit *d, DitAudio *out)
{
    const int64_t D = d->cfg.dim, A = out->nb_actors, rows = avt_rows_of(out->local);
    const size_t mark = avt_arena_mark(scratch);
    const Tensor g = avt_new(scratch, be->act, A * DIT_BLOCK, D), table = avt_new(scratch, DT_F32, A, DIT_BLOCK, 2, D);

    avt_act(be, g, out->global, ACT_SILU);
    for (int j = 0; j < d->cfg.nb_inject; j++) {
        const DitInject *in = &d->injects[j];
        Tensor k, v;

        if (d->cfg.inject[j] < d->l0 || d->cfg.inject[j] >= d->l1)
            continue;
        k = avt_view(avt_at(out->k, in->index), rows, D);
        v = avt_view(avt_at(out->v, in->index), rows, D);
        avt_linear_group(be, 2, (const Tensor[]){ k, v }, avt_view(out->local, rows, D), (const Linear *const[]){ &in->attn.k, &in->attn.v });
        avt_norm_rope(be, k, k, in->attn.norm_k, AVT_NONE, d->cfg.eps);
        avt_linear(be, avt_view(table, A * DIT_BLOCK, 2 * D), g, &in->adain, ACT_NONE);
        for (int64_t a = 0; a < A; a++)                             // shift and scale of a frame -> shifts, scales of the frames
            avt_transpose(be, avt_at(avt_at(out->table, in->index), a), avt_at(table, a));
    }
    avt_arena_release(scratch, mark);
    return be->status;
}

/* ---- injection -------------------------------------------------------------------------------------------------- */

/* Actor a: att [3 n, D] = attention of x to the tokens of its frame, before the output projection. q: scratch of that size. */
static void attend(Backend *be, const Dit *d, const DitInject *in, Tensor att, Tensor q, Tensor x, const DitAudio *audio, int a)
{
    const int64_t n = x.dim[0] / DIT_BLOCK, m = audio->local.dim[2], D = d->cfg.dim, NH = d->cfg.nb_heads, hd = D / NH;
    const Tensor table = avt_at(avt_at(audio->table, in->index), a);
    const Tensor k = avt_at(avt_at(audio->k, in->index), a), v = avt_at(avt_at(audio->v, in->index), a);

    avt_norm_modulate(be, att, x, avt_at(table, 1), avt_at(table, 0), ADAIN_EPS);
    avt_linear(be, q, att, &in->attn.q, ACT_NONE);
    avt_norm_rope(be, q, q, in->attn.norm_q, AVT_NONE, d->cfg.eps);
    avt_attention(be, avt_view(att, DIT_BLOCK, n, NH, hd), avt_view(q, DIT_BLOCK, n, NH, hd), avt_view(k, DIT_BLOCK, m, NH, hd),
                  avt_view(v, DIT_BLOCK, m, NH, hd), AVT_NONE, AVT_NONE, AVT_NONE, 1 / sqrtf((float)hd));
}

/* Several actors see the same x, so it is kept while their masked residuals are added. */
static void inject_masked(Backend *be, Arena *scratch, const Dit *d, const DitInject *in, Tensor x, const DitAudio *audio, Tensor att, Tensor q)
{
    const Tensor before = avt_new(scratch, DT_F32, x.dim[0], x.dim[1]);

    avt_copy(be, before, x);
    for (int a = 0; a < audio->nb_actors; a++) {
        attend(be, d, in, att, q, before, audio, a);
        avt_linear(be, q, att, &in->attn.o, ACT_NONE);
        avt_gate_add(be, x, x, q, avt_view(avt_at(audio->mask, a), x.dim[0]));
    }
}

int avt_dit_inject(Backend *be, Arena *scratch, const Dit *d, const DitInject *in, Tensor x, const DitAudio *audio)
{
    const size_t mark = avt_arena_mark(scratch);
    Tensor att, q;

    AVT_REQUIRE(be->log, x.nd == 2 && x.dim[0] % DIT_BLOCK == 0 && (audio->mask.be || audio->nb_actors == 1));
    att = avt_new(scratch, be->act, x.dim[0], x.dim[1]);
    q = avt_new(scratch, be->act, x.dim[0], x.dim[1]);
    if (audio->mask.be)
        inject_masked(be, scratch, d, in, x, audio, att, q);
    else {
        attend(be, d, in, att, q, x, audio, 0);
        avt_linear_add(be, x, x, att, &in->attn.o, AVT_NONE);
    }
    avt_arena_release(scratch, mark);
    return be->status;
}
