/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plan: which rank holds which layers and steps, where the VAE runs, how items are ordered, and what all of it costs.
 *
 * A pipe is a run of ranks that together hold all layers; an item (block, step) goes down the pipe of its step.
 *   sequential, wave   one pipe of one rank              layer      one pipe of N ranks
 *   timestep           S pipes of one rank each
 * Items are admitted in waves: wave w holds (w, 0), (w-1, 1), (w-2, 2), ... `sequential` admits a block only when the one before
 * is through. The memory of a rank is found by running its forwards on `dry`.
 */
#ifndef AVT_PLAN_H
#define AVT_PLAN_H

#include "nets/dit.h"
#include "nets/sampler.h"
#include "nets/umt5.h"
#include "nets/vae.h"
#include "nets/wav2vec2.h"

#define PLAN_MAX_RANKS 64

typedef enum PlanKind { PLAN_SEQUENTIAL, PLAN_WAVE, PLAN_TIMESTEP, PLAN_LAYER } PlanKind;

typedef struct PlanRank {
    char device[32];
    int pipe;                           // -1: no layers (a VAE rank)
    int l0, l1;                         // layers held
    int vae;                            // decodes and encodes pictures
    int threads;                        // CPU threads of an op
} PlanRank;

typedef struct Plan {
    PlanKind kind;
    int steps;
    int nb_ranks, nb_pipes;
    PlanRank rank[PLAN_MAX_RANKS];      // ranks of a pipe are neighbours, in the order of their layers
    int vae_rank;
} Plan;

typedef struct PlanMemory {             // bytes of one rank, found on `dry`
    size_t weights, state, scratch;
} PlanMemory;

/**
 * Make a plan from the options' text.
 * @param plan     "auto", "sequential", "wave", "timestep", "layer"
 * @param devices  "auto" or names joined by '|': the order is the pipeline order
 * @param vae      "auto" (a free device, else the last one), a device of the list (its last rank), or "<device>:own"
 * @return 0; EINVAL (logged) with the option, the value, the remedy
 */
int avt_plan_make(Plan *p, const char *plan, const char *devices, const char *vae, int steps, int nb_layers, int cpu_threads,
                  const Log *log);
/** First and one past the last rank of the pipe of a step. */
int avt_plan_first(const Plan *p, int step);
int avt_plan_last(const Plan *p, int step);
/** Is a rank on the pipe of a step? */
int avt_plan_holds(const Plan *p, int rank, int step);
/** Most blocks in flight at once, and versions of text and sink that they may need. */
int avt_plan_in_flight(const Plan *p);
int avt_plan_versions(const Plan *p);
const char *avt_plan_text(const Plan *p, char *buf, size_t size);

/* The network sizes that a memory plan needs. */
typedef struct PlanSizes {
    DitConfig dit;
    Wav2Vec2Config wav2vec2;
    Umt5Config umt5;
    int vae_width;
    DType dtype;                        // storage of the DiT's matrices in the file
    DType t5_dtype;
} PlanSizes;

#endif
