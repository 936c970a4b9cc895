/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* conv1d: groups whose width is no multiple of a panel, strides, zero and replicated padding, activations. */
#include "op.h"

typedef struct Arg {
    int64_t t, cin, cout, k;                    // cin: of all groups together
    Conv1dSpec spec;
    int with_bias;
    Act act;
    float *x, *weight, *bias;
} Arg;

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const int64_t dim[3] = { a->cout, a->cin / a->spec.groups, a->k };
    const Conv c = { .w = test_weight(t, WEIGHT_CONV1D, a->weight, 3, dim),
                     .b = a->with_bias ? TEST_TENSOR(t, a->bias, a->cout) : AVT_NONE };

    avt_conv1d(t->be, out, TEST_ACT(t, a->x, a->t, a->cin), &c, a->spec, a->act);
}

static double act_f64(Act act, double v)
{
    return act == ACT_GELU_ERF ? 0.5 * v * (1 + erf(v / sqrt(2))) : act == ACT_SILU ? v / (1 + exp(-v)) : v;
}

static double reference_at(const Arg *a, int64_t t, int64_t n)
{
    const int64_t cin = a->cin / a->spec.groups, first = n / (a->cout / a->spec.groups) * cin;
    double sum = a->with_bias ? a->bias[n] : 0;

    for (int64_t k = 0; k < a->k; k++) {
        int64_t at = t * a->spec.stride - a->spec.pad0 + k;

        if (at < 0 || at >= a->t) {
            if (!a->spec.replicate)
                continue;
            at = at < 0 ? 0 : a->t - 1;
        }
        for (int64_t c = 0; c < cin; c++)
            sum += (double)a->x[at * a->cin + first + c] * a->weight[(n * cin + c) * a->k + k];
    }
    return act_f64(a->act, sum);
}

static void check(Arg a, Values kind, int bench)
{
    const int64_t nb = (a.spec.pad0 + a.t + a.spec.pad1 - a.k) / a.spec.stride + 1;
    double *ref = malloc((size_t)(nb * a.cout) * sizeof(*ref));
    char name[96];

    snprintf(name, sizeof(name), "[%lld, %lld] to %lld, kernel %lld, stride %d, groups %d, pad %d,%d%s %s",
             (long long)a.t, (long long)a.cin, (long long)a.cout, (long long)a.k, a.spec.stride, a.spec.groups,
             a.spec.pad0, a.spec.pad1, a.spec.replicate ? " edge" : "", values_name[kind]);
    a.x = op_values(a.t * a.cin, kind, 1);
    a.weight = op_values(a.cout * a.cin / a.spec.groups * a.k, RANDOM, 2);
    a.bias = op_values(a.cout, kind, 3);
    for (int64_t i = 0; i < nb * a.cout && !op_bench_mode; i++)
        ref[i] = reference_at(&a, i / a.cout, i % a.cout);
    op_check(&(OpCase){ .name = name, .op = OP_CONV1D, .nd = 2, .dim = { nb, a.cout }, .run = run, .arg = &a, .ref = ref,
                        .tol = 6e-8 * sqrt((double)(a.cin / a.spec.groups * a.k)) + 3e-7, .bench = bench });
    free(a.x);
    free(a.weight);
    free(a.bias);
    free(ref);
}

static void sizes(void **state)
{
    static const Arg args[] = {
        { .t = 1, .cin = 1, .cout = 1, .k = 1, .spec = { 1, 1, 0, 0, 0 } },
        { .t = 23, .cin = 1, .cout = 7, .k = 10, .spec = { 5, 1, 0, 0, 0 } },
        { .t = 9, .cin = 3, .cout = 5, .k = 3, .spec = { 2, 1, 2, 0, 1 }, .with_bias = 1 },
        { .t = 11, .cin = 16, .cout = 16, .k = 3, .spec = { 1, 1, 2, 0, 1 }, .with_bias = 1 },
        { .t = 2, .cin = 6, .cout = 9, .k = 5, .spec = { 1, 3, 4, 4, 1 } },
        { .t = 13, .cin = 12, .cout = 12, .k = 8, .spec = { 1, 4, 4, 3, 0 }, .with_bias = 1, .act = ACT_GELU_ERF },
        { .t = 7, .cin = 15, .cout = 33, .k = 4, .spec = { 1, 3, 2, 2, 0 }, .with_bias = 1, .act = ACT_SILU },
        { .t = 17, .cin = 64, .cout = 64, .k = 16, .spec = { 1, 4, 8, 8, 0 }, .with_bias = 1 },
        { .t = 6, .cin = 300, .cout = 21, .k = 3, .spec = { 1, 1, 1, 1, 0 } },
        { .t = 5, .cin = 8, .cout = 8, .k = 2, .spec = { 1, 8, 0, 1, 0 } },
        { .t = 400, .cin = 900, .cout = 4, .k = 3, .spec = { 1, 2, 2, 0, 1 }, .act = ACT_SILU },
    };
    (void)state;
    for (size_t i = 0; i < sizeof(args) / sizeof(args[0]); i++)
        check(args[i], RANDOM, 0);
}

static void values(void **state)
{
    (void)state;
    for (Values kind = ZERO; kind < NB_VALUES; kind++)
        for (int replicate = 0; replicate < 2; replicate++)
            check((Arg){ .t = 10, .cin = 14, .cout = 22, .k = 3, .spec = { 1, 2, 2, 1, replicate }, .with_bias = 1 }, kind, 0);
}

static void speed(void **state)
{
    (void)state;
    if (!op_bench_mode)
        return;
    check((Arg){ .t = 500, .cin = 768, .cout = 768, .k = 128, .spec = { 1, 16, 64, 63, 0 } }, RANDOM, 1);
    check((Arg){ .t = 3000, .cin = 512, .cout = 512, .k = 3, .spec = { 2, 1, 0, 0, 0 } }, RANDOM, 1);
}

static void mistakes(void **state)
{
    const int64_t dim[3] = { 6, 2, 3 };
    TestBench t;
    Tensor x, out;
    Conv c;

    (void)state;
    op_refuser_open(&t);
    c = (Conv){ .w = avt_weight_put(t.arena, WEIGHT_CONV1D, DT_F32, DT_F32, 3, dim, NULL) };
    x = avt_new(t.arena, DT_F32, 9, 4);
    out = avt_new(t.arena, DT_F32, 9, 6);
    avt_conv1d(t.be, out, x, &c, (Conv1dSpec){ .stride = 1, .groups = 1, .pad0 = 1, .pad1 = 1 }, ACT_NONE);      // 4 channels want 2 groups
    op_refused(&t, OP_CONV1D);
    avt_conv1d(t.be, out, x, &c, (Conv1dSpec){ .stride = 1, .groups = 2, .pad0 = 1, .pad1 = 0 }, ACT_NONE);
    op_refused(&t, OP_CONV1D);
    avt_conv1d(t.be, avt_new(t.arena, DT_F32, 9, 8), x, &c, (Conv1dSpec){ .stride = 1, .groups = 2, .pad0 = 1, .pad1 = 1 }, ACT_NONE);
    op_refused(&t, OP_CONV1D);
    avt_conv1d(t.be, out, avt_rows(x, 0, 2), &c, (Conv1dSpec){ .stride = 1, .groups = 2, .pad0 = 0, .pad1 = 0 }, ACT_NONE);
    op_refused(&t, OP_CONV1D);
    avt_conv1d(t.be, out, x, &c, (Conv1dSpec){ .stride = 1, .groups = 2, .pad0 = 1, .pad1 = 1 }, ACT_NONE);
    REQUIRE_OK(avt_sync(t.be));
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(values), cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "conv1d", tests);
}
