/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Process 0's side of the orders: see orders.h. One order at a time; a load is one from its sending to its last answer. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "comm/mpi_plugin.h"
#include "cuda/direct.h"
#include "engine/orders.h"

#define LISTEN_MS 100                   // between two looks at who wants to give up

static struct {                         // of the process, as MPI's world is
    pthread_mutex_t lock;
    World *world;
    int asked, ret;
} party = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct {
    pthread_mutex_t lock;
    uint32_t serial, names;
} orders = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* What other processes ask of our GPUs. */
static void tell_cards(WorldCard *card)
{
    const CudaDirect *direct = avt_devices_found((int[WORLD_CARDS]){ 0 }, WORLD_CARDS, NULL) > 0 ? avt_cuda_direct() : NULL;
    char why[160];

    card->nccl = direct ? direct->version(why, sizeof(why)) : 0;
    for (int i = 0; card->nccl && i < WORLD_CARDS; i++)
        card->gpu[i] = direct->card(i);
}

void avt_workers_card(WorldCard *card, int worker, const char *devices)
{
    const size_t size = sizeof(card->devices);
    int index[16], nb = 0;
    size_t n = 0;

    *card = (WorldCard){ .worker = worker, .cores = avt_nb_cores(), .mask = avt_mask_number(), .bf16 = avt_device_act("cpu", CPU_AUTO) == DT_BF16 };
    if (devices && strcmp(devices, "auto"))
        snprintf(card->devices, size, "%s", devices);
    else
        nb = avt_devices_found(index, 16, NULL);
    for (int i = 0; i < nb; i++)
        n += (size_t)snprintf(card->devices + n, size - n, "%scuda%d", i ? "|" : "", index[i]);
    if (!*card->devices)
        snprintf(card->devices, size, "cpu");
    if (strstr(card->devices, "cuda"))
        tell_cards(card);
}

/* At the process's end. Not when a log callback ends it, which may be on a thread of the world's: the sockets end with the process, too. */
static void leave(void)
{
    if (!avt_in_callback())
        avt_world_close(&party.world);
}

int avt_workers_world(World **world, const Log *log)
{
    WorldCard card;
    int ret;

    pthread_mutex_lock(&party.lock);
    if (!party.asked) {
        party.asked = 1;
        avt_workers_card(&card, 0, NULL);
        party.ret = avt_world_open(&party.world, &card, avt_mpi_meet, log);
        if (party.world)
            atexit(leave);
    } else if (party.ret < 0) {
        avt_fail(log, party.ret, "the processes of this run did not meet when they were first wanted; start it anew");
    }
    ret = party.ret;
    *world = party.world;
    pthread_mutex_unlock(&party.lock);
    return ret;
}

/* ---- what the plan is made of ----------------------------------------------------------------------------------------------------- */

void avt_workers_processes(PlanProcess *p, const World *w)
{
    for (int i = 0; i < avt_world_nb(w); i++) {
        const WorldCard *c = avt_world_card(w, i);
        int k = 0;

        while (k < i && (strcmp(avt_world_card(w, k)->host, c->host) || avt_world_card(w, k)->mask != c->mask))
            k++;
        p[i] = (PlanProcess){ .cores = c->cores, .shares = k };
    }
}

/* The first `most` devices of all processes, GPUs or CPUs. @return how many there are */
static int list_devices(char *list, size_t size, const World *w, int gpus, int most)
{
    size_t n = 0;
    int nb = 0;

    list[0] = 0;
    for (int i = 0; i < avt_world_nb(w); i++)
        for (const char *d = avt_world_card(w, i)->devices; *d; d += strcspn(d, "|"), d += *d == '|') {
            if ((avt_device_kind(d, strcspn(d, "|")) != DEVICE_HOST) != gpus)
                continue;
            if (nb++ < most && n < size)
                n += (size_t)snprintf(list + n, size - n, "%s%d:%.*s", n ? "|" : "", i, (int)strcspn(d, "|"), d);
        }
    return nb;
}

void avt_workers_devices(char *list, size_t size, const World *w, const PlanOptions *o, const Log *log)
{
    const int gpus = list_devices(list, size, w, 1, 0) > 0, all = list_devices(list, size, w, gpus, 0);
    PlanOptions on = *o;
    Plan plan;
    int nb = all < PLAN_MAX_RANKS ? all : PLAN_MAX_RANKS;

    on.devices = list;
    for (list_devices(list, size, w, gpus, nb); nb > 1 && avt_plan_make(&plan, &on, NULL) < 0; )
        list_devices(list, size, w, gpus, --nb);
    if (nb < all)
        avt_log(log, LOG_INFO, "devices=auto: %s; this plan has no work for the other %d", list, all - nb);
}

static int is_gpu(const PlanRank *r)
{
    return avt_device_kind(r->device, strlen(r->device)) == DEVICE_CUDA;
}

/* Which card of its host a rank has, 0: none of its own that is known */
static uint64_t gpu_of(const World *w, const PlanRank *r)
{
    const int index = is_gpu(r) ? atoi(r->device + strlen("cuda")) : WORLD_CARDS;

    return index < WORLD_CARDS ? avt_world_card(w, r->process)->gpu[index] : 0;
}

/* Why not: of two ranks on GPUs of two processes. NULL: they can. */
static const char *why_not_direct(const World *w, const PlanRank *a, const PlanRank *b)
{
    const WorldCard *of_a = avt_world_card(w, a->process), *of_b = avt_world_card(w, b->process);

    if (!of_a->nccl || !of_b->nccl)
        return "has no NCCL (libnccl.so.2)";
    if (of_a->nccl != of_b->nccl)
        return "has another version of NCCL";
    return !gpu_of(w, a) || !gpu_of(w, b) || (gpu_of(w, a) == gpu_of(w, b) && !strcmp(of_a->host, of_b->host)) ? "shares its card" : NULL;
}

int avt_workers_direct(const Core *c, const Log *log)
{
    const Plan *p = &c->plan;
    int pairs = 0;

    for (int i = 0; c->world && i < p->nb_ranks; i++)
        for (int k = 0; k < i; k++) {
            const PlanRank *a = &p->rank[k], *b = &p->rank[i];
            const char *why;

            if (a->process == b->process || !is_gpu(a) || !is_gpu(b))
                continue;
            why = why_not_direct(c->world, a, b);
            if (why) {
                avt_log(log, LOG_INFO, "process %d on %s %s: tensors between GPUs of different processes go through host memory and sockets, "
                        "at some 1 to 10 GB/s", b->process, avt_world_card(c->world, b->process)->host, why);
                return 0;
            }
            pairs++;
        }
    return pairs > 0;
}

/* ---- orders ----------------------------------------------------------------------------------------------------------------------- */

static int names_process(const Plan *p, int process)
{
    for (int r = 0; r < p->nb_ranks; r++)
        if (p->rank[r].process == process)
            return 1;
    return 0;
}

/* To all workers that a plan names; lock held. Who is gone does not answer either. @return 0, or ENOMEM: nobody was told */
static int send_order(const Core *c, Order *o, const CommRoute *routes)
{
    const size_t more = sizeof(*routes) * (size_t)o->nb_routes;
    char *all = avt_malloc(MEM_ENGINE, sizeof(*o) + more);

    if (!all)
        return AVT_ERR(ENOMEM);
    o->serial = ++orders.serial;
    memcpy(all, o, sizeof(*o));
    if (more)
        memcpy(all + sizeof(*o), routes, more);
    for (int p = 1; p < avt_world_nb(c->world); p++)
        if (names_process(&c->plan, p))
            avt_world_say(c->world, p, all, sizeof(*o) + more);
    avt_free(all);
    return 0;
}

/* The answer to the present order; older ones, which nobody waited for, are passed over. */
static int hear_answer(const Core *c, int process, const int *cancel, const Log *log)
{
    const WorldCard *card = avt_world_card(c->world, process);
    Answer a = { 0 };
    int ret = 0;

    while (a.serial != orders.serial && ret >= 0) {
        void *data;
        size_t size;

        ret = avt_world_hear(c->world, process, &data, &size, LISTEN_MS);
        if (ret == AVT_ERR(EAGAIN))
            ret = cancel && __atomic_load_n(cancel, __ATOMIC_RELAXED) ? AVT_ERR(ECANCELED) : 0;
        else if (ret >= 0 && size == sizeof(a))
            memcpy(&a, data, size);
        avt_free(data);
    }
    a.text[sizeof(a.text) - 1] = 0;
    if (ret >= 0)
        return a.ret >= 0 ? 0 : avt_fail(log, a.ret, "process %d on %s: %s", process, card->host, a.text);
    if (ret != AVT_ERR(ECANCELED) || *avt_world_why(c->world, process))
        avt_fail(log, ret, "%s", avt_world_why(c->world, process));
    return ret;
}

static int hear_all(const Core *c, const int *cancel, const Log *log)
{
    int ret = 0;

    for (int p = 1; p < avt_world_nb(c->world); p++)
        if (names_process(&c->plan, p)) {
            const int one = hear_answer(c, p, cancel, ret < 0 ? NULL : log);

            ret = ret < 0 ? ret : one;
        }
    return ret;
}

/* `with`: a session whose cards connect while the workers' do, or NULL. */
static int order(const Core *c, Order *o, const CommRoute *routes, Crew *with, const Log *log)
{
    int ret, theirs;

    if (!c->world || !avt_plan_is_spread(&c->plan))
        return 0;
    pthread_mutex_lock(&orders.lock);
    ret = send_order(c, o, routes);
    if (ret < 0) {
        pthread_mutex_unlock(&orders.lock);
        return ret;
    }
    if (with && (ret = avt_crew_connect(with)) < 0)
        avt_crew_abort(with, ret);                                  // theirs do not wait for ours
    theirs = hear_all(c, NULL, ret < 0 ? NULL : log);
    pthread_mutex_unlock(&orders.lock);
    return ret < 0 ? ret : theirs;
}

/* ---- engines ---------------------------------------------------------------------------------------------------------------------- */

/* Who only waits would not know that there is a film. */
static void tell_others(const Core *c)
{
    Order o = { .kind = ORDER_NONE, .plan = c->plan };

    for (int p = 1; p < avt_world_nb(c->world); p++)
        if (!names_process(&c->plan, p))
            avt_world_say(c->world, p, &o, sizeof(o));
}

int avt_workers_load(Core *c, uint64_t model, int steps)
{
    Order o = { .kind = ORDER_LOAD, .plan = c->plan, .act = c->act, .product = c->product, .level = c->level, .compat = c->compat, .steps = steps, .model = model };

    if (!c->world || !avt_plan_is_spread(&c->plan))
        return 0;
    pthread_mutex_lock(&orders.lock);
    o.engine = ++orders.names;
    if (send_order(c, &o, NULL) < 0) {
        pthread_mutex_unlock(&orders.lock);
        return AVT_ERR(ENOMEM);
    }
    tell_others(c);
    c->id = o.engine;                                               // the lock is held until avt_workers_loaded()
    return 0;
}

int avt_workers_loaded(Core *c, int ret, const int *cancel, const Log *log)
{
    int theirs;

    if (!c->id)
        return ret;
    theirs = hear_all(c, cancel, ret < 0 ? NULL : log);
    pthread_mutex_unlock(&orders.lock);
    return ret < 0 ? ret : theirs;
}

void avt_workers_free(Core *c)
{
    Order o = { .kind = ORDER_FREE, .engine = c->id };

    if (c->id)
        order(c, &o, NULL, NULL, NULL);
}

/* ---- sessions --------------------------------------------------------------------------------------------------------------------- */

int avt_workers_open(Crew *c)
{
    Order o = { .kind = ORDER_OPEN, .engine = c->core->id, .session = c->id, .shape = c->set.shape, .format = c->set.format,
                .timed = c->set.timed, .nb_routes = c->routes.nb };

    c->elsewhere = avt_plan_is_spread(c->set.plan);
    return order(c->core, &o, c->routes.route, NULL, c->set.log);
}

int avt_workers_start(Crew *c)
{
    Order o = { .kind = ORDER_START, .engine = c->core->id, .session = c->id };

    return order(c->core, &o, NULL, c, c->set.log);
}

void avt_workers_close(Crew *c)
{
    Order o = { .kind = ORDER_CLOSE, .session = c->id };

    if (c->elsewhere)
        order(c->core, &o, NULL, NULL, NULL);
    c->elsewhere = 0;
}

uint32_t avt_workers_name(void)
{
    uint32_t name;

    pthread_mutex_lock(&orders.lock);
    name = ++orders.names;
    pthread_mutex_unlock(&orders.lock);
    return name;
}
