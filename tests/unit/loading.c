/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Progress of weights that are read: how often it is told, by a clock of the test's own, and that it ends where it said it would. */
#include <stdio.h>
#include <string.h>

#include "engine/rank.h"
#include "files.h"
#include "files/loading.h"
#include "model.h"

static int64_t clock_ns, tick_ns;                       // a look at the clock takes so long

static int64_t now(void)
{
    return clock_ns += tick_ns;
}

static int lines(const char *text)
{
    int nb = 0;

    while ((text = strstr(text, "weights: "))) {
        text++;
        nb++;
    }
    return nb;
}

/* What is said of `nb` weights of 1 GB, each of which takes a tick */
static const char *said(int nb, int64_t tick)
{
    const Log *log = test_log_at(LOG_INFO);
    Loading l;

    clock_ns = 7;
    tick_ns = tick;
    avt_loading_begin(&l, 1e9 * nb, now, log);
    for (int i = 0; i < nb; i++)
        avt_loading_add(&l, 1000000000);
    assert_true(l.done == l.all);
    return test_log_text();
}

/* Nothing of what is there within 3 s; from then on a line in 5 s at most. */
static void how_often(void **state)
{
    (void)state;
    assert_string_equal(said(29, 100000000), "");
    assert_int_equal(lines(said(30, 100000000)), 1);
    require_said("weights: 30.0 of 30.0 GB, 10.00 GB/s", "GB/s");
    assert_int_equal(lines(said(79, 100000000)), 1);
    assert_int_equal(lines(said(80, 100000000)), 2);
    assert_int_equal(lines(said(4, 60000000000)), 4);
    require_said("weights: 1.0 of 4.0 GB, 0.02 GB/s", "4.0 of 4.0");
}

/* All weights of a rank, with layers that stand, that come, or without a shelf: what was to come is what came. */
static void to_the_end(const TestModel *m, const char *offload, double resident)
{
    const PlanOptions o = { .plan = "sequential", .devices = "cpu", .steps = 4, .nb_layers = m->sizes.dit.nb_layers, .nb_heads = m->sizes.dit.nb_heads,
                            .offload = offload, .resident = resident };
    const BackendOptions opt = { .threads = 1, .level = CPU_PLAIN, .plan_for = "cpu", .log = test_log() };
    char path[2][400];
    ModelFiles files = { 0 };
    Ckpt *dit, *vae;
    RankWeights w;
    PlanMemory memory;
    Loading l;
    Plan p;

    snprintf(path[0], sizeof(path[0]), "%s/dit.safetensors", tmp_dir);
    snprintf(path[1], sizeof(path[1]), "%s/vae.safetensors", tmp_dir);
    REQUIRE_OK(avt_plan_make(&p, &o, test_log()));
    REQUIRE_OK(avt_ckpt_open(&dit, path[0], test_log()));
    REQUIRE_OK(avt_ckpt_open(&vae, path[1], test_log()));
    files.dit = dit;
    files.vae = vae;
    REQUIRE_OK(avt_rank_weights_open(&w, &p, 0, &m->sizes, &files, &opt, "dry", ARENA_UNLIMITED, test_log()));
    tick_ns = 0;
    avt_rank_weights_count(&memory, &w);
    avt_loading_begin(&l, (double)(memory.weights + memory.coming), now, NULL);
    avt_rank_weights_close(&w);
    files.loading = &l;
    REQUIRE_OK(avt_rank_weights_open(&w, &p, 0, &m->sizes, &files, &opt, "cpu", (size_t)l.all, test_log()));
    if (!(l.all > 0 && l.done == l.all))
        fail_msg("offload %s: %.0f of %.0f bytes", offload, l.done, l.all);
    avt_rank_weights_close(&w);
    avt_ckpt_close(&vae);
    avt_ckpt_close(&dit);
}

static void all_that_was_to_come(void **state)
{
    char path[400];
    TestModel m;

    (void)state;
    tmp_open();
    test_model_default(&m);
    snprintf(path, sizeof(path), "%s/dit.safetensors", tmp_dir);
    REQUIRE_OK(test_network_write(&m, "dit", path));
    snprintf(path, sizeof(path), "%s/vae.safetensors", tmp_dir);
    REQUIRE_OK(test_network_write(&m, "vae", path));
    to_the_end(&m, "none", 0);
    to_the_end(&m, "weights", 0);
    tmp_close();
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(how_often), cmocka_unit_test(all_that_was_to_come) };

    return test_main("loading", tests);
}
