/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The CPU backend: memory is pages of the system, an op runs when it is submitted, a weight is stored as the level wants it.
 *
 * The level decides once, at open, which implementation each entry of the table has; AUTO takes all that the CPU and the
 * build offer.
 */
#include <string.h>

#include "config.h"
#include "cpu/cpu.h"

#ifndef HAVE_ONEDNN
#define HAVE_ONEDNN 0
#endif
#ifndef HAVE_AVX2
#define HAVE_AVX2 0
#endif
#ifndef HAVE_AVX512
#define HAVE_AVX512 0
#endif

int avt_cpu_run(Backend *be, const OpCall *c)
{
    const Cpu *cpu = be->priv;

    return cpu->op[c->op](be, c);
}

void *avt_cpu_work(Backend *be, size_t size)
{
    Cpu *cpu = be->priv;

    if (size > cpu->work_size) {
        avt_free(cpu->work);
        cpu->work = avt_malloc(MEM_BACKEND, size);
        cpu->work_size = cpu->work ? size : 0;
    }
    return cpu->work;
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
    if (be->level >= CPU_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        avt_cpu_avx2(cpu);
#endif
#if HAVE_AVX512
    if (be->level >= CPU_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        avt_cpu_avx512(cpu);
#endif
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

static void *cpu_alloc(Backend *be, size_t size)
{
    (void)be;
    return avt_pages_alloc(MEM_TENSOR, size);
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

static int cpu_sync(Backend *be)                                    // nothing is ever pending
{
    (void)be;
    return 0;
}

static size_t cpu_weight_bytes(Backend *be, WeightUse use, DType dtype, int nd, const int64_t *dim)
{
    const Cpu *cpu = be->priv;

    return cpu->weight_bytes(be, use, dtype, nd, dim);
}

static int cpu_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    const Cpu *cpu = be->priv;

    return cpu->weight_put(be, dst, use, dtype, src);
}

int avt_backend_cpu_open(Backend *be)
{
    static const BackendClass cls = {
        .name = "cpu",
        .alloc = cpu_alloc,
        .free = cpu_free,
        .upload = cpu_upload,
        .download = cpu_download,
        .run = avt_cpu_run,
        .sync = cpu_sync,
        .fetch = cpu_upload,
        .host_alloc = cpu_alloc,
        .host_free = cpu_free,
        .weight_bytes = cpu_weight_bytes,
        .weight_put = cpu_weight_put,
        .close = avt_cpu_table_close,
    };

    be->cls = &cls;
    return avt_cpu_table_open(be);
}
