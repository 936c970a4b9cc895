/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An op that takes long stops in its middle when the work is given up, on plain C and on the best level, in f32 and bf16. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "kernels.h"
#include "test.h"

typedef struct Work {
    Backend *be;
    Arena *arena, *weights;
    int cancel;
    double at;                                      // when it was given up
    int64_t scale;                                  // 1 for plain C: each of these takes a second there; 40 for fast levels
    DType act;
} Work;

/* Of the processor, as others may want it, too. */
static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static Tensor new(const Work *w, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return d ? avt_new(w->arena, w->act, a, b, c, d) : c ? avt_new(w->arena, w->act, a, b, c) : avt_new(w->arena, w->act, a, b);
}

static void attention(const Work *w)
{
    const int64_t n = w->scale == 1 ? 4000 : 24000;
    const Tensor q = new(w, n, 2, 128, 0), k = new(w, n, 2, 128, 0);

    avt_attention(w->be, new(w, n, 2, 128, 0), q, k, k, AVT_NONE, AVT_NONE, AVT_NONE, 1);
}

static void linear(const Work *w)
{
    const int64_t n = w->scale == 1 ? 2048 : 6144;
    const Linear l = { .w = avt_weight_put(w->weights, WEIGHT_LINEAR, w->act, DT_F32, 2, (const int64_t[]){ n, n }, NULL) };

    avt_linear(w->be, new(w, n, n, 0, 0), new(w, n, n, 0, 0), &l, ACT_NONE);
}

static void conv3d(const Work *w)
{
    const int64_t side = w->scale == 1 ? 96 : 192, C = w->scale == 1 ? 32 : 128;
    const Conv c = { .w = avt_weight_put(w->weights, WEIGHT_CONV3D, w->act, DT_F32, 5, (const int64_t[]){ C, C, 3, 3, 3 }, NULL) };

    avt_conv3d(w->be, new(w, 12, side, side, C), new(w, 12, side, side, C), AVT_NONE, &c, AVT_NONE,
               (ConvSpec){ .stride_t = 1, .stride = 1, .pad_t = 2, .pad0 = 1, .pad1 = 1 });
}

static void conv1d(const Work *w)
{
    const int64_t n = 4000 * w->scale;
    const Conv c = { .w = avt_weight_put(w->weights, WEIGHT_CONV1D, w->act, DT_F32, 3, (const int64_t[]){ 128, 128, 128 }, NULL) };

    avt_conv1d(w->be, new(w, n, 128, 0, 0), new(w, n, 128, 0, 0), &c, (Conv1dSpec){ .stride = 1, .groups = 1, .pad0 = 64, .pad1 = 63 },
               ACT_NONE);
}

static void *give_up(void *arg)
{
    Work *w = arg;

    usleep(20000);
    w->at = seconds();
    __atomic_store_n(&w->cancel, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Seconds from giving up to the op's return, or -1: on a busy machine it was through before it was given up. */
static double time_of(CpuLevel level, DType act, void (*op)(const Work *))
{
    const BackendOptions opt = { .threads = 1, .level = level, .act = act };
    Work w = { .scale = level == CPU_PLAIN ? 1 : 40, .act = act };
    pthread_t thread;
    double took;
    int ret;

    REQUIRE_OK(avt_backend_open(&w.be, "cpu", &opt));
    REQUIRE_OK(avt_arena_open(&w.arena, w.be, "tensors", (size_t)1 << 30));
    REQUIRE_OK(avt_arena_open(&w.weights, w.be, "weights", (size_t)256 << 20));
    w.be->cancel = &w.cancel;
    REQUIRE_OK(pthread_create(&thread, NULL, give_up, &w));
    op(&w);
    took = seconds();
    pthread_join(thread, NULL);
    ret = avt_sync(w.be);
    assert_true(ret == AVT_ERR(ECANCELED) || (!ret && took <= w.at));
    took = ret ? took - w.at : -1;
    avt_arena_close(&w.weights);
    avt_arena_close(&w.arena);
    avt_backend_close(&w.be);
    return took;
}

static void ops_stop_in_their_middle(void **state)
{
    static const struct {
        const char *name;
        void (*op)(const Work *);
    } ops[] = { { "attention", attention }, { "linear", linear }, { "conv3d", conv3d }, { "conv1d", conv1d } };
    static const CpuLevel levels[] = { CPU_PLAIN, CPU_AUTO };

    (void)state;
    for (int i = 0; i < 4; i++)
        for (int l = 0; l < 2; l++)
            for (DType act = DT_F32; act <= DT_BF16; act++) {
                double took = -1;

                for (int n = 0; took < 0 && n < 20; n++)
                    took = time_of(levels[l], act, ops[i].op);
                printf("%s, %s, %s: %.3f s\n", ops[i].name, l ? "best" : "plain", avt_dtype_name(act), took);
                assert_true(took >= 0 && took < 0.5);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(ops_stop_in_their_middle) };

    return test_main("cancel", tests);
}
