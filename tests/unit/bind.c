/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The binder: values placed as the file has them, every kind of misfit named, planning without a file. */
#include <math.h>

#include "base/half.h"
#include "base/mem.h"
#include "files.h"
#include "files/bind.h"

enum { OUT = 3, IN = 4 };

static const float w32[OUT * IN] = { 1, 2, 3, 4, -1, 0.5f, 0.25f, 8, 1e-3f, 7, -9, 11 };
static const float b32[OUT] = { 0.5f, -1, 2 };
static uint16_t w16[OUT * IN], h16[OUT * IN];
static double w64[OUT * IN];
static const int32_t i32[OUT] = { 1, 2, 3 };
static const uint8_t f8[OUT * IN];
static float inf32[OUT], nan32[OUT * IN];
static const float zero32[OUT * IN];

typedef struct Bench {
    TestBench t;
    Buf file;
    Ckpt *ckpt;
    Binder b;
} Bench;

static void bench_open(Bench *x, const FileTensor *t, int nb)
{
    test_bench_open(&x->t, "cpu", CPU_PLAIN, 1);
    x->file = st_make(t, nb, NULL, 1);
    REQUIRE_OK(avt_ckpt_open_memory(&x->ckpt, "dir/net.safetensors", x->file.p, x->file.n, test_log()));
    REQUIRE_OK(avt_binder_open(&x->b, x->ckpt, NULL, x->t.arena, "net", DT_F32, test_log()));
}

static void bench_close(Bench *x)
{
    avt_binder_close(&x->b);
    avt_ckpt_close(&x->ckpt);
    test_bench_close(&x->t);
    buf_free(&x->file);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

/* What the weight does to the unit vectors is the weight: out = I w^T. */
static void require_linear(Bench *x, const Linear *l, const float *w, const float *bias, double tol)
{
    float one[IN * IN] = { 0 }, want[IN * OUT], *got;
    Tensor in, out;

    for (int i = 0; i < IN; i++)
        one[i * IN + i] = 1;
    in = TEST_TENSOR(&x->t, one, IN, IN);
    out = TEST_TENSOR(&x->t, NULL, IN, OUT);
    avt_linear(x->t.be, out, in, l, ACT_NONE);
    for (int i = 0; i < IN; i++)
        for (int o = 0; o < OUT; o++)
            want[i * OUT + o] = w[o * IN + i] + (bias ? bias[o] : 0);
    got = test_read(&x->t, out);
    REQUIRE_CLOSE(got, want, IN * OUT, tol);
    free(got);
}

static void test_placed(void **state)
{
    const FileTensor t[] = {
        { "net.0.l.weight", "F32", 2, { OUT, IN }, w32, sizeof(w32) },
        { "net.0.l.bias", "F32", 1, { OUT }, b32, sizeof(b32) },
        { "net.1.l.weight", "BF16", 2, { OUT, IN }, w16, sizeof(w16) },
        { "net.2.l.weight", "F16", 2, { OUT, IN }, h16, sizeof(h16) },
        { "net.3.l.weight", "F64", 2, { OUT, IN }, w64, sizeof(w64) },
        { "net.mod", "BF16", 3, { 1, OUT, IN }, w16, sizeof(w16) },
        { "net.extra.a", "F32", 1, { OUT }, b32, sizeof(b32) },
        { "net.extra.b", "F32", 1, { OUT }, b32, sizeof(b32) },
        { "other", "F32", 1, { OUT }, b32, sizeof(b32) },
    };
    float r16[OUT * IN], rh[OUT * IN], *got, *host;
    Bench x;
    Linear l;
    Tensor m;

    (void)state;
    avt_to_f32(r16, DT_BF16, w16, 0, OUT * IN);
    avt_to_f32(rh, DT_F16, h16, 0, OUT * IN);
    bench_open(&x, t, 9);
    x.b.prefix = "net.";
    l = avt_bind_linear(&x.b, OUT, IN, 1, "%d.l", 0);
    require_linear(&x, &l, w32, b32, 0);
    l = avt_bind_linear(&x.b, OUT, IN, 0, "%d.l", 1);
    REQUIRE(!l.b.be);
    require_linear(&x, &l, r16, NULL, 0);
    l = avt_bind_linear(&x.b, OUT, IN, 0, "%d.l", 2);
    require_linear(&x, &l, rh, NULL, 0);
    l = avt_bind_linear(&x.b, OUT, IN, 0, "%d.l", 3);
    require_linear(&x, &l, w32, NULL, 0);
    m = avt_bind(&x.b, WEIGHT_PLAIN, AVT_DIMS(OUT, IN), "mod");
    REQUIRE(m.nd == 2 && m.dim[0] == OUT && m.dim[1] == IN && m.dtype == DT_F32 && !m.packed);
    got = test_read(&x.t, m);
    REQUIRE(!memcmp(got, r16, sizeof(r16)));
    free(got);
    REQUIRE(avt_bind_has(&x.b, "extra.%s", "a") && !avt_bind_has(&x.b, "extra.c") && !avt_bind_has(&x.b, "other"));
    host = avt_bind_host(&x.b, AVT_DIMS(OUT), "extra.a");
    REQUIRE(host && !memcmp(host, b32, sizeof(b32)));
    avt_free(host);
    avt_bind_ignore(&x.b, "extra.*");
    avt_bind_ignore(&x.b, "other");
    REQUIRE_OK(avt_binder_finish(&x.b, 0));
    REQUIRE(!test_log_text()[0]);
    bench_close(&x);
}

/* Parts of a matrix and of a vector: what lies there, read alone; without a file the room that they take. */
static void test_parts(void **state)
{
    const FileTensor t[] = {
        { "l.weight", "BF16", 2, { OUT, IN }, w16, sizeof(w16) }, { "l.bias", "F32", 1, { OUT }, b32, sizeof(b32) },
        { "m.weight", "F32", 2, { OUT, IN }, w32, sizeof(w32) }, { "v", "F32", 1, { OUT }, b32, sizeof(b32) },
    };
    const WeightPart rows = { 0, 1, 2 }, columns = { 1, 1, 3 };
    float r16[OUT * IN], one[IN * IN] = { 0 }, *got;
    Tensor v, out;
    Linear l;
    Bench x;

    (void)state;
    avt_to_f32(r16, DT_BF16, w16, 0, OUT * IN);
    for (int i = 0; i < IN; i++)
        one[i * IN + i] = 1;
    bench_open(&x, t, 4);
    l = avt_bind_linear_part(&x.b, OUT, IN, 1, &rows, "l");
    REQUIRE(l.w.dim[0] == 2 && l.w.dim[1] == IN && avt_numel(l.b) == 2);
    out = TEST_TENSOR(&x.t, NULL, IN, 2);
    avt_linear(x.t.be, out, TEST_TENSOR(&x.t, one, IN, IN), &l, ACT_NONE);
    got = test_read(&x.t, out);
    for (int i = 0; i < IN * 2; i++)
        REQUIRE(got[i] == r16[(1 + i % 2) * IN + i / 2] + b32[1 + i % 2]);
    free(got);
    l = avt_bind_linear_part(&x.b, OUT, IN, 0, &columns, "m");
    REQUIRE(l.w.dim[0] == OUT && l.w.dim[1] == 3 && !l.b.be);
    out = TEST_TENSOR(&x.t, NULL, IN, OUT);
    avt_linear(x.t.be, out, avt_reshape(avt_rows(TEST_TENSOR(&x.t, one, IN, IN), 0, 3), 2, (const int64_t[]){ IN, 3 }), &l, ACT_NONE);
    got = test_read(&x.t, out);
    for (int i = 0; i < IN; i++)                                    // row i of the unit matrix's first 12 numbers, three at a time
        for (int o = 0; o < OUT; o++)
            REQUIRE(got[i * OUT + o] == one[3 * i] * w32[o * IN + 1] + one[3 * i + 1] * w32[o * IN + 2] + one[3 * i + 2] * w32[o * IN + 3]);
    free(got);
    v = avt_bind_vector_part(&x.b, OUT, &rows, "v");
    got = test_read(&x.t, v);
    REQUIRE(avt_numel(v) == 2 && got[0] == b32[1] && got[1] == b32[2]);
    free(got);
    REQUIRE(x.b.raw_size <= 3 * OUT * sizeof(float) + 1);
    REQUIRE_OK(avt_binder_finish(&x.b, 1));
    bench_close(&x);
}

static void test_conv(void **state)
{
    const FileTensor t[] = {
        { "c.weight", "F32", 3, { OUT, 2, 2 }, w32, sizeof(w32) }, { "c.bias", "F32", 1, { OUT }, b32, sizeof(b32) },
    };
    Bench x;
    Conv c;
    Tensor own;

    (void)state;
    bench_open(&x, t, 2);
    c = avt_bind_conv(&x.b, WEIGHT_CONV1D, AVT_DIMS(OUT, 2, 2), "%s", "c");
    REQUIRE(c.w.data && c.w.nd == 3 && c.b.data && c.b.dim[0] == OUT);
    own = avt_bind_computed(&x.b, WEIGHT_PLAIN, AVT_DIMS(OUT), b32);
    REQUIRE(own.data != NULL);
    REQUIRE_OK(avt_binder_finish(&x.b, 0));
    bench_close(&x);
}

/* ---- misfits ------------------------------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    const FileTensor bad[] = {
        { "other", "F32", 2, { OUT, IN }, w32, sizeof(w32) },
        { "l.weight", "F32", 2, { IN, OUT }, w32, sizeof(w32) },
        { "l.weight", "F32", 1, { OUT * IN }, w32, sizeof(w32) },
        { "l.weight", "BF16", 2, { OUT, IN - 1 }, w16, OUT * (IN - 1) * 2 },
        { "l.weight", "I32", 2, { OUT, 1 }, i32, sizeof(i32) },
        { "l.weight", "I32", 2, { OUT, IN }, w32, sizeof(w32) },
        { "l.weight", "U8", 2, { OUT, IN }, f8, sizeof(f8) },
        { "l.weight", "F8_E4M3", 2, { OUT, IN }, f8, sizeof(f8) },
        { "l.weight", "F32", 2, { OUT, IN }, nan32, sizeof(nan32) },
    };
    static const char *const said[][2] = {
        { "tensor l.weight [3, 4] is missing", "left over: 1 tensor that this network does not know: other" },
        { "tensor l.weight: wanted [3, 4], the file has f32 [4, 3]", "" },
        { "tensor l.weight: wanted [3, 4], the file has f32 [12]", "" },
        { "tensor l.weight: wanted [3, 4], the file has bf16 [3, 3]", "" },
        { "tensor l.weight: wanted [3, 4], the file has i32 [3, 1]", "" },
        { "tensor l.weight: wanted f32, bf16, f16, f8_e4m3 or i8, the file has i32", "" },
        { "tensor l.weight: wanted f32, bf16, f16, f8_e4m3 or i8, the file has u8", "" },
        { "tensor l.weight: f8_e4m3 without its scales", "published" },
        { "tensor l.weight: value 7 of [3, 4] is not finite", "" },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        Bench x;

        bench_open(&x, &bad[i], 1);
        avt_bind_linear(&x.b, OUT, IN, 0, "l");
        REQUIRE(avt_binder_finish(&x.b, 0) == AVT_INVALID);
        require_said("net: dir/net.safetensors: ", said[i][0]);
        require_said(said[i][0], said[i][1]);
        bench_close(&x);
    }
}

static void test_other_users(void **state)
{
    const FileTensor t[] = { { "v", "F32", 1, { OUT }, inf32, sizeof(inf32) } };
    Bench x;
    Tensor h;

    (void)state;
    bench_open(&x, t, 1);
    REQUIRE(avt_bind_host(&x.b, AVT_DIMS(OUT), "v") == NULL);
    require_said("tensor v: value 1 of [3]", "not finite");
    h = avt_bind_computed(&x.b, WEIGHT_PLAIN, AVT_DIMS(OUT), NULL);
    REQUIRE(h.be && !h.data && h.dim[0] == OUT);
    REQUIRE(avt_binder_finish(&x.b, 0) == AVT_INVALID);
    bench_close(&x);
}

/* Many problems: five are named, all are counted. */
static void test_counts(void **state)
{
    FileTensor t[9];
    char names[9][24];
    Bench x;
    int lines = 0;

    (void)state;
    for (int i = 0; i < 9; i++) {
        snprintf(names[i], sizeof(names[i]), "left.%d", i);
        t[i] = (FileTensor){ names[i], "F32", 1, { OUT }, b32, sizeof(b32) };
    }
    bench_open(&x, t, 9);
    for (int i = 0; i < 12; i++)
        avt_bind(&x.b, WEIGHT_PLAIN, AVT_DIMS(OUT), "gone.%d", i);
    REQUIRE(avt_binder_finish(&x.b, 0) == AVT_INVALID);
    require_said("gone.4", "12 problems, the first 5 are above");
    require_said("left over: 9 tensors", "left.0, left.1, left.2, left.3, left.4, ...");
    REQUIRE(!strstr(test_log_text(), "gone.5") && !strstr(test_log_text(), "left.5"));
    for (const char *s = test_log_text(); s; s = strchr(s + 1, '\n'))
        lines++;
    REQUIRE(lines == 7);
    bench_close(&x);

    bench_open(&x, t, 9);
    avt_bind(&x.b, WEIGHT_PLAIN, AVT_DIMS(OUT), "left.0");
    REQUIRE_OK(avt_binder_finish(&x.b, 1));                         // partial: what is left is another rank's
    bench_close(&x);
}

/* In a checkpoint of several files the complaint names the shard. */
static void test_shard(void **state)
{
    const FileTensor t[] = { { "l.weight", "F32", 2, { IN, OUT }, w32, sizeof(w32) } };
    TestBench bench;
    Ckpt *c;
    Binder b;

    (void)state;
    tmp_open();
    st_write("m-1.safetensors", t, 1);
    tmp_text("m.safetensors.index.json", "{\"weight_map\":{\"l.weight\":\"m-1.safetensors\"}}");
    test_bench_open(&bench, "cpu", CPU_PLAIN, 1);
    REQUIRE_OK(avt_ckpt_open(&c, tmp_path("m.safetensors.index.json"), test_log()));
    REQUIRE_OK(avt_binder_open(&b, c, NULL, bench.arena, "net", DT_F32, test_log()));
    avt_bind_linear(&b, OUT, IN, 0, "l");
    REQUIRE(avt_binder_finish(&b, 0) == AVT_INVALID);
    require_said("m.safetensors.index.json: tensor l.weight in m-1.safetensors: wanted [3, 4]", "f32 [4, 3]");
    avt_binder_close(&b);
    avt_ckpt_close(&c);
    test_bench_close(&bench);
    tmp_close();
}

static void test_zero_weight(void **state)
{
    const FileTensor t[] = { { "l.weight", "F32", 2, { OUT, IN }, zero32, sizeof(zero32) } };
    Bench x;

    (void)state;
    bench_open(&x, t, 1);
    avt_bind_linear(&x.b, OUT, IN, 0, "l");
    require_said("every value of tensor l.weight is zero", "dir/net.safetensors");
    REQUIRE_OK(avt_binder_finish(&x.b, 0));
    bench_close(&x);
}

/* ---- no file, no memory -------------------------------------------------------------------------------------------- */

static void bind_some(Binder *b)
{
    avt_bind_linear(b, OUT, IN, 1, "l");
    avt_bind(b, WEIGHT_PLAIN, AVT_DIMS(OUT, 7), "mod");
    avt_bind_conv(b, WEIGHT_CONV1D, AVT_DIMS(OUT, 2, 2), "c");
}

static void test_plan(void **state)
{
    const float big[OUT * 7] = { 1 };
    const FileTensor t[] = {
        { "l.weight", "BF16", 2, { OUT, IN }, w16, sizeof(w16) }, { "l.bias", "BF16", 1, { OUT }, w16, OUT * 2 },
        { "mod", "F32", 2, { OUT, 7 }, big, sizeof(big) }, { "c.weight", "BF16", 3, { OUT, 2, 2 }, w16, sizeof(w16) },
        { "c.bias", "BF16", 1, { OUT }, w16, OUT * 2 },
    };
    TestBench plan;
    Binder b;
    Bench x;

    (void)state;
    test_bench_open(&plan, "cpu", CPU_PLAIN, 1);
    REQUIRE_OK(avt_binder_open(&b, NULL, NULL, plan.arena, "net", DT_BF16, test_log()));
    bind_some(&b);
    REQUIRE(!avt_bind_has(&b, "l.weight"));
    REQUIRE(avt_bind_host(&b, AVT_DIMS(OUT), "l.bias") == NULL);
    avt_bind_ignore(&b, "*");
    REQUIRE_OK(avt_binder_finish(&b, 0));
    avt_binder_close(&b);
    bench_open(&x, t, 5);
    bind_some(&x.b);
    REQUIRE_OK(avt_binder_finish(&x.b, 0));
    REQUIRE(avt_arena_used(plan.arena) == avt_arena_used(x.t.arena) && avt_arena_used(x.t.arena) > 0);
    bench_close(&x);
    test_bench_close(&plan);
}

static void test_no_memory(void **state)
{
    const FileTensor t[] = {
        { "l.weight", "F16", 2, { OUT, IN }, h16, sizeof(h16) },
        { "l.bias", "F32", 1, { OUT }, b32, sizeof(b32) },
        { "mod", "F32", 2, { OUT, 7 }, (const float[OUT * 7]){ 1 }, OUT * 28 },
        { "c.weight", "F16", 3, { OUT, 2, 2 }, h16, sizeof(h16) },
        { "c.bias", "F32", 1, { OUT }, b32, sizeof(b32) },
    };
    Bench x;
    int n = 0, ret;

    (void)state;
    bench_open(&x, t, 5);
    avt_binder_close(&x.b);
    do {
        avt_mem_fail_at(++n);
        ret = avt_binder_open(&x.b, x.ckpt, NULL, x.t.arena, "net", DT_F32, NULL);
        if (ret >= 0) {
            bind_some(&x.b);
            ret = avt_binder_finish(&x.b, 0);
        }
        avt_mem_fail_at(0);
        REQUIRE(ret == 0 || ret == AVT_ERR(ENOMEM));
        avt_binder_close(&x.b);
        avt_reset(x.t.be);
    } while (ret < 0 && n < 100);
    REQUIRE(n > 2 && n < 100);
    bench_close(&x);
}

/* The arena may be too small: the backend's failure becomes the binder's. */
static void test_full_arena(void **state)
{
    const FileTensor t[] = { { "l.weight", "F32", 2, { OUT, IN }, w32, sizeof(w32) } };
    Arena *small;
    Bench x;

    (void)state;
    bench_open(&x, t, 1);
    REQUIRE_OK(avt_arena_open(&small, x.t.be, "small", 16));
    x.b.weights = small;
    avt_bind_linear(&x.b, OUT, IN, 0, "l");
    avt_bind_linear(&x.b, OUT, IN, 0, "l");
    REQUIRE(avt_binder_finish(&x.b, 0) == AVT_ERR(ENOMEM));
    avt_arena_close(&small);
    bench_close(&x);
}

/* The file is shortened before its weights are placed: an error of one sentence, and no more is read. */
static void test_shortened(void **state)
{
    enum { N = 64 };
    static float v[N * N];
    const FileTensor t[] = { { "a.weight", "F32", 2, { N, N }, v, sizeof(v) }, { "b.weight", "F32", 2, { N, N }, v, sizeof(v) } };
    const char *path;
    TestBench bench;
    Ckpt *c;
    Binder b;

    (void)state;
    for (int i = 0; i < N * N; i++)
        v[i] = 1;
    tmp_open();
    test_bench_open(&bench, "cpu", CPU_PLAIN, 1);
    path = st_write("w.safetensors", t, 2);
    REQUIRE_OK(avt_ckpt_open(&c, path, test_log()));
    REQUIRE_OK(avt_binder_open(&b, c, NULL, bench.arena, "net", DT_F32, test_log()));
    REQUIRE_OK(truncate(path, 4096));
    avt_bind_linear(&b, N, N, 0, "a");
    require_said("w.safetensors", "became shorter");
    test_log();
    avt_bind_linear(&b, N, N, 0, "b");
    REQUIRE(avt_binder_finish(&b, 0) == AVT_ERR(ESTALE));
    REQUIRE(!test_log_text()[0]);
    avt_binder_close(&b);
    avt_ckpt_close(&c);
    test_bench_close(&bench);
    tmp_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shortened),
        cmocka_unit_test(test_placed),      cmocka_unit_test(test_parts), cmocka_unit_test(test_conv),   cmocka_unit_test(test_refused),
        cmocka_unit_test(test_other_users), cmocka_unit_test(test_counts), cmocka_unit_test(test_shard),
        cmocka_unit_test(test_zero_weight), cmocka_unit_test(test_plan),   cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_full_arena),
    };

    for (int i = 0; i < OUT * IN; i++) {
        w16[i] = avt_f32_bf16(w32[i]);
        h16[i] = avt_f32_f16(w32[i]);
        w64[i] = w32[i];
        nan32[i] = i == 7 ? NAN : 1;
    }
    inf32[1] = -INFINITY;
    return test_main("bind", tests);
}
