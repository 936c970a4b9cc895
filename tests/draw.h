/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pictures of the documents, written by the programs that measure: SVG on white, so that it reads on light and dark paper. */
#ifndef AVT_TEST_DRAW_H
#define AVT_TEST_DRAW_H

typedef struct Bar {
    const char *name;
    double seconds;
} Bar;

/** A bar for each part of a time, in ms and % of the sum. @return 0, or -1: the file cannot be written */
int draw_bars(const char *path, const char *title, const Bar *b, int nb);

typedef struct Point {
    double x, y;
} Point;

/**
 * A curve over linear axes that begin at 0.
 *
 * @param p       points by ascending x; the largest x and y are above 0
 * @param marked  x of the point that is filled and has its numbers beside it
 * @return 0, or -1: the file cannot be written
 */
int draw_curve(const char *path, const char *title, const char *x_name, const char *y_name, const Point *p, int nb, double marked);

#endif
