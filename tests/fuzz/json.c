/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzzer entry: the JSON reader, as configuration and as tensor header. */
#include "files/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Json *j;

    if (avt_json_parse(&j, (const char *)data, size, "fuzz", NULL) >= 0) {
        int64_t v;

        avt_json_int(j, "dim", &v, 0, INT64_MAX, 1);
        avt_json_close(&j);
    }
    if (avt_json_parse_header(&j, (const char *)data, size, "fuzz", NULL) >= 0)
        avt_json_close(&j);
    return 0;
}
