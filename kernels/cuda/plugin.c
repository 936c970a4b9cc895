/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opening libavatar_cuda.so: see plugin.h. The library itself is free of CUDA, so that one build serves machines without a driver. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "cuda/plugin.h"
#include "kernels.h"

#define PLUGIN "libavatar_cuda.so"

#ifdef CUDA_LINKED

const CudaPlugin *avt_cuda_plugin_find(const char *device, const Log *log)
{
    (void)device, (void)log;
    return avt_cuda_table();
}

#else

static void host_fail(Backend *be, int code, const char *text)
{
    avt_backend_fail(be, code, "%s", text);
}

/* Folder of the file that this code was loaded from: the library, or a program that it is linked into. */
static int own_folder(char path[PATH_MAX])
{
    Dl_info info;
    char *slash;

    if (!dladdr((void *)(uintptr_t)&avt_cuda_plugin_find, &info) || !info.dli_fname || !realpath(info.dli_fname, path))
        return 0;
    slash = strrchr(path, '/');
    *slash = 0;
    return 1;
}

/* The plugin of a folder. *there: the file is, whether it can be loaded or not. */
static void *load_from(const char *folder, int *there)
{
    char path[PATH_MAX];

    *there = snprintf(path, sizeof(path), "%s/" PLUGIN, folder) < (int)sizeof(path) && !access(path, R_OK);
    return *there ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void *load(const char *device, const Log *log)
{
    char folder[PATH_MAX] = "";
    int there = 0;
    void *lib = own_folder(folder) ? load_from(folder, &there) : NULL;
    const char *why;

    if (!lib && !there)
        lib = load_from(AVT_LIBDIR, &there);
    if (!lib && !there)
        lib = dlopen(PLUGIN, RTLD_NOW | RTLD_LOCAL);
    if (lib)
        return lib;
    why = dlerror();
    if (!there && (!why || !strncmp(why, PLUGIN ":", strlen(PLUGIN ":"))))
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

int avt_backend_cuda_open(Backend *be)
{
    const CudaPlugin *plugin = avt_cuda_plugin_find(be->device, be->log);

    return plugin ? plugin->open(be) : AVT_ERR(ENOSYS);
}
