/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NCCL behind direct.h: a communicator of two ranks for each way, the sender is rank 0.
 *
 *   open    ncclCommInitRankConfig, blocking = 0: it returns at once, a thread of NCCL's does the work
 *   move    ncclSend or ncclRecv into the queue, and an event behind it once NCCL says that it has put it there
 *   close   ncclCommFinalize and Destroy, or ncclCommAbort, which ends the kernels that wait for the other end
 *
 * The library is opened at run time, so that the plugin loads without it. Source: NCCL 2.28's nccl.h and its guide, "Fault tolerance" and
 * "Using multiple NCCL communicators concurrently".
 *
 * Trap: kernels of several communicators wait on the device at the same time; they take few blocks each (maxCTAs), so that all of them
 * find room beside one another.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/sum.h"
#include "cuda/cuda.h"
#include "cuda/plugin.h"

#if __has_include(<nccl.h>)
#include <nccl.h>

#define OLDEST 21800                    // ncclCommInitRankConfig, ncclCommFinalize, non-blocking calls that all others know of
#define BLOCKS 4                        // of a kernel; 2 ways to each of 15 others find room on any card
#define FINALIZE_MS 2000

struct CudaWay {
    Backend *be;
    ncclComm_t comm;
    int sends;
    int told;                           // a message, whose event is not recorded yet
    int moving;                         // and now is
    cudaEvent_t done;
    char why[160];
};

/* ---- the library ----------------------------------------------------------------------------------------------------------- */

#define CALLS(_) _(GetVersion) _(GetUniqueId) _(CommInitRankConfig) _(CommGetAsyncError) _(CommFinalize) _(CommDestroy) _(CommAbort) _(Send) \
    _(Recv) _(GetErrorString)

static struct {
    int asked, version;
    char why[160];
#define POINTER(name) decltype(&nccl##name) name;
    CALLS(POINTER)
} nccl;

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;

#ifdef AVT_SIMT
static int find_calls()
{
#define LINKED(name) nccl.name = nccl##name;
    CALLS(LINKED)
    return 1;
}
#else
static int find_calls()
{
    void *lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);

    if (!lib) {
        snprintf(nccl.why, sizeof(nccl.why), "%s", dlerror());
        return 0;
    }
#define FIND(name) \
    *(void **)&nccl.name = dlsym(lib, "nccl" #name); \
    if (!nccl.name) { \
        snprintf(nccl.why, sizeof(nccl.why), "libnccl.so.2 has no nccl" #name); \
        return 0; \
    }
    CALLS(FIND)
    return 1;
}
#endif

static int version(char *why, size_t size)
{
    int v = 0;

    pthread_mutex_lock(&opening);
    if (!nccl.asked && find_calls()) {
        if (nccl.GetVersion(&v) != ncclSuccess)
            snprintf(nccl.why, sizeof(nccl.why), "libnccl.so.2 does not start");
        else if (v < OLDEST)
            snprintf(nccl.why, sizeof(nccl.why), "NCCL %d.%d is too old, 2.18 is the least", v / 10000, v % 10000 / 100);
        else
            nccl.version = v;
    }
    nccl.asked = 1;
    v = nccl.version;
    snprintf(why, size, "%s", nccl.why);
    pthread_mutex_unlock(&opening);
    return v;
}

/* By its place on the bus */
static uint64_t card(int index)
{
    char place[32];

    if (cudaDeviceGetPCIBusId(place, sizeof(place), index) != cudaSuccess)
        return 0;
    return avt_sum(AVT_SUM_BEGIN, place, strlen(place));
}

/* ---- a way ----------------------------------------------------------------------------------------------------------------- */

static int failed(CudaWay *way, const char *what, ncclResult_t r)
{
    if (!*way->why)
        snprintf(way->why, sizeof(way->why), "%s: %s", what, nccl.GetErrorString(r));
    return r == ncclSystemError || r == ncclUnhandledCudaError || r == ncclRemoteError || r == ncclInternalError ? AVT_ERR(EIO) : AVT_ERR(EINVAL);
}

/* What is not done at once is no failure. */
static int begun(CudaWay *way, const char *what, ncclResult_t r)
{
    return r == ncclSuccess || r == ncclInProgress ? 0 : failed(way, what, r);
}

static int way_name(void *name)
{
    static_assert(sizeof(ncclUniqueId) == CUDA_NAME, "the name of a way is NCCL's");
    ncclUniqueId id;

    if (nccl.GetUniqueId(&id) != ncclSuccess)
        return AVT_ERR(EIO);
    memcpy(name, &id, sizeof(id));
    return 0;
}

static int way_open(CudaWay **out, Backend *be, int sends, const void *name)
{
    CudaWay *way = (CudaWay *)avt_calloc(MEM_BACKEND, 1, sizeof(*way));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;
    int ret;

    *out = way;
    if (!way)
        return AVT_ERR(ENOMEM);
    way->be = be;
    way->sends = sends;
    memcpy(&id, name, sizeof(id));
    config.blocking = 0;
    config.maxCTAs = BLOCKS;
    ret = avt_cuda_check(be, cudaSetDevice(avt_cuda(be)->index), "choosing the device");
    if (ret >= 0)
        ret = avt_cuda_check(be, cudaEventCreateWithFlags(&way->done, cudaEventDisableTiming), "making an event");
    return ret < 0 ? ret : begun(way, "connecting", nccl.CommInitRankConfig(&way->comm, 2, id, !sends, &config));
}

static int way_move(CudaWay *way, void *p, size_t size)
{
    const cudaStream_t stream = avt_cuda(way->be)->stream;
    int ret = avt_cuda_check(way->be, cudaSetDevice(avt_cuda(way->be)->index), "choosing the device");

    if (ret >= 0)
        ret = way->sends ? begun(way, "sending", nccl.Send(p, size, ncclInt8, 1, way->comm, stream))
                         : begun(way, "receiving", nccl.Recv(p, size, ncclInt8, 0, way->comm, stream));
    way->told = ret >= 0;
    return ret;
}

/* NCCL has put the message into the queue: an event behind it. */
static int mark_message(CudaWay *way)
{
    way->told = 0;
    way->moving = 1;
    return avt_cuda_check(way->be, cudaEventRecord(way->done, avt_cuda(way->be)->stream), "marking a message");
}

static int way_poll(CudaWay *way)
{
    ncclResult_t state = ncclSuccess;
    int ret = begun(way, "asking", nccl.CommGetAsyncError(way->comm, &state));

    if (ret < 0)
        return ret;
    if (state == ncclInProgress)
        return AVT_ERR(EAGAIN);
    if (state != ncclSuccess)
        return failed(way, "the way is broken", state);
    ret = avt_cuda_check(way->be, cudaSetDevice(avt_cuda(way->be)->index), "choosing the device");
    if (ret >= 0 && way->told)
        ret = mark_message(way);
    if (ret < 0 || !way->moving)
        return ret;
    ret = avt_cuda_is_done(way->be, way->done, "moving a message");
    if (!ret)
        return AVT_ERR(EINPROGRESS);
    way->moving = 0;
    return ret < 0 ? ret : 0;
}

static const char *way_why(const CudaWay *way)
{
    return *way->why ? way->why : "the device has failed";
}

/* Both ends have had all messages: each lets go of the other, in time, or is torn off. */
static void part(CudaWay *way)
{
    const struct timespec moment = { 0, 1000000 };
    ncclResult_t state = nccl.CommFinalize(way->comm);

    for (int ms = 0; state == ncclInProgress && ms < FINALIZE_MS; ms++) {
        nanosleep(&moment, NULL);
        if (nccl.CommGetAsyncError(way->comm, &state) != ncclSuccess)
            state = ncclInternalError;
    }
    if (state == ncclSuccess)
        nccl.CommDestroy(way->comm);
    else
        nccl.CommAbort(way->comm);
}

static void way_close(CudaWay **pway, int broken)
{
    CudaWay *way = *pway;

    if (!way)
        return;
    cudaSetDevice(avt_cuda(way->be)->index);
    if (way->comm && broken)
        nccl.CommAbort(way->comm);
    else if (way->comm)
        part(way);
    if (way->done)
        cudaEventDestroy(way->done);
    avt_freep(pway);
}

const CudaDirect *avt_cuda_direct_table(void)
{
    static const CudaDirect table = { version, card, way_name, way_open, way_move, way_poll, way_why, way_close };

    return &table;
}

#else

const CudaDirect *avt_cuda_direct_table(void)
{
    return NULL;                                                    // built without nccl.h
}

#endif
