/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The front: what runs before the transformer. Text -> context rows, a stretch of sound -> feature rows.
 *
 * A session's front is opened with the scratch that its largest piece of work needs, found by doing that work on `dry`. The
 * weights are the engine's.
 */
#ifndef AVT_FRONT_H
#define AVT_FRONT_H

#include "engine/engine.h"

#define FRONT_SILENCE 80                // samples behind a block that its last row looks at

typedef struct Front {
    const Core *core;
    const Log *log;
    pthread_mutex_t lock;               // text and sound come from two threads: one at a time
    Backend *be;
    Arena *scratch;
    size_t bytes;                       // of scratch
} Front;

typedef enum PieceNorm { NORM_OWN, NORM_LEVEL, NORM_LOUDNESS } PieceNorm;       // by itself, or as in loudness.h

typedef struct Piece {                  // a stretch of the stream that is encoded at once
    int64_t begin, n;                   // samples; begin is a multiple of 320; silence where the stream has ended
    int64_t first, nb;                  // frames that get their rows from it
    int64_t heard;                      // it is normalized by the stream's samples before this one
    PieceNorm norm;
} Piece;

/**
 * Bytes of scratch for a piece of `samples` and a prompt of full length, found on `dry`.
 * @return 0 or an error (logged)
 */
int  avt_front_measure(const Core *c, size_t *bytes, int64_t samples, const Log *log);
/** Open a session's front. @param cancel  as in Backend */
int  avt_front_open(Front *f, const Core *c, size_t bytes, const int *cancel, const Log *log);
void avt_front_close(Front *f);
/** Make room for a piece of `samples`, if that is more than it was opened for. ENOMEM (logged) when the host has not that much. */
int  avt_front_reserve(Front *f, int64_t samples, size_t result);

/**
 * Context of a prompt: cleaned, tokenized, encoded.
 * @param context  gets a host array [*rows, text_dim], freed with avt_free()
 * @return 0; EINVAL (not UTF-8), AVT_INVALID (weights), ENOMEM, ECANCELED
 */
int avt_front_text(Front *f, float **context, int64_t *rows, const char *prompt);

/**
 * Feature rows of a piece: one for each video frame (product.md 1), or with compat the original's.
 * @param pcm   p->n samples, normalized, silence where the stream has ended
 * @param out   host [room, layers, dim]: frame i's row is number i % room. room is a multiple of 12, at least p->nb
 * @return 0, EINVAL (compat: fewer than 400 samples), ECANCELED
 */
int avt_front_rows(Front *f, const Piece *p, const float *pcm, float *out, int64_t room);

/** Frames that the original makes of n samples, a multiple of 48: as many clips as it would make, the silent last one included. */
int64_t avt_front_upstream_rows(int64_t n);

#endif
