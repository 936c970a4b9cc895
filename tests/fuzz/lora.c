/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzzer entry: a LoRA file, opened and merged into a small weight. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "files/lora.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Backend *be;
    float w[16 * 16];
    Ckpt *c;
    Lora *l;

    if (avt_ckpt_open_memory(&c, "fuzz", data, size, NULL) < 0)
        return 0;
    if (!be && avt_backend_open(&be, "cpu", &(BackendOptions){ .threads = 1, .level = CPU_PLAIN }) < 0)
        abort();
    memset(w, 0, sizeof(w));
    if (avt_lora_open_ckpt(&l, &c, 0, NULL) < 0)
        return 0;
    avt_lora_merge(l, "blocks.0.self_attn.q", be, w, 16, 16, NULL);
    avt_lora_finish(l, NULL);
    avt_lora_close(&l);
    return 0;
}
