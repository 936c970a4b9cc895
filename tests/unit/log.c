/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The log handle: levels, NULL, codes handed through, a caller's mistake. */
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
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

/* Names and values of files must neither end a line nor command the terminal. */
static void texts_of_others(void **state)
{
    static const char *const cases[][2] = {
        { "a\nb\tc\rd", "a\\nb\\tc\\rd" }, { "\x1b[31mred\x1b[0m\x07", "\\x1b[31mred\\x1b[0m\\x07" },
        { "f\xc3\xbcr \xe2\x82\xac \xf0\x9f\x98\x80", "f\xc3\xbcr \xe2\x82\xac \xf0\x9f\x98\x80" },
        { "\xc2\x9b" "31m \x7f", "\\x9b31m \\x7f" }, { "latin \xe9", "latin \\xe9" }, { "", "" },
    };
    Kept k = { 0 };
    const Log log = { .write = keep, .opaque = &k, .level = LOG_ERROR };
    char cut[8];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        avt_log(&log, LOG_ERROR, "%s", cases[i][0]);
        assert_string_equal(k.text, cases[i][1]);
    }
    avt_printable(cut, sizeof(cut), "12345\xe2\x82\xac");           // no half character at the end
    assert_string_equal(cut, "12345");
}

/* Numbers have a point, whatever the user's locale writes. */
static void numbers(void **state)
{
    static const char *const commas[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "de_DE.ISO-8859-1", "it_IT.UTF-8", "nl_NL.UTF-8" };
    int found = 0;
    char *end;

    (void)state;
    for (size_t i = 0; i < sizeof(commas) / sizeof(commas[0]) && !found; i++)
        found = setlocale(LC_ALL, commas[i]) != NULL;
    assert_true(!found || strtod("0,5", NULL) == 0.5);
    assert_true(avt_number("0.5:x", &end) == 0.5 && *end == ':');
    assert_true(avt_number("1,5", &end) == 1 && *end == ',');
    assert_true(avt_number("-2.5e-1", NULL) == -0.25);
    setlocale(LC_ALL, "C");
    if (!found)
        SKIP("this machine has no locale with a decimal comma");
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
        cmocka_unit_test(long_line), cmocka_unit_test(mistakes), cmocka_unit_test(texts_of_others), cmocka_unit_test(numbers),
    };

    return test_main("log", tests);
}
