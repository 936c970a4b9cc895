/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What noise-like pictures hide: that each input reaches the picture, when it does, and nothing else does.
 *
 * The floors below are what mistakes moved the latents by, as rms, in the reference implementation; a stream in which an input has no
 * effect, or too little, falls under them.
 */
#include "base/philox.h"
#include "nets/sampler.h"
#include "take.h"

#define BLOCKS 6
#define ROWS (12 * BLOCKS)
#define STEPS 4
#define HW (SIZE / 8 * SIZE / 8)

/* Random weights in which inputs matter as much as in the reference network. */
static const TestGain gains[] = {
    { "self_attn.v", 2 }, { "self_attn.o", 7 }, { "cross_attn.o", 4 }, { "audio_injector.injector", 2.5f }, { "patch_embedding", 2.5f },
    { "frame_packer", 2 }, { "cond_mask", 0.3f }, { "head.head", 1.8f }, { "encoder.head.2", 8 }, { NULL, 1 },
};


static float *features;                             // [ROWS, STATES, STATE_DIM]
static AvatarEngine *engine;                        // sequential
static Take *base;                                  // features and take_look(0) on it

/* ---- through the engine -------------------------------------------------------------------------------------------------- */

static AvatarEngine *open_plan(const char *plan, const char *devices)
{
    const AvatarOptions opt = take_options(plan, devices, NULL, NULL);
    AvatarEngine *e = NULL;

    REQUIRE_OK(avatar_engine_open(&e, &opt));
    return e;
}

static void run_rows(Take *t, AvatarEngine *e, const float *rows, int64_t nb)
{
    const SessionHooks hooks = { .features = rows, .nb_rows = nb };
    const AvatarLook look = take_look(0);

    take_all(t, e, &look, &hooks, NULL, 0);
    assert_int_equal(t->ret, AVATAR_EOF);
    assert_int_equal(t->nb, nb);
}

/* Feature row j moves its own block and no frame before it. */
static void check_row(AvatarEngine *e, const Take *ref, int64_t j, Take *t)
{
    const int64_t g = j / 12, nb = 12 * (g + 1);
    float *rows = malloc(sizeof(*rows) * ROWS * ROW);

    memcpy(rows, features, sizeof(*rows) * ROWS * ROW);
    for (int i = 0; i < ROW; i++)
        rows[j * ROW + i] = -rows[j * ROW + i];
    run_rows(t, e, rows, nb);
    assert_true(same_frames(t, ref, 0, 12 * g));
    assert_true(latents_rms(t, ref, 0, (int)g) == 0 || !g);
    assert_true(latents_rms(t, ref, (int)g, (int)g + 1) > 1e-3);
    assert_false(same_frames(t, ref, 12 * g, nb));
    free(rows);
}

static void sound_moves_its_block(void **state)
{
    static const int64_t rows[] = { 0, 11, 12, 17, 35, 36, 59 };
    Take *t = take_new();

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        check_row(engine, base, rows[i], t);
    free(t);
}

static void sound_moves_its_block_in_waves(void **state)
{
    static const char *const plans[][2] = { { "wave", "cpu" }, { "layer", "cpu|cpu" }, { "timestep", "cpu|cpu|cpu|cpu" } };
    Take *ref = take_new(), *t = take_new();

    (void)state;
    for (int p = 0; p < 3; p++) {
        AvatarEngine *e = open_plan(plans[p][0], plans[p][1]);

        run_rows(ref, e, features, ROWS);
        check_row(e, ref, 23, t);
        check_row(e, ref, 48, t);
        avatar_engine_close(&e);
    }
    free(ref);
    free(t);
}

/* The sink belongs to the block, and nothing looks ahead: a stream that ends earlier is the beginning of the longer one. */
static void nothing_looks_ahead(void **state)
{
    static const char *const plans[][2] = { { "sequential", "cpu" }, { "wave", "cpu" }, { "layer", "cpu|cpu|cpu" } };
    Take *whole = take_new(), *t = take_new();

    (void)state;
    for (int p = 0; p < 3; p++) {
        AvatarEngine *e = open_plan(plans[p][0], plans[p][1]);

        run_rows(whole, e, features, ROWS);
        for (int64_t nb = 12; nb < ROWS; nb += p ? 36 : 12) {       // 4 blocks: none with the second sink follows
            run_rows(t, e, features, nb);
            assert_true(same_frames(t, whole, 0, nb));
            assert_true(latents_rms(t, whole, 0, (int)nb / 12) == 0);
        }
        avatar_engine_close(&e);
    }
    free(whole);
    free(t);
}

static void check_move(const char *what, const Take *a, const Take *b, int from, int to, double floor)
{
    const double rms = latents_rms(a, b, from, to);

    print_message("%-24s moves the latents by %.3f rms, at least %.3f\n", what, rms, floor);
    assert_true(rms >= floor);
}

static int other_distance(void *opaque, int64_t block, int step)
{
    (void)opaque;
    return 34 - avt_philox_distance(5, (uint32_t)block, (uint32_t)step);
}

/* Each input alone, against the base. */
static void inputs_move_the_latents(void **state)
{
    float *silence = calloc(ROWS * ROW, sizeof(*silence)), context[16 * TEXT_DIM] = { 0 };
    SessionHooks hooks = { .features = features, .nb_rows = ROWS };
    AvatarLook look = take_look(0);
    Take *t = take_new();

    (void)state;
    look.prompt = "a man shouts in the rain";
    take_all(t, engine, &look, &hooks, NULL, 0);
    check_move("another prompt", t, base, 0, BLOCKS, 0.5);
    look = take_look(1);
    take_all(t, engine, &look, &hooks, NULL, 0);
    check_move("another picture", t, base, 0, BLOCKS, 0.21);
    look = take_look(0);
    hooks.distance = other_distance;
    take_all(t, engine, &look, &hooks, NULL, 0);
    check_move("other sink distances", t, base, 1, BLOCKS, 0.028);
    hooks = (SessionHooks){ .features = silence, .nb_rows = ROWS };
    take_all(t, engine, &look, &hooks, NULL, 0);
    check_move("zero sound", t, base, 0, BLOCKS, 0.38);
    hooks = (SessionHooks){ .features = features, .nb_rows = ROWS, .context = context, .nb_context = 16 };
    take_all(t, engine, &look, &hooks, NULL, 0);
    check_move("zero text", t, base, 0, BLOCKS, 0.5);
    free(silence);
    free(t);
}

static void seeds(void **state)
{
    const SessionHooks hooks = { .features = features, .nb_rows = 24 };
    AvatarLook look = take_look(0);
    AvatarEngine *e;
    AvatarSession *s = NULL;
    AvatarInfo a, b;
    Take *t = take_new();

    (void)state;
    avatar_engine_close(&engine);                   // not even the same weights in memory
    avatar_engine_flush();
    engine = open_plan("sequential", "cpu");
    take_all(t, engine, &look, &hooks, NULL, 0);
    assert_true(same_frames(t, base, 0, 24) && latents_rms(t, base, 0, 2) == 0);
    look.seed = 6;
    take_all(t, engine, &look, &hooks, NULL, 0);
    check_move("another seed", t, base, 0, 2, 0.5);
    e = engine;
    look.seed = -1;                                 // drawn: another each time, and said
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    avatar_session_info(s, &a);
    avatar_session_close(&s);
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    avatar_session_info(s, &b);
    avatar_session_close(&s);
    assert_true(a.seed >= 0 && b.seed >= 0 && a.seed != b.seed);
    free(t);
}

/* From real sound: silence of the same length, and sound whose end differs. */
static void sound_itself(void **state)
{
    const int64_t n = 5 * BLOCK_SAMPLES;
    const AvatarLook look = take_look(0);
    float *pcm = take_sound(n), *silence = calloc((size_t)n, sizeof(*silence));
    Take *a = take_new(), *b = take_new();

    (void)state;
    take_all(a, engine, &look, NULL, pcm, n);
    take_all(b, engine, &look, NULL, silence, n);
    assert_int_equal(a->nb, 60);
    check_move("silence for speech", a, b, 0, 5, 0.38);
    free(pcm);
    free(silence);
    free(a);
    free(b);
}

/* ---- on the transformer itself: what the engine does not let one leave out ------------------------------------------------- */

typedef struct Loop {
    const Dit *d;
    Backend *be;
    Arena *arena;
    DitShape shape;
    Schedule schedule;
    DitTime time[STEPS], sink_time;
    DitKeys ring[STEPS], text, sink[2];
    DitAudio audio;
    Tensor ref, motion, new_ref, x, latent, velocity, rows;
} Loop;

typedef enum Omit { NOTHING, HISTORY, REFERENCE, MOTION, REFRESH } Omit;

static Tensor upload_random(Loop *l, Tensor t, uint64_t seed)
{
    float *v = malloc(avt_nbytes(t));

    test_random(v, avt_numel(t), seed);
    avt_upload(l->be, t, v);
    free(v);
    return t;
}

static void loop_open(Loop *l)
{
    const BackendOptions opt = { .threads = 1, .level = CPU_AUTO, .act = engine->core->act };
    const DitConfig *cfg = &engine->core->sizes.dit;
    Tensor embedded;

    memset(l, 0, sizeof(*l));
    l->d = &engine->core->rank[0].dit;
    l->shape = avt_dit_shape(SIZE / 8, SIZE / 8);
    REQUIRE_OK(avt_schedule(&l->schedule, STEPS, 3));
    REQUIRE_OK(avt_backend_open(&l->be, "cpu", &opt));
    REQUIRE_OK(avt_arena_open(&l->arena, l->be, "test", (size_t)256 << 20));
    for (int i = 0; i < STEPS; i++) {
        avt_dit_time_open(&l->time[i], l->arena, l->d);
        avt_dit_time(l->be, l->arena, l->d, &l->time[i], l->schedule.timestep[i]);
        avt_dit_keys_open(&l->ring[i], l->arena, l->d, l->shape.ring, 0);
    }
    avt_dit_time_open(&l->sink_time, l->arena, l->d);
    avt_dit_time(l->be, l->arena, l->d, &l->sink_time, 0);
    avt_dit_keys_open(&l->text, l->arena, l->d, cfg->text_len, 0);
    for (int i = 0; i < 2; i++)
        avt_dit_keys_open(&l->sink[i], l->arena, l->d, l->shape.Lc, l->shape.n);
    avt_dit_audio_open(&l->audio, l->arena, l->d, &l->shape, 1, 0);
    embedded = avt_new(l->arena, l->be->act, cfg->text_len, cfg->dim);
    avt_dit_text(l->be, l->arena, l->d, embedded, upload_random(l, avt_new(l->arena, DT_F32, 5, cfg->text_dim), 4));
    avt_dit_text_keys(l->be, l->arena, l->d, &l->text, embedded);
    l->ref = avt_new(l->arena, DT_F32, 1, 16, SIZE / 8, SIZE / 8);
    l->new_ref = avt_new(l->arena, DT_F32, 1, 16, SIZE / 8, SIZE / 8);
    l->motion = avt_new(l->arena, DT_F32, DIT_MOTION, 16, SIZE / 8, SIZE / 8);
    l->x = avt_new(l->arena, DT_F32, l->shape.N > l->shape.Lc ? l->shape.N : l->shape.Lc, cfg->dim);
    l->latent = avt_new(l->arena, DT_F32, DIT_BLOCK, 16, SIZE / 8, SIZE / 8);
    l->velocity = avt_new(l->arena, DT_F32, DIT_BLOCK, 16, SIZE / 8, SIZE / 8);
    l->rows = avt_new(l->arena, DT_F32, 1, 12, STATES, STATE_DIM);
    REQUIRE_OK(avt_sync(l->be));
}

static void loop_close(Loop *l)
{
    for (int i = 0; i < STEPS; i++)
        avt_dit_keys_close(&l->ring[i]);
    avt_dit_keys_close(&l->text);
    avt_dit_keys_close(&l->sink[0]);
    avt_dit_keys_close(&l->sink[1]);
    avt_arena_close(&l->arena);
    avt_backend_close(&l->be);
}

static void make_sink(Loop *l, DitKeys *sink, Tensor ref)
{
    DitItem item = { .sink_pass = 1, .shape = &l->shape, .time = &l->sink_time, .text = &l->text, .sink = sink,
                     .x = avt_rows(l->x, 0, l->shape.Lc) };

    avt_dit_embed_sink(l->be, l->arena, l->d, item.x, ref, l->motion);
    avt_dit_layers(l->be, l->arena, l->d, &item, 1);
}

static void empty_rings(Loop *l)
{
    for (int i = 0; i < STEPS; i++)
        for (int64_t k = 0; k < l->ring[i].nb; k++) {
            avt_fill(l->be, l->ring[i].k[k], 0);
            avt_fill(l->be, l->ring[i].v[k], 0);
        }
}

static void run_item(Loop *l, int block, int step, DitKeys *sink)
{
    DitItem item = { .f0 = DIT_BLOCK * block, .relative_dist = avt_philox_distance(5, (uint32_t)block, (uint32_t)step), .shape = &l->shape,
                     .time = &l->time[step], .text = &l->text, .sink = sink, .ring = &l->ring[step], .audio = &l->audio,
                     .x = avt_rows(l->x, 0, l->shape.N) };

    avt_dit_embed_block(l->be, l->arena, l->d, item.x, l->latent, AVT_NONE);
    avt_dit_layers(l->be, l->arena, l->d, &item, 1);
    avt_dit_head(l->be, l->arena, l->d, l->velocity, item.x, item.time);
    avt_axpy(l->be, l->latent, 1, l->latent, l->schedule.sigma[step + 1] - l->schedule.sigma[step], l->velocity);
}

static void begin_block(Loop *l, int block)
{
    float noise[LATENTS];

    avt_noise(noise, DIT_BLOCK, 16, HW, 5, block);
    avt_upload(l->be, l->latent, noise);
    avt_upload(l->be, l->rows, features + (int64_t)block * 12 * ROW);
    avt_dit_audio(l->be, l->arena, l->d, &l->audio, l->rows);
    avt_dit_audio_keys(l->be, l->arena, l->d, &l->audio);
}

static void run_loop(Loop *l, Take *t, Omit omit)
{
    memset(t, 0, sizeof(*t));
    upload_random(l, l->ref, 11);
    upload_random(l, l->motion, 12);
    if (omit == REFERENCE)
        avt_fill(l->be, l->ref, 0);
    if (omit == MOTION)
        avt_fill(l->be, l->motion, 0);
    empty_rings(l);
    make_sink(l, &l->sink[0], l->ref);
    for (int g = 0; g < BLOCKS; g++) {
        if (omit == HISTORY)
            empty_rings(l);
        begin_block(l, g);
        for (int i = 0; i < STEPS; i++)
            run_item(l, g, i, &l->sink[g >= 4 && omit != REFRESH]);
        REQUIRE_OK(avt_download(l->be, t->latents[g], l->latent));
        if (!g) {
            avt_copy(l->be, l->new_ref, avt_rows(l->latent, 0, 1));
            make_sink(l, &l->sink[1], l->new_ref);
        }
    }
}

static void memory_moves_the_latents(void **state)
{
    Take *all = take_new(), *t = take_new();
    Loop l;

    (void)state;
    loop_open(&l);
    run_loop(&l, all, NOTHING);
    run_loop(&l, t, NOTHING);
    assert_true(latents_rms(t, all, 0, BLOCKS) == 0);
    run_loop(&l, t, HISTORY);
    assert_true(latents_rms(t, all, 0, 1) == 0);
    check_move("an emptied ring", t, all, 1, BLOCKS, 0.18);
    run_loop(&l, t, REFERENCE);
    check_move("zero reference", t, all, 0, BLOCKS, 0.18);
    run_loop(&l, t, MOTION);
    check_move("zero motion", t, all, 0, BLOCKS, 0.21);
    run_loop(&l, t, REFRESH);
    assert_true(latents_rms(t, all, 0, 4) == 0);
    check_move("no refresh of the sink", t, all, 4, BLOCKS, 0.12);
    loop_close(&l);
    free(all);
    free(t);
}

/* ---- */

static int setup(void **state)
{
    const int ret = take_setup_model(gains);

    (void)state;

    features = take_features(ROWS, 3);
    base = take_new();
    engine = open_plan("sequential", "cpu");
    run_rows(base, engine, features, ROWS);
    return ret;
}

static int teardown(void **state)
{
    avatar_engine_close(&engine);
    avatar_engine_flush();
    free(features);
    free(base);
    return take_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inputs_move_the_latents), cmocka_unit_test(memory_moves_the_latents), cmocka_unit_test(sound_moves_its_block),
        cmocka_unit_test(sound_moves_its_block_in_waves), cmocka_unit_test(nothing_looks_ahead), cmocka_unit_test(seeds),
        cmocka_unit_test(sound_itself),
    };

    return _cmocka_run_group_tests("behaviour", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
