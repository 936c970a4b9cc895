/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The VAE: encode and decode of whole clips, decoding in pieces, and every box on the way. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nets/vae.h"
#include "parity.h"

typedef struct Set {                    // the network and the inputs of both cases
    Vae vae;
    const CkptTensor *video;            // in.video_u8 [T, H, W, 3]
    const CkptTensor *latents;          // in.latents<N> [16, N, h, w]
} Set;

static int open_vae(Golden *g, Vae *v)
{
    static const char *const names[] = { "Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors" };
    char path[1024] = "";
    Ckpt *ckpt = NULL;
    Binder b = { 0 };
    int width, ret;

    for (int i = 0; i < 2 && (!i || access(path, R_OK) < 0); i++)
        snprintf(path, sizeof(path), "%s/ckpt/%s", g->dir, names[i]);
    ret = avt_ckpt_open(&ckpt, path, g->log);
    if (ret >= 0)
        ret = width = avt_vae_width(ckpt, g->log);
    if (ret >= 0)
        ret = avt_binder_open(&b, ckpt, NULL, g->weights, "vae", DT_F32, g->log);
    if (ret >= 0)
        ret = avt_vae_open(v, &b, width, VAE_ENCODER | VAE_DECODER);
    avt_binder_close(&b);
    avt_ckpt_close(&ckpt);
    if (ret < 0)
        golden_fail(g, "%s cannot be used", path);
    return ret;
}

static int open_set(Golden *g, Set *s, const Ckpt *file)
{
    *s = (Set){ .video = avt_ckpt_find(file, "in.video_u8") };
    for (int64_t i = 0; i < avt_ckpt_nb(file); i++)
        if (!strncmp(avt_ckpt_get(file, i)->name, "in.latents", 10))
            s->latents = avt_ckpt_get(file, i);
    if (!s->video || s->video->nd != 4 || s->video->dtype != DT_U8 || s->video->dim[3] != 3 || s->video->dim[0] < 1)
        golden_fail(g, "in.video_u8 is missing or not u8 [T, H, W, 3]");
    else if (!s->latents || s->latents->nd != 4 || s->latents->dtype != DT_F32 || s->latents->dim[0] != VAE_LATENT)
        golden_fail(g, "in.latents<N> is missing or not f32 [16, N, h, w]");
    else
        return open_vae(g, &s->vae);
    return AVT_INVALID;
}

/* Frames first .. first + nb of the video, [nb, H, W, 3]; `still` repeats frame `first` instead. AVT_NONE after a failure. */
static Tensor video(Golden *g, const Set *s, int64_t first, int64_t nb, int still)
{
    const int64_t *dim = s->video->dim, size = dim[1] * dim[2] * 3;
    const uint8_t *all;
    uint8_t *u8;

    if (nb < 1 || first + (still ? 1 : nb) > dim[0]) {
        golden_fail(g, "in.video_u8 has only %lld frames", (long long)dim[0]);
        return AVT_NONE;
    }
    all = golden_bytes(g, s->video);
    u8 = golden_alloc(g, (size_t)(nb * size));
    for (int64_t i = 0; i < nb; i++)
        memcpy(u8 + i * size, all + (first + (still ? 0 : i)) * size, (size_t)size);
    return golden_picture(g, u8, nb, dim[1], dim[2]);
}

/* Latents first .. first + nb of the file's, [nb, 16, h, w]; AVT_NONE after a failure. */
static Tensor latents(Golden *g, const Set *s, int64_t first, int64_t nb)
{
    const int64_t *dim = s->latents->dim, hw = dim[2] * dim[3];
    const size_t size = sizeof(float) * (size_t)hw;
    const char *all;
    float *v;
    Tensor z;

    if (nb < 1 || first + nb > dim[1]) {
        golden_fail(g, "%s has too few frames", s->latents->name);
        return AVT_NONE;
    }
    z = avt_new(g->work, DT_F32, nb, dim[0], dim[2], dim[3]);
    all = golden_bytes(g, s->latents);
    v = golden_alloc(g, avt_nbytes(z));
    for (int64_t t = 0; t < nb; t++)
        for (int64_t i = 0; i < dim[0]; i++)
            memcpy(v + (t * dim[0] + i) * hw, all + (size_t)(i * dim[1] + first + t) * size, size);
    avt_upload(g->be, z, v);
    return z;
}

/* Frames [F, H, W, 3] -> latents [16, T, h, w], as the file has them. */
static Tensor encode(Golden *g, const Set *s, VaeState *st, Tensor px, const VaeProbe *probe)
{
    const int64_t t = (px.dim[0] + (st->started[0] ? 0 : 3)) / 4;
    const Tensor z = avt_new(g->work, DT_F32, t, VAE_LATENT, st->h, st->w);

    if (!px.be || avt_vae_encode(g->be, g->work, &s->vae, st, z, px, probe) < 0)
        golden_fail(g, "encode refuses its input");
    return golden_turned(g, z);
}

/* Latents [T, 16, h, w] -> frames [3, F, H, W]. */
static Tensor decode(Golden *g, const Set *s, VaeState *st, Tensor z, const VaeProbe *probe)
{
    const int64_t f = 4 * z.dim[0] - (st->started[0] ? 0 : 3);
    const Tensor px = avt_new(g->work, DT_F32, f, 8 * st->h, 8 * st->w, 3);
    const Tensor out = avt_new(g->work, DT_F32, f, 3, 8 * st->h, 8 * st->w);

    if (!z.be || avt_vae_decode(g->be, g->work, &s->vae, st, px, z, probe) < 0)
        golden_fail(g, "decode refuses its input");
    avt_channels_first(g->be, out, px, AVT_NONE, AVT_NONE);
    return golden_turned(g, out);
}

static void open_state(Golden *g, const Set *s, VaeState *st, int half)
{
    const int64_t h = half == VAE_ENCODER ? s->video->dim[1] / 8 : s->latents->dim[2];
    const int64_t w = half == VAE_ENCODER ? s->video->dim[2] / 8 : s->latents->dim[3];

    if (avt_vae_state_open(st, g->work, &s->vae, half, h, w) < 0)
        golden_fail(g, "no memory for the caches");
}

/* ---- whole clips and pieces ----------------------------------------------------------------------------------- */

/* "encode<F>", "encode<F>_static", "decode<N>" */
static void check_clip(Golden *g, const Set *s, const char *name)
{
    const size_t mark = avt_arena_mark(g->work);
    const int64_t nb = atoll(name + 6);
    VaeState st;

    open_state(g, s, &st, name[0] == 'e' ? VAE_ENCODER : VAE_DECODER);
    if (name[0] == 'e')
        golden_expect(g, encode(g, s, &st, video(g, s, 0, nb, strstr(name, "_static") != NULL), NULL), "%s", name);
    else
        golden_expect(g, decode(g, s, &st, latents(g, s, 0, nb), NULL), "%s", name);
    avt_arena_release(g->work, mark);
}

/* Largest difference of a piece [3, n, hw] from frames first .. first + n of all [3, nb, hw]. */
static float distance(const float *all, int64_t nb, const float *piece, int64_t first, int64_t n, int64_t hw)
{
    float worst = 0;

    for (int64_t c = 0; c < 3; c++)
        for (int64_t i = 0; i < n * hw; i++) {
            const float d = all[(c * nb + first) * hw + i] - piece[c * n * hw + i];

            if (!(d <= worst && -d <= worst))
                worst = d < 0 ? -d : d;
        }
    return worst;
}

static float *decode_host(Golden *g, const Set *s, VaeState *st, int64_t first, int64_t nb, int64_t *frames)
{
    const size_t mark = avt_arena_mark(g->work);
    const Tensor px = decode(g, s, st, latents(g, s, first, nb), NULL);
    float *v = golden_alloc(g, avt_nbytes(px));

    *frames = px.dim[1];
    if (avt_download(g->be, v, px) < 0)
        golden_fail(g, "decode fails");
    avt_arena_release(g->work, mark);
    return v;
}

/* `prime` latents, then blocks, must give the frames of all at once. */
static void check_pieces(Golden *g, const Set *s, int64_t prime, const char *lengths, const char *maxabs)
{
    const size_t mark = avt_arena_mark(g->work);
    const int64_t hw = 64 * s->latents->dim[2] * s->latents->dim[3];
    int64_t block = 3, total, length[64], nb = 0, frames = 0;
    float worst = 0;
    const float *all;
    VaeState st;

    if (!golden_has(g, "out.%s", lengths))
        return;
    avt_json_int(g->config, "num_frames_per_block", &block, 1, 1 << 20, 0);
    open_state(g, s, &st, VAE_DECODER);
    all = decode_host(g, s, &st, 0, s->latents->dim[1], &total);
    avt_vae_state_reset(&st);
    for (int64_t t = 0, n = prime; t + n <= s->latents->dim[1] && nb < 64 && !g->failed; t += n, n = block, nb++) {
        const float *piece = decode_host(g, s, &st, t, n, &length[nb]);
        const float d = distance(all, total, piece, frames, length[nb], hw);

        worst = d <= worst ? worst : d;
        frames += length[nb];
    }
    golden_expect_ints(g, length, nb, "%s", lengths);
    golden_expect_host(g, &worst, 1, "%s", maxabs);
    avt_arena_release(g->work, mark);
}

static void check_constants(Golden *g, const Vae *v)
{
    float mean[VAE_LATENT], std[VAE_LATENT];
    int64_t nb_mean, nb_std;
    const float *ref_mean = golden_in_host(g, &nb_mean, "latent_mean"), *ref_std = golden_in_host(g, &nb_std, "latent_std");

    if (!ref_mean || !ref_std || nb_mean != VAE_LATENT || nb_std != VAE_LATENT)
        golden_fail(g, "in.latent_mean, in.latent_std are not [16]");
    else if (avt_download(g->be, mean, v->mean) < 0 || avt_download(g->be, std, v->std) < 0 ||
             memcmp(mean, ref_mean, sizeof(mean)) || memcmp(std, ref_std, sizeof(std)))
        golden_fail(g, "in.latent_mean, in.latent_std are not our constants");
}

void case_vae(Golden *g)
{
    Set s;

    if (open_set(g, &s, g->file) < 0)
        return;
    check_constants(g, &s.vae);
    for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++) {
        const char *name = avt_ckpt_get(g->file, i)->name + 4;

        if (!strncmp(name - 4, "out.encode", 10) || !strncmp(name - 4, "out.decode", 10))
            check_clip(g, &s, name);
    }
    check_pieces(g, &s, 1, "stream_decode_piece_lengths", "stream_vs_onego_maxabs");
    check_pieces(g, &s, 7, "stream_prime7_piece_lengths", "stream_prime7_vs_onego_maxabs");
}

/* ---- every box ------------------------------------------------------------------------------------------------ */

typedef struct Seen {                   // one box during one call, pieces put together: [t, H, W, C]
    char name[100];                     // as the file has it: "chunk1.dec.upsamples3"
    float *v;
    int64_t t, h, w, c;
} Seen;

typedef struct Stages {
    Golden *g;
    int64_t chunk;
    Seen seen[512];
    int nb;
} Stages;

/* "decoder.upsamples.3" in call 1 -> "chunk1.dec.upsamples3"; post_quant runs on all latents first and counts as chunk 0's. */
static void golden_name(char *buf, size_t size, const char *name, int64_t chunk)
{
    int n;

    if (!strcmp(name, "conv2")) {
        snprintf(buf, size, "chunk0.dec.post_quant_conv2");
        return;
    }
    n = snprintf(buf, size, "chunk%lld.%.3s.", (long long)chunk, name);
    for (name = strchr(name, '.') + 1; *name && n + 1 < (int)size; name++)
        if (*name != '.')
            buf[n++] = *name;
    buf[n] = 0;
}

static void see(void *opaque, const char *name, Tensor t)
{
    Stages *s = opaque;
    const int64_t frame = t.dim[1] * t.dim[2] * t.dim[3];
    Seen *e = s->seen;
    char full[100];
    float *v;

    golden_name(full, sizeof(full), name, s->chunk);
    while (e < s->seen + s->nb && strcmp(e->name, full))
        e++;
    if (e == s->seen + s->nb) {
        if (s->nb == 512) {
            golden_fail(s->g, "more than 512 boxes");
            return;
        }
        s->nb++;
        *e = (Seen){ .h = t.dim[1], .w = t.dim[2], .c = t.dim[3] };
        snprintf(e->name, sizeof(e->name), "%s", full);
    }
    v = golden_alloc(s->g, sizeof(*v) * (size_t)(frame * (e->t + t.dim[0])));
    if (e->t)
        memcpy(v, e->v, sizeof(*v) * (size_t)(frame * e->t));
    if (golden_read(s->g, v + frame * e->t, t) < 0)
        golden_fail(s->g, "%s fails", name);
    e->v = v;
    e->t += t.dim[0];
}

/* The file's "chunk1.dec.upsamples3_upsample3d" is our "chunk1.dec.upsamples3". */
static void check_stage(Stages *s, const char *name)
{
    const Seen *e = s->seen;
    float *v;

    while (e < s->seen + s->nb && (strncmp(name, e->name, strlen(e->name)) || !strchr("_", name[strlen(e->name)])))
        e++;
    if (e == s->seen + s->nb) {
        golden_fail(s->g, "out.%s: no box of that name ran", name);
        return;
    }
    v = golden_alloc(s->g, sizeof(*v) * (size_t)(e->t * e->h * e->w * e->c));
    for (int64_t i = 0; i < e->t * e->h * e->w; i++)
        for (int64_t c = 0; c < e->c; c++)
            v[c * e->t * e->h * e->w + i] = e->v[i * e->c + c];
    golden_expect_host(s->g, v, e->t * e->h * e->w * e->c, "%s", name);
}

/* One past the largest chunk number of "out.chunk<n>.<side>." */
static int64_t nb_chunks(const Golden *g, const char *side)
{
    int64_t nb = 0;

    for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++) {
        const char *name = avt_ckpt_get(g->file, i)->name, *dot;

        if (strncmp(name, "out.chunk", 9) || !(dot = strchr(name + 9, '.')) || strncmp(dot + 1, side, 3))
            continue;
        if (atoll(name + 9) >= nb)
            nb = atoll(name + 9) + 1;
    }
    return nb;
}

/* Inputs are those of the case "vae": the first frames of its video, the first of its latents. */
void case_vae_stages(Golden *g)
{
    Stages *stages = golden_alloc(g, sizeof(*stages));
    const VaeProbe probe = { see, stages };
    Ckpt *inputs = NULL;
    char path[1024];
    VaeState st;
    Set s;

    stages->g = g;
    snprintf(path, sizeof(path), "%s/vae.safetensors", g->dir);
    if (avt_ckpt_open(&inputs, path, g->log) < 0)
        golden_fail(g, "%s, which has the inputs, cannot be opened", path);
    else if (open_set(g, &s, inputs) >= 0) {
        open_state(g, &s, &st, VAE_ENCODER);
        for (stages->chunk = 0; stages->chunk < nb_chunks(g, "enc"); stages->chunk++)
            encode(g, &s, &st, video(g, &s, stages->chunk ? 4 * stages->chunk - 3 : 0, stages->chunk ? 4 : 1, 0), &probe);
        open_state(g, &s, &st, VAE_DECODER);
        for (stages->chunk = 0; stages->chunk < nb_chunks(g, "dec"); stages->chunk++)
            decode(g, &s, &st, latents(g, &s, stages->chunk, 1), &probe);
        for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++)
            check_stage(stages, avt_ckpt_get(g->file, i)->name + 4);
    }
    avt_ckpt_close(&inputs);
}
