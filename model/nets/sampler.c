/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Flow-match Euler schedule as diffusers' FlowMatchEulerDiscreteScheduler computes it.
 *
 *   shifted(u) = shift u / (1 + (shift - 1) u)      sigma_i = shifted(linspace(1, sigma_min, steps)_i),  sigma_min = shifted(1/1000)
 *
 * Trap: sigma_min is shifted already, in f32, and the spacing is shifted once more, in f64.
 */
#include "base/err.h"
#include "base/philox.h"
#include "nets/sampler.h"

#define TRAIN_STEPS 1000

int avt_schedule(Schedule *s, int steps, double shift)
{
    const float f = (float)shift, u_min = 1 / (float)TRAIN_STEPS, sigma_min = f * u_min / (1 + (f - 1) * u_min);
    const double first = TRAIN_STEPS, last = (double)sigma_min * TRAIN_STEPS;

    if (steps < 1 || steps > SAMPLER_MAX_STEPS || !(shift > 0))
        return AVT_ERR(EINVAL);
    s->steps = steps;
    for (int i = 0; i < steps; i++) {
        const double step = steps > 1 ? (last - first) / (steps - 1) : 0;
        const double u = (i && i == steps - 1 ? last : i * step + first) / TRAIN_STEPS;

        s->sigma[i] = (float)(shift * u / (1 + (shift - 1) * u));
        s->timestep[i] = TRAIN_STEPS * s->sigma[i];
    }
    s->sigma[steps] = 0;
    return 0;
}

void avt_noise(float *out, int64_t T, int64_t C, int64_t hw, uint64_t seed, int64_t block)
{
    for (int64_t t = 0; t < T; t++)
        for (int64_t c = 0; c < C; c++, out += hw)
            avt_philox_normal(out, (c * T + t) * hw, hw, seed, (uint32_t)block);
}
