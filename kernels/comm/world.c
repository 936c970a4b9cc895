/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* World: meeting, talking, parting. See world.h; what happens at the sockets meanwhile is in peers.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/thread.h"
#include "comm/peers.h"
#include "comm/world_meet.h"

#define BYE_MS 2000                     // for the others to say it, too

#define ABI ((uint64_t)sizeof(Frame) << 32 ^ sizeof(WorldCard) << 16 ^ TAG_NB << 4 ^ 1)

int avt_world_nb(const World *w)
{
    return w->nb;
}

int avt_world_own(const World *w)
{
    return w->own;
}

const WorldCard *avt_world_card(const World *w, int process)
{
    return &w->card[process];
}

const char *avt_world_why(const World *w, int process)
{
    return w->peer[process].why;
}

const int *avt_world_over(const World *w)
{
    return &w->over;
}

/* ---- talk ------------------------------------------------------------------------------------ */

int avt_world_say(World *w, int process, const void *data, size_t size)
{
    Peer *p = &w->peer[process];
    const Frame f = { .kind = FRAME_TALK, .size = size };
    int ret;

    pthread_mutex_lock(&w->lock);
    ret = *p->why ? AVT_ERR(ETIMEDOUT) : p->left ? AVT_ERR(ECANCELED) : 0;
    pthread_mutex_unlock(&w->lock);
    return ret < 0 ? ret : avt_world_write(w, process, &f, data) < 0 ? AVT_ERR(ETIMEDOUT) : 0;
}

int avt_world_hear(World *w, int process, void **data, size_t *size, int timeout_ms)
{
    Peer *p = &w->peer[process];
    const int64_t end = avt_now_ns() + timeout_ms * INT64_C(1000000);
    const struct timespec until = { end / 1000000000, end % 1000000000 };
    int over = !timeout_ms, ret = 0;
    Talk *t;

    pthread_mutex_lock(&w->lock);
    while (!p->talk && !avt_peer_is_gone(p) && !over) {
        if (timeout_ms < 0)
            pthread_cond_wait(&w->change, &w->lock);
        else
            over = pthread_cond_timedwait(&w->change, &w->lock, &until) == ETIMEDOUT;
    }
    t = p->talk;
    if (!t)
        ret = *p->why ? AVT_ERR(ETIMEDOUT) : p->left ? AVT_ERR(ECANCELED) : AVT_ERR(EAGAIN);
    else if (!(p->talk = t->next))
        p->last_talk = &p->talk;
    pthread_mutex_unlock(&w->lock);
    *data = NULL;
    if (!t)
        return ret;
    *size = t->size;
    memmove(t, t->data, t->size);       // what is freed begins with what was said
    *data = t;
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static World *world_new(int nb)
{
    World *w = avt_calloc(MEM_COMM, 1, sizeof(*w) + sizeof(Peer) * (size_t)nb);
    pthread_condattr_t attr;

    if (!w)
        return NULL;
    w->peer = (Peer *)(w + 1);
    w->nb = nb;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->change, &attr);
    for (int i = 0; i < nb; i++) {
        Peer *p = &w->peer[i];

        *p = (Peer){ .world = w, .process = i, .fd = -1, .heard = avt_now_ns() };
        p->last = &p->first;
        p->last_talk = &p->talk;
        pthread_mutex_init(&p->pen, NULL);
        pthread_cond_init(&p->work, &attr);
    }
    pthread_condattr_destroy(&attr);
    return w;
}

/* What another version has sent as its card may be anything. */
static void end_texts(WorldMeeting *m)
{
    for (int i = 0; i < m->nb; i++) {
        m->card[i].host[sizeof(m->card->host) - 1] = 0;
        m->card[i].devices[sizeof(m->card->devices) - 1] = 0;
    }
}

/* The process with the film comes first, the others keep their order. @return the number of such */
static int order(WorldMeeting *m)
{
    int films = 0, first = -1;

    for (int i = 0; i < m->nb; i++)
        if (!m->card[i].worker) {
            first = first < 0 ? i : first;
            films++;
        }
    if (first > 0) {
        const WorldCard card = m->card[first];

        memmove(m->card + 1, m->card, sizeof(card) * (size_t)first);
        m->card[0] = card;
        m->own = m->own == first ? 0 : m->own < first ? m->own + 1 : m->own;
    }
    return films;
}

/* 1: there is somebody to be connected with; 0: there is not; or an error. */
static int check(const WorldMeeting *m, int films, const Log *log)
{
    if (m->nb > WORLD_MAX)
        return avt_fail(log, AVT_ERR(EINVAL), "%d processes: at most %d", m->nb, WORLD_MAX);
    if (!films)
        return avt_fail(log, AVT_ERR(EINVAL), "%d worker%s, and no process with a film: write mpirun -n 1 avatar speak ... : -n %d avatar worker",
                        m->nb, m->nb > 1 ? "s" : "", m->nb);
    if (films == m->nb) {
        if (films > 1 && !m->own)
            avt_log(log, LOG_WARNING, "%d processes with a film and no worker: each makes a film of its own; for one film over all of them, start one with it, "
                    "the others as avatar worker", films);
        return 0;
    }
    if (films > 1)
        return avt_fail(log, AVT_ERR(EINVAL), "%d processes with a film and %d workers: start one with the film, all others as avatar worker",
                        films, m->nb - films);
    for (int i = 0; i < m->nb; i++)
        if (m->card[i].abi != ABI)
            return avt_fail(log, AVT_ERR(EINVAL), "process %d on %s is another version of avatar; install the same one on all hosts", i,
                            m->card[i].host);
    return 1;
}

static int start_threads(World *w, const Log *log)
{
    int failed = 0;

    for (int i = 0; i < w->nb && !failed; i++) {
        Peer *p = &w->peer[i];

        if (i == w->own)
            continue;
        failed = avt_thread_start(&p->reader, avt_peer_reader, p);
        p->nb_threads += !failed;
        if (!failed)
            failed = avt_thread_start(&p->writer, avt_peer_writer, p);
        p->nb_threads += !failed;
    }
    if (!failed)
        failed = avt_thread_start(&w->pulse, avt_peer_pulse, w);
    w->has_pulse = !failed;
    return failed ? avt_fail(log, AVT_ERR(ENOMEM), "the system gives no thread for %d processes; raise its limit (ulimit -u, pids.max)", w->nb) : 0;
}

static int connect_all(World **out, WorldMeeting *m, int listener, const Log *log)
{
    World *w = world_new(m->nb);
    int fd[WORLD_MAX], ret;

    if (!w)
        return AVT_ERR(ENOMEM);
    *out = w;
    w->own = m->own;
    w->card = m->card;
    m->card = NULL;
    w->log = log && w->own ? *log : (Log){ 0 };                    // process 0's may be of an engine that is closed before the world is
    ret = avt_world_connect(fd, listener, w->card, w->nb, w->own, log);
    for (int i = 0; i < w->nb; i++)
        w->peer[i].fd = fd[i];
    return ret < 0 ? ret : start_threads(w, log);
}

int avt_world_open(World **w, const WorldCard *own, WorldMeet *meet, const Log *log)
{
    WorldMeeting m = { 0 };
    WorldCard card = *own;
    int listener, ret;

    *w = NULL;
    card.abi = ABI;
    listener = avt_world_listen(&card);
    if (listener < 0)
        return avt_fail(log, listener, "the system gives no socket for other processes: %s", strerror(-listener));
    ret = meet(&m, &card);
    if (ret >= 0)
        end_texts(&m);
    if (ret < 0)
        avt_fail(log, ret, "%s", m.why);
    else if ((ret = check(&m, order(&m), log)) > 0)
        ret = connect_all(w, &m, listener, log);
    close(listener);
    avt_free(m.card);
    if (ret < 0)
        avt_world_close(w);
    return ret < 0 ? ret : 0;
}

/* ---- closing --------------------------------------------------------------------------------- */

/* Those who listen are told; their own good-bye, or the end of their socket, is waited for, so that ours is not overtaken by it. */
static void say_bye(World *w)
{
    const struct timeval patience = { .tv_sec = 1 };
    const Frame f = { .kind = FRAME_BYE };
    struct timespec soon;
    const int64_t end = avt_now_ns() + BYE_MS * INT64_C(1000000);
    const struct timespec until = { end / 1000000000, end % 1000000000 };

    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_sec++;
    for (int i = 0; i < w->nb; i++) {
        Peer *p = &w->peer[i];

        if (!p->nb_threads)
            continue;
        if (pthread_mutex_timedlock(&p->pen, &soon))               // its writer is stuck: the socket's end will tell
            continue;
        setsockopt(p->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
        if (!avt_peer_write(p->fd, &f, sizeof(f), NULL, 0))
            shutdown(p->fd, SHUT_WR);
        pthread_mutex_unlock(&p->pen);
    }
    pthread_mutex_lock(&w->lock);
    for (int i = 0; i < w->nb; i++)
        while (w->peer[i].nb_threads && !avt_peer_is_gone(&w->peer[i]))
            if (pthread_cond_timedwait(&w->change, &w->lock, &until) == ETIMEDOUT)
                break;
    pthread_mutex_unlock(&w->lock);
}

static void peer_close(Peer *p)
{
    if (p->fd >= 0)
        shutdown(p->fd, SHUT_RDWR);
    if (p->nb_threads > 0)
        pthread_join(p->reader, NULL);
    if (p->nb_threads > 1)
        pthread_join(p->writer, NULL);
    if (p->fd >= 0)
        close(p->fd);
    while (p->talk) {
        Talk *t = p->talk;

        p->talk = t->next;
        avt_free(t);
    }
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->pen);
}

void avt_world_close(World **pw)
{
    World *w = *pw;

    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->closing = 1;
    pthread_cond_broadcast(&w->change);
    for (int i = 0; i < w->nb; i++)
        pthread_cond_broadcast(&w->peer[i].work);
    pthread_mutex_unlock(&w->lock);
    say_bye(w);
    if (w->has_pulse)
        pthread_join(w->pulse, NULL);
    for (int i = 0; i < w->nb; i++)
        peer_close(&w->peer[i]);
    pthread_cond_destroy(&w->change);
    pthread_mutex_destroy(&w->lock);
    avt_free(w->card);
    avt_freep(pw);
}
