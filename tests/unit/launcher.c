/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who else does a launcher have here? This program is the launcher; run with `count` it is one of the launched, and its exit code what it counts. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/launcher.h"
#include "test.h"

static char self[4096];

/* A process that is launched: marked or not, of another job, with a shell between or without. */
static pid_t launch(const char *mark, const char *command)
{
    char *const env[] = { (char *)mark, "PATH=/usr/bin:/bin", NULL };
    const pid_t pid = fork();

    if (!pid) {
        execle("/bin/sh", "sh", "-c", command, NULL, env);
        _exit(99);
    }
    return pid;
}

/* What one that is launched now counts; 255: it cannot tell. */
static int counted(const char *mark, const char *form)
{
    char command[sizeof(self) + 64];
    int status;

    snprintf(command, sizeof(command), form, self);
    assert_int_equal(waitpid(launch(mark, command), &status, 0) > 0 && WIFEXITED(status), 1);
    return WEXITSTATUS(status);
}

/* It has come through its exec(), which alone shows its mark. */
static void wait_for(int nb)
{
    for (int i = 0; i < 1000 && counted("PMIX_NAMESPACE=one", "exec %s count") != nb; i++)
        usleep(10000);
}

static void those_of_a_job_are_counted(void **state)
{
    pid_t other, rest[2];

    (void)state;
    assert_int_equal(counted("PMIX_NAMESPACE=one", "exec %s count"), 1);
    other = launch("PMIX_NAMESPACE=two", "exec sleep 60");
    for (int i = 0; i < 2; i++)
        rest[i] = launch("PMIX_NAMESPACE=one", "exec sleep 60");
    wait_for(3);
    assert_int_equal(counted("PMIX_NAMESPACE=one", "exec %s count"), 3);
    assert_int_equal(counted("PMIX_NAMESPACE=one", "%s count; exit $?"), 3);            // a shell between is one of them, not their launcher
    assert_int_equal(counted("PMIX_NAMESPACE=one", "sh -c '%s count; exit $?'; exit $?"), 3);
    kill(rest[0], SIGKILL);
    waitpid(rest[0], NULL, 0);
    assert_int_equal(counted("PMIX_NAMESPACE=one", "exec %s count"), 2);
    assert_int_equal(counted("MPI_LOCALNRANKS=3", "exec %s count"), 1);
    assert_int_equal(counted("A=1", "exec %s count"), 255);                             // of no job
    kill(rest[1], SIGKILL);
    kill(other, SIGKILL);
    waitpid(rest[1], NULL, 0);
    waitpid(other, NULL, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(those_of_a_job_are_counted) };
    const ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    if (argc > 1 && !strcmp(argv[1], "count"))
        return avt_launcher_count() & 255;
    return n > 0 ? test_main("unit/launcher", tests) : 1;
}
