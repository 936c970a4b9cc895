/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pickle machine: opcodes, stack, memo, and the pools of tuples and dicts. See pickle.h.
 *
 * A tuple's items and a dict's entries lie in pools that only grow; a value holds their numbers. So a dict may even hold itself,
 * and nothing is freed before the end. Lists take items but do not keep them: nothing that is read here has a list that matters.
 * Source: Python's Lib/pickletools.py; the table of checkpoints.md 4.2.
 */
#include <string.h>

#include "files/pickle.h"

#define MAX_OBJECTS 1000000

typedef struct Entry {                  // of a dict
    PickleValue key, value;
    size_t next;                        // + 1; 0: the last one
} Entry;

typedef struct Dict {
    size_t first, last;                 // + 1; 0: none
} Dict;

typedef PickleValue Value;

/* ---- pools --------------------------------------------------------------------------------------------------------- */

int avt_pickle_bad(const Pickle *m, const char *what)
{
    return avt_fail(m->log, AVT_INVALID, "%s: damaged data.pkl at byte %lld: %s", m->path, (long long)(m->p - m->code), what);
}

void *avt_pickle_more(Pickle *m, PicklePool *pool, size_t n, size_t size)
{
    if (n > MAX_OBJECTS - pool->nb) {
        m->error = avt_pickle_bad(m, "more than a million objects");
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

static int push(Pickle *m, Value v)
{
    Value *p = avt_pickle_more(m, &m->stack, 1, sizeof(*p));

    if (!p)
        return m->error;
    *p = v;
    return 0;
}

/* The i-th value from the top, or NULL when a mark or the bottom is nearer. */
static Value *top(const Pickle *m, size_t i)
{
    Value *v = m->stack.p;

    for (size_t k = 0; k <= i; k++)
        if (k >= m->stack.nb || v[m->stack.nb - 1 - k].kind == PK_MARK)
            return NULL;
    return v + m->stack.nb - 1 - i;
}

/* Values above the last mark; -1: no mark. */
static int64_t above_mark(const Pickle *m)
{
    const Value *v = m->stack.p;

    for (size_t n = 0; n < m->stack.nb; n++)
        if (v[m->stack.nb - 1 - n].kind == PK_MARK)
            return (int64_t)n;
    return -1;
}

const PickleValue *avt_pickle_item(const Pickle *m, const PickleValue *tuple, size_t i)
{
    return (const Value *)m->items.p + tuple->u.at + i;
}

int avt_pickle_is_text(const PickleValue *v, const char *text)
{
    return v->kind == PK_TEXT && v->nb == strlen(text) && !memcmp(v->u.text, text, v->nb);
}

/* ---- tuples and dicts ---------------------------------------------------------------------------------------------- */

/* The n values on top become a tuple. */
static int make_tuple(Pickle *m, size_t n)
{
    Value v = { .kind = PK_TUPLE, .nb = (uint32_t)n, .u.at = m->items.nb };
    Value *to;

    if (n && !top(m, n - 1))
        return avt_pickle_bad(m, "the stack is too short for a tuple");
    to = avt_pickle_more(m, &m->items, n, sizeof(*to));
    if (!to)
        return m->error;
    if (n)
        memcpy(to, (Value *)m->stack.p + m->stack.nb - n, n * sizeof(*to));
    m->stack.nb -= n;
    return push(m, v);
}

int avt_pickle_new_dict(Pickle *m, int ordered, PickleValue *out)
{
    Dict *d = avt_pickle_more(m, &m->dicts, 1, sizeof(*d));

    if (!d)
        return m->error;
    *d = (Dict){ 0 };
    *out = (Value){ .kind = PK_DICT, .ordered = (uint8_t)ordered, .u.at = m->dicts.nb - 1 };
    return 0;
}

static int push_dict(Pickle *m)
{
    Value v;
    const int ret = avt_pickle_new_dict(m, 0, &v);

    return ret < 0 ? ret : push(m, v);
}

static int set_item(Pickle *m, const Value *dict, const Value *key, const Value *value)
{
    Entry *e = avt_pickle_more(m, &m->entries, 1, sizeof(*e));
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

int avt_pickle_next(const Pickle *m, const PickleValue *dict, size_t *at, PickleValue *key, PickleValue *value)
{
    const Entry *e = m->entries.p;
    const size_t i = *at ? e[*at - 1].next : ((const Dict *)m->dicts.p)[dict->u.at].first;

    if (!i)
        return 0;
    *at = i;
    *key = e[i - 1].key;
    *value = e[i - 1].value;
    return 1;
}

/* n key and value pairs on top of a dict. */
static int set_items(Pickle *m, size_t nb, size_t below)
{
    const size_t base = m->stack.nb - nb;
    const Value *v = m->stack.p, *dict;

    if (base < below || (nb & 1))
        return avt_pickle_bad(m, "the stack is too short for the items of a dict");
    dict = v + base - below;
    if (dict->kind != PK_DICT)
        return avt_pickle_bad(m, "items are set in something that is no dict");
    for (size_t i = 0; i < nb; i += 2)
        if (set_item(m, dict, v + base + i, v + base + i + 1) < 0)
            return m->error;
    m->stack.nb = base - below + 1;
    return 0;
}

/* ---- what the host answers ----------------------------------------------------------------------------------------- */

/* symbol, args -> result */
static int reduce(Pickle *m)
{
    const Value *args = top(m, 0), *f = top(m, 1);
    Value v = { 0 };
    int ret;

    if (!args || !f || args->kind != PK_TUPLE || f->kind != PK_SYMBOL)
        return avt_pickle_bad(m, "a call of something that may not be called");
    ret = m->call(m, f, args, &v);
    if (ret < 0)
        return ret;
    m->stack.nb -= 2;
    return push(m, v);
}

static int persistent(Pickle *m)
{
    Value *id = top(m, 0), v = { 0 };
    int ret;

    if (!id)
        return avt_pickle_bad(m, "the stack is empty");
    ret = m->persistent(m, id, &v);
    if (ret >= 0)
        *id = v;
    return ret;
}

/* state, object -> object: only the _metadata of a state dict, which says nothing of interest */
static int build(Pickle *m)
{
    const Value *state = top(m, 0), *dict = top(m, 1);

    if (!state || !dict || state->kind != PK_DICT || dict->kind != PK_DICT || !dict->ordered)
        return avt_pickle_bad(m, "state is given to something other than a state dict");
    m->stack.nb--;
    return 0;
}

/* ---- reading the program ------------------------------------------------------------------------------------------- */

/* n bytes of argument, little-endian (n <= 8). */
static int take(Pickle *m, size_t n, uint64_t *v)
{
    *v = 0;
    if ((size_t)(m->end - m->p) < n)
        return avt_pickle_bad(m, "it ends in the middle of an instruction");
    for (size_t i = n; i-- > 0;)
        *v = *v << 8 | m->p[i];
    m->p += n;
    return 0;
}

static int push_int(Pickle *m, size_t n, int is_signed)
{
    uint64_t v;

    if (take(m, n, &v) < 0)
        return AVT_INVALID;
    if (is_signed && n && n < 8 && v >> (8 * n - 1))
        v |= ~(uint64_t)0 << 8 * n;
    return push(m, (Value){ .kind = PK_INT, .u.i = (int64_t)v });
}

static int push_long(Pickle *m)
{
    uint64_t n;

    if (take(m, 1, &n) < 0)
        return AVT_INVALID;
    return n > 8 ? avt_pickle_bad(m, "a number of more than 64 bits") : push_int(m, (size_t)n, 1);
}

static int push_text(Pickle *m)
{
    const char *text;
    uint64_t n;

    if (take(m, 4, &n) < 0)
        return AVT_INVALID;
    if (n > (uint64_t)(m->end - m->p))
        return avt_pickle_bad(m, "a text ends behind the file");
    text = (const char *)m->p;
    m->p += n;
    return push(m, (Value){ .kind = PK_TEXT, .nb = (uint32_t)n, .u.text = text });
}

static int take_line(Pickle *m, const char **text, size_t *size)
{
    const uint8_t *nl = memchr(m->p, '\n', (size_t)(m->end - m->p));

    if (!nl || nl - m->p > 200)
        return avt_pickle_bad(m, "a name does not end");
    *text = (const char *)m->p;
    *size = (size_t)(nl - m->p);
    m->p = nl + 1;
    return 0;
}

static int push_symbol(Pickle *m)
{
    const char *module = NULL, *name = NULL;
    size_t nb_module = 0, nb_name = 0;
    Value v = { 0 };
    int ret;

    if (take_line(m, &module, &nb_module) < 0 || take_line(m, &name, &nb_name) < 0)
        return AVT_INVALID;
    ret = m->symbol(m, module, nb_module, name, nb_name, &v);
    return ret < 0 ? ret : push(m, v);
}

static int put_memo(Pickle *m, size_t n)
{
    uint64_t i;
    const Value *v = top(m, 0);

    if (take(m, n, &i) < 0)
        return AVT_INVALID;
    if (!v)
        return avt_pickle_bad(m, "the stack is empty");
    if (i >= MAX_OBJECTS)
        return avt_pickle_bad(m, "a memo number is too large");
    if (i >= m->memo.nb) {
        const size_t old = m->memo.nb;
        Value *p = avt_pickle_more(m, &m->memo, (size_t)i + 1 - old, sizeof(*p));

        if (!p)
            return m->error;
        memset(p, 0, ((size_t)i + 1 - old) * sizeof(*p));           // PK_MARK: not set
    }
    ((Value *)m->memo.p)[i] = *v;
    return 0;
}

static int get_memo(Pickle *m, size_t n)
{
    uint64_t i;

    if (take(m, n, &i) < 0)
        return AVT_INVALID;
    if (i >= m->memo.nb || ((Value *)m->memo.p)[i].kind == PK_MARK)
        return avt_pickle_bad(m, "a memo number that was never set");
    return push(m, ((Value *)m->memo.p)[i]);
}

/* The values above the mark (and the mark) go into what lies below it. */
static int to_mark(Pickle *m, int op)
{
    const int64_t n = above_mark(m);

    if (n < 0)
        return avt_pickle_bad(m, "there is no mark");
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
    return top(m, 0) && top(m, 0)->kind == PK_LIST ? 0 : avt_pickle_bad(m, "items are appended to something that is no list");
}

static int append(Pickle *m)
{
    if (!top(m, 0) || !top(m, 1) || top(m, 1)->kind != PK_LIST)
        return avt_pickle_bad(m, "an item is appended to something that is no list");
    m->stack.nb--;
    return 0;
}

static int push_float(Pickle *m)
{
    uint64_t bits;

    return take(m, 8, &bits) < 0 ? AVT_INVALID : push(m, (Value){ .kind = PK_FLOAT });
}

static int pop(Pickle *m)
{
    if (!m->stack.nb)
        return avt_pickle_bad(m, "the stack is empty");
    m->stack.nb--;
    return 0;
}

static int protocol(Pickle *m)
{
    uint64_t n;

    if (take(m, 1, &n) < 0)
        return AVT_INVALID;
    return n == 2 ? 0 : avt_pickle_bad(m, "a pickle of protocol 2 was wanted");
}

static int unknown(Pickle *m, int op)
{
    m->p--;
    return avt_fail(m->log, AVT_INVALID,
                    "%s: data.pkl has instruction 0x%02x at byte %lld, which weights have no need of; the file is "
                    "refused",
                    m->path, op, (long long)(m->p - m->code));
}

static int step(Pickle *m, int op)
{
    switch (op) {
    case 0x80: return protocol(m);
    case 'c':  return push_symbol(m);
    case '}':  return push_dict(m);
    case ']':  return push(m, (Value){ .kind = PK_LIST });
    case ')':  return push(m, (Value){ .kind = PK_TUPLE });
    case '(':  return push(m, (Value){ .kind = PK_MARK });
    case 'X':  return push_text(m);
    case 'K':  return push_int(m, 1, 0);
    case 'M':  return push_int(m, 2, 0);
    case 'J':  return push_int(m, 4, 1);
    case 0x8a: return push_long(m);
    case 'G':  return push_float(m);
    case 'N':  return push(m, (Value){ .kind = PK_NONE });
    case 0x88: return push(m, (Value){ .kind = PK_BOOL, .u.i = 1 });
    case 0x89: return push(m, (Value){ .kind = PK_BOOL });
    case 0x85: return make_tuple(m, 1);
    case 0x86: return make_tuple(m, 2);
    case 0x87: return make_tuple(m, 3);
    case 't': case 'u': case 'e':
        return to_mark(m, op);
    case 'q':  return put_memo(m, 1);
    case 'r':  return put_memo(m, 4);
    case 'h':  return get_memo(m, 1);
    case 'j':  return get_memo(m, 4);
    case 'Q':  return persistent(m);
    case 'R':  return reduce(m);
    case 's':  return top(m, 2) ? set_items(m, 2, 1) : avt_pickle_bad(m, "the stack is too short for the items of a dict");
    case 'a':  return append(m);
    case 'b':  return build(m);
    case '0':  return pop(m);
    default:   return unknown(m, op);
    }
}

static int run(Pickle *m)
{
    while (m->p < m->end) {
        const int op = *m->p++;
        int ret;

        if (op == '.')
            return m->p == m->end ? 0 : avt_pickle_bad(m, "something follows its end");
        ret = step(m, op);
        if (ret < 0)
            return ret;
    }
    return avt_pickle_bad(m, "it does not end");
}

/* ---- the interface ------------------------------------------------------------------------------------------------- */

int avt_pickle_run(Pickle *m, PickleValue *result)
{
    const int ret = run(m);

    if (ret < 0)
        return ret;
    if (m->stack.nb != 1)
        return avt_pickle_bad(m, "it leaves no state dict, but nothing or several things");
    *result = *(const Value *)m->stack.p;
    return 0;
}

void avt_pickle_close(Pickle *m)
{
    avt_free(m->stack.p);
    avt_free(m->memo.p);
    avt_free(m->items.p);
    avt_free(m->entries.p);
    avt_free(m->dicts.p);
}
