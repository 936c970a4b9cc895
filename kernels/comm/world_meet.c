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

static void put_v4(uint8_t to[16], struct in_addr a)
{
    to[10] = to[11] = 0xff;
    memcpy(to + 12, &a, 4);
}

/* One that other hosts can reach: 0 or 1 address. Those of a link alone want the link's number, which is another on each host. */
static int put_address(uint8_t to[16], const struct ifaddrs *a, sa_family_t family)
{
    const struct in6_addr *v6;

    if (!a->ifa_addr || a->ifa_addr->sa_family != family || !(a->ifa_flags & IFF_UP) || a->ifa_flags & IFF_LOOPBACK)
        return 0;
    if (family == AF_INET) {
        put_v4(to, ((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr);
        return 1;
    }
    v6 = &((const struct sockaddr_in6 *)(const void *)a->ifa_addr)->sin6_addr;
    if (IN6_IS_ADDR_LINKLOCAL(v6))
        return 0;
    memcpy(to, v6, 16);
    return 1;
}

/* The addresses of this host, IPv4 first, those of itself last: for processes that have no other in common. */
static void list_addresses(uint8_t address[WORLD_ADDRESSES][16])
{
    static const sa_family_t families[] = { AF_INET, AF_INET6 };
    struct ifaddrs *all = NULL;
    int nb = 0;

    if (getifaddrs(&all))
        all = NULL;
    for (int f = 0; f < 2; f++)
        for (const struct ifaddrs *a = all; a && nb < WORLD_ADDRESSES - 2; a = a->ifa_next)
            nb += put_address(address[nb], a, families[f]);
    if (all)
        freeifaddrs(all);
    put_v4(address[nb++], (struct in_addr){ htonl(INADDR_LOOPBACK) });
    memcpy(address[nb], &in6addr_loopback, 16);
}

/* A socket at a free port of all addresses; where there is no IPv6, of those of IPv4. @return it, or -1 */
static int listen_at(sa_family_t family, uint16_t *port)
{
    union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } at = { .v6.sin6_family = family };
    socklen_t size = family == AF_INET ? sizeof(at.v4) : sizeof(at.v6);
    const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), both = 0;

    if (fd < 0)
        return -1;
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof(both));
    if (!bind(fd, &at.any, size) && !listen(fd, WORLD_MAX) && !getsockname(fd, &at.any, &size)) {
        *port = family == AF_INET ? at.v4.sin_port : at.v6.sin6_port;
        return fd;
    }
    close(fd);
    return -1;
}

int avt_world_listen(WorldCard *card)
{
    int fd = listen_at(AF_INET6, &card->port);

    if (fd < 0)
        fd = listen_at(AF_INET, &card->port);
    if (fd < 0)
        return AVT_ERR(errno);
    if (getrandom(&card->key, sizeof(card->key), 0) != sizeof(card->key)) {
        close(fd);
        return AVT_ERR(EIO);
    }
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
static int connect_to(const uint8_t address[16], uint16_t port, int64_t end)
{
    union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } to = { .v6 = { .sin6_family = AF_INET6, .sin6_port = port } };
    struct pollfd p = { .events = POLLOUT };
    int e = 0, ok, v4;
    socklen_t size = sizeof(e);

    memcpy(&to.v6.sin6_addr, address, 16);
    v4 = IN6_IS_ADDR_V4MAPPED(&to.v6.sin6_addr);
    if (v4) {
        to.v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = port };
        memcpy(&to.v4.sin_addr, address + 12, 4);
    }
    p.fd = socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ok = p.fd >= 0 && (!connect(p.fd, &to.any, v4 ? sizeof(to.v4) : sizeof(to.v6)) ||
                       (errno == EINPROGRESS && poll(&p, 1, left_ms(end)) == 1 && !getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &e, &size) && !e));
    if (ok)
        return p.fd;
    if (p.fd >= 0)
        close(p.fd);
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
    static const uint8_t none[16];
    const Hello hello = { card[0].key, own };
    Hello answer = { 0 };

    for (int i = 0; i < WORLD_ADDRESSES && memcmp(card[process].address[i], none, sizeof(none)); i++) {
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
