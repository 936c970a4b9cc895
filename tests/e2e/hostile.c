/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hostile and unlucky caller: what must not hang, crash, or end the process. Each part is one kind of misuse or bad luck. What
 * may take the process with it runs in a child, which an alarm ends when it hangs.
 */
#include <dlfcn.h>
#include <dirent.h>
#include <libgen.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine/engine.h"
#include "take.h"

#define HANG_SECONDS 60                             // of a child

/* A stream of `n` samples on an engine: what ended it. */
static int stream(AvatarEngine *e, int64_t n)
{
    const AvatarLook look = take_look(0);
    float *pcm = take_sound(n);
    AvatarSession *s = NULL;
    AvatarFrame f;
    int ret = avatar_session_open(&s, e, &look);

    if (ret >= 0)
        ret = avatar_session_send(s, pcm, n);
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0)
        ret = avatar_session_receive(s, &f, AVATAR_WAIT);
    avatar_session_close(&s);
    free(pcm);
    return ret;
}

/* ---- a log callback that calls back ---------------------------------------------------------------------------------------- */

typedef struct Caller {
    int what, nb_calls, wrong;
    AvatarEngine *e;
    AvatarSession *s;                   // atomic: the session's threads log before its opener has it
} Caller;

enum { ABORT_IN_SEND, CALL_IN_OPEN, ABORT_IN_THREAD, CALL_IN_SEND, NB_CALLS };

/* Everything that waits or logs: refused, and what it would close stays open. */
static int wrong_answers(Caller *c)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    const AvatarLook look = take_look(0);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    AvatarFrame f;
    int w, h, wrong = 0;

    wrong += avatar_options_check(&opt) != AVATAR_ERR(EDEADLK);
    wrong += avatar_engine_open(&e, &opt) != AVATAR_ERR(EDEADLK) || e;
    avatar_engine_flush();
    if (!c->s)
        return wrong;
    wrong += avatar_engine_size(c->e, &look, &w, &h) != AVATAR_ERR(EDEADLK);
    wrong += avatar_session_open(&s, c->e, &look) != AVATAR_ERR(EDEADLK) || s;
    wrong += avatar_session_send(c->s, NULL, 0) != AVATAR_ERR(EDEADLK);
    wrong += avatar_session_receive(c->s, &f, AVATAR_WAIT) != AVATAR_ERR(EDEADLK);
    wrong += avatar_session_set(c->s, &look) != AVATAR_ERR(EDEADLK);
    wrong += avatar_session_late(c->s, 0, -1) != AVATAR_ERR(EDEADLK);
    s = c->s;
    avatar_session_close(&s);
    e = c->e;
    avatar_engine_close(&e);
    return wrong + (s != c->s) + (e != c->e);
}

static void call_back(void *opaque, int level, const char *text)
{
    Caller *c = opaque;
    const AvatarSession *s = __atomic_load_n(&c->s, __ATOMIC_ACQUIRE);
    const int wants = c->what == CALL_IN_OPEN ? !s : c->what == ABORT_IN_THREAD ? s && level == AVATAR_LOG_DEBUG : level == AVATAR_LOG_ERROR;

    (void)text;
    if (!wants || c->nb_calls++)
        return;
    if (c->what == CALL_IN_OPEN || c->what == CALL_IN_SEND)
        c->wrong += wrong_answers(c);
    else
        avatar_session_abort(c->s);
}

/* 0: all as it should be. */
static int call_from_callback(int what)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    const AvatarLook look = take_look(0);
    Caller c = { .what = what };
    float *pcm = take_sound(16000);
    const float nan = NAN;
    AvatarSession *s;
    AvatarFrame f;
    int ret;

    opt.log = call_back;
    opt.log_opaque = &c;
    opt.log_level = AVATAR_LOG_DEBUG;
    if (avatar_engine_open(&c.e, &opt) < 0 || avatar_session_open(&s, c.e, &look) < 0)
        return 1;
    __atomic_store_n(&c.s, s, __ATOMIC_RELEASE);
    if ((what == ABORT_IN_SEND || what == CALL_IN_SEND) && avatar_session_send(s, &nan, 1) != AVATAR_ERR(EINVAL))
        return 2;
    ret = avatar_session_send(s, pcm, 16000);
    if (ret >= 0)
        ret = avatar_session_send(s, NULL, 0);
    while (ret >= 0)
        ret = avatar_session_receive(s, &f, AVATAR_WAIT);
    avatar_session_close(&s);
    avatar_engine_close(&c.e);
    free(pcm);
    if (ret != (what == ABORT_IN_SEND || what == ABORT_IN_THREAD ? AVATAR_ERR(ECANCELED) : AVATAR_EOF))
        return 3;
    return c.nb_calls < 1 ? 4 : c.wrong ? 5 : 0;
}

static void callback_may_abort_and_no_more(void **state)
{
    (void)state;
    for (int what = 0; what < NB_CALLS; what++)
        assert_int_equal(take_in_child(call_from_callback, what, HANG_SECONDS), 0);
}

/* ---- the end of the process, and of the library ------------------------------------------------------------------------------ */

static int exit_at_work(int i)
{
    AvatarOptions opt = take_options(NULL, i % 4 >= 2 ? "cpu|cpu" : "cpu", NULL, NULL);
    AvatarLook look = take_look(0);
    float *pcm = take_sound(80000);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;

    take_leaves = 1;
    opt.cpu_threads = 2;
    look.mode = i % 2;
    if (avatar_engine_open(&e, &opt) < 0 || avatar_session_open(&s, e, &look) < 0)
        return 1;
    if (avatar_session_send(s, pcm, 80000) < 0 || avatar_session_send(s, NULL, 0) < 0)
        return 2;
    usleep((useconds_t)(i * 1500));
    return 0;                                       // to exit(), with all of it open
}

static void exit_stops_sessions(void **state)
{
    (void)state;
    for (int i = 0; i < 30; i++)
        assert_int_equal(take_in_child(exit_at_work, i, HANG_SECONDS), 0);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static int nb_late;                                 // exit handlers registered while it counts
static int count_late;

/* In front of the C library's, for the libraries below: their statics come here when they are made. */
int __cxa_atexit(void (*f)(void *), void *arg, void *dso)
{
    int (*next)(void (*)(void *), void *, void *) = (int (*)(void (*)(void *), void *, void *))dlsym(RTLD_NEXT, "__cxa_atexit");

    nb_late += count_late;
    return next(f, arg, dso);
}

/* Handlers that would run before ours: none, in a stream in f32 (0) or bf16 (1) on the CPU's best level, or with oneDNN alone (2). */
static int late_handlers(int what)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarEngine *e = NULL;

    opt.precision = what == 1 ? "bf16" : "f32";
    opt.cpu_level = what == 2 ? 1 : -1;
    if (avatar_engine_open(&e, &opt) < 0)
        return 100;
    count_late = 1;
    if (stream(e, 640) != AVATAR_EOF)
        return 101;
    return nb_late - 1;                             // ours
}

static void libraries_register_before_us(void **state)
{
    (void)state;
    for (int what = 0; what < 3; what++)
        assert_int_equal(take_in_child(late_handlers, what, HANG_SECONDS), 0);
}
#else
static void libraries_register_before_us(void **state)
{
    (void)state;
    SKIP("a sanitizer registers handlers of its own");
}
#endif

static int nb_threads(void)
{
    DIR *d = opendir("/proc/self/task");
    int nb = 0;

    REQUIRE(d);
    for (struct dirent *e; (e = readdir(d));)
        nb += e->d_name[0] != '.';
    closedir(d);
    return nb;
}

/* OpenMP's threads are told to go when ours are gone, and go a moment later. */
static int threads_stay(int before)
{
    for (int i = 0; i < 200 && nb_threads() > before; i++)
        usleep(10000);
    return nb_threads() > before;
}

static void *nothing(void *arg)
{
    return arg;
}

static void no_thread_stays(void **state)
{
    AvatarOptions opt = take_options("layer", "cpu|cpu", NULL, NULL);
    AvatarEngine *e = NULL;
    pthread_t first;
    int before;

    (void)state;
    pthread_create(&first, NULL, nothing, NULL);    // a sanitizer has one of its own beside the first
    pthread_join(first, NULL);
    before = nb_threads();
    opt.cpu_threads = 4;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    assert_false(threads_stay(before));
    assert_int_equal(stream(e, 640), AVATAR_EOF);
    assert_false(threads_stay(before));
    avatar_engine_close(&e);
    assert_false(threads_stay(before));
}

/* build/libavatar.so beside build/tests/e2e/hostile. */
static int find_library(char *path, size_t size)
{
    char self[4000];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (n < 0)
        return 0;
    self[n] = 0;
    for (int i = 0; i < 3; i++)
        dirname(self);
    snprintf(path, size, "%s/libavatar.so", self);
    return !access(path, R_OK);
}

static int unload(int flush)
{
    char path[4096];

    for (int i = 0; i < 3 && find_library(path, sizeof(path)); i++) {
        void *d = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        int (*open)(AvatarEngine **, const AvatarOptions *) = d ? (int (*)(AvatarEngine **, const AvatarOptions *))dlsym(d, "avatar_engine_open") : NULL;
        void (*close)(AvatarEngine **) = d ? (void (*)(AvatarEngine **))dlsym(d, "avatar_engine_close") : NULL;
        void (*let_go)(void) = d ? (void (*)(void))dlsym(d, "avatar_engine_flush") : NULL;
        AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
        AvatarEngine *e = NULL;

        opt.cpu_threads = 2;
        if (!open || !close || !let_go || open(&e, &opt) < 0)
            return 1;
        close(&e);
        if (flush)
            let_go();
        if (dlclose(d))
            return 2;
        usleep(300000);                             // a thread that was left behind would wake up now
    }
    return 0;
}

static void library_can_be_unloaded(void **state)
{
    char path[4096];

    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SKIP("a sanitizer wants its library loaded first");
#endif
    if (!find_library(path, sizeof(path)))
        SKIP("libavatar.so is not built");
    assert_int_equal(take_in_child(unload, 0, HANG_SECONDS), 0);
    assert_int_equal(take_in_child(unload, 1, HANG_SECONDS), 0);
}

/* ---- no threads to be had ---------------------------------------------------------------------------------------------------- */

static int finished;                                // the child's own exit, not the library's

static void say_who_left(void)
{
    if (!finished)
        _exit(99);
}

/* As a user whom no other run of this test is at the same time, as the limit counts all of a user's processes, with `room` threads more, from the start (room < 100) or once the engine is open (room - 100). 0: refused
 * with a sentence, 1: a whole stream, 99: the library called exit(). */
static int with_few_threads(int room)
{
    Lines lines = { "" };
    AvatarOptions opt = take_options("layer", "cpu|cpu", NULL, &lines);
    struct rlimit lim;
    AvatarEngine *e = NULL;
    int ret;

    atexit(say_who_left);
    take_leaves = 1;                                // its tracer would want a thread
    opt.cpu_threads = 6;
    opt.log_level = AVATAR_LOG_ERROR;
    if (setuid((uid_t)(10000 + getpid() % 50000)))
        return 2;
    lim.rlim_cur = lim.rlim_max = (rlim_t)(1 + room);
    if (room < 100)
        setrlimit(RLIMIT_NPROC, &lim);
    ret = avatar_engine_open(&e, &opt);
    threads_stay(1);
    lim.rlim_cur = lim.rlim_max = (rlim_t)(1 + room % 100);
    setrlimit(RLIMIT_NPROC, &lim);
    if (ret >= 0)
        ret = stream(e, 640);
    avatar_engine_close(&e);
    finished = 1;
    return ret == AVATAR_EOF ? 1 : ret == AVATAR_ERR(ENOMEM) && strstr(lines.text, "ulimit -u") ? 0 : 3;
}

/* 1 conductor with 5 more for the text, a listener with 5 more for the sound, 2 ranks with 2 more each: 18. */
static void too_few_threads_are_told(void **state)
{
    (void)state;
#if defined(__SANITIZE_THREAD__)
    SKIP("the sanitizer has threads of its own");
#endif
    if (getuid())
        SKIP("only root can become a user without other processes");
    for (int from = 0; from <= 100; from += 100)
        for (int room = 0; room <= 19; room++) {
            const int ret = take_in_child(with_few_threads, from + room, HANG_SECONDS);

            if (ret != (room >= 18))
                fail_msg("room for %d threads%s: %d", room, from ? " after open" : "", ret);
        }
}

/* ---- files that change, models that load ---------------------------------------------------------------------------------------- */

/* A file of the folder gets other bytes in place: nothing of the folder itself changes. */
static void rewritten_files_are_read_again(void **state)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarLook look = take_look(0);
    AvatarEngine *e[3] = { NULL };
    int w = 0, h = 0;

    (void)state;
    REQUIRE_OK(avatar_engine_open(&e[0], &opt));
    test_shell("printf '{\"lora\": \"none\", \"size\": \"80x96\"}' > %s/avatar.json", take_dir);
    REQUIRE_OK(avatar_engine_open(&e[1], &opt));
    look.out_width = look.out_height = 0;
    REQUIRE_OK(avatar_engine_size(e[1], &look, &w, &h));
    assert_true(w == 80 && h == 96);
    test_shell("cd %s && mv diffusion_pytorch_model.safetensors part-1.safetensors && python3 -c 'import json, struct\n"
          "f = open(\"part-1.safetensors\", \"rb\"); n = struct.unpack(\"<Q\", f.read(8))[0]\n"
          "json.dump({\"weight_map\": {k: \"part-1.safetensors\" for k in json.loads(f.read(n)) if k[0] != \"_\"}},"
          " open(\"diffusion_pytorch_model.safetensors.index.json\", \"w\"))'", take_dir);
    avatar_engine_close(&e[0]);
    avatar_engine_close(&e[1]);
    avatar_engine_flush();
    REQUIRE_OK(avatar_engine_open(&e[0], &opt));
    REQUIRE_OK(avatar_engine_open(&e[1], &opt));
    assert_ptr_equal(e[0]->core, e[1]->core);
    test_shell("cd %s && cp part-1.safetensors /tmp/avatar-shard-%d && dd if=/tmp/avatar-shard-%d of=part-1.safetensors conv=notrunc status=none && "
          "rm /tmp/avatar-shard-%d", take_dir, getpid(), getpid(), getpid());
    REQUIRE_OK(avatar_engine_open(&e[2], &opt));
    assert_true(e[2]->core != e[0]->core);
    for (int i = 0; i < 3; i++)
        avatar_engine_close(&e[i]);
    test_shell("cd %s && rm *.index.json && mv part-1.safetensors diffusion_pytorch_model.safetensors", take_dir);
    avatar_engine_flush();
}

typedef struct Slow {                               // an open that is held up in mid-load
    sem_t loading, go;
    int held;
    AvatarEngine *e[2];
} Slow;

static void hold_up(void *opaque, int level, const char *text)
{
    Slow *s = opaque;

    (void)level;
    if (!strstr(text, "weights") || s->held++)
        return;
    sem_post(&s->loading);
    sem_wait(&s->go);
}

static void *open_slowly(void *opaque)
{
    Slow *s = opaque;
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);

    opt.log = hold_up;
    opt.log_opaque = s;
    avatar_engine_open(&s->e[0], &opt);
    return NULL;
}

static void *open_the_same(void *opaque)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);

    avatar_engine_open(&((Slow *)opaque)->e[1], &opt);
    return NULL;
}

/* 0: another model was opened, closed and flushed in the middle of a load; two who ask for that one share it. */
static int open_beside_a_load(int arg)
{
    AvatarOptions other = take_options(NULL, NULL, NULL, NULL);
    Slow s = { .held = 0 };
    pthread_t thread[2];
    AvatarEngine *e = NULL;
    int ret;

    (void)arg;
    sem_init(&s.loading, 0, 0);
    sem_init(&s.go, 0, 0);
    other.steps = 2;
    pthread_create(&thread[0], NULL, open_slowly, &s);
    sem_wait(&s.loading);
    pthread_create(&thread[1], NULL, open_the_same, &s);
    if (avatar_engine_open(&e, &other) < 0)
        return 1;
    avatar_engine_close(&e);
    avatar_engine_flush();
    usleep(100000);
    if (s.e[1])
        return 2;                                   // it did not wait
    sem_post(&s.go);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    ret = !s.e[0] || !s.e[1] ? 3 : s.e[0]->core != s.e[1]->core ? 4 : 0;
    for (int i = 0; i < 2; i++)
        avatar_engine_close(&s.e[i]);
    avatar_engine_flush();
    return ret;
}

static void a_load_holds_up_nobody_else(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(open_beside_a_load, 0, HANG_SECONDS), 0);
}

static int setup(void **state)
{
    const int ret = take_setup(state);

    return ret < 0 ? ret : chmod(take_dir, 0755);   // for a user without rights
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callback_may_abort_and_no_more), cmocka_unit_test(exit_stops_sessions),
        cmocka_unit_test(libraries_register_before_us), cmocka_unit_test(no_thread_stays),
        cmocka_unit_test(library_can_be_unloaded), cmocka_unit_test(too_few_threads_are_told),
        cmocka_unit_test(rewritten_files_are_read_again), cmocka_unit_test(a_load_holds_up_nobody_else),
    };

    return _cmocka_run_group_tests("hostile", tests, sizeof(tests) / sizeof(tests[0]), setup, take_teardown) ? 1 : 0;
}
