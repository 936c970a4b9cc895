/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processes of one run as threads of this one, for tests: a meeting in memory, as mpirun's; run() lets them live in a world. */
#ifndef AVT_TEST_WORLDS_H
#define AVT_TEST_WORLDS_H

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "comm/peers.h"
#include "test.h"

#define MOST 4

static struct {
    pthread_barrier_t all;
    WorldCard card[MOST];
    int nb, film;                                                   // place of the one with the film; -1: none, -2: all
    const char *devices;                                            // NULL: cpu
    int ipv6;                                                       // they have no other addresses
    void (*before)(const WorldCard *card);                          // what happens at the port of the film's process before the others know it; or NULL
} meeting;
static _Thread_local int place;

/* Leave out what is ::ffff:a.b.c.d. */
static inline void keep_ipv6(WorldCard *card)
{
    static const uint8_t v4[12] = { [10] = 0xff, 0xff };
    int nb = 0;

    for (int i = 0; i < WORLD_ADDRESSES; i++)
        if (memcmp(card->address[i], v4, sizeof(v4)))
            memmove(card->address[nb++], card->address[i], sizeof(card->address[i]));
    for (; nb < WORLD_ADDRESSES; nb++)
        memset(card->address[nb], 0, sizeof(card->address[nb]));
}

static inline int meet(WorldMeeting *m, const WorldCard *own)
{
    meeting.card[place] = *own;
    if (meeting.ipv6)
        keep_ipv6(&meeting.card[place]);
    if (meeting.before && place == meeting.film)
        meeting.before(own);
    pthread_barrier_wait(&meeting.all);
    m->card = avt_malloc(MEM_COMM, sizeof(meeting.card));
    memcpy(m->card, meeting.card, sizeof(meeting.card));
    m->nb = meeting.nb;
    m->own = place;
    return 0;
}

typedef struct Process {
    int place, ret;
    World *w;
    char said[1024];                                                // its log
    Log log;
    void (*live)(struct Process *p);
    pthread_t thread;
} Process;

static inline void keep(void *opaque, int level, const char *text)
{
    (void)level;
    snprintf(opaque, sizeof(((Process *)0)->said), "%s", text);
}

static inline void *process_thread(void *arg)
{
    Process *p = arg;
    WorldCard own = { .worker = meeting.film == -2 ? 0 : p->place != meeting.film, .cores = 1 };

    snprintf(own.devices, sizeof(own.devices), "%s", meeting.devices ? meeting.devices : "cpu");
    p->log = (Log){ .write = keep, .opaque = p->said };
    place = p->place;
    p->ret = avt_world_open(&p->w, &own, meet, &p->log);
    if (p->ret >= 0 && p->w)
        p->live(p);
    avt_world_close(&p->w);
    return NULL;
}

static inline void run(Process p[MOST], int nb, int film, void (*live)(Process *p))
{
    const int64_t before = avt_mem_bytes(MEM_COMM);

    meeting.nb = nb;
    meeting.film = film;
    pthread_barrier_init(&meeting.all, NULL, (unsigned)nb);
    for (int i = 0; i < nb; i++) {
        p[i] = (Process){ .place = i, .live = live };
        pthread_create(&p[i].thread, NULL, process_thread, &p[i]);
    }
    for (int i = 0; i < nb; i++)
        pthread_join(p[i].thread, NULL);
    pthread_barrier_destroy(&meeting.all);
    assert_int_equal(avt_mem_bytes(MEM_COMM), before);
}

static inline void wait_for_all(void)
{
    pthread_barrier_wait(&meeting.all);
}

#endif
