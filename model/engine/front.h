/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What runs before the transformer, once a prompt or a sound, on the host: text -> context rows, speech -> feature rows. */
#ifndef AVT_FRONT_H
#define AVT_FRONT_H

#include "engine/engine.h"

/**
 * Context of a prompt: cleaned, tokenized, encoded.
 * @param context  gets a host array [*rows, text_dim], freed with avt_free()
 * @return 0; EINVAL (not UTF-8), AVT_INVALID (weights), ENOMEM, ECANCELED
 */
int avt_front_text(const Core *c, float **context, int64_t *rows, const char *prompt, const int *cancel, const Log *log);

/**
 * Feature rows of a whole sound: one for each video frame, padded to whole blocks (product.md 1), or the original's (compat).
 * @param pcm       n samples, 16 kHz mono
 * @param features  gets a host array [*rows, layers, dim], freed with avt_free(); *rows is a multiple of 12
 */
int avt_front_sound(const Core *c, float **features, int64_t *rows, const float *pcm, int64_t n, const int *cancel, const Log *log);

/* ---- live: a window of the sound at a time (product.md 6) ---- */

#define LIVE_LEFT 128000                // samples of left context: 8 s
#define LIVE_LATENCY_MS 160             // default look-ahead

typedef struct Window {                 // the audio encoder kept open for a live stream; nothing is allocated after open
    Backend *be;
    Arena *scratch;
    float *pcm;                         // [LIVE_LEFT + block + look-ahead]: the window, normalized in place
    int64_t room;
} Window;

int  avt_window_open(Window *w, const Core *c, int64_t lookahead, const int *cancel, const Log *log);
void avt_window_close(Window *w);
/**
 * Rows of one block out of w->pcm.
 * @param n     samples in the window, a sample count that starts at the stream's sample 320 * row0
 * @param out   host [12, layers, dim]
 */
int avt_window_rows(Window *w, const Core *c, float *out, int64_t block, int64_t row0, int64_t n);

typedef struct Loudness {               // running mean and variance of voiced sound, in pieces of 20 ms
    double mean, var;
    int64_t voiced;                     // pieces so far, and one second's worth to begin with
} Loudness;

void avt_loudness_init(Loudness *l);
/** Take the next 320 samples. */
void avt_loudness_add(Loudness *l, const float *pcm);
/** (x - mean) / sqrt(max(var, 1e-4) + 1e-7), in place. */
void avt_loudness_normalize(const Loudness *l, float *pcm, int64_t n);

#endif
