/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Flow-match Euler schedule (streaming.md 4): the shift is applied twice, as the original does. */
#ifndef AVT_SAMPLER_H
#define AVT_SAMPLER_H

#define SAMPLER_MAX_STEPS 100

typedef struct Schedule {
    int steps;
    float sigma[SAMPLER_MAX_STEPS + 1];             // last one 0
    float timestep[SAMPLER_MAX_STEPS];              // 1000 sigma
} Schedule;

/** @return 0, or EINVAL for steps outside 1 .. 100 or shift <= 0 */
int avt_schedule(Schedule *s, int steps, double shift);

#endif
