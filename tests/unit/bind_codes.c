/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The binder and codes: what a file's stand for, that they keep their bits where they are wanted, every bad scale named. */
#include <math.h>

#include "files.h"
#include "files/bind.h"
#include "quantize.h"

enum { OUT = 3, IN = 16 };

static float w32[OUT * IN];
static uint8_t f8[OUT * IN], i8[OUT * IN];
static float scale8[OUT], scale_i8[OUT];
static const float quarter = 0.25f;
static const int32_t group = 16;

typedef struct Bench {
    TestBench t;
    Buf file;
    Ckpt *ckpt;
    Binder b;
} Bench;

static void bench_open(Bench *x, const char *device, DType product, const FileTensor *t, int nb)
{
    const BackendOptions opt = { .threads = 1, .level = CPU_PLAIN, .product = product };

    x->t = (TestBench){ .act = DT_F32 };
    REQUIRE_OK(avt_backend_open(&x->t.be, device, &opt));
    REQUIRE_OK(avt_arena_open(&x->t.arena, x->t.be, "test", 1 << 20));
    x->file = st_make(t, nb, NULL, 1);
    REQUIRE_OK(avt_ckpt_open_memory(&x->ckpt, "dir/net.safetensors", x->file.p, x->file.n, test_log()));
    REQUIRE_OK(avt_binder_open(&x->b, x->ckpt, NULL, x->t.arena, "net", DT_F32, test_log()));
    x->b.act = x->t.be->product;
}

static void bench_close(Bench *x)
{
    avt_binder_close(&x->b);
    avt_ckpt_close(&x->ckpt);
    test_bench_close(&x->t);
    buf_free(&x->file);
}

/* Numbers of the codes in t, as f32 */
static void stands_for(const FileTensor *t, int nb, const float *want)
{
    Bench x;
    Tensor w;
    float *host;

    bench_open(&x, "cpu", DT_F32, t, nb);
    w = avt_bind(&x.b, WEIGHT_LINEAR, AVT_DIMS(OUT, IN), "l.weight");
    host = avt_bind_host(&x.b, AVT_DIMS(OUT, IN), "l.weight");
    REQUIRE_OK(avt_binder_finish(&x.b, 0));
    REQUIRE(!test_log_text()[0]);
    assert_memory_equal(w.data, want, OUT * IN * sizeof(float));
    assert_memory_equal(host, want, OUT * IN * sizeof(float));
    avt_free(host);
    bench_close(&x);
}

static void test_values(void **state)
{
    const FileTensor ours[] = { { "l.weight", "F8_E4M3", 2, { OUT, IN }, f8, sizeof(f8) },
                                { "l.weight_scale", "F32", 1, { OUT }, scale8, sizeof(scale8) } };
    const FileTensor column[] = { ours[0], { "l.weight_scale", "F32", 2, { OUT, 1 }, scale8, sizeof(scale8) } };
    const FileTensor one[] = { ours[0], { "l.weight_scale", "F32", 0, { 0 }, &quarter, sizeof(quarter) },
                               { "l.input_scale", "F32", 1, { 1 }, &quarter, sizeof(quarter) } };
    const FileTensor old[] = { ours[0], { "l.scale_weight", "F32", 1, { 1 }, &quarter, sizeof(quarter) },
                               { "l.scale_input", "F32", 1, { 1 }, &quarter, sizeof(quarter) } };
    const FileTensor rotated[] = { { "l.weight", "I8", 2, { OUT, IN }, i8, sizeof(i8) },
                                   { "l.weight_scale", "F32", 1, { OUT }, scale_i8, sizeof(scale_i8) },
                                   { "l.weight_rotation", "I32", 1, { 1 }, &group, sizeof(group) } };
    const float quarters[OUT] = { 0.25f, 0.25f, 0.25f };
    float want[OUT * IN];

    (void)state;
    avt_dequantize_rows(want, DT_F8_E4M3, f8, scale8, OUT, IN, 1);
    stands_for(ours, 2, want);
    stands_for(column, 2, want);
    avt_dequantize_rows(want, DT_F8_E4M3, f8, quarters, OUT, IN, 1);
    stands_for(one, 3, want);
    stands_for(old, 3, want);
    avt_dequantize_rows(want, DT_I8, i8, scale_i8, OUT, IN, group);
    stands_for(rotated, 3, want);
    avt_dequantize_rows(want, DT_I8, i8, scale_i8, OUT, IN, 1);                     // without its size a group is one number
    stands_for(rotated, 2, want);
}

/* What a weight of f32 becomes is what a file of its codes is, on each device; and codes of the other type are made anew. */
static void test_bits(void **state)
{
    const FileTensor plain[] = { { "l.weight", "F32", 2, { OUT, IN }, w32, sizeof(w32) } };
    const FileTensor file[][3] = {
        { { "l.weight", "F8_E4M3", 2, { OUT, IN }, f8, sizeof(f8) }, { "l.weight_scale", "F32", 1, { OUT }, scale8, sizeof(scale8) } },
        { { "l.weight", "I8", 2, { OUT, IN }, i8, sizeof(i8) }, { "l.weight_scale", "F32", 1, { OUT }, scale_i8, sizeof(scale_i8) },
          { "l.weight_rotation", "I32", 1, { 1 }, &group, sizeof(group) } },
    };
    static const DType type[] = { DT_F8_E4M3, DT_I8 };

    (void)state;
    for (int made = 0; made < 2; made++)                                            // what the file is made of
        for (int i = 0; i < 2; i++) {
            Tensor w[2];
            Bench x[2];

            bench_open(&x[0], "cpu", type[i], plain, 1);
            bench_open(&x[1], "cpu", type[i], file[made], 2 + made);
            for (int j = 0; j < 2; j++) {
                w[j] = avt_bind(&x[j].b, WEIGHT_LINEAR, AVT_DIMS(OUT, IN), "l.weight");
                REQUIRE_OK(avt_binder_finish(&x[j].b, 0));
                REQUIRE(w[j].dtype == type[i] && w[j].act == type[i]);
            }
            REQUIRE(avt_arena_used(x[0].t.arena) == avt_arena_used(x[1].t.arena));
            if (made == i) {
                assert_memory_equal(w[0].data, w[1].data, OUT * IN);
                assert_memory_equal(w[0].scale, w[1].scale, OUT * sizeof(float));
            }
            bench_close(&x[0]);
            bench_close(&x[1]);
        }
}

/* On `dry` as many bytes are planned as are used. */
static void test_planned(void **state)
{
    const FileTensor t[] = { { "l.weight", "F8_E4M3", 2, { OUT, IN }, f8, sizeof(f8) },
                             { "l.weight_scale", "F32", 1, { OUT }, scale8, sizeof(scale8) } };
    static const DType type[] = { DT_F32, DT_F8_E4M3, DT_I8 };

    (void)state;
    for (int i = 0; i < 3; i++) {
        const BackendOptions opt = { .level = CPU_PLAIN, .product = type[i], .plan_for = "cpu" };
        Backend *be;
        Arena *a;
        Binder b;
        Bench x;

        bench_open(&x, "cpu", type[i], t, 2);
        avt_bind(&x.b, WEIGHT_LINEAR, AVT_DIMS(OUT, IN), "l.weight");
        REQUIRE_OK(avt_backend_open(&be, "dry", &opt));
        REQUIRE_OK(avt_arena_open(&a, be, "dry", ARENA_UNLIMITED));
        REQUIRE_OK(avt_binder_open(&b, x.ckpt, NULL, a, "net", DT_F32, NULL));
        b.act = be->product;
        avt_bind(&b, WEIGHT_LINEAR, AVT_DIMS(OUT, IN), "l.weight");
        REQUIRE_OK(avt_binder_finish(&b, 0));
        REQUIRE(avt_arena_used(a) == avt_arena_used(x.t.arena));
        avt_binder_close(&b);
        avt_arena_close(&a);
        avt_backend_close(&be);
        bench_close(&x);
    }
}

static void refuse(const FileTensor *codes, const FileTensor *beside, const char *said)
{
    const FileTensor t[] = { *codes, beside ? *beside : *codes, { "l.weight_scale", "F32", 1, { OUT }, scale8, sizeof(scale8) } };
    const int with_scale = beside && strcmp(beside->name, "l.weight_scale");

    for (int i = 0; i < 2; i++) {
        Bench x;

        bench_open(&x, "cpu", i ? codes->dtype[0] == 'I' ? DT_I8 : DT_F8_E4M3 : DT_F32, t, !beside ? 1 : 2 + with_scale);
        avt_bind_linear(&x.b, OUT, IN, 0, "l");
        REQUIRE(avt_binder_finish(&x.b, 0) == AVT_INVALID);
        if (!strstr(test_log_text(), said))
            fail_msg("'%s' is not in: %s", said, test_log_text());
        bench_close(&x);
    }
}

static void test_bad(void **state)
{
    static const float bad[] = { 0, -0.0f, NAN, INFINITY, -INFINITY, 1e30f, -1, 70000 };
    static const int32_t groups[] = { 0, 2, -16, 1024, 64, INT32_MIN };
    const FileTensor t = { "l.weight", "F8_E4M3", 2, { OUT, IN }, f8, sizeof(f8) };
    const FileTensor codes = { "l.weight", "I8", 2, { OUT, IN }, i8, sizeof(i8) };
    uint8_t nan8[OUT * IN] = { 0 };
    const FileTensor broken = { "l.weight", "F8_E4M3", 2, { OUT, IN }, nan8, sizeof(nan8) };

    (void)state;
    nan8[5] = 0xff;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        float scale[OUT] = { 1, bad[i], 1 };

        refuse(&t, &(FileTensor){ "l.weight_scale", "F32", 1, { OUT }, scale, sizeof(scale) }, "tensor l.weight_scale: scale 1 is ");
        refuse(&codes, &(FileTensor){ "l.weight_scale", "F32", 0, { 0 }, scale + 1, sizeof(float) }, "tensor l.weight_scale: scale 0 is ");
        refuse(&t, &(FileTensor){ "l.scale_weight", "F32", 0, { 0 }, scale + 1, sizeof(float) }, "left over");     // two: ours counts
    }
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++)
        refuse(&codes, &(FileTensor){ "l.weight_rotation", "I32", 1, { 1 }, &groups[i], sizeof(groups[i]) }, "tensor l.weight_rotation: ");
    refuse(&codes, &(FileTensor){ "l.weight_rotation", "F32", 1, { 1 }, &quarter, sizeof(quarter) }, "tensor l.weight_rotation: ");
    refuse(&t, NULL, "f8_e4m3 without its scales, l.weight_scale");
    refuse(&codes, NULL, "i8 without its scales, l.weight_scale");
    refuse(&t, &(FileTensor){ "l.weight_scale", "F32", 1, { 2 }, scale8, 2 * sizeof(float) }, "2 scales of type f32 for 3 rows");
    refuse(&t, &(FileTensor){ "l.weight_scale", "I32", 1, { OUT }, scale8, sizeof(scale8) }, "3 scales of type i32");
    refuse(&broken, &(FileTensor){ "l.weight_scale", "F32", 1, { OUT }, scale8, sizeof(scale8) }, "value 5 of [3, 16] is not finite");
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_values), cmocka_unit_test(test_bits), cmocka_unit_test(test_planned),
                                        cmocka_unit_test(test_bad) };

    test_random(w32, OUT * IN, 3);
    REQUIRE_OK(avt_quantize_rows(f8, scale8, DT_F8_E4M3, DT_F32, w32, OUT, IN));
    REQUIRE_OK(avt_quantize_rows(i8, scale_i8, DT_I8, DT_F32, w32, OUT, IN));
    return test_main("bind_codes", tests);
}
