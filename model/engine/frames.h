/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Frames: a session's finished blocks, between the conductor, who takes them from the ranks that decode, and the caller, who reads them.
 *
 *   VAE rank --12 frames, or a part's rows of them--> mailbox --> place of the queue --> caller
 *
 * One way for both homes: the host's memory, and that of the GPU that decodes (RankSetup.receiver), where frames stay. What reads and copies
 * is a queue of the conductor's own; a block that is handed out is complete.
 */
#ifndef AVT_FRAMES_H
#define AVT_FRAMES_H

#include "engine/crew.h"

#define FRAME_QUEUE 3                   // blocks of frames: one being read, two ahead

typedef struct Frames {
    const Crew *crew;
    Backend *be;                        // the conductor's queue, where frames are received
    Arena *arena;
    Tensor block[FRAME_QUEUE];          // [12, avt_pixels_size()] u8: places of the queue
    Tensor slice;                       // of a block: the largest part's rows; where the VAE has parts
} Frames;

/** The device that they lie on. */
const char *avt_frames_device(const Crew *crew);
/** Bytes of it that avt_frames_open() takes; the crew was measured. */
size_t avt_frames_bytes(const Crew *crew);
/** For an open crew. @return 0 or an error (logged); avt_frames_close() in any case */
int  avt_frames_open(Frames *f, const Crew *crew);
/** When the ranks have been synced, before the crew is closed. Frames that were never opened are fine. */
void avt_frames_close(Frames *f);

/** Wait for the next block of the ranks that decode, into a place of the queue. @return 0 or the group's failure */
int  avt_frames_take(Frames *f, int place);
/** Frame `at` of block `from` is the first one of block `place` too. @return 0 or a failure */
int  avt_frames_repeat(Frames *f, int place, int from, int at);
/** data, linesize, width, height of frame `at` of a place. */
void avt_frames_describe(const Frames *f, AvatarFrame *out, int place, int at);

#endif
