/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A thin layer over cmocka: REQUIRE, REQUIRE_CLOSE, SKIP with a reason. A test program lists its tests and calls
 * test_main(); the run ends with "N passed, N failed, N skipped" and exit code 1 if any failed.
 */
#ifndef AVT_TEST_H
#define AVT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels.h"

#define REQUIRE(cond) assert_true(cond)
#define REQUIRE_OK(ret) assert_int_equal((ret), 0)
/** max|a - b| <= tol * max(1, max|b|) and relative L2 <= tol; prints both when not. */
#define REQUIRE_CLOSE(a, b, nb, tol) test_close(#a, (a), (b), (nb), (tol), __FILE__, __LINE__)
#define SKIP(reason) do { print_message("[  SKIPPED ] %s\n", reason); skip(); } while (0)

void test_close(const char *what, const float *a, const float *b, int64_t nb, double tol, const char *file, int line);

/** Largest difference and relative L2 of a against b. */
void test_distance(const float *a, const float *b, int64_t nb, double *max_abs, double *rel_l2);

/** Uniform values in [-1, 1], repeatable. */
void test_random(float *v, int64_t nb, uint64_t seed);

/** The first nb samples of tests/gold/lips.wav, 16 kHz: two sentences of speech. */
void test_read_speech(float *pcm, int nb);

/** A shell's command that must succeed. */
void test_shell(const char *fmt, ...) AVT_PRINTF(1, 2);

/** A backend and an arena for a test; sizes are generous (pages are touched only when used). */
typedef struct TestBench {
    Backend *be;
    Arena *arena;
    DType act;                          // type of TEST_ACT tensors, of which weights are told
    int rounded, rounded_out;           // values of TEST_ACT and weights, of TEST_LIKE, are rounded to bf16 whatever their type
} TestBench;
void test_bench_open(TestBench *t, const char *device, CpuLevel level, int threads);
/** The same with activations of a type: be->act and TEST_ACT. */
void test_bench_open_act(TestBench *t, const char *device, CpuLevel level, int threads, DType act);
void test_bench_close(TestBench *t);
Tensor test_tensor(TestBench *t, const float *v, int nd, const int64_t *dim);      // uploads v (NULL: undefined)
#define TEST_TENSOR(t, v, ...) test_tensor(t, v, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[]){ __VA_ARGS__ })
Tensor test_act(TestBench *t, const float *v, int nd, const int64_t *dim);         // the same, an activation
#define TEST_ACT(t, v, ...) test_act(t, v, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[]){ __VA_ARGS__ })
/** A weight out of f32 values for TEST_ACT activations. */
Tensor test_weight(TestBench *t, WeightUse use, const float *v, int nd, const int64_t *dim);
/** Upload f32 values into a result that is an operand, too, f32 or bf16; a new tensor like it. */
void test_put_out(TestBench *t, Tensor out, const float *v);
Tensor test_like(TestBench *t, Tensor out, const float *v);
float *test_read(TestBench *t, Tensor x);                                           // malloc'd copy

/** Log handle that keeps the lines, errors and warnings, so that tests can read messages; a static instance, emptied by each call. */
const Log *test_log(void);
const Log *test_log_at(int level);
const char *test_log_text(void);

int test_main_group(const char *name, const struct CMUnitTest *tests, size_t nb);
#define test_main(name, tests) test_main_group(name, tests, sizeof(tests) / sizeof((tests)[0]))

#endif
