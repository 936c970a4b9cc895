/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cores and denormals. See thread.h. */
#include <fenv.h>
#include <sched.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "base/thread.h"

int avt_nb_cores(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
}

void avt_thread_flush_denormals(void)
{
    fesetenv(FE_DFL_ENV);
#if defined(__SSE2__)
    _mm_setcsr(_mm_getcsr() | 0x8040);                              // FTZ and DAZ
#endif
}
