/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A film that moves with speech is told from one that stands still, whatever else changes in it, in every format of frames. */
#include <string.h>

#include "engine/motion.h"
#include "test.h"

#define W 128
#define H 64
#define LEVELS 8

static uint8_t plane[3 * W * H];

/* Grey, with a mouth of 16x8 that is `open` levels darker, and eyes likewise. */
static void draw(AvatarFrame *f, int mouth, int eyes)
{
    const int step = f->format == AVATAR_RGB24 ? 3 : 1;

    memset(plane, 120, sizeof(plane));
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 16 * step; x++) {
            plane[(40 + y) * W * step + 48 * step + x] = (uint8_t)(120 - mouth);
            plane[(16 + y) * W * step + 48 * step + x] = (uint8_t)(120 - eyes);
        }
    f->data[0] = plane;
    f->linesize[0] = W * step;
}

/* The answer after MOTION_BLOCKS blocks: the mouth changes by `levels` in every `every`-th frame, eyes in the first five; the last block is
 * `jump` blocks behind the others. */
static double share_of(Motion *m, int format, int levels, int every, int eyes, int64_t first, int64_t jump)
{
    AvatarFrame f = { .width = W, .height = H, .format = format };
    double share = -1;
    int open = 0;

    for (int b = 0; b < MOTION_BLOCKS; b++) {
        const int64_t block = first + b + (b + 1 == MOTION_BLOCKS ? jump : 0);

        REQUIRE(share == -1 && avt_motion_watches(m, block));
        for (int i = 0; i < 12; i++) {
            open ^= i % every == 0;
            draw(&f, open * levels, b == 0 && i < 5 && i % 2 ? eyes : 0);
            avt_motion_add(m, &f, block);
        }
        share = avt_motion_end(m);
    }
    REQUIRE(!avt_motion_watches(m, first + MOTION_BLOCKS));
    return share;
}

static void moving_and_still(void **state)
{
    static const int formats[] = { AVATAR_YUV420P, AVATAR_YUV444P, AVATAR_NV12, AVATAR_RGB24, AVATAR_GBRP };
    Motion m;

    (void)state;
    for (int i = 0; i < 5; i++) {
        avt_motion_begin(&m, LEVELS, 0);
        REQUIRE(share_of(&m, formats[i], 40, 2, 0, 0, 0) > 0.45);               // every second frame
        avt_motion_begin(&m, LEVELS, 0);
        REQUIRE(share_of(&m, formats[i], 4, 2, 200, 0, 0) < 0.1);               // blinks, and a mouth that trembles
        avt_motion_begin(&m, LEVELS, 0);
        REQUIRE(share_of(&m, formats[i], 0, 1, 0, 0, 0) == 0);
    }
    avt_motion_begin(&m, LEVELS, 0);
    REQUIRE(share_of(&m, AVATAR_YUV420P, LEVELS, 1, 0, 0, 0) > 0.98);           // just as much as counts
    avt_motion_begin(&m, LEVELS, 0);
    REQUIRE(share_of(&m, AVATAR_GBRP, LEVELS, 1, 0, 0, 0) == 0);                // of 255 levels it is less
}

/* From one block with speech to the next there may be others: what changed in between is no motion. */
static void gaps(void **state)
{
    Motion near, far;

    (void)state;
    avt_motion_begin(&near, LEVELS, 7);
    avt_motion_begin(&far, LEVELS, 7);
    REQUIRE(share_of(&near, AVATAR_NV12, 40, 12, 0, 7, 0) > share_of(&far, AVATAR_NV12, 40, 12, 0, 7, 2));
    REQUIRE(near.frames == 95 && far.frames == 94);
}

static void when_it_watches(void **state)
{
    Motion m;

    (void)state;
    avt_motion_begin(&m, LEVELS, 5);
    REQUIRE(!avt_motion_watches(&m, 4) && avt_motion_watches(&m, 5));           // block 4 is still of the picture before
    avt_motion_begin(&m, 0, 0);
    REQUIRE(!avt_motion_watches(&m, 0));                                        // the model's card does not say
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(moving_and_still), cmocka_unit_test(gaps), cmocka_unit_test(when_it_watches) };

    return test_main("motion", tests);
}
