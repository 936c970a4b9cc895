/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* attention: one and two segments, of one type and of two, of codes, a batch, relative bias, scores from flat to nearly one-hot. */
#include "op.h"
#include "quantize.h"

typedef struct Arg {
    int64_t n, m1, m2, heads, hd;
    int64_t batch;                              // 0: no such dimension
    int with_rel, f32_second, coded;            // the second segment is f32, whatever the first is; keys and values are e4m3, a scale a head
    int turned;                                 // queries and keys are i8, a scale a head
    int bf16_alone;                             // in no other mode
    float scale;
    float *q, *k1, *v1, *k2, *v2, *rel;
} Arg;

/* The numbers that codes of v stand for take its place. */
static void round_to_codes(DType type, float *v, int64_t rows, int64_t hd)
{
    uint8_t *codes = malloc((size_t)(rows * hd) + 1);
    float *scale = malloc((size_t)(rows + 1) * sizeof(*scale));

    REQUIRE_OK(avt_quantize_rows(codes, scale, type, DT_F32, v, rows, hd));
    avt_dequantize_rows(v, type, codes, scale, rows, hd, avt_code_group(type, hd));
    free(codes);
    free(scale);
}

/* Whose codes these are: the same again */
static Tensor codes_of(TestBench *t, DType type, const float *v, int nd, const int64_t *dim)
{
    const Tensor x = avt_new_codes(t->arena, type, nd, dim);
    const int64_t hd = avt_last_dim(x), rows = avt_rows_of(x);
    const Tensor scales = { .be = t->be, .data = x.scale, .nd = 1, .dim = { rows } };
    uint8_t *codes = malloc((size_t)(rows * hd) + 1);
    float *scale = malloc((size_t)(rows + 1) * sizeof(*scale));

    REQUIRE_OK(avt_quantize_rows(codes, scale, type, DT_F32, v, rows, hd));
    avt_upload(t->be, x, codes);
    avt_upload(t->be, scales, scale);
    free(codes);
    free(scale);
    return x;
}

static Tensor rows(TestBench *t, const Arg *a, DType codes, const float *v, int64_t nb)
{
    const int64_t dim[4] = { a->batch, nb, a->heads, a->hd };

    if (avt_is_code(codes))
        return codes_of(t, codes, v, a->batch ? 4 : 3, a->batch ? dim : dim + 1);
    return a->batch ? TEST_ACT(t, v, a->batch, nb, a->heads, a->hd) : TEST_ACT(t, v, nb, a->heads, a->hd);
}

static Tensor second(TestBench *t, const Arg *a, DType codes, const float *v)
{
    if (!a->m2)
        return AVT_NONE;
    return a->f32_second ? TEST_TENSOR(t, v, a->m2, a->heads, a->hd) : rows(t, a, codes, v, a->m2);
}

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const Tensor rel = a->with_rel ? TEST_TENSOR(t, a->rel, a->n + a->m1 - 1, a->heads) : AVT_NONE;
    const DType q = a->turned ? DT_I8 : DT_F32, v = a->coded ? DT_F8_E4M3 : DT_F32, k = a->turned ? q : v;

    avt_attention(t->be, out, rows(t, a, q, a->q, a->n), rows(t, a, k, a->k1, a->m1), rows(t, a, v, a->v1, a->m1), second(t, a, k, a->k2),
                  second(t, a, v, a->v2), rel, a->scale);
}

static double dot(const float *a, const float *b, int64_t nb)
{
    double sum = 0;

    for (int64_t i = 0; i < nb; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

/* Query i of head h; `p` has room for every key. */
static void reference_row(const Arg *a, double *out, double *p, int64_t i, int64_t h)
{
    const int64_t nb = a->m1 + a->m2;
    double top = -INFINITY, sum = 0;

    for (int64_t j = 0; j < nb; j++) {
        const float *k = j < a->m1 ? a->k1 + (j * a->heads + h) * a->hd : a->k2 + ((j - a->m1) * a->heads + h) * a->hd;

        p[j] = (double)a->scale * dot(a->q + (i * a->heads + h) * a->hd, k, a->hd);
        if (a->with_rel)
            p[j] += a->rel[(j - i + a->n - 1) * a->heads + h];
        top = p[j] > top ? p[j] : top;
    }
    for (int64_t j = 0; j < nb; j++)
        sum += p[j] = exp(p[j] - top);
    for (int64_t d = 0; d < a->hd; d++) {
        out[d] = 0;
        for (int64_t j = 0; j < nb; j++)
            out[d] += p[j] / sum * (j < a->m1 ? a->v1[(j * a->heads + h) * a->hd + d] :
                                    a->v2[((j - a->m1) * a->heads + h) * a->hd + d]);
    }
}

/* Item b of a batch, as an attention of its own */
static Arg item(const Arg *a, int64_t b)
{
    const int64_t row = a->heads * a->hd;
    Arg one = *a;

    one.q += b * a->n * row;
    one.k1 += b * a->m1 * row;
    one.v1 += b * a->m1 * row;
    return one;
}

static double *reference(const Arg *a)
{
    const int64_t nb = a->batch ? a->batch : 1, row = a->heads * a->hd;
    double *ref = malloc((size_t)(nb * a->n * row) * sizeof(*ref)), *p = malloc((size_t)(a->m1 + a->m2) * sizeof(*p));

    for (int64_t b = 0; b < nb && !op_bench_mode; b++) {
        const Arg one = item(a, b);

        for (int64_t i = 0; i < a->n; i++)
            for (int64_t h = 0; h < a->heads; h++)
                reference_row(&one, ref + ((b * a->n + i) * a->heads + h) * a->hd, p, i, h);
    }
    free(p);
    return ref;
}

static void check(Arg a, float sharpness, Values kind, int bench)
{
    const int64_t nb = a.batch ? a.batch : 1, row = a.heads * a.hd;
    OpCase c = { .op = OP_ATTENTION, .nd = 3, .dim = { a.n, a.heads, a.hd }, .run = run, .arg = &a, .tol = 1e-6 + 1e-7 * fabsf(sharpness),
                 .bench = bench, .modes = a.bf16_alone ? 1 << MODE_F32 | ONE_TYPE : 0 };
    char name[128];
    double *ref;

    snprintf(name, sizeof(name), "%lld x %lld queries, %lld + %lld keys, %lldx%lld, x%g, %s%s%s%s%s", (long long)nb, (long long)a.n,
             (long long)a.m1, (long long)a.m2, (long long)a.heads, (long long)a.hd, sharpness, values_name[kind], a.with_rel ? ", rel" : "",
             a.f32_second ? ", second f32" : "", a.coded ? ", codes" : "", a.turned ? ", turned" : "");
    if (a.batch)
        c = (OpCase){ .op = c.op, .nd = 4, .dim = { a.batch, a.n, a.heads, a.hd }, .run = run, .arg = &a, .tol = c.tol };
    a.scale = sharpness / sqrtf((float)a.hd);
    a.q = op_values(nb * a.n * row, RANDOM, 1);
    a.k1 = op_values(nb * a.m1 * row, RANDOM, 2);
    a.v1 = op_values(nb * a.m1 * row, kind, 3);
    a.k2 = op_values(a.m2 * row, RANDOM, 4);
    a.v2 = op_values(a.m2 * row, kind, 5);
    a.rel = op_values((a.n + a.m1 - 1) * a.heads, RANDOM, 6);
    for (int64_t i = 0; i < 2 && a.coded; i++) {
        round_to_codes(DT_F8_E4M3, i ? a.v1 : a.k1, nb * a.m1 * a.heads, a.hd);
        round_to_codes(DT_F8_E4M3, i ? a.v2 : a.k2, a.m2 * a.heads, a.hd);
    }
    if (a.turned) {
        round_to_codes(DT_I8, a.q, nb * a.n * a.heads, a.hd);
        round_to_codes(DT_I8, a.k1, nb * a.m1 * a.heads, a.hd);
        round_to_codes(DT_I8, a.k2, a.m2 * a.heads, a.hd);
    }
    c.codes = a.turned ? DT_I8 : a.coded ? DT_F8_E4M3 : DT_F32;
    ref = reference(&a);
    c.name = name;
    c.ref = ref;
    op_check(&c);
    free(a.q);
    free(a.k1);
    free(a.v1);
    free(a.k2);
    free(a.v2);
    free(a.rel);
    free(ref);
}

static void sizes(void **state)
{
    static const int64_t s[][5] = { { 1, 1, 0, 1, 1 }, { 1, 1, 1, 1, 2 }, { 3, 5, 0, 2, 7 },
                                    { 5, 64, 1, 3, 16 }, { 64, 63, 65, 2, 32 },
                                    { 65, 129, 0, 1, 40 }, { 130, 17, 200, 2, 33 }, { 2, 300, 3, 1, 129 },
                                    { 4, 9, 4, 1, 384 }, { 7, 3, 90, 4, 128 }, { 70, 530, 289, 2, 64 } };
    (void)state;
    for (size_t i = 0; i < sizeof(s) / sizeof(s[0]); i++)
        check((Arg){ .n = s[i][0], .m1 = s[i][1], .m2 = s[i][2], .heads = s[i][3], .hd = s[i][4] }, 1, RANDOM, 0);
}

static void batches(void **state)
{
    (void)state;
    check((Arg){ .batch = 3, .n = 5, .m1 = 7, .heads = 2, .hd = 16 }, 1, RANDOM, 0);
    check((Arg){ .batch = 2, .n = 66, .m1 = 70, .heads = 3, .hd = 40 }, 1, RANDOM, 0);
    check((Arg){ .batch = 4, .n = 3, .m1 = 65, .heads = 1, .hd = 9 }, 2, RANDOM, 0);
}

static void types(void **state)
{
    (void)state;
    check((Arg){ .n = 67, .m1 = 65, .m2 = 9, .heads = 2, .hd = 16, .f32_second = 1 }, 1, RANDOM, 0);
    check((Arg){ .n = 3, .m1 = 5, .m2 = 70, .heads = 1, .hd = 33, .f32_second = 1 }, 1, RANDOM, 0);
}

/* Rows of zero, of tiny and of large numbers have scales like others. */
static void codes(void **state)
{
    (void)state;
    check((Arg){ .n = 5, .m1 = 7, .m2 = 3, .heads = 3, .hd = 16, .coded = 1 }, 1, RANDOM, 0);
    check((Arg){ .n = 66, .m1 = 130, .m2 = 65, .heads = 2, .hd = 40, .coded = 1 }, 2, RANDOM, 0);
    check((Arg){ .n = 40, .m1 = 300, .heads = 4, .hd = 64, .coded = 1 }, 5, RANDOM, 0);
    check((Arg){ .n = 70, .m1 = 130, .m2 = 70, .heads = 2, .hd = 128, .coded = 1 }, 2, RANDOM, 0);
    check((Arg){ .n = 66, .m1 = 65, .m2 = 64, .heads = 3, .hd = 48, .coded = 1 }, 1, RANDOM, 0);
    check((Arg){ .batch = 3, .n = 5, .m1 = 7, .heads = 2, .hd = 24, .coded = 1 }, 1, RANDOM, 0);
    check((Arg){ .n = 5, .m1 = 7, .m2 = 9, .heads = 2, .hd = 32, .coded = 1, .f32_second = 1 }, 1, RANDOM, 0);
    for (Values kind = ZERO; kind < NB_VALUES; kind++)
        check((Arg){ .n = 19, .m1 = 70, .m2 = 13, .heads = 2, .hd = 24, .coded = 1 }, 1, kind, 0);
}

/* Of queries and keys that are rotated; values of any size, scores that are flat, steep, and turned round. */
static void turned(void **state)
{
    static const int64_t s[][5] = { { 1, 1, 0, 1, 1 }, { 1, 1, 1, 1, 2 }, { 3, 5, 0, 2, 7 }, { 5, 64, 1, 3, 16 }, { 64, 63, 65, 2, 32 }, { 33, 129, 0, 1, 40 },
                                    { 50, 17, 200, 2, 33 }, { 2, 300, 3, 1, 129 }, { 4, 9, 4, 1, 384 }, { 97, 330, 289, 2, 128 }, { 500, 70, 9, 1, 64 } };
    (void)state;
    for (size_t i = 0; i < sizeof(s) / sizeof(s[0]); i++)
        check((Arg){ .n = s[i][0], .m1 = s[i][1], .m2 = s[i][2], .heads = s[i][3], .hd = s[i][4], .turned = 1 }, 1, RANDOM, 0);
    for (Values kind = ZERO; kind < NB_VALUES; kind++)
        for (float sharpness = 0; sharpness < 200; sharpness = sharpness * 6 + 1)
            check((Arg){ .n = 19, .m1 = 70, .m2 = 13, .heads = 2, .hd = 64, .turned = 1 }, sharpness, kind, 0);
    check((Arg){ .n = 19, .m1 = 70, .m2 = 13, .heads = 2, .hd = 24, .turned = 1 }, -3, RANDOM, 0);
    check((Arg){ .n = 5, .m1 = 7, .m2 = 9, .heads = 2, .hd = 16, .turned = 1, .coded = 1 }, 1, RANDOM, 0);
    check((Arg){ .batch = 2, .n = 66, .m1 = 70, .heads = 3, .hd = 32, .turned = 1 }, 1, RANDOM, 0);
}

/* A number that is none, of a query, a key or a value, comes through, also where products are of whole numbers. */
static void lost(void **state)
{
    enum { N = 20, M = 70, HD = 16 };
    float *v[3] = { op_values(N * HD, RANDOM, 1), op_values(M * HD, RANDOM, 2), op_values(M * HD, RANDOM, 3) };
    const Arg a = { .n = N, .m1 = M, .heads = 1, .hd = HD, .turned = 1, .scale = 0.25f, .q = v[0], .k1 = v[1], .v1 = v[2] };

    (void)state;
    for (int i = 0; i < 3 && !op_bench_mode; i++)
        for (int infinite = 0; infinite < 2; infinite++) {
            const float kept = v[i][5];
            float out[N * HD];
            int nb = 0;
            TestBench t;
            Tensor result;

            v[i][5] = infinite ? INFINITY : NAN;
            op_open(&t, CPU_AUTO, 1, DT_F32);
            t.act = DT_F32;
            result = avt_new(t.arena, DT_F32, N, 1, HD);
            run(&t, result, &a);
            REQUIRE_OK(avt_download(t.be, out, result));
            for (int j = 0; j < N * HD; j++)
                nb += !isfinite(out[j]);
            assert_int_equal(nb, i == 0 ? HD : i == 1 ? N * HD : N);        // a row, all, a column
            test_bench_close(&t);
            v[i][5] = kept;
        }
    for (int i = 0; i < 3; i++)
        free(v[i]);
}

/* Of a size that a device's library is asked for; in bf16 alone, the others are long there. */
static void large(void **state)
{
    (void)state;
    check((Arg){ .n = 251, .m1 = 300, .heads = 2, .hd = 128, .bf16_alone = 1 }, 1, RANDOM, 0);
    check((Arg){ .n = 251, .m1 = 300, .m2 = 70, .heads = 2, .hd = 128, .bf16_alone = 1 }, 1, RANDOM, 0);
    check((Arg){ .n = 251, .m1 = 300, .m2 = 70, .heads = 1, .hd = 128, .bf16_alone = 1 }, 4, RANDOM, 0);
}

static void values(void **state)
{
    (void)state;
    check((Arg){ .n = 19, .m1 = 70, .m2 = 13, .heads = 2, .hd = 24 }, -3, RANDOM, 0);
    for (Values kind = ZERO; kind < NB_VALUES; kind++)
        for (float sharpness = 0; sharpness < 200; sharpness = sharpness * 6 + 1)
            check((Arg){ .n = 19, .m1 = 70, .m2 = 13, .heads = 2, .hd = 24 }, sharpness, kind, 0);
}

static void relative(void **state)
{
    (void)state;
    check((Arg){ .n = 1, .m1 = 1, .heads = 1, .hd = 4, .with_rel = 1 }, 1, RANDOM, 0);
    check((Arg){ .n = 70, .m1 = 70, .heads = 3, .hd = 16, .with_rel = 1 }, 1, RANDOM, 0);
    check((Arg){ .n = 5, .m1 = 133, .heads = 2, .hd = 9, .with_rel = 1 }, 4, RANDOM, 0);
    check((Arg){ .n = 70, .m1 = 300, .heads = 2, .hd = 16, .with_rel = 1 }, 4, RANDOM, 0);
    check((Arg){ .n = 133, .m1 = 5, .heads = 2, .hd = 9, .with_rel = 1 }, 4, RANDOM, 0);
}

/* The running maximum rises with every key, steeply or so that what came before still counts: each tile rescales it. */
static void rising(void **state)
{
    enum { N = 3, M = 700, HD = 8 };
    Arg a = { .n = N, .m1 = M, .heads = 1, .hd = HD, .scale = 1 };
    double ref[N * HD], p[M];

    (void)state;
    a.q = op_values(N * HD, ZERO, 0);
    a.k1 = op_values(M * HD, ZERO, 0);
    a.v1 = op_values(M * HD, RANDOM, 3);
    for (int i = 0; i < N; i++)
        a.q[i * HD] = (float)(i - 1);                               // falls, flat, rises
    for (float slope = 0.03125f; slope <= 2; slope *= 64) {
        for (int j = 0; j < M; j++)
            a.k1[j * HD] = slope * (float)j;
        for (int i = 0; i < N; i++)
            reference_row(&a, ref + i * HD, p, i, 0);
        op_check(&(OpCase){ .name = slope < 1 ? "rising scores" : "steep scores", .op = OP_ATTENTION, .nd = 3, .dim = { N, 1, HD },
                            .run = run, .arg = &a, .ref = ref, .tol = 1e-6 });
    }
    free(a.q);
    free(a.k1);
    free(a.v1);
}

static void speed(void **state)
{
    (void)state;
    if (!op_bench_mode)
        return;
    check((Arg){ .n = 512, .m1 = 2048, .m2 = 256, .heads = 4, .hd = 128 }, 1, RANDOM, 1);
    check((Arg){ .n = 512, .m1 = 2048, .m2 = 256, .heads = 4, .hd = 128, .coded = 1 }, 1, RANDOM, 1);
    check((Arg){ .n = 512, .m1 = 2048, .m2 = 256, .heads = 4, .hd = 128, .turned = 1 }, 1, RANDOM, 1);
    check((Arg){ .n = 512, .m1 = 2048, .m2 = 256, .heads = 4, .hd = 32 }, 1, RANDOM, 1);
    check((Arg){ .n = 1024, .m1 = 1024, .heads = 1, .hd = 384 }, 1, RANDOM, 1);
}

static void mistakes(void **state)
{
    TestBench t;
    Tensor q, k, out, rel, turned, turned_q;

    (void)state;
    op_refuser_open(&t);
    q = avt_new(t.arena, DT_F32, 3, 2, 8);
    k = avt_new(t.arena, DT_F32, 5, 2, 8);
    out = avt_new(t.arena, DT_F32, 3, 2, 8);
    rel = avt_new(t.arena, DT_F32, 7, 2);
    turned = avt_new_codes(t.arena, DT_I8, 3, (const int64_t[]){ 5, 2, 8 });
    avt_attention(t.be, avt_new(t.arena, DT_F32, 4, 2, 8), q, k, k, AVT_NONE, AVT_NONE, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, q, k, avt_rows(k, 0, 4), AVT_NONE, AVT_NONE, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, q, avt_new(t.arena, DT_F32, 5, 3, 8), avt_new(t.arena, DT_F32, 5, 3, 8), AVT_NONE,
                  AVT_NONE, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, q, k, k, k, AVT_NONE, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, q, k, k, k, k, rel, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, q, avt_rows(k, 0, 4), avt_rows(k, 0, 4), AVT_NONE, AVT_NONE, rel, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, q, q, k, k, AVT_NONE, AVT_NONE, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    turned_q = avt_new_codes(t.arena, DT_I8, 3, (const int64_t[]){ 3, 2, 8 });
    avt_attention(t.be, out, q, turned, turned, AVT_NONE, AVT_NONE, AVT_NONE, 1);      // rotated, and do not meet what is
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, turned_q, k, k, AVT_NONE, AVT_NONE, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, turned_q, turned, turned, AVT_NONE, AVT_NONE, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, turned_q, turned, k, k, k, AVT_NONE, 1);
    op_refused(&t, OP_ATTENTION);
    avt_attention(t.be, out, q, k, k, AVT_NONE, AVT_NONE, rel, 1);
    REQUIRE_OK(avt_sync(t.be));
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(batches), cmocka_unit_test(types), cmocka_unit_test(codes), cmocka_unit_test(turned), cmocka_unit_test(lost), cmocka_unit_test(values), cmocka_unit_test(relative), cmocka_unit_test(rising),
        cmocka_unit_test(large), cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "attention", tests);
}
