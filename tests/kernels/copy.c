/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* copy between float types; weights out of every file type; uploads, downloads, the sticky failure. */
#include "base/half.h"
#include "op.h"

typedef struct Arg {
    DType from;
    int64_t nb;
    const void *x;
} Arg;

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const Tensor x = avt_new(t->arena, a->from, a->nb);

    avt_upload(t->be, x, a->x);
    avt_copy(t->be, out, x);
}

/* v as a value of type `t` at index i of p */
static void store(void *p, DType t, int64_t i, float v)
{
    switch (t) {
    case DT_F32:     ((float *)p)[i] = v;                     break;
    case DT_BF16:    ((uint16_t *)p)[i] = avt_f32_bf16(v);    break;
    case DT_F16:     ((uint16_t *)p)[i] = avt_f32_f16(v);     break;
    case DT_F8_E4M3: ((uint8_t *)p)[i] = avt_f32_e4m3(v);     break;
    case DT_F8_E5M2: ((uint8_t *)p)[i] = (uint8_t)(avt_f32_f16(v) >> 8); break;     // truncated: fine for a test
    default:         ((double *)p)[i] = v;
    }
}

static float load(const void *p, DType t, int64_t i)
{
    switch (t) {
    case DT_F32:     return ((const float *)p)[i];
    case DT_BF16:    return avt_bf16_f32(((const uint16_t *)p)[i]);
    case DT_F16:     return avt_f16_f32(((const uint16_t *)p)[i]);
    case DT_F8_E4M3: return avt_e4m3_f32(((const uint8_t *)p)[i]);
    case DT_F8_E5M2: return avt_e5m2_f32(((const uint8_t *)p)[i]);
    default:         return (float)((const double *)p)[i];
    }
}

static void conversions(void **state)
{
    static const int64_t size[] = { 1, 7, 255, 257, 70003 };

    (void)state;
    for (int i = 0; i < 9 * 5; i++) {
        const int64_t nb = size[i / 9];
        const DType from = (DType)(i % 3), to = (DType)(i / 3 % 3);
        float *v = op_values(nb, RANDOM, (uint64_t)i);
        uint8_t *x = malloc((size_t)nb * 4), *want = malloc((size_t)nb * 4), *got = malloc((size_t)nb * 4);

        for (int64_t j = 0; j < nb; j++)
            store(x, from, j, v[j] * (j % 5 ? 1 : 1e-5f));
        for (int64_t j = 0; j < nb; j++)
            store(want, to, j, load(x, from, j));
        op_check(&(OpCase){ .name = "copy", .op = OP_COPY, .dtype = to, .nd = 1, .dim = { nb }, .run = run, .plain = got,
                            .arg = &(Arg){ .from = from, .nb = nb, .x = x } });
        if (!op_bench_mode)
            assert_memory_equal(got, want, (size_t)nb * avt_dtype_size(to));
        free(v);
        free(x);
        free(want);
        free(got);
    }
}

static void integers(void **state)
{
    const int32_t x[5] = { 1, -2, INT32_MAX, INT32_MIN, 0 };
    int32_t got[5];

    (void)state;
    op_check(&(OpCase){ .name = "copy i32", .op = OP_COPY, .dtype = DT_I32, .nd = 1, .dim = { 5 }, .run = run, .plain = got,
                        .arg = &(Arg){ .from = DT_I32, .nb = 5, .x = x } });
    if (!op_bench_mode)
        assert_memory_equal(got, x, sizeof(x));
}

/* The same numbers, stored as each type, give the same product as f32 weights of those numbers, at every level. */
static void weights(void **state)
{
    enum { N = 13, K = 21 };
    static const DType types[] = { DT_F32, DT_BF16, DT_F16, DT_F8_E4M3, DT_F8_E5M2, DT_F64 };
    float *v = op_values(N * K, RANDOM, 3), *x = op_values(K, RANDOM, 4);

    (void)state;
    for (CpuLevel level = CPU_PLAIN; level <= CPU_AUTO; level++)
        for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
            const int64_t dim[2] = { N, K };
            uint8_t bytes[N * K * 8 + 1];                           // one past: any alignment will do
            float exact[N * K], *a, *b;
            TestBench t;
            Tensor in, out[2];

            for (int64_t j = 0; j < N * K; j++)
                store(bytes, types[i], j, v[j]);
            for (int64_t j = 0; j < N * K; j++)
                exact[j] = load(bytes, types[i], j);
            memmove(bytes + 1, bytes, (size_t)(N * K) * avt_dtype_size(types[i]));
            op_open(&t, level, 2, DT_F32);
            in = TEST_TENSOR(&t, x, 1, K);
            for (int k = 0; k < 2; k++) {
                const Linear l = { .w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F32, k ? DT_F32 : types[i], 2, dim,
                                                       k ? (void *)exact : bytes + 1) };

                out[k] = avt_new(t.arena, DT_F32, 1, N);
                avt_linear(t.be, out[k], in, &l, ACT_NONE);
            }
            a = test_read(&t, out[0]);
            b = test_read(&t, out[1]);
            REQUIRE_CLOSE(a, b, N, level == CPU_PLAIN ? 1e-7 : 2e-6 * sqrt(K));
            free(a);
            free(b);
            test_bench_close(&t);
        }
    free(v);
    free(x);
}

/* A plain weight is an ordinary f32 tensor; an integer type is refused. */
static void plain_weights(void **state)
{
    const uint16_t half[3] = { 0x3c00, 0xc000, 0x0001 };
    const int64_t dim[1] = { 3 }, ints[3] = { 1, 2, 3 };
    TestBench t;
    Tensor w;
    float *v;

    (void)state;
    op_refuser_open(&t);
    w = avt_weight_put(t.arena, WEIGHT_PLAIN, DT_F32, DT_F16, 1, dim, half);
    assert_int_equal(w.dtype, DT_F32);
    assert_int_equal(w.packed, 0);
    v = test_read(&t, w);
    assert_true(v[0] == 1 && v[1] == -2 && v[2] == 0x1p-24f);
    free(v);
    avt_weight_put(t.arena, WEIGHT_PLAIN, DT_F32, DT_I64, 1, dim, ints);
    assert_int_equal(avt_sync(t.be), AVT_ERR(EINVAL));
    test_bench_close(&t);
}

/* A level stores what it says it stores: weight_bytes is enough for weight_put at odd sizes (guards behind it stay). */
static void weight_size(void **state)
{
    static const struct { WeightUse use; int nd; int64_t dim[5]; } w[] = {
        { WEIGHT_PLAIN, 1, { 3 } }, { WEIGHT_LINEAR, 2, { 5, 7 } }, { WEIGHT_LINEAR, 2, { 1, 1 } },
        { WEIGHT_CONV3D, 5, { 3, 5, 3, 3, 3 } }, { WEIGHT_CONV3D, 5, { 9, 1, 1, 1, 1 } },
        { WEIGHT_CONV1D, 3, { 10, 2, 3 } },
    };
    float *src = op_values(5000, RANDOM, 1);

    (void)state;
    for (CpuLevel level = CPU_PLAIN; level <= CPU_AUTO; level++)
        for (size_t i = 0; i < sizeof(w) / sizeof(w[0]); i++)
            for (int dtype = DT_F32; dtype <= DT_BF16; dtype++) {
                TestBench t;
                Tensor guard;
                size_t used;
                float *g, fives[16];

                for (int j = 0; j < 16; j++)
                    fives[j] = 5;
                op_open(&t, level, 1, DT_F32);
                used = avt_arena_used(t.arena);
                avt_weight_put(t.arena, w[i].use, DT_F32, (DType)dtype, w[i].nd, w[i].dim, NULL);
                guard = TEST_TENSOR(&t, fives, 16);
                avt_arena_release(t.arena, used);
                avt_weight_put(t.arena, w[i].use, DT_F32, (DType)dtype, w[i].nd, w[i].dim, src);
                g = test_read(&t, guard);
                assert_memory_equal(g, fives, sizeof(fives));
                free(g);
                test_bench_close(&t);
            }
    free(src);
}

static void failure_sticks(void **state)
{
    TestBench t;
    Tensor x, y;
    float v = 7;

    (void)state;
    op_refuser_open(&t);
    x = TEST_TENSOR(&t, &v, 1);
    y = avt_new(t.arena, DT_F32, 2);
    avt_copy(t.be, y, x);
    assert_int_equal(t.be->status, AVT_ERR(EINVAL));
    avt_fill(t.be, x, 9);                                           // ignored
    avt_copy(t.be, x, y);                                           // not the first failure: not logged
    op_refused(&t, OP_COPY);
    REQUIRE_OK(avt_download(t.be, &v, x));
    assert_true(v == 7);
    avt_copy(t.be, avt_new(t.arena, DT_I32, 1), x);
    op_refused(&t, OP_COPY);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversions), cmocka_unit_test(integers), cmocka_unit_test(weights), cmocka_unit_test(plain_weights),
        cmocka_unit_test(weight_size), cmocka_unit_test(failure_sticks),
    };

    return op_main(argc, argv, "copy", tests);
}
