/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tests of engine and session share: one tiny model of random weights a program, sound, pictures, and a Take, which keeps
 * all that a session gave.
 */
#ifndef AVT_TEST_TAKE_H
#define AVT_TEST_TAKE_H

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/session.h"
#include "model.h"
#include "test.h"

#define SIZE 64                                     // of the frames
#define FRAME_BYTES (SIZE * SIZE * 3 / 2)           // yuv420p
#define LATENTS (16 * 3 * (SIZE / 8) * (SIZE / 8))  // values of a block
#define MAX_BLOCKS 10
#define BLOCK_SAMPLES 7680
#define STATES 4                                    // of the tiny model: hidden states and their width, context width
#define STATE_DIM 32
#define TEXT_DIM 24
#define ROW (STATES * STATE_DIM)

static char take_dir[] = "/tmp/avatar-e2e-XXXXXX";

typedef struct Take {
    float latents[MAX_BLOCKS][LATENTS];
    int64_t nb_latents;                             // blocks seen
    uint8_t frames[MAX_BLOCKS * 12][FRAME_BYTES];
    AvatarFrame info[MAX_BLOCKS * 12];
    int64_t nb;                                     // frames
    int ret;                                        // what ended it
} Take;

static inline Take *take_new(void)
{
    Take *t = calloc(1, sizeof(*t));

    assert_non_null(t);
    return t;
}

static inline int take_setup_model(const TestGain *gain)
{
    TestModel m;

    test_model_default(&m);
    m.gain = gain;
    m.avatar_json = "{\"lora\": \"none\", \"size\": \"64x64\"}";
    assert_non_null(mkdtemp(take_dir));
    return test_model_write(&m, take_dir);
}

static inline int take_setup(void **state)
{
    (void)state;
    return take_setup_model(NULL);
}

static inline int take_teardown(void **state)
{
    char cmd[256];

    (void)state;
    snprintf(cmd, sizeof(cmd), "rm -rf %s", take_dir);
    return system(cmd);
}

/* Any number of lines of a log, so that a test can read messages. */
typedef struct Lines {
    char text[8192];
} Lines;

static inline void keep_line(void *opaque, int level, const char *text)
{
    Lines *l = opaque;
    const size_t n = strlen(l->text);

    (void)level;
    snprintf(l->text + n, sizeof(l->text) - n, "%s\n", text);
}

/* A child sets this that ends in the middle of things, and so leaves what it has: LeakSanitizer, where there is one, asks. */
static int take_leaves;

int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return take_leaves;
}

/* The exit status of `work` in a child of its own, which has so many seconds; a signal (SIGALRM: it hung) fails the test. */
static inline int take_in_child(int (*work)(int), int arg, unsigned seconds)
{
    const pid_t pid = fork();
    int status = -1;

    REQUIRE(pid >= 0);
    if (!pid) {
        alarm(seconds);
        exit(work(arg));
    }
    REQUIRE(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status))
        fail_msg("case %d: the child ended by signal %d%s", arg, WTERMSIG(status), WTERMSIG(status) == SIGALRM ? ": it hung" : "");
    return WEXITSTATUS(status);
}

static inline AvatarOptions take_options(const char *plan, const char *devices, const char *vae, Lines *lines)
{
    AvatarOptions opt;

    avatar_options_default(&opt);
    opt.model = take_dir;
    opt.plan = plan;
    opt.devices = devices;
    opt.vae_device = vae;
    opt.log = lines ? keep_line : NULL;
    opt.log_opaque = lines;
    opt.cpu_threads = 1;                            // many sessions on few cores
    return opt;
}

/* Picture 0 or 1, SIZE x SIZE. */
static inline AvatarLook take_look(int picture)
{
    static uint8_t rgb[2][SIZE * SIZE * 3];
    AvatarLook look;

    for (int i = 0; i < SIZE * SIZE * 3; i++)
        rgb[picture][i] = (uint8_t)(picture ? (i / 24 + i / 1536) % 2 * 255 : i * 7 + i / 192 * 3);
    avatar_look_default(&look);
    look.rgb = rgb[picture];
    look.width = look.height = SIZE;
    look.seed = 5;
    return look;
}

/* Something between a vowel and noise. */
static inline float *take_sound(int64_t n)
{
    float *pcm = malloc(sizeof(*pcm) * (size_t)(n + 1));

    assert_non_null(pcm);
    test_random(pcm, n, 99);
    for (int64_t i = 0; i < n; i++)
        pcm[i] = (0.3f * sinf((float)i * 0.05f) + 0.1f * pcm[i]) * (0.6f + 0.4f * sinf((float)i * 0.0007f));
    return pcm;
}

static inline float *take_features(int64_t rows, uint64_t seed)
{
    float *v = malloc(sizeof(*v) * (size_t)(rows * ROW));

    assert_non_null(v);
    test_random(v, rows * ROW, seed);
    return v;
}

static inline void take_latents(void *opaque, int64_t block, const float *v, int64_t nb)
{
    Take *t = opaque;

    assert_int_equal(nb, LATENTS);
    assert_in_range(block, 0, MAX_BLOCKS - 1);
    memcpy(t->latents[block], v, sizeof(t->latents[block]));
    t->nb_latents++;
}

/* Take the frames that come, checking what holds for each; `wait` as for receive. */
static inline void take_frames(Take *t, AvatarSession *s, int wait)
{
    AvatarFrame f;

    while ((t->ret = avatar_session_receive(s, &f, wait)) >= 0) {
        assert_in_range(t->nb, 0, MAX_BLOCKS * 12 - 1);
        assert_int_equal(f.index, t->nb);
        assert_int_equal(f.block, f.index / 12);
        assert_int_equal(f.compute_ms > 0, f.index % 12 == 0);
        assert_int_equal(f.width, SIZE);
        assert_int_equal(f.height, SIZE);
        assert_int_equal(f.linesize[0], SIZE);
        assert_true(f.data[1] == f.data[0] + SIZE * SIZE && f.data[2] == f.data[1] + SIZE * SIZE / 4);
        memcpy(t->frames[t->nb], f.data[0], FRAME_BYTES);
        t->info[t->nb++] = f;
    }
}

/* A session on an engine, from start to end: sound (NULL: hooks give features) and look -> Take. */
static inline void take_all(Take *t, AvatarEngine *e, const AvatarLook *look, const SessionHooks *hooks, const float *pcm, int64_t n)
{
    SessionHooks h = hooks ? *hooks : (SessionHooks){ 0 };
    AvatarSession *s = NULL;

    memset(t, 0, sizeof(*t));
    if (!h.rank.latents) {
        h.rank.latents = take_latents;
        h.rank.opaque = t;
    }
    REQUIRE_OK(avt_session_open(&s, e, look, &h));
    if (n)
        REQUIRE_OK(avatar_session_send(s, pcm, n));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    take_frames(t, s, AVATAR_WAIT);
    avatar_session_close(&s);
    assert_null(s);
}

static inline int same_frames(const Take *a, const Take *b, int64_t from, int64_t to)
{
    return !memcmp(a->frames[from], b->frames[from], (size_t)(to - from) * FRAME_BYTES);
}

/* Root mean square of the latents' difference over blocks from .. to - 1. */
static inline double latents_rms(const Take *a, const Take *b, int from, int to)
{
    double sum = 0;

    for (int g = from; g < to; g++)
        for (int i = 0; i < LATENTS; i++)
            sum += pow((double)a->latents[g][i] - b->latents[g][i], 2);
    return sqrt(sum / ((to - from) * (double)LATENTS));
}

#endif
