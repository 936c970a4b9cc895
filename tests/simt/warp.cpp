/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the lanes of a warp do together: the last one to come does it for all.
 *
 * A lane that its mask does not name, a mask that names lanes that have ended, and lanes that meet in different operations are faults;
 * on a device they hang, or read anything.
 */
#include <cuda_fp8.h>
#include <string.h>

#include "fibers.h"
#include "simt_ops.h"

namespace bed {

enum Kind { SYNC, SHUFFLE, VOTE, LDMATRIX, LDMATRIX_TURNED, MMA };

static Gathering *gathering_of(Warp *w, uint32_t mask, Kind kind)
{
    Gathering *free = NULL;

    for (Gathering &g : w->gathering) {
        if (g.arrived && (g.mask & mask))
            return &g;
        if (!g.arrived && !free)
            free = &g;
    }
    *free = { mask, 0, kind };
    return free;
}

/* All lanes of `mask` give an argument; together(arguments, mask) runs once they are there. */
static void collective(Kind kind, uint32_t mask, void *argument, void (*together)(void **argument, uint32_t mask))
{
    Warp *w = current->warp;
    const int lane = current->lane;
    Gathering *g;

    stats.collectives++;
    if (!(mask >> lane & 1) || (mask & w->exited)) {
        report("warp-divergence", mask & w->exited ? "lane %d names lanes %08x, which have ended" : "lane %d is not in its own mask %08x", lane,
               mask & w->exited ? mask & w->exited : mask);
        stop_kernel();
    }
    g = gathering_of(w, mask, kind);
    if (g->mask != mask || g->kind != kind) {
        report("warp-divergence", "lane %d comes with operation %d, mask %08x; others wait in operation %d, mask %08x", lane, kind, mask, g->kind, g->mask);
        stop_kernel();
    }
    w->argument[lane] = argument;
    g->arrived |= 1u << lane;
    if (g->arrived != mask) {
        fiber_wait();
        return;
    }
    if (together)
        together(w->argument, mask);
    if (kind == SYNC && (mask | w->exited) == ~0u)
        w->epoch++;
    g->arrived = 0;
    Fiber *others[32];
    int nb = 0;
    for (int i = 0; i < 32; i++)
        if ((mask >> i & 1) && i != lane)
            others[nb++] = current - lane + i;
    fibers_wake(others, nb);
}

/* ---- shuffles and votes --------------------------------------------------------------------------------------------------------------------- */

/* The lane from which lane i reads. */
static int shuffle_source(const SimtShuffle *x, int i)
{
    const int w = x->width, first = i & ~(w - 1);
    int from;

    switch (x->kind) {
    case SIMT_SHUFFLE_INDEX: return first + (x->by & (w - 1));
    case SIMT_SHUFFLE_UP:    return i - x->by < first ? i : i - x->by;
    case SIMT_SHUFFLE_DOWN:  return i + x->by >= first + w ? i : i + x->by;
    default:
        from = i ^ x->by;
        return from >= first + w ? i : from;
    }
}

static void shuffle(void **argument, uint32_t mask)
{
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) {
            SimtShuffle *x = (SimtShuffle *)argument[i];
            const int from = shuffle_source(x, i);

            if (!(mask >> from & 1))
                report("shfl-inactive", "lane %d reads lane %d, which is not in mask %08x", i, from, mask);
            x->result = mask >> from & 1 ? ((SimtShuffle *)argument[from])->value : ~(uint64_t)0;
        }
}

static void vote(void **argument, uint32_t mask)
{
    uint32_t ballot = 0;

    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            ballot |= (uint32_t)(((SimtVote *)argument[i])->predicate != 0) << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) {
            SimtVote *x = (SimtVote *)argument[i];

            x->result = x->kind == SIMT_VOTE_BALLOT ? ballot : x->kind == SIMT_VOTE_ANY ? ballot != 0 : ballot == mask;
        }
}

/* ---- fragments; layouts are the PTX ISA's, "ldmatrix", "mma.m16n8k16", "mma.m16n8k32" -------------------------------------------------------- */

struct Load {
    uint32_t *r;
    const uint8_t *row;
};

static void count_conflicts(void **argument)
{
    for (int j = 0; j < 4; j++) {
        uint32_t banks = 0;

        for (int k = 0; k < 8; k++)
            banks |= 1u << ((Address)((Load *)argument[8 * j + k])->row >> 4 & 7);
        stats.ldmatrix_phases++;
        stats.ldmatrix_conflicts += (uint64_t)(8 - __builtin_popcount(banks));
    }
}

static void load_matrices(void **argument, bool turned)
{
    count_conflicts(argument);
    for (int lane = 0; lane < 32; lane++)
        for (int j = 0; j < 4; j++) {
            uint16_t word[2];

            for (int e = 0; e < 2; e++) {
                const int row = turned ? 2 * (lane & 3) + e : lane >> 2, column = turned ? lane >> 2 : 2 * (lane & 3) + e;

                memcpy(&word[e], ((Load *)argument[8 * j + row])->row + 2 * column, 2);
            }
            memcpy(&((Load *)argument[lane])->r[j], word, 4);
        }
}

static void load_straight(void **argument, uint32_t) { load_matrices(argument, false); }
static void load_turned(void **argument, uint32_t) { load_matrices(argument, true); }

struct Multiply {
    float *c;
    const uint32_t *a, *b;
};

static float from_bf16(uint32_t word, int half)
{
    const uint32_t bits = half ? word & 0xffff0000u : word << 16;
    float v;

    memcpy(&v, &bits, 4);
    return v;
}

static void gather_operands(void **argument, float a[16][16], float b[8][16])
{
    for (int lane = 0; lane < 32; lane++) {
        const Multiply *x = (Multiply *)argument[lane];
        const int g = lane >> 2, t = lane & 3;

        for (int i = 0; i < 8; i++)
            a[g + (i >> 1 & 1) * 8][2 * t + (i & 1) + (i >> 2) * 8] = from_bf16(x->a[i >> 1], i & 1);
        for (int i = 0; i < 4; i++)
            b[g][2 * t + (i & 1) + (i >> 1) * 8] = from_bf16(x->b[i >> 1], i & 1);
    }
}

static void multiply(void **argument, uint32_t)
{
    float a[16][16], b[8][16];

    gather_operands(argument, a, b);
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const int row = (lane >> 2) + (i >> 1) * 8, column = 2 * (lane & 3) + (i & 1);
            float sum = 0;

            for (int k = 0; k < 16; k++)
                sum += a[row][k] * b[column][k];
            ((Multiply *)argument[lane])->c[i] += sum;
        }
    stats.mma++;
}

}   // namespace bed

using namespace bed;

extern "C" {

void simt_syncwarp(unsigned mask)
{
    collective(SYNC, mask, NULL, NULL);
}

void simt_shuffle(unsigned mask, SimtShuffle *x)
{
    collective(SHUFFLE, mask, x, shuffle);
}

void simt_vote(unsigned mask, SimtVote *x)
{
    collective(VOTE, mask, x, vote);
}

void simt_ldmatrix(uint32_t r[4], const void *row, int turned)
{
    Load x = { r, (const uint8_t *)row };

    set_place(__builtin_return_address(0));
    if (!in_shared((Address)row)) {
        report("address-space", "ldmatrix of %p, which is not shared memory", row);
        stop_kernel();
    }
    simt_read(row, 16, 16);
    collective(turned ? LDMATRIX_TURNED : LDMATRIX, ~0u, &x, turned ? load_turned : load_straight);
}

void simt_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    Multiply x = { c, a, b };

    collective(MMA, ~0u, &x, multiply);
}

}
