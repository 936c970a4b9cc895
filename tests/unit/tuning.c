/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What was found to be fastest, in memory and in its file: kept, read again, merged; a file that is damaged, another's, or cannot be written. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "avatar.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/tuning.h"
#include "files.h"

#define CARD "NVIDIA H200, \"new\" \\ sm_90"
#define OTHER "another card"

static char folder[128];                                          // neither it nor the one that it is in is there

static int make_folder(void **state)
{
    (void)state;
    tmp_open();
    snprintf(folder, sizeof(folder), "%s/cache/avatar", tmp_dir);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    tmp_close();
    return 0;
}

static char *path_of_file(void)
{
    static char path[160];

    snprintf(path, sizeof(path), "%s/tuned.json", folder);
    return path;
}

static void put(Tuned *t, const char *device, const char *shape, const char *choice)
{
    char text[TUNED_CHOICE] = "";

    snprintf(text, sizeof(text), "%s", choice);
    REQUIRE_OK(avt_tuned_put(t, device, shape, "", text));
    REQUIRE(!strcmp(text, choice));
}

static void expect(Tuned *t, const char *device, const char *shape, const char *choice)
{
    char text[TUNED_CHOICE];

    REQUIRE(avt_tuned_get(t, device, shape, text) == (choice != NULL));
    REQUIRE(!strcmp(text, choice ? choice : ""));
}

/* Who comes second gets the first one's; what was seen to be of no use is replaced. */
static void table(void **state)
{
    char text[TUNED_CHOICE] = "b";
    Tuned *t = avt_tuned_open();

    (void)state;
    expect(t, CARD, "one", NULL);
    put(t, CARD, "one", "a");
    expect(t, OTHER, "one", NULL);
    REQUIRE_OK(avt_tuned_put(t, CARD, "one", "", text));
    REQUIRE(!strcmp(text, "a") && t->found == 1);
    snprintf(text, sizeof(text), "c");
    REQUIRE_OK(avt_tuned_put(t, CARD, "one", "a", text));
    expect(t, CARD, "one", "c");
    avt_tuned_close(&t);
    REQUIRE(!t && !avt_mem_bytes(MEM_BACKEND));
}

static void write_and_read(void **state)
{
    Tuned *t = avt_tuned_open(), *again = avt_tuned_open(), *third = avt_tuned_open();

    (void)state;
    put(t, CARD, "one", "a");
    put(t, OTHER, "one", "b");
    put(t, CARD, "two", "c");
    REQUIRE_OK(avt_tuning_write(t, folder, test_log_at(LOG_INFO)));
    REQUIRE(strstr(test_log_text(), "3 calls were timed") && strstr(test_log_text(), path_of_file()));
    REQUIRE_OK(avt_tuning_write(t, folder, test_log_at(LOG_INFO)));         // nothing is new
    REQUIRE(!*test_log_text());
    avt_tuning_read(again, folder, test_log());
    expect(again, CARD, "one", "a");
    expect(again, OTHER, "one", "b");
    expect(again, CARD, "two", "c");
    REQUIRE(!again->found && !*test_log_text());
    put(third, CARD, "three", "d");                                         // a process that knew nothing of the file
    REQUIRE_OK(avt_tuning_write(third, folder, test_log()));
    avt_tuning_read(again, folder, test_log());
    expect(again, CARD, "one", "a");
    expect(again, CARD, "three", "d");
    avt_tuned_close(&t);
    avt_tuned_close(&again);
    avt_tuned_close(&third);
}

/* One line; nothing of it counts; the next write makes it whole. */
static void damaged(void **state)
{
    static const char *const text[] = { "", "{", "{\"" OTHER "\": {\"one\": \"a\"}", "[]", "{\"" OTHER "\": [\"a\"]}", "{\"" OTHER "\": {\"one\": 3}}",
                                        "{\"" OTHER "\": {\"one\": \"a choice of more than thirty-one letters\"}}", "\xff\xfe", "<html>" };

    (void)state;
    for (size_t i = 0; i < sizeof(text) / sizeof(text[0]); i++) {
        Tuned *t = avt_tuned_open();
        FILE *f;

        test_shell("mkdir -p %s", folder);
        f = fopen(path_of_file(), "w");
        REQUIRE(f && fputs(text[i], f) >= 0 && !fclose(f));
        avt_tuning_read(t, folder, test_log());
        require_said("tuned.json", "made anew");
        REQUIRE(!t->first);
        put(t, CARD, "one", "a");
        REQUIRE_OK(avt_tuning_write(t, folder, test_log()));
        avt_tuned_close(&t);
        t = avt_tuned_open();
        avt_tuning_read(t, folder, test_log());
        REQUIRE(!*test_log_text());
        expect(t, CARD, "one", "a");
        avt_tuned_close(&t);
    }
}

/* One of a million choices, which no run has found: not looked through for each of them. */
static void monstrous(void **state)
{
    const int64_t start = avt_now_ns();
    Tuned *t = avt_tuned_open();
    FILE *f;

    (void)state;
    test_shell("mkdir -p %s", folder);
    f = fopen(path_of_file(), "w");
    REQUIRE(f && fputs("{\"" OTHER "\": {\"0\": \"a\"", f) >= 0);
    for (int i = 1; i < 1000000; i++)
        fprintf(f, ", \"%d\": \"a\"", i);
    REQUIRE(fputs("}}", f) >= 0 && !fclose(f));
    avt_tuning_read(t, folder, test_log());
    require_said("tuned.json", "made anew");
    REQUIRE(!t->first);
    put(t, CARD, "one", "a");
    REQUIRE_OK(avt_tuning_write(t, folder, test_log()));
    REQUIRE((double)(avt_now_ns() - start) < 60e9);                 // seconds
    avt_tuned_close(&t);
}

/* A folder in which nothing can be made, for root as well: a file stands in its place. What was found goes on to count in this process. */
static void cannot_write(void **state)
{
    Tuned *t = avt_tuned_open();

    (void)state;
    test_shell("mkdir -p %s && rmdir %s && touch %s", folder, folder, folder);
    avt_tuning_read(t, folder, test_log());
    REQUIRE(!*test_log_text());
    put(t, CARD, "one", "a");
    REQUIRE(avt_tuning_write(t, folder, test_log()) == AVT_ERR(ENOTDIR));
    require_said("tuned.json: cannot be written", "timed again");
    REQUIRE_OK(avt_tuning_write(t, folder, test_log()));                    // told once
    REQUIRE(!*test_log_text());
    expect(t, CARD, "one", "a");
    avt_tuned_close(&t);
}

static char *one_home(const char *name)
{
    return !strcmp(name, "HOME") ? "/home/x" : NULL;
}

static char *named_cache(const char *name)
{
    return !strcmp(name, "HOME") ? "/home/x" : !strcmp(name, "XDG_CACHE_HOME") ? "/var/c" : NULL;
}

static char *relative_cache(const char *name)
{
    return !strcmp(name, "HOME") ? "/home/x" : !strcmp(name, "XDG_CACHE_HOME") ? "c" : NULL;
}

static char *nothing(const char *name)
{
    (void)name;
    return NULL;
}

static void cache_folder(void **state)
{
    char path[64];

    (void)state;
    REQUIRE(!strcmp(avatar_cache_folder(path, sizeof(path), one_home), "/home/x/.cache/avatar"));
    REQUIRE(!strcmp(avatar_cache_folder(path, sizeof(path), named_cache), "/var/c/avatar"));
    REQUIRE(!strcmp(avatar_cache_folder(path, sizeof(path), relative_cache), "/home/x/.cache/avatar"));
    REQUIRE(!avatar_cache_folder(path, sizeof(path), nothing));
    REQUIRE(!avatar_cache_folder(path, 21, one_home));                      // 21 letters and the end
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table), cmocka_unit_test_setup_teardown(write_and_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(damaged, make_folder, remove_folder), cmocka_unit_test_setup_teardown(monstrous, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(cannot_write, make_folder, remove_folder), cmocka_unit_test(cache_folder),
    };

    return test_main("tuning", tests);
}
