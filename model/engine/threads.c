/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The threads of a session, and the end of the process: see threads.h.
 *
 * Exit handlers run in the reverse order of their registration. Ours is registered at the first session, when a model was loaded
 * and so the libraries below have registered theirs (avt_threads_warm). It aborts and joins every session that runs. Trap: exit() may be called
 * by a log callback, on one of these threads. Nothing can be joined then; all are told to stop. A child that the host forks runs the
 * handler too when it exits, and has none of the threads: it forgets the sessions.
 */
#include <stdlib.h>

#include "base/thread.h"
#include "engine/threads.h"

enum { NOT_RUNNING, RUNNING, STOPPING };

static struct {
    pthread_mutex_t lock;               // over AvatarSession.running and next_running, too
    pthread_cond_t change;
    AvatarSession *first;
    int ending;                         // the process is at its end
    int lost;                           // it is a child that was forked in the middle of a load
} running = { .lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER };

#define WARM 32                         // sides of all operands: a vector or two

/* ---- what the libraries below make at first use ---------------------------------------------------------------------- */

static void warm_products(Backend *be, Arena *a, const float *zeros)
{
    const int64_t n = WARM, dim[2] = { n, n };
    const Linear l = { .w = avt_weight_put(a, WEIGHT_LINEAR, be->act, DT_F32, 2, dim, zeros),
                       .b = avt_weight_put(a, WEIGHT_PLAIN, be->act, DT_F32, 1, dim, zeros) };
    const Tensor x = avt_new(a, be->act, n, n), out = avt_new(a, be->act, n, n), sum = avt_new(a, DT_F32, n, n);

    avt_fill(be, x, 0);
    avt_fill(be, sum, 0);
    for (int act = ACT_NONE; act <= ACT_GELU_ERF; act++)
        avt_linear(be, out, x, &l, (Act)act);
    avt_linear_add(be, sum, sum, x, &l, l.b);
    avt_linear_add(be, sum, sum, x, &l, AVT_NONE);
}

static void warm_convolutions(Backend *be, Arena *a, const float *zeros)
{
    const int64_t n = WARM;

    for (int64_t k = 1; k <= 3; k += 2) {                           // over space alone, over time too
        const int64_t dim[5] = { n, n, k, 3, 3 };
        const Conv c = { .w = avt_weight_put(a, WEIGHT_CONV3D, be->act, DT_F32, 5, dim, zeros) };
        const Tensor x = avt_new(a, be->act, 1, n, n, n), out = avt_new(a, be->act, 1, n, n, n);

        avt_fill(be, x, 0);
        avt_conv3d(be, out, x, AVT_NONE, &c, AVT_NONE, (ConvSpec){ .stride_t = 1, .stride = 1, .pad_t = (int)k - 1, .pad0 = 1, .pad1 = 1 });
    }
}

int avt_threads_warm(const char *device, const BackendOptions *opt)
{
    float *zeros = avt_calloc(MEM_ENGINE, WARM * WARM * 27, sizeof(*zeros));
    Arena *a = NULL;
    Backend *be;
    int ret = avt_backend_open(&be, device, opt);

    if (ret < 0) {
        avt_free(zeros);
        return ret;
    }
    ret = zeros ? avt_arena_open(&a, be, "warm", 8 << 20) : AVT_ERR(ENOMEM);
    if (ret >= 0) {
        warm_products(be, a, zeros);
        warm_convolutions(be, a, zeros);
        ret = avt_sync(be);
    }
    avt_arena_close(&a);
    avt_backend_close(&be);
    avt_free(zeros);
    return ret;
}

/* ---- the list of sessions that run ---------------------------------------------------------------------------------- */

static void leave(AvatarSession *s)
{
    AvatarSession **p = &running.first;

    pthread_mutex_lock(&running.lock);
    while (*p != s)
        p = &(*p)->next_running;
    *p = s->next_running;
    s->running = NOT_RUNNING;
    pthread_cond_broadcast(&running.change);
    pthread_mutex_unlock(&running.lock);
}

/* Who joins a session's threads? 1: the caller; 0: somebody else did, or there were none. */
static int claim(AvatarSession *s)
{
    int mine;

    pthread_mutex_lock(&running.lock);
    while (s->running == STOPPING)
        pthread_cond_wait(&running.change, &running.lock);
    mine = s->running == RUNNING;
    if (mine)
        s->running = STOPPING;
    pthread_mutex_unlock(&running.lock);
    return mine;
}

static void join_and_leave(AvatarSession *s)
{
    pthread_join(s->conductor, NULL);
    leave(s);
}

static void end(void)
{
    __atomic_store_n(&running.ending, 1, __ATOMIC_RELAXED);
}

/* The exit handler. */
static void stop_all(void)
{
    pthread_mutex_lock(&running.lock);
    end();
    for (AvatarSession *s = running.first; s; s = s->next_running)
        avatar_session_abort(s);
    while (running.first && !avt_in_callback()) {
        AvatarSession *s = running.first;

        while (s && s->running == STOPPING)
            s = s->next_running;
        if (!s) {                                                   // other threads join the rest
            pthread_cond_wait(&running.change, &running.lock);
            continue;
        }
        s->running = STOPPING;
        pthread_mutex_unlock(&running.lock);
        join_and_leave(s);
        pthread_mutex_lock(&running.lock);
    }
    pthread_mutex_unlock(&running.lock);
}

static void lock_list(void)
{
    pthread_mutex_lock(&running.lock);
}

static void unlock_list(void)
{
    pthread_mutex_unlock(&running.lock);
}

/* In a forked child the threads of these sessions do not exist. */
static void forget_sessions(void)
{
    for (AvatarSession *s = running.first; s; s = s->next_running)
        s->orphan = 1;
    running.first = NULL;
    pthread_cond_init(&running.change, NULL);
    pthread_mutex_unlock(&running.lock);
}

static void register_handlers(void)
{
    atexit(stop_all);
    pthread_atfork(lock_list, unlock_list, forget_sessions);
}

static void register_end(void)
{
    atexit(end);
}

int avt_threads_begin(const Log *log)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, register_end);
    if (running.lost)
        return avt_fail(log, AVT_ERR(ECHILD), "this process was forked while a model was being loaded, so libraries below may be locked for ever; "
                        "fork before or after that, or start a program");
    return __atomic_load_n(&running.ending, __ATOMIC_RELAXED) ? avt_fail(log, AVT_ERR(ECANCELED), "the process is at its end") : 0;
}

void avt_threads_lost(void)
{
    running.lost = 1;
}

int avt_threads_refuse(const AvatarSession *s)
{
    return avt_in_callback() ? AVT_ERR(EDEADLK) : s->orphan ? AVT_ERR(ECHILD) : 0;
}

/* ---- conductor and ranks -------------------------------------------------------------------------------------------------- */

/* A thread of the session has made the threads of its ops, or has failed to. */
static void count_team(void *opaque, int ret)
{
    AvatarSession *s = opaque;

    pthread_mutex_lock(&s->lock);
    s->nb_teams++;
    if (s->team_status >= 0)
        s->team_status = ret;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
}

static int make_team(AvatarSession *s, int threads)
{
    const int ret = avt_thread_team(threads, &s->e->log);

    count_team(s, ret);
    return ret;
}

static void *listener_thread(void *arg)
{
    AvatarSession *s = arg;

    avt_thread_flush_denormals();
    if (make_team(s, s->crew.set.plan->front_threads) >= 0)
        avt_sound_listen(&s->sound);
    return NULL;
}

static int start_ranks(AvatarSession *s)
{
    s->crew.seated = count_team;
    s->crew.opaque = s;
    return avt_crew_start(&s->crew);
}

static int start_listener(AvatarSession *s)
{
    if (s->sound.given)
        return 0;
    if (avt_thread_start(&s->listener, listener_thread, s))
        return avt_fail(&s->e->log, AVT_ERR(ENOMEM), "the system gives no thread for the sound of a session; " MORE_THREADS);
    s->listening = 1;
    return 0;
}

static void join_listener(AvatarSession *s)
{
    avt_sound_stop(&s->sound);
    if (s->listening)
        pthread_join(s->listener, NULL);
    s->listening = 0;
}

static void *conductor_thread(void *arg)
{
    AvatarSession *s = arg;
    int ret;

    avt_thread_flush_denormals();
    ret = make_team(s, avt_core_threads(s->e->core));
    if (ret >= 0)
        ret = start_listener(s);
    if (ret >= 0)
        ret = start_ranks(s);
    if (ret >= 0)
        ret = avt_conductor_play(s);
    if (ret < 0)
        avt_crew_abort(&s->crew, ret);
    avt_crew_join(&s->crew);
    avt_conductor_finish(s, ret);
    join_listener(s);
    return NULL;
}

/* ---- start and stop --------------------------------------------------------------------------------------------------------- */

/* Under the list's lock, so that exit() finds the thread or none is made. */
static int start_conductor(AvatarSession *s)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int ret = 0;

    pthread_once(&once, register_handlers);
    pthread_mutex_lock(&running.lock);
    if (running.ending) {
        ret = AVT_ERR(ECANCELED);
    } else if (avt_thread_start(&s->conductor, conductor_thread, s)) {
        ret = AVT_ERR(ENOMEM);
    } else {
        s->running = RUNNING;
        s->next_running = running.first;
        running.first = s;
    }
    pthread_mutex_unlock(&running.lock);
    return ret == AVT_ERR(ENOMEM) ? avt_fail(&s->e->log, ret, "the system gives no thread for a session; " MORE_THREADS) : ret;
}

static int wait_for_teams(AvatarSession *s)
{
    int all = 1 + !s->sound.given, ret;

    for (int r = 0; r < s->crew.set.plan->nb_ranks; r++)
        all += avt_crew_has(&s->crew, r);
    pthread_mutex_lock(&s->lock);
    while (s->nb_teams < all && s->team_status >= 0 && !s->finished)
        pthread_cond_wait(&s->change, &s->lock);
    ret = s->team_status < 0 ? s->team_status : s->nb_teams < all ? s->status : 0;
    pthread_mutex_unlock(&s->lock);
    return ret;
}

int avt_threads_start(AvatarSession *s)
{
    const int ret = start_conductor(s);

    return ret < 0 ? ret : wait_for_teams(s);
}

void avt_threads_stop(AvatarSession *s)
{
    if (claim(s))
        join_and_leave(s);
}
