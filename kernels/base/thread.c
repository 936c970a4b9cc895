/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cores, denormals, and whether there is room for threads. See thread.h. */
#include <errno.h>
#include <fenv.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "base/group.h"
#include "base/mem.h"
#include "base/sum.h"
#include "base/thread.h"

static int64_t clock_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

int64_t avt_now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t avt_thread_cpu_ns(void)
{
    return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

int avt_nb_mask(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
}

uint64_t avt_mask_number(void)
{
    uint64_t number = AVT_SUM_BEGIN;
    cpu_set_t set;

    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof(set), &set);
    for (int i = 0; i < CPU_SETSIZE; i++)
        number = avt_sum(number, &(const uint8_t){ !!CPU_ISSET(i, &set) }, 1);
    return number;
}

int avt_nb_cores(void)
{
    const int mask = avt_nb_mask(), quota = avt_group_cores(AVT_GROUPS, AVT_GROUPS_SELF);

    return quota < mask ? quota : mask;
}

void avt_thread_flush_denormals(void)
{
    fesetenv(FE_DFL_ENV);
#if defined(__SSE2__)
    _mm_setcsr(_mm_getcsr() | 0x8040);                              // FTZ and DAZ
#endif
}

/* ---- threads of ours ---------------------------------------------------------------------------------------------- */

#define LEAST_STACK ((size_t)2 << 20)   // libraries below want more than 64 kB

static sigset_t host_signals(void)
{
    static const int ours[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPROF };
    sigset_t set;

    sigfillset(&set);
    for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
        sigdelset(&set, ours[i]);
    return set;
}

static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;         // who makes threads: two at once would count the same room

static int start(pthread_t *thread, void *(*run)(void *), void *arg)
{
    const sigset_t blocked = host_signals();
    pthread_attr_t attr;
    sigset_t before;
    size_t size;
    int ret = pthread_attr_init(&attr);

    if (ret)
        return ret;
    if (!pthread_attr_getstacksize(&attr, &size) && size < LEAST_STACK)
        pthread_attr_setstacksize(&attr, LEAST_STACK);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);                  // the new one inherits it
    ret = pthread_create(thread, &attr, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
    return ret;
}

int avt_thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
    int ret;

    pthread_mutex_lock(&one);
    ret = start(thread, run, arg);
    pthread_mutex_unlock(&one);
    return ret;
}

/* ---- room ------------------------------------------------------------------------------------------------------- */

typedef struct Gate {                   // threads wait here until all of them exist, or one cannot be made
    pthread_mutex_t lock;
    pthread_cond_t change;
    int open;
} Gate;

typedef struct Visitor {
    Gate *gate;
    pthread_t thread;
    pid_t id;                           // the system's
} Visitor;

static void *wait_at_gate(void *arg)
{
    Visitor *v = arg;

    v->id = gettid();
    pthread_mutex_lock(&v->gate->lock);
    while (!v->gate->open)
        pthread_cond_wait(&v->gate->change, &v->gate->lock);
    pthread_mutex_unlock(&v->gate->lock);
    return NULL;
}

/* A joined thread counts until the kernel has forgotten it, a moment later; bounded, as its number may be given again. */
static void wait_until_forgotten(pid_t id)
{
    const struct timespec nap = { .tv_nsec = 20000 };

    for (int i = 0; i < 50000 && !tgkill(getpid(), id, 0); i++)
        nanosleep(&nap, NULL);
}

/* Does the system give `nb` more threads at once? They are made, and gone again when this returns; `one` is held. */
static int is_room(int nb)
{
    Gate gate = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };
    Visitor *v = avt_calloc(MEM_MISC, (size_t)nb, sizeof(*v));
    int made = 0;

    while (v && made < nb) {
        v[made].gate = &gate;
        if (start(&v[made].thread, wait_at_gate, &v[made]))
            break;
        made++;
    }
    pthread_mutex_lock(&gate.lock);
    gate.open = 1;
    pthread_cond_broadcast(&gate.change);
    pthread_mutex_unlock(&gate.lock);
    for (int i = 0; i < made; i++)
        pthread_join(v[i].thread, NULL);
    for (int i = 0; i < made; i++)
        wait_until_forgotten(v[i].id);
    avt_free(v);
    return made == nb;
}

static void make_team(int nb)
{
#if defined(_OPENMP)
    omp_set_num_threads(nb);
#pragma omp parallel num_threads(nb)
    {
        avt_mem_thread();
#pragma omp barrier
    }
#else
    (void)nb;
#endif
}

int avt_thread_team(int nb, const Log *log)
{
    int room;

    pthread_mutex_lock(&one);
    room = nb < 2 || is_room(nb - 1);
    if (room)
        make_team(nb);
    pthread_mutex_unlock(&one);
    return room ? 0 : avt_fail(log, AVT_ERR(ENOMEM), "the system does not give %d more threads; raise its limit (ulimit -u, pids.max), or say fewer "
                                                     "cpu_threads", nb - 1);
}
