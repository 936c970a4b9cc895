/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between a group of ranks and GPUs of other processes: NCCL carries what a route's mailbox has on this side to that on the other.
 *
 *   rank's queue --copy--> outbox --NCCL, a queue of its own--> inbox --copy--> rank's queue
 *   writer's thread: "so many bytes have been sent" ==socket==> reader's thread
 *
 * A direction between two ranks has a carrier on either side: a thread, a queue, a way (cuda/direct.h). Messages are announced over the
 * world's sockets, so each end knows what comes before NCCL is told, and both tell it in the same order; a message is announced when there
 * is a place for it. So whatever ranks wait for, what NCCL waits for is always on its way.
 *
 * NCCL takes device memory when it connects and at the first message; therefore all directions connect and pass a first message before
 * ranks begin: avt_comm_connect(), in all processes at once.
 */
#ifndef AVT_COMM_NCCL_H
#define AVT_COMM_NCCL_H

#include "comm/threads.h"
#include "cuda/direct.h"

/** The carriers of a group, after its boxes; none is fine. @return 0 or ENOMEM */
int  avt_carriers_open(Group *g, const CommOptions *opt);
/** A rank's: a queue each, on its device. @return 0 or an error (logged) */
int  avt_carriers_attach(Group *g, int rank, Backend *be);
/** All of this process. @return 0 or an error (logged) */
int  avt_carriers_connect(Group *g);
void avt_carriers_detach(Group *g, int rank);
void avt_carriers_close(Group *g);

/** A message of `size` bytes lies in place k of box i and has been announced, or is announced for it. Locks must not be held. */
void avt_carriers_take(Group *g, int i, int k, size_t size);
/** The name of a way has come, CUDA_NAME bytes, for the direction that box `i` is the first of. @return 0 or EINVAL */
int  avt_carriers_named(Group *g, int i, const void *name);

#endif
