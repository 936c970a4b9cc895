/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzzer entry: the index of a checkpoint in shards; two shards stand beside it. */
#include <string.h>

#include "ckpt.h"
#include "file.h"

#define NAME "x.safetensors.index.json"

static void write_shard(const char *name, const char *tensor)
{
    char head[256];
    const uint64_t n = (uint64_t)snprintf(head, sizeof(head), "{\"%s\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
                                          tensor);
    FILE *f = fopen(fuzz_path(name), "wb");

    if (!f || fwrite(&n, 8, 1, f) != 1 || fwrite(head, 1, n, f) != n || fwrite(head, 1, 8, f) != 8 || fclose(f))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int ready;
    Ckpt *c;

    if (!ready) {
        fuzz_make_folder();
        write_shard("a.safetensors", "one");
        write_shard("b.safetensors", "two");
        if (symlink(fuzz_file(data, size), fuzz_path(NAME)))
            abort();
        ready = 1;
    }
    fuzz_file(data, size);
    if (avt_ckpt_open(&c, fuzz_path(NAME), NULL) < 0)
        return 0;
    avt_ckpt_find(c, "one");
    avt_ckpt_close(&c);
    return 0;
}
