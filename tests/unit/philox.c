/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Philox against the known answers of its authors (Random123), the noise against its definition and its statistics. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "test.h"

static void known_answers(void **state)
{
    static const struct { uint32_t counter[4], key[2], want[4]; } known[] = {
        { { 0 }, { 0 }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { ~0u, ~0u, ~0u, ~0u }, { ~0u, ~0u }, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    (void)state;
    for (int i = 0; i < 3; i++) {
        const uint32_t *c = known[i].counter;
        uint32_t x[4];

        avt_philox(x, (uint64_t)known[i].key[1] << 32 | known[i].key[0], c[0], c[1], c[2], c[3]);
        assert_memory_equal(x, known[i].want, sizeof(x));
    }
}

/* Values 4q .. 4q+3 come from counter (q, block, 0, 0): Box-Muller on both pairs, cosine first. */
static void noise_by_definition(void **state)
{
    float v[11];

    (void)state;
    avt_philox_normal(v, 0, 11, 0x123456789abcdefull, 5);
    for (uint32_t q = 0; q < 3; q++) {
        uint32_t x[4];

        avt_philox(x, 0x123456789abcdefull, q, 5, 0, PHILOX_NOISE);
        for (uint32_t i = 0; i < 4 && 4 * q + i < 11; i++) {
            const double u = (x[i & ~1u] + 0.5) / 4294967296.0, w = 2 * M_PI * (x[i | 1] + 0.5) / 4294967296.0;

            assert_true(fabs(v[4 * q + i] - sqrt(-2 * log(u)) * (i & 1 ? sin(w) : cos(w))) < 1e-6);
        }
    }
}

static void noise_statistics(void **state)
{
    enum { NB = 200000 };
    float *v = malloc(NB * sizeof(*v)), other[4];
    double sum = 0, squares = 0, fourth = 0, lag = 0;

    (void)state;
    avt_philox_normal(v, 0, NB, 7, 0);
    for (int i = 0; i < NB; i++) {
        sum += v[i];
        squares += (double)v[i] * v[i];
        fourth += (double)v[i] * v[i] * v[i] * v[i];
        lag += i ? (double)v[i] * v[i - 1] : 0;
    }
    assert_true(fabs(sum / NB) < 0.01 && fabs(squares / NB - 1) < 0.015 && fabs(fourth / NB - 3) < 0.1 && fabs(lag / NB) < 0.01);
    avt_philox_normal(other, 0, 4, 8, 0);
    assert_true(memcmp(other, v, sizeof(other)));
    avt_philox_normal(other, 0, 4, 7, 1);
    assert_true(memcmp(other, v, sizeof(other)));
    avt_philox_normal(other, 1000, 3, 7, 0);                        // a part of the list is that part of the whole
    assert_memory_equal(other, v + 1000, 3 * sizeof(*v));
    free(v);
}

static void distances(void **state)
{
    int seen[64] = { 0 };

    (void)state;
    for (uint32_t block = 0; block < 5000; block++) {
        const int d = avt_philox_distance(3, block, block % 4);
        uint32_t x[4];

        avt_philox(x, 3, 0, block, block % 4, PHILOX_DISTANCE);
        assert_int_equal(d, 4 + (int)((x[0] * 27ull) >> 32));
        assert_in_range(d, 4, 30);
        seen[d]++;
    }
    for (int d = 4; d <= 30; d++)
        assert_in_range(seen[d], 120, 260);                         // 185 expected
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers), cmocka_unit_test(noise_by_definition),
        cmocka_unit_test(noise_statistics), cmocka_unit_test(distances),
    };

    return test_main("philox", tests);
}
