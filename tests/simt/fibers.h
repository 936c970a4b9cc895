/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads and warps of the block that runs: blocks.cpp, warp.cpp, access.cpp. */
#ifndef AVT_SIMT_FIBERS_H
#define AVT_SIMT_FIBERS_H

#include "bed.h"

struct SimtThread {                             // as simt.h has it
    uint3 tid, bid;
    dim3 bdim, gdim;
};
extern thread_local SimtThread *simt_thread;

namespace bed {

enum { MAX_THREADS = 1024 };
enum { BARRIER_PLAIN = 1, BARRIER_COUNT, BARRIER_AND, BARRIER_OR };

/* Lanes that have come to an operation of their warp, until all of its mask are there. */
struct Gathering {
    uint32_t mask, arrived;
    int kind;
};

struct Warp {
    Gathering gathering[4];
    void *argument[32];                         // of the lanes that have come
    uint32_t epoch;                             // counts what orders the memory of the whole warp
    uint32_t exited;
};

struct Copy {                                   // cp.async that has not landed
    void *dst;
    const void *src;                            // NULL: zeros
    int size;
    uint32_t group;
};

struct Fiber {
    void *stack;
    SimtThread *thread;
    int index, lane;
    Warp *warp;
    int barrier, vote;                          // the barrier at which it waits (0: none) and its vote, then the result
    uint32_t group;                             // of the next asynchronous copy
    std::vector<Copy> copies;
};

struct Block {
    uint32_t serial;
    uint16_t barrier_epoch;
    int nb_threads, nb_live, nb_at_barrier;
    bool failed;
};

void fiber_wait();                              // let others run until woken
void fibers_wake(Fiber *const *list, int nb);
/** The thread ends: what it has copied lands; unwaited copies are told. */
void copies_end(Fiber *f);

}   // namespace bed

#endif
