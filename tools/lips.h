/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does the mouth follow the sound? The mouth is the first principal component of the lower middle of the frame, in 8x8 means: opening and
 * closing is what changes most there. Frames may be part of something larger: `stride` is the bytes from one to the next.
 */
#ifndef AVT_TOOL_LIPS_H
#define AVT_TOOL_LIPS_H

#include <stddef.h>
#include <stdint.h>

#define LIPS_LAG   12                   // frames, each way
#define LIPS_CELLS 64

typedef struct LipsFrame {
    float cell[LIPS_CELLS];             // mean luma of the lower middle, by squares
    float mouth;                        // along the component
    float loud;                         // dB of the frame's 40 ms above -60; 0 without sound
} LipsFrame;

/** cell, of luma [h][w]. */
void lips_look(LipsFrame *f, const uint8_t *luma, int w, int h);
/** loud, of nb samples with this sum of squares. */
float lips_loudness(double sum, int nb);
/** mouth of all frames. */
void lips_find(LipsFrame *frame, size_t stride, int64_t nb);
/** Correlation of the mouth with the loudness `lag` frames before it, of either sign. */
double lips_follow(const LipsFrame *frame, size_t stride, int64_t nb, int lag);
/** The lag with the best one, *r; *other is the best at a lag that is far from it. */
int  lips_best(const LipsFrame *frame, size_t stride, int64_t nb, double *r, double *other);

#endif
