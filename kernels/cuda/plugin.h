/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between the library and libavatar_cuda.so, which holds all that needs CUDA and is opened when a cuda device is asked for.
 *
 *   library   --CudaHost-->    what the plugin may not have twice: counted memory, a backend's failure
 *             <--CudaPlugin--  devices, and the opening of a backend
 *
 * Both are built from one tree: what they share is checked by its layout, nothing is negotiated. No CUDA header here.
 */
#ifndef AVT_CUDA_PLUGIN_H
#define AVT_CUDA_PLUGIN_H

#include "cuda/direct.h"
#include "cuda/facts.h"

#ifdef __cplusplus
extern "C" {
#endif

#define CUDA_ABI ((unsigned)(sizeof(Backend) << 16 ^ sizeof(OpCall) << 4 ^ (unsigned)OP_NB << 2 ^ sizeof(Tuned) << 24 ^ 2))

typedef struct CudaHost {
    unsigned abi;                                                   // CUDA_ABI
    void *(*malloc)(MemTag tag, size_t size);
    void  (*free)(void *p);
    int   (*claim)(MemTag tag, size_t size);                        // avt_mem_claim(), for memory of the device and pinned memory
    void  (*give_back)(MemTag tag, size_t size);
    void  (*fail)(Backend *be, int code, const char *text);         // avt_backend_fail()
} CudaHost;

typedef struct CudaPlugin {
    unsigned abi;
    int (*devices)(const Log *log);                                 // how many there are, or ENOSYS after a sentence
    int (*arch)(int index, const Log *log);                         // 90: sm_90; ENOSYS after a sentence when it cannot be used
    int64_t (*memory_left)(int index);                              // bytes; -1: not known. Makes the device's context
    int (*reaches)(int index, int other);                           // can the one be given access to the other's memory?
    const CudaDirect *(*direct)(void);                              // NULL: built without NCCL
    int (*open)(Backend *be);                                       // be->device is cudaN; as in BackendOptions
} CudaPlugin;

/** The plugin's one symbol. @return NULL when `host` is of another layout */
typedef const CudaPlugin *CudaPluginEntry(const CudaHost *host);
CudaPluginEntry avatar_cuda_plugin;

/** backend_cuda.cu: what the entry returns; linked in directly where CUDA_LINKED is defined. */
const CudaPlugin *avt_cuda_table(void);
/** nccl.cu: its part of it. */
const CudaDirect *avt_cuda_direct_table(void);

/** The plugin: beside the file that this code is in, in the folder of libraries, by the loader's path.
 *  @return NULL after a sentence that names `device`. It stays loaded. */
const CudaPlugin *avt_cuda_plugin_find(const char *device, const Log *log);

#ifdef __cplusplus
}
#endif

#endif
