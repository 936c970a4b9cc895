/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Parts of the diffusion transformer on their own: positions, audio encoder, motion packer, time embedding. */
#include <stdio.h>
#include <string.h>

#include "net.h"

/* ---- positions -------------------------------------------------------------------------------------------------- */

static void latent_size(Golden *g, int64_t *H, int64_t *W)
{
    int64_t v[2] = { 0, 0 };
    int nb = 2;

    if (avt_json_ints(g->config, "latent", v, &nb, 2, 1) < 0 || nb != 2)
        golden_fail(g, "golden_config.json: latent is not [H, W]");
    *H = v[0];
    *W = v[1];
}

/* The size of the "oddsize" case is that of the motion latents which frame_packer has under this name. */
static void odd_size(Golden *g, int64_t *H, int64_t *W)
{
    char path[4096];
    Ckpt *c = NULL;
    const CkptTensor *t = NULL;

    snprintf(path, sizeof(path), "%s/frame_packer.safetensors", g->dir);
    if (avt_ckpt_open(&c, path, g->log) >= 0)
        t = avt_ckpt_find(c, "in.oddsize.motion_latents");
    if (!t || t->nd < 2)
        golden_fail(g, "frame_packer has no in.oddsize.motion_latents to take the size from");
    else {
        *H = t->dim[t->nd - 2];
        *W = t->dim[t->nd - 1];
    }
    avt_ckpt_close(&c);
}

/* Rows of the plain table: all three axes at position p. It is the last token of a grid that reaches to p on each axis. */
static void check_table(Golden *g, int64_t pairs)
{
    int64_t nb;
    const int64_t *rows = golden_in_ints(g, &nb, "table_rows");
    float *all = golden_alloc(g, sizeof(*all) * (size_t)(nb * pairs * 2));
    float *token = golden_alloc(g, sizeof(*token) * (size_t)pairs * 8);

    for (int64_t i = 0; rows && i < nb; i++) {
        const int p = (int)rows[i], side = p ? 2 : 1;
        const RopeGrid grid = { .nb_groups = 1, .group[0] = { p, 1, 1, side, p + 1, side, p + 1 } };
        const size_t mark = avt_arena_mark(g->work);
        const Tensor t = avt_new(g->work, DT_F32, side * side, pairs, 2);

        avt_rope_table(g->be, t, &grid);
        if (avt_download(g->be, token, t) < 0)
            return;
        memcpy(all + i * pairs * 2, token + (side * side - 1) * pairs * 2, sizeof(*all) * (size_t)pairs * 2);
        avt_arena_release(g->work, mark);
    }
    golden_expect_host(g, all, nb * pairs * 2, "table_exact");
}

static Tensor make_table(Golden *g, const RopeGrid *grid, int64_t pairs)
{
    const Tensor t = avt_new(g->work, DT_F32, avt_rope_tokens(grid), pairs, 2);

    avt_rope_table(g->be, t, grid);
    return t;
}

static void check_apply(Golden *g, const DitShape *s, int64_t f0, int64_t pairs, const char *name)
{
    const Tensor x = squeeze(golden_in(g, "apply_x"));
    RopeGrid grid;

    if (!x.be)
        return;
    avt_dit_grid_block(&grid, s, f0, 1);
    avt_rope(g->be, x, x, make_table(g, &grid, pairs));
    golden_expect(g, x, "%s", name);
}

static void check_position(Golden *g, const DitShape *s, const DitShape *odd, int64_t pairs, const char *name)
{
    const char *underscore = strrchr(name, '_');
    const int half = underscore && !strcmp(underscore, "_fp16");
    RopeGrid grid;
    long long i;

    if (sscanf(name, "apply_y_start%lld", &i) == 1)
        check_apply(g, s, i, pairs, name);
    else if (sscanf(name, "noisy_start%lld_", &i) == 1) {
        avt_dit_grid_block(&grid, s, i, half);
        golden_expect(g, make_table(g, &grid, pairs), "%s", name);
    } else if (sscanf(name, "cond_rollout%lld_", &i) == 1) {
        avt_dit_grid_sink(&grid, s, i, half);
        golden_expect(g, make_table(g, &grid, pairs), "%s", name);
    } else if (!strncmp(name, "motion_oddsize_", 15)) {
        avt_dit_grid_sink(&grid, odd, 0, half);
        golden_expect(g, avt_rows(make_table(g, &grid, pairs), odd->n, odd->Lc - odd->n), "%s", name);
    }
}

void case_rope(Golden *g)
{
    int64_t H, W, odd_H = 8, odd_W = 8, dim[CKPT_MAX_DIM];
    DitShape s, odd;

    latent_size(g, &H, &W);
    odd_size(g, &odd_H, &odd_W);
    s = avt_dit_shape(H, W);
    odd = avt_dit_shape(odd_H, odd_W);
    if (golden_dims(g, dim, "out.table_exact") != 3) {
        golden_fail(g, "out.table_exact [rows, pairs, 2] is not there");
        return;
    }
    check_table(g, dim[1]);
    for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++) {
        const char *name = avt_ckpt_get(g->file, i)->name;

        if (!strncmp(name, "out.", 4))
            check_position(g, &s, &odd, dim[1], name + 4);
    }
}

/* ---- audio encoder ---------------------------------------------------------------------------------------------- */

/* Features [1, layers, C, T] of the file as rows [T, layers, C]. */
static Tensor feature_rows(Golden *g, const char *name, int64_t *T)
{
    int64_t dim[CKPT_MAX_DIM], lc;
    const float *v = golden_in_host(g, NULL, "%s", name);
    float *host;
    Tensor t;

    if (!v || golden_dims(g, dim, "in.%s", name) != 4)
        return AVT_NONE;
    *T = dim[3];
    lc = dim[1] * dim[2];
    t = avt_new(g->work, DT_F32, *T, dim[1], dim[2]);
    host = golden_alloc(g, avt_nbytes(t));
    for (int64_t k = 0; k < *T; k++)
        for (int64_t i = 0; i < lc; i++)
            host[k * lc + i] = v[i * *T + k];
    avt_upload(g->be, t, host);
    return t;
}

static void check_encoder(Golden *g, const Dit *d, const char *name, int len)
{
    int64_t T, T4;
    const Tensor rows = feature_rows(g, name, &T);
    Tensor local, global;

    if (!rows.be)
        return;
    T4 = ((T + 1) / 2 + 1) / 2;
    local = avt_new(g->work, g->be->act, T4, d->cfg.nb_audio_tokens + 1, d->cfg.dim);
    global = avt_new(g->work, g->be->act, T4, d->cfg.dim);
    avt_dit_audio_encode(g->be, g->work, d, local, global, rows);
    golden_expect(g, local, "%.*s.local", len, name);
    golden_expect(g, global, "%.*s.global", len, name);
}

static void check_block_audio(Golden *g, const Dit *d, const char *name, int len)
{
    const DitShape s = avt_dit_shape(8, 8);
    DitAudio audio;
    int64_t T;
    const Tensor rows = feature_rows(g, name, &T);

    if (!rows.be)
        return;
    avt_dit_audio_open(&audio, g->work, d, &s, 1, 0);
    avt_dit_audio(g->be, g->work, d, &audio, avt_view(rows, 1, rows.dim[0], rows.dim[1], rows.dim[2]));
    golden_expect(g, audio.local, "%.*s.local", len, name);
    golden_expect(g, audio.global, "%.*s.global", len, name);
}

void case_audio_encoder(Golden *g)
{
    GoldenNet n;

    if (net_open(g, &n, "ckpt", NULL, 0, -1) >= 0)
        for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++) {
            const char *name = avt_ckpt_get(g->file, i)->name + 3, *dot = strrchr(name, '.');

            if (strncmp(name - 3, "in.", 3) || !dot)
                continue;
            if (!strcmp(dot, ".audio"))
                check_encoder(g, &n.d, name, (int)(dot - name));
            else if (!strcmp(dot, ".audio12"))
                check_block_audio(g, &n.d, name, (int)(dot - name));
        }
    net_close(&n);
}

/* ---- motion packer ---------------------------------------------------------------------------------------------- */

static void check_packer(Golden *g, const Dit *d, const char *name, int len)
{
    const Tensor motion = golden_turned(g, golden_in(g, "%s", name));
    const DitShape s = avt_dit_shape(motion.dim[2], motion.dim[3]);
    const int64_t nb = s.Lc - s.n, pairs = d->cfg.dim / d->cfg.nb_heads / 2;
    const Tensor tokens = avt_new(g->work, DT_F32, nb, d->cfg.dim);
    RopeGrid grid;

    avt_dit_pack_motion(g->be, g->work, d, tokens, motion);
    golden_expect(g, tokens, "%.*s.tokens", len, name);
    golden_expect_ints(g, s.bucket, 3, "%.*s.bucket_lengths", len, name);
    avt_dit_grid_sink(&grid, &s, 0, 1);
    golden_expect(g, avt_rows(make_table(g, &grid, pairs), s.n, nb), "%.*s.rope_fp16", len, name);
}

void case_frame_packer(Golden *g)
{
    GoldenNet n;

    if (net_open(g, &n, "ckpt", NULL, 0, -1) >= 0)
        for (int64_t i = 0; i < avt_ckpt_nb(g->file); i++) {
            const char *name = avt_ckpt_get(g->file, i)->name, *dot = strrchr(name, '.');

            if (!strncmp(name, "in.", 3) && !strcmp(dot, ".motion_latents"))
                check_packer(g, &n.d, name + 3, (int)(dot - name) - 3);
        }
    net_close(&n);
}

/* ---- time ------------------------------------------------------------------------------------------------------- */

void case_time_embedding(Golden *g)
{
    GoldenNet n;
    int64_t nb;
    const float *t = golden_in_host(g, &nb, "t");

    if (net_open(g, &n, "ckpt", NULL, 0, -1) >= 0 && t) {
        const int64_t D = n.cfg.dim, half = n.cfg.freq_dim;
        const Tensor e = avt_new(g->work, DT_F32, nb, D), e0 = avt_new(g->work, DT_F32, nb, 6, D);
        float *s = golden_alloc(g, sizeof(*s) * (size_t)(nb * half));

        for (int64_t i = 0; i < nb; i++) {
            DitTime time;

            avt_dit_sinusoid(s + i * half, (int)half, t[i]);
            avt_dit_time_open(&time, g->work, &n.d);
            avt_dit_time(g->be, g->work, &n.d, &time, t[i]);
            avt_copy(g->be, avt_at(e, i), time.e);
            avt_copy(g->be, avt_at(e0, i), time.e0);
        }
        golden_expect_host(g, s, nb * half, "sinusoid");
        golden_expect(g, e, "e");
        golden_expect(g, e0, "e0");
    }
    net_close(&n);
}
