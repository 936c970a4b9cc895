/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* rms_norm, channel_norm, layer_norm, norm_modulate, softmax. */
#include "op.h"

typedef struct Arg {
    OpId op;
    int64_t rows, width;
    int in_place, with_w, with_b;
    Act act;
    float eps;
    float *x, *w, *b;
} Arg;

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const Tensor w = a->with_w ? TEST_TENSOR(t, a->w, a->width) : AVT_NONE;
    const Tensor b = a->with_b ? TEST_TENSOR(t, a->b, a->width) : AVT_NONE;
    Tensor x = a->in_place ? out : TEST_TENSOR(t, a->x, a->rows, a->width);

    if (a->in_place)
        avt_upload(t->be, out, a->x);
    switch (a->op) {
    case OP_RMS_NORM:      avt_rms_norm(t->be, out, x, w, a->eps);              break;
    case OP_CHANNEL_NORM:  avt_channel_norm(t->be, out, x, w, a->act);          break;
    case OP_LAYER_NORM:    avt_layer_norm(t->be, out, x, w, b, a->eps, a->act); break;
    case OP_NORM_MODULATE: avt_norm_modulate(t->be, out, x, w, b, a->eps);      break;
    default:               avt_softmax(t->be, out, x);
    }
}

static double act_f64(Act act, double v)
{
    return act == ACT_SILU ? v / (1 + exp(-v)) : act == ACT_GELU_ERF ? 0.5 * v * (1 + erf(v / sqrt(2))) : v;
}

static void reference_row(const Arg *a, double *out, const float *x)
{
    double mean = 0, sq = 0, var = 0, top = -INFINITY, sum = 0;

    for (int64_t i = 0; i < a->width; i++) {
        mean += (double)x[i] / (double)a->width;
        sq += (double)x[i] * x[i];
        top = x[i] > top ? x[i] : top;
    }
    for (int64_t i = 0; i < a->width; i++) {
        var += (x[i] - mean) * (x[i] - mean) / (double)a->width;
        sum += exp(x[i] - top);
    }
    for (int64_t i = 0; i < a->width; i++) {
        const double w = a->with_w ? a->w[i] : 1, b = a->with_b ? a->b[i] : 0, n = (x[i] - mean) / sqrt(var + a->eps);

        switch (a->op) {
        case OP_RMS_NORM:      out[i] = x[i] / sqrt(sq / (double)a->width + a->eps) * w;                               break;
        case OP_CHANNEL_NORM:  out[i] = act_f64(a->act, x[i] / fmax(sqrt(sq), 1e-12) * sqrt((double)a->width) * w);   break;
        case OP_LAYER_NORM:    out[i] = act_f64(a->act, n * w + b);                                                    break;
        case OP_NORM_MODULATE: out[i] = n * (1 + w) + b;                                                               break;
        default:               out[i] = exp(x[i] - top) / sum;
        }
    }
}

static void check(Arg a, Values kind, int bench)
{
    double *ref = malloc((size_t)(a.rows * a.width) * sizeof(*ref));
    char name[96];

    snprintf(name, sizeof(name), "%s %lldx%lld %s act %d%s", avt_op_name(a.op), (long long)a.rows,
             (long long)a.width, values_name[kind], a.act, a.in_place ? " in place" : "");
    a.x = op_values(a.rows * a.width, kind, 1);
    a.w = op_values(a.width, RANDOM, 2);
    a.b = op_values(a.width, RANDOM, 3);
    if (a.op == OP_SOFTMAX)                                         // scores: spread, but not one-hot
        for (int64_t i = 0; i < a.rows * a.width; i++)
            a.x[i] = kind == LARGE ? a.x[i] * 3e-11f : a.x[i] * 5;
    for (int64_t r = 0; r < a.rows; r++)
        reference_row(&a, ref + r * a.width, a.x + r * a.width);
    op_check(&(OpCase){ .name = name, .op = a.op, .nd = 2, .dim = { a.rows, a.width }, .run = run, .arg = &a,
                        .ref = ref, .tol = 5e-7, .bench = bench });
    free(a.x);
    free(a.w);
    free(a.b);
    free(ref);
}

static Arg arg(OpId op, int64_t rows, int64_t width, int variant)
{
    Arg a = { .op = op, .rows = rows, .width = width, .in_place = variant & 1, .eps = 1e-6f };

    a.with_w = op != OP_SOFTMAX && (op != OP_LAYER_NORM || variant & 2);
    a.with_b = op == OP_NORM_MODULATE || (op == OP_LAYER_NORM && variant & 4);
    if (op == OP_CHANNEL_NORM || op == OP_LAYER_NORM)
        a.act = variant & 1 ? ACT_SILU : variant & 2 ? ACT_GELU_ERF : ACT_NONE;
    return a;
}

static const OpId ops[] = { OP_RMS_NORM, OP_CHANNEL_NORM, OP_LAYER_NORM, OP_NORM_MODULATE, OP_SOFTMAX };
enum { NB_OPS = sizeof(ops) / sizeof(ops[0]) };

static void sizes(void **state)
{
    static const int64_t size[][2] = { { 1, 1 }, { 1, 2 }, { 7, 3 }, { 3, 8 }, { 5, 17 }, { 9, 31 }, { 2, 96 },
                                       { 33, 257 }, { 64, 384 }, { 3, 5120 } };
    (void)state;
    for (int o = 0; o < NB_OPS; o++)
        for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++)
            check(arg(ops[o], size[i][0], size[i][1], (int)i % 8), RANDOM, 0);
}

static void values(void **state)
{
    (void)state;
    for (int o = 0; o < NB_OPS; o++)
        for (Values kind = ZERO; kind < NB_VALUES; kind++)
            for (int variant = 0; variant < 8; variant++)
                check(arg(ops[o], 5, 45, variant), kind, 0);
}

/* A large common offset must not eat the digits of the variance. */
static void offset(void **state)
{
    Arg a = { .op = OP_LAYER_NORM, .rows = 3, .width = 61, .eps = 1e-6f };
    double ref[3 * 61];

    (void)state;
    a.x = op_values(a.rows * a.width, RANDOM, 9);
    for (int64_t i = 0; i < a.rows * a.width; i++)
        a.x[i] += 1000;
    for (int64_t r = 0; r < a.rows; r++)
        reference_row(&a, ref + r * a.width, a.x + r * a.width);
    op_check(&(OpCase){ .name = "layer_norm of 1000 + noise", .op = a.op, .nd = 2, .dim = { a.rows, a.width },
                        .run = run, .arg = &a, .ref = ref, .tol = 1e-6 });
    free(a.x);
}

static void speed(void **state)
{
    (void)state;
    for (int o = 0; op_bench_mode && o < NB_OPS; o++)
        check(arg(ops[o], 1024, 1024, 6), RANDOM, 1);
}

static void mistakes(void **state)
{
    TestBench t;
    Tensor x, out, w, shorter;

    (void)state;
    op_refuser_open(&t);
    x = avt_new(t.arena, DT_F32, 3, 16);
    out = avt_new(t.arena, DT_F32, 3, 16);
    w = avt_new(t.arena, DT_F32, 16);
    shorter = avt_new(t.arena, DT_F32, 15);
    avt_rms_norm(t.be, out, x, shorter, 1e-6f);
    op_refused(&t, OP_RMS_NORM);
    avt_rms_norm(t.be, avt_rows(out, 0, 2), x, w, 1e-6f);
    op_refused(&t, OP_RMS_NORM);
    avt_channel_norm(t.be, avt_view(out, 6, 8), x, w, ACT_NONE);
    op_refused(&t, OP_CHANNEL_NORM);
    avt_layer_norm(t.be, out, x, w, shorter, 1e-6f, ACT_NONE);
    op_refused(&t, OP_LAYER_NORM);
    avt_norm_modulate(t.be, out, x, AVT_NONE, w, 1e-6f);
    op_refused(&t, OP_NORM_MODULATE);
    avt_softmax(t.be, avt_new(t.arena, DT_BF16, 3, 16), x);
    op_refused(&t, OP_SOFTMAX);
    avt_softmax(t.be, avt_rows(x, 1, 2), avt_rows(x, 0, 2));        // overlaps, but is not the same tensor
    op_refused(&t, OP_SOFTMAX);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(values), cmocka_unit_test(offset), cmocka_unit_test(speed),
        cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "norms", tests);
}
