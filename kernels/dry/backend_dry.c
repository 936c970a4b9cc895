/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dry backend: accepts every op, computes nothing, counts everything. A network's forward run on it is the memory plan.
 *
 * Addresses are numbers above the user's half of the address space: an arena without limit costs nothing, and whoever touches
 * a tensor faults. Weights take the room that the device `plan_for` would give them, asked from that device's own rule, so the
 * plan cannot disagree with the device.
 */
#include <stdatomic.h>
#include <string.h>

#include "dry/dry.h"
#include "kernels.h"

#define FIRST_ADDRESS ((uintptr_t)1 << 48)
#define LAST_ADDRESS  (UINTPTR_MAX >> 1)        // differences of two addresses fit in a ptrdiff_t

typedef struct Dry {
    Backend *target;                    // plan_for, opened for planning
    DryCall *call;
    int64_t nb, room;
    int listed;                         // somebody wants the list
    int32_t *slot;                      // hash table over `call`: index + 1, 0 is free; twice `room` entries, a power of two
} Dry;

/* Several dry backends may be one device, whose tensors the door compares: no address is given twice in the process. */
static _Atomic uintptr_t next_address = FIRST_ADDRESS;

static void *dry_alloc(Backend *be, size_t size)
{
    const size_t step = (size + 4095) / 4096 * 4096;
    uintptr_t p = atomic_load(&next_address);

    (void)be;
    do
        if (step < size || step > LAST_ADDRESS - p)
            return NULL;
    while (!atomic_compare_exchange_weak(&next_address, &p, p + step));
    return (void *)p;
}

/* What was given last is taken back, so that opening and closing arenas for years does not use the addresses up. */
static void dry_free(Backend *be, void *p, size_t size)
{
    uintptr_t end = (uintptr_t)p + (size + 4095) / 4096 * 4096;

    (void)be;
    atomic_compare_exchange_strong(&next_address, &end, (uintptr_t)p);
}

static void dry_upload(Backend *be, void *dst, const void *src, size_t size)
{
    (void)be, (void)dst, (void)src, (void)size;
}

/* Zeros, so that what a caller does with the numbers is the same each time. */
static int dry_download(Backend *be, void *dst, const void *src, size_t size)
{
    (void)be, (void)src;
    memset(dst, 0, size);
    return 0;
}

static void dry_store(Backend *be, void *dst, const void *src, size_t size)
{
    dry_download(be, dst, src, size);
}

static int dry_sync(Backend *be)
{
    return be->status;
}

static int same_form(Tensor a, Tensor b)
{
    return !a.be == !b.be && (!a.be || (a.dtype == b.dtype && a.packed == b.packed && avt_same_shape(a, b)));
}

static int same_call(const OpCall *a, const OpCall *b)
{
    if (a->op != b->op || !same_form(a->out, b->out))
        return 0;
    for (int i = 0; i < OP_MAX_IN; i++)
        if (!same_form(a->in[i], b->in[i]))
            return 0;
    for (int i = 0; i < OP_MAX_OUT - 1; i++)
        if (!same_form(a->more[i], b->more[i]))
            return 0;
    return 1;
}

static uint64_t hash_form(uint64_t h, Tensor t)
{
    h = (h ^ (uint64_t)(t.be ? 1 + t.dtype : 0)) * 0x9e3779b97f4a7c15u;
    for (int i = 0; t.be && i < t.nd; i++)
        h = ((h ^ h >> 29) + (uint64_t)t.dim[i]) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}

static uint64_t hash_call(const OpCall *c)
{
    uint64_t h = hash_form((uint64_t)c->op, c->out);

    for (int i = 0; i < OP_MAX_IN; i++)
        h = hash_form(h, c->in[i]);
    return h;
}

static int32_t *find(const Dry *d, const OpCall *c)
{
    const uint64_t mask = 2 * (uint64_t)d->room - 1;
    uint64_t i = hash_call(c) & mask;

    while (d->slot[i] && !same_call(&d->call[d->slot[i] - 1].first, c))
        i = (i + 1) & mask;
    return &d->slot[i];
}

static int grow(Dry *d)
{
    const int64_t room = d->room ? 2 * d->room : 64;
    int32_t *slot = avt_calloc(MEM_BACKEND, 2 * (size_t)room, sizeof(*slot));
    DryCall *call = slot ? avt_realloc(MEM_BACKEND, d->call, sizeof(*call) * (size_t)room) : NULL;

    if (!call) {
        avt_free(slot);
        return AVT_ERR(ENOMEM);
    }
    avt_free(d->slot);
    d->call = call;
    d->slot = slot;
    d->room = room;
    for (int64_t i = 0; i < d->nb; i++)
        *find(d, &call[i].first) = (int32_t)i + 1;
    return 0;
}

static int list_call(Dry *d, const OpCall *c)
{
    double flops, bytes;
    int32_t *slot;
    DryCall *call;

    if (d->nb == d->room && grow(d) < 0)
        return AVT_ERR(ENOMEM);
    slot = find(d, c);
    if (!*slot) {
        d->call[d->nb] = (DryCall){ .first = *c };
        *slot = (int32_t)++d->nb;
    }
    avt_op_cost(c, &flops, &bytes);
    call = &d->call[*slot - 1];
    call->calls++;
    call->flops += flops;
    call->bytes += bytes;
    return 0;
}

static int dry_run(Backend *be, const OpCall *c)
{
    Dry *d = be->priv;
    const int64_t workspace = d->target->cls->workspace(d->target, c);

    if (workspace < 0)
        return (int)workspace;
    if ((size_t)workspace > be->workspace_peak)
        be->workspace_peak = (size_t)workspace;
    return d->listed ? list_call(d, c) : 0;
}

void avt_dry_list(Backend *be)
{
    Dry *d = be->priv;

    d->listed = 1;
    d->nb = 0;
    if (d->slot)
        memset(d->slot, 0, 2 * (size_t)d->room * sizeof(*d->slot));
}

const DryCall *avt_dry_calls(const Backend *be, int64_t *nb)
{
    const Dry *d = be->priv;

    *nb = d->nb;
    return d->call;
}

static int64_t dry_workspace(Backend *be, const OpCall *c)
{
    const Dry *d = be->priv;

    return d->target->cls->workspace(d->target, c);
}

static int64_t dry_memory_left(Backend *be)
{
    const Dry *d = be->priv;

    return d->target->cls->memory_left(d->target);
}

static int dry_workspace_open(Backend *be, size_t size)
{
    (void)be, (void)size;
    return 0;
}

static size_t dry_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    const Dry *d = be->priv;

    return d->target->cls->weight_bytes(d->target, use, act, dtype, nd, dim);
}

static int dry_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const Dry *d = be->priv;

    (void)src;
    return d->target->cls->weight_put(d->target, dst, use, dtype, NULL);
}

static void dry_close(Backend *be)
{
    Dry *d = be->priv;

    avt_backend_close(&d->target);
    avt_free(d->call);
    avt_free(d->slot);
    avt_freep(&be->priv);
}

static const BackendClass dry_class = {
    .name = "dry",
    .alloc = dry_alloc,
    .free = dry_free,
    .upload = dry_upload,
    .download = dry_download,
    .run = dry_run,
    .sync = dry_sync,
    .fetch = dry_upload,
    .store = dry_store,
    .host_alloc = dry_alloc,
    .host_free = dry_free,
    .memory_left = dry_memory_left,
    .workspace = dry_workspace,
    .workspace_open = dry_workspace_open,
    .weight_bytes = dry_weight_bytes,
    .weight_put = dry_weight_put,
    .close = dry_close,
};

int avt_backend_dry_open(Backend *be)
{
    const BackendOptions opt = { .threads = be->threads, .level = be->level, .act = be->act, .product = be->product, .log = be->log, .planning = 1 };
    Dry *d = avt_calloc(MEM_BACKEND, 1, sizeof(*d));
    int ret;

    if (!d)
        return AVT_ERR(ENOMEM);
    be->cls = &dry_class;
    be->priv = d;
    ret = avt_backend_open(&d->target, be->plan_for, &opt);
    if (ret < 0) {
        dry_close(be);
        return ret;
    }
    be->level = d->target->level;
    return 0;
}
