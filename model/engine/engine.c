/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Engine: the handle with the opener's log, and the one list of loaded models of this process.
 *
 * FFmpeg builds a filter twice for each graph and again when a stream's parameters change: the list lets the second one find
 * the first one's weights, for KEEP_MS after the last user went; whoever opens, closes or flushes after that frees them. The
 * list's lock is held over no load: who opens a model that is being loaded waits for that one, nobody else does.
 *
 * A load has a thread of its own: the threads that OpenMP makes for it go when it goes, and a caller's thread stays as it was.
 */
#include <string.h>
#include <time.h>

#include "base/thread.h"
#include "engine/engine.h"
#include "engine/orders.h"
#include "engine/structs.h"
#include "engine/threads.h"

#define KEEP_MS 10000

static struct {
    pthread_mutex_t lock;
    pthread_cond_t loaded;
    Core *first;
} engines = { .lock = PTHREAD_MUTEX_INITIALIZER, .loaded = PTHREAD_COND_INITIALIZER };

static _Thread_local int in_callback;

/* ---- the handle's log ----------------------------------------------------------------------------------------------------- */

static void leave_callback(void *lock)
{
    in_callback = 0;
    pthread_mutex_unlock(lock);
}

/* The host's callback may be where its thread is cancelled, or leaves: the lock does not go with it. */
static void pass_line(void *opaque, int level, const char *text)
{
    AvatarEngine *e = opaque;

    if (in_callback)                                                // a line about what the callback does: it would call itself
        return;
    pthread_mutex_lock(&e->log_lock);
    e->warnings += level == LOG_WARNING;
    in_callback = 1;
    pthread_cleanup_push(leave_callback, &e->log_lock);
    e->callback(e->callback_opaque, level, text);
    pthread_cleanup_pop(1);
}

int avt_in_callback(void)
{
    return in_callback;
}

/* What is asked of `opt` here is in the struct of every caller. */
static AvatarEngine *handle_new(const AvatarOptions *opt)
{
    AvatarEngine *e = avt_calloc(MEM_ENGINE, 1, sizeof(*e));

    if (!e)
        return NULL;
    e->callback = opt->log;
    e->callback_opaque = opt->log_opaque;
    e->log = (Log){ .write = opt->log ? pass_line : NULL, .opaque = e, .level = opt->log_level };
    pthread_mutex_init(&e->log_lock, NULL);
    return e;
}

static void handle_free(AvatarEngine *e)
{
    pthread_mutex_destroy(&e->log_lock);
    avt_free(e);
}

int avatar_options_check(const AvatarOptions *his)
{
    AvatarEngine *e = in_callback ? NULL : handle_new(his);
    AvatarOptions opt;
    World *world;
    int ret;

    if (!e)
        return in_callback ? AVT_ERR(EDEADLK) : AVT_ERR(ENOMEM);
    ret = avt_options_take(&opt, his, &e->log);
    if (ret >= 0 && opt.launched)
        ret = avt_workers_world(&world, &e->log);
    if (ret >= 0)
        ret = avt_options_try(&opt, &e->log);
    handle_free(e);
    return ret;
}

/* ---- the list ---------------------------------------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
    return avt_now_ns() / 1000000;
}

static char *make_key(const ModelDir *d, const AvatarOptions *o)
{
    return avt_sprintf(MEM_ENGINE, "%s\n%llx\n%s\n%s\n%s\n%s\n%s\n%s\n%s\n%s %g\n%d %d %d %d %d %d %d\n%s\n%s", d->dir,
                       (unsigned long long)avt_modeldir_stamp(d, o->lora), o->lora ? o->lora : "auto", o->devices ? o->devices : "auto",
                       o->plan ? o->plan : "auto", o->vae_device ? o->vae_device : "auto", o->front_device ? o->front_device : "auto",
                       o->precision ? o->precision : "auto", o->kv ? o->kv : "auto", o->offload ? o->offload : "auto", o->resident,
                       o->vae_split, o->steps, o->cpu_threads, o->cpu_level, o->compat, o->launched, o->tune, o->cache ? o->cache : "",
                       o->opts ? o->opts : "");
}

/* Take engines without a user out of the list: all of them, or those whose time is over. Lock held. */
static Core *take_idle(int all)
{
    Core *taken = NULL;

    for (Core **p = &engines.first; *p; ) {
        Core *c = *p;

        if (!c->users && (all || now_ms() - c->idle_since_ms >= KEEP_MS)) {
            *p = c->next;
            c->next = taken;
            taken = c;
        } else {
            p = &c->next;
        }
    }
    return taken;
}

static void free_all(Core *c)
{
    while (c) {
        Core *next = c->next;

        avt_core_free(c);
        c = next;
    }
}

static void free_expired(void)
{
    Core *idle;

    pthread_mutex_lock(&engines.lock);
    idle = take_idle(0);
    pthread_mutex_unlock(&engines.lock);
    free_all(idle);
}

static Core *find(const char *key)
{
    for (Core *c = engines.first; c; c = c->next)
        if (!strcmp(c->key, key))
            return c;
    return NULL;
}

/* A core with its folder and key, empty. */
static int core_new(Core **out, const AvatarOptions *opt, const Given *given, const Log *log)
{
    Core *c = avt_calloc(MEM_ENGINE, 1, sizeof(*c));
    int ret = c ? avt_options_model(&c->dir, opt, log) : avt_fail(log, AVT_ERR(ENOMEM), "no memory for %.1f MB of an engine", sizeof(*c) / 1e6);

    if (ret >= 0) {
        c->compat = opt->compat;
        c->level = opt->cpu_level;
        c->cpu_threads = opt->cpu_threads;
        c->key = given ? avt_sprintf(MEM_ENGINE, "given %u", given->id) : make_key(&c->dir, opt);
        ret = c->key ? 0 : AVT_ERR(ENOMEM);
    }
    if (ret < 0) {
        avt_core_free(c);
        c = NULL;
    }
    *out = c;
    return ret;
}

typedef struct Load {
    Core *core;
    const AvatarOptions *opt;
    const Expert *expert;
    const Given *given;
    const Log *log;
    int ret;
} Load;

static void *load_thread(void *arg)
{
    Load *l = arg;

    l->ret = avt_core_load(l->core, l->opt, l->expert, l->given, l->log);
    return NULL;
}

static int load(Core *c, const AvatarOptions *opt, const Expert *x, const Given *given, const Log *log)
{
    Load l = { c, opt, x, given, log, 0 };
    pthread_t thread;

    if (avt_thread_start(&thread, load_thread, &l))
        return avt_fail(log, AVT_ERR(ENOMEM), "the system gives no thread to load a model; " MORE_THREADS);
    pthread_join(thread, NULL);
    return l.ret;
}

/* Lock held: another one loads. A tenth of a second at most, as nobody wakes him who gives up. */
static void wait_loaded(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 100000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&engines.loaded, &engines.lock, &t);
}

/* The core of this key: one that is there, when it is loaded; or `c`, which is in the list from now on, to be loaded. NULL: given up. */
static Core *enter(Core *c, const int *cancel)
{
    Core *found;

    pthread_mutex_lock(&engines.lock);
    while ((found = find(c->key)) && found->loading && !(cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED)))
        wait_loaded();
    if (found && found->loading) {
        pthread_mutex_unlock(&engines.lock);
        return NULL;
    }
    if (!found) {
        c->loading = 1;
        c->next = engines.first;
        engines.first = found = c;
    }
    found->users++;
    pthread_mutex_unlock(&engines.lock);
    return found;
}

/* `c` is loaded; or it is not, and those who wait for it try for themselves. */
static void settle(Core *c, int ret)
{
    Core **p = &engines.first;

    pthread_mutex_lock(&engines.lock);
    c->loading = 0;
    while (ret < 0 && *p != c)
        p = &(*p)->next;
    if (ret < 0)
        *p = c->next;
    pthread_cond_broadcast(&engines.loaded);
    pthread_mutex_unlock(&engines.lock);
}

static void lock_list(void)
{
    pthread_mutex_lock(&engines.lock);
}

static void unlock_list(void)
{
    pthread_mutex_unlock(&engines.lock);
}

/* A forked child has not got the threads that load, and whatever they held of the libraries below is held for ever. */
static void forget_loads(void)
{
    for (const Core *c = engines.first; c; c = c->next)
        if (c->loading)
            avt_threads_lost();
    unlock_list();
}

static void register_fork(void)
{
    pthread_atfork(lock_list, unlock_list, forget_loads);
}

static int find_or_load(Core **out, const AvatarOptions *opt, const Expert *x, const Given *given, const Log *log)
{
    Core *c;
    int ret = core_new(&c, opt, given, log);

    if (ret < 0)
        return ret;
    *out = enter(c, opt->cancel);
    if (!*out)
        ret = AVT_ERR(ECANCELED);
    if (*out == c) {
        ret = load(c, opt, x, given, log);
        settle(c, ret);
    }
    if (*out != c || ret < 0)
        avt_core_free(c);
    return ret;
}

int avt_engine_open(AvatarEngine **out, const AvatarOptions *his, const Given *given)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    AvatarEngine *e;
    AvatarOptions opt;
    Expert x;
    int ret;

    *out = NULL;
    pthread_once(&once, register_fork);
    free_expired();
    e = handle_new(his);
    if (!e)
        return AVT_ERR(ENOMEM);
    ret = avt_threads_begin(&e->log);
    if (ret >= 0)
        ret = avt_options_take(&opt, his, &e->log);
    if (ret >= 0)
        ret = avt_options_check(&opt, &x, &e->log);
    if (ret >= 0)
        ret = find_or_load(&e->core, &opt, &x, given, &e->log);
    if (ret < 0) {
        handle_free(e);
        return ret;
    }
    *out = e;
    return 0;
}

int avatar_engine_open(AvatarEngine **e, const AvatarOptions *opt)
{
    *e = NULL;
    return in_callback ? AVT_ERR(EDEADLK) : avt_engine_open(e, opt, NULL);
}

void avatar_engine_close(AvatarEngine **e)
{
    if (!*e || in_callback)
        return;
    free_expired();
    pthread_mutex_lock(&engines.lock);
    if (!--(*e)->core->users)
        (*e)->core->idle_since_ms = now_ms();
    pthread_mutex_unlock(&engines.lock);
    handle_free(*e);
    *e = NULL;
}

void avatar_engine_flush(void)
{
    Core *idle;

    if (in_callback)
        return;
    pthread_mutex_lock(&engines.lock);
    idle = take_idle(1);
    pthread_mutex_unlock(&engines.lock);
    free_all(idle);
}
