/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON that is written: what a number or a text of any kind becomes there. */
#ifndef AVT_TOOL_JSON_OUT_H
#define AVT_TOOL_JSON_OUT_H

#include <stdio.h>

/** With so many significant digits; null for NaN and infinity, which JSON does not have. */
void json_number(FILE *out, double v, int digits);
/** In quotes: UTF-8 as it is; controls escaped, and bytes that are no UTF-8 as the replacement character. */
void json_text(FILE *out, const char *text);
/** The text of a memory stream, which ends, for the caller to free; NULL: there was no memory for it, or none for the stream. */
char *json_take(FILE *f, char **text);

#endif
