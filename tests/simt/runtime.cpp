/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The CUDA runtime's calls about work: launches, streams, events, and how errors are told.
 *
 * Refused as on a device: launches beyond its limits, dynamic shared memory above 48 KiB without cudaFuncSetAttribute, streams of another
 * device than the current one, events likewise. An error of one call is returned by it and told again by cudaGetLastError(); a lost device
 * answers every call with its error. Devices are in devices.cpp, memory and copies in copies.cpp.
 */
#include "calls.h"
#include "simt_ops.h"

using namespace bed;

struct Event {
    int device;
    bool timed;
    std::shared_ptr<Record> last;               // NULL: never recorded
};

static thread_local cudaError_t last_error;
static std::map<const void *, size_t> dynamic_shared;               // what a kernel was allowed by cudaFuncSetAttribute

enum : size_t { SHARED_DEFAULT = 48 << 10 };

cudaError_t bed::failed(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

Stream *bed::usable(cudaStream_t s, const char *what)
{
    Stream *stream = stream_of(s);

    if (stream->device == device_now)
        return stream;
    report("wrong-device", "%s on a stream of device %d while device %d is current", what, stream->device, device_now);
    return NULL;
}

void bed::submit_work(Stream *s, const char *name, std::function<void()> run)
{
    Operation o;

    o.name = name;
    o.run = std::move(run);
    submit(s, std::move(o));
}

extern "C" {

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
    return failed(sticky ? sticky : stream->done >= stream->submitted ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    BEGIN;
    *e = (cudaEvent_t) new Event{ device_now, !(flags & cudaEventDisableTiming), NULL };
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
    return failed(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    BEGIN;
    const Event *const e[2] = { (Event *)from, (Event *)to };

    for (const Event *x : e)
        if (!x->timed || !x->last || x->device != e[0]->device)
            return failed(cudaErrorInvalidResourceHandle);
        else if (!x->last->done)
            return cudaErrorNotReady;
    *ms = (float)(1e-3 * (e[1]->last->time - e[0]->last->time));
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
