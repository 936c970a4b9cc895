/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens bytes as a checkpoint and touches all that it hands out. */
#ifndef AVT_FUZZ_CKPT_H
#define AVT_FUZZ_CKPT_H

#include <stdlib.h>

#include "files/ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void fuzz_ckpt(const uint8_t *data, size_t size)
{
    volatile uint8_t sum = 0;
    Ckpt *c;

    if (avt_ckpt_open_memory(&c, "fuzz", data, size, NULL) < 0)
        return;
    for (int64_t i = 0; i < avt_ckpt_nb(c); i++) {
        const CkptTensor *t = avt_ckpt_get(c, i);

        uint8_t *raw = malloc(t->size + 1);

        if (!raw || avt_ckpt_read(t, raw, 0, t->size, NULL) < 0)
            abort();
        for (size_t k = 0; k < t->size; k++)
            sum = (uint8_t)(sum + raw[k]);
        avt_nonfinite(t->dtype, raw, (int64_t)(t->size / avt_dtype_size(t->dtype)));
        free(raw);
        avt_ckpt_find(c, t->name);
    }
    avt_ckpt_close(&c);
}

#endif
