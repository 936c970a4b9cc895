/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does the picture move while there is speech? A model gives a face that it does not know, or one of another size in the frame than its own,
 * a film that stands still, and its VAE gives that face back as well as any. So the film itself is looked at, in the blocks with speech.
 *
 * Frames are cut into 16x16 cells. Of each the mean brightness is taken, and counted how often it changes, from one frame to the next, by as
 * much as the card's `motion` says. A blink or the cut to another picture are few frames, a mouth that speaks is many. Measured on nano with
 * three sounds, three seeds: what the liveliest cell reaches in one frame of five is 11 to 26 levels with its own and other drawn faces, 3 to 8 where
 * the mouth is still: faces 1.2 to 2 times as large or 0.6 to 0.8, photographs.
 */
#ifndef AVT_MOTION_H
#define AVT_MOTION_H

#include "avatar.h"

#define MOTION_SIDE   16                // cells across, and down
#define MOTION_CELLS  (MOTION_SIDE * MOTION_SIDE)
#define MOTION_BLOCKS 8                 // with speech, after which there is an answer: 3.84 s
#define MOTION_SHARE  0.2               // of frames, in which the liveliest cell of a film that moves changes

typedef struct Motion {
    int least;                          // levels of brightness that count as a change; 0: the card does not say, nothing is watched
    int64_t from;                       // first block that counts: the first of this picture
    int blocks, frames;                 // counted so far
    int moved[MOTION_CELLS];            // frames in which each cell changed
    float last[MOTION_CELLS];           // of the frame before
    int64_t last_block;                 // that it is of
} Motion;

/** Watch a picture's film from block `from` on. */
void avt_motion_begin(Motion *m, int least, int64_t from);
/** Are more blocks wanted? */
int  avt_motion_watches(const Motion *m, int64_t block);
/** The next frame, in the host's memory, of a block in which there is speech. */
void avt_motion_add(Motion *m, const AvatarFrame *f, int64_t block);
/** A block is through. @return share of frames in which the liveliest cell changed, once all were seen; else -1 */
double avt_motion_end(Motion *m);

#endif
