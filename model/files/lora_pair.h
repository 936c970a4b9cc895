/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a LoRA file's reading (lora.c) and merging (lora_merge.c) share. Inside of these two alone. */
#ifndef AVT_LORA_PAIR_H
#define AVT_LORA_PAIR_H

#include "files/lora.h"

typedef struct LoraPair {
    char *module;                       // as normalized; kohya: still mangled
    const CkptTensor *a, *b;            // [r, in], [out, r]
    const CkptTensor *alpha;            // or NULL
    double scale;
    int used;
} LoraPair;

struct Lora {
    Ckpt *ckpt;
    LoraPair *pair;                     // sorted by module
    int64_t nb;
    double scale;                       // of the first pair
    int rank;                           // largest
    int nonzero;                        // some B was, among those merged
};

/** The pair of `module`, in any spelling of the file; NULL: none. */
LoraPair *avt_lora_pair(const Lora *l, const char *module);

#endif
