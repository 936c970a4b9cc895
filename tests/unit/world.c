/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes of one run, as threads of this one: meeting, talk, messages of a comm between them, and how a process that is gone is told of. */
#include <pthread.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "worlds.h"

/* ---- meeting and talk ------------------------------------------------------------------------------------------------------- */

static void talk_to_all(Process *p)
{
    const int own = avt_world_own(p->w), nb = avt_world_nb(p->w);
    char text[32];

    for (int i = 0; i < nb; i++)
        for (int k = 0; k < 3 && i != own; k++) {
            snprintf(text, sizeof(text), "%d to %d, %d", own, i, k);
            p->ret |= avt_world_say(p->w, i, text, strlen(text) + 1);
        }
    for (int i = 0; i < nb; i++)
        for (int k = 0; k < 3 && i != own; k++) {
            void *said;
            size_t size;

            snprintf(text, sizeof(text), "%d to %d, %d", i, own, k);
            p->ret |= avt_world_hear(p->w, i, &said, &size, -1);
            p->ret |= p->ret < 0 || size != strlen(text) + 1 || strcmp(said, text);
            avt_free(said);
        }
    wait_for_all();
}

static void processes_meet(void **state)
{
    Process p[MOST];

    (void)state;
    run(p, 4, 2, talk_to_all);
    for (int i = 0; i < 4; i++)
        assert_int_equal(p[i].ret, 0);
}

static void who_has_the_film_is_process_0(Process *p)
{
    p->ret = avt_world_own(p->w) != (p->place == 2 ? 0 : p->place < 2 ? p->place + 1 : p->place) ||
             avt_world_card(p->w, 0)->worker || !avt_world_card(p->w, 1)->worker;
    wait_for_all();
}

static void the_film_comes_first(void **state)
{
    Process p[MOST];

    (void)state;
    run(p, 4, 2, who_has_the_film_is_process_0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(p[i].ret, 0);
    run(p, 3, -1, who_has_the_film_is_process_0);
    for (int i = 0; i < 3; i++)
        REQUIRE(p[i].ret == AVT_ERR(EINVAL) && strstr(p[i].said, "3 workers, and no process with a film"));
    run(p, 2, -2, who_has_the_film_is_process_0);                   // two films, each alone
    for (int i = 0; i < 2; i++)
        assert_int_equal(p[i].ret, 0);
}

/* A worker hears that the film's process has left, not before what it said. */
static void hear_the_end(Process *p)
{
    void *said;
    size_t size;

    if (!avt_world_own(p->w)) {
        avt_world_say(p->w, 1, "last", 5);
        return;
    }
    p->ret = avt_world_hear(p->w, 0, &said, &size, 10000);
    avt_free(said);
    if (p->ret >= 0)
        p->ret = avt_world_hear(p->w, 0, &said, &size, 10000);
    p->ret = p->ret == AVT_ERR(ECANCELED) && *avt_world_over(p->w) ? 0 : -1;
}

static void good_bye_is_no_loss(void **state)
{
    Process p[MOST];

    (void)state;
    run(p, 2, 0, hear_the_end);
    REQUIRE(!p[0].ret && !p[1].ret && !*p[0].said && !*p[1].said);
}

/* As those of hosts that have nothing else in common. */
static void processes_meet_over_ipv6(void **state)
{
    const int fd = socket(AF_INET6, SOCK_STREAM, 0);
    const struct sockaddr_in6 at = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    const int there = fd >= 0 && !bind(fd, (const struct sockaddr *)(const void *)&at, sizeof(at));
    Process p[MOST];

    (void)state;
    if (fd >= 0)
        close(fd);
    if (!there)
        SKIP("this machine has no IPv6");
    meeting.ipv6 = 1;
    run(p, 3, 0, talk_to_all);
    meeting.ipv6 = 0;
    for (int i = 0; i < 3; i++)
        assert_int_equal(p[i].ret, 0);
}

/* ---- a comm over three processes: rank i lives in process i, the host's end in process 0 -------------------------------------- */

#define LETTERS 200
#define LARGEST 3000

static const char *const device[4] = { "cpu", "cpu", "cpu", NULL };
static const int home[4] = { 0, 1, 2, 0 };
static const CommRoute routes[] = {
    { 3, 1, TAG_COMMAND, 3, LARGEST }, { 1, 2, TAG_TOKENS, 1, LARGEST }, { 2, 0, TAG_TOKENS, 2, LARGEST }, { 0, 3, TAG_FRAMES, 2, LARGEST },
};

static int open_comm(Comm *comm[4], Process *p)
{
    const CommOptions opt = { .nb = 4, .device = device, .route = routes, .nb_routes = 4, .log = &p->log, .world = p->w, .process = home, .own = avt_world_own(p->w), .id = 7 };

    return avt_comm_open(comm, &opt);
}

static size_t size_of(int k)
{
    return (size_t)(k * 37 % LARGEST + 1);
}

/* Round and round: host -> 1 -> 2 -> 0 -> host, each adds one. */
static int pass_on(Comm *comm[4], int own, int from, CommTag in, int to, CommTag out)
{
    uint8_t b[LARGEST];
    int ret = 0;

    for (int k = 0; k < LETTERS && ret >= 0; k++) {
        ret = avt_comm_recv_bytes(comm[own], from, in, b, size_of(k));
        for (size_t i = 0; i < size_of(k); i++)
            b[i]++;
        if (ret >= 0)
            ret = avt_comm_send_bytes(comm[own], to, out, b, size_of(k));
    }
    return ret;
}

typedef struct Pass {
    Comm **comm;
    int ret;
} Pass;

static void *rank_0(void *arg)
{
    Pass *p = arg;

    p->ret = pass_on(p->comm, 0, 2, TAG_TOKENS, 3, TAG_FRAMES);
    return NULL;
}

static void *host_sends(void *arg)
{
    Pass *p = arg;
    uint8_t b[LARGEST];

    for (int k = 0; k < LETTERS && p->ret >= 0; k++) {
        memset(b, k, sizeof(b));
        p->ret = avt_comm_send_bytes(p->comm[3], 1, TAG_COMMAND, b, size_of(k));
    }
    return NULL;
}

static int host_receives(Comm *comm[4])
{
    uint8_t b[LARGEST];
    int ret = 0;

    for (int k = 0; k < LETTERS && ret >= 0; k++) {
        ret = avt_comm_recv_bytes(comm[3], 0, TAG_FRAMES, b, size_of(k));
        for (size_t i = 0; i < size_of(k) && ret >= 0; i++)
            if (b[i] != (uint8_t)(k + 3))
                ret = AVT_ERR(EINVAL);
    }
    return ret;
}

static void go_round(Process *p)
{
    Comm *comm[4];
    const int own = avt_world_own(p->w);

    p->ret = open_comm(comm, p);
    wait_for_all();
    if (own) {
        p->ret |= pass_on(comm, own, own == 1 ? 3 : 1, own == 1 ? TAG_COMMAND : TAG_TOKENS, own == 1 ? 2 : 0, TAG_TOKENS);
    } else {
        Pass a = { comm, 0 }, b = { comm, 0 };
        pthread_t t[2];

        pthread_create(&t[0], NULL, rank_0, &a);
        pthread_create(&t[1], NULL, host_sends, &b);
        p->ret |= host_receives(comm);
        pthread_join(t[0], NULL);
        pthread_join(t[1], NULL);
        p->ret |= a.ret | b.ret;
    }
    p->ret |= comm[own == 1 ? 0 : 1] != NULL;
    wait_for_all();
    avt_comm_close(comm, 4);
}

static void letters_go_between_processes(void **state)
{
    Process p[MOST];

    (void)state;
    run(p, 3, 0, go_round);
    for (int i = 0; i < 3; i++)
        assert_int_equal(p[i].ret, 0);
}

/* Nobody receives before everybody has passed the middle: a sender that waited for its receiver would not come there. */
static void send_first(Process *p)
{
    const int own = avt_world_own(p->w);
    uint8_t b[LARGEST] = { 42 };
    Comm *comm[4];

    p->ret = open_comm(comm, p);
    wait_for_all();
    if (own == 1)
        p->ret |= avt_comm_send_bytes(comm[1], 2, TAG_TOKENS, b, sizeof(b));
    wait_for_all();
    b[0] = 0;
    if (own == 2)
        p->ret |= avt_comm_recv_bytes(comm[2], 1, TAG_TOKENS, b, sizeof(b)) < 0 || b[0] != 42;
    wait_for_all();
    avt_comm_close(comm, 4);
}

static void a_hop_does_not_stop_the_sender(void **state)
{
    Process p[MOST];

    (void)state;
    run(p, 3, 0, send_first);
    for (int i = 0; i < 3; i++)
        assert_int_equal(p[i].ret, 0);
}

/* ---- failures ------------------------------------------------------------------------------------------------------------------ */

/* Process 1 sends to 2, then aborts: 2 still gets what was sent, then the code, as does everyone. */
static void one_aborts(Process *p)
{
    const int own = avt_world_own(p->w);
    Comm *comm[4];
    uint8_t b[8] = { 42 };

    p->ret = open_comm(comm, p);
    wait_for_all();
    if (own == 1) {
        p->ret |= avt_comm_send_bytes(comm[1], 2, TAG_TOKENS, b, sizeof(b));
        avt_comm_abort(comm[1], AVT_ERR(ENOSPC));
    } else if (own == 2) {
        b[0] = 0;
        p->ret |= avt_comm_recv_bytes(comm[2], 1, TAG_TOKENS, b, sizeof(b)) < 0 || b[0] != 42;
        p->ret |= avt_comm_recv_bytes(comm[2], 1, TAG_TOKENS, b, sizeof(b)) != AVT_ERR(ENOSPC);
    } else {
        p->ret |= avt_comm_recv_bytes(comm[0], 2, TAG_TOKENS, b, sizeof(b)) != AVT_ERR(ENOSPC);
    }
    wait_for_all();
    avt_comm_close(comm, 4);
}

static void abort_reaches_all(void **state)
{
    Process p[MOST];

    (void)state;
    run(p, 3, 0, one_aborts);
    for (int i = 0; i < 3; i++)
        assert_int_equal(p[i].ret, 0);
}

/* Another process may have told of the failure before its reason is seen here. */
static int loss_is_seen(Process *p, int of)
{
    char who[64];
    int seen = 0;

    snprintf(who, sizeof(who), "process %d on ", of);
    for (int ms = 0; !seen && ms < 10000; ms += 10) {
        usleep(ms ? 10000 : 0);
        seen = strstr(p->said, who) && strstr(p->said, "(cpu) is lost") && avt_world_say(p->w, of, who, 1) < 0;
    }
    return seen;
}

/* Process 2's sockets end in the middle, as when it is killed. */
static void one_is_killed(Process *p)
{
    const int own = avt_world_own(p->w);
    Comm *comm[4];
    uint8_t b[8];

    p->ret = open_comm(comm, p);
    wait_for_all();
    if (own == 2)
        for (int i = 0; i < 2; i++)
            shutdown(p->w->peer[i].fd, SHUT_RDWR);
    else if (own == 1)
        p->ret |= avt_comm_recv_bytes(comm[1], 3, TAG_COMMAND, b, sizeof(b)) != AVT_ERR(ETIMEDOUT);
    else
        p->ret |= avt_comm_recv_bytes(comm[0], 2, TAG_TOKENS, b, sizeof(b)) != AVT_ERR(ETIMEDOUT);
    if (own != 2)
        p->ret |= !loss_is_seen(p, 2);
    wait_for_all();
    avt_comm_close(comm, 4);
    if (own == 2)
        return;
    p->ret |= open_comm(comm, p) < 0 || avt_comm_status(comm[own]) != AVT_ERR(ETIMEDOUT);           // a comm of later does not wait for it
    avt_comm_close(comm, 4);
}

static void a_loss_is_told(void **state)
{
    Process p[MOST];

    (void)state;
    run(p, 3, 0, one_is_killed);
    for (int i = 0; i < 2; i++)
        assert_int_equal(p[i].ret, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes_meet), cmocka_unit_test(processes_meet_over_ipv6), cmocka_unit_test(the_film_comes_first), cmocka_unit_test(good_bye_is_no_loss),
        cmocka_unit_test(letters_go_between_processes), cmocka_unit_test(a_hop_does_not_stop_the_sender), cmocka_unit_test(abort_reaches_all), cmocka_unit_test(a_loss_is_told),
    };

    return test_main("unit/world", tests);
}
