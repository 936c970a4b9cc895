/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arena: marks, peak, alignment, fullness that names what was wanted, overflow. */
#include <string.h>

#include "arena.h"
#include "test.h"

static void opened(Backend **be, Arena **a, size_t capacity)
{
    const BackendOptions opt = { .threads = 1, .level = CPU_PLAIN, .log = test_log() };

    REQUIRE_OK(avt_backend_open(be, "cpu", &opt));
    REQUIRE_OK(avt_arena_open(a, *be, "scratch", capacity));
}

static void marks(void **state)
{
    Backend *be;
    Arena *a;
    Tensor t, u;
    size_t mark;

    (void)state;
    opened(&be, &a, 10000);
    assert_ptr_equal(avt_arena_backend(a), be);
    t = avt_new(a, DT_F32, 3, 5);                                   // 60 bytes take 64
    assert_int_equal(avt_arena_used(a), 64);
    assert_int_equal((uintptr_t)t.data % 64, 0);
    assert_true(t.be == be && t.nd == 2 && t.dim[0] == 3 && t.dim[1] == 5 && t.dtype == DT_F32 && !t.packed);
    mark = avt_arena_mark(a);
    u = avt_new(a, DT_U8, 1000);
    assert_ptr_equal(u.data, (char *)t.data + 64);
    assert_int_equal(avt_arena_used(a), 64 + 1024);
    avt_arena_release(a, mark);
    assert_int_equal(avt_arena_used(a), 64);
    assert_int_equal(avt_arena_peak(a), 64 + 1024);
    assert_ptr_equal(avt_new(a, DT_BF16, 7).data, u.data);          // released memory is handed out again
    avt_arena_close(&a);
    assert_null(a);
    avt_arena_close(&a);
    avt_backend_close(&be);
}

static void full(void **state)
{
    Backend *be;
    Arena *a;

    (void)state;
    opened(&be, &a, 256);
    avt_new(a, DT_F32, 48);
    assert_non_null(avt_new(a, DT_F32, 16).data);
    assert_null(avt_new(a, DT_U8, 1).data);
    assert_int_equal(avt_sync(be), AVT_ERR(ENOMEM));
    assert_non_null(strstr(test_log_text(), "scratch is full"));
    avt_reset(be);
    avt_arena_release(a, 0);
    assert_null(avt_arena_bytes(a, SIZE_MAX - 3));                  // rounding up must not wrap around
    assert_int_equal(avt_sync(be), AVT_ERR(ENOMEM));
    avt_reset(be);
    assert_non_null(avt_arena_bytes(a, 256));
    assert_int_equal(avt_arena_peak(a), 256);
    avt_arena_close(&a);
    avt_backend_close(&be);
}

static void nothing(void **state)
{
    Backend *be;
    Arena *a;

    (void)state;
    opened(&be, &a, 0);
    assert_null(avt_new(a, DT_F32, 1).data);
    assert_int_equal(avt_sync(be), AVT_ERR(ENOMEM));
    avt_arena_close(&a);
    avt_backend_close(&be);
}

static void no_memory(void **state)
{
    const int64_t before = avt_mem_bytes(MEM_NB);
    Backend *be;
    Arena *a = (Arena *)&be;

    (void)state;
    opened(&be, &a, 64);
    avt_arena_close(&a);
    for (int n = 1; n <= 2; n++) {
        avt_mem_fail_at(n);
        assert_int_equal(avt_arena_open(&a, be, "state", 1 << 20), AVT_ERR(ENOMEM));
        assert_null(a);
    }
    avt_mem_fail_at(0);
    assert_non_null(strstr(test_log_text(), "state"));
    avt_backend_close(&be);
    assert_int_equal(avt_mem_bytes(MEM_NB), before);
}

/* Opening a backend under failing allocations: an error or a backend, never a leak. */
static void backend_no_memory(void **state)
{
    static const char *const devices[] = { "cpu", "guard", "dry" };
    const int64_t before = avt_mem_bytes(MEM_NB);

    (void)state;
    for (int d = 0; d < 3; d++)
        for (int n = 1, ret = -1; ret < 0; n++) {
            Backend *be;

            avt_mem_fail_at(n);
            ret = avt_backend_open(&be, devices[d], NULL);
            avt_mem_fail_at(0);
            assert_true(ret == 0 || (ret == AVT_ERR(ENOMEM) && !be));
            avt_backend_close(&be);
            assert_int_equal(avt_mem_bytes(MEM_NB), before);
            assert_true(n < 100);
        }
}

static void device_names(void **state)
{
    const BackendOptions opt = { .log = test_log() };
    Backend *be;

    (void)state;
    assert_int_equal(avt_backend_open(&be, "cdua0", &opt), AVT_ERR(EINVAL));
    assert_non_null(strstr(test_log_text(), "cdua0"));
    assert_null(be);
    assert_int_equal(avt_backend_open(&be, "cuda999", &opt), AVT_ERR(ENOSYS));
    assert_non_null(strstr(test_log_text(), "cuda999"));
    REQUIRE_OK(avt_backend_open(&be, "cpu", &opt));
    assert_true(be->threads >= 1);
    assert_false(avt_backend_is_dry(be));
    avt_backend_close(&be);
    assert_null(be);
    avt_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks), cmocka_unit_test(full), cmocka_unit_test(nothing), cmocka_unit_test(no_memory),
        cmocka_unit_test(backend_no_memory), cmocka_unit_test(device_names),
    };

    return test_main("arena", tests);
}
