/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The CUDA runtime's calls that the backend makes.
 *
 * Refused as on a device: launches beyond its limits, dynamic shared memory above 48 KiB without cudaFuncSetAttribute, streams of another
 * device than the current one, events likewise, copies of the wrong kind, double frees. An error of one call is returned by it and told
 * again by cudaGetLastError(); a lost device answers every call with its error.
 */
#include <stdio.h>
#include <string.h>

#include "bed.h"
#include "simt_ops.h"

using namespace bed;

struct Event {
    int device;
    std::shared_ptr<Record> last;               // NULL: never recorded
};

static thread_local cudaError_t last_error;
static std::map<const void *, size_t> dynamic_shared;               // what a kernel was allowed by cudaFuncSetAttribute

enum : size_t { SHARED_DEFAULT = 48 << 10 };

static size_t most_shared()
{
    return (settings.arch == 80 ? 163 : settings.arch == 90 || settings.arch == 100 ? 227 : 99) << 10;
}

static cudaError_t failed(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

#define BEGIN \
    Guard guard(lock); \
    start(); \
    if (sticky) \
        return sticky

/* A stream that work of this thread may go to now, or NULL: refused. */
static Stream *usable(cudaStream_t s, const char *what)
{
    Stream *stream = stream_of(s);

    if (stream->device == device_now)
        return stream;
    report("wrong-device", "%s on a stream of device %d while device %d is current", what, stream->device, device_now);
    return NULL;
}

static void submit_work(Stream *s, const char *name, std::function<void()> run)
{
    Operation o;

    o.name = name;
    o.run = std::move(run);
    submit(s, std::move(o));
}

extern "C" {

/* ---- devices ------------------------------------------------------------------------------------------------------------------------------ */

cudaError_t cudaDriverGetVersion(int *v)
{
    *v = settings.driver;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *v)
{
    *v = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = settings.driver ? settings.devices : 0;
    return failed(!settings.driver || settings.driver < CUDART_VERSION / 1000 * 1000 ? cudaErrorInsufficientDriver : !*n ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaSetDevice(int d)
{
    BEGIN;
    if (d < 0 || d >= settings.devices)
        return failed(cudaErrorInvalidDevice);
    device_now = d;
    return cudaSuccess;
}

cudaError_t cudaInitDevice(int d, unsigned, unsigned)
{
    BEGIN;
    return d < 0 || d >= settings.devices ? failed(cudaErrorInvalidDevice) : cudaSuccess;
}

cudaError_t cudaGetDevice(int *d)
{
    *d = device_now;
    return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned)
{
    BEGIN;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr which, int d)
{
    if (d < 0 || d >= settings.devices)
        return failed(cudaErrorInvalidDevice);
    switch (which) {
    case cudaDevAttrComputeCapabilityMajor:         *v = settings.arch / 10; break;
    case cudaDevAttrComputeCapabilityMinor:         *v = settings.arch % 10; break;
    case cudaDevAttrMultiProcessorCount:            *v = settings.arch == 80 ? 108 : settings.arch == 90 ? 132 : 148; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:   *v = (int)most_shared(); break;
    case cudaDevAttrMaxThreadsPerBlock:             *v = 1024; break;
    case cudaDevAttrWarpSize:                       *v = 32; break;
    case cudaDevAttrL2CacheSize:                    *v = 50 << 20; break;
    case cudaDevAttrUnifiedAddressing:              *v = 1; break;
    default:
        fprintf(stderr, "simt: device attribute %d is not emulated\n", which);
        return failed(cudaErrorNotSupported);
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int d)
{
    if (d < 0 || d >= settings.devices)
        return failed(cudaErrorInvalidDevice);
    memset(p, 0, sizeof(*p));
    snprintf(p->name, sizeof(p->name), "emulated sm_%d", settings.arch);
    p->major = settings.arch / 10;
    p->minor = settings.arch % 10;
    p->totalGlobalMem = settings.memory;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->sharedMemPerBlockOptin = most_shared();
    p->unifiedAddressing = 1;
    return cudaDeviceGetAttribute(&p->multiProcessorCount, cudaDevAttrMultiProcessorCount, d);
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int d)
{
    snprintf(text, (size_t)size, "0000:%02x:00.0", d + 1);
    return d < 0 || d >= settings.devices ? failed(cudaErrorInvalidDevice) : cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int a, int b)
{
    *can = a != b;
    return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned)
{
    BEGIN;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    BEGIN;
    wait_for_all(guard);
    return failed(sticky);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------------------------- */

cudaError_t cudaMemGetInfo(size_t *left, size_t *all)
{
    BEGIN;
    *all = settings.memory;
    *left = settings.memory - memory_in_use(device_now);
    return cudaSuccess;
}

static cudaError_t get_memory(void **p, size_t size, int device)
{
    *p = NULL;
    if (!size)
        return cudaSuccess;
    if (settings.fail_memory >= 0 && !settings.fail_memory--)
        return failed(cudaErrorMemoryAllocation);
    *p = allocate(size, device);
    return *p ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}

cudaError_t cudaMalloc(void **p, size_t size)
{
    BEGIN;
    return get_memory(p, size, device_now);
}

cudaError_t cudaHostAlloc(void **p, size_t size, unsigned)
{
    BEGIN;
    return get_memory(p, size, -1);
}

cudaError_t cudaMallocHost(void **p, size_t size)
{
    return cudaHostAlloc(p, size, 0);
}

/* Waits for the device, as the real ones do. */
static cudaError_t free_memory(void *p, bool pinned)
{
    Guard guard(lock);
    const Allocation *a;

    start();
    if (!p)
        return cudaSuccess;
    wait_for_all(guard);
    a = allocation_at((Address)p);
    if (!a || a->at != (Address)p || (a->device < 0) != pinned || !release(p)) {
        report("bad-free", "%p is no %s memory that is in use", p, pinned ? "pinned" : "device");
        return failed(cudaErrorInvalidValue);
    }
    return failed(sticky);
}

cudaError_t cudaFree(void *p)
{
    return free_memory(p, false);
}

cudaError_t cudaFreeHost(void *p)
{
    return free_memory(p, true);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *out, const void *p)
{
    BEGIN;
    const Allocation *a = allocation_at((Address)p);

    memset(out, 0, sizeof(*out));
    out->type = !a ? cudaMemoryTypeUnregistered : a->device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    out->device = a ? a->device : -1;
    return cudaSuccess;
}

/* ---- copies ------------------------------------------------------------------------------------------------------------------------------- */

static bool is_of_kind(const void *dst, const void *src, cudaMemcpyKind kind)
{
    const bool to_device = on_device((Address)dst), from_device = on_device((Address)src);

    if (kind == cudaMemcpyDefault)
        return true;
    return to_device == (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) &&
           from_device == (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice);
}

static void copy(void *dst, const void *src, size_t size)
{
    const bool from = shadow_range(src, size, false), to = shadow_range(dst, size, true);

    if (from && to)
        memcpy(dst, src, size);
}

/* FNV-1a of a sample */
static uint64_t sum_of(const void *p, size_t size)
{
    const size_t step = size / 4096 + 1;
    uint64_t h = 14695981039346656037u;

    for (size_t i = 0; i < size; i += step)
        h = (h ^ ((const uint8_t *)p)[i]) * 1099511628211u;
    return h;
}

/* What the source was when the copy was submitted it must be when it runs: the host may not write a buffer that is still to be read. */
static std::function<void()> copy_from_pinned(void *dst, const void *src, size_t size)
{
    const uint64_t sum = sum_of(src, size);

    return [=] {
        if (sum_of(src, size) != sum)
            report("pinned-changed", "%s reads %p, which the host has written since the copy was submitted", running.name, src);
        copy(dst, src, size);
    };
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t size, cudaMemcpyKind kind, cudaStream_t s)
{
    BEGIN;
    Stream *stream = usable(s, "cudaMemcpyAsync");
    const bool pageable = !on_device((Address)src) && !in_pinned((Address)src);

    if (!stream)
        return failed(cudaErrorInvalidResourceHandle);
    if (!is_of_kind(dst, src, kind)) {
        report("memcpy-kind", "%p from %p is no copy of kind %d", dst, src, kind);
        return failed(cudaErrorInvalidValue);
    }
    if (pageable) {                                                 // read before the call returns, as by the driver
        auto kept = std::make_shared<std::vector<char>>((const char *)src, (const char *)src + size);

        submit_work(stream, "cudaMemcpyAsync", [=] { copy(dst, kept->data(), size); });
    } else if (in_pinned((Address)src))
        submit_work(stream, "cudaMemcpyAsync", copy_from_pinned(dst, src, size));
    else
        submit_work(stream, "cudaMemcpyAsync", [=] { copy(dst, src, size); });
    if (!on_device((Address)dst) && !in_pinned((Address)dst))       // to pageable memory: returns when it is done
        wait_for(guard, stream, stream->submitted);
    return failed(sticky);
}

cudaError_t cudaMemcpyPeerAsync(void *dst, int to, const void *src, int from, size_t size, cudaStream_t s)
{
    const Allocation *a, *b;
    {
        BEGIN;
        a = allocation_at((Address)dst);
        const int at = a ? a->device : -1;
        b = allocation_at((Address)src);
        if (at != to || !b || b->device != from) {
            report("wrong-device", "cudaMemcpyPeerAsync: %p is not of device %d, or %p not of %d", dst, to, src, from);
            return failed(cudaErrorInvalidValue);
        }
    }
    return cudaMemcpyAsync(dst, src, size, cudaMemcpyDeviceToDevice, s);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t s)
{
    BEGIN;
    Stream *stream = usable(s, "cudaMemcpy2DAsync");

    if (!stream)
        return failed(cudaErrorInvalidResourceHandle);
    if (!is_of_kind(dst, src, kind) || width > dst_pitch || width > src_pitch) {
        report("memcpy-kind", "%p from %p is no copy of kind %d, or wider than its pitch", dst, src, kind);
        return failed(cudaErrorInvalidValue);
    }
    submit_work(stream, "cudaMemcpy2DAsync", [=] {
        for (size_t i = 0; i < height; i++)
            copy((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
    });
    if (!on_device((Address)dst) || !on_device((Address)src))
        wait_for(guard, stream, stream->submitted);
    return failed(sticky);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t size, cudaMemcpyKind kind)
{
    BEGIN;
    if (!is_of_kind(dst, src, kind)) {
        report("memcpy-kind", "%p from %p is no copy of kind %d", dst, src, kind);
        return failed(cudaErrorInvalidValue);
    }
    run_now("cudaMemcpy", device_now, [=] { copy(dst, src, size); });
    return failed(sticky);
}

/* Whole pages of zeros are the kernel's own: clearing gigabytes takes no time. */
static void clear(void *dst, int v, size_t size)
{
    const Address at = (Address)dst, pages = v || at % PAGE ? 0 : size & ~(PAGE - 1);

    if (!shadow_range((void *)(at + pages), size - pages, true))
        return;
    memset((void *)(at + pages), v, size - pages);
    if (pages && shadow_range(dst, PAGE, true) && shadow_range((void *)(at + pages - PAGE), PAGE, true)) {
        clear_pages(at, pages);
        shadow_cleared(at, pages);
    }
}

cudaError_t cudaMemsetAsync(void *dst, int v, size_t size, cudaStream_t s)
{
    BEGIN;
    Stream *stream = usable(s, "cudaMemsetAsync");

    if (!stream)
        return failed(cudaErrorInvalidResourceHandle);
    submit_work(stream, "cudaMemsetAsync", [=] { clear(dst, v, size); });
    return cudaSuccess;
}

/* ---- launches ----------------------------------------------------------------------------------------------------------------------------- */

static bool is_launchable(const char *name, const void *kernel, dim3 g, dim3 b, size_t shared)
{
    const size_t threads = (size_t)b.x * b.y * b.z;
    const auto allowed = dynamic_shared.find(kernel);

    if (!threads || threads > 1024 || b.z > 64 || !g.x || !g.y || !g.z || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535)
        report("launch-config", "%s: a grid of %u x %u x %u blocks of %u x %u x %u", name, g.x, g.y, g.z, b.x, b.y, b.z);
    else if (shared > (allowed == dynamic_shared.end() ? (size_t)SHARED_DEFAULT : allowed->second))
        report("launch-config", "%s: %zu bytes of dynamic shared memory, without cudaFuncSetAttribute", name, shared);
    else
        return true;
    return false;
}

cudaError_t simt_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t s, void (*run)(void *arguments),
                        const void *arguments, size_t size)
{
    BEGIN;
    Stream *stream = usable(s, name);

    if (!stream)
        return failed(cudaErrorInvalidResourceHandle);
    if (!is_launchable(name, kernel, grid, block, shared) || size > ARGUMENTS_SIZE)
        return failed(cudaErrorInvalidConfiguration);
    const Launch l = { name, grid, block, shared, run, std::vector<char>((const char *)arguments, (const char *)arguments + size) };
    submit_work(stream, name, [=] { run_launch(l); });
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute which, int v)
{
    BEGIN;
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (v < 0 || (size_t)v > most_shared())
        return failed(cudaErrorInvalidValue);
    dynamic_shared[kernel] = (size_t)v;
    return cudaSuccess;
}

/* ---- streams and events --------------------------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    BEGIN;
    if (flags != cudaStreamNonBlocking)
        report("default-stream", "a stream that waits for the legacy default stream");
    *s = (cudaStream_t)stream_open(device_now);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    Guard guard(lock);

    stream_close(guard, (Stream *)s);
    return failed(sticky);
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    BEGIN;
    Stream *stream = stream_of(s);

    wait_for(guard, stream, stream->submitted);
    return failed(sticky);
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    BEGIN;
    const Stream *stream = stream_of(s);

    step(settings.schedule == Schedule::RANDOM);
    return sticky ? sticky : stream->done >= stream->submitted ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    BEGIN;
    *e = (cudaEvent_t) new Event{ device_now, NULL };
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    Guard guard(lock);

    delete (Event *)e;
    return failed(sticky);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t s)
{
    BEGIN;
    Event *e = (Event *)event;
    Stream *stream = stream_of(s);
    Operation o;

    if (e->device != stream->device) {
        report("wrong-device", "an event of device %d recorded on a stream of device %d", e->device, stream->device);
        return failed(cudaErrorInvalidResourceHandle);
    }
    e->last = std::make_shared<Record>();
    e->last->on = stream;
    o.name = "cudaEventRecord";
    o.record = e->last;
    submit(stream, std::move(o));
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t event, unsigned)
{
    BEGIN;
    Operation o;

    o.name = "cudaStreamWaitEvent";
    o.wait = ((Event *)event)->last;
    if (!o.wait) {
        report("event-unrecorded", "a stream waits for an event that was never recorded, which is no wait");
        return cudaSuccess;
    }
    submit(stream_of(s), std::move(o));
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    BEGIN;
    const std::shared_ptr<Record> r = ((Event *)event)->last;

    while (r && !r->done)
        wait_for(guard, r->on, r->on->done + 1);
    if (r)
        host_waited_for(r->clock);
    return failed(sticky);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    BEGIN;
    step(settings.schedule == Schedule::RANDOM);
    const std::shared_ptr<Record> &r = ((Event *)event)->last;
    if (sticky || !r || r->done) {
        if (r)
            host_waited_for(r->clock);
        return sticky;
    }
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 1;                                                        // there are no clocks here
    return cudaSuccess;
}

/* ---- errors --------------------------------------------------------------------------------------------------------------------------------- */

cudaError_t cudaGetLastError(void)
{
    const cudaError_t e = last_error;

    last_error = cudaSuccess;
    return sticky ? sticky : e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return sticky ? sticky : last_error;
}

const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:                       return "cudaSuccess";
    case cudaErrorInvalidValue:             return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:         return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:     return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:       return "cudaErrorInsufficientDriver";
    case cudaErrorDevicesUnavailable:       return "cudaErrorDevicesUnavailable";
    case cudaErrorNoDevice:                 return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:            return "cudaErrorInvalidDevice";
    case cudaErrorECCUncorrectable:         return "cudaErrorECCUncorrectable";
    case cudaErrorInvalidResourceHandle:    return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:                 return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:           return "cudaErrorIllegalAddress";
    case cudaErrorNotSupported:             return "cudaErrorNotSupported";
    default:                                return "cudaErrorUnknown";
    }
}

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:                   return "no error";
    case cudaErrorMemoryAllocation:     return "out of memory";
    case cudaErrorDevicesUnavailable:   return "CUDA-capable device(s) is/are busy or unavailable";
    case cudaErrorECCUncorrectable:     return "uncorrectable ECC error encountered";
    case cudaErrorIllegalAddress:       return "an illegal memory access was encountered";
    default:                            return cudaGetErrorName(e);
    }
}

}
