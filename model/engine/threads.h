/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The threads of a session: conductor, listener, one for each rank, and OpenMP's below them. They are started when the system
 * has room for all, and never outlive exit(), which takes away what stands below them (oneDNN's tables and caches).
 */
#ifndef AVT_THREADS_H
#define AVT_THREADS_H

#include "engine/conductor.h"

/**
 * Small products and convolutions of each kind on a device: the libraries below make tables at the first call of a kind, and have
 * exit handlers for them. Those that are registered later than ours run before it, under threads that use the tables. For
 * the end of a load; takes milliseconds. @return 0 or an error (logged)
 */
int  avt_threads_warm(const char *device, const BackendOptions *opt);
/**
 * Start the threads of a session and wait until all that they will ever need exist: a library below that cannot make one in
 * mid-stream would end the process.
 * @return 0; ENOMEM (logged): the system gives too few; ECANCELED: the process ends
 */
int  avt_threads_start(AvatarSession *s);
/**
 * May this session be used here and now? Not inside of a log callback, and not in a forked child: fork() copies the caller's thread alone,
 * so that there is nobody to wait for.
 * @return 0, EDEADLK, ECHILD
 */
int  avt_threads_refuse(const AvatarSession *s);
/** Wait for all of them; the session was aborted or has finished. Does nothing when there are none. */
void avt_threads_stop(AvatarSession *s);
/** Nothing is opened once the process is at its end, where libraries below may be gone already. @return 0; ECANCELED, ECHILD (logged) */
int  avt_threads_begin(const Log *log);
/** This process is a child that was forked in the middle of a load: nothing is opened in it. */
void avt_threads_lost(void);

#endif
