/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The entries that bf16 in tiles wins, and the norms once more, as a CPU with AMX rounds to bf16 in one instruction. The gain stands beside
 * each: of tiles against f32 at level avx512, of norms against bf16 there, in time of one core of a Xeon with AMX.
 */
#include "cpu/amx.h"
#include "cpu/codes8.h"
#include "cpu/norms.inc.h"

void avt_cpu_amx(Cpu *cpu)
{
    static const CpuEntry entries[] = {
        { OP_ATTENTION, avt_amx_attention, FOR_BF16 }, // x 5 to 8: 620 to 1000 GFLOP/s
        { OP_LINEAR, avt_amx_linear, FOR_BF16 },       // x 6 to 7: 1000 to 1500 GFLOP/s
        { OP_CONV3D, avt_amx_conv3d, FOR_BF16 },       // over winograd.inc.h x 2 (16, 32 channels) to 3.5 (64): 900 to 1700 GFLOP/s
        { OP_CONV1D, avt_amx_conv1d, FOR_BF16 },       // x 6 to 7, of the position conv 12: 1000 to 1900 GFLOP/s
        { OP_CHANNEL_NORM, channel_norm, FOR_BF16 },   // x 1.3 at 16 and 32 channels with silu
        { OP_LAYER_NORM, layer_norm, FOR_BF16 },
        { OP_NORM_ROPE, norm_rope, FOR_BF16 },
        { OP_SQUARES, squares, FOR_BF16 },
    };

    avt_cpu_enter(cpu, "amx", entries, sizeof(entries) / sizeof(entries[0]));
    if (avt_cpu_has_amx8()) {
        cpu->linear8 = avt_amx_linear8;
        cpu->level8 = "amx";
        cpu->weight_bytes8 = avt_codes8_weight_bytes;
        cpu->weight_put8 = avt_codes8_weight_put;
    }
    cpu->weight_bytes16 = avt_amx_weight_bytes;
    cpu->weight_put16 = avt_amx_weight_put;
}
