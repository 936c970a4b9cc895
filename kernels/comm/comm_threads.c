/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comm over threads of one process, the reference: a mailbox for each route.
 *
 *   queue -> queue   copy into a place of device memory, mark        | wait, copy out, mark
 *                    its own of two: the sender's queue never works  | the copy between two devices is the
 *                    at the speed of a link                          | receiver's
 *   the same, where the devices do not reach each other: by way of pinned host memory, and each pays for its copy
 *   queue -> host    download straight into a place of host memory   | copied out
 *   host  -> queue   copied in                                       | upload straight out of it
 *
 * A message is handed over under the lock as the number of its place. Between queues neither thread
 * waits for a copy: the receiver's queue waits for the sender's mark, and the next copy into the
 * place waits for the receiver's.
 */
#include <string.h>

#include "base/thread.h"
#include "comm/comm_nccl.h"
#include "comm/link.h"

/* ---- opening --------------------------------------------------------------------------------- */

static int box_open(Box *b, const CommOptions *opt, const CommRoute *r)
{
    const size_t room = (size_t)r->room;

    pthread_cond_init(&b->change, NULL);
    b->route = *r;
    b->way = avt_comm_box_way(opt, r);
    b->place = avt_comm_box_place(opt, r);
    b->owner = b->place == BOX_DEVICE ? avt_comm_box_owner(opt, r) : r->dst;
    if (b->way != WAY_HERE)
        b->peer = opt->process[b->way == WAY_OUT ? r->dst : r->src];
    if (b->way == WAY_ELSEWHERE)
        return 0;
    b->stride = avt_comm_box_stride(r);
    b->letter = avt_calloc(MEM_COMM, room, sizeof(*b->letter));
    if (b->place == BOX_HOST)
        b->bytes = avt_malloc(MEM_COMM, room * b->stride);
    return b->letter && (b->place != BOX_HOST || b->bytes) ? 0 : AVT_ERR(ENOMEM);
}

/* Devices that do not reach each other are named once a pair. */
static void say_pinned(const Group *g, const CommOptions *opt, int at)
{
    const CommRoute *r = &g->box[at].route;
    const char *a = opt->device[r->src], *b = avt_comm_box_end(opt, r);
    size_t size = r->size;

    for (int i = 0; i < g->nb_boxes; i++) {
        const CommRoute *o = &g->box[i].route;
        const char *from = opt->device[o->src], *to = avt_comm_box_end(opt, o);
        const int same = g->box[i].place == BOX_PINNED && ((!strcmp(from, a) && !strcmp(to, b)) || (!strcmp(from, b) && !strcmp(to, a)));

        if (same && i < at)
            return;
        if (same && o->size > size)
            size = o->size;
    }
    avt_log(g->log, LOG_INFO, "%s and %s do not reach each other's memory (nvidia-smi topo -p2p r): messages between them, up to %.1f MB each, go through "
            "host memory, which takes each of the two %.1f ms a message at the 25 GB/s of PCIe 4", a, b, (double)size / 1e6, (double)size / 25e6);
}

static void group_free(Group *g)
{
    if (g->link)
        avt_link_close(g);
    avt_carriers_close(g);
    for (int i = 0; i < g->nb_boxes; i++) {
        pthread_cond_destroy(&g->box[i].change);
        avt_free(g->box[i].letter);
        if (g->box[i].place == BOX_HOST)
            avt_free(g->box[i].bytes);
    }
    avt_free(g->box);
    avt_free(g->strict);
    pthread_cond_destroy(&g->change);
    pthread_mutex_destroy(&g->lock);
    avt_free(g);
}

static Group *group_new(const CommOptions *opt)
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
    g->log = opt->log;
    g->box = avt_calloc(MEM_COMM, (size_t)opt->nb_routes + 1, sizeof(*g->box));
    for (int i = 0; g->box && i < opt->nb_routes; i++) {
        g->nb_boxes++;
        if (box_open(&g->box[i], opt, &opt->route[i]) < 0) {
            group_free(g);
            return NULL;
        }
    }
    if (!g->box) {
        group_free(g);
        return NULL;
    }
    for (int i = 0; i < g->nb_boxes; i++)
        if (g->box[i].place == BOX_PINNED)
            say_pinned(g, opt, i);
    return g;
}

static GroupEnd *end_new(Group *g, const CommClass *cls, int rank, int nb)
{
    GroupEnd *e = avt_calloc(MEM_COMM, 1, sizeof(*e) + sizeof(int64_t) * (size_t)nb);

    if (e) {
        e->comm = (Comm){ .cls = cls, .rank = rank, .nb = nb, .log = g->log,
                          .bytes_to = (int64_t *)(e + 1) };
        e->group = g;
        g->users++;
    }
    return e;
}

int avt_threads_open(Comm **comm, const CommClass *cls, const CommOptions *opt)
{
    Group *g = group_new(opt);

    int ret = g ? 0 : AVT_ERR(ENOMEM);

    if (g && opt->world)
        ret = avt_carriers_open(g, opt);
    if (ret >= 0 && g && opt->world)
        ret = avt_link_open(g, opt);
    for (int i = 0; ret >= 0 && i < opt->nb; i++) {
        if (opt->process && opt->process[i] != opt->own)
            continue;
        comm[i] = (Comm *)end_new(g, cls, i, opt->nb);
        ret = comm[i] ? 0 : AVT_ERR(ENOMEM);
    }
    if (ret < 0 && g && !g->users)
        group_free(g);
    if (ret < 0)
        avt_comm_close(comm, opt->nb);
    return ret >= 0 ? 0 : avt_fail(opt->log, AVT_ERR(ENOMEM), "no memory for %.1f MB of messages",
                            (double)avt_comm_host_bytes(opt) / 1e6);
}

void avt_threads_close(Comm *c)
{
    Group *g = avt_threads_group(c);

    avt_free(c);
    if (!--g->users)
        group_free(g);
}

int avt_threads_attach(Comm *c, Arena *mailboxes)
{
    Group *g = avt_threads_group(c);
    Backend *be = avt_arena_backend(mailboxes);

    for (int i = 0; i < g->nb_boxes && be->status >= 0; i++) {
        Box *b = &g->box[i];
        const size_t size = (size_t)b->route.room * b->stride;

        if (b->owner != c->rank)
            continue;
        if (b->place == BOX_DEVICE)
            b->tensor = avt_new(mailboxes, DT_U8, b->route.room, (int64_t)b->stride);
        else if (b->place == BOX_PINNED) {
            b->bytes = avt_host_alloc(be, size);
            b->pinned = be;
            if (!b->bytes)
                return avt_fail(c->log, AVT_ERR(ENOMEM), "no memory for %.1f MB of messages to %s", (double)size / 1e6, be->device);
        }
    }
    return be->status < 0 ? be->status : avt_carriers_attach(g, c->rank, be);
}

int avt_threads_connect(Comm *c)
{
    return avt_carriers_connect(avt_threads_group(c));
}

void avt_threads_detach(Comm *c)
{
    Group *g = avt_threads_group(c);

    avt_carriers_detach(g, c->rank);
    for (int i = 0; i < g->nb_boxes; i++) {
        Box *b = &g->box[i];

        if (b->owner != c->rank || b->place != BOX_PINNED)
            continue;
        if (b->bytes)
            avt_host_free(b->pinned, b->bytes, (size_t)b->route.room * b->stride);
        b->bytes = NULL;
    }
}

/* ---- failure --------------------------------------------------------------------------------- */

void avt_group_wake(Group *g)
{
    pthread_cond_broadcast(&g->change);
    for (int i = 0; i < g->nb_boxes; i++)
        pthread_cond_broadcast(&g->box[i].change);
}

int avt_group_fail(Group *g, int code)
{
    int first;

    pthread_mutex_lock(&g->lock);
    first = g->status >= 0;
    if (first)
        g->status = code;
    avt_group_wake(g);
    pthread_mutex_unlock(&g->lock);
    return first;
}

void avt_threads_abort(Comm *c, int code)
{
    Group *g = avt_threads_group(c);

    if (avt_group_fail(g, code) && g->link)
        avt_link_abort(g);
}

int avt_threads_status(Comm *c)
{
    Group *g = avt_threads_group(c);
    int status;

    pthread_mutex_lock(&g->lock);
    status = g->status;
    pthread_mutex_unlock(&g->lock);
    return status;
}

/* ---- messages -------------------------------------------------------------------------------- */

int avt_threads_wait(Comm *c, pthread_cond_t *change, const struct timespec *end)
{
    Group *g = avt_threads_group(c);
    const int64_t start = c->timed ? avt_thread_cpu_ns() : 0;
    const int ret = end ? pthread_cond_timedwait(change, &g->lock, end) : pthread_cond_wait(change, &g->lock);

    c->idle += c->timed ? avt_thread_cpu_ns() - start : 0;
    return ret;
}

Box *avt_threads_box(Comm *c, int src, int dst, CommTag tag)
{
    Group *g = avt_threads_group(c);

    for (int i = 0; i < g->nb_boxes; i++)
        if (g->box[i].route.src == src && g->box[i].route.dst == dst && g->box[i].route.tag == tag)
            return &g->box[i];
    return NULL;
}

static uint8_t *place_bytes(const Box *b, int k)
{
    return b->bytes ? b->bytes + (size_t)k * b->stride : NULL;
}

/* What lies `at` bytes behind the beginning of the k-th place, as a tensor like `t`. */
static Tensor place_like(const Box *b, int k, size_t at, Tensor t)
{
    t.be = b->tensor.be;
    t.data = (char *)b->tensor.data + (size_t)k * b->stride + at;
    return t;
}

/* Of each tensor of a message between two queues: none of the host's threads waits. */
static void copy_in(Box *b, int k, const CommData *d)
{
    size_t at = 0;

    for (int i = 0; i < d->nb; at += avt_nbytes(d->t[i++]))
        if (b->place == BOX_PINNED)
            avt_store(d->be, place_bytes(b, k) + at, d->t[i]);
        else
            avt_copy(d->be, place_like(b, k, at, d->t[i]), d->t[i]);
}

static void copy_out(Box *b, int k, const CommData *d)
{
    size_t at = 0;

    for (int i = 0; i < d->nb; at += avt_nbytes(d->t[i++]))
        if (b->place == BOX_PINNED)
            avt_fetch(d->be, d->t[i], place_bytes(b, k) + at);
        else
            avt_copy(d->be, d->t[i], place_like(b, k, at, d->t[i]));
}

static int download(const CommData *d, uint8_t *bytes)
{
    int ret = 0;

    for (int i = 0; i < d->nb && ret >= 0; bytes += avt_nbytes(d->t[i++]))
        ret = avt_download(d->be, bytes, d->t[i]);
    return ret;
}

static int upload(const CommData *d, const uint8_t *bytes)
{
    for (int i = 0; i < d->nb; bytes += avt_nbytes(d->t[i++]))
        avt_upload(d->be, d->t[i], bytes);
    return d->be->status;
}

static int move_in(Box *b, int k, const CommData *d)
{
    Letter *l = &b->letter[k];

    if (!d->be) {
        memcpy(place_bytes(b, k), d->bytes, d->size);
        return 0;
    }
    if (b->place == BOX_HOST)
        return download(d, place_bytes(b, k));
    avt_wait(d->be, l->taken);
    copy_in(b, k, d);
    l->sent = avt_mark(d->be);
    return d->be->status;
}

static int move_out(Box *b, int k, const CommData *d)
{
    Letter *l = &b->letter[k];

    if (!d->be) {
        memcpy(d->bytes, place_bytes(b, k), d->size);
        return 0;
    }
    if (b->place == BOX_HOST)
        return upload(d, place_bytes(b, k));
    avt_wait(d->be, l->sent);
    copy_out(b, k, d);
    l->taken = avt_mark(d->be);
    return d->be->status;
}

static int is_attached(const Box *b)
{
    return b->place == BOX_HOST || (b->place == BOX_PINNED ? b->bytes != NULL : b->tensor.be != NULL);
}

/* Is there a route for this message, of this kind and size? */
static int check(Comm *c, const Box *b, int src, int dst, CommTag tag, const CommData *d)
{
    if (!b || !is_attached(b) || (b->place != BOX_HOST && !d->be))
        return avt_fail(c->log, AVT_ERR(EINVAL), "comm: no route for %s of %s from rank %d to rank %d",
                        avt_comm_tag_name(tag), d->be ? "a tensor" : "bytes", src, dst);
    if (d->size > b->route.size)
        return avt_fail(c->log, AVT_ERR(EINVAL), "comm: %s from rank %d to rank %d has %zu bytes, "
                        "planned were at most %zu", avt_comm_tag_name(tag), src, dst, d->size,
                        b->route.size);
    return 0;
}

static int has_room(const Box *b)
{
    return b->nb < b->route.room && !b->letter[(b->first + b->nb) % b->route.room].busy;
}

int avt_threads_send(Comm *c, int dst, CommTag tag, const CommData *d)
{
    Group *g = avt_threads_group(c);
    Box *b = avt_threads_box(c, c->rank, dst, tag);
    int ret = check(c, b, c->rank, dst, tag, d), k;

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&g->lock);
    while (!has_room(b) && g->status >= 0)
        avt_threads_wait(c, &b->change, NULL);
    ret = has_room(b) ? 0 : g->status;
    k = (b->first + b->nb) % b->route.room;         // ours until counted: a route has one sender
    pthread_mutex_unlock(&g->lock);
    if (ret >= 0)
        ret = move_in(b, k, d);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&g->lock);
    ret = g->carriers ? g->status : 0;              // what a way that was torn off has left is no number
    if (ret >= 0) {
        b->letter[k].size = d->size;
        b->letter[k].busy = b->way == WAY_OUT && b->place == BOX_DEVICE;
        b->nb++;
    }
    pthread_cond_broadcast(&b->change);
    pthread_mutex_unlock(&g->lock);
    if (ret < 0)
        return ret;
    if (b->way == WAY_OUT)
        avt_link_tell(g, (int)(b - g->box));
    return 0;
}

int avt_threads_recv(Comm *c, int src, CommTag tag, const CommData *d)
{
    Group *g = avt_threads_group(c);
    Box *b = avt_threads_box(c, src, c->rank, tag);
    int ret = check(c, b, src, c->rank, tag, d), k;

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&g->lock);
    while (!b->nb && g->status >= 0)
        avt_threads_wait(c, &b->change, NULL);
    ret = b->nb ? 0 : g->status;
    k = b->first;
    pthread_mutex_unlock(&g->lock);
    if (ret >= 0 && b->letter[k].size != d->size)
        ret = avt_fail(c->log, AVT_ERR(EINVAL), "comm: rank %d wants %zu bytes of %s from rank %d, "
                       "which sent %zu", c->rank, d->size, avt_comm_tag_name(tag), src,
                       b->letter[k].size);
    if (ret >= 0)
        ret = move_out(b, k, d);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&g->lock);
    b->first = (k + 1) % b->route.room;
    b->nb--;
    b->taken += b->way == WAY_IN;
    pthread_cond_broadcast(&b->change);
    pthread_mutex_unlock(&g->lock);
    if (b->way == WAY_IN)
        avt_link_tell(g, (int)(b - g->box));
    return 0;
}

int avt_comm_threads_open(Comm **comm, const CommOptions *opt)
{
    static const CommClass cls = {
        .name = "threads",
        .attach = avt_threads_attach,
        .connect = avt_threads_connect,
        .detach = avt_threads_detach,
        .send = avt_threads_send,
        .recv = avt_threads_recv,
        .abort = avt_threads_abort,
        .status = avt_threads_status,
        .close = avt_threads_close,
    };

    return avt_threads_open(comm, &cls, opt);
}
