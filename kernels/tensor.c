/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shapes and views. See tensor.h. */
#include <stdio.h>
#include <string.h>

#include "tensor.h"

static const struct {
    const char *name;
    size_t size;
} dtypes[DT_NB] = {
    [DT_F32]     = { "f32", 4 },     [DT_BF16]    = { "bf16", 2 },    [DT_F16] = { "f16", 2 },
    [DT_F8_E4M3] = { "f8_e4m3", 1 }, [DT_F8_E5M2] = { "f8_e5m2", 1 }, [DT_F64] = { "f64", 8 },
    [DT_I64]     = { "i64", 8 },     [DT_I32]     = { "i32", 4 },     [DT_U8]  = { "u8", 1 },
    [DT_I8]      = { "i8", 1 },
};

const char *avt_dtype_name(DType t)
{
    return dtypes[t].name;
}

size_t avt_dtype_size(DType t)
{
    return dtypes[t].size;
}

size_t avt_nbytes(Tensor t)
{
    return (size_t)avt_numel(t) * avt_dtype_size(t.dtype);
}

const char *avt_shape_text(char *buf, size_t size, int nd, const int64_t *dim)
{
    size_t n = (size_t)snprintf(buf, size, "[");

    for (int i = 0; i < nd && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, i ? ", %lld" : "%lld", (long long)dim[i]);
    if (n < size)
        snprintf(buf + n, size - n, "]");
    return buf;
}

int avt_same_shape(Tensor a, Tensor b)
{
    return a.nd == b.nd && !memcmp(a.dim, b.dim, sizeof(a.dim[0]) * (size_t)a.nd);
}

Tensor avt_scales(Tensor t)
{
    return (Tensor){ .be = t.be, .data = t.scale, .dtype = DT_F32, .nd = 1, .dim = { avt_rows_of(t) } };
}

Tensor avt_rows(Tensor t, int64_t first, int64_t nb)
{
    int64_t rows = 1;                                               // of scales in each of t's

    if (t.nd < 1 || t.packed || first < 0 || nb < 0 || first > t.dim[0] - nb || (t.scale && t.nd < 2))
        return AVT_NONE;
    for (int i = 1; i + 1 < t.nd; i++)
        rows *= t.dim[i];
    if (t.data)
        t.data = (char *)t.data + (size_t)(first * rows * (t.nd > 1 ? t.dim[t.nd - 1] : 1)) * avt_dtype_size(t.dtype);
    if (t.scale)
        t.scale = (float *)t.scale + first * rows;
    t.dim[0] = nb;
    return t;
}

Tensor avt_at(Tensor t, int64_t i)
{
    t = avt_rows(t, i, 1);
    if (t.nd < 1)
        return AVT_NONE;
    t.nd--;
    memmove(t.dim, t.dim + 1, sizeof(t.dim[0]) * (size_t)t.nd);
    return t;
}

Tensor avt_reshape(Tensor t, int nd, const int64_t *dim)
{
    int64_t n = 1;

    if (nd < 0 || nd > TENSOR_MAX_DIM || t.packed)
        return AVT_NONE;
    for (int i = 0; i < nd; i++)
        n *= dim[i];
    if (n != avt_numel(t) || (t.scale && (!nd || dim[nd - 1] != avt_last_dim(t))))
        return AVT_NONE;
    t.nd = nd;
    memset(t.dim, 0, sizeof(t.dim));
    memcpy(t.dim, dim, sizeof(dim[0]) * (size_t)nd);
    return t;
}
