/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The inside of a World, for world.c and peers.c. */
#ifndef AVT_PEERS_H
#define AVT_PEERS_H

#include <pthread.h>

#include "comm/link.h"

typedef struct Talk {
    struct Talk *next;
    size_t size;
    char data[];
} Talk;

typedef struct Peer {
    World *world;
    int process, fd;
    pthread_t reader, writer;
    int nb_threads;
    pthread_mutex_t pen;
    pthread_cond_t work;                // an errand, or the end; under the world's lock, as what follows
    Errand *first, **last;
    Talk *talk, **last_talk;
    int losing;                         // somebody is about to say that it is lost
    int left;                           // said good-bye, or closed after process 0 did
    char why[320];                      // how it is lost
    int64_t heard;                      // avt_now_ns(); atomic
} Peer;

struct World {
    pthread_mutex_t lock;
    pthread_cond_t change;              // talk, somebody is gone, a group's reader or writer is done
    Log log;
    int nb, own, closing;
    int over;                           // atomic: process 0 is gone
    WorldCard *card;                    // [nb]
    Peer *peer;                         // [nb], the own one is empty
    Group *group;
    pthread_t pulse;
    int has_pulse;
};

/** Has it left, or is it lost? Lock held. */
static inline int avt_peer_is_gone(const Peer *p)
{
    return p->left || *p->why;
}

/** Write a piece in two parts; pen held. @return 0 or EPIPE */
int avt_peer_write(int fd, const void *head, size_t head_size, const void *data, size_t size);
/** Threads of their own: what comes from a peer, what goes to it, and the World's beats. `arg`: a Peer, a Peer, a World. */
void *avt_peer_reader(void *arg);
void *avt_peer_writer(void *arg);
void *avt_peer_pulse(void *arg);

#endif
