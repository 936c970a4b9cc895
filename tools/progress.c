/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See progress.h. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/thread.h"
#include "progress.h"

#define EVERY_TTY 200000000ll               // ns between two looks of a line
#define EVERY     5000000000ll              // and between two lines of a log

void progress_open(Progress *p, double all, const char *what, int quiet)
{
    *p = (Progress){ .what = what, .all = all, .start = avt_now_ns(), .tty = isatty(2), .quiet = quiet };
    p->shown = p->tty ? 0 : p->start;       // a short one says nothing in a log
}

/* The cursor goes back to the line's begin, so that an error takes its place. */
static void show(const Progress *p, double seconds)
{
    const double part = fmin(1, p->all > 0 ? p->done / p->all : 1);
    const int left = (int)(part > 0 ? seconds * (1 - part) / part + 0.5 : 0);

    fprintf(stderr, p->tty ? "\033[K%s %.0f %%, %d:%02d left\r" : "avatar: %s %.0f %%, %d:%02d left\n", p->what, 100 * part, left / 60, left % 60);
}

void progress_add(Progress *p, double done)
{
    const int64_t now = avt_now_ns();

    p->done += done;
    if (p->quiet || !p->what || now - p->shown < (p->tty ? EVERY_TTY : EVERY))
        return;
    show(p, 1e-9 * (double)(now - p->start));
    p->shown = now;
}

void progress_close(Progress *p)
{
    if (p->what && p->tty && !p->quiet && p->shown)
        fputs("\033[K", stderr);
    p->what = NULL;
}
