/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The plugin's side of plugin.h: the names that the backend's files call, answered by the library that has opened it. Compiled into
 * libavatar_cuda.so alone.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cuda/plugin.h"
#include "kernels.h"

static const CudaHost *host;            // the same for as long as the process lives

void *avt_malloc(MemTag tag, size_t size)
{
    return host->malloc(tag, size);
}

void *avt_calloc(MemTag tag, size_t nb, size_t size)
{
    void *p = size && nb > SIZE_MAX / size ? NULL : host->malloc(tag, nb * size);

    return p ? memset(p, 0, nb * size) : NULL;
}

void avt_free(void *p)
{
    host->free(p);
}

void avt_freep(void *pp)
{
    void *p;

    memcpy(&p, pp, sizeof(p));
    host->free(p);
    memset(pp, 0, sizeof(p));
}

int avt_mem_claim(MemTag tag, size_t size)
{
    return host->claim(tag, size);
}

void avt_mem_give_back(MemTag tag, size_t size)
{
    host->give_back(tag, size);
}

void avt_backend_fail(Backend *be, int code, const char *fmt, ...)
{
    char text[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    host->fail(be, code, text);
}

__attribute__((visibility("default"))) const CudaPlugin *avatar_cuda_plugin(const CudaHost *h)
{
    if (h->abi != CUDA_ABI)
        return NULL;
    __atomic_store_n(&host, h, __ATOMIC_RELEASE);
    return avt_cuda_table();
}
