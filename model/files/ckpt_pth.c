/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * PyTorch .pth: a zip archive with one pickle, R/data.pkl, and one entry of raw bytes per storage, R/data/<key>.
 *
 * The pickle is a program for a stack machine. This one knows the opcodes of a state dict and nothing else, and six names:
 * no code of the file is ever executed. A value is small and flat; what matters of an object (a dict's entries, a tensor's
 * place) lies in pools that it points into by number, so that nothing dangles and a dict may even hold itself.
 * Source: Python's pickletools; torch/serialization.py, torch/_utils.py (checkpoints.md 4).
 */
#include <string.h>

#include "base/mem.h"
#include "files/ckpt.h"
#include "files/zip.h"

#define MAX_STACK   1000000
#define MAX_PICKLE  (64 << 20)
#define NAME        1024

typedef enum Kind {
    V_MARK, V_NONE, V_BOOL, V_INT, V_FLOAT, V_TEXT, V_TUPLE, V_LIST, V_DICT, V_SYMBOL, V_STORAGE, V_TENSOR
} Kind;

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

typedef struct Value {
    uint8_t kind;                       // Kind
    uint8_t ordered;                    // V_DICT: an OrderedDict
    uint32_t nb;                        // V_TEXT: bytes; V_TUPLE: items
    union {
        int64_t i;                      // V_INT, V_BOOL
        const char *text;               // V_TEXT
        size_t at;                      // V_TUPLE: first item; V_SYMBOL: row of symbols[]; V_DICT, V_STORAGE, V_TENSOR: in their pool
    } u;
} Value;

typedef struct Entry {                  // of a dict
    Value key, value;
    size_t next;                        // + 1; 0: the last one
} Entry;

typedef struct Dict {
    size_t first, last;                 // + 1; 0: none
} Dict;

typedef struct Storage {
    DType dtype;
    const uint8_t *data;
    int64_t nb;                         // elements
} Storage;

typedef struct View {                   // a tensor
    size_t storage;
    int64_t offset, nb;                 // elements
    int nd;
    int64_t dim[CKPT_MAX_DIM];
} View;

typedef struct Pool {
    void *p;
    size_t nb, max;
} Pool;

typedef struct Machine {
    const MappedFile *f;
    const Log *log;
    const Zip *zip;
    const char *folder;                 // R
    size_t folder_size;
    const uint8_t *code, *p, *end;      // the pickle
    int error;                          // why more() gave nothing
    Pool stack, memo, items, entries, dicts, storages, views;
} Machine;

static int bad(const Machine *m, const char *what)
{
    return avt_fail(m->log, AVT_INVALID, "%s: damaged data.pkl at byte %lld: %s", m->f->path, (long long)(m->p - m->code), what);
}

/* ---- pools --------------------------------------------------------------------------------------------------------- */

/* Room for n more elements. @return the first of them, or NULL: m->error says why */
static void *more(Machine *m, Pool *pool, size_t n, size_t size)
{
    if (n > MAX_STACK - pool->nb) {
        m->error = bad(m, "more than a million objects");
        return NULL;
    }
    if (!pool->p || pool->nb + n > pool->max) {                     // a pool of nothing has an address, too
        const size_t max = 2 * pool->max > pool->nb + n ? 2 * pool->max : pool->nb + n + 64;
        void *p = avt_realloc(MEM_CKPT, pool->p, max * size);

        if (!p) {
            m->error = AVT_ERR(ENOMEM);
            return NULL;
        }
        pool->p = p;
        pool->max = max;
    }
    pool->nb += n;
    return (char *)pool->p + (pool->nb - n) * size;
}

static int push(Machine *m, Value v)
{
    Value *p = more(m, &m->stack, 1, sizeof(*p));

    if (!p)
        return m->error;
    *p = v;
    return 0;
}

/* The i-th value from the top, or NULL when a mark or the bottom is nearer. */
static Value *top(const Machine *m, size_t i)
{
    Value *v = m->stack.p;

    for (size_t k = 0; k <= i; k++)
        if (k >= m->stack.nb || v[m->stack.nb - 1 - k].kind == V_MARK)
            return NULL;
    return v + m->stack.nb - 1 - i;
}

/* Values above the last mark; -1: no mark. */
static int64_t above_mark(const Machine *m)
{
    const Value *v = m->stack.p;

    for (size_t n = 0; n < m->stack.nb; n++)
        if (v[m->stack.nb - 1 - n].kind == V_MARK)
            return (int64_t)n;
    return -1;
}

static const Value *item(const Machine *m, const Value *tuple, size_t i)
{
    return (const Value *)m->items.p + tuple->u.at + i;
}

static int is_text(const Value *v, const char *text)
{
    return v->kind == V_TEXT && v->nb == strlen(text) && !memcmp(v->u.text, text, v->nb);
}

/* ---- building objects ---------------------------------------------------------------------------------------------- */

/* The n values on top become a tuple. */
static int make_tuple(Machine *m, size_t n)
{
    Value v = { .kind = V_TUPLE, .nb = (uint32_t)n, .u.at = m->items.nb };
    Value *to;

    if (n && !top(m, n - 1))
        return bad(m, "the stack is too short for a tuple");
    to = more(m, &m->items, n, sizeof(*to));
    if (!to)
        return m->error;
    if (n)
        memcpy(to, (Value *)m->stack.p + m->stack.nb - n, n * sizeof(*to));
    m->stack.nb -= n;
    return push(m, v);
}

static int make_dict(Machine *m, int ordered)
{
    Dict *d = more(m, &m->dicts, 1, sizeof(*d));

    if (!d)
        return m->error;
    *d = (Dict){ 0 };
    return push(m, (Value){ .kind = V_DICT, .ordered = (uint8_t)ordered, .u.at = m->dicts.nb - 1 });
}

static int set_item(Machine *m, const Value *dict, const Value *key, const Value *value)
{
    Entry *e = more(m, &m->entries, 1, sizeof(*e));
    Dict *d = (Dict *)m->dicts.p + dict->u.at;

    if (!e)
        return m->error;
    *e = (Entry){ .key = *key, .value = *value };
    if (d->last)
        ((Entry *)m->entries.p)[d->last - 1].next = m->entries.nb;
    else
        d->first = m->entries.nb;
    d->last = m->entries.nb;
    return 0;
}

/* n key and value pairs on top of a dict. */
static int set_items(Machine *m, size_t nb, size_t below)
{
    const size_t base = m->stack.nb - nb;
    const Value *v = m->stack.p, *dict;

    if (base < below || (nb & 1))
        return bad(m, "the stack is too short for the items of a dict");
    dict = v + base - below;
    if (dict->kind != V_DICT)
        return bad(m, "items are set in something that is no dict");
    for (size_t i = 0; i < nb; i += 2)
        if (set_item(m, dict, v + base + i, v + base + i + 1) < 0)
            return m->error;
    m->stack.nb = base - below + 1;
    return 0;
}

/* ('storage', class, key, location, elements) becomes a storage. */
static int make_storage(Machine *m)
{
    const Value *t = top(m, 0);
    const ZipEntry *e;
    char name[NAME];
    Storage s, *p;
    int64_t size;

    if (!t || t->kind != V_TUPLE || t->nb != 5 || !is_text(item(m, t, 0), "storage") || item(m, t, 1)->kind != V_SYMBOL ||
        symbols[item(m, t, 1)->u.at].symbol != SYM_STORAGE || item(m, t, 2)->kind != V_TEXT || item(m, t, 3)->kind != V_TEXT ||
        item(m, t, 4)->kind != V_INT)
        return bad(m, "this is no reference to a storage");
    s.dtype = symbols[item(m, t, 1)->u.at].dtype;
    s.nb = item(m, t, 4)->u.i;
    if (s.dtype == DT_NB)
        return avt_fail(m->log, AVT_INVALID, "%s: a tensor of type %s, which is not supported; f32, bf16 or f16 is wanted", m->f->path,
                        symbols[item(m, t, 1)->u.at].name);
    t = item(m, t, 2);
    if (!t->nb || t->nb > 64 || memchr(t->u.text, '/', t->nb) || memchr(t->u.text, 0, t->nb))
        return bad(m, "the key of a storage is malformed");
    memcpy(name, "data/", 5);
    memcpy(name + 5, t->u.text, t->nb);
    e = avt_zip_find(m->zip, m->folder, m->folder_size, name, t->nb + 5);
    if (!e)
        return avt_fail(m->log, AVT_INVALID, "%s: storage data/%.*s is missing", m->f->path, (int)t->nb, t->u.text);
    if (s.nb < 0 || __builtin_mul_overflow(s.nb, (int64_t)avt_dtype_size(s.dtype), &size) || (uint64_t)size != e->size)
        return avt_fail(m->log, AVT_INVALID, "%s: storage data/%.*s: %lld elements of %s were declared, but it has %lld bytes", m->f->path,
                        (int)t->nb, t->u.text, (long long)s.nb, avt_dtype_name(s.dtype), (long long)e->size);
    s.data = e->data;
    p = more(m, &m->storages, 1, sizeof(*p));
    if (!p)
        return m->error;
    *p = s;
    *top(m, 0) = (Value){ .kind = V_STORAGE, .u.at = m->storages.nb - 1 };
    return 0;
}

static int is_empty_dict(const Machine *m, const Value *v)
{
    return v->kind == V_DICT && v->ordered && !((const Dict *)m->dicts.p)[v->u.at].first;
}

/* Sizes and strides of a view: row-major without gaps, or refused. */
static int read_shape(const Machine *m, View *w, const Value *size, const Value *stride)
{
    if (size->kind != V_TUPLE || stride->kind != V_TUPLE || size->nb != stride->nb || size->nb > CKPT_MAX_DIM)
        return bad(m, "the shape of a tensor is malformed");
    w->nd = (int)size->nb;
    w->nb = 1;
    for (int i = w->nd - 1; i >= 0; i--) {
        const Value *d = item(m, size, (size_t)i), *s = item(m, stride, (size_t)i);

        if (d->kind != V_INT || s->kind != V_INT || d->u.i < 0)
            return bad(m, "the shape of a tensor is malformed");
        if (d->u.i > 1 && w->nb > 0 && s->u.i != w->nb)
            return bad(m, "a tensor is not contiguous; save it after .contiguous()");
        w->dim[i] = d->u.i;
        if (__builtin_mul_overflow(w->nb, d->u.i, &w->nb))
            return bad(m, "the shape of a tensor is too large for any file");
    }
    return 0;
}

/* (storage, offset, size, stride, requires_grad, hooks [, metadata]) */
static int rebuild_tensor(Machine *m, const Value *args, Value *out)
{
    View w = { 0 }, *p;
    const Storage *s;
    int ret;

    if (args->nb < 6 || args->nb > 7 || item(m, args, 0)->kind != V_STORAGE || item(m, args, 1)->kind != V_INT ||
        item(m, args, 4)->kind != V_BOOL || !is_empty_dict(m, item(m, args, 5)) ||
        (args->nb == 7 && item(m, args, 6)->kind != V_NONE && item(m, args, 6)->kind != V_DICT))
        return bad(m, "the description of a tensor is malformed");
    w.storage = item(m, args, 0)->u.at;
    w.offset = item(m, args, 1)->u.i;
    ret = read_shape(m, &w, item(m, args, 2), item(m, args, 3));
    if (ret < 0)
        return ret;
    s = (const Storage *)m->storages.p + w.storage;
    if (w.offset < 0 || w.offset > s->nb || w.nb > s->nb - w.offset)
        return bad(m, "a tensor reaches beyond its storage");
    p = more(m, &m->views, 1, sizeof(*p));
    if (!p)
        return m->error;
    *p = w;
    *out = (Value){ .kind = V_TENSOR, .u.at = m->views.nb - 1 };
    return 0;
}

/* symbol, args -> result; only what the allow-list can build */
static int reduce(Machine *m)
{
    const Value *args = top(m, 0), *f = top(m, 1);
    Value v = { 0 };
    int ret = 0;

    if (!args || !f || args->kind != V_TUPLE || f->kind != V_SYMBOL)
        return bad(m, "a call of something that may not be called");
    switch (symbols[f->u.at].symbol) {
    case SYM_ORDERED_DICT:
        if (args->nb)
            return bad(m, "an OrderedDict with arguments");
        m->stack.nb -= 2;
        return make_dict(m, 1);
    case SYM_REBUILD_TENSOR:
        ret = rebuild_tensor(m, args, &v);
        break;
    case SYM_REBUILD_PARAMETER:
        if (args->nb != 3 || item(m, args, 0)->kind != V_TENSOR || item(m, args, 1)->kind != V_BOOL || !is_empty_dict(m, item(m, args, 2)))
            return bad(m, "the description of a parameter is malformed");
        v = *item(m, args, 0);
        break;
    case SYM_STORAGE:
        return bad(m, "a call of something that may not be called");
    }
    if (ret < 0)
        return ret;
    m->stack.nb -= 2;
    return push(m, v);
}

/* state, object -> object: only the _metadata of a state dict, which says nothing of interest */
static int build(Machine *m)
{
    const Value *state = top(m, 0), *dict = top(m, 1);

    if (!state || !dict || state->kind != V_DICT || dict->kind != V_DICT || !dict->ordered)
        return bad(m, "state is given to something other than a state dict");
    m->stack.nb--;
    return 0;
}

/* ---- reading the program ------------------------------------------------------------------------------------------- */

/* n bytes of argument, little-endian (n <= 8). */
static int take(Machine *m, size_t n, uint64_t *v)
{
    *v = 0;
    if ((size_t)(m->end - m->p) < n)
        return bad(m, "it ends in the middle of an instruction");
    for (size_t i = n; i-- > 0;)
        *v = *v << 8 | m->p[i];
    m->p += n;
    return 0;
}

static int push_int(Machine *m, size_t n, int is_signed)
{
    uint64_t v;

    if (take(m, n, &v) < 0)
        return AVT_INVALID;
    if (is_signed && n && n < 8 && v >> (8 * n - 1))
        v |= ~(uint64_t)0 << 8 * n;
    return push(m, (Value){ .kind = V_INT, .u.i = (int64_t)v });
}

static int push_long(Machine *m)
{
    uint64_t n;

    if (take(m, 1, &n) < 0)
        return AVT_INVALID;
    return n > 8 ? bad(m, "a number of more than 64 bits") : push_int(m, (size_t)n, 1);
}

static int push_text(Machine *m)
{
    const char *text;
    uint64_t n;

    if (take(m, 4, &n) < 0)
        return AVT_INVALID;
    if (n > (uint64_t)(m->end - m->p))
        return bad(m, "a text ends behind the file");
    text = (const char *)m->p;
    m->p += n;
    return push(m, (Value){ .kind = V_TEXT, .nb = (uint32_t)n, .u.text = text });
}

static int take_line(Machine *m, const char **text, size_t *size)
{
    const uint8_t *nl = memchr(m->p, '\n', (size_t)(m->end - m->p));

    if (!nl || nl - m->p > 200)
        return bad(m, "a name does not end");
    *text = (const char *)m->p;
    *size = (size_t)(nl - m->p);
    m->p = nl + 1;
    return 0;
}

static int push_symbol(Machine *m)
{
    const char *module = NULL, *name = NULL;
    size_t nb_module = 0, nb_name = 0;

    if (take_line(m, &module, &nb_module) < 0 || take_line(m, &name, &nb_name) < 0)
        return AVT_INVALID;
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++)
        if (nb_module == strlen(symbols[i].module) && !memcmp(module, symbols[i].module, nb_module) &&
            nb_name == strlen(symbols[i].name) && !memcmp(name, symbols[i].name, nb_name))
            return push(m, (Value){ .kind = V_SYMBOL, .u.at = i });
    return avt_fail(m->log, AVT_INVALID, "%s: its pickle asks for '%.*s %.*s', which weights have no need of; the file is refused",
                    m->f->path, (int)nb_module, module, (int)nb_name, name);
}

static int put_memo(Machine *m, size_t n)
{
    uint64_t i;
    const Value *v = top(m, 0);

    if (take(m, n, &i) < 0)
        return AVT_INVALID;
    if (!v)
        return bad(m, "the stack is empty");
    if (i >= MAX_STACK)
        return bad(m, "a memo number is too large");
    if (i >= m->memo.nb) {
        const size_t old = m->memo.nb;
        Value *p = more(m, &m->memo, (size_t)i + 1 - old, sizeof(*p));

        if (!p)
            return m->error;
        memset(p, 0, ((size_t)i + 1 - old) * sizeof(*p));           // V_MARK: not set
    }
    ((Value *)m->memo.p)[i] = *v;
    return 0;
}

static int get_memo(Machine *m, size_t n)
{
    uint64_t i;

    if (take(m, n, &i) < 0)
        return AVT_INVALID;
    if (i >= m->memo.nb || ((Value *)m->memo.p)[i].kind == V_MARK)
        return bad(m, "a memo number that was never set");
    return push(m, ((Value *)m->memo.p)[i]);
}

/* The values above the mark (and the mark) go into what lies below it. */
static int to_mark(Machine *m, int op)
{
    const int64_t n = above_mark(m);

    if (n < 0)
        return bad(m, "there is no mark");
    if (op == 'u')
        return set_items(m, (size_t)n, 2);
    if (op == 't') {
        const int ret = make_tuple(m, (size_t)n);

        if (ret >= 0) {
            ((Value *)m->stack.p)[m->stack.nb - 2] = ((Value *)m->stack.p)[m->stack.nb - 1];
            m->stack.nb--;
        }
        return ret;
    }
    m->stack.nb -= (size_t)n + 1;                                   // 'e': nothing that we read has a list that matters
    return top(m, 0) && top(m, 0)->kind == V_LIST ? 0 : bad(m, "items are appended to something that is no list");
}

static int append(Machine *m)
{
    if (!top(m, 0) || !top(m, 1) || top(m, 1)->kind != V_LIST)
        return bad(m, "an item is appended to something that is no list");
    m->stack.nb--;
    return 0;
}

static int push_float(Machine *m)
{
    uint64_t bits;

    return take(m, 8, &bits) < 0 ? AVT_INVALID : push(m, (Value){ .kind = V_FLOAT });
}

static int pop(Machine *m)
{
    if (!m->stack.nb)
        return bad(m, "the stack is empty");
    m->stack.nb--;
    return 0;
}

static int protocol(Machine *m)
{
    uint64_t n;

    if (take(m, 1, &n) < 0)
        return AVT_INVALID;
    return n == 2 ? 0 : bad(m, "a pickle of protocol 2 was wanted");
}

static int unknown(Machine *m, int op)
{
    m->p--;
    return avt_fail(m->log, AVT_INVALID, "%s: data.pkl has instruction 0x%02x at byte %lld, which weights have no need of; the file is "
                    "refused", m->f->path, op, (long long)(m->p - m->code));
}

static int step(Machine *m, int op)
{
    switch (op) {
    case 0x80: return protocol(m);
    case 'c':  return push_symbol(m);
    case '}':  return make_dict(m, 0);
    case ']':  return push(m, (Value){ .kind = V_LIST });
    case ')':  return push(m, (Value){ .kind = V_TUPLE });
    case '(':  return push(m, (Value){ .kind = V_MARK });
    case 'X':  return push_text(m);
    case 'K':  return push_int(m, 1, 0);
    case 'M':  return push_int(m, 2, 0);
    case 'J':  return push_int(m, 4, 1);
    case 0x8a: return push_long(m);
    case 'G':  return push_float(m);
    case 'N':  return push(m, (Value){ .kind = V_NONE });
    case 0x88: return push(m, (Value){ .kind = V_BOOL, .u.i = 1 });
    case 0x89: return push(m, (Value){ .kind = V_BOOL });
    case 0x85: return make_tuple(m, 1);
    case 0x86: return make_tuple(m, 2);
    case 0x87: return make_tuple(m, 3);
    case 't': case 'u': case 'e':
        return to_mark(m, op);
    case 'q':  return put_memo(m, 1);
    case 'r':  return put_memo(m, 4);
    case 'h':  return get_memo(m, 1);
    case 'j':  return get_memo(m, 4);
    case 'Q':  return make_storage(m);
    case 'R':  return reduce(m);
    case 's':  return top(m, 2) ? set_items(m, 2, 1) : bad(m, "the stack is too short for the items of a dict");
    case 'a':  return append(m);
    case 'b':  return build(m);
    case '0':  return pop(m);
    default:   return unknown(m, op);
    }
}

static int run(Machine *m)
{
    while (m->p < m->end) {
        const int op = *m->p++;
        int ret;

        if (op == '.')
            return m->p == m->end ? 0 : bad(m, "something follows its end");
        ret = step(m, op);
        if (ret < 0)
            return ret;
    }
    return bad(m, "it does not end");
}

/* ---- the result ---------------------------------------------------------------------------------------------------- */

static int add_tensor(const Machine *m, Ckpt *c, const Entry *e)
{
    const View *w;
    const Storage *s;
    char name[NAME];
    CkptTensor t = { .name = name, .file = m->f->name };

    if (e->key.kind != V_TEXT || !e->key.nb || e->key.nb >= NAME || memchr(e->key.u.text, 0, e->key.nb))
        return avt_fail(m->log, AVT_INVALID, "%s: data.pkl: a tensor's name is malformed", m->f->path);
    memcpy(name, e->key.u.text, e->key.nb);
    name[e->key.nb] = 0;
    for (uint32_t i = 0; i < e->key.nb; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return avt_fail(m->log, AVT_INVALID, "%s: data.pkl: a tensor's name holds a control byte", m->f->path);
    if (e->value.kind != V_TENSOR)
        return avt_fail(m->log, AVT_INVALID, e->value.kind == V_DICT ? "%s: the tensors are wrapped in '%s'; save that inner dict alone" :
                        "%s: '%s' is not a tensor; a plain state dict is wanted", m->f->path, name);
    w = (const View *)m->views.p + e->value.u.at;
    s = (const Storage *)m->storages.p + w->storage;
    t.dtype = s->dtype;
    t.nd = w->nd;
    memcpy(t.dim, w->dim, sizeof(t.dim));
    t.size = (size_t)w->nb * avt_dtype_size(s->dtype);
    t.data = s->data + (size_t)w->offset * avt_dtype_size(s->dtype);
    return avt_ckpt_add(c, &t, m->log);
}

static int add_all(const Machine *m, Ckpt *c)
{
    const Value *v = m->stack.p;

    if (m->stack.nb != 1 || v->kind != V_DICT)
        return avt_fail(m->log, AVT_INVALID, "%s: data.pkl holds no state dict (name -> tensor)", m->f->path);
    for (size_t i = ((const Dict *)m->dicts.p)[v->u.at].first; i; i = ((const Entry *)m->entries.p)[i - 1].next) {
        const int ret = add_tensor(m, c, (const Entry *)m->entries.p + i - 1);

        if (ret < 0)
            return ret;
    }
    return 0;
}

static int starts_with(const Machine *m, const ZipEntry *e, const char *rest)
{
    const size_t n = m->folder_size, size = strlen(rest);

    return e->name_size >= n + size && !memcmp(e->name, m->folder, n) && !memcmp(e->name + n, rest, size);
}

/* A program, or another machine's byte order? */
static int check_kind(const Machine *m)
{
    const ZipEntry *e = avt_zip_find(m->zip, m->folder, m->folder_size, "byteorder", 9);

    if (e && (e->size < 6 || memcmp(e->data, "little", 6)))
        return avt_fail(m->log, AVT_INVALID, "%s: was written on a big-endian machine, which is not supported", m->f->path);
    for (size_t i = 0; i < m->zip->nb; i++)
        if (starts_with(m, &m->zip->entry[i], "/code/") || starts_with(m, &m->zip->entry[i], "/constants.pkl"))
            return avt_fail(m->log, AVT_INVALID, "%s: is a TorchScript program, not weights; save its state_dict()", m->f->path);
    return 0;
}

/* R is the folder of the one entry "R/data.pkl". */
static int find_pickle(Machine *m)
{
    static const char tail[] = "/data.pkl";
    const ZipEntry *found = NULL, *e;

    for (size_t i = 0; i < m->zip->nb; i++) {
        e = &m->zip->entry[i];
        if (e->name_size < 9 || memcmp(e->name + e->name_size - 9, tail, 9))
            continue;
        if (found)
            return avt_fail(m->log, AVT_INVALID, "%s: holds several data.pkl; one PyTorch file was wanted", m->f->path);
        found = e;
    }
    if (!found)
        return avt_fail(m->log, AVT_INVALID, "%s: is a zip archive without data.pkl, so not a PyTorch file", m->f->path);
    if (found->size > MAX_PICKLE)
        return avt_fail(m->log, AVT_INVALID, "%s: its data.pkl has %lld bytes, at most 64 MB are allowed", m->f->path,
                        (long long)found->size);
    m->folder = found->name;
    m->folder_size = found->name_size - 9;
    m->code = m->p = found->data;
    m->end = found->data + found->size;
    return check_kind(m);
}

int avt_ckpt_read_pth(Ckpt *c, const MappedFile *f, const Log *log)
{
    Zip zip;
    Machine m = { .f = f, .log = log, .zip = &zip };
    int ret = avt_zip_open(&zip, f, log);

    if (ret < 0)
        return ret;
    ret = find_pickle(&m);
    if (ret >= 0)
        ret = run(&m);
    if (ret >= 0)
        ret = add_all(&m, c);
    avt_free(m.stack.p);
    avt_free(m.memo.p);
    avt_free(m.items.p);
    avt_free(m.entries.p);
    avt_free(m.dicts.p);
    avt_free(m.storages.p);
    avt_free(m.views.p);
    avt_zip_close(&zip);
    return ret;
}
