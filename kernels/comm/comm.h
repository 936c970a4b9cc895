/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comm: messages between the ranks of a plan. A table of functions; here is what holds for every
 * kind.
 *
 *   threads   ranks are threads of one process: the reference
 *   strict    the same with the rules of NCCL, for tests: no buffer, in order
 *   dry       for a rehearsal: moves nothing, notes the routes that a rank uses
 *
 * Ranks of one comm may live in several processes (world.h): those of one process meet as threads do, messages between two go through
 * host memory and a socket (link.h), or from card to card (comm_nccl.h).
 *
 * Messages travel on routes, known before the first one: who to whom, about what, how large, how
 * many at once. So all memory of messages is counted in the plan and allocated at open.
 *
 * Between queues of one class of device (cuda0 and cuda1, or twice cpu) a message is two copies and
 * two marks: neither host thread waits for a queue. Devices that do not reach each other's memory copy to
 * and from pinned host memory. A rank without a device (the conductor) sends
 * and receives host bytes, and these, like messages between devices of different classes, go
 * through host memory. What it receives of its own process may stay on a device: CommOptions.receiver.
 *
 * Every rank walks the same list of work in the same order, so that a receive always meets its
 * send. A rank that fails or aborts wakes all others with the error: never a hang. What was sent
 * before can still be received after that, so that finished work is not lost.
 */
#ifndef AVT_COMM_H
#define AVT_COMM_H

#include "kernels.h"

/* What a message is about: messages of one kind between two ranks arrive in order. Kinds may
 * overtake each other between a rank and the host; between two devices nobody relies on it, see
 * avt_comm_expect(). */
typedef enum CommTag {
    TAG_COMMAND, TAG_IMAGE, TAG_TEXT, TAG_SOUND, TAG_PICTURE, TAG_REFERENCE, TAG_TIME, TAG_TOKENS, TAG_LATENTS,
    TAG_RESULT, TAG_FRAMES, TAG_TEAM, TAG_NB
} CommTag;

const char *avt_comm_tag_name(CommTag tag);

typedef struct CommRoute {              // messages of one kind from one rank to another
    int src, dst;
    CommTag tag;
    int room;                           // messages on their way; a send that finds no room waits
    size_t size;                        // bytes of the largest
} CommRoute;

typedef enum CommKind { COMM_THREADS, COMM_STRICT, COMM_NB } CommKind;

typedef struct CommOptions {
    CommKind kind;
    int nb;                             // ranks
    const char *const *device;          // [nb]; NULL: a rank without a device
    const char *receiver;               // device that such a rank receives on, or NULL: it receives host bytes. It sends these in any case
    const CommRoute *route;
    int nb_routes;
    int timeout_ms;                     // strict: longest wait of a send or receive; 0: COMM_TIMEOUT_MS
    const Log *log;
    const int *process;                 // [nb], where each lives, or NULL: all here
    int own;                            // this process
    struct World *world;                // of these processes; NULL: they are one
    uint32_t id;                        // the same in all processes, of no other group of the world
    int direct;                         // tensors go from card to card between processes (comm_nccl.h); the same in all of them
    int timed;                          // ends of ranks with a device count what their calls take
} CommOptions;

#define COMM_TIMEOUT_MS 20000

typedef struct Comm Comm;               // one rank's end

#define COMM_PARTS 12

/* What a message is made of: tensors, which only their backend touches, or host bytes. */
typedef struct CommData {
    Backend *be;                        // NULL: host bytes
    const Tensor *t;                    // [nb], one behind the other in the message
    int nb;                             // up to COMM_PARTS
    void *bytes;                        // read by a send, written by a receive
    size_t size;                        // of all
} CommData;

typedef struct CommClass {
    const char *name;
    int  (*attach)(Comm *c, Arena *mailboxes);                      // these three NULL: there is nothing to do
    int  (*connect)(Comm *c);
    void (*detach)(Comm *c);
    int  (*send)(Comm *c, int dst, CommTag tag, const CommData *d);
    int  (*expect)(Comm *c, int src, CommTag tag, const CommData *d);   // NULL: no send waits for it
    int  (*recv)(Comm *c, int src, CommTag tag, const CommData *d);
    void (*abort)(Comm *c, int code);
    int  (*status)(Comm *c);
    void (*close)(Comm *c);
} CommClass;

struct Comm {                           // the beginning of what a class keeps for an end
    const CommClass *cls;
    int rank, nb;
    int64_t *bytes_to;                  // [nb], sent; read by other threads
    int timed;                          // of this end's calls, for its own thread:
    int64_t waited, moved;              // ns: without the processor, for other ranks, for room, for their lock; at work
    int64_t idle;                       // ns that the processor had it nevertheless while it waited: to go to sleep, to get up
    const Log *log;
};

/** Open the ends of opt->nb ranks: comm[0 .. nb-1], NULL for those that live in other processes. What `opt` points to is copied; `log` must stay.
 *  @return 0; ENOMEM; EINVAL (logged) for a route that a kind cannot carry */
int  avt_comm_open(Comm **comm, const CommOptions *opt);
/** Close every end of a group (all ranks must have stopped using it). */
void avt_comm_close(Comm **comm, int nb);

/** Memory of messages: what avt_comm_attach() takes of a rank's arena, and what the group takes
 *  of this process's host. */
size_t avt_comm_message_bytes(const CommOptions *opt, int rank);
size_t avt_comm_host_bytes(const CommOptions *opt);
/** Place the mailboxes that lie with a rank that has a device; every such rank does so before the first
 *  message. @return 0 or ENOMEM */
int  avt_comm_attach(Comm *c, Arena *mailboxes);
/** Of a group that is `direct`: connect the cards of all processes, which call this at the same time, when every rank has attached its
 *  mailboxes and before the first message. `c`: any end. @return 0 or an error (logged) */
int  avt_comm_connect(Comm *c);
/** Give back what attach took besides the arena, before its backend is closed. All ranks' queues must have been synced. */
void avt_comm_detach(Comm *c);

/** Send a tensor: later work of `be` may write `t` again. Waits while the route has no room.
 *  @return 0; EINVAL (logged) for a message that has no route or is too large; the group's failure */
int avt_comm_send(Comm *c, Backend *be, int dst, CommTag tag, Tensor t);
/** Receive into a tensor: waits for the message, not for its numbers, which later work of `be` finds.
 *  @return 0; EINVAL (logged) for a message of another size; the group's failure */
int avt_comm_recv(Comm *c, Backend *be, int src, CommTag tag, Tensor t);
/** Say that `t` will be received before other messages are: its sender can go on without waiting
 *  for avt_comm_recv(), which follows with the same arguments. Earlier work of `be` may still
 *  use `t`; what is submitted between must not, but where its result is what the sender sends.
 *  Receives of a pair of ranks are expected, or called, in the order of their sends. */
int avt_comm_expect(Comm *c, Backend *be, int src, CommTag tag, Tensor t);

/** The same of one message with `nb` tensors of a type, 1 to COMM_PARTS; as many of the same sizes on either side. */
int avt_comm_send_all(Comm *c, Backend *be, int dst, CommTag tag, const Tensor *t, int nb);
int avt_comm_recv_all(Comm *c, Backend *be, int src, CommTag tag, const Tensor *t, int nb);
int avt_comm_expect_all(Comm *c, Backend *be, int src, CommTag tag, const Tensor *t, int nb);

/** Host bytes, of a rank without a device or to one; a tensor may be at the other end. `data` is
 *  copied. */
int avt_comm_send_bytes(Comm *c, int dst, CommTag tag, const void *data, size_t size);
int avt_comm_recv_bytes(Comm *c, int src, CommTag tag, void *data, size_t size);

/** Bytes sent from this rank to `dst`. */
int64_t avt_comm_bytes_to(const Comm *c, int dst);

/** Fail the whole group: everyone who waits or will wait gets `code` (the first one given). */
void avt_comm_abort(Comm *c, int code);
int  avt_comm_status(Comm *c);

/* ---- comm_dry.c ---- */

/** One rank's end of a group of `nb` that exists only for a rehearsal. */
int avt_comm_dry_open(Comm **comm, int nb, int rank, const Log *log);
/** Routes of all messages sent and received so far, each with its largest size; `room` is the
 *  caller's to fill. Owned by `c`. */
CommRoute *avt_comm_dry_routes(Comm *c, int *nb);

typedef struct CommTraffic {
    double bytes, turns;                // sent; times that a rank sends after it has received: each waits for others
} CommTraffic;

/** What has been sent so far of one kind. */
CommTraffic avt_comm_dry_traffic(const Comm *c, CommTag tag);

#endif
