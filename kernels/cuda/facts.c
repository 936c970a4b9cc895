/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a CUDA device takes, by arithmetic: a Backend of it opens for planning on a machine without a driver, and runs nothing.
 *
 *   weights     row-major, a convolution's [Cout][taps][Cin]: what meets bf16 in bf16, other matrices as the file has them, vectors in f32
 *   workspace   space.h
 */
#include <string.h>

#include "cuda/space.h"
#include "kernels.h"

#define PLANNED_ARCH 90                 // products want most workspace from sm_90 on

static DType kept_dtype(WeightUse use, DType act, DType dtype)
{
    if (use != WEIGHT_PLAIN && act == DT_BF16 && dtype != DT_F8_E4M3 && dtype != DT_F8_E5M2)
        return DT_BF16;
    return use != WEIGHT_PLAIN && dtype <= DT_F8_E5M2 ? dtype : DT_F32;
}

static size_t cuda_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    Tensor t = { .dtype = kept_dtype(use, act, dtype), .nd = nd };

    (void)be;
    memcpy(t.dim, dim, sizeof(dim[0]) * (size_t)nd);
    return avt_nbytes(t);
}

static int cuda_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src)
{
    (void)be;
    dst->dtype = kept_dtype(use, dst->act, dtype);
    return src ? AVT_ERR(ENOSYS) : 0;
}

static int64_t cuda_workspace(Backend *be, const OpCall *c)
{
    (void)be;
    return avt_cuda_workspace(c, PLANNED_ARCH);
}

static int64_t cuda_memory_left(Backend *be)
{
    (void)be;
    return -1;
}

static void *no_memory(Backend *be, size_t size)
{
    (void)be, (void)size;
    return NULL;
}

static void cuda_close(Backend *be)
{
    (void)be;
}

int avt_backend_cuda_facts_open(Backend *be)
{
    static const BackendClass cls = {
        .name = "cuda",
        .alloc = no_memory,
        .memory_left = cuda_memory_left,
        .workspace = cuda_workspace,
        .weight_bytes = cuda_weight_bytes,
        .weight_put = cuda_weight_put,
        .close = cuda_close,
    };

    be->cls = &cls;
    return 0;
}
