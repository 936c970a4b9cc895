/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tagged allocation: counters, alignment, overflow, the Nth failure. */
#include <string.h>

#include "base/mem.h"
#include "test.h"

static void counters(void **state)
{
    const int64_t before = avt_mem_bytes(MEM_NET), all = avt_mem_bytes(MEM_NB), calls = avt_mem_calls();
    char *p = avt_malloc(MEM_NET, 1), *q = avt_calloc(MEM_NET, 100, 7);

    (void)state;
    assert_int_equal(avt_mem_bytes(MEM_NET), before + 701);
    assert_int_equal(avt_mem_bytes(MEM_NB), all + 701);
    assert_int_equal(avt_mem_calls(), calls + 2);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_int_equal((uintptr_t)q % 64, 0);
    for (int i = 0; i < 700; i++)
        assert_int_equal(q[i], 0);
    avt_free(p);
    assert_int_equal(avt_mem_bytes(MEM_NET), before + 700);
    avt_freep(&q);
    assert_null(q);
    avt_freep(&q);
    avt_free(NULL);
    assert_int_equal(avt_mem_bytes(MEM_NB), all);
}

static void growing(void **state)
{
    const int64_t all = avt_mem_bytes(MEM_NB);
    char *p = avt_realloc(MEM_MISC, NULL, 3);

    (void)state;
    memcpy(p, "abc", 3);
    p = avt_realloc(MEM_CKPT, p, 100000);
    assert_memory_equal(p, "abc", 3);
    assert_int_equal(avt_mem_bytes(MEM_NB), all + 100000);
    avt_mem_fail_at(1);
    assert_null(avt_realloc(MEM_CKPT, p, 200000));
    assert_memory_equal(p, "abc", 3);                               // a failed call leaves the block
    p = avt_realloc(MEM_CKPT, p, 2);
    assert_memory_equal(p, "ab", 2);
    avt_free(p);
    assert_int_equal(avt_mem_bytes(MEM_NB), all);
}

static void overflow(void **state)
{
    const int64_t all = avt_mem_bytes(MEM_NB);

    (void)state;
    assert_null(avt_malloc(MEM_MISC, SIZE_MAX));
    assert_null(avt_malloc(MEM_MISC, SIZE_MAX - 64));
    assert_null(avt_calloc(MEM_MISC, SIZE_MAX / 2, 3));
    assert_null(avt_calloc(MEM_MISC, (size_t)1 << 33, (size_t)1 << 33));
    assert_null(avt_pages_alloc(MEM_TENSOR, SIZE_MAX / 2));
    assert_null(avt_pages_alloc(MEM_TENSOR, 0));
    assert_int_equal(avt_mem_bytes(MEM_NB), all);
}

static void nth_failure(void **state)
{
    void *p[4];

    (void)state;
    avt_mem_fail_at(3);
    for (int i = 0; i < 4; i++)
        p[i] = i % 2 ? avt_pages_alloc(MEM_TENSOR, 4096) : avt_malloc(MEM_MISC, 10);
    assert_non_null(p[0]);
    assert_non_null(p[1]);
    assert_null(p[2]);
    assert_non_null(p[3]);                                          // once, then all is well again
    avt_free(p[0]);
    avt_pages_free(MEM_TENSOR, p[1], 4096);
    avt_pages_free(MEM_TENSOR, p[3], 4096);
    avt_mem_fail_at(1);
    avt_mem_fail_at(0);
    p[0] = avt_malloc(MEM_MISC, 1);
    assert_non_null(p[0]);
    avt_free(p[0]);
}

static void text(void **state)
{
    char *a = avt_strdup(MEM_MISC, "face"), *b = avt_sprintf(MEM_MISC, "%s/%0100d", a, 7);

    (void)state;
    assert_string_equal(a, "face");
    assert_int_equal(strlen(b), 105);
    assert_null(avt_strdup(MEM_MISC, NULL));
    avt_mem_fail_at(1);
    assert_null(avt_sprintf(MEM_MISC, "x"));
    avt_free(a);
    avt_free(b);
}

static void pages(void **state)
{
    const int64_t before = avt_mem_bytes(MEM_TENSOR);
    unsigned char *p = avt_pages_alloc(MEM_TENSOR, 10000);

    (void)state;
    assert_int_equal((uintptr_t)p % 4096, 0);
    assert_int_equal(avt_mem_bytes(MEM_TENSOR), before + 10000);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(p[i], 0);
    avt_pages_free(MEM_TENSOR, p, 10000);
    avt_pages_free(MEM_TENSOR, NULL, 10000);
    p = avt_pages_alloc(MEM_TENSOR, 5 << 20);
    avt_pages_large(p, 5 << 20);                                    // zeros as before, and as many bytes
    avt_pages_large(NULL, 5 << 20);
    for (int i = 0; i < 5 << 20; i += 4095)
        assert_int_equal(p[i]++, 0);
    assert_int_equal(avt_mem_bytes(MEM_TENSOR), before + (5 << 20));
    avt_pages_free(MEM_TENSOR, p, 5 << 20);
    assert_int_equal(avt_mem_bytes(MEM_TENSOR), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counters), cmocka_unit_test(growing), cmocka_unit_test(overflow),
        cmocka_unit_test(nth_failure), cmocka_unit_test(text), cmocka_unit_test(pages),
    };

    return test_main("mem", tests);
}
