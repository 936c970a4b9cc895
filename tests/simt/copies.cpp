/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The CUDA runtime's calls about memory: allocations, copies, clearing.
 *
 * Refused as on a device: copies of the wrong kind, and those between two devices neither of which was given access to the other; double frees.
 */
#include <string.h>
#include <algorithm>

#include "calls.h"

using namespace bed;

/* Pinned memory that queues write: who wrote and read each range last. */
struct Stored {
    size_t size;
    uint32_t write_op, read_op;                 // 0: nobody
};
static std::map<Address, Stored> &stored = *new std::map<Address, Stored>;

static bool overlap(const std::pair<const Address, Stored> &s, Address at, size_t size)
{
    return s.first < at + size && at < s.first + s.second.size;
}

static bool is_stored(const void *p, size_t size)
{
    for (const auto &s : stored)
        if (overlap(s, (Address)p, size))
            return true;
    return false;
}

/* The running operation reads or writes it. */
static void touch_stored(const void *p, size_t size, bool write)
{
    for (auto &s : stored) {
        if (!overlap(s, (Address)p, size))
            continue;
        if (!write && !s.second.write_op)
            report("uninit-pinned", "%s reads %p, which no queue has written yet", running.name, p);
        if (!is_ordered(s.second.write_op) || (write && !is_ordered(s.second.read_op)))
            report("race-streams", "%s %s pinned %p, with no order after another stream's copy", running.name, write ? "writes" : "reads", p);
        (write ? s.second.write_op : s.second.read_op) = running.id;
    }
}

void bed::copy_bytes(void *dst, const void *src, size_t size)
{
    const bool from = shadow_range(src, size, false), to = shadow_range(dst, size, true);

    if (from && to)
        memcpy(dst, src, size);
}

extern "C" {

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
    for (auto i = stored.begin(); pinned && i != stored.end();)
        i = allocation_at(i->first) ? std::next(i) : stored.erase(i);
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

static int device_of(const void *p)
{
    const Allocation *a = on_device((Address)p) ? allocation_at((Address)p) : NULL;

    return a ? a->device : -1;
}

/* Is a device's memory among what a stream of another one copies? Then as one that has been given access to it, or not at all. */
static bool is_far(const void *p, const Stream *s)
{
    return device_of(p) >= 0 && device_of(p) != s->device;
}

static bool may_copy(const char *what, const void *dst, const void *src, const Stream *s)
{
    for (const void *p : { dst, src })
        if (is_far(p, s) && (!on_device((Address)dst) || !on_device((Address)src) || !reaches(s->device, device_of(p)))) {
            report("other-device", "%s on a stream of device %d, and %p is of device %d, which it was given no access to", what, s->device, p,
                   device_of(p));
            return false;
        }
    return true;
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

    if (is_stored(src, size))                                       // by queues: they are in order, or not
        return [=] {
            touch_stored(src, size, false);
            copy_bytes(dst, src, size);
        };
    return [=] {
        if (sum_of(src, size) != sum)
            report("pinned-changed", "%s reads %p, which the host has written since the copy was submitted", running.name, src);
        copy_bytes(dst, src, size);
    };
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t size, cudaMemcpyKind kind, cudaStream_t s)
{
    BEGIN;
    Stream *stream = usable(s, "cudaMemcpyAsync");
    const bool pageable = !on_device((Address)src) && !in_pinned((Address)src);

    if (!stream)
        return failed(cudaErrorInvalidResourceHandle);
    const bool far = is_far(dst, stream) || is_far(src, stream);
    if (!is_of_kind(dst, src, kind)) {
        report("memcpy-kind", "%p from %p is no copy of kind %d", dst, src, kind);
        return failed(cudaErrorInvalidValue);
    }
    if (!may_copy("cudaMemcpyAsync", dst, src, stream))
        return failed(cudaErrorInvalidValue);
    if (in_pinned((Address)dst))
        stored[(Address)dst].size = std::max(stored[(Address)dst].size, size);
    if (pageable) {                                                 // read before the call returns, as by the driver
        auto kept = std::make_shared<std::vector<char>>((const char *)src, (const char *)src + size);

        submit_work(stream, "cudaMemcpyAsync", [=] { copy_bytes(dst, kept->data(), size); });
    } else if (in_pinned((Address)src))
        submit_work(stream, "cudaMemcpyAsync", copy_from_pinned(dst, src, size));
    else
        submit_work(stream, "cudaMemcpyAsync", [=] {
            running.between = far;
            touch_stored(dst, size, true);
            copy_bytes(dst, src, size);
        });
    if (!on_device((Address)dst) && !in_pinned((Address)dst))       // to pageable memory: returns when it is done
        wait_for(guard, stream, stream->submitted);
    return failed(sticky);
}

/* Without access the driver goes through host memory, and such a copy holds up other streams and the host: nothing here relies on it. */
cudaError_t cudaMemcpyPeerAsync(void *dst, int to, const void *src, int from, size_t size, cudaStream_t s)
{
    BEGIN;
    Stream *stream = usable(s, "cudaMemcpyPeerAsync");

    if (!stream)
        return failed(cudaErrorInvalidResourceHandle);
    if (device_of(dst) != to || device_of(src) != from) {
        report("wrong-device", "cudaMemcpyPeerAsync: %p is not of device %d, or %p not of %d", dst, to, src, from);
        return failed(cudaErrorInvalidValue);
    }
    if (!reaches(stream->device, to) || !reaches(stream->device, from))
        report("peer-by-driver", "cudaMemcpyPeerAsync: device %d was given no access to the other one's memory", stream->device);
    submit_work(stream, "cudaMemcpyPeerAsync", [=] {
        stats.peer_copies++;
        running.between = true;
        copy_bytes(dst, src, size);
    });
    return failed(sticky);
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
    if (is_far(dst, stream) || is_far(src, stream)) {
        report("other-device", "cudaMemcpy2DAsync: %p or %p is of another device", dst, src);
        return failed(cudaErrorInvalidValue);
    }
    submit_work(stream, "cudaMemcpy2DAsync", [=] {
        for (size_t i = 0; i < height; i++)
            copy_bytes((char *)dst + i * dst_pitch, (const char *)src + i * src_pitch, width);
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
    run_now("cudaMemcpy", device_now, [=] { copy_bytes(dst, src, size); });
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

}
