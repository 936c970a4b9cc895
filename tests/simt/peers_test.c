/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Messages between GPUs of one process, on emulated ones: three ranks, a device each, with and without access to each other's memory.
 * What is asked: the numbers, that no host thread waits for a queue, and which queue does the copy between two devices. Run in every
 * schedule: SIMT_SCHEDULE.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "control.h"
#include "kernels.h"
#include "test.h"

enum { RANKS = 3, N = 3001, ROUNDS = 12, BYTES = N * 4 };

static const char *const device[RANKS] = { "cuda0", "cuda1", "cuda2" };
static const CommRoute routes[] = {
    { 0, 1, TAG_TOKENS, 1, BYTES }, { 1, 2, TAG_TOKENS, 2, BYTES }, { 2, 0, TAG_TOKENS, 3, BYTES },
    { 1, 0, TAG_LATENTS, 1, BYTES }, { 2, 1, TAG_LATENTS, 1, BYTES }, { 0, 2, TAG_LATENTS, 1, BYTES },
};
static int said;                                                    // lines about devices that do not reach each other

static void count_lines(void *opaque, int level, const char *text)
{
    (void)opaque, (void)level;
    said += strstr(text, "do not reach each other's memory") != NULL;
    print_message("%s\n", text);
}

typedef struct Ranks {
    Comm *comm[RANKS];
    Backend *be[RANKS];
    Arena *arena[RANKS], *boxes[RANKS];
    Tensor x[RANKS], seen[RANKS];                                   // [N]
} Ranks;

static CommOptions options(CommKind kind)
{
    static const Log log = { .write = count_lines, .level = LOG_INFO };

    return (CommOptions){ .kind = kind, .nb = RANKS, .device = device, .route = routes, .nb_routes = 6, .log = &log };
}

static void ranks_open(Ranks *r, const char *peers, CommKind kind)
{
    const CommOptions opt = options(kind);

    REQUIRE_OK(simt_set("DEVICES", "3"));
    REQUIRE_OK(simt_set("PEERS", peers));
    for (int i = 0; i < RANKS; i++)
        REQUIRE_OK(avt_backend_open(&r->be[i], device[i], &(BackendOptions){ .threads = 1, .act = DT_F32, .log = test_log() }));
    said = 0;
    REQUIRE_OK(avt_comm_open(r->comm, &opt));
    for (int i = 0; i < RANKS; i++) {
        const size_t bytes = avt_comm_message_bytes(&opt, i);

        REQUIRE_OK(avt_arena_open(&r->arena[i], r->be[i], "test", 1 << 20));
        REQUIRE_OK(avt_arena_open(&r->boxes[i], r->be[i], "messages", bytes));
        REQUIRE_OK(avt_comm_attach(r->comm[i], r->boxes[i]));
        assert_int_equal(avt_arena_peak(r->boxes[i]), bytes);
        r->x[i] = avt_new(r->arena[i], DT_F32, N);
        r->seen[i] = avt_new(r->arena[i], DT_F32, N);
        avt_fill(r->be[i], r->x[i], 0);
    }
}

static void ranks_close(Ranks *r)
{
    for (int i = 0; i < RANKS; i++)
        REQUIRE_OK(avt_sync(r->be[i]));
    for (int i = 0; i < RANKS; i++) {
        avt_comm_detach(r->comm[i]);
        avt_arena_close(&r->boxes[i]);
        avt_arena_close(&r->arena[i]);
        avt_backend_close(&r->be[i]);
    }
    avt_comm_close(r->comm, RANKS);
    REQUIRE_OK(simt_set("PEERS", "on"));
}

/* x of a rank goes to the next one, which keeps x + 1 of it; x is written again at once. */
static void hop(Ranks *r, int from, int to, CommTag tag)
{
    REQUIRE_OK(avt_comm_expect(r->comm[to], r->be[to], from, tag, r->seen[to]));
    REQUIRE_OK(avt_comm_send(r->comm[from], r->be[from], to, tag, r->x[from]));
    avt_fill(r->be[from], r->x[from], -7);
    REQUIRE_OK(avt_comm_recv(r->comm[to], r->be[to], from, tag, r->seen[to]));
    avt_fill(r->be[to], r->x[to], 1);
    avt_add(r->be[to], r->x[to], r->x[to], r->seen[to]);
}

static void go_round(const char *peers, CommKind kind, int lines)
{
    float v[N];
    Ranks r;

    ranks_open(&r, peers, kind);
    for (int k = 0; k < ROUNDS; k++)
        for (int i = 0; i < 2 * RANKS; i++) {
            const int up = i < RANKS, from = up ? i : 2 * RANKS - i, to = up ? i + 1 : 2 * RANKS - i - 1;

            hop(&r, from % RANKS, to % RANKS, up ? TAG_TOKENS : TAG_LATENTS);
        }
    for (int i = 0; i < RANKS; i++)
        if (strcmp(peers, "off") || kind == COMM_THREADS)           // strictly without access: through the host, which waits
            assert_int_equal(r.be[i]->queue.stops, 0);
    REQUIRE_OK(avt_download(r.be[0], v, r.x[0]));
    for (int i = 0; i < N; i++)
        assert_true(v[i] == 2 * RANKS * ROUNDS);
    assert_int_equal(said, lines);
    ranks_close(&r);
}

static void gpus_pass_on(void **state)
{
    (void)state;
    go_round("on", COMM_THREADS, 0);
    go_round("on", COMM_STRICT, 0);
}

/* Each pair is named once. */
static void gpus_without_access_pass_on(void **state)
{
    (void)state;
    go_round("off", COMM_THREADS, 3);
    go_round("off", COMM_STRICT, 0);
}

/* One message after the other the same way, nothing back: a place is filled again when it was taken, not before. */
static void a_place_is_filled_when_it_was_taken(void **state)
{
    float v[N];

    (void)state;
    for (int off = 0; off < 2; off++) {
        Ranks r;

        ranks_open(&r, off ? "off" : "on", COMM_THREADS);
        avt_fill(r.be[1], r.x[1], 0);
        for (int k = 1; k <= ROUNDS; k++) {
            avt_fill(r.be[0], r.x[0], (float)k);
            REQUIRE_OK(avt_comm_send(r.comm[0], r.be[0], 1, TAG_TOKENS, r.x[0]));
            REQUIRE_OK(avt_comm_recv(r.comm[1], r.be[1], 0, TAG_TOKENS, r.seen[1]));
            avt_add(r.be[1], r.x[1], r.x[1], r.seen[1]);
        }
        REQUIRE_OK(avt_download(r.be[1], v, r.x[1]));
        for (int i = 0; i < N; i++)
            assert_true(v[i] == ROUNDS * (ROUNDS + 1) / 2);
        ranks_close(&r);
    }
}

/* Where messages lie: with the sender, who copies and goes on; without access in the host. */
static void mailboxes_lie_with_the_sender(void **state)
{
    const size_t place = (BYTES + 63) / 64 * 64;
    const CommOptions opt = options(COMM_THREADS);
    Ranks r;

    (void)state;
    ranks_open(&r, "on", COMM_THREADS);
    assert_int_equal(avt_comm_message_bytes(&opt, 0), 2 * place);
    assert_int_equal(avt_comm_message_bytes(&opt, 1), 3 * place);
    assert_int_equal(avt_comm_message_bytes(&opt, 2), 4 * place);
    assert_int_equal(avt_comm_host_bytes(&opt), 0);
    ranks_close(&r);
    ranks_open(&r, "off", COMM_THREADS);
    assert_int_equal(avt_comm_message_bytes(&opt, 0), 0);
    assert_int_equal(avt_comm_host_bytes(&opt), 9 * place);
    ranks_close(&r);
}

/* The sender's queue comes to its end while nobody has done anything for the receiver's: the copy between the devices is the latter's. */
static void a_hop_does_not_stop_the_sender(void **state)
{
    const char *schedule = getenv("SIMT_SCHEDULE");
    uint64_t before;
    Ranks r;

    (void)state;
    ranks_open(&r, "on", COMM_THREADS);
    for (int i = 0; i < RANKS; i++)
        REQUIRE_OK(avt_sync(r.be[i]));
    REQUIRE_OK(simt_set("SCHEDULE", "lazy"));
    before = simt_stats()->peer_copies;
    hop(&r, 0, 1, TAG_TOKENS);
    REQUIRE_OK(avt_sync(r.be[0]));
    assert_int_equal(simt_stats()->peer_copies, before);
    REQUIRE_OK(avt_sync(r.be[1]));
    assert_int_equal(simt_stats()->peer_copies, before + 1);
    REQUIRE_OK(simt_set("SCHEDULE", schedule ? schedule : "eager"));
    ranks_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpus_pass_on), cmocka_unit_test(gpus_without_access_pass_on), cmocka_unit_test(mailboxes_lie_with_the_sender),
        cmocka_unit_test(a_place_is_filled_when_it_was_taken), cmocka_unit_test(a_hop_does_not_stop_the_sender),
    };

    return test_main_group("peers", tests, sizeof(tests) / sizeof(tests[0]));
}
