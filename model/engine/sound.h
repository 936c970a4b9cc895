/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sound of a session: what was sent, and the feature rows that a thread of its own, the listener, makes of it while it comes.
 *
 *   send --samples--> pcm --a piece at a time--> front --rows--> ring --a block at a time--> conductor
 *
 *   whole    up to 60 s, and compat: one piece, when the stream is closed
 *   windows  longer: 60 s, the next 30 s later, each when the sound behind it has begun or the stream is closed. A window gives
 *            the rows up to 5 s before its end, the last one, which is the stream's last 60 s, all that are left
 *   live     8 s, a block and the look-ahead: a window a block, which ends exactly there
 *
 * What a piece hears, and is normalized by, depends on the stream alone, never on when sound arrived. Sound that no later piece needs
 * is forgotten; the ring holds the rows of two windows, and the listener waits for room. So memory does not grow with the stream.
 */
#ifndef AVT_SOUND_H
#define AVT_SOUND_H

#include "avatar.h"
#include "engine/front.h"
#include "engine/loudness.h"

#define BLOCK_SAMPLES 7680              // of 12 frames
#define LIVE_LEFT 128000                // samples of left context: 8 s
#define LIVE_LATENCY_MS 160             // default look-ahead
#define SOUND_WINDOW 960000             // samples of a window, and most that are taken whole: 60 s
#define SOUND_STEP 480000               // from window to window: 30 s
#define SOUND_RIGHT 80000               // a window's context behind its rows: 5 s
#define SOUND_WAITS (SOUND_WINDOW + SOUND_STEP)     // samples that a piece may have to wait for, with those kept for a last window
#define SOUND_ROOM ((int64_t)3900 * 16000)          // samples that wait before avt_sound_full(): an hour, the filter's longest hole, and more

typedef enum SoundState { SOUND_MISSING, SOUND_READY, SOUND_OVER } SoundState;

typedef struct Sound {
    /* set before avt_sound_open() */
    pthread_mutex_t *lock;              // the session's
    pthread_cond_t *change;             // told of everything
    const int *cancel;
    const Log *log;
    Front *front;                       // open; NULL with `given`
    int live, compat, tail;
    int64_t lookahead;                  // live: samples
    const float *given;                 // [nb_given, layers, dim]: rows in place of the front's, or NULL; nb_given a multiple of 12
    int64_t nb_given;
    int64_t row_size;                   // values of a row: layers * dim

    /* under the lock */
    float *pcm;                         // samples start .. start + nb - 1 of the stream
    int64_t start, nb, room;
    int closed;                         // no more will come
    int64_t listened;                   // ns that the front has taken
    int working;                        // blocks are in flight: frames will come without more sound
    int hearing;                        // the listener is at work on a piece
    int over;                           // the listener may go
    int status;                         // its failure
    int late;                           // enum AvatarLate
    int64_t max_late;                   // samples
    int64_t made;                       // frames whose rows were made
    int64_t next;                       // sound block that comes next; blocks left out count too

    /* the listener's */
    float *piece;                       // the piece's samples
    int64_t piece_room;
    float *rows;                        // ring [rows_room, layers, dim]: frame i's row is number i % rows_room
    int64_t rows_room;                  // frames, a multiple of 12
    Loudness loudness;                  // live
    Level level;                        // windows
    int64_t heard;                      // samples that they have taken

    /* the conductor's */
    int64_t nb_frames;                  // frames to give in all; INT64_MAX: not known yet
} Sound;

/** Samples of the largest piece that a stream of this kind may have (compat: of those that are not longer than 60 s). */
int64_t avt_sound_piece(int live, int64_t lookahead);
/** Host bytes that a sound holds while the sender takes what frames there are before he sends more (compat: of those up to 60 s). */
int64_t avt_sound_bytes(const Sound *o);
/** @return 0, ENOMEM */
int  avt_sound_open(Sound *o);
/** Free all. The listener is gone. */
void avt_sound_close(Sound *o);
/** Encode what comes until told to stop, cancelled, or failed (o->status). For a thread of its own, when rows are not given. */
void avt_sound_listen(Sound *o);
/** Tell the listener to stop. */
void avt_sound_stop(Sound *o);

/* ---- the sender's; lock held ---- */

/** Append samples. @return 0, ENOMEM (not logged: the lock is held) */
int  avt_sound_append(Sound *o, const float *pcm, int64_t nb);
/** Enough waits: send no more until frames were taken. */
int  avt_sound_full(const Sound *o);
/** Is more sound needed before any frame can come? */
int  avt_sound_starved(const Sound *o);

/* ---- the conductor's ---- */

/** May the next block start? With `wait`: waits while it is SOUND_MISSING. @return a SoundState, or an error */
int avt_sound_state(Sound *o, int wait);
/**
 * Blocks to leave out now, because sound is further ahead than max_late allows (late=repeat, drop); 0 mostly. They are left out.
 * Never before the first block: a stream begins where its sound does.
 * @param repeat  set to 1 when a frame is to be repeated for their time
 */
int64_t avt_sound_skip(Sound *o, int *repeat);
/** Has the next block speech? Not known, 0, where its samples were forgotten or never there. */
int avt_sound_speaks(Sound *o);
/** Rows of the next block, which may be waited for after a skip; valid until the next call. Moves on to the block after it. */
int avt_sound_rows(Sound *o, const float **rows);

#endif
