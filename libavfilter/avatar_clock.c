/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Clock of the avatar filter. See avatar_clock.h.
 */

#include "avatar_clock.h"

#define SECOND      16000
#define EPISODE     (10 * SECOND)
#define EVEN        (SECOND / 100)      ///< rounding of stamps in any container
#define LOOSE       (SECOND / 50)       ///< half a video frame of lasting difference is left alone
#define CODEC_FRAME 4096                ///< no codec for speech has longer ones (0.256 s)

static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static void begin_second(AvatarClock *c)
{
    c->low   = INT64_MAX;
    c->high  = INT64_MIN;
    c->heard = 0;
    c->since = AVATAR_CLOCK_NONE;
}

/* A second by the samples and by the stamps: of sound that comes in one burst after a stall, the stamps stand still. */
static int second_is_over(const AvatarClock *c, int64_t at)
{
    return c->heard >= SECOND && at - c->since >= SECOND;
}

void ff_avatar_clock_start(AvatarClock *c, int64_t start)
{
    c->next      = start;
    c->last      = AVATAR_CLOCK_NONE;
    c->slip      = 0;
    c->cutting   = 0;
    c->uneven    = 0;
    c->last_fill = c->last_cut = AVATAR_CLOCK_NONE;
    begin_second(c);
}

/* The difference that neither fills nor cuts: max_drift, or a frame of the source's codec. */
static int64_t tolerance(const AvatarClock *c)
{
    return max64(c->max_drift, min64(c->longest, CODEC_FRAME));
}

/* A jump that no silence can bridge. */
static int new_take(const AvatarClock *c, int64_t at)
{
    const int64_t jump = at - c->next, tol = tolerance(c);

    if (jump > max64(c->max_gap, tol))
        return AVATAR_PLACE_HOLE;
    if (jump < -max64(c->max_gap, tol) || (jump < -tol && at < c->last && at <= tol && at >= -tol))
        return AVATAR_PLACE_BACK;
    return AVATAR_PLACE_HERE;
}

/* A second is complete: what all of its stamps agree on. Returns the silence to put in at once; too much sound is cut from here on. */
static int64_t end_second(AvatarClock *c)
{
    const int64_t left = c->low > 0 ? c->low : c->high < 0 ? c->high : 0;
    int64_t fill = 0;

    c->slip = left > LOOSE || left < -LOOSE ? left : 0;
    if (left > tolerance(c)) {
        fill = left;
        c->slip = 0;
    } else if (left < -tolerance(c)) {
        c->cutting = -left;
        c->slip = 0;
    }
    begin_second(c);
    return fill;
}

/*
 * Is a difference above the tolerance a hole? Not when the frame behind it comes back to the count, or comes in one burst with it: then
 * this one was only late. Nor when the stamps have been uneven lately, which the coming second will tell.
 */
static int is_hole(const AvatarClock *c, int64_t at, int64_t nb, int64_t then)
{
    if (c->uneven)
        return 0;
    return then == AVATAR_CLOCK_NONE || (then - (c->next + nb) > tolerance(c) && then - at > nb / 2);
}

/* Remember for some seconds that a stamp was not where the one before it and its frame end. */
static void watch_steps(AvatarClock *c, int64_t at, int64_t nb, int explained)
{
    const int64_t step = c->last == AVATAR_CLOCK_NONE || explained ? 0 : at - c->last_end;

    c->uneven   = step > EVEN || step < -EVEN ? 5 * SECOND : max64(c->uneven - nb, 0);
    c->last     = at;
    c->last_end = at + nb;
}

int ff_avatar_clock_place(AvatarClock *c, int64_t at, int64_t nb, int64_t then, int more, int64_t *fill, int64_t *cut)
{
    const int64_t known = at == AVATAR_CLOCK_NONE ? c->next : at;
    int64_t jump = known - c->next, tol;
    int place, explained = 0;

    c->longest = max64(c->longest, nb);
    tol = tolerance(c);
    *fill = *cut = 0;
    place = new_take(c, known);
    if (place != AVATAR_PLACE_HERE)
        return place;
    if (jump > tol && then == AVATAR_CLOCK_NONE && more && !c->uneven)
        return AVATAR_PLACE_WAIT;
    if (second_is_over(c, known))
        *fill = end_second(c);
    if (jump > tol && is_hole(c, known, nb, then)) {
        *fill = jump;
        explained = 1;
        begin_second(c);
    } else if (jump < -tol && c->last != AVATAR_CLOCK_NONE && known < c->last) {
        c->cutting = -jump;
        explained = 1;
        begin_second(c);
    } else if (!*fill && !c->cutting) {
        c->low    = min64(c->low, jump);
        c->high   = max64(c->high, jump);
        c->heard += nb;
        c->since  = c->since == AVATAR_CLOCK_NONE ? known : c->since;
    }
    *cut        = min64(c->cutting, nb);
    c->cutting -= *cut;
    c->filled  += *fill;
    c->cut     += *cut;
    watch_steps(c, known, nb, explained);
    c->next    += *fill + nb - *cut;
    return AVATAR_PLACE_HERE;
}

int ff_avatar_clock_slip(AvatarClock *c)
{
    const int step = (c->slip > 0) - (c->slip < 0);

    c->slip -= step;
    c->next += step;
    return step;
}

static int first(int64_t *last, int64_t now)
{
    const int yes = *last == AVATAR_CLOCK_NONE || now - *last > EPISODE;

    *last = now;
    return yes;
}

int ff_avatar_clock_first_fill(AvatarClock *c) { return first(&c->last_fill, c->next); }
int ff_avatar_clock_first_cut(AvatarClock *c)  { return first(&c->last_cut, c->next); }
