/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* squares, norm_rope (alone, with a table, of a part of the row), channel_norm, layer_norm (affine, modulated). */
#include "op.h"

typedef enum Kind { RMS, ROPE, PART, CHANNEL, LAYER, MODULATE, NB_KINDS } Kind;
enum { HD = 6 };                                // of a rotated head, when the width allows

typedef struct Arg {
    Kind kind;
    int64_t rows, width, groups;                // groups: of rows that share w and b
    int in_place, with_w, with_b;
    Act act;
    float eps;
    float *x, *w, *b, *table, *squares;
} Arg;

static OpId op_of(Kind kind)
{
    return kind <= PART ? OP_NORM_ROPE : kind == CHANNEL ? OP_CHANNEL_NORM : OP_LAYER_NORM;
}

static int64_t hd_of(const Arg *a)
{
    return a->width % HD ? a->width : HD;
}

static Tensor table_of(TestBench *t, const Arg *a)
{
    return a->kind != RMS && a->width % 2 == 0 ? TEST_TENSOR(t, a->table, a->rows, hd_of(a) / 2, 2) : AVT_NONE;
}

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const Tensor w = a->with_w ? TEST_TENSOR(t, a->w, a->groups, a->width) : AVT_NONE;
    const Tensor b = a->with_b ? TEST_TENSOR(t, a->b, a->groups, a->width) : AVT_NONE;
    Tensor x = a->in_place ? out : TEST_ACT(t, a->x, a->rows, a->width);

    if (a->in_place)
        test_put_out(t, out, a->x);
    switch (a->kind) {
    case RMS: case ROPE: avt_norm_rope(t->be, out, x, w, table_of(t, a), a->eps);    break;
    case PART:
        avt_norm_rope_part(t->be, out, x, w, table_of(t, a), a->eps, TEST_TENSOR(t, a->squares, a->rows), 2 * a->width);
        break;
    case CHANNEL:        avt_channel_norm(t->be, out, x, w, a->act);                 break;
    case LAYER:          avt_layer_norm(t->be, out, x, w, b, a->eps, a->act);        break;
    default:             avt_norm_modulate(t->be, out, x, w, b, a->eps);
    }
}

static double act_f64(Act act, double v)
{
    return act == ACT_SILU ? v / (1 + exp(-v)) : act == ACT_GELU_ERF ? 0.5 * v * (1 + erf(v / sqrt(2))) : v;
}

static void reference_rope(const Arg *a, double *out, int64_t row)
{
    for (int64_t i = 0; i < a->width; i += 2) {
        const float *t = a->table + row * hd_of(a) + i % hd_of(a);
        const double re = out[i], im = out[i + 1];

        out[i] = re * t[0] - im * t[1];
        out[i + 1] = re * t[1] + im * t[0];
    }
}

static void reference_row(const Arg *a, double *out, int64_t row)
{
    const float *x = a->x + row * a->width;
    const int64_t at = a->rows >= a->groups ? row / (a->rows / a->groups) * a->width : 0;
    double mean = 0, sq = 0, var = 0;

    for (int64_t i = 0; i < a->width; i++) {
        mean += (double)x[i] / (double)a->width;
        sq += (double)x[i] * x[i];
    }
    for (int64_t i = 0; i < a->width; i++)
        var += (x[i] - mean) * (x[i] - mean) / (double)a->width;
    for (int64_t i = 0; i < a->width; i++) {
        const double w = a->with_w ? a->w[at + i] : 1, b = a->with_b ? a->b[at + i] : 0, n = (x[i] - mean) / sqrt(var + a->eps);

        switch (a->kind) {
        case RMS: case ROPE: out[i] = x[i] / sqrt(sq / (double)a->width + a->eps) * w;                          break;
        case PART:           out[i] = x[i] / sqrt(a->squares[row] / (2 * (double)a->width) + a->eps) * w;       break;
        case CHANNEL: out[i] = act_f64(a->act, x[i] / fmax(sqrt(sq), 1e-12) * sqrt((double)a->width) * w);      break;
        case LAYER:   out[i] = act_f64(a->act, n * w + b);                                                      break;
        default:      out[i] = n * (1 + w) + b;
        }
    }
    if ((a->kind == ROPE || a->kind == PART) && a->width % 2 == 0)
        reference_rope(a, out, row);
}

static const char *const kind_name[NB_KINDS] = { "rms", "rms and rope", "rms of a part", "channel", "layer", "modulate" };

/* The sums of squares of rows of which a second half, as large as this one, is elsewhere. */
static void fill_squares(Arg *a)
{
    for (int64_t r = 0; r < a->rows; r++) {
        double sum = 0;

        for (int64_t i = 0; i < a->width; i++)
            sum += 2.0 * a->x[r * a->width + i] * a->x[r * a->width + i];
        a->squares[r] = (float)sum;
    }
}

static void check(Arg a, Values kind, int bench)
{
    double *ref = malloc((size_t)(a.rows * a.width) * sizeof(*ref));
    char name[96];

    a.groups = a.groups ? a.groups : 1;
    snprintf(name, sizeof(name), "%s %lldx%lld %s act %d%s", kind_name[a.kind], (long long)a.rows,
             (long long)a.width, values_name[kind], a.act, a.in_place ? " in place" : "");
    a.x = op_values(a.rows * a.width, kind, 1);
    a.w = op_values(a.groups * a.width, RANDOM, 2);
    a.b = op_values(a.groups * a.width, RANDOM, 3);
    a.table = op_values(a.rows * a.width, RANDOM, 4);
    a.squares = op_values(a.rows, ZERO, 5);
    fill_squares(&a);
    for (int64_t r = 0; r < a.rows; r++)
        reference_row(&a, ref + r * a.width, r);
    op_check(&(OpCase){ .name = name, .op = op_of(a.kind), .nd = 2, .dim = { a.rows, a.width }, .run = run, .arg = &a,
                        .ref = ref, .tol = 5e-7, .bench = bench });
    free(a.x);
    free(a.w);
    free(a.b);
    free(a.table);
    free(a.squares);
    free(ref);
}

static Arg arg(Kind kind, int64_t rows, int64_t width, int variant)
{
    Arg a = { .kind = kind, .rows = rows, .width = width, .in_place = variant & 1, .eps = 1e-6f };

    a.with_w = kind != LAYER || variant & 2;
    a.with_b = kind == MODULATE || (kind == LAYER && variant & 4);
    if (kind == CHANNEL || kind == LAYER)
        a.act = variant & 1 ? ACT_SILU : variant & 2 ? ACT_GELU_ERF : ACT_NONE;
    return a;
}

static void sizes(void **state)
{
    static const int64_t size[][2] = { { 1, 1 }, { 1, 2 }, { 7, 3 }, { 3, 8 }, { 5, 17 }, { 9, 31 }, { 2, 96 },
                                       { 33, 257 }, { 64, 384 }, { 3, 5120 } };
    (void)state;
    for (Kind k = 0; k < NB_KINDS; k++)
        for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++)
            check(arg(k, size[i][0], size[i][1], (int)i % 8), RANDOM, 0);
}

static void values(void **state)
{
    (void)state;
    for (Kind k = 0; k < NB_KINDS; k++)
        for (Values kind = ZERO; kind < NB_VALUES; kind++)
            for (int variant = 0; variant < 8; variant++)
                check(arg(k, 5, 45, variant), kind, 0);
}

/* Runs of rows with a scale and shift of their own. */
static void groups(void **state)
{
    static const int64_t size[][3] = { { 3, 1, 8 }, { 6, 3, 45 }, { 30, 3, 128 }, { 4, 4, 17 } };
    (void)state;
    for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++) {
        Arg a = arg(MODULATE, size[i][0], size[i][2], (int)i);

        a.groups = size[i][1];
        check(a, RANDOM, 0);
    }
}

/* A large common offset must not eat the digits of the variance. */
static void offset(void **state)
{
    Arg a = { .kind = LAYER, .rows = 3, .width = 61, .groups = 1, .eps = 1e-6f };
    double ref[3 * 61];

    (void)state;
    a.x = op_values(a.rows * a.width, RANDOM, 9);
    for (int64_t i = 0; i < a.rows * a.width; i++)
        a.x[i] += 1000;
    for (int64_t r = 0; r < a.rows; r++)
        reference_row(&a, ref + r * a.width, r);
    op_check(&(OpCase){ .name = "layer_norm of 1000 + noise", .op = OP_LAYER_NORM, .nd = 2, .dim = { a.rows, a.width },
                        .run = run, .arg = &a, .ref = ref, .tol = 1e-6 });
    free(a.x);
}

static void run_squares(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;

    avt_squares(t->be, out, TEST_ACT(t, a->x, a->rows, a->width));
}

/* Sums are f32, whatever the activations are. */
static void check_squares(int64_t rows, int64_t width, Values kind, int bench)
{
    double *ref = calloc((size_t)rows, sizeof(*ref));
    Arg a = { .rows = rows, .width = width, .x = op_values(rows * width, kind, 6) };
    char name[96];

    snprintf(name, sizeof(name), "squares %lldx%lld %s", (long long)rows, (long long)width, values_name[kind]);
    for (int64_t i = 0; i < rows * width; i++)
        ref[i / width] += (double)a.x[i] * a.x[i];
    op_check(&(OpCase){ .name = name, .op = OP_SQUARES, .nd = 1, .dim = { rows }, .run = run_squares, .arg = &a, .ref = ref, .tol = 5e-7,
                        .bench = bench, .modes = 1 << MODE_BF16 | 1 << MODE_OUT });
    free(a.x);
    free(ref);
}

static void squares(void **state)
{
    static const int64_t size[][2] = { { 1, 1 }, { 7, 3 }, { 3, 8 }, { 5, 17 }, { 9, 31 }, { 33, 257 }, { 64, 384 }, { 3, 2560 } };

    (void)state;
    for (size_t i = 0; i < sizeof(size) / sizeof(size[0]); i++)
        for (Values kind = ZERO; kind < NB_VALUES; kind++)
            check_squares(size[i][0], size[i][1], kind, 0);
}

static void speed(void **state)
{
    (void)state;
    if (op_bench_mode)
        check_squares(1024, 1024, RANDOM, 1);
    for (Kind k = 0; op_bench_mode && k < NB_KINDS; k++)
        check(arg(k, 1024, 1024, 6), RANDOM, 1);
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
    avt_norm_rope(t.be, out, x, shorter, AVT_NONE, 1e-6f);
    op_refused(&t, OP_NORM_ROPE);
    avt_norm_rope(t.be, avt_rows(out, 0, 2), x, w, AVT_NONE, 1e-6f);
    op_refused(&t, OP_NORM_ROPE);
    avt_channel_norm(t.be, avt_view(out, 6, 8), x, w, ACT_NONE);
    op_refused(&t, OP_CHANNEL_NORM);
    avt_layer_norm(t.be, out, x, w, shorter, 1e-6f, ACT_NONE);
    op_refused(&t, OP_LAYER_NORM);
    avt_norm_modulate(t.be, out, x, AVT_NONE, w, 1e-6f);
    op_refused(&t, OP_LAYER_NORM);
    avt_norm_modulate(t.be, out, x, avt_new(t.arena, DT_F32, 2, 16), avt_new(t.arena, DT_F32, 2, 16), 1e-6f);    // 3 rows in 2 groups
    op_refused(&t, OP_LAYER_NORM);
    avt_norm_rope(t.be, avt_rows(x, 1, 2), avt_rows(x, 0, 2), w, AVT_NONE, 1e-6f);          // overlaps, but is not the same tensor
    op_refused(&t, OP_NORM_ROPE);
    avt_norm_rope(t.be, out, x, w, avt_new(t.arena, DT_F32, 3, 3, 2), 1e-6f);               // 16 columns in heads of 6
    op_refused(&t, OP_NORM_ROPE);
    avt_norm_rope_part(t.be, out, x, w, AVT_NONE, 1e-6f, AVT_NONE, 32);                     // the rest of the row is nowhere
    op_refused(&t, OP_NORM_ROPE);
    avt_squares(t.be, shorter, x);                                                          // 3 rows
    op_refused(&t, OP_SQUARES);
    avt_layer_norm(t.be, avt_new(t.arena, DT_BF16, 3, 16), x, w, w, 1e-6f, ACT_NONE);       // activations are f32 here
    op_refused(&t, OP_LAYER_NORM);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(values), cmocka_unit_test(groups), cmocka_unit_test(offset), cmocka_unit_test(squares),
        cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "norms", tests);
}
