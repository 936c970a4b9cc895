/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NVIDIA's management library, opened at run time: a machine without it is no fault. Its functions return 0 when all is well. */
#ifndef AVT_TOOL_NVML_H
#define AVT_TOOL_NVML_H

typedef struct NvmlMemory {             // nvmlMemory_t
    unsigned long long total, free, used;
} NvmlMemory;

typedef struct NvmlProcess {            // nvmlProcessInfo_t
    unsigned pid;
    unsigned long long used;            // bytes
    unsigned instance[2];
} NvmlProcess;

typedef struct Nvml {                   // what is called of libnvidia-ml.so.1
    void *lib;
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *nb);
    int (*driver)(char *text, unsigned size);
    int (*handle)(unsigned i, void **device);
    int (*name)(void *device, char *text, unsigned size);
    int (*memory)(void *device, NvmlMemory *m);
    int (*capability)(void *device, int *major, int *minor);
    int (*throttle)(void *device, unsigned long long *reasons);
    int (*ecc)(void *device, int corrected, int counter, unsigned long long *nb);
    int (*processes)(void *device, unsigned *nb, NvmlProcess *list);    // NULL: an older library
} Nvml;

/** @return 1, or 0: there is no such library, or it does not start */
int  nvml_open(Nvml *n);
void nvml_close(Nvml *n);

#endif
