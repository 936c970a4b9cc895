/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Philox 4x32-10, normal noise by Box-Muller, and the sink distance. See philox.h. */
#include <math.h>

#include "base/philox.h"

void avt_philox(uint32_t x[4], uint64_t seed, uint32_t q, uint32_t block, uint32_t step, uint32_t purpose)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

    x[0] = q;
    x[1] = block;
    x[2] = step;
    x[3] = purpose;
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)0xD2511F53 * x[0], b = (uint64_t)0xCD9E8D57 * x[2];

        x[0] = (uint32_t)(b >> 32) ^ x[1] ^ k0;
        x[1] = (uint32_t)b;
        x[2] = (uint32_t)(a >> 32) ^ x[3] ^ k1;
        x[3] = (uint32_t)a;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
}

void avt_philox_normal(float *out, int64_t first, int64_t nb, uint64_t seed, uint32_t block)
{
    for (int64_t q = 0; 4 * q < nb; q++) {
        uint32_t x[4];
        float v[4];

        avt_philox(x, seed, (uint32_t)(first / 4 + q), block, 0, PHILOX_NOISE);
        for (int i = 0; i < 4; i += 2) {
            const double u = (x[i] + 0.5) * 0x1p-32, w = (x[i + 1] + 0.5) * 0x1p-32;
            const double r = sqrt(-2 * log(u)), a = 6.283185307179586476925 * w;

            v[i] = (float)(r * cos(a));
            v[i + 1] = (float)(r * sin(a));
        }
        for (int i = 0; i < 4 && 4 * q + i < nb; i++)
            out[4 * q + i] = v[i];
    }
}

int avt_philox_distance(uint64_t seed, uint32_t block, uint32_t step)
{
    uint32_t x[4];

    avt_philox(x, seed, 0, block, step, PHILOX_DISTANCE);
    return 4 + (int)((uint64_t)x[0] * 27 >> 32);
}
