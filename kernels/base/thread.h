/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the library needs to know of threads and of the machine's floating-point unit. */
#ifndef AVT_BASE_THREAD_H
#define AVT_BASE_THREAD_H

/** Cores in the affinity mask of the process. */
int avt_nb_cores(void);

/**
 * The calling thread, and those that it starts, round to nearest whatever its creator did, and flush denormals to zero: they
 * cost a hundred times an ordinary number and mean nothing here. Only on threads of our own; a caller's thread keeps its environment.
 */
void avt_thread_flush_denormals(void);

#endif
