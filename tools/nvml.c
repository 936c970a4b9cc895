/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See nvml.h. */
#include <dlfcn.h>
#include <string.h>

#include "nvml.h"

int nvml_open(Nvml *n)
{
    struct {
        void *at;
        const char *name;
    } calls[] = { { &n->init, "nvmlInit_v2" }, { &n->shutdown, "nvmlShutdown" }, { &n->count, "nvmlDeviceGetCount_v2" },
                  { &n->driver, "nvmlSystemGetDriverVersion" }, { &n->handle, "nvmlDeviceGetHandleByIndex_v2" },
                  { &n->name, "nvmlDeviceGetName" }, { &n->memory, "nvmlDeviceGetMemoryInfo" },
                  { &n->capability, "nvmlDeviceGetCudaComputeCapability" }, { &n->throttle, "nvmlDeviceGetCurrentClocksThrottleReasons" },
                  { &n->ecc, "nvmlDeviceGetTotalEccErrors" } };

    memset(n, 0, sizeof(*n));
    n->lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; n->lib && i < sizeof(calls) / sizeof(calls[0]); i++) {
        void *call = dlsym(n->lib, calls[i].name);

        if (!call)
            return 0;
        memcpy(calls[i].at, &call, sizeof(call));
    }
    if (n->lib)
        *(void **)&n->processes = dlsym(n->lib, "nvmlDeviceGetComputeRunningProcesses_v3");
    return n->lib && !n->init();
}

void nvml_close(Nvml *n)
{
    n->shutdown();
    dlclose(n->lib);
}
