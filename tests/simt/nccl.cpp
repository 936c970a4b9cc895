/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NCCL in place of NVIDIA's: communicators of two ranks, each a thread or a process with an emulated device of its own.
 *
 *   a rank's end is a socket; "I receive so many bytes" goes one way, the bytes, in memory that both can map, the other
 *
 * As with the real one: a send waits on its stream until it is met, without a buffer; calls on a communicator are met in their order; sizes
 * must agree; two ranks on one device are refused; with blocking = 0 a call is done when ncclCommGetAsyncError says so. What is not met in
 * SIMT_PATIENCE seconds is a deadlock (streams.cpp). Not here: groups, collectives, more than two ranks, which nobody uses.
 */
#if __has_include(<nccl.h>)

#include <errno.h>
#include <fcntl.h>
#include <nccl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "calls.h"

using namespace bed;

namespace {

enum { READY = 1, BYTES };

struct Piece {                                  // what goes over a socket
    int kind;
    uint64_t size;
};

struct Hello {
    int pid, device;
};

}   // namespace

struct ncclComm {
    int rank = 0, device = 0, fd = -1;
    int listener = -1;                          // of the end that waits for the other
    bool said_hello = false, met = false, torn = false;
    int after = 0;                              // how often a call is still in progress when it is asked about
    ncclResult_t state = ncclInProgress;
};

static std::map<std::string, int> &listeners = *new std::map<std::string, int>;

/* ---- sockets ------------------------------------------------------------------------------------------------------------------------- */

static sockaddr_un address_of(const char *name, socklen_t *size)
{
    sockaddr_un a = {};

    a.sun_family = AF_UNIX;
    memcpy(a.sun_path + 1, name, strlen(name));                     // of no file
    *size = (socklen_t)(sizeof(a.sun_family) + 1 + strlen(name));
    return a;
}

static bool is_there(int fd)
{
    pollfd p = { fd, POLLIN, 0 };

    return poll(&p, 1, 0) == 1;
}

/* A step towards the other end, without waiting. */
static void connect_more(ncclComm *c)
{
    Hello hello = { getpid(), c->device }, other;

    if (c->fd < 0 && c->listener >= 0 && is_there(c->listener)) {
        c->fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);
        close(c->listener);
        c->listener = -1;
    }
    if (c->fd < 0)
        return;
    if (!c->said_hello) {
        c->said_hello = true;
        if (send(c->fd, &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello))
            c->state = ncclRemoteError;
    }
    if (!is_there(c->fd))
        return;
    if (recv(c->fd, &other, sizeof(other), 0) != sizeof(other)) {
        c->state = ncclRemoteError;
        return;
    }
    c->met = true;
    c->state = other.pid == hello.pid && other.device == hello.device ? ncclInvalidUsage : ncclSuccess;
    if (c->state != ncclSuccess)
        report("nccl-duplicate", "two ranks of a communicator on device %d", c->device);
}

static bool tell(ncclComm *c, const Piece &p, int memory)
{
    char space[CMSG_SPACE(sizeof(int))] = {};
    iovec v = { (void *)&p, sizeof(p) };
    msghdr m = {};

    m.msg_iov = &v;
    m.msg_iovlen = 1;
    if (memory >= 0) {
        m.msg_control = space;
        m.msg_controllen = sizeof(space);
        cmsghdr *h = CMSG_FIRSTHDR(&m);

        h->cmsg_level = SOL_SOCKET;
        h->cmsg_type = SCM_RIGHTS;
        h->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(h), &memory, sizeof(int));
    }
    return sendmsg(c->fd, &m, MSG_NOSIGNAL) == (ssize_t)sizeof(p);
}

static bool hear(ncclComm *c, Piece *p, int *memory)
{
    char space[CMSG_SPACE(sizeof(int))] = {};
    iovec v = { p, sizeof(*p) };
    msghdr m = {};

    m.msg_iov = &v;
    m.msg_iovlen = 1;
    m.msg_control = space;
    m.msg_controllen = sizeof(space);
    *memory = -1;
    if (recvmsg(c->fd, &m, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*p))
        return false;
    if (CMSG_FIRSTHDR(&m))
        memcpy(memory, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
    return true;
}

/* ---- a message: the heads of two streams ------------------------------------------------------------------------------------------------ */

static void tear(ncclComm *c, const char *what)
{
    if (!c->torn)
        fprintf(stderr, "simt: nccl: %s\n", what);
    c->state = ncclRemoteError;
}

static void put(ncclComm *c, const void *p, size_t size)
{
    Piece ready;
    int none, memory;
    void *at;

    if (c->torn || !hear(c, &ready, &none)) {
        tear(c, "who was to receive has gone");
        return;
    }
    if (ready.kind != READY || ready.size != size)
        report("nccl-mismatch", "rank %d sends %zu bytes to one that %s %llu", c->rank, size, ready.kind == READY ? "receives" : "sends",
               (unsigned long long)ready.size);
    if (!shadow_range(p, size, false))
        return;
    memory = memfd_create("nccl", MFD_CLOEXEC);
    if (ftruncate(memory, (off_t)size) || (at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0)) == MAP_FAILED) {
        tear(c, "no memory for a message");
    } else {
        memcpy(at, p, size);
        munmap(at, size);
        if (!tell(c, { BYTES, size }, memory))
            tear(c, "who was to receive has gone");
    }
    close(memory);
}

static void get(ncclComm *c, void *p, size_t size)
{
    Piece bytes;
    int memory;
    void *at;

    if (c->torn || !hear(c, &bytes, &memory)) {
        tear(c, "who was to send has gone");
        if (shadow_range(p, size, true))
            memset(p, 0xff, size);                                  // what is no message is no number
        return;
    }
    if (bytes.kind != BYTES || bytes.size != size) {
        report("nccl-mismatch", "rank %d receives %zu bytes, and gets %llu", c->rank, size, (unsigned long long)bytes.size);
    } else if (shadow_range(p, size, true) && (at = mmap(NULL, size, PROT_READ, MAP_SHARED, memory, 0)) != MAP_FAILED) {
        memcpy(p, at, size);
        munmap(at, size);
    }
    if (memory >= 0)
        close(memory);
}

static ncclResult_t move(ncclComm *c, void *p, size_t size, ncclDataType_t type, cudaStream_t s, bool sends)
{
    Guard guard(lock);
    Stream *stream = usable(s, sends ? "ncclSend" : "ncclRecv");
    auto told = std::make_shared<bool>(sends);
    Operation o;

    if (!stream || type != ncclInt8 || c->state != ncclSuccess)
        return ncclInvalidUsage;
    o.name = sends ? "ncclSend" : "ncclRecv";
    o.ready = [=] {                                                 // who receives says so when its stream has come to it
        if (!*told && !c->torn)
            *told = tell(c, { READY, size }, -1);
        return c->torn || (!(sends && settings.nccl == 2) && is_there(c->fd));
    };
    o.run = [=] { sends ? put(c, p, size) : get(c, p, size); };
    submit(stream, std::move(o));
    c->after = (int)random_below(3);
    return c->after ? ncclInProgress : ncclSuccess;
}

extern "C" {

/* ---- communicators ---------------------------------------------------------------------------------------------------------------------- */

ncclResult_t ncclGetVersion(int *v)
{
    *v = settings.nccl ? NCCL_VERSION_CODE : 0;
    return settings.nccl ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    static int nb;
    Guard guard(lock);
    socklen_t size;
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    memset(id, 0, sizeof(*id));
    snprintf(id->internal, sizeof(id->internal), "simt-nccl-%d-%d", getpid(), ++nb);
    const sockaddr_un at = address_of(id->internal, &size);
    if (fd < 0 || bind(fd, (const sockaddr *)&at, size) || listen(fd, 1))
        return ncclSystemError;
    listeners[id->internal] = fd;
    return ncclSuccess;
}

/* Rank 0 is where the name was made. */
ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int nb, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    Guard guard(lock);
    ncclComm *c = new ncclComm();
    socklen_t size;
    const sockaddr_un at = address_of(id.internal, &size);

    *out = c;
    if (nb != 2 || rank < 0 || rank > 1 || !config || config->blocking)
        return ncclInvalidArgument;
    c->rank = rank;
    c->device = device_now;
    if (!rank) {
        const auto made = listeners.find(id.internal);

        if (made == listeners.end())
            return ncclInvalidUsage;
        c->listener = made->second;
        listeners.erase(made);
        return ncclInProgress;
    }
    c->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    return c->fd >= 0 && !connect(c->fd, (const sockaddr *)&at, size) ? ncclInProgress : ncclSystemError;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state)
{
    Guard guard(lock);

    if (c->state == ncclInProgress)
        connect_more(c);
    *state = c->state == ncclSuccess && c->after-- > 0 ? ncclInProgress : c->state;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    return c->state == ncclInProgress ? ncclInvalidUsage : c->state;
}

static void drop(ncclComm *c)
{
    for (int fd : { c->fd, c->listener })
        if (fd >= 0)
            close(fd);
    c->fd = c->listener = -1;
}

/* Operations that are still in a stream keep what they need of it. */
ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    Guard guard(lock);

    drop(c);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
    Guard guard(lock);

    c->torn = true;
    drop(c);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t r)
{
    static const char *const text[] = { "no error", "unhandled cuda error (run with NCCL_DEBUG=INFO for details)", "unhandled system error",
                                        "internal error", "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                        "NCCL operation in progress" };

    return r < sizeof(text) / sizeof(text[0]) ? text[r] : "unknown result code";
}

ncclResult_t ncclSend(const void *p, size_t nb, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s)
{
    return peer == !c->rank ? move(c, (void *)p, nb, type, s, true) : ncclInvalidArgument;
}

ncclResult_t ncclRecv(void *p, size_t nb, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t s)
{
    return peer == !c->rank ? move(c, p, nb, type, s, false) : ncclInvalidArgument;
}

}

#endif
