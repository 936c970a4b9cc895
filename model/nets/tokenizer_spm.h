/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libsentencepiece through six C functions; tokenizer.c alone uses them. No exception leaves them.
 */
#ifndef AVT_TOKENIZER_SPM_H
#define AVT_TOKENIZER_SPM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void *avt_spm_open(const void *model, size_t size);                 // the bytes of a spiece.model; NULL: refused
void  avt_spm_close(void *spm);
int   avt_spm_nb(const void *spm);
int   avt_spm_id(const void *spm, const char *piece);               // -1: no such piece
int   avt_spm_covers(const void *spm, int id);                      // 0: unknown text, or a byte of it
/** @return number of pieces of `text`, of which at most `max` ids are written; negative after a failure. Thread-safe. */
int64_t avt_spm_encode(const void *spm, const char *text, size_t size, int32_t *ids, int64_t max);

#ifdef __cplusplus
}
#endif

#endif
