/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole chain through the engine with compat=upstream: picture and prompt and features -> reference and motion latents,
 * latents of every block, frames. Noise and sink distances are the case's; the rest is computed.
 */
#include <stdio.h>
#include <string.h>

#include "engine/session.h"
#include "nets/umt5.h"
#include "nets/wav2vec2.h"
#include "parity.h"

typedef struct Run {
    Golden *g;
    const float *noise;                 // [clips, 16, 12, H, W]
    const int64_t *distance;            // [blocks, steps]
    int steps;
    int64_t nb_blocks, hw, frame;       // latent plane; values of a picture
    float *ref, *motion, *latents, *pixels;
    int64_t nb_ref, nb_motion, nb_latent;
    char *model;
} Run;

static void give_noise(void *opaque, float *out, int64_t nb, int64_t block)
{
    const Run *r = opaque;

    (void)nb;
    if (block == r->nb_blocks)                                      // a block ahead of the last
        return;
    for (int f = 0; f < 3; f++)
        for (int c = 0; c < 16; c++)
            memcpy(out + (f * 16 + c) * r->hw, r->noise + (((block / 4) * 16 + c) * 12 + block % 4 * 3 + f) * r->hw,
                   (size_t)r->hw * sizeof(float));
}

static int give_distance(void *opaque, int64_t block, int step)
{
    const Run *r = opaque;

    return (int)r->distance[block * r->steps + step];
}

static void see_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Run *r = opaque;

    memcpy(r->latents + block * nb, golden_turned_host(r->g, v, 3, 16, r->hw), (size_t)nb * sizeof(*v));
    r->nb_latent = nb;
}

static void see_pixels(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Run *r = opaque;

    memcpy(r->pixels + block * nb, v, (size_t)nb * sizeof(*v));
}

static void see_picture(void *opaque, const float *ref, int64_t nb_ref, const float *motion, int64_t nb_motion)
{
    Run *r = opaque;

    r->ref = golden_alloc(r->g, (size_t)nb_ref * sizeof(*ref));
    r->motion = golden_turned_host(r->g, motion, nb_motion / 16 / r->hw, 16, r->hw);
    memcpy(r->ref, ref, (size_t)nb_ref * sizeof(*ref));             // one frame: the same bytes in both layouts
    r->nb_ref = nb_ref;
    r->nb_motion = nb_motion;
}

/* Another file of the set; NULL after a failure. */
static Ckpt *open_other(Golden *g, const char *name)
{
    char path[1024];
    Ckpt *c = NULL;

    snprintf(path, sizeof(path), "%s/%s", g->dir, name);
    if (avt_ckpt_open(&c, path, g->log) < 0)
        golden_fail(g, "%s cannot be opened", path);
    return c;
}

/* Feature rows [rows, layers, dim] out of audio_features' hidden states; compared with out.audio_emb [1, layers, dim, rows]. */
static float *make_features(Golden *g, int64_t rows)
{
    Ckpt *c = open_other(g, "audio_features.safetensors");
    const CkptTensor *t = c ? avt_ckpt_find(c, "in.hidden_50fps") : NULL;
    float *host, *rowwise = NULL, *swapped;
    Tensor hidden, out;

    if (t) {
        const int64_t layers = t->dim[0], dim = t->dim[2];

        host = golden_floats(g, t);
        hidden = avt_new(g->work, DT_F32, layers, t->dim[1], dim);
        out = avt_new(g->work, DT_F32, rows, layers, dim);
        avt_upload(g->be, hidden, host);
        rowwise = golden_alloc(g, avt_nbytes(out));
        swapped = golden_alloc(g, avt_nbytes(out));
        if (avt_features_pick(g->be, g->work, out, hidden, 0, FEATURES_UPSTREAM) < 0 || avt_download(g->be, rowwise, out) < 0)
            golden_fail(g, "features cannot be picked");
        for (int64_t j = 0; j < rows; j++)
            for (int64_t k = 0; k < layers * dim; k++)
                swapped[k * rows + j] = rowwise[j * layers * dim + k];
        golden_expect_host(g, swapped, rows * layers * dim, "audio_emb");
    }
    avt_ckpt_close(&c);
    return rowwise;
}

/* Context of t5's "prompt" case; compared with out.context. */
static float *make_context(Golden *g, const Core *core, int64_t *rows)
{
    Ckpt *c = open_other(g, "t5.safetensors");
    const CkptTensor *ids = c ? avt_ckpt_find(c, "in.prompt.ids") : NULL, *mask = c ? avt_ckpt_find(c, "in.prompt.mask") : NULL;
    int32_t token[1024];
    float *context = NULL;

    *rows = 0;
    if (ids && mask && ids->dim[1] <= 1024) {
        const int64_t dim = core->sizes.umt5.dim, *kept = golden_bytes(g, mask), *all = golden_bytes(g, ids);
        int64_t v;
        Tensor out;

        for (int64_t i = 0; i < mask->dim[1]; i++) {
            memcpy(&v, kept + i, sizeof(v));
            *rows += v;
            memcpy(&v, all + i, sizeof(v));
            token[i] = (int32_t)v;
        }
        out = avt_new(g->work, DT_F32, *rows, dim);
        context = golden_alloc(g, avt_nbytes(out));
        if (avt_umt5_encode(g->be, g->be, g->work, &core->front.t5, out, token, *rows, *rows) < 0 || avt_download(g->be, context, out) < 0)
            golden_fail(g, "the text encoder failed");
        golden_expect_host(g, context, *rows * dim, "context");
    }
    avt_ckpt_close(&c);
    return context;
}

static void check_frames(Golden *g, const Run *r, const uint8_t *u8)
{
    int64_t nb, nb_u8;
    const int64_t *at = golden_in_ints(g, &nb, "frame_index"), *at_u8 = golden_in_ints(g, &nb_u8, "u8_frame_index");
    float *f32 = golden_alloc(g, (size_t)(nb * r->frame) * sizeof(*f32));
    uint8_t *picked = golden_alloc(g, (size_t)(nb_u8 * r->frame));

    for (int64_t i = 0; i < nb; i++)                                // frame j is the (j + 3)-th decoded one; channel first
        for (int64_t k = 0; k < r->frame; k++)
            f32[i * r->frame + k % 3 * (r->frame / 3) + k / 3] = r->pixels[(at[i] + 3) * r->frame + k];
    for (int64_t i = 0; i < nb_u8; i++)
        memcpy(picked + i * r->frame, u8 + at_u8[i] * r->frame, (size_t)r->frame);
    golden_expect_host(g, f32, nb * r->frame, "frames_f32");
    golden_expect_u8(g, picked, nb_u8 * r->frame, 1, "frames_u8");
}

static void run_session(Golden *g, AvatarEngine *e, const AvatarLook *look, const SessionHooks *hooks, Run *r)
{
    uint8_t *u8 = golden_alloc(g, (size_t)(r->nb_blocks * 12 * r->frame));
    AvatarSession *s = NULL;
    AvatarFrame f;
    int64_t nb = 0;
    int ret = avt_session_open(&s, e, look, hooks);

    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0 && (ret = avatar_session_receive(s, &f, AVATAR_WAIT)) >= 0)
        memcpy(u8 + nb++ * r->frame, f.data[0], (size_t)r->frame);
    if (ret != AVATAR_EOF) {
        golden_fail(g, "the session ended with %d (%s)", ret, avatar_error_text(ret));
    } else if (nb != r->nb_blocks * 12 - 3) {
        golden_fail(g, "%lld frames, wanted %lld", (long long)nb, (long long)r->nb_blocks * 12 - 3);
    } else {
        golden_expect_host(g, r->ref, r->nb_ref, "ref_latents");
        golden_expect_host(g, r->motion, r->nb_motion, "motion_latents");
        golden_expect_host(g, r->latents, r->nb_blocks * r->nb_latent, "latents");
        check_frames(g, r, u8);
    }
    avatar_session_close(&s);
}

static void hand_line(void *opaque, int level, const char *text)
{
    const Log *log = opaque;

    avt_log(log, level, "%s", text);
}

static AvatarEngine *open_model(Golden *g, int steps)
{
    AvatarOptions opt;
    AvatarEngine *e = NULL;
    char model[1024];

    snprintf(model, sizeof(model), "%s/ckpt", g->dir);
    avatar_options_default(&opt);
    opt.model = model;
    opt.lora = "none";
    opt.devices = g->be->device;
    opt.plan = "sequential";
    opt.steps = steps;
    opt.precision = avt_precision_name(g->be->act, g->be->product);
    opt.kv = g->kv == DT_F8_E4M3 ? "fp8" : "auto";
    opt.compat = AVATAR_COMPAT_UPSTREAM;
    opt.cpu_level = g->be->level == CPU_AUTO ? -1 : (int)g->be->level;
    opt.cpu_threads = g->be->threads;
    opt.log = hand_line;
    opt.log_opaque = (void *)g->log;
    opt.log_level = AVATAR_LOG_WARNING;
    if (avatar_engine_open(&e, &opt) < 0)
        golden_fail(g, "the model folder cannot be opened");
    return e;
}

void case_e2e_tpp(Golden *g)
{
    int64_t noise[CKPT_MAX_DIM], dist[CKPT_MAX_DIM], px[CKPT_MAX_DIM], nb;
    Run r = { .g = g };
    SessionHooks hooks = { .rank = { &r, give_noise, see_latents, see_pixels, see_picture, NULL, NULL }, .distance = give_distance };
    AvatarEngine *e;
    AvatarLook look;

    if (golden_dims(g, noise, "in.noise") != 5 || golden_dims(g, dist, "in.relative_dist") != 2 || golden_dims(g, px, "out.frames_f32") != 4) {
        golden_fail(g, "in.noise, in.relative_dist or out.frames_f32 has another rank than expected");
        return;
    }
    r.noise = golden_in_host(g, &nb, "noise");
    r.distance = golden_in_ints(g, &nb, "relative_dist");
    r.nb_blocks = dist[0];
    r.steps = (int)dist[1];
    r.hw = noise[3] * noise[4];
    r.frame = px[1] * px[2] * px[3];
    r.latents = golden_alloc(g, (size_t)(r.nb_blocks * 48 * r.hw) * sizeof(float));
    r.pixels = golden_alloc(g, (size_t)(r.nb_blocks * 12 * r.frame) * sizeof(float));
    e = open_model(g, r.steps);
    if (!e)
        return;
    avatar_look_default(&look);
    look.rgb = golden_png(g, "ref_image.png", &look.width, &look.height);
    look.out_width = (int)px[3];
    look.out_height = (int)px[2];
    look.format = AVATAR_RGB24;
    look.seed = 0;
    hooks.nb_rows = r.nb_blocks * 12;
    hooks.features = make_features(g, hooks.nb_rows);
    hooks.context = make_context(g, e->core, &hooks.nb_context);
    if (look.rgb && hooks.features && hooks.context)
        run_session(g, e, &look, &hooks, &r);
    avatar_engine_close(&e);
    avatar_engine_flush();
}
