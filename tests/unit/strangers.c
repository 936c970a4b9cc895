/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes that meet while strangers knock at their ports, addresses at which somebody else lives, and peers that break the rules. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"
#include "comm/world_meet.h"
#include "worlds.h"

#define SOON 18e9                       // ns: of 20 s; on an idle machine it is milliseconds, of 3 s a stranger nine are more

static struct sockaddr_in at(const char *address, uint16_t port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = port };

    REQUIRE(inet_pton(AF_INET, address, &a.sin_addr) == 1);
    return a;
}

/* ---- who knocks ------------------------------------------------------------------------------------------------------------ */

#define STRANGERS 300                   // more than have a place at the door

static struct {
    const char *say;
    size_t size;
    int leaves, fd[STRANGERS];
} stranger;

static void knock(const WorldCard *card)
{
    const struct sockaddr_in to = at("127.0.0.1", card->port);

    for (int i = 0; i < STRANGERS; i++) {
        stranger.fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(stranger.fd[i], (const struct sockaddr *)(const void *)&to, sizeof(to));
        if (stranger.size)
            (void)!send(stranger.fd[i], stranger.say, stranger.size, MSG_NOSIGNAL);
        if (stranger.leaves)
            close(stranger.fd[i]);
    }
}

static void meet_only(Process *p)
{
    (void)p;
}

/* They come to the film's process before anybody else, and say that; all find each other as if they were not there. */
static void come(const char *say, size_t size, int leaves)
{
    const int64_t start = avt_now_ns();
    Process p[MOST];

    stranger.say = say;
    stranger.size = size;
    stranger.leaves = leaves;
    meeting.before = knock;
    run(p, 3, 1, meet_only);
    meeting.before = NULL;
    for (int i = 0; i < STRANGERS && !leaves; i++)
        close(stranger.fd[i]);
    for (int i = 0; i < 3; i++)
        REQUIRE(!p[i].ret && !*p[i].said);
    REQUIRE((double)(avt_now_ns() - start) < SOON);
}

static void strangers_hold_nobody_up(void **state)
{
    static const char page[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    static char noise[4096];

    (void)state;
    memset(noise, 0xa5, sizeof(noise));
    come(NULL, 0, 0);
    come("a", 1, 0);
    come("a", 1, 1);
    come(page, sizeof(page), 0);
    come(noise, sizeof(noise), 0);
    come(noise, sizeof(noise), 1);
}

/* ---- where somebody else lives ------------------------------------------------------------------------------------------------ */

static int listen_at(const char *address, uint16_t *port)
{
    struct sockaddr_in a = at(address, *port);
    socklen_t size = sizeof(a);
    const int fd = socket(AF_INET, SOCK_STREAM, 0);

    REQUIRE(!bind(fd, (const struct sockaddr *)(const void *)&a, sizeof(a)) && !listen(fd, 16) && !getsockname(fd, (struct sockaddr *)(void *)&a, &size));
    *port = a.sin_port;
    return fd;
}

typedef struct Other {
    WorldCard card[2];
    int listener, ret, fd[2];
} Other;

static void *process_0(void *arg)
{
    Other *o = arg;

    o->ret = avt_world_connect(o->fd, o->listener, o->card, 2, 0, NULL);
    return NULL;
}

/* Of process 0's addresses the first is that of one who listens at the same port and never answers, as where two hosts have the same bridge. */
static void a_strangers_address_holds_nobody_up(void **state)
{
    Other o = { .card = { { .key = 42 }, { .key = 43 } } };
    const int silent = listen_at("127.0.0.7", &o.card[0].port);
    const int64_t start = avt_now_ns();
    int fd[2], ret;
    pthread_t thread;

    (void)state;
    o.listener = listen_at("127.0.0.1", &o.card[0].port);
    memcpy(o.card[0].address[0], (const uint8_t[16]){ [10] = 0xff, 0xff, 127, 0, 0, 7 }, 16);
    memcpy(o.card[0].address[1], (const uint8_t[16]){ [10] = 0xff, 0xff, 127, 0, 0, 1 }, 16);
    pthread_create(&thread, NULL, process_0, &o);
    ret = avt_world_connect(fd, -1, o.card, 2, 1, NULL);
    pthread_join(thread, NULL);
    REQUIRE(!ret && !o.ret && fd[0] >= 0 && o.fd[1] >= 0);
    REQUIRE((double)(avt_now_ns() - start) < SOON);
    for (int i = 0; i < 2; i++)
        close((int[]){ fd[0], o.fd[1] }[i]);
    close(silent);
    close(o.listener);
}

/* ---- who is another version ---------------------------------------------------------------------------------------------------- */

static int meet_another(WorldMeeting *m, const WorldCard *own)
{
    *m = (WorldMeeting){ .nb = 2, .card = avt_malloc(MEM_COMM, 2 * sizeof(*own)) };
    memset(m->card, 'x', 2 * sizeof(*own));
    m->card[0] = *own;
    return 0;
}

/* Its card holds other things in other places, and no text ends. */
static void another_version_is_named(void **state)
{
    const WorldCard own = { .cores = 1 };
    char said[1024], host[65];
    const Log log = { .write = keep, .opaque = said };
    World *w;

    (void)state;
    memset(host, 'x', 63);
    strcpy(host + 63, " ");
    REQUIRE(avt_world_open(&w, &own, meet_another, &log) == AVT_ERR(EINVAL) && !w);
    REQUIRE(!strncmp(said, "process 1 on ", 13) && !strncmp(said + 13, host, 64) && strstr(said, "is another version"));
}

/* ---- who breaks the rules ----------------------------------------------------------------------------------------------------- */

#define ROOM 2
#define LARGEST 100

static const CommRoute routes[] = { { 1, 0, TAG_TOKENS, ROOM, LARGEST }, { 0, 1, TAG_TOKENS, ROOM, LARGEST } };
enum { IN, OUT };                       // boxes, as process 0 has them

static struct {
    const Frame *f;
    int nb, ret;                        // what the receiver of a letter gets
    const char *word;
} rules;

/* Process 1 writes those frames, each with as many bytes as it says, at most a letter's; 0 reads letters while there are any. */
static void hear_of_it(Process *p)
{
    const int own = avt_world_own(p->w), home[2] = { 0, 1 };
    const CommOptions opt = { .nb = 2, .device = (const char *const[]){ "cpu", "cpu" }, .route = routes, .nb_routes = 2, .log = &p->log, .world = p->w,
                              .process = home, .own = own, .id = 7 };
    uint8_t b[LARGEST] = { 0 };
    Comm *comm[2];
    int ret = 0;

    p->ret = avt_comm_open(comm, &opt);
    wait_for_all();
    for (int i = 0; own && i < rules.nb; i++)
        avt_peer_write(p->w->peer[0].fd, &rules.f[i], sizeof(Frame), b, rules.f[i].size < LARGEST ? rules.f[i].size : LARGEST);
    while (!own && ret >= 0)
        ret = avt_comm_recv_bytes(comm[0], 1, TAG_TOKENS, b, sizeof(b));
    p->ret |= !own && ret != rules.ret;
    wait_for_all();
    avt_comm_close(comm, 2);
    wait_for_all();                                                 // who leaves before would be spoken of last
}

static void write_frames(const Frame *f, int nb, int ret, const char *word)
{
    Process p[MOST];

    rules.f = f;
    rules.nb = nb;
    rules.ret = ret;
    run(p, 2, 0, hear_of_it);
    if (p[0].ret || !strstr(p[0].said, word))
        fail_msg("frame %x: %d, %s", f->kind, p[0].ret, p[0].said);
}

static void who_breaks_the_rules_is_lost(void **state)
{
    static const Frame one[] = {
        { 0, 0, 0, 0, 0 }, { 0x474554, 7, 0, 0, 9 }, { FRAME_ABORT + 1, 7, 0, 0, 0 }, { FRAME_TALK, 0, 0, 0, UINT64_MAX }, { FRAME_TALK, 0, 0, 0, (uint64_t)1 << 40 },
        { FRAME_LETTER, 7, -1, 0, 8 }, { FRAME_LETTER, 7, 2, 0, 8 }, { FRAME_LETTER, 7, INT32_MIN, 0, 8 }, { FRAME_LETTER, 7, OUT, 0, 8 },
        { FRAME_LETTER, 7, IN, 0, LARGEST + 1 }, { FRAME_LETTER, 7, IN, 0, UINT64_MAX }, { FRAME_SENT, 7, IN, 0, 8 }, { FRAME_NAME, 7, IN, 0, 8 },
        { FRAME_TAKEN, 7, OUT, -1, 0 }, { FRAME_TAKEN, 7, OUT, 1, 0 }, { FRAME_TAKEN, 7, OUT, INT32_MAX, 0 }, { FRAME_TAKEN, 7, OUT, 0, 8 },
        { FRAME_TAKEN, 7, IN, 1, 0 }, { FRAME_ABORT, 7, -1, 0, 0 }, { FRAME_ABORT, 7, -1, 1, 0 }, { FRAME_ABORT, 7, -1, -5, 8 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(one) / sizeof(one[0]); i++)
        write_frames(&one[i], 1, AVT_ERR(ETIMEDOUT), "process 1 on ");
}

/* A letter for a group that is not here any more is passed over; one of another size than was expected is an error of the receiver's. */
static void odd_letters_are_told(void **state)
{
    static const Frame late[] = { { FRAME_LETTER, 99, 0, 0, 8 }, { FRAME_LETTER, 7, IN, 0, LARGEST }, { FRAME_ABORT, 7, -1, -5, 0 } };
    static const Frame lesser = { FRAME_LETTER, 7, IN, 0, 8 }, least = { FRAME_ABORT, 7, -1, INT32_MIN, 0 };

    (void)state;
    write_frames(late, 3, -5, "");
    write_frames(&least, 1, INT32_MIN, "");
    write_frames(&lesser, 1, AVT_ERR(EINVAL), "8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strangers_hold_nobody_up), cmocka_unit_test(a_strangers_address_holds_nobody_up),
        cmocka_unit_test(another_version_is_named), cmocka_unit_test(who_breaks_the_rules_is_lost), cmocka_unit_test(odd_letters_are_told),
    };

    return test_main("unit/strangers", tests);
}
