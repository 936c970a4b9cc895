/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Statistics of a session: a line of JSON a block, into a file or pipe that somebody may watch (avatar top, avatar plot). A reader that
 * is slow or away costs lines, never time.
 */
#ifndef AVT_STATS_H
#define AVT_STATS_H

#include "avatar.h"
#include "engine/rank.h"

#define STATS_HEAD "{\"block\":"        // every line begins so

struct FrameBlock;

typedef struct Stats {
    int fd;                             // -1: nobody wants any
    char *line;                         // begins with the end of the one before, which is left out unless that was torn
    int64_t opened, last;               // avt_now_ns(): of the session, of the block before
    int64_t took;                       // ns that the line before took
    int64_t frames, lost;               // given so far; lines that found no room
    int error, torn;                    // of the last of those; the file ends within a line
    int64_t spent[PLAN_MAX_RANKS][STAGE_NB], used[PLAN_MAX_RANKS][USE_NB], listened;        // as the block before found them
} Stats;

/** @param path  NULL: none. @return 0; ENOENT and the like; EEXIST for a file that holds something else (all logged) */
int  avt_stats_open(AvatarSession *s, const char *path);
/** The block whose frames have come, before they are handed out. */
void avt_stats_block(AvatarSession *s, const struct FrameBlock *b);
void avt_stats_close(AvatarSession *s);

#endif
