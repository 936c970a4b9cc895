/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Graphs of cuDNN's backend interface: parts that are made, filled and finished; an engine that has a plan for the graph; running it.
 * dnn_conv.cu, dnn_product.cu, each with its own graphs, are built on dnn.cu by this.
 *
 * After an error a builder makes nothing more, so that a graph reads as what it is.
 *
 * A plan takes a second of a CPU to compile, and can be had as a text (dnn_kept.cu): it is kept by the sum of all that its graph was made of, so
 * that a kept one is for this very graph, whatever its maker's key looks like.
 */
#ifndef AVT_CUDA_DNN_CUH
#define AVT_CUDA_DNN_CUH

#include "cuda/plans.h"

typedef cudnnBackendDescriptor_t DnnPart;

enum { DNN_PARTS = 64 };

typedef struct DnnPlan {
    DnnPart made[DNN_PARTS];            // all that the plan is made of, in the order of making
    int nb;
    DnnPart plan;
    int64_t workspace;
    int refused;                        // the library has none
} DnnPlan;

typedef struct DnnBuilder {
    DnnPlan *plan;
    cudnnStatus_t e;
    uint64_t sum;                       // of all that was made and set
} DnnBuilder;

DnnPart avt_dnn_make(DnnBuilder *b, cudnnBackendDescriptorType_t type);
void avt_dnn_set(DnnBuilder *b, DnnPart d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t nb, const void *value);
void avt_dnn_set_numbers(DnnBuilder *b, DnnPart d, cudnnBackendAttributeName_t name, int64_t nb, const int64_t *value);
void avt_dnn_set_part(DnnBuilder *b, DnnPart d, cudnnBackendAttributeName_t name, DnnPart part);
DnnPart avt_dnn_finish(DnnBuilder *b, DnnPart d);

/** A tensor that is bound to an address by `uid`, 16-byte aligned; a virtual one lives within the kernel. */
DnnPart avt_dnn_tensor(DnnBuilder *b, int64_t uid, int dtype, bool is_virtual, int nd, const int64_t *dim, const int64_t *stride);
/** y = mode(x) or mode(x, t), in f32; t: NULL where the mode has one operand. */
DnnPart avt_dnn_pointwise(DnnBuilder *b, cudnnPointwiseMode_t mode, DnnPart x, DnnPart t, DnnPart y);
DnnPart avt_dnn_graph(DnnBuilder *b, Cuda *cuda, int64_t nb, const DnnPart *op);

/* What a plan is made of: the key that it is kept under, and how its graph is made of the key. */
typedef struct DnnWish {
    const void *key;
    size_t size;
    DnnPart (*graph)(DnnBuilder *b, Cuda *cuda, const void *key);
    bool exact;                         // f32: no engine that rounds its operands down
    int64_t library;                    // the most workspace
    void (*say_refused)(Backend *be, const void *key);      // or NULL
    int engine;                         // the one of this number alone; -1: the heuristics' first that fits, else any; -1 - n: the one behind n that fit
} DnnWish;

/** The plan of a wish, made when there is none yet. @return 0, ENOSYS when the library has none (told once), or another error */
int avt_dnn_plan(Backend *be, DnnPlan **plan, const DnnWish *wish);

/** plan->plan out of a configuration, or where that is NULL out of a text, if its workspace is no more than `most`. @return false: there is none */
bool avt_dnn_plan_from(DnnPlan *plan, Cuda *cuda, DnnPart config, const char *text, size_t size, int64_t most);
/** The plan of a graph that was made, with this sum, out of the text that was kept for it: on the device that it was compiled for.
 *  @return 0, ENOSYS: there is none, or none that the library takes, or an error */
int avt_dnn_take(Backend *be, DnnPlan *plan, const DnnWish *wish, uint64_t sum);
/** Keep it, if the library can say it as a text. */
void avt_dnn_keep(Backend *be, const DnnPlan *plan, const DnnWish *wish, uint64_t sum);

/** @return 0, ENOSYS: it is not run after all (told; the plan is refused from then on), or an error */
int avt_dnn_execute(Backend *be, DnnPlan *plan, int64_t nb, const int64_t *uid, void *const *address, void *workspace, const char *what);

#endif
