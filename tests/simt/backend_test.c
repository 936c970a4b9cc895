/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The CUDA backend on the emulated GPU, below the ops: what it says when there is no driver, no such card, no memory, no device any more;
 * uploads longer than its staging; the order that marks make between two queues. Run in every schedule: SIMT_SCHEDULE.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "avatar.h"
#include "control.h"
#include "files.h"
#include "kernels.h"
#include "model.h"
#include "test.h"

enum { MANY = 5 << 20 };                        // floats: 20 MiB, more than the staging holds

static Backend *opened(const char *device)
{
    const BackendOptions opt = { .threads = 1, .act = DT_F32, .log = test_log() };
    Backend *be = NULL;

    REQUIRE_OK(avt_backend_open(&be, device, &opt));
    return be;
}

/* ---- sentences ------------------------------------------------------------------------------------------------------------------------------ */

static void refused(const char *setting, const char *value, const char *normal, const char *device, const char *words)
{
    const BackendOptions opt = { .threads = 1, .act = DT_F32, .log = test_log() };
    Backend *be = NULL;
    int ret;

    REQUIRE_OK(simt_set(setting, value));
    ret = avt_backend_open(&be, device, &opt);
    REQUIRE_OK(simt_set(setting, normal));
    assert_int_equal(ret, AVT_ERR(ENOSYS));
    assert_null(be);
    if (!strstr(test_log_text(), words))
        fail_msg("SIMT_%s=%s: '%s' lacks '%s'", setting, value, test_log_text(), words);
}

static void devices_that_are_none(void **state)
{
    (void)state;
    refused("DRIVER", "0", "13000", "cuda0", "no NVIDIA driver");
    refused("DRIVER", "12080", "13000", "cuda0", "12.8");
    refused("ARCH", "75", "90", "cuda0", "7.5");
    refused("KERNELS", "80a 100 120", "80 86 89 90a 100 120", "cuda0", "has kernels for 80a 100 120, the card's compute capability is 9.0; build it with ./configure --cuda-archs=90,");
    refused("DEVICES", "0", "2", "cuda0", "no GPU");
    refused("DEVICES", "1", "2", "cuda1", "no such device");
}

static void no_memory(void **state)
{
    Backend *be = opened("cuda0");
    Arena *a = NULL;

    (void)state;
    REQUIRE_OK(simt_set("FAIL", "memory:0"));
    assert_int_equal(avt_arena_open(&a, be, "state", 1 << 20), AVT_ERR(ENOMEM));
    assert_non_null(strstr(test_log_text(), "state"));
    REQUIRE_OK(avt_arena_open(&a, be, "state", 1 << 20));           // the next time there is some
    avt_arena_close(&a);
    avt_backend_close(&be);
}

static int says_offload;

static void hear(void *opaque, int level, const char *text)
{
    (void)opaque, (void)level;
    says_offload |= strstr(text, "offload=auto:") != NULL;
}

/* A card that is named keeps as much for what is not planned as one that is found: what would fill it comes from the host instead. */
static void a_margin(void **state)
{
    static const char *const memory[] = { "1074000000", "2147483648" };
    TestModel m;

    (void)state;
    test_model_default(&m);
    tmp_open();
    REQUIRE_OK(test_model_write(&m, tmp_dir));
    for (int i = 0; i < 2; i++) {
        AvatarOptions opt;
        AvatarEngine *e = NULL;

        avatar_options_default(&opt);
        opt.model = tmp_dir;
        opt.devices = "cuda0";
        opt.log = hear;
        says_offload = 0;
        REQUIRE_OK(simt_set("MEMORY", memory[i]));
        REQUIRE_OK(avatar_engine_open(&e, &opt));
        assert_int_equal(says_offload, i == 0);
        avatar_engine_close(&e);
        avatar_engine_flush();
    }
    tmp_close();
}

/* From then on every call fails, with the first one's words, and closing still works. */
static void a_lost_device(void **state)
{
    static const char *const how[] = { "lost:0", "ecc:0" };

    (void)state;
    for (int i = 0; i < 2; i++) {
        Backend *be = opened("cuda0");
        Arena *a = NULL;
        float v[8] = { 0 };
        Tensor t;

        REQUIRE_OK(avt_arena_open(&a, be, "state", 1 << 20));
        t = avt_new(a, DT_F32, 8);
        REQUIRE_OK(avt_sync(be));
        REQUIRE_OK(simt_set("FAIL", how[i]));
        avt_fill(be, t, 1);
        assert_int_equal(avt_download(be, v, t), AVT_ERR(EIO));
        assert_non_null(strstr(test_log_text(), "is lost"));
        avt_fill(be, t, 2);
        assert_int_equal(avt_sync(be), AVT_ERR(EIO));
        avt_arena_close(&a);
        avt_backend_close(&be);
        simt_clear();
    }
}

/* ---- moving numbers ------------------------------------------------------------------------------------------------------------------------- */

/* Through every chunk of the staging more than once: a chunk is filled again only when its copy is done. */
static void long_uploads(void **state)
{
    float *v = malloc(MANY * sizeof(*v)), *back = malloc(MANY * sizeof(*v));
    Backend *be = opened("cuda0");
    Arena *a = NULL;
    Tensor t, small;

    (void)state;
    for (int i = 0; i < MANY; i++)
        v[i] = (float)i;
    REQUIRE_OK(avt_arena_open(&a, be, "test", 2 * MANY * sizeof(*v)));
    small = avt_new(a, DT_F32, 3);
    t = avt_new(a, DT_F32, MANY);
    avt_upload(be, small, v);
    avt_upload(be, t, v);
    REQUIRE_OK(avt_download(be, back, t));
    assert_memory_equal(v, back, MANY * sizeof(*v));
    REQUIRE_OK(avt_download(be, back, small));
    assert_memory_equal(v, back, 3 * sizeof(*v));
    avt_arena_close(&a);
    avt_backend_close(&be);
    free(v);
    free(back);
}

/* That a chunk of the staging is still in use is asked, and no error of that is left for a library to find. */
static void no_error_is_left(void **state)
{
    float *v = calloc(MANY, sizeof(*v));
    Backend *be;
    Arena *a = NULL;

    (void)state;
    REQUIRE_OK(simt_set("SCHEDULE", "lazy"));
    be = opened("cuda0");
    REQUIRE_OK(avt_arena_open(&a, be, "test", MANY * sizeof(*v)));
    avt_upload(be, avt_new(a, DT_F32, MANY), v);
    assert_int_equal(cudaPeekAtLastError(), cudaSuccess);
    REQUIRE_OK(avt_sync(be));
    avt_arena_close(&a);
    avt_backend_close(&be);
    free(v);
    REQUIRE_OK(simt_set("SCHEDULE", getenv("SIMT_SCHEDULE") ? getenv("SIMT_SCHEDULE") : "eager"));
}

/* One queue writes, the other reads, the first writes again: `rounds` times, with the two waits that this wants. */
static void marks_order_queues(void **state)
{
    enum { N = 1000, ROUNDS = 80 };             // more than the backend has events
    Backend *a = opened("cuda0"), *b = opened("cuda0");
    Arena *arena = NULL;
    Tensor shared, kept;
    Mark read = { 0 };
    float v[N];

    (void)state;
    REQUIRE_OK(avt_arena_open(&arena, a, "test", 1 << 20));
    shared = avt_new(arena, DT_F32, N);
    kept = avt_new(arena, DT_F32, N);
    avt_fill(a, kept, 0);
    for (int i = 1; i <= ROUNDS; i++) {
        avt_wait(a, read);
        avt_fill(a, shared, (float)i);
        avt_wait(b, avt_mark(a));
        avt_add(b, kept, kept, shared);
        read = avt_mark(b);
    }
    REQUIRE_OK(avt_download(b, v, kept));
    for (int i = 0; i < N; i++)
        assert_true(v[i] == ROUNDS * (ROUNDS + 1) / 2);
    REQUIRE_OK(avt_sync(a));
    avt_arena_close(&arena);
    avt_backend_close(&b);
    avt_backend_close(&a);
}

static void fetches(void **state)
{
    enum { N = 5000 };
    Backend *be = opened("cuda0");
    float *host = avt_host_alloc(be, N * sizeof(*host)), v[N];
    Arena *arena = NULL;
    Tensor t;

    (void)state;
    REQUIRE_OK(avt_arena_open(&arena, be, "test", 1 << 20));
    t = avt_new(arena, DT_F32, N);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++)
            host[i] = (float)(i + round);
        avt_fetch(be, t, host);
        REQUIRE_OK(avt_sync(be));                                   // before it is written again
    }
    REQUIRE_OK(avt_download(be, v, t));
    assert_memory_equal(v, host, sizeof(v));
    avt_host_free(be, host, N * sizeof(*host));
    avt_arena_close(&arena);
    avt_backend_close(&be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_that_are_none), cmocka_unit_test(no_memory), cmocka_unit_test(a_margin), cmocka_unit_test(a_lost_device), cmocka_unit_test(long_uploads), cmocka_unit_test(no_error_is_left),
        cmocka_unit_test(marks_order_queues), cmocka_unit_test(fetches),
    };

    return test_main_group("backend", tests, sizeof(tests) / sizeof(tests[0]));
}
