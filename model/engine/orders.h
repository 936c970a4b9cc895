/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What process 0 tells the workers, and what they answer. Who holds what when ranks live in several processes:
 *
 *   process 0   engine: options, plan, schedule, front, its own ranks' weights      session: sound, conductor, frames, its own ranks
 *   a worker    the same engine as far as its own ranks go, from its own files      the same session's crew, nothing else
 *
 *   0 -> worker   ORDER_LOAD   the plan, and a number made of the model's files       worker loads its ranks' weights, or refuses
 *                 ORDER_OPEN   sizes and routes of a session                          opens its ranks and its end of the comm
 *                 ORDER_START  when all have opened theirs: no letter comes early     its cards connect; the ranks walk the conductor's commands
 *                 ORDER_CLOSE  the session is over, or was given up                   joins and frees them
 *                 ORDER_FREE   the engine has gone                                    frees the weights
 *                 ORDER_NONE   a plan has no rank there                               says so
 *
 * Orders come one at a time, each but ORDER_NONE is answered, and sessions run meanwhile. A worker ends when process 0 leaves the world.
 */
#ifndef AVT_ORDERS_H
#define AVT_ORDERS_H

#include "comm/world.h"
#include "engine/crew.h"

typedef enum OrderKind { ORDER_LOAD, ORDER_OPEN, ORDER_START, ORDER_CLOSE, ORDER_FREE, ORDER_NONE } OrderKind;

typedef struct Order {                  // LOAD: plan and what follows it; OPEN: shape and what follows it, routes behind the struct
    OrderKind kind;
    uint32_t serial, engine, session;
    Plan plan;
    DType act, product;
    int level, compat, steps;
    uint64_t model;                     // avt_modeldir_print()
    DitShape shape;
    PixelFormat format;
    int timed;                          // OPEN: ranks count what their stages take
    int nb_routes;
} Order;

typedef struct Answer {
    uint32_t serial;
    int ret;
    char text[400];                     // after an error: its sentence
} Answer;

/* ---- workers.c: in process 0 ---- */

/** What this process tells of itself. @param devices  that it offers; NULL or "auto": its GPUs, or the CPU */
void avt_workers_card(WorldCard *card, int worker, const char *devices);

/** The world of this process, opened by the first that asks and kept until it ends. @param world  gets NULL when there are no workers
 *  @return 0 or an error (logged) */
int  avt_workers_world(World **world, const Log *log);
/** devices=auto over all processes: every GPU where there is one, else a CPU rank for each process, as many as the plan can use. */
void avt_workers_devices(char *list, size_t size, const World *w, const PlanOptions *o, const Log *log);
/** What a plan must know of the processes, [avt_world_nb()]. */
void avt_workers_processes(PlanProcess *p, const World *w);
/** Whether tensors between GPUs of a plan's processes go from card to card: where all have one version of NCCL, and no card serves two of them.
 *  The same in every process. @param log  NULL, or where a line says why not */
int  avt_workers_direct(const Core *c, const Log *log);
/** Let the workers that a plan names load their ranks; `c` has its plan. Answers are awaited by avt_workers_loaded(), always. */
int  avt_workers_load(Core *c, uint64_t model, int steps);
int  avt_workers_loaded(Core *c, int ret, const int *cancel, const Log *log);
void avt_workers_free(Core *c);
/** A number that no other session or engine of this process has in the orders. */
uint32_t avt_workers_name(void);
/** The same session on all: open, then start; or close. Nothing when no rank is elsewhere. @return 0 or an error (logged) */
int  avt_workers_open(Crew *c);
int  avt_workers_start(Crew *c);                    // the cards connect meanwhile
void avt_workers_close(Crew *c);

#endif
