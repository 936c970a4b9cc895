/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between textclean.c and its table. avt_text_clean() itself is declared in tokenizer.h. */
#ifndef AVT_TEXTCLEAN_H
#define AVT_TEXTCLEAN_H

#include <stddef.h>
#include <stdint.h>

/** Code point of the character reference `name` (no '&', no ';'), or -1. `only_legacy`: those that need no semicolon. */
int32_t avt_html_entity(const char *name, size_t size, int only_legacy);

#endif
