/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the ends of a comm between threads share: one lock, one failure, a mailbox for each route.
 * comm_threads.c is made of it; comm_strict.c uses the same for what goes through the host.
 */
#ifndef AVT_THREADS_H
#define AVT_THREADS_H

#include <pthread.h>

#include "comm/comm.h"

typedef enum BoxPlace {
    BOX_HOST,                           // host memory: an end has no device, or one of another class
    BOX_PINNED,                         // host memory that both queues copy from and to: their devices do not reach each other
    BOX_DEVICE,                         // device memory: that of both, or of two devices the sender's, where the receiver's queue comes for it;
                                        // of two processes on either side
    BOX_NONE                            // between two queues of a kind without buffers
} BoxPlace;

typedef struct Letter {                 // a place of a mailbox
    size_t size;                        // bytes of the message in it
    Mark sent, taken;                   // behind the copies into it and out of it, between queues
    int busy;                           // OUT, on a device: NCCL has yet to be told of it, and to mark it
} Letter;

typedef enum BoxWay { WAY_HERE, WAY_OUT, WAY_IN, WAY_ELSEWHERE } BoxWay;     // where its ranks are

typedef struct Box {                    // the mailbox of a route, a ring
    CommRoute route;
    BoxWay way;
    int peer;                           // OUT, IN: the other process
    BoxPlace place;
    int owner;                          // the rank that attaches it
    Tensor tensor;                      // [room, stride] u8 on a device,
    uint8_t *bytes;                     // or the same in the host;
    Backend *pinned;                    // pinned: by this backend, the receiver's
    size_t stride;                      // bytes of a message's place
    Letter *letter;                     // [room]
    pthread_cond_t change;              // a message more, or a place more; or the group has failed
    int first, nb;                      // the oldest message; messages
    int coming;                         // IN, on a device: messages that are announced, behind those that can be received
    int sent, taken;                    // OUT: those that are written; IN: those that are to be said to be taken
} Box;

typedef struct Group {
    pthread_mutex_t lock;               // one for all: messages are few and large
    pthread_cond_t change;              // of anything but a mailbox: whoever waits for one would be woken by every message of the others
    int users, status;
    const Log *log;
    Box *box;                           // [nb_boxes]
    int nb_boxes;
    struct Strict *strict;              // comm_strict.c's own
    struct Link *link;                  // NULL: all ranks are here
    struct Carriers *carriers;          // comm_nccl.h; NULL: nothing goes from card to card between processes
} Group;

typedef struct GroupEnd {               // a Comm
    Comm comm;
    Group *group;
} GroupEnd;

static inline Group *avt_threads_group(Comm *c)
{
    return ((GroupEnd *)c)->group;
}

/** Open the ends with a class of functions, and all mailboxes but those that attach places.
 *  @return 0 or ENOMEM, then all is closed */
int  avt_threads_open(Comm **comm, const CommClass *cls, const CommOptions *opt);
int  avt_threads_attach(Comm *c, Arena *mailboxes);
int  avt_threads_connect(Comm *c);
void avt_threads_detach(Comm *c);
/** A route's mailbox, or NULL. */
Box *avt_threads_box(Comm *c, int src, int dst, CommTag tag);
int  avt_threads_send(Comm *c, int dst, CommTag tag, const CommData *d);
int  avt_threads_recv(Comm *c, int src, CommTag tag, const CommData *d);
void avt_threads_abort(Comm *c, int code);
/** The ranks that live here fail and wake up. @return 1: this is the group's first failure, whose code stays */
int  avt_group_fail(Group *g, int code);
/** Sleep until something changes, or at most until `end` (NULL: however long). Lock held. @return 0 or ETIMEDOUT */
int  avt_threads_wait(Comm *c, pthread_cond_t *change, const struct timespec *end);
/** Wake all who wait, for a mailbox or anything else: status has changed. Lock held. */
void avt_group_wake(Group *g);
int  avt_threads_status(Comm *c);
void avt_threads_close(Comm *c);

/* ---- comm.c, for the classes ---- */

BoxWay avt_comm_box_way(const CommOptions *opt, const CommRoute *r);
/** The device that a route between ranks of one process ends on, or NULL. */
const char *avt_comm_box_end(const CommOptions *opt, const CommRoute *r);
BoxPlace avt_comm_box_place(const CommOptions *opt, const CommRoute *r);
size_t avt_comm_box_stride(const CommRoute *r);
/** The rank of this process in whose device memory the mailbox of a BOX_DEVICE route lies. */
int avt_comm_box_owner(const CommOptions *opt, const CommRoute *r);

/* One file each. */
int  avt_comm_threads_open(Comm **comm, const CommOptions *opt);
int  avt_comm_strict_open(Comm **comm, const CommOptions *opt);

#endif
