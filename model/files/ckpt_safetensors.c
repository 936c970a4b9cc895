/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * safetensors: u64 N, N bytes of JSON, then the tensors' bytes to the end of the file.
 *
 *   {"__metadata__": {..}, "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ..}
 *
 * Sorted by offset the tensors must tile the buffer: no hole, no overlap, nothing behind. N and every number come from the
 * file, so they are compared by subtraction, never by a sum that may wrap. Source: huggingface/safetensors, README.
 */
#include <stdlib.h>
#include <string.h>

#include "files/ckpt.h"
#include "files/json.h"

#define MAX_HEADER  100000000
#define MAX_TENSORS 100000

static const struct {
    const char *name;
    DType dtype;                        // DT_NB: known to the format, not to us
} dtypes[] = {
    { "F32", DT_F32 }, { "BF16", DT_BF16 }, { "F16", DT_F16 }, { "F8_E4M3", DT_F8_E4M3 }, { "F8_E5M2", DT_F8_E5M2 },
    { "F64", DT_F64 }, { "I64", DT_I64 }, { "I32", DT_I32 }, { "U8", DT_U8 }, { "BOOL", DT_U8 },
    { "I8", DT_I8 }, { "I16", DT_NB }, { "U16", DT_NB }, { "U32", DT_NB }, { "U64", DT_NB }, { "C64", DT_NB },
    { "F8_E8M0", DT_NB }, { "F4", DT_NB }, { "F6_E2M3", DT_NB }, { "F6_E3M2", DT_NB },
};

typedef struct Part {                   // of the buffer, in tensor order
    int64_t begin, end;
    const char *name;
} Part;

typedef struct Reader {
    Ckpt *c;
    const CkptFile *f;
    const Log *log;
    uint64_t start;                     // of the buffer in the file
    int64_t size;                       // its bytes
    Part *part;
    int64_t nb_parts;
} Reader;

static int bad(const Reader *r, const char *name, const char *what)
{
    return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: %s", r->f->path, name, what);
}

static int read_dtype(const Reader *r, CkptTensor *t, const Json *o)
{
    const Json *v = avt_json_get(o, "dtype");
    const char *s;

    if (!v || v->type != JSON_TEXT)
        return bad(r, t->name, "has no \"dtype\"");
    s = v->text;
    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (!strcmp(s, dtypes[i].name) && dtypes[i].dtype != DT_NB) {
            t->dtype = dtypes[i].dtype;
            return 0;
        } else if (!strcmp(s, dtypes[i].name)) {
            return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: type %s is not supported; f32, bf16 or f16 is wanted",
                            r->f->path, t->name, s);
        }
    return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: unknown type %.40s", r->f->path, t->name, s);
}

static int read_shape(const Reader *r, CkptTensor *t, const Json *o)
{
    const Json *v = avt_json_get(o, "shape");
    int64_t size = (int64_t)avt_dtype_size(t->dtype);

    if (!v || v->type != JSON_LIST)
        return bad(r, t->name, "has no \"shape\"");
    if (v->nb > CKPT_MAX_DIM)
        return bad(r, t->name, "has more than 8 dimensions");
    for (const Json *d = v->first; d; d = d->next) {
        if (d->type != JSON_INT)
            return bad(r, t->name, "its shape is not a list of whole numbers");
        if (__builtin_mul_overflow(size, d->i, &size))
            return bad(r, t->name, "its shape is too large for any file");
        t->dim[t->nd++] = d->i;
    }
    t->size = (size_t)size;
    return 0;
}

static int read_offsets(Reader *r, CkptTensor *t, const Json *o)
{
    const Json *first = avt_json_first(avt_json_get(o, "data_offsets")), *second = first ? first->next : NULL;
    int64_t begin, end;

    if (!second || second->next || first->type != JSON_INT || second->type != JSON_INT)
        return bad(r, t->name, "has no \"data_offsets\" [begin, end]");
    begin = first->i;
    end = second->i;
    if (end < begin)
        return bad(r, t->name, "its data ends before it begins");
    if (end > r->size)
        return avt_fail(r->log, AVT_INVALID,
                        "%s: tensor %s: its data ends %lld bytes behind the header, the file %lld (is the download complete?)",
                        r->f->path, t->name, (long long)end, (long long)r->size);
    if ((size_t)(end - begin) != t->size) {
        char shape[160];

        return avt_fail(r->log, AVT_INVALID, "%s: tensor %s: %s %s needs %lld bytes, but has %lld", r->f->path, t->name,
                        avt_dtype_name(t->dtype), avt_shape_text(shape, sizeof(shape), t->nd, t->dim), (long long)t->size,
                        (long long)(end - begin));
    }
    t->offset = r->start + (uint64_t)begin;
    r->part[r->nb_parts++] = (Part){ begin, end, t->name };
    return 0;
}

/* Nothing of it is used; it must be what the format says. */
static int check_metadata(const Reader *r, const Json *o)
{
    const Json *m = avt_json_first(o);

    while (m && m->type == JSON_TEXT)
        m = m->next;
    return m || o->type != JSON_OBJECT ? bad(r, "__metadata__", "is not an object of texts") : 0;
}

static int read_tensor(Reader *r, const Json *o)
{
    CkptTensor t = { .name = o->key, .file = r->f };
    int ret;

    if (o->type != JSON_OBJECT)
        return bad(r, t.name, "is not described by an object");
    ret = read_dtype(r, &t, o);
    if (ret >= 0)
        ret = read_shape(r, &t, o);
    if (ret >= 0)
        ret = read_offsets(r, &t, o);
    return ret < 0 ? ret : avt_ckpt_add(r->c, &t, r->log);
}

static int compare_parts(const void *a, const void *b)
{
    const Part *x = a, *y = b;

    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int check_tiling(const Reader *r)
{
    int64_t at = 0;

    if (r->nb_parts)
        qsort(r->part, (size_t)r->nb_parts, sizeof(*r->part), compare_parts);
    for (int64_t i = 0; i < r->nb_parts; i++) {
        if (r->part[i].begin != at)
            return bad(r, r->part[i].name, r->part[i].begin < at ? "its data overlaps another tensor's"
                                                                  : "there is a hole in front of its data");
        at = r->part[i].end;
    }
    if (at != r->size)
        return avt_fail(r->log, AVT_INVALID, "%s: %lld bytes follow the last tensor", r->f->path, (long long)(r->size - at));
    return 0;
}

static int read_all(Reader *r, const Json *root)
{
    int ret = 0;

    if (root->nb > MAX_TENSORS)
        return avt_fail(r->log, AVT_INVALID, "%s: %d tensors, at most %d are allowed", r->f->path, root->nb, MAX_TENSORS);
    r->part = avt_calloc(MEM_CKPT, (size_t)root->nb + 1, sizeof(*r->part));
    if (!r->part)
        return AVT_ERR(ENOMEM);
    for (const Json *m = root->first; m && ret >= 0; m = m->next)
        ret = strcmp(m->key, "__metadata__") ? read_tensor(r, m) : check_metadata(r, m);
    return ret < 0 ? ret : check_tiling(r);
}

/* The header's length, or a complaint: what comes from the file is compared by subtraction. */
static int64_t header_size(const CkptFile *f, const Log *log)
{
    uint8_t head[9] = { 0 };
    uint64_t n = 0;
    const int ret = avt_ckpt_bytes(f, head, 0, f->size < 9 ? f->size : 9, log);

    if (ret < 0)
        return ret;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (!n || head[8] != '{')
        return avt_fail(log, AVT_INVALID, "%s: is neither a .safetensors nor a PyTorch .pth file", f->path);
    if (n > MAX_HEADER)
        return avt_fail(log, AVT_INVALID, "%s: claims a header of %llu bytes, no .safetensors file has one; download it again",
                        f->path, (unsigned long long)n);
    if (n > f->size - 8)
        return avt_fail(log, AVT_INVALID,
                        "%s: its header has %llu bytes, but the whole file only %lld (is the download complete?)", f->path,
                        (unsigned long long)n, (long long)f->size);
    return (int64_t)n;
}

int avt_ckpt_read_safetensors(Ckpt *c, const CkptFile *f, const Log *log)
{
    const int64_t n = header_size(f, log);
    Reader r = { .c = c, .f = f, .log = log };
    Json *j = NULL;
    char *text;
    int ret;

    if (n < 0)
        return (int)n;
    text = avt_malloc(MEM_CKPT, (size_t)n);
    ret = text ? avt_ckpt_bytes(f, text, 8, (size_t)n, log) : AVT_ERR(ENOMEM);
    if (ret >= 0)
        ret = avt_json_parse_header(&j, text, (size_t)n, f->path, log);
    avt_free(text);
    r.start = 8 + (uint64_t)n;
    r.size = (int64_t)(f->size - r.start);
    if (ret >= 0)
        ret = read_all(&r, j);
    avt_free(r.part);
    avt_json_close(&j);
    return ret;
}
