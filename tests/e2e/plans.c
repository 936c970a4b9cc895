/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every plan gives what one device gives: wave, timestep, layer, and teams that split layers, against sequential, for 3, 4, 5 and 8 steps over 10 blocks with
 * the sink's refresh, with whole and with partial waves. Also: bytes on the wire, planned memory = used memory.
 * With --device NAME (cuda0) that device's plans alone, over DEVICE_BLOCKS blocks; with --sample two of them over SAMPLE_BLOCKS.
 */
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
static const char *precision = "auto";
static const char *device = "cpu";

typedef struct Result {
    float latents[BLOCKS][16 * 3 * 8 * 8];
    uint8_t frames[BLOCKS * 12][SIZE * SIZE * 3 / 2];
    int64_t nb_frames;
    int nb_seen;
    int64_t bytes[PLAN_MAX_RANKS + 1][PLAN_MAX_RANKS + 1];
    PlanMemory memory[PLAN_MAX_RANKS];
    int nb_ranks;
} Result;

static void see_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Result *r = opaque;

    assert_int_equal(nb, 16 * 3 * 8 * 8);
    memcpy(r->latents[block], v, sizeof(r->latents[block]));
    r->nb_seen++;
}

/* Sound that stalls: no new block in every third wave, none at all in waves 6 to 9. */
static int stall(void *opaque, int64_t block, int64_t wave)
{
    (void)opaque;
    (void)block;
    return wave % 3 != 1 && (wave < 6 || wave > 9);
}

/* The fullest wave may not come: sound stalls, or no block is admitted until the sink is refreshed. */
static void check_memory(const AvatarSession *s, int nb_ranks, int may_be_less)
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

static void say(void *opaque, int level, const char *text)
{
    (void)opaque;
    (void)level;
    print_error("%s\n", text);
}

static void run(Result *r, const char *plan, const char *devices, const char *vae, int steps, int with_stalls, CommKind comm)
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
    opt.precision = precision;
    opt.steps = steps;
    opt.log = say;
    opt.log_level = AVATAR_LOG_WARNING;
    avatar_look_default(&look);
    look.rgb = picture;
    look.width = look.height = look.out_width = look.out_height = SIZE;
    look.seed = 5;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    REQUIRE_OK(avt_session_open(&s, e, &look, &hooks));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    while ((ret = avatar_session_receive(s, &f, AVATAR_WAIT)) >= 0) {
        assert_int_equal(f.index, r->nb_frames);
        memcpy(r->frames[r->nb_frames++], f.data[0], sizeof(r->frames[0]));
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

/* The same bits: a plan moves work and messages, it computes nothing else. */
static void compare(const Result *a, const Result *b)
{
    for (int g = 0; g < nb_blocks; g++)
        REQUIRE_CLOSE(a->latents[g], b->latents[g], 16 * 3 * 8 * 8, 0);
    assert_memory_equal(a->frames, b->frames, sizeof(a->frames));
}

/* Devices of other classes compute in another order. */
static void compare_close(const Result *a, const Result *b)
{
    for (int g = 0; g < nb_blocks; g++)
        REQUIRE_CLOSE(a->latents[g], b->latents[g], 16 * 3 * 8 * 8, 1e-5);
    for (int64_t i = 0; i < nb_blocks * 12; i++)
        for (size_t k = 0; k < sizeof(a->frames[0]); k++)
            assert_in_range(a->frames[i][k] + 1 - b->frames[i][k], 0, 2);
}

static Result *new_result(void)
{
    Result *r = malloc(sizeof(*r));

    assert_non_null(r);
    return r;
}

static const char *list_of(const char *on, int nb)
{
    static char buf[17 * 8];

    buf[0] = 0;
    for (int i = 0; i < nb; i++)
        strcat(strcat(buf, i ? "|" : ""), on);
    return buf;
}

static void all_plans_agree(const char *on, int steps, CommKind comm)
{
    Result *ref = new_result(), *r = new_result();
    char own[16];

    snprintf(own, sizeof(own), "%s:own", on);
    run(ref, "sequential", on, NULL, steps, 0, COMM_THREADS);
    run(r, "sequential", on, own, steps, 1, comm);
    compare(r, ref);
    run(r, "wave", on, NULL, steps, 0, comm);
    compare(r, ref);
    run(r, "wave", on, own, steps, 1, comm);
    compare(r, ref);
    run(r, "timestep", list_of(on, steps), NULL, steps, 0, comm);
    compare(r, ref);
    run(r, "timestep", list_of(on, steps + 1), NULL, steps, 1, comm);
    compare(r, ref);
    run(r, "layer", list_of(on, 2), NULL, steps, 0, comm);
    compare(r, ref);
    run(r, "layer", list_of(on, 3), own, steps, 1, comm);
    compare(r, ref);
    free(ref);
    free(r);
}

/* Devices of other classes, and parts of a layer, compute in another order: relative L2 to `tol`. */
static void compare_near(const Result *a, const Result *b, double tol)
{
    for (int g = 0; g < nb_blocks; g++)
        REQUIRE_CLOSE(a->latents[g], b->latents[g], 16 * 3 * 8 * 8, tol);
}

/* Plans that split layers, by heads and by columns, in equal shares and in others: the model has 3 heads. */
static void all_teams_agree(const char *on, int steps, CommKind comm, double tol)
{
    static const struct {
        const char *plan;
        int nb, a_step, own;                // devices: so many, or so many a step; a VAE of its own
    } plans[] = {
        { "tensor2", 2, 0, 0 },        { "ulysses2", 2, 0, 1 },         { "tensor3", 3, 0, 1 },           { "ulysses3", 3, 0, 0 },
        { "layer+tensor2", 4, 0, 0 },  { "layer+ulysses2", 4, 0, 1 },   { "wave+tensor2", 2, 0, 0 },      { "wave+ulysses3", 3, 0, 0 },
        { "timestep+tensor2", 2, 1, 0 }, { "timestep+ulysses2", 2, 1, 1 },
    };
    Result *ref = new_result(), *r = new_result();
    char own[16];

    snprintf(own, sizeof(own), "%s:own", on);
    run(ref, "sequential", on, NULL, steps, 0, COMM_THREADS);
    for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++) {
        run(r, plans[i].plan, list_of(on, plans[i].nb * (plans[i].a_step ? steps : 1)), plans[i].own ? own : NULL, steps, (int)i % 2, comm);
        compare_near(r, ref, tol);
    }
    free(ref);
    free(r);
}

static void teams_agree(void **state)
{
    precision = "f32";
    all_teams_agree(device, *(int *)*state, COMM_THREADS, 1e-5);
    precision = "auto";
}

static void teams_agree_strictly(void **state)
{
    precision = "f32";
    all_teams_agree(device, *(int *)*state, COMM_STRICT, 1e-5);
    precision = "auto";
}

static void teams_agree_in_bf16(void **state)
{
    precision = "bf16";
    all_teams_agree(device, *(int *)*state, COMM_THREADS, 3e-2);
    precision = "auto";
}

static void plans_agree(void **state)
{
    all_plans_agree(device, *(int *)*state, COMM_THREADS);
}

/* Without buffers, in order, as NCCL would have it. */
static void plans_agree_strictly(void **state)
{
    all_plans_agree(device, *(int *)*state, COMM_STRICT);
}

/* What differs most from one device: a pipe of three with a VAE of its own, and a step a device. */
static void some_plans_agree(void **state)
{
    Result *ref = new_result(), *r = new_result();

    (void)state;
    run(ref, "sequential", device, NULL, 2, 0, COMM_THREADS);
    run(r, "layer", list_of(device, 3), NULL, 2, 0, COMM_STRICT);
    compare(r, ref);
    run(r, "timestep", list_of(device, 3), NULL, 2, 0, COMM_THREADS);
    compare(r, ref);
    free(ref);
    free(r);
}

/* The same work with unreadable tensors and late queues: a mark that is missing gives other numbers. */
static void guard_agrees(void **state)
{
    (void)state;
    all_plans_agree("guard", 3, COMM_THREADS);
    all_plans_agree("guard", 3, COMM_STRICT);
}

static void guarded_teams_agree(void **state)
{
    static const char *const plans[] = { "layer+tensor2", "layer+ulysses2" };
    Result *ref = new_result(), *r = new_result();

    (void)state;
    run(ref, "sequential", "guard", NULL, 3, 0, COMM_THREADS);
    for (int i = 0; i < 4; i++) {
        run(r, plans[i % 2], list_of("guard", 4), NULL, 3, 1, i < 2 ? COMM_THREADS : COMM_STRICT);
        compare_near(r, ref, 1e-5);
    }
    run(r, "tensor2", "cpu|guard", NULL, 3, 0, COMM_STRICT);
    compare_near(r, ref, 1e-5);
    run(r, "ulysses2", "guard|cpu", NULL, 3, 0, COMM_THREADS);
    compare_near(r, ref, 1e-5);
    free(ref);
    free(r);
}

/* Queues of two classes of device meet in the host. */
static void classes_meet_in_the_host(void **state)
{
    Result *ref = new_result(), *r = new_result();

    (void)state;
    run(ref, "sequential", "guard", NULL, 3, 0, COMM_THREADS);
    run(r, "layer", "cpu|guard", "cpu:own", 3, 1, COMM_THREADS);
    compare_close(r, ref);
    run(r, "layer", "cpu|guard", "cpu:own", 3, 0, COMM_STRICT);
    compare_close(r, ref);
    free(ref);
    free(r);
}

/* One hop of a pipe carries N x D activations and nothing else; a step's end carries latents. */
static void bytes_are_known(void **state)
{
    const DitShape shape = avt_dit_shape(SIZE / 8, SIZE / 8);
    const int64_t D = model.sizes.dit.dim * 4, x = shape.N * D, sink = shape.Lc * D, latent = 16 * 3 * 8 * 8 * 4;
    const int64_t time = (4 + 1) * 7 * D;                                               // each step's and the sink's
    const int64_t row = model.sizes.dit.dim * (int64_t)avt_dtype_size(avt_device_act("cpu", CPU_AUTO));    // of what has been embedded
    const int64_t text = model.sizes.dit.text_len * row, sound = 3 * (model.sizes.dit.nb_audio_tokens + 2) * row;
    const int64_t handed_on = time + text + BLOCKS * sound;
    const int steps = 4;
    Result *r = new_result();

    (void)state;
    run(r, "layer", "cpu|cpu|cpu", "cpu:own", steps, 0, COMM_THREADS);
    assert_int_equal(r->bytes[0][1], BLOCKS * steps * x + 2 * sink + handed_on);
    assert_int_equal(r->bytes[1][2], BLOCKS * steps * x + 2 * sink + handed_on);
    assert_int_equal(r->bytes[2][0], BLOCKS * (steps - 1) * latent + latent / 3);       // next step's input; the refreshed reference
    assert_int_equal(r->bytes[2][3], BLOCKS * latent);
    assert_int_equal(r->bytes[3][0], latent / 3 * DIT_MOTION);                          // the picture's, reference and motion
    assert_int_equal(r->bytes[3][4], BLOCKS * 12 * SIZE * SIZE * 3 / 2);
    assert_int_equal(r->bytes[1][0] + r->bytes[0][2] + r->bytes[0][3] + r->bytes[1][3] + r->bytes[3][1] + r->bytes[3][2], 0);
    assert_int_equal(r->bytes[4][1] + r->bytes[4][2], 2 * (r->bytes[4][3] - SIZE * SIZE * 3));      // commands alone, and the picture
    // mailboxes: one of tokens, two of times, of texts, five of sound;
    assert_int_equal(r->memory[1].messages, (x > sink ? x : sink) + 2 * 7 * D + 2 * text + (steps + 1) * sound);
    assert_int_equal(r->memory[0].messages, steps * latent + latent / 3 + 2 * latent / 3 * DIT_MOTION);     // latents, reference, picture;
    assert_int_equal(r->memory[3].messages, 2 * latent);                                // results
    run(r, "layer", "cpu|cpu|cpu", "cpu:own", steps, 0, COMM_STRICT);
    assert_int_equal(r->memory[0].messages + r->memory[1].messages + r->memory[2].messages + r->memory[3].messages, 0);
    run(r, "timestep", "cpu|cpu|cpu|cpu", "cpu:own", steps, 0, COMM_THREADS);
    for (int i = 0; i < steps; i++)
        assert_int_equal(r->bytes[i][i + 1], BLOCKS * latent);
    free(r);
}

/* What part 0 of 2 sends to part 1 and back, of each way of splitting, added up by hand from team.h's picture. 3 heads: 1 and 2. */
static int64_t sent_by_columns(int part, int steps)
{
    const DitShape s = avt_dit_shape(SIZE / 8, SIZE / 8);
    const DitConfig *c = &model.sizes.dit;
    const int64_t D = c->dim, half = s.N / 2, sink = s.Lc / 2, L = c->nb_layers, I = c->nb_inject, m = c->nb_audio_tokens + 1;
    const int64_t item = (3 * L + I) * 2 * half * D + (3 * L + I) * s.N + half * 64;         // gathered, summed; squares; the head
    const int64_t pass = ((3 * L - 2) + (3 * L - 3)) * sink * D + L * (s.n + s.Lc) + (2 * L - 2) * s.Lc;    // the last layer has keys alone
    const int64_t sound = I * (3 * m + 3 * D), text = L * c->text_len;                       // squares of keys, columns of tables

    (void)part;
    return 4 * (BLOCKS * steps * item + 2 * pass + BLOCKS * sound + text);
}

static int64_t sent_by_heads(int part, int steps)
{
    const DitShape s = avt_dit_shape(SIZE / 8, SIZE / 8);
    const DitConfig *c = &model.sizes.dit;
    const int64_t hd = c->dim / c->nb_heads, mine = (part ? 2 : 1) * hd, yours = (part ? 1 : 2) * hd, half = s.N / 2, sink = s.Lc / 2, L = c->nb_layers;
    const int64_t item = L * half * (3 * yours + mine) + half * 64;                          // q, k, v there, what was attended back
    const int64_t pass = L * (2 * sink + s.n / 2) * yours + (L - 1) * sink * (yours + mine);

    return 4 * (BLOCKS * steps * item + 2 * pass);
}

static void bytes_of_teams_are_known(void **state)
{
    const DitConfig *c = &model.sizes.dit;
    const int64_t latent = 16 * 3 * 8 * 8 * 4, D = c->dim;
    const int steps = 4;
    const int64_t handed_on = 4 * (D * ((steps + 1) * 7 + c->text_len + BLOCKS * 3 * (c->nb_audio_tokens + 2)));
    Result *r = new_result();

    (void)state;
    precision = "f32";
    for (int i = 0; i < 2; i++) {
        int64_t (*const sent)(int, int) = i ? sent_by_heads : sent_by_columns;

        run(r, i ? "ulysses2" : "tensor2", "cpu|cpu", NULL, steps, 0, COMM_THREADS);
        assert_int_equal(r->bytes[0][1], sent(0, steps) + handed_on);
        assert_int_equal(r->bytes[1][0], sent(1, steps) + latent / 3 * DIT_MOTION);          // the VAE's rank sends the picture
    }
    precision = "auto";
    free(r);
}

static int setup(void **state)
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

static int teardown(void **state)
{
    char cmd[256];

    (void)state;
    free(features);
    free(context);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", model_dir);
    return system(cmd);
}

int main(int argc, char **argv)
{
    static int s3 = 3, s4 = 4, s5 = 5, s8 = 8;
    const struct CMUnitTest tests[] = {
        { "plans_agree_3_steps", plans_agree, NULL, NULL, &s3 }, { "plans_agree_4_steps", plans_agree, NULL, NULL, &s4 },
        { "plans_agree_5_steps", plans_agree, NULL, NULL, &s5 }, { "plans_agree_8_steps", plans_agree, NULL, NULL, &s8 },
        { "plans_agree_strictly_4_steps", plans_agree_strictly, NULL, NULL, &s4 },
        { "teams_agree_3_steps", teams_agree, NULL, NULL, &s3 }, { "teams_agree_4_steps", teams_agree, NULL, NULL, &s4 },
        { "teams_agree_5_steps", teams_agree, NULL, NULL, &s5 }, { "teams_agree_8_steps", teams_agree, NULL, NULL, &s8 },
        { "teams_agree_strictly_4_steps", teams_agree_strictly, NULL, NULL, &s4 },
        { "teams_agree_in_bf16", teams_agree_in_bf16, NULL, NULL, &s4 },
        cmocka_unit_test(bytes_are_known), cmocka_unit_test(bytes_of_teams_are_known), cmocka_unit_test(guard_agrees),
        cmocka_unit_test(guarded_teams_agree), cmocka_unit_test(classes_meet_in_the_host),
    };
    const struct CMUnitTest of_a_device[] = {
        { "plans_agree_3_steps", plans_agree, NULL, NULL, &s3 }, { "plans_agree_strictly_3_steps", plans_agree_strictly, NULL, NULL, &s3 },
    };

    const struct CMUnitTest sample[] = { cmocka_unit_test(some_plans_agree) };

    if (argc >= 3 && !strcmp(argv[1], "--device")) {
        device = argv[2];
        nb_blocks = SAMPLE_BLOCKS;
        if (argc > 3 && !strcmp(argv[3], "--sample"))
            return _cmocka_run_group_tests("plans", sample, 1, setup, teardown) ? 1 : 0;
        nb_blocks = DEVICE_BLOCKS;
        return _cmocka_run_group_tests("plans", of_a_device, sizeof(of_a_device) / sizeof(of_a_device[0]), setup, teardown) ? 1 : 0;
    }
    return _cmocka_run_group_tests("plans", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
