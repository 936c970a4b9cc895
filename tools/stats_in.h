/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines of stats=FILE, read: for avatar top and avatar plot. */
#ifndef AVT_TOOL_STATS_IN_H
#define AVT_TOOL_STATS_IN_H

#include <stdint.h>

#include "engine/rank.h"

typedef struct StatsRank {
    char device[PLAN_DEVICE];
    int l0, l1, vae;
    double ms[STAGE_NB];
    double bytes[5];                    // weights, state, scratch, workspace, messages
} StatsRank;

typedef struct StatsLine {
    int64_t block, frame, frames, queue, steps, warnings;
    double time, block_ms, fps, fps_mean, ahead_ms, front_ms;
    char size[24], precision[8], plan[96], front[32];
    int nb_ranks;
    StatsRank rank[PLAN_MAX_RANKS];
} StatsLine;

extern const char *const stats_stages[STAGE_NB], *const stats_memory[5];

/** @return 1, or 0 for a line that is none */
int stats_parse(StatsLine *l, const char *text, size_t size);

#endif
