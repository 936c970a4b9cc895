/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a CUDA device keeps of a weight: see facts.h. In the library and in the plugin. */
#include <stdlib.h>
#include <string.h>

#include "cuda/facts.h"

int avt_cuda_archs_serve(const char *archs, int arch)
{
    char *end;

    for (; *archs; archs = end + strspn(end, " ")) {
        const int built = (int)strtol(archs, &end, 10);
        const char letter = *end;

        end += strcspn(end, " ");
        if (built == arch || (built < arch && (letter == 'f' ? built / 10 == arch / 10 : letter != 'a')))
            return 1;
    }
    return 0;
}

/* What is bf16 and meets f32 is widened as it is used, since matrices are large; the filters of pictures are not, and are kept as they are
 * used: what a plan, which has seen no file, counts on. */
DType avt_cuda_weight_dtype(WeightUse use, DType act, DType dtype)
{
    if (avt_is_code(act))
        return act;
    return use != WEIGHT_PLAIN && (act == DT_BF16 || (use != WEIGHT_CONV3D && dtype == DT_BF16)) ? DT_BF16 : DT_F32;
}

size_t avt_cuda_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim)
{
    Tensor t = { .dtype = avt_cuda_weight_dtype(use, act, dtype), .nd = nd };

    (void)be;
    memcpy(t.dim, dim, sizeof(dim[0]) * (size_t)nd);
    return avt_nbytes(t);
}
