/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Plans of cuBLASLt and cuDNN, made once a shape and kept with the backend; the products' own header.
 *
 * A key is a plain struct without holes whose first field is its kind; a plan is whatever its maker keeps under it. PLANS_MOST are kept:
 * the one not used for longest goes, for sound and text have lengths without end.
 */
#ifndef AVT_CUDA_PLANS_H
#define AVT_CUDA_PLANS_H

#include "cuda/cuda.h"

typedef enum PlanKind { PLAN_LINEAR = 1, PLAN_CONV, PLAN_GRAPH_PRODUCT, PLAN_ATTENTION, PLAN_LINEAR_CHOICE, PLAN_CONV_CHOICE, PLAN_ATTENTION_CHOICE } PlanKind;

enum { PLANS_MOST = 1024 };

/* What this card's cuBLASLt was seen to do: asked at open, never assumed. */
typedef struct LtFacts {
    int asked;                          // a product that is refused from now on is worth a line in the log
    int bias, bias_bf16;                // a bias in f32 beside a result in f32, in bf16
    int gelu;                           // its GELU is the tanh form, as near as a result in bf16 can tell
    int gelu_exact;                     // and as near as one in f32 can tell
} LtFacts;

typedef struct DnnFacts {               // and its cuDNN: asked before it matters, attention_dnn.cu
    int asked;
    int logs;                           // of an attention's sums: natural, of scaled scores
} DnnFacts;

LtFacts *avt_cuda_lt_facts(CudaPlans *plans);
DnnFacts *avt_cuda_dnn_facts(CudaPlans *plans);

/** The plan under a key, or NULL. */
void *avt_cuda_plan_get(CudaPlans *plans, const void *key, size_t size);
/** Keep a plan; close() ends it when it is dropped or the backend closes. @return 0 or ENOMEM: the plan is the caller's still */
int avt_cuda_plan_put(CudaPlans *plans, const void *key, size_t size, void *plan, void (*close)(void *plan));

/* ---- several ways for a call: tune.cu ---------------------------------------------------------------------------------------------- */

typedef enum CudaLibrary { BY_LT, BY_DNN, BY_HAND } CudaLibrary;

enum { ENTRANTS_MOST = 8 };

typedef struct CudaChoice {
    CudaLibrary library;
    int number;                         // BY_LT: as LtProduct.choice; BY_DNN: as DnnWish.engine; BY_HAND: 0
} CudaChoice;

typedef struct Contest {
    const void *key;                    // that this queue keeps the choice under
    size_t size;
    const char *shape;                  // as in tuned.h
    const CudaChoice *entrant;          // nb of them; the first is it where none is faster
    int nb;
    int (*run)(Backend *be, const OpCall *c, const CudaChoice *by);     // ENOSYS: not by this one
    const OpCall *call, *again;         // again: the call, so that it may be run as often as one likes
} Contest;

/** All that a time or a plan depends on beside the shape: card, driver, versions of the libraries. @return 0 or an error */
int avt_cuda_device_name(Backend *be, char *name, size_t size);

/** Who has won under the key in this queue, or NULL. */
const CudaChoice *avt_cuda_choice(Backend *be, const void *key, size_t size);
/**
 * Run a call for the first time: by who was the fastest as be->tuned has it, if he can still be had; else by who is, which is found by running
 * each of them some times (it waits for the device) and told to be->tuned. Another one than the first must be 3 % faster.
 * @return as run(), of who has won
 */
int avt_cuda_contend(Backend *be, const Contest *c);

/* ---- cuBLASLt: lt.cu -------------------------------------------------------------------------------------------------------- */

/* out[m, n] = epilogue(x[m, k] w[n, k]^T + bias) or res + x w^T + bias; also the key of its plan */
typedef struct LtProduct {
    int32_t kind, bias;                 // PLAN_LINEAR; bias: 0: none, else 1 + its type
    int32_t x, out;                     // types: x and w are of one, out and res
    int32_t gelu, res;                  // 0 or 1
    int32_t choice, unused;             // place in the heuristics' list, below LT_CHOICES; 0: the key has no holes
    int64_t m, n, k;
    int64_t row;                        // elements from one row of out and res to the next
    int64_t library;                    // bytes of workspace
} LtProduct;

typedef struct LtOperands {
    void *out;
    const void *res, *x, *w, *bias;
    void *workspace;
} LtOperands;

enum { LT_CHOICES = 4 };

/** Addresses are multiples of 16 bytes. @return 0, ENOSYS (quietly) when the library has no such product, or another error */
int avt_cuda_lt_run(Backend *be, const LtProduct *p, const LtOperands *o);
/** Fill avt_cuda_lt_facts(); waits for the device. */
int avt_cuda_lt_ask(Backend *be);

/* ---- cuDNN: dnn_conv.cu, dnn_product.cu --------------------------------------------------------------------------------------- */

/* out[To, Ho, Wo, Cout] = conv3d(x[T, H, W, C]) (+ bias) (+ res), channels last; also the key of its plan */
typedef struct DnnConv {
    int32_t kind;                       // PLAN_CONV
    int32_t x, out;                     // types: x and w, out and res. f32: no engine that rounds its operands down
    int32_t bias, res;                  // 0 or 1
    int32_t pad_t, pad0, pad1, stride_t, stride;
    int32_t engine, unused;             // as DnnWish.engine; 0: the key has no holes
    int64_t in[4];                      // T, H, W, C
    int64_t result[4];                  // To, Ho, Wo, Cout
    int64_t taps[3];                    // kT, kH, kW
    int64_t library;                    // bytes of workspace
} DnnConv;

typedef struct DnnOperands {
    const void *x, *w, *bias, *res;
    void *out, *workspace;
} DnnOperands;

/** Addresses are multiples of 16 bytes. @return 0, ENOSYS when the library has no such plan (told once a shape), or another error */
int avt_cuda_dnn_conv(Backend *be, const DnnConv *c, const DnnOperands *o);

/* A product of bf16 or codes with its finish (product.cuh): x[m, k] w[n, k]^T; also the key of its plan */
typedef struct DnnProduct {
    int32_t kind;                       // PLAN_GRAPH_PRODUCT
    int32_t x, out;                     // types: x and w, out and res
    int32_t bias, gelu, gate, res;      // 0 or 1
    int32_t engine;                     // as DnnWish.engine
    int64_t m, n, k;
    int64_t library;                    // bytes of workspace
} DnnProduct;

struct Finish;
/** out = finish(x w^T). Rows and addresses are multiples of 16 bytes; vectors of 16, too. @return as avt_cuda_dnn_conv() */
int avt_cuda_dnn_product(Backend *be, const DnnProduct *p, const struct Finish *f, const void *x, const void *w, void *workspace);

#endif
