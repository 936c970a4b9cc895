/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See curves.h. */
#include <math.h>

#include "curves.h"
#include "file.h"

#define ROW    110
#define WIDTH  1000
#define MARGIN 8

FILE *curves_open(const char *path, int rows)
{
    FILE *out = file_stream(path);

    if (out)
        fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n"
                "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", WIDTH, rows * ROW + 10, WIDTH, rows * ROW + 10);
    return out;
}

/* A text of XML: names come out of files. */
static void put_text(FILE *out, const char *text)
{
    for (; *text; text++)
        if (*text == '<' || *text == '>' || *text == '&')
            fprintf(out, "&#%d;", *text);
        else
            fputc(*text, out);
}

void curves_add(FILE *out, int row, const char *name, int64_t nb, double lo, double (*value)(const void *opaque, int64_t i), const void *opaque)
{
    const int64_t step = nb / 1000 + 1;
    double low = INFINITY, high = -INFINITY;

    for (int64_t i = 0; i < nb; i++) {
        low = fmin(low, value(opaque, i));
        high = fmax(high, value(opaque, i));
    }
    if (!isnan(lo))
        low = lo;
    fprintf(out, "<text x=\"%d\" y=\"%d\">", MARGIN, row * ROW + 20);
    put_text(out, name);
    fprintf(out, ": %.4g to %.4g</text>\n<polyline fill=\"none\" stroke=\"#1f6fb4\" points=\"", low, high);
    for (int64_t i = 0; i < nb; i += step)
        fprintf(out, "%.1f,%.1f ", MARGIN + (WIDTH - 2.0 * MARGIN) * (double)i / (double)(nb > 1 ? nb - 1 : 1),
                row * ROW + 105 - (high > low ? 77 * (value(opaque, i) - low) / (high - low) : 0));
    fprintf(out, "\"/>\n");
}

int curves_close(FILE *out)
{
    fprintf(out, "</svg>\n");
    return fclose(out) ? -1 : 0;
}
