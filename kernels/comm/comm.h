/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Comm: messages between the ranks of a plan. comm_threads.c is the reference: ranks are threads of one process.
 *
 * Every rank walks the same list of work in the same order, so that a receive always meets its send. Sends are buffered (the
 * sender goes on), receives wait. A rank that fails or aborts wakes all others with the error: never a hang. What was
 * sent before can still be received after that, so that finished work is not lost.
 */
#ifndef AVT_COMM_H
#define AVT_COMM_H

#include "kernels.h"

typedef struct Comm Comm;               // one rank's end

typedef struct CommStat {
    int64_t messages, bytes;            // sent by this rank
} CommStat;

/** Make the ends of `nb` ranks: comm[0 .. nb-1]. @return 0 or ENOMEM */
int  avt_comm_threads_open(Comm **comm, int nb, const Log *log);
/** Close every end of a group (all ranks must have stopped using it). */
void avt_comm_threads_close(Comm **comm, int nb);

int avt_comm_rank(const Comm *c);
int avt_comm_size(const Comm *c);
CommStat avt_comm_stat(const Comm *c);
/** Bytes sent from this rank to `dst`. */
int64_t avt_comm_bytes_to(const Comm *c, int dst);

/* What a message is about: messages of one kind between two ranks arrive in order, kinds may overtake each other. */
typedef enum CommTag { TAG_COMMAND, TAG_INPUT, TAG_TOKENS, TAG_LATENTS, TAG_RESULT, TAG_PICTURE, TAG_REFERENCE, TAG_FRAMES } CommTag;

/** Host bytes; copied. @return 0 or ENOMEM */
int avt_comm_send_bytes(Comm *c, int dst, CommTag tag, const void *data, size_t size);
/** Waits for a message of `tag` and exactly `size` bytes from `src`. @return 0, EINVAL for another size, ETIMEDOUT after `timeout_ms`
 *  (< 0: no limit), or the group's failure */
int avt_comm_recv_bytes(Comm *c, int src, CommTag tag, void *data, size_t size, int timeout_ms);

/** A tensor, by way of the backend: no byte of it is touched here. */
int avt_comm_send(Comm *c, Backend *be, int dst, CommTag tag, Tensor t);
int avt_comm_recv(Comm *c, Backend *be, int src, CommTag tag, Tensor t);

/** Fail the whole group: everyone who waits or will wait gets `code` (the first one given). */
void avt_comm_abort(Comm *c, int code);
int  avt_comm_status(const Comm *c);

#endif
