/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dry backend: costs nothing, counts everything, and its plan of weights is what the CPU really takes. */
#include <stdlib.h>
#include <string.h>

#include "dry/dry.h"
#include "test.h"

static Backend *open_dry(const char *plan_for, CpuLevel level)
{
    Backend *be;

    REQUIRE_OK(avt_backend_open(&be, "dry", &(BackendOptions){ .plan_for = plan_for, .level = level }));
    return be;
}

static void arenas_without_limit_do_not_meet(void **state)
{
    Backend *a = open_dry(NULL, CPU_AUTO), *b = open_dry(NULL, CPU_AUTO);
    Arena *arena[4];
    char *base[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        REQUIRE_OK(avt_arena_open(&arena[i], i % 2 ? a : b, "scratch", ARENA_UNLIMITED));
        base[i] = avt_new(arena[i], DT_F32, (int64_t)1 << 40).data;      // 4 TB each
        REQUIRE(base[i] && (uintptr_t)base[i] % 64 == 0);
        for (int j = 0; j < i; j++)
            REQUIRE(llabs(base[i] - base[j]) >= (long long)ARENA_UNLIMITED);
    }
    for (int i = 0; i < 4; i++)
        avt_arena_close(&arena[i]);
    avt_backend_close(&a);
    avt_backend_close(&b);
}

static void addresses_are_not_used_up(void **state)
{
    Backend *be = open_dry(NULL, CPU_AUTO);
    Arena *a;

    (void)state;
    for (int i = 0; i < 1 << 18; i++) {
        REQUIRE_OK(avt_arena_open(&a, be, "scratch", ARENA_UNLIMITED));
        avt_arena_close(&a);
    }
    avt_backend_close(&be);
}

static void counts_and_shapes(void **state)
{
    Backend *be = open_dry(NULL, CPU_AUTO);
    const DryCall *call;
    Linear l = { 0 };
    Tensor x, y, z;
    Arena *a;
    float host[6] = { 1, 2, 3, 4, 5, 6 };
    int64_t nb;

    (void)state;
    REQUIRE_OK(avt_arena_open(&a, be, "scratch", ARENA_UNLIMITED));
    l.w = avt_weight_put(a, WEIGHT_LINEAR, DT_F32, DT_BF16, 2, (int64_t[]){ 3, 5 }, NULL);
    x = avt_new(a, DT_F32, 2, 5);
    y = avt_new(a, DT_F32, 2, 3);
    z = avt_new(a, DT_F32, 4, 3);
    avt_act(be, x, x, ACT_SILU);                                        // before anybody wants a list
    avt_dry_list(be);
    avt_fill(be, x, 1);
    for (int i = 0; i < 7; i++)
        avt_linear(be, y, x, &l, ACT_NONE);
    avt_fill(be, z, 1);
    for (int i = 0; i < 100; i++) {                                     // more kinds than the first table holds
        const Tensor t = avt_new(a, DT_F32, i + 10);
        avt_act(be, t, t, ACT_SILU);
    }
    avt_linear(be, y, x, &l, ACT_SILU);
    REQUIRE(be->stat[OP_LINEAR].calls == 8 && be->stat[OP_LINEAR].flops == 8 * 2 * 2 * 3 * 5.0);
    REQUIRE(be->stat[OP_LINEAR].bytes == 8 * (4.0 * (2 * 5 + 2 * 3) + 2.0 * 3 * 5));
    call = avt_dry_calls(be, &nb);
    REQUIRE(nb == 103);                                                 // fill [2, 5], linear, fill [4, 3], 100 x act
    REQUIRE(call[0].first.op == OP_FILL && call[0].first.out.dim[1] == 5 && call[0].calls == 1);
    REQUIRE(call[1].first.op == OP_LINEAR && call[1].calls == 8 && call[1].flops == be->stat[OP_LINEAR].flops);
    REQUIRE(call[2].first.op == OP_FILL && call[2].first.out.dim[0] == 4);
    for (int i = 0; i < 100; i++)
        REQUIRE(call[3 + i].calls == 1 && call[3 + i].first.out.dim[0] == i + 10);
    REQUIRE_OK(avt_download(be, host, y));
    for (int i = 0; i < 6; i++)
        REQUIRE(host[i] == 0);
    REQUIRE_OK(avt_sync(be));
    avt_linear(be, x, x, &l, ACT_NONE);                                 // the door checks here as everywhere
    REQUIRE(avt_sync(be) == AVT_ERR(EINVAL));
    avt_arena_close(&a);
    avt_backend_close(&be);
}

/* What streams in over the bus is counted; host memory of any size costs nothing. */
static void fetches_are_counted(void **state)
{
    const size_t size = (size_t)1 << 40;
    Backend *be = open_dry(NULL, CPU_AUTO);
    void *host = avt_host_alloc(be, size);
    Arena *a;
    Tensor slot;

    (void)state;
    assert_non_null(host);
    REQUIRE_OK(avt_arena_open(&a, be, "state", ARENA_UNLIMITED));
    slot = avt_new(a, DT_BF16, (int64_t)size / 4);
    for (int i = 0; i < 3; i++) {
        avt_fetch(be, slot, (char *)host + i * 4096);
        avt_wait(be, avt_mark(be));
    }
    REQUIRE_OK(avt_sync(be));
    REQUIRE(be->queue.fetches == 3 && be->queue.fetched == 1.5 * (double)size);
    REQUIRE(be->queue.marks == 3 && be->queue.waits == 3);
    avt_arena_close(&a);
    avt_host_free(be, host, size);
    avt_backend_close(&be);
}

static void cuda_keeps_f32_and_bf16(void **state)
{
    const int64_t dim[5] = { 6, 10, 3, 3, 3 };
    Backend *be = open_dry(NULL, CPU_AUTO);

    (void)state;
    REQUIRE(avt_weight_bytes(be, WEIGHT_LINEAR, DT_F32, DT_BF16, 2, dim) == 6 * 10 * 2);
    REQUIRE(avt_weight_bytes(be, WEIGHT_LINEAR, DT_F32, DT_F16, 2, dim) == 6 * 10 * 4);
    REQUIRE(avt_weight_bytes(be, WEIGHT_CONV3D, DT_F32, DT_F32, 5, dim) == 6 * 10 * 27 * 4);
    REQUIRE(avt_weight_bytes(be, WEIGHT_PLAIN, DT_F32, DT_BF16, 2, dim) == 6 * 10 * 4);
    avt_backend_close(&be);
}

/* Its facts are there without a driver; it runs nothing, and without `planning` it is refused. */
static void cuda_opens_for_planning_alone(void **state)
{
    Backend *be;

    (void)state;
    REQUIRE(avt_backend_open(&be, "cuda999", &(BackendOptions){ .act = DT_BF16 }) == AVT_ERR(ENOSYS) && !be);
    REQUIRE_OK(avt_backend_open(&be, "cuda999", &(BackendOptions){ .act = DT_BF16, .planning = 1 }));
    REQUIRE(!be->cls->host_memory && be->cls->memory_left(be) == -1 && !be->cls->alloc(be, 64));
    REQUIRE(avt_weight_bytes(be, WEIGHT_LINEAR, DT_BF16, DT_F32, 2, (int64_t[]){ 6, 10 }) == 6 * 10 * 2);
    avt_backend_close(&be);
    be = open_dry("cuda999", CPU_AUTO);
    REQUIRE(avt_weight_bytes(be, WEIGHT_LINEAR, DT_BF16, DT_F32, 2, (int64_t[]){ 6, 10 }) == 6 * 10 * 2);
    avt_backend_close(&be);
}

/* The same weights on both; returns the arena's peak. */
static size_t put_weights(Backend *be, size_t capacity, int with_data)
{
    static const struct {
        WeightUse use;
        DType dtype;
        int nd;
        int64_t dim[5];
    } w[] = {
        { WEIGHT_LINEAR, DT_F32, 2, { 192, 64 } },         { WEIGHT_LINEAR, DT_BF16, 2, { 17, 33 } },
        { WEIGHT_LINEAR, DT_F16, 2, { 1, 1 } },            { WEIGHT_LINEAR, DT_F8_E4M3, 2, { 100, 48 } },
        { WEIGHT_CONV3D, DT_F32, 5, { 16, 3, 3, 3, 3 } },  { WEIGHT_CONV3D, DT_BF16, 5, { 3, 16, 1, 3, 3 } },
        { WEIGHT_CONV1D, DT_BF16, 3, { 64, 4, 5 } },       { WEIGHT_CONV1D, DT_F32, 3, { 12, 1, 10 } },
        { WEIGHT_PLAIN, DT_BF16, 1, { 1001 } },            { WEIGHT_PLAIN, DT_F32, 2, { 6, 48 } },
    };
    void *zeros = calloc(1, 1 << 20);
    size_t peak;
    Arena *a;

    REQUIRE_OK(avt_arena_open(&a, be, "weights", capacity));
    for (size_t i = 0; i < sizeof(w) / sizeof(w[0]); i++) {
        const size_t want = avt_weight_bytes(be, w[i].use, DT_F32, w[i].dtype, w[i].nd, w[i].dim), before = avt_arena_used(a);
        const Tensor t = avt_weight_put(a, w[i].use, DT_F32, w[i].dtype, w[i].nd, w[i].dim, with_data ? zeros : NULL);

        REQUIRE(t.data && avt_arena_used(a) - before == (want + 63) / 64 * 64);
    }
    REQUIRE_OK(avt_sync(be));
    peak = avt_arena_peak(a);
    avt_arena_close(&a);
    free(zeros);
    return peak;
}

static void plan_is_what_the_cpu_takes(void **state)
{
    (void)state;
    for (int level = CPU_PLAIN; level <= CPU_AUTO; level++) {
        Backend *dry = open_dry("cpu", level), *cpu;
        size_t planned, measured;

        REQUIRE_OK(avt_backend_open(&cpu, "cpu", &(BackendOptions){ .level = level }));
        REQUIRE(dry->level == cpu->level);
        planned = put_weights(dry, ARENA_UNLIMITED, 0);
        measured = put_weights(cpu, planned, 1);                        // into exactly as much as was planned
        REQUIRE(planned == measured);
        avt_backend_close(&dry);
        avt_backend_close(&cpu);
    }
}

static void unknown_target_is_refused(void **state)
{
    Backend *be;

    (void)state;
    REQUIRE(avt_backend_open(&be, "dry", &(BackendOptions){ .plan_for = "abacus", .log = test_log() }) == AVT_ERR(EINVAL));
    REQUIRE(!be && strstr(test_log_text(), "'abacus'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arenas_without_limit_do_not_meet), cmocka_unit_test(addresses_are_not_used_up),
        cmocka_unit_test(counts_and_shapes), cmocka_unit_test(fetches_are_counted),
        cmocka_unit_test(cuda_keeps_f32_and_bf16), cmocka_unit_test(cuda_opens_for_planning_alone),
        cmocka_unit_test(plan_is_what_the_cpu_takes), cmocka_unit_test(unknown_target_is_refused),
    };

    return test_main("unit/dry", tests);
}
