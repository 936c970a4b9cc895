/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A rank rehearsed: opened on `dry`, where it does everything once. So its memory is found, its messages and their routes, and what it calls.
 * What weighs the parts of a plan with that is in rank_weigh.c.
 */
#include <string.h>

#include "base/mem.h"
#include "engine/rank.h"

#define MID_STREAM 100                  // a block whose rings are full

/* The fullest wave, of full rings; alone in a sequential plan, the last step. */
static Cmd wave_of(const Rank *r)
{
    const int steps = r->set->plan->steps;
    Cmd c = { .kind = CMD_WAVE, .new_block = MID_STREAM + r->nb_slots - 1, .nb_items = r->nb_slots };

    for (int i = 0; i < r->nb_slots; i++)
        c.item[i] = (CmdItem){ .block = c.new_block - i, .step = r->nb_slots == 1 ? steps - 1 : i };
    return c;
}

static int rehearse_wave(Rank *r)
{
    const Cmd c = wave_of(r);

    return avt_rank_obey(r, &c);
}

static int rehearse(Rank *r)
{
    Cmd c = { .kind = CMD_PICTURE, .prime = 1 };
    int ret = avt_rank_prepare(r);

    if (ret >= 0)
        ret = avt_comm_recv_bytes(r->comm, r->set->plan->nb_ranks, TAG_COMMAND, &c, sizeof(c));
    if (ret >= 0)
        ret = avt_rank_obey(r, &c);
    c = (Cmd){ .kind = CMD_TEXT, .rows = r->set->text_len };
    if (ret >= 0)
        ret = avt_rank_obey(r, &c);
    c = (Cmd){ .kind = CMD_SINK, .from_block = 1 };
    if (ret >= 0)
        ret = avt_rank_obey(r, &c);
    if (ret >= 0)
        ret = rehearse_wave(r);
    return ret < 0 ? ret : avt_sync(r->be);
}

/* How many messages of a kind may be on their way between two ranks. Where there is no more room a send waits, which never stops
 * the ranks for good: whoever is behind the others finds all that he waits for, and his own messages are taken by those ahead. But
 * latents are received a wave after they were sent, so there is a place for each block in flight; and two blocks of frames are as many as
 * the conductor lets be finished and not taken. */
static int room_of(const Plan *p, CommTag tag)
{
    switch (tag) {
    case TAG_COMMAND:
        return 4 * (p->in_flight + 2);                              // waves ahead, with pictures, texts and sinks between
    case TAG_SOUND:
        return p->in_flight + 1;
    case TAG_IMAGE: case TAG_TEXT:
        return p->versions;
    case TAG_LATENTS:
        return p->in_flight;
    case TAG_TEAM:                                                  // of one exchange: who is behind has that of the one before
    case TAG_REFERENCE: case TAG_TOKENS:                            // tokens are taken out before the work on them begins
        return 1;
    default:
        return 2;                                                   // one that is being used and the next
    }
}

CommOptions avt_rank_comm(const RankSetup *set, const RankRoutes *routes, int own, RankPlaces *places)
{
    const int nb = set->plan->nb_ranks;

    for (int i = 0; i < nb; i++) {
        places->device[i] = set->plan->rank[i].device;
        places->process[i] = set->plan->rank[i].process;
    }
    places->device[nb] = NULL;                                      // the conductor
    places->process[nb] = 0;
    return (CommOptions){ .kind = set->comm, .direct = set->direct, .timed = set->timed, .nb = nb + 1, .device = places->device, .receiver = set->receiver,
                          .process = places->process, .own = own, .route = routes->route, .nb_routes = routes->nb, .log = set->log };
}

static int add_route(RankRoutes *routes, const CommRoute *r)
{
    CommRoute *p = routes->route;

    for (int i = 0; i < routes->nb; i++, p++)
        if (p->src == r->src && p->dst == r->dst && p->tag == r->tag) {
            p->size = p->size < r->size ? r->size : p->size;
            return 0;
        }
    p = avt_realloc(MEM_SESSION, routes->route, sizeof(*p) * ((size_t)routes->nb + 1));
    if (!p)
        return AVT_ERR(ENOMEM);
    routes->route = p;
    p[routes->nb++] = *r;
    return 0;
}

/* What a rehearsed rank has sent and received: its mailboxes' bytes, its routes. */
static int measure_messages(PlanMemory *m, const RankSetup *set, int index, Comm *comm, RankRoutes *routes)
{
    RankPlaces places;
    RankRoutes own;
    CommOptions opt;
    int ret = 0;

    own.route = avt_comm_dry_routes(comm, &own.nb);
    for (int i = 0; i < own.nb; i++)
        own.route[i].room = room_of(set->plan, own.route[i].tag);
    opt = avt_rank_comm(set, &own, set->plan->rank[index].process, &places);
    m->messages = avt_comm_message_bytes(&opt, index);
    for (int i = 0; routes && i < own.nb && ret >= 0; i++)
        ret = add_route(routes, &own.route[i]);
    return ret;
}

typedef struct Rehearsal {              // a rank on `dry`, that has done everything once
    RankSetup set;
    RankWeights w;
    Comm *comm;
    Rank r;
} Rehearsal;

static void rehearsal_close(Rehearsal *h)
{
    if (h->r.be)
        avt_rank_close(&h->r);
    if (h->comm)
        avt_comm_close(&h->comm, 1);
    avt_rank_weights_close(&h->w);
}

static int rehearsal_open(Rehearsal *h, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt)
{
    const PlanMemory unlimited = { .state = ARENA_UNLIMITED, .scratch = ARENA_UNLIMITED };
    BackendOptions dry = *opt;
    int ret;

    *h = (Rehearsal){ .set = *set };
    h->set.hooks = (RankHooks){ 0 };
    h->set.cancel = NULL;
    dry.plan_for = set->plan->rank[index].device;
    dry.threads = set->plan->rank[index].threads;                   // workspaces depend on them
    ret = avt_rank_weights_open(&h->w, set->plan, index, sizes, &(ModelFiles){ 0 }, &dry, "dry", ARENA_UNLIMITED, set->log);
    if (ret >= 0)
        ret = avt_comm_dry_open(&h->comm, set->plan->nb_ranks + 1, index, set->log);
    if (ret >= 0)
        ret = avt_rank_open(&h->r, &h->set, index, &h->w, h->comm, &dry, "dry", &unlimited);
    if (ret >= 0)
        ret = rehearse(&h->r);
    if (ret < 0)
        rehearsal_close(h);
    return ret;
}

static int measure_rank(PlanMemory *m, Rehearsal *h, RankRoutes *routes)
{
    *m = (PlanMemory){ .state = avt_arena_peak(h->r.state), .scratch = avt_arena_peak(h->r.scratch), .workspace = h->r.be->workspace_peak };
    memcpy(m->part, h->r.part, sizeof(m->part));
    avt_rank_weights_count(m, &h->w);
    avt_rank_rings_count(m, &h->r);
    return measure_messages(m, &h->set, h->r.index, h->comm, routes);
}

int avt_rank_measure(PlanMemory *m, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt, RankRoutes *routes,
                     OpStat *stat)
{
    Rehearsal h;
    int ret = rehearsal_open(&h, set, index, sizes, opt);

    memset(m, 0, sizeof(*m));
    if (ret < 0)
        return ret;
    if (stat) {
        memset(h.r.be->stat, 0, sizeof(h.r.be->stat));
        ret = rehearse_wave(&h.r);
        memcpy(stat, h.r.be->stat, sizeof(h.r.be->stat));
    }
    if (ret >= 0)
        ret = measure_rank(m, &h, routes);
    rehearsal_close(&h);
    return ret;
}

/* What its parts send each other for one more item. */
static int measure_traffic(CommTraffic *t, Rehearsal *h)
{
    const CommTraffic before = avt_comm_dry_traffic(h->comm, TAG_TEAM);
    int step = 0, ret;

    while (!avt_plan_holds(h->set.plan, h->r.index, step))
        step++;
    ret = avt_rank_obey(&h->r, &(Cmd){ .kind = CMD_WAVE, .new_block = -1, .nb_items = 1, .item[0] = { .block = MID_STREAM, .step = step } });
    *t = avt_comm_dry_traffic(h->comm, TAG_TEAM);
    *t = (CommTraffic){ t->bytes - before.bytes, t->turns - before.turns };
    return ret;
}

int avt_rank_traffic(PlanMemory *m, CommTraffic *t, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt)
{
    const int alone = set->plan->rank[index].nb_parts == 1;
    Rehearsal h;
    int ret;

    *t = (CommTraffic){ 0, 0 };
    if (alone && !m)
        return 0;
    ret = rehearsal_open(&h, set, index, sizes, opt);
    if (ret < 0)
        return ret;
    if (m)
        ret = measure_rank(m, &h, NULL);
    if (ret >= 0 && !alone)
        ret = measure_traffic(t, &h);
    rehearsal_close(&h);
    return ret;
}

/* What the rehearsed rank calls for `c`. */
static int calls_of(DryCall **calls, int64_t *nb, Rehearsal *h, const Cmd *c)
{
    const DryCall *seen;
    int ret;

    avt_dry_list(h->r.be);
    ret = avt_rank_obey(&h->r, c);
    seen = avt_dry_calls(h->r.be, nb);
    if (ret >= 0 && !(*calls = avt_malloc(MEM_SESSION, sizeof(**calls) * (size_t)(*nb + 1))))
        ret = AVT_ERR(ENOMEM);
    if (ret >= 0)
        memcpy(*calls, seen, sizeof(**calls) * (size_t)*nb);
    return ret;
}

/* A step of the rank's pipe: the last, or the first where pictures would follow. */
static int step_of(const Plan *p, int index)
{
    int step = p->rank[index].vae ? 0 : p->steps - 1;

    while (!avt_plan_holds(p, index, step))
        step += p->rank[index].vae ? 1 : -1;
    return step;
}

int avt_rank_item(DryCall **calls, int64_t *nb, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt)
{
    const CmdItem item = { .block = MID_STREAM, .step = step_of(set->plan, index) };
    const Cmd c = { .kind = CMD_WAVE, .new_block = -1, .nb_items = 1, .item[0] = item };
    Rehearsal h;
    int ret = rehearsal_open(&h, set, index, sizes, opt);

    *calls = NULL;
    if (ret < 0)
        return ret;
    ret = calls_of(calls, nb, &h, &c);
    rehearsal_close(&h);
    return ret;
}

int avt_rank_wave(DryCall **calls, int64_t *nb, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt)
{
    Rehearsal h;
    Cmd c;
    int ret = rehearsal_open(&h, set, index, sizes, opt);

    *calls = NULL;
    if (ret < 0)
        return ret;
    c = wave_of(&h.r);
    ret = calls_of(calls, nb, &h, &c);
    rehearsal_close(&h);
    return ret;
}
