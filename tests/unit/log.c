/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The log handle: levels, NULL, codes handed through, a caller's mistake. */
#include <string.h>

#include "base/log.h"
#include "test.h"

typedef struct Kept {
    int nb, level;
    char text[2048];
} Kept;

static void keep(void *opaque, int level, const char *text)
{
    Kept *k = opaque;

    k->nb++;
    k->level = level;
    strcpy(k->text, text);
}

static void levels(void **state)
{
    Kept k = { 0 };
    Log log = { .write = keep, .opaque = &k, .level = LOG_INFO };

    (void)state;
    avt_log(&log, LOG_INFO, "%d of %s", 3, "seven");
    assert_int_equal(k.nb, 1);
    assert_int_equal(k.level, LOG_INFO);
    assert_string_equal(k.text, "3 of seven");
    avt_log(&log, LOG_DEBUG, "unseen");
    assert_int_equal(k.nb, 1);
    log.level = LOG_TRACE;
    avt_log(&log, LOG_DEBUG, "seen");
    assert_int_equal(k.nb, 2);
}

static void silence(void **state)
{
    const Log nowhere = { .level = LOG_TRACE };

    (void)state;
    avt_log(NULL, LOG_ERROR, "%s", "nobody listens");
    avt_log(&nowhere, LOG_ERROR, "%s", "nobody listens");
    assert_int_equal(avt_fail(NULL, AVT_ERR(EIO), "x"), AVT_ERR(EIO));
}

static void failure(void **state)
{
    Kept k = { 0 };
    const Log log = { .write = keep, .opaque = &k, .level = LOG_ERROR };

    (void)state;
    assert_int_equal(avt_fail(&log, AVT_INVALID, "part %d is cut", 4), AVT_INVALID);
    assert_int_equal(k.level, LOG_ERROR);
    assert_string_equal(k.text, "part 4 is cut");
}

static void long_line(void **state)
{
    Kept k = { 0 };
    const Log log = { .write = keep, .opaque = &k, .level = LOG_ERROR };
    char text[3000];

    (void)state;
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = 0;
    avt_log(&log, LOG_ERROR, "%s", text);
    assert_int_equal(k.nb, 1);
    assert_in_range(strlen(k.text), 500, 1500);                     // cut, not spilled
}

static int careful(const Log *log, int n)
{
    AVT_REQUIRE(log, n > 2);
    return 0;
}

static void mistakes(void **state)
{
    Kept k = { 0 };
    const Log log = { .write = keep, .opaque = &k, .level = LOG_ERROR };

    (void)state;
    assert_int_equal(careful(&log, 3), 0);
    assert_int_equal(k.nb, 0);
#ifndef AVT_DEBUG
    assert_int_equal(careful(&log, 2), AVT_ERR(EINVAL));
    assert_non_null(strstr(k.text, "n > 2"));
    assert_non_null(strstr(k.text, "log.c"));
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(levels), cmocka_unit_test(silence), cmocka_unit_test(failure),
        cmocka_unit_test(long_line), cmocka_unit_test(mistakes),
    };

    return test_main("log", tests);
}
