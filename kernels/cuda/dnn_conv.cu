/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Convolutions of cuDNN, a plan a shape.
 *
 *      x, w --convolution--> sums --add bias--> --add residual--> out          bf16: one kernel, sums in f32 never leave it
 *      x, w --convolution--> out                                               f32: only engines whose notes promise whole operands
 *
 * A tensor is [1, C, T, H, W] by its dimensions and channels last by its strides; the filter likewise. Padding differs in front and behind,
 * so causal frames and strides with a lopsided border are plain convolutions.
 */
#include "cuda/dnn.cuh"

enum { X, W, BIAS, RES, OUT, SUMS, BIASED };                        // tensors, by the number that their addresses are bound to

/* [n, c, t, h, w] of a tensor whose channels are last */
static DnnPart image(DnnBuilder *b, int64_t uid, int dtype, bool is_virtual, int64_t n, int64_t c, int64_t t, int64_t h, int64_t w)
{
    const int64_t dim[5] = { n, c, t, h, w }, stride[5] = { t * h * w * c, 1, h * w * c, w * c, c };

    return avt_dnn_tensor(b, uid, dtype, is_virtual, 5, dim, stride);
}

static DnnPart convolution(DnnBuilder *b, const DnnConv *c, DnnPart x, DnnPart w, DnnPart y)
{
    const int64_t nb = 3, before[3] = { c->pad_t, c->pad0, c->pad0 }, after[3] = { 0, c->pad1, c->pad1 };
    const int64_t step[3] = { c->stride_t, c->stride, c->stride }, dilation[3] = { 1, 1, 1 };
    const cudnnDataType_t sums = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const double alpha = 1, beta = 0;
    const DnnPart d = avt_dnn_make(b, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    DnnPart op;

    avt_dnn_set(b, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &sums);
    avt_dnn_set(b, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 1, &nb);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, 3, before);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, 3, after);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, 3, step);
    avt_dnn_set_numbers(b, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, 3, dilation);
    avt_dnn_finish(b, d);
    op = avt_dnn_make(b, CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, d);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, x);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, w);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, y);
    avt_dnn_set(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_TYPE_DOUBLE, 1, &alpha);
    avt_dnn_set(b, op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_TYPE_DOUBLE, 1, &beta);
    return avt_dnn_finish(b, op);
}

static DnnPart result_image(DnnBuilder *b, const DnnConv *c, int64_t uid, bool is_virtual)
{
    return image(b, uid, is_virtual ? DT_F32 : c->out, is_virtual, 1, c->result[3], c->result[0], c->result[1], c->result[2]);
}

static DnnPart graph_of(DnnBuilder *b, Cuda *cuda, const void *key)
{
    const DnnConv *c = (const DnnConv *)key;
    const DnnPart x = image(b, X, c->x, false, 1, c->in[3], c->in[0], c->in[1], c->in[2]);
    const DnnPart w = image(b, W, c->x, false, c->result[3], c->in[3], c->taps[0], c->taps[1], c->taps[2]);
    const DnnPart out = result_image(b, c, OUT, false);
    DnnPart sums = c->bias || c->res ? result_image(b, c, SUMS, true) : out, op[3];
    int64_t nb = 0;

    op[nb++] = convolution(b, c, x, w, sums);
    if (c->bias) {
        const DnnPart biased = c->res ? result_image(b, c, BIASED, true) : out;

        op[nb++] = avt_dnn_pointwise(b, CUDNN_POINTWISE_ADD, sums, image(b, BIAS, DT_F32, false, 1, c->result[3], 1, 1, 1), biased);
        sums = biased;
    }
    if (c->res)
        op[nb++] = avt_dnn_pointwise(b, CUDNN_POINTWISE_ADD, sums, result_image(b, c, RES, false), out);
    return avt_dnn_graph(b, cuda, nb, op);
}

static void say_refused(Backend *be, const void *key)
{
    const DnnConv *c = (const DnnConv *)key;

    avt_log(be->log, LOG_WARNING, "%s: cuDNN has no plan for a convolution of %lld x %lld x %lld, %lld to %lld channels, %s: our own is used, which is slow",
            be->device, (long long)c->in[0], (long long)c->in[1], (long long)c->in[2], (long long)c->in[3], (long long)c->result[3],
            avt_dtype_name((DType)c->x));
}

int avt_cuda_dnn_conv(Backend *be, const DnnConv *c, const DnnOperands *o)
{
    const DnnWish wish = { c, sizeof(*c), graph_of, c->x == DT_F32, c->library, c->engine == -1 ? say_refused : NULL, c->engine };
    int64_t uid[5] = { X, W, OUT }, nb = 3;
    void *address[5] = { (void *)o->x, (void *)o->w, o->out };
    DnnPlan *plan;
    const int ret = avt_dnn_plan(be, &plan, &wish);

    if (ret < 0)
        return ret;
    if (c->bias)
        uid[nb] = BIAS, address[nb++] = (void *)o->bias;
    if (c->res)
        uid[nb] = RES, address[nb++] = (void *)o->res;
    return avt_dnn_execute(be, plan, nb, uid, address, o->workspace, "a convolution");
}
