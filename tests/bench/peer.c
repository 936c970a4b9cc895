/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The peer: peers.py behind two pipes, a word a line in, "ok WALL CPU" or "no REASON" a line out. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"

struct Peer {
    pid_t pid;
    FILE *in, *out;
};

static void become_peer(const Bench *b, int in, int out)
{
    char threads[16], script[1024];

    snprintf(threads, sizeof(threads), "%d", b->threads);
    snprintf(script, sizeof(script), "%s/tests/bench/peers.py", b->src);
    dup2(in, 0);
    dup2(out, 1);
    execl(b->python, b->python, script, b->dir, threads, (char *)NULL);
    perror(b->python);
    _exit(127);
}

int peer_open(Peer **out, const Bench *b)
{
    int to[2], from[2];
    double wall, cpu;
    Peer *p;

    *out = NULL;
    if (access(b->python, X_OK) || pipe(to) || pipe(from))
        return -1;
    signal(SIGPIPE, SIG_IGN);
    p = calloc(1, sizeof(*p));
    p->pid = fork();
    if (!p->pid) {
        close(to[1]), close(from[0]);
        become_peer(b, to[0], from[1]);
    }
    close(to[0]), close(from[1]);
    p->in = fdopen(to[1], "w");
    p->out = fdopen(from[0], "r");
    *out = p;
    if (p->pid < 0 || peer_ask(p, "hello", &wall, &cpu) < 0) {
        peer_close(out);
        return -1;
    }
    return 0;
}

void peer_close(Peer **pp)
{
    Peer *p = *pp;

    if (!p)
        return;
    fclose(p->in);
    fclose(p->out);
    if (p->pid > 0)
        waitpid(p->pid, NULL, 0);
    free(p);
    *pp = NULL;
}

int peer_ask(Peer *p, const char *word, double *wall, double *cpu)
{
    char line[1024];

    fprintf(p->in, "%s\n", word);
    fflush(p->in);
    if (!fgets(line, sizeof(line), p->out))
        return fprintf(stderr, "bench: the peer is gone\n"), -1;
    if (sscanf(line, "ok %lf %lf", wall, cpu) == 2)
        return 0;
    fprintf(stderr, "bench: the peer cannot %s: %s", word, line);
    return -1;
}
