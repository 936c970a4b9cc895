/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens bytes as a checkpoint and touches all that it hands out. */
#ifndef AVT_FUZZ_CKPT_H
#define AVT_FUZZ_CKPT_H

#include <stdlib.h>

#include "files/ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* All values as they are, or widened: at most 13 bytes for one of the file's. */
static inline void touch_values(const CkptTensor *t, const void *raw, int64_t nb)
{
    float *wide = malloc((size_t)nb * sizeof(*wide) + 1);

    if (!wide || avt_ckpt_size(t, nb) != t->size)
        abort();
    avt_ckpt_widen(wide, t, raw, nb);
    avt_nonfinite(t->dtype, t->pack ? (const void *)wide : raw, nb);
    free(wide);
}

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
        touch_values(t, raw, avt_ckpt_values(t));
        free(raw);
        avt_ckpt_find(c, t->name);
    }
    avt_ckpt_close(&c);
}

#endif
