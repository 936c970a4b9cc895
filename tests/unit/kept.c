/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A folder of plans: what is taken is what was put, or nothing, whatever lies in the folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/thread.h"
#include "engine/kept.h"
#include "files.h"

#define CARD "a card"
#define NAME "plan 1"

static const char plan[] = "{\"kernel\": \"a\0b\n\"}";              // bytes, not a text

static char folder[128];
static KeptFolder kept;

static int open_folder(void **state)
{
    (void)state;
    tmp_open();
    snprintf(folder, sizeof(folder), "%s/cache/avatar", tmp_dir);
    REQUIRE_OK(avt_kept_open(&kept, folder));
    return 0;
}

static int close_folder(void **state)
{
    (void)state;
    avt_kept_close(&kept);
    REQUIRE(!avt_mem_bytes(MEM_ENGINE));
    tmp_close();
    return 0;
}

static void put(const char *name)
{
    kept.shelf.put(&kept.shelf, CARD, name, plan, sizeof(plan));
}

/* 1: what was put; 0: nothing. Whatever else comes is a fault. */
static int take(const char *device, const char *name)
{
    size_t size = 0;
    void *got = kept.shelf.take(&kept.shelf, device, name, &size);

    REQUIRE(!got || (size == sizeof(plan) && !memcmp(got, plan, size)));
    avt_free(got);
    return got != NULL;
}

static void what_is_put_is_taken(void **state)
{
    (void)state;
    REQUIRE(!take(CARD, NAME));
    put(NAME);
    put("plan 2");
    REQUIRE(take(CARD, NAME) && take(CARD, "plan 2"));
    REQUIRE(!take("another card", NAME) && !take(CARD, "plan 3"));
}

/* The one file of the folder is made into something else: nothing is taken, nothing is waited for, and the next plan takes its place, if it can. */
static void what_is_damaged_is_not_there(void **state)
{
    static const char *const ways[] = {
        ": >$f", "echo >$f", "head -c 1000 /dev/urandom >$f", "truncate -s 20M $f", "truncate -s 1T $f", "truncate -s -1 $f", "truncate -s 60 $f", "echo >>$f",
        "sed -i s/kernel/Kernel/ $f", "sed -i 's/plan 1/plan 2/' $f", "sed -i 's/a card/A card/' $f", "sed -i 's/, [0-9]* bytes/, 0 bytes/' $f",
        "sed -i 's/, [0-9]* bytes/, 18446744073709551615 bytes/' $f", "sed -i 's/, [0-9]* bytes/, -1 bytes/' $f", "sed -i 's/sum [0-9a-f]*/sum 0/' $f",
        "tr '\\n' ' ' <$f >$f.2 && mv $f.2 $f", "rm $f && mkfifo $f", "ln -sf /dev/zero $f", "ln -sf /dev/tty $f", "ln -sf /nonexistent $f", "rm $f && ln -s $f $f",
        "rm $f && mkdir $f",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        const int64_t start = avt_now_ns();

        test_shell("rm -rf %s/plans", folder);
        put(NAME);
        REQUIRE(take(CARD, NAME));
        test_shell("f=$(echo %s/plans/*); %s", folder, ways[i]);
        if (take(CARD, NAME) || avt_now_ns() - start > 10 * INT64_C(1000000000))
            fail_msg("%s: %.1f s", ways[i], (double)(avt_now_ns() - start) * 1e-9);
        put(NAME);
        REQUIRE(take(CARD, NAME) == !strstr(ways[i], "mkdir"));
        test_shell("[ $(ls %s/plans | wc -l) = 1 ]", folder);
    }
}

/* Of a folder that is none, and of one where a file has its name. */
static void where_nothing_can_be_put(void **state)
{
    (void)state;
    test_shell("mkdir -p %s && touch %s/plans", folder, folder);
    put(NAME);
    REQUIRE(!take(CARD, NAME));
    test_shell("rm -rf %s && touch %s", folder, folder);
    put(NAME);
    REQUIRE(!take(CARD, NAME));
    test_shell("rm %s && ln -s /dev/full %s", folder, folder);
    put(NAME);
    REQUIRE(!take(CARD, NAME));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_put_is_taken, open_folder, close_folder),
        cmocka_unit_test_setup_teardown(what_is_damaged_is_not_there, open_folder, close_folder),
        cmocka_unit_test_setup_teardown(where_nothing_can_be_put, open_folder, close_folder),
    };

    return test_main("unit/kept", tests);
}
