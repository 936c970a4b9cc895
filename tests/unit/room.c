/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Room: what is said where there is too little of it, in numbers that can be told from each other. */
#include <string.h>
#include <sys/resource.h>

#include "engine/room.h"
#include "files.h"
#include "test.h"

static void too_little_is_told(void **state)
{
    Room room = { 0 };

    (void)state;
    avt_room_add(&room, "cpu", (size_t)1 << 50);
    assert_int_equal(avt_room_check(&room, "64x64 takes", "take less", test_log()), AVT_ERR(ENOMEM));
    require_said("64x64 takes 1125899.91 GB of host memory, ", " GB are free; take less");
}

/* A small model in a small corner: never "0.00 GB of host memory, 0.00 GB are free" */
static void small_numbers_are_numbers(void **state)
{
    struct rlimit was, little;
    Room room = { 0 };
    int ret;

    (void)state;
    avt_room_add(&room, "cpu", 6400000);
    assert_int_equal(avt_room_check(&room, "64x64 takes", "take less", test_log()), 0);
    assert_int_equal(getrlimit(RLIMIT_AS, &was), 0);
    little = (struct rlimit){ .rlim_cur = 1 << 20, .rlim_max = was.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_AS, &little), 0);
    ret = avt_room_check(&room, "64x64 takes", "take less", test_log());
    assert_int_equal(setrlimit(RLIMIT_AS, &was), 0);
    assert_int_equal(ret, AVT_ERR(ENOMEM));
    require_said("64x64 takes 6.4 MB of host memory, 0.0 MB are free; take less", "6.4 MB");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(too_little_is_told),
        cmocka_unit_test(small_numbers_are_numbers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
