/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening libavatar_mpi.so, and how long its exchange may take. See mpi_plugin.h. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/plugin.h"
#include "base/thread.h"
#include "comm/launcher.h"
#include "comm/mpi_plugin.h"

#define PLUGIN "libavatar_mpi.so"

#define LOOK_MS 500                     // between two looks at who is still there
#define NB_LOOKS 3                      // in a row at which one is missing: one that is being started is not to be seen at first

typedef struct Exchange {               // of two threads: the last one frees it
    pthread_mutex_t lock;
    pthread_cond_t done;
    int users, finished, ret;
    MpiPluginMeet *meet;
    WorldCard own;
    WorldMeeting m;
} Exchange;

static void let_go(Exchange *x)
{
    const int last = !--x->users;

    pthread_mutex_unlock(&x->lock);
    if (!last)
        return;
    avt_free(x->m.card);
    pthread_cond_destroy(&x->done);
    pthread_mutex_destroy(&x->lock);
    avt_free(x);
}

static void *exchange_thread(void *arg)
{
    static const MpiHost host = { MPI_PLUGIN_ABI, avt_malloc };
    Exchange *x = arg;
    WorldMeeting m = { 0 };
    const int ret = x->meet(&host, &m, &x->own);

    pthread_mutex_lock(&x->lock);
    x->m = m;
    x->ret = ret;
    x->finished = 1;
    pthread_cond_signal(&x->done);
    let_go(x);
    return NULL;
}

static Exchange *exchange_new(MpiPluginMeet *meet, const WorldCard *own)
{
    Exchange *x = avt_calloc(MEM_COMM, 1, sizeof(*x));
    pthread_condattr_t attr;

    if (!x)
        return NULL;
    pthread_mutex_init(&x->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&x->done, &attr);
    pthread_condattr_destroy(&attr);
    x->users = 1;
    x->meet = meet;
    x->own = *own;
    return x;
}

/* One that ended before all met is waited for by MPI without end, and mpirun sees no fault in it when that was early, and with exit code 0. */
static int is_one_missing(const Exchange *x, int *looks)
{
    const int nb = x->own.beside > 1 ? avt_launcher_count() : -1;

    *looks = nb >= 0 && nb < x->own.beside ? *looks + 1 : 0;
    return *looks == NB_LOOKS;
}

/* Lock held. @return 0 when it has finished by then */
static int wait_until(Exchange *x, int64_t end)
{
    const struct timespec until = { end / 1000000000, end % 1000000000 };

    while (!x->finished)
        if (pthread_cond_timedwait(&x->done, &x->lock, &until) == ETIMEDOUT)
            return 1;
    return 0;
}

/* Lock held. */
static int wait_for_all(Exchange *x, WorldMeeting *m)
{
    const int64_t end = avt_now_ns() + WORLD_MEETING_MS * INT64_C(1000000);
    int missing = 0, looks = 0;

    while (!missing && wait_until(x, avt_now_ns() + LOOK_MS * INT64_C(1000000)) && avt_now_ns() < end)
        missing = is_one_missing(x, &looks);
    if (x->finished) {
        *m = x->m;
        x->m.card = NULL;
        return x->ret;
    }
    if (missing) {
        snprintf(m->why, sizeof(m->why), "a process that mpirun started on this host ended before all had met: no film begins; its own words say why, "
                 "if they do not, ffmpeg made no use of the filter");
        return AVT_ERR(ECANCELED);
    }
    snprintf(m->why, sizeof(m->why), "the other processes of mpirun have not come within %d s; one must be a film's (avatar speak, or ffmpeg with the "
             "filter), all others avatar worker", WORLD_MEETING_MS / 1000);
    return AVT_ERR(ETIMEDOUT);
}

static int run(MpiPluginMeet *meet, WorldMeeting *m, const WorldCard *own)
{
    Exchange *x = exchange_new(meet, own);
    pthread_t thread;
    int ret;

    if (!x)
        return AVT_ERR(ENOMEM);
    pthread_mutex_lock(&x->lock);
    if (avt_thread_start(&thread, exchange_thread, x)) {
        snprintf(m->why, sizeof(m->why), "the system gives no thread for MPI; raise its limit (ulimit -u, pids.max)");
        ret = AVT_ERR(ENOMEM);
    } else {
        x->users++;
        pthread_detach(thread);
        ret = wait_for_all(x, m);
    }
    let_go(x);
    return ret;
}

int avt_mpi_meet(WorldMeeting *m, const WorldCard *own)
{
    const char *why;
    void *lib = avt_plugin_open(PLUGIN, RTLD_NOW | RTLD_GLOBAL, &why);      // MPI's own plugins look for its symbols
    MpiPluginMeet *meet = NULL;

    *m = (WorldMeeting){ 0 };
    if (lib)
        *(void **)&meet = dlsym(lib, "avatar_mpi_meet");
    if (meet)
        return run(meet, m, own);
    if (!lib && !why)
        snprintf(m->why, sizeof(m->why), PLUGIN " is neither beside the program, nor in its folder of libraries, nor on the loader's path; "
                 "install MPI (Debian: libopenmpi-dev) and build again, or the package avatar-mpi");
    else
        snprintf(m->why, sizeof(m->why), PLUGIN " cannot be loaded: %.150s", why ? why : "it is no plugin of avatar");
    return AVT_ERR(ENOSYS);
}
