/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Clock of the avatar filter: where in time a frame of sound belongs. Pure arithmetic, in samples of 16 kHz.
 *
 * Samples are counted; time stamps correct the count. Stamps jitter (lossy codecs, containers, sound that is stamped when it
 * arrives in bursts), so one stamp decides nothing: a hole is filled when the frame behind it agrees, an overlap is cut when the stamps
 * step back, and what is left over for a whole second is taken out slowly, a sample in 200.
 */
#ifndef AVFILTER_AVATAR_CLOCK_H
#define AVFILTER_AVATAR_CLOCK_H

#include <stdint.h>

#define AVATAR_CLOCK_NONE INT64_MIN     ///< no time stamp, no frame

enum AvatarPlace {
    AVATAR_PLACE_HERE,                  ///< behind `fill` samples of silence, without its first `cut` samples
    AVATAR_PLACE_WAIT,                  ///< cannot be told before the frame behind it is there
    AVATAR_PLACE_HOLE,                  ///< a new take: the clock jumped forward by more than max_gap
    AVATAR_PLACE_BACK,                  ///< a new take: it jumped back by more than max_gap, or began again at 0
};

typedef struct AvatarClock {
    int64_t max_drift, max_gap;         ///< samples; set by the user before the first frame

    int64_t next;                       ///< where the next frame is expected
    int64_t last;                       ///< stamp of the frame before, AVATAR_CLOCK_NONE in the beginning
    int64_t longest;                    ///< frame so far
    int64_t last_end;                   ///< the same and the frame's length
    int64_t uneven;                     ///< samples for which the stamps count as uneven
    int64_t low, high, heard, since;    ///< of a second that is not over: least and largest difference, samples so far, first stamp
    int64_t cutting;                    ///< samples that the overlap in progress still has to lose
    int64_t slip;                       ///< samples to be put in (or, negative, left out) slowly

    int64_t filled, cut;                ///< samples of silence put in, samples of sound left out, in all
    int64_t last_fill, last_cut;        ///< where that was last, for one line of log an episode
} AvatarClock;

/** Begin a take whose first sample is at `start`. What was counted stays. */
void ff_avatar_clock_start(AvatarClock *c, int64_t start);

/**
 * Find the place of a frame.
 *
 * @param at    its stamp, or AVATAR_CLOCK_NONE: behind the one before
 * @param nb    its length
 * @param then  stamp of the frame behind it, AVATAR_CLOCK_NONE if there is none yet
 * @param more  whether a frame may still come behind it
 * @param fill  samples of silence before it; may be more than the clock's hole when a second was late as a whole
 * @param cut   samples of its beginning to leave out, up to nb
 * @return an enum AvatarPlace; the clock moves on at AVATAR_PLACE_HERE only
 */
int ff_avatar_clock_place(AvatarClock *c, int64_t at, int64_t nb, int64_t then, int more, int64_t *fill, int64_t *cut);

/** Samples to put in (1), leave out (-1) or neither (0) at the end of a piece of AVATAR_CLOCK_PIECE samples. */
int ff_avatar_clock_slip(AvatarClock *c);
#define AVATAR_CLOCK_PIECE 200

/** 1 when this is the first fill (or cut) of an episode: none was within ten seconds before it. */
int ff_avatar_clock_first_fill(AvatarClock *c);
int ff_avatar_clock_first_cut(AvatarClock *c);

#endif
