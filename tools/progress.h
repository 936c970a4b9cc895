/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How far a long command is, and how long it will take: on a terminal one line that changes, else a line once in a while. */
#ifndef AVT_TOOL_PROGRESS_H
#define AVT_TOOL_PROGRESS_H

#include <stdint.h>

typedef struct Progress {
    const char *what;                   // static
    double all, done;                   // bytes, or whatever takes its time
    int64_t start, shown;               // ns
    int tty, quiet;
} Progress;

/** @param quiet  nothing is shown */
void progress_open(Progress *p, double all, const char *what, int quiet);
/** So much more is done. Nothing happens where p was not opened. */
void progress_add(Progress *p, double done);
/** Takes the line away. */
void progress_close(Progress *p);

#endif
