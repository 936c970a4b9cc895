/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Curves one above the other, as a picture in SVG. */
#ifndef AVT_TOOL_CURVES_H
#define AVT_TOOL_CURVES_H

#include <stdint.h>
#include <stdio.h>

/** Distance of the marks of an axis of such a length: 1, 2 or 5 times a power of ten, eight of them at most. */
double curves_tick(double length);
/** Begin a picture of `rows` curves over an axis from 0 to `length`, its numbers with `unit` behind. @return NULL when it cannot be written, of which was said */
FILE *curves_open(const char *path, int rows, double length, const char *unit);
/**
 * A curve of nb values, value(opaque, i), of which a thousand at most are drawn, with its name and range beside it.
 * @param lo  where the curve's range begins; NAN: at its least value
 */
void  curves_add(FILE *out, int row, const char *name, int64_t nb, double lo, double (*value)(const void *opaque, int64_t i), const void *opaque);
/** @return 0, or -1 with errno */
int   curves_close(FILE *out);

#endif
