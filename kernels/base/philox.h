/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Philox 4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011):
 * the same numbers on every device, in every order.
 */
#ifndef AVT_BASE_PHILOX_H
#define AVT_BASE_PHILOX_H

#include <stdint.h>

enum { PHILOX_NOISE = 0, PHILOX_DISTANCE = 1 };                     // purpose: the fourth counter word

/** Four random words for `seed` (the key, low word first) at the counter (q, block, step, purpose). */
void avt_philox(uint32_t x[4], uint64_t seed, uint32_t q, uint32_t block, uint32_t step, uint32_t purpose);

/**
 * Standard normal noise of one block, values first .. first + nb of it: 4q .. 4q+3 come from counter (q, block, 0, PHILOX_NOISE).
 * u = (x + 0.5) * 2^-32; Box-Muller on (u0, u1) and (u2, u3), cosine first, in double, rounded to f32.
 *
 * @param first  a multiple of 4
 * @param nb     number of values; the last group of four may be cut
 */
void avt_philox_normal(float *out, int64_t first, int64_t nb, uint64_t seed, uint32_t block);

/** A sink distance, uniform in 4 .. 30, for item (block, step). */
int avt_philox_distance(uint64_t seed, uint32_t block, uint32_t step);

#endif
