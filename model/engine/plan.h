/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plan: which rank holds which layers and steps, where the VAE runs, how items are ordered, and what all of it costs.
 *
 * A pipe is a run of ranks that together hold all layers; an item (block, step) goes down the pipe of its step.
 *   sequential, wave   one pipe of one rank              layer      one pipe of N ranks
 *   timestep           S pipes of one rank each
 * Ranks may live in several processes, on several hosts: a device is then named with its process, 1:cuda0.
 * With +tensorP or +ulyssesP behind it (alone: behind sequential) each of these ranks is a team of P, which split its layers: nets/team.h.
 * Items are admitted in waves: wave w holds (w, 0), (w-1, 1), (w-2, 2), ... `sequential` admits a block only when the one before
 * is through. What a rank does follows from the fields below alone. The memory of a rank is found by running its forwards on
 * `dry` (avt_rank_measure).
 */
#ifndef AVT_PLAN_H
#define AVT_PLAN_H

#include "nets/dit.h"
#include "nets/sampler.h"
#include "nets/umt5.h"
#include "nets/vae.h"
#include "nets/wav2vec2.h"

#define PLAN_MAX_RANKS 64
#define PLAN_DEVICE 48                  // bytes of a device's name with its process

typedef enum PlanKind { PLAN_SEQUENTIAL, PLAN_WAVE, PLAN_TIMESTEP, PLAN_LAYER } PlanKind;

typedef enum Offload { OFFLOAD_NONE, OFFLOAD_WEIGHTS, OFFLOAD_ALL } Offload;

typedef struct PlanRank {
    char device[32];
    int process;                        // that it lives in: 0, or a worker (comm/world.h)
    int pipe;                           // -1: no layers (a VAE rank)
    int prev, next;                     // ranks before and behind in the pipe; -1: none
    int part, nb_parts;                 // its part of each of its layers, 0 of 1: all; parts of a team are neighbours
    int l0, l1;                         // layers held
    int vae;                            // decodes pictures, or a part of them; the first such rank encodes them as well
    int threads;                        // CPU threads of an op
} PlanRank;

typedef struct Plan {
    PlanKind kind;                      // for avt_plan_text() alone
    TeamWay split;                      // of layers over the parts of a team
    int steps;
    int in_flight;                      // most blocks in flight at once
    int versions;                       // of text and sink that these may need
    int batch;                          // most items that go through a rank's layers together
    int first[SAMPLER_MAX_STEPS], last[SAMPLER_MAX_STEPS];     // ranks of the pipe of a step
    int nb_ranks;
    PlanRank rank[PLAN_MAX_RANKS];      // ranks of a pipe are neighbours, in the order of their layers
    int vae_rank, vae_parts;            // the first of the ranks that decode, and how many there are: neighbours, some rows each
    char front_device[32];              // of the encoders of speech and text, which are no rank: front.h
    int front_threads;
    Offload offload;                    // what comes from the host: layers' weights that do not stand on their device, rings and sinks as well
    double resident;                    // bytes of them that may stand on each
    DType kv;                           // Dit.kv
} Plan;

/* What a rank's state is for: slots of layers that come from the host; rings, or the slots that rings and sinks come into; sinks; keys of the text;
 * keys, values and tables of the sound; the decoder's past; latents and modulations. */
typedef enum StatePart { STATE_LAYERS, STATE_RINGS, STATE_SINKS, STATE_TEXT, STATE_SOUND, STATE_VAE, STATE_LATENTS, STATE_NB } StatePart;

typedef struct PlanMemory {             // bytes of one rank, found on `dry`
    size_t weights, state, scratch;
    size_t part[STATE_NB];              // of state
    size_t workspace;                   // of the most demanding op
    size_t messages;                    // mailboxes of what other ranks send it
    size_t host;                        // in the host's memory, not the device's: layers that come from there
    size_t coming;                      // bytes of layers that come in each walk, from there or out of the file
    size_t rings;                       // in the host's memory: rings and sinks that come from there,
    size_t moved;                       // and bytes of them that come for each item
} PlanMemory;

/* On the device. */
static inline size_t avt_plan_sum(const PlanMemory *m)
{
    return m->weights + m->state + m->scratch + m->workspace + m->messages;
}

typedef struct PlanCost {               // FLOPs of a block, all its steps; bytes for as long as a session lives
    double flops, bytes;
} PlanCost;

typedef struct PlanLoads {              // what each part of a `layer` plan asks of its device: avt_rank_loads()
    PlanCost *layer;                    // [nb_layers], with what is bound to it; owned
    PlanCost any;                       // of every rank with layers, whichever they are
    PlanCost first, last;               // of a pipe's ends, besides
    PlanCost vae;                       // beside layers
    double vae_alone, front;            // bytes
} PlanLoads;

typedef struct PlanProcess {            // what a plan must know of a process that its ranks may live in
    int cores;                          // that it may use
    int shares;                         // first process of those that use the same cores
} PlanProcess;

typedef struct PlanOptions {            // NULL: "auto"
    const char *plan;                   // "auto", "sequential", "wave", "timestep", "layer"; these +tensorP, +ulyssesP
    const char *devices;                // "auto" or names joined by '|', "cuda0" or "1:cuda0": the order is the pipeline order
    const char *vae_device;             // "auto" (a free device, else the last one), a device of the list, or "<device>:own"
    const char *front_device;           // "auto" (the VAE's), or any device
    int vae_split;                      // over how many ranks the decoder is; 0, 1: one
    const char *offload;                // "auto" (none, unless a search finds that it does not fit: search.h), "none", "weights", "all"
    double resident;                    // GB (10^9) of layers that stand on each device all the same
    const char *kv;                     // "auto" (the activations' type), "bf16", "fp8"
    int steps, nb_layers;
    int nb_heads;                       // that can be split; 0: not known yet, any number of parts will do
    int cpu_threads;                    // 0: all cores
    const PlanLoads *loads;             // NULL: a layer is like another, and nothing else weighs
    const double *room;                 // [devices] bytes that each may take, 0: no limit; NULL: none is known
    double host;                        // bytes of the host's memory for what comes from there; 0: no limit is known
    const PlanProcess *process;         // [nb_processes], or NULL: each has this one's cores for itself
    int nb_processes;                   // 0: this one alone
} PlanOptions;

/**
 * Make a plan from the options' text. Under `layer` each rank holds one layer at least, and they are split so that, by opt->loads, the
 * ranks take as little as can be beyond their room, most often nothing; then the slowest of them is as fast as can be; then their bytes
 * are as even as can be. Every device that is named gets work, or is refused.
 * @return 0; EINVAL (logged) with the option, the value, the remedy; ENOMEM
 */
int avt_plan_make(Plan *p, const PlanOptions *opt, const Log *log);
/** Its layers: l0, l1 of nb teams of `parts` ranks each, which are the first of the plan; the VAE and the front have their places already.
 *  plan_layers.c. @return 0 or ENOMEM */
int avt_plan_split_layers(Plan *p, const PlanOptions *opt, int nb, int parts);
/** Type of activations that every device of the plan runs fastest; *slow (opt) gets a device for which that is f32, or NULL. */
DType avt_plan_act(const Plan *p, CpuLevel level, const char **slow);
/** Are two ranks on one device? */
int avt_plan_same_device(const PlanRank *a, const PlanRank *b);
/** Do ranks live in other processes than the front's? */
int avt_plan_is_spread(const Plan *p);
/** What offload= may come to, from all on the devices to all that can come: of "auto" none, weights, all, else what is asked for.
 *  @param rung  gets `asked` with the i-th of them  @return 0: there is none */
int avt_plan_rung(PlanOptions *rung, const PlanOptions *asked, int i);
/** "none", "weights", "all" */
const char *avt_offload_name(const Plan *p);
/** Do the rings of a rank come from the host? On a CPU, which has no other memory, they stand. */
int avt_plan_moves_rings(const Plan *p, int rank);
/** What its kv is with activations of type `act`: "f32", "bf16", "fp8". */
const char *avt_kv_name(const Plan *p, DType act);
/** Name of a rank's device, with its process where there are several: "cuda0", "1:cuda0". @param buf  [PLAN_DEVICE], may be what is returned */
const char *avt_plan_device(const Plan *p, int rank, char *buf);
/** Is a rank on the pipe of a step? */
int avt_plan_holds(const Plan *p, int rank, int step);
/** Ranks of a team: 1 where no layer is split. */
int avt_plan_parts(const Plan *p);
/** The plan's name as plan= takes it: "layer+tensor2". */
const char *avt_plan_name(const Plan *p, char *buf, size_t size);
/** Devices in the order of the ranks, as "layer on cuda0|cuda1+VAE"; a rank of the VAE alone is "cuda2 (VAE)". A front that is
 *  elsewhere than the VAE is named behind them: ", front on cpu". When they live in several processes, so do their names: "1:cuda0". */
const char *avt_plan_text(const Plan *p, char *buf, size_t size);

/* The network sizes that a memory plan needs. */
typedef struct PlanSizes {
    DitConfig dit;
    Wav2Vec2Config wav2vec2;
    Umt5Config umt5;
    int vae_width;
    DType dtype;                        // storage of the DiT's matrices in the file
    int width, height;                  // of the frames when nobody says
    int steps;                          // likewise; 0: the model does not say either
} PlanSizes;

/** Sizes of the model as published, of 14B: frames of 704x384, weights in bf16. */
void avt_plan_sizes_published(PlanSizes *s);

#endif
