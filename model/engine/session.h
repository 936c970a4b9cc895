/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening a session with hooks: what tests put in place of drawn or computed inputs, and what they look at. */
#ifndef AVT_SESSION_H
#define AVT_SESSION_H

#include "engine/engine.h"

typedef struct SessionHooks {
    RankHooks rank;
    CommKind comm;
    int (*distance)(void *opaque, int64_t block, int step);         // sink distance of an item
    int (*admit)(void *opaque, int64_t block, int64_t wave);        // 0: pretend that the sound of this block is not there yet
    void (*moved)(void *opaque, double share);                      // what avt_motion_end() came to, once a picture; it is not logged then
    const float *features;              // [nb_rows, layers, dim] in place of wav2vec2's; a multiple of 12 rows
    int64_t nb_rows;
    const float *context;               // [nb_context, text_dim] in place of umT5's
    int64_t nb_context;
} SessionHooks;

int avt_session_open(AvatarSession **s, AvatarEngine *e, const AvatarLook *look, const SessionHooks *hooks);
/** Bytes that rank `src` has sent to rank `dst` (the conductor is the number of ranks). */
int64_t avt_session_bytes(const AvatarSession *s, int src, int dst);
/** High-water marks of a rank's arenas, and what the plan said. */
PlanMemory avt_session_measured(const AvatarSession *s, int rank);
PlanMemory avt_session_planned(const AvatarSession *s, int rank);

#endif
