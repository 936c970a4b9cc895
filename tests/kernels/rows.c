/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* gather, lerp_rows, layer_mix. */
#include "op.h"

typedef struct Arg {
    OpId op;
    int64_t n, t, width;                        // layer_mix: n rows of t layers
    float *x, *w;
    int32_t *index;
} Arg;

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    Tensor index = AVT_NONE;

    if (a->op == OP_LAYER_MIX) {
        avt_layer_mix(t->be, out, TEST_ACT(t, a->x, a->n, a->t, a->width), TEST_TENSOR(t, a->w, a->t));
        return;
    }
    index = avt_new(t->arena, DT_I32, a->n);
    avt_upload(t->be, index, a->index);
    if (a->op == OP_GATHER)
        avt_gather(t->be, out, TEST_ACT(t, a->x, a->t, a->width), index);
    else
        avt_lerp_rows(t->be, out, TEST_ACT(t, a->x, a->t, a->width), index, TEST_TENSOR(t, a->w, a->n));
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

static double reference_at(const Arg *a, int64_t n, int64_t d)
{
    const int64_t i = a->index ? a->index[n] : 0, next = i + 1 < a->t ? i + 1 : a->t - 1;
    double sum = 0, total = 0;

    if (a->op == OP_GATHER)
        return i < 0 || i >= a->t ? 0 : a->x[i * a->width + d];
    if (a->op == OP_LERP_ROWS)
        return i < 0 ? 0 : (1 - (double)a->w[n]) * a->x[i * a->width + d] + (double)a->w[n] * a->x[next * a->width + d];
    for (int64_t l = 0; l < a->t; l++) {
        sum += silu(a->w[l]) * a->x[(n * a->t + l) * a->width + d];
        total += silu(a->w[l]);
    }
    return sum / total;
}

static void check(Arg a, Values kind, int bench)
{
    double *ref = malloc((size_t)(a.n * a.width) * sizeof(*ref));
    char name[96];

    snprintf(name, sizeof(name), "%s %lld of %lld x %lld %s", avt_op_name(a.op), (long long)a.n, (long long)a.t,
             (long long)a.width, values_name[kind]);
    a.x = op_values(a.t * a.width * (a.op == OP_LAYER_MIX ? a.n : 1), kind, 1);
    a.w = op_values(a.op == OP_LAYER_MIX ? a.t : a.n, RANDOM, 2);
    for (int64_t i = 0; i < (a.op == OP_LAYER_MIX ? a.t : a.n); i++)
        a.w[i] = fabsf(a.w[i]) * (a.op == OP_LAYER_MIX ? 3 : 1);
    a.index = malloc((size_t)a.n * sizeof(*a.index));
    for (int64_t i = 0; i < a.n; i++)                               // all rows, one before the first, for gather some past the last
        a.index[i] = (int32_t)(i * 7 % (a.t + (a.op == OP_GATHER ? 3 : 1))) - 1;
    for (int64_t i = 0; i < a.n * a.width; i++)
        ref[i] = reference_at(&a, i / a.width, i % a.width);
    op_check(&(OpCase){ .name = name, .op = a.op, .nd = 2, .dim = { a.n, a.width }, .run = run, .arg = &a,
                        .ref = ref, .tol = 2e-7, .bench = bench });
    free(a.x);
    free(a.w);
    free(a.index);
    free(ref);
}

static const OpId ops[] = { OP_GATHER, OP_LERP_ROWS, OP_LAYER_MIX };

static void sizes(void **state)
{
    static const int64_t size[][3] = { { 1, 1, 1 }, { 5, 3, 7 }, { 9, 13, 33 }, { 40, 25, 300 }, { 130, 64, 129 } };
    (void)state;
    for (int o = 0; o < 3; o++)
        for (size_t s = 0; s < sizeof(size) / sizeof(size[0]); s++)
            check((Arg){ .op = ops[o], .n = size[s][0], .t = size[s][1], .width = size[s][2] }, RANDOM, 0);
}

static void values(void **state)
{
    (void)state;
    for (int o = 0; o < 3; o++)
        for (Values kind = ZERO; kind < NB_VALUES; kind++)
            check((Arg){ .op = ops[o], .n = 11, .t = 5, .width = 17 }, kind, 0);
}

/* A row at the end of x, and one past it, is the last row whatever the weight. */
static void last_row(void **state)
{
    const float x[4] = { 1, 2, 3, 4 }, w[3] = { 0, 0.25f, 0.5f };
    const int32_t index[3] = { 1, 1, 9 };
    TestBench t;
    Tensor out, i;
    float *y;

    (void)state;
    op_open(&t, CPU_AUTO, 1, DT_F32);
    out = avt_new(t.arena, DT_F32, 3, 2);
    i = avt_new(t.arena, DT_I32, 3);
    avt_upload(t.be, i, index);
    avt_lerp_rows(t.be, out, TEST_TENSOR(&t, x, 2, 2), i, TEST_TENSOR(&t, w, 3));
    y = test_read(&t, out);
    for (int n = 0; n < 3; n++)
        assert_true(y[2 * n] == 3 && y[2 * n + 1] == 4);
    free(y);
    test_bench_close(&t);
}

static void speed(void **state)
{
    (void)state;
    for (int o = 0; op_bench_mode && o < 3; o++)
        check((Arg){ .op = ops[o], .n = 500, .t = 25, .width = 1024 }, RANDOM, 1);
}

static void mistakes(void **state)
{
    TestBench t;
    Tensor x, out, ids;

    (void)state;
    op_refuser_open(&t);
    x = avt_new(t.arena, DT_F32, 4, 8);
    out = avt_new(t.arena, DT_F32, 3, 8);
    ids = avt_new(t.arena, DT_I32, 3);
    avt_gather(t.be, out, x, avt_new(t.arena, DT_F32, 3));
    op_refused(&t, OP_GATHER);
    avt_gather(t.be, avt_new(t.arena, DT_F32, 3, 7), x, ids);
    op_refused(&t, OP_GATHER);
    avt_lerp_rows(t.be, out, x, ids, avt_new(t.arena, DT_F32, 2));
    op_refused(&t, OP_LERP_ROWS);
    avt_layer_mix(t.be, out, avt_new(t.arena, DT_F32, 3, 5, 8), avt_new(t.arena, DT_F32, 4));
    op_refused(&t, OP_LAYER_MIX);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(values), cmocka_unit_test(last_row), cmocka_unit_test(speed),
        cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "rows", tests);
}
