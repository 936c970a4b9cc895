/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guard backend: touching a tensor kills, results are late, queues run out of step, numbers are those of plain C. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

#define ROWS 37
#define WIDTH 96

/* How a child that reads (or writes) the byte ends: its signal, or 0. */
static int signal_of_touch(volatile char *p, int write)
{
    const pid_t pid = fork();
    int status = 0;

    REQUIRE(pid >= 0);
    if (!pid) {
        signal(SIGSEGV, SIG_DFL);                                       // cmocka's handler would report a failed test
        if (write)
            *p = 1;
        _exit(*p == 1 ? 0 : 0);
    }
    REQUIRE(waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void touched_byte_faults(void **state)
{
    float v[1024];
    TestBench t;
    Tensor x, w;

    (void)state;
    test_random(v, 1024, 1);
    test_bench_open(&t, "guard", CPU_AUTO, 1);
    x = TEST_TENSOR(&t, v, 4, 256);
    w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (int64_t[]){ 32, 32 }, v);
    REQUIRE(signal_of_touch(x.data, 0) == SIGSEGV);                     // before anything ran,
    REQUIRE(signal_of_touch(w.data, 0) == SIGSEGV);
    avt_act(t.be, x, x, ACT_SILU);
    free(test_read(&t, x));
    REQUIRE_OK(avt_sync(t.be));
    REQUIRE(signal_of_touch(x.data, 0) == SIGSEGV);                     // and after
    REQUIRE(signal_of_touch((char *)x.data + 4095, 1) == SIGSEGV);
    REQUIRE(signal_of_touch(w.data, 1) == SIGSEGV);
    test_bench_close(&t);

    test_bench_open(&t, "cpu", CPU_PLAIN, 1);                           // the touch itself is not what kills
    x = TEST_TENSOR(&t, v, 4, 256);
    REQUIRE(signal_of_touch(x.data, 1) == 0);
    test_bench_close(&t);
}

/* A second backend of the device downloads what the first has only written down: it sees the old numbers until the sync. */
static void result_is_late(void **state)
{
    Backend *other;
    TestBench t;
    float *late, v[3] = { 1, 2, 3 };
    Tensor x, y;

    (void)state;
    test_bench_open(&t, "guard", CPU_AUTO, 1);
    REQUIRE_OK(avt_backend_open(&other, "guard", NULL));
    x = TEST_TENSOR(&t, v, 3);
    y = TEST_TENSOR(&t, NULL, 3);
    v[0] = v[1] = v[2] = 7;                                             // upload has read its source
    avt_axpy(t.be, y, 2, x, 1, x);
    REQUIRE_OK(avt_download(other, v, y));
    REQUIRE(v[0] == 0 && v[1] == 0 && v[2] == 0);
    REQUIRE_OK(avt_download(other, v, x));
    REQUIRE(v[0] == 0 && v[1] == 0 && v[2] == 0);
    REQUIRE_OK(avt_sync(t.be));
    REQUIRE_OK(avt_download(other, v, y));
    REQUIRE(v[0] == 3 && v[1] == 6 && v[2] == 9);
    avt_axpy(t.be, y, 2, y, 0, x);
    late = test_read(&t, y);                                            // download waits by itself
    REQUIRE(late[0] == 6 && late[1] == 12 && late[2] == 18);
    free(late);
    avt_backend_close(&other);
    test_bench_close(&t);
}

/* Norm, product in bf16, attention, convolution, in place and out of it; more calls than the list holds. */
static float *chain(const char *device, int threads)
{
    const int64_t wd[2] = { WIDTH, WIDTH }, cd[5] = { 4, 4, 3, 3, 3 };
    uint16_t half[WIDTH * WIDTH];
    float v[ROWS * WIDTH], *out;
    TestBench t;
    Linear l = { 0 };
    Conv c = { 0 };
    Tensor x, h, a, b;

    test_bench_open(&t, device, CPU_PLAIN, threads);
    test_random(v, ROWS * WIDTH, 3);
    for (int i = 0; i < WIDTH * WIDTH; i++)
        half[i] = (uint16_t)(0x3c00 + 37 * i % 256 + (i % 3 ? 0 : 0x8000));     // +- 2^-7 .. 2^-5
    l.w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F32, DT_BF16, 2, wd, half);
    c.w = avt_weight_put(t.arena, WEIGHT_CONV3D, DT_F32, DT_F32, 5, cd, v);
    l.b = avt_weight_put(t.arena, WEIGHT_PLAIN, DT_F32, DT_F32, 1, wd, v);
    x = TEST_TENSOR(&t, v, ROWS, WIDTH);
    h = TEST_TENSOR(&t, NULL, ROWS, WIDTH);
    a = TEST_TENSOR(&t, NULL, ROWS, WIDTH);
    b = TEST_TENSOR(&t, NULL, ROWS, WIDTH);
    avt_fill(t.be, b, 0);
    for (int i = 0; i < 1000; i++) {
        if (i % 100 == 0) {
            const Tensor q = avt_view(h, ROWS, 4, WIDTH / 4), o = avt_view(a, ROWS, 4, WIDTH / 4);
            avt_norm_rope(t.be, h, x, l.b, AVT_NONE, 1e-6f);
            avt_attention(t.be, o, q, q, q, AVT_NONE, AVT_NONE, AVT_NONE, 0.2f);
            avt_linear_add(t.be, x, x, a, &l, l.b);
            avt_conv3d(t.be, avt_rows(avt_view(b, ROWS, 4, 6, 4), 0, ROWS - 2), avt_view(x, ROWS, 4, 6, 4), AVT_NONE, &c,
                       AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 1, .pad0 = 1, .pad1 = 1 });
        }
        avt_act(t.be, h, x, ACT_GELU_TANH);
        avt_layer_norm(t.be, h, h, AVT_NONE, AVT_NONE, 1e-5f, ACT_NONE);
        avt_axpy(t.be, x, 0.9f, x, 0.1f, h);
        avt_add(t.be, x, x, l.b);
        avt_axpy(t.be, x, 0.5f, x, 0.01f, b);
    }
    out = test_read(&t, x);
    test_bench_close(&t);
    return out;
}

static void chain_equals_plain_c(void **state)
{
    float *cpu = chain("cpu", 1), *guard = chain("guard", 2);

    (void)state;
    for (int i = 0; i < ROWS * WIDTH; i++)
        REQUIRE(cpu[i] == cpu[i] && cpu[i] != 0);
    REQUIRE(!memcmp(cpu, guard, sizeof(float) * ROWS * WIDTH));
    free(cpu);
    free(guard);
}

typedef struct Job {
    const Linear *l;
    float out[ROWS * WIDTH];
    int ret;
} Job;

static void *use_shared_weights(void *arg)
{
    float v[ROWS * WIDTH];
    Job *job = arg;
    Backend *be;
    Arena *a;
    Tensor x, y;

    test_random(v, ROWS * WIDTH, 5);
    job->ret = avt_backend_open(&be, "guard", &(BackendOptions){ .threads = 1 });
    if (job->ret < 0)
        return NULL;
    job->ret = avt_arena_open(&a, be, "scratch", 1 << 20);
    if (job->ret >= 0) {
        x = avt_new(a, DT_F32, ROWS, WIDTH);
        y = avt_new(a, DT_F32, ROWS, WIDTH);
        avt_upload(be, x, v);
        for (int i = 0; i < 50 && job->ret >= 0; i++) {
            avt_linear(be, y, x, job->l, ACT_NONE);
            job->ret = avt_sync(be);                                    // opens and closes the pages of the weights, many times
        }
        if (job->ret >= 0)
            job->ret = avt_download(be, job->out, y);
        avt_arena_close(&a);
    }
    avt_backend_close(&be);
    return NULL;
}

static void threads_share_weights(void **state)
{
    static Job job[3];
    pthread_t thread[3];
    float v[WIDTH * WIDTH];
    Linear l = { 0 };
    TestBench t;

    (void)state;
    test_random(v, WIDTH * WIDTH, 4);
    test_bench_open(&t, "guard", CPU_AUTO, 1);
    l.w = avt_weight_put(t.arena, WEIGHT_LINEAR, DT_F32, DT_F32, 2, (int64_t[]){ WIDTH, WIDTH }, v);
    for (int i = 0; i < 3; i++) {
        job[i].l = &l;
        REQUIRE_OK(pthread_create(&thread[i], NULL, use_shared_weights, &job[i]));
    }
    for (int i = 0; i < 3; i++)
        REQUIRE_OK(pthread_join(thread[i], NULL));
    for (int i = 0; i < 3; i++) {
        REQUIRE_OK(job[i].ret);
        REQUIRE(!memcmp(job[i].out, job[0].out, sizeof(job[0].out)));
    }
    REQUIRE(job[0].out[0] != 0);
    test_bench_close(&t);
}

/* ---- two queues --------------------------------------------------------------------------------------------------- */

typedef struct Pair {                   // a writer, a reader, a place between them
    TestBench t;                        // its backend is the writer
    Backend *reader;
    Tensor slot, seen[8];
} Pair;

static void pair_open(Pair *p, const char *device)
{
    test_bench_open(&p->t, device, CPU_PLAIN, 1);
    REQUIRE_OK(avt_backend_open(&p->reader, device, NULL));
    p->slot = TEST_TENSOR(&p->t, NULL, 3);
    for (int i = 0; i < 8; i++)
        p->seen[i] = TEST_TENSOR(&p->t, NULL, 3);
}

static void pair_close(Pair *p)
{
    REQUIRE_OK(avt_sync(p->t.be));                                      // both, before one of them goes
    REQUIRE_OK(avt_sync(p->reader));
    avt_backend_close(&p->reader);
    test_bench_close(&p->t);
}

/* Eight numbers go through one place. How many arrive, when the reader waits for the writer, and the writer for the reader? */
static int count_right(const char *device, int reader_waits, int writer_waits)
{
    Mark free = { 0 };
    float v[3];
    int right = 0;
    Pair p;

    pair_open(&p, device);
    for (int i = 0; i < 8; i++) {
        if (writer_waits)
            avt_wait(p.t.be, free);
        avt_fill(p.t.be, p.slot, 1 + (float)i);
        if (reader_waits)
            avt_wait(p.reader, avt_mark(p.t.be));
        avt_copy(p.reader, p.seen[i], p.slot);
        free = avt_mark(p.reader);
    }
    for (int i = 0; i < 8; i++) {
        REQUIRE_OK(avt_download(p.reader, v, p.seen[i]));
        right += v[0] == 1 + (float)i && v[2] == v[0];
    }
    pair_close(&p);
    return right;
}

static void marks_order_queues(void **state)
{
    (void)state;
    REQUIRE(count_right("guard", 1, 1) == 8);
    REQUIRE(count_right("guard", 0, 1) < 8);                            // read before it was written
    REQUIRE(count_right("guard", 1, 0) < 8);                            // overwritten before it was read
    REQUIRE(count_right("guard", 0, 0) < 8);
    REQUIRE(count_right("cpu", 0, 0) == 8);                             // whose calls have their effect at once
}

/* A mark is a place in the middle of a queue: what follows it is not waited for. */
static void a_mark_is_a_place(void **state)
{
    Backend *other;
    float v[3];
    Mark m[3];
    Pair p;

    (void)state;
    pair_open(&p, "guard");
    REQUIRE_OK(avt_backend_open(&other, "guard", NULL));
    for (int i = 0; i < 3; i++) {
        avt_fill(p.t.be, p.seen[i], 1 + (float)i);
        m[i] = avt_mark(p.t.be);
        avt_fill(p.t.be, p.slot, 0);
        avt_wait(p.t.be, avt_mark(other));                              // so that nothing runs ahead of the mark
        avt_fill(other, p.seen[7], 0);
    }
    avt_wait(p.reader, m[1]);
    avt_copy(p.reader, p.seen[4], p.seen[1]);
    REQUIRE_OK(avt_download(p.reader, v, p.seen[4]));
    REQUIRE(v[0] == 2);
    REQUIRE_OK(avt_download(p.reader, v, p.seen[2]));
    REQUIRE(v[0] == 0);                                                 // the third fill has not run yet
    avt_wait(p.reader, m[0]);                                           // passed long ago
    avt_wait(p.reader, (Mark){ 0 });
    avt_wait(p.reader, avt_mark(p.reader));
    REQUIRE_OK(avt_sync(p.reader));
    REQUIRE_OK(avt_sync(p.t.be));
    avt_backend_close(&other);
    pair_close(&p);
}

/* Numbers go round through three queues, each behind the one before. */
static void marks_chain(void **state)
{
    Backend *q[3];
    Mark m = { 0 };
    float v[3] = { 1, 1, 1 };
    Pair p;

    (void)state;
    pair_open(&p, "guard");
    REQUIRE_OK(avt_backend_open(&q[1], "guard", NULL));
    q[0] = p.t.be;
    q[2] = p.reader;
    avt_upload(q[0], p.slot, v);
    for (int i = 0; i < 30; i++) {
        avt_wait(q[i % 3], m);
        avt_axpy(q[i % 3], p.slot, 1, p.slot, i % 2 ? 1 : 0.5f, p.slot);
        m = avt_mark(q[i % 3]);
    }
    avt_wait(q[1], m);
    REQUIRE_OK(avt_download(q[1], v, p.slot));
    REQUIRE(v[0] == 14348907);                                          // 3^15
    REQUIRE_OK(avt_sync(q[0]));
    REQUIRE_OK(avt_sync(q[1]));
    REQUIRE_OK(avt_sync(q[2]));
    avt_backend_close(&q[1]);
    pair_close(&p);
}

/* Weights that stream through two slots: one queue fetches, the other computes. `early`: the slot is not waited for. */
static float stream_layers(const char *device, int early)
{
    const size_t bytes = 3 * sizeof(float);
    Mark here[2], used[2] = { { 0 } };
    float *host, v[3], sum;
    Pair p;

    pair_open(&p, device);
    host = avt_host_alloc(p.t.be, 8 * bytes);
    assert_non_null(host);
    for (int i = 0; i < 8 * 3; i++)
        host[i] = (float)(1 << i / 3);
    avt_fill(p.reader, p.seen[2], 0);
    for (int i = 0; i < 8; i++) {
        if (!early)
            avt_wait(p.t.be, used[i % 2]);
        avt_fetch(p.t.be, p.seen[i % 2], host + 3 * i);
        here[i % 2] = avt_mark(p.t.be);
        avt_wait(p.reader, here[i % 2]);
        avt_add(p.reader, p.seen[2], p.seen[2], p.seen[i % 2]);
        used[i % 2] = avt_mark(p.reader);
    }
    REQUIRE_OK(avt_download(p.reader, v, p.seen[2]));
    sum = v[0];
    REQUIRE(p.t.be->queue.fetches == 8 && p.t.be->queue.fetched == 8 * (double)bytes);
    REQUIRE(p.reader->queue.waits == 8 && p.reader->queue.marks == 8);
    REQUIRE_OK(avt_sync(p.t.be));
    avt_host_free(p.t.be, host, 8 * bytes);
    pair_close(&p);
    return sum;
}

static void fetch_reads_late(void **state)
{
    float *host, *got;
    TestBench t;
    Tensor x;

    (void)state;
    test_bench_open(&t, "guard", CPU_AUTO, 1);
    host = avt_host_alloc(t.be, sizeof(*host));
    assert_non_null(host);
    x = TEST_TENSOR(&t, NULL, 1);
    *host = 1;
    avt_fetch(t.be, x, host);
    *host = 2;                                                          // too early: the queue has not come there
    got = test_read(&t, x);
    REQUIRE(*got == 2);
    free(got);
    avt_host_free(t.be, host, sizeof(*host));
    test_bench_close(&t);
    REQUIRE(stream_layers("guard", 0) == 255);
    REQUIRE(stream_layers("cpu", 0) == 255);
    REQUIRE(stream_layers("guard", 1) != 255);
}

/* What a queue stores another one fetches; `early`: without waiting for it. */
static float store_and_fetch(const char *device, int early)
{
    float *host, v[3];
    Pair p;

    pair_open(&p, device);
    host = avt_host_alloc(p.t.be, sizeof(v));
    assert_non_null(host);
    memset(host, 0, sizeof(v));
    avt_fill(p.t.be, p.seen[0], 42);
    avt_store(p.t.be, host, p.seen[0]);
    avt_fill(p.t.be, p.seen[0], 43);
    if (!early)
        avt_wait(p.reader, avt_mark(p.t.be));
    avt_fetch(p.reader, p.seen[1], host);
    REQUIRE_OK(avt_download(p.reader, v, p.seen[1]));
    REQUIRE_OK(avt_sync(p.t.be));
    avt_host_free(p.t.be, host, sizeof(v));
    pair_close(&p);
    return v[2];
}

static void store_writes_late(void **state)
{
    (void)state;
    REQUIRE(store_and_fetch("guard", 0) == 42);
    REQUIRE(store_and_fetch("cpu", 0) == 42);
    REQUIRE(store_and_fetch("guard", 1) != 42);
}

/* A queue that another one's wait executes fails on its own thread, at its next call. */
static void failure_stays_with_its_queue(void **state)
{
    float v[3];
    Tensor bad;
    Pair p;

    (void)state;
    pair_open(&p, "guard");
    bad = p.slot;
    bad.data = (void *)4096;                                            // no page of ours
    avt_fill(p.t.be, p.seen[0], 1);
    avt_fill(p.t.be, bad, 1);
    avt_fill(p.t.be, p.seen[0], 2);
    avt_wait(p.reader, avt_mark(p.t.be));
    REQUIRE_OK(avt_download(p.reader, v, p.seen[0]));
    REQUIRE(v[0] == 1);                                                 // what follows the failure is dropped
    REQUIRE_OK(p.t.be->status);
    avt_fill(p.t.be, p.seen[0], 3);
    REQUIRE(avt_sync(p.t.be) == AVT_ERR(ENOMEM));
    REQUIRE_OK(avt_sync(p.reader));
    avt_reset(p.t.be);
    pair_close(&p);
}

static void classes_do_not_wait_for_each_other(void **state)
{
    TestBench cpu;
    Backend *guard;

    (void)state;
    test_bench_open(&cpu, "cpu", CPU_PLAIN, 1);
    REQUIRE_OK(avt_backend_open(&guard, "guard", &(BackendOptions){ .log = test_log() }));
    avt_wait(guard, avt_mark(cpu.be));                                  // its work is done when its call returns
    REQUIRE_OK(avt_sync(guard));
    cpu.be->log = test_log();
    avt_wait(cpu.be, avt_mark(guard));
    REQUIRE(avt_sync(cpu.be) == AVT_ERR(EINVAL));
    assert_non_null(strstr(test_log_text(), "a queue of cpu cannot wait for one of guard"));
    avt_backend_close(&guard);
    test_bench_close(&cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(touched_byte_faults), cmocka_unit_test(result_is_late), cmocka_unit_test(chain_equals_plain_c),
        cmocka_unit_test(threads_share_weights), cmocka_unit_test(marks_order_queues), cmocka_unit_test(a_mark_is_a_place),
        cmocka_unit_test(marks_chain), cmocka_unit_test(fetch_reads_late), cmocka_unit_test(store_writes_late), cmocka_unit_test(failure_stays_with_its_queue),
        cmocka_unit_test(classes_do_not_wait_for_each_other),
    };

    return test_main("unit/guard", tests);
}
