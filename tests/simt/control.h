/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The emulated GPU as test programs see it.
 *
 * Settings come from the environment, so that every test program can be run in any of them:
 *   SIMT_SCHEDULE  eager | lazy | random    when queued work runs: at once; when the host waits for it, no earlier; by chance
 *   SIMT_ORDER     forward | reverse | random   of threads and blocks
 *   SIMT_SEED      number                   of both
 *   SIMT_CHECKS    off                      look at no access (fast)
 *   SIMT_DEVICES, SIMT_ARCH, SIMT_MEMORY    number of devices, compute capability (80 .. 120), bytes of each
 *   SIMT_KERNELS   list, as "80 90a"        of what the kernels are built for
 *   SIMT_PEERS     off                      no device can be given access to another one's memory
 *   SIMT_NCCL      off | on | stuck         stuck: what is sent stays on its way, as over a cable that was cut
 *   SIMT_HOST      number                   of the place of the cards on the bus: processes with the same one share them
 *   SIMT_PATIENCE  seconds                  until a wait is called one for ever
 *   SIMT_PACE      cuDNN 7=3,cuBLASLt 1=20   microseconds of an operation, of a library's way by its number; 10 of all others. The clock
 *                                           that events read stands between operations
 *   SIMT_DRIVER    version, as 12080        of CUDA that the driver knows; 0: no driver
 *   SIMT_FLAGS     number                   of the primary contexts, as somebody has opened them
 *   SIMT_FAIL      memory:N | lost:N | ecc:N | product:N     the N-th allocation fails; the device is lost at its N-th operation; a library
 *                                           refuses to run its N-th call, which it had a plan for
 *
 * Whatever was reported makes the program exit with SIMT_FOUND, unless it was cleared.
 */
#ifndef AVT_SIMT_CONTROL_H
#define AVT_SIMT_CONTROL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { SIMT_FOUND = 86 };

typedef struct SimtStats {
    uint64_t launches, operations, switches, barriers, collectives, accesses, mma;
    uint64_t allocations;                               // of the devices' memory
    uint64_t products;                                  // of cuBLASLt and cuDNN
    uint64_t plans_made, plans_read;                    // of cuDNN: compiled; out of a text
    uint64_t peer_copies;                               // that have run, from one device to another
    uint64_t ldmatrix_phases, ldmatrix_conflicts;       // 8 rows each; rows that waited for another's bank
} SimtStats;

const SimtStats *simt_stats(void);
/** What SIMT_KERNELS says, else configure's own list. */
const char *simt_kernels(void);
/** Set one of the settings above: simt_set("SCHEDULE", "lazy"). @return 0, -1: there is none of that name or value */
int simt_set(const char *name, const char *value);
/** Faults reported so far, of a kind or (NULL) of any. */
long simt_errors(const char *kind);
/** "race-shared:3 uninit-global:1 ", until the next call. */
const char *simt_kinds(void);
/** Forget the faults, and bring a lost device back. */
void simt_clear(void);
typedef struct SimtSpan {
    const void *p;
    uint64_t size;
    int write;
    const char *what;
} SimtSpan;
/** Of what this thread submits from now on: the op, the memory it may touch (NULL: any) and its workspace, which may yet move. */
void simt_operands(const char *op, const SimtSpan *span, int nb, void *const *workspace, const size_t *workspace_size);

#ifdef __cplusplus
}
#endif

#endif
