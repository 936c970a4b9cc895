/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See loading.h. */
#include "files/loading.h"

#define FIRST 3000000000ll              // ns until the first line: most models are there by then
#define EVERY 5000000000ll              // and from one line to the next

void avt_loading_begin(Loading *l, double all, int64_t (*now)(void), const Log *log)
{
    *l = (Loading){ .log = log, .all = all, .now = now, .start = now() };
    l->told = l->start + FIRST - EVERY;
}

void avt_loading_add(Loading *l, size_t bytes)
{
    const int64_t now = l ? l->now() : 0;

    if (!l)
        return;
    l->done += (double)bytes;
    if (now - l->told < EVERY)
        return;
    l->told = now;
    avt_log(l->log, LOG_INFO, "weights: %.1f of %.1f GB, %.2f GB/s", l->done / 1e9, l->all / 1e9, l->done / (double)(now - l->start));
}
