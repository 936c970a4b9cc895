/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bodies of *.inc.h for AVX2 and FMA, and the entries that they win. The gain stands beside each: against plain C, in time
 * of one Zen 5 core, at the sizes of the small and of the published model.
 */
#include "cpu/attention.inc.h"
#include "cpu/conv1d.inc.h"
#include "cpu/conv3d.inc.h"
#include "cpu/elementwise.inc.h"
#include "cpu/norms.inc.h"

_Static_assert(sizeof(LEVEL) == sizeof("avx2"), "built for another level: CFLAGS has what the Makefile does not take back");

void avt_cpu_avx2(Cpu *cpu)
{
    static const CpuEntry entries[] = {
        // in bf16, norms x 1.4 to 4 over widening, act x 2.4 to 5
        { OP_ATTENTION, attention, FOR_F32 },        // x 2.7 to 3.2
        { OP_CONV3D, conv3d, FOR_F32 },              // over oneDNN with AVX2: winograd x 3 to 4.3, narrow x 1.2 to 1.4, 3 channels x 7
        { OP_CHANNEL_NORM, channel_norm, FOR_BOTH }, // x 3 to 4
        { OP_LAYER_NORM, layer_norm, FOR_BOTH },     // x 1.6 to 2, with an activation 3.1 to 3.5
        { OP_NORM_ROPE, norm_rope, FOR_BOTH },       // x 1.2 to 1.3
        { OP_SQUARES, squares, FOR_BOTH },
        { OP_ACT, act, FOR_BOTH },                   // x 2.3 to 5
        { OP_ADD, add, FOR_BOTH },                   // this and what follows: bf16 x 3 to 7 over widening all of it, f32 as plain C
        { OP_MUL, mul, FOR_BOTH },
        { OP_AXPY, axpy, FOR_BOTH },
        { OP_GATE_ADD, gate_add, FOR_BOTH },
        { OP_ROPE, rope, FOR_BOTH },
        { OP_COPY, copy, FOR_BOTH },
        { OP_CONV1D, conv1d, FOR_F32 },              // x 3 to 5: 120 GFLOP/s at 512 to 512 channels
    };

    if (!cpu->conv3d_wide)
        cpu->conv3d_wide = cpu->op[OP_CONV3D];
    avt_cpu_enter(cpu, LEVEL, entries, sizeof(entries) / sizeof(entries[0]));
}
