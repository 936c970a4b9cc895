/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes find each other: a port of our own, its addresses on the card, the exchange of cards, and a socket between each two.
 *
 *   process i connects to all before it and is connected to by all behind it; each tries the other's addresses in turn, the next one
 *             before the last has failed: one may be dead, or another host's as well (of a bridge for containers)
 *   i -> j   Hello { the key of process 0's card, i }
 *   j -> i   Hello { the same key, j }                 who answers otherwise is somebody else, with the same address elsewhere
 *
 * Nobody is waited for alone, at the door neither: what a stranger does, or does not say, costs the others nothing.
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
#define NEXT_MS 250                     // from one address of a process to its next
#define KNOCKS (2 * WORLD_MAX)          // at the door, of whom nothing is known yet

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
    const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), both = 0;

    if (fd < 0)
        return -1;
    if (family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof(both));
    if (!bind(fd, &at.any, size) && !listen(fd, KNOCKS) && !getsockname(fd, &at.any, &size)) {
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

/* A socket is blocking from here on, and small pieces go at once. */
static int settle(int fd)
{
    const int one = 1, flags = fcntl(fd, F_GETFL);

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    return flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ? AVT_ERR(errno) : 0;
}

typedef struct Knock {                  // a socket, which does not wait, whose other side is not known yet
    int fd;                             // -1: none
    int said;                           // ours has gone out
    size_t got;
    Hello in;
} Knock;

static void hang_up(Knock *k)
{
    if (k->fd >= 0)
        close(k->fd);
    *k = (Knock){ .fd = -1 };
}

static int say(Knock *k, const Hello *hello)
{
    k->said = send(k->fd, hello, sizeof(*hello), MSG_NOSIGNAL) == sizeof(*hello);
    return k->said ? 0 : AVT_ERR(EPIPE);
}

/* What has come of the other's. @return 1: all of it; 0: more is to come; or an error */
static int hear(Knock *k)
{
    const ssize_t n = recv(k->fd, (char *)&k->in + k->got, sizeof(k->in) - k->got, 0);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return AVT_ERR(EPIPE);
    k->got += (size_t)n;
    return k->got == sizeof(k->in);
}

/* What is awaited of each: a connection, or words. */
static void list_waits(struct pollfd p[], const Knock k[], int nb)
{
    for (int i = 0; i < nb; i++)
        p[i] = (struct pollfd){ .fd = k[i].fd, .events = k[i].said ? POLLIN : POLLOUT };
}

/* ---- who knocks elsewhere ---- */

static int connect_to(const uint8_t address[16], uint16_t port)
{
    union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; } to = { .v6 = { .sin6_family = AF_INET6, .sin6_port = port } };
    int fd, v4;

    memcpy(&to.v6.sin6_addr, address, 16);
    v4 = IN6_IS_ADDR_V4MAPPED(&to.v6.sin6_addr);
    if (v4) {
        to.v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = port };
        memcpy(&to.v4.sin_addr, address + 12, 4);
    }
    fd = socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || !connect(fd, &to.any, v4 ? sizeof(to.v4) : sizeof(to.v6)) || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

/* One step of a call: it is connected, or hears something. @return 1: its answer is there */
static int go_on(Knock *k, const Hello *hello)
{
    int e = 0, ret;
    socklen_t size = sizeof(e);

    if (k->said)
        ret = hear(k);
    else
        ret = getsockopt(k->fd, SOL_SOCKET, SO_ERROR, &e, &size) || e ? AVT_ERR(ECONNREFUSED) : say(k, hello);
    if (ret < 0)
        hang_up(k);
    return ret > 0;
}

/* A socket to the one of the calls that was answered rightly; the others are given up. -1: none was so far */
static int answered(Knock k[], const struct pollfd p[], int nb, const Hello *hello, int process)
{
    for (int i = 0; i < nb; i++) {
        const int fd = k[i].fd;

        if (fd < 0 || !p[i].revents || !go_on(&k[i], hello))
            continue;
        if (k[i].in.key == hello->key && k[i].in.process == process) {
            k[i].fd = -1;
            return fd;
        }
        hang_up(&k[i]);
    }
    return -1;
}

static int is_any_open(const Knock k[], int nb)
{
    int any = 0;

    for (int i = 0; i < nb; i++)
        any |= k[i].fd >= 0;
    return any;
}

static int nb_addresses(const WorldCard *card)
{
    static const uint8_t none[16];
    int nb = 0;

    while (nb < WORLD_ADDRESSES && memcmp(card->address[nb], none, sizeof(none)))
        nb++;
    return nb;
}

/* All addresses of a process in turn, the next one soon: one that is dead, or a stranger's who says nothing, holds nobody up. */
static int reach(int *fd, const WorldCard *card, int own, int process, int64_t end)
{
    const Hello hello = { card[0].key, own };
    const int nb = nb_addresses(&card[process]);
    struct pollfd p[WORLD_ADDRESSES];
    Knock k[WORLD_ADDRESSES];
    int64_t next = 0;
    int begun = 0;

    while (*fd < 0 && left_ms(end) && (begun < nb || is_any_open(k, begun))) {
        if (begun < nb && (!left_ms(next) || !is_any_open(k, begun))) {
            k[begun] = (Knock){ .fd = connect_to(card[process].address[begun], card[process].port) };
            begun++;
            next = in_ms(NEXT_MS);
        }
        list_waits(p, k, begun);
        if (is_any_open(k, begun) && poll(p, (nfds_t)begun, left_ms(begun < nb && next < end ? next : end)) > 0)
            *fd = answered(k, p, begun, &hello, process);
    }
    for (int i = 0; i < begun; i++)
        hang_up(&k[i]);
    return *fd < 0 ? AVT_ERR(ECONNREFUSED) : settle(*fd);
}

/* ---- who knocks here ---- */

typedef struct Door {
    Knock k[KNOCKS];                    // in the order of coming
    int nb;
} Door;

static void send_away(Door *d, int i)
{
    hang_up(&d->k[i]);
    memmove(&d->k[i], &d->k[i + 1], sizeof(*d->k) * (size_t)(--d->nb - i));
}

/* Where there is no place or no descriptor for one more, the one goes who has said nothing for longest. */
static void let_in(Door *d, int listener)
{
    int fd;

    if (d->nb == KNOCKS)
        send_away(d, 0);
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        d->k[d->nb++] = (Knock){ .fd = fd, .said = 1 };
    else if (errno != EAGAIN && d->nb)
        send_away(d, 0);
    else
        usleep(10000);
}

/* Is the i-th at the door, who has said all, a process that is awaited? Its socket stays then. */
static int is_awaited(Door *d, int i, int fd[], const Hello *hello, int nb)
{
    const int64_t process = d->k[i].in.process;

    if (d->k[i].in.key != hello->key || process <= hello->process || process >= nb || fd[process] >= 0 || say(&d->k[i], hello) < 0)
        return 0;
    fd[process] = d->k[i].fd;
    d->k[i].fd = -1;
    return 1;
}

/* Who has said something, in the order of coming: of several sockets of a process, the first is its. Strangers are sent away.
 * @return 0 or an error */
static int answer(Door *d, const struct pollfd p[], int fd[], const Hello *hello, int nb)
{
    int ret = 0;

    for (int i = 0; i < d->nb && ret >= 0; i++) {
        const int heard = p[i].revents ? hear(&d->k[i]) : 0;

        if (heard > 0 && is_awaited(d, i, fd, hello, nb))
            ret = settle(fd[d->k[i].in.process]);
        else if (heard)
            hang_up(&d->k[i]);
    }
    for (int i = d->nb - 1; i >= 0; i--)
        if (d->k[i].fd < 0)
            send_away(d, i);
    return ret;
}

static int first_missing(const int fd[], int nb, int own)
{
    for (int i = own + 1; i < nb; i++)
        if (fd[i] < 0)
            return i;
    return -1;
}

/* Until all behind this one have come; strangers wait beside them, whatever they say. */
static int await(int fd[], int listener, const WorldCard *card, int nb, int own, int64_t end)
{
    const Hello hello = { card[0].key, own };
    struct pollfd p[KNOCKS + 1];
    Door d = { .nb = 0 };
    int ret = 0;

    while (ret >= 0 && first_missing(fd, nb, own) >= 0) {
        list_waits(p, d.k, d.nb);
        p[d.nb] = (struct pollfd){ .fd = listener, .events = POLLIN };
        if (!left_ms(end))
            ret = AVT_ERR(ETIMEDOUT);
        else if (poll(p, (nfds_t)d.nb + 1, left_ms(end)) > 0) {
            const int one_more = p[d.nb].revents != 0;

            ret = answer(&d, p, fd, &hello, nb);
            if (one_more)
                let_in(&d, listener);
        }
    }
    while (d.nb)
        send_away(&d, d.nb - 1);
    return ret;
}

int avt_world_connect(int fd[], int listener, const WorldCard *card, int nb, int own, const Log *log)
{
    const int64_t end = in_ms(CONNECT_MS);
    int missing;

    for (int i = 0; i < nb; i++)
        fd[i] = -1;
    for (int i = 0; i < own; i++)
        if (reach(&fd[i], card, own, i, end) < 0)
            return avt_fail(log, AVT_ERR(ETIMEDOUT), "process %d on %s cannot be reached from process %d on %s; open the network between "
                            "them for TCP, any port (doc/cluster.md)", i, card[i].host, own, card[own].host);
    if (await(fd, listener, card, nb, own, end) >= 0)
        return 0;
    missing = first_missing(fd, nb, own);
    missing = missing < 0 ? nb - 1 : missing;
    return avt_fail(log, AVT_ERR(ETIMEDOUT), "process %d on %s does not reach process %d on %s; open the network between them for TCP, "
                    "any port (doc/cluster.md)", missing, card[missing].host, own, card[own].host);
}
