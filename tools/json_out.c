/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See json_out.h. */
#include <math.h>
#include <stdio.h>

#include "base/text.h"
#include "json_out.h"

void json_number(double v, int digits)
{
    if (isfinite(v))
        printf("%.*g", digits, v);
    else
        printf("null");
}

void json_text(const char *text)
{
    putchar('"');
    for (size_t n; *text; text += n) {
        const unsigned char c = (unsigned char)*text;

        n = avt_character(text);
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 32 || c == 127)
            printf("\\u%04x", c);
        else if (n == 1 && c > 127)
            printf("\\ufffd");
        else
            fwrite(text, 1, n, stdout);
    }
    putchar('"');
}
