/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Callers that know no limits: numbers from the ends of their types, texts of every kind, a thousand calls where one would do. The
 * answer is a frame or an error, and the session serves on. tests/e2e/hostile/README.md has the list.
 */
#include "take.h"

#define NB_CHANGES 20000

static AvatarEngine *engine;

static int open_engine(void **state)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);

    return take_setup(state) || avatar_engine_open(&engine, &opt) < 0;
}

static int close_engine(void **state)
{
    avatar_engine_close(&engine);
    return take_teardown(state);
}

/* The rest of a stream: how many frames, or the error. */
static int finish(AvatarSession **s)
{
    AvatarFrame f;
    int ret, nb = 0;

    avatar_session_send(*s, NULL, 0);
    while ((ret = avatar_session_receive(*s, &f, AVATAR_WAIT)) >= 0)
        nb++;
    avatar_session_close(s);
    return ret == AVATAR_EOF ? nb : ret;
}

static void sends_of_any_length(void **state)
{
    static const int64_t wrong[] = { -1, INT32_MIN, INT64_MIN };
    const AvatarLook look = take_look(0);
    AvatarSession *s = NULL;
    float *pcm = take_sound(8000);

    (void)state;
    REQUIRE_OK(avatar_session_open(&s, engine, &look));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(avatar_session_send(s, pcm, wrong[i]), AVATAR_ERR(EINVAL));
    for (int i = 0; i < 8000; i++) {
        REQUIRE_OK(avatar_session_send(s, pcm + i, 1));
        REQUIRE_OK(avatar_session_send(s, pcm, 0));
    }
    assert_int_equal(finish(&s), 13);
    free(pcm);
}

/* n times `piece`. */
static char *many(const char *piece, int n)
{
    const size_t len = strlen(piece);
    char *text = malloc(len * (size_t)n + 1);

    for (int i = 0; i < n; i++)
        memcpy(text + len * (size_t)i, piece, len);
    text[len * (size_t)n] = 0;
    return text;
}

static void prompts_of_any_kind(void **state)
{
    static const struct {
        const char *piece;
        int n, ret;
    } prompts[] = {
        { "word ", 20000, 0 }, { "e\xcc\x81", 30000, 0 }, { "\xd7\xa9\xd9\x84\xe2\x80\xae", 50, 0 }, { "\xf0\x9f\x98\x80\xe2\x80\x8d", 200, 0 }, { "</s><pad>", 40, 0 },
        { "\x01\x7f\t\r\n", 30, 0 }, { "&amp;lt;", 2000, 0 }, { "\xe4\xba\xba", 9000, 0 }, { " ", 500, 0 }, { "\xef\xbf\xbf", 9, 0 },
        { "\xc0\xaf", 1, -1 }, { "\xed\xa0\x80", 1, -1 }, { "\xf4\x90\x80\x80", 1, -1 }, { "\xe4\xba", 1, -1 }, { "\x80", 1, -1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(prompts) / sizeof(prompts[0]); i++) {
        AvatarLook look = take_look(0);
        AvatarSession *s = NULL;
        char *text = many(prompts[i].piece, prompts[i].n);

        look.prompt = text;
        assert_int_equal(avatar_session_open(&s, engine, &look), prompts[i].ret ? AVATAR_ERR(EINVAL) : 0);
        avatar_session_close(&s);
        free(text);
    }
}

static void changes_at_any_time(void **state)
{
    static const int64_t at[] = { -5, INT64_MIN, INT64_MAX, INT64_MAX - 7680, 1 };
    AvatarLook look = take_look(0);
    AvatarSession *s = NULL;
    float *pcm = take_sound(8000);
    int64_t frame;

    (void)state;
    REQUIRE_OK(avatar_session_open(&s, engine, &look));
    look.rgb = NULL;
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        frame = -1;
        REQUIRE_OK(avatar_session_set_at(s, &look, at[i], &frame));
        assert_true(frame >= 0);
    }
    for (int i = 0; i < NB_CHANGES; i++) {
        look.seed = i;
        REQUIRE_OK(avatar_session_set_at(s, &look, (int64_t)i * 7680 % (1 << 24), &frame));
    }
    REQUIRE_OK(avatar_session_send(s, pcm, 8000));
    assert_int_equal(finish(&s), 13);
    free(pcm);
}

static void options_of_any_kind(void **state)
{
    static const struct {
        const char *devices, *plan, *opts;
        int steps, threads;
    } wrong[] = {
        { .devices = "||||" }, { .devices = "::::" }, { .devices = "|" }, { .devices = "cpu:" }, { .devices = "cuda-1" }, { .devices = "cuda4294967296" },
        { .devices = "cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu|cpu" }, { .plan = "+" }, { .plan = "layer+" }, { .plan = "tensor" },
        { .plan = "tensor4294967298", .devices = "cpu|cpu" }, { .opts = "lora_alpha=1e400" }, { .opts = "lora_alpha=nan" }, { .opts = "=" }, { .opts = ":::=" },
        { .steps = INT32_MIN }, { .steps = 1 << 30 }, { .threads = INT32_MIN }, { .threads = INT32_MAX },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        AvatarOptions opt = take_options(wrong[i].plan, wrong[i].devices, NULL, NULL);
        AvatarEngine *e = NULL;

        opt.opts = wrong[i].opts;
        if (wrong[i].steps)
            opt.steps = wrong[i].steps;
        if (wrong[i].threads)
            opt.cpu_threads = wrong[i].threads;
        if (avatar_engine_open(&e, &opt) >= 0 || e)
            fail_msg("row %d was taken", (int)i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_of_any_length), cmocka_unit_test(prompts_of_any_kind), cmocka_unit_test(changes_at_any_time), cmocka_unit_test(options_of_any_kind),
    };

    return _cmocka_run_group_tests("misuse", tests, sizeof(tests) / sizeof(tests[0]), open_engine, close_engine) ? 1 : 0;
}
