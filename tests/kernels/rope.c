/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* rope_table against the grid rules written out, rope against complex multiplication. */
#include <complex.h>

#include "base/half.h"
#include "op.h"

typedef struct Arg {
    RopeGrid grid;
    int64_t n, heads, hd;
    int in_place;
    float *x, *table;
} Arg;

static void run_table(TestBench *t, Tensor out, const void *opaque)
{
    avt_rope_table(t->be, out, &((const Arg *)opaque)->grid);
}

static void run_rope(TestBench *t, Tensor out, const void *opaque)
{
    const Arg *a = opaque;
    const Tensor table = TEST_TENSOR(t, a->table, a->n, a->hd / 2, 2);
    Tensor x = a->in_place ? out : TEST_ACT(t, a->x, a->n, a->heads, a->hd);

    if (a->in_place)
        test_put_out(t, out, a->x);
    avt_rope(t->be, out, x, table);
}

/* np.linspace(start, start + size - 1, cnt).astype(int)[i], the signed way for a negative frame */
static double linspace(double start, double stop, int cnt, int i)
{
    const double step = cnt > 1 ? (stop - start) / (cnt - 1) : 0;

    return cnt > 1 && i == cnt - 1 ? stop : trunc(i * step + start);
}

static void reference_token(double *out, const RopeGroup *g, int64_t pairs, int f, int y, int x, int half)
{
    const int64_t third = pairs / 3, frames = pairs - 2 * third;
    const double start = (double)g->f_start;
    const double pos[3] = {
        g->f_start < 0 ? -linspace(-start, -start - g->f_size + 1, g->f_cnt, f) :
                         linspace(start, start + g->f_size - 1, g->f_cnt, f),
        linspace(0, g->h_size - 1, g->h_cnt, y),
        linspace(0, g->w_size - 1, g->w_cnt, x),
    };

    for (int64_t p = 0; p < pairs; p++) {
        const int axis = p < frames ? 0 : p < frames + third ? 1 : 2;
        const int64_t width = axis ? third : frames, i = axis == 0 ? p : axis == 1 ? p - frames : p - frames - third;
        const double angle = pos[axis] * pow(10000, -2.0 * (double)i / (2.0 * (double)width));

        out[2 * p] = half ? avt_f16_f32(avt_f32_f16((float)cos(angle))) : cos(angle);
        out[2 * p + 1] = half ? avt_f16_f32(avt_f32_f16((float)sin(angle))) : sin(angle);
    }
}

static void check_table(const char *name, RopeGrid grid, int64_t pairs)
{
    for (grid.half = 0; grid.half < 2; grid.half++) {
        const Arg a = { .grid = grid };
        const int64_t n = avt_rope_tokens(&grid);
        double *ref = malloc((size_t)(n * pairs * 2) * sizeof(*ref)), *p = ref;

        for (int g = 0; g < grid.nb_groups; g++)
            for (int f = 0; f < grid.group[g].f_cnt; f++)
                for (int y = 0; y < grid.group[g].h_cnt; y++)
                    for (int x = 0; x < grid.group[g].w_cnt; x++, p += 2 * pairs)
                        reference_token(p, &grid.group[g], pairs, f, y, x, grid.half);
        op_check(&(OpCase){ .name = name, .op = OP_ROPE_TABLE, .nd = 3, .dim = { n, pairs, 2 }, .modes = F32_ALONE,
                            .run = run_table, .arg = &a, .ref = ref, .tol = 1e-7 });
        free(ref);
    }
}

static void tables(void **state)
{
    const RopeGroup block = { 27, 3, 3, 5, 5, 4, 4 }, reference = { 30, 1, 1, 5, 5, 4, 4 };
    const RopeGroup near_past = { -1, 1, 1, 5, 5, 4, 4 }, past = { -3, 1, 1, 2, 5, 2, 4 }, far_past = { -19, 4, 16, 3, 11, 2, 8 };

    (void)state;
    check_table("one token", (RopeGrid){ .group = { { 0, 1, 1, 1, 1, 1, 1 } }, .nb_groups = 1 }, 1);
    check_table("two pairs", (RopeGrid){ .group = { { 5, 2, 2, 1, 1, 3, 3 } }, .nb_groups = 1 }, 2);
    check_table("a block", (RopeGrid){ .group = { block }, .nb_groups = 1 }, 64);
    check_table("reference and past", (RopeGrid){ .group = { reference, near_past, past, far_past }, .nb_groups = 4 }, 16);
    check_table("two hours in", (RopeGrid){ .group = { { 44997, 3, 3, 2, 2, 2, 2 } }, .nb_groups = 1 }, 22);
    check_table("704 x 384, bucket 2", (RopeGrid){ .group = { { -3, 1, 1, 22, 44, 12, 24 } }, .nb_groups = 1 }, 64);
}

/* Positions as the table of the specification lists them: the angle of pair 0 of each axis is the position itself. */
static void positions(void **state)
{
    static const int frames[4] = { -19, -14, -9, -4 }, rows[11] = { 0, 4, 8, 12, 17, 21, 25, 30, 34, 38, 43 };
    const RopeGrid grid = { .group = { { -19, 4, 16, 11, 44, 1, 1 } }, .nb_groups = 1 };
    TestBench t;
    Tensor out;
    float *v;

    (void)state;
    op_open(&t, CPU_AUTO, 1, DT_F32);
    out = avt_new(t.arena, DT_F32, 44, 3, 2);
    avt_rope_table(t.be, out, &grid);
    v = test_read(&t, out);
    for (int f = 0; f < 4; f++)
        for (int y = 0; y < 11; y++) {
            const float *p = v + (f * 11 + y) * 6;

            assert_true(fabs(p[0] - cos(frames[f])) < 1e-6 && fabs(p[1] - sin(frames[f])) < 1e-6);
            assert_true(fabs(p[2] - cos(rows[y])) < 1e-6 && fabs(p[3] - sin(rows[y])) < 1e-6);
            assert_true(p[4] == 1 && p[5] == 0);
        }
    free(v);
    test_bench_close(&t);
}

static void rotation(void **state)
{
    static const int64_t size[][3] = { { 1, 1, 2 }, { 3, 5, 6 }, { 17, 2, 32 }, { 65, 3, 128 }, { 7, 1, 34 } };
    (void)state;
    for (size_t s = 0; s < sizeof(size) / sizeof(size[0]); s++)
        for (Values kind = ZERO; kind < NB_VALUES; kind++) {
            Arg a = { .n = size[s][0], .heads = size[s][1], .hd = size[s][2], .in_place = (int)s % 2 };
            const int64_t nb = a.n * a.heads * a.hd;
            double *ref = malloc((size_t)nb * sizeof(*ref));

            a.x = op_values(nb, kind, 1);
            a.table = op_values(a.n * a.hd, RANDOM, 2);
            for (int64_t i = 0; i < nb; i += 2) {
                const float *c = a.table + i / (a.heads * a.hd) * a.hd + i % a.hd;
                const double complex z = ((double)a.x[i] + I * (double)a.x[i + 1]) * ((double)c[0] + I * (double)c[1]);

                ref[i] = creal(z);
                ref[i + 1] = cimag(z);
            }
            op_check(&(OpCase){ .name = values_name[kind], .op = OP_ROPE, .nd = 3,
                                .dim = { a.n, a.heads, a.hd }, .run = run_rope, .arg = &a, .ref = ref, .tol = 3e-7 });
            free(a.x);
            free(a.table);
            free(ref);
        }
}

static void speed(void **state)
{
    Arg a = { .n = 2048, .heads = 8, .hd = 128, .grid = { .group = { { 30, 3, 3, 44, 44, 24, 24 } }, .nb_groups = 1 } };

    (void)state;
    if (!op_bench_mode)
        return;
    a.x = op_values(a.n * a.heads * a.hd, RANDOM, 1);
    a.table = op_values(a.n * a.hd, RANDOM, 2);
    op_check(&(OpCase){ .name = "rope 2048x8x128", .op = OP_ROPE, .nd = 3, .dim = { a.n, a.heads, a.hd },
                        .run = run_rope, .arg = &a, .bench = 1 });
    op_check(&(OpCase){ .name = "rope_table of a block", .op = OP_ROPE_TABLE, .nd = 3, .dim = { 3168, 64, 2 }, .modes = F32_ALONE,
                        .run = run_table, .arg = &a, .bench = 1 });
    free(a.x);
    free(a.table);
}

static void mistakes(void **state)
{
    const RopeGrid grid = { .group = { { 0, 2, 2, 3, 3, 1, 1 } }, .nb_groups = 1 };
    TestBench t;
    Tensor x;

    (void)state;
    op_refuser_open(&t);
    x = avt_new(t.arena, DT_F32, 6, 2, 8);
    avt_rope_table(t.be, avt_new(t.arena, DT_F32, 5, 4, 2), &grid);
    op_refused(&t, OP_ROPE_TABLE);
    avt_rope(t.be, x, x, avt_new(t.arena, DT_F32, 6, 3, 2));
    op_refused(&t, OP_ROPE);
    avt_rope(t.be, x, x, avt_new(t.arena, DT_F32, 5, 4, 2));
    op_refused(&t, OP_ROPE);
    test_bench_close(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables), cmocka_unit_test(positions), cmocka_unit_test(rotation),
        cmocka_unit_test(speed), cmocka_unit_test(mistakes),
    };

    return op_main(argc, argv, "rope", tests);
}
