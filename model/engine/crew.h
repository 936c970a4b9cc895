/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Crew: the ranks of a session that live in this process, their ends of its comm, and their threads. */
#ifndef AVT_CREW_H
#define AVT_CREW_H

#include "engine/engine.h"
#include "engine/room.h"

typedef struct Seat {                   // of a rank's thread
    struct Crew *crew;
    int rank, taken;                    // taken: the thread runs
    pthread_t thread;
} Seat;

typedef struct Crew {
    const Core *core;                   // the six are the caller's to fill
    uint32_t id;                        // of the session in all processes; 0: they are one
    RankSetup set;
    RankRoutes routes;                  // freed by avt_crew_close()
    void (*seated)(void *opaque, int ret);      // (opt) a rank's thread has made its threads below it, or has failed to; from that thread
    void *opaque;

    PlanMemory planned[PLAN_MAX_RANKS]; // all ranks, those elsewhere too
    Rank rank[PLAN_MAX_RANKS];
    Comm *comm[PLAN_MAX_RANKS + 1];     // the last one is the conductor's
    Seat seat[PLAN_MAX_RANKS];
    int elsewhere;                      // workers have opened their part: workers.c
} Crew;

/** Does a rank live here? */
static inline int avt_crew_has(const Crew *c, int rank)
{
    return c->set.plan->rank[rank].process == c->core->process;
}

static inline Comm *avt_crew_conductor(const Crew *c)
{
    return c->comm[c->set.plan->nb_ranks];
}

/** Find the memory of every rank, and the routes of all their messages, on `dry`. @return 0 or an error (logged) */
int  avt_crew_measure(Crew *c);
/** Bytes of messages that lie with a rank, or the conductor (the number of ranks). The crew was measured. */
size_t avt_crew_mailboxes(const Crew *c, int rank);
/** What avt_crew_open() takes of this process's memory, beside the weights. */
void avt_crew_room(const Crew *c, Room *room);
/** Open the comm and the ranks that live here. @return 0 or an error (logged); avt_crew_close() in any case */
int  avt_crew_open(Crew *c);
/** Connect the cards that lie in several processes, all of which do so at the same time. @return 0 or an error (logged) */
int  avt_crew_connect(Crew *c);
/** Start a thread for each. @return 0 or ENOMEM (logged) */
int  avt_crew_start(Crew *c);
/** Wait for the threads: until CMD_END, a failure or an abort. */
void avt_crew_join(Crew *c);
/** Wait for what the ranks' queues hold, when their threads were joined. */
void avt_crew_sync(Crew *c);
/** When ranks count what their stages take: a line on what came of it, for each that lives here. For a process whose ranks no statistics see. */
void avt_crew_say_use(const Crew *c);
/** Everyone who waits for a message of this session, here or elsewhere, gets `code`. */
void avt_crew_abort(Crew *c, int code);
/** Free all; threads must have been joined. A crew that was never opened is fine. */
void avt_crew_close(Crew *c);

#endif
