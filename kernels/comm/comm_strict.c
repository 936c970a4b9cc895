/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comm for tests: threads of one process under the rules of NCCL. Whoever passes here relies on no
 * buffer and on no tag.
 *
 *   no buffer   a send returns when its receive has been posted (avt_comm_recv, avt_comm_expect) and it
 *               has copied straight into the receiver's tensor
 *   in order    whatever the messages between two ranks are about: a send meets the oldest receive that
 *               is posted and not met, and a tag that differs is an error that names both
 *   no hang     who meets nobody for timeout_ms is an error that says what both sides wait for
 *
 * Messages with the host at one end (commands, inputs, frames) are the control channel, which is
 * MPI's business and not NCCL's: they go through mailboxes as in comm_threads.c, and so do those
 * between devices of different classes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "comm/threads.h"

typedef struct Post {                   // a receive
    CommTag tag;
    CommData into;
    Tensor part[COMM_PARTS];            // of `into`
    Mark free, sent;                    // the receiver's work before it; behind the copy into it
    int met;
} Post;

typedef struct Pair {                   // receives by one rank from another, as they were posted
    Post *post;                         // [room]
    int nb, room;
} Pair;

typedef struct Waiting {                // what a rank waits for
    int peer;                           // -1: it does not
    int sends;
    CommTag tag;
} Waiting;

typedef struct Strict {
    int nb, timeout_ms;
    Waiting *waiting;                   // [nb]
    Pair *pair;                         // [src * nb + dst]
} Strict;

/* ---- waiting --------------------------------------------------------------------------------- */

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

static const char *describe(char *buf, size_t size, int rank, const Waiting *w)
{
    if (w->peer < 0)
        snprintf(buf, size, "rank %d waits for no rank", rank);
    else
        snprintf(buf, size, "rank %d waits to %s rank %d: %s", rank,
                 w->sends ? "send to" : "receive from", w->peer, avt_comm_tag_name(w->tag));
    return buf;
}

/* Nobody came. Lock held. */
static int give_up(Comm *c)
{
    Group *g = avt_threads_group(c);
    const Strict *s = g->strict;
    const Waiting *w = &s->waiting[c->rank];
    char own[80], other[80];

    g->status = AVT_ERR(ETIMEDOUT);
    avt_group_wake(g);
    return avt_fail(c->log, g->status, "comm strict: %s, since %.1f s; %s",
                    describe(own, sizeof(own), c->rank, w), s->timeout_ms / 1e3,
                    describe(other, sizeof(other), w->peer, &s->waiting[w->peer]));
}

/* Wait for a change, until `end`. 0, the group's failure, or ours. Lock held. */
static int wait_change(Comm *c, const struct timespec *end)
{
    Group *g = avt_threads_group(c);

    if (g->status < 0)
        return g->status;
    if (avt_threads_wait(c, &g->change, end) == ETIMEDOUT && g->status >= 0)
        return give_up(c);
    return g->status;
}

/* ---- messages -------------------------------------------------------------------------------- */

static int through_host(const Pair *p)
{
    return !p->room;
}

static Post *oldest_open(const Pair *p)
{
    for (int i = 0; i < p->nb; i++)
        if (!p->post[i].met)
            return &p->post[i];
    return NULL;
}

static int same_parts(const Post *p, const CommData *d)
{
    int same = p->into.nb == d->nb;

    for (int i = 0; same && i < d->nb; i++)
        same = avt_nbytes(p->part[i]) == avt_nbytes(d->t[i]);
    return same;
}

static int meet(Comm *c, int dst, CommTag tag, const CommData *d, Post *p)
{
    Group *g = avt_threads_group(c);

    if (p->tag != tag || !same_parts(p, d)) {
        g->status = AVT_ERR(EINVAL);
        avt_group_wake(g);
        return avt_fail(c->log, g->status, "comm strict: rank %d sends %s, %zu bytes, to rank %d, "
                        "whose next receive from it is %s, %zu bytes", c->rank, avt_comm_tag_name(tag),
                        d->size, dst, avt_comm_tag_name(p->tag), p->into.size);
    }
    avt_wait(d->be, p->free);
    for (int i = 0; i < d->nb; i++)
        avt_copy(d->be, p->part[i], d->t[i]);
    p->sent = avt_mark(d->be);
    p->met = 1;
    pthread_cond_broadcast(&g->change);
    return d->be->status;
}

static int strict_send(Comm *c, int dst, CommTag tag, const CommData *d)
{
    Group *g = avt_threads_group(c);
    Strict *s = g->strict;
    Pair *p = &s->pair[c->rank * s->nb + dst];
    const struct timespec end = deadline_in(s->timeout_ms);
    Post *post;
    int ret = 0;

    if (through_host(p))
        return avt_threads_send(c, dst, tag, d);
    pthread_mutex_lock(&g->lock);
    s->waiting[c->rank] = (Waiting){ .peer = dst, .sends = 1, .tag = tag };
    while (!(post = oldest_open(p)) && ret >= 0)
        ret = wait_change(c, &end);
    s->waiting[c->rank].peer = -1;
    if (post && ret >= 0)
        ret = meet(c, dst, tag, d, post);
    pthread_mutex_unlock(&g->lock);
    return ret;
}

/* The receive that was posted for this tensor, posted now if it was not. Lock held. */
static Post *post_of(Comm *c, int src, CommTag tag, const CommData *d, int fresh)
{
    Group *g = avt_threads_group(c);
    Pair *p = &g->strict->pair[src * g->strict->nb + c->rank];

    for (int i = 0; i < p->nb && !fresh; i++)
        if (p->post[i].tag == tag && p->post[i].part[0].data == d->t[0].data)
            return &p->post[i];
    if (p->nb == p->room) {
        avt_fail(c->log, AVT_ERR(EINVAL), "comm strict: rank %d expects more than the %d messages that "
                 "may be on their way from rank %d", c->rank, p->room, src);
        return NULL;
    }
    p->post[p->nb] = (Post){ .tag = tag, .into = *d, .free = avt_mark(d->be) };
    memcpy(p->post[p->nb].part, d->t, sizeof(*d->t) * (size_t)d->nb);
    pthread_cond_broadcast(&g->change);
    return &p->post[p->nb++];
}

static int strict_expect(Comm *c, int src, CommTag tag, const CommData *d)
{
    Group *g = avt_threads_group(c);
    int ret = 0;

    if (through_host(&g->strict->pair[src * g->strict->nb + c->rank]))
        return 0;
    pthread_mutex_lock(&g->lock);
    if (!post_of(c, src, tag, d, 1))
        ret = AVT_ERR(EINVAL);
    pthread_mutex_unlock(&g->lock);
    return ret;
}

static void drop(Pair *p, const Post *post)
{
    const int i = (int)(post - p->post);

    memmove(p->post + i, p->post + i + 1, sizeof(*p->post) * (size_t)(--p->nb - i));
}

static int strict_recv(Comm *c, int src, CommTag tag, const CommData *d)
{
    Group *g = avt_threads_group(c);
    Strict *s = g->strict;
    Pair *p = &s->pair[src * s->nb + c->rank];
    const struct timespec end = deadline_in(s->timeout_ms);
    Post *post;
    int ret;

    if (through_host(p))
        return avt_threads_recv(c, src, tag, d);
    pthread_mutex_lock(&g->lock);
    post = post_of(c, src, tag, d, 0);
    ret = post ? 0 : AVT_ERR(EINVAL);
    s->waiting[c->rank] = (Waiting){ .peer = src, .tag = tag };
    while (ret >= 0 && !post->met)
        ret = wait_change(c, &end);                 // `post` stays: only this thread moves its posts
    s->waiting[c->rank].peer = -1;
    if (post && post->met) {                        // it came, whatever failed since
        ret = 0;
        avt_wait(d->be, post->sent);
        drop(p, post);
    }
    pthread_mutex_unlock(&g->lock);
    return ret;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Room for as many receives of a pair as its routes may have messages on their way; none for a
 * pair that meets in the host. */
static void count_room(Strict *s, const CommOptions *opt)
{
    for (int i = 0; i < opt->nb_routes; i++)
        if (avt_comm_box_place(opt, &opt->route[i]) == BOX_NONE)
            s->pair[opt->route[i].src * s->nb + opt->route[i].dst].room += opt->route[i].room;
}

/* One block of memory: freed with the group. */
static Strict *strict_new(const CommOptions *opt)
{
    const size_t nb = (size_t)opt->nb;
    size_t posts = 0;
    Strict *s;
    Post *post;

    for (int i = 0; i < opt->nb_routes; i++)
        posts += (size_t)opt->route[i].room;
    s = avt_calloc(MEM_COMM, 1, sizeof(*s) + posts * sizeof(Post) + nb * nb * sizeof(Pair) +
                                nb * sizeof(Waiting));
    if (!s)
        return NULL;
    post = (Post *)(s + 1);
    s->nb = opt->nb;
    s->timeout_ms = opt->timeout_ms > 0 ? opt->timeout_ms : COMM_TIMEOUT_MS;
    s->pair = (Pair *)(post + posts);
    s->waiting = (Waiting *)(s->pair + nb * nb);
    count_room(s, opt);
    for (size_t i = 0; i < nb; i++)
        s->waiting[i].peer = -1;
    for (size_t i = 0; i < nb * nb; post += s->pair[i++].room)
        s->pair[i].post = post;
    return s;
}

int avt_comm_strict_open(Comm **comm, const CommOptions *opt)
{
    static const CommClass cls = {
        .name = "strict",
        .attach = avt_threads_attach,
        .connect = avt_threads_connect,
        .detach = avt_threads_detach,
        .send = strict_send,
        .expect = strict_expect,
        .recv = strict_recv,
        .abort = avt_threads_abort,
        .status = avt_threads_status,
        .close = avt_threads_close,
    };
    const int ret = avt_threads_open(comm, &cls, opt);

    if (ret < 0)
        return ret;
    avt_threads_group(comm[0])->strict = strict_new(opt);
    if (avt_threads_group(comm[0])->strict)
        return 0;
    avt_comm_close(comm, opt->nb);
    return AVT_ERR(ENOMEM);
}
