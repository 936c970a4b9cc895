/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A tiny diffusion transformer out of a golden set, and one stream of it. See net.h. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "net.h"

double net_lora_alpha(Golden *g)
{
    return json_number(avt_json_get(avt_json_get(g->config, "lora"), "alpha"));
}

int net_open(Golden *g, GoldenNet *n, const char *sub, const char *lora, int l0, int l1)
{
    char path[4096];
    int ret;

    memset(n, 0, sizeof(*n));
    snprintf(path, sizeof(path), "%s/%s/diffusion_pytorch_model.safetensors.index.json", g->dir, sub);
    if (access(path, R_OK) < 0)
        snprintf(path, sizeof(path), "%s/%s/diffusion_pytorch_model.safetensors", g->dir, sub);
    ret = avt_ckpt_open(&n->ckpt, path, g->log);
    snprintf(path, sizeof(path), "%s/%s/config.json", g->dir, sub);
    if (ret >= 0)
        ret = avt_dit_config(&n->cfg, path, n->ckpt, g->log);
    snprintf(path, sizeof(path), "%s/%s", g->dir, lora ? lora : "");
    if (ret >= 0 && lora)
        ret = avt_lora_open(&n->lora, path, net_lora_alpha(g), g->log);
    if (ret >= 0)
        ret = avt_binder_open(&n->binder, n->ckpt, n->lora, g->weights, "dit", DT_F32, g->log);
    if (ret >= 0)
        ret = avt_dit_open(&n->d, &n->cfg, &n->binder, l0, l1 < 0 ? n->cfg.nb_layers : l1);
    n->d.rope_half = 1;
    n->d.kv = g->kv;
    if (ret < 0)
        golden_fail(g, "the checkpoint in %s cannot be opened (%d)", sub, ret);
    return ret;
}

void net_close(GoldenNet *n)
{
    avt_dit_close(&n->d);
    avt_binder_close(&n->binder);
    avt_lora_close(&n->lora);
    avt_ckpt_close(&n->ckpt);
}

Tensor squeeze(Tensor t)
{
    return t.nd > 1 && t.dim[0] == 1 ? avt_at(t, 0) : t;
}

int stream_open(GoldenStream *st, Golden *g, const Dit *d, int nb_actors, int with_mask)
{
    int64_t dim[CKPT_MAX_DIM];
    Tensor context, embedded;

    *st = (GoldenStream){ .g = g, .d = d, .nb_actors = nb_actors };
    st->noise = golden_input_host(g, NULL, "noise");
    if (!st->noise || golden_dims(g, dim, "in.noise") != 5) {
        golden_fail(g, "sampling_inputs has no noise [clips, 16, frames, H, W]");
        return AVT_INVALID;
    }
    st->clips = dim[0];
    st->frames = dim[2];
    st->s = avt_dit_shape(dim[3], dim[4]);
    context = golden_input(g, "context");
    st->embedded = avt_new(g->work, DT_F32, d->cfg.text_len, d->cfg.dim);
    st->x = avt_new(g->work, DT_F32, st->s.N, d->cfg.dim);
    st->x_sink = avt_new(g->work, DT_F32, st->s.Lc, d->cfg.dim);
    st->velocity = avt_new(g->work, DT_F32, DIT_BLOCK, 16, st->s.H, st->s.W);
    avt_dit_time_open(&st->zero, g->work, d);
    avt_dit_keys_open(&st->text, g->work, d, d->cfg.text_len, 0);
    avt_dit_keys_open(&st->sink, g->work, d, st->s.Lc, st->s.n);
    avt_dit_audio_open(&st->audio, g->work, d, &st->s, nb_actors, with_mask);
    avt_dit_time(g->be, g->work, d, &st->zero, 0);
    embedded = avt_new(g->work, g->be->act, d->cfg.text_len, d->cfg.dim);
    avt_dit_text(g->be, g->work, d, embedded, context);
    avt_copy(g->be, st->embedded, embedded);
    return avt_dit_text_keys(g->be, g->work, d, &st->text, embedded);
}

void stream_close(GoldenStream *st)
{
    avt_dit_keys_close(&st->text);
    avt_dit_keys_close(&st->sink);
}

Tensor stream_latents(Golden *g, const char *name)
{
    return golden_turned(g, squeeze(golden_input(g, "%s", name)));
}

void stream_sink(GoldenStream *st, DitKeys *keys, Tensor ref, Tensor motion, const DitProbe *probe)
{
    Golden *g = st->g;
    DitItem it = { .sink_pass = 1, .shape = &st->s, .time = &st->zero, .text = &st->text, .sink = keys, .probe = probe };

    it.x = st->x_sink;
    avt_dit_embed_sink(g->be, g->work, st->d, it.x, ref, motion);
    avt_dit_layers(g->be, g->work, st->d, &it, 1);
}

void stream_audio(GoldenStream *st, const float *features, int64_t T, int64_t first)
{
    Golden *g = st->g;
    const int64_t A = st->nb_actors, L = st->d->cfg.nb_audio_layers, C = st->d->cfg.audio_dim;
    const size_t mark = avt_arena_mark(g->work);
    const Tensor rows = avt_new(g->work, DT_F32, A, 12, L, C);
    float *host = golden_alloc(g, avt_nbytes(rows));

    for (int64_t a = 0; a < A; a++)
        for (int64_t t = 0; t < 12; t++)
            for (int64_t lc = 0; lc < L * C; lc++)
                host[(a * 12 + t) * L * C + lc] = features[(a * L * C + lc) * T + first + t];
    avt_upload(g->be, rows, host);
    avt_dit_audio(g->be, g->work, st->d, &st->audio, rows);
    avt_dit_audio_keys(g->be, g->work, st->d, &st->audio);
    avt_arena_release(g->work, mark);
}

Tensor stream_noise(GoldenStream *st, int64_t b)
{
    const int64_t per_clip = st->frames / DIT_BLOCK, r = b / per_clip, hw = st->s.H * st->s.W;
    const Tensor t = avt_new(st->g->work, DT_F32, DIT_BLOCK, 16, st->s.H, st->s.W);
    float *host = golden_alloc(st->g, avt_nbytes(t));

    if (r >= st->clips) {
        golden_fail(st->g, "no noise for block %lld", (long long)b);
        return AVT_NONE;
    }
    for (int64_t f = 0; f < DIT_BLOCK; f++)
        for (int64_t c = 0; c < 16; c++)
            memcpy(host + (f * 16 + c) * hw, st->noise + ((r * 16 + c) * st->frames + b % per_clip * DIT_BLOCK + f) * hw,
                   sizeof(*host) * (size_t)hw);
    avt_upload(st->g->be, t, host);
    return t;
}

void stream_step(GoldenStream *st, DitKeys *ring, const DitKeys *sink, const DitTime *time, Tensor latents, int64_t f0, int64_t distance,
                 Tensor pose, const DitProbe *probe)
{
    Golden *g = st->g;
    DitKeys keys = *sink;
    DitItem it = {
        .x = st->x, .f0 = f0, .relative_dist = (int)distance, .shape = &st->s, .time = time, .text = &st->text, .sink = &keys,
        .ring = ring, .audio = &st->audio, .probe = probe,
    };

    avt_dit_embed_block(g->be, g->work, st->d, st->x, latents, pose);
    avt_dit_layers(g->be, g->work, st->d, &it, 1);
    avt_dit_head(g->be, g->work, st->d, st->velocity, st->x, time);
}
