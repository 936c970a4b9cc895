/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Cleaned text -> token ids through libsentencepiece; the rules (normalizer, byte fallback, dummy prefix) are the model file's.
 *
 * User text never becomes a special id: before libsentencepiece gets the model, pieces with the names of special tokens that
 * text could match (type NORMAL or USER_DEFINED) are retyped UNUSED. For that the file is walked as protobuf, which also
 * refuses what is truncated or something else.
 * Source: text-encoder.md 6; sentencepiece_model.proto (pieces = 1 { piece = 1, score = 2, type = 3 }).
 */
#include <string.h>

#include "base/mem.h"
#include "files/file.h"
#include "nets/tokenizer.h"
#include "nets/tokenizer_spm.h"

#define MAX_MODEL_BYTES (256 << 20)
/* Memory that sentencepiece is called with at least: in a library that was loaded by dlopen(), C++ cannot even say that there is none. */
#define SPM_SPARE ((size_t)16 << 20)
#define SPM_TIMES 8                     // of what it reads

enum { PIECE_NORMAL = 1, PIECE_USER_DEFINED = 4, PIECE_UNUSED = 5 };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct Tokenizer {
    void *spm;
    int eos;
};

/* ---- the model file ------------------------------------------------------------------------------------------ */

typedef struct Wire {                   // a run of protobuf fields
    const uint8_t *p, *end;
} Wire;

typedef struct Field {
    uint64_t number;
    uint64_t value;                     // varint
    Wire body;                          // bytes
} Field;

static int read_varint(Wire *w, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        const uint8_t b = *w->p++;

        *value |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80))
            return 1;
    }
    return 0;
}

/* @return 1, 0 at the end, -1 for what is not protobuf */
static int read_field(Wire *w, Field *f)
{
    uint64_t key, size = 0;

    if (w->p == w->end)
        return 0;
    if (!read_varint(w, &key))
        return -1;
    f->number = key >> 3;
    f->value = 0;
    f->body = (Wire){ 0 };
    switch (key & 7) {
    case WIRE_VARINT:
        return read_varint(w, &f->value) ? 1 : -1;
    case WIRE_64:
        size = 8;
        break;
    case WIRE_32:
        size = 4;
        break;
    case WIRE_BYTES:
        if (!read_varint(w, &size))
            return -1;
        break;
    default:
        return -1;
    }
    if (size > (uint64_t)(w->end - w->p))
        return -1;
    f->body = (Wire){ w->p, w->p + size };
    w->p += size;
    return 1;
}

static int is_special_name(const uint8_t *s, size_t n)
{
    static const char *const names[] = { "<pad>", "</s>", "<s>", "<unk>" };
    static const char mark[] = "\xE2\x96\x81", extra[] = "<extra_id_";          // U+2581 may stand in front

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (n == strlen(names[i]) && !memcmp(s, names[i], n))
            return 1;
    if (n > 3 && !memcmp(s, mark, 3)) {
        s += 3;
        n -= 3;
    }
    return n > strlen(extra) && !memcmp(s, extra, strlen(extra)) && s[n - 1] == '>';
}

/* Must this piece be retyped? -1: not protobuf. */
static int is_reachable_special(Wire body)
{
    uint64_t type = PIECE_NORMAL;
    int special = 0, ret;
    Field f;

    while ((ret = read_field(&body, &f)) > 0) {
        if (f.number == 1 && f.body.p)
            special = is_special_name(f.body.p, (size_t)(f.body.end - f.body.p));
        if (f.number == 3)
            type = f.value;
    }
    return ret < 0 ? -1 : special && (type == PIECE_NORMAL || type == PIECE_USER_DEFINED);
}

static uint8_t *write_varint(uint8_t *p, uint64_t v)
{
    for (; v > 0x7F; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

/* Copies model to dst (NULL: only counts) with special pieces retyped; *size becomes the copy's. -1: not a model. */
static int retype_specials(uint8_t *dst, size_t *size, const uint8_t *model, size_t model_size)
{
    Wire w = { model, model + model_size };
    uint8_t *q = dst;
    size_t total = 0;
    int64_t nb_pieces = 0;
    int ret;

    for (;;) {
        const uint8_t *start = w.p;
        Field f = { 0 };
        int special = 0;

        ret = read_field(&w, &f);
        if (ret <= 0)
            break;
        if (f.number == 1 && f.body.p) {
            special = is_reachable_special(f.body);
            if (special < 0)
                return -1;
            nb_pieces++;
        }
        const size_t field = (size_t)(w.p - start), body = (size_t)(f.body.end - f.body.p);
        total += field + (special ? 16 : 0);
        if (!dst)
            continue;
        if (special) {                                              // of a field that comes twice the last one counts
            *q++ = 1 << 3 | WIRE_BYTES;
            q = write_varint(q, body + 2);
            memcpy(q, f.body.p, body);
            q += body;
            *q++ = 3 << 3 | WIRE_VARINT;
            *q++ = PIECE_UNUSED;
        } else {
            memcpy(q, start, field);
            q += field;
        }
    }
    *size = dst ? (size_t)(q - dst) : total;
    return ret < 0 || !nb_pieces ? -1 : 0;
}

/* ---- the tokenizer ------------------------------------------------------------------------------------------- */

static size_t wanted(size_t size)
{
    return SPM_SPARE + SPM_TIMES * size;
}

static int open_model(Tokenizer *t, const uint8_t *file, size_t file_size, const char *path, const Log *log)
{
    size_t size = 0;
    uint8_t *model;

    if (retype_specials(NULL, &size, file, file_size) < 0)
        return avt_fail(log, AVT_INVALID, "tokenizer: %s: not a SentencePiece model, or truncated; get it again", path);
    model = avt_pages_left(wanted(size)) ? avt_malloc(MEM_NET, size) : NULL;
    if (!model)
        return avt_fail(log, AVT_ERR(ENOMEM), "tokenizer: %s: reading it takes %.0f MB, and this process can have no more: raise its limit (ulimit -v), or end "
                        "what else runs", path, 1e-6 * (double)wanted(size));
    retype_specials(model, &size, file, file_size);
    t->spm = avt_spm_open(model, size);
    avt_free(model);
    if (!t->spm)
        return avt_fail(log, AVT_INVALID, "tokenizer: %s: libsentencepiece refuses this model; get it again", path);
    t->eos = avt_spm_id(t->spm, "</s>");
    if (t->eos < 0)
        return avt_fail(log, AVT_INVALID, "tokenizer: %s: has no piece </s>, so it is not umT5's", path);
    return 0;
}

int avt_tokenizer_open(Tokenizer **out, const char *path, const Log *log)
{
    Tokenizer *t = avt_calloc(MEM_NET, 1, sizeof(*t));
    void *file = NULL;
    size_t size = 0;
    int ret;

    *out = NULL;
    if (!t)
        return AVT_ERR(ENOMEM);
    ret = avt_file_read_all(&file, &size, path, MAX_MODEL_BYTES, log);
    if (ret >= 0)
        ret = open_model(t, file, size, path, log);
    avt_free(file);
    if (ret >= 0)
        *out = t;
    else
        avt_tokenizer_close(&t);
    return ret;
}

void avt_tokenizer_close(Tokenizer **t)
{
    if (*t && (*t)->spm)
        avt_spm_close((*t)->spm);
    avt_freep(t);
}

int avt_tokenizer_nb_pieces(const Tokenizer *t)
{
    return avt_spm_nb(t->spm);
}

int avt_tokenizer_covers(const Tokenizer *t, int32_t id)
{
    return avt_spm_covers(t->spm, id);
}

int avt_tokenizer_encode(const Tokenizer *t, int32_t *ids, int max, const char *cleaned, int64_t *left_out)
{
    int64_t nb;

    if (max < 1)
        return AVT_ERR(EINVAL);
    nb = avt_pages_left(wanted(strlen(cleaned))) ? avt_spm_encode(t->spm, cleaned, strlen(cleaned), ids, max - 1) : -1;
    if (nb < 0)
        return AVT_ERR(ENOMEM);
    if (left_out)
        *left_out = nb > max - 1 ? nb - (max - 1) : 0;
    if (nb > max - 1)
        nb = max - 1;
    ids[nb] = t->eos;
    return (int)nb + 1;
}
