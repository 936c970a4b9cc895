/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ranks of a session in this process: see crew.h. */
#include <string.h>

#include "base/thread.h"
#include "engine/crew.h"
#include "engine/tuning.h"

int avt_crew_measure(Crew *c)
{
    const BackendOptions opt = avt_core_backend(c->core, 1, c->set.log);
    int ret = 0;

    for (int r = 0; r < c->set.plan->nb_ranks && ret >= 0; r++)
        ret = avt_rank_measure(&c->planned[r], &c->set, r, &c->core->sizes, &opt, &c->routes, NULL);
    return ret;
}

static CommOptions comm_options(const Crew *c, RankPlaces *places)
{
    CommOptions opt = avt_rank_comm(&c->set, &c->routes, c->core->process, places);

    opt.world = c->id ? c->core->world : NULL;
    opt.id = c->id;
    return opt;
}

size_t avt_crew_mailboxes(const Crew *c, int rank)
{
    RankPlaces places;
    const CommOptions opt = comm_options(c, &places);

    return avt_comm_message_bytes(&opt, rank);
}

void avt_crew_room(const Crew *c, Room *room)
{
    RankPlaces places;
    const CommOptions comm = comm_options(c, &places);

    for (int r = 0; r < c->set.plan->nb_ranks; r++)
        if (avt_crew_has(c, r)) {                                   // other processes look at their own memory
            avt_room_add(room, c->set.plan->rank[r].device, avt_plan_sum(&c->planned[r]) - c->planned[r].weights);
            avt_room_add(room, "cpu", c->planned[r].rings);
        }
    avt_room_add(room, "cpu", avt_comm_host_bytes(&comm));
}

int avt_crew_open(Crew *c)
{
    RankPlaces places;
    const CommOptions comm = comm_options(c, &places);
    int ret = avt_comm_open(c->comm, &comm);

    for (int r = 0; r < c->set.plan->nb_ranks && ret >= 0; r++) {
        const PlanRank *place = &c->set.plan->rank[r];
        BackendOptions opt = avt_core_backend(c->core, place->threads, c->set.log);

        opt.tuned = c->core->tuned;
        if (avt_crew_has(c, r))
            ret = avt_rank_open(&c->rank[r], &c->set, r, &c->core->rank[r], c->comm[r], &opt, place->device, &c->planned[r]);
    }
    return ret;
}

int avt_crew_connect(Crew *c)
{
    for (int i = 0; i <= PLAN_MAX_RANKS; i++)
        if (c->comm[i])
            return avt_comm_connect(c->comm[i]);                    // any end of a group
    return 0;
}

/* A rank makes the threads of its ops now, not when the system may have none left. */
static void *rank_thread(void *arg)
{
    const Seat *seat = arg;
    Crew *c = seat->crew;
    Rank *r = &c->rank[seat->rank];
    int ret;

    avt_thread_flush_denormals();
    ret = avt_thread_team(r->place->threads, c->set.log);
    if (c->seated)
        c->seated(c->opaque, ret);
    if (ret >= 0)
        avt_rank_run(r);
    else
        avt_comm_abort(r->comm, ret);
    return NULL;
}

int avt_crew_start(Crew *c)
{
    for (int r = 0; r < c->set.plan->nb_ranks; r++) {
        Seat *seat = &c->seat[r];

        if (!avt_crew_has(c, r))
            continue;
        seat->crew = c;
        seat->rank = r;
        if (avt_thread_start(&seat->thread, rank_thread, seat))
            return avt_fail(c->set.log, AVT_ERR(ENOMEM), "the system gives no thread for rank %d of %d; " MORE_THREADS, r,
                            c->set.plan->nb_ranks);
        seat->taken = 1;
    }
    return 0;
}

void avt_crew_join(Crew *c)
{
    for (int r = 0; r < PLAN_MAX_RANKS; r++)
        if (c->seat[r].taken) {
            pthread_join(c->seat[r].thread, NULL);
            c->seat[r].taken = 0;
        }
}

void avt_crew_say_use(const Crew *c)
{
    for (int r = 0; r < PLAN_MAX_RANKS; r++) {
        const Rank *rank = &c->rank[r];
        double all = 0, share[USE_NB], rest = 100;

        for (int k = 0; k < STAGE_NB; k++)
            all += (double)rank->spent[k];
        if (!rank->be || !avt_rank_counts_ops(rank) || all <= 0)
            continue;
        for (int k = 0; k < USE_NB; k++)
            rest -= share[k] = 100 * (double)rank->used[k] / all;
        avt_log(c->set.log, LOG_INFO, "rank %d: of %.2f s it was %.1f %% in ops, %.1f %% waiting; %.2f %% went into messages, %.2f %% into the rest", r,
                1e-9 * all, share[USE_OPS], share[USE_WAITING], share[USE_MESSAGES], rest);
    }
}

void avt_crew_abort(Crew *c, int code)
{
    for (int i = 0; i <= PLAN_MAX_RANKS; i++)
        if (c->comm[i]) {                                           // one of a group's ends speaks for all
            avt_comm_abort(c->comm[i], code);
            return;
        }
}

void avt_crew_sync(Crew *c)
{
    for (int r = 0; r < PLAN_MAX_RANKS; r++)
        avt_rank_sync(&c->rank[r]);
}

void avt_crew_close(Crew *c)
{
    avt_crew_sync(c);
    for (int r = 0; r < PLAN_MAX_RANKS; r++)
        if (c->rank[r].be)
            avt_rank_close(&c->rank[r]);
    avt_comm_close(c->comm, PLAN_MAX_RANKS + 1);
    avt_freep(&c->routes.route);
    if (c->core && c->core->tuned && c->core->cache)              // a session that was refused has none
        avt_tuning_write(c->core->tuned, c->core->cache, c->set.log);
}
