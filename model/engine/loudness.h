/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What sound is normalized by before the speech encoder hears it: mean and variance of a stream of which the end is not known.
 *
 *   Loudness  live: of voiced sound, over its last 10 s
 *   Level     a long sound offline: of all that was heard so far
 */
#ifndef AVT_LOUDNESS_H
#define AVT_LOUDNESS_H

#include <stdint.h>

#define LOUDNESS_PIECE 320              // samples that are voiced or not: 20 ms

typedef struct Loudness {
    double mean, var;
    int64_t voiced;                     // pieces so far, and one second's worth to begin with
} Loudness;

void avt_loudness_init(Loudness *l);
/** Take the next 320 samples. */
void avt_loudness_add(Loudness *l, const float *pcm);
/** Is there speech in these `nb` pieces (50 at most)? It is loud, above -40 dBFS, and goes up and down with the syllables, by 6 dB: unlike silence,
 *  a tone or a steady noise. */
int  avt_loudness_speaks(const float *pcm, int nb);
/** (x - mean) / sqrt(max(var, 1e-4) + 1e-7), in place. */
void avt_loudness_normalize(const Loudness *l, float *pcm, int64_t n);

typedef struct Level {                  // zeros: nothing heard yet
    int64_t n;                          // samples
    double mean, square;                // square: sum of the squared distances from the mean
} Level;

/** Take the next n samples; how they are cut changes nothing but the last bits. */
void avt_level_add(Level *l, const float *pcm, int64_t n);
/** (x - mean) / sqrt(var + 1e-7), in place, as avt_wav2vec2_normalize() does with a whole sound. */
void avt_level_normalize(const Level *l, float *pcm, int64_t n);

#endif
