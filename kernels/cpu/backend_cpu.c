/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The CPU backend: memory is pages of the system, an op runs when it is submitted, a weight is stored as the level wants it.
 *
 * The level decides once, at open, which implementation each entry of the table has; AUTO takes all that the CPU and the
 * build offer.
 */
#include <string.h>

#include "config.h"
#include "cpu/plain.h"

#ifndef HAVE_ONEDNN
#define HAVE_ONEDNN 0
#endif
#ifndef HAVE_AVX2
#define HAVE_AVX2 0
#endif
#ifndef HAVE_AVX512
#define HAVE_AVX512 0
#endif
#ifndef HAVE_AMX
#define HAVE_AMX 0
#endif

enum { GRAIN = 1 << 18 };               // numbers; a thread that sleeps takes 50 to 100 us to wake up in a virtual machine

#if HAVE_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel gives a process the 8 KB of its threads' tiles when it asks for them (Linux 5.16); old kernels and some sandboxes never. */
static int has_amx(void)
{
    enum { BF16 = 1 << 22, TILE = 1 << 24, REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    unsigned a, b, c, d = 0;

    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & BF16) && (d & TILE) && __builtin_cpu_supports("avx512bf16") &&
           !syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA);
}
#endif

int avt_cpu_has(CpuLevel level)
{
    switch (level) {
    case CPU_PLAIN:
        return 1;
    case CPU_ONEDNN:
        return HAVE_ONEDNN;
#if HAVE_AVX2
    case CPU_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#if HAVE_AVX512
    case CPU_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
#endif
#if HAVE_AMX
    case CPU_AMX:
        return avt_cpu_has(CPU_AVX512) && has_amx();
#endif
    default:
        return 0;
    }
}

/* Is a number of the call bf16, or keys codes? A weight that is not counts by its activations, which are there, too. */
static int is_narrow(const OpCall *c)
{
    int narrow = c->out.dtype == DT_BF16;

    for (int i = 0; i < OP_MAX_IN; i++)
        narrow |= c->in[i].be && !c->in[i].packed && (c->in[i].dtype == DT_BF16 || c->in[i].scale);
    return narrow;
}

/* A product of codes; a group of them has been taken apart. */
static int is_scaled(const OpCall *c)
{
    return c->op == OP_LINEAR && c->linear.x.scale;
}

/* bf16 in the four ops of tiles, whatever is widened, and what becomes codes, wants some workspace. */
static int may_want(const Cpu *cpu, const OpCall *c)
{
    const int tiled = c->op == OP_LINEAR || c->op == OP_CONV3D || c->op == OP_CONV1D || c->op == OP_ATTENTION;

    return is_scaled(c) || c->op == OP_QUANTIZE || avt_op_gives_codes(c) ||
           (is_narrow(c) ? cpu->op16[c->op] == avt_cpu_widened || tiled : avt_cpu_wants(cpu, c->op));
}

static int run_numbers(Backend *be, const OpCall *c)
{
    const Cpu *cpu = be->priv;

    if (is_scaled(c))
        return (c->linear.x.dtype == DT_I8 ? cpu->linear8 : avt_cpu_scaled)(be, c);
    if (c->op == OP_ATTENTION && c->attention.q.scale)
        return cpu->attention8(be, c);
    return (is_narrow(c) ? cpu->op16 : cpu->op)[c->op](be, c);
}

/* Numbers into the workspace, then their codes. */
static int run_codes(Backend *be, const OpCall *c)
{
    Cpu *cpu = be->priv;
    void *room = avt_cpu_work(be, (size_t)avt_numel(c->out) * avt_dtype_size(c->out.act));
    const OpCall numbers = avt_op_numbers(c, room), codes = avt_op_codes(c, numbers.out);
    const size_t mark = avt_cpu_work_mark(cpu);
    int ret = 0;

    if (!room && !cpu->measuring)
        return AVT_ERR(ENOMEM);
    if (!cpu->measuring || may_want(cpu, &numbers))
        ret = run_numbers(be, &numbers);
    avt_cpu_work_release(cpu, mark);
    return ret < 0 && !cpu->measuring ? ret : run_numbers(be, &codes);
}

static int run_one(Backend *be, const OpCall *c)
{
    return avt_op_gives_codes(c) ? run_codes(be, c) : run_numbers(be, c);
}

int64_t avt_cpu_memory_left(Backend *be)
{
    (void)be;
    return avt_host_memory_left();
}

/* Rows of a product that take about a fifth of a second at what a core of the level reaches: a matter of shape, threads and level
 * alone, as how a product is cut may show in its last bits. oneDNN does not look up from one of f32; those of tiles and of codes do. */
static int64_t rows_at_once(const Backend *be, const OpCall *c)
{
    static const double gflops[] = { [CPU_PLAIN] = 2, [CPU_ONEDNN] = 10, [CPU_AVX2] = 40, [CPU_AVX512] = 80, [CPU_AMX] = 80 };
    const Cpu *cpu = be->priv;
    const double row = 2e-9 * (double)c->linear.w.dim[0] * (double)c->linear.w.dim[1];
    const int64_t rows = (int64_t)(0.2 * be->threads * gflops[cpu->best] / (row + 1e-9));

    if (is_scaled(c) || (is_narrow(c) && cpu->op16[OP_LINEAR] != avt_cpu_widened) || c->out.nd != 2 || c->linear.x.nd != 2)
        return c->out.dim[0];
    return rows > 128 ? rows / 64 * 64 : 128;
}

static OpCall rows_of(const OpCall *c, int64_t first, int64_t nb)
{
    OpCall part = *c;

    part.out = avt_rows(c->out, first, nb);
    part.linear.x = avt_rows(c->linear.x, first, nb);
    if (c->linear.res.be)
        part.linear.res = avt_rows(c->linear.res, first, nb);
    return part;
}

/* Attentions of a batch, products of a group go one after another: they are few, and each has work for all threads. 0: c is one. */
static int64_t nb_calls(const OpCall *c)
{
    if (c->op == OP_LINEAR_GROUP)
        return 2 + (c->group.w[2].be != NULL);
    return c->op == OP_ATTENTION && c->out.nd == 4 ? c->out.dim[0] : 0;
}

static OpCall one_of(const OpCall *c, int64_t i)
{
    OpCall one = *c;

    if (c->op == OP_LINEAR_GROUP)
        return avt_op_product(c, (int)i);
    one.out = avt_at(c->out, i);
    one.attention.q = avt_at(c->attention.q, i);
    one.attention.k1 = avt_at(c->attention.k1, i);
    one.attention.v1 = avt_at(c->attention.v1, i);
    return one;
}

static int64_t measure(Backend *be, const OpCall *c)
{
    Cpu *cpu = be->priv;
    int64_t most;

    cpu->work_used = cpu->work_most = 0;
    cpu->measuring = 1;
    cpu->unmeasured = 0;
    run_one(be, c);                     // ENOMEM is its rule here: it is given nothing
    cpu->measuring = 0;
    most = (int64_t)cpu->work_most;
    cpu->work_used = cpu->work_most = 0;
    return cpu->unmeasured < 0 ? cpu->unmeasured : most;
}

/* A product may run whole or in parts. */
static int64_t measure_linear(Backend *be, const OpCall *c)
{
    const int64_t m = c->out.dim[0], step = rows_at_once(be, c), rest = step < m ? m % step : 0;
    int64_t most = measure(be, c);

    for (int i = 0; i < 2 && most >= 0; i++)
        if (step < m && (i || rest)) {
            const OpCall part = rows_of(c, 0, i ? step : rest);
            const int64_t size = measure(be, &part);

            most = size < 0 || size > most ? size : most;
        }
    return most;
}

static int64_t workspace_of_one(Backend *be, const OpCall *c)
{
    if (!may_want(be->priv, c))
        return 0;
    return c->op == OP_LINEAR ? measure_linear(be, c) : measure(be, c);
}

int64_t avt_cpu_workspace(Backend *be, const OpCall *c)
{
    const int64_t nb = nb_calls(c);
    int64_t most = nb ? 0 : workspace_of_one(be, c);

    for (int64_t i = 0; i < nb && most >= 0; i++) {
        const OpCall one = one_of(c, i);
        const int64_t size = workspace_of_one(be, &one);

        most = size < 0 || size > most ? size : most;
    }
    return most;
}

int avt_cpu_workspace_open(Backend *be, size_t size)
{
    Cpu *cpu = be->priv;

    avt_free(cpu->work);
    cpu->work = size ? avt_malloc(MEM_BACKEND, size) : NULL;
    cpu->work_size = cpu->work ? size : 0;
    cpu->planned = cpu->work || !size;
    return cpu->planned ? 0 : AVT_ERR(ENOMEM);
}

/* Without a plan the workspace grows to what the call wants, and stays. */
static int make_room(Backend *be, const OpCall *c)
{
    Cpu *cpu = be->priv;
    const int64_t size = cpu->planned ? 0 : avt_cpu_workspace(be, c);

    cpu->work_used = cpu->work_most = 0;
    if (size < 0)
        return (int)size;
    if ((size_t)size <= cpu->work_size)
        return 0;
    avt_free(cpu->work);
    cpu->work = avt_malloc(MEM_BACKEND, (size_t)size);
    cpu->work_size = cpu->work ? (size_t)size : 0;
    return cpu->work ? 0 : AVT_ERR(ENOMEM);
}

static int run_in_room(Backend *be, const OpCall *c)
{
    Cpu *cpu = be->priv;
    int ret = make_room(be, c);

    if (ret >= 0)
        ret = run_one(be, c);
    if (cpu->work_most > be->workspace_peak)
        be->workspace_peak = cpu->work_most;
    return ret;
}

/* One that takes long, and may be given up, goes a part of its rows at a time. */
static int run_linear(Backend *be, const OpCall *c)
{
    const int64_t m = c->out.dim[0], step = be->cancel ? rows_at_once(be, c) : m;
    int ret = 0;

    if (step >= m)
        return run_in_room(be, c);
    for (int64_t first = 0; first < m && ret >= 0 && !avt_cpu_given_up(be); first += step) {
        const OpCall part = rows_of(c, first, m - first < step ? m - first : step);

        ret = run_in_room(be, &part);
    }
    return ret;
}

static int run_alone(Backend *be, const OpCall *c)
{
    return c->op == OP_LINEAR ? run_linear(be, c) : run_in_room(be, c);
}

int avt_cpu_run(Backend *be, const OpCall *c)
{
    const int64_t nb = nb_calls(c);
    int ret = nb ? 0 : run_alone(be, c);

    for (int64_t i = 0; i < nb && ret >= 0; i++) {
        const OpCall one = one_of(c, i);

        ret = run_alone(be, &one);
    }
    return ret;
}

void *avt_cpu_work(Backend *be, size_t size)
{
    Cpu *cpu = be->priv;
    char *p = cpu->work + cpu->work_used;
    const size_t want = (size + 63) / 64 * 64;

    cpu->work_used += want;
    if (cpu->work_used > cpu->work_most)
        cpu->work_most = cpu->work_used;
    return cpu->measuring || cpu->work_used > cpu->work_size ? NULL : p;
}

void avt_cpu_enter(Cpu *cpu, const char *level, const CpuEntry *entries, size_t nb)
{
    for (const CpuEntry *e = entries; e < entries + nb; e++) {
        if (e->tables & FOR_F32) {
            cpu->op[e->op] = e->run;
            cpu->level[e->op] = level;
        }
        if (e->tables & FOR_BF16) {
            cpu->op16[e->op] = e->run;
            cpu->level16[e->op] = level;
        }
    }
}

static int open_levels(Backend *be, Cpu *cpu)
{
    int ret = 0;

    (void)be;
    avt_cpu_plain(cpu);
#if HAVE_ONEDNN
    if (be->level >= CPU_ONEDNN)
        ret = avt_cpu_onednn(be, cpu);
#endif
#if HAVE_AVX2
    if (be->level >= CPU_AVX2 && avt_cpu_has(CPU_AVX2))
        avt_cpu_avx2(cpu);
#endif
#if HAVE_AVX512
    if (be->level >= CPU_AVX512 && avt_cpu_has(CPU_AVX512))
        avt_cpu_avx512(cpu);
#endif
#if HAVE_AMX
    if (be->level >= CPU_AMX && avt_cpu_has(CPU_AMX))
        avt_cpu_amx(cpu);
#endif
    for (CpuLevel l = CPU_PLAIN; l <= CPU_AMX && l <= be->level; l++)      // last: once tiles are permitted, oneDNN 2.6 fails if it starts then
        cpu->best = avt_cpu_has(l) ? l : cpu->best;
    cpu->level[OP_LINEAR_GROUP] = cpu->level[OP_LINEAR];            // whose code it is
    cpu->level16[OP_LINEAR_GROUP] = cpu->level16[OP_LINEAR];
    return ret;
}

int avt_cpu_table_open(Backend *be)
{
    int ret;

    be->priv = avt_calloc(MEM_BACKEND, 1, sizeof(Cpu));
    if (!be->priv)
        return AVT_ERR(ENOMEM);
    ret = open_levels(be, be->priv);
    if (ret < 0)
        avt_cpu_table_close(be);
    return ret;
}

void avt_cpu_table_close(Backend *be)
{
    if (be->priv)
        avt_free(((Cpu *)be->priv)->work);
#if HAVE_ONEDNN
    if (be->priv)
        avt_cpu_onednn_close(be->priv);
#endif
    avt_freep(&be->priv);
}

size_t avt_cpu_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    const Cpu *cpu = be->priv;

    if (avt_is_code(act))
        return (act == DT_I8 && cpu->weight_bytes8 ? cpu->weight_bytes8 : avt_plain_weight_bytes)(be, use, act, dtype, nd, dim);
    return (act == DT_BF16 && cpu->weight_bytes16 ? cpu->weight_bytes16 : cpu->weight_bytes)(be, use, act, dtype, nd, dim);
}

int avt_cpu_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const Cpu *cpu = be->priv;

    if (avt_is_code(dst->act))
        return (dst->act == DT_I8 && cpu->weight_put8 ? cpu->weight_put8 : avt_plain_weight_put)(be, dst, use, dtype, src);
    return (dst->act == DT_BF16 && cpu->weight_put16 ? cpu->weight_put16 : cpu->weight_put)(be, dst, use, dtype, src);
}

DType avt_cpu_act(CpuLevel level)
{
    return level >= CPU_AMX && avt_cpu_has(CPU_AMX) ? DT_BF16 : DT_F32;
}

static void *cpu_alloc(Backend *be, size_t size)
{
    void *p = avt_pages_alloc(MEM_TENSOR, size);

    (void)be;
    avt_pages_large(p, size);
    return p;
}

static void cpu_free(Backend *be, void *p, size_t size)
{
    (void)be;
    avt_pages_free(MEM_TENSOR, p, size);
}

static void cpu_upload(Backend *be, void *dst, const void *src, size_t size)
{
    (void)be;
    memcpy(dst, src, size);
}

static int cpu_download(Backend *be, void *dst, const void *src, size_t size)
{
    (void)be;
    memcpy(dst, src, size);
    return 0;
}

static void cpu_store(Backend *be, void *dst, const void *src, size_t size)
{
    cpu_download(be, dst, src, size);
}

static int cpu_sync(Backend *be)                                    // nothing is ever pending
{
    (void)be;
    return 0;
}

int avt_backend_cpu_open(Backend *be)
{
    static const BackendClass cls = {
        .name = "cpu",
        .host_memory = 1,
        .memory_left = avt_cpu_memory_left,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .upload = cpu_upload,
        .download = cpu_download,
        .run = avt_cpu_run,
        .sync = cpu_sync,
        .fetch = cpu_upload,
        .store = cpu_store,
        .host_alloc = cpu_alloc,
        .host_free = cpu_free,
        .workspace = avt_cpu_workspace,
        .workspace_open = avt_cpu_workspace_open,
        .weight_bytes = avt_cpu_weight_bytes,
        .weight_put = avt_cpu_weight_put,
        .close = avt_cpu_table_close,
    };

    be->grain = GRAIN;
    be->cls = &cls;
    return avt_cpu_table_open(be);
}
