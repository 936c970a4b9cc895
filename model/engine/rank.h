/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rank: one worker of a plan. It holds some layers (or the VAE, or both) and walks the conductor's list of commands; what it
 * does for a command follows from the plan alone, and every rank meets the others in the same order.
 *
 *   rank --time, text, sound, embedded--> next rank of the pipe             (before the first command; CMD_TEXT; a new block)
 *   conductor --Cmd--> all ranks
 *   VAE rank --19 latents of the picture--> first rank of each pipe         (CMD_PICTURE)
 *   rank --x [N, D]--> next rank of the pipe                                (an item, a sink)
 *   last rank --latents--> first rank of the next step's pipe, or VAE rank  (an item's end)
 *   VAE rank --12 frames--> conductor
 *
 * Where a plan splits layers (tensor2, ulysses2) each of these ranks is a team. Its parts exchange what team.h says; what goes from team to
 * team goes from each part to the same part: its tokens of x, latents, which all have. What has been embedded comes from the first
 * part of the first team, the result for the VAE from its own rank, or from the first part of the last team.
 */
#ifndef AVT_RANK_H
#define AVT_RANK_H

#include "comm/comm.h"
#include "dry/dry.h"
#include "engine/front.h"
#include "nets/rings.h"

#define LATENT 16                       // channels of a latent
#define PRIME_LATENTS 7                 // motion latents that the decoder is primed with

typedef enum CmdKind { CMD_END, CMD_PICTURE, CMD_TEXT, CMD_SINK, CMD_WAVE } CmdKind;

typedef struct CmdItem {                // block g at step i
    int64_t block;
    uint64_t seed;
    int step, distance;                 // distance: that the sink's reference is ahead by, drawn from 4 .. 30
    int text, sink;                     // versions: slots
} CmdItem;

typedef struct Cmd {
    CmdKind kind;
    int slot;                           // TEXT, SINK: the slot to fill
    int text;                           // SINK: the text slot that it reads
    int from_block;                     // SINK: the reference becomes latent frame 0 of block 0's result first
    int prime;                          // PICTURE: prime the decoder with it
    int64_t rows;                       // TEXT: context rows; the rows follow as a message
    int64_t new_block;                  // WAVE: block whose feature rows follow as a message, or -1
    int nb_items;
    CmdItem item[SAMPLER_MAX_STEPS];    // WAVE: by step, ascending
} Cmd;

/* What tests put in place of drawn numbers, and what they look at. All may be NULL. Called from a rank's thread. */
typedef struct RankHooks {
    void *opaque;
    void (*noise)(void *opaque, float *out, int64_t nb, int64_t block);                 // [3, 16, H, W]; asked for a block ahead
    void (*latents)(void *opaque, int64_t block, const float *latents, int64_t nb);     // of a finished block
    void (*pixels)(void *opaque, int64_t block, const float *px, int64_t nb);           // [12, H, W, 3], or each part's rows of them
    void (*picture)(void *opaque, const float *ref, int64_t nb_ref, const float *motion, int64_t nb_motion);    // [1, 16, H, W], [19, ..]
    void (*returned)(void *opaque, const float *px, const float *back, int64_t nb);     // [H, W, 3] in [-1, 1]: the picture, as the VAE gives it back
    const DitProbe *probe;                                                              // of the first step of the first block
} RankHooks;

typedef struct RankWeights {            // the engine's, read-only
    Backend *be;
    Arena *arena;
    Dit dit;                            // its layers may be on a shelf
    Vae vae;
} RankWeights;

typedef struct ModelFiles {             // checkpoints that weights come from; any may be NULL when planning
    const Ckpt *dit, *vae;
    Lora *lora;
    const int *cancel;                  // as in Binder
    struct Loading *loading;            // as in Binder
} ModelFiles;

/** Bind the weights of rank `r` of a plan into an arena of `capacity` bytes on a backend of its own. */
int  avt_rank_weights_open(RankWeights *w, const Plan *plan, int r, const PlanSizes *sizes, const ModelFiles *files,
                           const BackendOptions *opt, const char *device, size_t capacity, const Log *log);
void avt_rank_weights_close(RankWeights *w);
/** m->weights, host and coming. Opening them reads in weights + coming bytes. */
void avt_rank_weights_count(PlanMemory *m, const RankWeights *w);

typedef struct RankSetup {              // what all ranks of a session share
    const Plan *plan;
    Schedule schedule;
    DitShape shape;
    PixelFormat format;
    const char *receiver;               // device that finished frames stay on; NULL: they go to the host
    int64_t text_len;                   // most context rows
    CommKind comm;
    int direct;                         // tensors between processes go from card to card: avt_workers_direct()
    RankHooks hooks;
    int timed;                          // ranks count what their stages take
    const int *cancel;
    const Log *log;
} RankSetup;

typedef struct RankRoutes {             // what the ranks of a plan and the conductor send each other, found by avt_rank_measure()
    CommRoute *route;
    int nb;
} RankRoutes;

/* Where the time of a rank's thread goes, when somebody wants to know. Waiting: for a command or a message. */
typedef enum RankStage { STAGE_WAIT, STAGE_PICTURE, STAGE_TEXT, STAGE_SINK, STAGE_SOUND, STAGE_LAYERS, STAGE_DECODE, STAGE_NB } RankStage;

/* And to whose use: ops, and the noise, which the host draws; waiting in a call of the comm, for a message, a command, room for one, or the
 * processor; the work of such calls. What is left is our own overhead. Known of devices whose ops are done when their calls return. */
typedef enum RankUse { USE_OPS, USE_WAITING, USE_MESSAGES, USE_NB } RankUse;

typedef struct Rank {
    const RankSetup *set;
    const PlanRank *place;
    int index;
    Comm *comm;                         // NULL: alone, nothing is sent or received
    Backend *be;
    Backend *copy;                      // queue that layers come on; be itself where they do not, or work is done when its call returns
    Backend *back;                      // queue that what was written in rings goes back on, in the same way
    Arena *state, *scratch, *messages;
    size_t part[STATE_NB];              // bytes of state
    const RankWeights *w;
    Dit dit;                            // w's, with this session's team, as this rank walks through it
    int nb_slots, nb_versions;          // blocks in flight; versions of text and sink
    DitTime *time, sink_time;           // [steps]
    DitKeys *text, *sink;               // [nb_versions]
    DitKeys *ring;                      // [steps]: those of this rank's pipe
    Rings rings;                        // their slots, where they come from the host
    DitAudio *audio;                    // [nb_slots]
    Tensor latent;                      // [nb_slots, 3, 16, H, W]: first and last ranks of a pipe, as ref
    Tensor ref, ref_next, motion;       // [1, 16, H, W]; the same, last ranks; [19, 16, H, W], first ranks
    VaeState dec;
    DitItem *items;                     // [steps]
    float *noise;                       // [3, 16, H, W], ranks that draw it: of block noise_block with noise_seed
    int64_t noise_block;                // -1: of none yet
    uint64_t noise_seed;
    int64_t drawn;                      // ns that noise has taken
    float *host;                        // what a hook sees
    RankStage stage;
    int64_t since;                      // avt_now_ns() when it began
    int64_t spent[STAGE_NB];            // ns; atomic: others read them
    int64_t used[USE_NB];               // of the same time
} Rank;

/** m->rings, moved. */
void avt_rank_rings_count(PlanMemory *m, const Rank *r);
/** Are a rank's ops counted in `used`? */
static inline int avt_rank_counts_ops(const Rank *r)
{
    return r->be && r->set->timed && r->be->cls->host_memory;       // another device would stop after each op
}

/** From here on the thread does `stage`. Work that its queue still holds is waited for, so that its time is counted where it belongs;
 *  without set->timed this does nothing. @return the stage before */
RankStage avt_rank_stage(Rank *r, RankStage stage);

/** Open a rank's state (sizes known from avt_rank_measure) on a backend of its own. */
int  avt_rank_open(Rank *r, const RankSetup *set, int index, const RankWeights *w, Comm *comm, const BackendOptions *opt, const char *device,
                   const PlanMemory *room);
/** Wait for the rank's work: all ranks of a session, before the first of them is closed, as they wait for each other's marks. */
void avt_rank_sync(Rank *r);
void avt_rank_close(Rank *r);
/** Walk the conductor's commands until CMD_END or a failure (which aborts the group). For a thread of its own. */
int  avt_rank_run(Rank *r);
/** What comes before the first command: rank_work.c. */
int  avt_rank_prepare(Rank *r);
/** Do one command: rank_work.c. Scratch is as before afterwards. */
int  avt_rank_obey(Rank *r, const Cmd *c);
static inline int avt_rank_has_layers(const Rank *r)
{
    return r->place->pipe >= 0;
}

/* The first rank of step 0's pipe embeds the noise, the last one takes the Euler step from it. */
static inline int avt_rank_draws_noise(const Rank *r)
{
    return avt_rank_has_layers(r) && avt_plan_holds(r->set->plan, r->index, 0) && (r->place->prev < 0 || r->place->next < 0);
}

typedef struct RankPlaces {             // of the ranks and, behind them, the conductor
    const char *device[PLAN_MAX_RANKS + 1];
    int process[PLAN_MAX_RANKS + 1];
} RankPlaces;

/** The comm of a plan, as process `own` sees it; `places` is filled and must stay for as long as the result is used. */
CommOptions avt_rank_comm(const RankSetup *set, const RankRoutes *routes, int own, RankPlaces *places);

/**
 * Memory of a rank: open it on `dry` and do everything once.
 * @param routes  (opt) the routes of this rank's messages are added, those that are there are made large enough; freed by the caller,
 *                `route` with avt_free()
 * @param stat  (opt) gets the ops' counts of one wave in mid-stream, [OP_NB]: an item of each step (a sequential plan: the last
 *              step's), and a block decoded
 */
int avt_rank_measure(PlanMemory *m, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt, RankRoutes *routes,
                     OpStat *stat);
/**
 * The calls of one item in mid-stream on a rank with layers, each op once for every set of shapes, in the order of first calls. Where a
 * plan has but one step and the rank the VAE, its pictures are among them.
 * @param calls  gets a list of *nb, freed with avt_free()
 */
int avt_rank_item(DryCall **calls, int64_t *nb, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt);
/** Likewise of one wave: an item of each step that is under way at once (a sequential plan: the last step's), and a block's pictures. */
int avt_rank_wave(DryCall **calls, int64_t *nb, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt);
/** What a part of a team sends to the others for one item in mid-stream, and in how many exchanges, one after another; 0 of a rank that is no
 *  part of one. @param m  (opt) gets the rank's memory, as avt_rank_measure() finds it, out of the same rehearsal */
int avt_rank_traffic(PlanMemory *m, CommTraffic *t, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt);
/** What layers (a part of each, where plan `like` splits them), ends of a pipe and the VAE ask of a device at sizes->width, height and
 *  like's steps, by rehearsals: for avt_plan_make(). w->front is left 0; w->layer is the caller's to free with avt_free().
 *  rank_weigh.c, as what follows. */
int avt_rank_loads(PlanLoads *w, const PlanSizes *sizes, const char *device, const Plan *like, const BackendOptions *opt);
/** avt_plan_make() with the loads that it wants found first; o->loads is not looked at. Logs to opt->log. */
int avt_rank_plan(Plan *p, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *opt);
/**
 * Does a plan fit? *lack: bytes that are missing on the device that has too few by most, of all that the plan puts there, front included; 0: none.
 * @param rank  gets a rank on that device, or -1
 * @param room  [nb_ranks], as in PlanOptions
 */
int avt_rank_lack(double *lack, int *rank, const RankSetup *set, const double *room, const PlanSizes *sizes, const BackendOptions *opt);

#endif
