/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who works at the sockets of a World:
 *
 *   a writer for each process   does its errands, one after the other, as fast as the other side reads
 *   a reader for each process   takes frames as they come; it waits for nobody
 *   one pulse                   sends beats and counts silence
 *
 * Locks: the world's, over peers and queues and the list of groups, may be held when a group's is taken, never the other way round, and
 * never while a line is logged. A peer's `pen` is for writing one frame.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/thread.h"
#include "comm/peers.h"

#define TALK_MAX (64u << 20)            // bytes of one talk

/* ---- somebody goes --------------------------------------------------------------------------- */

/* Lock held. Who waits for it wakes up, its socket's readers and writers end. */
static void let_go(Peer *p)
{
    World *w = p->world;

    if (!p->process)
        __atomic_store_n(&w->over, 1, __ATOMIC_RELAXED);
    shutdown(p->fd, SHUT_RDWR);
    pthread_cond_broadcast(&p->work);
    pthread_cond_broadcast(&w->change);
}

/* A group that a process which is gone leaves in the lurch, to be put back; NULL: none any more. */
static Group *next_hit(World *w, int process)
{
    Group *g;

    pthread_mutex_lock(&w->lock);
    for (g = w->group; g && !avt_link_minds(g, process); g = g->link->next)
        ;
    if (g)
        g->link->busy++;
    pthread_mutex_unlock(&w->lock);
    return g;
}

static void put_back(World *w, Group *g)
{
    pthread_mutex_lock(&w->lock);
    g->link->busy--;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->lock);
}

/* Groups fail, and say why: once each. Locks must not be held: a log's reader may abort his session. @return how many */
static int fail_groups(World *w, int process, int code, const char *why)
{
    int nb = 0;

    for (Group *g; (g = next_hit(w, process)); nb++) {
        avt_link_lost(g, code, why);
        put_back(w, g);
    }
    return nb;
}

static void lose(Peer *p, const char *how)
{
    World *w = p->world;
    const WorldCard *c = &w->card[p->process];
    char why[sizeof(p->why)];
    int news, nb = 0;

    snprintf(why, sizeof(why), "process %d on %s (%.80s) is lost: %s", p->process, c->host, c->devices, how);
    pthread_mutex_lock(&w->lock);
    news = !avt_peer_is_gone(p) && !w->closing && !p->losing;
    p->losing = 1;
    pthread_mutex_unlock(&w->lock);
    if (news)                                                       // before anybody can close his group for it
        nb = fail_groups(w, p->process, AVT_ERR(ETIMEDOUT), why);
    pthread_mutex_lock(&w->lock);
    if (news)
        memcpy(p->why, why, sizeof(why));
    p->left |= w->closing;
    if (avt_peer_is_gone(p))
        let_go(p);
    pthread_mutex_unlock(&w->lock);
    if (news && !(nb + fail_groups(w, p->process, AVT_ERR(ETIMEDOUT), why)))        // one that was opened meanwhile
        avt_log(&w->log, LOG_ERROR, "%s", why);
}

/* It has said good-bye. Process 0 does so at the end of the run, or of a session that was given up. */
static void leave(Peer *p)
{
    World *w = p->world;

    pthread_mutex_lock(&w->lock);
    p->left = 1;
    let_go(p);
    pthread_mutex_unlock(&w->lock);
    fail_groups(w, p->process, AVT_ERR(ECANCELED), "the run has ended before the session did");
}

/* ---- frames ---------------------------------------------------------------------------------- */

int avt_peer_write(int fd, const void *head, size_t head_size, const void *data, size_t size)
{
    struct iovec v[2] = { { (void *)head, head_size }, { (void *)data, size } };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };

    while (v[0].iov_len || v[1].iov_len) {
        ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return AVT_ERR(EPIPE);
        for (int i = 0; i < 2; i++) {
            const size_t part = (size_t)n < v[i].iov_len ? (size_t)n : v[i].iov_len;

            v[i].iov_base = (char *)v[i].iov_base + part;
            v[i].iov_len -= part;
            n -= (ssize_t)part;
        }
    }
    return 0;
}

int avt_world_write(World *w, int process, const Frame *f, const void *data)
{
    Peer *p = &w->peer[process];
    int ret;

    pthread_mutex_lock(&p->pen);
    ret = avt_peer_write(p->fd, f, sizeof(*f), data, f->size);
    pthread_mutex_unlock(&p->pen);
    return ret;
}

int avt_world_read(World *w, int process, void *data, size_t size)
{
    Peer *p = &w->peer[process];

    for (size_t got = 0; got < size; ) {
        const ssize_t n = recv(p->fd, (char *)data + got, size - got, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return AVT_ERR(EPIPE);
        got += (size_t)n;
        __atomic_store_n(&p->heard, avt_now_ns(), __ATOMIC_RELAXED);
    }
    return 0;
}

/* Bytes for a group that is not there any more. */
static int skip(Peer *p, uint64_t size)
{
    char bin[4096];
    int ret = 0;

    for (; size && ret >= 0; size -= size < sizeof(bin) ? size : sizeof(bin))
        ret = avt_world_read(p->world, p->process, bin, size < sizeof(bin) ? size : sizeof(bin));
    return ret;
}

static int take_talk(Peer *p, uint64_t size)
{
    World *w = p->world;
    Talk *t = size <= TALK_MAX ? avt_malloc(MEM_COMM, sizeof(*t) + size) : NULL;
    int ret;

    if (!t)
        return size <= TALK_MAX ? AVT_ERR(ENOMEM) : AVT_ERR(EINVAL);
    *t = (Talk){ .size = size };
    ret = avt_world_read(w, p->process, t->data, size);
    if (ret < 0) {
        avt_free(t);
        return ret;
    }
    pthread_mutex_lock(&w->lock);
    *p->last_talk = t;
    p->last_talk = &t->next;
    pthread_cond_broadcast(&w->change);
    pthread_mutex_unlock(&w->lock);
    return 0;
}

/* A group that is to stay until it is put back; NULL: there is none of this number. */
static Group *hold_group(World *w, uint32_t id)
{
    Group *g;

    pthread_mutex_lock(&w->lock);
    for (g = w->group; g && g->link->id != id; g = g->link->next)
        ;
    if (g)
        g->link->busy++;
    pthread_mutex_unlock(&w->lock);
    return g;
}

static int take_frame(Peer *p, const Frame *f)
{
    Group *g;
    int ret;

    if (f->kind == FRAME_BEAT)
        return 0;
    if (f->kind == FRAME_TALK)
        return take_talk(p, f->size);
    if (f->kind < FRAME_LETTER || f->kind > FRAME_ABORT)
        return AVT_ERR(EINVAL);
    g = hold_group(p->world, f->group);
    if (!g)
        return skip(p, f->size);
    ret = avt_link_take(g, p->process, f);
    put_back(p->world, g);
    return ret;
}

/* ---- threads --------------------------------------------------------------------------------- */

void *avt_peer_reader(void *arg)
{
    Peer *p = arg;
    Frame f = { .kind = FRAME_BEAT };
    int ret = 0;

    while (ret >= 0 && f.kind != FRAME_BYE) {
        ret = avt_world_read(p->world, p->process, &f, sizeof(f));
        if (ret >= 0 && f.kind != FRAME_BYE)
            ret = take_frame(p, &f);
    }
    if (ret >= 0)
        leave(p);
    else
        lose(p, ret == AVT_ERR(EPIPE) ? "its connection has ended, as it was killed or its host is down"
                                      : ret == AVT_ERR(ENOMEM) ? "what it says finds no memory" : "it says what another version of avatar means");
    return NULL;
}

void *avt_peer_writer(void *arg)
{
    Peer *p = arg;
    World *w = p->world;

    pthread_mutex_lock(&w->lock);
    while (!avt_peer_is_gone(p) && !w->closing) {
        Errand *e = p->first;

        if (!e) {
            pthread_cond_wait(&p->work, &w->lock);
            continue;
        }
        p->first = e->next;
        if (!p->first)
            p->last = &p->first;
        e->queued = 0;
        e->group->link->busy++;
        pthread_mutex_unlock(&w->lock);
        avt_link_do(e, p->process);
        put_back(w, e->group);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* A beat, unless a frame is being written or the socket is full: then the other side hears us, or is to blame. */
static void beat(Peer *p)
{
    const Frame f = { .kind = FRAME_BEAT };
    struct pollfd out = { .fd = p->fd, .events = POLLOUT };

    if (pthread_mutex_trylock(&p->pen))
        return;
    if (poll(&out, 1, 0) == 1 && out.revents & POLLOUT)
        avt_peer_write(p->fd, &f, sizeof(f), NULL, 0);
    pthread_mutex_unlock(&p->pen);
}

/* Until the next beat. @return 1: the world closes */
static int rest(World *w)
{
    const int64_t end = avt_now_ns() + WORLD_BEAT_MS * INT64_C(1000000);
    const struct timespec until = { end / 1000000000, end % 1000000000 };
    int closing;

    pthread_mutex_lock(&w->lock);
    while (!w->closing && pthread_cond_timedwait(&w->change, &w->lock, &until) != ETIMEDOUT)
        ;
    closing = w->closing;
    pthread_mutex_unlock(&w->lock);
    return closing;
}

/* Silence counts only while we listen: after a stop of our own everyone has a new chance. */
void *avt_peer_pulse(void *arg)
{
    World *w = arg;
    int64_t last = avt_now_ns();

    while (!rest(w)) {
        for (int i = 0; i < w->nb; i++) {
            Peer *p = &w->peer[i];
            const int64_t now = avt_now_ns();

            if (i == w->own)
                continue;
            if (now - last > 2 * WORLD_BEAT_MS * INT64_C(1000000))
                __atomic_store_n(&p->heard, now, __ATOMIC_RELAXED);
            beat(p);
            if (now - __atomic_load_n(&p->heard, __ATOMIC_RELAXED) > WORLD_PATIENCE_MS * INT64_C(1000000))
                lose(p, "it does not answer, as it hangs or the network is cut");
        }
        last = avt_now_ns();
    }
    return NULL;
}

/* ---- groups ---------------------------------------------------------------------------------- */

void avt_world_queue(World *w, int process, Errand *e)
{
    Peer *p = &w->peer[process];

    pthread_mutex_lock(&w->lock);
    if (!e->queued && !avt_peer_is_gone(p)) {
        e->queued = 1;
        e->next = NULL;
        *p->last = e;
        p->last = &e->next;
        pthread_cond_broadcast(&p->work);
    }
    pthread_mutex_unlock(&w->lock);
}

void avt_world_join(World *w, Group *g)
{
    pthread_mutex_lock(&w->lock);
    g->link->next = w->group;
    w->group = g;
    pthread_mutex_unlock(&w->lock);
    for (int i = 0; i < w->nb; i++) {
        const char *why;

        pthread_mutex_lock(&w->lock);
        why = i == w->own || !avt_peer_is_gone(&w->peer[i]) ? NULL : *w->peer[i].why ? w->peer[i].why : "the run has ended";
        pthread_mutex_unlock(&w->lock);
        if (why && avt_link_minds(g, i))
            avt_link_lost(g, AVT_ERR(ETIMEDOUT), why);
    }
}

static void drop_errands(Peer *p, const Group *g)
{
    for (Errand **e = &p->first; *e; )
        if ((*e)->group == g)
            *e = (*e)->next;
        else
            e = &(*e)->next;
    p->last = &p->first;
    while (*p->last)
        p->last = &(*p->last)->next;
}

void avt_world_part(World *w, Group *g)
{
    Group **at = &w->group;

    pthread_mutex_lock(&w->lock);
    while (*at != g)
        at = &(*at)->link->next;
    *at = g->link->next;
    for (int i = 0; i < w->nb; i++)
        if (i != w->own)
            drop_errands(&w->peer[i], g);
    while (g->link->busy)
        pthread_cond_wait(&w->change, &w->lock);
    pthread_mutex_unlock(&w->lock);
}
