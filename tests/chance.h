/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A rank without a session: its messages come from nowhere. For benches. */
#ifndef AVT_TESTS_CHANCE_H
#define AVT_TESTS_CHANCE_H

#include "comm/comm.h"
#include "test.h"

/* The rank's end of a group whose other ends are chance: what comes is random, for picture, text and sound; what goes is lost. */
typedef struct Chance {
    Comm comm;
    int64_t bytes_to[2];
    float *numbers;                     // of any message
} Chance;

static inline int chance_send(Comm *c, int dst, CommTag tag, const CommData *d)
{
    (void)c, (void)dst, (void)tag, (void)d;
    return 0;
}

static inline int chance_recv(Comm *c, int src, CommTag tag, const CommData *d)
{
    (void)src, (void)tag;
    for (int i = 0; i < d->nb; i++)
        avt_upload(d->be, d->t[i], ((Chance *)c)->numbers);
    return 0;
}

static inline int chance_open(Chance *c, int64_t nb, const Log *log)
{
    static const CommClass cls = { .name = "chance", .send = chance_send, .recv = chance_recv };

    c->comm = (Comm){ .cls = &cls, .nb = 2, .bytes_to = c->bytes_to, .log = log };
    c->numbers = avt_malloc(MEM_BACKEND, (size_t)nb * sizeof(*c->numbers));
    if (!c->numbers)
        return AVT_ERR(ENOMEM);
    test_random(c->numbers, nb, 1);
    return 0;
}

#endif
