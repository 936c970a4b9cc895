/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzzer entry: a GGUF file. */
#include "ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_ckpt(data, size);
    return 0;
}
