/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory runs out: the N-th allocation of the library fails, N = 1, 2, 3 ... until none does. Each time an error comes out, the
 * frames before it are those of a good run, nothing leaks, nothing hangs, and the engine goes on to make good frames.
 *
 * oom            a sample of the N of every phase
 * oom --all      every N (make check-oom)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "model.h"
#include "test.h"

#define SIZE 64
#define NB_SAMPLES (7680 + 1000)        // two blocks, the second one short
#define NB_FRAMES 14
#define SECONDS 120                     // longer than any run, the sanitizers' too

static char model_dir[] = "/tmp/avatar-oom-XXXXXX";
static uint8_t picture[SIZE * SIZE * 3];
static float sound[NB_SAMPLES];
static uint64_t good[NB_FRAMES];        // a good run's frames, by hash
static int all;

typedef struct Way {
    const char *plan, *devices, *vae;
} Way;

static void options(AvatarOptions *opt, const Way *way)
{
    avatar_options_default(opt);
    opt->model = model_dir;
    opt->plan = way->plan;
    opt->devices = way->devices;
    opt->vae_device = way->vae;
    opt->cpu_threads = 1;
    opt->steps = 2;
}

static uint64_t hash(const AvatarFrame *f)
{
    uint64_t h = 14695981039346656037u;

    for (int i = 0; i < SIZE * SIZE * 3 / 2; i++)
        h = (h ^ f->data[0][i]) * 1099511628211u;
    return h;
}

/* One stream from open to close, with a change on the way. The first error, or 0. As far as frames came they are the good ones. */
static int stream(AvatarEngine *e, int64_t *nb)
{
    AvatarSession *s = NULL;
    AvatarLook look, change;
    AvatarFrame f;
    int ret, first;

    *nb = 0;
    avatar_look_default(&look);
    look.rgb = picture;
    look.width = look.height = look.out_width = look.out_height = SIZE;
    look.seed = 5;
    ret = avatar_session_open(&s, e, &look);
    if (ret < 0) {
        assert_null(s);
        return ret;
    }
    change = look;
    change.prompt = "a man in a hat";
    first = avatar_session_set(s, &change);                         // refused: the stream goes on as it was
    ret = avatar_session_send(s, sound, NB_SAMPLES);
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0 && (ret = avatar_session_receive(s, &f, AVATAR_WAIT)) >= 0) {
        assert_true(*nb < NB_FRAMES);
        if (!good[*nb])
            good[*nb] = hash(&f);
        if (!first)
            assert_true(hash(&f) == good[*nb]);
        ++*nb;
    }
    avatar_session_close(&s);
    assert_null(s);
    return first ? first : ret == AVATAR_EOF ? 0 : ret;
}

static void stream_is_good(AvatarEngine *e)
{
    int64_t nb;

    REQUIRE_OK(stream(e, &nb));
    assert_int_equal(nb, NB_FRAMES);
}

/* N of a phase: all, or the first few, then ever sparser. */
static int64_t next_n(int64_t n)
{
    return all || n < 4 ? n + 1 : n + n / 3 + 1;
}

static void no_leak(const char *what, int64_t n, int64_t before)
{
    const int64_t more = avt_mem_bytes(MEM_NB) - before;

    if (more)
        fail_msg("allocation %lld of %s failed, and %lld bytes leaked", (long long)n, what, (long long)more);
}

static void say(const char *phase, int64_t runs, int64_t total)
{
    print_message("%s: %lld failures tried of %lld allocations\n", phase, (long long)runs, (long long)total);
}

/* Opening the engine: the model's files, the weights. */
static void open_fails(void **state)
{
    const int64_t before = avt_mem_bytes(MEM_NB);
    int64_t runs = 0, calls = 0;
    AvatarEngine *e = NULL;
    AvatarOptions opt;

    options(&opt, *state);
    for (int64_t n = 1; ; n = next_n(n), runs++) {
        const int64_t start = avt_mem_calls();
        int ret;

        alarm(SECONDS);
        avt_mem_fail_at(n);
        ret = avatar_engine_open(&e, &opt);
        avt_mem_fail_at(0);
        calls = avt_mem_calls() - start;
        if (calls < n) {
            REQUIRE_OK(ret);
            break;
        }
        if (ret != AVATAR_ERR(ENOMEM))
            fail_msg("allocation %lld of opening failed, and the answer was %d (%s)", (long long)n, ret, avatar_error_text(ret));
        assert_null(e);
        no_leak("opening", n, before);
    }
    stream_is_good(e);
    avatar_engine_close(&e);
    avatar_engine_flush();
    assert_int_equal(avt_mem_bytes(MEM_NB), before);
    say("open", runs, calls);
}

/* Opening a session, its blocks, a change, closing it. The threads allocate side by side: N is not the same place in every run. */
static void stream_fails(void **state)
{
    const Way *way = *state;
    int64_t before, runs = 0, calls = 0, nb;
    AvatarEngine *e = NULL;
    AvatarOptions opt;

    options(&opt, way);
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    stream_is_good(e);
    before = avt_mem_bytes(MEM_NB);
    for (int64_t n = 1; ; n = next_n(n), runs++) {
        const int64_t start = avt_mem_calls();
        int ret;

        alarm(SECONDS);
        avt_mem_fail_at(n);
        ret = stream(e, &nb);
        avt_mem_fail_at(0);
        calls = avt_mem_calls() - start;
        no_leak("a stream", n, before);
        if (calls < n) {
            REQUIRE_OK(ret);
            assert_int_equal(nb, NB_FRAMES);
            break;
        }
        if (ret != AVATAR_ERR(ENOMEM))
            fail_msg("allocation %lld of a stream failed, and its answer was %d (%s) after %lld frames", (long long)n, ret,
                     avatar_error_text(ret), (long long)nb);
        if (n % 16 == 0)
            stream_is_good(e);
    }
    stream_is_good(e);
    avatar_engine_close(&e);
    avatar_engine_flush();
    say(way->plan, runs, calls);
}

/* Closing and flushing ask for nothing, so they cannot fail. */
static void close_allocates_nothing(void **state)
{
    AvatarEngine *e = NULL;
    AvatarOptions opt;
    int64_t calls;

    options(&opt, *state);
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    stream_is_good(e);
    calls = avt_mem_calls();
    avatar_engine_close(&e);
    avatar_engine_flush();
    assert_int_equal(avt_mem_calls(), calls);
}

/* A folder of random weights: an error and a sentence, where it aborted. */
static void writing_a_model_fails(void **state)
{
    const int64_t before = avt_mem_bytes(MEM_NB);
    int64_t runs = 0, calls = 0;
    TestModel m;

    (void)state;
    test_model_default(&m);
    for (int64_t n = 1; ; n = next_n(n), runs++) {
        const int64_t start = avt_mem_calls();
        int ret;

        avt_mem_fail_at(n);
        ret = test_model_write(&m, model_dir);
        avt_mem_fail_at(0);
        calls = avt_mem_calls() - start;
        no_leak("writing a model", n, before);
        if (calls < n) {
            REQUIRE_OK(ret);
            break;
        }
        assert_int_equal(ret, AVATAR_ERR(ENOMEM));
    }
    say("a model", runs, calls);
}

static int setup(void **state)
{
    TestModel m;

    (void)state;
    test_model_default(&m);
    m.lora_rank = 2;
    m.avatar_json = "{\"name\": \"tiny\", \"prompt\": \"a woman speaks\", \"size\": \"64x64\"}\n";
    assert_non_null(mkdtemp(model_dir));
    REQUIRE_OK(test_model_write(&m, model_dir));
    test_random(sound, NB_SAMPLES, 3);
    for (size_t i = 0; i < sizeof(picture); i++)
        picture[i] = (uint8_t)(i * 5 + i / 192 * 3);
    return 0;
}

/* Parts of layers compute in another order: such a plan's frames are its own. */
static int forget_frames(void **state)
{
    (void)state;
    memset(good, 0, sizeof(good));
    return 0;
}

static int teardown(void **state)
{
    char cmd[256];

    (void)state;
    snprintf(cmd, sizeof(cmd), "rm -rf %s", model_dir);
    return system(cmd);
}

int main(int argc, char **argv)
{
    static Way one = { "sequential", "cpu", NULL }, wave = { "wave", "cpu", NULL }, three = { "layer", "cpu|cpu", "cpu:own" };
    static Way team = { "tensor2", "cpu|cpu", NULL };
    const struct CMUnitTest tests[] = {
        { "open_fails", open_fails, NULL, NULL, &one }, { "open_fails_three_ranks", open_fails, NULL, NULL, &three },
        { "stream_fails", stream_fails, NULL, NULL, &one }, { "stream_fails_wave", stream_fails, NULL, NULL, &wave },
        { "stream_fails_three_ranks", stream_fails, NULL, NULL, &three },
        { "close_allocates_nothing", close_allocates_nothing, NULL, NULL, &one },
        { "stream_fails_team", stream_fails, forget_frames, NULL, &team },
        { "writing_a_model_fails", writing_a_model_fails, NULL, NULL, NULL },
    };

    all = argc > 1 && !strcmp(argv[1], "--all");
    return _cmocka_run_group_tests("oom", tests, sizeof(tests) / sizeof(tests[0]), setup, teardown) ? 1 : 0;
}
