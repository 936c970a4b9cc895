/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* avatar: the library for people with a stock ffmpeg. This file only chooses the subcommand. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "avatar.h"
#include "engine/orders.h"
#include "options.h"
#include "speak.h"

#define STACK ((rlim_t)2 << 20)

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
    int meets;                          // takes workers: they end with it however it ends, so it meets them first of all
} commands[] = {
    { "speak",   cmd_speak,   "AUDIO PICTURE [-o FILE|-] [--OPTION VALUE ...]   make a picture speak: talk.mp4", 1 },
    { "inspect", cmd_inspect, "MODEL|FILE                                       what a model folder, or a file of weights, holds", 0 },
    { "convert", cmd_convert, "--precision int8|fp8 -o DIR [--model DIR]        a model whose layers are kept in 8 bits", 0 },
    { "bench",   cmd_bench,   "--damage [PICTURE] [--model DIR] [--json]        what each precision costs a film, against f32", 0 },
    { "plan",    cmd_plan,    "[--model DIR|published] [--size WxH] ...         memory and work of each rank and network", 1 },
    { "doctor",  cmd_doctor,  "[AUDIO] [PICTURE] [--OPTION VALUE ...]           what is wrong with inputs, model, machine, and what helps", 0 },
    { "verify",  cmd_verify,  "[FILE] [--OPTION VALUE ...]                      does this machine compute what was recorded?", 0 },
    { "worker",  cmd_worker,  "[--model DIR] [--devices LIST] ... [-- COMMAND]  lend this process's devices to a film, under mpirun", 0 },
    { "top",     cmd_top,     "FILE|PID                                         a running session on one screen, from stats=FILE", 0 },
    { "plot",    cmd_plot,    "FILE -o CURVES.svg                               its statistics as curves", 0 },
};

static int usage(FILE *f)
{
    fprintf(f, "usage: avatar COMMAND ...\n");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        fprintf(f, "  avatar %-7s %s\n", commands[i].name, commands[i].help);
    fprintf(f, "  avatar COMMAND --help   its options\n");
    return f == stdout ? 0 : 2;
}

/* @return 0, or an error behind a sentence */
static int meet(void)
{
    static const Log log = { .write = tool_log_line, .level = LOG_WARNING };
    World *world;

    return avatar_is_launched(getenv) ? avt_workers_world(&world, &log) : 0;
}

static int run(int argc, char **argv)
{
    const unsigned v = avatar_version();

    if (argc < 2)
        return usage(stderr);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help"))
        return usage(stdout);
    if (!strcmp(argv[1], "--version"))
        return printf("avatar %u.%u.%u\n", v >> 16, v >> 8 & 255, v & 255) < 0;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].meets && meet() < 0 ? 1 : commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "avatar: '%s' is not a command\n", file_shown(argv[1]));
    return usage(stderr);
}

/* Plans lie on the stack, which grows as far as the limit of the moment lets it; threads of encoders get what the limit was at the start.
 * @return 0, or 1 behind a sentence */
static int lacks_stack(void)
{
    struct rlimit l;
    pthread_attr_t attr;

    if (getrlimit(RLIMIT_STACK, &l) || l.rlim_cur >= STACK)
        return 0;
    l.rlim_cur = l.rlim_max < STACK ? l.rlim_max : STACK;
    if (l.rlim_cur < STACK || setrlimit(RLIMIT_STACK, &l))
        return fprintf(stderr, "avatar: %llu kB of stack are too few; allow 2 MB, ulimit -s 2048\n", (unsigned long long)l.rlim_max >> 10), 1;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    pthread_setattr_default_np(&attr);
    pthread_attr_destroy(&attr);
    return 0;
}

int main(int argc, char **argv)
{
    int ret;

    if (lacks_stack())
        return 1;
    file_prepare();
    ret = run(argc, argv);
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "avatar: stdout cannot be written: %s\n", strerror(errno));
        return ret ? ret : 1;
    }
    return ret;
}
