/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From card to card between processes: comm_nccl.c, the backend's nccl.cu and NCCL's double. Processes are threads of this one, each with
 * an emulated GPU of its own; what they tell each other goes over the world's sockets. Run in every schedule: SIMT_SCHEDULE.
 */
#include <cuda_runtime_api.h>
#include <nccl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"
#include "control.h"
#include "cuda/direct.h"
#include "kernels.h"
#include "worlds.h"

enum { N = 3001, ROUNDS = 20, BYTES = N * 4 };

/* Rank i is in process i, on cuda i; the host's end in process 0. Both ways between 0 and 1, once around, two kinds from 1 to 2. */
static const char *const device[4] = { "cuda0", "cuda1", "cuda2", NULL };
static const int home[4] = { 0, 1, 2, 0 };
static const CommRoute routes[] = {
    { 0, 1, TAG_TOKENS, 1, BYTES }, { 1, 2, TAG_TOKENS, 2, BYTES }, { 2, 0, TAG_TOKENS, 3, BYTES }, { 1, 0, TAG_TEAM, 1, BYTES },
    { 1, 2, TAG_LATENTS, 1, BYTES }, { 3, 0, TAG_COMMAND, 2, 8 }, { 0, 3, TAG_FRAMES, 2, BYTES },
};

typedef struct Rank {
    Comm *comm[4];
    Backend *be;
    Arena *arena, *boxes;
    Tensor x, seen, part[2];
} Rank;

static CommOptions options(const Process *p)
{
    return (CommOptions){ .nb = 4, .device = device, .route = routes, .nb_routes = 7, .log = &p->log, .world = p->w, .process = home,
                          .own = avt_world_own(p->w), .id = 7, .direct = 1 };
}

static int rank_open(Rank *r, Process *p)
{
    const int own = avt_world_own(p->w);
    const CommOptions opt = options(p);
    char why[160];
    int ret = avt_comm_open(r->comm, &opt);

    if (ret >= 0)
        ret = avt_backend_open(&r->be, device[own], &(BackendOptions){ .threads = 1, .act = DT_F32, .log = &p->log });
    if (ret >= 0)
        ret = avt_arena_open(&r->arena, r->be, "test", 1 << 20);
    if (ret >= 0)
        ret = avt_arena_open(&r->boxes, r->be, "messages", avt_comm_message_bytes(&opt, own));
    if (ret >= 0)
        ret = avt_comm_attach(r->comm[own], r->boxes);
    if (ret < 0)
        return ret;
    if (!avt_cuda_direct()->version(why, sizeof(why)))
        return avt_fail(&p->log, AVT_ERR(ENOSYS), "%s", why);
    r->x = avt_new(r->arena, DT_F32, N);
    r->seen = avt_new(r->arena, DT_F32, N);
    r->part[0] = avt_rows(r->seen, 0, N / 2);
    r->part[1] = avt_rows(r->seen, N / 2, N - N / 2);
    avt_fill(r->be, r->x, 0);
    avt_sync(r->be);
    wait_for_all();                                                 // all have opened theirs, as by ORDER_OPEN
    return avt_comm_connect(r->comm[own]);
}

/* A process's threads share no queue: the last to go closes. */
static void rank_close(Rank *r, const Process *p)
{
    avt_sync(r->be);
    avt_comm_detach(r->comm[avt_world_own(p->w)]);
    avt_arena_close(&r->boxes);
    avt_arena_close(&r->arena);
    avt_backend_close(&r->be);
    avt_comm_close(r->comm, 4);
}

static int receive(Rank *r, int own, int from, CommTag tag)
{
    const int ret = avt_comm_recv_all(r->comm[own], r->be, from, tag, r->part, 2);

    avt_fill(r->be, r->x, 1);
    avt_add(r->be, r->x, r->x, r->seen);
    return ret;
}

static int give(Rank *r, int own, int to, CommTag tag)
{
    const Tensor part[2] = { avt_rows(r->x, 0, N / 2), avt_rows(r->x, N / 2, N - N / 2) };
    const int ret = avt_comm_send_all(r->comm[own], r->be, to, tag, part, 2);

    avt_fill(r->be, r->x, -7);                                      // at once: the message has been copied by then
    return ret;
}

/* 0 -> 1 -> 0 -> 1 -> 2 -> 0, one more at each; from 1 to 2 by two routes in turn. */
static int one_round(Rank *r, int own, int k)
{
    const CommTag tag = k & 1 ? TAG_LATENTS : TAG_TOKENS;
    int ret = 0;

    if (own == 0) {
        ret |= give(r, 0, 1, TAG_TOKENS) | receive(r, 0, 1, TAG_TEAM) | give(r, 0, 1, TAG_TOKENS) | receive(r, 0, 2, TAG_TOKENS);
    } else if (own == 1) {
        ret |= receive(r, 1, 0, TAG_TOKENS) | give(r, 1, 0, TAG_TEAM) | receive(r, 1, 0, TAG_TOKENS) | give(r, 1, 2, tag);
    } else {
        ret |= receive(r, 2, 1, tag) | give(r, 2, 0, TAG_TOKENS);
    }
    return ret;
}

static void go_round(Process *p)
{
    const int own = avt_world_own(p->w);
    Rank r = { .be = NULL };
    float v[N];

    p->ret = rank_open(&r, p);
    wait_for_all();
    for (int k = 0; k < ROUNDS && p->ret >= 0; k++)
        p->ret |= one_round(&r, own, k);
    p->ret |= r.be->queue.stops != 1;                               // that of rank_open(): nobody waits for a queue
    if (!own)
        p->ret |= avt_download(r.be, v, r.x);
    for (int i = 0; i < N && !own; i++)
        p->ret |= v[i] != 5 * ROUNDS;
    p->ret |= avt_comm_host_bytes(&(const CommOptions){ .nb = 4, .device = device, .route = routes, .nb_routes = 5, .process = home, .own = own,
                                                        .direct = 1 }) != 0;
    wait_for_all();
    rank_close(&r, p);
}

static void cards_pass_on(void **state)
{
    Process p[MOST];

    (void)state;
    meeting.devices = "cuda";
    run(p, 3, 0, go_round);
    for (int i = 0; i < 3; i++)
        if (p[i].ret)
            fail_msg("process %d: %d, %s", i, p[i].ret, p[i].said);
}

/* 1 -> 2, large and small ones in turn and nothing back: as many are on their way as there is room, and each comes as what was sent. */
static void go_one_way(Process *p)
{
    const int own = avt_world_own(p->w);
    Rank r = { .be = NULL };
    float v[N];

    p->ret = rank_open(&r, p);
    wait_for_all();
    for (int k = 1; k <= 2 * ROUNDS && own && p->ret >= 0; k++) {
        const Tensor x = avt_rows(r.x, 0, k & 1 ? N : N / 2), seen = avt_rows(r.seen, 0, k & 1 ? N : N / 2);
        const CommTag tag = k & 1 ? TAG_TOKENS : TAG_LATENTS;

        if (own == 1) {
            avt_fill(r.be, x, (float)k);
            p->ret |= avt_comm_send(r.comm[1], r.be, 2, tag, x);
        } else {
            p->ret |= avt_comm_recv(r.comm[2], r.be, 1, tag, seen);
            avt_add(r.be, x, x, seen);
        }
    }
    if (own == 2)
        p->ret |= avt_download(r.be, v, r.x) | (v[0] != ROUNDS * (2 * ROUNDS + 1)) | (v[N - 1] != ROUNDS * ROUNDS);
    wait_for_all();
    rank_close(&r, p);
}

static void ways_keep_their_order(void **state)
{
    Process p[MOST];

    (void)state;
    meeting.devices = "cuda";
    run(p, 3, 0, go_one_way);
    for (int i = 0; i < 3; i++)
        if (p[i].ret)
            fail_msg("process %d: %d, %s", i, p[i].ret, p[i].said);
}

/* Process 2 is cut off when it has said that it sends, and 0 waits for the message on the device. 1 hears of it. */
static void one_is_killed(Process *p)
{
    const int own = avt_world_own(p->w);
    Rank r = { .be = NULL };
    int64_t begin;

    p->ret = rank_open(&r, p);
    wait_for_all();
    if (own == 2)
        p->ret |= simt_set("NCCL", "stuck") | give(&r, 2, 0, TAG_TOKENS);
    else if (own == 0)
        p->ret |= receive(&r, 0, 2, TAG_TOKENS);                    // returns: it will have come when the queue gets there
    wait_for_all();
    begin = avt_now_ns();
    for (int i = 0; i < 2 && own == 2; i++)
        shutdown(p->w->peer[i].fd, SHUT_RDWR);
    if (own != 2) {
        for (int ms = 0; ms < 5000 && !strstr(p->said, "is lost"); ms += 10)
            usleep(10000);                                          // another process may have told of it first
        p->ret |= !strstr(p->said, "process 2 on ") || !strstr(p->said, "(cuda2) is lost");
        p->ret |= give(&r, own, !own, own ? TAG_TEAM : TAG_TOKENS) != AVT_ERR(ETIMEDOUT);       // nothing leaves a rank any more
        avt_sync(r.be);                                             // comes to its end, as the ways are torn off
        p->ret |= avt_now_ns() - begin > INT64_C(9000000000);
    }
    wait_for_all();
    simt_set("NCCL", "on");
    rank_close(&r, p);
}

static void a_loss_ends_what_waits_on_the_device(void **state)
{
    Process p[MOST];

    (void)state;
    meeting.devices = "cuda2";
    run(p, 3, 0, one_is_killed);
    for (int i = 0; i < 2; i++)
        if (p[i].ret)
            fail_msg("process %d: %d, %s", i, p[i].ret, p[i].said);
}

/* ---- the double: what it must find ----------------------------------------------------------------------------------------------- */

static void wait_for_comm(ncclComm_t c)
{
    ncclResult_t state = ncclInProgress;

    while (ncclCommGetAsyncError(c, &state) == ncclSuccess && state == ncclInProgress)
        usleep(1000);
    assert_int_equal(state, ncclSuccess);
}

/* A rank on a stream that does one, then the other: a size > 0 is sent, < 0 received. */
typedef struct TwoCalls {
    int rank;
    ncclUniqueId id;
    long size[2];
    pthread_t thread;
} TwoCalls;

static void *two_calls(void *arg)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    TwoCalls *t = arg;
    cudaStream_t s;
    ncclComm_t c;
    char *p;

    config.blocking = 0;
    cudaSetDevice(t->rank);
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMalloc((void **)&p, 4096);
    cudaMemsetAsync(p, 1, 4096, s);
    ncclCommInitRankConfig(&c, 2, t->id, t->rank, &config);
    wait_for_comm(c);
    for (int i = 0; i < 2; i++) {
        if (t->size[i] > 0)
            ncclSend(p, (size_t)t->size[i], ncclInt8, !t->rank, c, s);
        else
            ncclRecv(p, (size_t)-t->size[i], ncclInt8, !t->rank, c, s);
        wait_for_comm(c);
    }
    cudaStreamSynchronize(s);
    ncclCommAbort(c);
    cudaFree(p);
    cudaStreamDestroy(s);
    return NULL;
}

/* How often `kind` is told of two ranks with these calls. */
static long found(const char *kind, const long a[2], const long b[2])
{
    TwoCalls t[2] = { { .rank = 0, .size = { a[0], a[1] } }, { .rank = 1, .size = { b[0], b[1] } } };
    long n;

    REQUIRE_OK(simt_set("PATIENCE", "2"));
    assert_int_equal(ncclGetUniqueId(&t[0].id), ncclSuccess);
    t[1].id = t[0].id;
    for (int i = 0; i < 2; i++)
        pthread_create(&t[i].thread, NULL, two_calls, &t[i]);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i].thread, NULL);
    n = simt_errors(kind);
    assert_int_equal(simt_errors(NULL), n);
    simt_clear();
    REQUIRE_OK(simt_set("PATIENCE", "10"));
    return n;
}

static void the_double_finds_what_never_ends(void **state)
{
    (void)state;
    assert_int_equal(found("stream-deadlock", (const long[]){ 64, -64 }, (const long[]){ -64, 64 }), 0);
    assert_true(found("stream-deadlock", (const long[]){ 64, -64 }, (const long[]){ 64, -64 }) > 0);        // both send first
    assert_true(found("nccl-mismatch", (const long[]){ 64, 128 }, (const long[]){ -64, -256 }) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cards_pass_on), cmocka_unit_test(ways_keep_their_order), cmocka_unit_test(a_loss_ends_what_waits_on_the_device), cmocka_unit_test(the_double_finds_what_never_ends),
    };

    simt_set("DEVICES", "3");
    return test_main_group("nccl", tests, sizeof(tests) / sizeof(tests[0]));
}
