/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which plan for which devices: all of them are tried, on `dry` for memory, on paper for time. It is what plan=auto means, and what
 * `avatar plan --gpus` shows.
 */
#ifndef AVT_SEARCH_H
#define AVT_SEARCH_H

#include "engine/rank.h"

typedef struct Rates {                  // that are counted on, a second
    double products, convolutions;      // FLOPs: of products and attention; of convolutions
    double bytes;                       // of operands
    double start;                       // seconds that the host takes to start an op, while others are at work; 0: not known
} Rates;

#define POOL_MAX (PLAN_MAX_RANKS + 2)

typedef struct Pool {                   // devices to plan for, in the order of a pipeline
    char name[POOL_MAX][32];            // as devices= has them; ranks of one name share what it has
    Rates rates[POOL_MAX];              // of a CPU: with all its threads
    double room[POOL_MAX];              // bytes that each has for a plan; 0: no limit is known
    int nb;                             // that are to have work
    int others;                         // behind them, that vae_device and front_device may name besides
    double host;                        // bytes of the host's memory for what is on no device of these; 0: no limit is known
    double link, latency;               // bytes a second that a device sends to another; seconds of an exchange, however little is sent
    double fetch;                       // bytes a second that layers come with from the host
} Pool;

typedef struct Paper {                  // seconds
    double item, decode, encode, front; // an item through all layers; a block's pictures; the reference picture; 60 s of sound and a prompt
    double exchange;                    // of an item: what passes between the parts of layers
    double busy[PLAN_MAX_RANKS];        // of a block, of each rank
    double copy, beside;                // layers that come in a walk, where it takes longest; what is computed in that walk
    double hop;                         // a message between ranks of a pipe
    double period, first;               // from block to block; to the first frame, with everything loaded
    const char *bound;                  // what the period is: static
} Paper;

#define TRIED_MAX 64

typedef struct Tried {                  // a way of plan= that was looked at
    char plan[48];                      // "layer", "layer, VAE alone"
    double lack, period;                // bytes that are missing, else seconds from block to block
    int bound;                          // it lacks or takes that at least: no more was looked at
} Tried;

typedef struct Found {
    Plan plan;
    PlanMemory memory[PLAN_MAX_RANKS], front;
    CommTraffic traffic[PLAN_MAX_RANKS];    // of an item, to the other parts of its layers
    double used[POOL_MAX];              // bytes of each of the pool, all that lies there; of several of one name the first has all
    double host;                        // bytes of the host's memory: layers that wait, a front beside the devices
    double lack;                        // bytes that are missing where most are; 0: it fits
    int lacks;                          // there, of the pool; LACKS_HOST: in the host's memory
    double missing;                     // where offload=auto took something from the devices: what would be missing with all on them
    int misses;                         // there
    int width, height, steps;
    Paper paper;
    Tried other[TRIED_MAX];             // what was not taken: what fits first, the faster first; then what lacks less
    int nb_other;
} Found;

#define LACKS_HOST (-1)

typedef struct Work {                   // what there is to do, whatever the plan
    OpStat item[OP_NB], decode[OP_NB], sound[OP_NB], text[OP_NB];
    double hop_bytes;
} Work;

/* ---- paper.c: time --------------------------------------------------------------------------------------------------- */

/** Find it by rehearsals at sizes->width, height on `dry` that stands for `device`. @return 0 or an error (logged to be->log) */
int  avt_paper_work(Work *w, int steps, const char *device, const PlanSizes *sizes, const BackendOptions *be);
/** Seconds of an op by its arithmetic or its operands, whichever takes longer. */
double avt_paper_op(OpId op, double flops, double bytes, const Rates *rates);
/** f->paper, of a plan with memory and traffic. */
void avt_paper_time(Found *f, const Work *w, const Pool *pool, const PlanSizes *sizes);
/** The least that the period can be of a plan with the traffic of its first rank, however its layers are split; f->paper is left empty. */
double avt_paper_least(Found *f, const Work *w, const Pool *pool, const PlanSizes *sizes);

typedef struct PaperSeconds {
    double alone, together;             // with the other cores idle; with all of them at work
} PaperSeconds;

typedef struct PaperClock {             // what knows how long calls take, as tools/calibrate.h does
    PaperSeconds (*seconds)(void *opaque, const OpCall *call, int threads);
    void *opaque;
    double hop, turn;                   // seconds of a message that wakes up who waits; of an exchange, however little is sent
    double link;                        // bytes a second that an exchange sends besides
} PaperClock;

/** f->paper and traffic of a plan whose ranks share this machine's cores, by a clock for each call. The front is left out. @return 0 or an error */
int  avt_paper_clocked(Found *f, const PaperClock *clock, const PlanSizes *sizes, const BackendOptions *be);

/* ---- search.c -------------------------------------------------------------------------------------------------------- */

/** What all ranks of a plan share on paper, at sizes->width, height. @return 0 or an error */
int  avt_search_setup(RankSetup *set, const Plan *plan, const PlanSizes *sizes);
/**
 * The fastest plan over all of the pool that fits at the steps asked for and sizes->width, height; when none fits, the one that lacks
 * least, with lack > 0. With offload=auto all stays on the devices if that fits, else layers come from the host, else rings and
 * sinks as well: the frames are the same, so that it is a matter of speed, and nothing else is taken away.
 * @param o  plan and vae_device NULL or "auto": any; devices, loads and room are not looked at
 * @return 0; EINVAL (logged): no plan goes with what is asked; or another error
 */
int  avt_search_plan(Found *f, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be);
/** The same of the plan as `o` has it, devices included: only what offload=auto leaves open is found. */
int  avt_search_offload(Found *f, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be);
/** What fits instead: fewer steps, a smaller size, and either with layers from the host if offload was left open. @return how many were found, at most `max` */
int  avt_search_instead(Found *list, int max, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be);
/** The same with layers in 8 bits, where these were asked for in more. @return 1: it fits */
int  avt_search_lighter(Found *f, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be);
#define SEARCH_LIGHTER "int8"           // its precision=
/** The first of a name in the pool, others included; -1: none. */
int  avt_pool_find(const Pool *pool, const char *device);
/** "devices=...:plan=..." that say this plan. */
void avt_search_options(char *text, size_t size, const Found *f);

#endif
