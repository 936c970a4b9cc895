/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A bar of the stages of a block, as SVG that reads on light and dark paper. */
#include <stdio.h>

#include "bench.h"

enum { WIDTH = 760, LEFT = 190, BAR = 380, ROW = 22, TOP = 48 };

int draw_block(const char *path, const char *title, const Stage *s, int nb)
{
    FILE *f = fopen(path, "w");
    double sum = 0, most = 1e-12;

    if (!f)
        return -1;
    for (int i = 0; i < nb; i++) {
        sum += s[i].seconds;
        most = s[i].seconds > most ? s[i].seconds : most;
    }
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n", WIDTH,
            TOP + nb * ROW + 12);
    fprintf(f, "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n<text x=\"12\" y=\"26\" font-size=\"15\" fill=\"#222222\">%s</text>\n", title);
    for (int i = 0; i < nb; i++) {
        const int y = TOP + i * ROW;
        const double w = BAR * s[i].seconds / most;

        fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\" fill=\"#222222\">%s</text>", LEFT - 10, y + 13, s[i].name);
        fprintf(f, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"#3b6ea5\"/>", LEFT, y, w > 1 ? w : 1, ROW - 6);
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" fill=\"#222222\">%.2f ms, %.1f %%</text>\n", LEFT + w + 8, y + 13, 1e3 * s[i].seconds,
                100 * s[i].seconds / sum);
    }
    fprintf(f, "</svg>\n");
    return fclose(f) ? -1 : 0;
}
