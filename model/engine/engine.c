/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Engine: the handle with the opener's log, and the one list of loaded models of this process.
 *
 * FFmpeg builds a filter twice for each graph and again when a stream's parameters change: the list lets the second one find
 * the first one's weights, for KEEP_MS after the last user went.
 */
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "engine/engine.h"

#define KEEP_MS 10000

static struct {
    pthread_mutex_t lock;
    Core *first;
    int reaping;                        // a reaper thread is on its way
} engines = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- the handle's log ----------------------------------------------------------------------------------------------------- */

static void pass_line(void *opaque, int level, const char *text)
{
    AvatarEngine *e = opaque;

    pthread_mutex_lock(&e->log_lock);
    e->callback(e->callback_opaque, level, text);
    pthread_mutex_unlock(&e->log_lock);
}

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

int avatar_options_check(const AvatarOptions *opt)
{
    AvatarEngine *e = handle_new(opt);
    ModelDir dir = { 0 };
    Expert x;
    int ret;

    if (!e)
        return AVT_ERR(ENOMEM);
    ret = avt_options_check(opt, &x, &e->log);
    if (ret >= 0)
        ret = avt_options_model(&dir, opt, &e->log);
    avt_modeldir_close(&dir);
    handle_free(e);
    return ret;
}

/* ---- the list ---------------------------------------------------------------------------------------------------------- */

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Mixes a file's size and time of change into a number; a file that is not there counts, too. */
static uint64_t stamp(uint64_t h, const char *path)
{
    struct stat st = { 0 };

    if (path && stat(path, &st))
        st.st_size = -1;
    h = (h ^ (uint64_t)st.st_size) * 1099511628211u;
    h = (h ^ (uint64_t)st.st_mtim.tv_sec) * 1099511628211u;
    return (h ^ (uint64_t)st.st_mtim.tv_nsec) * 1099511628211u;
}

/* The folder's own stamp covers what it holds beside the files that the layout names: shards, avatar.json. */
static char *make_key(const ModelDir *d, const AvatarOptions *o)
{
    uint64_t h = stamp(stamp(stamp(14695981039346656037u, d->dir), d->lora), o->lora);
    const char *name, *path;

    for (int i = 0; avt_modeldir_part(d, i, &name, &path); i++)
        h = stamp(h, path);
    return avt_sprintf(MEM_ENGINE, "%s\n%llx\n%s\n%s\n%s\n%s\n%s\n%d %d %d %d\n%s", d->dir, (unsigned long long)h, o->lora ? o->lora : "auto",
                       o->devices ? o->devices : "auto", o->plan ? o->plan : "auto", o->vae_device ? o->vae_device : "auto", o->precision ? o->precision : "auto", o->steps,
                       o->cpu_threads, o->cpu_level, o->compat, o->opts ? o->opts : "");
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

/* Frees engines whose time is over, then goes when none is idle. */
static void *reap(void *arg)
{
    int idle = 1;

    (void)arg;
    while (idle) {
        const struct timespec nap = { .tv_nsec = 200000000 };
        Core *taken;

        nanosleep(&nap, NULL);
        pthread_mutex_lock(&engines.lock);
        taken = take_idle(0);
        idle = 0;
        for (const Core *c = engines.first; c; c = c->next)
            idle |= !c->users;
        engines.reaping = idle;
        pthread_mutex_unlock(&engines.lock);
        free_all(taken);
    }
    return NULL;
}

static void start_reaper(void)
{
    pthread_t t;

    if (engines.reaping || pthread_create(&t, NULL, reap, NULL))
        return;
    pthread_detach(t);
    engines.reaping = 1;
}

static Core *find(const char *key)
{
    for (Core *c = engines.first; c; c = c->next)
        if (!strcmp(c->key, key))
            return c;
    return NULL;
}

static Core *core_new(const AvatarOptions *opt)
{
    Core *c = avt_calloc(MEM_ENGINE, 1, sizeof(*c));

    if (!c)
        return NULL;
    c->compat = opt->compat;
    c->level = opt->cpu_level;
    c->cpu_threads = opt->cpu_threads;
    return c;
}

/* Lock held: the core for these options, found or loaded. */
static int find_or_load(Core **out, const AvatarOptions *opt, const Expert *x, const Log *log)
{
    Core *c = core_new(opt), *found;
    int ret = c ? avt_options_model(&c->dir, opt, log) : AVT_ERR(ENOMEM);

    *out = NULL;
    if (ret >= 0) {
        c->key = make_key(&c->dir, opt);
        ret = c->key ? 0 : AVT_ERR(ENOMEM);
    }
    found = ret >= 0 ? find(c->key) : NULL;
    if (found) {
        avt_core_free(c);
        *out = found;
        return 0;
    }
    if (ret >= 0)
        ret = avt_core_load(c, opt, x, log);
    if (ret < 0) {
        avt_core_free(c);
        return ret;
    }
    c->next = engines.first;
    engines.first = *out = c;
    return 0;
}

int avatar_engine_open(AvatarEngine **out, const AvatarOptions *opt)
{
    AvatarEngine *e = handle_new(opt);
    Core *idle;
    Expert x;
    int ret;

    *out = NULL;
    if (!e)
        return AVT_ERR(ENOMEM);
    ret = avt_options_check(opt, &x, &e->log);
    if (ret >= 0) {
        pthread_mutex_lock(&engines.lock);
        idle = take_idle(0);
        ret = find_or_load(&e->core, opt, &x, &e->log);
        if (ret >= 0)
            e->core->users++;
        pthread_mutex_unlock(&engines.lock);
        free_all(idle);
    }
    if (ret < 0) {
        handle_free(e);
        return ret;
    }
    *out = e;
    return 0;
}

void avatar_engine_close(AvatarEngine **e)
{
    if (!*e)
        return;
    pthread_mutex_lock(&engines.lock);
    if (!--(*e)->core->users) {
        (*e)->core->idle_since_ms = now_ms();
        start_reaper();
    }
    pthread_mutex_unlock(&engines.lock);
    handle_free(*e);
    *e = NULL;
}

void avatar_engine_flush(void)
{
    Core *idle;

    pthread_mutex_lock(&engines.lock);
    idle = take_idle(1);
    pthread_mutex_unlock(&engines.lock);
    free_all(idle);
}
