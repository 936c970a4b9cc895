/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The embedded model's lips: a voice that it never heard speaks through the portrait `anna`, and the mouth's opening, read from the
 * pictures, follows the true one. The same sound late, or silent, or another sentence's, must not follow it: that shows what a
 * model that does not listen, or a clock that is off, would look like here.
 *
 * Sound and truth: tests/gold/lips.*, by tools/nano/truth.py --fixture. The reading is that of tools/nano/measure.py.
 */
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "avatar.h"
#include "config.h"
#include "test.h"

#define R_FOLLOWS 0.85                              // least correlation of the opening with the truth, at most one frame off
#define R_BROKEN 0.3                                // most correlation within one frame of it when the sound is not the truth's
#define NEAR 1                                      // frames
#define LATE 4                                      // frames: 160 ms

#define SIZE 128
#define FRAMES 120
#define HALF 60                                     // a sentence
#define SAMPLES (640 * FRAMES)
#define MAX_LAG 8

typedef struct Box {
    int y0, y1, x0, x1;
} Box;

static float speech[SAMPLES];                       // two sentences of equal length
static double truth[FRAMES];                        // opening, 0 to 1
static Box mouth;                                   // in the frames
static png_bytep portrait;                          // RGB
static AvatarLook look;
static AvatarEngine *engine;

/* ---- what is given ---------------------------------------------------------------------------------------------------------- */

static void read_truth(void)
{
    FILE *f = fopen(AVT_SRCDIR "/tests/gold/lips.csv", "r");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "#%*[^\n]\n%d,%d,%d,%d", &mouth.y0, &mouth.y1, &mouth.x0, &mouth.x1), 4);
    for (int i = 0; i < FRAMES; i++)
        assert_int_equal(fscanf(f, "%lf", &truth[i]), 1);
    fclose(f);
}

static void read_portrait(void)
{
    png_image png = { .version = PNG_IMAGE_VERSION };

    REQUIRE(png_image_begin_read_from_file(&png, AVT_SRCDIR "/model/nano/faces/anna.png"));
    png.format = PNG_FORMAT_RGB;
    portrait = malloc(PNG_IMAGE_SIZE(png));
    REQUIRE(portrait && png_image_finish_read(&png, NULL, portrait, 0, NULL));
    look.rgb = portrait;
    look.width = (int)png.width;
    look.height = (int)png.height;
}

/* ---- what is read from the pictures ----------------------------------------------------------------------------------------- */

/* Dark pixels in the mouth's box: the cavity is the one dark area there. */
static double opening(const AvatarFrame *f)
{
    double sum = 0;

    for (int y = mouth.y0; y < mouth.y1; y++)
        for (int x = mouth.x0; x < mouth.x1; x++) {
            const uint8_t *p = f->data[0] + y * f->linesize[0] + 3 * x;
            const double luma = (0.30 * p[0] + 0.59 * p[1] + 0.11 * p[2]) / 255;

            sum += fmin(fmax((0.30 - luma) / 0.15, 0), 1);
        }
    return sum;
}

static void speak(double *open, const float *pcm, int nb_frames)
{
    AvatarSession *s = NULL;
    AvatarFrame f;
    int nb = 0;

#if defined(__SANITIZE_THREAD__)
    SKIP("half an hour under the thread sanitizer, and its threads are those of the other tests");
#endif
    REQUIRE_OK(avatar_session_open(&s, engine, &look));
    REQUIRE_OK(avatar_session_send(s, pcm, 640 * nb_frames));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    while (avatar_session_receive(s, &f, AVATAR_WAIT) >= 0) {
        REQUIRE(f.width == SIZE && f.height == SIZE && nb < nb_frames);
        open[nb++] = opening(&f);
    }
    assert_int_equal(nb, nb_frames);
    avatar_session_close(&s);
}

/* Correlation of a with b; what stands still follows nothing. */
static double correlation(const double *a, const double *b, int n)
{
    double ma = 0, mb = 0, aa = 0, bb = 0, ab = 0;

    for (int i = 0; i < n; i++) {
        ma += a[i] / n;
        mb += b[i] / n;
    }
    for (int i = 0; i < n; i++) {
        aa += (a[i] - ma) * (a[i] - ma);
        bb += (b[i] - mb) * (b[i] - mb);
        ab += (a[i] - ma) * (b[i] - mb);
    }
    return aa > 1e-9 * n && bb > 1e-9 * n ? ab / sqrt(aa * bb) : 0;
}

/* The best correlation of the opening with the truth at offsets of from .. to frames; positive: the lips are late. */
static double best(const double *open, int nb, int from, int to, int *at)
{
    double r = -2;

    for (int k = from; k <= to; k++) {
        const double c = correlation(open + (k > 0 ? k : 0), truth + (k < 0 ? -k : 0), nb - abs(k));

        if (c > r) {
            r = c;
            *at = k;
        }
    }
    return r;
}

/* Against the first sentence's truth. */
static void check_broken(const char *what, const double *open)
{
    int at;
    const double r = best(open, HALF, -NEAR, NEAR, &at);

    print_message("%-20s r %.3f within %d frame, at most %.2f\n", what, r, NEAR, R_BROKEN);
    REQUIRE(r <= R_BROKEN);
}

/* ---- tests ------------------------------------------------------------------------------------------------------------------ */

static void lips_follow_the_voice(void **state)
{
    double open[FRAMES], r;
    int at;

    (void)state;
    speak(open, speech, FRAMES);
    r = best(open, FRAMES, -MAX_LAG, MAX_LAG, &at);
    print_message("%-20s r %.3f at %+d, at least %.2f\n", "the voice", r, at, R_FOLLOWS);
    REQUIRE(r >= R_FOLLOWS);
    assert_in_range(at + NEAR, 0, 2 * NEAR);
}

static void late_sound_is_seen(void **state)
{
    static float pcm[SAMPLES];
    double open[HALF];
    int at;

    (void)state;
    memcpy(pcm + 640 * LATE, speech, sizeof(*speech) * 640 * (HALF - LATE));
    speak(open, pcm, HALF);
    best(open, HALF, -MAX_LAG, MAX_LAG, &at);
    assert_in_range(at, LATE - NEAR, LATE + NEAR);
    check_broken("160 ms late", open);
}

static void silence_is_seen(void **state)
{
    static const float pcm[SAMPLES];
    double open[HALF];

    (void)state;
    speak(open, pcm, HALF);
    check_broken("silence", open);
}

static void another_sentence_is_seen(void **state)
{
    double open[HALF];

    (void)state;
    speak(open, speech + 640 * HALF, HALF);
    check_broken("another sentence", open);
}

static int setup(void **state)
{
    AvatarOptions opt;

    (void)state;
    test_read_speech(speech, SAMPLES);
    read_truth();
    avatar_options_default(&opt);
    avatar_look_default(&look);
    read_portrait();
    look.seed = 1;
    look.format = AVATAR_RGB24;
    opt.model = AVT_SRCDIR "/model/nano";
    opt.devices = "cpu";
    return avatar_engine_open(&engine, &opt);
}

static int teardown(void **state)
{
    (void)state;
    avatar_engine_close(&engine);
    avatar_engine_flush();
    free(portrait);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lips_follow_the_voice), cmocka_unit_test(late_sound_is_seen), cmocka_unit_test(silence_is_seen),
        cmocka_unit_test(another_sentence_is_seen),
    };

    return _cmocka_run_group_tests("lips", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
