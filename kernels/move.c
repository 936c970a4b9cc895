/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What of kernels.h is no op: bytes between host and tensors, the queue's marks, weights laid out as a backend's ops want them.
 */
#include <string.h>

#include "kernels.h"
#include "quantize.h"

/* ---- bytes and the queue -------------------------------------------------------------------------------------------- */

void avt_upload(Backend *be, Tensor dst, const void *src)
{
    if (be->status >= 0 && dst.data && avt_nbytes(dst))
        be->cls->upload(be, dst.data, src, avt_nbytes(dst));
}

int avt_download(Backend *be, void *dst, Tensor src)
{
    if (be->status < 0)
        return be->status;
    if (!src.data)
        return AVT_ERR(EINVAL);
    be->queue.stops++;
    if (be->cls->download(be, dst, src.data, avt_nbytes(src)) < 0 && be->status >= 0)
        avt_backend_fail(be, AVT_ERR(EIO), "%s: download failed", be->device);
    return be->status;
}

int avt_sync(Backend *be)
{
    const int ret = be->cls->sync(be);

    be->queue.stops++;
    if (ret < 0 && be->status >= 0)
        be->status = ret;
    return be->status;
}

void avt_reset(Backend *be)
{
    be->cls->sync(be);
    be->status = 0;
}

Mark avt_mark(Backend *be)
{
    be->queue.marks++;
    return be->cls->mark ? (Mark){ be, be->cls->mark(be) } : (Mark){ 0 };
}

void avt_wait(Backend *be, Mark m)
{
    be->queue.waits++;
    if (be->status < 0 || !m.be || m.be == be)
        return;
    if (m.be->cls == be->cls)
        be->cls->wait(be, m);
    else
        avt_backend_fail(be, AVT_ERR(EINVAL), "wait: a queue of %s cannot wait for one of %s", be->device, m.be->device);
}

void avt_fetch(Backend *be, Tensor dst, const void *src)
{
    const size_t size = avt_nbytes(dst);

    if (be->status < 0 || !dst.data || !size)
        return;
    be->queue.fetches++;
    be->queue.fetched += (double)size;
    be->cls->fetch(be, dst.data, src, size);
}

void avt_store(Backend *be, void *dst, Tensor src)
{
    const size_t size = avt_nbytes(src);

    if (be->status < 0 || !src.data || !size)
        return;
    be->queue.stored += (double)size;
    be->cls->store(be, dst, src.data, size);
}

void *avt_host_alloc(Backend *be, size_t size)
{
    return be->cls->host_alloc(be, size);
}

void avt_host_free(Backend *be, void *p, size_t size)
{
    if (p)
        be->cls->host_free(be, p, size);
}

/* ---- weights -------------------------------------------------------------------------------------------------------- */

/* Codes have a scale a row behind them. */
static size_t scale_bytes(DType act, const int64_t *dim)
{
    return avt_is_code(act) ? (size_t)dim[0] * sizeof(float) : 0;
}

/* Only matrices are codes: what lies beside them, and is put for the same, meets activations. */
static DType met(const Backend *be, WeightUse use, DType act)
{
    return use != WEIGHT_LINEAR && avt_is_code(act) ? be->act : act;
}

size_t avt_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    const DType type = met(be, use, act);
    const size_t size = be->cls->weight_bytes(be, use, type, avt_is_code(type) ? type : dtype, nd, dim);

    return size && avt_is_code(type) ? (size + 63) / 64 * 64 + scale_bytes(type, dim) : size;
}

static Tensor place(Arena *a, Tensor t, WeightUse use, DType dtype, const void *src, const float *scale)
{
    Backend *be = t.be;
    const size_t size = be->status < 0 ? 0 : avt_weight_bytes(be, use, t.act, dtype, t.nd, t.dim);
    int ret;

    if (be->status < 0)
        return t;
    if (!size && avt_numel(t)) {
        avt_backend_fail(be, AVT_ERR(ENOMEM), "%s: no memory to lay out a weight", be->device);
        return t;
    }
    t.data = avt_arena_bytes(a, size);
    if (t.data && avt_is_code(t.act))
        t.scale = (char *)t.data + size - scale_bytes(t.act, t.dim);
    if (t.data && scale)
        be->cls->upload(be, t.scale, scale, scale_bytes(t.act, t.dim));
    ret = t.data ? be->cls->weight_put(be, &t, use, dtype, src) : 0;
    if (ret < 0 && be->status >= 0)
        avt_backend_fail(be, ret, "%s: weight cannot be placed", be->device);
    return t;
}

Tensor avt_weight_put_codes(Arena *a, DType type, int64_t N, int64_t K, const void *codes, const float *scale)
{
    const Tensor t = { .be = avt_arena_backend(a), .dtype = type, .nd = 2, .act = type, .packed = 1 + WEIGHT_LINEAR, .dim = { N, K } };

    return place(a, t, WEIGHT_LINEAR, type, codes, scale);
}

/* What is no code yet becomes one on the host. */
static Tensor quantize(Arena *a, DType type, DType dtype, const int64_t *dim, const void *src)
{
    const size_t size = ((size_t)(dim[0] * dim[1]) + 63) / 64 * 64;
    uint8_t *codes = src ? avt_malloc(MEM_BACKEND, size + scale_bytes(type, dim) + 1) : NULL;
    float *scale = (float *)(codes + size);
    const int ret = codes ? avt_quantize_rows(codes, scale, type, dtype, src, dim[0], dim[1]) : src ? AVT_ERR(ENOMEM) : 0;
    Tensor t = AVT_NONE;

    if (ret < 0)
        avt_backend_fail(avt_arena_backend(a), ret, "no %.1f MB to quantise a weight", (double)size / 1e6);
    t = avt_weight_put_codes(a, type, dim[0], dim[1], codes, codes ? scale : NULL);
    avt_free(codes);
    return t;
}

Tensor avt_weight_put(Arena *a, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim, const void *src)
{
    Tensor t = { .be = avt_arena_backend(a), .dtype = dtype, .nd = nd, .packed = use == WEIGHT_PLAIN ? 0 : 1 + (int)use };

    t.act = met(t.be, use, act);
    if (avt_is_code(t.act))
        return quantize(a, act, dtype, dim, src);
    memcpy(t.dim, dim, sizeof(dim[0]) * (size_t)nd);
    return place(a, t, use, dtype, src, NULL);
}

Tensor avt_weight_rows(Tensor w)
{
    if (!w.be || w.packed != 1 + WEIGHT_LINEAR || !w.be->cls->plain_weights)
        return AVT_NONE;
    w.packed = 0;
    return w;
}
