/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The whole diffusion transformer: forward with every intermediate result, one layer alone, several actors, LoRA. */
#include <stdio.h>
#include <string.h>

#include "net.h"

#define MAX_STEPS 100

/* Compares each probed tensor with the file, where the file has it: `format` makes the golden name out of the probe's. */
typedef struct Watch {
    Golden *g;
    const char *before;                 // "block0.step0."
    int sink;
} Watch;

static void watch(void *opaque, const char *name, Tensor t)
{
    Watch *w = opaque;
    char golden[256];
    int i;

    if (w->sink && sscanf(name, "layer_%d_after_block", &i) == 1 && strstr(name, "_after_block"))
        snprintf(golden, sizeof(golden), "%slayer_out_%d", w->before, i);
    else
        snprintf(golden, sizeof(golden), "%s%s", w->before, name);
    if (golden_has(w->g, "out.%s", golden))
        golden_expect(w->g, t, "%s", golden);
}

/* ---- forward ---------------------------------------------------------------------------------------------------- */

typedef struct Forward {
    GoldenStream st;
    DitTime time[MAX_STEPS];
    DitKeys ring[MAX_STEPS];
    int nb_steps;
    const float *features;
    int64_t T;                          // feature frames
    int64_t distance;
} Forward;

static int forward_open(Forward *f, Golden *g, const Dit *d, const float *timesteps, int64_t nb_steps, int64_t distance)
{
    int64_t dim[CKPT_MAX_DIM];

    *f = (Forward){ .nb_steps = (int)nb_steps, .distance = distance };
    f->features = golden_input_host(g, NULL, "audio_emb");
    if (!timesteps || nb_steps > MAX_STEPS || golden_dims(g, dim, "in.audio_emb") != 4 || stream_open(&f->st, g, d, 1, 0) < 0) {
        golden_fail(g, "timesteps, audio_emb or the stream's inputs are not there");
        return AVT_INVALID;
    }
    f->T = dim[3];
    for (int i = 0; i < f->nb_steps; i++) {
        avt_dit_time_open(&f->time[i], g->work, d);
        avt_dit_time(g->be, g->work, d, &f->time[i], timesteps[i]);
        avt_dit_keys_open(&f->ring[i], g->work, d, f->st.s.ring, 0);
    }
    return g->be->status;
}

static void forward_close(Forward *f)
{
    for (int i = 0; i < f->nb_steps; i++)
        avt_dit_keys_close(&f->ring[i]);
    stream_close(&f->st);
}

static void forward_sink(Forward *f, Golden *g, DitKeys *keys, const DitProbe *probe)
{
    stream_sink(&f->st, keys, stream_latents(g, "ref_latents"), stream_latents(g, "motion_latents"), probe);
}

static void forward_step(Forward *f, int64_t b, int i, const DitKeys *sink, Tensor pose, const DitProbe *probe)
{
    stream_step(&f->st, &f->ring[i], sink, &f->time[i], stream_noise(&f->st, b), DIT_BLOCK * b, f->distance, pose, probe);
}

static void check_embeddings(Forward *f, Golden *g)
{
    const Dit *d = f->st.d;
    const DitShape *s = &f->st.s;
    const Tensor patches = avt_new(g->work, DT_F32, s->N, 64), y = avt_new(g->work, DT_F32, DIT_BLOCK, s->h, s->w, d->cfg.dim);
    const Tensor first = avt_new(g->work, DT_F32, DIT_BLOCK, d->cfg.dim, s->h, s->w);

    golden_expect(g, f->st.embedded, "text_embedding");
    avt_patchify(g->be, patches, stream_noise(&f->st, 0), 1, 2, 2);
    avt_linear(g->be, avt_view(y, s->N, d->cfg.dim), patches, &d->patch, ACT_NONE);
    avt_channels_first(g->be, first, y, AVT_NONE, AVT_NONE);
    golden_expect(g, golden_turned(g, first), "patch_embedding_block0");
}

/* The file has the sink's keys before rotation; ours are rotated, those of the reference are there both ways. Turning back is exact
 * but for the tables, whose cos and sin are rounded to half precision and so have a length beside one. */
static void expect_sink_keys(Golden *g, Tensor k, Tensor ref, Tensor table, const char *name)
{
    const int64_t M = k.dim[0], row = k.dim[1] * k.dim[2], hd = k.dim[2];
    float *v = golden_alloc(g, (size_t)(M * row) * sizeof(*v)), *t = golden_alloc(g, (size_t)(M * hd) * sizeof(*t));

    if (golden_read(g, v, k) < 0 || golden_read(g, t, table) < 0) {
        golden_fail(g, "%s: nothing was computed", name);
        return;
    }
    for (int64_t i = 0; i < M * row; i += 2) {
        const float *w = t + i / row * hd + i % hd, a = v[i], b = v[i + 1], size = w[0] * w[0] + w[1] * w[1];

        v[i] = (a * w[0] + b * w[1]) / size;
        v[i + 1] = (b * w[0] - a * w[1]) / size;
    }
    if (golden_read(g, v, ref) < 0)                                 // over its rotated rows, which an earlier block may have moved
        golden_fail(g, "%s: no keys of the reference", name);
    golden_expect_host(g, v, M * row, "%s", name);
}

static void check_sink(Forward *f, Golden *g)
{
    const Dit *d = f->st.d;
    Watch w = { .g = g, .before = "sink.", .sink = 1 };
    const DitProbe probe = { watch, &w };
    const Tensor table = avt_new(g->work, DT_F32, f->st.s.Lc, d->cfg.dim / d->cfg.nb_heads / 2, 2);
    RopeGrid grid;

    forward_sink(f, g, &f->st.sink, &probe);
    avt_dit_grid_sink(&grid, &f->st.s, 0, 1);
    avt_rope_table(g->be, table, &grid);
    golden_expect(g, table, "sink.rope_fp16");
    for (int i = 0; i < d->cfg.nb_layers; i++) {
        char name[64];

        snprintf(name, sizeof(name), "sink.cond_k_%d", i);
        expect_sink_keys(g, f->st.sink.k[i], f->st.sink.ref[i], table, name);
        golden_expect(g, f->st.sink.v[i], "sink.cond_v_%d", i);
    }
}

static void check_ring(Forward *f, Golden *g, int64_t b, int step)
{
    for (int i = 0; i < f->st.d->cfg.nb_layers; i++) {
        int64_t dim[CKPT_MAX_DIM];

        if (golden_dims(g, dim, "out.block%lld.step%d.cache_k_%d", (long long)b, step, i) != 4)
            continue;
        golden_expect(g, avt_rows(f->ring[step].k[i], 0, dim[1]), "block%lld.step%d.cache_k_%d", (long long)b, step, i);
        golden_expect(g, avt_rows(f->ring[step].v[i], 0, dim[1]), "block%lld.step%d.cache_v_%d", (long long)b, step, i);
    }
}

/* Every block that the file has a velocity of, every step with its own ring. */
static void check_blocks(Forward *f, Golden *g)
{
    for (int64_t b = 0; golden_has(g, "out.block%lld.step0.velocity", (long long)b); b++) {
        stream_audio(&f->st, f->features, f->T, 12 * b);
        for (int i = 0; i < f->nb_steps && golden_has(g, "out.block%lld.step%d.velocity", (long long)b, i); i++) {
            char before[64];
            Watch w = { .g = g, .before = before };
            const DitProbe probe = { watch, &w };

            snprintf(before, sizeof(before), "block%lld.step%d.", (long long)b, i);
            forward_step(f, b, i, &f->st.sink, AVT_NONE, &probe);
            golden_expect(g, golden_turned(g, f->st.velocity), "block%lld.step%d.velocity", (long long)b, i);
            check_ring(f, g, b, i);
        }
    }
}

static void check_pose(Forward *f, Golden *g)
{
    for (int i = 0; i < f->nb_steps; i++)
        if (golden_has(g, "out.pose.block0.step%d.velocity", i)) {
            stream_audio(&f->st, f->features, f->T, 0);
            forward_step(f, 0, i, &f->st.sink, golden_turned(g, squeeze(golden_in(g, "cond_states_nonzero"))), NULL);
            golden_expect(g, golden_turned(g, f->st.velocity), "pose.block0.step%d.velocity", i);
        }
}

/* A sink whose motion tokens are their mask row alone, with rotation multipliers of zero while it is made. */
static void check_dropmotion(Forward *f, Golden *g)
{
    const Dit *d = f->st.d;
    const DitShape *s = &f->st.s;
    DitItem it = { .sink_pass = 1, .x = f->st.x_sink, .shape = s, .time = &f->st.zero, .text = &f->st.text, .sink = &f->st.sink };
    RopeGrid grid;

    it.given_rope = avt_new(g->work, DT_F32, s->Lc, d->cfg.dim / d->cfg.nb_heads / 2, 2);
    avt_dit_grid_sink(&grid, s, 0, 1);
    avt_rope_table(g->be, it.given_rope, &grid);
    avt_fill(g->be, avt_rows(it.given_rope, s->n, s->Lc - s->n), 0);
    avt_dit_embed_sink(g->be, g->work, d, it.x, stream_latents(g, "ref_latents"), AVT_NONE);
    avt_dit_layers(g->be, g->work, d, &it, 1);
    for (int i = 0; i < f->nb_steps; i++)
        if (golden_has(g, "out.dropmotion.block0.step%d.velocity", i)) {
            stream_audio(&f->st, f->features, f->T, 0);
            forward_step(f, 0, i, &f->st.sink, AVT_NONE, NULL);
            golden_expect(g, golden_turned(g, f->st.velocity), "dropmotion.block0.step%d.velocity", i);
        }
}

void case_dit_forward(Golden *g)
{
    int64_t nb = 0;
    const float *t = golden_in_host(g, &nb, "timesteps");
    const int64_t *distance = golden_in_ints(g, NULL, "relative_dist");
    GoldenNet n;
    Forward f;

    if (net_open(g, &n, "ckpt", NULL, 0, -1) >= 0 && distance && forward_open(&f, g, &n.d, t, nb, distance[0]) >= 0) {
        check_embeddings(&f, g);
        check_sink(&f, g);
        check_blocks(&f, g);
        check_pose(&f, g);
        check_dropmotion(&f, g);
        forward_close(&f);
    }
    net_close(&n);
}

void case_dit_forward_bf16ckpt(Golden *g)
{
    int64_t nb = 0;
    const float *t = golden_input_host(g, &nb, "timesteps");
    const int64_t *distance = golden_input_ints(g, NULL, "relative_dist_fixed");
    GoldenNet n;
    Forward f;

    if (net_open(g, &n, "ckpt_bf16", NULL, 0, -1) >= 0 && distance && forward_open(&f, g, &n.d, t, nb, distance[0]) >= 0) {
        forward_sink(&f, g, &f.st.sink, NULL);
        check_blocks(&f, g);
        forward_close(&f);
    }
    net_close(&n);
}

/* ---- several actors --------------------------------------------------------------------------------------------- */

/* The first three latent frames of each actor's mask [A, T, h, w, 1]. */
static void upload_mask(GoldenStream *st, const float *mask, int64_t T)
{
    const int64_t nb = DIT_BLOCK * st->s.n;
    float *host = golden_alloc(st->g, sizeof(*host) * (size_t)(nb * st->nb_actors));

    for (int64_t a = 0; a < st->nb_actors; a++)
        memcpy(host + a * nb, mask + a * T * st->s.n, sizeof(*host) * (size_t)nb);
    avt_upload(st->g->be, st->audio.mask, host);
}

void case_dit_two_speakers(Golden *g)
{
    const float *features = golden_in_host(g, NULL, "audio_two"), *mask = golden_in_host(g, NULL, "mask");
    const float *t = golden_in_host(g, NULL, "timestep");
    const int64_t *distance = golden_in_ints(g, NULL, "relative_dist");
    int64_t dim[CKPT_MAX_DIM], mask_dim[CKPT_MAX_DIM];
    GoldenNet n;
    GoldenStream st;
    DitTime time;
    DitKeys ring;

    if (features && mask && t && distance && golden_dims(g, dim, "in.audio_two") == 4 && golden_dims(g, mask_dim, "in.mask") == 5 &&
        net_open(g, &n, "ckpt", NULL, 0, -1) >= 0) {
        if (stream_open(&st, g, &n.d, (int)dim[0], 1) >= 0) {
            avt_dit_keys_open(&ring, g->work, &n.d, st.s.ring, 0);
            avt_dit_time_open(&time, g->work, &n.d);
            avt_dit_time(g->be, g->work, &n.d, &time, t[0]);
            upload_mask(&st, mask, mask_dim[1]);
            stream_audio(&st, features, dim[3], 0);
            stream_sink(&st, &st.sink, stream_latents(g, "ref_latents"), stream_latents(g, "motion_latents"), NULL);
            stream_step(&st, &ring, &st.sink, &time, stream_noise(&st, 0), 0, distance[0], AVT_NONE, NULL);
            golden_expect(g, golden_turned(g, st.velocity), "velocity");
            avt_dit_keys_close(&ring);
        }
        stream_close(&st);
        net_close(&n);
    }
}

/* ---- one layer alone -------------------------------------------------------------------------------------------- */

/* [1, M, NH, hd] of the file into the first rows of `to`. */
static void put_rows(Golden *g, Tensor to, Tensor from)
{
    from = squeeze(from);
    if (from.be)
        avt_copy(g->be, avt_rows(to, 0, from.dim[0]), from);
}

/* Modulation of the layers out of a given e0 [.., 6, D]. */
static DitTime time_of(Golden *g, const Dit *d, Tensor e0)
{
    DitTime t;

    avt_dit_time_open(&t, g->work, d);
    avt_copy(g->be, t.e0, e0);
    avt_dit_modulation(g->be, d, &t);
    return t;
}

static void layer_stream(Golden *g, const Dit *d, const DitShape *s, const DitKeys *text)
{
    const int64_t *start = golden_in_ints(g, NULL, "current_start");
    const Tensor sink_k = squeeze(golden_in(g, "stream.cache_before.cond_k"));
    DitTime time = time_of(g, d, golden_in(g, "stream.e0"));
    DitKeys ring, sink;
    DitItem it = { .shape = s, .time = &time, .text = text, .ring = &ring, .sink = &sink };
    int64_t dim[CKPT_MAX_DIM];

    if (!start || !sink_k.be || golden_dims(g, dim, "out.stream.cache_after.k") != 4)
        return;
    avt_dit_keys_open(&ring, g->work, d, s->ring, 0);
    avt_dit_keys_open(&sink, g->work, d, sink_k.dim[0], s->n);
    put_rows(g, ring.k[0], golden_in(g, "stream.cache_before.k"));
    put_rows(g, ring.v[0], golden_in(g, "stream.cache_before.v"));
    it.given_rope_sink = golden_in(g, "stream.rope_cond_fp16");
    avt_rope(g->be, sink.k[0], sink_k, it.given_rope_sink);         // the motion keys stand still
    avt_copy(g->be, sink.ref[0], avt_rows(sink_k, 0, s->n));
    it.given_rope_sink = avt_rows(it.given_rope_sink, 0, s->n);
    put_rows(g, sink.v[0], golden_in(g, "stream.cache_before.cond_v"));
    it.x = squeeze(golden_in(g, "stream.x"));
    it.given_rope = golden_in(g, "stream.rope_fp16");
    it.f0 = start[0] / s->n;
    avt_dit_layers(g->be, g->work, d, &it, 1);
    golden_expect(g, it.x, "stream.y");
    golden_expect(g, avt_rows(ring.k[0], 0, dim[1]), "stream.cache_after.k");
    golden_expect(g, avt_rows(ring.v[0], 0, dim[1]), "stream.cache_after.v");
    avt_dit_keys_close(&ring);
    avt_dit_keys_close(&sink);
}

static void see_nothing(void *opaque, const char *name, Tensor t)
{
    (void)opaque;
    (void)name;
    (void)t;
}

static void layer_sink(Golden *g, const Dit *d, const DitShape *s, const DitKeys *text)
{
    const DitProbe probe = { see_nothing, NULL };                   // a last layer is wanted whole, too
    DitTime time = time_of(g, d, golden_in(g, "zero.e0"));
    DitKeys sink;
    DitItem it = { .sink_pass = 1, .shape = s, .time = &time, .text = text, .sink = &sink, .probe = &probe };

    it.x = squeeze(golden_in(g, "sink.x"));
    it.given_rope = golden_in(g, "sink.rope_fp16");
    avt_dit_keys_open(&sink, g->work, d, it.x.dim[0], s->n);
    avt_dit_layers(g->be, g->work, d, &it, 1);
    golden_expect(g, it.x, "sink.y");
    expect_sink_keys(g, sink.k[0], sink.ref[0], it.given_rope, "sink.cache_after.cond_k");
    golden_expect(g, sink.v[0], "sink.cache_after.cond_v");
    avt_dit_keys_close(&sink);
}

/* A tensor of the file as the networks hand it on between ops. */
static Tensor as_activation(Golden *g, Tensor t)
{
    const Tensor a = avt_new_dims(g->work, g->be->act, t.nd, t.dim);

    if (t.be)
        avt_copy(g->be, a, t);
    return a;
}

static void layer_inject(Golden *g)
{
    const int64_t *layer = golden_in_ints(g, NULL, "inject.layer_index");
    const Tensor x = squeeze(golden_in(g, "inject.x"));
    const Tensor local = golden_in(g, "inject.audio_local"), global = golden_in(g, "inject.audio_global");
    const DitShape any = avt_dit_shape(8, 8);
    const TeamCut cut = avt_dit_cut(&any, 0);
    DitAudio audio;
    GoldenNet n;

    if (layer && net_open(g, &n, "ckpt", NULL, (int)layer[0], (int)layer[0] + 1) >= 0) {
        if (!n.d.layer[0].inject)
            golden_fail(g, "no audio is injected after layer %lld", (long long)layer[0]);
        else if (avt_dit_audio_open(&audio, g->work, &n.d, &any, 1, 0) >= 0) {
            avt_copy(g->be, audio.local, local);
            avt_copy(g->be, audio.global, global);
            avt_dit_audio_keys(g->be, g->work, &n.d, &audio);
            avt_dit_inject(g->be, g->work, &n.d, n.d.layer[0].inject, x, &audio, &cut);
        }
        golden_expect(g, x, "inject.y");
        net_close(&n);
    }
}

void case_transformer_block(Golden *g)
{
    const int64_t *layer = golden_in_ints(g, NULL, "layer_index"), *len = golden_in_ints(g, NULL, "original_seq_len");
    const Tensor embedded = squeeze(golden_in(g, "context_embedded"));
    int64_t size[2];
    int nb = 2;
    DitKeys text;
    DitShape s;
    GoldenNet n;

    if (!layer || !len || !embedded.be || avt_json_ints(g->config, "latent", size, &nb, 2, 1) < 0)
        return;
    s = avt_dit_shape(size[0], size[1]);
    if (s.N != len[0])
        golden_fail(g, "original_seq_len is %lld, the latent size gives %lld", (long long)len[0], (long long)s.N);
    if (net_open(g, &n, "ckpt", NULL, (int)layer[0], (int)layer[0] + 1) >= 0) {
        n.d.kv = DT_F32;                                            // keys are given, and looked at
        avt_dit_keys_open(&text, g->work, &n.d, embedded.dim[0], 0);
        avt_dit_text_keys(g->be, g->work, &n.d, &text, as_activation(g, embedded));
        layer_stream(g, &n.d, &s, &text);
        layer_sink(g, &n.d, &s, &text);
        layer_inject(g);
        avt_dit_keys_close(&text);
    }
    net_close(&n);
}

/* ---- LoRA ------------------------------------------------------------------------------------------------------- */

/* "after_plain.<module>.weight" for every such result: W + scale B A. */
static void check_merge(Golden *g, const Ckpt *base, const char *group, const char *file)
{
    const size_t len = strlen(group);
    char path[4096], module[256];
    Lora *lora = NULL;

    snprintf(path, sizeof(path), "%s/lora/%s", g->dir, file);
    if (avt_lora_open(&lora, path, net_lora_alpha(g), g->log) < 0)
        golden_fail(g, "lora/%s cannot be opened", file);
    for (int64_t i = 0; lora && i < avt_ckpt_nb(g->file); i++) {
        const char *name = avt_ckpt_get(g->file, i)->name;
        const CkptTensor *w;
        float *v;

        if (strncmp(name, "out.", 4) || strncmp(name + 4, group, len) || name[4 + len] != '.')
            continue;
        w = avt_ckpt_find(base, name + 5 + len);
        if (!w || w->nd != 2) {
            golden_fail(g, "%s is not a matrix of the checkpoint", name + 5 + len);
            continue;
        }
        v = golden_floats(g, w);
        snprintf(module, sizeof(module), "%.*s", (int)(strlen(name) - 5 - len - strlen(".weight")), name + 5 + len);
        if (avt_lora_merge(lora, module, g->be, v, w->dim[0], w->dim[1], g->log) != 1)
            golden_fail(g, "lora/%s has no pair for %s", file, module);
        golden_expect_host(g, v, w->dim[0] * w->dim[1], "%s", name + 4);
    }
    avt_lora_close(&lora);
}

void case_lora_merge(Golden *g)
{
    int64_t nb = 0;
    const float *t = golden_input_host(g, &nb, "timesteps");
    const int64_t *distance = golden_input_ints(g, NULL, "relative_dist_fixed");
    GoldenNet n;
    Forward f;

    if (net_open(g, &n, "ckpt", "lora/liveavatar.safetensors", 0, -1) >= 0 && distance &&
        forward_open(&f, g, &n.d, t, nb, distance[0]) >= 0) {
        check_merge(g, n.ckpt, "after_plain", "liveavatar.safetensors");
        check_merge(g, n.ckpt, "after_prefixed", "liveavatar_prefixed_bf16.safetensors");
        forward_sink(&f, g, &f.st.sink, NULL);
        stream_audio(&f.st, f.features, f.T, 0);
        forward_step(&f, 0, 0, &f.st.sink, AVT_NONE, NULL);
        golden_expect(g, golden_turned(g, f.st.velocity), "block0.step0.velocity_merged");
        forward_close(&f);
    }
    net_close(&n);
}
