/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Comparison, random values, a backend for tests, and the closing line. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "test.h"

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
    for (int64_t q = 0; 4 * q < nb; q++) {
        uint32_t x[4];

        avt_philox(x, seed, (uint32_t)q, 0, 0, 77);
        for (int i = 0; i < 4 && 4 * q + i < nb; i++)
            v[4 * q + i] = (float)((int32_t)x[i] * 0x1p-31);
    }
}

void test_bench_open(TestBench *t, const char *device, CpuLevel level, int threads)
{
    const BackendOptions opt = { .threads = threads, .level = level };

    REQUIRE_OK(avt_backend_open(&t->be, device, &opt));
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

float *test_read(TestBench *t, Tensor x)
{
    float *v = malloc(avt_nbytes(x) + 1);

    REQUIRE_OK(avt_download(t->be, v, x));
    return v;
}

int test_main_group(const char *name, const struct CMUnitTest *tests, size_t nb)
{
    (void)nb;
    return _cmocka_run_group_tests(name, tests, nb, NULL, NULL) ? 1 : 0;
}
