/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The log handle: formatting and level filter. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/text.h"

static void write_line(const Log *log, int level, const char *fmt, va_list ap)
{
    char raw[1024], text[1024];

    if (!log || !log->write || level > log->level)
        return;
    vsnprintf(raw, sizeof(raw), fmt, ap);
    avt_printable(text, sizeof(text), raw);                         // names and values come out of files
    log->write(log->opaque, level, text);
}

void avt_log(const Log *log, int level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    write_line(log, level, fmt, ap);
    va_end(ap);
}

void avt_keep_reason(void *opaque, int level, const char *text)
{
    Reason *r = opaque;

    if (level == LOG_ERROR)
        snprintf(r->text, sizeof(r->text), "%s", text);
}

int avt_fail(const Log *log, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    write_line(log, LOG_ERROR, fmt, ap);
    va_end(ap);
    return code;
}

int avt_require_failed(const Log *log, const char *cond, const char *file, int line)
{
    avt_log(log, LOG_ERROR, "%s:%d: caller's mistake: %s does not hold", file, line, cond);
#ifdef AVT_DEBUG
    abort();
#endif
    return AVT_ERR(EINVAL);
}
