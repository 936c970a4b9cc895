/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guard backend: plain C ops with the manners of a GPU, for tests.
 *
 *   memory   unreadable but for the pages of an op's operands while it runs: who touches a tensor's
 *            bytes faults
 *   queue    a call is only written down; sync(), download(), a full list, or a queue that waits for
 *            a mark execute it: who forgets a sync reads old numbers
 *   queues   what no mark orders runs in the wrong order. A queue that nobody asks is the late one: a
 *            reader without a wait is before its writer. One that is asked for a mark runs every
 *            second time to the mark alone, and every other time ahead, as far as its own waits allow:
 *            a writer without a wait is before its reader.
 *
 * Page protection belongs to the process, the tensors of several guard backends (ranks, sessions)
 * share pages, weights above all, and a queue executes others: one lock for all lists and all open
 * pages. A queue that was executed by another's thread keeps its failure until its own thread
 * comes.
 */
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cpu/cpu.h"

#define MAX_ENTRIES 4096                // the list is executed when it holds as many,
#define MAX_BYTES   (64 << 20)          // or when its uploads hold as much

typedef enum EntryKind { ENTRY_OP, ENTRY_UPLOAD, ENTRY_FETCH, ENTRY_STORE, ENTRY_WAIT } EntryKind;

typedef struct Entry {
    EntryKind kind;
    OpCall call;                        // op
    Mark mark;                          // wait
    void *dst;                          // upload, fetch, store: destination, length,
    size_t size;
    size_t at;                          // upload: place of its copy in `bytes`
    const void *src;                    // fetch, store: where it will be read
} Entry;

typedef struct Guard {
    Backend cpu;                        // holds the table of plain C ops; owns no memory
    Entry *entry;                       // [room]; `next` to `nb` are still to be executed
    char *bytes;
    size_t next, nb, room, nb_bytes, bytes_room;
    uint64_t done;                      // entries executed; a mark is `done` plus those that wait
    unsigned asked;                     // how often another queue asked for a mark
    int failed;                         // of an entry, not yet told to the door
    const char *what;
} Guard;

static pthread_mutex_t queues = PTHREAD_MUTEX_INITIALIZER;

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
    const WeightUse use = c->op == OP_CONV3D   ? WEIGHT_CONV3D
                          : c->op == OP_CONV1D ? WEIGHT_CONV1D
                                               : WEIGHT_LINEAR;

    return t.packed ? avt_cpu_weight_bytes(&g->cpu, use, t.act, t.dtype, t.nd, t.dim) : avt_nbytes(t);
}

/* A tensor with its scales, which may lie on pages of their own */
static int protect_tensor(Guard *g, const OpCall *c, Tensor t, int prot)
{
    const int ret = t.be && t.scale ? protect(t.scale, (size_t)avt_rows_of(t) * sizeof(float), prot) : 0;

    return ret < 0 || !t.be ? ret : protect(t.data, bytes_of(g, c, t), prot);
}

static int protect_operands(Guard *g, const OpCall *c, int in, int out)
{
    int ret = 0;

    for (int i = 0; i < OP_MAX_IN && ret >= 0; i++)
        ret = protect_tensor(g, c, c->in[i], in);
    // last: they may share pages with the others
    for (int i = 0; i < OP_MAX_OUT - 1 && ret >= 0; i++)
        ret = protect_tensor(g, c, c->more[i], out);
    return ret < 0 ? ret : protect_tensor(g, c, c->out, out);
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

static int copy_out(void *dst, const void *src, size_t size)
{
    const int ret = protect(src, size, PROT_READ);

    if (ret < 0)
        return ret;
    memcpy(dst, src, size);
    return protect(src, size, PROT_NONE);
}

static int run_entry(Guard *g, const Entry *e)
{
    switch (e->kind) {
    case ENTRY_UPLOAD:
        return copy_in(e->dst, g->bytes + e->at, e->size);
    case ENTRY_FETCH:
        return copy_in(e->dst, e->src, e->size);
    case ENTRY_STORE:
        return copy_out(e->dst, e->src, e->size);
    case ENTRY_WAIT:
        return 0;
    default:
        return run_op(g, &e->call);
    }
}

/* What follows a failure is dropped, as on a device; it counts as executed. */
static void drop_rest(Guard *g)
{
    g->done += g->nb - g->next;
    g->next = g->nb;
}

/* Execute the list until `at`, and then on if `ahead`, up to a wait that is not passed. Before
 * it is passed all queues that must come first are executed; marks always point to calls that
 * were made earlier, so that never comes back to this one. Lock held. */
static void execute(Guard *g, uint64_t at, int ahead)
{
    while (g->next < g->nb && (g->done < at || ahead)) {
        const Entry *e = &g->entry[g->next];
        Guard *other = e->kind == ENTRY_WAIT ? e->mark.be->priv : NULL;
        int ret;

        if (other && other->done < e->mark.at) {
            if (g->done >= at)
                break;
            execute(other, e->mark.at, other->asked++ % 2 == 0);
        }
        ret = run_entry(g, e);
        g->next++;
        g->done++;
        if (ret < 0) {
            g->failed = ret;
            g->what = e->kind == ENTRY_OP ? avt_op_name(e->call.op) : "upload";
            drop_rest(g);
        }
    }
    if (g->next == g->nb)
        g->next = g->nb = g->nb_bytes = 0;
}

/* Give the lock back and tell the door what has failed, and what was wanted, on the queue's own thread. */
static int unlock(Backend *be)
{
    Guard *g = be->priv;
    const int failed = g->failed;
    const char *what = g->what;

    g->failed = 0;
    be->workspace_peak = g->cpu.workspace_peak;
    pthread_mutex_unlock(&queues);
    if (failed < 0)
        avt_backend_fail(be, failed, "%s: %s failed late (%d)", be->device, what, failed);
    return failed;
}

static int flush(Backend *be)
{
    pthread_mutex_lock(&queues);
    execute(be->priv, UINT64_MAX, 0);
    return unlock(be);
}

static int has_room(Guard *g, size_t size)
{
    if (g->nb == g->room) {
        const size_t room = g->room ? 2 * g->room : 64;
        Entry *p = avt_realloc(MEM_BACKEND, g->entry, sizeof(*p) * room);

        if (!p)
            return 0;
        g->entry = p;
        g->room = room;
    }
    if (g->bytes_room - g->nb_bytes < size) {
        const size_t room = 2 * (g->nb_bytes + size);
        char *p = avt_realloc(MEM_BACKEND, g->bytes, room);

        if (!p)
            return 0;
        g->bytes = p;
        g->bytes_room = room;
    }
    return 1;
}

/* Write a call down, with a copy of `size` bytes that an upload brings. 0, or what an earlier
 * call failed with. */
static int append(Backend *be, Entry e, const void *bytes, size_t size)
{
    Guard *g = be->priv;

    pthread_mutex_lock(&queues);
    if (!g->failed && has_room(g, size)) {
        e.at = g->nb_bytes;
        if (size)
            memcpy(g->bytes + e.at, bytes, size);
        g->nb_bytes += size;
        g->entry[g->nb++] = e;
        if (g->nb >= MAX_ENTRIES || g->nb_bytes >= MAX_BYTES)
            execute(g, UINT64_MAX, 0);
    } else if (!g->failed) {
        g->failed = AVT_ERR(ENOMEM);
        g->what = "the list of calls";
    }
    return unlock(be);
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
    append(be, (Entry){ .kind = ENTRY_UPLOAD, .dst = dst, .size = size }, src, size);
}

static void guard_fetch(Backend *be, void *dst, const void *src, size_t size)
{
    append(be, (Entry){ .kind = ENTRY_FETCH, .dst = dst, .size = size, .src = src }, NULL, 0);
}

static void guard_store(Backend *be, void *dst, const void *src, size_t size)
{
    append(be, (Entry){ .kind = ENTRY_STORE, .dst = dst, .size = size, .src = src }, NULL, 0);
}

static int guard_run(Backend *be, const OpCall *c)
{
    return append(be, (Entry){ .kind = ENTRY_OP, .call = *c }, NULL, 0);
}

static uint64_t guard_mark(Backend *be)
{
    const Guard *g = be->priv;
    uint64_t at;

    pthread_mutex_lock(&queues);
    at = g->done + (g->nb - g->next);
    pthread_mutex_unlock(&queues);
    return at;
}

static void guard_wait(Backend *be, Mark m)
{
    append(be, (Entry){ .kind = ENTRY_WAIT, .mark = m }, NULL, 0);
}

static int guard_download(Backend *be, void *dst, const void *src, size_t size)
{
    int ret = flush(be);

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&queues);
    ret = copy_out(dst, src, size);
    pthread_mutex_unlock(&queues);
    return ret;
}

static void *guard_host_alloc(Backend *be, size_t size)
{
    (void)be;
    return avt_pages_alloc(MEM_TENSOR, size);
}

static int64_t guard_workspace(Backend *be, const OpCall *c)
{
    Guard *g = be->priv;

    return avt_cpu_workspace(&g->cpu, c);
}

static int guard_workspace_open(Backend *be, size_t size)
{
    Guard *g = be->priv;

    return avt_cpu_workspace_open(&g->cpu, size);
}

static size_t guard_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd,
                                 const int64_t *dim)
{
    Guard *g = be->priv;

    return avt_cpu_weight_bytes(&g->cpu, use, act, dtype, nd, dim);
}

static int guard_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    Guard *g = be->priv;
    const size_t size = guard_weight_bytes(be, use, dst->act, dtype, dst->nd, dst->dim);
    int ret = flush(be), closed;        // earlier calls may still read what was in this place

    if (ret < 0)
        return ret;
    if (!src)                           // planning: dst->data may be no memory of ours
        return avt_cpu_weight_put(&g->cpu, dst, use, dtype, NULL);
    pthread_mutex_lock(&queues);
    ret = protect(dst->data, size, PROT_READ | PROT_WRITE);
    if (ret >= 0)
        ret = avt_cpu_weight_put(&g->cpu, dst, use, dtype, src);
    closed = protect(dst->data, size, PROT_NONE);
    pthread_mutex_unlock(&queues);
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
    .host_memory = 1,
    .memory_left = avt_cpu_memory_left,
    .alloc = guard_alloc,
    .free = guard_free,
    .upload = guard_upload,
    .download = guard_download,
    .run = guard_run,
    .sync = flush,
    .mark = guard_mark,
    .wait = guard_wait,
    .fetch = guard_fetch,
    .store = guard_store,
    .host_alloc = guard_host_alloc,
    .host_free = guard_free,
    .workspace = guard_workspace,
    .workspace_open = guard_workspace_open,
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
