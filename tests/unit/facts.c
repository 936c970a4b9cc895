/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a CUDA device takes, by arithmetic: the cards that a build has kernels for. */
#include "cuda/facts.h"
#include "test.h"

static const char usual[] = "80 86 89 90a 100 120";

static void cards_of_the_usual_build(void **state)
{
    static const int served[] = { 80, 86, 87, 89, 90, 100, 103, 110, 120, 121, 130 }, others[] = { 0, 52, 70, 75, 79 };

    (void)state;
    for (size_t i = 0; i < sizeof(served) / sizeof(served[0]); i++)
        assert_int_equal(avt_cuda_archs_serve(usual, served[i]), 1);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        assert_int_equal(avt_cuda_archs_serve(usual, others[i]), 0);
}

/* Code of Hopper alone runs on nothing newer; that of a generation on its later cards; a number alone on all that come. */
static void cards_of_one_kind(void **state)
{
    (void)state;
    assert_int_equal(avt_cuda_archs_serve("90a", 90), 1);
    assert_int_equal(avt_cuda_archs_serve("90a", 100), 0);
    assert_int_equal(avt_cuda_archs_serve("90a", 89), 0);
    assert_int_equal(avt_cuda_archs_serve("100f", 103), 1);
    assert_int_equal(avt_cuda_archs_serve("100f", 110), 0);
    assert_int_equal(avt_cuda_archs_serve("90a 100a 120f", 121), 1);
    assert_int_equal(avt_cuda_archs_serve("100", 110), 1);
    assert_int_equal(avt_cuda_archs_serve("120", 110), 0);
    assert_int_equal(avt_cuda_archs_serve("", 90), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(cards_of_the_usual_build), cmocka_unit_test(cards_of_one_kind) };

    return test_main_group("facts", tests, sizeof(tests) / sizeof(tests[0]));
}
