/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A CUDA device that opens for planning alone, whether there is a driver or not, and runs nothing: facts.c and space.c with a Backend's face.
 * Where the plugin and a driver are, it knows the real architecture and the memory that is left.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/plugin.h"
#include "cuda/space.h"
#include "kernels.h"

typedef struct Facts {
    const CudaPlugin *plugin;           // or NULL
    int index, arch;
} Facts;

static int facts_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    (void)be;
    dst->dtype = avt_cuda_weight_dtype(use, dst->act, dtype);
    return src ? AVT_ERR(ENOSYS) : 0;
}

static int64_t facts_workspace(Backend *be, const OpCall *c)
{
    const Facts *f = be->priv;

    return avt_cuda_workspace(c, f->arch);
}

static int64_t facts_memory_left(Backend *be)
{
    const Facts *f = be->priv;

    return f->plugin ? f->plugin->memory_left(f->index) : -1;
}

static void *no_memory(Backend *be, size_t size)
{
    (void)be, (void)size;
    return NULL;
}

static void facts_close(Backend *be)
{
    avt_freep(&be->priv);
}

static const CudaPlugin *there;         // or NULL: looked for once, as a search of plans opens a device a thousand times

static void look(void)
{
    there = avt_cuda_plugin_find("cuda0", NULL);
}

int avt_backend_cuda_facts_open(Backend *be)
{
    static const BackendClass cls = {
        .name = "cuda",
        .alloc = no_memory,
        .memory_left = facts_memory_left,
        .workspace = facts_workspace,
        .weight_bytes = avt_cuda_weight_bytes,
        .weight_put = facts_weight_put,
        .close = facts_close,
    };
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    Facts *f = avt_calloc(MEM_BACKEND, 1, sizeof(*f));

    if (!f)
        return AVT_ERR(ENOMEM);
    pthread_once(&once, look);
    f->index = atoi(be->device + strlen("cuda"));
    f->arch = CUDA_PLAN_ARCH;
    f->plugin = there && there->arch(f->index, NULL) > 0 ? there : NULL;
    if (f->plugin)
        f->arch = there->arch(f->index, NULL);
    be->cls = &cls;
    be->priv = f;
    return 0;
}
