/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the levels from oneDNN on promise beyond right numbers (those are tests/kernels): a stream that is cut differently has the same
 * bits, every shape works with the one packed order, later calls allocate nothing, and a failed allocation is an error, not a leak.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"
#include "test.h"

static void need_onednn(void)
{
    Backend *be;
    int have;

    REQUIRE_OK(avt_backend_open(&be, "cpu", &(BackendOptions){ .level = CPU_ONEDNN }));
    have = !strcmp(((const Cpu *)be->priv)->level[OP_CONV3D], "onednn");
    avt_backend_close(&be);
    if (!have)
        SKIP("this build has no oneDNN");
}

static Conv random_conv(TestBench *t, int64_t cout, int64_t cin, int64_t k)
{
    const int64_t dim[5] = { cout, cin, 3, k, k }, nb = cout * cin * 3 * k * k;
    float *v = malloc(sizeof(*v) * (size_t)nb);
    Conv c = { 0 };

    test_random(v, nb, 17);
    c.w = test_weight(t, WEIGHT_CONV3D, v, 5, dim);
    c.b = TEST_TENSOR(t, v, cout);
    free(v);
    return c;
}

static Tensor random_tensor(TestBench *t, int64_t frames, int64_t h, int64_t w, int64_t c)
{
    float *v = malloc(sizeof(*v) * (size_t)(frames * h * w * c));
    Tensor x;

    test_random(v, frames * h * w * c, 29);
    x = TEST_ACT(t, v, frames, h, w, c);
    free(v);
    return x;
}

/* Four frames at once, one by one, two and two, three and one: the same bits, also where frames are computed in pairs. */
static void cut_a_stream(CpuLevel level, DType act, int64_t cout, int64_t cin, int64_t h, int64_t k, int second)
{
    ConvSpec spec = { .stride_t = 1, .stride = 1, .pad0 = (int)k / 2, .pad1 = (int)k / 2, .frame = !second };
    float *whole, *cut;
    TestBench t;
    Tensor x, out;
    Conv c;

    test_bench_open_act(&t, "cpu", level, 2, act);
    c = random_conv(&t, cout, cin, k);
    x = random_tensor(&t, 6, h, h, cin);
    out = TEST_ACT(&t, NULL, 4, h, h, cout);
    avt_conv3d(t.be, out, avt_rows(x, 2, 4), avt_rows(x, 0, 2), &c, AVT_NONE, spec);
    whole = test_read(&t, out);
    for (int64_t step = 1; step <= 3; step++) {
        avt_fill(t.be, out, NAN);
        for (int64_t f = 0, nb; f < 4; f += nb) {
            nb = step < 4 - f ? step : 4 - f;
            spec.frame = !second + f;
            avt_conv3d(t.be, avt_rows(out, f, nb), avt_rows(x, f + 2, nb), avt_rows(x, f, 2), &c, AVT_NONE, spec);
        }
        cut = test_read(&t, out);
        REQUIRE(!memcmp(whole, cut, avt_nbytes(out)));
        free(cut);
    }
    free(whole);
    test_bench_close(&t);
}

/* Small pictures too, whose primitives want another packed order; few channels, which have kernels of their own. */
static void a_stream_may_be_cut_anywhere(void **state)
{
    static const int64_t shape[][4] = { { 16, 16, 16, 3 }, { 64, 64, 8, 3 }, { 64, 64, 2, 3 }, { 384, 40, 4, 3 }, { 5, 7, 9, 3 },
                                        { 128, 64, 6, 1 }, { 3, 16, 40, 3 }, { 24, 32, 70, 3 }, { 32, 64, 10, 3 },
                                        { 20, 8, 33, 3 } };         // Cout, Cin, H = W, k

    (void)state;
    for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++)
        for (int level = CPU_PLAIN; level < CPU_AUTO; level++)
            if (level > CPU_PLAIN || shape[i][0] < 64)              // plain C is slow, and held to it by tests/kernels
                for (int j = 0; j < (level >= CPU_AVX512 ? 4 : 2); j++)
                    cut_a_stream(level, j / 2 ? DT_BF16 : DT_F32, shape[i][0], shape[i][1], shape[i][2], shape[i][3], j % 2);
}

/* A frame's bits depend neither on the threads nor, in a stream of equal frames, on its place in a pair: the VAE's stills want
 * that. */
static void a_still_stays_still(void **state)
{
    enum { T = 5, H = 21, W = 30, C = 32, FRAME = H * W * C };

    (void)state;
    for (int level = CPU_PLAIN; level < CPU_AUTO; level++) {
        float *v[3];
        int pairs = 0;

        for (int threads = 1; threads <= 3; threads++) {
            const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1, .frame = threads != 2 };
            TestBench t;
            Tensor x, out;
            Conv c;

            test_bench_open(&t, "cpu", level, threads);
            pairs = !strncmp(((const Cpu *)t.be->priv)->level[OP_CONV3D], "avx", 3);
            c = random_conv(&t, C, C, 3);
            x = random_tensor(&t, T, H, W, C);
            out = TEST_TENSOR(&t, NULL, T, H, W, C);
            for (int i = 1; i < T; i++)
                avt_copy(t.be, avt_rows(x, i, 1), avt_rows(x, 0, 1));
            avt_conv3d(t.be, out, x, AVT_NONE, &c, AVT_NONE, spec);
            v[threads - 1] = test_read(&t, out);
            test_bench_close(&t);
        }
        for (int i = 2; i < T; i++)
            for (int k = 0; k < 3; k++)
                REQUIRE(!memcmp(v[k] + i * FRAME, v[0] + 2 * FRAME, sizeof(float) * FRAME));
        REQUIRE(!memcmp(v[0], v[2], sizeof(float) * 2 * FRAME));
        REQUIRE(pairs == !!memcmp(v[0], v[1], sizeof(float) * 2 * FRAME));          // winograd.inc.h ran
        REQUIRE(memcmp(v[0] + FRAME, v[0] + 2 * FRAME, sizeof(float) * FRAME));
        for (int k = 0; k < 3; k++)
            free(v[k]);
    }
}

/* Weights put by one backend serve others that have more threads and other shapes. */
static void weights_are_shared(void **state)
{
    const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1 };
    TestBench t, plain;
    Conv c, cp;

    (void)state;
    need_onednn();
    test_bench_open(&t, "cpu", CPU_ONEDNN, 1);
    test_bench_open(&plain, "cpu", CPU_PLAIN, 1);
    c = random_conv(&t, 64, 32, 3);
    cp = random_conv(&plain, 64, 32, 3);
    for (int threads = 1; threads <= 8; threads++) {
        const Tensor x = random_tensor(&t, 2, 1 + threads, 3 * threads, 32), xp = random_tensor(&plain, 2, 1 + threads, 3 * threads, 32);
        const Tensor out = TEST_TENSOR(&t, NULL, 2, 1 + threads, 3 * threads, 64);
        const Tensor outp = TEST_TENSOR(&plain, NULL, 2, 1 + threads, 3 * threads, 64);
        float *a, *b;
        Backend *be;

        REQUIRE_OK(avt_backend_open(&be, "cpu", &(BackendOptions){ .threads = threads, .level = CPU_ONEDNN }));
        avt_conv3d(be, out, x, AVT_NONE, &c, AVT_NONE, spec);
        REQUIRE_OK(avt_sync(be));
        avt_conv3d(plain.be, outp, xp, AVT_NONE, &cp, AVT_NONE, spec);
        a = test_read(&t, out);
        b = test_read(&plain, outp);
        REQUIRE_CLOSE(a, b, avt_numel(out), 2e-6 * sqrt(32 * 27));
        free(a);
        free(b);
        avt_backend_close(&be);
    }
    test_bench_close(&t);
    test_bench_close(&plain);
}

/*
 * A backend with one thread after one with three, the same shapes: oneDNN keeps primitives of its own, and one made for three threads
 * takes more scratch memory than one thread needs. What lies behind the scratch memory must stay whole, so that the heap does.
 */
static void threads_of_another_backend(void **state)
{
    static const int64_t shape[][3] = { { 70, 96, 512 }, { 33, 64, 64 }, { 5, 40, 300 }, { 200, 24, 1000 } };       // rows, out, in
    const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1 };

    (void)state;
    need_onednn();
    for (int threads = 3; threads >= 1; threads -= 2) {
        TestBench t;

        test_bench_open(&t, "cpu", CPU_ONEDNN, threads);
        for (size_t i = 0; i < sizeof(shape) / sizeof(shape[0]); i++) {
            const int64_t m = shape[i][0], n = shape[i][1], k = shape[i][2];
            float *v = malloc(sizeof(*v) * (size_t)(n * k));
            Linear l = { 0 };

            test_random(v, n * k, 3);
            l.w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (int64_t[]){ n, k }, v);
            avt_linear(t.be, TEST_TENSOR(&t, NULL, m, n), random_tensor(&t, 1, 1, m, k), &l, ACT_NONE);
            free(v);
        }
        for (int64_t cout = 24; cout <= 56; cout += 16) {
            const Conv c = random_conv(&t, cout, 64, 3);

            avt_conv3d(t.be, TEST_TENSOR(&t, NULL, 4, 9, 12, cout), random_tensor(&t, 4, 9, 12, 64), AVT_NONE, &c, AVT_NONE, spec);
        }
        REQUIRE_OK(avt_sync(t.be));
        test_bench_close(&t);
    }
}

/* Sizes that fill no tile: a product, a convolution behind zero frames, one over time. malloc'd results, one after another */
static float *odd_sizes(TestBench *t)
{
    enum { M = 5, K = 33, N = 19 };
    const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1 };
    const Conv c = random_conv(t, N, 3, 3);
    const Tensor out = TEST_TENSOR(t, NULL, M * N + 7 * N + 2 * 5 * 6 * N);
    float v[3 * N * K];
    Linear l = { 0 };
    Conv d = { 0 };

    test_random(v, 3 * N * K, 3);
    l.w = test_weight(t, WEIGHT_LINEAR, v, 2, (int64_t[]){ N, K });
    d.w = test_weight(t, WEIGHT_CONV1D, v, 3, (int64_t[]){ N, K, 3 });
    avt_linear(t->be, avt_view(avt_rows(out, 0, M * N), M, N), TEST_ACT(t, v, M, K), &l, ACT_NONE);
    avt_conv1d(t->be, avt_view(avt_rows(out, M * N, 7 * N), 7, N), TEST_ACT(t, v, 7, K), &d,
               (Conv1dSpec){ .stride = 1, .groups = 1, .pad0 = 2 }, ACT_NONE);
    avt_conv3d(t->be, avt_view(avt_rows(out, M * N + 7 * N, 2 * 5 * 6 * N), 2, 5, 6, N), random_tensor(t, 2, 5, 6, 3), AVT_NONE, &c,
               AVT_NONE, spec);
    return test_read(t, out);
}

/* The workspace holds what the last op left there, which may be no number. */
static void what_was_left_behind_does_not_matter(void **state)
{
    enum { NB = 5 * 19 + 7 * 19 + 2 * 5 * 6 * 19 };
    const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1 };

    (void)state;
    for (int i = 0; i < 2 * CPU_AUTO; i++) {
        float *v[2];

        for (int dirty = 0; dirty < 2; dirty++) {
            TestBench t;

            test_bench_open_act(&t, "cpu", i / 2, 2, i % 2 ? DT_BF16 : DT_F32);
            if (dirty) {
                const Conv c = random_conv(&t, 16, 16, 3);
                const Tensor x = random_tensor(&t, 2, 40, 40, 16);

                avt_fill(t.be, x, NAN);
                avt_conv3d(t.be, TEST_ACT(&t, NULL, 2, 40, 40, 16), x, AVT_NONE, &c, AVT_NONE, spec);
            }
            v[dirty] = odd_sizes(&t);
            test_bench_close(&t);
        }
        REQUIRE(!memcmp(v[0], v[1], NB * sizeof(float)));
        free(v[0]);
        free(v[1]);
    }
}

typedef struct Net {
    Linear l;
    Conv c, d;
} Net;

static void put_net(Net *n, Arena *a, DType act)
{
    const int64_t wd[2] = { 48, 32 }, cd[5] = { 16, 8, 3, 3, 3 }, td[3] = { 12, 6, 3 };
    float v[16 * 8 * 27];

    *n = (Net){ 0 };
    test_random(v, 16 * 8 * 27, 3);
    n->l.w = avt_weight_put(a, WEIGHT_LINEAR, act, DT_F32, 2, wd, v);
    n->c.w = avt_weight_put(a, WEIGHT_CONV3D, act, DT_F32, 5, cd, v);
    n->d.w = avt_weight_put(a, WEIGHT_CONV1D, act, DT_F32, 3, td, v);
}

/* One network's worth of shapes; the number of times it runs must not matter to the allocator. */
static int forward(Backend *be, Arena *a, DType act, const Net *n)
{
    const ConvSpec spec = { .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1 };

    for (int64_t m = 1; m <= 4; m++) {
        const Tensor x = avt_new(a, act, m, 32), y = avt_new(a, act, m, 48), q = avt_view(y, m, 3, 16);
        const Tensor f = avt_new(a, act, m, 4, 6, 8), g = avt_new(a, act, m, 4, 6, 16), o = avt_new(a, act, m, 3, 16);
        const Tensor s = avt_new(a, act, m, 6), u = avt_new(a, act, m, 12);

        avt_fill(be, x, 0.25f);
        avt_fill(be, f, 0.5f);
        avt_fill(be, s, 0.5f);
        avt_linear(be, y, x, &n->l, ACT_GELU_TANH);
        avt_attention(be, o, q, q, q, AVT_NONE, AVT_NONE, AVT_NONE, 0.25f);
        avt_conv3d(be, g, f, AVT_NONE, &n->c, AVT_NONE, spec);
        avt_conv1d(be, u, s, &n->d, (Conv1dSpec){ .stride = 1, .groups = 1, .pad0 = 1, .pad1 = 1 }, ACT_NONE);
    }
    return avt_sync(be);
}

static void later_calls_allocate_nothing(void **state)
{
    (void)state;
    for (DType act = DT_F32; act <= DT_BF16; act++) {
        TestBench t;
        Net n;

        test_bench_open_act(&t, "cpu", CPU_AUTO, 2, act);
        put_net(&n, t.arena, act);
        for (int round = 0; round < 3; round++) {
            const int64_t before = avt_mem_calls();
            const size_t mark = avt_arena_mark(t.arena);

            REQUIRE_OK(forward(t.be, t.arena, act, &n));
            avt_arena_release(t.arena, mark);
            REQUIRE(round == 0 || avt_mem_calls() == before);
        }
        test_bench_close(&t);
    }
}

/* Let the n-th allocation fail, n = 1, 2, 3 ..., until the whole succeeds: an error each time, and everything given back. */
static void let_allocations_fail(const char *device, DType act)
{
    const int64_t before = avt_mem_bytes(MEM_NB);
    int ret = -1, n = 0;

    while (ret < 0) {
        Backend *be = NULL;
        Arena *a = NULL;
        Net net;

        REQUIRE(++n < 1000);
        avt_mem_fail_at(n);
        ret = avt_backend_open(&be, device, &(BackendOptions){ .threads = 2, .level = CPU_AUTO, .act = act, .plan_for = "cpu" });
        if (ret >= 0)
            ret = avt_arena_open(&a, be, "test", 1 << 20);
        if (ret >= 0)
            put_net(&net, a, act), ret = forward(be, a, act, &net);
        REQUIRE(ret == 0 || ret == AVT_ERR(ENOMEM));
        avt_mem_fail_at(0);
        avt_arena_close(&a);
        avt_backend_close(&be);
        REQUIRE(avt_mem_bytes(MEM_NB) == before);
    }
    REQUIRE(n > 3);
}

static void every_allocation_may_fail(void **state)
{
    static const char *const device[] = { "cpu", "guard", "dry" };

    (void)state;
    for (int i = 0; i < 3; i++)
        for (DType act = DT_F32; act <= DT_BF16; act++)
            let_allocations_fail(device[i], act);
}

static const char *self;

/* out += gate * (x w^T + b) in place, against plain C; 0 when right and not slower than plain C by far. */
static int gated_product(void)
{
    enum { M = 70, N = 96, K = 512 };
    static float v[K * N];
    float *result[2];
    double took[2], max_abs, rel;

    test_random(v, K * N, 5);
    for (int i = 0; i < 2; i++) {
        Linear l = { 0 };
        TestBench t;
        Tensor x, out, gate;

        test_bench_open(&t, "cpu", i ? CPU_ONEDNN : CPU_PLAIN, 1);
        t.be->profile = 1;
        l.w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (int64_t[]){ N, K }, v);
        l.b = TEST_TENSOR(&t, v + 7, N);
        gate = TEST_TENSOR(&t, v + 9, N);
        x = TEST_TENSOR(&t, v, M, K);
        out = TEST_TENSOR(&t, v + 11, M, N);
        avt_linear_add(t.be, out, out, x, &l, gate);
        result[i] = test_read(&t, out);
        took[i] = INFINITY;
        for (int j = 0; j < 9; j++) {                               // the best of them: others are using this machine
            t.be->stat[OP_LINEAR].seconds = 0;
            avt_linear_add(t.be, out, out, x, &l, gate);
            took[i] = fmin(took[i], t.be->stat[OP_LINEAR].seconds);
        }
        test_bench_close(&t);
    }
    test_distance(result[1], result[0], M * N, &max_abs, &rel);
    free(result[0]);
    free(result[1]);
    return rel > 1e-6 || took[1] > 10 * took[0];
}

/* Where oneDNN is held to AVX2 it has only its reference, a thousand times slower, for gate and sum together. */
static void gate_and_residual_on_older_machines(void **state)
{
    char command[1024];

    (void)state;
    need_onednn();
    snprintf(command, sizeof(command), "ONEDNN_MAX_CPU_ISA=AVX2 DNNL_MAX_CPU_ISA=AVX2 %s gated", self);
    REQUIRE(system(command) == 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_may_be_cut_anywhere), cmocka_unit_test(a_still_stays_still), cmocka_unit_test(weights_are_shared),
        cmocka_unit_test(threads_of_another_backend), cmocka_unit_test(what_was_left_behind_does_not_matter),
        cmocka_unit_test(later_calls_allocate_nothing), cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(gate_and_residual_on_older_machines),
    };

    if (argc > 1 && !strcmp(argv[1], "gated"))
        return gated_product();
    self = argv[0];
    return test_main("unit/onednn", tests);
}
