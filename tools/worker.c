/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* avatar worker: this process lends its devices to the one with the film. See doc/cluster.md. */
#include <stdio.h>
#include <unistd.h>

#include "options.h"
#include "speak.h"

/* What mpirun shows of several processes on one terminal says whose it is. */
static void log_line(void *opaque, int level, const char *text)
{
    (void)level;
    fprintf(stderr, "avatar worker %d: %s\n", *(const int *)opaque, text);
}

int cmd_worker(int argc, char **argv)
{
    ToolOptions o;
    int pid = (int)getpid(), ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional) {
        fprintf(o.help ? stdout : stderr, "usage: mpirun -n 1 avatar speak ... : -n N avatar worker [--model MODEL] [--devices LIST] ...\n"
                "Lends devices (--devices, default: the GPUs, or the CPU) to the process with the film, until that ends. Of the options those count\n"
                "that say where the model's files are and how this host is used: model, lora, opts, devices, cpu_threads, cpu_level, quiet.\n");
        if (o.help)
            tool_options_help();
        return o.help ? 0 : 2;
    }
    o.engine.log = log_line;
    o.engine.log_opaque = &pid;
    o.engine.log_level = o.quiet ? AVATAR_LOG_WARNING : AVATAR_LOG_INFO;
    return avatar_worker_run(&o.engine) < 0 ? 1 : 0;
}
