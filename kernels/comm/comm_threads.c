/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comm over threads of one process: one mailbox for each pair (src, dst); the first message of a kind is taken.
 *
 * Message buffers are kept and used again, so that a running stream allocates nothing. One lock for the whole group: messages are
 * few (some dozen a block) and large.
 */
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "comm/comm.h"

typedef struct Message {
    struct Message *next;
    size_t size, capacity;
    CommTag tag;
    uint8_t data[];
} Message;

typedef struct Box {
    Message *head, *tail;
    int64_t bytes;                      // ever sent
} Box;

typedef struct Group {
    pthread_mutex_t lock;
    pthread_cond_t change;
    int nb, status;
    Message *spare;
    const Log *log;
    Box *box;                           // [src * nb + dst]
} Group;

struct Comm {
    Group *group;
    int rank;
    CommStat stat;
    uint8_t *host;                      // staging of tensors
    size_t host_size;
};

static void free_list(Message *m)
{
    while (m) {
        Message *next = m->next;

        avt_free(m);
        m = next;
    }
}

static void group_free(Group *g)
{
    if (!g)
        return;
    for (int i = 0; g->box && i < g->nb * g->nb; i++)
        free_list(g->box[i].head);
    free_list(g->spare);
    pthread_cond_destroy(&g->change);
    pthread_mutex_destroy(&g->lock);
    avt_free(g->box);
    avt_free(g);
}

static Group *group_new(int nb, const Log *log)
{
    Group *g = avt_calloc(MEM_COMM, 1, sizeof(*g));
    pthread_condattr_t attr;

    if (!g)
        return NULL;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->change, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&g->lock, NULL);
    g->nb = nb;
    g->log = log;
    g->box = avt_calloc(MEM_COMM, (size_t)nb * (size_t)nb, sizeof(*g->box));
    if (!g->box) {
        group_free(g);
        return NULL;
    }
    return g;
}

int avt_comm_threads_open(Comm **comm, int nb, const Log *log)
{
    Group *g = group_new(nb, log);

    memset(comm, 0, sizeof(*comm) * (size_t)nb);
    for (int i = 0; g && i < nb; i++) {
        comm[i] = avt_calloc(MEM_COMM, 1, sizeof(**comm));
        if (!comm[i]) {
            avt_comm_threads_close(comm, nb);
            if (!i)
                group_free(g);
            return AVT_ERR(ENOMEM);
        }
        comm[i]->group = g;
        comm[i]->rank = i;
    }
    return g ? 0 : AVT_ERR(ENOMEM);
}

void avt_comm_threads_close(Comm **comm, int nb)
{
    Group *g = nb && comm[0] ? comm[0]->group : NULL;

    for (int i = 0; i < nb; i++) {
        if (comm[i])
            avt_free(comm[i]->host);
        avt_freep(&comm[i]);
    }
    group_free(g);
}

int avt_comm_rank(const Comm *c)
{
    return c->rank;
}

int avt_comm_size(const Comm *c)
{
    return c->group->nb;
}

CommStat avt_comm_stat(const Comm *c)
{
    return c->stat;
}

int64_t avt_comm_bytes_to(const Comm *c, int dst)
{
    int64_t bytes;

    pthread_mutex_lock(&c->group->lock);
    bytes = c->group->box[c->rank * c->group->nb + dst].bytes;
    pthread_mutex_unlock(&c->group->lock);
    return bytes;
}

void avt_comm_abort(Comm *c, int code)
{
    pthread_mutex_lock(&c->group->lock);
    if (c->group->status >= 0)
        c->group->status = code;
    pthread_cond_broadcast(&c->group->change);
    pthread_mutex_unlock(&c->group->lock);
}

int avt_comm_status(const Comm *c)
{
    int status;

    pthread_mutex_lock(&c->group->lock);
    status = c->group->status;
    pthread_mutex_unlock(&c->group->lock);
    return status;
}

/* A buffer of at least `size` bytes, a spare one when there is one. Lock held. */
static Message *take_buffer(Group *g, size_t size)
{
    Message *m;

    for (Message **p = &g->spare; *p; p = &(*p)->next)
        if ((*p)->capacity >= size && (*p)->capacity <= 2 * size + 4096) {
            m = *p;
            *p = m->next;
            return m;
        }
    m = avt_malloc(MEM_COMM, sizeof(*m) + size);
    if (m)
        m->capacity = size;
    return m;
}

int avt_comm_send_bytes(Comm *c, int dst, CommTag tag, const void *data, size_t size)
{
    Group *g = c->group;
    Box *box = &g->box[c->rank * g->nb + dst];
    Message *m;

    pthread_mutex_lock(&g->lock);
    m = take_buffer(g, size);
    pthread_mutex_unlock(&g->lock);
    if (!m)
        return avt_fail(g->log, AVT_ERR(ENOMEM), "no memory for a message of %zu bytes between ranks", size);
    m->next = NULL;
    m->size = size;
    m->tag = tag;
    memcpy(m->data, data, size);
    pthread_mutex_lock(&g->lock);
    if (box->head)
        box->tail->next = m;
    else
        box->head = m;
    box->tail = m;
    box->bytes += (int64_t)size;
    c->stat.messages++;
    c->stat.bytes += (int64_t)size;
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
    return 0;
}

static struct timespec deadline_in(int ms)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += ms / 1000;
    t.tv_nsec += ms % 1000 * 1000000L;
    if (t.tv_nsec >= 1000000000L) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000L;
    }
    return t;
}

/* Unlink the first message of a kind; NULL: there is none. Lock held. */
static Message *take_message(Box *box, CommTag tag)
{
    Message *before = NULL;

    for (Message *m = box->head; m; before = m, m = m->next) {
        if (m->tag != tag)
            continue;
        if (before)
            before->next = m->next;
        else
            box->head = m->next;
        if (box->tail == m)
            box->tail = before;
        return m;
    }
    return NULL;
}

int avt_comm_recv_bytes(Comm *c, int src, CommTag tag, void *data, size_t size, int timeout_ms)
{
    Group *g = c->group;
    Box *box = &g->box[src * g->nb + c->rank];
    const struct timespec end = deadline_in(timeout_ms < 0 ? 0 : timeout_ms);
    Message *m;
    int ret = 0;

    pthread_mutex_lock(&g->lock);
    while (!(m = take_message(box, tag)) && g->status >= 0 && !ret)
        ret = timeout_ms < 0 ? pthread_cond_wait(&g->change, &g->lock) : pthread_cond_timedwait(&g->change, &g->lock, &end);
    if (m)
        ret = m->size == size ? 0 : AVT_ERR(EINVAL);
    else
        ret = g->status < 0 ? g->status : AVT_ERR(ETIMEDOUT);
    pthread_mutex_unlock(&g->lock);
    if (!m)
        return ret;
    if (!ret)
        memcpy(data, m->data, size);
    else
        avt_log(g->log, LOG_ERROR, "rank %d wanted %zu bytes from rank %d and got %zu", c->rank, size, src, m->size);
    pthread_mutex_lock(&g->lock);
    m->next = g->spare;
    g->spare = m;
    pthread_mutex_unlock(&g->lock);
    return ret;
}

static int stage(Comm *c, size_t size)
{
    if (c->host_size >= size)
        return 0;
    avt_free(c->host);
    c->host_size = 0;
    c->host = avt_malloc(MEM_COMM, size);
    if (!c->host)
        return AVT_ERR(ENOMEM);
    c->host_size = size;
    return 0;
}

int avt_comm_send(Comm *c, Backend *be, int dst, CommTag tag, Tensor t)
{
    const size_t size = avt_nbytes(t);
    int ret = stage(c, size);

    if (ret >= 0)
        ret = avt_download(be, c->host, t);
    return ret < 0 ? ret : avt_comm_send_bytes(c, dst, tag, c->host, size);
}

int avt_comm_recv(Comm *c, Backend *be, int src, CommTag tag, Tensor t)
{
    const size_t size = avt_nbytes(t);
    int ret = stage(c, size);

    if (ret >= 0)
        ret = avt_comm_recv_bytes(c, src, tag, c->host, size, -1);
    if (ret < 0)
        return ret;
    avt_upload(be, t, c->host);
    return be->status;
}
