/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running loudness of live sound: silence stays silent, speech comes to unit power, a DC offset goes. */
#include <math.h>
#include <stdlib.h>

#include "engine/loudness.h"
#include "test.h"

#define PIECE 320

/* `seconds` of a tone of an amplitude on an offset, from second `at` on. */
static void hear(Loudness *l, double amplitude, double offset, int at, int seconds)
{
    float pcm[PIECE];

    for (int64_t i = 0; i < 50 * seconds; i++) {
        for (int k = 0; k < PIECE; k++)
            pcm[k] = (float)(offset + amplitude * sin(2 * M_PI * 150 * (double)(at * 16000 + i * PIECE + k) / 16000));
        avt_loudness_add(l, pcm);
    }
}

/* Mean and root mean square of a second of such a tone, normalized. */
static void normalized(const Loudness *l, double amplitude, double offset, double *mean, double *rms)
{
    static float pcm[16000];

    *mean = *rms = 0;
    for (int k = 0; k < 16000; k++)
        pcm[k] = (float)(offset + amplitude * sin(2 * M_PI * 150 * (double)k / 16000));
    avt_loudness_normalize(l, pcm, 16000);
    for (int k = 0; k < 16000; k++) {
        *mean += (double)pcm[k] / 16000;
        *rms += (double)pcm[k] * pcm[k] / 16000;
    }
    *rms = sqrt(*rms);
}

/* Loud, ordinary and soft speakers come to unit power within the time constant, wherever they began. */
static void speech_comes_to_unit_power(void **state)
{
    static const double amplitudes[] = { 0.9, 0.1, 0.02 };
    double mean, rms;

    (void)state;
    for (int i = 0; i < 3; i++) {
        Loudness l;

        avt_loudness_init(&l);
        hear(&l, amplitudes[i], 0, 0, 60);
        normalized(&l, amplitudes[i], 0, &mean, &rms);
        assert_true(fabs(rms - 1) < 0.02 && fabs(mean) < 0.01);
        hear(&l, 0.3, 0, 60, 10);                               // another speaker: two thirds of the way in 10 s
        normalized(&l, 0.3, 0, &mean, &rms);
        assert_true(fabs(1 / (rms * rms) - 1) < 0.4 * fabs(amplitudes[i] * amplitudes[i] / 0.09 - 1));
    }
}

/* Expected speech, -23 dBFS, is at unit power from the first sample. */
static void starts_at_an_expected_level(void **state)
{
    Loudness l;
    double mean, rms;

    (void)state;
    avt_loudness_init(&l);
    normalized(&l, 0.0708 * sqrt(2), 0, &mean, &rms);
    assert_true(fabs(rms - 1) < 0.05);
}

static void silence_stays_silent(void **state)
{
    Loudness l, before;
    double mean, rms;

    (void)state;
    avt_loudness_init(&l);
    hear(&l, 0.1, 0, 0, 20);
    before = l;
    hear(&l, 0, 0, 20, 300);                                    // digital silence
    hear(&l, 0.001, 0, 320, 300);                               // hum at -63 dBFS
    assert_true(l.mean == before.mean && l.var == before.var);
    normalized(&l, 0.001, 0, &mean, &rms);
    assert_true(rms < 0.02);
    avt_loudness_init(&l);                                      // nothing but silence: no gain brings it up
    hear(&l, 0.0001, 0, 0, 60);
    normalized(&l, 0.0001, 0, &mean, &rms);
    assert_true(rms < 0.01);
}

static void offset_is_removed(void **state)
{
    Loudness l, fresh;
    double mean, rms;

    (void)state;
    avt_loudness_init(&l);
    fresh = l;
    hear(&l, 0, 0.25, 0, 30);                                   // an offset alone is no speech
    assert_true(l.var == fresh.var && l.voiced == fresh.voiced);
    hear(&l, 0.1, 0.25, 30, 60);
    normalized(&l, 0.1, 0.25, &mean, &rms);
    assert_true(fabs(mean) < 0.03 && fabs(rms - 1) < 0.02);     // without it the mean would be 3.5
}

/* A shout of a moment does not set the level for good, and the gain has a ceiling. */
static void recovers_and_is_bounded(void **state)
{
    Loudness l;
    double mean, rms;

    (void)state;
    avt_loudness_init(&l);
    hear(&l, 0.1, 0, 0, 20);
    hear(&l, 1, 0, 20, 1);
    hear(&l, 0.1, 0, 21, 60);
    normalized(&l, 0.1, 0, &mean, &rms);
    assert_true(fabs(rms - 1) < 0.05);
    avt_loudness_init(&l);
    hear(&l, 0.0046, 0, 0, 120);                                // just above -50 dBFS: below the variance's floor
    normalized(&l, 0.0046, 0, &mean, &rms);
    assert_true(rms > 0.3 && rms < 0.35);
}

/* Syllables are told from what is as loud all the time, and from silence. */
static void speech_is_told(void **state)
{
    static float pcm[24 * PIECE], speech[76800];
    const float *block = pcm;
    int spoken = 0;

    (void)state;
    REQUIRE(!avt_loudness_speaks(block, 24));
    for (int i = 0; i < 24 * PIECE; i++)
        pcm[i] = 0.3f * (float)sin(0.1 * i);
    REQUIRE(!avt_loudness_speaks(block, 24));
    test_random(pcm, 24 * PIECE, 1);
    REQUIRE(!avt_loudness_speaks(block, 24));
    for (int i = 0; i < 24 * PIECE; i++)
        pcm[i] *= i / (6 * PIECE) % 2 ? 0.02f : 0.2f;               // four syllables a second
    REQUIRE(avt_loudness_speaks(block, 24));
    for (int i = 0; i < 24 * PIECE; i++)
        pcm[i] *= 0.01f;
    REQUIRE(!avt_loudness_speaks(block, 24));                       // far too soft
    test_read_speech(speech, 76800);
    for (int b = 0; b < 10; b++)
        spoken += avt_loudness_speaks(speech + b * 24 * PIECE, 24);
    REQUIRE(spoken >= 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(speech_comes_to_unit_power), cmocka_unit_test(starts_at_an_expected_level), cmocka_unit_test(silence_stays_silent),
        cmocka_unit_test(offset_is_removed), cmocka_unit_test(recovers_and_is_bounded), cmocka_unit_test(speech_is_told),
    };

    return test_main("loudness", tests);
}
