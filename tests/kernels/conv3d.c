/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* conv3d: cached frames, zero frames, strides, padding on either side, residual; and that pieces of a stream give the whole. */
#include "op.h"

typedef struct Arg {
    int64_t t, h, w, cin, cout, k[3], nb_prev;
    ConvSpec spec;
    int with_bias, with_res, in_place;
    float *x, *prev, *weight, *bias, *res;
} Arg;

static void out_shape(const Arg *a, int64_t dim[4])
{
    dim[0] = (a->spec.pad_t + a->nb_prev + a->t - a->k[0]) / a->spec.stride_t + 1;
    dim[1] = (a->spec.pad0 + a->h + a->spec.pad1 - a->k[1]) / a->spec.stride + 1;
    dim[2] = (a->spec.pad0 + a->w + a->spec.pad1 - a->k[2]) / a->spec.stride + 1;
    dim[3] = a->cout;
}

static Conv put(TestBench *t, const Arg *a)
{
    const int64_t dim[5] = { a->cout, a->cin, a->k[0], a->k[1], a->k[2] };

    return (Conv){ .w = test_weight(t, WEIGHT_CONV3D, a->weight, 5, dim),
                   .b = a->with_bias ? TEST_TENSOR(t, a->bias, a->cout) : AVT_NONE };
}

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const Conv c = put(t, a);
    const Tensor x = TEST_ACT(t, a->x, a->t, a->h, a->w, a->cin);
    const Tensor prev = a->nb_prev ? TEST_ACT(t, a->prev, a->nb_prev, a->h, a->w, a->cin) : AVT_NONE;
    Tensor res = AVT_NONE;

    if (a->in_place)
        test_put_out(t, res = out, a->res);
    else if (a->with_res)
        res = test_like(t, out, a->res);
    avt_conv3d(t->be, out, x, prev, &c, res, a->spec);
}

/* Value under a tap: frame f of prev ++ x (negative: zero), row y, column x0 */
static double pixel(const Arg *a, int64_t f, int64_t y, int64_t x, int64_t c)
{
    const float *p = f < a->nb_prev ? a->prev : a->x;

    if (f < 0 || y < 0 || y >= a->h || x < 0 || x >= a->w)
        return 0;
    f -= f < a->nb_prev ? 0 : a->nb_prev;
    return p[((f * a->h + y) * a->w + x) * a->cin + c];
}

static double reference_at(const Arg *a, const int64_t at[4])
{
    const ConvSpec *s = &a->spec;
    double sum = a->with_bias ? a->bias[at[3]] : 0;

    for (int64_t c = 0; c < a->cin; c++)
        for (int64_t kt = 0; kt < a->k[0]; kt++)
            for (int64_t ky = 0; ky < a->k[1]; ky++)
                for (int64_t kx = 0; kx < a->k[2]; kx++)
                    sum += a->weight[(((at[3] * a->cin + c) * a->k[0] + kt) * a->k[1] + ky) * a->k[2] + kx] *
                           pixel(a, at[0] * s->stride_t + kt - s->pad_t, at[1] * s->stride + ky - s->pad0,
                                 at[2] * s->stride + kx - s->pad0, c);
    return sum;
}

static double *reference(const Arg *a)
{
    int64_t dim[4], at[4], i = 0;
    double *ref;

    out_shape(a, dim);
    ref = malloc((size_t)(dim[0] * dim[1] * dim[2] * dim[3]) * sizeof(*ref));
    for (at[0] = 0; at[0] < dim[0]; at[0]++)
        for (at[1] = 0; at[1] < dim[1]; at[1]++)
            for (at[2] = 0; at[2] < dim[2]; at[2]++)
                for (at[3] = 0; at[3] < dim[3]; at[3]++, i++)
                    ref[i] = reference_at(a, at) + (a->with_res || a->in_place ? a->res[i] : 0);
    return ref;
}

static void make_values(Arg *a, Values kind)
{
    int64_t dim[4];

    out_shape(a, dim);
    a->x = op_values(a->t * a->h * a->w * a->cin, kind, 1);
    a->prev = op_values(a->nb_prev * a->h * a->w * a->cin, kind, 2);
    a->weight = op_values(a->cout * a->cin * a->k[0] * a->k[1] * a->k[2], RANDOM, 3);
    a->bias = op_values(a->cout, kind, 4);
    a->res = op_values(dim[0] * dim[1] * dim[2] * dim[3], kind, 5);
}

static void free_values(Arg *a)
{
    free(a->x);
    free(a->prev);
    free(a->weight);
    free(a->bias);
    free(a->res);
}

static void check(Arg a, Values kind, int bench)
{
    OpCase c = { .op = OP_CONV3D, .nd = 4, .run = run, .arg = &a, .bench = bench };
    char name[96];
    double *ref;

    snprintf(name, sizeof(name),
             "[%lld+%lld,%lld,%lld,%lld] to %lld, kernel %lldx%lldx%lld, stride %d,%d, pad %d,%d,%d %s%s", (long long)a.nb_prev,
             (long long)a.t, (long long)a.h, (long long)a.w, (long long)a.cin, (long long)a.cout,
             (long long)a.k[0], (long long)a.k[1], (long long)a.k[2], a.spec.stride_t, a.spec.stride,
             a.spec.pad_t, a.spec.pad0, a.spec.pad1, values_name[kind], a.in_place ? " in place" : "");
    make_values(&a, kind);
    ref = op_bench_mode ? NULL : reference(&a);
    out_shape(&a, c.dim);
    c.name = name;
    c.ref = ref;
    c.tol = 6e-8 * sqrt((double)(a.cin * a.k[0] * a.k[1] * a.k[2])) + 2e-7;
    op_check(&c);
    free_values(&a);
    free(ref);
}

#define CAUSAL3 { 3, 3, 3 }

static void sizes(void **state)
{
    static const Arg args[] = {
        { .t = 1, .h = 1, .w = 1, .cin = 1, .cout = 1, .k = { 1, 1, 1 }, .spec = { 1, 1, 0, 0, 0, 0 } },
        { .t = 1, .h = 1, .w = 1, .cin = 3, .cout = 5, .k = CAUSAL3, .spec = { 1, 1, 2, 1, 1, 0 } },
        { .t = 2, .h = 5, .w = 7, .cin = 3, .cout = 9, .k = CAUSAL3, .spec = { 1, 1, 2, 1, 1, 0 }, .with_bias = 1 },
        { .t = 3, .h = 4, .w = 6, .cin = 16, .cout = 8, .k = CAUSAL3, .nb_prev = 2, .spec = { 1, 1, 0, 1, 1, 0 }, .with_bias = 1 },
        { .t = 1, .h = 4, .w = 3, .cin = 5, .cout = 4, .k = CAUSAL3, .nb_prev = 1, .spec = { 1, 1, 1, 1, 1, 0 } },
        { .t = 2, .h = 6, .w = 9, .cin = 20, .cout = 17, .k = { 1, 3, 3 }, .spec = { 1, 1, 0, 1, 1, 0 } },
        { .t = 1, .h = 8, .w = 9, .cin = 12, .cout = 12, .k = { 1, 3, 3 }, .spec = { 1, 2, 0, 0, 1, 0 }, .with_bias = 1 },
        { .t = 2, .h = 7, .w = 11, .cin = 6, .cout = 7, .k = { 1, 3, 3 }, .spec = { 1, 2, 0, 0, 1, 0 } },
        { .t = 4, .h = 3, .w = 5, .cin = 10, .cout = 10, .k = { 3, 1, 1 }, .nb_prev = 1,
          .spec = { 2, 1, 0, 0, 0, 0 }, .with_bias = 1 },
        { .t = 5, .h = 2, .w = 3, .cin = 7, .cout = 14, .k = { 3, 1, 1 }, .spec = { 1, 1, 2, 0, 0, 0 } },
        { .t = 1, .h = 3, .w = 5, .cin = 300, .cout = 33, .k = { 1, 1, 1 }, .spec = { 1, 1, 0, 0, 0, 0 }, .with_bias = 1 },
        { .t = 1, .h = 6, .w = 6, .cin = 257, .cout = 11, .k = { 1, 3, 3 }, .spec = { 1, 1, 0, 1, 1, 0 } },
        { .t = 4, .h = 8, .w = 8, .cin = 4, .cout = 24, .k = { 1, 2, 2 }, .spec = { 1, 2, 0, 0, 0, 0 } },
        { .t = 4, .h = 8, .w = 9, .cin = 4, .cout = 6, .k = { 2, 4, 4 }, .spec = { 2, 4, 0, 0, 0, 0 } },
        { .t = 2, .h = 4, .w = 43, .cin = 16, .cout = 3, .k = CAUSAL3, .nb_prev = 2, .spec = { 1, 1, 0, 1, 1, 0 }, .with_bias = 1 },
        { .t = 2, .h = 5, .w = 35, .cin = 16, .cout = 2, .k = { 1, 3, 3 }, .spec = { 1, 2, 0, 0, 1, 0 } },
        { .t = 1, .h = 3, .w = 50, .cin = 16, .cout = 16, .k = CAUSAL3, .nb_prev = 1, .with_bias = 1,
          .spec = { 1, 1, 1, 1, 1, 0 } },
        { .t = 1, .h = 9, .w = 67, .cin = 8, .cout = 13, .k = { 1, 3, 3 }, .spec = { 1, 2, 0, 0, 1, 0 }, .with_bias = 1 },
        { .t = 3, .h = 7, .w = 400, .cin = 100, .cout = 2, .k = CAUSAL3, .nb_prev = 1, .spec = { 2, 1, 1, 1, 1, 0 }, .with_bias = 1 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof(args) / sizeof(args[0]); i++)
        check(args[i], RANDOM, 0);
}

/*
 * Shapes that are computed in tiles of pixels and pairs of frames: all remainders of them, frames alone as first or second, cached
 * frames or none, padding or none, and strides, which are not for tiles.
 */
static void tiles(void **state)
{
    static const int64_t channels[][2] = { { 16, 16 }, { 32, 32 }, { 64, 64 }, { 24, 48 }, { 48, 24 }, { 8, 4 }, { 40, 17 },
                                           { 64, 56 } };

    (void)state;
    for (int i = 0; i < 40; i++) {
        const int64_t *c = channels[i % 8], prev = i % 3, pixels = 1000000 / (c[0] * c[1]);
        Arg a = { .t = 1 + i % 5, .h = 3 + i % 9, .w = 3 + i * 5 % 13, .cin = c[0], .cout = c[1], .k = { i % 4 == 3 ? 1 : 3, 3, 3 },
                  .nb_prev = i % 4 == 3 ? 0 : prev, .with_bias = i % 2, .with_res = i % 3 == 1, .in_place = i % 3 == 2,
                  .spec = { 1, 1, i % 4 == 3 ? 0 : 2 - (int)prev, i % 7 != 6, 1, i / 2 % 2 } };

        while (a.t * a.h * a.w > pixels)
            if (a.t > 2 || a.h * a.w <= pixels)
                a.t--;
            else if (a.h > a.w)
                a.h--;
            else
                a.w--;
        check(a, RANDOM, 0);
    }
    check((Arg){ .t = 2, .h = 31, .w = 42, .cin = 16, .cout = 16, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 1 } }, RANDOM, 0);
    check((Arg){ .t = 3, .h = 1, .w = 1, .cin = 16, .cout = 32, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 5, .h = 7, .w = 8, .cin = 32, .cout = 40, .k = CAUSAL3, .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 5, .h = 9, .w = 19, .cin = 32, .cout = 40, .k = CAUSAL3, .nb_prev = 1, .with_bias = 1, .with_res = 1,
                 .spec = { 2, 1, 1, 1, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 2, .h = 9, .w = 39, .cin = 16, .cout = 64, .k = { 1, 3, 3 }, .with_bias = 1, .with_res = 1,
                 .spec = { 1, 2, 0, 0, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 1, .h = 8, .w = 34, .cin = 32, .cout = 32, .k = { 1, 3, 3 }, .spec = { 1, 2, 0, 0, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 1, .h = 7, .w = 5, .cin = 100, .cout = 48, .k = CAUSAL3, .spec = { 1, 1, 2, 1, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 2, .h = 3, .w = 4, .cin = 96, .cout = 96, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 1 } }, RANDOM, 0);
    check((Arg){ .t = 2, .h = 2, .w = 2, .cin = 136, .cout = 184, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 1, .h = 1, .w = 1, .cin = 384, .cout = 384, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 0);
    check((Arg){ .t = 1, .h = 1, .w = 3, .cin = 384, .cout = 192, .k = { 1, 3, 3 }, .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 0);
    for (Values kind = ZERO; kind < RANDOM; kind++)
        check((Arg){ .t = 3, .h = 6, .w = 7, .cin = 16, .cout = 20, .k = CAUSAL3, .nb_prev = 2, .spec = { 1, 1, 0, 1, 1, 1 },
                     .with_bias = 1, .in_place = 1 }, kind, 0);
}

static void values(void **state)
{
    (void)state;
    for (Values kind = ZERO; kind < NB_VALUES; kind++)
        for (int i = 0; i < 4; i++)
            check((Arg){ .t = 2, .h = 5, .w = 6, .cin = 11, .cout = 13, .k = CAUSAL3, .nb_prev = 1,
                         .spec = { 1, 1, 1, 1, 1, 0 }, .with_bias = 1, .with_res = i & 1, .in_place = i >> 1 }, kind, 0);
}

/* Frames in two pieces, the second with the first's tail as `prev`, are the frames of one call, to the bit. */
static void stream(void **state)
{
    enum { T = 5, CUT = 3 };
    Arg a = { .t = T, .h = 4, .w = 5, .cin = 9, .cout = 10, .k = CAUSAL3, .spec = { 1, 1, 2, 1, 1, 0 } };
    const int64_t frame = a.h * a.w * a.cout;
    TestBench t;
    Tensor x, whole, pieces;
    float *p, *q;
    Conv c;

    (void)state;
    make_values(&a, RANDOM);
    test_bench_open(&t, "cpu", CPU_PLAIN, 2);
    c = put(&t, &a);
    x = TEST_TENSOR(&t, a.x, a.t, a.h, a.w, a.cin);
    whole = TEST_TENSOR(&t, NULL, T, a.h, a.w, a.cout);
    pieces = TEST_TENSOR(&t, NULL, T, a.h, a.w, a.cout);
    avt_conv3d(t.be, whole, x, AVT_NONE, &c, AVT_NONE, a.spec);
    avt_conv3d(t.be, avt_rows(pieces, 0, CUT), avt_rows(x, 0, CUT), AVT_NONE, &c, AVT_NONE, a.spec);
    avt_conv3d(t.be, avt_rows(pieces, CUT, T - CUT), avt_rows(x, CUT, T - CUT), avt_rows(x, CUT - 2, 2), &c,
               AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 1, .pad0 = 1, .pad1 = 1 });
    p = test_read(&t, whole);
    q = test_read(&t, pieces);
    assert_memory_equal(p, q, (size_t)(T * frame) * sizeof(*p));
    assert_true(p[0] != 0);
    test_bench_close(&t);
    free_values(&a);
    free(p);
    free(q);
}

static void speed(void **state)
{
    (void)state;
    if (!op_bench_mode)
        return;
    check((Arg){ .t = 1, .h = 48, .w = 48, .cin = 384, .cout = 384, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 1);
    check((Arg){ .t = 4, .h = 96, .w = 96, .cin = 96, .cout = 96, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 1);
    check((Arg){ .t = 4, .h = 96, .w = 96, .cin = 96, .cout = 3, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 1);
    check((Arg){ .t = 4, .h = 128, .w = 128, .cin = 16, .cout = 16, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 1);
    check((Arg){ .t = 4, .h = 64, .w = 64, .cin = 32, .cout = 32, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 1);
    check((Arg){ .t = 4, .h = 32, .w = 32, .cin = 64, .cout = 64, .k = CAUSAL3, .nb_prev = 2,
                 .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 1);
    check((Arg){ .t = 1, .h = 128, .w = 128, .cin = 32, .cout = 16, .k = { 1, 3, 3 }, .spec = { 1, 1, 0, 1, 1, 0 } }, RANDOM, 1);
}

static void mistakes(void **state)
{
    const Arg a = { .t = 2, .h = 4, .w = 5, .cin = 3, .cout = 6, .k = CAUSAL3 };
    const ConvSpec s = { .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1 };
    TestBench t;
    Tensor x, out;
    Conv c;

    (void)state;
    op_refuser_open(&t);
    c = put(&t, &a);
    x = avt_new(t.arena, DT_F32, 2, 4, 5, 3);
    out = avt_new(t.arena, DT_F32, 2, 4, 5, 6);
    avt_conv3d(t.be, avt_rows(out, 0, 1), x, AVT_NONE, &c, AVT_NONE, s);
    op_refused(&t, OP_CONV3D);
    avt_conv3d(t.be, out, x, avt_new(t.arena, DT_F32, 2, 4, 4, 3), &c, AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 1, .pad0 = 1, .pad1 = 1 });
    op_refused(&t, OP_CONV3D);
    avt_conv3d(t.be, out, avt_new(t.arena, DT_F32, 2, 4, 5, 4), AVT_NONE, &c, AVT_NONE, s);
    op_refused(&t, OP_CONV3D);
    avt_conv3d(t.be, out, x, AVT_NONE, &c, x, s);
    op_refused(&t, OP_CONV3D);
    avt_conv3d(t.be, out, x, AVT_NONE, &c, AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1 });
    op_refused(&t, OP_CONV3D);
    avt_conv3d(t.be, out, x, AVT_NONE, &c, AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1, .frame = -1 });
    op_refused(&t, OP_CONV3D);
    avt_conv3d(t.be, out, x, AVT_NONE, &(Conv){ .w = c.w, .b = avt_new(t.arena, DT_F32, 5) }, AVT_NONE, s);
    op_refused(&t, OP_CONV3D);
    avt_conv3d(t.be, out, x, AVT_NONE, &c, AVT_NONE, s);
    REQUIRE_OK(avt_sync(t.be));
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes), cmocka_unit_test(tiles), cmocka_unit_test(values), cmocka_unit_test(stream),
        cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "conv3d", tests);
}
