/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See json_out.h. */
#include <math.h>
#include <stdlib.h>

#include "base/text.h"
#include "json_out.h"

void json_number(FILE *out, double v, int digits)
{
    if (isfinite(v))
        fprintf(out, "%.*g", digits, v);
    else
        fprintf(out, "null");
}

void json_text(FILE *out, const char *text)
{
    putc('"', out);
    for (size_t n; *text; text += n) {
        const unsigned char c = (unsigned char)*text;

        n = avt_character(text);
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 32 || c == 127)
            fprintf(out, "\\u%04x", c);
        else if (n == 1 && c > 127)
            fprintf(out, "\\ufffd");
        else
            fwrite(text, 1, n, out);
    }
    putc('"', out);
}

char *json_take(FILE *f, char **text)
{
    if (f && !fclose(f))
        return *text;
    free(*text);
    return NULL;
}
