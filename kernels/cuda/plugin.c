/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening libavatar_cuda.so: see plugin.h. The library itself is free of CUDA, so that one build serves machines without a driver. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/plugin.h"
#include "config.h"
#include "cuda/plugin.h"
#include "kernels.h"

#define PLUGIN "libavatar_cuda.so"

static const CudaPlugin *found;         // atomic; the one that a device was asked of

#ifdef CUDA_LINKED

const CudaPlugin *avt_cuda_plugin_find(const char *device, const Log *log)
{
    (void)device, (void)log;
    __atomic_store_n(&found, avt_cuda_table(), __ATOMIC_RELEASE);
    return avt_cuda_table();
}

#else

static void host_fail(Backend *be, int code, const char *text)
{
    avt_backend_fail(be, code, "%s", text);
}

static void *load(const char *device, const Log *log)
{
    const char *why;
    void *lib = avt_plugin_open(PLUGIN, RTLD_NOW | RTLD_LOCAL, &why);

    if (lib)
        return lib;
    if (!why)
        avt_fail(log, 0, "device %s: " PLUGIN " is neither beside the program, nor in %s, nor on the loader's path; install it (make cuda, or "
                 "the package avatar-cuda), or use devices=cpu", device, AVT_LIBDIR);
    else
        avt_fail(log, 0, "device %s: " PLUGIN " cannot be loaded: %s; install what doc/cuda.md lists, or use devices=cpu", device, why);
    return NULL;
}

const CudaPlugin *avt_cuda_plugin_find(const char *device, const Log *log)
{
    static const CudaHost host = { CUDA_ABI, avt_malloc, avt_free, avt_mem_claim, avt_mem_give_back, host_fail };
    void *lib = load(device, log);
    CudaPluginEntry *entry = NULL;
    const CudaPlugin *plugin;

    if (!lib)
        return NULL;
    *(void **)&entry = dlsym(lib, "avatar_cuda_plugin");
    plugin = entry ? entry(&host) : NULL;
    if (!plugin || plugin->abi != CUDA_ABI) {
        avt_fail(log, 0, "device %s: the " PLUGIN " that is installed belongs to another version of avatar; install that of this one, or use "
                 "devices=cpu", device);
        return NULL;
    }
    __atomic_store_n(&found, plugin, __ATOMIC_RELEASE);
    return plugin;
}

#endif

static void keep_line(void *opaque, int level, const char *text)
{
    (void)level;
    snprintf(opaque, 512, "%s", text);
}

int avt_devices_found(int *index, int most, const Log *log)
{
    const CudaPlugin *plugin = avt_cuda_plugin_find("cuda0", NULL);
    char why[512] = "";
    const Log keep = { .write = keep_line, .opaque = why };
    const int there = plugin ? plugin->devices(&keep) : 0;
    int nb = 0;

    for (int i = 0; i < there && nb < most; i++)
        if (plugin->arch(i, &keep) > 0)
            index[nb++] = i;
    if (plugin && !nb)
        avt_log(log, LOG_INFO, "devices=auto: the CPU; %s", *why ? why : "the driver sees no GPU");
    return nb;
}

static int index_of(const char *device)
{
    return atoi(device + strlen("cuda"));
}

int avt_cuda_reaches(const char *name, const char *other)
{
    const CudaPlugin *plugin = __atomic_load_n(&found, __ATOMIC_ACQUIRE);

    return !plugin || plugin->reaches(index_of(name), index_of(other));
}

const CudaDirect *avt_cuda_direct(void)
{
    const CudaPlugin *plugin = __atomic_load_n(&found, __ATOMIC_ACQUIRE);

    return plugin ? plugin->direct() : NULL;
}

int avt_backend_cuda_open(Backend *be)
{
    const CudaPlugin *plugin = avt_cuda_plugin_find(be->device, be->log);

    return plugin ? plugin->open(be) : AVT_ERR(ENOSYS);
}
