/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* avatar worker: this process lends its devices to the one with the film. See doc/cluster.md. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "options.h"
#include "speak.h"

/* What mpirun shows of several processes on one terminal says whose it is. */
static void log_line(void *opaque, int level, const char *text)
{
    (void)level;
    fprintf(stderr, "avatar worker %d: %s\n", *(const int *)opaque, text);
}

/* What stands behind "--": the command of the film. NULL: nothing does */
static char **film_of(int *argc, char **argv)
{
    for (int i = 1; i + 1 < *argc; i++)
        if (!strcmp(argv[i], "--")) {
            *argc = i;
            return argv + i + 1;
        }
    return NULL;
}

/* Is this the first of the processes that mpirun or srun started? */
static int is_first(void)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (getenv(names[i]))
            return !strcmp(getenv(names[i]), "0");
    return 0;
}

/* @return only if it cannot be */
static int become(char **film)
{
    execvp(film[0], film);
    fprintf(stderr, "avatar worker: %s, which is to make the film: %s\n", film[0], strerror(errno));
    return 1;
}

int cmd_worker(int argc, char **argv)
{
    char **film = film_of(&argc, argv);
    ToolOptions o;
    int pid = (int)getpid(), ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional) {
        fprintf(o.help ? stdout : stderr, "usage: mpirun -n 1 avatar speak ... : -n N avatar worker [--model MODEL] [--devices LIST] ...\n"
                "       mpirun -n N avatar worker [--model MODEL] [--devices LIST] ... -- avatar speak ...\n"
                "Lends devices (--devices, default: the GPUs, or the CPU) to the process with the film, until that ends. Of the options it takes those\n"
                "that say where the model's files are and how this host is used: model, lora, opts, devices, cpu_threads, cpu_level, tune, quiet.\n"
                "What stands behind -- is the film's command: the first process becomes it.\n");
        if (o.help)
            tool_options_help();
        return o.help ? 0 : 2;
    }
    if (tool_takes(&o, "worker", TAKES_MODEL TAKES_CPU " devices tune quiet"))
        return 2;
    if (film && is_first())
        return become(film);
    o.engine.log = log_line;
    o.engine.log_opaque = &pid;
    o.engine.log_level = o.quiet ? AVATAR_LOG_WARNING : AVATAR_LOG_INFO;
    return avatar_worker_run(&o.engine) < 0 ? 1 : 0;
}
