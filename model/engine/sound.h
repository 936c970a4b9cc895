/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sound of a session: what was sent, whether the next block can be made of it, and its feature rows.
 *
 *   offline  the whole sound is encoded once, when the stream is closed
 *   live     a block can start when its 7680 samples and the look-ahead are there; its rows come out of a window that ends
 *            exactly there, so pictures do not depend on when sound arrived. Sound older than the window is forgotten.
 */
#ifndef AVT_SOUND_H
#define AVT_SOUND_H

#include "engine/front.h"

#define BLOCK_SAMPLES 7680              // of 12 frames

struct AvatarSession;

typedef enum SoundState { SOUND_MISSING, SOUND_READY, SOUND_OVER } SoundState;

typedef struct Sound {
    /* under the session's lock */
    float *pcm;                         // samples start .. start + nb - 1 of the stream
    int64_t start, nb, room;
    int closed;                         // no more will come
    int64_t wanted;                     // live: samples of the stream that the next block needs; offline: never enough
    int working;                        // blocks are in flight: frames will come without more sound
    int late;                           // enum AvatarLate
    int64_t max_late;                   // samples

    /* the conductor's */
    int live;
    int64_t lookahead;                  // samples
    int64_t next;                       // sound block that comes next; blocks left out count too
    int64_t nb_frames;                  // frames to give in all; INT64_MAX: not known yet
    float *rows;                        // offline [nb_rows, layers, dim]; live [12, layers, dim]
    int64_t nb_rows;                    // offline
    int encoded;                        // offline: rows are there
    Window window;
    Loudness loudness;
    int64_t heard;                      // samples that loudness has taken
} Sound;

int  avt_sound_open(struct AvatarSession *s);
void avt_sound_close(struct AvatarSession *s);
/** Append samples (lock held by the caller). */
int  avt_sound_append(struct AvatarSession *s, const float *pcm, int64_t nb);
/** Is more sound needed before any frame can come? Lock held. */
int  avt_sound_starved(const struct AvatarSession *s);

/** May the next block start? With `wait`: waits while it is SOUND_MISSING. @return a SoundState, or an error */
int avt_sound_state(struct AvatarSession *s, int wait);
/**
 * Blocks to leave out now, because sound is further ahead than max_late allows (late=repeat, drop); 0 mostly. They are left out.
 * Never before the first block: a stream begins where its sound does.
 * @param repeat  set to 1 when a frame is to be repeated for their time
 */
int64_t avt_sound_skip(struct AvatarSession *s, int *repeat);
/** Rows of the next block, valid until the next call; moves on to the one after it. */
int avt_sound_rows(struct AvatarSession *s, const float **rows);

#endif
