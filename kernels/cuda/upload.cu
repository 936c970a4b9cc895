/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From the host to the device: a ring of pinned chunks, filled by the host, emptied by the queue.
 *
 *   src --host, converted or as it is--> chunk --cudaMemcpyAsync--> dst
 *
 * What is small shares a chunk; a chunk is used again when the copies out of it are done, so the host waits only when it is
 * CUDA_CHUNKS chunks ahead of the queue. A copy of 2 MiB takes the link as fully as a larger one. Trap: an ordinary copy from memory that is
 * not pinned would wait for all work before it.
 */
#include <string.h>

#include "cuda/cuda.h"
#include "base/half.h"

typedef struct Chunk {
    char *bytes;
    cudaEvent_t done;                   // copies out of it
    int used;                           // `done` was recorded
} Chunk;

struct CudaStaging {
    char *mem;
    Chunk chunk[CUDA_CHUNKS];
    int at;                             // chunk that is being filled,
    size_t full;                        // up to here
};

void avt_cuda_staging_close(Cuda *cuda)
{
    CudaStaging *s = cuda->staging;

    if (!s)
        return;
    for (int i = 0; i < CUDA_CHUNKS; i++)
        if (s->chunk[i].done)
            cudaEventDestroy(s->chunk[i].done);
    if (s->mem)
        cudaFreeHost(s->mem);
    avt_mem_give_back(MEM_BACKEND, CUDA_STAGING);
    avt_freep(&cuda->staging);
}

static int staging_open(Backend *be)
{
    Cuda *cuda = avt_cuda(be);
    CudaStaging *s = (CudaStaging *)avt_calloc(MEM_BACKEND, 1, sizeof(*s));
    int ret = 0;

    if (!s || !avt_mem_claim(MEM_BACKEND, CUDA_STAGING)) {
        avt_free(s);
        avt_backend_fail(be, AVT_ERR(ENOMEM), "%s: no %.1f MB of host memory for what goes to the device", be->device, (double)CUDA_STAGING / 1e6);
        return AVT_ERR(ENOMEM);
    }
    cuda->staging = s;
    ret = avt_cuda_check(be, cudaHostAlloc((void **)&s->mem, CUDA_STAGING, cudaHostAllocPortable), "pinning host memory");
    for (int i = 0; i < CUDA_CHUNKS && ret >= 0; i++) {
        s->chunk[i].bytes = s->mem + (size_t)i * CUDA_CHUNK;
        ret = avt_cuda_check(be, cudaEventCreateWithFlags(&s->chunk[i].done, cudaEventDisableTiming | cudaEventBlockingSync), "making an event");
    }
    if (ret < 0)
        avt_cuda_staging_close(cuda);
    return ret;
}

/* The next chunk is to be filled, from its beginning. */
static int next_chunk(Backend *be)
{
    Cuda *cuda = avt_cuda(be);
    CudaStaging *s = cuda->staging;
    Chunk *left = &s->chunk[s->at], *c = &s->chunk[(s->at + 1) % CUDA_CHUNKS];
    int ret = avt_cuda_check(be, cudaEventRecord(left->done, cuda->stream), "marking an upload");

    if (ret < 0)
        return ret;
    left->used = 1;
    s->at = (s->at + 1) % CUDA_CHUNKS;
    s->full = 0;
    ret = c->used ? avt_cuda_is_done(be, c->done, "waiting for an upload") : 1;
    if (ret)
        return ret < 0 ? ret : 0;
    be->queue.stops++;
    return avt_cuda_check(be, cudaEventSynchronize(c->done), "waiting for an upload");
}

/* Room for 1 to `most` units of `unit` bytes, 16-byte aligned; *nb gets how many. NULL after a failure. */
static void *room_for(Backend *be, size_t unit, int64_t most, int64_t *nb)
{
    CudaStaging *s;

    if (cudaSetDevice(avt_cuda(be)->index) != cudaSuccess || (!avt_cuda(be)->staging && staging_open(be) < 0))
        return NULL;
    s = avt_cuda(be)->staging;
    s->full = (s->full + 15) / 16 * 16;
    if ((s->full + unit * (size_t)most > CUDA_CHUNK && s->full > CUDA_CHUNK / 2) || s->full + unit > CUDA_CHUNK)
        if (next_chunk(be) < 0)
            return NULL;
    *nb = (int64_t)((CUDA_CHUNK - s->full) / unit);
    *nb = *nb < most ? *nb : most;
    return s->chunk[s->at].bytes + s->full;
}

/* What was put into the room goes to `dst`. */
static int send(Backend *be, void *dst, const void *room, size_t size)
{
    Cuda *cuda = avt_cuda(be);

    cuda->staging->full += size;
    return avt_cuda_check(be, cudaMemcpyAsync(dst, room, size, cudaMemcpyHostToDevice, cuda->stream), "copying to the device");
}

void avt_cuda_upload(Backend *be, void *dst, const void *src, size_t size)
{
    for (int64_t done = 0, nb; done < (int64_t)size; done += nb) {
        void *room = room_for(be, 1, (int64_t)size - done, &nb);

        if (!room)
            return;
        memcpy(room, (const char *)src + done, (size_t)nb);
        if (send(be, (char *)dst + done, room, (size_t)nb) < 0)
            return;
    }
}

/* ---- weights --------------------------------------------------------------------------------------------------------------- */

static float value_at(DType dtype, const void *src, int64_t i)
{
    float f;
    double d;
    uint16_t h;

    switch (dtype) {
    case DT_F32:
        memcpy(&f, (const char *)src + 4 * i, 4);
        return f;
    case DT_F64:
        memcpy(&d, (const char *)src + 8 * i, 8);
        return (float)d;
    case DT_BF16: case DT_F16:
        memcpy(&h, (const char *)src + 2 * i, 2);
        return dtype == DT_BF16 ? avt_bf16_f32(h) : avt_f16_f32(h);
    case DT_F8_E4M3:
        return avt_e4m3_f32(((const uint8_t *)src)[i]);
    default:
        return avt_e5m2_f32(((const uint8_t *)src)[i]);
    }
}

static void put_value(DType dtype, void *dst, int64_t i, float f)
{
    if (dtype == DT_BF16)
        ((uint16_t *)dst)[i] = avt_f32_bf16(f);
    else
        ((float *)dst)[i] = f;
}

typedef struct Order {                  // element i of the device's form is element at(i) of the file's
    int64_t cin, taps;                  // [.., cin, taps] -> [.., taps, cin]; both 1: as it is
} Order;

static Order order_of(WeightUse use, const Tensor *t)
{
    if (use == WEIGHT_CONV3D)
        return (Order){ t->dim[1], t->dim[2] * t->dim[3] * t->dim[4] };
    return use == WEIGHT_CONV1D ? (Order){ t->dim[1], t->dim[2] } : (Order){ 1, 1 };
}

/* Elements first .. first + nb - 1 of the device's form. */
static void fill_room(void *room, DType to, DType from, const void *src, Order o, int64_t first, int64_t nb)
{
    const int64_t one = o.cin * o.taps;
    const size_t size = avt_dtype_size(to);

    if (to == from && one == 1)
        memcpy(room, (const char *)src + (size_t)first * size, (size_t)nb * size);
    else if (one == 1)
        for (int64_t i = 0; i < nb; i++)
            put_value(to, room, i, value_at(from, src, first + i));
    else
        for (int64_t i = 0; i < nb; i++) {
            const int64_t filter = (first + i) / one, in = (first + i) % one;

            put_value(to, room, i, value_at(from, src, filter * one + in % o.cin * o.taps + in / o.cin));
        }
}

int avt_cuda_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const Order o = order_of(use, dst);
    const int64_t all = avt_numel(*dst);
    size_t size;
    int ret = 0;

    dst->dtype = avt_cuda_weight_dtype(use, dst->act, dtype);
    size = avt_dtype_size(dst->dtype);
    for (int64_t done = 0, nb; src && done < all && ret >= 0; done += nb) {
        void *room = room_for(be, size, all - done, &nb);

        if (!room)
            return be->status < 0 ? be->status : AVT_ERR(EIO);
        fill_room(room, dst->dtype, dtype, src, o, done, nb);
        ret = send(be, (char *)dst->data + (size_t)done * size, room, (size_t)nb * size);
    }
    return ret;
}
