/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * World: the processes of one run, on one host or several, each connected with each by a socket.
 *
 *   started by      mpirun or srun; MPI carries each one's card to all others once (comm_mpi.c) and
 *                   is finalized again
 *   process 0       has the film: session, sound, front, and ranks like any other
 *   process 1 ..    workers: they load the layers of their own ranks and serve until 0 leaves
 *
 *   talk            small messages of host bytes, of the engines' own making
 *   letters         the messages of a comm between ranks that live in two processes (link.h)
 *   beats           one a second: who has said nothing for WORLD_PATIENCE_MS is lost
 *
 * Why not MPI for all of it: the waits of Open MPI spin, so that ranks that wait take the cores of
 * those that compute, and when a process is killed its mpirun ends the others (4.1.4: after a second),
 * where here finished frames are still to be given. A peer that is lost (killed, hung, cut off)
 * fails each comm that has ranks there, here as in every other process, with one sentence.
 *
 * The network is trusted, as MPI trusts it: a random key keeps strangers out, nothing is encrypted.
 */
#ifndef AVT_WORLD_H
#define AVT_WORLD_H

#include <stddef.h>
#include <stdint.h>

#include "base/log.h"

#define WORLD_MAX 64                    // processes
#define WORLD_ADDRESSES 8
#define WORLD_CARDS 16
#define WORLD_BEAT_MS 1000
#define WORLD_PATIENCE_MS 7000          // of silence
#define WORLD_MEETING_MS 60000          // until all processes have come

typedef struct WorldCard {              // what a process tells of itself
    uint64_t abi, key;
    int worker;                         // 0: it has the film
    int cores;                          // that it may use
    uint64_t mask;                      // which: equal on a host means the same ones
    char host[64];
    char devices[192];                  // that it offers, joined by '|'
    uint8_t address[WORLD_ADDRESSES][16];           // IPv6, or IPv4 as ::ffff:a.b.c.d; zeros: none
    uint16_t port;                      // network order
    uint16_t bf16;                      // its CPU runs bf16 faster than f32
    uint16_t beside;                    // how many processes were started on its host, itself among them; 0: not known
    uint16_t pad;
    int32_t nccl, pad2;                 // its version; 0: none
    uint64_t gpu[WORLD_CARDS];          // of cudaN: which card of the host it is; 0: not known
} WorldCard;

typedef struct WorldMeeting {           // what came of the exchange
    int nb, own;
    WorldCard *card;                    // [nb], the receiver's to free with avt_free()
    char why[256];                      // after an error: a sentence
} WorldMeeting;

/** Exchange cards with all processes that were started together; waits for them.
 *  @return 0 or an error, m->why says why */
typedef int WorldMeet(WorldMeeting *m, const WorldCard *own);

typedef struct World World;

/**
 * Meet the others and connect. All of them must do so; process 0 is the one with the film, whatever its place in the meeting.
 * @param own   role, cores, mask and devices are the caller's to fill, the rest is filled here
 * @param log   or NULL. A worker's stays, and gets the sentence when a process is lost and no comm has ranks there; process 0 hears of that
 *              when it next talks to it
 * @return 0; *w NULL and 0: there is no worker, so nobody to be connected with; ETIMEDOUT, EINVAL, ... (logged to `log`)
 */
int  avt_world_open(World **w, const WorldCard *own, WorldMeet *meet, const Log *log);
/** Say good-bye and disconnect: comms over it must be closed. NULL is fine. */
void avt_world_close(World **w);

int  avt_world_nb(const World *w);
int  avt_world_own(const World *w);
const WorldCard *avt_world_card(const World *w, int process);

/** Talk to a process; `data` is copied. @return 0, or the error of a process that is gone */
int  avt_world_say(World *w, int process, const void *data, size_t size);
/**
 * The next talk of a process, in order. What it said before it went is still heard.
 * @param data        freed by the caller with avt_free()
 * @param timeout_ms  0: do not wait; -1: as long as it is there
 * @return 0; EAGAIN: nothing was said in that time; ECANCELED: it has left; ETIMEDOUT: it is lost; ENOMEM
 */
int  avt_world_hear(World *w, int process, void **data, size_t *size, int timeout_ms);
/** How a process is lost, as a sentence; "" while it is not. */
const char *avt_world_why(const World *w, int process);
/** A flag that is set when process 0 is gone: for what can be told to stop. */
const int *avt_world_over(const World *w);

#endif
