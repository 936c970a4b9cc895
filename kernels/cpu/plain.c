/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of plain C: the definition of every op. */
#include "cpu/plain.h"

static const CpuOp plain[OP_NB] = {
    [OP_COPY] = avt_plain_copy,
    [OP_FILL] = avt_plain_fill,
    [OP_LINEAR] = avt_plain_linear,
    [OP_SQUARES] = avt_plain_squares,
    [OP_NORM_ROPE] = avt_plain_norm_rope,
    [OP_CHANNEL_NORM] = avt_plain_channel_norm,
    [OP_LAYER_NORM] = avt_plain_layer_norm,
    [OP_ROPE_TABLE] = avt_plain_rope_table,
    [OP_ROPE] = avt_plain_rope,
    [OP_ATTENTION] = avt_plain_attention,
    [OP_CONV3D] = avt_plain_conv3d,
    [OP_CONV1D] = avt_plain_conv1d,
    [OP_UPSAMPLE] = avt_plain_upsample,
    [OP_ACT] = avt_plain_act,
    [OP_ADD] = avt_plain_add,
    [OP_MUL] = avt_plain_mul,
    [OP_AXPY] = avt_plain_axpy,
    [OP_GATE_ADD] = avt_plain_gate_add,
    [OP_GATHER] = avt_plain_gather,
    [OP_LERP_ROWS] = avt_plain_lerp_rows,
    [OP_LAYER_MIX] = avt_plain_layer_mix,
    [OP_TRANSPOSE] = avt_plain_transpose,
    [OP_PATCHIFY] = avt_plain_patchify,
    [OP_UNPATCHIFY] = avt_plain_unpatchify,
    [OP_CHANNELS_LAST] = avt_plain_channels_last,
    [OP_CHANNELS_FIRST] = avt_plain_channels_first,
    [OP_PICTURE] = avt_plain_picture,
    [OP_COUNT_NONFINITE] = avt_plain_count_nonfinite,
    [OP_PIXELS] = avt_plain_pixels,
    [OP_QUANTIZE] = avt_plain_quantize,
};

void avt_cpu_plain(Cpu *cpu)
{
    for (int i = 0; i < OP_NB; i++) {
        cpu->op[i] = plain[i];
        cpu->op16[i] = avt_cpu_widened;
        cpu->level[i] = "plain";
    }
    cpu->op16[OP_COPY] = plain[OP_COPY];                            // converts by itself
    cpu->op16[OP_UPSAMPLE] = plain[OP_UPSAMPLE];                    // these move numbers of any size
    cpu->op16[OP_TRANSPOSE] = plain[OP_TRANSPOSE];
    cpu->op16[OP_QUANTIZE] = plain[OP_QUANTIZE];                    // reads any activation
    cpu->linear8 = avt_cpu_scaled;
    cpu->attention8 = avt_cpu_widened;
    cpu->level8 = "plain";
    cpu->weight_bytes = avt_plain_weight_bytes;
    cpu->weight_put = avt_plain_weight_put;
}
