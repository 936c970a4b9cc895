/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the CUDA backend share: the state of a queue, and the ops, one .cu each.
 *
 *   plugin.c (library) --dlopen--> libavatar_cuda.so: backend_cuda.cu  memory, queues, marks, errors; the table of ops
 *                                                     upload.cu        what comes from the host: staging, weights
 *                                                     linear.cu  attention.cu  conv.cu ...  an op or a family of them
 *
 * An op checks nothing (the door has), submits to cuda->stream and returns 0 or a negative errno; it never waits, and allocates
 * nothing: what it needs besides its operands is cuda->workspace, of the size that avt_cuda_workspace() (space.h) gives for the call.
 * cuda->index is the current device when an op is called. Weights lie as facts.h says.
 */
#ifndef AVT_CUDA_CUDA_H
#define AVT_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "cuda/facts.h"
#include "cuda/space.h"
#include "kernels.h"

typedef struct CudaPlans CudaPlans;     // plans of libraries, by shape; made once each
typedef struct CudaStaging CudaStaging; // upload.cu: pinned memory on the way to the device

#define CUDA_EVENTS 64                  // marks of a queue that can be told apart

/* be->priv */
typedef struct Cuda {
    int index;                          // N of cudaN
    int arch;                           // compute capability: 80, 86, 89, 90, 100, 120
    int multiprocessors;
    cudaStream_t stream;
    cublasLtHandle_t lt;
    cudnnHandle_t dnn;                  // avt_cuda_dnn_open()
    CudaPlans *plans;
    void *workspace;                    // 256-byte aligned
    size_t workspace_size;
    int planned;                        // the workspace has the size that the plan found: it does not grow
    CudaStaging *staging;
    cudaEvent_t event[CUDA_EVENTS];
    uint64_t nb_marks;                  // mark n is event[n % CUDA_EVENTS]
    uint64_t peers;                     // bit N: has access to the memory of cudaN
} Cuda;

static inline Cuda *avt_cuda(Backend *be) { return (Cuda *)be->priv; }

/** 0, or a negative errno after one log line for a failed call of the runtime or a library: ENOMEM, EIO (a lost device), EINVAL. */
int avt_cuda_check(Backend *be, cudaError_t e, const char *what);
int avt_cuda_check_lt(Backend *be, cublasStatus_t e, const char *what);
int avt_cuda_check_dnn(Backend *be, cudnnStatus_t e, const char *what);

/** Is an event's work done? 1, or 0: not yet. Asking leaves no error behind, which a library would take for its own. @return a negative errno after a failure */
int avt_cuda_is_done(Backend *be, cudaEvent_t event, const char *what);

/** cuDNN's handle is there, made now if it was not: it takes device memory, and a queue that has no use for one has none. @return 0 or an error */
int avt_cuda_dnn_open(Backend *be);

/** Do all operands begin at multiples of 16 bytes, as the libraries were told? */
static inline int avt_cuda_is_aligned(const OpCall *c)
{
    uintptr_t all = (uintptr_t)c->out.data;

    for (int i = 0; i < OP_MAX_IN; i++)
        all |= (uintptr_t)c->in[i].data;
    return all % 16 == 0;
}

/* ---- plans.cu ---------------------------------------------------------------------------------------------------------------- */

/** Plans of cuBLASLt and cuDNN for be's queue; asks the device what its cuBLASLt can (this waits). After lt, dnn and stream are there.
 *  @return NULL with a failed backend */
CudaPlans *avt_cuda_plans_open(Backend *be);
void avt_cuda_plans_close(CudaPlans **plans);

/* ---- upload.cu ------------------------------------------------------------------------------------------------------------- */

/** As BackendClass.upload, weight_put; the staging is allocated when something comes. */
void avt_cuda_upload(Backend *be, void *dst, const void *src, size_t size);
int  avt_cuda_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);
/** Free the staging, after a sync. */
void avt_cuda_staging_close(Cuda *cuda);

/* ---- ops that give codes: quantize.cu ----------------------------------------------------------------------------------------- */

/** The call that gives c's numbers, with its result behind its own workspace; c itself where it does not give codes. */
OpCall avt_cuda_numbers(Backend *be, const OpCall *c);
/** Behind it, `ret` being what it gave: their codes, where c wants such. @return 0 or an error */
int avt_cuda_codes_of(Backend *be, const OpCall *c, const OpCall *numbers, int ret);
/** Both around an op that has no way to c's codes. */
int avt_cuda_codes_apart(Backend *be, const OpCall *c, int (*op)(Backend *be, const OpCall *c));

/* ---- ops, each for every combination of types that the door lets through ---------------------------------------------------- */

int avt_cuda_linear(Backend *be, const OpCall *c);                  // linear.cu: cuBLASLt; of a linear_group: its avt_op_product() one by one
int avt_cuda_quantize(Backend *be, const OpCall *c);                // quantize.cu
int avt_cuda_attention(Backend *be, const OpCall *c);               // attention.cu
int avt_cuda_conv3d(Backend *be, const OpCall *c);                  // conv.cu: cuDNN
int avt_cuda_conv1d(Backend *be, const OpCall *c);
int avt_cuda_copy(Backend *be, const OpCall *c);                    // copy.cu: copy, fill
int avt_cuda_fill(Backend *be, const OpCall *c);
int avt_cuda_squares(Backend *be, const OpCall *c);                 // norms.cu
int avt_cuda_norm_rope(Backend *be, const OpCall *c);
int avt_cuda_layer_norm(Backend *be, const OpCall *c);
int avt_cuda_channel_norm(Backend *be, const OpCall *c);
int avt_cuda_rope_table(Backend *be, const OpCall *c);              // rope.cu
int avt_cuda_rope(Backend *be, const OpCall *c);
int avt_cuda_elementwise(Backend *be, const OpCall *c);             // elementwise.cu: act, add, mul, axpy, gate_add
int avt_cuda_rows(Backend *be, const OpCall *c);                    // rows.cu: gather, lerp_rows, layer_mix, transpose
int avt_cuda_layout(Backend *be, const OpCall *c);                  // layout.cu: patchify, unpatchify, channels_last, channels_first, upsample
int avt_cuda_pixels(Backend *be, const OpCall *c);                  // pixels.cu: picture, pixels
int avt_cuda_count_nonfinite(Backend *be, const OpCall *c);         // reduce.cu

#ifdef __cplusplus
}
#endif

#endif
