/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernels of attention take: the call, as numbers. */
#ifndef AVT_CUDA_ATTENTION_CUH
#define AVT_CUDA_ATTENTION_CUH

#include "cuda/cuda.h"
#include "cuda/values.cuh"

typedef struct Segment {                // keys and values, [nb, NH, hd]
    const void *k, *v;
    DType dtype, v_dtype;
    int nb;
} Segment;

typedef struct Attention {
    const void *q;                      // [B, n, NH, hd]
    void *out;
    DType q_dtype, out_dtype;
    Segment part[2];                    // the second may have none
    const float *rel;                   // [n + nb - 1, NH] or NULL
    int n, heads, hd;
    int by4;                            // rows of all operands can be read four at a time
    float scale;
} Attention;

/* Of codes: a parameter of its own, for the kernels without would need more registers. */
typedef struct Scales {
    const float *of[2][2];              // a segment's keys, values: [nb, NH]; NULL: they are no codes
    const float *q;                     // [B, n, NH]; or NULL
} Scales;

int avt_cuda_attention_exact(Backend *be, const Attention *a, const Scales *s, int batch);           // attention_exact.cu
int avt_cuda_attention_mma(Backend *be, const Attention *a, const Scales *s, int batch);             // attention.cu: keys and values of bf16, or all of them codes
int avt_cuda_attention_dnn(Backend *be, const OpCall *c, int engine);               // attention_dnn.cu: by an engine as of DnnWish; ENOSYS: not by cuDNN

#endif
