/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* linear, linear_add, linear_group: weights f32 and bf16, bias, activation, gate and residual. */
#include "base/half.h"
#include "op.h"

typedef struct Arg {
    int64_t m, n, k;
    DType storage;
    Act act;
    int with_bias, with_gate, with_res, in_place;
    int nb, which;                      // group: of so many products, the result of this one is looked at
    float *x, *w, *b, *gate, *res;
} Arg;

/* The products beside l have the upper half of its rows. */
static void run_group(TestBench *t, const Arg *a, Tensor out, Tensor x, const Linear *l)
{
    const int64_t half = (a->n + 1) / 2, dim[2] = { half, a->k };
    const Linear side = { .w = test_weight(t, WEIGHT_LINEAR, a->w, 2, dim), .b = l->b.be ? avt_rows(l->b, 0, half) : AVT_NONE };
    const Linear *which[OP_MAX_OUT];
    Tensor to[OP_MAX_OUT];

    for (int i = 0; i < a->nb; i++) {
        which[i] = i == a->which ? l : &side;
        to[i] = i == a->which ? out : avt_new(t->arena, out.dtype, a->m, half);
    }
    avt_linear_group(t->be, a->nb, to, x, which);
}

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const int64_t dim[2] = { a->n, a->k };
    const Tensor x = TEST_ACT(t, a->x, a->m, a->k);
    uint16_t *half = malloc((size_t)(a->n * a->k) * 2 + 1);
    Linear l = { .b = a->with_bias ? TEST_TENSOR(t, a->b, a->n) : AVT_NONE };

    for (int64_t i = 0; i < a->n * a->k; i++)
        half[i] = avt_f32_bf16(a->w[i]);
    l.w = a->storage == DT_F32 ? test_weight(t, WEIGHT_LINEAR, a->w, 2, dim) : avt_weight_put(t->arena, WEIGHT_LINEAR, t->act, a->storage, 2, dim, half);
    if (a->nb) {
        run_group(t, a, out, x, &l);
    } else if (!a->with_res) {
        avt_linear(t->be, out, x, &l, a->act);
    } else {
        const Tensor gate = a->with_gate ? TEST_TENSOR(t, a->gate, a->n) : AVT_NONE;
        Tensor res = a->in_place ? out : test_like(t, out, a->res);

        if (a->in_place)
            test_put_out(t, out, a->res);
        avt_linear_add(t->be, out, res, x, &l, gate);
    }
    free(half);
}

static double act_f64(Act act, double v)
{
    switch (act) {
    case ACT_SILU:      return v / (1 + exp(-v));
    case ACT_GELU_TANH: return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case ACT_GELU_ERF:  return 0.5 * v * (1 + erf(v / sqrt(2)));
    case ACT_CLAMP:     return v < -1 ? -1 : v > 1 ? 1 : v;
    default:            return v;
    }
}

static float stored(const Arg *a, float w)
{
    return a->storage == DT_BF16 ? avt_bf16_f32(avt_f32_bf16(w)) : w;
}

static double *reference(const Arg *a)
{
    double *ref = malloc((size_t)(a->m * a->n) * sizeof(*ref));

    for (int64_t m = 0; m < a->m; m++)
        for (int64_t n = 0; n < a->n; n++) {
            double v = a->with_bias ? a->b[n] : 0;

            for (int64_t k = 0; k < a->k; k++)
                v += (double)a->x[m * a->k + k] * stored(a, a->w[n * a->k + k]);
            v = act_f64(a->act, v) * (a->with_gate ? a->gate[n] : 1);
            ref[m * a->n + n] = v + (a->with_res ? a->res[m * a->n + n] : 0);
        }
    return ref;
}

static void check(Arg a, Values kind, int bench)
{
    char name[96];
    double *ref;

    snprintf(name, sizeof(name), "%lldx%lldx%lld %s %s act %d%s%s, %d of %d", (long long)a.m, (long long)a.n,
             (long long)a.k, avt_dtype_name(a.storage), values_name[kind], a.act, a.with_gate ? " gate" : "",
             a.in_place ? " in place" : "", a.which, a.nb);
    a.x = op_values(a.m * a.k, kind, 1);
    a.w = op_values(a.n * a.k, kind == ZERO ? RANDOM : kind == LARGE ? RANDOM : kind, 2);
    a.b = op_values(a.n, kind, 3);
    a.gate = op_values(a.n, RANDOM, 4);
    a.res = op_values(a.m * a.n, kind, 5);
    ref = op_bench_mode ? NULL : reference(&a);
    op_check(&(OpCase){ .name = name, .op = a.nb ? OP_LINEAR_GROUP : OP_LINEAR, .nd = 2, .dim = { a.m, a.n }, .run = run, .arg = &a, .ref = ref,
                        .tol = 2e-7 * sqrt((double)a.k) + 2e-7, .bench = bench });
    free(a.x);
    free(a.w);
    free(a.b);
    free(a.gate);
    free(a.res);
    free(ref);
}

static void sizes(void **state)
{
    static const int64_t size[][3] = { { 1, 1, 1 }, { 1, 9, 300 }, { 3, 7, 5 }, { 6, 4, 16 }, { 4, 8, 16 }, { 5, 33, 257 },
                                       { 130, 31, 64 }, { 129, 70, 515 }, { 17, 1, 33 }, { 2, 96, 1024 },
                                       { 37, 50, 3300 }, { 300, 40, 1700 } };
    (void)state;
    for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++)
        for (int storage = DT_F32; storage <= DT_BF16; storage++)
            check((Arg){ .m = size[i][0], .n = size[i][1], .k = size[i][2], .storage = storage,
                         .with_bias = (int)i % 2 }, RANDOM, 0);
}

static void values(void **state)
{
    (void)state;
    for (Values kind = ZERO; kind < NB_VALUES; kind++)
        for (int storage = DT_F32; storage <= DT_BF16; storage++)
            check((Arg){ .m = 6, .n = 19, .k = 45, .storage = storage, .with_bias = 1 }, kind, 0);
}

static void activations(void **state)
{
    (void)state;
    for (Act act = ACT_NONE; act <= ACT_CLAMP; act++) {
        check((Arg){ .m = 21, .n = 40, .k = 75, .act = act, .with_bias = 1 }, RANDOM, 0);
        check((Arg){ .m = 21, .n = 40, .k = 64, .act = act, .with_bias = 1 }, RANDOM, 0);        // of a shape that libraries take
        check((Arg){ .m = 21, .n = 40, .k = 64, .act = act }, RANDOM, 0);
        for (int i = 0; i < 2; i++)                                                             // of several types, sampled or not
            check((Arg){ .m = 21, .n = 40, .k = 64, .act = act, .with_bias = i, .storage = DT_BF16 }, RANDOM, 0);
        check((Arg){ .m = 21, .n = 40, .k = 75, .act = act, .storage = DT_BF16 }, LARGE, 0);
    }
}

static void residual(void **state)
{
    (void)state;
    for (int i = 0; i < 16; i++)
        check((Arg){ .m = 13, .n = 37, .k = 50, .with_res = 1, .in_place = i & 1, .with_gate = i >> 1 & 1, .with_bias = i >> 2 & 1,
                     .storage = i >> 3 ? DT_BF16 : DT_F32 }, RANDOM, 0);
    check((Arg){ .m = 65, .n = 81, .k = 2048, .with_res = 1, .with_gate = 1, .with_bias = 1 }, RANDOM, 0);
}

static void groups(void **state)
{
    (void)state;
    for (int nb = 2; nb <= OP_MAX_OUT; nb++)
        for (int which = 0; which < nb; which++) {
            check((Arg){ .m = 5, .n = 33, .k = 257, .with_bias = 1, .nb = nb, .which = which }, RANDOM, 0);
            check((Arg){ .m = 130, .n = 31, .k = 64, .storage = DT_BF16, .nb = nb, .which = which }, RANDOM, 0);
        }
    check((Arg){ .m = 37, .n = 50, .k = 3300, .with_bias = 1, .nb = 3, .which = 1 }, RANDOM, 0);
}

static void speed(void **state)
{
    static const int64_t size[][3] = { { 1, 1024, 1024 }, { 64, 1024, 1024 }, { 512, 1024, 1024 }, { 512, 4096, 1024 } };
    (void)state;
    for (size_t i = 0; op_bench_mode && i < sizeof(size) / sizeof(size[0]); i++)
        for (int storage = DT_F32; storage <= DT_BF16; storage++)
            check((Arg){ .m = size[i][0], .n = size[i][1], .k = size[i][2], .storage = storage, .with_bias = 1 }, RANDOM, 1);
}

/* out [3, 8], x [3, 16] and l suit each other. */
static void group_mistakes(TestBench *t, Tensor x, Tensor out, const Linear *l)
{
    const Linear *const two[3] = { l, l };
    const Tensor other = avt_new(t->arena, DT_F32, 3, 8), both = avt_new(t->arena, DT_F32, 7, 8);

    avt_linear_group(t->be, 1, &out, x, two);
    op_refused(t, OP_LINEAR_GROUP);
    avt_linear_group(t->be, 2, (const Tensor[]){ out, avt_new(t->arena, DT_F32, 3, 9) }, x, two);
    op_refused(t, OP_LINEAR_GROUP);
    avt_linear_group(t->be, 2, (const Tensor[]){ out, avt_new(t->arena, DT_F32, 2, 8) }, x, two);
    op_refused(t, OP_LINEAR_GROUP);
    avt_linear_group(t->be, 2, (const Tensor[]){ out, avt_view(avt_rows(x, 0, 1), 2, 8) }, avt_rows(x, 0, 2), two);
    op_refused(t, OP_LINEAR_GROUP);                                 // a result overlaps x
    avt_linear_group(t->be, 2, (const Tensor[]){ avt_rows(both, 0, 3), avt_rows(both, 2, 3) }, x, two);
    op_refused(t, OP_LINEAR_GROUP);                                 // the results overlap each other
    avt_linear_group(t->be, 2, (const Tensor[]){ out, other }, x, (const Linear *const[]){ l, &(Linear){ .w = other } });
    op_refused(t, OP_LINEAR_GROUP);
    avt_linear_group(t->be, 2, (const Tensor[]){ avt_rows(both, 0, 3), avt_rows(both, 3, 3) }, x, two);
    REQUIRE_OK(avt_sync(t->be));
}

static void mistakes(void **state)
{
    const int64_t dim[2] = { 8, 16 };
    TestBench t;
    Tensor x, out;
    Linear l = { 0 };

    (void)state;
    op_refuser_open(&t);
    l.w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F32, DT_F32, 2, dim, NULL);
    x = avt_new(t.arena, DT_F32, 3, 16);
    out = avt_new(t.arena, DT_F32, 3, 8);
    avt_linear(t.be, avt_new(t.arena, DT_F32, 3, 9), x, &l, ACT_NONE);
    op_refused(&t, OP_LINEAR);
    avt_linear(t.be, out, avt_new(t.arena, DT_F32, 3, 15), &l, ACT_NONE);
    op_refused(&t, OP_LINEAR);
    avt_linear(t.be, out, avt_new(t.arena, DT_F32, 4, 16), &l, ACT_NONE);
    op_refused(&t, OP_LINEAR);
    avt_linear(t.be, out, x, &(Linear){ .w = l.w, .b = avt_new(t.arena, DT_F32, 7) }, ACT_NONE);
    op_refused(&t, OP_LINEAR);
    avt_linear_add(t.be, out, AVT_NONE, x, &l, AVT_NONE);
    op_refused(&t, OP_LINEAR);
    avt_linear_add(t.be, out, out, x, &l, avt_new(t.arena, DT_F32, 9));
    op_refused(&t, OP_LINEAR);
    avt_linear(t.be, avt_view(avt_rows(x, 0, 1), 2, 8), avt_rows(x, 0, 2), &l, ACT_NONE);      // the result overlaps x
    op_refused(&t, OP_LINEAR);
    avt_linear(t.be, out, x, &(Linear){ .w = avt_weight_put(t.arena, WEIGHT_PLAIN, DT_F32, DT_F32, 2, dim, NULL) }, ACT_NONE);
    op_refused(&t, OP_LINEAR);                                      // put for another use
    avt_linear(t.be, out, x, &(Linear){ .w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_BF16, DT_F32, 2, dim, NULL) }, ACT_NONE);
    op_refused(&t, OP_LINEAR);                                      // put for other activations
    avt_linear(t.be, out, x, &l, ACT_NONE);
    REQUIRE_OK(avt_sync(t.be));
    group_mistakes(&t, x, out, &l);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(values), cmocka_unit_test(activations), cmocka_unit_test(residual),
        cmocka_unit_test(groups), cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "linear", tests);
}
