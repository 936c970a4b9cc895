/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far the weights of a model are: a line of the log once in a while, where they take longer than some seconds.
 *
 *     weights: 12.4 of 33.1 GB, 1.42 GB/s
 *
 * Bytes are those that the weights take where they lie. One thread at a time.
 */
#ifndef AVT_LOADING_H
#define AVT_LOADING_H

#include <stddef.h>
#include <stdint.h>

#include "base/log.h"

typedef struct Loading {
    const Log *log;
    double all, done;                   // bytes
    int64_t (*now)(void);               // ns: avt_now_ns(), or a test's
    int64_t start, told;                // when it was begun; of the last line
} Loading;

/** `all` bytes are to come, from now on. */
void avt_loading_begin(Loading *l, double all, int64_t (*now)(void), const Log *log);
/** So many more are there. NULL: nobody is told. */
void avt_loading_add(Loading *l, size_t bytes);

#endif
