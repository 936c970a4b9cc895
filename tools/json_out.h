/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON on standard output: what a number or a text of any kind becomes there. */
#ifndef AVT_TOOL_JSON_OUT_H
#define AVT_TOOL_JSON_OUT_H

/** With so many significant digits; null for NaN and infinity, which JSON does not have. */
void json_number(double v, int digits);
/** In quotes: UTF-8 as it is; controls escaped, and bytes that are no UTF-8 as the replacement character. */
void json_text(const char *text);

#endif
