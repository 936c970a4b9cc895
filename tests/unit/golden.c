/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The judge of tests/parity: what is too far, missing, unknown or not finite must fail, and nothing else. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#include "parity/golden.c"

/* A file with in.x, out.a, out.b (f32 [3]: 1, 2, 1000) and out.i (i64 [2]: 5, -7). */
static const char *write_file(void)
{
    static char path[256];
    static const char head[] =
        "{\"in.x\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]},\"out.a\":{\"dtype\":\"F32\",\"shape\":[3],"
        "\"data_offsets\":[12,24]},\"out.b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[24,36]},"
        "\"out.i\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[36,52]}}";
    const float v[3] = { 1, 2, 1000 };
    const int64_t ints[2] = { 5, -7 };
    const uint64_t size = sizeof(head) - 1;
    const char *tmp = getenv("TMPDIR");
    FILE *f;
    int fd;

    snprintf(path, sizeof(path), "%s/golden_XXXXXX.safetensors", tmp ? tmp : "/tmp");
    fd = mkstemps(path, 12);
    REQUIRE(fd >= 0);
    f = fdopen(fd, "wb");
    fwrite(&size, 8, 1, f);
    fwrite(head, 1, size, f);
    for (int i = 0; i < 3; i++)
        fwrite(v, sizeof(v), 1, f);
    fwrite(ints, sizeof(ints), 1, f);
    fclose(f);
    return path;
}

static Golden g;

static int setup(void **state)
{
    const char *path = write_file();

    (void)state;
    memset(&g, 0, sizeof(g));
    REQUIRE_OK(avt_backend_open(&g.be, "cpu", NULL));
    REQUIRE_OK(avt_arena_open(&g.weights, g.be, "weights", 4096));
    REQUIRE_OK(avt_arena_open(&g.work, g.be, "work", 4096));
    REQUIRE_OK(golden_open(&g, path));
    unlink(path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    golden_close(&g);
    avt_arena_close(&g.weights);
    avt_arena_close(&g.work);
    avt_backend_close(&g.be);
    return 0;
}

static int judged(float a, float b, float c)
{
    g.failed = 0;
    golden_expect_host(&g, (const float[]){ a, b, c }, 3, "a");
    return !g.failed;
}

static void limits(void **state)
{
    (void)state;
    REQUIRE(judged(1, 2, 1000));
    REQUIRE(judged(1, 2, 1000.009f));                               // relative L2 9e-6
    REQUIRE(!judged(1, 2, 1000.011f));
    REQUIRE(judged(1.009f, 2, 1000));
    REQUIRE(!judged(1.011f, 2, 1000));
    REQUIRE(!judged(NAN, 2, 1000));
    REQUIRE(!judged(1, 2, INFINITY));
    REQUIRE(strstr(g.worst, "out.a"));
}

static void whole_numbers_are_exact(void **state)
{
    (void)state;
    golden_expect_ints(&g, (const int64_t[]){ 5, -7 }, 2, "i");
    REQUIRE(!g.failed && g.nb_compared == 1);
    golden_expect_ints(&g, (const int64_t[]){ 5, -6 }, 2, "i");
    REQUIRE(g.failed && strstr(g.worst, "out.i"));
}

static void counts_and_names(void **state)
{
    (void)state;
    golden_expect_host(&g, (const float[]){ 1, 2 }, 2, "a");
    REQUIRE(g.failed && strstr(g.worst, "has 3 values"));
    g.failed = 0;
    golden_expect_host(&g, (const float[]){ 1 }, 1, "none");
    REQUIRE(g.failed && strstr(g.worst, "out.none"));
    g.failed = 0;
    REQUIRE(!golden_in(&g, "none").be && g.failed);
}

static void results_that_nobody_compared(void **state)
{
    (void)state;
    REQUIRE(judged(1, 2, 1000));
    golden_expect_ints(&g, (const int64_t[]){ 5, -7 }, 2, "i");
    golden_finish(&g);
    REQUIRE(g.failed && strstr(g.worst, "out.b was not compared"));
    g.failed = 0;
    golden_expect(&g, golden_in(&g, "x"), "b");                     // through the backend
    golden_finish(&g);
    REQUIRE(!g.failed && g.nb_compared == 3);
}

static void nothing_computed_is_a_failure(void **state)
{
    (void)state;
    golden_expect(&g, AVT_NONE, "a");
    REQUIRE(g.failed && strstr(g.worst, "nothing was computed"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(limits, setup, teardown),
        cmocka_unit_test_setup_teardown(whole_numbers_are_exact, setup, teardown),
        cmocka_unit_test_setup_teardown(counts_and_names, setup, teardown),
        cmocka_unit_test_setup_teardown(results_that_nobody_compared, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_computed_is_a_failure, setup, teardown),
    };

    return test_main("golden", tests);
}
