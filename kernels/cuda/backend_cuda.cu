/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The CUDA backend: a Backend is a stream of a device, its memory is cudaMalloc's, an op is a launch or a call of a library.
 *
 *   host thread   op  op  op  mark  op  op  download ......  waits here alone
 *   stream            op  op  op event  op  op  copy
 *
 * The primary context is used, with blocking waits, so that a program that has it already (FFmpeg with primary_ctx=1) shares it. A mark
 * is an event in a ring. Nothing is allocated by an op; without a plan the workspace grows before it runs.
 *
 * Trap: the current device belongs to the thread, and a backend may come from another one each time: enter() first.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda.h"
#include "cuda/plugin.h"
#ifdef AVT_SIMT
#include "control.h"
#define KERNELS_FOR simt_kernels()
#else
#include "config.h"
#define KERNELS_FOR AVT_CUDA_ARCHS      // compute capabilities that the kernels are built for
#endif

#define NEED_DRIVER 13000               // of CUDA 13: R580

static int enter(Backend *be)
{
    return avt_cuda_check(be, cudaSetDevice(avt_cuda(be)->index), "choosing the device");
}

/* ---- devices --------------------------------------------------------------------------------------------------------------- */

static int devices(const Log *log)
{
    int driver = 0, nb = 0;
    cudaError_t e = cudaDriverGetVersion(&driver);

    cudaGetLastError();                                             // what was told is not told again
    if (e != cudaSuccess || !driver)
        return avt_fail(log, AVT_ERR(ENOSYS), "cuda: this machine has no NVIDIA driver; install R580 or newer, or use devices=cpu");
    if (driver < NEED_DRIVER)
        return avt_fail(log, AVT_ERR(ENOSYS), "cuda: the NVIDIA driver knows CUDA up to %d.%d, this build needs %d.%d; install R580 or newer, or use "
                        "devices=cpu", driver / 1000, driver % 1000 / 10, NEED_DRIVER / 1000, NEED_DRIVER % 1000 / 10);
    e = cudaGetDeviceCount(&nb);
    cudaGetLastError();
    if (e != cudaSuccess && e != cudaErrorNoDevice)
        return avt_fail(log, AVT_ERR(ENOSYS), "cuda: the driver does not start (%s); see nvidia-smi, or use devices=cpu", cudaGetErrorString(e));
    return nb;
}

static int attribute(int index, cudaDeviceAttr which)
{
    int v = 0;

    return cudaDeviceGetAttribute(&v, which, index) == cudaSuccess ? v : 0;
}

static int arch_of(int index, const Log *log)
{
    const int nb = devices(log);
    int arch;

    if (nb < 0)
        return nb;
    if (!nb)
        return avt_fail(log, AVT_ERR(ENOSYS), "device cuda%d: the driver sees no GPU on this machine; see nvidia-smi and CUDA_VISIBLE_DEVICES, or use "
                        "devices=cpu", index);
    if (index >= nb)
        return avt_fail(log, AVT_ERR(ENOSYS), "device cuda%d: there is no such device, the last one is cuda%d", index, nb - 1);
    arch = 10 * attribute(index, cudaDevAttrComputeCapabilityMajor) + attribute(index, cudaDevAttrComputeCapabilityMinor);
    if (arch < 80)
        return avt_fail(log, AVT_ERR(ENOSYS), "device cuda%d: the card's compute capability is %d.%d, 8.0 (Ampere) is the least; use another device "
                        "or devices=cpu", index, arch / 10, arch % 10);
    if (!avt_cuda_archs_serve(KERNELS_FOR, arch))
        return avt_fail(log, AVT_ERR(ENOSYS), "device cuda%d: this libavatar_cuda.so has kernels for %s, the card's compute capability is %d.%d; build it "
                        "with ./configure --cuda-archs=%d, or use another device or devices=cpu", index, KERNELS_FOR, arch / 10, arch % 10, arch);
    return arch;
}

/* Make the device current, its context as we want it. */
static cudaError_t start_device(int index)
{
    const cudaError_t e = cudaInitDevice(index, cudaDeviceScheduleBlockingSync, cudaInitDeviceFlagsAreValid);

    if (e == cudaErrorSetOnActiveProcess)                           // somebody's context, with waits of his choice
        cudaGetLastError();
    else if (e != cudaSuccess)
        return e;
    return cudaSetDevice(index);
}

static int64_t memory_left(int index)
{
    size_t left = 0, all = 0;

    if (arch_of(index, NULL) >= 0 && start_device(index) == cudaSuccess && cudaMemGetInfo(&left, &all) == cudaSuccess)
        return (int64_t)left;
    cudaGetLastError();
    return -1;
}

static int reaches(int index, int other)
{
    int can = 0;

    if (cudaDeviceCanAccessPeer(&can, index, other) == cudaSuccess)
        return can;
    cudaGetLastError();
    return 0;
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------- */

static int64_t cuda_memory_left(Backend *be)
{
    return memory_left(avt_cuda(be)->index);
}

static void *device_memory(Backend *be, MemTag tag, size_t size)
{
    void *p = NULL;

    if (enter(be) < 0 || !avt_mem_claim(tag, size))
        return NULL;
    if (cudaMalloc(&p, size) == cudaSuccess)
        return p;
    cudaGetLastError();
    avt_mem_give_back(tag, size);
    return NULL;
}

/* cudaFree() waits for the device: nobody uses the memory any more. */
static void device_free(Backend *be, MemTag tag, void *p, size_t size)
{
    if (!p)
        return;
    cudaSetDevice(avt_cuda(be)->index);
    cudaFree(p);
    avt_mem_give_back(tag, size);
}

static void cuda_free(Backend *be, void *p, size_t size)
{
    device_free(be, MEM_TENSOR, p, size);
}

static void *cuda_alloc(Backend *be, size_t size)
{
    void *p = device_memory(be, MEM_TENSOR, size);

    if (p && avt_cuda_check(be, cudaMemsetAsync(p, 0, size, avt_cuda(be)->stream), "clearing memory") < 0) {
        cuda_free(be, p, size);
        p = NULL;
    }
    return p;
}

static void *cuda_host_alloc(Backend *be, size_t size)
{
    void *p = NULL;

    if (enter(be) < 0 || !avt_mem_claim(MEM_TENSOR, size))
        return NULL;
    if (cudaHostAlloc(&p, size, cudaHostAllocPortable) == cudaSuccess)
        return p;
    cudaGetLastError();
    avt_mem_give_back(MEM_TENSOR, size);
    return NULL;
}

static void cuda_host_free(Backend *be, void *p, size_t size)
{
    cudaSetDevice(avt_cuda(be)->index);
    cudaFreeHost(p);
    avt_mem_give_back(MEM_TENSOR, size);
}

static int64_t cuda_workspace(Backend *be, const OpCall *c)
{
    return avt_cuda_workspace(c, avt_cuda(be)->arch);
}

static int workspace_resize(Backend *be, size_t size)
{
    Cuda *cuda = avt_cuda(be);

    device_free(be, MEM_BACKEND, cuda->workspace, cuda->workspace_size);
    cuda->workspace = size ? device_memory(be, MEM_BACKEND, size) : NULL;
    cuda->workspace_size = cuda->workspace ? size : 0;
    return cuda->workspace || !size ? 0 : AVT_ERR(ENOMEM);
}

static int cuda_workspace_open(Backend *be, size_t size)
{
    const int ret = workspace_resize(be, size);

    avt_cuda(be)->planned = ret >= 0;
    return ret;
}

/* ---- the queue ------------------------------------------------------------------------------------------------------------- */

static int cuda_sync(Backend *be)
{
    return enter(be) < 0 ? be->status : avt_cuda_check(be, cudaStreamSynchronize(avt_cuda(be)->stream), "waiting for the device");
}

static int cuda_download(Backend *be, void *dst, const void *src, size_t size)
{
    int ret = enter(be);

    if (ret >= 0)
        ret = avt_cuda_check(be, cudaMemcpyAsync(dst, src, size, cudaMemcpyDeviceToHost, avt_cuda(be)->stream), "copying to the host");
    return ret < 0 ? ret : cuda_sync(be);
}

static void cuda_fetch(Backend *be, void *dst, const void *src, size_t size)
{
    if (enter(be) >= 0)
        avt_cuda_check(be, cudaMemcpyAsync(dst, src, size, cudaMemcpyHostToDevice, avt_cuda(be)->stream), "fetching from host memory");
}

static void cuda_store(Backend *be, void *dst, const void *src, size_t size)
{
    if (enter(be) >= 0)
        avt_cuda_check(be, cudaMemcpyAsync(dst, src, size, cudaMemcpyDeviceToHost, avt_cuda(be)->stream), "storing to host memory");
}

static uint64_t cuda_mark(Backend *be)
{
    Cuda *cuda = avt_cuda(be);
    const uint64_t at = cuda->nb_marks++;

    if (enter(be) >= 0)
        avt_cuda_check(be, cudaEventRecord(cuda->event[at % CUDA_EVENTS], cuda->stream), "marking the queue");
    return at;
}

static void cuda_wait(Backend *be, Mark m)
{
    if (enter(be) >= 0)
        avt_cuda_check(be, cudaStreamWaitEvent(avt_cuda(be)->stream, avt_cuda(m.be)->event[m.at % CUDA_EVENTS], 0), "waiting for a mark");
}

/* ---- ops ------------------------------------------------------------------------------------------------------------------- */

typedef int (*Op)(Backend *be, const OpCall *c);

/* Without a default: the compiler names an op that is not here. */
static Op op_of(OpId op)
{
    switch (op) {
    case OP_LINEAR: case OP_LINEAR_GROUP:
        return avt_cuda_linear;
    case OP_ATTENTION:
        return avt_cuda_attention;
    case OP_CONV3D:
        return avt_cuda_conv3d;
    case OP_CONV1D:
        return avt_cuda_conv1d;
    case OP_COPY:
        return avt_cuda_copy;
    case OP_FILL:
        return avt_cuda_fill;
    case OP_SQUARES:
        return avt_cuda_squares;
    case OP_NORM_ROPE:
        return avt_cuda_norm_rope;
    case OP_CHANNEL_NORM:
        return avt_cuda_channel_norm;
    case OP_LAYER_NORM:
        return avt_cuda_layer_norm;
    case OP_ROPE_TABLE:
        return avt_cuda_rope_table;
    case OP_ROPE:
        return avt_cuda_rope;
    case OP_ACT: case OP_ADD: case OP_MUL: case OP_AXPY: case OP_GATE_ADD:
        return avt_cuda_elementwise;
    case OP_GATHER: case OP_LERP_ROWS: case OP_LAYER_MIX: case OP_TRANSPOSE:
        return avt_cuda_rows;
    case OP_PATCHIFY: case OP_UNPATCHIFY: case OP_CHANNELS_LAST: case OP_CHANNELS_FIRST: case OP_UPSAMPLE:
        return avt_cuda_layout;
    case OP_PICTURE: case OP_PIXELS:
        return avt_cuda_pixels;
    case OP_COUNT_NONFINITE:
        return avt_cuda_count_nonfinite;
    case OP_QUANTIZE:
        return avt_cuda_quantize;
    case OP_NB:
        break;
    }
    return NULL;
}

/* This queue's device is given access to another one's memory, once. */
static int find_way(Backend *be, const Backend *other)
{
    Cuda *cuda = avt_cuda(be);
    const int index = ((const Cuda *)other->priv)->index;
    cudaError_t e;

    if (index == cuda->index || (index < 64 && cuda->peers >> index & 1))
        return 0;
    if (!reaches(cuda->index, index)) {
        avt_backend_fail(be, AVT_ERR(EINVAL), "copy: %s has no access to the memory of %s; go through host memory", be->device, other->device);
        return be->status;
    }
    e = cudaDeviceEnablePeerAccess(index, 0);
    if (e == cudaErrorPeerAccessAlreadyEnabled) {                   // another queue was here
        cudaGetLastError();
        e = cudaSuccess;
    }
    if (e == cudaSuccess && index < 64)
        cuda->peers |= (uint64_t)1 << index;
    return avt_cuda_check(be, e, "opening the way to another device");
}

/* Between devices, on a queue of either, which has access to the other's memory. */
static int copy_between(Backend *be, const OpCall *c)
{
    const int from = avt_cuda(c->x.be)->index, to = avt_cuda(c->out.be)->index;

    if (find_way(be, c->x.be) < 0 || find_way(be, c->out.be) < 0)
        return be->status;
    if (c->x.dtype != c->out.dtype) {
        avt_backend_fail(be, AVT_ERR(EINVAL), "copy: %s on %s to %s on %s: between devices the type stays", avt_dtype_name(c->x.dtype), c->x.be->device,
                         avt_dtype_name(c->out.dtype), c->out.be->device);
        return be->status;
    }
    return avt_cuda_check(be, cudaMemcpyPeerAsync(c->out.data, to, c->x.data, from, avt_nbytes(c->x), avt_cuda(be)->stream),
                          "copying between devices");
}

int avt_cuda_dnn_open(Backend *be)
{
    Cuda *cuda = avt_cuda(be);
    int ret = cuda->dnn ? 0 : avt_cuda_check_dnn(be, cudnnCreate(&cuda->dnn), "starting cuDNN");

    return ret < 0 ? ret : avt_cuda_check_dnn(be, cudnnSetStream(cuda->dnn, cuda->stream), "giving cuDNN the stream");
}

/* Everything that the call wants is there, or is made. */
static int make_ready(Backend *be, const OpCall *c)
{
    Cuda *cuda = avt_cuda(be);
    const size_t want = (size_t)avt_cuda_workspace(c, cuda->arch);
    int ret = enter(be);

    if (want > be->workspace_peak)
        be->workspace_peak = want;
    if (ret >= 0 && want > cuda->workspace_size)
        ret = cuda->planned ? AVT_ERR(ENOMEM) : workspace_resize(be, want);
    return ret;
}

static int cuda_run(Backend *be, const OpCall *c)
{
    int ret = make_ready(be, c);

    if (ret < 0)
        return ret;
    if (c->op == OP_COPY && strcmp(c->x.be->device, c->out.be->device))
        ret = copy_between(be, c);
    else
        ret = op_of(c->op)(be, c);
    return ret < 0 || !be->profile ? ret : cuda_sync(be);
}

/* ---- open and close -------------------------------------------------------------------------------------------------------- */

static void cuda_close(Backend *be)
{
    Cuda *cuda = avt_cuda(be);

    cudaSetDevice(cuda->index);
    if (cuda->stream)
        cudaStreamSynchronize(cuda->stream);
    avt_cuda_plans_close(&cuda->plans);
    avt_cuda_staging_close(cuda);
    device_free(be, MEM_BACKEND, cuda->workspace, cuda->workspace_size);
    for (int i = 0; i < CUDA_EVENTS; i++)
        if (cuda->event[i])
            cudaEventDestroy(cuda->event[i]);
    if (cuda->dnn)
        cudnnDestroy(cuda->dnn);
    if (cuda->lt)
        cublasLtDestroy(cuda->lt);
    if (cuda->stream)
        cudaStreamDestroy(cuda->stream);
    avt_freep(&be->priv);
}

static int open_queue(Backend *be)
{
    Cuda *cuda = avt_cuda(be);
    int ret = avt_cuda_check(be, start_device(cuda->index), "starting the device");

    cuda->multiprocessors = attribute(cuda->index, cudaDevAttrMultiProcessorCount);
    if (ret >= 0)
        ret = avt_cuda_check(be, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "making a stream");
    for (int i = 0; i < CUDA_EVENTS && ret >= 0; i++)
        ret = avt_cuda_check(be, cudaEventCreateWithFlags(&cuda->event[i], cudaEventDisableTiming), "making an event");
    if (ret >= 0)
        ret = avt_cuda_check_lt(be, cublasLtCreate(&cuda->lt), "starting cuBLASLt");
    return ret < 0 ? ret : avt_cuda_plans_open(be) ? 0 : be->status;
}

static BackendClass make_class(void)
{
    BackendClass c = {};

    c.name = "cuda";
    c.plain_weights = 1;
    c.memory_left = cuda_memory_left;
    c.alloc = cuda_alloc;
    c.free = cuda_free;
    c.upload = avt_cuda_upload;
    c.download = cuda_download;
    c.run = cuda_run;
    c.sync = cuda_sync;
    c.mark = cuda_mark;
    c.wait = cuda_wait;
    c.fetch = cuda_fetch;
    c.store = cuda_store;
    c.host_alloc = cuda_host_alloc;
    c.host_free = cuda_host_free;
    c.workspace = cuda_workspace;
    c.workspace_open = cuda_workspace_open;
    c.weight_bytes = avt_cuda_weight_bytes;
    c.weight_put = avt_cuda_weight_put;
    c.close = cuda_close;
    return c;
}

static const BackendClass cuda_class = make_class();

static int cuda_open(Backend *be)
{
    const int index = atoi(be->device + strlen("cuda")), arch = arch_of(index, be->log);
    Cuda *cuda = arch < 0 ? NULL : (Cuda *)avt_calloc(MEM_BACKEND, 1, sizeof(*cuda));
    int ret;

    if (!cuda)
        return arch < 0 ? arch : AVT_ERR(ENOMEM);
    cuda->index = index;
    cuda->arch = arch;
    be->cls = &cuda_class;
    be->priv = cuda;
    ret = open_queue(be);
    if (ret < 0)
        cuda_close(be);
    return ret;
}

const CudaPlugin *avt_cuda_table(void)
{
    static const CudaPlugin table = { CUDA_ABI, devices, arch_of, memory_left, reaches, avt_cuda_direct_table, cuda_open };

    return &table;
}
