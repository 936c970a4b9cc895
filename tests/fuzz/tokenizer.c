/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fuzzer entry: a SentencePiece model with a few texts; and the input as a text for the good model of the tests. */
#include <string.h>

#include "base/mem.h"
#include "config.h"
#include "file.h"
#include "nets/tokenizer.h"

static void encode(const Tokenizer *t, const char *text)
{
    int32_t ids[64];
    char *clean;
    int nb;

    if (avt_text_clean(&clean, text, NULL) < 0)
        return;
    nb = avt_tokenizer_encode(t, ids, 64, clean, NULL);
    if (nb > 64 || (nb > 0 && ids[nb - 1] < 0))
        abort();
    avt_free(clean);
}

static void encode_input(const uint8_t *data, size_t size)
{
    static Tokenizer *good;
    char *text = malloc(size + 1);

    if (!good && avt_tokenizer_open(&good, AVT_SRCDIR "/tests/gold/spiece.model", NULL) < 0)
        abort();
    if (!text)
        return;
    memcpy(text, data, size);
    text[size] = 0;
    encode(good, text);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Tokenizer *t;

    encode_input(data, size);
    if (avt_tokenizer_open(&t, fuzz_file(data, size), NULL) < 0)
        return 0;
    encode(t, "A person speaks, calmly & clearly.");
    encode(t, "<extra_id_0> \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x99\x82");
    encode(t, "");
    avt_tokenizer_close(&t);
    return 0;
}
