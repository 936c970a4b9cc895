/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See curves.h. */
#include <math.h>

#include "curves.h"
#include "file.h"

#define ROW    110
#define WIDTH  1000
#define MARGIN 8
#define AXIS   26

double curves_tick(double length)
{
    const double power = pow(10, floor(log10(length / 8)));

    return power * (length <= 8 * power ? 1 : length <= 16 * power ? 2 : length <= 40 * power ? 5 : 10);
}

/* Where value `at` of one that ends with `length` is. */
static double x_of(double at, double length)
{
    return MARGIN + (WIDTH - 2.0 * MARGIN) * at / (length > 0 ? length : 1);
}

static void axis(FILE *out, int rows, double length, const char *unit)
{
    const double tick = curves_tick(length);

    for (int i = 0; i * tick <= length; i++)
        fprintf(out, "<path d=\"M%.1f 0 V%d\" stroke=\"#ddd\"/><text x=\"%.1f\" y=\"%d\" fill=\"#555\" text-anchor=\"%s\">%g%s</text>\n", x_of(i * tick, length), rows * ROW + 4,
                x_of(i * tick, length), rows * ROW + 18, i ? i * tick < 0.96 * length ? "middle" : "end" : "start", i * tick, unit);
}

FILE *curves_open(const char *path, int rows, double length, const char *unit)
{
    const int height = rows * ROW + AXIS;
    FILE *out = file_stream(path);

    if (!out)
        return NULL;
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", WIDTH, height, WIDTH, height);
    if (length > 0)
        axis(out, rows, length, unit);
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
        fprintf(out, "%.1f,%.1f ", x_of((double)i, (double)(nb - 1)),
                row * ROW + 105 - (high > low ? 77 * (value(opaque, i) - low) / (high - low) : 0));
    fprintf(out, "\"/>\n");
}

int curves_close(FILE *out)
{
    fprintf(out, "</svg>\n");
    return fclose(out) ? -1 : 0;
}
