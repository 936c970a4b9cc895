/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Prompt text -> token ids: the original's text cleaning (utf8proc for NFC), then SentencePiece, then </s>.
 * Spec: text-encoder.md 5, 6.
 */
#ifndef AVT_TOKENIZER_H
#define AVT_TOKENIZER_H

#include "base/log.h"
#include "base/mem.h"

typedef struct Tokenizer Tokenizer;

int  avt_tokenizer_open(Tokenizer **out, const char *path, const Log *log);     // spiece.model
void avt_tokenizer_close(Tokenizer **t);
int  avt_tokenizer_nb_pieces(const Tokenizer *t);
int  avt_tokenizer_covers(const Tokenizer *t, int32_t id);                      // 0: the id of a text that no piece covers, or of a byte of one

/** Cleaned copy of `text` (UTF-8), freed with avt_free(). @return 0, EINVAL for text that is not UTF-8 (logged), ENOMEM */
int avt_text_clean(char **out, const char *text, const Log *log);

/** Ids of cleaned text, </s> at the end, at most max (then max - 1 pieces and </s>). User text never becomes a special id.
 *  @param left_out  gets the number of pieces for which there was no room; may be NULL
 *  @return number of ids, >= 1, or a negative error */
int avt_tokenizer_encode(const Tokenizer *t, int32_t *ids, int max, const char *cleaned, int64_t *left_out);

#endif
