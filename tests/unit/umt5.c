/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umT5 on seeded weights: the bucket table, padding, memory planned and measured, late queue, files that are refused. What the
 * numbers should be is the parity tests' matter.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nets/umt5.h"
#include "test.h"
#include "weights.h"

enum { D = 24, A = 20, F = 36, NH = 5, LAYERS = 3, VOCAB = 50, N = 13 };

static const int32_t prompt[N] = { 7, 3, 49, 12, 12, 5, 30, 31, 8, 9, 2, 17, 1 };

/* ---- a file -------------------------------------------------------------------------------------------------------- */

static void add_layer(Weights *w, int l)
{
    static const struct { const char *name; float mean, spread; int64_t rows, cols; } t[] = {
        { "norm1.weight", 1, 0.3f, D, 0 }, { "norm2.weight", 1, 0.3f, D, 0 },
        { "attn.q.weight", 0, 0.4f, A, D }, { "attn.k.weight", 0, 0.4f, A, D }, { "attn.v.weight", 0, 0.4f, A, D },
        { "attn.o.weight", 0, 0.4f, D, A }, { "ffn.gate.0.weight", 0, 0.4f, F, D }, { "ffn.fc1.weight", 0, 0.4f, F, D },
        { "ffn.fc2.weight", 0, 0.3f, D, F }, { "pos_embedding.embedding.weight", 0, 1, 32, NH },
    };
    char name[96];

    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        const int64_t dim[2] = { t[i].rows, t[i].cols };

        snprintf(name, sizeof(name), "blocks.%d.%s", l, t[i].name);
        weights_add(w, t[i].mean, t[i].spread, name, t[i].cols ? 2 : 1, dim);
    }
}

static void add_encoder(Weights *w)
{
    WEIGHTS_ADD(w, 0, 1, "token_embedding.weight", VOCAB, D);
    for (int l = 0; l < LAYERS; l++)
        add_layer(w, l);
    WEIGHTS_ADD(w, 1, 0.3f, "norm.weight", D);
}

static Ckpt *open_encoder(Weights *w, Umt5Config *cfg)
{
    Ckpt *c;

    weights_init(w);
    add_encoder(w);
    weights_write(w);
    REQUIRE_OK(avt_ckpt_open(&c, w->path, test_log()));
    REQUIRE_OK(avt_umt5_config(cfg, c, test_log()));
    return c;
}

static void close_encoder(Weights *w, Ckpt *c)
{
    avt_ckpt_close(&c);
    weights_close(w);
}

/* Rows of the first n tokens, of which `keys` are seen. */
static float *encode(const char *device, int threads, const Umt5Config *cfg, const Ckpt *c, int64_t n, int64_t keys, size_t *peak)
{
    TestBench b;
    Arena *scratch;
    Umt5 t;

    test_bench_open(&b, device, CPU_PLAIN, threads);
    REQUIRE_OK(avt_arena_open(&scratch, b.be, "scratch", 1 << 24));
    REQUIRE_OK(avt_umt5_open(&t, cfg, c, b.be, 0, 1));
    const Tensor out = avt_new(b.arena, DT_F32, n, cfg->dim);
    REQUIRE_OK(avt_umt5_encode(b.be, b.be, scratch, &t, out, prompt, n, keys));
    REQUIRE(avt_arena_used(scratch) == 0);
    float *v = test_read(&b, out);
    if (peak)
        *peak = avt_arena_peak(scratch);
    avt_umt5_close(&t);
    avt_arena_close(&scratch);
    test_bench_close(&b);
    return v;
}

/* ---- tests --------------------------------------------------------------------------------------------------------- */

static void buckets(void **state)
{
    static const int last[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 11, 15, 22, 31, 45, 63, 90, 511 };        // largest distance of each
    int f = 0;

    (void)state;
    for (int d = 0; d <= 511; d++) {
        f += d > last[f];
        REQUIRE(avt_umt5_bucket(-d) == f);
        REQUIRE(avt_umt5_bucket(d) == (d ? 16 + f : 0));
    }
}

static void sizes(void **state)
{
    Weights w;
    Umt5Config cfg;
    Ckpt *c = open_encoder(&w, &cfg);

    (void)state;
    REQUIRE(cfg.dim == D && cfg.attn_dim == A && cfg.ffn_dim == F && cfg.nb_heads == NH && cfg.nb_layers == LAYERS);
    REQUIRE(cfg.nb_buckets == 32 && cfg.vocab == VOCAB && cfg.dtype == DT_F32);
    close_encoder(&w, c);
}

/* Padding that nobody sees changes nothing: the real rows alone, or with padding behind, are the same rows. */
static void padding(void **state)
{
    Weights w;
    Umt5Config cfg;
    Ckpt *c = open_encoder(&w, &cfg);
    float *alone = encode("cpu", 1, &cfg, c, 6, 6, NULL), *padded = encode("cpu", 1, &cfg, c, N, 6, NULL);
    float *seen = encode("cpu", 1, &cfg, c, N, N, NULL);
    double max_abs, rel;

    (void)state;
    REQUIRE_CLOSE(padded, alone, 6 * D, 1e-6);
    test_distance(seen, alone, 6 * D, &max_abs, &rel);
    REQUIRE(rel > 0.01);                                            // and seen padding does
    free(alone);
    free(padded);
    free(seen);
    close_encoder(&w, c);
}

static void same_bits(void **state)
{
    Weights w;
    Umt5Config cfg;
    Ckpt *c = open_encoder(&w, &cfg);
    float *one = encode("cpu", 1, &cfg, c, N, N - 2, NULL), *three = encode("cpu", 3, &cfg, c, N, N - 2, NULL);

    (void)state;
    REQUIRE(!memcmp(one, three, sizeof(*one) * N * D));
    float *late = encode("guard", 1, &cfg, c, N, N - 2, NULL);
    REQUIRE(!memcmp(one, late, sizeof(*one) * N * D));
    free(late);
    free(one);
    free(three);
    close_encoder(&w, c);
}

static void planned_peak(void **state)
{
    const BackendOptions opt = { .threads = 1, .level = CPU_PLAIN, .plan_for = "cpu" };
    Weights w;
    Umt5Config cfg;
    Ckpt *c = open_encoder(&w, &cfg);
    size_t measured = 0;
    Backend *dry;
    Arena *scratch, *result;
    Umt5 t;

    (void)state;
    free(encode("cpu", 1, &cfg, c, N, N - 2, &measured));
    REQUIRE_OK(avt_backend_open(&dry, "dry", &opt));
    REQUIRE_OK(avt_arena_open(&scratch, dry, "scratch", ARENA_UNLIMITED));
    REQUIRE_OK(avt_arena_open(&result, dry, "result", ARENA_UNLIMITED));
    REQUIRE_OK(avt_umt5_open(&t, &cfg, NULL, dry, 0, 1));
    REQUIRE_OK(avt_umt5_encode(dry, dry, scratch, &t, avt_new(result, DT_F32, N, D), NULL, N, N - 2));
    REQUIRE(measured > 0);
    assert_int_equal(avt_arena_peak(scratch), measured);
    avt_umt5_close(&t);
    avt_arena_close(&result);
    avt_arena_close(&scratch);
    avt_backend_close(&dry);
    close_encoder(&w, c);
}

static void refused_tokens(void **state)
{
    static const int32_t outside[2] = { 3, VOCAB }, negative[2] = { -1, 3 };
    Weights w;
    Umt5Config cfg;
    Ckpt *c = open_encoder(&w, &cfg);
    TestBench b;
    Umt5 t;

    (void)state;
    test_bench_open(&b, "cpu", CPU_PLAIN, 1);
    b.be->log = test_log();
    REQUIRE_OK(avt_umt5_open(&t, &cfg, c, b.be, 0, 1));
    const Tensor out = avt_new(b.arena, DT_F32, 2, D);
    REQUIRE(avt_umt5_encode(b.be, b.be, b.arena, &t, out, outside, 2, 2) == AVT_ERR(EINVAL));
    REQUIRE(strstr(test_log_text(), "50") != NULL);
    REQUIRE(avt_umt5_encode(b.be, b.be, b.arena, &t, out, negative, 2, 2) == AVT_ERR(EINVAL));
    REQUIRE(avt_umt5_encode(b.be, b.be, b.arena, &t, out, prompt, 2, 3) == AVT_ERR(EINVAL));
    avt_umt5_close(&t);
    test_bench_close(&b);
    close_encoder(&w, c);
}

/* A file with one tensor changed: `skip` left out, `name` [rows, cols] added. The message must hold `text`. */
static void refuse(const char *skip, const char *name, int64_t rows, int64_t cols, const char *text)
{
    Weights w;
    Umt5Config cfg;
    Ckpt *c;

    weights_init(&w);
    w.skip = skip;
    add_encoder(&w);
    w.skip = NULL;
    if (name)
        WEIGHTS_ADD(&w, 0, 1, name, rows, cols);
    weights_write(&w);
    REQUIRE_OK(avt_ckpt_open(&c, w.path, test_log()));
    REQUIRE(avt_umt5_config(&cfg, c, test_log()) == AVT_INVALID);
    if (!strstr(test_log_text(), text))
        fail_msg("\"%s\" says nothing of %s", test_log_text(), text);
    close_encoder(&w, c);
}

static void refused_files(void **state)
{
    (void)state;
    refuse("token_embedding.weight", NULL, 0, 0, "token_embedding.weight");
    refuse("blocks.1.attn.v.weight", NULL, 0, 0, "wanted 32 tensors");
    refuse("blocks.1.ffn.fc2.weight", "blocks.1.ffn.fc2.weight", F, D, "blocks.1.ffn.fc2.weight");       // transposed
    refuse("norm.weight", "norm.weight", 1, D, "norm.weight");
    refuse(NULL, "blocks.1.attn.bias", 1, D, "blocks.1.attn.bias");
    refuse(NULL, "decoder.weight", D, D, "decoder.weight");
    refuse("blocks.0.pos_embedding.embedding.weight", "blocks.0.pos_embedding.embedding.weight", 64, NH, "32");
    refuse("blocks.0.pos_embedding.embedding.weight", "blocks.0.pos_embedding.embedding.weight", 32, 7, "7");
}

/* Shortened while prompts are encoded, long after it was opened: an error, where a mapping would end the process. */
static void shortened(void **state)
{
    Umt5Config cfg;
    TestBench b;
    Arena *scratch;
    Weights w;
    Umt5 t;
    Ckpt *c = open_encoder(&w, &cfg);

    (void)state;
    test_bench_open(&b, "cpu", CPU_PLAIN, 1);
    REQUIRE_OK(avt_arena_open(&scratch, b.be, "scratch", 1 << 24));
    REQUIRE_OK(avt_umt5_open(&t, &cfg, c, b.be, 0, 1));
    const Tensor out = avt_new(b.arena, DT_F32, 2, cfg.dim);
    REQUIRE_OK(avt_umt5_encode(b.be, b.be, scratch, &t, out, prompt, 2, 2));
    b.be->log = test_log();
    REQUIRE_OK(truncate(w.path, 4096));
    REQUIRE(avt_umt5_encode(b.be, b.be, scratch, &t, out, prompt, 2, 2) == AVT_ERR(ESTALE));
    REQUIRE(strstr(test_log_text(), "became shorter") != NULL);
    avt_umt5_close(&t);
    avt_arena_close(&scratch);
    test_bench_close(&b);
    close_encoder(&w, c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shortened),
        cmocka_unit_test(buckets), cmocka_unit_test(sizes), cmocka_unit_test(padding), cmocka_unit_test(same_bits),
        cmocka_unit_test(planned_peak), cmocka_unit_test(refused_tokens), cmocka_unit_test(refused_files),
    };

    return test_main("umt5", tests);
}
