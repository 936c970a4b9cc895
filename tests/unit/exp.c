/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The exp of plain C against f64 over its whole range, and at the ends. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "cpu/exp.h"
#include "test.h"

/* Distance from the true value in units of the last place of an f32 of that size */
static double ulps(float got, double want)
{
    int e;

    frexp(want, &e);
    return fabs(got - want) / ldexp(1, e - 24 > -149 ? e - 24 : -149);
}

static void whole_range(void **state)
{
    double worst = 0;
    float at = 0;

    (void)state;
    for (float x = -104; x < 88.72f; x += 0.000137f + fabsf(x) * 1e-6f) {
        const double u = ulps(avt_exp(x), exp(x));

        if (u > worst) {
            worst = u;
            at = x;
        }
    }
    for (float x = 1e-30f; x < 1; x *= 1.0007f)
        worst = fmax(worst, fmax(ulps(avt_exp(x), exp(x)), ulps(avt_exp(-x), exp(-x))));
    print_message("exp: worst %.3f units in the last place, at %g\n", worst, at);
    assert_true(worst < 1.5);
}

static void ends(void **state)
{
    (void)state;
    assert_true(avt_exp(0) == 1 && avt_exp(-0.0f) == 1);
    assert_true(avt_exp(-INFINITY) == 0 && avt_exp(-FLT_MAX) == 0 && avt_exp(-104) == 0);
    assert_true(isinf(avt_exp(INFINITY)) && isinf(avt_exp(FLT_MAX)) && isinf(avt_exp(88.73f)));
    assert_true(avt_exp(88.72f) < INFINITY && avt_exp(-103.2f) > 0);
    assert_true(isnan(avt_exp(NAN)) && isnan(avt_exp(-NAN)));
}

/* Vectorized or not, the same bits: a loop that a compiler may unroll against single calls. */
static void loop(void **state)
{
    enum { NB = 1003 };
    static float x[NB], y[NB];
    volatile float one;

    (void)state;
    test_random(x, NB, 1);
    for (int i = 0; i < NB; i++)
        x[i] *= 110;
    for (int i = 0; i < NB; i++)
        y[i] = avt_exp(x[i]);
    for (int i = 0; i < NB; i++) {
        one = x[i];
        assert_true(avt_exp(one) == y[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(whole_range), cmocka_unit_test(ends), cmocka_unit_test(loop) };

    return test_main("exp", tests);
}
