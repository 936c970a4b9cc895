/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* upsample, transpose, patchify, unpatchify, channels_last, channels_first: every element by its index. */
#include "op.h"

typedef struct Arg {
    OpId op;
    int64_t in[4];                              // dimensions of x
    int64_t nb_first;                           // channels_first: channels of out
    int patch[3];
    int with_mul, with_add;
    float *x, *mul, *add;
} Arg;

static void out_shape(const Arg *a, int *nd, int64_t *dim)
{
    const int64_t *i = a->in;
    const int *p = a->patch, size = p[0] * p[1] * p[2];

#define SHAPE(n, ...) do { *nd = n; memcpy(dim, (const int64_t[]){ __VA_ARGS__ }, n * sizeof(*dim)); } while (0)
    switch (a->op) {
    case OP_UPSAMPLE:       SHAPE(4, i[0], 2 * i[1], 2 * i[2], i[3]);                             break;
    case OP_TRANSPOSE:      SHAPE(3, i[1], i[0], i[2]);                                           break;
    case OP_PATCHIFY:       SHAPE(2, (i[0] / p[0]) * (i[2] / p[1]) * (i[3] / p[2]), i[1] * size); break;
    case OP_UNPATCHIFY:     SHAPE(4, i[0], i[3] / p[1] / p[2], i[1] * p[1], i[2] * p[2]);         break;
    case OP_CHANNELS_LAST:  SHAPE(4, i[0], i[2], i[3], i[1]);                                     break;
    default:                SHAPE(4, i[0], a->nb_first, i[1], i[2]);
    }
}

static void run(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const int64_t *i = a->in, nb = a->op == OP_CHANNELS_FIRST ? a->nb_first : i[1];
    const Tensor mul = a->with_mul ? TEST_TENSOR(t, a->mul, nb) : AVT_NONE;
    const Tensor add = a->with_add ? TEST_TENSOR(t, a->add, nb) : AVT_NONE;
    const Tensor x = test_act(t, a->x, a->op == OP_TRANSPOSE ? 3 : 4, i);

    switch (a->op) {
    case OP_UPSAMPLE:      avt_upsample(t->be, out, x);                                                          break;
    case OP_TRANSPOSE:     avt_transpose(t->be, out, x);                                                         break;
    case OP_PATCHIFY:      avt_patchify(t->be, out, x, a->patch[0], a->patch[1], a->patch[2]);                   break;
    case OP_UNPATCHIFY:    avt_unpatchify(t->be, out, avt_view(x, i[0] * i[1] * i[2], i[3]), a->patch[1], a->patch[2]); break;
    case OP_CHANNELS_LAST: avt_channels_last(t->be, out, x, mul, add);                                           break;
    default:               avt_channels_first(t->be, out, x, mul, add);
    }
}

/* Which element of x is element o of the result */
static int64_t source(const Arg *a, const int64_t dim[4], int64_t o)
{
    const int64_t *i = a->in, last = o % dim[3], third = o / dim[3] % dim[2], second = o / dim[3] / dim[2] % dim[1];
    const int64_t first = o / dim[3] / dim[2] / dim[1];
    const int *p = a->patch;

#define AT(n0, n1, n2, n3) ((((n0) * i[1] + (n1)) * i[2] + (n2)) * i[3] + (n3))
    switch (a->op) {
    case OP_UPSAMPLE:       return AT(first, second / 2, third / 2, last);
    case OP_CHANNELS_LAST:  return AT(first, last, second, third);
    case OP_CHANNELS_FIRST: return AT(first, third, last, second);
    case OP_UNPATCHIFY:     return AT(first, third / p[1], last / p[2], (third % p[1] * p[2] + last % p[2]) * dim[1] + second);
    default:                return 0;
    }
}

static int64_t source_patch(const Arg *a, int64_t width, int64_t o)
{
    const int64_t *i = a->in, token = o / width, e = o % width, rows = i[2] / a->patch[1], cols = i[3] / a->patch[2];
    const int64_t pt = a->patch[0], ph = a->patch[1], pw = a->patch[2];

    return AT(token / (rows * cols) * pt + e / (ph * pw) % pt, e / (pt * ph * pw), token / cols % rows * ph + e / pw % ph,
              token % cols * pw + e % pw);
}

static void check(Arg a, Values kind, int bench)
{
    OpCase c = { .op = a.op, .run = run, .arg = &a, .tol = 1e-7, .bench = bench,
                 .modes = a.op == OP_UPSAMPLE || a.op == OP_TRANSPOSE ? ONE_TYPE : 0 };
    const int64_t nb_in = a.in[0] * a.in[1] * a.in[2] * (a.op == OP_TRANSPOSE ? 1 : a.in[3]);
    const int64_t *i = a.in, channels = a.op == OP_CHANNELS_FIRST ? i[3] : i[1];
    char name[96];
    double *ref;
    int64_t nb;

    out_shape(&a, &c.nd, c.dim);
    nb = op_numel(&c);
    a.x = op_values(nb_in, kind, 1);
    a.mul = op_values(channels, RANDOM, 2);
    a.add = op_values(channels, kind, 3);
    ref = malloc((size_t)nb * sizeof(*ref));
    for (int64_t o = 0; o < nb; o++) {
        const int64_t from = a.op == OP_TRANSPOSE ? (o / i[2] % i[0] * i[1] + o / i[2] / i[0]) * i[2] + o % i[2] :
                             a.op == OP_PATCHIFY ? source_patch(&a, c.dim[1], o) : source(&a, c.dim, o);
        const int64_t ch = from / (a.op == OP_CHANNELS_LAST ? i[2] * i[3] : 1) % channels;

        ref[o] = (double)a.x[from] * (a.with_mul ? a.mul[ch] : 1) + (a.with_add ? a.add[ch] : 0);
    }
    snprintf(name, sizeof(name), "%s [%lld,%lld,%lld,%lld] %s", avt_op_name(a.op), (long long)i[0],
             (long long)i[1], (long long)i[2], (long long)i[3], values_name[kind]);
    c.name = name;
    c.ref = ref;
    op_check(&c);
    free(a.x);
    free(a.mul);
    free(a.add);
    free(ref);
}

static void moves(void **state)
{
    static const Arg args[] = {
        { .op = OP_UPSAMPLE, .in = { 1, 1, 1, 1 } }, { .op = OP_UPSAMPLE, .in = { 2, 3, 5, 7 } },
        { .op = OP_UPSAMPLE, .in = { 3, 16, 9, 33 } },
        { .op = OP_TRANSPOSE, .in = { 1, 1, 1 } }, { .op = OP_TRANSPOSE, .in = { 3, 5, 7 } },
        { .op = OP_TRANSPOSE, .in = { 40, 33, 32 } },
        { .op = OP_PATCHIFY, .in = { 1, 1, 1, 1 }, .patch = { 1, 1, 1 } },
        { .op = OP_PATCHIFY, .in = { 3, 16, 8, 6 }, .patch = { 1, 2, 2 } },
        { .op = OP_PATCHIFY, .in = { 3, 5, 9, 7 }, .patch = { 2, 4, 3 } },
        { .op = OP_PATCHIFY, .in = { 5, 16, 24, 40 }, .patch = { 4, 8, 8 } },
        { .op = OP_UNPATCHIFY, .in = { 1, 1, 1, 1 }, .patch = { 1, 1, 1 } },
        { .op = OP_UNPATCHIFY, .in = { 3, 4, 3, 64 }, .patch = { 1, 2, 2 } },
        { .op = OP_UNPATCHIFY, .in = { 2, 12, 20, 30 }, .patch = { 1, 3, 2 } },
    };
    (void)state;
    for (size_t i = 0; i < sizeof(args) / sizeof(args[0]); i++)
        check(args[i], RANDOM, 0);
}

static void channels(void **state)
{
    static const int64_t size[][4] = { { 1, 1, 1, 1 }, { 3, 2, 5, 4 }, { 3, 16, 7, 9 }, { 2, 20, 31, 33 } };
    (void)state;
    for (size_t s = 0; s < sizeof(size) / sizeof(size[0]); s++)
        for (int i = 0; i < 8; i++) {
            Arg a = { .op = i & 1 ? OP_CHANNELS_FIRST : OP_CHANNELS_LAST, .with_mul = i >> 1 & 1, .with_add = i >> 2 };

            memcpy(a.in, size[s], sizeof(a.in));
            a.nb_first = a.in[3];
            check(a, (Values)(i % NB_VALUES), 0);
            a.nb_first = (a.in[3] + 1) / 2;
            if (a.op == OP_CHANNELS_FIRST)
                check(a, (Values)(i % NB_VALUES), 0);
        }
}

static void speed(void **state)
{
    (void)state;
    if (!op_bench_mode)
        return;
    check((Arg){ .op = OP_UPSAMPLE, .in = { 4, 64, 64, 96 } }, RANDOM, 1);
    check((Arg){ .op = OP_TRANSPOSE, .in = { 1024, 16, 64 } }, RANDOM, 1);
    check((Arg){ .op = OP_CHANNELS_LAST, .in = { 4, 3, 384, 704 } }, RANDOM, 1);
    check((Arg){ .op = OP_CHANNELS_FIRST, .in = { 4, 384, 704, 3 }, .nb_first = 3 }, RANDOM, 1);
}

static void mistakes(void **state)
{
    TestBench t;
    Tensor x, y;

    (void)state;
    op_refuser_open(&t);
    x = avt_new(t.arena, DT_F32, 2, 4, 6, 8);
    y = avt_new(t.arena, DT_F32, 2, 8, 12, 7);
    avt_upsample(t.be, y, x);
    op_refused(&t, OP_UPSAMPLE);
    avt_transpose(t.be, avt_new(t.arena, DT_F32, 4, 2, 6), avt_view(x, 2, 8, 24));
    op_refused(&t, OP_TRANSPOSE);
    avt_patchify(t.be, avt_new(t.arena, DT_F32, 48, 8), x, 1, 2, 4);
    op_refused(&t, OP_PATCHIFY);
    avt_patchify(t.be, avt_new(t.arena, DT_F32, 48, 8), x, 0, 2, 4);
    op_refused(&t, OP_PATCHIFY);
    avt_unpatchify(t.be, avt_new(t.arena, DT_F32, 2, 2, 12, 8), avt_view(x, 48, 8), 5, 2);
    op_refused(&t, OP_UNPATCHIFY);
    avt_patchify(t.be, avt_new(t.arena, DT_F32, 12, 32), x, 2, 2, 4);       // as if channels were frames
    op_refused(&t, OP_PATCHIFY);
    avt_channels_last(t.be, avt_new(t.arena, DT_F32, 2, 6, 8, 4), x, avt_new(t.arena, DT_F32, 3), AVT_NONE);
    op_refused(&t, OP_CHANNELS_LAST);
    avt_channels_last(t.be, avt_new(t.arena, DT_F32, 4, 6, 8, 2), x, AVT_NONE, AVT_NONE);
    op_refused(&t, OP_CHANNELS_LAST);
    avt_channels_first(t.be, avt_new(t.arena, DT_F32, 2, 8, 6, 4), x, AVT_NONE, AVT_NONE);
    op_refused(&t, OP_CHANNELS_FIRST);
    avt_channels_first(t.be, avt_new(t.arena, DT_F32, 2, 9, 4, 6), x, AVT_NONE, AVT_NONE);
    op_refused(&t, OP_CHANNELS_FIRST);
    avt_channels_first(t.be, avt_new(t.arena, DT_F32, 2, 5, 4, 6), x, avt_new(t.arena, DT_F32, 8), AVT_NONE);
    op_refused(&t, OP_CHANNELS_FIRST);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves), cmocka_unit_test(channels), cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "layout", tests);
}
