/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
typedef struct SimtStats { uint64_t switches, barriers, collectives, accesses, mma, ldsm_phases, ldsm_conflicts, launches, ops, bytes; } SimtStats;
SimtStats *simt_stats(void);
void simt_config(const char *mode, const char *order, uint64_t seed, int verbose);
long simt_errors(const char *kind);
const char *simt_kinds(void);
void simt_clear(void);
void simt_reset(void);
void simt_devices(int n);
int simt_range(const void *p, size_t n, int w);
#ifdef __cplusplus
}
#endif
