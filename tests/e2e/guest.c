/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The library is a guest in its host's process: what the host does with signals, stacks, forks, threads and numbers of its own does
 * not end it, and is not ended by it. Each case runs in a child, which an alarm ends when it hangs.
 */
#include <fenv.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "engine/engine.h"
#include "take.h"

#define HANG_SECONDS 100                            // of a child

static AvatarSession *open_all(AvatarEngine **e)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarLook look = take_look(0);
    AvatarSession *s = NULL;

    opt.cpu_threads = 2;
    REQUIRE_OK(avatar_engine_open(e, &opt));
    REQUIRE_OK(avatar_session_open(&s, *e, &look));
    return s;
}

static void send_all(AvatarSession *s, int64_t n)
{
    float *pcm = take_sound(n);

    REQUIRE_OK(avatar_session_send(s, pcm, n));
    REQUIRE_OK(avatar_session_send(s, NULL, 0));
    free(pcm);
}

/* All frames; how many, or the error. */
static int receive_all(AvatarSession *s)
{
    AvatarFrame f;
    int ret, nb = 0;

    while ((ret = avatar_session_receive(s, &f, AVATAR_WAIT)) >= 0)
        nb++;
    return ret == AVATAR_EOF ? nb : ret;
}

static void close_all(AvatarSession **s, AvatarEngine **e)
{
    avatar_session_close(s);
    avatar_engine_close(e);
    avatar_engine_flush();
}

/* ---- signals and stacks -------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t nb_handled;

static void handle(int sig)
{
    (void)sig;
    nb_handled++;
}

/* The host's only thread blocks a signal: nobody else takes it. */
static int signals_of_the_host(int arg)
{
    AvatarEngine *e = NULL;
    AvatarSession *s;
    sigset_t set, pending;

    (void)arg;
    signal(SIGUSR1, handle);
    s = open_all(&e);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    send_all(s, 16000);
    kill(getpid(), SIGUSR1);
    if (receive_all(s) != 25)
        return 1;
    close_all(&s, &e);
    sigpending(&pending);
    return nb_handled || !sigismember(&pending, SIGUSR1);
}

static void signals_stay_with_the_host(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(signals_of_the_host, 0, HANG_SECONDS), 0);
}

/* A host that makes threads of 64 kB; and one whose calling thread has 256 kB. */
static void *whole_stream(void *arg)
{
    AvatarEngine *e = NULL;
    AvatarSession *s = open_all(&e);

    send_all(s, 16000);
    *(int *)arg = receive_all(s);
    close_all(&s, &e);
    return NULL;
}

static int small_stacks(int from_small)
{
    pthread_attr_t attr;
    pthread_t thread;
    int nb = 0;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, from_small ? 256 << 10 : 64 << 10);
    if (pthread_setattr_default_np(&attr))
        return 1;
    if (!from_small)
        whole_stream(&nb);
    else if (pthread_create(&thread, &attr, whole_stream, &nb) || pthread_join(thread, NULL))
        return 2;
    return nb != 25;
}

static void small_stacks_are_enough(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        assert_int_equal(take_in_child(small_stacks, i, HANG_SECONDS), 0);
}

static int timer_storm(int arg)
{
    const struct itimerval fast = { { 0, 500 }, { 0, 500 } };
    int nb = 0;

    (void)arg;
    signal(SIGALRM, SIG_DFL);
    signal(SIGVTALRM, handle);
    signal(SIGPROF, handle);
    setitimer(ITIMER_VIRTUAL, &fast, NULL);
    setitimer(ITIMER_PROF, &fast, NULL);
    whole_stream(&nb);
    return nb != 25 || nb_handled < 10;
}

static void interrupted_calls_go_on(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(timer_storm, 0, HANG_SECONDS), 0);
}

/* A thread that waits for frames is cancelled: its session can still be closed by another. */
static void *wait_for_frames(void *arg)
{
    receive_all(arg);
    return NULL;
}

static int cancel_at(int i)
{
    AvatarEngine *e = NULL;
    AvatarSession *s = open_all(&e);
    pthread_t thread;

    send_all(s, 48000);
    if (pthread_create(&thread, NULL, wait_for_frames, s))
        return 1;
    usleep((useconds_t)(i * 5000));
    pthread_cancel(thread);
    avatar_session_abort(s);
    pthread_join(thread, NULL);
    close_all(&s, &e);
    return 0;
}

/* One that says an error is cancelled in the host's own log, or leaves there: the next error can be said all the same. */
static volatile int nb_said, leaves;

static void never_return(void *opaque, int level, const char *text)
{
    (void)opaque;
    (void)text;
    if (level != AVATAR_LOG_ERROR || nb_said++)
        return;
    if (leaves)
        pthread_exit(NULL);
    for (;;)
        pause();
}

static void *send_no_number(void *s)
{
    return avatar_session_send(s, &(float){ NAN }, 1) == AVATAR_ERR(EINVAL) ? s : NULL;
}

static int cancel_in_the_log(int leave)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    const AvatarLook look = take_look(0);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    pthread_t thread;

    leaves = leave;
    opt.log = never_return;
    REQUIRE_OK(avatar_engine_open(&e, &opt));
    REQUIRE_OK(avatar_session_open(&s, e, &look));
    if (pthread_create(&thread, NULL, send_no_number, s))
        return 1;
    while (!nb_said)
        usleep(1000);
    pthread_cancel(thread);
    pthread_join(thread, NULL);
    if (!send_no_number(s) || nb_said != 2)
        return 2;
    close_all(&s, &e);
    return 0;
}

static void cancelled_threads_leave_no_lock(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++)
        assert_int_equal(take_in_child(cancel_at, i, HANG_SECONDS), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(take_in_child(cancel_in_the_log, i, 20), 0);
}

/* ---- forks ----------------------------------------------------------------------------------------------------------------- */

/* A child that exits in the middle of its parent's stream; every fourth has also called what it should not. */
static int fork_at(int i)
{
    AvatarEngine *e = NULL;
    AvatarSession *s = open_all(&e);
    AvatarFrame f;
    int status = -1, nb;
    pid_t pid;

    send_all(s, 16000);
    usleep((useconds_t)(i * 3000));
    pid = fork();
    if (!pid) {
        alarm(20);
        take_leaves = 1;                            // what the parent's threads, which are not here, held just then; the parent is asked
        if (i % 4 == 1 && (avatar_session_receive(s, &f, AVATAR_WAIT) != AVATAR_ERR(ECHILD) || avatar_session_send(s, NULL, 0) != AVATAR_ERR(ECHILD)))
            exit(5);
        if (i % 4 == 2)
            avatar_session_abort(s);
        if (i % 4 >= 2)
            avatar_session_close(&s);
        exit(0);
    }
    waitpid(pid, &status, 0);
    nb = receive_all(s);
    close_all(&s, &e);
    return !WIFEXITED(status) ? 1 : WEXITSTATUS(status) ? 2 : nb != 25;
}

static void forks_are_harmless(void **state)
{
    (void)state;
    for (int i = 0; i < 16; i++)
        assert_int_equal(take_in_child(fork_at, i, HANG_SECONDS), 0);
}

/* Two children open sessions of their own on the engine that they have inherited, as a server's workers do. */
static int fork_workers(int arg)
{
    AvatarEngine *e = NULL;
    AvatarSession *s = open_all(&e);
    AvatarLook look = take_look(0);
    int status, bad = 0;

    (void)arg;
    avatar_session_close(&s);
    for (int i = 0; i < 2; i++)
        if (!fork()) {
            alarm(HANG_SECONDS - 10);
            if (avatar_session_open(&s, e, &look) < 0)
                exit(3);
            send_all(s, 16000);
            exit(receive_all(s) != 25);             // with the session open
        }
    for (int i = 0; i < 2; i++)
        bad |= wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status);
    avatar_engine_close(&e);
    return bad;
}

/* A child that is forked while another thread loads a model may open nothing; before or after that it may. */
static void *open_and_close(void *arg)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarEngine *e = NULL;

    *(int *)arg = avatar_engine_open(&e, &opt);
    avatar_engine_close(&e);
    return NULL;
}

static int fork_while_loading(int i)
{
    int ret = -1, status = -1;
    pthread_t thread;
    pid_t pid;

    if (pthread_create(&thread, NULL, open_and_close, &ret))
        return 1;
    usleep((useconds_t)(i * 1500));
    pid = fork();
    if (!pid) {
        alarm(20);
        open_and_close(&ret);
        _exit(ret < 0 && ret != AVATAR_ERR(ECHILD));
    }
    pthread_join(thread, NULL);
    waitpid(pid, &status, 0);
    return ret < 0 ? 2 : status;
}

static void loads_are_not_waited_for_in_a_child(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) && __GNUC__ < 14
    (void)fork_while_loading;
    SKIP("a child of fork() may find the sanitizer's own allocator locked");
#endif
    for (int i = 0; i < 12; i++)
        assert_int_equal(take_in_child(fork_while_loading, i, HANG_SECONDS), 0);
}

static void workers_share_an_engine(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(fork_workers, 0, HANG_SECONDS), 0);
}

/* ---- arithmetic ------------------------------------------------------------------------------------------------------------ */

/* A host that looks for faults in its own sums: invalid operations, divisions by zero, overflows are signals in all of its threads. */
static int traps_of_the_host(int arg)
{
    static const float odd[] = { 1e30f, -3e38f, 3e38f, 1e-42f, 0, -0.f };
    AvatarEngine *e = NULL;
    AvatarSession *s;
    float *pcm = take_sound(16000);
    int nb;

    (void)arg;
    for (int i = 0; i < 6000; i++)
        pcm[i] = odd[i % 6];
    feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
    s = open_all(&e);
    if (avatar_session_send(s, &(float){ NAN }, 1) != AVATAR_ERR(EINVAL) || avatar_session_send(s, pcm, 16000) < 0 || avatar_session_send(s, NULL, 0) < 0)
        return 1;
    nb = receive_all(s);
    close_all(&s, &e);
    free(pcm);
    return nb != 25 || fegetexcept() != (FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
}

static void traps_are_the_hosts(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(traps_of_the_host, 0, HANG_SECONDS), 0);
}

/* ---- memory, and the end ------------------------------------------------------------------------------------------------ */

static long mapped_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;

    if (!f || fscanf(f, "%ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

/* From now on the process may map `kb` more. A stream, or no memory; oneDNN has no check of its own for the code that it makes. */
static int memory_that_ends(int kb)
{
    AvatarEngine *e = NULL;
    AvatarSession *s = open_all(&e);
    const struct rlimit l = { (rlim_t)(mapped_bytes() + 1024L * kb), RLIM_INFINITY };
    float *pcm = take_sound(16000);
    int n;

    setrlimit(RLIMIT_AS, &l);
    n = avatar_session_send(s, pcm, 16000);
    if (n >= 0)
        n = avatar_session_send(s, NULL, 0);
    if (n >= 0)
        n = receive_all(s);
    free(pcm);
    close_all(&s, &e);
    return n != 25 && n != AVATAR_ERR(ENOMEM);
}

static void memory_may_end_in_mid_stream(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)memory_that_ends;
    SKIP("a sanitizer maps memory of its own");
#else
    for (int kb = 0; kb < 12000; kb += kb < 3000 ? 300 : 3000)
        assert_int_equal(take_in_child(memory_that_ends, kb, HANG_SECONDS), 0);
#endif
}

/* The same from before the engine is opened: nothing else is blamed. */
static int memory_that_is_short(int kb)
{
    const struct rlimit l = { (rlim_t)(mapped_bytes() + 1024L * kb), RLIM_INFINITY };
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    const AvatarLook look = take_look(0);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    int ret;

    setrlimit(RLIMIT_AS, &l);
    ret = avatar_engine_open(&e, &opt);
    if (ret >= 0)
        ret = avatar_session_open(&s, e, &look);
    close_all(&s, &e);
    return ret < 0 && ret != AVATAR_ERR(ENOMEM);
}

static void memory_is_short_at_opening(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)memory_that_ends;
    (void)memory_that_is_short;
    SKIP("a sanitizer maps memory of its own");
#else
    for (int kb = 0; kb < 40000; kb += kb < 20000 ? 500 : 4000)
        assert_int_equal(take_in_child(memory_that_is_short, kb, HANG_SECONDS), 0);
#endif
}

static AvatarEngine *engine_at_end;

/* Runs behind the exit handlers of all that was made at first use, which the libraries below are without then. */
static void open_at_end(void)
{
    AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);
    AvatarLook look = take_look(0);
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;

    if (avatar_session_open(&s, engine_at_end, &look) != AVATAR_ERR(ECANCELED) || avatar_engine_open(&e, &opt) != AVATAR_ERR(ECANCELED))
        _exit(1);
    avatar_engine_close(&engine_at_end);
    avatar_engine_flush();
}

static int exit_handler_opens(int arg)
{
    const AvatarOptions opt = take_options(NULL, NULL, NULL, NULL);

    (void)arg;
    take_leaves = 1;
    atexit(open_at_end);
    return avatar_engine_open(&engine_at_end, &opt) < 0;
}

static void nothing_is_opened_at_the_end(void **state)
{
    (void)state;
    assert_int_equal(take_in_child(exit_handler_opens, 0, HANG_SECONDS), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_stay_with_the_host), cmocka_unit_test(small_stacks_are_enough), cmocka_unit_test(interrupted_calls_go_on), cmocka_unit_test(cancelled_threads_leave_no_lock),
        cmocka_unit_test(forks_are_harmless), cmocka_unit_test(workers_share_an_engine), cmocka_unit_test(loads_are_not_waited_for_in_a_child),
        cmocka_unit_test(traps_are_the_hosts), cmocka_unit_test(memory_may_end_in_mid_stream), cmocka_unit_test(memory_is_short_at_opening),
        cmocka_unit_test(nothing_is_opened_at_the_end),
    };

    return _cmocka_run_group_tests("guest", tests, sizeof(tests) / sizeof(tests[0]), take_setup, take_teardown) ? 1 : 0;
}
