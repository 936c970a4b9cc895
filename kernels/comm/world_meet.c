/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes find each other: a port of our own, its addresses on the card, the exchange of cards, and a socket between each two.
 *
 *   process i connects to all before it and is connected to by all behind it; each tries the other's addresses in turn
 *   i -> j   Hello { the key of process 0's card, i }
 *   j -> i   Hello { the same key, j }                 who answers otherwise is somebody else, with the same address elsewhere
 */
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/thread.h"
#include "comm/link.h"
#include "comm/world_meet.h"

#define CONNECT_MS 20000                // for all sockets, once the cards are there
#define TRY_MS 3000                     // for one address

typedef struct Hello {
    uint64_t key;
    int64_t process;
} Hello;

static int64_t in_ms(int ms)
{
    return avt_now_ns() + ms * INT64_C(1000000);
}

static int left_ms(int64_t end)
{
    const int64_t ms = (end - avt_now_ns()) / 1000000;

    return ms > 0 ? (int)ms : 0;
}

/* ---- the card -------------------------------------------------------------------------------- */

/* The addresses of this host, that of itself last: for processes that have no other in common. */
static void list_addresses(uint32_t address[WORLD_ADDRESSES])
{
    struct ifaddrs *all = NULL;
    int nb = 0;

    if (getifaddrs(&all))
        all = NULL;
    for (const struct ifaddrs *a = all; a && nb < WORLD_ADDRESSES - 1; a = a->ifa_next)
        if (a->ifa_addr && a->ifa_addr->sa_family == AF_INET && (a->ifa_flags & IFF_UP) && !(a->ifa_flags & IFF_LOOPBACK))
            address[nb++] = ((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr.s_addr;
    if (all)
        freeifaddrs(all);
    address[nb] = htonl(INADDR_LOOPBACK);
}

int avt_world_listen(WorldCard *card)
{
    struct sockaddr_in at = { .sin_family = AF_INET };
    socklen_t size = sizeof(at);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) || listen(fd, WORLD_MAX) ||
        getsockname(fd, (struct sockaddr *)&at, &size) || getrandom(&card->key, sizeof(card->key), 0) != sizeof(card->key)) {
        const int e = errno;

        if (fd >= 0)
            close(fd);
        return AVT_ERR(e);
    }
    card->port = at.sin_port;
    list_addresses(card->address);
    gethostname(card->host, sizeof(card->host) - 1);
    return fd;
}

/* ---- sockets --------------------------------------------------------------------------------- */

/* Small pieces in time: 0, or an error. */
static int exchange(int fd, const Hello *out, Hello *in, int64_t end)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    size_t got = 0;

    if (out && send(fd, out, sizeof(*out), MSG_NOSIGNAL) != sizeof(*out))
        return AVT_ERR(EPIPE);
    while (got < sizeof(*in)) {
        ssize_t n;

        if (poll(&p, 1, left_ms(end)) != 1)
            return AVT_ERR(ETIMEDOUT);
        n = recv(fd, (char *)in + got, sizeof(*in) - got, 0);
        if (n <= 0)
            return AVT_ERR(EPIPE);
        got += (size_t)n;
    }
    return 0;
}

/* A connected socket, or -1. */
static int connect_to(uint32_t address, uint16_t port, int64_t end)
{
    const struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = address };
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd p = { .fd = fd, .events = POLLOUT };
    int e = 0, ok;
    socklen_t size = sizeof(e);

    ok = fd >= 0 && (!connect(fd, (const struct sockaddr *)&to, sizeof(to)) ||
                     (errno == EINPROGRESS && poll(&p, 1, left_ms(end)) == 1 && !getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &size) && !e));
    if (ok)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* A socket is blocking from here on, and small pieces go at once. */
static int settle(int fd)
{
    const int one = 1, flags = fcntl(fd, F_GETFL);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? AVT_ERR(errno) : 0;
}

static int reach(int *fd, const WorldCard *card, int own, int process, int64_t end)
{
    const Hello hello = { card[0].key, own };
    Hello answer = { 0 };

    for (int i = 0; i < WORLD_ADDRESSES && card[process].address[i]; i++) {
        const int64_t soon = in_ms(TRY_MS);

        *fd = connect_to(card[process].address[i], card[process].port, soon < end ? soon : end);
        if (*fd < 0)
            continue;
        if (exchange(*fd, &hello, &answer, end) >= 0 && answer.key == hello.key && answer.process == process)
            return settle(*fd);
        close(*fd);
        *fd = -1;
    }
    return AVT_ERR(ECONNREFUSED);
}

/* One who knocks; a stranger is sent away. */
static int answer_one(int fd[], int listener, const WorldCard *card, int nb, int own, int64_t end)
{
    struct pollfd p = { .fd = listener, .events = POLLIN };
    const Hello hello = { card[0].key, own };
    const int64_t soon = in_ms(TRY_MS);
    Hello in;
    int one;

    if (poll(&p, 1, left_ms(end)) != 1)
        return AVT_ERR(ETIMEDOUT);
    one = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (one < 0)
        return 0;
    if (exchange(one, NULL, &in, soon) < 0 || in.key != hello.key || in.process <= own || in.process >= nb || fd[in.process] >= 0 ||
        send(one, &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello)) {
        close(one);
        return 0;
    }
    fd[in.process] = one;
    return settle(one);
}

static int first_missing(const int fd[], int nb, int own)
{
    for (int i = own + 1; i < nb; i++)
        if (fd[i] < 0)
            return i;
    return -1;
}

int avt_world_connect(int fd[], int listener, const WorldCard *card, int nb, int own, const Log *log)
{
    const int64_t end = in_ms(CONNECT_MS);
    int ret = 0, missing;

    for (int i = 0; i < nb; i++)
        fd[i] = -1;
    for (int i = 0; i < own; i++)
        if (reach(&fd[i], card, own, i, end) < 0)
            return avt_fail(log, AVT_ERR(ETIMEDOUT), "process %d on %s cannot be reached from process %d on %s; open the network between "
                            "them for TCP, any port (doc/cluster.md)", i, card[i].host, own, card[own].host);
    while (ret >= 0 && (missing = first_missing(fd, nb, own)) >= 0)
        ret = answer_one(fd, listener, card, nb, own, end);
    if (ret < 0)
        return avt_fail(log, AVT_ERR(ETIMEDOUT), "process %d on %s does not reach process %d on %s; open the network between them for TCP, "
                        "any port (doc/cluster.md)", missing, card[missing].host, own, card[own].host);
    return 0;
}
