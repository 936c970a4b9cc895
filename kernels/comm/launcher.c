/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The processes of a job on this host: children of one launcher (mpirun, its daemon on another host), with the job's mark in their
 * environment. See launcher.h.
 *
 *   mpirun --- film                the launcher is the first forebear without the mark: scripts between it and a process have it
 *          \-- script --- worker
 *
 * A process that is being started has the launcher's environment until its exec(): who counts too few counts again a little later. What cannot
 * be seen (another user's, another container's) is never taken for gone.
 */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/launcher.h"

typedef struct Mark {
    const char *name;
    char value[128];
} Mark;

/* A variable of a process's environment, as it was at its start. @return 1; 0: it has none; -1: it cannot be seen */
static int read_variable(char *value, size_t size, int pid, const char *name)
{
    const size_t len = strlen(name);
    char path[32], word[256];
    size_t n = 0;
    int c, found = 0;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/environ", pid);
    f = fopen(path, "re");
    if (!f)
        return -1;
    while (!found && (c = getc(f)) != EOF) {
        word[n] = (char)c;
        n += n < sizeof(word) - 1;
        if (c)
            continue;
        word[n - 1] = 0;
        found = !strncmp(word, name, len) && word[len] == '=';
        n = 0;
    }
    fclose(f);
    if (found)
        snprintf(value, size, "%s", word + len + 1);
    return found;
}

/* @return as read_variable() */
static int has_mark(int pid, const Mark *m)
{
    char value[sizeof(m->value)];
    const int has = read_variable(value, sizeof(value), pid, m->name);

    return has > 0 ? !strcmp(value, m->value) : has;
}

/* This process's: PMIx names the job, MPICH says only that there is one. */
static int find_mark(Mark *m)
{
    static const char *const names[] = { "PMIX_NAMESPACE", "MPI_LOCALNRANKS" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        m->name = names[i];
        if (read_variable(m->value, sizeof(m->value), getpid(), m->name) > 0)
            return 1;
    }
    return 0;
}

/* 0: there is no such process any more. */
static int parent_of(int pid)
{
    char path[32], text[512];
    const char *end;
    int parent = 0;
    size_t n;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    f = fopen(path, "re");
    if (!f)
        return 0;
    n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = 0;
    end = strrchr(text, ')');                                       // a name may hold anything
    return end && sscanf(end + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

int avt_launcher_count(void)
{
    int launcher = getppid(), nb = 0;
    const struct dirent *e;
    DIR *all;
    Mark m;

    if (!find_mark(&m))
        return -1;
    while (launcher > 1 && has_mark(launcher, &m) > 0)
        launcher = parent_of(launcher);
    if (launcher <= 1 || has_mark(launcher, &m) < 0)
        return -1;
    all = opendir("/proc");
    if (!all)
        return -1;
    while ((e = readdir(all)))
        if (isdigit((unsigned char)*e->d_name) && parent_of(atoi(e->d_name)) == launcher)
            nb += has_mark(atoi(e->d_name), &m) != 0;
    closedir(all);
    return nb ? nb : -1;                                            // not even this one: they are hidden
}
