/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* quantize, ops that give codes, and products of codes: these against the numbers that the codes stand for, in f64. */
#include "op.h"
#include "quantize.h"

typedef struct Arg {
    DType type;                                 // of codes
    int64_t m, n, k;
    Act act;
    int with_bias, with_gate, with_res;
    int group;                                  // one of three products of the same x
    float *x, *w, *b, *gate, *res;
} Arg;

static const DType types[] = { DT_I8, DT_F8_E4M3 };

/* Where a test that names a device runs: on --device's, when there is one. */
static const char *device(const char *name)
{
    return op_device ? op_device : name;
}

static Tensor codes_of(TestBench *t, DType type, const float *x, int64_t m, int64_t k)
{
    const Tensor q = avt_new_codes(t->arena, type, 2, (int64_t[]){ m, k });

    avt_quantize(t->be, q, TEST_ACT(t, x, m, k));
    return q;
}

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const int64_t dim[2] = { a->n, a->k };
    const Tensor x = codes_of(t, a->type, a->x, a->m, a->k);
    const DType act = t->act;
    Linear l = { .b = a->with_bias ? TEST_TENSOR(t, a->b, a->n) : AVT_NONE };

    t->act = a->type;
    l.w = test_weight(t, WEIGHT_LINEAR, a->w, 2, dim);
    t->act = act;
    if (a->group) {
        const Tensor to[3] = { avt_new(t->arena, DT_F32, a->m, a->n), out, avt_new(t->arena, DT_F32, a->m, a->n) };

        avt_linear_group(t->be, 3, to, x, (const Linear *const[]){ &l, &l, &l });
    } else if (a->with_res)
        avt_linear_add(t->be, out, test_like(t, out, a->res), x, &l, a->with_gate ? TEST_TENSOR(t, a->gate, a->n) : AVT_NONE);
    else
        avt_linear(t->be, out, x, &l, a->act);
}

static double gelu(double v)
{
    return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
}

/* What the codes of v[rows, k] stand for, in their own basis */
static float *meant(DType type, const float *v, int64_t rows, int64_t k)
{
    const size_t nb = (size_t)(rows * k);
    uint8_t *codes = malloc(nb + 1);
    float *scale = malloc((size_t)(rows + 1) * sizeof(*scale)), *out = malloc((nb + 1) * sizeof(*out));

    REQUIRE_OK(avt_quantize_rows(codes, scale, type, DT_F32, v, rows, k));
    avt_dequantize_rows(out, type, codes, scale, rows, k, 1);
    free(codes);
    free(scale);
    return out;
}

static double *reference(const Arg *a)
{
    double *ref = malloc((size_t)(a->m * a->n + 1) * sizeof(*ref));
    float *x = meant(a->type, a->x, a->m, a->k), *w = meant(a->type, a->w, a->n, a->k);

    for (int64_t m = 0; m < a->m; m++)
        for (int64_t n = 0; n < a->n; n++) {
            double v = a->with_bias ? a->b[n] : 0;

            for (int64_t k = 0; k < a->k; k++)
                v += (double)x[m * a->k + k] * w[n * a->k + k];
            if (a->act == ACT_GELU_TANH && !a->group && !a->with_res)
                v = gelu(v);
            ref[m * a->n + n] = a->with_res ? a->res[m * a->n + n] + (a->with_gate ? a->gate[n] : 1) * v : v;
        }
    free(x);
    free(w);
    return ref;
}

static void check(Arg a, Values kind, int bench)
{
    double *ref;
    char name[128];

    snprintf(name, sizeof(name), "%s %lld x %lld x %lld%s%s%s%s%s %s", avt_dtype_name(a.type), (long long)a.m, (long long)a.n,
             (long long)a.k, a.with_bias ? " bias" : "", a.act ? " gelu" : "", a.with_gate ? " gate" : "", a.with_res ? " res" : "",
             a.group ? " group" : "", values_name[kind]);
    a.x = op_values(a.m * a.k, kind, 1);
    a.w = op_values(a.n * a.k, RANDOM, 2);
    a.b = op_values(a.n, kind, 3);
    a.gate = op_values(a.n, RANDOM, 4);
    a.res = op_values(a.m * a.n, kind, 5);
    ref = bench ? NULL : reference(&a);
    op_check(&(OpCase){ .name = name, .op = a.group ? OP_LINEAR_GROUP : OP_LINEAR, .codes = a.type, .dtype = DT_F32, .nd = 2,
                        .dim = { a.m, a.n }, .run = run, .arg = &a, .ref = ref, .tol = 2e-6 * sqrt((double)a.k) + 1e-6, .bench = bench });
    free(ref);
    free(a.x);
    free(a.w);
    free(a.b);
    free(a.gate);
    free(a.res);
}

/* Odd in every dimension; groups of 1, 4, 16, 64, 256; more than a piece */
static void sizes(void **state)
{
    static const int64_t size[][3] = { { 1, 1, 1 }, { 3, 5, 7 }, { 17, 33, 12 }, { 5, 70, 48 }, { 33, 96, 96 }, { 65, 19, 192 }, { 40, 130, 768 },
                                       { 300, 261, 100 }, { 2, 300, 1280 }, { 70, 17, 2047 }, { 31, 64, 3072 } };

    (void)state;
    for (size_t i = 0; i < 2 && !op_bench_mode; i++)
        for (size_t j = 0; j < sizeof(size) / sizeof(size[0]); j++) {
            const Arg a = { .type = types[i], .m = size[j][0], .n = size[j][1], .k = size[j][2] };

            check(a, RANDOM, 0);
        }
}

static void ends(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 && !op_bench_mode; i++)
        for (Values kind = ZERO; kind < NB_VALUES; kind++) {
            Arg a = { .type = types[i], .m = 21, .n = 50, .k = 80, .with_bias = 1 };

            check(a, kind, 0);
            a.act = ACT_GELU_TANH;
            check(a, kind, 0);
            a.act = ACT_NONE;
            a.with_res = 1;
            check(a, kind, 0);
            a.with_gate = 1;
            check(a, kind, 0);
            a = (Arg){ .type = types[i], .m = 9, .n = 20, .k = 64, .group = 1 };
            check(a, kind, 0);
        }
}

/* The codes of x[m, k], in f32 or bf16, at the begin of a row of 16 bytes or an element behind it, are those of the host's rows. */
static void same_as_host(DType type, DType dtype, int64_t m, int64_t k, int odd, CpuLevel level)
{
    uint8_t *want = malloc((size_t)(m * k)), *got = malloc((size_t)(m * k));
    float *x = op_values(m * k + 1, RANDOM, 9), *scale = malloc((size_t)m * sizeof(*scale)), *other = malloc((size_t)m * sizeof(*other));
    uint16_t *half = malloc((size_t)(m * k + 1) * sizeof(*half));
    const void *values = dtype == DT_F32 ? (const void *)(x + odd) : half + odd;
    TestBench t;
    Tensor q, all;

    for (int64_t i = 0; i <= m * k; i++)
        half[i] = avt_f32_bf16(x[i]);
    REQUIRE_OK(avt_quantize_rows(want, scale, type, dtype, values, m, k));
    test_bench_open_act(&t, device(level == CPU_AUTO ? "guard" : "cpu"), level, 2, dtype);
    all = avt_new(t.arena, dtype, m * k + 1);
    avt_upload(t.be, all, dtype == DT_F32 ? (const void *)x : half);
    q = avt_new_codes(t.arena, type, 2, (int64_t[]){ m, k });
    avt_quantize(t.be, q, avt_view(avt_rows(all, odd, m * k), m, k));
    REQUIRE_OK(avt_download(t.be, got, q));
    REQUIRE_OK(avt_download(t.be, other, (Tensor){ .be = t.be, .data = q.scale, .dtype = DT_F32, .nd = 1, .dim = { m } }));
    assert_memory_equal(got, want, (size_t)(m * k));
    assert_memory_equal(other, scale, (size_t)m * sizeof(*scale));
    test_bench_close(&t);
    free(want);
    free(got);
    free(x);
    free(scale);
    free(other);
    free(half);
}

/* Codes and scales are the same bits at every level and on a device. */
static void same_codes(void **state)
{
    static const int64_t depth[] = { 1, 4, 5, 12, 16, 48, 96, 192, 768, 1100, 5120 };

    (void)state;
    for (size_t i = 0; i < 2 * 2 && !op_bench_mode; i++) {
        const DType type = types[i % 2], dtype = i / 2 ? DT_BF16 : DT_F32;

        for (size_t j = 0; j < sizeof(depth) / sizeof(depth[0]); j++)
            for (CpuLevel level = op_device ? CPU_AUTO : CPU_PLAIN; level <= CPU_AUTO; level++)
                same_as_host(type, dtype, depth[j] > 1000 ? 3 : 37, depth[j], (int)j % 2, level);
        same_as_host(type, dtype, 5, 768, 0, CPU_AUTO);
        same_as_host(type, dtype, 1, 16384 + 64, 0, CPU_AUTO);          // more than a device's threads hold at once
    }
}

/* ---- ops that give codes ------------------------------------------------------------------------------------------------------ */

typedef enum Giver { AFFINE, MODULATED, NORMED_HEADS, TURNED, OF_NUMBERS, OF_CODES, NB_GIVERS } Giver;
static const OpId giver_op[NB_GIVERS] = { OP_LAYER_NORM, OP_LAYER_NORM, OP_NORM_ROPE, OP_ROPE, OP_LINEAR, OP_LINEAR };
enum { DEPTH = 32 };                            // of the products

typedef struct Made {
    Giver by;
    int64_t rows, width, hd;                    // hd: of heads
    const float *x, *w, *b;                     // [rows, 2 width + DEPTH], [rows, width], [width, DEPTH]
} Made;

static Tensor made_tensor(TestBench *t, const Made *m, DType type)
{
    const int by_heads = m->by == NORMED_HEADS || m->by == TURNED;
    const int64_t dim[3] = { m->rows, by_heads ? m->width / m->hd : m->width, m->hd };

    return avt_is_code(type) ? avt_new_codes(t->arena, type, by_heads ? 3 : 2, dim) : avt_new_dims(t->arena, type, by_heads ? 3 : 2, dim);
}

static void give_product(TestBench *t, Tensor out, const Made *m)
{
    const DType act = t->act, type = m->by == OF_CODES ? DT_I8 : act;
    Linear l = { .b = TEST_TENSOR(t, m->x, m->width) };

    t->act = type;
    l.w = test_weight(t, WEIGHT_LINEAR, m->b, 2, (const int64_t[]){ m->width, DEPTH });
    t->act = act;
    avt_linear(t->be, out, m->by == OF_CODES ? codes_of(t, type, m->x, m->rows, DEPTH) : TEST_ACT(t, m->x, m->rows, DEPTH), &l, ACT_GELU_TANH);
}

static void give(TestBench *t, Tensor out, const Made *m)
{
    const Tensor x = TEST_ACT(t, m->x, m->rows, m->width), table = TEST_TENSOR(t, m->w, m->rows, m->hd / 2, 2);
    const int64_t groups = m->rows % 3 ? 1 : 3;

    switch (m->by) {
    case AFFINE:
        avt_layer_norm(t->be, out, x, TEST_TENSOR(t, m->w, m->width), AVT_NONE, 1e-6f, ACT_SILU);
        break;
    case MODULATED:
        avt_norm_modulate(t->be, out, x, TEST_TENSOR(t, m->w, groups, m->width), TEST_TENSOR(t, m->x, groups, m->width), 1e-6f);
        break;
    case NORMED_HEADS:
        avt_norm_rope(t->be, out, x, TEST_TENSOR(t, m->w, m->width), table, 1e-6f);
        break;
    case TURNED:
        avt_rope(t->be, out, avt_view(x, m->rows, m->width / m->hd, m->hd), table);
        break;
    default:
        give_product(t, out, m);
    }
}

static uint8_t *bytes_of(TestBench *t, Tensor codes)
{
    const size_t size = avt_nbytes(codes), of_scales = (size_t)avt_rows_of(codes) * sizeof(float);
    uint8_t *all = malloc(size + of_scales);

    REQUIRE_OK(avt_download(t->be, all, codes));
    REQUIRE_OK(avt_download(t->be, all + size, avt_scales(codes)));
    return all;
}

/* Codes that an op gives are those of the numbers that it gives, and it takes the workspace that is planned. */
static void given_codes(const Made *m, DType type, DType act, CpuLevel level)
{
    TestBench t;
    Tensor numbers, apart, given;
    uint8_t *want, *got;

    test_bench_open_act(&t, device(level == CPU_AUTO ? "guard" : "cpu"), level, 2, act);
    numbers = made_tensor(&t, m, act);
    apart = made_tensor(&t, m, type);
    given = made_tensor(&t, m, type);
    give(&t, numbers, m);
    avt_quantize(t.be, apart, numbers);
    op_spy_start(t.be, giver_op[m->by]);
    give(&t, given, m);
    t.be->cls = op_spy.real;
    want = bytes_of(&t, apart);
    got = bytes_of(&t, given);
    assert_int_equal(op_spy.nb, 1);
    assert_memory_equal(got, want, avt_nbytes(given) + (size_t)avt_rows_of(given) * sizeof(float));
    assert_int_equal(t.be->cls->workspace(t.be, &op_spy.last), (int64_t)t.be->workspace_peak);
    test_bench_close(&t);
    free(want);
    free(got);
}

/* At every level and on a device, in f32 and bf16. */
static void given(Giver by, int64_t rows, int64_t width, int64_t hd)
{
    Made m = { .by = by, .rows = rows, .width = width, .hd = hd };
    const int keys = by == NORMED_HEADS || by == TURNED;
    float *x = op_values(rows * (2 * width + DEPTH), RANDOM, 3), *w = op_values(rows * width, RANDOM, 4), *b = op_values(width * DEPTH, RANDOM, 5);

    m.x = x;
    m.w = w;
    m.b = b;
    for (int i = 0; i < 2 * 2; i++)
        for (CpuLevel level = op_device ? CPU_AUTO : CPU_PLAIN; level <= CPU_AUTO; level++)
            if (!keys || types[i % 2] == DT_F8_E4M3)
                given_codes(&m, types[i % 2], i / 2 ? DT_BF16 : DT_F32, level);
    free(x);
    free(w);
    free(b);
}

static void codes_given(void **state)
{
    static const int64_t size[][3] = { { 1, 2, 2 }, { 7, 10, 10 }, { 9, 96, 32 }, { 5, 192, 24 }, { 12, 768, 128 }, { 3, 1100, 100 }, { 6, 5120, 128 } };

    (void)state;
    for (Giver by = 0; by < NB_GIVERS && !op_bench_mode; by++)
        for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++)
            given(by, size[i][0], size[i][1], size[i][2]);
}

/* R is its own inverse; each code is the nearest one; the largest number of a row has the largest code. */
static void round_trip(void **state)
{
    enum { K = 512 };
    float x[K], y[K], scale;
    uint8_t codes[K];

    (void)state;
    test_random(x, K, 4);
    for (int64_t g = 1; g <= CODE_GROUP; g *= 4) {
        memcpy(y, x, sizeof(y));
        avt_rotate_row(y, K, g);
        REQUIRE(g == 1 || memcmp(x, y, sizeof(y)));
        avt_rotate_row(y, K, g);
        REQUIRE_CLOSE(y, x, K, 1e-6);
    }
    for (int i = 0; i < 2; i++) {
        REQUIRE_OK(avt_quantize_rows(codes, &scale, types[i], DT_F32, x, 1, K));
        avt_dequantize_rows(y, types[i], codes, &scale, 1, K, avt_code_group(types[i], K));
        REQUIRE_CLOSE(y, x, K, i ? 1. / 16 : 0.02);
    }
    assert_int_equal(avt_code_group(DT_I8, 5120), 256);
    assert_int_equal(avt_code_group(DT_I8, 13824), 256);
    assert_int_equal(avt_code_group(DT_I8, 96), 16);
    assert_int_equal(avt_code_group(DT_I8, 7), 1);
    assert_int_equal(avt_code_group(DT_F8_E4M3, 256), 1);
}

/* An outlier is spread over its group, a row's mean is not gathered. */
static void outliers(void **state)
{
    enum { K = 256 };
    float x[K] = { 0 };

    (void)state;
    x[77] = 16;
    avt_rotate_row(x, K, K);
    for (int i = 0; i < K; i++)
        REQUIRE(fabsf(x[i]) == 1);
    for (int i = 0; i < K; i++)
        x[i] = 1;
    avt_rotate_row(x, K, K);
    for (int i = 0; i < K; i++)
        REQUIRE(fabsf(x[i]) <= 1);
}

/* One bad number makes its row's results NaN, and no others. */
static void nonfinite(void **state)
{
    enum { M = 3, N = 20, K = 64 };
    float *x = op_values(M * K, RANDOM, 1), *w = op_values(N * K, RANDOM, 2), *v;

    (void)state;
    for (size_t i = 0; i < 2 * 2; i++) {
        TestBench t;
        Linear l = { .b = AVT_NONE };
        Tensor out;

        x[K + 7] = i / 2 ? NAN : -INFINITY;
        test_bench_open(&t, device("cpu"), CPU_AUTO, 2);
        out = avt_new(t.arena, DT_F32, M, N);
        l.w = avt_weight_put(t.arena, WEIGHT_LINEAR, types[i % 2], DT_F32, 2, (int64_t[]){ N, K }, w);
        avt_linear(t.be, out, codes_of(&t, types[i % 2], x, M, K), &l, ACT_NONE);
        v = test_read(&t, out);
        for (int j = 0; j < M * N; j++)
            REQUIRE(isnan(v[j]) == (j / N == 1));
        free(v);
        test_bench_close(&t);
    }
    free(x);
    free(w);
}

/* Codes that come from a file are those that the same weight gives. Bytes are what is planned. */
static void placed(void **state)
{
    enum { M = 6, N = 30, K = 80 };
    float *x = op_values(M * K, RANDOM, 1), *w = op_values(N * K, RANDOM, 2), scale[N], *v[2];
    uint8_t codes[N * K];

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        const int64_t dim[2] = { N, K };
        TestBench t;

        REQUIRE_OK(avt_quantize_rows(codes, scale, types[i], DT_F32, w, N, K));
        test_bench_open(&t, device("guard"), CPU_AUTO, 2);
        for (int j = 0; j < 2; j++) {
            const size_t before = avt_arena_used(t.arena);
            const Linear l = { .w = j ? avt_weight_put_codes(t.arena, types[i], N, K, codes, scale)
                                      : avt_weight_put(t.arena, WEIGHT_LINEAR, types[i], DT_F32, 2, dim, w) };
            const Tensor out = avt_new(t.arena, DT_F32, M, N);

            REQUIRE(avt_arena_used(t.arena) - before - (avt_nbytes(out) + 63) / 64 * 64 ==
                    (avt_weight_bytes(t.be, WEIGHT_LINEAR, types[i], DT_BF16, 2, dim) + 63) / 64 * 64);
            avt_linear(t.be, out, codes_of(&t, types[i], x, M, K), &l, ACT_NONE);
            v[j] = test_read(&t, out);
        }
        assert_memory_equal(v[0], v[1], M * N * sizeof(float));
        free(v[0]);
        free(v[1]);
        test_bench_close(&t);
    }
    free(x);
    free(w);
}

static void refused(void **state)
{
    TestBench t;
    Tensor x, q;
    Linear l = { .b = AVT_NONE };
    float w[8 * 4] = { 0 };

    (void)state;
    op_refuser_open(&t);
    x = avt_new(t.arena, DT_F32, 2, 4);
    q = avt_new_codes(t.arena, DT_I8, 2, (int64_t[]){ 2, 4 });
    avt_quantize(t.be, avt_new(t.arena, DT_I8, 2, 4), x);                           // no scales
    op_refused(&t, OP_QUANTIZE);
    avt_quantize(t.be, avt_new_codes(t.arena, DT_I8, 2, (int64_t[]){ 4, 2 }), x);   // other rows
    op_refused(&t, OP_QUANTIZE);
    avt_quantize(t.be, avt_new_codes(t.arena, DT_U8, 2, (int64_t[]){ 2, 4 }), x);   // no type of codes
    op_refused(&t, OP_QUANTIZE);
    l.w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F8_E4M3, DT_F32, 2, (int64_t[]){ 8, 4 }, w);
    avt_linear(t.be, avt_new(t.arena, DT_F32, 2, 8), q, &l, ACT_NONE);              // codes of another type
    op_refused(&t, OP_LINEAR);
    avt_linear(t.be, avt_new(t.arena, DT_F32, 2, 8), x, &l, ACT_NONE);              // no codes
    op_refused(&t, OP_LINEAR);
    avt_add(t.be, x, q, x);
    op_refused(&t, OP_ADD);
    avt_layer_norm(t.be, avt_new(t.arena, DT_I8, 2, 4), x, AVT_NONE, AVT_NONE, 1e-6f, ACT_NONE);                                // no scales
    op_refused(&t, OP_LAYER_NORM);
    avt_layer_norm(t.be, avt_new_codes(t.arena, DT_I8, 2, (int64_t[]){ 4, 2 }), x, AVT_NONE, AVT_NONE, 1e-6f, ACT_NONE);        // parts of a row
    op_refused(&t, OP_LAYER_NORM);
    avt_rope(t.be, avt_new_codes(t.arena, DT_I8, 3, (int64_t[]){ 2, 2, 2 }), avt_view(x, 2, 2, 2), avt_new(t.arena, DT_F32, 2, 1, 2));   // rotated
    op_refused(&t, OP_ROPE);
    test_bench_close(&t);
}

static void bench(void **state)
{
    static const int64_t size[][3] = { { 288, 768, 192 }, { 528, 5120, 5120 } };

    (void)state;
    for (size_t i = 0; i < 2 && op_bench_mode; i++)
        for (size_t j = 0; j < sizeof(size) / sizeof(size[0]); j++)
            check((Arg){ .type = types[i], .m = size[j][0], .n = size[j][1], .k = size[j][2], .with_bias = 1 }, RANDOM, 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip), cmocka_unit_test(outliers), cmocka_unit_test(same_codes), cmocka_unit_test(codes_given), cmocka_unit_test(sizes),
        cmocka_unit_test(ends), cmocka_unit_test(nonfinite), cmocka_unit_test(placed), cmocka_unit_test(refused), cmocka_unit_test(bench),
    };

    return op_main(argc, argv, "quantize", tests);
}
