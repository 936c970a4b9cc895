/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tensor: dtype, shape, address, backend. Row-major, contiguous, at most five dimensions; a small struct that is
 * passed by value, so that views nest: avt_linear(be, out, avt_rows(x, 0, n), w).
 *
 * A tensor never owns memory: an Arena does. The address means something to its backend only; nothing above the
 * door (kernels.h) reads or writes through it.
 */
#ifndef AVT_TENSOR_H
#define AVT_TENSOR_H

#include <stddef.h>
#include <stdint.h>

typedef enum DType {
    DT_F32, DT_BF16, DT_F16, DT_F8_E4M3, DT_F8_E5M2, DT_F64, DT_I64, DT_I32, DT_U8, DT_I8, DT_NB
} DType;

#define TENSOR_MAX_DIM 5

typedef struct Backend Backend;

typedef struct Tensor {
    Backend *be;
    void *data;                         // NULL: absent
    int64_t dim[TENSOR_MAX_DIM];        // [0] is the slowest
    DType dtype;
    int nd;
    int packed;                         // != 0: a weight in the backend's own order (avt_weight_put), only its own op reads it
    DType act;                          // of a packed weight: the type of the activations that it was put for; of codes: of what they are made of
    void *scale;                        // [rows] f32 on the same backend: values are data * scale of their row; or NULL: 1
} Tensor;

#define AVT_NONE ((Tensor){ 0 })        // an optional operand that is absent

const char *avt_dtype_name(DType t);    // "f32", "bf16", ...
size_t avt_dtype_size(DType t);         // bytes of an element

/** Codes: small numbers that mean something with their row's scale alone, see quantize.h. */
static inline int avt_is_code(DType t)
{
    return t == DT_I8 || t == DT_F8_E4M3;
}

#define CODE_GROUP 256

/** Numbers of a group that quantize.h's R turns in a row of k codes of `type`: 1, it leaves them alone. */
static inline int64_t avt_code_group(DType type, int64_t k)
{
    int64_t g = 1;

    while (type == DT_I8 && g < CODE_GROUP && k % (4 * g) == 0)
        g *= 4;
    return g;
}

/** Elements first .. first + nb - 1 of an array in host memory, of any type and alignment, to f32. Spreads over the cores. */
void avt_to_f32(float *dst, DType dtype, const void *src, int64_t first, int64_t nb);

static inline int64_t avt_last_dim(Tensor t)
{
    return t.nd ? t.dim[t.nd - 1] : 1;
}

/** Product of all dimensions but the last. */
static inline int64_t avt_rows_of(Tensor t)
{
    int64_t n = 1;

    for (int i = 0; i + 1 < t.nd; i++)
        n *= t.dim[i];
    return n;
}

static inline int64_t avt_numel(Tensor t)
{
    return avt_rows_of(t) * avt_last_dim(t);
}

size_t avt_nbytes(Tensor t);            // of the row-major form

/** Shape as text, "[96, 3, 32]"; returns buf. */
const char *avt_shape_text(char *buf, size_t size, int nd, const int64_t *dim);

int avt_same_shape(Tensor a, Tensor b);

/** The scales of codes as a tensor, [rows] f32. */
Tensor avt_scales(Tensor t);

/** Views: no copy; the same memory. Out of range is a caller's mistake and gives AVT_NONE. The scales of rows go along; a shape with
 *  another last dimension has none, so reshaping a scaled tensor to it gives AVT_NONE, too. */
Tensor avt_rows(Tensor t, int64_t first, int64_t nb);                   // slice of dimension 0
Tensor avt_at(Tensor t, int64_t i);                                     // t[i], one dimension fewer
Tensor avt_reshape(Tensor t, int nd, const int64_t *dim);               // same number of elements
#define avt_view(t, ...)                                                                              \
    avt_reshape(t, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[]){ __VA_ARGS__ })

#endif
