/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VAE's weights by name, and the memory that its streams work in. See vae.h; what it does is in vae.c. */
#include <stdio.h>
#include <string.h>

#include "nets/vae.h"

static const int width_of_stage[VAE_STAGES] = { 1, 2, 4, 4 };        // of the encoder; the decoder's run backwards

/* Room for the frames that a stage takes at a time, unless the caller says otherwise: at 704x384 and base width 96 the largest
 * stage takes one frame, of 104 MB. Scratch is a few of these. */
#define PIECE_BYTES ((int64_t)64 << 20)

/* From the original's code (WanVAE); they are not in the file. */
static const float latent_mean[VAE_LATENT] = {
    -0.7571f, -0.7089f, -0.9113f, 0.1075f, -0.1745f, 0.9653f, -0.1517f, 1.5508f,
    0.4134f, -0.0715f, 0.5517f, -0.3632f, -0.1922f, -0.9497f, 0.2503f, -0.2921f,
};
static const float latent_std[VAE_LATENT] = {
    2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
    3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f,
};

/* ---- weights -------------------------------------------------------------------------------------------------- */

int avt_vae_width(const Ckpt *ckpt, const Log *log)
{
    const CkptTensor *t = avt_ckpt_find(ckpt, "decoder.conv1.weight");
    const char *path = avt_ckpt_path(ckpt);
    char shape[128];

    if (!t && avt_ckpt_find(ckpt, "decoder.conv_in.weight"))
        return avt_fail(log, AVT_INVALID, "vae: %s has the diffusers layout; wanted the original Wan2.1_VAE.pth", path);
    if (!t && avt_ckpt_find(ckpt, "decoder.1.weight"))
        return avt_fail(log, AVT_INVALID, "vae: %s is a tiny autoencoder (TAEHV), which is not supported; wanted "
                        "Wan2.1_VAE.pth", path);
    if (!t)
        return avt_fail(log, AVT_INVALID, "vae: %s has no decoder.conv1.weight, so it is no Wan 2.1 VAE", path);
    avt_shape_text(shape, sizeof(shape), t->nd, t->dim);
    if (t->nd == 5 && t->dim[1] == 48)
        return avt_fail(log, AVT_INVALID, "vae: %s is the 48-channel VAE of the 5B model (decoder.conv1.weight is %s); wanted "
                        "the 16-channel Wan2.1_VAE.pth", path, shape);
    if (t->nd != 5 || t->dim[1] != VAE_LATENT || t->dim[2] != 3 || t->dim[3] != 3 || t->dim[4] != 3 ||
        t->dim[0] < 4 || t->dim[0] % 4 || t->dim[0] > 1 << 16)
        return avt_fail(log, AVT_INVALID, "vae: %s: decoder.conv1.weight: wanted [4 * width, %d, 3, 3, 3], file has %s", path,
                        VAE_LATENT, shape);
    return (int)(t->dim[0] / 4);
}

static VaeConv bind_causal(Binder *b, VaeHalf *half, int64_t out, int64_t in, int64_t kt, int64_t k, const char *name)
{
    return (VaeConv){
        .conv = avt_bind_conv(b, WEIGHT_CONV3D, AVT_DIMS(out, in, kt, k, k), "%s", name),
        .slot = half->nb_slots++,
    };
}

static void bind_residual(Binder *b, VaeHalf *half, VaeResidual *r, int64_t out, int64_t in, const char *name)
{
    char conv1[80], conv2[80];

    snprintf(conv1, sizeof(conv1), "%s.residual.2", name);
    snprintf(conv2, sizeof(conv2), "%s.residual.6", name);
    r->norm1 = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(in), "%s.residual.0.gamma", name);
    r->conv1 = bind_causal(b, half, out, in, 3, 3, conv1);
    r->norm2 = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(out), "%s.residual.3.gamma", name);
    r->conv2 = bind_causal(b, half, out, out, 3, 3, conv2);
    if (in != out)
        r->shortcut = avt_bind_conv(b, WEIGHT_CONV3D, AVT_DIMS(out, in, 1, 1, 1), "%s.shortcut", name);
}

static void bind_middle(Binder *b, VaeHalf *half, int64_t c, const char *side)
{
    char name[80];

    snprintf(name, sizeof(name), "%s.middle.0", side);
    bind_residual(b, half, &half->mid[0], c, c, name);
    half->attn.norm = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c), "%s.middle.1.norm.gamma", side);
    half->attn.qkv = avt_bind_linear(b, 3 * c, c, 1, "%s.middle.1.to_qkv", side);
    half->attn.proj = avt_bind_linear(b, c, c, 1, "%s.middle.1.proj", side);
    snprintf(name, sizeof(name), "%s.middle.2", side);
    bind_residual(b, half, &half->mid[1], c, c, name);
}

static void bind_time(Binder *b, VaeHalf *half, VaeResample *r, int64_t out, int64_t in, const char *side, int box)
{
    char name[80];

    snprintf(name, sizeof(name), "%s.%d.time_conv", side, box);
    r->time = bind_causal(b, half, out, in, 3, 1, name);
}

static void bind_encoder(Binder *b, VaeHalf *half, int64_t width)
{
    const char *side = "encoder.downsamples";
    char name[80];
    int64_t c = width;
    int box = 0;

    half->conv_in = bind_causal(b, half, c, 3, 3, 3, "encoder.conv1");
    for (int s = 0; s < VAE_STAGES; s++) {
        for (int i = 0; i < 2; i++, box++) {
            snprintf(name, sizeof(name), "%s.%d", side, box);
            bind_residual(b, half, &half->res[s][i], width * width_of_stage[s], c, name);
            c = width * width_of_stage[s];
        }
        if (s == VAE_STAGES - 1)
            break;
        half->sample[s].conv = avt_bind_conv(b, WEIGHT_CONV3D, AVT_DIMS(c, c, 1, 3, 3), "%s.%d.resample.1", side, box);
        if (s > 0)
            bind_time(b, half, &half->sample[s], c, c, side, box);
        box++;
    }
    bind_middle(b, half, c, "encoder");
    half->norm_out = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c), "encoder.head.0.gamma");
    half->conv_out = bind_causal(b, half, 2 * VAE_LATENT, c, 3, 3, "encoder.head.2");
}

static void bind_decoder(Binder *b, VaeHalf *half, int64_t width)
{
    const char *side = "decoder.upsamples";
    char name[80];
    int64_t c = 4 * width;
    int box = 0;

    half->conv_in = bind_causal(b, half, c, VAE_LATENT, 3, 3, "decoder.conv1");
    bind_middle(b, half, c, "decoder");
    for (int s = 0; s < VAE_STAGES; s++) {
        for (int i = 0; i < 3; i++, box++) {
            snprintf(name, sizeof(name), "%s.%d", side, box);
            bind_residual(b, half, &half->res[s][i], width * width_of_stage[3 - s], c, name);
            c = width * width_of_stage[3 - s];
        }
        if (s == VAE_STAGES - 1)
            break;
        if (s < 2)
            bind_time(b, half, &half->sample[s], 2 * c, c, side, box);
        half->sample[s].conv = avt_bind_conv(b, WEIGHT_CONV3D, AVT_DIMS(c / 2, c, 1, 3, 3), "%s.%d.resample.1", side, box);
        c /= 2;
        box++;
    }
    half->norm_out = avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(c), "decoder.head.0.gamma");
    half->conv_out = bind_causal(b, half, 3, c, 3, 3, "decoder.head.2");
}

static void bind_constants(Binder *b, Vae *v)
{
    float mul[VAE_LATENT], add[VAE_LATENT];

    for (int i = 0; i < VAE_LATENT; i++) {
        mul[i] = 1 / latent_std[i];
        add[i] = -latent_mean[i] * mul[i];
    }
    v->norm_mul = avt_bind_computed(b, WEIGHT_PLAIN, AVT_DIMS(VAE_LATENT), mul);
    v->norm_add = avt_bind_computed(b, WEIGHT_PLAIN, AVT_DIMS(VAE_LATENT), add);
    v->std = avt_bind_computed(b, WEIGHT_PLAIN, AVT_DIMS(VAE_LATENT), latent_std);
    v->mean = avt_bind_computed(b, WEIGHT_PLAIN, AVT_DIMS(VAE_LATENT), latent_mean);
}

int avt_vae_open(Vae *v, Binder *b, int width, int halves)
{
    const int64_t m = 2 * VAE_LATENT, z = VAE_LATENT;

    *v = (Vae){ .width = width, .has_encoder = !!(halves & VAE_ENCODER), .has_decoder = !!(halves & VAE_DECODER),
                .piece_bytes = PIECE_BYTES };
    AVT_REQUIRE(b->log, width > 0 && halves);
    bind_constants(b, v);
    v->enc.act = DT_F32;                                            // see vae.h
    v->dec.act = b->act;
    if (v->has_encoder) {
        b->act = v->enc.act;
        bind_encoder(b, &v->enc, width);
        v->quant = avt_bind_conv(b, WEIGHT_CONV3D, AVT_DIMS(m, m, 1, 1, 1), "conv1");
        b->act = v->dec.act;
    } else {
        avt_bind_ignore(b, "encoder.*");
        avt_bind_ignore(b, "conv1.*");
    }
    if (v->has_decoder) {
        v->post_quant = avt_bind_conv(b, WEIGHT_CONV3D, AVT_DIMS(z, z, 1, 1, 1), "conv2");
        bind_decoder(b, &v->dec, width);
    } else {
        avt_bind_ignore(b, "decoder.*");
        avt_bind_ignore(b, "conv2.*");
    }
    return avt_binder_finish(b, 0);
}

/* ---- state ---------------------------------------------------------------------------------------------------- */

/* Rows that a convolution sees besides a part's own: those of the parts above and below, if it looks beyond a row. */
static int64_t seen_rows(const VaeState *st, const VaeConv *c, int64_t own)
{
    return own + (c->conv.w.dim[3] > 1 ? avt_team_above(&st->team) + avt_team_below(&st->team) : 0);
}

static void open_slot(VaeState *st, Arena *a, const VaeConv *c, int64_t nb, int64_t h, int64_t w)
{
    st->slot[c->slot] = avt_new(a, c->conv.w.act, nb, seen_rows(st, c, h), w, c->conv.w.dim[1]);
}

static void open_residual(VaeState *st, Arena *a, const VaeResidual *r, int64_t h, int64_t w)
{
    open_slot(st, a, &r->conv1, 2, h, w);
    open_slot(st, a, &r->conv2, 2, h, w);
}

static int state_open(VaeState *st, Arena *a, const Vae *v, int half, int64_t h, int64_t w, const Team *team)
{
    const Backend *be = avt_arena_backend(a);
    const int enc = half == VAE_ENCODER;
    const VaeHalf *n = enc ? &v->enc : &v->dec;
    const int64_t own = avt_team_share(team, h, team->part);

    *st = (VaeState){ .half = half, .h = h, .w = w, .team = *team, .own = own };
    AVT_REQUIRE(be->log, enc ? v->has_encoder && team->nb == 1 : half == VAE_DECODER && v->has_decoder);
    AVT_REQUIRE(be->log, h >= team->nb && w > 0 && n->nb_slots <= VAE_MAX_SLOTS);
    open_slot(st, a, &n->conv_in, 2, enc ? 8 * own : own, enc ? 8 * w : w);
    open_slot(st, a, &n->conv_out, 2, enc ? own : 8 * own, enc ? w : 8 * w);
    for (int i = 0; i < 2; i++)
        open_residual(st, a, &n->mid[i], own, w);
    for (int s = 0; s < VAE_STAGES; s++) {
        const int up = enc ? 3 - s : s;

        for (int i = 0; i < (enc ? 2 : 3); i++)
            open_residual(st, a, &n->res[s][i], own << up, w << up);
        if (s < 3 && n->sample[s].time.conv.w.be)                   // going down it runs on the smaller picture
            open_slot(st, a, &n->sample[s].time, enc ? 1 : 2, own << (up - enc), w << (up - enc));
    }
    return be->status;
}

int avt_vae_state_open(VaeState *st, Arena *a, const Vae *v, int half, int64_t h, int64_t w)
{
    return state_open(st, a, v, half, h, w, &(Team){ .nb = 1 });
}

int avt_vae_state_open_part(VaeState *st, Arena *a, const Vae *v, int64_t h, int64_t w, const Team *team)
{
    return state_open(st, a, v, VAE_DECODER, h, w, team);
}

void avt_vae_state_reset(VaeState *st)
{
    memset(st->nb, 0, sizeof(st->nb));
    memset(st->frames, 0, sizeof(st->frames));
    memset(st->started, 0, sizeof(st->started));
}
