/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzzer entry: a PyTorch archive; and, since a fuzzer does not find zip by itself, the input as data.pkl of a good archive. */
#include <stdlib.h>
#include <string.h>

#include "ckpt.h"

static uint8_t *put(uint8_t *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        *p++ = (uint8_t)(v >> 8 * i);
    return p;
}

static uint8_t *put_entry(uint8_t *p, const char *name, const uint8_t *data, size_t size)
{
    p = put(p, 0x04034b50, 4);
    memset(p, 0, 14);
    p = put(put(put(put(p + 14, size, 4), size, 4), strlen(name), 2), 0, 2);
    memcpy(p, name, strlen(name));
    p += strlen(name);
    if (size)
        memcpy(p, data, size);
    return p + size;
}

static uint8_t *put_central(uint8_t *p, const char *name, size_t size, size_t offset)
{
    p = put(p, 0x02014b50, 4);
    memset(p, 0, 42);
    put(put(put(p + 16, size, 4), size, 4), strlen(name), 2);
    put(p + 38, offset, 4);
    memcpy(p + 42, name, strlen(name));
    return p + 42 + strlen(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t zeros[64];
    uint8_t *zip = malloc(size + 1024), *p = zip, *start;
    size_t second;

    fuzz_ckpt(data, size);
    if (!zip)
        return 0;
    p = put_entry(p, "x/data.pkl", data, size);
    second = (size_t)(p - zip);
    p = put_entry(p, "x/data/0", zeros, sizeof(zeros));
    start = p;
    p = put_central(p, "x/data.pkl", size, 0);
    p = put_central(p, "x/data/0", sizeof(zeros), second);
    p = put(put(put(p, 0x06054b50, 4), 0, 4), 2 | 2 << 16, 4);
    p = put(put(put(p, (uint64_t)(p - 12 - start), 4), (uint64_t)(start - zip), 4), 0, 2);
    fuzz_ckpt(zip, (size_t)(p - zip));
    free(zip);
    return 0;
}
