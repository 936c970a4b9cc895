/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guard backend: plain C ops with the manners of a GPU, for tests.
 *
 *   memory   unreadable but for the pages of an op's operands while it runs: who touches a tensor's bytes faults
 *   queue    run() and upload() only write down; sync(), download() and a full list execute: who forgets a sync reads old numbers
 *
 * Page protection belongs to the process, and the tensors of several guard backends (ranks, sessions) share pages, weights
 * above all. One mutex lets only one of them have pages open; otherwise the first to finish would close them under the others.
 */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/cpu.h"

#define MAX_ENTRIES 4096                // the list is executed when it holds as many,
#define MAX_BYTES   (64 << 20)          // or when its uploads hold as much

typedef struct Entry {
    OpCall call;                        // an upload has op == OP_NB
    void *dst;                          // upload: destination,
    size_t at, size;                    // place and length of its copy in `bytes`
} Entry;

typedef struct Guard {
    Backend cpu;                        // holds the table of plain C ops; owns no memory
    Entry *entry;
    char *bytes;
    size_t nb, room, nb_bytes, bytes_room;
} Guard;

static pthread_mutex_t pages_open = PTHREAD_MUTEX_INITIALIZER;

static int protect(const void *p, size_t size, int prot)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)p / page * page;

    if (!p || !size)
        return 0;
    return mprotect((void *)first, (uintptr_t)p + size - first, prot) ? AVT_ERR(errno) : 0;
}

/* A packed weight may take more than its elements: ask the rule that placed it. */
static size_t bytes_of(Guard *g, const OpCall *c, Tensor t)
{
    const WeightUse use = c->op == OP_CONV3D ? WEIGHT_CONV3D : c->op == OP_CONV1D ? WEIGHT_CONV1D : WEIGHT_LINEAR;

    return t.packed ? ((Cpu *)g->cpu.priv)->weight_bytes(&g->cpu, use, t.dtype, t.nd, t.dim) : avt_nbytes(t);
}

static int protect_operands(Guard *g, const OpCall *c, int in, int out)
{
    int ret = 0;

    for (int i = 0; i < 8 && ret >= 0; i++)
        if (c->in[i].be)
            ret = protect(c->in[i].data, bytes_of(g, c, c->in[i]), in);
    return ret < 0 ? ret : protect(c->out.data, avt_nbytes(c->out), out);     // last: it may share pages with the others
}

static int run_op(Guard *g, const OpCall *c)
{
    int ret = protect_operands(g, c, PROT_READ, PROT_READ | PROT_WRITE), closed;

    if (ret >= 0)
        ret = avt_cpu_run(&g->cpu, c);
    closed = protect_operands(g, c, PROT_NONE, PROT_NONE);
    return ret < 0 ? ret : closed;
}

static int copy_in(void *dst, const void *src, size_t size)
{
    const int ret = protect(dst, size, PROT_READ | PROT_WRITE);

    if (ret < 0)
        return ret;
    memcpy(dst, src, size);
    return protect(dst, size, PROT_NONE);
}

/* Execute the list. What follows a failure is dropped, as on a device. */
static int flush(Backend *be)
{
    Guard *g = be->priv;
    int ret = 0;

    pthread_mutex_lock(&pages_open);
    for (size_t i = 0; i < g->nb && ret >= 0; i++) {
        const Entry *e = &g->entry[i];

        if (e->call.op == OP_NB)
            ret = copy_in(e->dst, g->bytes + e->at, e->size);
        else
            ret = run_op(g, &e->call);
        if (ret < 0)
            avt_backend_fail(be, ret, "%s: %s failed late (%d)", be->device,
                             e->call.op == OP_NB ? "upload" : avt_op_name(e->call.op), ret);
    }
    pthread_mutex_unlock(&pages_open);
    g->nb = 0;
    g->nb_bytes = 0;
    return ret;
}

static int append(Backend *be, const Entry *e)
{
    Guard *g = be->priv;

    if (g->nb == g->room) {
        const size_t room = g->room ? 2 * g->room : 64;
        Entry *p = avt_realloc(MEM_BACKEND, g->entry, sizeof(*p) * room);

        if (!p)
            return AVT_ERR(ENOMEM);
        g->entry = p;
        g->room = room;
    }
    g->entry[g->nb++] = *e;
    return g->nb >= MAX_ENTRIES || g->nb_bytes >= MAX_BYTES ? flush(be) : 0;
}

static void *guard_alloc(Backend *be, size_t size)
{
    void *p = avt_pages_alloc(MEM_TENSOR, size);

    (void)be;
    if (p && mprotect(p, size, PROT_NONE)) {
        avt_pages_free(MEM_TENSOR, p, size);
        return NULL;
    }
    return p;
}

static void guard_free(Backend *be, void *p, size_t size)
{
    flush(be);                          // the list may still name this memory
    avt_pages_free(MEM_TENSOR, p, size);
}

static void guard_upload(Backend *be, void *dst, const void *src, size_t size)
{
    Guard *g = be->priv;
    const Entry e = { .call.op = OP_NB, .dst = dst, .at = g->nb_bytes, .size = size };

    if (g->bytes_room - g->nb_bytes < size) {
        const size_t room = 2 * (g->nb_bytes + size);
        char *p = avt_realloc(MEM_BACKEND, g->bytes, room);

        if (!p) {
            avt_backend_fail(be, AVT_ERR(ENOMEM), "%s: no %.1f MB for an upload", be->device, (double)room / 1e6);
            return;
        }
        g->bytes = p;
        g->bytes_room = room;
    }
    memcpy(g->bytes + e.at, src, size);
    g->nb_bytes += size;
    if (append(be, &e) == AVT_ERR(ENOMEM))
        avt_backend_fail(be, AVT_ERR(ENOMEM), "%s: no memory for the list of calls", be->device);
}

static int guard_download(Backend *be, void *dst, const void *src, size_t size)
{
    int ret = flush(be);

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&pages_open);
    ret = protect(src, size, PROT_READ);
    if (ret >= 0) {
        memcpy(dst, src, size);
        ret = protect(src, size, PROT_NONE);
    }
    pthread_mutex_unlock(&pages_open);
    return ret;
}

static int guard_run(Backend *be, const OpCall *c)
{
    return append(be, &(Entry){ .call = *c });
}

static size_t guard_weight_bytes(Backend *be, WeightUse use, DType dtype, int nd, const int64_t *dim)
{
    Guard *g = be->priv;

    return ((Cpu *)g->cpu.priv)->weight_bytes(&g->cpu, use, dtype, nd, dim);
}

static int guard_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    Guard *g = be->priv;
    const size_t size = guard_weight_bytes(be, use, dtype, dst->nd, dst->dim);
    int ret = flush(be), closed;        // earlier calls may still read what was in this place

    if (ret < 0)
        return ret;
    if (!src)                           // planning: nothing is read or written, dst->data may be no memory of ours
        return ((Cpu *)g->cpu.priv)->weight_put(&g->cpu, dst, use, dtype, NULL);
    pthread_mutex_lock(&pages_open);
    ret = protect(dst->data, size, PROT_READ | PROT_WRITE);
    if (ret >= 0)
        ret = ((Cpu *)g->cpu.priv)->weight_put(&g->cpu, dst, use, dtype, src);
    closed = protect(dst->data, size, PROT_NONE);
    pthread_mutex_unlock(&pages_open);
    return ret < 0 ? ret : closed;
}

static void guard_close(Backend *be)
{
    Guard *g = be->priv;

    avt_cpu_table_close(&g->cpu);
    avt_free(g->entry);
    avt_free(g->bytes);
    avt_freep(&be->priv);
}

static const BackendClass guard_class = {
    .name = "guard",
    .alloc = guard_alloc,
    .free = guard_free,
    .upload = guard_upload,
    .download = guard_download,
    .run = guard_run,
    .sync = flush,
    .weight_bytes = guard_weight_bytes,
    .weight_put = guard_weight_put,
    .close = guard_close,
};

int avt_backend_guard_open(Backend *be)
{
    Guard *g = avt_calloc(MEM_BACKEND, 1, sizeof(*g));
    int ret;

    if (!g)
        return AVT_ERR(ENOMEM);
    be->level = CPU_PLAIN;              // bits that do not depend on the machine
    g->cpu.level = be->level;
    g->cpu.threads = be->threads;
    g->cpu.log = be->log;
    memcpy(g->cpu.device, be->device, sizeof(be->device));
    ret = avt_cpu_table_open(&g->cpu);
    if (ret < 0) {
        avt_free(g);
        return ret;
    }
    be->cls = &guard_class;
    be->priv = g;
    return 0;
}
