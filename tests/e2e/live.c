/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * mode=live: pictures do not depend on when sound came, a block starts exactly when its sound and the look-ahead are there,
 * receive never waits for sound, late=repeat|drop leave out what they say, memory stays flat.
 */
#include "take.h"

#define LATENCY 2560                                // samples of look-ahead: 160 ms, the default

static const struct {
    const char *plan, *devices, *vae;
    double tol;                                     // of its latents: parts of layers compute in another order, in bf16 where that is faster
} plans[] = {
    { "sequential", "cpu", NULL, 1e-5 }, { "wave", "cpu", NULL, 1e-5 }, { "timestep", "cpu|cpu|cpu|cpu", "cpu:own", 1e-5 },
    { "layer", "cpu|cpu|cpu", NULL, 1e-5 }, { "tensor2", "cpu|cpu", NULL, 3e-2 },
};

#define NB_PLANS (sizeof(plans) / sizeof(plans[0]))

static AvatarEngine *open_engine(size_t plan, Lines *lines)
{
    const AvatarOptions opt = take_options(plans[plan].plan, plans[plan].devices, plans[plan].vae, lines);
    AvatarEngine *e = NULL;

    REQUIRE_OK(avatar_engine_open(&e, &opt));
    return e;
}

static AvatarLook live_look(int latency_ms)
{
    AvatarLook look = take_look(0);

    look.mode = AVATAR_LIVE;
    look.latency_ms = latency_ms;
    return look;
}

static AvatarSession *open_live(AvatarEngine *e, const AvatarLook *look)
{
    AvatarSession *s = NULL;

    REQUIRE_OK(avatar_session_open(&s, e, look));
    return s;
}

/* Sound in pieces, each followed by what frames there are; the end only when all was sent. */
static void take_pieces(Take *t, AvatarEngine *e, const AvatarLook *look, const float *pcm, int64_t n, int64_t piece)
{
    const SessionHooks hooks = { .rank = { .opaque = t, .latents = take_latents } };
    AvatarSession *s = NULL;

    memset(t, 0, sizeof(*t));
    REQUIRE_OK(avt_session_open(&s, e, look, &hooks));
    for (int64_t at = 0; at < n; at += piece) {
        REQUIRE_OK(avatar_session_send(s, pcm + at, at + piece < n ? piece : n - at));
        take_frames(t, s, AVATAR_WAIT);
        assert_int_equal(t->ret, AVATAR_EAGAIN);
    }
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    take_frames(t, s, AVATAR_WAIT);
    assert_int_equal(t->ret, AVATAR_EOF);
    avatar_session_close(&s);
}

/* ---- arrival ----------------------------------------------------------------------------------------------------------------- */

static void arrival_changes_nothing(void **state)
{
    static const int64_t pieces[] = { 100000, 7680, 160, 1 };
    const int64_t n = 3 * BLOCK_SAMPLES + 1001;
    const AvatarLook look = live_look(-1);
    float *pcm = take_sound(n);
    Take *first = take_new(), *want = take_new(), *t = take_new();

    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++) {
        AvatarEngine *e = open_engine(p, NULL);

        for (int i = 0; i < 4; i++) {
            take_pieces(t, e, &look, pcm, n, pieces[i]);
            assert_int_equal(t->nb, (n + 639) / 640);
            if (!i)
                memcpy(want, t, sizeof(*t));
            if (!i && !p)
                memcpy(first, t, sizeof(*t));
            assert_true(same_frames(t, want, 0, t->nb) && latents_rms(t, want, 0, 4) == 0);
            for (int g = 0; g < 4; g++)
                REQUIRE_CLOSE(t->latents[g], first->latents[g], LATENTS, plans[p].tol);
        }
        avatar_engine_close(&e);
    }
    free(first);
    free(want);
    free(t);
    free(pcm);
}

/* A window is 80 samples longer than a block whatever the look-ahead: with less look-ahead they are silence, not what came early. */
static void short_latency_is_kept(void **state)
{
    const int64_t n = 3 * BLOCK_SAMPLES;
    float *pcm = take_sound(n);
    AvatarEngine *e = open_engine(0, NULL);
    Take *none = take_new(), *t = take_new();

    (void)state;
    for (int ms = 0; ms <= 5; ms += 2) {
        const AvatarLook look = live_look(ms);

        take_pieces(t, e, &look, pcm, n, n);
        take_pieces(none, e, &look, pcm, n, 1);
        assert_true(same_frames(t, none, 0, 36));
    }
    avatar_engine_close(&e);
    free(none);
    free(t);
    free(pcm);
}

/* What lies behind the look-ahead does not matter, what lies in front of it does: the first of two blocks, of sounds that differ
 * from some sample on. */
static int first_block_differs(AvatarEngine *e, int latency_ms, int64_t from)
{
    const AvatarLook look = live_look(latency_ms);
    const int64_t n = 4 * BLOCK_SAMPLES;
    float *pcm = take_sound(n);
    Take *a = take_new(), *b = take_new();
    int differ;

    take_pieces(a, e, &look, pcm, n, n);
    for (int64_t i = from; i < n; i++)
        pcm[i] = -0.9f * pcm[i] + 0.05f;
    take_pieces(b, e, &look, pcm, n, n);
    differ = latents_rms(a, b, 0, 1) > 0;
    free(a);
    free(b);
    free(pcm);
    return differ;
}

static void lookahead_is_exact(void **state)
{
    static const int ms[] = { 0, 160, 700 };
    AvatarEngine *e = open_engine(0, NULL);

    (void)state;
    for (int i = 0; i < 3; i++) {
        const int64_t end = BLOCK_SAMPLES + ms[i] * 16;

        assert_false(first_block_differs(e, ms[i], end));
        assert_true(first_block_differs(e, ms[i], end - 330));      // the last row's samples, or the last row that is looked at
    }
    avatar_engine_close(&e);
}

/* ---- counts, the end --------------------------------------------------------------------------------------------------------- */

static void frame_counts(void **state)
{
    static const struct {
        int64_t n, frames[3];                       // ceil, floor, block
    } want[] = {
        { 0, { 0, 0, 0 } }, { 1, { 1, 0, 12 } }, { 640, { 1, 1, 12 } }, { 641, { 2, 1, 12 } }, { 7679, { 12, 11, 12 } },
        { 7680, { 12, 12, 12 } }, { 7681, { 13, 12, 24 } }, { 7680 + LATENCY, { 16, 16, 24 } }, { 16000, { 25, 25, 36 } },
    };
    AvatarEngine *e = open_engine(0, NULL);
    AvatarLook look = live_look(-1);
    float *pcm = take_sound(16000);
    Take *t = take_new();

    (void)state;
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++)
        for (look.tail = AVATAR_TAIL_CEIL; look.tail <= AVATAR_TAIL_BLOCK; look.tail++) {
            take_pieces(t, e, &look, pcm, want[i].n, 1000);
            assert_int_equal(t->nb, want[i].frames[look.tail]);
        }
    free(t);
    free(pcm);
    avatar_engine_close(&e);
}

/* Behind the end the look-ahead is digital silence. */
static void end_is_silence(void **state)
{
    const AvatarLook look = live_look(-1);
    const int64_t n = 2 * BLOCK_SAMPLES;
    float *pcm = take_sound(2 * n);
    AvatarEngine *e = open_engine(0, NULL);
    Take *ended = take_new(), *silent = take_new();

    (void)state;
    take_pieces(ended, e, &look, pcm, n, 999);
    memset(pcm + n, 0, (size_t)n * sizeof(*pcm));
    take_pieces(silent, e, &look, pcm, 2 * n, 999);
    assert_true(ended->nb == 24 && silent->nb == 48 && same_frames(ended, silent, 0, 24));
    avatar_engine_close(&e);
    free(ended);
    free(silent);
    free(pcm);
}

/* ---- receive --------------------------------------------------------------------------------------------------------------------- */

static int count_frames(AvatarSession *s, int *end)
{
    AvatarFrame f;
    int nb = 0;

    while ((*end = avatar_session_receive(s, &f, AVATAR_WAIT)) >= 0)
        nb++;
    return nb;
}

/* One sample short: nothing to wait for. With that sample: a block, at once, and no more. Under every plan. */
static void block_starts_with_its_last_sample(void **state)
{
    static const int ms[] = { 0, 160, 1000 };
    float *pcm = take_sound(3 * BLOCK_SAMPLES + 16000);
    int end;

    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++) {
        AvatarEngine *e = open_engine(p, NULL);

        for (int i = 0; i < 3; i++) {
            const AvatarLook look = live_look(ms[i]);
            AvatarSession *s = open_live(e, &look);
            int64_t sent = 0;

            for (int64_t g = 1; g <= 3; g++) {
                const int64_t wanted = g * BLOCK_SAMPLES + ms[i] * 16;

                REQUIRE_OK(avatar_session_send(s, pcm + sent, wanted - 1 - sent));
                assert_int_equal(count_frames(s, &end), 0);
                assert_int_equal(end, AVATAR_EAGAIN);
                REQUIRE_OK(avatar_session_send(s, pcm + wanted - 1, 1));
                assert_int_equal(count_frames(s, &end), 12);
                assert_int_equal(end, AVATAR_EAGAIN);
                sent = wanted;
            }
            avatar_session_close(&s);
        }
        avatar_engine_close(&e);
    }
    free(pcm);
}

/* Everything that can be made of what was sent comes before EAGAIN, however the caller and the session's threads fall together. */
static void no_early_eagain(void **state)
{
    const AvatarLook look = live_look(-1);
    float *pcm = take_sound(4 * BLOCK_SAMPLES + LATENCY);
    int end;

    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++) {
        AvatarEngine *e = open_engine(p, NULL);

        for (int i = 0; i < 6; i++) {
            AvatarSession *s = open_live(e, &look);
            const int64_t first = (1 + i % 3) * BLOCK_SAMPLES + LATENCY;

            usleep(i % 4 * 3000u);
            REQUIRE_OK(avatar_session_send(s, pcm, first));
            usleep(i % 5 * 2000u);
            assert_int_equal(count_frames(s, &end), 12 * (1 + i % 3));
            assert_int_equal(end, AVATAR_EAGAIN);
            REQUIRE_OK(avatar_session_send(s, pcm + first, 4 * BLOCK_SAMPLES + LATENCY - first));
            assert_int_equal(count_frames(s, &end), 12 * (3 - i % 3));
            assert_int_equal(end, AVATAR_EAGAIN);
            avatar_session_close(&s);
        }
        avatar_engine_close(&e);
    }
    free(pcm);
}

/* ---- late ------------------------------------------------------------------------------------------------------------------------ */

#define LATE_FRAMES 180

typedef struct Seen {                               // frames by their place in the stream; index -1: nothing was given
    AvatarFrame info[LATE_FRAMES];
    uint8_t frames[LATE_FRAMES][FRAME_BYTES];
    int nb, last;
} Seen;

static void see_frames(Seen *seen, AvatarSession *s, int want_end)
{
    AvatarFrame f;
    int ret;

    while ((ret = avatar_session_receive(s, &f, AVATAR_WAIT)) >= 0) {
        assert_in_range(f.index, seen->last + 1, LATE_FRAMES - 1);
        seen->last = (int)f.index;
        seen->info[f.index] = f;
        memcpy(seen->frames[f.index], f.data[0], FRAME_BYTES);
        seen->nb++;
    }
    assert_int_equal(ret, want_end);
}

/* A block, then 6 s at once, then the end. `late` from the start, or set behind the first block. */
static void see_late(Seen *seen, AvatarEngine *e, int late, int by_command, const float *pcm)
{
    const int64_t first = BLOCK_SAMPLES + LATENCY, n = first + 96000;
    AvatarLook look = live_look(-1);
    AvatarSession *s;

    memset(seen, 0, sizeof(*seen));
    for (int i = 0; i < LATE_FRAMES; i++)
        seen->info[i].index = -1;
    seen->last = -1;
    look.late = by_command ? AVATAR_LATE_WAIT : late;
    look.max_late_ms = by_command ? -1 : 1000;
    s = open_live(e, &look);
    REQUIRE_OK(avatar_session_send(s, pcm, first));
    see_frames(seen, s, AVATAR_EAGAIN);
    assert_int_equal(seen->nb, 12);
    if (by_command)
        REQUIRE_OK(avatar_session_late(s, late, 1000));
    REQUIRE_OK(avatar_session_send(s, pcm + first, n - first));
    see_frames(seen, s, AVATAR_EAGAIN);
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    see_frames(seen, s, AVATAR_EOF);
    avatar_session_close(&s);
}

/* 13.8 blocks of sound: the newest whole one with its look-ahead is block 12, so 1 .. 11 are left out, and 13 ends the stream. */
static void late_leaves_blocks_out(void **state)
{
    const int last = 166;                           // ceil(106240 / 640) frames
    float *pcm = take_sound(BLOCK_SAMPLES + LATENCY + 96000);
    Seen *repeat = malloc(sizeof(*repeat)), *t = malloc(sizeof(*t));

    (void)state;
    for (size_t p = 0; p < NB_PLANS; p++) {
        Lines lines = { "" };
        AvatarEngine *e = open_engine(p, &lines);

        see_late(repeat, e, AVATAR_LATE_REPEAT, 0, pcm);
        assert_int_equal(repeat->nb, last);
        assert_non_null(strstr(lines.text, "5.28 s of sound are left out"));
        for (int i = 0; i < last; i++) {
            const int repeated = i >= 12 && i < 144;

            assert_int_equal(repeat->info[i].repeated, repeated);
            assert_int_equal(repeat->info[i].block, i < 144 ? 0 : i < 156 ? 1 : 2);
            assert_true(!repeated || !memcmp(repeat->frames[i], repeat->frames[11], FRAME_BYTES));
        }
        see_late(t, e, AVATAR_LATE_REPEAT, 1, pcm);                 // the same, by command; the same again
        assert_true(!memcmp(t->frames, repeat->frames, sizeof(t->frames)));
        see_late(t, e, AVATAR_LATE_DROP, 0, pcm);
        assert_int_equal(t->nb, last - 132);
        for (int i = 0; i < last; i++) {
            assert_int_equal(t->info[i].index, i >= 12 && i < 144 ? -1 : i);
            assert_true(t->info[i].index < 0 || (!t->info[i].repeated && !memcmp(t->frames[i], repeat->frames[i], FRAME_BYTES)));
        }
        see_late(t, e, AVATAR_LATE_WAIT, 0, pcm);
        assert_true(t->nb == last && !t->info[100].repeated && t->info[100].block == 8);
        avatar_engine_close(&e);
    }
    free(repeat);
    free(t);
    free(pcm);
}

/* Lip sync returns: frames 144 to 155 are made of the sound of their own time, not of any later one. */
static void late_comes_back_to_the_sound(void **state)
{
    const int64_t n = BLOCK_SAMPLES + LATENCY + 96000, heard = 13 * BLOCK_SAMPLES + LATENCY;
    float *pcm = take_sound(n);
    AvatarEngine *e = open_engine(0, NULL);
    Seen *want = malloc(sizeof(*want)), *t = malloc(sizeof(*t));

    (void)state;
    see_late(want, e, AVATAR_LATE_REPEAT, 0, pcm);
    for (int64_t i = heard; i < n; i++)
        pcm[i] *= -0.5f;
    see_late(t, e, AVATAR_LATE_REPEAT, 0, pcm);
    assert_true(!memcmp(want->frames, t->frames, 156 * FRAME_BYTES));
    assert_true(memcmp(want->frames[156], t->frames[156], 10 * FRAME_BYTES));
    for (int64_t i = 12 * BLOCK_SAMPLES; i < 13 * BLOCK_SAMPLES; i++)
        pcm[i] *= -0.5f;
    see_late(t, e, AVATAR_LATE_REPEAT, 0, pcm);
    assert_true(memcmp(want->frames[144], t->frames[144], 12 * FRAME_BYTES));
    avatar_engine_close(&e);
    free(want);
    free(t);
    free(pcm);
}

/* A stream begins where its sound does, even when much has piled up before its first block. */
static void first_block_is_never_left_out(void **state)
{
    AvatarLook look = live_look(-1);
    float *pcm = take_sound(160000);
    AvatarEngine *e = open_engine(0, NULL);
    AvatarSession *s;
    AvatarFrame f;

    (void)state;
    look.late = AVATAR_LATE_DROP;
    s = open_live(e, &look);
    REQUIRE_OK(avatar_session_send(s, pcm, 160000));
    for (int i = 0; i < 13; i++)
        REQUIRE_OK(avatar_session_receive(s, &f, AVATAR_WAIT));
    assert_int_equal(f.block, 1);
    assert_int_equal(f.index, ((160000 - LATENCY) / BLOCK_SAMPLES - 1) * 12);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    free(pcm);
}

/* ---- options ----------------------------------------------------------------------------------------------------------------------- */

static void bad_options_are_refused(void **state)
{
    static const struct {
        int mode, latency_ms, late, max_late_ms;
        const char *says;
    } bad[] = {
        { 2, -1, 0, -1, "mode=2" }, { 1, -2, 0, -1, "latency=-2" }, { 1, 10001, 0, -1, "latency=10001" }, { 1, -1, 3, -1, "late=3" },
        { 1, -1, 0, 0, "max_late=0" }, { 1, -1, 0, 60001, "max_late=60001" },
    };
    Lines lines = { "" };
    AvatarEngine *e = open_engine(0, &lines);
    AvatarLook look = live_look(-1);
    AvatarSession *s = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        look.mode = bad[i].mode;
        look.latency_ms = bad[i].latency_ms;
        look.late = bad[i].late;
        look.max_late_ms = bad[i].max_late_ms;
        assert_int_equal(avatar_session_open(&s, e, &look), AVATAR_ERR(EINVAL));
        assert_true(!s && strstr(lines.text, bad[i].says));
    }
    look = live_look(-1);
    s = open_live(e, &look);
    assert_int_equal(avatar_session_late(s, 7, -1), AVATAR_ERR(EINVAL));
    assert_int_equal(avatar_session_late(s, AVATAR_LATE_DROP, 0), AVATAR_ERR(EINVAL));
    REQUIRE_OK(avatar_session_late(s, AVATAR_LATE_DROP, -1));
    avatar_session_close(&s);
    avatar_engine_close(&e);
}

static void upstream_is_not_live(void **state)
{
    Lines lines = { "" };
    AvatarOptions opt = take_options("sequential", "cpu", NULL, &lines);
    AvatarLook look = live_look(-1);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;

    (void)state;
    opt.compat = AVATAR_COMPAT_UPSTREAM;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    assert_int_equal(avatar_session_open(&s, e, &look), AVATAR_ERR(EINVAL));
    assert_non_null(strstr(lines.text, "mode=live"));
    avatar_engine_close(&e);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------------- */

/* A minute: nothing is allocated once the sound that is kept has its size, and it is not kept for long. */
static void long_stream_in_flat_memory(void **state)
{
    const int64_t blocks = 100, settled = 22;
    const AvatarLook look = live_look(-1);
    AvatarEngine *e = open_engine(0, NULL);
    AvatarSession *s = open_live(e, &look);
    float *pcm = take_sound(BLOCK_SAMPLES);
    int64_t calls = 0, bytes = 0;
    int end;

    (void)state;
    avatar_engine_flush();                          // of the tests before
    for (int64_t g = 0; g < blocks; g++) {
        for (int i = 0; i < 12; i++)
            REQUIRE_OK(avatar_session_send(s, pcm + i * 640, 640));
        assert_int_equal(count_frames(s, &end), g ? 12 : 0);        // the look-ahead comes with the next block
        assert_int_equal(end, AVATAR_EAGAIN);
        if (g == settled) {
            calls = avt_mem_calls();
            bytes = avt_mem_bytes(MEM_NB);
        }
    }
    assert_int_equal(avt_mem_calls(), calls);
    assert_int_equal(avt_mem_bytes(MEM_NB), bytes);
    avatar_session_close(&s);
    avatar_engine_close(&e);
    free(pcm);
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
        cmocka_unit_test(arrival_changes_nothing), cmocka_unit_test(short_latency_is_kept), cmocka_unit_test(lookahead_is_exact),
        cmocka_unit_test(frame_counts), cmocka_unit_test(end_is_silence), cmocka_unit_test(block_starts_with_its_last_sample),
        cmocka_unit_test(no_early_eagain), cmocka_unit_test(late_leaves_blocks_out), cmocka_unit_test(late_comes_back_to_the_sound),
        cmocka_unit_test(first_block_is_never_left_out), cmocka_unit_test(bad_options_are_refused), cmocka_unit_test(upstream_is_not_live),
        cmocka_unit_test(long_stream_in_flat_memory), cmocka_unit_test(nothing_stays),
    };

    return _cmocka_run_group_tests("live", tests, sizeof(tests) / sizeof(tests[0]), take_setup, take_teardown) ? 1 : 0;
}
