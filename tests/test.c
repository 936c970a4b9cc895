/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Comparison, random values, a backend for tests, and the closing line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "config.h"
#include "test.h"
#include "tools/seeded.h"

static char log_text[16384];

static void keep_line(void *opaque, int level, const char *text)
{
    const size_t n = strlen(log_text);

    (void)opaque;
    (void)level;
    snprintf(log_text + n, sizeof(log_text) - n, "%s%s", n ? "\n" : "", text);
}

const Log *test_log_at(int level)
{
    static Log log = { .write = keep_line };

    log_text[0] = 0;
    log.level = level;
    return &log;
}

const Log *test_log(void)
{
    return test_log_at(LOG_WARNING);
}

const char *test_log_text(void)
{
    return log_text;
}

void test_distance(const float *a, const float *b, int64_t nb, double *max_abs, double *rel_l2)
{
    double diff = 0, ref = 0;

    *max_abs = 0;
    for (int64_t i = 0; i < nb; i++) {
        const double d = (double)a[i] - b[i];

        if (!(fabs(d) <= *max_abs))                                 // NaN counts as larger
            *max_abs = fabs(d);
        diff += d * d;
        ref += (double)b[i] * b[i];
    }
    *rel_l2 = sqrt(diff / (ref > 0 ? ref : 1));
}

void test_close(const char *what, const float *a, const float *b, int64_t nb, double tol, const char *file, int line)
{
    double max_abs, rel, top = 1;

    test_distance(a, b, nb, &max_abs, &rel);
    for (int64_t i = 0; i < nb; i++)
        if (fabs((double)b[i]) > top)
            top = fabs((double)b[i]);
    if (!(max_abs <= tol * top) || !(rel <= tol)) {
        print_error("%s: max-abs %.3g, relative L2 %.3g, allowed %.3g (largest value %.3g)\n", what, max_abs, rel, tol, top);
        _fail(file, line);
    }
}

void test_random(float *v, int64_t nb, uint64_t seed)
{
    seeded_random(v, nb, seed);
}

void test_read_speech(float *pcm, int nb)
{
    FILE *f = fopen(AVT_SRCDIR "/tests/gold/lips.wav", "rb");
    int16_t *words = malloc((size_t)nb * sizeof(*words));

    assert_non_null(f);
    assert_non_null(words);
    REQUIRE_OK(fseek(f, 44, SEEK_SET));             // mono s16 behind the plainest of heads
    assert_int_equal(fread(words, sizeof(*words), (size_t)nb, f), nb);
    fclose(f);
    for (int i = 0; i < nb; i++)
        pcm[i] = (float)words[i] / 32768;
    free(words);
}

void test_shell(const char *fmt, ...)
{
    char cmd[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(cmd, sizeof(cmd), fmt, ap);
    va_end(ap);
    REQUIRE_OK(system(cmd));
}

void test_bench_open(TestBench *t, const char *device, CpuLevel level, int threads)
{
    test_bench_open_act(t, device, level, threads, DT_F32);
}

void test_bench_open_act(TestBench *t, const char *device, CpuLevel level, int threads, DType act)
{
    const BackendOptions opt = { .threads = threads, .level = level, .act = act };

    *t = (TestBench){ .act = act };
    REQUIRE_OK(avt_backend_open(&t->be, device, &opt));
    t->be->grain = 0;                                               // small cases see all threads
    REQUIRE_OK(avt_arena_open(&t->arena, t->be, "test", (size_t)1 << 30));
}

void test_bench_close(TestBench *t)
{
    avt_arena_close(&t->arena);
    avt_backend_close(&t->be);
}

Tensor test_tensor(TestBench *t, const float *v, int nd, const int64_t *dim)
{
    const Tensor x = avt_new_dims(t->arena, DT_F32, nd, dim);

    if (v)
        avt_upload(t->be, x, v);
    return x;
}

/* malloc'd copy, rounded to bf16 */
static float *rounded(const float *v, int64_t nb)
{
    float *r = malloc((size_t)(nb + 1) * sizeof(*r));

    for (int64_t i = 0; i < nb; i++)
        r[i] = avt_bf16_f32(avt_f32_bf16(v[i]));
    return r;
}

static void put(TestBench *t, Tensor x, const float *v, int rounding)
{
    const int64_t nb = avt_numel(x);
    float *r = rounding || x.dtype == DT_BF16 ? rounded(v, nb) : NULL;
    uint16_t *half = (uint16_t *)r;

    for (int64_t i = 0; i < nb && x.dtype == DT_BF16; i++)
        half[i] = avt_f32_bf16(r[i]);                               // in place: 2 i never overtakes 4 i
    avt_upload(t->be, x, r ? r : v);
    free(r);
}

Tensor test_act(TestBench *t, const float *v, int nd, const int64_t *dim)
{
    const Tensor x = avt_new_dims(t->arena, t->act, nd, dim);

    if (v)
        put(t, x, v, t->rounded);
    return x;
}

void test_put_out(TestBench *t, Tensor out, const float *v)
{
    put(t, out, v, t->rounded_out);
}

Tensor test_like(TestBench *t, Tensor out, const float *v)
{
    const Tensor x = avt_new_dims(t->arena, out.dtype, out.nd, out.dim);

    put(t, x, v, t->rounded_out);
    return x;
}

Tensor test_weight(TestBench *t, WeightUse use, const float *v, int nd, const int64_t *dim)
{
    int64_t nb = 1;
    float *r;
    Tensor w;

    for (int i = 0; i < nd; i++)
        nb *= dim[i];
    r = t->rounded && use != WEIGHT_PLAIN ? rounded(v, nb) : NULL;
    w = avt_weight_put(t->arena, use, t->act, DT_F32, nd, dim, r ? r : v);
    free(r);
    return w;
}

float *test_read(TestBench *t, Tensor x)
{
    const int64_t nb = avt_numel(x);
    float *v = malloc((size_t)(nb + 1) * sizeof(*v));
    uint16_t *half = malloc((size_t)(nb + 1) * sizeof(*half));

    REQUIRE_OK(avt_download(t->be, x.dtype == DT_BF16 ? (void *)half : (void *)v, x));
    for (int64_t i = 0; i < nb && x.dtype == DT_BF16; i++)
        v[i] = avt_bf16_f32(half[i]);
    free(half);
    return v;
}

int test_main_group(const char *name, const struct CMUnitTest *tests, size_t nb)
{
    (void)nb;
    return _cmocka_run_group_tests(name, tests, nb, NULL, NULL) ? 1 : 0;
}
