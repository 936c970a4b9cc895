/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Workspace of a call on a CUDA device. Source of the libraries' figures: cuBLAS 13.1, cuDNN 9.19, see space.h. */
#include "cuda/space.h"

#define MIB ((size_t)1 << 20)
#define LINEAR_LIMIT (64 * MIB)         // of widened rows, and of rows in f32: a block of 704x384 with a gate is one piece
#define ATTENTION_HEAD  128             // width that its fast kernels are made for
#define ATTENTION_LEAST (1 << 16)       // scores of a head that are worth a plan, which takes a second to compile
#define CONV_LIBRARY (64 * MIB)         // the most that a plan of cuDNN may want; the exact f32 engine wants 16 MiB at 384 channels

static size_t padded(size_t n)
{
    return (n + 255) / 256 * 256;
}

/* As many rows as fit the limit, at least eight. */
static size_t rows_within(int64_t rows, size_t row)
{
    const int64_t most = row ? (int64_t)(LINEAR_LIMIT / row) : rows;

    return padded((size_t)(rows < most || rows < 8 ? rows : most > 8 ? most : 8) * row);
}

static int aligned_row(int64_t n, DType dtype)
{
    return n > 0 && (size_t)n * avt_dtype_size(dtype) % 16 == 0;
}

int avt_cuda_linear_suits(const OpCall *c)
{
    const int64_t n = c->linear.w.dim[0], k = c->linear.w.dim[1];

    return aligned_row(k, c->linear.x.dtype) && aligned_row(n, avt_op_numbers_type(c));
}

LinearSpace avt_cuda_linear_space(const OpCall *c, int arch)
{
    const int64_t n = c->linear.w.dim[0], k = c->linear.w.dim[1];
    const DType x = c->linear.x.dtype;
    const int codes = avt_is_code(x), no_e4m3 = x == DT_F8_E4M3 && arch < 89;
    const int rounds = avt_op_numbers_type(c) == DT_BF16, own_finish = codes || c->u.act != ACT_NONE || c->linear.gate.be || c->linear.b.be;    // perhaps
    LinearSpace s = { 0 };

    if (!avt_cuda_linear_suits(c))
        return s;
    s.library = (arch >= 90 ? 32 : 4) * MIB;
    if (c->linear.w.dtype != x || no_e4m3)
        s.weight = rows_within(n, (size_t)k * avt_dtype_size(no_e4m3 ? DT_BF16 : x));
    if (no_e4m3)
        s.x = rows_within(avt_rows_of(c->out), (size_t)k * avt_dtype_size(DT_BF16));
    if ((rounds && (own_finish || x == DT_F32)) || (c->linear.res.be && own_finish))
        s.result = rows_within(avt_rows_of(c->out), (size_t)n * sizeof(float));
    return s;
}

int avt_cuda_attention_suits(const OpCall *c)
{
    const Tensor q = c->attention.q, k1 = c->attention.k1, k2 = c->attention.k2;

    return q.nd == 3 && q.dim[2] == ATTENTION_HEAD && q.dtype == DT_BF16 && c->out.dtype == DT_BF16 && k1.dtype == DT_BF16 &&
           (!k2.be || k2.dtype == DT_BF16) && !c->attention.v1.scale && !c->attention.v2.scale && !c->attention.rel.be && c->u.attention.scale > 0 && q.dim[0] * k1.dim[0] >= ATTENTION_LEAST;
}

AttentionSpace avt_cuda_attention_space(const OpCall *c)
{
    AttentionSpace s = { .library = ATTENTION_LIBRARY };

    if (c->attention.k2.be) {
        s.result = padded(avt_nbytes(c->out));
        s.logs = padded((size_t)(c->out.dim[0] * c->out.dim[1]) * sizeof(float));
    }
    return s;
}

int avt_cuda_conv_suits(const OpCall *c)
{
    return c->conv.x.dtype == DT_BF16 || c->out.dtype == DT_F32;
}

ConvSpace avt_cuda_conv_space(const OpCall *c)
{
    ConvSpace s = { 0 };

    if (!avt_cuda_conv_suits(c))
        return s;
    s.library = CONV_LIBRARY;
    if (c->conv.prev.be)
        s.frames = padded(avt_nbytes(c->conv.prev) + avt_nbytes(c->conv.x));
    if (c->conv.w.dtype != c->conv.x.dtype)
        s.weight = padded((size_t)avt_numel(c->conv.w) * avt_dtype_size(c->conv.x.dtype));
    if (c->conv.x.dtype == DT_F32 && c->conv.res.be)
        s.result = padded(avt_nbytes(c->out));
    return s;
}

/* The products of a group come one after another. */
static int64_t group_workspace(const OpCall *c, int arch)
{
    int64_t most = 0;

    for (int i = 0; i < OP_MAX_OUT && c->group.w[i].be; i++) {
        const OpCall one = avt_op_product(c, i);
        const int64_t size = avt_cuda_workspace(&one, arch);

        most = size > most ? size : most;
    }
    return most;
}

int64_t avt_cuda_workspace(const OpCall *c, int arch)
{
    const LinearSpace l = c->op == OP_LINEAR ? avt_cuda_linear_space(c, arch) : (LinearSpace){ 0 };
    const ConvSpace v = c->op == OP_CONV3D ? avt_cuda_conv_space(c) : (ConvSpace){ 0 };

    if (avt_op_gives_codes(c)) {
        const OpCall numbers = avt_op_numbers(c, NULL);

        return avt_cuda_workspace(&numbers, arch) + (int64_t)padded(avt_nbytes(numbers.out));
    }
    if (c->op == OP_LINEAR_GROUP)
        return group_workspace(c, arch);
    if (c->op == OP_ATTENTION && avt_cuda_attention_suits(c)) {
        const AttentionSpace a = avt_cuda_attention_space(c);

        return (int64_t)(a.library + 2 * (a.result + a.logs));
    }
    return (int64_t)(l.library + l.weight + l.x + l.result + v.library + v.frames + v.weight + v.result);
}
