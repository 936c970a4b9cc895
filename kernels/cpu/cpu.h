/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside the CPU backend: the table of implementations. Plain C fills it (the definition of every op), each faster level
 * then overwrites the entries that it does better: <op>_plain < onednn < avx2 < avx512 < amx. One file an op.
 *
 * Threads: `#pragma omp parallel for num_threads(be->threads)` over rows of the result, each computed by one thread in one
 * order, so that plain C gives the same bits for any number of threads.
 */
#ifndef AVT_CPU_H
#define AVT_CPU_H

#ifdef _OPENMP
#include <omp.h>
#endif

#include <string.h>

#include "kernels.h"

enum {
    NARROW = 16,                        // conv3d: up to so many output channels keep plain C's order of weights at every level,
    MINIMAL = 384                       // and up to so many of both where winograd.inc.h takes them: those of the published VAE
};

typedef int (*CpuOp)(Backend *be, const OpCall *c);

typedef struct Cpu {                    // Backend.priv
    CpuOp op[OP_NB];                    // calls whose numbers are all f32
    CpuOp op16[OP_NB];                  // calls with a bf16 operand or result, or keys in codes, any mix: avt_cpu_widened() unless a level does better
    CpuLevel best;                      // of those in use
    const char *level[OP_NB], *level16[OP_NB];  // "plain", "onednn", ... of each entry: tests prove that the fast version ran
    size_t (*weight_bytes)(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
    int    (*weight_put)(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);
    size_t (*weight_bytes16)(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
    int    (*weight_put16)(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);  // what meets bf16; NULL: the same
    size_t (*weight_bytes8)(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
    int    (*weight_put8)(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);   // codes of i8; NULL: row-major
    CpuOp linear8;                      // product of i8: avt_cpu_scaled() unless a level does better
    CpuOp attention8;                   // attention whose queries and keys are codes of i8: avt_cpu_widened() unless a level does better
    const char *level8;
    CpuOp conv3d_wide;                  // conv3d of weights in another order, when those that keep plain C's have their own
    void *onednn;                       // engine, stream, primitive cache; onednn.h
    char *work;                         // workspace of the call that runs, see avt_cpu_work()
    size_t work_size, work_used, work_most;
    int planned;                        // its size is for good
    int measuring;                      // nothing is run, only what it would want is added up
    int unmeasured;                     // error because of which that came to no end
} Cpu;

/* conv3d: weights [Cout, Cin, 1 or 3, 3, 3] that winograd.inc.h takes, where a level has it. Of those of one frame not the ones
 * that keep the number of channels: in the VAE they halve the picture, which is better left to oneDNN. */
static inline int avt_conv3d_is_minimal(const int64_t *dim)
{
    return (dim[2] == 3 || (dim[2] == 1 && dim[0] != dim[1])) && dim[3] == 3 && dim[4] == 3 && dim[1] % 8 == 0 &&
           dim[1] <= MINIMAL && dim[0] > 3 && dim[0] <= MINIMAL;
}

/* conv3d: whether a weight keeps plain C's order in this table */
static inline int avt_conv3d_keeps_order(const Cpu *cpu, const int64_t *dim)
{
    return dim[0] <= NARROW || (cpu->conv3d_wide && avt_conv3d_is_minimal(dim));
}

enum { FOR_F32 = 1, FOR_BF16 = 2, FOR_BOTH = 3 };       // tables that an entry goes into: op, op16

typedef struct CpuEntry {               // what a level does better
    OpId op;
    CpuOp run;
    int tables;
} CpuEntry;

/** Put a level's entries into their tables; `level` is its name. */
void avt_cpu_enter(Cpu *cpu, const char *level, const CpuEntry *entries, size_t nb);

/* Each level's file sets its entries in `cpu`. */
void avt_cpu_plain(Cpu *cpu);
int  avt_cpu_onednn(Backend *be, Cpu *cpu);         // also the packed weights; 0 or an error
void avt_cpu_onednn_close(Cpu *cpu);
void avt_cpu_avx2(Cpu *cpu);
void avt_cpu_avx512(Cpu *cpu);
void avt_cpu_amx(Cpu *cpu);

/** Does this machine run the code of a level? For CPU_AMX the kernel is asked for tile data, for the whole process. */
int avt_cpu_has(CpuLevel level);

/**
 * Workspace of the op that runs now, 64-byte aligned, contents undefined; another call gives another piece. The block has what the
 * whole call wants: that is found by going through the op with `measuring` set, when this adds the size up and gives NULL. So an op asks
 * before it touches a number, and where there is none it returns (an op of several parts goes on to the next while measuring).
 */
void *avt_cpu_work(Backend *be, size_t size);
/** What is given is taken back to here, for parts of an op that follow one another. */
static inline size_t avt_cpu_work_mark(const Cpu *cpu)
{
    return cpu->work_used;
}

static inline void avt_cpu_work_release(Cpu *cpu, size_t mark)
{
    cpu->work_used = mark;
}

/* Does a level's f32 version of an op ask for workspace? Plain C never does, and would touch the numbers. */
static inline int avt_cpu_wants(const Cpu *cpu, OpId op)
{
    return (op == OP_LINEAR || op == OP_CONV3D || op == OP_CONV1D || op == OP_ATTENTION) && strcmp(cpu->level[op], "plain");
}

/** BackendClass.memory_left, workspace, workspace_open (the guard backend uses them too). */
int64_t avt_cpu_memory_left(Backend *be);
int64_t avt_cpu_workspace(Backend *be, const OpCall *c);
int    avt_cpu_workspace_open(Backend *be, size_t size);

/** What an op is for bf16: operands widened to f32, the table's f32 op, the result rounded once. */
int avt_cpu_widened(Backend *be, const OpCall *c);

/** Keys and values of an attention that are codes become numbers of bf16 in the workspace, and `c` names those. @return 0 or ENOMEM */
int avt_cpu_decode_keys(Backend *be, OpCall *c);

/** A product of codes by the table's product of f32 or bf16: their definition, see scaled.c. */
int avt_cpu_scaled(Backend *be, const OpCall *c);

/** Weights as the table wants them. */
size_t avt_cpu_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);
int    avt_cpu_weight_put(Backend *be, Tensor *dst, WeightUse use, DType dtype, const void *src);

/** Has the work of `be` been given up? Looked at in the loops of ops that may take long; what they leave undone nobody sees, as
 *  avt_backend_run() fails behind them. */
static inline int avt_cpu_given_up(const Backend *be)
{
    return be->cancel && __atomic_load_n(be->cancel, __ATOMIC_RELAXED);
}

/** Run one call on the table (the guard backend uses it too). */
int avt_cpu_run(Backend *be, const OpCall *c);
/** Fill be->priv with a Cpu for be->level, free it. */
int  avt_cpu_table_open(Backend *be);
void avt_cpu_table_close(Backend *be);

/* v[nb] = act(v), in plain C. */
void avt_act_row(Act act, float *v, int64_t nb);

/** Number of the calling thread in its team of OpenMP; 0 in a build without. */
static inline int avt_cpu_thread(void)
{
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

#endif
