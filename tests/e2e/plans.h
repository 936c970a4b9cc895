/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tests of plans share: a tiny model, a run of a plan over it, from its features on, what it gave, and comparisons.
 */
#ifndef AVT_TEST_PLANS_H
#define AVT_TEST_PLANS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/session.h"
#include "model.h"
#include "test.h"

#define BLOCKS 10
#define DEVICE_BLOCKS 5
#define SAMPLE_BLOCKS 2
#define SIZE 64

static char model_dir[] = "/tmp/avatar-plans-XXXXXX";
static float *features, *context;
static uint8_t picture[SIZE * SIZE * 3];
static TestModel model;
static int nb_blocks = BLOCKS;
static const char *precision = "auto", *kv;
static int vae_split, format = AVATAR_YUV420P;
static const char *device = "cpu";

typedef struct Result {
    float latents[BLOCKS][16 * 3 * 8 * 8];
    uint8_t frames[BLOCKS * 12][SIZE * SIZE * 3];       // of it what the format has
    int64_t nb_frames;
    int nb_seen;
    int64_t bytes[PLAN_MAX_RANKS + 1][PLAN_MAX_RANKS + 1];
    PlanMemory memory[PLAN_MAX_RANKS];
    int nb_ranks;
} Result;

static inline void see_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Result *r = opaque;

    assert_int_equal(nb, 16 * 3 * 8 * 8);
    memcpy(r->latents[block], v, sizeof(r->latents[block]));
    r->nb_seen++;
}

/* Sound that stalls: no new block in every third wave, none at all in waves 6 to 9. */
static inline int stall(void *opaque, int64_t block, int64_t wave)
{
    (void)opaque;
    (void)block;
    return wave % 3 != 1 && (wave < 6 || wave > 9);
}

/* The fullest wave may not come: sound stalls, or no block is admitted until the sink is refreshed. */
static inline void check_memory(const AvatarSession *s, int nb_ranks, int may_be_less)
{
    for (int i = 0; i < nb_ranks; i++) {
        const PlanMemory want = avt_session_planned(s, i), have = avt_session_measured(s, i);

        assert_int_equal(want.weights, have.weights);
        assert_int_equal(want.state, have.state);
        assert_true(may_be_less ? have.scratch <= want.scratch : have.scratch == want.scratch);
        assert_int_equal(want.workspace, have.workspace);
        assert_int_equal(want.messages, have.messages);
    }
}

static inline void say(void *opaque, int level, const char *text)
{
    (void)opaque;
    (void)level;
    print_error("%s\n", text);
}

static inline size_t frame_bytes(void)
{
    return format == AVATAR_YUV420P || format == AVATAR_NV12 ? SIZE * SIZE * 3 / 2 : SIZE * SIZE * 3;
}

static inline void run(Result *r, const char *plan, const char *devices, const char *vae, int steps, int with_stalls, CommKind comm)
{
    const SessionHooks hooks = { .comm = comm, .rank = { .opaque = r, .latents = see_latents }, .admit = with_stalls ? stall : NULL,
                                 .features = features, .nb_rows = nb_blocks * 12, .context = context, .nb_context = 5 };
    AvatarOptions opt;
    AvatarLook look;
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    AvatarFrame f;
    int ret;

    memset(r, 0, sizeof(*r));
    avatar_options_default(&opt);
    opt.model = model_dir;
    opt.plan = plan;
    opt.devices = devices;
    opt.vae_device = vae;
    opt.vae_split = vae_split;
    opt.precision = precision;
    opt.kv = kv;
    opt.steps = steps;
    opt.log = say;
    opt.log_level = AVATAR_LOG_WARNING;
    avatar_look_default(&look);
    look.rgb = picture;
    look.width = look.height = look.out_width = look.out_height = SIZE;
    look.format = format;
    look.seed = 5;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    REQUIRE_OK(avt_session_open(&s, e, &look, &hooks));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    while ((ret = avatar_session_receive(s, &f, AVATAR_WAIT)) >= 0) {
        assert_int_equal(f.index, r->nb_frames);
        memcpy(r->frames[r->nb_frames++], f.data[0], frame_bytes());
    }
    assert_int_equal(ret, AVATAR_EOF);
    assert_int_equal(r->nb_frames, nb_blocks * 12);
    assert_int_equal(r->nb_seen, nb_blocks);
    r->nb_ranks = e->core->plan.nb_ranks;
    for (int i = 0; i <= r->nb_ranks; i++)
        for (int j = 0; j <= r->nb_ranks; j++)
            r->bytes[i][j] = avt_session_bytes(s, i, j);
    for (int i = 0; i < r->nb_ranks; i++)
        r->memory[i] = avt_session_planned(s, i);
    check_memory(s, r->nb_ranks, with_stalls || (steps > 5 && !strncmp(plan, "wave", 4)));
    avatar_session_close(&s);
    avatar_engine_close(&e);
    avatar_engine_flush();
}

static inline Result *new_result(void)
{
    Result *r = malloc(sizeof(*r));

    assert_non_null(r);
    return r;
}

/* The first of devices joined by '|'. */
static inline const char *first_of(const char *on)
{
    static char buf[16];

    snprintf(buf, sizeof(buf), "%.*s", (int)strcspn(on, "|"), on);
    return buf;
}

/* As many of devices joined by '|', in turn. */
static inline const char *list_of(const char *on, int nb)
{
    static char buf[17 * 8];
    const char *at = on;
    int n = 0;

    for (int i = 0; i < nb; i++) {
        const int len = (int)strcspn(at, "|");

        n += snprintf(buf + n, sizeof(buf) - (size_t)n, "%s%.*s", i ? "|" : "", len, at);
        at = at[len] ? at + len + 1 : on;
    }
    return buf;
}

/* Devices of other classes, and parts of a layer, compute in another order: relative L2 to `tol`. */
static inline void compare_near(const Result *a, const Result *b, double tol)
{
    for (int g = 0; g < nb_blocks; g++)
        REQUIRE_CLOSE(a->latents[g], b->latents[g], 16 * 3 * 8 * 8, tol);
}

static inline int setup(void **state)
{
    (void)state;
    test_model_default(&model);
    assert_non_null(mkdtemp(model_dir));
    REQUIRE_OK(test_model_write(&model, model_dir));
    features = malloc(sizeof(float) * BLOCKS * 12 * 4 * 32);
    context = malloc(sizeof(float) * 5 * 24);
    test_random(features, BLOCKS * 12 * 4 * 32, 1);
    test_random(context, 5 * 24, 2);
    for (size_t i = 0; i < sizeof(picture); i++)
        picture[i] = (uint8_t)(i * 7 + i / 192 * 3);
    return 0;
}

static inline int teardown(void **state)
{
    char cmd[256];

    (void)state;
    free(features);
    free(context);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", model_dir);
    return system(cmd);
}

#endif
