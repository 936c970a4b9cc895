/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Causal video VAE of Wan 2.1. See vae.h.
 *
 *   encoder   conv_in > stage 0 > down > stage 1 > down, time > stage 2 > down, time > stage 3 > middle > head > quant
 *   decoder   post_quant > conv_in > middle > stage 0 > time, up > stage 1 > time, up > stage 2 > up > stage 3 > head
 *   widths    encoder 1 2 4 4, decoder 4 4 2 1 times the base width; an up resampler halves them once more
 *
 * Every box is causal, so frames may pass in pieces of any length: each stage hands a piece on before it takes the
 * next, which bounds the scratch memory by the pieces (Vae.piece_bytes) and not by the number of latents.
 *
 * Traps: a temporal resampler lets the first frame of a stream pass as it is. Going down that frame is the history of the
 * next; going up it is not, the next frame sees zeros.
 */
#include "nets/vae_boxes.h"

/* ---- encoder -------------------------------------------------------------------------------------------------- */

/*
 * A still as a stream of equal frames: what a convolution gives from its third equal input on is the same again, bit for bit,
 * since it sees the same three frames. So a box whose input repeats from frame r repeats from r + 2 for each of its convolutions,
 * and what repeats is computed once.
 */
typedef struct VaeStill {
    int64_t seen[VAE_STAGES - 1], seen_half[VAE_STAGES - 1];          // frames that went into a stage, and out of its step in time
    Tensor frame[VAE_STAGES - 1], frame_half[VAE_STAGES - 1];         // what is given again, [1, h, w, C]
} VaeStill;

/* First frame of a still that stage s gives again, counted at the stage's rate or, behind its step in time, at half of that. */
static int64_t repeats_from(int s, int half)
{
    const int64_t own = (s ? repeats_from(s - 1, s > 1) : 2) + 2 * 2 * 2;     // 2 blocks of 2 convolutions; before stage 0 one more

    return half ? own / 2 + 1 : own;                                // half frame j is made of frames 2j - 2 .. 2j
}

/* How many of the next t frames must be computed, `seen` having gone by. */
static int64_t fresh(int64_t seen, int64_t repeats, int64_t t)
{
    const int64_t nb = repeats + 1 - seen;

    return nb < 0 ? 0 : nb < t ? nb : t;
}

/* The frames of out that are not computed: the one that repeats is kept once it is there, and copied. */
static void repeat(const VaePass *p, Tensor kept, Tensor out, int64_t *seen, int64_t repeats)
{
    const int64_t t = out.dim[0], nb = fresh(*seen, repeats, t);

    if (nb && *seen + nb > repeats)
        avt_copy(p->be, kept, avt_at(out, nb - 1));
    for (int64_t i = nb; i < t; i++)
        avt_copy(p->be, avt_at(out, i), kept);
    *seen += t;
}

/* Two frames become one, [t, h, w, C] -> [ceil(t / 2), h, w, C]; a stream's first frame stays alone. */
static Tensor time_down(VaePass *p, int s, Tensor x)
{
    const VaeConv *c = &p->net->sample[s].time;
    const int64_t first = !p->st->started[s], n = (x.dim[0] - first) / 2;
    const Tensor out = avt_vae_frames(p, first + n, x.dim[1], x.dim[2], x.dim[3]);

    if (first) {
        avt_copy(p->be, avt_at(out, 0), avt_at(x, 0));
        avt_vae_remember(p, c->slot, avt_rows(x, 0, 1));
    }
    if (n && (!p->still || fresh(p->still->seen_half[s], repeats_from(s, 1), n))) {
        const Tensor rest = avt_rows(x, first, 2 * n);

        avt_conv3d(p->be, avt_rows(out, first, n), rest, avt_vae_past(p, c->slot), &c->conv, AVT_NONE, (ConvSpec){ .stride_t = 2, .stride = 1 });
        avt_vae_remember(p, c->slot, rest);
    }
    if (p->still)
        repeat(p, p->still->frame_half[s], out, &p->still->seen_half[s], repeats_from(s, 1));
    return out;
}

/* Stages 0 to 2: residual blocks and the step to half the size. x is used up, but for the pixels before stage 0. */
static Tensor encode_stage(VaePass *p, int s, Tensor x)
{
    const VaeHalf *net = p->net;
    const int64_t t = x.dim[0], h = x.dim[1], w = x.dim[2], end = p->still ? fresh(p->still->seen[s], repeats_from(s, 0), t) : t;
    Tensor out = avt_vae_frames(p, t, h / 2, w / 2, net->sample[s].conv.w.dim[0]);

    for (int64_t i = 0, n; i < end; i += n) {
        const size_t mark = avt_arena_mark(p->scratch);
        Tensor y;

        n = avt_vae_piece(p, s, end - i, h, w);
        y = avt_rows(x, i, n);
        if (s == 0) {
            y = avt_vae_frames(p, n, h, w, net->conv_in.conv.w.dim[0]);
            avt_vae_causal(p, &net->conv_in, y, avt_rows(x, i, n), AVT_NONE);
            avt_vae_see(p, y, "encoder.conv1");
        }
        for (int k = 0; k < 2; k++) {
            y = avt_vae_residual(p, &net->res[s][k], y);
            avt_vae_see(p, y, "encoder.downsamples.%d", 3 * s + k);
        }
        avt_conv3d(p->be, avt_rows(out, i, n), y, AVT_NONE, &net->sample[s].conv, AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 2, .pad1 = 1 });
        avt_arena_release(p->scratch, mark);
    }
    if (p->still)
        repeat(p, p->still->frame[s], out, &p->still->seen[s], repeats_from(s, 0));
    if (s > 0)
        out = time_down(p, s, out);
    p->st->started[s] = 1;
    avt_vae_see(p, out, "encoder.downsamples.%d", 3 * s + 2);
    return out;
}

/* One latent, mean and log variance, [1, h, w, 32], from the stream's first frame or from four later ones. */
static void encode_latent(VaePass *p, const Conv *quant, Tensor out, Tensor px)
{
    const size_t mark = avt_arena_mark(p->scratch);
    const Tensor moments = avt_vae_frames(p, 1, out.dim[1], out.dim[2], out.dim[3]);
    Tensor x = px;

    for (int s = 0; s < 3; s++)
        x = encode_stage(p, s, x);
    for (int k = 0; k < 2; k++) {
        x = avt_vae_residual(p, &p->net->res[3][k], x);
        avt_vae_see(p, x, "encoder.downsamples.%d", 9 + k);
    }
    avt_vae_middle(p, x, "encoder");
    avt_vae_head(p, moments, x);
    avt_vae_see(p, moments, "encoder.head");
    avt_vae_conv_1x1(p->be, out, moments, quant);
    avt_arena_release(p->scratch, mark);
}

static int frames_fit(const VaeState *st, Tensor z, Tensor px)
{
    const int64_t t = z.dim[0], frames = st->started[0] ? 4 * t : 4 * t - 3;

    return z.nd == 4 && z.dim[1] == VAE_LATENT && t > 0 && z.dim[2] == st->h && z.dim[3] == st->w &&
           px.nd == 4 && px.dim[0] == frames && px.dim[1] == 8 * st->own && px.dim[2] == 8 * st->w && px.dim[3] == 3;
}

int avt_vae_encode(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor z, Tensor px, const VaeProbe *probe)
{
    VaePass p = { .be = be, .scratch = scratch, .net = &v->enc, .st = st, .probe = probe, .piece_bytes = v->piece_bytes };
    const size_t mark = avt_arena_mark(scratch);
    const int64_t t = z.dim[0];
    Tensor moments;

    AVT_REQUIRE(be->log, st->half == VAE_ENCODER && frames_fit(st, z, px));
    moments = avt_vae_frames(&p, t, st->h, st->w, 2 * VAE_LATENT);
    for (int64_t i = 0, k = 0, n; k < t; k++, i += n) {
        n = st->started[0] ? 4 : 1;
        encode_latent(&p, &v->quant, avt_rows(moments, k, 1), avt_rows(px, i, n));
    }
    avt_channels_first(be, z, moments, v->norm_mul, v->norm_add);   // the mean; the log variance, behind it, is not used
    avt_arena_release(scratch, mark);
    return 0;
}

static void still_open(VaeStill *still, VaePass *p)
{
    *still = (VaeStill){ 0 };
    for (int s = 0; s < VAE_STAGES - 1; s++) {
        const int64_t h = p->st->h << (2 - s), w = p->st->w << (2 - s), c = p->net->sample[s].conv.w.dim[0];

        still->frame[s] = avt_vae_frames(p, 1, h, w, c);
        still->frame_half[s] = s ? avt_vae_frames(p, 1, h, w, c) : AVT_NONE;
    }
    p->still = still;
}

int avt_vae_encode_still(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor z, Tensor px)
{
    VaePass p = { .be = be, .scratch = scratch, .net = &v->enc, .st = st, .piece_bytes = v->piece_bytes };
    const size_t mark = avt_arena_mark(scratch);
    const int64_t t = z.dim[0];
    VaeStill still;
    Tensor moments, four;

    AVT_REQUIRE(be->log, st->half == VAE_ENCODER && z.nd == 4 && z.dim[1] == VAE_LATENT && z.dim[2] == st->h && z.dim[3] == st->w);
    AVT_REQUIRE(be->log, px.nd == 4 && px.dim[0] == 1 && px.dim[1] == 8 * st->h && px.dim[2] == 8 * st->w && px.dim[3] == 3);
    avt_vae_state_reset(st);
    still_open(&still, &p);
    moments = avt_vae_frames(&p, 1, st->h, st->w, 2 * VAE_LATENT);
    four = avt_vae_frames(&p, 4, px.dim[1], px.dim[2], px.dim[3]);
    for (int i = 0; i < 4; i++)
        avt_copy(be, avt_rows(four, i, 1), px);
    for (int64_t k = 0; k < t; k++) {
        encode_latent(&p, &v->quant, moments, k ? four : px);
        avt_channels_first(be, avt_rows(z, k, 1), moments, v->norm_mul, v->norm_add);
    }
    avt_vae_state_reset(st);
    avt_arena_release(scratch, mark);
    return 0;
}

/* ---- decoder -------------------------------------------------------------------------------------------------- */

/* One frame becomes two, [t, h, w, C] -> [2t, h, w, C]; a stream's first frame stays alone and is no one's history. */
static Tensor time_up(VaePass *p, int s, Tensor x)
{
    const int64_t first = !p->st->started[s], n = x.dim[0] - first, h = x.dim[1], w = x.dim[2], c = x.dim[3];
    const Tensor out = avt_vae_frames(p, first + 2 * n, h, w, c);
    const size_t mark = avt_arena_mark(p->scratch);

    if (first)
        avt_copy(p->be, avt_at(out, 0), avt_at(x, 0));
    if (n) {
        const Tensor pairs = avt_vae_frames(p, n, h, w, 2 * c);

        avt_vae_causal(p, &p->net->sample[s].time, pairs, avt_rows(x, first, n), AVT_NONE);
        for (int64_t t = 0; t < n; t++)                             // channels 0 .. c - 1 of a pair are the earlier frame
            avt_transpose(p->be, avt_view(avt_rows(out, first + 2 * t, 2), 2, h * w, c), avt_view(avt_at(pairs, t), h * w, 2, c));
    }
    avt_arena_release(p->scratch, mark);
    return out;
}

/* [t, h, w, C] -> [t, 2h, 2w, C / 2], a frame at a time: the enlarged input is the largest tensor of a call. A part's neighbours' rows
 * become two each, of which the result has no more than its own. */
static Tensor space_up(VaePass *p, int s, Tensor x)
{
    const int64_t t = x.dim[0], h = 2 * x.dim[1], w = 2 * x.dim[2];
    const Conv *c = &p->net->sample[s].conv;
    const Tensor out = avt_vae_frames(p, t, h, w, c->w.dim[0]);
    const size_t mark = avt_arena_mark(p->scratch);
    const int alone = p->st->team.nb == 1;
    const Tensor wide = alone ? x : avt_vae_neighbours(p, x), large = avt_vae_frames(p, 1, 2 * wide.dim[1], w, x.dim[3]);
    const Tensor result = alone ? AVT_NONE : avt_vae_frames(p, 1, 2 * wide.dim[1], w, c->w.dim[0]);

    for (int64_t i = 0; i < t; i++) {
        avt_upsample(p->be, large, avt_rows(wide, i, 1));
        avt_conv3d(p->be, alone ? avt_rows(out, i, 1) : result, large, AVT_NONE, c, AVT_NONE,
                   (ConvSpec){ .stride_t = 1, .stride = 1, .pad0 = 1, .pad1 = 1 });
        if (!alone)
            avt_copy(p->be, avt_at(out, i), avt_rows(avt_at(result, 0), 2 * avt_team_above(&p->st->team), h));
    }
    avt_arena_release(p->scratch, mark);
    return out;
}

/* From stage s on to the pixels, depth first. x is used up. */
static void decode_stage(VaePass *p, int s, Tensor x)
{
    Tensor px;

    for (int k = 0; k < 3; k++) {
        x = avt_vae_residual(p, &p->net->res[s][k], x);
        avt_vae_see(p, x, "decoder.upsamples.%d", 4 * s + k);
    }
    if (s == VAE_STAGES - 1) {
        px = avt_rows(p->px, p->done, x.dim[0]);
        avt_vae_head(p, px, x);
        avt_vae_see(p, px, "decoder.head");
        avt_act(p->be, px, px, ACT_CLAMP);
        p->done += x.dim[0];
        return;
    }
    if (s < 2)
        x = time_up(p, s, x);
    p->st->started[s] = 1;
    for (int64_t i = 0, n; i < x.dim[0]; i += n) {
        const size_t mark = avt_arena_mark(p->scratch);
        Tensor y;

        n = avt_vae_piece(p, s + 1, x.dim[0] - i, 2 * x.dim[1], 2 * x.dim[2]);
        y = space_up(p, s, avt_rows(x, i, n));
        avt_vae_see(p, y, "decoder.upsamples.%d", 4 * s + 3);
        decode_stage(p, s + 1, y);
        avt_arena_release(p->scratch, mark);
    }
}

/* z [t, 16, H, w] -> this part's rows, channels last, as the decoder takes them. */
static Tensor own_latents(VaePass *p, Tensor z, const Vae *v)
{
    const VaeState *st = p->st;
    const Tensor all = avt_vae_frames(p, z.dim[0], st->h, st->w, VAE_LATENT);
    Tensor own;

    avt_channels_last(p->be, all, z, v->std, v->mean);
    if (st->team.nb == 1)
        return all;
    own = avt_vae_frames(p, z.dim[0], st->own, st->w, VAE_LATENT);
    for (int64_t t = 0; t < z.dim[0]; t++)
        avt_copy(p->be, avt_at(own, t), avt_rows(avt_at(all, t), avt_team_first(&st->team, st->h, st->team.part), st->own));
    return own;
}

int avt_vae_decode(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor px, Tensor z, const VaeProbe *probe)
{
    VaePass p = { .be = be, .scratch = scratch, .net = &v->dec, .st = st, .probe = probe, .piece_bytes = v->piece_bytes, .px = px };
    const size_t start = avt_arena_mark(scratch);
    const int64_t t = z.dim[0], h = st->own, w = st->w;
    Tensor rows, x;

    AVT_REQUIRE(be->log, st->half == VAE_DECODER && frames_fit(st, z, px));
    x = own_latents(&p, z, v);
    rows = avt_vae_frames(&p, t, h, w, VAE_LATENT);
    avt_vae_conv_1x1(be, rows, x, &v->post_quant);
    avt_vae_see(&p, rows, "conv2");
    for (int64_t i = 0, n; i < t; i += n) {
        const size_t mark = avt_arena_mark(scratch);

        n = avt_vae_piece(&p, 0, t - i, h, w);
        x = avt_vae_frames(&p, n, h, w, v->dec.conv_in.conv.w.dim[0]);
        avt_vae_causal(&p, &v->dec.conv_in, x, avt_rows(rows, i, n), AVT_NONE);
        avt_vae_see(&p, x, "decoder.conv1");
        avt_vae_middle(&p, x, "decoder");
        decode_stage(&p, 0, x);
        avt_arena_release(scratch, mark);
    }
    avt_arena_release(scratch, start);
    return 0;
}
