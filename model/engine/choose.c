/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See choose.h. Rates are those of a usual card with as much memory as is free, joined by PCIe 4: they need to be right to each other. */
#include <stdio.h>
#include <string.h>

#include "engine/cards.h"
#include "engine/choose.h"
#include "engine/room.h"

#define INSTEAD 3
#define TO_SEARCH (16ll << 20)         // of the host's memory: oneDNN, asked what it would take, does not say so where it gets none

static int is_gpu(const char *device)
{
    return avt_device_kind(device, strlen(device)) == DEVICE_CUDA;
}

static void add_device(Pool *pool, const char *device, double room, int other)
{
    avt_pool_add(pool, device, avt_card_sized(room / 1.1e9), is_gpu(device) ? room : 0, other);
}

/* The devices of a plan, in the order of its ranks; `room` as in PlanOptions. */
static void pool_of(Pool *pool, const Plan *p, const double *room)
{
    avt_pool_open(pool, avt_link_named("pcie4"));
    for (int r = 0; r < p->nb_ranks; r++)
        if (p->rank[r].pipe >= 0 || avt_pool_find(pool, p->rank[r].device) < 0)
            add_device(pool, p->rank[r].device, room[r], p->rank[r].pipe < 0);
    if (avt_pool_find(pool, p->front_device) < 0)
        add_device(pool, p->front_device, (double)avt_room_left(p->front_device), 1);
}

static int is_auto(const char *option)
{
    return !option || !*option || !strcmp(option, "auto");
}

/* Are its times known? */
static int is_known(const Plan *p)
{
    for (int r = 0; r < p->nb_ranks; r++)
        if (!is_gpu(p->rank[r].device))
            return 0;
    return !avt_plan_is_spread(p);
}

static void say_plan(const Found *f, const Log *log)
{
    char text[256];

    avt_log(log, LOG_INFO, "plan=auto: %s, %s, %.1f fps on paper at %dx%d", avt_plan_text(&f->plan, text, sizeof(text)),
            f->lack > 0 ? "which lacks least memory" : "the fastest that fits", AVATAR_BLOCK_FRAMES / f->paper.period, f->width, f->height);
}

static const char *place_of(const Pool *pool, int i)
{
    return i == LACKS_HOST ? "the host" : pool->name[i];
}

/* Its price, where something was taken from the devices. */
static void say_offload(const Found *f, const Pool *pool, const Log *log)
{
    const char *what = f->plan.offload == OFFLOAD_ALL ? "layers, rings and sinks" : "layers";

    if (f->missing > 0 && f->lack > 0)
        avt_log(log, LOG_WARNING, "offload=auto: with %s from the host %s still lacks %.2f GB at %dx%d", what, place_of(pool, f->lacks), f->lack / 1e9,
                f->width, f->height);
    else if (f->missing > 0)
        avt_log(log, LOG_WARNING, "offload=auto: %s come from the host, %.1f GB of its memory, as with all on the devices %s would lack %.2f GB at %dx%d; the "
                "same frames, on paper %.1f a second", what, f->host / 1e9, place_of(pool, f->misses), f->missing / 1e9, f->width, f->height,
                AVATAR_BLOCK_FRAMES / f->paper.period);
}

static int search(Plan *p, const Plan *named, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    const int open = is_auto(o->plan);
    Found *f = avt_calloc(MEM_ENGINE, 1, sizeof(*f));
    Pool pool;
    int ret;

    if (!f)
        return AVT_ERR(ENOMEM);
    pool_of(&pool, named, o->room);
    pool.host = o->host;
    ret = open ? avt_search_plan(f, &pool, o, sizes, be) : avt_search_offload(f, &pool, o, sizes, be);
    if (ret >= 0) {
        *p = f->plan;
        if (open)
            say_plan(f, be->log);
        say_offload(f, &pool, be->log);
    }
    avt_free(f);
    return ret;
}

int avt_choose_plan(Plan *p, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    Plan named;
    const int ret = avt_plan_make(&named, o, be->log);

    if (ret < 0)
        return ret;
    if (o->room && is_known(&named) && (is_auto(o->plan) || is_auto(o->offload)))
        return search(p, &named, o, sizes, be);
    return avt_rank_plan(p, o, sizes, be);
}

/* ---- what fits instead ------------------------------------------------------------------------------------------------ */

/* What each rank's device has left, with the weights that lie there already. */
static void find_room(double *room, double *host, const Core *c)
{
    for (int r = 0; r < c->plan.nb_ranks; r++) {
        room[r] = (double)avt_room_left(c->plan.rank[r].device);
        for (int i = 0; i < c->plan.nb_ranks; i++) {
            PlanMemory m = { 0 };

            if (c->plan.rank[i].process == c->process && c->rank[i].arena)
                avt_rank_weights_count(&m, &c->rank[i]);
            room[r] += avt_plan_same_device(&c->plan.rank[i], &c->plan.rank[r]) ? (double)m.weights : 0;
            if (!r)
                *host += (double)m.host + (is_gpu(c->plan.rank[i].device) ? 0 : (double)m.weights);
        }
    }
}

/* precision: NULL: the engine's. */
static void say(char *text, size_t size, const Found *f, const char *precision, const PlanOptions *asked, const PlanSizes *sizes, int on_gpus)
{
    size_t n = strlen(text);

    n += (size_t)snprintf(text + n, size - n, "%s", n ? ", or" : "what fits:");
    if (precision && n < size)
        n += (size_t)snprintf(text + n, size - n, " precision=%s", precision);
    if (f->steps != asked->steps && n < size)
        n += (size_t)snprintf(text + n, size - n, " steps=%d", f->steps);
    if ((f->width != sizes->width || f->height != sizes->height) && n < size)
        n += (size_t)snprintf(text + n, size - n, " size=%dx%d", f->width, f->height);
    if (f->plan.offload && !asked->offload && n < size)
        n += (size_t)snprintf(text + n, size - n, " offload=%s", avt_offload_name(&f->plan));
    if (on_gpus && n < size)
        snprintf(text + n, size - n, " (%.1f fps on paper%s)", AVATAR_BLOCK_FRAMES / f->paper.period, precision ? ", at the rates of bf16" : "");
}

int avt_choose_instead(char *text, size_t size, const Core *c, int w, int h, const Log *log)
{
    const PlanOptions o = { .steps = c->plan.steps, .nb_layers = c->sizes.dit.nb_layers, .nb_heads = c->sizes.dit.nb_heads,
                            .vae_split = c->plan.vae_parts > 1 ? c->plan.vae_parts : 0, .front_device = c->plan.front_device,
                            .kv = c->plan.kv == DT_F32 ? NULL : avt_kv_name(&c->plan, c->act), .offload = c->plan.offload ? avt_offload_name(&c->plan) : NULL,
                            .resident = c->plan.resident / 1e9, .cpu_threads = c->cpu_threads };
    const BackendOptions be = avt_core_backend(c, 1, log);
    Found *list = avt_calloc(MEM_ENGINE, INSTEAD + 1, sizeof(*list));
    double room[PLAN_MAX_RANKS], host = 0;
    PlanSizes sizes = c->sizes;
    Pool pool;
    int nb = 0, lighter = 0;

    sizes.width = w;
    sizes.height = h;
    text[0] = 0;
    if (list && !avt_plan_is_spread(&c->plan) && avt_host_memory_left() >= TO_SEARCH) {
        find_room(room, &host, c);
        pool_of(&pool, &c->plan, room);
        pool.host = (double)avt_host_memory_left() + host;
        nb = avt_search_instead(list, INSTEAD, &pool, &o, &sizes, &be);
        lighter = avt_search_lighter(&list[INSTEAD], &pool, &o, &sizes, &be);
    }
    if (lighter)
        say(text, size, &list[INSTEAD], SEARCH_LIGHTER, &o, &sizes, is_gpu(c->plan.rank[0].device));
    for (int i = 0; i < nb; i++)
        say(text, size, &list[i], NULL, &o, &sizes, is_gpu(c->plan.rank[0].device));
    avt_free(list);
    return nb + lighter;
}
