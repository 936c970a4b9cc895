/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Comm: what arrives, what waits, what is refused; queues that no host thread waits for; the rules of comm_strict. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/comm.h"
#include "test.h"

#define NB 16
#define BYTES (NB * sizeof(float))
#define TAG_A TAG_TOKENS
#define TAG_B TAG_LATENTS

/* Two ranks with a queue each, and a host: rank 2. */
typedef struct Ranks {
    Comm *comm[3];
    Backend *be[2];
    Arena *arena[2], *boxes[2];
    Tensor x[2][8];                     // [NB]
} Ranks;

static const char *const cpus[3] = { "cpu", "cpu", NULL }, *const guards[3] = { "guard", "guard", NULL };
static const char *const mixed[3] = { "cpu", "guard", NULL };
static const CommRoute routes[] = {
    { 0, 1, TAG_A, 1, BYTES }, { 0, 1, TAG_B, 3, BYTES / 2 }, { 1, 0, TAG_A, 2, BYTES }, { 1, 0, TAG_B, 2, BYTES },
    { 2, 0, TAG_COMMAND, 4, 100 }, { 2, 0, TAG_TEXT, 1, BYTES }, { 1, 2, TAG_FRAMES, 2, BYTES },
};

static CommOptions options(CommKind kind, const char *const *device)
{
    return (CommOptions){ .kind = kind, .nb = 3, .device = device, .route = routes, .nb_routes = (int)(sizeof(routes) / sizeof(routes[0])),
                          .timeout_ms = 1000, .log = test_log() };
}

static void ranks_open_as(Ranks *r, CommOptions opt, const char *const *device)
{
    REQUIRE_OK(avt_comm_open(r->comm, &opt));
    for (int i = 0; i < 2; i++) {
        const size_t bytes = avt_comm_message_bytes(&opt, i);

        REQUIRE_OK(avt_backend_open(&r->be[i], device[i], &(BackendOptions){ .threads = 1, .level = CPU_PLAIN, .log = opt.log }));
        REQUIRE_OK(avt_arena_open(&r->arena[i], r->be[i], "test", 1 << 16));
        REQUIRE_OK(avt_arena_open(&r->boxes[i], r->be[i], "messages", bytes));
        REQUIRE_OK(avt_comm_attach(r->comm[i], r->boxes[i]));
        assert_int_equal(avt_arena_peak(r->boxes[i]), bytes);
        for (int k = 0; k < 8; k++) {
            r->x[i][k] = avt_new(r->arena[i], DT_F32, NB);
            avt_fill(r->be[i], r->x[i][k], -1);
        }
    }
}

static void ranks_open(Ranks *r, CommKind kind, const char *const *device)
{
    ranks_open_as(r, options(kind, device), device);
}

static void ranks_close(Ranks *r)
{
    for (int i = 0; i < 2; i++)
        avt_sync(r->be[i]);
    for (int i = 0; i < 2; i++) {
        avt_arena_close(&r->boxes[i]);
        avt_arena_close(&r->arena[i]);
        avt_backend_close(&r->be[i]);
    }
    avt_comm_close(r->comm, 3);
}

/* The value that fills a tensor; NAN-like when it is not filled by one. */
static float value(Ranks *r, int rank, Tensor t)
{
    float v[NB];

    REQUIRE_OK(avt_download(r->be[rank], v, t));
    for (int i = 1; i < (int)avt_numel(t); i++)
        if (v[i] != v[0])
            return -100;
    return v[0];
}

static int send_value(Ranks *r, int rank, CommTag tag, Tensor t, float v)
{
    avt_fill(r->be[rank], t, v);
    return avt_comm_send(r->comm[rank], r->be[rank], 1 - rank, tag, t);
}

/* Without a thread for each rank: what has room does not wait. */
static void messages_arrive(void **state)
{
    static const char *const *const devices[] = { cpus, guards, mixed };
    float v[NB], back[NB];
    char text[100] = "from the host", got[100] = "";

    (void)state;
    test_random(v, NB, 1);
    for (int d = 0; d < 3; d++) {
        int64_t calls;
        Ranks r;

        ranks_open(&r, COMM_THREADS, devices[d]);
        calls = avt_mem_calls();
        for (int i = 0; i < 5; i++) {                                   // rings go round
            REQUIRE_OK(send_value(&r, 0, TAG_A, r.x[0][0], 1 + (float)i));
            REQUIRE_OK(send_value(&r, 0, TAG_B, avt_rows(r.x[0][1], 0, NB / 2), 10));
            REQUIRE_OK(send_value(&r, 0, TAG_B, avt_rows(r.x[0][1], 0, 3), 11 + (float)i));
            REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_B, avt_rows(r.x[1][1], 0, NB / 2)));
            REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_B, avt_rows(r.x[1][2], 0, 3)));
            REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_A, r.x[1][0]));
            REQUIRE(value(&r, 1, r.x[1][0]) == 1 + (float)i);
            REQUIRE(value(&r, 1, avt_rows(r.x[1][1], 0, NB / 2)) == 10);
            REQUIRE(value(&r, 1, avt_rows(r.x[1][2], 0, 3)) == 11 + (float)i);
            REQUIRE(value(&r, 1, avt_rows(r.x[1][2], 3, 1)) == -1);     // behind the short message
            REQUIRE_OK(avt_comm_send_bytes(r.comm[2], 0, TAG_TEXT, v, BYTES));
            REQUIRE_OK(avt_comm_send_bytes(r.comm[2], 0, TAG_COMMAND, text, sizeof(text)));
            REQUIRE_OK(avt_comm_recv_bytes(r.comm[0], 2, TAG_COMMAND, got, sizeof(got)));
            REQUIRE_OK(avt_comm_recv(r.comm[0], r.be[0], 2, TAG_TEXT, r.x[0][2]));
            assert_string_equal(got, text);
            REQUIRE_OK(send_value(&r, 1, TAG_A, r.x[1][0], 20));
            REQUIRE_OK(avt_comm_recv(r.comm[0], r.be[0], 1, TAG_A, r.x[0][3]));
            REQUIRE(value(&r, 0, r.x[0][3]) == 20);
            REQUIRE_OK(avt_download(r.be[0], back, r.x[0][2]));
            assert_memory_equal(back, v, BYTES);
            avt_upload(r.be[1], r.x[1][3], v);
            REQUIRE_OK(avt_comm_send(r.comm[1], r.be[1], 2, TAG_FRAMES, r.x[1][3]));
            REQUIRE_OK(avt_comm_recv_bytes(r.comm[2], 1, TAG_FRAMES, back, BYTES));
            assert_memory_equal(back, v, BYTES);
            if (!i)
                calls = avt_mem_calls();                                // the guard's lists have grown
        }
        assert_int_equal(avt_mem_calls(), calls);
        assert_int_equal(avt_comm_bytes_to(r.comm[0], 1), 5 * (BYTES + BYTES / 2 + 3 * sizeof(float)));
        assert_int_equal(avt_comm_bytes_to(r.comm[2], 0), 5 * (BYTES + 100));
        assert_int_equal(avt_comm_bytes_to(r.comm[2], 1), 0);
        ranks_close(&r);
    }
}

static void memory_is_planned(void **state)
{
    const CommOptions same = options(COMM_THREADS, guards), other = options(COMM_THREADS, mixed), strict = options(COMM_STRICT, guards);
    const size_t host = 4 * 128 + BYTES + 2 * BYTES, to_0 = 4 * BYTES, to_1 = BYTES + 3 * 64;      // places are multiples of 64 bytes

    (void)state;
    assert_int_equal(avt_comm_message_bytes(&same, 0), to_0);
    assert_int_equal(avt_comm_message_bytes(&same, 1), to_1);
    assert_int_equal(avt_comm_host_bytes(&same), host);
    assert_int_equal(avt_comm_message_bytes(&other, 0) + avt_comm_message_bytes(&other, 1), 0);
    assert_int_equal(avt_comm_host_bytes(&other), host + to_0 + to_1);
    assert_int_equal(avt_comm_message_bytes(&strict, 0) + avt_comm_message_bytes(&strict, 1), 0);
    assert_int_equal(avt_comm_host_bytes(&strict), host);
}

/* Sixty messages through one place, by queues that run late and out of step: the marks alone keep them apart. */
static void queues_need_no_host(void **state)
{
    float got[60];
    Backend *look;
    Ranks r;

    (void)state;
    ranks_open(&r, COMM_THREADS, guards);
    REQUIRE_OK(avt_backend_open(&look, "guard", NULL));
    for (int i = 0; i < 4; i++) {
        REQUIRE_OK(send_value(&r, 0, TAG_A, r.x[0][0], 1));
        REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_A, r.x[1][0]));
    }
    REQUIRE_OK(avt_download(look, got, r.x[0][0]));                     // nobody has waited for the sender's queue,
    REQUIRE(got[0] == 0);
    REQUIRE_OK(avt_download(look, got, r.x[1][0]));                     // nor for the receiver's
    REQUIRE(got[0] == 0);
    for (int i = 0; i < 60; i++) {
        REQUIRE_OK(send_value(&r, 0, TAG_A, r.x[0][0], (float)i));
        REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_A, r.x[1][0]));
        avt_axpy(r.be[1], r.x[1][1], i ? 0.5f : 0, r.x[1][1], 1, r.x[1][0]);
        if (i % 7 == 3)
            REQUIRE_OK(avt_sync(r.be[i % 2]));
    }
    REQUIRE(value(&r, 1, r.x[1][1]) > 115.9f && value(&r, 1, r.x[1][1]) < 116.1f);     // sum of i / 2^(59 - i)
    avt_backend_close(&look);
    ranks_close(&r);
}

/* A copy reaches another device of the class, as between two GPUs; other ops do not. */
static void devices_of_a_class_are_peers(void **state)
{
    static const char *const peers[3] = { "guard", "guard7", NULL };
    CommOptions opt = options(COMM_THREADS, peers);
    Ranks r;

    (void)state;
    assert_int_equal(avt_comm_message_bytes(&opt, 1), BYTES + 3 * 64);
    ranks_open(&r, COMM_THREADS, guards);
    strcpy(r.be[1]->device, "guard7");
    REQUIRE_OK(send_value(&r, 0, TAG_A, r.x[0][0], 5));
    REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_A, r.x[1][0]));
    REQUIRE(value(&r, 1, r.x[1][0]) == 5);
    avt_add(r.be[1], r.x[1][0], r.x[1][0], r.x[0][0]);
    REQUIRE(avt_sync(r.be[1]) == AVT_ERR(EINVAL));
    strcpy(r.be[1]->device, "guard");
    ranks_close(&r);
}

static void wrong_messages_are_refused(void **state)
{
    char bytes[BYTES];
    Ranks r;

    (void)state;
    ranks_open(&r, COMM_THREADS, cpus);
    test_log();
    REQUIRE(avt_comm_send(r.comm[0], r.be[0], 1, TAG_RESULT, r.x[0][0]) == AVT_ERR(EINVAL));
    assert_non_null(strstr(test_log_text(), "no route for RESULT of a tensor from rank 0 to rank 1"));
    test_log();
    REQUIRE(avt_comm_send_bytes(r.comm[0], 1, TAG_A, bytes, BYTES) == AVT_ERR(EINVAL));
    assert_non_null(strstr(test_log_text(), "no route for TOKENS of bytes from rank 0 to rank 1"));
    test_log();
    REQUIRE(avt_comm_send(r.comm[0], r.be[0], 1, TAG_B, r.x[0][0]) == AVT_ERR(EINVAL));
    assert_non_null(strstr(test_log_text(), "LATENTS from rank 0 to rank 1 has 64 bytes, planned were at most 32"));
    test_log();
    REQUIRE_OK(avt_comm_send(r.comm[0], r.be[0], 1, TAG_A, r.x[0][0]));
    REQUIRE(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_A, avt_rows(r.x[1][0], 0, 5)) == AVT_ERR(EINVAL));
    assert_non_null(strstr(test_log_text(), "rank 1 wants 20 bytes of TOKENS from rank 0, which sent 64"));
    ranks_close(&r);
}

/* ---- two threads --------------------------------------------------------------------------------------------------- */

typedef struct Work {                   // one rank's, in a thread
    Ranks *r;
    int rank, ret, done;
    int (*body)(struct Work *w);
    pthread_t thread;
} Work;

static void *work_thread(void *arg)
{
    Work *w = arg;

    w->ret = w->body(w);
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

static void start(Work *w, Ranks *r, int rank, int (*body)(Work *w))
{
    *w = (Work){ .r = r, .rank = rank, .body = body };
    REQUIRE_OK(pthread_create(&w->thread, NULL, work_thread, w));
}

static int is_done(Work *w)
{
    return __atomic_load_n(&w->done, __ATOMIC_ACQUIRE);
}

static int join(Work *w)
{
    REQUIRE_OK(pthread_join(w->thread, NULL));
    return w->ret;
}

static int send_a(Work *w)
{
    return send_value(w->r, w->rank, TAG_A, w->r->x[w->rank][0], 3);
}

static int send_a_twice(Work *w)
{
    const int ret = send_a(w);

    return ret < 0 ? ret : send_a(w);
}

static int send_b(Work *w)
{
    return send_value(w->r, w->rank, TAG_B, avt_rows(w->r->x[w->rank][0], 0, 4), 4);
}

static int send_a_then_b(Work *w)
{
    const int ret = send_a(w);

    return ret < 0 ? ret : send_b(w);
}

static int recv_a(Work *w)
{
    return avt_comm_recv(w->r->comm[w->rank], w->r->be[w->rank], 1 - w->rank, TAG_A, w->r->x[w->rank][1]);
}

static int recv_b(Work *w)
{
    return avt_comm_recv(w->r->comm[w->rank], w->r->be[w->rank], 1 - w->rank, TAG_B, avt_rows(w->r->x[w->rank][2], 0, 4));
}

static int recv_b_then_a(Work *w)
{
    const int ret = recv_b(w);

    return ret < 0 ? ret : recv_a(w);
}

static int expect_a_recv_b_then_a(Work *w)
{
    int ret = avt_comm_expect(w->r->comm[w->rank], w->r->be[w->rank], 1 - w->rank, TAG_A, w->r->x[w->rank][1]);

    return ret < 0 ? ret : recv_b_then_a(w);
}

static int both(Work w[2], Ranks *r, int (*zero)(Work *), int (*one)(Work *))
{
    int ret;

    test_log();
    start(&w[0], r, 0, zero);
    start(&w[1], r, 1, one);
    ret = join(&w[0]);
    return join(&w[1]) < 0 || ret < 0 ? -1 : 0;
}

static void a_full_route_waits(void **state)
{
    Work w[2];
    Ranks r;

    (void)state;
    ranks_open(&r, COMM_THREADS, guards);
    start(&w[0], &r, 0, send_a_twice);                                  // the route has room for one
    usleep(50000);
    REQUIRE(!is_done(&w[0]));
    start(&w[1], &r, 1, recv_a);
    REQUIRE_OK(join(&w[1]));
    REQUIRE_OK(join(&w[0]));
    REQUIRE(value(&r, 1, r.x[1][1]) == 3);
    ranks_close(&r);
}

#define MANY 2000

static int send_many(Work *w)
{
    int ret = 0;

    for (int i = 0; i < MANY && ret >= 0; i++)
        ret = send_b(w);
    return ret;
}

static int recv_many(Work *w)
{
    int ret = 0;

    for (int i = 0; i < MANY && ret >= 0; i++)
        ret = recv_b(w);
    return ret;
}

/* The host waits for frames meanwhile. @return how often it slept; the frames' value is 5 */
static int recv_frames(Work *w)
{
    struct rusage before, after;
    float v[NB];
    int ret;

    getrusage(RUSAGE_THREAD, &before);
    ret = avt_comm_recv_bytes(w->r->comm[2], 1, TAG_FRAMES, v, sizeof(v));
    getrusage(RUSAGE_THREAD, &after);
    return ret < 0 || v[0] != 5 ? -1 : (int)(after.ru_nvcsw - before.ru_nvcsw);
}

/* Who waits sleeps until it is his message that comes: threads that get up for those of others take the processor from them. */
static void messages_of_others_wake_nobody(void **state)
{
    const float v[NB] = { 5 };
    Work w[2], host;
    Ranks r;
    int slept;

    (void)state;
    ranks_open(&r, COMM_THREADS, cpus);
    start(&host, &r, 2, recv_frames);
    usleep(20000);
    REQUIRE_OK(both(w, &r, send_many, recv_many));
    REQUIRE(!is_done(&host));
    REQUIRE_OK(avt_comm_send_bytes(r.comm[1], 2, TAG_FRAMES, v, sizeof(v)));
    slept = join(&host);
    REQUIRE(slept >= 0 && slept < 20);
    ranks_close(&r);
}

/* A message that is sent when its receiver has waited for so long. @return are the times of the two ends as they should be? Other programs may keep
 * a thread from its processor for as long. */
static int times_are_right(CommKind kind, int us)
{
    CommOptions opt = options(kind, cpus);
    Work w[2];
    Ranks r;
    int64_t before;
    int right;

    opt.timed = 1;
    opt.timeout_ms = 20000;
    ranks_open_as(&r, opt, cpus);
    r.be[0]->profile = r.be[1]->profile = 1;
    before = r.be[0]->stat[OP_COPY].calls + r.be[1]->stat[OP_COPY].calls;
    start(&w[1], &r, 1, recv_a);
    usleep((useconds_t)us);
    start(&w[0], &r, 0, send_a);
    REQUIRE_OK(join(&w[0]));
    REQUIRE_OK(join(&w[1]));
    right = r.comm[1]->waited > us / 2 * 1000ll && r.comm[1]->moved < r.comm[1]->waited && r.comm[0]->waited < r.comm[1]->waited;
    REQUIRE(r.comm[1]->moved > 0 && r.comm[0]->moved > 0 && r.comm[1]->idle > 0);
    REQUIRE(r.be[0]->stat[OP_COPY].calls + r.be[1]->stat[OP_COPY].calls > before);
    REQUIRE(r.be[0]->stat[OP_COPY].seconds + r.be[1]->stat[OP_COPY].seconds == 0);
    REQUIRE(r.be[0]->profile && r.be[1]->profile && r.be[0]->stat[OP_FILL].seconds > 0);
    ranks_close(&r);
    return right;
}

/* What an end's calls take: waiting, and work, which is none of the rank's ops. */
static void times_are_counted(void **state)
{
    static const CommKind kinds[] = { COMM_THREADS, COMM_STRICT };
    Work w[2];
    Ranks r;

    (void)state;
    for (int k = 0; k < 2; k++) {
        int us = 50000;

        while (!times_are_right(kinds[k], us))
            REQUIRE((us *= 2) < 2000000);
    }
    ranks_open(&r, COMM_THREADS, cpus);                                 // nobody asked
    start(&w[0], &r, 0, send_a);
    REQUIRE_OK(join(&w[0]));
    REQUIRE(!r.comm[0]->moved && !r.comm[0]->waited);
    ranks_close(&r);
}

/* Who waits gets the group's failure, the first one; what was sent before is still received. */
static void abort_wakes_all(void **state)
{
    static const CommKind kinds[] = { COMM_THREADS, COMM_STRICT };

    (void)state;
    for (int k = 0; k < 2; k++) {
        char text[100];
        Work w[2];
        Ranks r;

        ranks_open(&r, kinds[k], cpus);
        REQUIRE_OK(avt_comm_status(r.comm[1]));
        REQUIRE_OK(avt_comm_send_bytes(r.comm[2], 0, TAG_COMMAND, "sent before", sizeof(text) / 8));
        start(&w[0], &r, 0, recv_a);
        start(&w[1], &r, 1, recv_a);
        usleep(20000);
        avt_comm_abort(r.comm[2], AVT_ERR(ECANCELED));
        avt_comm_abort(r.comm[2], AVT_ERR(EIO));
        REQUIRE(join(&w[0]) == AVT_ERR(ECANCELED) && join(&w[1]) == AVT_ERR(ECANCELED));
        REQUIRE(avt_comm_status(r.comm[0]) == AVT_ERR(ECANCELED));
        REQUIRE_OK(avt_comm_recv_bytes(r.comm[0], 2, TAG_COMMAND, text, sizeof(text) / 8));
        assert_string_equal(text, "sent before");
        REQUIRE(avt_comm_recv_bytes(r.comm[0], 2, TAG_COMMAND, text, sizeof(text) / 8) == AVT_ERR(ECANCELED));
        ranks_close(&r);
    }
}

/* ---- strict -------------------------------------------------------------------------------------------------------- */

static void strict_has_no_buffer(void **state)
{
    CommOptions opt = options(COMM_STRICT, guards);
    Work w[2];
    Ranks r;

    (void)state;
    opt.timeout_ms = 20000;
    ranks_open_as(&r, opt, guards);
    start(&w[0], &r, 0, send_a);
    usleep(50000);
    REQUIRE(!is_done(&w[0]));                                           // though the route has room
    start(&w[1], &r, 1, recv_a);
    REQUIRE_OK(join(&w[0]));
    REQUIRE_OK(join(&w[1]));
    REQUIRE(value(&r, 1, r.x[1][1]) == 3);
    REQUIRE_OK(avt_comm_expect(r.comm[1], r.be[1], 0, TAG_A, r.x[1][2]));
    REQUIRE_OK(send_value(&r, 0, TAG_A, r.x[0][0], 7));                  // goes on before the receive
    REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_A, r.x[1][2]));
    REQUIRE(value(&r, 1, r.x[1][2]) == 7);
    ranks_close(&r);
}

/* Each sends before it receives: fine with buffers, an error that says so without. */
static void strict_finds_a_deadlock(void **state)
{
    Work w[2];
    Ranks r;

    (void)state;
    ranks_open(&r, COMM_THREADS, cpus);
    REQUIRE_OK(both(w, &r, send_a, send_b));
    ranks_close(&r);
    ranks_open(&r, COMM_STRICT, cpus);
    REQUIRE(both(w, &r, send_a, send_b) < 0);
    REQUIRE(w[0].ret == AVT_ERR(ETIMEDOUT) && w[1].ret == AVT_ERR(ETIMEDOUT));
    assert_non_null(strstr(test_log_text(), "rank 0 waits to send to rank 1: TOKENS"));
    assert_non_null(strstr(test_log_text(), "rank 1 waits to send to rank 0: LATENTS"));
    ranks_close(&r);
    ranks_open(&r, COMM_STRICT, cpus);
    start(&w[0], &r, 0, recv_b);
    REQUIRE(join(&w[0]) == AVT_ERR(ETIMEDOUT));
    assert_non_null(strstr(test_log_text(), "rank 0 waits to receive from rank 1: LATENTS"));
    assert_non_null(strstr(test_log_text(), "rank 1 waits for no rank"));
    ranks_close(&r);
}

/* A message that overtakes another: fine with tags, an error that names both without; an early receive mends it. */
static void strict_keeps_the_order(void **state)
{
    Work w[2];
    Ranks r;

    (void)state;
    ranks_open(&r, COMM_THREADS, cpus);
    REQUIRE_OK(both(w, &r, send_a_then_b, recv_b_then_a));
    ranks_close(&r);
    ranks_open(&r, COMM_STRICT, cpus);
    REQUIRE(both(w, &r, send_a_then_b, recv_b_then_a) < 0);
    assert_non_null(strstr(test_log_text(), "rank 0 sends TOKENS, 64 bytes, to rank 1, whose next receive from it is LATENTS, 16 bytes"));
    ranks_close(&r);
    ranks_open(&r, COMM_STRICT, guards);
    REQUIRE_OK(both(w, &r, send_a_then_b, expect_a_recv_b_then_a));
    REQUIRE(value(&r, 1, r.x[1][1]) == 3 && value(&r, 1, avt_rows(r.x[1][2], 0, 4)) == 4);
    ranks_close(&r);
}

/* ---- dry ----------------------------------------------------------------------------------------------------------- */

static void a_rehearsal_leaves_its_routes(void **state)
{
    Backend *be;
    Arena *a;
    CommTraffic sent;
    CommRoute *got;
    Comm *c;
    Tensor x;
    int nb;

    (void)state;
    REQUIRE_OK(avt_backend_open(&be, "dry", NULL));
    REQUIRE_OK(avt_arena_open(&a, be, "scratch", ARENA_UNLIMITED));
    x = avt_new(a, DT_F32, 1 << 20, 1 << 12);
    REQUIRE_OK(avt_comm_dry_open(&c, 3, 1, NULL));
    REQUIRE_OK(avt_comm_send(c, be, 2, TAG_A, avt_rows(x, 0, 10)));
    REQUIRE_OK(avt_comm_send(c, be, 2, TAG_A, x));
    REQUIRE_OK(avt_comm_send(c, be, 2, TAG_A, avt_rows(x, 0, 10)));
    REQUIRE_OK(avt_comm_expect(c, be, 0, TAG_B, x));
    REQUIRE_OK(avt_comm_recv(c, be, 0, TAG_B, avt_rows(x, 0, 1)));
    REQUIRE_OK(avt_comm_recv_bytes(c, 2, TAG_COMMAND, NULL, 77));
    sent = avt_comm_dry_traffic(c, TAG_A);
    REQUIRE(sent.bytes == 4 * 4096.0 * (10 + (1 << 20) + 10) && sent.turns == 1 && avt_comm_dry_traffic(c, TAG_B).turns == 0);
    REQUIRE_OK(avt_comm_recv(c, be, 2, TAG_A, avt_rows(x, 0, 1)));
    REQUIRE_OK(avt_comm_send(c, be, 2, TAG_A, avt_rows(x, 0, 1)));
    REQUIRE(avt_comm_dry_traffic(c, TAG_A).turns == 2);
    got = avt_comm_dry_routes(c, &nb);
    assert_int_equal(nb, 4);
    REQUIRE(got[0].src == 1 && got[0].dst == 2 && got[0].tag == TAG_A && got[0].size == (size_t)4 << 32);
    REQUIRE(got[1].src == 0 && got[1].dst == 1 && got[1].tag == TAG_B && got[1].size == 4 << 12);
    REQUIRE(got[2].src == 2 && got[2].dst == 1 && got[2].tag == TAG_COMMAND && got[2].size == 77);
    avt_comm_close(&c, 1);
    avt_arena_close(&a);
    avt_backend_close(&be);
}

static void nothing_stays(void **state)
{
    const CommOptions opt = options(COMM_STRICT, cpus);
    int64_t n = 0;

    (void)state;
    assert_int_equal(avt_mem_bytes(MEM_COMM), 0);
    for (int ret = AVT_ERR(ENOMEM); ret < 0; n++) {                     // every allocation fails once
        Comm *comm[3];

        avt_mem_fail_at(n + 1);
        ret = avt_comm_open(comm, &opt);
        avt_mem_fail_at(0);
        REQUIRE(ret == 0 || ret == AVT_ERR(ENOMEM));
        if (!ret)
            avt_comm_close(comm, 3);
        assert_int_equal(avt_mem_bytes(MEM_COMM), 0);
    }
    REQUIRE(n > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive), cmocka_unit_test(memory_is_planned), cmocka_unit_test(queues_need_no_host),
        cmocka_unit_test(devices_of_a_class_are_peers), cmocka_unit_test(wrong_messages_are_refused), cmocka_unit_test(a_full_route_waits),
        cmocka_unit_test(messages_of_others_wake_nobody), cmocka_unit_test(times_are_counted),
        cmocka_unit_test(abort_wakes_all), cmocka_unit_test(strict_has_no_buffer), cmocka_unit_test(strict_finds_a_deadlock),
        cmocka_unit_test(strict_keeps_the_order), cmocka_unit_test(a_rehearsal_leaves_its_routes), cmocka_unit_test(nothing_stays),
    };

    return test_main("unit/comm", tests);
}
