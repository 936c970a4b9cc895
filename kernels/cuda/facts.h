/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a CUDA device takes, by arithmetic: the one truth of the plan, made on machines without a driver, and of the backend. No CUDA
 * header. The workspace of an op is in space.h.
 *
 * Weights are row-major, f32 or bf16:
 *   vectors, tables     f32
 *   what meets bf16     bf16
 *   what meets f32      bf16 where the file has bf16 (a value of it is one of f32), else f32
 *   what meets codes    codes, row-major, the scales of its rows behind them
 *   linear [N, K]       as they are
 *   conv3d, conv1d      channels last: [Cout, kT, kH, kW, Cin], [Cout, k, Cin / groups]; Tensor.dim stays the door's [Cout, Cin, ...]
 */
#ifndef AVT_CUDA_FACTS_H
#define AVT_CUDA_FACTS_H

#ifdef __cplusplus
extern "C" {
#endif

#include "backend.h"

#define CUDA_PLAN_ARCH 90               // planned for where no driver tells: none takes more workspace (but those without e4m3, of its products)
#define CUDA_CHUNK     ((size_t)2 << 20)
#define CUDA_CHUNKS    8
#define CUDA_STAGING   (CUDA_CHUNK * CUDA_CHUNKS)       // pinned bytes of a queue that has brought something

/** Have kernels that were built for `archs`, as configure writes them ("80 86 90a 100"), code for a card of compute capability `arch`? A number alone: machine
 *  code of that card and PTX, which the driver of a newer one compiles. With an a: of that card alone; with an f: of its generation from it on. */
int avt_cuda_archs_serve(const char *archs, int arch);

/** Type in which a weight is kept for activations of type `act`. */
DType avt_cuda_weight_dtype(WeightUse use, DType act, DType dtype);

/** As BackendClass.weight_bytes. */
size_t avt_cuda_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);

#ifdef __cplusplus
}
#endif

#endif
