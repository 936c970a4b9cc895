/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* act, add, mul, axpy, gate_add, fill. */
#include "op.h"

typedef struct Arg {
    OpId op;
    int64_t rows, width;
    int in_place;                               // bit 0: out is the first operand, bit 1: the second
    int row;                                    // b is one row
    Act act;
    float alpha, beta;
    float *a, *b, *mask;
} Arg;

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *g = opaque;
    Tensor a = g->in_place & 1 ? out : TEST_ACT(t, g->a, g->rows, g->width), b = out;

    if (g->in_place)
        test_put_out(t, out, g->in_place & 1 ? g->a : g->b);
    if (!(g->in_place & 2))
        b = g->row ? TEST_ACT(t, g->b, g->width) : TEST_ACT(t, g->b, g->rows, g->width);
    switch (g->op) {
    case OP_ACT:      avt_act(t->be, out, a, g->act);                                        break;
    case OP_ADD:      avt_add(t->be, out, a, b);                                             break;
    case OP_MUL:      avt_mul(t->be, out, a, b);                                             break;
    case OP_AXPY:     avt_axpy(t->be, out, g->alpha, a, g->beta, b);                         break;
    case OP_GATE_ADD: avt_gate_add(t->be, out, a, b, TEST_TENSOR(t, g->mask, g->rows));      break;
    default:          avt_fill(t->be, out, g->alpha);
    }
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

static double reference_at(const Arg *g, int64_t i)
{
    const double a = g->a[i], b = g->b[g->row ? i % g->width : i];

    switch (g->op) {
    case OP_ACT:      return act_f64(g->act, a);
    case OP_ADD:      return a + b;
    case OP_MUL:      return a * b;
    case OP_AXPY:     return g->alpha * a + g->beta * b;
    case OP_GATE_ADD: return a + b * g->mask[i / g->width];
    default:          return g->alpha;
    }
}

static void check(Arg g, Values kind, int bench)
{
    const int64_t nb = g.rows * g.width;
    double *ref = malloc((size_t)nb * sizeof(*ref));
    char name[96];

    snprintf(name, sizeof(name), "%s %lldx%lld %s act %d, in place %d%s", avt_op_name(g.op), (long long)g.rows, (long long)g.width,
             values_name[kind], g.act, g.in_place, g.row ? ", one row" : "");
    g.alpha = 0.75f;
    g.beta = -1.3f;
    g.a = op_values(nb, kind, 1);
    g.b = op_values(nb, kind, 2);
    g.mask = op_values(g.rows, RANDOM, 3);
    if (g.op == OP_ACT && kind == RANDOM)
        for (int64_t i = 0; i < nb; i++)
            g.a[i] *= 12;
    for (int64_t i = 0; i < nb; i++)
        ref[i] = reference_at(&g, i);
    op_check(&(OpCase){ .name = name, .op = g.op, .nd = 2, .dim = { g.rows, g.width }, .run = run, .arg = &g,
                        .ref = ref, .tol = 2e-7, .bench = bench });
    free(g.a);
    free(g.b);
    free(g.mask);
    free(ref);
}

static const OpId ops[] = { OP_ACT, OP_ADD, OP_MUL, OP_AXPY, OP_GATE_ADD, OP_FILL };
enum { NB_OPS = sizeof(ops) / sizeof(ops[0]) };

static void sizes(void **state)
{
    static const int64_t size[][2] = { { 1, 1 }, { 1, 7 }, { 5, 1 }, { 3, 33 }, { 31, 65 }, { 17, 2500 } };
    (void)state;
    for (int o = 0; o < NB_OPS; o++)
        for (size_t s = 0; s < sizeof(size) / sizeof(size[0]); s++)
            for (int row = 0; row < 2; row++)
                check((Arg){ .op = ops[o], .rows = size[s][0], .width = size[s][1],
                             .row = row && (ops[o] == OP_ADD || ops[o] == OP_MUL), .act = (Act)(s % 5) }, RANDOM, 0);
}

static void values(void **state)
{
    (void)state;
    for (int o = 0; o < NB_OPS; o++)
        for (Values kind = ZERO; kind < NB_VALUES; kind++)
            for (Act act = ACT_NONE; act <= (ops[o] == OP_ACT ? ACT_CLAMP : ACT_NONE); act++)
                check((Arg){ .op = ops[o], .rows = 7, .width = 19, .act = act }, kind, 0);
}

static void in_place(void **state)
{
    (void)state;
    for (int o = 0; o < NB_OPS - 1; o++)
        check((Arg){ .op = ops[o], .rows = 9, .width = 21, .act = ACT_SILU, .in_place = 1 }, RANDOM, 0);
    for (int o = 1; o < 4; o++) {
        check((Arg){ .op = ops[o], .rows = 9, .width = 21, .in_place = 2 }, RANDOM, 0);
        check((Arg){ .op = ops[o], .rows = 9, .width = 21, .in_place = 1, .row = ops[o] != OP_AXPY }, RANDOM, 0);
    }
}

/* Far from zero an activation is 0, x or a bound; it is never NaN. */
static void extremes(void **state)
{
    static const float x[] = { -INFINITY, -3e38f, -1e20f, -200, -90, 90, 200, 1e20f, 3e38f, INFINITY };
    enum { NB = sizeof(x) / sizeof(x[0]) };

    (void)state;
    for (CpuLevel level = CPU_PLAIN; level <= CPU_AUTO; level++)
        for (Act act = ACT_SILU; act <= ACT_CLAMP; act++) {
            TestBench t;
            Tensor v;
            float *y;

            op_open(&t, level, 1, DT_F32);
            v = TEST_TENSOR(&t, x + 1, NB - 2);
            avt_act(t.be, v, v, act);
            y = test_read(&t, v);
            for (int i = 0; i < NB - 2; i++)
                assert_true(y[i] == (act == ACT_CLAMP ? (x[i + 1] < 0 ? -1 : 1) : x[i + 1] < 0 ? 0 : x[i + 1]) ||
                            fabsf(y[i]) < 1e-30f);
            free(y);
            test_bench_close(&t);
        }
}

static void speed(void **state)
{
    (void)state;
    for (int o = 0; op_bench_mode && o < NB_OPS; o++)
        for (Act act = ACT_SILU; act <= (ops[o] == OP_ACT ? ACT_GELU_ERF : ACT_SILU); act++)
            check((Arg){ .op = ops[o], .rows = 1024, .width = 1024, .act = act }, RANDOM, 1);
}

static void mistakes(void **state)
{
    TestBench t;
    Tensor a, b;

    (void)state;
    op_refuser_open(&t);
    a = avt_new(t.arena, DT_F32, 3, 8);
    b = avt_new(t.arena, DT_F32, 3, 7);
    avt_act(t.be, b, a, ACT_SILU);
    op_refused(&t, OP_ACT);
    avt_add(t.be, a, a, b);
    op_refused(&t, OP_ADD);
    avt_mul(t.be, a, a, avt_new(t.arena, DT_F32, 3));
    op_refused(&t, OP_MUL);
    avt_axpy(t.be, a, 1, a, 1, avt_new(t.arena, DT_F32, 8));
    op_refused(&t, OP_AXPY);
    avt_gate_add(t.be, a, a, avt_new(t.arena, DT_F32, 3, 8), avt_new(t.arena, DT_F32, 8));
    op_refused(&t, OP_GATE_ADD);
    avt_gate_add(t.be, a, avt_new(t.arena, DT_F32, 3, 8), a, avt_new(t.arena, DT_F32, 3));     // y may not be out
    op_refused(&t, OP_GATE_ADD);
    avt_fill(t.be, avt_new(t.arena, DT_I32, 4), 1);
    op_refused(&t, OP_FILL);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(values), cmocka_unit_test(in_place),
        cmocka_unit_test(extremes), cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "elementwise", tests);
}
