/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Flow-match Euler schedule (streaming.md 4): the shift is applied twice, as the original does. And the noise that it starts from. */
#ifndef AVT_SAMPLER_H
#define AVT_SAMPLER_H

#include <stdint.h>

#define SAMPLER_MAX_STEPS 100

typedef struct Schedule {
    int steps;
    float sigma[SAMPLER_MAX_STEPS + 1];             // last one 0
    float timestep[SAMPLER_MAX_STEPS];              // 1000 sigma
} Schedule;

/** @return 0, or EINVAL for steps outside 1 .. 100 or shift <= 0 */
int avt_schedule(Schedule *s, int steps, double shift);

/** Noise of a block, out [T, C, hw] on the host, a function of seed and block alone. Its values are counted as [C, T, hw],
 *  hw is a multiple of 4. */
void avt_noise(float *out, int64_t T, int64_t C, int64_t hw, uint64_t seed, int64_t block);

#endif
