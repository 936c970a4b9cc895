/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bodies of *.inc.h for AVX-512 (F, BW, VL, DQ), and the entries that they win. The gain stands beside each: against plain
 * C, in time of one Zen 5 core, at the sizes of the small and of the published model.
 */
#include "cpu/attention.inc.h"
#include "cpu/codes8.h"
#include "cpu/conv1d.inc.h"
#include "cpu/conv3d.inc.h"
#include "cpu/elementwise.inc.h"
#include "cpu/norms.inc.h"
#include "cpu/quantize.inc.h"

_Static_assert(sizeof(LEVEL) == sizeof("avx512"), "built for another level: CFLAGS has what the Makefile does not take back");

void avt_cpu_avx512(Cpu *cpu)
{
    static const CpuEntry entries[] = {
        // in bf16, norms x 1.4 to 4 over widening, act x 2.4 to 5
        { OP_ATTENTION, attention, FOR_F32 },        // x 5 to 6: 200 GFLOP/s at 192 queries x 3 x 64, 928 keys
        { OP_CONV3D, conv3d, FOR_F32 },              // over oneDNN: winograd x 3 to 4.4, narrow x 1.05 to 1.2, 3 channels x 2.6
        { OP_CHANNEL_NORM, channel_norm, FOR_BOTH }, // x 6 to 8
        { OP_LAYER_NORM, layer_norm, FOR_BOTH },     // x 2.2 to 3.1, with an activation 6 to 7
        { OP_NORM_ROPE, norm_rope, FOR_BOTH },       // x 1.5 to 2.2
        { OP_SQUARES, squares, FOR_BOTH },
        { OP_ACT, act, FOR_BOTH },                   // x 4 to 11
        { OP_ADD, add, FOR_BOTH },                   // this and what follows: bf16 x 3 to 7 over widening all of it, f32 as plain C
        { OP_MUL, mul, FOR_BOTH },
        { OP_AXPY, axpy, FOR_BOTH },
        { OP_GATE_ADD, gate_add, FOR_BOTH },
        { OP_ROPE, rope, FOR_BOTH },
        { OP_COPY, copy, FOR_BOTH },
        { OP_QUANTIZE, quantize, FOR_BOTH },         // i8 in groups of 16, 64, 256: x 2
        { OP_CONV1D, conv1d, FOR_F32 },              // x 1.9 over AVX2: 150 GFLOP/s of a Xeon's core at 512 to 512 channels
    };

    if (avt_cpu_has_vnni()) {
        cpu->linear8 = avt_vnni_linear8;
        cpu->attention8 = avt_vnni_attention8;
        cpu->level8 = LEVEL;
        cpu->weight_bytes8 = avt_codes8_weight_bytes;
        cpu->weight_put8 = avt_codes8_weight_put;
    }
    if (!cpu->conv3d_wide)
        cpu->conv3d_wide = cpu->op[OP_CONV3D];
    avt_cpu_enter(cpu, LEVEL, entries, sizeof(entries) / sizeof(entries[0]));
}
