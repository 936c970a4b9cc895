/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conv3d, conv1d: channels last, weights [Cout][taps][Cin], so that a convolution is a product whose rows are gathered:
 *
 *      out[pixel, n] = sum over k = (tap, channel) of x[pixel's place + tap, channel] w[n, k]
 *
 *      conv3d frames    | pad_t zeros | prev | x |            both tensors are read where they lie
 *      conv1d           zeros or the edge's value in front and behind; a group has channels and columns of its own
 *
 * conv3d goes to cuDNN where that has a plan (dnn.cu), else, as all of conv1d, to our own product: right for every type, shape and
 * alignment, exact in f32, and slow for large networks.
 */
#include <stdio.h>

#include "cuda/plans.h"
#include "cuda/product.cuh"

/* ---- rows out of pixels ------------------------------------------------------------------------------------------------------------ */

/* What lies under the kernel for an output pixel, a row of kT kH kW C numbers */
typedef struct Pixels {
    const void *x, *prev;
    DType dtype;
    int nb, nb_prev;                    // output pixels; frames in front
    int H, W, C, out_h, out_w;
    int kh, kw, k;
    ConvSpec spec;
    int by4;

    struct Cursor { int t, y, x; bool in; };                        // of the first tap, frames counted from prev's first

    __device__ __forceinline__ Cursor open(int m, int) const
    {
        const int frame = m / (out_h * out_w), pixel = m - frame * out_h * out_w, row = pixel / out_w;

        return { frame * spec.stride_t - spec.pad_t, row * spec.stride - spec.pad0, (pixel - row * out_w) * spec.stride - spec.pad0, m < nb };
    }

    /* Bits of 1 or 4 numbers of the row, from number i on; zeros outside the picture */
    template <bool FOUR> __device__ __forceinline__ uint4 bits(const Cursor &c, int i) const
    {
        const int tap = i / C, t = c.t + tap / (kh * kw), y = c.y + tap / kw % kh, col = c.x + tap % kw;
        const void *p = t < nb_prev ? prev : x;
        const size_t at = (((size_t)(t < nb_prev ? t : t - nb_prev) * H + y) * W + col) * C + (i - tap * C);

        if (i >= k || t < 0 || y < 0 || y >= H || col < 0 || col >= W)
            return make_uint4(0, 0, 0, 0);
        return FOUR ? load4_bits(p, dtype, at) : make_uint4(load_bits(p, dtype, at), 0, 0, 0);
    }

    __device__ __forceinline__ float4 read(const Cursor &c, int i) const
    {
        if (!c.in)
            return make_float4(0, 0, 0, 0);
        if (by4)
            return values_of_bits(bits<true>(c, i), dtype);
        return values_of_bits(make_uint4(bits<false>(c, i).x, bits<false>(c, i + 1).x, bits<false>(c, i + 2).x, bits<false>(c, i + 3).x), dtype);
    }
} Pixels;

/* The same along time, for a group of channels */
typedef struct Sound {
    const void *x;
    DType dtype;
    int nb, T, C, group_c, k;           // output rows; input rows; channels, and those of a group
    Conv1dSpec spec;
    int by4;

    struct Cursor { int t, first; bool in; };

    __device__ __forceinline__ Cursor open(int m, int group) const { return { m * spec.stride - spec.pad0, group * group_c, m < nb }; }

    template <bool FOUR> __device__ __forceinline__ uint4 bits(const Cursor &c, int i) const
    {
        const int tap = i / group_c, t = c.t + tap, there = t < 0 ? 0 : t >= T ? T - 1 : t;
        const size_t at = (size_t)there * C + c.first + (i - tap * group_c);

        if (i >= k || (t != there && !spec.replicate))
            return make_uint4(0, 0, 0, 0);
        return FOUR ? load4_bits(x, dtype, at) : make_uint4(load_bits(x, dtype, at), 0, 0, 0);
    }

    __device__ __forceinline__ float4 read(const Cursor &c, int i) const
    {
        if (!c.in)
            return make_float4(0, 0, 0, 0);
        if (by4)
            return values_of_bits(bits<true>(c, i), dtype);
        return values_of_bits(make_uint4(bits<false>(c, i).x, bits<false>(c, i + 1).x, bits<false>(c, i + 2).x, bits<false>(c, i + 3).x), dtype);
    }
} Sound;

/* ---- ops ----------------------------------------------------------------------------------------------------------------------------- */

static Pixels pixels_of(const OpCall *c)
{
    const Tensor x = c->conv.x, prev = c->conv.prev;
    const int64_t *w = c->conv.w.dim;
    Pixels p = {};

    p.x = x.data;
    p.prev = prev.data;
    p.dtype = x.dtype;
    p.nb = (int)avt_rows_of(c->out);
    p.nb_prev = prev.be ? (int)prev.dim[0] : 0;
    p.H = (int)x.dim[1];
    p.W = (int)x.dim[2];
    p.C = (int)x.dim[3];
    p.out_h = (int)c->out.dim[1];
    p.out_w = (int)c->out.dim[2];
    p.kh = (int)w[3];
    p.kw = (int)w[4];
    p.k = (int)(w[1] * w[2] * w[3] * w[4]);
    p.spec = c->u.conv;
    p.by4 = can_load4(x.data, x.dtype, x.dim[3]) && can_load4(prev.data, x.dtype, x.dim[3]);
    return p;
}

static int conv3d_by_hand(Backend *be, const OpCall *c)
{
    const Pixels p = pixels_of(c);
    const int64_t cout = c->conv.w.dim[0];
    const Finish f = { c->out.data, c->conv.res.data, (const float *)c->conv.b.data, NULL, cout, c->out.dtype, ACT_NONE, NULL, NULL };

    return run_product(be, p, rows_of(c->conv.w.data, c->conv.w.dtype, cout, p.k), f, p.nb, cout, p.k, 1);
}

/* Frames in one piece: they lie so, or are copied together. */
static int join_frames(Backend *be, const OpCall *c, char *room, const void **frames)
{
    const Tensor x = c->conv.x, prev = c->conv.prev;
    const size_t size = prev.be ? avt_nbytes(prev) : 0;
    const cudaStream_t stream = avt_cuda(be)->stream;
    int ret;

    *frames = prev.be ? prev.data : x.data;
    if (!prev.be || (const char *)prev.data + size == (const char *)x.data)
        return 0;
    *frames = room;
    ret = avt_cuda_check(be, cudaMemcpyAsync(room, prev.data, size, cudaMemcpyDeviceToDevice, stream), "joining frames");
    return ret < 0 ? ret : avt_cuda_check(be, cudaMemcpyAsync(room + size, x.data, avt_nbytes(x), cudaMemcpyDeviceToDevice, stream), "joining frames");
}

static DnnConv shape_of(const OpCall *c, int engine)
{
    const Tensor x = c->conv.x, out = c->out;
    const ConvSpec spec = c->u.conv;
    DnnConv s = {};

    s.kind = PLAN_CONV;
    s.engine = engine;
    s.x = x.dtype;
    s.out = out.dtype;
    s.bias = x.dtype == DT_BF16 && c->conv.b.be;
    s.res = x.dtype == DT_BF16 && c->conv.res.be;
    s.pad_t = spec.pad_t, s.pad0 = spec.pad0, s.pad1 = spec.pad1, s.stride_t = spec.stride_t, s.stride = spec.stride;
    for (int i = 0; i < 4; i++)
        s.in[i] = x.dim[i], s.result[i] = out.dim[i];
    s.in[0] += c->conv.prev.be ? c->conv.prev.dim[0] : 0;
    for (int i = 0; i < 3; i++)
        s.taps[i] = c->conv.w.dim[2 + i];
    return s;
}

/* In f32 the engines that are exact fuse nothing: bias and residual are a finish of our own. */
static int conv3d_by_library(Backend *be, const OpCall *c, int engine)
{
    const ConvSpace space = avt_cuda_conv_space(c);
    char *frames = (char *)avt_cuda(be)->workspace + space.library, *weight = frames + space.frames, *result = weight + space.weight;
    const Finish f = { c->out.data, c->conv.res.data, (const float *)c->conv.b.data, NULL, c->conv.w.dim[0], c->out.dtype, ACT_NONE, NULL, NULL };
    DnnConv s = shape_of(c, engine);
    DnnOperands o = { NULL, c->conv.w.data, f.bias, f.res, space.result ? result : c->out.data, avt_cuda(be)->workspace };
    int ret = join_frames(be, c, frames, &o.x);

    s.library = (int64_t)space.library;
    if (ret >= 0 && space.weight) {
        ret = avt_cuda_convert(be, weight, c->conv.x.dtype, c->conv.w.data, c->conv.w.dtype, avt_numel(c->conv.w));
        o.w = weight;
    }
    if (ret >= 0)
        ret = avt_cuda_dnn_conv(be, &s, &o);
    if (ret < 0 || s.x == DT_BF16 || (!f.bias && !f.res))
        return ret;
    return avt_cuda_finish(be, o.out, DT_F32, &f, avt_rows_of(c->out), c->conv.w.dim[0]);
}

static int library_takes(const OpCall *c)
{
    return avt_cuda_conv_suits(c) && avt_cuda_is_aligned(c) && (c->conv.w.dtype == c->conv.x.dtype || avt_numel(c->conv.w) % 4 == 0);
}

static int by_choice(Backend *be, const OpCall *c, const CudaChoice *by)
{
    return conv3d_by_library(be, c, by->number);
}

/* ---- contests ------------------------------------------------------------------------------------------------------------------------ */

static void write_shape(char *text, size_t size, const DnnConv *s)
{
    snprintf(text, size, "conv %lldx%lldx%lldx%lld to %lldx%lldx%lldx%lld, %lldx%lldx%lld %s %s%s%s", (long long)s->in[0], (long long)s->in[1],
             (long long)s->in[2], (long long)s->in[3], (long long)s->result[0], (long long)s->result[1], (long long)s->result[2],
             (long long)s->result[3], (long long)s->taps[0], (long long)s->taps[1], (long long)s->taps[2], avt_dtype_name((DType)s->x),
             avt_dtype_name((DType)s->out), s->bias ? " bias" : "", s->res ? " residual" : "");
}

/* cuDNN's own order first. In bf16 it lists few, and on Hopper the one of the card's own instructions is had by its number alone; in f32 those
 * that it lists round to TF32, and the exact ones, which their notes must show, are had by numbers. */
static int entrants(CudaChoice *e, const OpCall *c, int arch)
{
    static const int bf16[] = { -1, -2, -3 }, f32[] = { -1, 28, 11, 70, 0 };
    const bool exact = c->conv.x.dtype == DT_F32;
    int nb = 0;

    for (int i = 0; i < (exact ? 5 : 3); i++)
        e[nb++] = { BY_DNN, exact ? f32[i] : bf16[i] };
    if (!exact && arch == 90)
        e[nb++] = { BY_DNN, 2 };
    return nb;
}

/* The call, so that it may be run again and again: a result that is the residual, too, goes behind what the call has of the workspace. */
static bool can_repeat(Backend *be, OpCall *again, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const size_t own = (size_t)avt_cuda_workspace(c, cuda->arch);
    const bool in_place = c->conv.res.data == c->out.data;

    *again = *c;
    if (in_place)
        again->out.data = (char *)cuda->workspace + own;
    return !in_place || own + avt_nbytes(c->out) <= cuda->workspace_size;
}

/* By who has won for its shape. @return ENOSYS: no contest is held for it */
static int by_contest(Backend *be, const OpCall *c)
{
    DnnConv shape = shape_of(c, -1);
    const double sums = (double)shape.in[3] * (double)(shape.taps[0] * shape.taps[1] * shape.taps[2]);
    const CudaChoice *won;
    CudaChoice entrant[ENTRANTS_MOST];
    OpCall again;
    char text[160];

    shape.kind = PLAN_CONV_CHOICE;
    won = avt_cuda_choice(be, &shape, sizeof(shape));
    if (won)
        return by_choice(be, c, won);
    if (2 * sums * (double)avt_numel(c->out) < be->tuned->least || !can_repeat(be, &again, c))
        return AVT_ERR(ENOSYS);
    write_shape(text, sizeof(text), &shape);
    const Contest contest = { &shape, sizeof(shape), text, entrant, entrants(entrant, c, avt_cuda(be)->arch), by_choice, c, &again };
    return avt_cuda_contend(be, &contest);
}

int avt_cuda_conv3d(Backend *be, const OpCall *c)
{
    int ret = AVT_ERR(ENOSYS);

    if (!avt_numel(c->out))
        return 0;
    if (library_takes(c)) {
        if (be->tuned)
            ret = by_contest(be, c);
        if (ret == AVT_ERR(ENOSYS))
            ret = conv3d_by_library(be, c, -1);
    }
    return ret == AVT_ERR(ENOSYS) ? conv3d_by_hand(be, c) : ret;
}

int avt_cuda_conv1d(Backend *be, const OpCall *c)
{
    const Tensor x = c->conv1d.x;
    const Conv1dSpec spec = c->u.conv1d;
    const int64_t *w = c->conv1d.w.dim, nb = c->out.dim[0], k = w[1] * w[2];
    const Sound s = { x.data, x.dtype, (int)nb, (int)x.dim[0], (int)x.dim[1], (int)w[1], (int)k, spec,
                      can_load4(x.data, x.dtype, x.dim[1]) && w[1] % 4 == 0 };
    const Finish f = { c->out.data, NULL, (const float *)c->conv1d.b.data, NULL, w[0], c->out.dtype, spec.act, NULL, NULL };

    if (!avt_numel(c->out))
        return 0;
    return run_product(be, s, rows_of(c->conv1d.w.data, c->conv1d.w.dtype, w[0], k), f, nb, w[0] / spec.groups, k, spec.groups);
}
