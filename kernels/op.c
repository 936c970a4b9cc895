/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A call of an op by itself: its name, its products, what it costs, its tolerance. In the library and in the plugin of CUDA. */
#include <math.h>

#include "kernels.h"

static const char *const op_names[OP_NB] = {
    "copy", "fill", "linear", "linear_group", "squares", "norm_rope", "channel_norm", "layer_norm", "rope_table", "rope",
    "attention", "conv3d", "conv1d", "upsample", "act", "add", "mul", "axpy", "gate_add", "gather", "lerp_rows", "layer_mix", "transpose",
    "patchify", "unpatchify", "channels_last", "channels_first", "picture", "count_nonfinite", "pixels",
    "quantize",
};

const char *avt_op_name(OpId op)
{
    return op_names[op];
}

OpCall avt_op_numbers(const OpCall *c, void *data)
{
    OpCall numbers = *c;

    numbers.out.data = data;
    numbers.out.dtype = c->out.act;
    numbers.out.scale = NULL;
    return numbers;
}

OpCall avt_op_codes(const OpCall *c, Tensor numbers)
{
    return (OpCall){ .op = OP_QUANTIZE, .out = c->out, .in = { numbers } };
}

OpCall avt_op_product(const OpCall *c, int i)
{
    return (OpCall){ .op = OP_LINEAR, .out = i ? c->more[i - 1] : c->out, .in = { c->group.x, c->group.w[i], c->group.b[i] } };
}

void avt_op_cost(const OpCall *c, double *flops, double *bytes)
{
    const double n = (double)avt_numel(c->out);
    const int batched = c->out.nd == 4;

    *flops = 0;
    *bytes = (double)avt_nbytes(c->out);
    for (int i = 0; i < OP_MAX_OUT - 1; i++)
        if (c->more[i].be)
            *bytes += (double)avt_nbytes(c->more[i]);
    for (int i = 0; i < OP_MAX_IN; i++)
        if (c->in[i].be)
            *bytes += (double)avt_nbytes(c->in[i]);
    switch (c->op) {
    case OP_LINEAR:
        *flops = 2 * n * (double)c->linear.w.dim[1];
        break;
    case OP_LINEAR_GROUP:
        for (int i = 0; i < OP_MAX_OUT; i++)
            if (c->group.w[i].be)
                *flops += 2 * (double)avt_rows_of(c->group.x) * (double)avt_numel(c->group.w[i]);
        break;
    case OP_CONV3D:
        *flops = 2 * n * (double)avt_numel(c->conv.w) / (double)c->conv.w.dim[0];
        break;
    case OP_CONV1D:
        *flops = 2 * n * (double)avt_numel(c->conv1d.w) / (double)c->conv1d.w.dim[0];
        break;
    case OP_ATTENTION:
        *flops = 4 * n * (double)(c->attention.k1.dim[batched] + (c->attention.k2.be ? c->attention.k2.dim[batched] : 0));
        break;
    case OP_SQUARES:
        *flops = 2 * (double)avt_numel(c->x);
        break;
    case OP_COPY: case OP_FILL: case OP_GATHER: case OP_TRANSPOSE: case OP_PATCHIFY: case OP_UNPATCHIFY: case OP_UPSAMPLE:
        break;
    default:
        *flops = 4 * n;
    }
}

/* Of a call whose numbers are all f32. */
static float tolerance_f32(const OpCall *c)
{
    const int64_t *w;

    switch (c->op) {
    case OP_LINEAR:
        return 2e-6f * sqrtf((float)c->linear.w.dim[1]);
    case OP_LINEAR_GROUP:
        return 2e-6f * sqrtf((float)avt_last_dim(c->group.x));
    case OP_CONV3D:
        w = c->conv.w.dim;
        return 2e-6f * sqrtf((float)(w[1] * w[2] * w[3] * w[4]));
    case OP_CONV1D:
        w = c->conv1d.w.dim;
        return 2e-6f * sqrtf((float)(w[1] * w[2]));
    case OP_ATTENTION:
        return c->attention.k1.dtype == DT_F32 ? 5e-6f : 0x1p-7f;
    case OP_LAYER_NORM: case OP_NORM_ROPE: case OP_SQUARES: case OP_ACT:
        return 2e-6f;
    case OP_CHANNEL_NORM: case OP_ROPE: case OP_AXPY: case OP_GATE_ADD: case OP_LERP_ROWS: case OP_LAYER_MIX:
        return 1e-6f;
    case OP_ROPE_TABLE: case OP_ADD: case OP_MUL: case OP_CHANNELS_LAST: case OP_CHANNELS_FIRST:
        return 1e-7f;
    default:
        return 0;
    }
}

float avt_op_tolerance(const OpCall *c)
{
    const float tol = tolerance_f32(c);

    return tol > 0 && c->out.dtype == DT_BF16 ? tol + 0x1p-8f : tol;
}
