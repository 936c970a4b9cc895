/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * offload=weights, all: layers, rings and sinks that come when their turn is give the bits of those that stand, with a LoRA merged into them, over seven blocks and
 * another prompt and picture in mid-stream. On `cpu` they are read out of the file; `guard`, whose queues run late and in no order but
 * the one that was asked for, stands for a device with memory of its own. Memory is what was planned; a wave costs one walk.
 */
#include "engine/conductor.h"
#include "take.h"

enum { BLOCKS = 7, SAMPLES = BLOCKS * BLOCK_SAMPLES };

static float *pcm;

typedef struct Cost {                               // of one session
    size_t weights, host, coming;                   // bytes, all ranks
    size_t state, rings;
    double fetched, stored;
    int nb_ranks, sinks;                            // sinks that wait in the host's memory
} Cost;

static int write_model(int nb_layers)
{
    TestModel m;

    test_model_default(&m);
    m.sizes.dit.nb_layers = nb_layers;
    m.sizes.dit.nb_inject = nb_layers > 2 ? 2 : 1;                  // after layers 0 and 2
    m.lora_rank = 2;
    m.avatar_json = "{\"size\": \"64x64\"}";
    REQUIRE(mkdtemp(take_dir) != NULL);
    return test_model_write(&m, take_dir);
}

static int setup(void **state)
{
    (void)state;
    pcm = take_sound(SAMPLES);
    return write_model(4);
}

static int teardown(void **state)
{
    free(pcm);
    avatar_engine_flush();
    return take_teardown(state);
}

static size_t sum_of_parts(const PlanMemory *m)
{
    size_t sum = 0;

    for (int i = 0; i < STATE_NB; i++)
        sum += m->part[i];
    return sum;
}

/* Everything that a rank reports is what was planned for it. */
static void count(Cost *c, const AvatarSession *s)
{
    *c = (Cost){ .nb_ranks = s->e->core->plan.nb_ranks };
    for (int r = 0; r < c->nb_ranks; r++) {
        const PlanMemory want = avt_session_planned(s, r), have = avt_session_measured(s, r);

        REQUIRE(want.weights == have.weights && want.host == have.host && want.coming == have.coming);
        REQUIRE(want.rings == have.rings && want.moved == have.moved);
        REQUIRE(want.state == have.state && want.scratch == have.scratch && want.workspace >= have.workspace);     // guard takes none in bf16
        REQUIRE(sum_of_parts(&want) == want.state && !want.part[STATE_LAYERS] == !want.coming);
        c->weights += have.weights;
        c->host += have.host;
        c->coming += have.coming;
        c->state += have.state;
        c->rings += have.rings;
        c->stored += s->crew.rank[r].back->queue.stored;
        c->fetched += s->crew.rank[r].copy->queue.fetched;
        for (int v = 0; v < s->crew.rank[r].nb_versions; v++)
            c->sinks += s->crew.rank[r].sink[v].home != NULL;
    }
}

static const char *precision, *kv;

static void make(Take *t, Cost *c, const char *plan, const char *devices, const char *offload, double resident)
{
    AvatarOptions opt = take_options(plan, devices, NULL, NULL);
    AvatarLook look = take_look(0), other = take_look(1);
    SessionHooks hooks = { .rank = { .opaque = t, .latents = take_latents } };
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;

    memset(t, 0, sizeof(*t));
    opt.offload = offload;
    opt.resident = resident;
    opt.precision = precision;
    opt.kv = kv;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    REQUIRE_OK(avt_session_open(&s, e, &look, &hooks));
    other.prompt = "another one";
    REQUIRE_OK(avatar_session_set_at(s, &other, 4 * BLOCK_SAMPLES, NULL));
    REQUIRE_OK(avatar_session_send(s, pcm, SAMPLES));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    take_frames(t, s, AVATAR_WAIT);
    assert_int_equal(t->ret, AVATAR_EOF);
    assert_int_equal(t->nb, 12 * BLOCKS);
    count(c, s);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    avatar_engine_flush();
}

static void require_same(const Take *a, const Take *b)
{
    REQUIRE(!memcmp(a->latents, b->latents, sizeof(a->latents)));
    REQUIRE(same_frames(a, b, 0, 12 * BLOCKS));
}

static const struct {
    const char *plan, *devices;
} plans[] = {
    { "sequential", "cpu" }, { "wave", "cpu" }, { "layer", "cpu|cpu" },
    { "sequential", "guard" }, { "wave", "guard" }, { "timestep", "guard|guard|guard|guard" }, { "layer", "guard|guard" },
    { "tensor2", "guard|guard" }, { "wave+ulysses2", "cpu|cpu" },
};

static void same_bits(void **state)
{
    Take *want = take_new(), *got = take_new();
    Cost all, none, some;

    (void)state;
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        const int on_cpu = !strncmp(plans[i].devices, "cpu", 3);

        make(want, &all, plans[i].plan, plans[i].devices, "none", 0);
        REQUIRE(!all.coming && !all.host && !all.fetched);
        make(got, &none, plans[i].plan, plans[i].devices, "weights", 0);
        require_same(want, got);
        REQUIRE(none.coming > 0 && none.host == (on_cpu ? 0 : none.coming) && none.weights + none.coming == all.weights);
        make(got, &some, plans[i].plan, plans[i].devices, "weights", 1e-9 * 0.6 * (double)none.coming / none.nb_ranks);
        require_same(want, got);
        REQUIRE(some.coming > 0 && some.coming < none.coming && some.weights + some.coming == all.weights);
    }
    free(want);
    free(got);
}

/* Rings and sinks of a device with memory of its own lie in the host's; three slots of a layer stay. On `cpu` they stand. */
static void same_bits_of_rings(void **state)
{
    Take *want = take_new(), *got = take_new();
    Cost weights, all;

    (void)state;
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        const int on_cpu = !strncmp(plans[i].devices, "cpu", 3);

        make(want, &weights, plans[i].plan, plans[i].devices, "weights", 0);
        make(got, &all, plans[i].plan, plans[i].devices, "all", 0);
        require_same(want, got);
        REQUIRE(!weights.rings && !weights.stored && !weights.sinks);
        REQUIRE(on_cpu ? !all.rings && all.state == weights.state : all.rings > 0 && all.stored > 0 && all.fetched > weights.fetched);
        REQUIRE(on_cpu ? !all.sinks : all.sinks >= all.nb_ranks);
    }
    for (int i = 0; i < 2; i++) {
        kv = i ? "fp8" : "bf16";
        make(want, &weights, "wave", "guard", "none", 0);
        make(got, &all, "wave", "guard", "all", 1);                 // layers stand
        require_same(want, got);
        REQUIRE(all.rings > 0);
    }
    kv = NULL;
    free(want);
    free(got);
}

/* Of one layer a ring may come back into another slot than it went out of: of a wave that has lost its first item the second is the first. */
static void a_walk_waits_for_the_one_before(void **state)
{
    Take *want = take_new(), *got = take_new();
    char other[sizeof(take_dir)];
    Cost none, all;

    memcpy(other, take_dir, sizeof(take_dir));
    strcpy(take_dir, "/tmp/avatar-e2e-XXXXXX");
    REQUIRE_OK(write_model(1));
    make(want, &none, "wave", "guard", "none", 0);
    make(got, &all, "wave", "guard", "all", 0);
    require_same(want, got);
    REQUIRE(all.rings > 0);
    take_teardown(state);
    memcpy(take_dir, other, sizeof(take_dir));
    free(want);
    free(got);
}

/* Codes and their scales come together. */
static void same_bits_in_codes(void **state)
{
    static const char *const precisions[] = { "bf16", "int8", "fp8" };
    Take *want = take_new(), *got = take_new();
    Cost all, none;

    (void)state;
    for (int i = 0; i < 3; i++)
        for (int on_guard = 0; on_guard < 2; on_guard++) {
            precision = precisions[i];
            make(want, &all, "wave", on_guard ? "guard" : "cpu", "none", 0);
            make(got, &none, "wave", on_guard ? "guard" : "cpu", "weights", 0);
            require_same(want, got);
            REQUIRE(none.coming > 0 && none.weights + none.coming == all.weights);
        }
    precision = NULL;
    free(want);
    free(got);
}

/* What comes in a film: one walk a wave however many steps are under way, and those of texts and sinks; layers that have a slot of their own
 * come once. */
static void a_wave_is_one_walk(void **state)
{
    enum { STEPS = 4, WAVES = BLOCKS + STEPS - 1, TEXTS = 2, SINKS = 3 };
    Take *t = take_new();
    Cost wave, sequential;

    (void)state;
    make(t, &wave, "wave", "guard", "weights", 0);
    make(t, &sequential, "sequential", "guard", "weights", 0);
    REQUIRE(wave.coming == sequential.coming);
    print_message("           walks: wave %.2f, sequential %.2f\n", wave.fetched / (double)wave.coming, sequential.fetched / (double)wave.coming);
    REQUIRE(wave.fetched <= (WAVES + TEXTS + SINKS + 2) * (double)wave.coming);
    REQUIRE(sequential.fetched >= BLOCKS * STEPS * (double)wave.coming);
    free(t);
}

/* resident without offload, and words that are none. */
static void refusals(void **state)
{
    AvatarOptions opt = take_options(NULL, "cpu", NULL, NULL);

    (void)state;
    opt.offload = "some";
    REQUIRE(avatar_options_check(&opt) == AVATAR_ERR(EINVAL));
    opt.offload = "none";
    opt.resident = 1;
    REQUIRE(avatar_options_check(&opt) == AVATAR_ERR(EINVAL));
    opt.offload = "weights";
    opt.resident = NAN;
    REQUIRE(avatar_options_check(&opt) == AVATAR_ERR(EINVAL));
    opt.resident = 0;
    REQUIRE_OK(avatar_options_check(&opt));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits), cmocka_unit_test(same_bits_of_rings), cmocka_unit_test(a_walk_waits_for_the_one_before), cmocka_unit_test(same_bits_in_codes),
        cmocka_unit_test(a_wave_is_one_walk), cmocka_unit_test(refusals),
    };

    return _cmocka_run_group_tests("offload", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
