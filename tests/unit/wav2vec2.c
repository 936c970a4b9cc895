/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * wav2vec2 on seeded weights: lengths, normalization, names that are accepted, pieces, memory planned and measured, late
 * queue, configurations that are refused. What the numbers should be is the parity tests' matter.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nets/wav2vec2.h"
#include "test.h"
#include "weights.h"

enum { D = 12, F = 20, LAYERS = 2, TAPS = 6 };

static const int conv_dim[7] = { 4, 6, 5, 4, 6, 7, 8 };
static const int conv_kernel[7] = { 10, 3, 3, 3, 3, 2, 2 };

/* ---- a network ----------------------------------------------------------------------------------------------------- */

typedef struct Naming {
    const char *prefix, *g, *v;
} Naming;

static const Naming published = { "wav2vec2.", "weight_g", "weight_v" };
static const Naming bare = { "", "parametrizations.weight.original0", "parametrizations.weight.original1" };

static void add(Weights *w, const Naming *n, float mean, float spread, const char *name, int nd, const int64_t *dim)
{
    char full[128];

    snprintf(full, sizeof(full), "%s%s", n->prefix, name);
    weights_add(w, mean, spread, full, nd, dim);
}
#define ADD(w, n, mean, spread, name, ...)                                                            \
    add(w, n, mean, spread, name, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),            \
        (const int64_t[]){ __VA_ARGS__ })

static void add_norm(Weights *w, const Naming *n, const char *name, int64_t dim)
{
    char full[128];

    snprintf(full, sizeof(full), "%s.weight", name);
    ADD(w, n, 1, 0.3f, full, dim);
    snprintf(full, sizeof(full), "%s.bias", name);
    ADD(w, n, 0, 0.2f, full, dim);
}

static void add_linear(Weights *w, const Naming *n, const char *name, int64_t out, int64_t in)
{
    char full[128];

    snprintf(full, sizeof(full), "%s.weight", name);
    ADD(w, n, 0, 0.5f, full, out, in);
    snprintf(full, sizeof(full), "%s.bias", name);
    ADD(w, n, 0, 0.2f, full, out);
}

static void add_features(Weights *w, const Naming *n)
{
    char name[96];

    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof(name), "feature_extractor.conv_layers.%d.conv.weight", i);
        ADD(w, n, 0, 0.6f, name, conv_dim[i], i ? conv_dim[i - 1] : 1, conv_kernel[i]);
        snprintf(name, sizeof(name), "feature_extractor.conv_layers.%d.conv.bias", i);
        ADD(w, n, 0, 0.2f, name, conv_dim[i]);
        snprintf(name, sizeof(name), "feature_extractor.conv_layers.%d.layer_norm", i);
        add_norm(w, n, name, conv_dim[i]);
    }
    add_norm(w, n, "feature_projection.layer_norm", conv_dim[6]);
    add_linear(w, n, "feature_projection.projection", D, conv_dim[6]);
}

static void add_layer(Weights *w, const Naming *n, int l)
{
    static const char *const square[] = { "q_proj", "k_proj", "v_proj", "out_proj" };
    char name[96];

    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "encoder.layers.%d.attention.%s", l, square[i]);
        add_linear(w, n, name, D, D);
    }
    snprintf(name, sizeof(name), "encoder.layers.%d.layer_norm", l);
    add_norm(w, n, name, D);
    snprintf(name, sizeof(name), "encoder.layers.%d.feed_forward.intermediate_dense", l);
    add_linear(w, n, name, F, D);
    snprintf(name, sizeof(name), "encoder.layers.%d.feed_forward.output_dense", l);
    add_linear(w, n, name, D, F);
    snprintf(name, sizeof(name), "encoder.layers.%d.final_layer_norm", l);
    add_norm(w, n, name, D);
}

static void add_network(Weights *w, const Naming *n)
{
    char name[96];

    add_features(w, n);
    snprintf(name, sizeof(name), "encoder.pos_conv_embed.conv.%s", n->g);
    ADD(w, n, 1, 0.5f, name, 1, 1, TAPS);
    snprintf(name, sizeof(name), "encoder.pos_conv_embed.conv.%s", n->v);
    ADD(w, n, 0, 1, name, D, D / 3, TAPS);
    ADD(w, n, 0, 0.2f, "encoder.pos_conv_embed.conv.bias", D);
    for (int l = 0; l < LAYERS; l++)
        add_layer(w, n, l);
    add_norm(w, n, "encoder.layer_norm", D);
    ADD(w, n, 0, 1, "masked_spec_embed", D);
    WEIGHTS_ADD(w, 0, 1, "lm_head.weight", 33, D);
    WEIGHTS_ADD(w, 0, 1, "lm_head.bias", 33);
}

static const Wav2Vec2Config config = {
    .dim = D, .nb_layers = LAYERS, .nb_heads = 4, .ffn_dim = F, .conv_dim = { 4, 6, 5, 4, 6, 7, 8 }, .pos_groups = 3,
    .pos_kernel = TAPS,
};

typedef struct Net {
    TestBench b;
    Arena *scratch;
    Weights file;
    Ckpt *ckpt;
    Wav2Vec2 w;
} Net;

static int net_open(Net *n, const char *device, int threads, const Naming *naming, const char *skip, const char *extra)
{
    Binder binder;
    int ret;

    weights_init(&n->file);
    n->file.skip = skip;
    add_network(&n->file, naming);
    if (extra)
        WEIGHTS_ADD(&n->file, 0, 1, extra, 3);
    weights_write(&n->file);
    test_bench_open(&n->b, device, CPU_PLAIN, threads);
    REQUIRE_OK(avt_arena_open(&n->scratch, n->b.be, "scratch", 1 << 28));
    REQUIRE_OK(avt_ckpt_open(&n->ckpt, n->file.path, test_log()));
    REQUIRE_OK(avt_binder_open(&binder, n->ckpt, NULL, n->b.arena, "wav2vec2", DT_F32, test_log()));
    ret = avt_wav2vec2_open(&n->w, &config, &binder);
    avt_binder_close(&binder);
    return ret;
}

static void net_close(Net *n)
{
    avt_wav2vec2_close(&n->w);
    avt_ckpt_close(&n->ckpt);
    weights_close(&n->file);
    avt_arena_close(&n->scratch);
    test_bench_close(&n->b);
}

static float *sound(int64_t n)
{
    float *pcm = malloc(sizeof(*pcm) * (size_t)n);

    test_random(pcm, n, 99);
    return pcm;
}

/* [L + 1, T, D] of n samples; peak of the scratch. */
static float *run(Net *n, int64_t samples, size_t *peak)
{
    const Tensor hidden = avt_new(n->b.arena, DT_F32, LAYERS + 1, avt_wav2vec2_frames(samples), D);
    float *pcm = sound(samples), *v;

    REQUIRE_OK(avt_wav2vec2_encode(n->b.be, n->scratch, &n->w, hidden, pcm, samples));
    REQUIRE(avt_arena_used(n->scratch) == 0);
    v = test_read(&n->b, hidden);
    if (peak)
        *peak = avt_arena_peak(n->scratch);
    free(pcm);
    return v;
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */

static void frames(void **state)
{
    (void)state;
    REQUIRE(avt_wav2vec2_frames(0) == 0 && avt_wav2vec2_frames(399) == 0);
    REQUIRE(avt_wav2vec2_frames(400) == 1 && avt_wav2vec2_frames(719) == 1 && avt_wav2vec2_frames(720) == 2);
    REQUIRE(avt_wav2vec2_frames(16000) == 49 && avt_wav2vec2_frames(160000) == 499);
    for (int64_t blocks = 1; blocks < 100; blocks++)                // the product's padding: 24 rows a block
        REQUIRE(avt_wav2vec2_frames(7680 * blocks + 80) == 24 * blocks);
    for (int64_t n = 400; n < 3000; n++) {                          // the closed form is the chain of the seven
        static const int stride[7] = { 5, 2, 2, 2, 2, 2, 2 };
        int64_t len = n;

        for (int i = 0; i < 7; i++)
            len = (len - conv_kernel[i]) / stride[i] + 1;
        REQUIRE(avt_wav2vec2_frames(n) == len);
    }
}

static void normalization(void **state)
{
    enum { M = 5000 };
    float x[M], y[M];
    double mean = 0, square = 0;

    (void)state;
    test_random(x, M, 5);
    for (int i = 0; i < M; i++)
        x[i] = 0.01f * x[i] + 0.3f;
    avt_wav2vec2_normalize(y, x, M, M);
    for (int i = 0; i < M; i++)
        mean += y[i] / (double)M;
    for (int i = 0; i < M; i++)
        square += (y[i] - mean) * (y[i] - mean) / (double)M;
    REQUIRE(fabs(mean) < 1e-6 && fabs(square - 1) < 5e-3);          // 1e-7 is 0.3 % of this variance
    for (int i = M / 2; i < M; i++)
        x[i] = 0;                                                   // silence behind does not count
    avt_wav2vec2_normalize(y, x, M / 2, M / 2);
    avt_wav2vec2_normalize(x, x, M, M / 2);
    REQUIRE(!memcmp(x, y, sizeof(*x) * M / 2) && x[M - 1] == x[M / 2]);
    memset(x, 0, sizeof(x));
    avt_wav2vec2_normalize(y, x, M, M);
    REQUIRE(y[0] == 0 && y[M - 1] == 0);
}

static void names(void **state)
{
    Net a, b;

    (void)state;
    REQUIRE_OK(net_open(&a, "cpu", 1, &published, NULL, NULL));
    REQUIRE_OK(net_open(&b, "cpu", 1, &bare, NULL, NULL));
    float *x = run(&a, 4000, NULL), *y = run(&b, 4000, NULL);
    REQUIRE(!memcmp(x, y, sizeof(*x) * (LAYERS + 1) * 12 * D));
    free(x);
    free(y);
    net_close(&a);
    net_close(&b);
}

/* The position conv's weight is g[k] v[o, i, k] / |v[:, :, k]|: its norm per tap is g. */
static void folded_norm(void **state)
{
    Net n;

    (void)state;
    REQUIRE_OK(net_open(&n, "cpu", 1, &published, NULL, NULL));
    const CkptTensor *g = avt_ckpt_find(n.ckpt, "wav2vec2.encoder.pos_conv_embed.conv.weight_g");
    /* an impulse of ones through every input channel one at a time reads the taps back */
    for (int k = 0; k < TAPS; k++) {
        double square = 0;

        for (int c = 0; c < D; c++) {
            float x[TAPS * D] = { 0 }, *y;
            const Tensor out = avt_new(n.b.arena, DT_F32, 1, D);
            const Conv conv = { .w = n.w.pos.w };

            x[k * D + c] = 1;
            avt_conv1d(n.b.be, out, TEST_TENSOR(&n.b, x, TAPS, D), &conv, (Conv1dSpec){ .stride = 1, .groups = 3 }, ACT_NONE);
            y = test_read(&n.b, out);
            for (int o = 0; o < D; o++)
                square += (double)y[o] * y[o];
            free(y);
        }
        float want;
        REQUIRE_OK(avt_ckpt_read(g, &want, 4 * (size_t)k, 4, test_log()));
        REQUIRE(fabs(sqrt(square) - want) < 1e-5);
    }
    net_close(&n);
}

/* Sound long enough for several pieces of the convolutions: its convolution rows are those of any part of it. Only the first
 * hidden state away from the ends shows that, since attention sees everything. */
static void pieces(void **state)
{
    enum { T = 600, CUT = 100, PART = 400 };
    const int64_t n = 320 * (T - 1) + 400, m = 320 * (PART - 1) + 400;
    Net net;
    float *pcm = sound(n);

    (void)state;
    REQUIRE_OK(net_open(&net, "cpu", 1, &published, NULL, NULL));
    const Tensor whole = avt_new(net.b.arena, DT_F32, LAYERS + 1, T, D), part = avt_new(net.b.arena, DT_F32, LAYERS + 1, PART, D);
    REQUIRE_OK(avt_wav2vec2_encode(net.b.be, net.scratch, &net.w, whole, pcm, n));
    REQUIRE_OK(avt_wav2vec2_encode(net.b.be, net.scratch, &net.w, part, pcm + 320 * CUT, m));
    float *a = test_read(&net.b, avt_at(whole, 0)), *b = test_read(&net.b, avt_at(part, 0));
    REQUIRE(!memcmp(a + (CUT + TAPS) * D, b + TAPS * D, sizeof(*a) * (PART - 2 * TAPS) * D));
    free(a);
    free(b);
    free(pcm);
    net_close(&net);
}

static void same_bits(void **state)
{
    Net a, b;

    (void)state;
    REQUIRE_OK(net_open(&a, "cpu", 1, &published, NULL, NULL));
    float *x = run(&a, 9000, NULL);
    REQUIRE_OK(net_open(&b, "cpu", 3, &published, NULL, NULL));
    float *y = run(&b, 9000, NULL);
    REQUIRE(!memcmp(x, y, sizeof(*x) * (LAYERS + 1) * 27 * D));
    free(y);
    net_close(&b);
    REQUIRE_OK(net_open(&b, "guard", 1, &published, NULL, NULL));
    y = run(&b, 9000, NULL);
    REQUIRE(!memcmp(x, y, sizeof(*x) * (LAYERS + 1) * 27 * D));
    free(y);
    net_close(&b);
    free(x);
    net_close(&a);
}

/* Bytes of weights and scratch of a network on `dry`. */
static void plan(const Wav2Vec2Config *c, int64_t n, size_t *weight_bytes, size_t *scratch_bytes)
{
    const BackendOptions opt = { .threads = 1, .level = CPU_PLAIN, .plan_for = "cpu" };
    Backend *dry;
    Arena *weights, *state, *scratch;
    Binder binder;
    Wav2Vec2 w;

    REQUIRE_OK(avt_backend_open(&dry, "dry", &opt));
    REQUIRE_OK(avt_arena_open(&weights, dry, "weights", ARENA_UNLIMITED));
    REQUIRE_OK(avt_arena_open(&state, dry, "state", ARENA_UNLIMITED));
    REQUIRE_OK(avt_arena_open(&scratch, dry, "scratch", ARENA_UNLIMITED));
    REQUIRE_OK(avt_binder_open(&binder, NULL, NULL, weights, "wav2vec2", DT_F32, NULL));
    REQUIRE_OK(avt_wav2vec2_open(&w, c, &binder));
    avt_binder_close(&binder);
    const Tensor hidden = avt_new(state, DT_F32, c->nb_layers + 1, avt_wav2vec2_frames(n), c->dim);
    REQUIRE_OK(avt_wav2vec2_encode(dry, scratch, &w, hidden, NULL, n));
    *weight_bytes = avt_arena_peak(weights);
    *scratch_bytes = avt_arena_peak(scratch);
    avt_wav2vec2_close(&w);
    avt_arena_close(&scratch);
    avt_arena_close(&state);
    avt_arena_close(&weights);
    avt_backend_close(&dry);
}

static void planned_peak(void **state)
{
    Net n;
    size_t weights, scratch, measured = 0;

    (void)state;
    REQUIRE_OK(net_open(&n, "cpu", 1, &published, NULL, NULL));
    const size_t placed = avt_arena_peak(n.b.arena);
    free(run(&n, 90000, &measured));
    plan(&config, 90000, &weights, &scratch);
    assert_int_equal(weights, placed);
    assert_int_equal(scratch, measured);
    net_close(&n);
}

/* Ten minutes at the published size: no T x T buffer (3.6 GB a head), and less scratch than a fifth of the hidden states. */
static void long_sound(void **state)
{
    static const Wav2Vec2Config c = {
        .dim = 1024, .nb_layers = 24, .nb_heads = 16, .ffn_dim = 4096, .conv_dim = { 512, 512, 512, 512, 512, 512, 512 },
        .pos_groups = 16, .pos_kernel = 128,
    };
    const int64_t n = 600 * 16000;
    size_t weights, scratch;

    (void)state;
    plan(&c, n, &weights, &scratch);
    REQUIRE(scratch < (size_t)(25 * avt_wav2vec2_frames(n) * 1024 * 4 / 5));
    const size_t values = 315438720 - 1024 - 128;                   // all but masked_spec_embed and the folded g
    REQUIRE(weights >= 4 * values && weights < 4 * values + (1 << 16));
    plan(&c, 480000, &weights, &scratch);
    REQUIRE(scratch < (size_t)100 << 20);
}

static void refused_sound(void **state)
{
    float pcm[399] = { 0 };
    Net n;

    (void)state;
    REQUIRE_OK(net_open(&n, "cpu", 1, &published, NULL, NULL));
    const Tensor hidden = avt_new(n.b.arena, DT_F32, LAYERS + 1, 1, D);
    n.b.be->log = test_log();
    REQUIRE(avt_wav2vec2_encode(n.b.be, n.scratch, &n.w, hidden, pcm, 399) == AVT_ERR(EINVAL));
    REQUIRE(strstr(test_log_text(), "399 samples") != NULL);
    net_close(&n);
}

static void refused_files(void **state)
{
    Net n;

    (void)state;
    REQUIRE(net_open(&n, "cpu", 1, &published, "wav2vec2.encoder.layers.1.attention.k_proj.bias", NULL) == AVT_INVALID);
    REQUIRE(strstr(test_log_text(), "encoder.layers.1.attention.k_proj.bias") != NULL);
    net_close(&n);
    REQUIRE(net_open(&n, "cpu", 1, &published, "wav2vec2.encoder.pos_conv_embed.conv.weight_v", NULL) == AVT_INVALID);
    net_close(&n);
    REQUIRE(net_open(&n, "cpu", 1, &published, NULL, "wav2vec2.adapter.weight") == AVT_INVALID);
    REQUIRE(strstr(test_log_text(), "wav2vec2.adapter.weight") != NULL);
    net_close(&n);
}

/* ---- config.json --------------------------------------------------------------------------------------------------- */

static const char *const base[][2] = {
    { "model_type", "\"wav2vec2\"" }, { "feat_extract_norm", "\"layer\"" }, { "do_stable_layer_norm", "true" },
    { "conv_bias", "true" }, { "conv_kernel", "[10,3,3,3,3,2,2]" }, { "conv_stride", "[5,2,2,2,2,2,2]" },
    { "hidden_act", "\"gelu\"" }, { "layer_norm_eps", "1e-5" }, { "hidden_size", "48" }, { "num_hidden_layers", "3" },
    { "num_attention_heads", "6" }, { "intermediate_size", "70" }, { "conv_dim", "[8,8,8,8,8,8,9]" },
    { "num_conv_pos_embeddings", "32" }, { "num_conv_pos_embedding_groups", "4" },
};

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    REQUIRE(f != NULL);
    fputs(text, f);
    fclose(f);
}

/* config.json with `key` changed (value NULL: left out), and a preprocessor_config.json. */
static int read_config(Wav2Vec2Config *c, const char *key, const char *value, const char *preprocessor)
{
    char dir[] = "/tmp/avatar-test-XXXXXX", path[64], other[64], text[2048] = "{ \"vocab_size\": 33";
    int ret;

    for (size_t i = 0; i < sizeof(base) / sizeof(base[0]); i++) {
        const char *v = key && !strcmp(key, base[i][0]) ? value : base[i][1];

        if (v)
            snprintf(text + strlen(text), sizeof(text) - strlen(text), ", \"%s\": %s", base[i][0], v);
    }
    if (key && !strcmp(key, "add_adapter"))
        snprintf(text + strlen(text), sizeof(text) - strlen(text), ", \"add_adapter\": %s", value);
    strcat(text, " }");
    REQUIRE(mkdtemp(dir) != NULL);
    snprintf(path, sizeof(path), "%s/config.json", dir);
    snprintf(other, sizeof(other), "%s/preprocessor_config.json", dir);
    write_text(path, text);
    write_text(other, preprocessor);
    ret = avt_wav2vec2_config(c, path, other, test_log());
    unlink(path);
    unlink(other);
    rmdir(dir);
    return ret;
}

static void configurations(void **state)
{
    static const char good[] = "{ \"sampling_rate\": 16000, \"do_normalize\": true, \"feature_size\": 1 }";
    static const char *const bad[][2] = {
        { "model_type", "\"hubert\"" }, { "feat_extract_norm", "\"group\"" }, { "do_stable_layer_norm", "false" },
        { "conv_bias", "false" }, { "conv_kernel", "[10,3,3,3,3,2]" }, { "conv_kernel", "[10,3,3,3,3,2,3]" },
        { "conv_stride", "[5,2,2,2,2,2,1]" }, { "hidden_act", "\"relu\"" }, { "layer_norm_eps", "1e-6" },
        { "num_conv_pos_embeddings", "130" }, { "num_conv_pos_embeddings", "31" }, { "num_attention_heads", "5" },
        { "num_conv_pos_embedding_groups", "5" }, { "conv_dim", "[8,8,8,8,8,8]" }, { "conv_dim", "[8,8,8,8,8,8,0]" },
        { "hidden_size", "0" }, { "hidden_size", "\"big\"" }, { "num_hidden_layers", "100000" }, { "hidden_size", NULL },
        { "do_stable_layer_norm", NULL }, { "add_adapter", "true" },
    };
    static const char *const bad_preprocessor[] = {
        "{ \"sampling_rate\": 8000, \"do_normalize\": true }", "{ \"sampling_rate\": 16000, \"do_normalize\": false }",
        "{ \"do_normalize\": true }", "{ \"sampling_rate\": 16000, \"do_normalize\": true, \"feature_size\": 80 }",
    };
    Wav2Vec2Config c;

    (void)state;
    REQUIRE_OK(read_config(&c, NULL, NULL, good));
    REQUIRE(c.dim == 48 && c.nb_layers == 3 && c.nb_heads == 6 && c.ffn_dim == 70 && c.conv_dim[0] == 8 && c.conv_dim[6] == 9);
    REQUIRE(c.pos_kernel == 32 && c.pos_groups == 4);
    REQUIRE_OK(read_config(&c, "num_conv_pos_embeddings", NULL, good));
    REQUIRE(c.pos_kernel == 128);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (read_config(&c, bad[i][0], bad[i][1], good) != AVT_INVALID)
            fail_msg("%s: %s was accepted", bad[i][0], bad[i][1]);
        if (!strstr(test_log_text(), bad[i][0]) && strcmp(bad[i][0], "num_attention_heads") && !strstr(bad[i][0], "groups"))
            fail_msg("\"%s\" does not name %s", test_log_text(), bad[i][0]);
    }
    for (size_t i = 0; i < sizeof(bad_preprocessor) / sizeof(bad_preprocessor[0]); i++)
        REQUIRE(read_config(&c, NULL, NULL, bad_preprocessor[i]) == AVT_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames), cmocka_unit_test(normalization), cmocka_unit_test(names), cmocka_unit_test(folded_norm),
        cmocka_unit_test(pieces), cmocka_unit_test(same_bits), cmocka_unit_test(planned_peak), cmocka_unit_test(long_sound),
        cmocka_unit_test(refused_sound), cmocka_unit_test(refused_files), cmocka_unit_test(configurations),
    };

    return test_main("wav2vec2", tests);
}
