/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

double avt_number(const char *text, char **end)
{
    const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);    // needs no memory: a constant of libc
    const double v = strtod_l(text, end, c);

    freelocale(c);
    return v;
}

size_t avt_character(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    const size_t n = p[0] < 0xc2 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 1;

    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 1;
    return n;
}

void avt_printable(char *dst, size_t size, const char *src)
{
    const unsigned char *p = (const unsigned char *)src;
    size_t at = 0, n;

    for (; *p; p += n) {
        char c[8];
        size_t nb = n = avt_character((const char *)p);

        memcpy(c, p, n);
        if (*p == '\n' || *p == '\t' || *p == '\r')
            nb = (size_t)snprintf(c, sizeof(c), "\\%c", *p == '\n' ? 'n' : *p == '\t' ? 't' : 'r');
        else if (*p < 0x20 || *p == 0x7f || (n == 1 && *p >= 0x80) || (*p == 0xc2 && p[1] < 0xa0))
            nb = (size_t)snprintf(c, sizeof(c), "\\x%02x", n > 1 ? p[1] : p[0]);       // C1 controls command terminals, too
        if (at + nb >= size)
            break;
        memcpy(dst + at, c, nb);
        at += nb;
    }
    dst[at] = 0;
}

int avt_ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);

    return n >= m && !strcmp(text + n - m, end);
}
