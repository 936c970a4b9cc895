/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Ways from a GPU of this process to one of another's, or back: NCCL, in libavatar_cuda.so. No CUDA header here.
 *
 *   a way     one direction between two GPUs, with a communicator of its own. NCCL takes the messages between two ranks in their order and
 *             has no buffer, so a way that waits holds up nothing but itself
 *   a queue   a backend for this way alone: it waits for its peer on the device, where what a rank computes must not wait with it
 *
 * No call waits: what NCCL has not done yet is asked for again, until it has, or until the caller has had enough and closes the way. A way
 * takes memory of its device when it opens and at its first message; both must be over before anything else runs on the device that waits
 * for a peer.
 */
#ifndef AVT_CUDA_DIRECT_H
#define AVT_CUDA_DIRECT_H

#include "backend.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CUDA_NAME 128                   // bytes of a way's name

typedef struct CudaWay CudaWay;

typedef struct CudaDirect {
    /** Version of NCCL on this machine, as 22809; 0: it has none that can be used, `why` says why. Before all else. */
    int (*version)(char *why, size_t size);
    /** A number for a card in its host, whatever a process calls it; 0: not known. */
    uint64_t (*card)(int index);
    /** The name of a new way, for both its ends. @return 0 or EIO */
    int (*name)(void *name);
    /** Begin to open an end; it is open when poll() says so. `be` is its queue. @return 0 or an error; *way is to be closed in any case */
    int (*open)(CudaWay **way, Backend *be, int sends, const void *name);
    /** Send or receive `size` bytes of device memory behind what the queue has to do. Not before poll() says 0.
     *  @return 0 or an error */
    int (*move)(CudaWay *way, void *p, size_t size);
    /** @return 0: nothing is on its way; EAGAIN: NCCL has yet to do what it was told, nothing may be given to the queue; EINPROGRESS: it is in
     *  the queue; EIO, ENOMEM: failed */
    int (*poll)(CudaWay *way);
    /** What failed, in NCCL's words. */
    const char *(*why)(const CudaWay *way);
    /** broken: end what is in the queue, without the other end. Otherwise nothing may be on its way. */
    void (*close)(CudaWay **way, int broken);
} CudaDirect;

/** Of the plugin that a device was asked of; NULL: there is none, or it was built without NCCL. */
const CudaDirect *avt_cuda_direct(void);

#ifdef __cplusplus
}
#endif

#endif
