/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The VAE's bookkeeping, on seeded random weights: which tensors a file has, which files are refused, and that a
 * stream may be cut anywhere. What the numbers should be is the parity tests' matter.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nets/vae.h"
#include "test.h"

/* ---- a file --------------------------------------------------------------------------------------------------- */

typedef struct Entry {
    char name[128];
    int nd;
    int64_t dim[5];
} Entry;

typedef struct Table {                  // the tensors of a file, written down independently of vae.c
    Entry e[256];
    int nb;
} Table;

static void add(Table *t, int nd, const int64_t *dim, const char *name)
{
    Entry *e = &t->e[t->nb++];

    snprintf(e->name, sizeof(e->name), "%s", name);
    e->nd = nd;
    memcpy(e->dim, dim, sizeof(*dim) * (size_t)nd);
}

static void add_conv(Table *t, const char *name, int nd, const int64_t *dim)
{
    char full[128];

    snprintf(full, sizeof(full), "%s.weight", name);
    add(t, nd, dim, full);
    snprintf(full, sizeof(full), "%s.bias", name);
    add(t, 1, dim, full);
}

static void add_conv3(Table *t, const char *name, int64_t out, int64_t in, int64_t kt, int64_t k)
{
    add_conv(t, name, 5, (const int64_t[]){ out, in, kt, k, k });
}

static void add_residual(Table *t, const char *name, int64_t in, int64_t out)
{
    char full[64];

    snprintf(full, sizeof(full), "%s.residual.0.gamma", name);
    add(t, 4, (const int64_t[]){ in, 1, 1, 1 }, full);
    snprintf(full, sizeof(full), "%s.residual.2", name);
    add_conv3(t, full, out, in, 3, 3);
    snprintf(full, sizeof(full), "%s.residual.3.gamma", name);
    add(t, 4, (const int64_t[]){ out, 1, 1, 1 }, full);
    snprintf(full, sizeof(full), "%s.residual.6", name);
    add_conv3(t, full, out, out, 3, 3);
    snprintf(full, sizeof(full), "%s.shortcut", name);
    if (in != out)
        add_conv3(t, full, out, in, 1, 1);
}

static void add_resample(Table *t, const char *name, int64_t in, int64_t out, int64_t time_out)
{
    char full[96];

    snprintf(full, sizeof(full), "%s.resample.1", name);
    add_conv(t, full, 4, (const int64_t[]){ out, in, 3, 3 });
    snprintf(full, sizeof(full), "%s.time_conv", name);
    if (time_out)
        add_conv3(t, full, time_out, in, 3, 1);
}

static void add_middle_and_head(Table *t, const char *side, int64_t c, int64_t last, int64_t out)
{
    char full[64];

    snprintf(full, sizeof(full), "%s.middle.0", side);
    add_residual(t, full, c, c);
    snprintf(full, sizeof(full), "%s.middle.1.norm.gamma", side);
    add(t, 3, (const int64_t[]){ c, 1, 1 }, full);
    snprintf(full, sizeof(full), "%s.middle.1.to_qkv", side);
    add_conv(t, full, 4, (const int64_t[]){ 3 * c, c, 1, 1 });
    snprintf(full, sizeof(full), "%s.middle.1.proj", side);
    add_conv(t, full, 4, (const int64_t[]){ c, c, 1, 1 });
    snprintf(full, sizeof(full), "%s.middle.2", side);
    add_residual(t, full, c, c);
    snprintf(full, sizeof(full), "%s.head.0.gamma", side);
    add(t, 4, (const int64_t[]){ last, 1, 1, 1 }, full);
    snprintf(full, sizeof(full), "%s.head.2", side);
    add_conv3(t, full, out, last, 3, 3);
}

static void make_table(Table *t, int64_t w)
{
    const struct { int box; int64_t in, out, time; } enc[] = {      // time < 0: a residual block
        { 0, w, w, -1 }, { 1, w, w, -1 }, { 2, w, w, 0 }, { 3, w, 2 * w, -1 }, { 4, 2 * w, 2 * w, -1 },
        { 5, 2 * w, 2 * w, 2 * w }, { 6, 2 * w, 4 * w, -1 }, { 7, 4 * w, 4 * w, -1 }, { 8, 4 * w, 4 * w, 4 * w },
        { 9, 4 * w, 4 * w, -1 }, { 10, 4 * w, 4 * w, -1 },
    }, dec[] = {
        { 0, 4 * w, 4 * w, -1 }, { 1, 4 * w, 4 * w, -1 }, { 2, 4 * w, 4 * w, -1 }, { 3, 4 * w, 2 * w, 8 * w },
        { 4, 2 * w, 4 * w, -1 }, { 5, 4 * w, 4 * w, -1 }, { 6, 4 * w, 4 * w, -1 }, { 7, 4 * w, 2 * w, 8 * w },
        { 8, 2 * w, 2 * w, -1 }, { 9, 2 * w, 2 * w, -1 }, { 10, 2 * w, 2 * w, -1 }, { 11, 2 * w, w, 0 },
        { 12, w, w, -1 }, { 13, w, w, -1 }, { 14, w, w, -1 },
    };
    char name[64];

    t->nb = 0;
    add_conv3(t, "encoder.conv1", w, 3, 3, 3);
    for (size_t i = 0; i < sizeof(enc) / sizeof(enc[0]); i++) {
        snprintf(name, sizeof(name), "encoder.downsamples.%d", enc[i].box);
        if (enc[i].time < 0)
            add_residual(t, name, enc[i].in, enc[i].out);
        else
            add_resample(t, name, enc[i].in, enc[i].out, enc[i].time);
    }
    add_middle_and_head(t, "encoder", 4 * w, 4 * w, 32);
    add_conv3(t, "conv1", 32, 32, 1, 1);
    add_conv3(t, "conv2", 16, 16, 1, 1);
    add_conv3(t, "decoder.conv1", 4 * w, 16, 3, 3);
    for (size_t i = 0; i < sizeof(dec) / sizeof(dec[0]); i++) {
        snprintf(name, sizeof(name), "decoder.upsamples.%d", dec[i].box);
        if (dec[i].time < 0)
            add_residual(t, name, dec[i].in, dec[i].out);
        else
            add_resample(t, name, dec[i].in, dec[i].out, dec[i].time);
    }
    add_middle_and_head(t, "decoder", 4 * w, w, 3);
}

static int64_t numel(const Entry *e)
{
    int64_t n = 1;

    for (int i = 0; i < e->nd; i++)
        n *= e->dim[i];
    return n;
}

static void rename_entry(Table *t, const char *name, const char *to)
{
    for (int i = 0; i < t->nb; i++)
        if (!strcmp(t->e[i].name, name))
            snprintf(t->e[i].name, sizeof(t->e[i].name), "%s", to);
}

static Entry *entry(Table *t, const char *name)
{
    for (int i = 0; i < t->nb; i++)
        if (!strcmp(t->e[i].name, name))
            return &t->e[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

/* Gains near 1, small biases, matrices that keep the variance: noise stays noise all the way. */
static void write_values(FILE *f, const Entry *e, uint64_t seed)
{
    const int64_t n = numel(e), fan_in = e->dim[0] ? n / e->dim[0] : 1;
    const int gamma = strstr(e->name, "gamma") != NULL, bias = strstr(e->name, "bias") != NULL;
    float *v = malloc(sizeof(*v) * (size_t)n);

    test_random(v, n, seed);
    for (int64_t i = 0; i < n; i++)
        v[i] = gamma ? 1 + v[i] / 4 : bias ? v[i] / 8 : v[i] * sqrtf(3 / (float)fan_in);
    fwrite(v, sizeof(*v), (size_t)n, f);
    free(v);
}

/* `t` as a .safetensors file, opened; the file is gone from the folder at once. */
static Ckpt *open_table(const Table *t)
{
    char path[] = "/tmp/avatar-vae-XXXXXX.safetensors", *json = NULL;
    const int fd = mkstemps(path, 12);
    FILE *f = fdopen(fd, "wb"), *head;
    int64_t at = 0;
    uint64_t size;
    size_t len;
    Ckpt *c;

    REQUIRE(f != NULL);
    head = open_memstream(&json, &len);
    for (int i = 0; i < t->nb; i++) {
        const Entry *e = &t->e[i];

        fprintf(head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "{", e->name);
        for (int k = 0; k < e->nd; k++)
            fprintf(head, k ? ",%lld" : "%lld", (long long)e->dim[k]);
        fprintf(head, "],\"data_offsets\":[%lld,%lld]}", (long long)at, (long long)(at + 4 * numel(e)));
        at += 4 * numel(e);
    }
    fprintf(head, "}");
    fclose(head);
    while (len % 8)                                                 // the terminating zero makes room for the first space
        json = realloc(json, len + 2), json[len++] = ' ';
    size = len;
    fwrite(&size, 8, 1, f);
    fwrite(json, 1, len, f);
    for (int i = 0; i < t->nb; i++)
        write_values(f, &t->e[i], (uint64_t)i + 1);
    fclose(f);
    free(json);
    REQUIRE_OK(avt_ckpt_open(&c, path, NULL));
    unlink(path);
    return c;
}

/* ---- a network ------------------------------------------------------------------------------------------------ */

#define WIDTH 3
#define EVEN 8                          // wide enough for the kernels that compute frames in pairs
#define LH 2                            // latent size
#define LW 3

typedef struct Net {
    Backend *be;
    Arena *weights, *state, *scratch;
    Vae vae;
} Net;

static void open_net(Net *n, const char *device, const char *plan_for, CpuLevel level, int width, const Ckpt *ckpt)
{
    const BackendOptions opt = { .threads = 2, .level = level, .plan_for = plan_for };
    const size_t size = !strcmp(device, "dry") ? ARENA_UNLIMITED : (size_t)256 << 20;
    Binder b;

    REQUIRE_OK(avt_backend_open(&n->be, device, &opt));
    REQUIRE_OK(avt_arena_open(&n->weights, n->be, "weights", size));
    REQUIRE_OK(avt_arena_open(&n->state, n->be, "state", size));
    REQUIRE_OK(avt_arena_open(&n->scratch, n->be, "scratch", size));
    REQUIRE_OK(avt_binder_open(&b, ckpt, NULL, n->weights, "vae", DT_F32, NULL));
    REQUIRE_OK(avt_vae_open(&n->vae, &b, width, VAE_ENCODER | VAE_DECODER));
    avt_binder_close(&b);
}

static void close_net(Net *n)
{
    avt_arena_close(&n->scratch);
    avt_arena_close(&n->state);
    avt_arena_close(&n->weights);
    avt_backend_close(&n->be);
}

static void open_width(Net *n, const char *device, CpuLevel level, int width)
{
    static Table t;
    Ckpt *c;

    make_table(&t, width);
    c = open_table(&t);
    open_net(n, device, NULL, level, width, c);
    avt_ckpt_close(&c);
}

static void open_random(Net *n, const char *device, CpuLevel level)
{
    open_width(n, device, level, WIDTH);
}

enum { FRAME = 64 * LH * LW * 3, LATENT = VAE_LATENT * LH * LW };           // values of a frame, of a latent

/* Latents first .. first + nb of a fixed random clip of `total`, [nb, 16, LH, LW]. */
static Tensor clip_latents(Net *n, int total, int first, int nb)
{
    const Tensor z = avt_new(n->scratch, DT_F32, nb, VAE_LATENT, LH, LW);
    float *all = malloc(sizeof(float) * LATENT * (size_t)total);

    test_random(all, (int64_t)LATENT * total, 5);
    avt_upload(n->be, z, all + LATENT * first);
    free(all);
    return z;
}

static Tensor clip_frames(Net *n, int first, int nb)
{
    const Tensor px = avt_new(n->scratch, DT_F32, nb, 8 * LH, 8 * LW, 3);
    float *v = malloc(sizeof(float) * FRAME * (size_t)(first + nb));

    test_random(v, (int64_t)FRAME * (first + nb), 6);
    avt_upload(n->be, px, v + FRAME * first);
    free(v);
    return px;
}

static void decode_piece(Net *n, VaeState *st, float *out, Tensor z)
{
    const size_t mark = avt_arena_mark(n->scratch);
    const int64_t f = 4 * z.dim[0] - (st->started[0] ? 0 : 3);
    const Tensor px = avt_new(n->scratch, DT_F32, f, 8 * LH, 8 * LW, 3);

    REQUIRE_OK(avt_vae_decode(n->be, n->scratch, &n->vae, st, px, z, NULL));
    REQUIRE_OK(avt_download(n->be, out, px));
    avt_arena_release(n->scratch, mark);
}

/* All `total` latents, cut into `piece[]` (the last one repeats): [4 total - 3, 8 LH, 8 LW, 3]. */
static float *decode_cut(Net *n, int total, const int *piece, int nb_pieces)
{
    float *out = malloc(sizeof(float) * FRAME * (size_t)(4 * total - 3)), *p = out;
    VaeState st;

    REQUIRE_OK(avt_vae_state_open(&st, n->state, &n->vae, VAE_DECODER, LH, LW));
    for (int at = 0, i = 0; at < total; i++) {
        const size_t mark = avt_arena_mark(n->scratch);
        const int nb = piece[i < nb_pieces ? i : nb_pieces - 1];

        decode_piece(n, &st, p, clip_latents(n, total, at, nb));
        p += FRAME * (4 * nb - (at ? 0 : 3));
        at += nb;
        avt_arena_release(n->scratch, mark);
    }
    assert_int_equal(p - out, FRAME * (4 * total - 3));
    avt_arena_release(n->state, 0);
    return out;
}

/* The first 4 total - 3 frames, cut into calls of piece[] latents: [total, 16, LH, LW]. */
static float *encode_cut(Net *n, int total, const int *piece, int nb_pieces)
{
    float *out = malloc(sizeof(float) * LATENT * (size_t)total);
    VaeState st;

    REQUIRE_OK(avt_vae_state_open(&st, n->state, &n->vae, VAE_ENCODER, LH, LW));
    for (int at = 0, i = 0; at < total; i++) {
        const size_t mark = avt_arena_mark(n->scratch);
        const int nb = piece[i < nb_pieces ? i : nb_pieces - 1];
        const Tensor z = avt_new(n->scratch, DT_F32, nb, VAE_LATENT, LH, LW);
        const Tensor px = clip_frames(n, at ? 4 * at - 3 : 0, 4 * nb - (at ? 0 : 3));

        REQUIRE_OK(avt_vae_encode(n->be, n->scratch, &n->vae, &st, z, px, NULL));
        REQUIRE_OK(avt_download(n->be, out + LATENT * at, z));
        at += nb;
        avt_arena_release(n->scratch, mark);
    }
    avt_arena_release(n->state, 0);
    return out;
}

static double rms(const float *v, int64_t nb)
{
    double sum = 0;

    for (int64_t i = 0; i < nb; i++)
        sum += (double)v[i] * v[i];
    return sqrt(sum / (double)nb);
}

/* ---- files ---------------------------------------------------------------------------------------------------- */

static void the_published_table(void **state)
{
    static const struct { int width; int64_t nb; } published[] = { { 96, 126892531 }, { 24, 8035003 } };
    static Table t;

    (void)state;
    for (int i = 0; i < 2; i++) {
        int64_t nb = 0;
        Net n;

        make_table(&t, published[i].width);
        for (int k = 0; k < t.nb; k++)
            nb += numel(&t.e[k]);
        assert_int_equal(t.nb, 194);
        assert_int_equal(nb, published[i].nb);
        open_net(&n, "dry", NULL, CPU_PLAIN, published[i].width, NULL);
        REQUIRE(avt_arena_peak(n.weights) >= 4 * (size_t)nb);
        REQUIRE(avt_arena_peak(n.weights) < 4 * (size_t)nb + 200 * 64);
        assert_int_equal(n.vae.enc.nb_slots, 24);
        assert_int_equal(n.vae.dec.nb_slots, 32);
        close_net(&n);
    }
}

static int bind_file(const Table *t, int halves, const Log *log)
{
    Ckpt *c = open_table(t);
    Backend *be;
    Arena *a;
    Binder b;
    Vae v;
    int ret;

    REQUIRE_OK(avt_backend_open(&be, "cpu", &(BackendOptions){ .threads = 1, .level = CPU_PLAIN }));
    REQUIRE_OK(avt_arena_open(&a, be, "weights", (size_t)64 << 20));
    REQUIRE_OK(avt_binder_open(&b, c, NULL, a, "vae", DT_F32, log));
    ret = avt_vae_width(c, log);
    if (ret > 0)
        ret = avt_vae_open(&v, &b, ret, halves);
    avt_binder_close(&b);
    avt_arena_close(&a);
    avt_backend_close(&be);
    avt_ckpt_close(&c);
    return ret;
}

static void either_half_of_a_file(void **state)
{
    static Table t;

    (void)state;
    make_table(&t, WIDTH);
    for (int halves = 1; halves <= 3; halves++) {
        REQUIRE_OK(bind_file(&t, halves, NULL));
        t.nb++;
        t.e[t.nb - 1] = (Entry){ .name = "strange.weight", .nd = 1, .dim = { 3 } };
        REQUIRE(bind_file(&t, halves, test_log()) < 0);
        REQUIRE(strstr(test_log_text(), "strange.weight"));
        t.nb--;
    }
}

static void a_wrong_shape_is_named(void **state)
{
    static Table t;

    (void)state;
    make_table(&t, WIDTH);
    entry(&t, "decoder.upsamples.9.residual.6.weight")->dim[1] = 5;
    REQUIRE(bind_file(&t, VAE_DECODER, test_log()) < 0);
    REQUIRE(strstr(test_log_text(), "decoder.upsamples.9.residual.6.weight"));
    REQUIRE_OK(bind_file(&t, VAE_ENCODER, NULL));
}

static void other_vaes_are_refused(void **state)
{
    static Table t;

    (void)state;
    make_table(&t, WIDTH);
    entry(&t, "decoder.conv1.weight")->dim[1] = 48;
    REQUIRE(bind_file(&t, 3, test_log()) == AVT_INVALID);
    REQUIRE(strstr(test_log_text(), "48-channel"));

    make_table(&t, WIDTH);
    entry(&t, "decoder.conv1.weight")->dim[0] = 4 * WIDTH + 1;
    REQUIRE(bind_file(&t, 3, test_log()) == AVT_INVALID);
    REQUIRE(strstr(test_log_text(), "[13, 16, 3, 3, 3]"));

    rename_entry(&t, "decoder.conv1.weight", "decoder.conv_in.weight");
    REQUIRE(bind_file(&t, 3, test_log()) == AVT_INVALID);
    REQUIRE(strstr(test_log_text(), "diffusers"));

    rename_entry(&t, "decoder.conv_in.weight", "decoder.1.weight");
    REQUIRE(bind_file(&t, 3, test_log()) == AVT_INVALID);
    REQUIRE(strstr(test_log_text(), "TAEHV"));

    rename_entry(&t, "decoder.1.weight", "model.norm.weight");
    REQUIRE(bind_file(&t, 3, test_log()) == AVT_INVALID);
    REQUIRE(strstr(test_log_text(), "no Wan 2.1 VAE"));
}

/* ---- streams -------------------------------------------------------------------------------------------------- */

static void frames_and_latents(void **state)
{
    static const int encode[] = { 1, 2, 3, 19 }, decode[] = { 1, 2, 7, 19 };    // 1, 5, 9, 73 frames
    Net n;

    (void)state;
    open_random(&n, "cpu", CPU_PLAIN);
    for (int i = 0; i < 4; i++) {
        float *z = encode_cut(&n, encode[i], &encode[i], 1), *px = decode_cut(&n, decode[i], &decode[i], 1);

        REQUIRE(rms(z, (int64_t)LATENT * encode[i]) > 0.01);
        REQUIRE(rms(px, (int64_t)FRAME * (4 * decode[i] - 3)) > 0.01);
        for (int64_t k = 0; k < (int64_t)FRAME * (4 * decode[i] - 3); k++)
            REQUIRE(px[k] >= -1 && px[k] <= 1);
        free(z);
        free(px);
    }
    close_net(&n);
}

/* Frames that make no whole latent are refused, not dropped: what to do with them is the caller's decision. */
static void wrong_shapes_are_refused(void **state)
{
    VaeState enc, dec;
    Tensor z, px;
    Net n;

    (void)state;
    open_random(&n, "cpu", CPU_PLAIN);
    REQUIRE_OK(avt_vae_state_open(&enc, n.state, &n.vae, VAE_ENCODER, LH, LW));
    REQUIRE_OK(avt_vae_state_open(&dec, n.state, &n.vae, VAE_DECODER, LH, LW));
    z = clip_latents(&n, 2, 0, 2);
    for (int f = 1; f <= 9; f++) {
        px = clip_frames(&n, 0, f);
        assert_int_equal(avt_vae_encode(n.be, n.scratch, &n.vae, &enc, z, px, NULL), f == 5 ? 0 : AVT_ERR(EINVAL));
        assert_int_equal(avt_vae_decode(n.be, n.scratch, &n.vae, &dec, px, z, NULL), f == 5 ? 0 : AVT_ERR(EINVAL));
        avt_vae_state_reset(&enc);
        avt_vae_state_reset(&dec);
    }
    px = clip_frames(&n, 0, 5);
    assert_int_equal(avt_vae_encode(n.be, n.scratch, &n.vae, &dec, z, px, NULL), AVT_ERR(EINVAL));
    assert_int_equal(avt_vae_decode(n.be, n.scratch, &n.vae, &enc, px, z, NULL), AVT_ERR(EINVAL));
    REQUIRE_OK(avt_sync(n.be));
    close_net(&n);
}

/* All at once, one by one, primed with 7: the same bits. That also shows that no frame knows what comes after it. */
static void cuts_change_nothing(const char *device, CpuLevel level, int width)
{
    static const int cuts[][2] = { { 1, 1 }, { 7, 3 }, { 4, 2 }, { 10, 6 } };
    const int all = 16;
    float *frames, *latents;
    Net n;

    open_width(&n, device, level, width);
    frames = decode_cut(&n, all, &all, 1);
    latents = encode_cut(&n, all, &all, 1);
    for (int i = 0; i < 4; i++) {
        float *f = decode_cut(&n, all, cuts[i], 2), *z = encode_cut(&n, all, cuts[i], 2);

        if (level == CPU_PLAIN || width == EVEN) {
            assert_memory_equal(f, frames, sizeof(float) * FRAME * (4 * 16 - 3));
            assert_memory_equal(z, latents, sizeof(float) * LATENT * 16);
        }
        REQUIRE_CLOSE(f, frames, FRAME * (4 * 16 - 3), 1e-6);
        REQUIRE_CLOSE(z, latents, LATENT * 16, 1e-6);
        free(f);
        free(z);
    }
    free(frames);
    free(latents);
    close_net(&n);
}

static void cuts_change_nothing_plain(void **state)
{
    (void)state;
    cuts_change_nothing("cpu", CPU_PLAIN, WIDTH);
}

static void cuts_change_nothing_fast(void **state)
{
    (void)state;
    cuts_change_nothing("cpu", CPU_AUTO, WIDTH);
    cuts_change_nothing("cpu", CPU_AUTO, EVEN);
}

/* Latents of a still, made in one go and as any other stream of `all` latents; the work of each. */
static void encode_repeats(Net *n, int all, float *still, float *stream, double flops[2])
{
    const Tensor px = clip_frames(n, 1, 1), four = avt_new(n->scratch, DT_F32, 4, 8 * LH, 8 * LW, 3);
    const Tensor z = avt_new(n->scratch, DT_F32, all, VAE_LATENT, LH, LW), one = avt_new(n->scratch, DT_F32, 1, VAE_LATENT, LH, LW);
    double start = n->be->stat[OP_CONV3D].flops;
    VaeState st;

    REQUIRE_OK(avt_vae_state_open(&st, n->state, &n->vae, VAE_ENCODER, LH, LW));
    REQUIRE_OK(avt_vae_encode_still(n->be, n->scratch, &n->vae, &st, z, px));
    REQUIRE_OK(avt_download(n->be, still, z));
    flops[0] = n->be->stat[OP_CONV3D].flops - start;
    start += flops[0];
    for (int i = 0; i < 4; i++)
        avt_copy(n->be, avt_rows(four, i, 1), px);
    for (int k = 0; k < all; k++) {
        REQUIRE_OK(avt_vae_encode(n->be, n->scratch, &n->vae, &st, one, k ? four : px, NULL));
        REQUIRE_OK(avt_download(n->be, stream + k * LATENT, one));
    }
    flops[1] = n->be->stat[OP_CONV3D].flops - start;
}

/* Boxes that are not computed again would have given the same; and the latents go on changing for 13 of them at least. */
static void a_still_is_a_stream_of_equal_frames(void **state)
{
    enum { ALL = 19 };
    const int64_t nb = LATENT;
    float *still = malloc(sizeof(float) * (size_t)(ALL * nb)), *stream = malloc(sizeof(float) * (size_t)(ALL * nb));
    double flops[2];
    Net n;

    (void)state;
    for (int i = 0; i < 5; i++) {
        open_width(&n, "cpu", i % 2 || i == 4 ? CPU_AUTO : CPU_PLAIN, i < 4 ? WIDTH : EVEN);
        n.vae.piece_bytes = i < 2 ? n.vae.piece_bytes : 1;
        encode_repeats(&n, ALL, still, stream, flops);
        assert_memory_equal(still, stream, sizeof(float) * (size_t)(ALL * nb));
        REQUIRE(memcmp(still + 12 * nb, still + 13 * nb, sizeof(float) * (size_t)nb));
        REQUIRE(flops[0] < 0.4 * flops[1]);
        close_net(&n);
    }
    free(still);
    free(stream);
}

/* Neither does the number of frames that a stage takes at a time, which a small picture would never change by itself. */
static void pieces_change_nothing(CpuLevel level, int width)
{
    const int all = 6, primed[] = { 4, 2 };
    float *frames, *latents;
    Net n;

    open_width(&n, "cpu", level, width);
    frames = decode_cut(&n, all, &all, 1);
    latents = encode_cut(&n, all, &all, 1);
    for (int k = 0; k < 3; k++) {
        float *f, *z;

        n.vae.piece_bytes = (int64_t[]){ 1, 64 * LH * LW * width * 8, 16 * LH * LW * width * 12 }[k];  // 1; 2 or more; 1 to 3
        f = decode_cut(&n, all, primed, 2);
        z = encode_cut(&n, all, primed, 2);
        assert_memory_equal(f, frames, sizeof(float) * FRAME * (4 * 6 - 3));
        assert_memory_equal(z, latents, sizeof(float) * LATENT * 6);
        free(f);
        free(z);
    }
    free(frames);
    free(latents);
    close_net(&n);
}

static void pieces_change_nothing_plain(void **state)
{
    (void)state;
    pieces_change_nothing(CPU_PLAIN, WIDTH);
}

static void pieces_change_nothing_fast(void **state)
{
    (void)state;
    pieces_change_nothing(CPU_AUTO, EVEN);
}

typedef struct Keep {                   // a probe that keeps one box's latest result
    Net *n;
    const char *name;
    float *v;
} Keep;

static void keep(void *opaque, const char *name, Tensor t)
{
    Keep *k = opaque;

    if (strcmp(name, k->name))
        return;
    k->v = realloc(k->v, avt_nbytes(t));
    REQUIRE_OK(avt_download(k->n->be, k->v, t));
}

/* The first frame passes a temporal up-sampler and leaves no trace there; the next one has two zeros behind it. */
static void the_first_frame_is_no_history(void **state)
{
    enum { SLOT = 11, C = 4 * WIDTH };
    Tensor px1, px4;
    VaeState st;
    float *kept;
    Net n;
    Keep k = { &n, "decoder.upsamples.2", NULL };
    const VaeProbe probe = { keep, &k };

    (void)state;
    open_random(&n, "cpu", CPU_PLAIN);
    REQUIRE_OK(avt_vae_state_open(&st, n.state, &n.vae, VAE_DECODER, LH, LW));
    assert_int_equal(n.vae.dec.sample[0].time.slot, SLOT);
    assert_int_equal(n.vae.dec.sample[1].time.slot, 18);
    px1 = avt_new(n.scratch, DT_F32, 1, 8 * LH, 8 * LW, 3);
    px4 = avt_new(n.scratch, DT_F32, 4, 8 * LH, 8 * LW, 3);
    REQUIRE_OK(avt_vae_decode(n.be, n.scratch, &n.vae, &st, px1, clip_latents(&n, 3, 0, 1), &probe));
    assert_int_equal(st.nb[SLOT], 0);
    assert_int_equal(st.nb[18], 0);
    assert_int_equal(st.nb[0], 1);
    REQUIRE_OK(avt_vae_decode(n.be, n.scratch, &n.vae, &st, px4, clip_latents(&n, 3, 1, 1), &probe));
    assert_int_equal(st.nb[SLOT], 1);
    assert_int_equal(st.nb[18], 2);                                 // it sees two frames a latent
    assert_int_equal(st.nb[0], 2);
    kept = malloc(avt_nbytes(st.slot[SLOT]));
    REQUIRE_OK(avt_download(n.be, kept, st.slot[SLOT]));
    assert_memory_equal(kept + LH * LW * C, k.v, sizeof(float) * LH * LW * C);
    free(kept);
    free(k.v);
    close_net(&n);
}

/* Where the original differs: its encode() empties the decoder's caches. */
static void encoding_leaves_a_decoder_alone(void **state)
{
    const int two = 2;
    float *want, *got = malloc(sizeof(float) * FRAME * 5), *z;
    size_t mark;
    VaeState st;
    Net n;

    (void)state;
    open_random(&n, "cpu", CPU_PLAIN);
    want = decode_cut(&n, 2, &two, 1);
    REQUIRE_OK(avt_vae_state_open(&st, n.state, &n.vae, VAE_DECODER, LH, LW));
    decode_piece(&n, &st, got, clip_latents(&n, 2, 0, 1));
    mark = avt_arena_used(n.state);
    {
        VaeState enc;
        const Tensor zt = avt_new(n.scratch, DT_F32, 2, VAE_LATENT, LH, LW);

        REQUIRE_OK(avt_vae_state_open(&enc, n.state, &n.vae, VAE_ENCODER, LH, LW));
        REQUIRE(avt_arena_used(n.state) > mark);
        REQUIRE_OK(avt_vae_encode(n.be, n.scratch, &n.vae, &enc, zt, clip_frames(&n, 0, 5), NULL));
        z = test_read(&(TestBench){ .be = n.be, .arena = n.scratch }, zt);
        REQUIRE(rms(z, LATENT * 2) > 0.01);
    }
    decode_piece(&n, &st, got + FRAME, clip_latents(&n, 2, 1, 1));
    assert_memory_equal(got, want, sizeof(float) * FRAME * 5);
    free(z);
    free(want);
    free(got);
    close_net(&n);
}

static void reset_forgets(void **state)
{
    float first[FRAME], again[FRAME];
    VaeState st;
    float *rest = malloc(sizeof(float) * FRAME * 8);
    Net n;

    (void)state;
    open_random(&n, "cpu", CPU_PLAIN);
    REQUIRE_OK(avt_vae_state_open(&st, n.state, &n.vae, VAE_DECODER, LH, LW));
    decode_piece(&n, &st, first, clip_latents(&n, 3, 0, 1));
    decode_piece(&n, &st, rest, clip_latents(&n, 3, 1, 2));
    avt_vae_state_reset(&st);
    decode_piece(&n, &st, again, clip_latents(&n, 3, 0, 1));
    assert_memory_equal(first, again, sizeof(first));
    free(rest);
    close_net(&n);
}

/* A silent input has no norm to divide by: zeros, not NaN. */
static void zeros_stay_finite(void **state)
{
    Tensor x, w, px;
    VaeState st;
    float *v;
    Net n;

    (void)state;
    open_random(&n, "cpu", CPU_PLAIN);
    x = avt_new(n.scratch, DT_F32, 1, 2, 2, 5);
    w = avt_new(n.scratch, DT_F32, 5);
    avt_fill(n.be, x, 0);
    avt_fill(n.be, w, 2);
    avt_channel_norm(n.be, x, x, w, ACT_SILU);
    v = test_read(&(TestBench){ .be = n.be, .arena = n.scratch }, x);
    for (int i = 0; i < 20; i++)
        REQUIRE(v[i] == 0);
    free(v);
    REQUIRE_OK(avt_vae_state_open(&st, n.state, &n.vae, VAE_ENCODER, LH, LW));
    px = avt_new(n.scratch, DT_F32, 1, 8 * LH, 8 * LW, 3);
    avt_fill(n.be, px, 0);
    x = avt_new(n.scratch, DT_F32, 1, VAE_LATENT, LH, LW);
    REQUIRE_OK(avt_vae_encode(n.be, n.scratch, &n.vae, &st, x, px, NULL));
    v = test_read(&(TestBench){ .be = n.be, .arena = n.scratch }, x);
    for (int i = 0; i < LATENT; i++)
        REQUIRE(isfinite(v[i]));
    free(v);
    close_net(&n);
}

/* ---- memory and backends -------------------------------------------------------------------------------------- */

typedef struct Peaks {
    size_t weights, state, scratch;
} Peaks;

/* A session's calls: one frame and four frames encoded, 7 latents and two blocks of 3 decoded. */
static Peaks session_peaks(const char *device, const char *plan_for, CpuLevel level, const Ckpt *ckpt)
{
    VaeState enc, dec;
    Arena *io;
    Net n;
    Peaks p;

    open_net(&n, device, plan_for, level, WIDTH, ckpt);
    REQUIRE_OK(avt_arena_open(&io, n.be, "io", (size_t)16 << 20));
    REQUIRE_OK(avt_vae_state_open(&enc, n.state, &n.vae, VAE_ENCODER, LH, LW));
    REQUIRE_OK(avt_vae_state_open(&dec, n.state, &n.vae, VAE_DECODER, LH, LW));
    for (int i = 0; i < 3; i++) {
        const Tensor z = avt_new(io, DT_F32, 1, VAE_LATENT, LH, LW), zs = avt_new(io, DT_F32, i ? 3 : 7, VAE_LATENT, LH, LW);
        const Tensor px = avt_new(io, DT_F32, i ? 4 : 1, 8 * LH, 8 * LW, 3);
        const Tensor pxs = avt_new(io, DT_F32, i ? 12 : 25, 8 * LH, 8 * LW, 3);

        avt_fill(n.be, px, 0.5f);
        avt_fill(n.be, zs, 0.5f);
        REQUIRE_OK(avt_vae_encode(n.be, n.scratch, &n.vae, &enc, z, px, NULL));
        REQUIRE_OK(avt_vae_decode(n.be, n.scratch, &n.vae, &dec, pxs, zs, NULL));
    }
    REQUIRE_OK(avt_sync(n.be));
    assert_int_equal(avt_arena_used(n.scratch), 0);
    p = (Peaks){ avt_arena_peak(n.weights), avt_arena_peak(n.state), avt_arena_peak(n.scratch) };
    avt_arena_close(&io);
    close_net(&n);
    return p;
}

static void planned_is_measured(void **state)
{
    static Table t;
    Ckpt *c;

    (void)state;
    make_table(&t, WIDTH);
    c = open_table(&t);
    for (int i = 0; i < 2; i++) {
        const CpuLevel level = i ? CPU_AUTO : CPU_PLAIN;
        const Peaks plan = session_peaks("dry", "cpu", level, NULL), real = session_peaks("cpu", NULL, level, c);

        assert_int_equal(plan.weights, real.weights);
        assert_int_equal(plan.state, real.state);
        assert_int_equal(plan.scratch, real.scratch);
    }
    avt_ckpt_close(&c);
}

/* Scratch is that of the pieces: 40 latents take no more than what the longer clip itself needs. */
static void scratch_does_not_grow(void **state)
{
    const int some = 8, many = 40;
    size_t peak[2];

    (void)state;
    for (int i = 0; i < 2; i++) {
        const int total = i ? many : some;              // in pieces of 1 to 3 frames
        Arena *io;
        VaeState st;
        Net n;

        open_net(&n, "dry", NULL, CPU_PLAIN, 24, NULL);
        REQUIRE_OK(avt_arena_open(&io, n.be, "io", ARENA_UNLIMITED));
        n.vae.piece_bytes = 4 * 128 * 128 * 24;
        REQUIRE_OK(avt_vae_state_open(&st, n.state, &n.vae, VAE_DECODER, 16, 16));
        REQUIRE_OK(avt_vae_decode(n.be, n.scratch, &n.vae, &st, avt_new(io, DT_F32, 4 * total - 3, 128, 128, 3),
                                  avt_new(io, DT_F32, total, VAE_LATENT, 16, 16), NULL));
        REQUIRE_OK(avt_sync(n.be));
        peak[i] = avt_arena_peak(n.scratch);
        avt_arena_close(&io);
        close_net(&n);
    }
    REQUIRE(peak[1] - peak[0] == (size_t)(2 * (many - some) * VAE_LATENT * 16 * 16 * 4));
}

static void guard_gives_the_same_bits(void **state)
{
    const int cut[] = { 2, 1 };
    float *px[2], *z[2];
    Net n;

    (void)state;
    for (int i = 0; i < 2; i++) {
        open_random(&n, i ? "guard" : "cpu", CPU_PLAIN);
        px[i] = decode_cut(&n, 4, cut, 2);
        z[i] = encode_cut(&n, 4, cut, 2);
        close_net(&n);
    }
    assert_memory_equal(px[0], px[1], sizeof(float) * FRAME * 13);
    assert_memory_equal(z[0], z[1], sizeof(float) * LATENT * 4);
    for (int i = 0; i < 2; i++) {
        free(px[i]);
        free(z[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_table),
        cmocka_unit_test(either_half_of_a_file),
        cmocka_unit_test(a_wrong_shape_is_named),
        cmocka_unit_test(other_vaes_are_refused),
        cmocka_unit_test(frames_and_latents),
        cmocka_unit_test(wrong_shapes_are_refused),
        cmocka_unit_test(cuts_change_nothing_plain),
        cmocka_unit_test(cuts_change_nothing_fast),
        cmocka_unit_test(pieces_change_nothing_plain),
        cmocka_unit_test(pieces_change_nothing_fast),
        cmocka_unit_test(a_still_is_a_stream_of_equal_frames),
        cmocka_unit_test(the_first_frame_is_no_history),
        cmocka_unit_test(encoding_leaves_a_decoder_alone),
        cmocka_unit_test(reset_forgets),
        cmocka_unit_test(zeros_stay_finite),
        cmocka_unit_test(planned_is_measured),
        cmocka_unit_test(scratch_does_not_grow),
        cmocka_unit_test(guard_gives_the_same_bits),
    };

    return test_main("vae", tests);
}
