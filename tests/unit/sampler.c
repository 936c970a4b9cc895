/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The schedule against the published table, bit for bit; where the noise lies. */
#include <string.h>

#include "base/half.h"
#include "base/philox.h"
#include "nets/sampler.h"
#include "test.h"

static void published_steps(void **state)
{
    static const uint32_t four[] = { 0x3f800000, 0x3f5b91b9, 0x3f1a268a, 0x3c124925, 0 }, three[] = { 0x3f800000, 0x3f404979, 0x3c124925, 0 };
    Schedule s;

    (void)state;
    REQUIRE_OK(avt_schedule(&s, 4, 3));
    REQUIRE(s.steps == 4);
    for (int i = 0; i < 5; i++)
        REQUIRE(avt_f32_bits(s.sigma[i]) == four[i]);
    REQUIRE(s.timestep[1] == 857.6923217773438f && s.timestep[3] == 8.928571701049805f);
    REQUIRE_OK(avt_schedule(&s, 3, 3));
    for (int i = 0; i < 4; i++)
        REQUIRE(avt_f32_bits(s.sigma[i]) == three[i]);
}

static void any_number_falls_from_one_to_zero(void **state)
{
    (void)state;
    for (int steps = 1; steps <= SAMPLER_MAX_STEPS; steps++) {
        Schedule s;

        REQUIRE_OK(avt_schedule(&s, steps, 3));
        REQUIRE(s.sigma[0] == 1 && s.sigma[steps] == 0 && s.timestep[0] == 1000);
        for (int i = 0; i < steps; i++)
            REQUIRE(s.sigma[i] > s.sigma[i + 1]);
    }
}

static void nonsense_is_refused(void **state)
{
    Schedule s;

    (void)state;
    REQUIRE(avt_schedule(&s, 0, 3) == AVT_ERR(EINVAL));
    REQUIRE(avt_schedule(&s, SAMPLER_MAX_STEPS + 1, 3) == AVT_ERR(EINVAL));
    REQUIRE(avt_schedule(&s, 4, 0) == AVT_ERR(EINVAL));
    REQUIRE(avt_schedule(&s, 4, -1) == AVT_ERR(EINVAL));
}

/* Frame after frame, but every value that of its place in [C, T, hw]: the same seed has given the same film since before frames came first. */
static void noise_lies_by_frames_and_counts_by_channels(void **state)
{
    enum { T = 3, C = 16, HW = 12 };
    float counted[C][T][HW], v[T][C][HW];

    (void)state;
    avt_philox_normal(counted[0][0], 0, C * T * HW, 77, 5);
    avt_noise(v[0][0], T, C, HW, 77, 5);
    for (int t = 0; t < T; t++)
        for (int c = 0; c < C; c++)
            assert_memory_equal(v[t][c], counted[c][t], sizeof(v[t][c]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_steps),
        cmocka_unit_test(any_number_falls_from_one_to_zero),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(noise_lies_by_frames_and_counts_by_channels),
    };

    return test_main("sampler", tests);
}
