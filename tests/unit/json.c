/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The JSON reader: what it reads, and what it refuses that a library would let pass. */
#include <time.h>

#include "base/mem.h"
#include "files.h"
#include "files/json.h"

static int parse(Json **j, const char *text)
{
    return avt_json_parse(j, text, strlen(text), "a.json", test_log());
}

static void test_values(void **state)
{
    static const char text[] = " {\"dim\": 5120, \"eps\": 1e-06, \"neg\": -1.5, \"on\": true, \"name\": \"a\\u00e9\\n\\\"b\", "
                               "\"list\": [0, -4, 8], \"sub\": {\"dim\": 3}, \"none\": null, \"whole\": 7, \"long\": 12345678901234567890123}\n";
    int64_t v = -1, list[4];
    double f;
    const char *s;
    int on, nb;
    Json *j;

    (void)state;
    REQUIRE_OK(parse(&j, text));
    REQUIRE_OK(avt_json_int(j, "dim", &v, 1, 10000, 1));
    REQUIRE(v == 5120);
    REQUIRE_OK(avt_json_int(j, "absent", &v, 0, 1, 0));
    REQUIRE(v == 5120);
    REQUIRE_OK(avt_json_float(j, "eps", &f, 1));
    REQUIRE(f == 1e-6);
    REQUIRE_OK(avt_json_float(j, "long", &f, 1));
    REQUIRE(f == 12345678901234567890123.0);
    REQUIRE_OK(avt_json_float(j, "whole", &f, 1));
    REQUIRE(f == 7);
    REQUIRE_OK(avt_json_bool(j, "on", &on, 1));
    REQUIRE(on == 1);
    REQUIRE_OK(avt_json_string(j, "name", &s, 1));
    REQUIRE(!strcmp(s, "a\xc3\xa9\n\"b"));
    REQUIRE_OK(avt_json_ints(j, "list", list, &nb, 4, 1));
    REQUIRE(nb == 3 && list[0] == 0 && list[1] == -4 && list[2] == 8);
    REQUIRE(avt_json_get(j, "none")->type == JSON_NULL && !avt_json_get(j, "absent"));
    REQUIRE(j->nb == 10 && !strcmp(j->first->key, "dim") && !strcmp(j->first->next->key, "eps"));
    REQUIRE(avt_json_first(avt_json_get(j, "list"))->next->i == -4 && !avt_json_first(avt_json_get(j, "dim")));
    avt_json_close(&j);
    REQUIRE(j == NULL && avt_mem_bytes(MEM_CKPT) == 0);
}

static void test_wrong_values(void **state)
{
    int64_t v = 0, list[2];
    const char *s;
    double f;
    int nb;
    Json *j;

    (void)state;
    REQUIRE_OK(parse(&j, "{\"huge\": 1e999, \"dim\": \"big\", \"n\": 12, \"list\": [1, 2, 3], \"mixed\": [1, 2.5]}"));
    REQUIRE(avt_json_int(j, "dim", &v, 0, 9, 1) == AVT_INVALID);
    require_said("a.json: \"dim\" must be a whole number", "\"big\"");
    test_log();
    REQUIRE(avt_json_int(j, "n", &v, 0, 9, 1) == AVT_INVALID);
    require_said("\"n\" must be between 0 and 9", "12");
    test_log();
    REQUIRE(avt_json_string(j, "who", &s, 1) == AVT_INVALID);
    require_said("\"who\" is missing", "a text");
    test_log();
    REQUIRE(avt_json_ints(j, "list", list, &nb, 2, 1) == AVT_INVALID);
    require_said("\"list\" has 3", "at most 2");
    test_log();
    REQUIRE(avt_json_ints(j, "mixed", list, &nb, 2, 1) == AVT_INVALID);
    require_said("\"mixed\" must be a list of whole numbers", "2.5");
    test_log();
    REQUIRE(avt_json_float(j, "huge", &f, 1) == AVT_INVALID);
    require_said("\"huge\" must be a finite number", "a.json");
    avt_json_close(&j);
}

static const struct {
    const char *text, *said;
    int strict;                         // 1: refused in a tensor header alone
} refused[] = {
    { "", "object was wanted", 0 },
    { "[1]", "object was wanted", 0 },
    { "{\"a\": 1", "ends inside", 0 },
    { "{\"a\": 1} x", "follows", 0 },
    { "{\"a\": 1}{}", "follows", 0 },
    { "{\"a\": 1, \"a\": 2}", "'a' is given twice", 0 },
    { "{\"a\": 1, \"\\u0061\": 2}", "'a' is given twice", 0 },
    { "{\"o\": {\"x\": 1, \"y\": 2, \"x\": 3}}", "'x' is given twice", 0 },
    { "{\"a\\u0000b\": 1}", "control byte", 0 },
    { "{\"a\\nb\": 1}", "control byte", 0 },
    { "{\"a\nb\": 1}", "control byte", 0 },
    { "{\"a\": \"x\ty\"}", "control byte", 0 },
    { "{\"\\ud800x\": 1}", "wrong escape", 0 },
    { "{\"\\q\": 1}", "wrong escape", 0 },
    { "{\"a\": NaN}", "neither value", 0 },
    { "{\"a\": Infinity}", "neither value", 0 },
    { "{\"a\": 01}", "not a number", 0 },
    { "{\"a\": -}", "not a number", 0 },
    { "{\"a\": 1.}", "not a number", 0 },
    { "{\"a\": 1e}", "not a number", 0 },
    { "{\"a\": 1,}", "damaged", 0 },
    { "{'a': 1}", "damaged", 0 },
    { "{\"a\" 1}", "damaged", 0 },
    { "{\"a\": 1]", "bracket", 0 },
    { "{\"a\": \"\xff\"}", "damaged", 0 },
    { "{\"a\": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}", "nested too deep", 0 },
    { "\xef\xbb\xbf{\"a\": 1}", "byte order mark", 0 },
    { "\xff\xfe{", "UTF-16", 0 },
    { "{\"a\" 1}", "a colon", 0 },
    { "{\"a\": 1 \"b\": 2}", "a comma", 0 },
    { "{\"a\": \"\\u0000\"}", "control byte", 0 },
    { "{\"a\": \"\xed\xa0\x80\"}", "not UTF-8", 0 },              // a surrogate
    { "{\"a\": \"\xc0\x80\"}", "not UTF-8", 0 },                  // a NUL in two bytes
    { "{\"a\": \"\xf4\x90\x80\x80\"}", "not UTF-8", 0 },          // beyond U+10FFFF
    { "{\"a\": -1}", "between 0 and 2^63 - 1", 1 },
    { "{\"a\": 9223372036854775808}", "between 0 and 2^63 - 1", 1 },
    { "{\"a\": 1.5}", "whole", 1 },
    { "{\"a\": 1e3}", "whole", 1 },
    { "{\"a\": [[[[1]]]]}", "nested too deep", 1 },
};

static void test_refused(void **state)
{
    Json *j;

    (void)state;
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        const char *text = refused[i].text;

        REQUIRE(avt_json_parse_header(&j, text, strlen(text), "head", test_log()) == AVT_INVALID);
        REQUIRE(j == NULL);
        require_said("head", refused[i].strict ? refused[i].said : "");
        if (!refused[i].strict) {
            REQUIRE(parse(&j, text) == AVT_INVALID);
            require_said("a.json", refused[i].said);
        } else {
            REQUIRE_OK(parse(&j, text));
            avt_json_close(&j);
        }
    }
    REQUIRE_OK(avt_json_parse_header(&j, "{\"a\": {\"s\": [9223372036854775807, 0]}}  ", 40, "head", test_log()));
    avt_json_close(&j);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

static void test_long_name(void **state)
{
    char text[1200];
    Json *j;

    (void)state;
    for (int n = 1024; n <= 1025; n++) {
        memset(text, 'x', sizeof(text));
        memcpy(text, "{\"", 2);
        memcpy(text + 2 + n, "\": 1}", 6);
        REQUIRE(parse(&j, text) == (n == 1024 ? 0 : AVT_INVALID));
        avt_json_close(&j);
    }
    require_said("longer than 1024", "a.json");
}

/* Cut anywhere and any byte changed: refused or read, never worse. */
static void test_damage(void **state)
{
    static const char good[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"x\\u00e9\":null},\"b\":[true,-1.5e3,\"\\\\\\\"\"]}";
    const size_t n = sizeof(good) - 1;
    Json *j;

    (void)state;
    for (size_t i = 0; i < n; i++) {
        char *cut = malloc(i + 1);

        memcpy(cut, good, i);
        REQUIRE(avt_json_parse(&j, cut, i, "cut", NULL) == AVT_INVALID);
        free(cut);
    }
    for (size_t i = 0; i < n; i++)
        for (int v = 0; v < 256; v++) {
            char *text = malloc(n);

            memcpy(text, good, n);
            text[i] = (char)v;
            if (avt_json_parse(&j, text, n, "flip", NULL) >= 0)
                avt_json_close(&j);
            free(text);
        }
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

/* A list of nb times `text`, with commas. */
static char *repeat(const char *begin, const char *text, int nb, const char *end)
{
    char *all = malloc(strlen(begin) + (strlen(text) + 16) * (size_t)nb + strlen(end) + 1), *p = stpcpy(all, begin);

    for (int i = 0; i < nb; i++) {
        if (i)
            *p++ = ',';
        p += sprintf(p, text, i);
    }
    strcpy(p, end);
    return all;
}

/* Time grows as the text does; what would take more memory than 100 MB is refused. */
static void test_many_values(void **state)
{
    const clock_t start = clock();
    char *keys = repeat("{", "\"key%d\": 1", 500000, "}"), *values = repeat("{\"a\": [", "0", 2100000, "]}");
    Json *j;

    (void)state;
    REQUIRE_OK(parse(&j, keys));
    REQUIRE(j->nb == 500000 && avt_json_get(j, "key499999")->i == 1);
    avt_json_close(&j);
    REQUIRE(parse(&j, values) == AVT_INVALID);
    require_said("a.json", "more than 2000000 values");
    REQUIRE(clock() - start < 20 * CLOCKS_PER_SEC);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
    free(keys);
    free(values);
}

static void test_files(void **state)
{
    Json *j;

    (void)state;
    tmp_open();
    REQUIRE_OK(avt_json_read(&j, tmp_text("good.json", "{\"a\": 1}"), test_log()));
    avt_json_close(&j);
    REQUIRE(avt_json_read(&j, tmp_path("none.json"), test_log()) == AVT_ERR(ENOENT));
    require_said("none.json", "cannot be opened");
    REQUIRE(avt_json_read(&j, tmp_dir, test_log()) < 0);
    require_said(tmp_dir, "regular file");
    REQUIRE_OK(mkfifo(tmp_path("pipe.json"), 0600));                // nobody writes: reading would wait for ever
    REQUIRE(avt_json_read(&j, tmp_path("pipe.json"), test_log()) == AVT_ERR(EINVAL));
    require_said("pipe.json", "not a regular file");
    REQUIRE(avt_json_read(&j, tmp_text("empty.json", ""), test_log()) == AVT_INVALID);
    require_said("empty.json", "object was wanted");
    REQUIRE(avt_json_read(&j, tmp_text("lfs.json", "version https://git-lfs.github.com/spec/v1\n"), test_log()) == AVT_INVALID);
    require_said("lfs.json", "Git LFS pointer");
    REQUIRE(avt_json_read(&j, tmp_text("page.json", "<html>"), test_log()) == AVT_INVALID);
    require_said("page.json", "web page");
    tmp_close();
}

/* Every allocation may fail: an error, no leak. */
static void test_no_memory(void **state)
{
    Json *j = NULL;
    int n = 0, ret;

    (void)state;
    do {
        avt_mem_fail_at(++n);
        ret = parse(&j, "{\"a\": 1, \"b\": {\"c\": 2}}");
        avt_mem_fail_at(0);
        REQUIRE(ret == 0 || (ret == AVT_ERR(ENOMEM) && !j));
    } while (ret < 0 && n < 100);
    REQUIRE(n > 2 && n < 100);
    avt_json_close(&j);
    REQUIRE(avt_mem_bytes(MEM_CKPT) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),    cmocka_unit_test(test_wrong_values), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_long_name), cmocka_unit_test(test_damage),       cmocka_unit_test(test_files),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_many_values),
    };

    return test_main("json", tests);
}
