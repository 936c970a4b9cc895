/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A worker: a process that serves the one with the film. One thread obeys orders (orders.h) and answers each; the ranks of the sessions
 * walk their commands in threads of their own, as everywhere.
 */
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "comm/mpi_plugin.h"
#include "engine/orders.h"
#include "engine/room.h"
#include "engine/structs.h"

typedef struct Loaded {                 // an engine
    struct Loaded *next;
    uint32_t id;
    AvatarEngine *e;
} Loaded;

typedef struct Serving {                // a session
    struct Serving *next;
    uint32_t id;
    int cancel;
    Crew crew;
} Serving;

typedef struct Worker {
    World *world;
    const AvatarOptions *opt;
    Log log;
    Loaded *loaded;
    Serving *serving;
    int wanted;                         // something was asked of it
    char last[400];                     // the last error that was logged
} Worker;

/* Errors are kept for the answer; everything goes on to the caller's log. */
static void keep_line(void *opaque, int level, const char *text)
{
    Worker *w = opaque;

    if (level == AVATAR_LOG_ERROR)
        snprintf(w->last, sizeof(w->last), "%s", text);
    if (w->opt->log && level <= w->opt->log_level)
        w->opt->log(w->opt->log_opaque, level, text);
}

/* ---- engines ---------------------------------------------------------------------------------------------------------------------- */

static Loaded **find_loaded(Worker *w, uint32_t id)
{
    Loaded **l = &w->loaded;

    while (*l && (*l)->id != id)
        l = &(*l)->next;
    return l;
}

static int load(Worker *w, const Order *o)
{
    const Given given = { .id = o->engine, .plan = &o->plan, .act = o->act, .product = o->product, .process = avt_world_own(w->world), .world = w->world,
                          .model = o->model };
    AvatarOptions opt = *w->opt;
    Loaded *l = avt_calloc(MEM_ENGINE, 1, sizeof(*l));
    int ret;

    if (!l)
        return AVT_ERR(ENOMEM);
    opt.log = keep_line;
    opt.log_opaque = w;
    opt.cpu_level = o->level >= 0 ? o->level : opt.cpu_level;
    opt.compat = o->compat;
    opt.steps = o->steps;
    opt.devices = opt.plan = opt.vae_device = opt.front_device = opt.precision = opt.kv = NULL;              // the plan is given
    opt.cancel = avt_world_over(w->world);
    l->id = o->engine;
    ret = avt_engine_open(&l->e, &opt, &given);
    if (ret < 0) {
        avt_free(l);
        return ret;
    }
    l->next = w->loaded;
    w->loaded = l;
    return 0;
}

static int unload(Worker *w, uint32_t id)
{
    Loaded **at = find_loaded(w, id), *l = *at;

    if (!l)
        return 0;
    *at = l->next;
    avatar_engine_close(&l->e);
    avatar_engine_flush();                                          // its likes come with an order, from nobody else
    avt_free(l);
    return 0;
}

/* ---- sessions --------------------------------------------------------------------------------------------------------------------- */

static Serving **find_serving(Worker *w, uint32_t id)
{
    Serving **s = &w->serving;

    while (*s && (*s)->id != id)
        s = &(*s)->next;
    return s;
}

static int close_session(Worker *w, uint32_t id)
{
    Serving **at = find_serving(w, id), *s = *at;

    if (!s)
        return 0;
    *at = s->next;
    __atomic_store_n(&s->cancel, 1, __ATOMIC_RELAXED);
    avt_crew_abort(&s->crew, AVT_ERR(ECANCELED));
    avt_crew_join(&s->crew);
    avt_crew_say_use(&s->crew);
    avt_crew_close(&s->crew);
    avt_free(s);
    return 0;
}

/* Memory first, then routes as process 0 has them. */
static int open_crew(Crew *c, const Order *o, const CommRoute *routes)
{
    char text[160], who[256];
    Room room = { .nb = 0 };
    int ret = avt_crew_measure(c);

    if (ret < 0)
        return ret;
    avt_freep(&c->routes.route);
    c->routes.nb = o->nb_routes;
    c->routes.route = avt_malloc(MEM_SESSION, sizeof(*routes) * (size_t)o->nb_routes);
    if (!c->routes.route)
        return AVT_ERR(ENOMEM);
    memcpy(c->routes.route, routes, sizeof(*routes) * (size_t)o->nb_routes);
    avt_crew_room(c, &room);
    snprintf(who, sizeof(who), "%lldx%lld with %s takes", (long long)(8 * o->shape.W), (long long)(8 * o->shape.H),
             avt_plan_text(c->set.plan, text, sizeof(text)));
    ret = avt_room_check(&room, who, "choose a smaller size=", c->set.log);
    return ret < 0 ? ret : avt_crew_open(c);
}

static int open_session(Worker *w, const Order *o, const CommRoute *routes)
{
    Loaded *l = *find_loaded(w, o->engine);
    Serving *s = l ? avt_calloc(MEM_SESSION, 1, sizeof(*s)) : NULL;
    const Core *c = l ? l->e->core : NULL;
    int ret;

    if (!s)
        return l ? AVT_ERR(ENOMEM) : avt_fail(&w->log, AVT_ERR(EINVAL), "an engine that was never loaded here is to open a session");
    s->id = s->crew.id = o->session;
    s->crew.core = c;
    s->crew.set = (RankSetup){ .plan = &c->plan, .schedule = c->schedule, .shape = o->shape, .format = o->format,
                               .text_len = c->sizes.dit.text_len, .direct = avt_workers_direct(c, NULL), .timed = o->timed, .cancel = &s->cancel,
                               .log = &l->e->log };
    s->next = w->serving;
    w->serving = s;
    ret = open_crew(&s->crew, o, routes);
    if (ret < 0)
        close_session(w, s->id);
    return ret;
}

static int start_session(Worker *w, uint32_t id)
{
    Serving *s = *find_serving(w, id);

    const int ret = s ? avt_crew_connect(&s->crew) : AVT_ERR(EINVAL);

    return ret < 0 ? ret : avt_crew_start(&s->crew);
}

/* ---- orders ----------------------------------------------------------------------------------------------------------------------- */

static int obey(Worker *w, const Order *o, size_t size)
{
    if (size < sizeof(*o) || o->nb_routes < 0 || size != sizeof(*o) + sizeof(CommRoute) * (size_t)o->nb_routes)
        return avt_fail(&w->log, AVT_ERR(EINVAL), "an order of %zu bytes, which another version of avatar must have sent", size);
    switch (o->kind) {
    case ORDER_LOAD:
        return load(w, o);
    case ORDER_OPEN:
        return open_session(w, o, (const CommRoute *)(o + 1));
    case ORDER_START:
        return start_session(w, o->session);
    case ORDER_CLOSE:
        return close_session(w, o->session);
    default:
        return unload(w, o->engine);
    }
}

/* @return is it answered? */
static int is_for_us(Worker *w, const Order *o, size_t size)
{
    char text[160];

    if (size != sizeof(*o) || o->kind != ORDER_NONE)
        return 1;
    avt_log(&w->log, LOG_INFO, "no work here: the film is made by %s", avt_plan_text(&o->plan, text, sizeof(text)));
    return 0;
}

/* Until process 0 leaves, or is lost. */
static int serve(Worker *w)
{
    for (;;) {
        Answer a = { 0 };
        void *data;
        size_t size;
        int ret = avt_world_hear(w->world, 0, &data, &size, -1);

        if (ret < 0)
            return ret == AVT_ERR(ECANCELED) ? 0 : ret;
        *w->last = 0;
        w->wanted = 1;
        if (!is_for_us(w, data, size)) {
            avt_free(data);
            continue;
        }
        a.serial = size >= sizeof(Order) ? ((const Order *)data)->serial : 0;
        a.ret = obey(w, data, size);
        snprintf(a.text, sizeof(a.text), "%s", *w->last ? w->last : avatar_error_text(a.ret));
        avt_free(data);
        avt_world_say(w->world, 0, &a, sizeof(a));
    }
}

static int check(const AvatarOptions *opt, const Log *log)
{
    if (!opt->launched)
        return avt_fail(log, AVT_ERR(EINVAL), "a worker serves the process with the film, and mpirun or srun starts both: mpirun -n 1 avatar speak "
                        "... : -n 3 avatar worker");
    return avt_options_try(opt, log);
}

int avatar_worker_run(const AvatarOptions *his)
{
    const Log log = { .write = his->log, .opaque = his->log_opaque, .level = his->log_level };
    AvatarOptions opt;
    Worker w = { .opt = &opt, .log = { .write = keep_line, .opaque = &w, .level = his->log_level } };
    WorldCard card;
    int ret = avt_options_take(&opt, his, &log);

    if (ret >= 0)
        ret = check(&opt, &w.log);
    if (ret < 0)
        return ret;
    avt_workers_card(&card, 1, opt.devices);
    card.beside = (uint16_t)opt.launched;
    ret = avt_world_open(&w.world, &card, avt_mpi_meet, &w.log);
    if (ret < 0)
        return ret;
    avt_log(&w.log, LOG_INFO, "process %d of %d on %s serves with %s", avt_world_own(w.world), avt_world_nb(w.world),
            avt_world_card(w.world, avt_world_own(w.world))->host, card.devices);
    ret = serve(&w);
    if (ret >= 0 && !w.wanted)
        avt_log(&w.log, LOG_INFO, "the process with the film has ended before it began one");
    while (w.serving)
        close_session(&w, w.serving->id);
    while (w.loaded)
        unload(&w, w.loaded->id);
    avt_world_close(&w.world);
    return ret;
}
