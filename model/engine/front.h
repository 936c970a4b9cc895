/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front: what runs before the transformer. Text -> context rows, a stretch of sound -> feature rows.
 *
 * A place of the plan like a rank: the weights are the engine's, a session opens a backend and a scratch of its own, as large as its
 * largest piece of work needs, which is found by doing that work on `dry`.
 */
#ifndef AVT_FRONT_H
#define AVT_FRONT_H

#include <pthread.h>

#include "engine/plan.h"
#include "nets/tokenizer.h"

#define BLOCK_FRAMES 12                 // video frames, and feature rows, of a block
#define FRONT_SILENCE 80                // samples behind a block that its last row looks at

typedef struct FrontWeights {           // the engine's, read-only
    Backend *be;
    Arena *arena;
    Wav2Vec2 wav2vec2;
    Umt5 t5;
} FrontWeights;

typedef struct FrontSetup {             // what a session asks of it
    const PlanSizes *sizes;
    int64_t samples;                    // of the largest piece of sound; 0: none
    int tokens;                         // of the longest prompt; 0: none
    size_t keep;                        // bytes of umT5's layers that may stay in the host's memory
    int compat;                         // enum AvatarCompat
    const int *cancel;                  // as in Backend
    const Log *log;
} FrontSetup;

typedef struct Front {
    FrontSetup set;
    const FrontWeights *w;
    BackendOptions opt;
    pthread_mutex_t lock;               // text and sound come from two threads: one at a time
    Backend *be, *copy;                 // copy: the queue that umT5's layers come on, be itself where memory is the host's
    Arena *scratch;
    PlanMemory room;                    // of scratch and workspace
} Front;

typedef enum PieceNorm { NORM_OWN, NORM_LEVEL, NORM_LOUDNESS } PieceNorm;       // by itself, or as in loudness.h

typedef struct Piece {                  // a stretch of the stream that is encoded at once
    int64_t begin, n;                   // samples; begin is a multiple of 320; silence where the stream has ended
    int64_t first, nb;                  // frames that get their rows from it
    int64_t heard;                      // it is normalized by the stream's samples before this one
    PieceNorm norm;
} Piece;

typedef struct FrontFiles {             // NULL: planning without one
    const Ckpt *wav2vec2;
    const Ckpt *t5;                     // stays open for as long as the weights
    const int *cancel;                  // as in Binder, of the speech encoder's weights, and the next
    struct Loading *loading;
} FrontFiles;

/** Of `left` bytes of host memory, what umT5's layers may have for good: a quarter. They are used once a prompt. */
size_t avt_front_keep(int64_t left);
/** Bind the speech encoder's weights into an arena of `capacity` bytes on a backend of its own, and open umT5, of which `keep` bytes may stay.
 *  `w` must not move while it is open. */
int  avt_front_weights_open(FrontWeights *w, const PlanSizes *sizes, const FrontFiles *files, size_t keep, const BackendOptions *opt,
                            const char *device, size_t capacity);
void avt_front_weights_close(FrontWeights *w);

/**
 * Memory of a front on a device: open it on `dry` and do the largest piece of work of each kind once. Of umT5 the weights hold what
 * stays on the device itself.
 * @param stat  (opt) gets the ops' counts of that rehearsal, [OP_NB]
 */
int  avt_front_measure(PlanMemory *m, const FrontSetup *set, const char *device, const BackendOptions *opt, OpStat *stat);
/** Open a session's front with scratch and workspace as avt_front_measure() found them (opt->threads being the same). */
int  avt_front_open(Front *f, const FrontSetup *set, const FrontWeights *w, const BackendOptions *opt, const char *device,
                    const PlanMemory *room);
void avt_front_close(Front *f);
/** Make room for a piece of `samples`, if that is more than it was opened for. ENOMEM (logged) when its device or the host has not that much. */
int  avt_front_reserve(Front *f, int64_t samples, size_t result);

/**
 * Context of a prompt: cleaned, tokenized, encoded.
 * @param context  gets a host array [*rows, text_dim], freed with avt_free()
 * @return 0; EINVAL (not UTF-8), AVT_INVALID (weights), ENOMEM, ECANCELED
 */
int avt_front_text(Front *f, const Tokenizer *tokenizer, float **context, int64_t *rows, const char *prompt);

/**
 * Feature rows of a piece: one for each video frame (doc/model.md, "Time"), or with compat the original's.
 * @param pcm   p->n samples, normalized, silence where the stream has ended
 * @param out   host [room, layers, dim]: frame i's row is number i % room. room is a multiple of 12, at least p->nb
 * @return 0, EINVAL (compat: fewer than 400 samples), ECANCELED
 */
int avt_front_rows(Front *f, const Piece *p, const float *pcm, float *out, int64_t room);

/** Frames that the original makes of n samples, a multiple of 48: as many clips as it would make, the silent last one included. */
int64_t avt_front_upstream_rows(int64_t n);

#endif
