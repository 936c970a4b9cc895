/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libcuda.so.1 on the emulated GPU: what FFmpeg's hwcontext_cuda.c, hwdownload and hwupload, and our filter, ask of the driver. FFmpeg finds
 * it under that name (simt.mak), in the file that libavatar and the bed are in, so that both see one device.
 *
 * Stricter than the driver: memory of another context is read by copies alone that say CU_MEMORYTYPE_UNIFIED, the type for which that is
 * documented; the default stream of a context is in no order with the library's queues. A context is asked for, pushed and popped as on a
 * card; what is written here is not the runtime's "current device".
 */
#include <cuda.h>
#include <stdio.h>
#include <string.h>

#include "calls.h"

#undef cuCtxCreate
#undef cuMemAlloc
#undef cuMemFree
#undef cuMemcpy2DAsync
#undef cuDevicePrimaryCtxSetFlags
#undef cuDevicePrimaryCtxRelease
#undef cuCtxPushCurrent

using namespace bed;

enum { TEXTURE_ALIGNMENT = 512 };

struct CUctx_st {
    int device, users;
    bool primary;
    Stream *stream;                             // the default one
    std::map<Address, size_t> memory;           // of no primary context: whatever is not in here is a primary one's
};

static thread_local std::vector<CUcontext> stack;
static std::map<int, CUctx_st> primary;
static std::vector<CUcontext> contexts;         // that are not primary
static bool begun;

static CUcontext context_now()
{
    return stack.empty() ? NULL : stack.back();
}

/* Whose memory an address of a device is; NULL: a primary context's. */
static CUcontext owner_of(Address a)
{
    for (CUcontext c : contexts) {
        const auto i = c->memory.upper_bound(a);

        if (i != c->memory.begin() && a - std::prev(i)->first < std::prev(i)->second)
            return c;
    }
    return NULL;
}

static CUresult answer(cudaError_t e)
{
    return e == cudaSuccess ? CUDA_SUCCESS : e == cudaErrorMemoryAllocation ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_UNKNOWN;
}

/* The call in the current context's device. */
template <class F> static CUresult in_context(F call)
{
    Guard guard(lock);
    const int before = device_now;

    start();
    if (!begun || !context_now()) {
        report("driver", "a call without cuInit() or a current context");
        return begun ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_NOT_INITIALIZED;
    }
    device_now = context_now()->device;
    const CUresult ret = call(guard);
    device_now = before;
    return ret;
}

static Stream *stream_for(CUstream s)
{
    return s ? (Stream *)s : context_now()->stream;
}

extern "C" {

/* ---- devices and contexts -------------------------------------------------------------------------------------------------------------------- */

CUresult cuInit(unsigned)
{
    Guard guard(lock);

    begun = settings.driver != 0;
    return begun ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}

CUresult cuDeviceGetCount(int *n)
{
    *n = settings.devices;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *d, int index)
{
    if (index < 0 || index >= settings.devices)
        return CUDA_ERROR_INVALID_DEVICE;
    *d = index;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int size, CUdevice d)
{
    snprintf(name, (size_t)size, "emulated GPU %d", d);
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute which, CUdevice)
{
    *v = which == CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT ? TEXTURE_ALIGNMENT : 0;
    return *v ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult cuCtxCreate_v2(CUcontext *c, unsigned, CUdevice d)
{
    Guard guard(lock);

    start();
    *c = new CUctx_st{ d, 1, false, stream_open(d), {} };
    contexts.push_back(*c);
    stack.push_back(*c);
    return CUDA_SUCCESS;
}

CUresult cuCtxDestroy_v2(CUcontext c)
{
    Guard guard(lock);

    if (!c->memory.empty())
        report("driver", "a context is destroyed with %zu pieces of its memory in use", c->memory.size());
    stream_close(guard, c->stream);
    for (auto i = contexts.begin(); i != contexts.end(); i = *i == c ? contexts.erase(i) : i + 1)
        ;
    delete c;
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext c)
{
    stack.push_back(c);
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *c)
{
    if (!context_now())
        return CUDA_ERROR_INVALID_CONTEXT;
    *c = context_now();
    stack.pop_back();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *c)
{
    *c = context_now();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *d)
{
    return in_context([=](Guard &) {
        *d = context_now()->device;
        return CUDA_SUCCESS;
    });
}

/* The library has it, when it has opened the device. */
CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned *flags, int *active)
{
    *flags = (unsigned)settings.flags;
    *active = 1;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice, unsigned flags)
{
    return flags == (unsigned)settings.flags ? CUDA_SUCCESS : CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d)
{
    Guard guard(lock);
    CUctx_st *p = &primary[d];

    start();
    if (!p->users++)
        *p = { d, 1, true, stream_open(d), {} };
    *c = p;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice d)
{
    Guard guard(lock);
    CUctx_st *p = &primary[d];

    if (!p->users)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (!--p->users)
        stream_close(guard, p->stream);
    return CUDA_SUCCESS;
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------------------------- */

/* Cleared, where a card leaves what was there: hwdownload takes the padding of the rows along. */
CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t size)
{
    return in_context([=](Guard &) {
        void *at = NULL;
        const cudaError_t e = cudaMalloc(&at, size);

        *p = (CUdeviceptr)at;
        if (e == cudaSuccess) {
            const std::vector<char> zeros(size);

            run_now("cuMemAlloc", device_now, [&] { copy_bytes(at, zeros.data(), size); });
            if (!context_now()->primary)
                context_now()->memory[(Address)at] = size;
        }
        return answer(e);
    });
}

CUresult cuMemFree_v2(CUdeviceptr p)
{
    return in_context([=](Guard &) {
        if (owner_of(p) && owner_of(p) != context_now())
            report("driver", "memory is freed in another context than its own");
        if (!context_now()->primary)
            context_now()->memory.erase(p);
        return answer(cudaFree((void *)p));
    });
}

/* Of either end of a copy: is it of the type that was said, and of a context that may be read? */
static bool is_right(const char *end, CUmemorytype type, Address host, Address at, size_t width, size_t pitch)
{
    const Address a = type == CU_MEMORYTYPE_HOST ? host : at;
    const Allocation *m = on_device(a) ? allocation_at(a) : NULL;
    const CUcontext owner = owner_of(a);

    if (type != CU_MEMORYTYPE_UNIFIED && (type == CU_MEMORYTYPE_DEVICE) != on_device(a))
        report("driver", "cuMemcpy2DAsync: %p, %s, is no memory of type %d", (void *)a, end, type);
    else if (m && m->device != context_now()->device)
        report("other-device", "cuMemcpy2DAsync in a context of device %d: %p, %s, is of device %d", context_now()->device, (void *)a, end, m->device);
    else if (m && type == CU_MEMORYTYPE_DEVICE && owner != (context_now()->primary ? NULL : context_now()))
        report("driver", "cuMemcpy2DAsync: %p, %s, is of another context, and CU_MEMORYTYPE_UNIFIED is not said", (void *)a, end);
    else if (width > pitch)
        report("driver", "cuMemcpy2DAsync: %s has rows of %zu bytes in a pitch of %zu", end, width, pitch);
    else
        return true;
    return false;
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *p, CUstream s)
{
    const CUDA_MEMCPY2D c = *p;

    return in_context([=](Guard &) {
        const char *src = (const char *)(c.srcMemoryType == CU_MEMORYTYPE_HOST ? (Address)c.srcHost : (Address)c.srcDevice);
        char *dst = (char *)(c.dstMemoryType == CU_MEMORYTYPE_HOST ? (Address)c.dstHost : (Address)c.dstDevice);

        if (!is_right("the source", c.srcMemoryType, (Address)c.srcHost, c.srcDevice, c.WidthInBytes, c.srcPitch) ||
            !is_right("the target", c.dstMemoryType, (Address)c.dstHost, c.dstDevice, c.WidthInBytes, c.dstPitch))
            return CUDA_ERROR_INVALID_VALUE;
        submit_work(stream_for(s), "cuMemcpy2DAsync", [=] {
            for (size_t y = 0; y < c.Height; y++)
                copy_bytes(dst + y * c.dstPitch, src + y * c.srcPitch, c.WidthInBytes);
        });
        return answer(sticky);
    });
}

CUresult cuStreamSynchronize(CUstream s)
{
    return in_context([=](Guard &guard) {
        wait_for(guard, stream_for(s), stream_for(s)->submitted);
        return answer(sticky);
    });
}

/* ---- errors ---------------------------------------------------------------------------------------------------------------------------------- */

CUresult cuGetErrorName(CUresult e, const char **text)
{
    *text = e == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult e, const char **text)
{
    return cuGetErrorName(e, text);
}

}
