/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the library needs to know of threads and of the machine's floating-point unit. */
#ifndef AVT_BASE_THREAD_H
#define AVT_BASE_THREAD_H

#include <pthread.h>
#include <stdint.h>

#include "base/log.h"

/** Nanoseconds since some moment of the past, the same for all threads. */
int64_t avt_now_ns(void);
/** Nanoseconds that the calling thread has had the processor. */
int64_t avt_thread_cpu_ns(void);

/** Cores in the affinity mask of the process. */
int avt_nb_mask(void);
/** A number made of the affinity mask: equal ones on a host, the same cores. */
uint64_t avt_mask_number(void);
/** Cores whose time the process may use: the mask's, or as many as the control group's quota is worth. */
int avt_nb_cores(void);

/**
 * The calling thread, and those that it starts, round to nearest whatever its creator did, and flush denormals to zero: they
 * cost a hundred times an ordinary number and mean nothing here. Only on threads of our own; a caller's thread keeps its environment.
 */
void avt_thread_flush_denormals(void);

/**
 * A thread of the library, a guest in its process: the host's signals are not delivered to it (but those of its own faults, and a
 * profiler's), and its stack is large enough however small the host's threads are.
 * @return 0, or an errno, as pthread_create()
 */
int avt_thread_start(pthread_t *thread, void *(*run)(void *), void *arg);

/**
 * Let the calling thread run parallel regions on `nb` threads, itself included, and make these now: an OpenMP library that
 * cannot make a thread ends the process, so the system is asked first. They go when the calling thread goes.
 * @return 0, or ENOMEM (logged): a limit (RLIMIT_NPROC, a control group's), or too little memory for their stacks
 */
int avt_thread_team(int nb, const Log *log);

#endif
