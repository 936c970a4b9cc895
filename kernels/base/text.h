/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Numbers in texts, and texts of others in our lines. */
#ifndef AVT_BASE_TEXT_H
#define AVT_BASE_TEXT_H

#include <stddef.h>

/** strtod() with a decimal point in every locale; accepts "inf" and "nan" as that does. */
double avt_number(const char *text, char **end);

/** Bytes of the UTF-8 character that a text begins with; 1 for a byte that begins none. */
size_t avt_character(const char *text);

/**
 * Copies a text, its control characters spelled out (\n, \x1b): a file's text must not end a log line nor command a terminal.
 * @param dst  size bytes, >= 8; what does not fit is cut at the end of a character
 */
void avt_printable(char *dst, size_t size, const char *src);

/** Does `text` end with `end`? */
int avt_ends_with(const char *text, const char *end);

#endif
