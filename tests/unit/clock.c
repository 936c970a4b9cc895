/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The filter's clock: stamps that are even, uneven, late, early, missing, and that jump; sample by sample, without FFmpeg. */
#include "../../libavfilter/avatar_clock.c"

#include "test.h"

#define NB 1024                         // samples of a frame

typedef struct Run {
    AvatarClock clock;
    int64_t at[2000];                   // stamps
    int nb;                             // of them
    int used;                           // frames placed
    int place;                          // what ended it
    int64_t filled, cut, slipped;
    int first_fill, first_cut;          // frame of the first one, or -1
} Run;

static void run(Run *r, int64_t max_gap)
{
    r->clock = (AvatarClock){ .max_drift = 1600, .max_gap = max_gap };
    r->used = r->first_fill = r->first_cut = -1;
    r->filled = r->cut = r->slipped = 0;
    ff_avatar_clock_start(&r->clock, r->at[0]);
    for (r->used = 0; r->used < r->nb; r->used++) {
        const int64_t then = r->used + 1 < r->nb ? r->at[r->used + 1] : AVATAR_CLOCK_NONE;
        int64_t fill, cut;

        r->place = ff_avatar_clock_place(&r->clock, r->at[r->used], NB, then, 0, &fill, &cut);
        if (r->place != AVATAR_PLACE_HERE)
            return;
        r->first_fill = fill && r->first_fill < 0 ? r->used : r->first_fill;
        r->first_cut = cut && r->first_cut < 0 ? r->used : r->first_cut;
        r->filled += fill;
        r->cut += cut;
        for (int i = 0; i < (NB - cut) / AVATAR_CLOCK_PIECE; i++)
            r->slipped += ff_avatar_clock_slip(&r->clock);
    }
    REQUIRE(r->filled == r->clock.filled && r->cut == r->clock.cut);
    REQUIRE(r->clock.next == r->at[0] + r->nb * (int64_t)NB + r->filled - r->cut + r->slipped);    // every sample has its place
}

/* nb frames, one behind the other. */
static void even(Run *r, int nb)
{
    r->nb = nb;
    for (int i = 0; i < nb; i++)
        r->at[i] = (int64_t)NB * i;
}

static int untouched(const Run *r)
{
    return r->used == r->nb && !r->filled && !r->cut && !r->slipped;
}

static void small_differences_are_nothing(void **state)
{
    static Run r;

    (void)state;
    even(&r, 500);
    run(&r, 160000);
    REQUIRE(untouched(&r));
    for (int i = 0; i < 500; i++)
        r.at[i] = r.at[i] / 16 * 16;                                // milliseconds
    run(&r, 160000);
    REQUIRE(untouched(&r));
    even(&r, 500);
    for (int i = 0; i < 500; i++)
        r.at[i] += i % 3 * 1500 - 700;                              // jitter of 188 ms, which is above max_drift
    run(&r, 160000);
    REQUIRE(untouched(&r));
    for (int i = 0; i < 500; i++)
        r.at[i] = i / 4 * 4 * NB;                                   // bursts of a quarter of a second
    run(&r, 160000);
    REQUIRE(untouched(&r));
    for (int i = 1; i < 500; i++)
        r.at[i] = AVATAR_CLOCK_NONE;
    run(&r, 160000);
    REQUIRE(untouched(&r));
}

static void stalls_are_no_holes(void **state)
{
    static Run r;

    (void)state;
    even(&r, 500);
    for (int i = 100; i < 130; i++)
        r.at[i] = 130 * NB;                                         // the reader stood still for two seconds
    run(&r, 160000);
    REQUIRE(untouched(&r));
}

static void holes_are_filled_where_they_are(void **state)
{
    static Run r;

    (void)state;
    even(&r, 500);
    for (int i = 100; i < 500; i++)
        r.at[i] += 5000;
    run(&r, 160000);
    REQUIRE(r.used == 500 && r.filled == 5000 && r.first_fill == 100 && !r.cut && !r.slipped);
    for (int i = 0; i < 500; i++)
        r.at[i] += i % 2 * 800;                                     // uneven stamps: within the second behind it
    run(&r, 160000);
    REQUIRE(r.used == 500 && r.filled >= 4000 && r.filled <= 5800 && r.first_fill >= 100 && r.first_fill < 100 + 2 * 16000 / NB && !r.cut);
}

static void overlaps_are_cut_where_they_are(void **state)
{
    static Run r;

    (void)state;
    even(&r, 500);
    for (int i = 100; i < 500; i++)
        r.at[i] -= 5000;
    run(&r, 160000);
    REQUIRE(r.used == 500 && r.cut == 5000 && r.first_cut == 100 && !r.filled && !r.slipped);
}

static void drift_is_followed(void **state)
{
    static Run r;

    (void)state;
    for (int sign = -1; sign <= 1; sign += 2) {
        even(&r, 2000);
        for (int i = 0; i < 2000; i++)
            r.at[i] += sign * r.at[i] / 250;                        // 0.4 %
        run(&r, 160000);
        REQUIRE(r.used == 2000 && !r.filled && !r.cut);
        REQUIRE(sign * r.slipped > 2000 * NB / 250 - 640 && sign * r.slipped <= 2000 * NB / 250);   // to 40 ms
    }
}

/* Where a take ends: index of the frame, and how. */
static void expect_take(Run *r, int64_t by, int64_t max_gap, int place)
{
    even(r, 500);
    for (int i = 100; i < 500; i++)
        r->at[i] += by;
    run(r, max_gap);
    REQUIRE(r->used == 100 && r->place == place && !r->filled && !r->cut);
}

static void jumps_begin_a_take(void **state)
{
    static Run r;

    (void)state;
    expect_take(&r, 160001, 160000, AVATAR_PLACE_HOLE);
    expect_take(&r, -50000, 32000, AVATAR_PLACE_BACK);
    expect_take(&r, -100 * NB, 160000, AVATAR_PLACE_BACK);          // begins again at 0
    expect_take(&r, INT64_C(1) << 60, 160000, AVATAR_PLACE_HOLE);
    expect_take(&r, -(INT64_C(1) << 60), 160000, AVATAR_PLACE_BACK);
}

static void a_hole_waits_for_the_frame_behind(void **state)
{
    AvatarClock c = { .max_drift = 1600, .max_gap = 160000 };
    int64_t fill, cut;

    (void)state;
    ff_avatar_clock_start(&c, 0);
    REQUIRE(ff_avatar_clock_place(&c, 0, NB, AVATAR_CLOCK_NONE, 1, &fill, &cut) == AVATAR_PLACE_HERE && !fill && !cut);
    REQUIRE(ff_avatar_clock_place(&c, 9000, NB, AVATAR_CLOCK_NONE, 1, &fill, &cut) == AVATAR_PLACE_WAIT && c.next == NB);
    REQUIRE(ff_avatar_clock_place(&c, 9000, NB, 9000 + NB, 1, &fill, &cut) == AVATAR_PLACE_HERE && fill == 9000 - NB && !cut);
    REQUIRE(ff_avatar_clock_first_fill(&c) && !ff_avatar_clock_first_fill(&c) && ff_avatar_clock_first_cut(&c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_differences_are_nothing), cmocka_unit_test(stalls_are_no_holes), cmocka_unit_test(holes_are_filled_where_they_are),
        cmocka_unit_test(overlaps_are_cut_where_they_are), cmocka_unit_test(drift_is_followed), cmocka_unit_test(jumps_begin_a_take),
        cmocka_unit_test(a_hole_waits_for_the_frame_behind),
    };

    return test_main("clock", tests);
}
