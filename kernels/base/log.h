/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A log handle, given at open and passed down; NULL is silence. Nothing is process-wide.
 * The place that knows the names logs, once; everyone above only passes the code on.
 */
#ifndef AVT_BASE_LOG_H
#define AVT_BASE_LOG_H

#include "base/err.h"

enum { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_TRACE };    // values of AVATAR_LOG_*

typedef struct Log {
    void (*write)(void *opaque, int level, const char *text);       // text: one line, no newline; may come from any thread
    void *opaque;
    int level;                                                      // highest level that is written
} Log;

#if defined(__GNUC__)
#define AVT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define AVT_PRINTF(f, a)
#endif

/** Write one line when `log` is not NULL and wants `level`. */
void avt_log(const Log *log, int level, const char *fmt, ...) AVT_PRINTF(3, 4);

/** Log an error line and return `code`: `return avt_fail(log, AVT_ERR(EINVAL), "...")`. */
int avt_fail(const Log *log, int code, const char *fmt, ...) AVT_PRINTF(3, 4);

/* A log that keeps its last error line: Log log = { avt_keep_reason, &reason, LOG_ERROR }. */
typedef struct Reason {
    char text[200];                     // "": there was none
} Reason;
void avt_keep_reason(void *opaque, int level, const char *text);

/** A caller's mistake: log the condition, return EINVAL; debug builds (AVT_DEBUG) stop there. */
#define AVT_REQUIRE(log, cond)                                                                        \
    do {                                                                                              \
        if (!(cond))                                                                                  \
            return avt_require_failed(log, #cond, __FILE__, __LINE__);                                \
    } while (0)
int avt_require_failed(const Log *log, const char *cond, const char *file, int line);

#endif
