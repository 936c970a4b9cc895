/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PyTorch .pth: a zip archive with one pickle, R/data.pkl, and one entry of raw bytes per storage, R/data/<key>.
 *
 *   state dict: name -> _rebuild_tensor_v2(storage, offset, size, stride, ..)
 *   storage:    ('storage', class, key, place, elements)
 *
 * The pickle machine (pickle.h) asks here what a name means. The answer is a closed list; any other name refuses the file,
 * and no code of the file is ever executed. Several tensors may be views of one storage.
 * Source: torch/serialization.py, torch/_utils.py (checkpoints.md 4).
 */
#include <string.h>

#include "base/mem.h"
#include "files/ckpt.h"
#include "files/pickle.h"
#include "files/zip.h"

#define MAX_PICKLE  (64 << 20)
#define NAME        1024

enum { PTH_STORAGE = PK_HOST, PTH_TENSOR };                         // kinds of values; u.at is a number in a pool of Reader

typedef enum Symbol { SYM_ORDERED_DICT, SYM_REBUILD_TENSOR, SYM_REBUILD_PARAMETER, SYM_STORAGE } Symbol;

static const struct {
    const char *module, *name;
    Symbol symbol;
    DType dtype;                        // of a storage class; DT_NB: known, but no type of ours
} symbols[] = {
    { "collections", "OrderedDict", SYM_ORDERED_DICT, 0 },
    { "torch._utils", "_rebuild_tensor_v2", SYM_REBUILD_TENSOR, 0 },
    { "torch._utils", "_rebuild_parameter", SYM_REBUILD_PARAMETER, 0 },
    { "torch", "FloatStorage", SYM_STORAGE, DT_F32 },
    { "torch", "BFloat16Storage", SYM_STORAGE, DT_BF16 },
    { "torch", "HalfStorage", SYM_STORAGE, DT_F16 },
    { "torch", "DoubleStorage", SYM_STORAGE, DT_F64 },
    { "torch", "LongStorage", SYM_STORAGE, DT_I64 },
    { "torch", "IntStorage", SYM_STORAGE, DT_I32 },
    { "torch", "ByteStorage", SYM_STORAGE, DT_U8 },
    { "torch", "BoolStorage", SYM_STORAGE, DT_U8 },
    { "torch", "ShortStorage", SYM_STORAGE, DT_NB },
    { "torch", "CharStorage", SYM_STORAGE, DT_NB },
};

typedef struct Storage {
    DType dtype;
    uint64_t start;                     // in the file
    int64_t nb;                         // elements
} Storage;

typedef struct View {                   // a tensor
    size_t storage;
    int64_t offset, nb;                 // elements
    int nd;
    int64_t dim[CKPT_MAX_DIM];
} View;

typedef struct Reader {
    const CkptFile *f;
    const Log *log;
    Zip zip;
    const char *folder;                 // R
    size_t folder_size;
    Pickle pickle;
    uint8_t *code;                      // data.pkl
    PicklePool storages, views;
} Reader;

static int bad(const Reader *r, const char *what)
{
    return avt_pickle_bad(&r->pickle, what);
}

static const PickleValue *item(const Reader *r, const PickleValue *tuple, size_t i)
{
    return avt_pickle_item(&r->pickle, tuple, i);
}

/* ---- what the pickle may name -------------------------------------------------------------------------------------- */

static int find_symbol(Pickle *m, const char *module, size_t nb_module, const char *name, size_t nb_name, PickleValue *out)
{
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++)
        if (nb_module == strlen(symbols[i].module) && !memcmp(module, symbols[i].module, nb_module) &&
            nb_name == strlen(symbols[i].name) && !memcmp(name, symbols[i].name, nb_name)) {
            *out = (PickleValue){ .kind = PK_SYMBOL, .u.at = i };
            return 0;
        }
    return avt_fail(m->log, AVT_INVALID,
                    "%s: its pickle asks for '%.*s %.*s', which weights have no need of; the file is refused", m->path,
                    (int)nb_module, module, (int)nb_name, name);
}

/* ---- storages ------------------------------------------------------------------------------------------------------ */

static int is_storage_id(const Reader *r, const PickleValue *t)
{
    return t->kind == PK_TUPLE && t->nb == 5 && avt_pickle_is_text(item(r, t, 0), "storage") &&
           item(r, t, 1)->kind == PK_SYMBOL && symbols[item(r, t, 1)->u.at].symbol == SYM_STORAGE &&
           item(r, t, 2)->kind == PK_TEXT && item(r, t, 3)->kind == PK_TEXT && item(r, t, 4)->kind == PK_INT;
}

/* The entry R/data/<key>. */
static int find_entry(const Reader *r, const PickleValue *key, const ZipEntry **out)
{
    char name[80] = "data/";

    if (!key->nb || key->nb > 64 || memchr(key->u.text, '/', key->nb) || memchr(key->u.text, 0, key->nb))
        return bad(r, "the key of a storage is malformed");
    memcpy(name + 5, key->u.text, key->nb);
    *out = avt_zip_find(&r->zip, r->folder, r->folder_size, name, key->nb + 5);
    return *out ? 0 : avt_fail(r->log, AVT_INVALID, "%s: storage data/%.*s is missing", r->f->path, (int)key->nb, key->u.text);
}

/* ('storage', class, key, place, elements) -> storage; where it was (cpu, cuda:0) does not matter */
static int make_storage(Pickle *m, const PickleValue *id, PickleValue *out)
{
    Reader *r = m->host;
    const PickleValue *key;
    const ZipEntry *e;
    Storage s, *p;
    int64_t size;
    int ret;

    if (!is_storage_id(r, id))
        return bad(r, "this is no reference to a storage");
    s.dtype = symbols[item(r, id, 1)->u.at].dtype;
    s.nb = item(r, id, 4)->u.i;
    if (s.dtype == DT_NB)
        return avt_fail(r->log, AVT_INVALID, "%s: a tensor of type %s, which is not supported; f32, bf16 or f16 is wanted",
                        r->f->path, symbols[item(r, id, 1)->u.at].name);
    key = item(r, id, 2);
    ret = find_entry(r, key, &e);
    if (ret < 0)
        return ret;
    if (s.nb < 0 || __builtin_mul_overflow(s.nb, (int64_t)avt_dtype_size(s.dtype), &size) || (uint64_t)size != e->size)
        return avt_fail(r->log, AVT_INVALID,
                        "%s: storage data/%.*s: %lld elements of %s were declared, but it has %lld bytes", r->f->path,
                        (int)key->nb, key->u.text, (long long)s.nb, avt_dtype_name(s.dtype), (long long)e->size);
    s.start = e->start;
    p = avt_pickle_more(m, &r->storages, 1, sizeof(*p));
    if (!p)
        return m->error;
    *p = s;
    *out = (PickleValue){ .kind = PTH_STORAGE, .u.at = r->storages.nb - 1 };
    return 0;
}

/* ---- tensors ------------------------------------------------------------------------------------------------------- */

static int is_empty_dict(const Reader *r, const PickleValue *v)
{
    PickleValue key, value;
    size_t at = 0;

    return v->kind == PK_DICT && v->ordered && !avt_pickle_next(&r->pickle, v, &at, &key, &value);
}

/* Sizes and strides of a view: row-major without gaps, or refused. */
static int read_shape(const Reader *r, View *w, const PickleValue *size, const PickleValue *stride)
{
    if (size->kind != PK_TUPLE || stride->kind != PK_TUPLE || size->nb != stride->nb || size->nb > CKPT_MAX_DIM)
        return bad(r, "the shape of a tensor is malformed");
    w->nd = (int)size->nb;
    w->nb = 1;
    for (int i = w->nd - 1; i >= 0; i--) {
        const PickleValue *d = item(r, size, (size_t)i), *s = item(r, stride, (size_t)i);

        if (d->kind != PK_INT || s->kind != PK_INT || d->u.i < 0)
            return bad(r, "the shape of a tensor is malformed");
        if (d->u.i > 1 && w->nb > 0 && s->u.i != w->nb)
            return bad(r, "a tensor is not contiguous; save it after .contiguous()");
        w->dim[i] = d->u.i;
        if (__builtin_mul_overflow(w->nb, d->u.i, &w->nb))
            return bad(r, "the shape of a tensor is too large for any file");
    }
    return 0;
}

/* (storage, offset, size, stride, requires_grad, hooks [, metadata]) */
static int rebuild_tensor(Reader *r, const PickleValue *args, PickleValue *out)
{
    View w = { 0 }, *p;
    const Storage *s;
    int ret;

    if (args->nb < 6 || args->nb > 7 || item(r, args, 0)->kind != PTH_STORAGE || item(r, args, 1)->kind != PK_INT ||
        item(r, args, 4)->kind != PK_BOOL || !is_empty_dict(r, item(r, args, 5)) ||
        (args->nb == 7 && item(r, args, 6)->kind != PK_NONE && item(r, args, 6)->kind != PK_DICT))
        return bad(r, "the description of a tensor is malformed");
    w.storage = item(r, args, 0)->u.at;
    w.offset = item(r, args, 1)->u.i;
    ret = read_shape(r, &w, item(r, args, 2), item(r, args, 3));
    if (ret < 0)
        return ret;
    s = (const Storage *)r->storages.p + w.storage;
    if (w.offset < 0 || w.offset > s->nb || w.nb > s->nb - w.offset)
        return bad(r, "a tensor reaches beyond its storage");
    p = avt_pickle_more(&r->pickle, &r->views, 1, sizeof(*p));
    if (!p)
        return r->pickle.error;
    *p = w;
    *out = (PickleValue){ .kind = PTH_TENSOR, .u.at = r->views.nb - 1 };
    return 0;
}

/* (tensor, requires_grad, hooks) -> the tensor */
static int rebuild_parameter(const Reader *r, const PickleValue *args, PickleValue *out)
{
    if (args->nb != 3 || item(r, args, 0)->kind != PTH_TENSOR || item(r, args, 1)->kind != PK_BOOL ||
        !is_empty_dict(r, item(r, args, 2)))
        return bad(r, "the description of a parameter is malformed");
    *out = *item(r, args, 0);
    return 0;
}

static int call(Pickle *m, const PickleValue *f, const PickleValue *args, PickleValue *out)
{
    Reader *r = m->host;

    switch (symbols[f->u.at].symbol) {
    case SYM_ORDERED_DICT:
        return args->nb ? bad(r, "an OrderedDict with arguments") : avt_pickle_new_dict(m, 1, out);
    case SYM_REBUILD_TENSOR:
        return rebuild_tensor(r, args, out);
    case SYM_REBUILD_PARAMETER:
        return rebuild_parameter(r, args, out);
    default:
        return bad(r, "a call of something that may not be called");
    }
}

/* ---- the result ---------------------------------------------------------------------------------------------------- */

/* @return 0 and the name with its NUL, or a complaint */
static int read_name(const Reader *r, char name[NAME], const PickleValue *key)
{
    if (key->kind != PK_TEXT || !key->nb || key->nb >= NAME)
        return avt_fail(r->log, AVT_INVALID, "%s: data.pkl: a tensor's name is malformed", r->f->path);
    memcpy(name, key->u.text, key->nb);
    name[key->nb] = 0;
    for (uint32_t i = 0; i < key->nb; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return avt_fail(r->log, AVT_INVALID, "%s: data.pkl: a tensor's name holds a control byte", r->f->path);
    return 0;
}

static int add_tensor(const Reader *r, Ckpt *c, const PickleValue *key, const PickleValue *value)
{
    char name[NAME];
    CkptTensor t = { .name = name, .file = r->f };
    const Storage *s;
    const View *w;
    const int ret = read_name(r, name, key);

    if (ret < 0)
        return ret;
    if (value->kind == PK_DICT)
        return avt_fail(r->log, AVT_INVALID, "%s: the tensors are wrapped in '%s'; save that inner dict alone", r->f->path, name);
    if (value->kind != PTH_TENSOR)
        return avt_fail(r->log, AVT_INVALID, "%s: '%s' is not a tensor; a plain state dict is wanted", r->f->path, name);
    w = (const View *)r->views.p + value->u.at;
    s = (const Storage *)r->storages.p + w->storage;
    t.dtype = s->dtype;
    t.nd = w->nd;
    memcpy(t.dim, w->dim, sizeof(t.dim));
    t.size = (size_t)w->nb * avt_dtype_size(s->dtype);
    t.offset = s->start + (uint64_t)w->offset * avt_dtype_size(s->dtype);
    return avt_ckpt_add(c, &t, r->log);
}

static int add_all(const Reader *r, Ckpt *c, const PickleValue *dict)
{
    PickleValue key, value;
    size_t at = 0;
    int ret = 0;

    if (dict->kind != PK_DICT)
        return avt_fail(r->log, AVT_INVALID, "%s: data.pkl holds no state dict (name -> tensor)", r->f->path);
    while (ret >= 0 && avt_pickle_next(&r->pickle, dict, &at, &key, &value))
        ret = add_tensor(r, c, &key, &value);
    return ret;
}

/* ---- the archive --------------------------------------------------------------------------------------------------- */

static int starts_with(const Reader *r, const ZipEntry *e, const char *rest)
{
    const size_t n = r->folder_size, size = strlen(rest);

    return e->name_size >= n + size && !memcmp(e->name, r->folder, n) && !memcmp(e->name + n, rest, size);
}

/* A program, or another machine's byte order? */
static int check_kind(const Reader *r)
{
    const ZipEntry *e = avt_zip_find(&r->zip, r->folder, r->folder_size, "byteorder", 9);
    char order[6] = "little";
    const int ret = e ? avt_ckpt_bytes(r->f, order, e->start, e->size < 6 ? e->size : 6, r->log) : 0;

    if (ret < 0)
        return ret;
    if (e && (e->size < 6 || memcmp(order, "little", 6)))
        return avt_fail(r->log, AVT_INVALID, "%s: was written on a big-endian machine, which is not supported", r->f->path);
    for (size_t i = 0; i < r->zip.nb; i++)
        if (starts_with(r, &r->zip.entry[i], "/code/") || starts_with(r, &r->zip.entry[i], "/constants.pkl"))
            return avt_fail(r->log, AVT_INVALID, "%s: is a TorchScript program, not weights; save its state_dict()", r->f->path);
    return 0;
}

/* R is the folder of the one entry "R/data.pkl". */
static int find_pickle(Reader *r)
{
    static const char tail[] = "/data.pkl";
    const ZipEntry *found = NULL, *e;
    int ret;

    for (size_t i = 0; i < r->zip.nb; i++) {
        e = &r->zip.entry[i];
        if (e->name_size < 9 || memcmp(e->name + e->name_size - 9, tail, 9))
            continue;
        if (found)
            return avt_fail(r->log, AVT_INVALID, "%s: holds several data.pkl; one PyTorch file was wanted", r->f->path);
        found = e;
    }
    if (!found)
        return avt_fail(r->log, AVT_INVALID, "%s: is a zip archive without data.pkl, so not a PyTorch file", r->f->path);
    if (found->size > MAX_PICKLE)
        return avt_fail(r->log, AVT_INVALID, "%s: its data.pkl has %lld bytes, at most 64 MB are allowed", r->f->path,
                        (long long)found->size);
    r->folder = found->name;
    r->folder_size = found->name_size - 9;
    r->code = avt_malloc(MEM_CKPT, found->size + 1);
    ret = r->code ? avt_ckpt_bytes(r->f, r->code, found->start, found->size, r->log) : AVT_ERR(ENOMEM);
    r->pickle.code = r->pickle.p = r->code;
    r->pickle.end = r->code + found->size;
    return ret < 0 ? ret : check_kind(r);
}

int avt_ckpt_read_pth(Ckpt *c, const CkptFile *f, const Log *log)
{
    Reader r = { .f = f, .log = log };
    PickleValue dict = { 0 };
    int ret = avt_zip_open(&r.zip, f, log);

    if (ret < 0)
        return ret;
    r.pickle =
        (Pickle){ .path = f->path, .log = log, .host = &r, .symbol = find_symbol, .persistent = make_storage, .call = call };
    ret = find_pickle(&r);
    if (ret >= 0)
        ret = avt_pickle_run(&r.pickle, &dict);
    if (ret >= 0)
        ret = add_all(&r, c, &dict);
    avt_pickle_close(&r.pickle);
    avt_free(r.code);
    avt_free(r.storages.p);
    avt_free(r.views.p);
    avt_zip_close(&r.zip);
    return ret;
}
