/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The session's side of avatar.h: how many frames, in what pieces, what receive and send answer, changes in mid-stream, abort,
 * failure, two sessions at once.
 */
#include <fenv.h>
#include <pthread.h>
#include <semaphore.h>
#include <time.h>

#include "base/philox.h"
#include "take.h"

static const struct {
    const char *plan, *devices, *vae;
    double tol;                                     // of its latents: parts of layers compute in another order, in bf16 where that is faster
} plans[] = {
    { "sequential", "cpu", NULL, 1e-5 }, { "sequential", "cpu", "cpu:own", 1e-5 }, { "wave", "cpu", NULL, 1e-5 },
    { "timestep", "cpu|cpu|cpu|cpu", "cpu:own", 1e-5 }, { "layer", "cpu|cpu|cpu", NULL, 1e-5 },
    { "tensor2", "cpu|cpu", NULL, 3e-2 }, { "layer+ulysses2", "cpu|cpu|cpu|cpu", NULL, 3e-2 },
};

#define NB_PLANS (sizeof(plans) / sizeof(plans[0]))

static AvatarEngine *open_engine(size_t plan, Lines *lines)
{
    const AvatarOptions opt = take_options(plans[plan].plan, plans[plan].devices, plans[plan].vae, lines);
    AvatarEngine *e = NULL;

    REQUIRE_OK(avatar_engine_open(&e, &opt));
    return e;
}

static AvatarSession *open_session(AvatarEngine *e, const SessionHooks *hooks)
{
    const AvatarLook look = take_look(0);
    AvatarSession *s = NULL;

    REQUIRE_OK(avt_session_open(&s, e, &look, hooks));
    return s;
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- how many frames ------------------------------------------------------------------------------------------------- */

static void frame_counts(void **state)
{
    static const struct {
        int64_t n, frames[3];                       // ceil, floor, block
    } want[] = {
        { 0, { 0, 0, 0 } }, { 1, { 1, 0, 12 } }, { 639, { 1, 0, 12 } }, { 640, { 1, 1, 12 } }, { 641, { 2, 1, 12 } },
        { 7679, { 12, 11, 12 } }, { 7680, { 12, 12, 12 } }, { 7681, { 13, 12, 24 } },
    };
    AvatarEngine *e = open_engine(0, NULL);
    AvatarLook look = take_look(0);
    float *pcm = take_sound(7681);
    Take *t = take_new();

    (void)state;
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
        for (look.tail = AVATAR_TAIL_CEIL; look.tail <= AVATAR_TAIL_BLOCK; look.tail++) {
            take_all(t, e, &look, NULL, pcm, want[i].n);
            assert_int_equal(t->ret, AVATAR_EOF);
            assert_int_equal(t->nb, want[i].frames[look.tail]);
        }
    free(t);
    free(pcm);
    avatar_engine_close(&e);
}

/* Formats differ in layout alone: planes and strides are where the header says. */
static void formats(void **state)
{
    static const struct {
        int format, linesize[3];
    } want[] = {
        { AVATAR_YUV420P, { 64, 32, 32 } }, { AVATAR_YUV444P, { 64, 64, 64 } }, { AVATAR_NV12, { 64, 64, 0 } },
        { AVATAR_RGB24, { 192, 0, 0 } }, { AVATAR_GBRP, { 64, 64, 64 } },
    };
    AvatarEngine *e = open_engine(0, NULL);
    AvatarLook look = take_look(0);
    float *pcm = take_sound(640);

    (void)state;
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        AvatarSession *s = NULL;
        AvatarFrame f;

        look.format = want[i].format;
        REQUIRE_OK(avatar_session_open(&s, e, &look));
        REQUIRE_OK(avatar_session_send(s, pcm, 640));
        REQUIRE_OK(avatar_session_send(s, NULL, 0));
        REQUIRE_OK(avatar_session_receive(s, &f, AVATAR_WAIT));
        assert_int_equal(f.format, want[i].format);
        for (int p = 0; p < 3; p++) {
            assert_int_equal(f.linesize[p], want[i].linesize[p]);
            assert_int_equal(!f.data[p], !want[i].linesize[p]);
        }
        assert_int_equal(avatar_session_receive(s, &f, AVATAR_WAIT), AVATAR_EOF);
        avatar_session_close(&s);
    }
    free(pcm);
    avatar_engine_close(&e);
}

/* ---- in what pieces --------------------------------------------------------------------------------------------------------- */

static void pieces_equal_whole(void **state)
{
    static const int64_t sizes[] = { 1, 639, 7, 0, 1024, 3333, 2, 8191 };
    const int64_t n = 20001;
    const AvatarLook look = take_look(0);
    AvatarEngine *e = open_engine(0, NULL);
    AvatarSession *s = NULL;
    float *pcm = take_sound(n);
    Take *whole = take_new(), *t = take_new();

    (void)state;
    take_all(whole, e, &look, NULL, pcm, n);
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    for (int64_t at = 0, i = 0, nb; at < n; at += nb, i++) {
        nb = sizes[i % 8] < n - at ? sizes[i % 8] : n - at;
        REQUIRE_OK(avatar_session_send(s, pcm + at, nb));
        take_frames(t, s, i & 1);
        assert_int_equal(t->ret, AVATAR_EAGAIN);
    }
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    take_frames(t, s, AVATAR_WAIT);
    assert_int_equal(t->ret, AVATAR_EOF);
    assert_int_equal(t->nb, (n + 639) / 640);
    assert_true(t->nb == whole->nb && same_frames(t, whole, 0, t->nb));
    avatar_session_close(&s);
    avatar_engine_close(&e);
    free(whole);
    free(t);
    free(pcm);
}

/* ---- what receive and send answer -------------------------------------------------------------------------------------------- */

typedef struct Gate {                               // holds a rank before block 0 until it is opened
    sem_t open;
} Gate;

static void noise_behind_gate(void *opaque, float *out, int64_t nb, int64_t block)
{
    Gate *g = opaque;

    if (!block)
        sem_wait(&g->open);
    test_random(out, nb, (uint64_t)block);
}

static void poll_never_waits(void **state)
{
    Gate gate;
    const SessionHooks hooks = { .rank = { .opaque = &gate, .noise = noise_behind_gate } };
    AvatarEngine *e = open_engine(0, NULL);
    AvatarSession *s;
    AvatarFrame f;
    float *pcm = take_sound(641);
    int nb = 0;

    (void)state;
    sem_init(&gate.open, 0, 0);
    s = open_session(e, &hooks);
    assert_int_equal(avatar_session_receive(s, &f, AVATAR_WAIT), AVATAR_EAGAIN);    // the sound is open: nothing to wait for
    REQUIRE_OK(avatar_session_send(s, pcm, 641));
    assert_int_equal(avatar_session_receive(s, &f, AVATAR_WAIT), AVATAR_EAGAIN);
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    alarm(20);                                      // a rank is held: one that waits here waits for good
    for (int i = 0; i < 1000; i++)
        assert_int_equal(avatar_session_receive(s, &f, AVATAR_POLL), AVATAR_EAGAIN);
    alarm(0);
    sem_post(&gate.open);
    while (avatar_session_receive(s, &f, AVATAR_WAIT) >= 0)
        nb++;
    assert_int_equal(nb, 2);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    sem_destroy(&gate.open);
    free(pcm);
}

static void end_stays_the_end(void **state)
{
    AvatarEngine *e = open_engine(0, NULL);
    AvatarSession *s = open_session(e, NULL);
    float *pcm = take_sound(100);
    AvatarFrame f;

    (void)state;
    REQUIRE_OK(avatar_session_send(s, pcm, 100));
    REQUIRE_OK(avatar_session_send(s, pcm, 0));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    assert_int_equal(avatar_session_send(s, pcm, 100), AVATAR_EOF);
    assert_int_equal(avatar_session_send(s, NULL, 0), AVATAR_EOF);
    REQUIRE_OK(avatar_session_receive(s, &f, AVATAR_WAIT));
    for (int i = 0; i < 3; i++) {
        assert_int_equal(avatar_session_receive(s, &f, AVATAR_WAIT), AVATAR_EOF);
        assert_int_equal(avatar_session_receive(s, &f, AVATAR_POLL), AVATAR_EOF);
    }
    avatar_session_abort(s);                        // too late to change anything
    assert_int_equal(avatar_session_receive(s, &f, AVATAR_WAIT), AVATAR_EOF);
    avatar_session_close(&s);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    avatar_engine_close(&e);
    free(pcm);
}

static void bad_sound_is_refused(void **state)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    Lines lines = { "" };
    AvatarEngine *e = open_engine(0, &lines);
    AvatarSession *s = open_session(e, NULL);
    float *pcm = take_sound(2000);
    Take *t = take_new();

    (void)state;
    REQUIRE_OK(avatar_session_send(s, pcm, 1000));
    for (int i = 0; i < 3; i++) {
        float v[50] = { 0 };

        v[40 + i] = bad[i];
        lines.text[0] = 0;
        feenableexcept(FE_INVALID);                                                 // as some hosts do: no signal may come
        assert_int_equal(avatar_session_send(s, v, 50), AVATAR_ERR(EINVAL));
        fedisableexcept(FE_INVALID);
        assert_non_null(strstr(lines.text, i == 0 ? "sample 1040 " : i == 1 ? "sample 1041 " : "sample 1042 "));
    }
    assert_int_equal(avatar_session_send(s, pcm, -1), AVATAR_ERR(EINVAL));
    REQUIRE_OK(avatar_session_send(s, pcm + 1000, 1000));                           // the refused ones left no trace
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    take_frames(t, s, AVATAR_WAIT);
    assert_int_equal(t->ret, AVATAR_EOF);
    assert_int_equal(t->nb, 4);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    free(t);
    free(pcm);
}

/* ---- changes in mid-stream ------------------------------------------------------------------------------------------------------ */

typedef struct Change {                             // made when block `at` is about to be admitted
    int64_t at;
    const char *prompt;
    int picture;                                    // 1: the other one; 0: stays
    int64_t seed;                                   // -2: stays
} Change;

typedef struct Script {
    Take *take;
    AvatarSession *s;
    const Change *change;
    int nb, next;
    void (*noise)(void *opaque, float *out, int64_t nb, int64_t block);     // or NULL
    int asked, late;                                // for noise; blocks that were through before the next one's noise was there
    int64_t newest;                                 // block that it was asked for
} Script;

static void script_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Script *sc = opaque;

    take_latents(sc->take, block, v, nb);
    sc->late += sc->newest <= block;
}

/* Runs in the conductor's thread: the changes come exactly before their blocks, whatever is in flight. */
static int script_admit(void *opaque, int64_t block, int64_t wave)
{
    Script *sc = opaque;

    (void)wave;
    while (sc->next < sc->nb && sc->change[sc->next].at == block) {
        const Change *c = &sc->change[sc->next++];
        AvatarLook look = take_look(c->picture);

        look.rgb = c->picture ? look.rgb : NULL;
        look.prompt = c->prompt;
        look.seed = c->seed;
        REQUIRE_OK(avatar_session_set(sc->s, &look));
    }
    return 1;
}

static void play_script(Script *sc, size_t plan, const float *features, int64_t nb_rows)
{
    const SessionHooks hooks = { .rank = { .opaque = sc, .noise = sc->noise, .latents = script_latents }, .admit = script_admit,
                                 .features = features, .nb_rows = nb_rows };
    AvatarEngine *e = open_engine(plan, NULL);

    memset(sc->take, 0, sizeof(*sc->take));
    sc->s = open_session(e, &hooks);
    REQUIRE_OK(avatar_session_send(sc->s, NULL, 0));
    take_frames(sc->take, sc->s, AVATAR_WAIT);
    assert_int_equal(sc->take->ret, AVATAR_EOF);
    assert_int_equal(sc->next, sc->nb);
    avatar_session_close(&sc->s);
    avatar_engine_close(&e);
}

static void run_script(Take *t, size_t plan, const Change *change, int nb, const float *features, int64_t nb_rows)
{
    Script sc = { .take = t, .change = change, .nb = nb };

    play_script(&sc, plan, features, nb_rows);
}

/* Prompt, picture and seed, alone and together, before, at and after the sink's refresh; several blocks are in flight. */
static void changes_start_with_a_block(void **state)
{
    static const Change change[] = {
        { 2, "a man shouts", 0, -2 }, { 3, NULL, 0, 77 }, { 5, NULL, 1, -2 }, { 6, "one", 0, -2 }, { 6, "a woman whispers", 0, 8 },
    };
    static const int64_t seed[8] = { 5, 5, 5, 77, 77, 77, 8, 8 }, id[8] = { 0, 0, 1, 1, 1, 1, 3, 3 };
    float *features = take_features(96, 3);
    Take *plain = take_new(), *ref = take_new(), *t = take_new();

    (void)state;
    run_script(plain, 0, NULL, 0, features, 96);
    run_script(ref, 0, change, 5, features, 96);
    for (size_t p = 0; p < NB_PLANS; p++) {
        run_script(t, p, change, 5, features, 96);
        assert_int_equal(t->nb, 96);
        for (int i = 0; i < 96; i++) {
            assert_int_equal(t->info[i].seed, seed[i / 12]);
            assert_int_equal(t->info[i].prompt_id, id[i / 12]);
        }
        for (int g = 0; g < 8; g++)
            REQUIRE_CLOSE(t->latents[g], ref->latents[g], LATENTS, plans[p].tol);
    }
    assert_true(same_frames(ref, plain, 0, 24) && latents_rms(ref, plain, 0, 2) == 0);
    assert_true(latents_rms(ref, plain, 2, 3) > 0.05);                              // the prompt
    assert_true(latents_rms(ref, plain, 3, 4) > 0.5);                               // the noise
    free(plain);
    free(ref);
    free(t);
    free(features);
}

/* The definition's, [16, 3, H, W] turned by hand: seed 5, from block 2 on 77. */
static void noise_by_definition(void *opaque, float *out, int64_t nb, int64_t block)
{
    enum { HW = SIZE / 8 * (SIZE / 8) };
    Script *sc = opaque;
    float v[16][3][HW];

    assert_int_equal(nb, 16 * 3 * HW);
    avt_philox_normal(v[0][0], 0, nb, block < 2 ? 5 : 77, (uint32_t)block);
    for (int i = 0; i < 48; i++)
        memcpy(out + (i % 3 * 16 + i / 3) * HW, v[i / 3][i % 3], sizeof(v[0][0]));
    sc->asked++;
    sc->newest = block;
}

/* While a block is at work the noise of the next one is made, with its seed; another seed makes it again. */
static void noise_is_made_ahead(void **state)
{
    static const Change change = { 2, NULL, 0, 77 };
    float *features = take_features(48, 3);
    Take *t = take_new(), *by_hand = take_new();
    Script sc = { .take = by_hand, .change = &change, .nb = 1, .noise = noise_by_definition };

    (void)state;
    run_script(t, 0, &change, 1, features, 48);
    play_script(&sc, 0, features, 48);
    assert_true(latents_rms(t, by_hand, 0, 4) == 0 && same_frames(t, by_hand, 0, 48));
    assert_int_equal(sc.asked, 4 + 1 + 1);          // four blocks, one that never comes, one again for its seed
    assert_int_equal(sc.late, 0);
    free(t);
    free(by_hand);
    free(features);
}

/* The same changes, asked for by the place in the sound long before it is heard, in any order: the same stream. */
static void changes_wait_for_their_sound(void **state)
{
    static const Change change[] = {
        { 2, "a man shouts", 0, -2 }, { 3, NULL, 0, 77 }, { 5, NULL, 1, -2 }, { 6, "one", 0, -2 }, { 6, "a woman whispers", 0, 8 },
    };
    static const int64_t from[] = { 7681, 3 * 7680, 5 * 7680 - 1, 6 * 7680 - 7679, 6 * 7680 }, order[] = { 3, 0, 4, 2, 1 };
    float *features = take_features(96, 3);
    const SessionHooks hooks = { .features = features, .nb_rows = 96 };
    Take *want = take_new(), *t = take_new();

    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++) {
        AvatarEngine *e = open_engine(p, NULL);
        AvatarSession *s = open_session(e, &hooks);
        AvatarLook look;
        int64_t frame;

        run_script(want, p, change, 5, features, 96);
        for (int i = 0; i < 5; i++) {
            const Change *c = &change[order[i]];

            look = take_look(c->picture);
            look.rgb = c->picture ? look.rgb : NULL;
            look.prompt = c->prompt;
            look.seed = c->seed;
            REQUIRE_OK(avatar_session_set_at(s, &look, from[order[i]], &frame));
            assert_int_equal(frame, 12 * c->at);
        }
        REQUIRE_OK(avatar_session_send(s, NULL, 0));
        t->nb = 0;
        take_frames(t, s, AVATAR_WAIT);
        assert_int_equal(t->nb, 96);
        assert_true(same_frames(t, want, 0, 96));
        assert_int_equal(avatar_session_set_at(s, &look, 7680, &frame), AVATAR_EOF);        // all blocks have begun
        avatar_session_close(&s);
        avatar_engine_close(&e);
    }
    free(want);
    free(t);
    free(features);
}

/* One change at a time, against a stream that had it from the start: a picture that comes before any block is the first one. */
static void early_change_is_the_first_look(void **state)
{
    static const Change early = { 0, "a man shouts", 1, 9 };
    AvatarLook look = take_look(1);
    float *features = take_features(60, 3);
    const SessionHooks hooks = { .features = features, .nb_rows = 60 };
    AvatarEngine *e = open_engine(0, NULL);
    Take *want = take_new(), *t = take_new();

    (void)state;
    look.prompt = early.prompt;
    look.seed = early.seed;
    take_all(want, e, &look, &hooks, NULL, 0);
    run_script(t, 0, &early, 1, features, 60);
    assert_true(t->nb == 60 && same_frames(t, want, 0, 60));
    avatar_engine_close(&e);
    free(want);
    free(t);
    free(features);
}

/* From the caller's side: what is set between two receives shows within the blocks that are made ahead, and stays. */
static void set_between_receives(void **state)
{
    float *features = take_features(120, 3);
    const SessionHooks hooks = { .features = features, .nb_rows = 120 };

    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++) {
        AvatarEngine *e = open_engine(p, NULL);
        AvatarSession *s = open_session(e, &hooks);
        AvatarLook look = { .size = sizeof(look), .prompt = "a man shouts", .seed = 6 };
        int64_t first = -1;
        AvatarFrame f;

        REQUIRE_OK(avatar_session_send(s, NULL, 0));
        REQUIRE_OK(avatar_session_receive(s, &f, AVATAR_WAIT));
        REQUIRE_OK(avatar_session_set(s, &look));
        while (avatar_session_receive(s, &f, AVATAR_WAIT) >= 0) {
            if (first < 0 && f.seed == 6)
                first = f.block;
            assert_int_equal(f.seed, first < 0 ? 5 : 6);
            assert_int_equal(f.prompt_id, first < 0 ? 0 : 1);
        }
        assert_in_range(first, 1, 9);               // at most: one read, two ready, one waiting, four in flight
        avatar_session_close(&s);
        avatar_engine_close(&e);
    }
    free(features);
}

static void bad_changes_are_refused(void **state)
{
    Lines lines = { "" };
    AvatarEngine *e = open_engine(0, &lines);
    AvatarSession *s = open_session(e, NULL);
    AvatarLook look = take_look(0);

    (void)state;
    look.seed = -3;
    assert_int_equal(avatar_session_set(s, &look), AVATAR_ERR(EINVAL));
    assert_non_null(strstr(lines.text, "seed=-3"));
    look.seed = -2;
    look.width = 0;
    assert_int_equal(avatar_session_set(s, &look), AVATAR_ERR(EINVAL));
    assert_non_null(strstr(lines.text, "0x64"));
    avatar_session_close(&s);
    avatar_engine_close(&e);
}

/* The tiny model reads 16 tokens. */
static void long_prompt_says_what_is_left_out(void **state)
{
    Lines lines = { "" };
    AvatarEngine *e = open_engine(0, &lines);
    AvatarLook look = take_look(0);
    AvatarSession *s = NULL;
    Take *t = take_new();

    (void)state;
    look.prompt = "hat";
    for (int is_long = 0; is_long < 2; is_long++) {
        lines.text[0] = 0;
        REQUIRE_OK(avatar_session_open(&s, e, &look));
        avatar_session_send(s, NULL, 0);
        take_frames(t, s, AVATAR_WAIT);
        avatar_session_close(&s);
        REQUIRE(!strstr(lines.text, "are left out") == !is_long);
        look.prompt = "a hat and a hat and a hat and a hat and a hat";
    }
    assert_non_null(strstr(lines.text, "reads 16 tokens"));
    avatar_engine_close(&e);
    free(t);
}

/* umT5's layers come when the first prompt does; then they take what was planned, and the engine says so from the beginning. */
static void text_encoder_stays_as_planned(void **state)
{
    AvatarLook look = take_look(0);
    Lines lines = { "" };
    AvatarSession *s = NULL;
    Take *t = take_new();
    AvatarEngine *e;
    Shelf *shelf;
    size_t planned;

    (void)state;
    avatar_engine_flush();
    e = open_engine(0, &lines);
    shelf = e->core->front.t5.shelf;
    planned = avt_shelf_planned(shelf);
    REQUIRE(planned > 0 && avt_shelf_used(shelf) == 0);
    for (int i = 0; i < 2; i++) {
        look.prompt = i ? "a coat" : "a hat";
        REQUIRE_OK(avatar_session_open(&s, e, &look));
        avatar_session_send(s, NULL, 0);
        take_frames(t, s, AVATAR_WAIT);
        REQUIRE((size_t)e->core->weight_bytes > planned);
        avatar_session_close(&s);
        assert_int_equal(avt_shelf_used(shelf), planned);
    }
    avatar_engine_close(&e);
    free(t);
}

/* A prompt that cannot be encoded fails the session when its turn comes, with a sentence. */
static void bad_prompt_is_refused(void **state)
{
    Lines lines = { "" };
    AvatarEngine *e = open_engine(0, &lines);
    AvatarLook look = take_look(0), change = take_look(0);
    AvatarSession *s = NULL;
    Take *t = take_new();

    (void)state;
    look.prompt = "caf\xe9";
    assert_int_equal(avatar_session_open(&s, e, &look), AVATAR_ERR(EINVAL));
    assert_null(s);
    assert_non_null(strstr(lines.text, "UTF-8"));
    look = take_look(0);
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    change.prompt = "caf\xe9";
    assert_int_equal(avatar_session_set(s, &change), AVATAR_ERR(EINVAL));
    avatar_session_send(s, NULL, 0);                                // the stream goes on
    take_frames(t, s, AVATAR_WAIT);
    assert_int_equal(t->ret, AVATAR_EOF);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    free(t);
}

/* ---- abort ------------------------------------------------------------------------------------------------------------------------ */

typedef struct Aborter {
    AvatarSession *s;
    sem_t go;
    double at;
} Aborter;

static void *abort_when_told(void *arg)
{
    Aborter *a = arg;

    sem_wait(&a->go);
    usleep(20000);
    a->at = seconds();
    avatar_session_abort(a->s);
    return NULL;
}

static void tell_aborter(void *opaque, float *out, int64_t nb, int64_t block)
{
    Aborter *a = opaque;

    test_random(out, nb, (uint64_t)block);
    if (block == 1)
        sem_post(&a->go);
}

/* Larger frames: the abort comes in the middle of a block. */
static double abort_in_a_block(size_t plan)
{
    float *features = take_features(48, 3);
    Aborter a = { 0 };
    const SessionHooks hooks = { .rank = { .opaque = &a, .noise = tell_aborter }, .features = features, .nb_rows = 48 };
    AvatarEngine *e = open_engine(plan, NULL);
    AvatarLook look = take_look(0);
    pthread_t thread;
    AvatarFrame f;
    double took;
    int ret;

    sem_init(&a.go, 0, 0);
    look.out_width = look.out_height = 160;
    REQUIRE_OK(avt_session_open(&a.s, e, &look, &hooks));
    REQUIRE_OK(pthread_create(&thread, NULL, abort_when_told, &a));
    REQUIRE_OK(avatar_session_send(a.s, NULL, 0));
    while ((ret = avatar_session_receive(a.s, &f, AVATAR_WAIT)) >= 0)
        ;
    assert_int_equal(ret, AVATAR_ERR(ECANCELED));
    assert_int_equal(avatar_session_receive(a.s, &f, AVATAR_POLL), AVATAR_ERR(ECANCELED));
    assert_int_equal(avatar_session_send(a.s, NULL, 0), AVATAR_ERR(ECANCELED));
    pthread_join(thread, NULL);
    avatar_session_close(&a.s);
    took = seconds() - a.at;
    avatar_engine_close(&e);
    sem_destroy(&a.go);
    free(features);
    return took;
}

static void abort_is_quick(void **state)
{
    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++) {
        double took = abort_in_a_block(p);

        for (int again = 0; took >= 1 && again < 3; again++)        // a busy machine may be slow once
            took = abort_in_a_block(p);
        assert_true(took < 1);
    }
}

static void close_without_reading(void **state)
{
    float *features = take_features(96, 3);
    const SessionHooks hooks = { .features = features, .nb_rows = 96 };

    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++)
        for (int closed = 0; closed < 2; closed++) {
            AvatarEngine *e = open_engine(p, NULL);
            AvatarSession *s = open_session(e, &hooks);

            if (closed) {
                REQUIRE_OK(avatar_session_send(s, NULL, 0));
                usleep(100000);
            }
            avatar_session_close(&s);
            avatar_engine_close(&e);
        }
    free(features);
}

/* ---- failure ------------------------------------------------------------------------------------------------------------------------ */

/* Features that are no numbers from block 2 on: blocks 0 and 1 are given, then the error, again and again. */
static void finished_frames_come_before_the_error(void **state)
{
    float *features = take_features(60, 3);
    const SessionHooks hooks = { .features = features, .nb_rows = 60 };
    Take *t = take_new();

    (void)state;
    for (int64_t i = 24 * ROW; i < 60 * ROW; i++)
        features[i] = NAN;
    for (size_t p = 0; p < NB_PLANS; p++) {
        Lines lines = { "" };
        AvatarEngine *e = open_engine(p, &lines);
        AvatarSession *s = open_session(e, &hooks);

        t->nb = 0;
        REQUIRE_OK(avatar_session_send(s, NULL, 0));
        take_frames(t, s, AVATAR_WAIT);
        assert_int_equal(t->nb, 24);
        assert_int_equal(t->ret, AVATAR_INVALID);
        assert_non_null(strstr(lines.text, "block 2: "));
        take_frames(t, s, AVATAR_POLL);
        assert_int_equal(t->ret, AVATAR_INVALID);
        assert_int_equal(avatar_session_send(s, features, 10), AVATAR_INVALID);
        avatar_session_close(&s);
        avatar_engine_close(&e);
    }
    free(t);
    free(features);
}

/* ---- together ------------------------------------------------------------------------------------------------------------------------- */

typedef struct Player {
    AvatarEngine *e;
    int picture;
    const float *pcm;
    int64_t n;
    Take *take;
} Player;

static void *play(void *arg)
{
    Player *p = arg;
    AvatarLook look = take_look(p->picture);

    look.seed = 100 + p->picture;
    take_all(p->take, p->e, &look, NULL, p->pcm, p->n);
    return NULL;
}

static void two_sessions_at_once(void **state)
{
    static const size_t with[] = { 0, 2, 4 };
    float *pcm = take_sound(4 * BLOCK_SAMPLES);

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        AvatarEngine *e = open_engine(with[k], NULL);
        Player p[4];
        pthread_t thread[2];

        for (int i = 0; i < 4; i++)
            p[i] = (Player){ e, i & 1, pcm, (i & 1 ? 3 : 4) * BLOCK_SAMPLES, take_new() };
        play(&p[0]);
        play(&p[1]);
        for (int i = 0; i < 2; i++)
            REQUIRE_OK(pthread_create(&thread[i], NULL, play, &p[2 + i]));
        for (int i = 0; i < 2; i++)
            pthread_join(thread[i], NULL);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(p[2 + i].take->nb, i ? 36 : 48);
            assert_true(same_frames(p[i].take, p[2 + i].take, 0, p[i].take->nb));
        }
        assert_false(same_frames(p[0].take, p[1].take, 0, 12));
        for (int i = 0; i < 4; i++)
            free(p[i].take);
        avatar_engine_close(&e);
    }
    free(pcm);
}

/* The caller's rounding mode is neither changed nor taken over by the session's threads. */
static void rounding_stays_at_home(void **state)
{
    const AvatarLook look = take_look(0);
    AvatarEngine *e = open_engine(0, NULL);
    float *pcm = take_sound(BLOCK_SAMPLES);
    Take *want = take_new(), *t = take_new();

    (void)state;
    take_all(want, e, &look, NULL, pcm, BLOCK_SAMPLES);
    fesetround(FE_UPWARD);
    take_all(t, e, &look, NULL, pcm, BLOCK_SAMPLES);
    assert_int_equal(fegetround(), FE_UPWARD);
    fesetround(FE_TONEAREST);
    assert_true(same_frames(t, want, 0, 12) && latents_rms(t, want, 0, 1) == 0);
    avatar_engine_close(&e);
    free(want);
    free(t);
    free(pcm);
}

/* ---- memory ----------------------------------------------------------------------------------------------------------------------------- */

typedef struct Calls {
    int64_t at[MAX_BLOCKS], bytes[MAX_BLOCKS];      // allocations so far; bytes in use
} Calls;

static void count_calls(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Calls *c = opaque;

    (void)v;
    (void)nb;
    c->at[block] = avt_mem_calls();
    c->bytes[block] = avt_mem_bytes(MEM_NB);
}

/* A stream allocates nothing, for messages between ranks neither, however far one rank is ahead of another. Block 0's decoding comes
 * after its latents, so block 1 is where counting begins. */
static void no_allocation_in_a_stream(void **state)
{
    float *features = take_features(120, 3);

    (void)state;
    avatar_engine_flush();                          // none that is kept goes away meanwhile
    for (size_t p = 0; p < NB_PLANS; p++) {
        Calls calls;
        const SessionHooks hooks = { .rank = { .opaque = &calls, .latents = count_calls }, .features = features, .nb_rows = 120 };
        const AvatarLook look = take_look(0);
        AvatarEngine *e = open_engine(p, NULL);
        Take *t = take_new();

        take_all(t, e, &look, &hooks, NULL, 0);
        assert_int_equal(t->nb, 120);
        assert_int_equal(calls.bytes[9], calls.bytes[1]);
        assert_int_equal(calls.at[9], calls.at[1]);
        avatar_engine_close(&e);
        avatar_engine_flush();
        free(t);
    }
    free(features);
}

static void nothing_stays(void **state)
{
    (void)state;
    avatar_engine_flush();
    assert_int_equal(avt_mem_bytes(MEM_NB), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frame_counts), cmocka_unit_test(formats), cmocka_unit_test(pieces_equal_whole), cmocka_unit_test(poll_never_waits),
        cmocka_unit_test(end_stays_the_end), cmocka_unit_test(bad_sound_is_refused), cmocka_unit_test(changes_start_with_a_block),
        cmocka_unit_test(noise_is_made_ahead),
        cmocka_unit_test(early_change_is_the_first_look), cmocka_unit_test(set_between_receives), cmocka_unit_test(bad_changes_are_refused),
        cmocka_unit_test(long_prompt_says_what_is_left_out), cmocka_unit_test(text_encoder_stays_as_planned),
        cmocka_unit_test(bad_prompt_is_refused),
        cmocka_unit_test(changes_wait_for_their_sound), cmocka_unit_test(abort_is_quick), cmocka_unit_test(close_without_reading),
        cmocka_unit_test(finished_frames_come_before_the_error), cmocka_unit_test(two_sessions_at_once),
        cmocka_unit_test(rounding_stays_at_home), cmocka_unit_test(no_allocation_in_a_stream), cmocka_unit_test(nothing_stays),
    };

    return _cmocka_run_group_tests("session", tests, sizeof(tests) / sizeof(tests[0]), take_setup, take_teardown) ? 1 : 0;
}
