/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bodies of *.inc.h for AVX-512 (F, BW, VL, DQ), and the entries that they win. The gain stands beside each: against plain
 * C, in time of one Zen 5 core, at the sizes of the small and of the published model.
 */
#include "cpu/attention.inc.h"
#include "cpu/conv1d.inc.h"
#include "cpu/conv3d.inc.h"
#include "cpu/norms.inc.h"

void avt_cpu_avx512(Cpu *cpu)
{
    static const struct {
        OpId op;
        CpuOp run;
    } entries[] = {
        { OP_ATTENTION, attention },          // x 5 to 6: 200 GFLOP/s at 192 queries x 3 x 64, 928 keys
        { OP_CONV3D, conv3d },                // over oneDNN: winograd x 3 to 4.4, narrow x 1.05 to 1.2, 3 channels x 2.6
        { OP_CHANNEL_NORM, channel_norm },    // x 6 to 8
        { OP_LAYER_NORM, layer_norm },        // x 2.2 to 3.1, with an activation 6 to 7
        { OP_NORM_ROPE, norm_rope },          // x 1.5 to 2.2
        { OP_ACT, act },                      // x 4 to 11
        { OP_CONV1D, conv1d },                // x 1.9 over AVX2: 150 GFLOP/s of a Xeon's core at 512 to 512 channels
    };

    if (!cpu->conv3d_wide)
        cpu->conv3d_wide = cpu->op[OP_CONV3D];
    for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
        cpu->op[entries[i].op] = entries[i].run;
        cpu->level[entries[i].op] = LEVEL;
    }
}
