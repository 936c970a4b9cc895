/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one C++ file: libsentencepiece has no C interface. */
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

#include "nets/tokenizer_spm.h"

using sentencepiece::SentencePieceProcessor;

static const SentencePieceProcessor &get(const void *spm)
{
    return *static_cast<const SentencePieceProcessor *>(spm);
}

void *avt_spm_open(const void *model, size_t size) try {
    auto spm = std::make_unique<SentencePieceProcessor>();

    return spm->LoadFromSerializedProto({ static_cast<const char *>(model), size }).ok() ? spm.release() : nullptr;
} catch (...) {
    return nullptr;
}

void avt_spm_close(void *spm)
{
    delete static_cast<SentencePieceProcessor *>(spm);
}

int avt_spm_nb(const void *spm)
{
    return get(spm).GetPieceSize();
}

int avt_spm_id(const void *spm, const char *piece) try {
    const int id = get(spm).PieceToId(piece);                       // the unknown piece's id for every unknown text

    return get(spm).IdToPiece(id) == piece ? id : -1;
} catch (...) {
    return -1;
}

int avt_spm_covers(const void *spm, int id) try {
    return id >= 0 && id < get(spm).GetPieceSize() && !get(spm).IsUnknown(id) && !get(spm).IsByte(id);
} catch (...) {
    return 0;
}

int64_t avt_spm_encode(const void *spm, const char *text, size_t size, int32_t *ids, int64_t max) try {
    std::vector<int> v;

    if (!get(spm).Encode({ text, size }, &v).ok())
        return -1;
    std::copy_n(v.begin(), std::min<int64_t>(max, v.size()), ids);
    return v.size();
} catch (...) {
    return -1;
}
