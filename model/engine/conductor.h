/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Conductor: decides what the ranks do next. It admits blocks into waves, gives each its versions of text, sink and seed, sends
 * the commands, and takes the frames. Also here: the session's fields, shared between caller, conductor and ranks.
 */
#ifndef AVT_CONDUCTOR_H
#define AVT_CONDUCTOR_H

#include "engine/frames.h"
#include "engine/motion.h"
#include "engine/session.h"
#include "engine/sound.h"
#include "engine/stats.h"

#define SINK_REFRESH 4                  // first block that uses the second sink

#define DEFAULT_PROMPT "A person faces the camera and speaks naturally, with clear lip movements and a calm expression."

typedef struct FrameBlock {             // what there is to say of a place of the queue
    int64_t block, prompt_id;
    uint64_t seed;
    int64_t index;                      // of frame `first` in the stream
    int first, next, end;               // frames of the 12 that are given: first .. end - 1; next one
    int repeated;                       // frames are all its first one: made for sound that was left out
    double ms;
} FrameBlock;

typedef struct Flight {                 // a block in flight
    int64_t block, prompt_id;           // block: as the model counts
    int64_t heard;                      // as the sound counts: larger when blocks were left out
    int64_t skipped;                    // blocks left out before it
    int repeat;                         // the frame before is given once more for each of their frames
    int speaks;                         // there is speech in it, and its motion is watched
    uint64_t seed;
    int step;                           // next one
    int text, sink;                     // slots
    int64_t start;                      // avt_now_ns()
} Flight;

#define KEEP_SEED (-2)

typedef struct Changes {                // wanted, not yet taken by the conductor
    char *prompt;
    uint8_t *picture;                   // [H, W, 3]
    int64_t seed, prompt_id;            // prompt_id: how many prompts there were before; how many these are
} Changes;

typedef struct LaterChange {            // waits for the sound's block `block`
    struct LaterChange *next;           // in the order of blocks, one a block
    int64_t block;
    Changes ch;                         // seed KEEP_SEED: stays
} LaterChange;

struct AvatarSession {
    AvatarEngine *e;
    SessionHooks hooks;
    AvatarInfo info;
    int format;
    Crew crew;
    FrontSetup front_set;
    PlanMemory front_planned;
    Front front;
    pthread_t conductor, listener;
    int listening;                      // the listener started
    int running;                        // of the list in threads.c, with the next field
    AvatarSession *next_running;
    int orphan;                         // this process is a forked child, which has none of the threads
    int cancel;                         // atomic
    Stats stats;                        // the conductor's

    pthread_mutex_t lock;               // the fields below
    pthread_cond_t change;
    Sound sound;                        // in part: see sound.h
    Changes next;
    LaterChange *later;
    int64_t settled;                    // the sound's first block that a change can still reach
    FrameBlock ready[FRAME_QUEUE];      // of the places of `frames`
    int head, nb_ready;
    int status, finished;               // first failure; no more blocks will come
    int nb_teams, team_status;          // our threads that have OpenMP's below them; a failure of one

    /* the conductor's own */
    Frames frames;
    int64_t admitted, received, wave;   // blocks begun, blocks whose frames came, waves
    Flight flight[SAMPLER_MAX_STEPS];   // oldest first
    int nb_flight;
    Flight done[4];                     // finished, frames not yet taken: oldest first
    int nb_done;
    int text, sink;                     // versions for the next block
    Motion motion;                      // of the film so far
    int refreshed;                      // the second sink is in place, or will never be wanted (a new picture came)
    int64_t prompt_id;
    uint64_t seed;
};

int  avt_cancelled(const AvatarSession *s);
/** Keep changes for a block; those of one block add up. Takes the strings of `ch`, but not after an error. Lock held. @return 0, ENOMEM */
int  avt_changes_add(AvatarSession *s, int64_t block, Changes *ch);
/** Move what is meant for `block` or one before it into s->next. Lock held. */
void avt_changes_due(AvatarSession *s, int64_t block);
void avt_changes_free(AvatarSession *s);
/** The whole stream, from the first picture to CMD_END. For a thread of its own, while the ranks walk theirs. */
int  avt_conductor_play(AvatarSession *s);
/** The ranks are gone: give what was finished, and the session its end. @param ret  of the play */
void avt_conductor_finish(AvatarSession *s, int ret);

#endif
