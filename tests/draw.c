/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See draw.h. */
#include <math.h>
#include <stdio.h>

#include "draw.h"

#define FONT "font-family=\"sans-serif\" font-size=\"13\""
#define INK "#222222"
#define PAINT "#3b6ea5"
#define GRID "#dddddd"
#define HALO "stroke=\"#ffffff\" stroke-width=\"4\" paint-order=\"stroke\""          /* a text in front of lines */

enum { WIDTH = 760, TOP = 48 };

static FILE *begin(const char *path, const char *title, int height)
{
    FILE *f = fopen(path, "w");

    if (f)
        fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" " FONT " fill=\"" INK "\">\n"
                "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
                "<text x=\"12\" y=\"26\" font-size=\"15\">%s</text>\n", WIDTH, height, title);
    return f;
}

static int end(FILE *f)
{
    fprintf(f, "</svg>\n");
    return fclose(f) ? -1 : 0;
}

int draw_bars(const char *path, const char *title, const Bar *b, int nb)
{
    enum { LEFT = 190, LONGEST = 380, ROW = 22 };
    FILE *f = begin(path, title, TOP + nb * ROW + 12);
    double sum = 0, most = 1e-12;

    if (!f)
        return -1;
    for (int i = 0; i < nb; i++) {
        sum += b[i].seconds;
        most = fmax(most, b[i].seconds);
    }
    for (int i = 0; i < nb; i++) {
        const int y = TOP + i * ROW;
        const double w = LONGEST * b[i].seconds / most;

        fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>", LEFT - 10, y + 13, b[i].name);
        fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"" PAINT "\"/>", LEFT, y, fmax(w, 1), ROW - 6);
        fprintf(f, "<text x=\"%.1f\" y=\"%d\">%.2f ms, %.1f %%</text>\n", LEFT + w + 8, y + 13, 1e3 * b[i].seconds,
                100 * b[i].seconds / sum);
    }
    return end(f);
}

int draw_curve(const char *path, const char *title, const char *x_name, const char *y_name, const Point *p, int nb, double marked)
{
    enum { LEFT = 60, RIGHT = 40, TALL = 220, BOTTOM = TOP + 24 + TALL, LINES = 4, APART = 40 };
    FILE *f = begin(path, title, BOTTOM + 48);
    double most = 0, unit, to_x, to_y, last = -APART;

    if (!f)
        return -1;
    for (int i = 0; i < nb; i++)
        most = fmax(most, p[i].y);
    unit = pow(10, floor(log10(most)));
    most = ceil(most / unit) * unit;
    to_x = (WIDTH - LEFT - RIGHT) / p[nb - 1].x;
    to_y = TALL / most;
    fprintf(f, "<text x=\"12\" y=\"%d\">%s</text>\n", TOP + 4, y_name);
    fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", (LEFT + WIDTH - RIGHT) / 2, BOTTOM + 40, x_name);
    for (int i = 0; i <= LINES; i++) {
        const int y = BOTTOM - TALL * i / LINES;

        fprintf(f, "<path d=\"M%d %d H%d\" stroke=\"" GRID "\"/>", LEFT, y, WIDTH - RIGHT);
        fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%g</text>\n", LEFT - 8, y + 5, most * i / LINES);
    }
    fprintf(f, "<polyline fill=\"none\" stroke=\"" PAINT "\" stroke-width=\"2\" points=\"");
    for (int i = 0; i < nb; i++)
        fprintf(f, "%.1f,%.1f ", LEFT + to_x * p[i].x, BOTTOM - to_y * p[i].y);
    fprintf(f, "\"/>\n");
    for (int i = 0; i < nb; i++) {
        const double x = LEFT + to_x * p[i].x, y = BOTTOM - to_y * p[i].y;
        const int full = p[i].x == marked;

        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" fill=\"%s\" stroke=\"" PAINT "\" stroke-width=\"2\"/>", x, y,
                full ? 5 : 3, full ? PAINT : "#ffffff");
        if (full)
            fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" " HALO ">%g: %.1f, the default</text>", x + 6, y - 10, p[i].x, p[i].y);
        if (x - last >= APART)
            fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>", last = x, BOTTOM + 18, p[i].x);
        fprintf(f, "\n");
    }
    return end(f);
}
