/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a CUDA device wants for a call besides its operands, by arithmetic: the plan's figure and run()'s limit are one number. No
 * header of CUDA here: a plan is made on machines without any.
 *
 *   product      [ cuBLASLt's own | rows of a weight, widened | rows of x, widened | rows of sums, before a finish of our own ]
 *   attention    [ cuDNN's own | result of each segment, logs of its sums ]
 *   codes        [ what the op wants for its numbers | the numbers ]
 *   convolution  [ cuDNN's own | frames, cached and new, in one piece | the weight, widened | the result in f32, before a residual ]
 *
 * Each part begins at a multiple of 256 bytes. What a library cannot take by its shape goes to our own kernel, which wants nothing.
 */
#ifndef AVT_CUDA_SPACE_H
#define AVT_CUDA_SPACE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels.h"

typedef struct LinearSpace {
    size_t library;
    size_t weight, x, result;           // bytes; 0: not wanted. At least eight rows of each, or all, else as many as fit a limit
} LinearSpace;

typedef struct ConvSpace {
    size_t library, frames, weight, result;
} ConvSpace;

/** Does cuBLASLt take the shape? Rows of x, w and out are multiples of 16 bytes. */
int avt_cuda_linear_suits(const OpCall *c);
LinearSpace avt_cuda_linear_space(const OpCall *c, int arch);

#define ATTENTION_LIBRARY ((size_t)128 << 10)           // cuDNN's plans want 256 bytes on sm_90, none elsewhere; what it is asked first takes the rest

typedef struct AttentionSpace {
    size_t library, result, logs;       // result, logs: of a segment, where there are two
} AttentionSpace;

/** Does cuDNN take the shape and the types? */
int avt_cuda_attention_suits(const OpCall *c);
AttentionSpace avt_cuda_attention_space(const OpCall *c);

/** Does cuDNN take the shape and the types? */
int avt_cuda_conv_suits(const OpCall *c);
ConvSpace avt_cuda_conv_space(const OpCall *c);

/** Bytes of workspace of a call on an architecture (80, 86, 89, 90, 100, 120). */
int64_t avt_cuda_workspace(const OpCall *c, int arch);

#ifdef __cplusplus
}
#endif

#endif
