/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The JSON parser: one pass (RFC 8259), narrower than the standard where a hostile or damaged file would gain: no name twice
 * in an object, no control byte in a name, no zero byte in a text, limits on depth, values and sizes. A tensor header
 * ("strict") is narrower still: its numbers are whole, from 0 to 2^63 - 1.
 *
 *   values  in blocks of the document, each linked to the next of its list
 *   texts   decoded into one pool, which the text's size bounds
 *
 * Why no library: without memory json-c 0.16 crashes, jansson 2.14 drops bytes of texts and goes on; both take what is
 * refused here. Trap: a name may be spelled with escapes ("\u0061" is "a"), so names are decoded before they are compared.
 */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "files/json.h"

#define MAX_SIZE    100000000           // of a text; the cap of a safetensors header
#define MAX_VALUES  2000000             // more than 100000 tensors need; 100 MB of memory
#define MAX_NAME    1024
#define DEPTH       16                  // of a configuration
#define DEPTH_HEAD  4                   // of a tensor header
#define BLOCK       256                 // values

typedef struct Block {
    struct Block *before;
    Json value[BLOCK];
} Block;

typedef struct Parser {
    JsonDoc *doc;
    const char *text, *p, *end;
    int strict, depth;
    char *pool;                         // the next text goes here
    int nb_values;
    const Json **name;                  // of the object that ends, to be sorted
    int max_names;
} Parser;

static int bad(const Parser *s, const char *what)
{
    return avt_fail(s->doc->log, AVT_INVALID, "%s: damaged JSON at byte %lld: %s", s->doc->name, (long long)(s->p - s->text),
                    what);
}

static int ends_early(const Parser *s)
{
    return bad(s, "the text ends inside an object");
}

/* ---- texts --------------------------------------------------------------------------------------------------------- */

static int hex4(const char *p, const char *end)
{
    int v = 0;

    for (int i = 0; i < 4; i++) {
        const int c = p + i < end ? p[i] : 0;
        const int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;

        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

static char *put_utf8(char *o, int c)
{
    if (c < 0x80) {
        *o++ = (char)c;
        return o;
    }
    if (c < 0x800) {
        *o++ = (char)(0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *o++ = (char)(0xe0 | c >> 12);
        } else {
            *o++ = (char)(0xf0 | c >> 18);
            *o++ = (char)(0x80 | (c >> 12 & 63));
        }
        *o++ = (char)(0x80 | (c >> 6 & 63));
    }
    *o++ = (char)(0x80 | (c & 63));
    return o;
}

/* Bytes of the character at p, or 0: not UTF-8. Too long spellings and surrogates are not. */
static int utf8_size(const char *p, const char *end)
{
    const unsigned char *u = (const unsigned char *)p;
    const int n = u[0] < 0x80 ? 1 : u[0] < 0xc2 ? 0 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : u[0] < 0xf5 ? 4 : 0;

    if (n > end - p)
        return 0;
    for (int i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    if (n > 2 && ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf0 && u[1] < 0x90) ||
                  (u[0] == 0xf4 && u[1] > 0x8f)))
        return 0;
    return n;
}

/* One escape after its backslash; moves *pp behind it. @return the character, or -1 */
static int escape(const char **pp, const char *end)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *p = *pp, *f;
    int c, low;

    if (p >= end)
        return -1;
    if (*p != 'u') {
        *pp = p + 1;
        f = *p ? strchr(from, *p) : NULL;
        return f ? to[f - from] : -1;
    }
    c = hex4(p + 1, end);
    *pp = p + 5;
    if (c < 0xd800 || c > 0xdfff)
        return c;
    low = end - p > 7 && p[5] == '\\' && p[6] == 'u' ? hex4(p + 7, end) : -1;
    *pp = p + 11;
    return c < 0xdc00 && low >= 0xdc00 && low <= 0xdfff ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : -1;
}

/* One character of a text, decoded to *o; the parser moves behind it. */
static int read_character(Parser *s, char **o)
{
    const char *p = s->p + 1;
    int n = 1, c;

    if (*s->p == '\\') {
        c = escape(&p, s->end);
        if (c <= 0)
            return bad(s, c ? "a wrong escape" : "a control byte in a text");
        *o = put_utf8(*o, c);
        s->p = p;
        return 0;
    }
    if ((unsigned char)*s->p < 0x20)
        return bad(s, "a control byte in a text");
    n = utf8_size(s->p, s->end);
    if (!n)
        return bad(s, "this is not UTF-8");
    memcpy(*o, s->p, (size_t)n);
    *o += n;
    s->p += n;
    return 0;
}

/* A text from its opening quote on, into the pool. */
static int read_text(Parser *s, const char **out)
{
    char *o = s->pool;
    int ret = 0;

    *out = o;
    s->p++;
    while (ret >= 0 && s->p < s->end && *s->p != '"')
        ret = read_character(s, &o);
    if (ret < 0)
        return ret;
    if (s->p >= s->end)
        return bad(s, "a text does not end");
    s->p++;
    *o++ = 0;
    s->pool = o;
    return 0;
}

static int read_name(Parser *s, const char **name)
{
    const int ret = read_text(s, name);

    if (ret < 0)
        return ret;
    if (s->pool - *name > MAX_NAME + 1)
        return bad(s, "a name is longer than 1024 bytes");
    for (const char *c = *name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return bad(s, "a control byte in a name");
    return 0;
}

/* ---- numbers and words --------------------------------------------------------------------------------------------- */

static const char *digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)? @return its end, or NULL; *whole: neither fraction nor exponent */
static const char *number_end(const char *p, const char *end, int *whole)
{
    const char *first = p + (*p == '-'), *q = digits(first, end);

    *whole = 1;
    if (q == first || (*first == '0' && q - first > 1))
        return NULL;
    if (q < end && *q == '.') {
        p = q + 1;
        q = digits(p, end);
        *whole = 0;
    }
    if (q > p && q < end && (*q | 32) == 'e') {
        p = q + 1;
        p += p < end && (*p == '+' || *p == '-');
        q = digits(p, end);
        *whole = 0;
    }
    return q == p ? NULL : q;
}

static int read_number(Parser *s, Json *v)
{
    int whole;
    const char *end = number_end(s->p, s->end, &whole);
    const size_t n = end ? (size_t)(end - s->p) : 0;

    if (!end)
        return bad(s, "this is not a number");
    if (s->strict && !whole)
        return bad(s, "a number must be whole");
    memcpy(s->pool, s->p, n);                                       // a bracket follows, so there is room for the end
    s->pool[n] = 0;
    errno = 0;
    v->type = JSON_INT;
    v->i = whole ? strtoll(s->pool, NULL, 10) : 0;
    if (s->strict && (errno || *s->p == '-'))
        return bad(s, "a number must be between 0 and 2^63 - 1");
    if (!whole || errno) {
        v->type = JSON_REAL;
        v->f = avt_number(s->pool, NULL);
    }
    s->p = end;
    return 0;
}

static int read_word(Parser *s, Json *v)
{
    static const struct {
        const char *word;
        JsonType type;
        int value;
    } words[] = { { "true", JSON_BOOL, 1 }, { "false", JSON_BOOL, 0 }, { "null", JSON_NULL, 0 } };

    for (int i = 0; i < 3; i++) {
        const size_t n = strlen(words[i].word);

        if ((size_t)(s->end - s->p) >= n && !memcmp(s->p, words[i].word, n)) {
            v->type = words[i].type;
            v->i = words[i].value;
            s->p += n;
            return 0;
        }
    }
    return bad(s, "neither value nor name");
}

/* ---- lists and objects --------------------------------------------------------------------------------------------- */

static void skip_space(Parser *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
        s->p++;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const Json *const *)a)->key, (*(const Json *const *)b)->key);
}

/* No name twice: the members sorted by name have no equal neighbours. */
static int check_names(Parser *s, const Json *object)
{
    int nb = 0;

    if (object->nb > s->max_names) {
        const int max = object->nb < 64 ? 64 : object->nb;
        const Json **name = avt_realloc(MEM_CKPT, s->name, (size_t)max * sizeof(*name));

        if (!name)
            return AVT_ERR(ENOMEM);
        s->name = name;
        s->max_names = max;
    }
    for (const Json *m = object->first; m; m = m->next)
        s->name[nb++] = m;
    if (nb)
        qsort(s->name, (size_t)nb, sizeof(*s->name), by_name);
    for (int i = 1; i < nb; i++)
        if (!by_name(&s->name[i - 1], &s->name[i]))
            return avt_fail(s->doc->log, AVT_INVALID, "%s: damaged JSON: the name '%s' is given twice in one object",
                            s->doc->name, s->name[i]->key);
    return 0;
}

static int new_value(Parser *s, Json **out)
{
    Block *b = s->doc->blocks;
    const int i = s->nb_values % BLOCK;

    if (s->nb_values == MAX_VALUES)
        return bad(s, "it has more than 2000000 values");
    if (!i) {
        b = avt_calloc(MEM_CKPT, 1, sizeof(*b));
        if (!b)
            return AVT_ERR(ENOMEM);
        b->before = s->doc->blocks;
        s->doc->blocks = b;
    }
    s->nb_values++;
    *out = &b->value[i];
    (*out)->doc = s->doc;
    return 0;
}

static int read_value(Parser *s, Json *v);

/* The next value of a list, the next member of an object, and what stands behind it: a comma or the closing bracket. */
static int read_next(Parser *s, Json *list, Json **last)
{
    Json *v = NULL;
    int ret = new_value(s, &v);

    if (ret >= 0 && list->type == JSON_OBJECT) {
        if (s->p < s->end && *s->p != '"')
            return bad(s, "neither value nor name");
        ret = s->p < s->end ? read_name(s, &v->key) : ends_early(s);
        skip_space(s);
        if (ret >= 0 && (s->p >= s->end || *s->p++ != ':'))
            ret = bad(s, "a colon was wanted behind a name");
        skip_space(s);
    }
    if (ret >= 0)
        ret = read_value(s, v);
    if (ret < 0)
        return ret;
    if (*last)
        (*last)->next = v;
    else
        list->first = v;
    *last = v;
    list->nb++;
    return 0;
}

static int read_list(Parser *s, Json *list)
{
    const char close = *s->p == '{' ? '}' : ']';
    Json *last = NULL;
    int ret = 0;

    if (s->depth == (s->strict ? DEPTH_HEAD : DEPTH))
        return bad(s, "brackets are nested too deep");
    list->type = close == '}' ? JSON_OBJECT : JSON_LIST;
    s->depth++;
    s->p++;
    skip_space(s);
    while (ret >= 0 && (list->nb || s->p >= s->end || *s->p != close)) {
        ret = read_next(s, list, &last);
        skip_space(s);
        if (ret < 0 || (s->p < s->end && *s->p == close))
            break;
        if (s->p >= s->end)
            return ends_early(s);
        if (*s->p != ',')
            return bad(s, "a comma or the closing bracket was wanted");
        s->p++;
        skip_space(s);
    }
    s->depth--;
    s->p++;
    return ret < 0 || close == ']' ? ret : check_names(s, list);
}

static int read_value(Parser *s, Json *v)
{
    if (s->p >= s->end)
        return ends_early(s);
    switch (*s->p) {
    case '{': case '[':
        return read_list(s, v);
    case '"':
        v->type = JSON_TEXT;
        return read_text(s, &v->text);
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        return read_number(s, v);
    default:
        return read_word(s, v);
    }
}

/* ---- documents ----------------------------------------------------------------------------------------------------- */

static int read_document(Parser *s, Json **out)
{
    Json *root = NULL;
    int ret;

    skip_space(s);
    if (s->end - s->p >= 3 && !memcmp(s->p, "\xef\xbb\xbf", 3))
        return avt_fail(s->doc->log, AVT_INVALID, "%s: starts with a byte order mark (BOM); save it as UTF-8 without one",
                        s->doc->name);
    if (s->end - s->p >= 2 && (!memcmp(s->p, "\xff\xfe", 2) || !memcmp(s->p, "\xfe\xff", 2)))
        return avt_fail(s->doc->log, AVT_INVALID, "%s: is UTF-16; save it as UTF-8", s->doc->name);
    if (s->p >= s->end || *s->p != '{')
        return bad(s, "an object was wanted, starting with '{'");
    ret = new_value(s, &root);
    if (ret >= 0)
        ret = read_list(s, root);
    if (ret < 0)
        return ret;
    skip_space(s);
    *out = root;
    return s->p < s->end ? bad(s, "something follows the object") : 0;
}

static void free_doc(JsonDoc *d)
{
    for (Block *b = d->blocks, *before; b; b = before) {
        before = b->before;
        avt_free(b);
    }
    avt_free(d->pool);
    avt_free(d->name);
    avt_free(d);
}

static int parse(Json **out, const char *text, size_t size, const char *name, int strict, const Log *log)
{
    Parser s = { .text = text, .p = text, .end = text + size, .strict = strict };
    int ret = AVT_ERR(ENOMEM);

    *out = NULL;
    if (size > MAX_SIZE)
        return avt_fail(log, AVT_INVALID, "%s: %lld bytes of JSON, at most 100 MB are allowed", name, (long long)size);
    s.doc = avt_calloc(MEM_CKPT, 1, sizeof(*s.doc));
    if (!s.doc)
        return ret;
    s.doc->log = log;
    s.doc->name = avt_strdup(MEM_CKPT, name);
    s.doc->pool = s.pool = avt_malloc(MEM_CKPT, size + 1);
    if (s.doc->name && s.doc->pool)
        ret = read_document(&s, out);
    avt_free(s.name);
    if (ret < 0) {
        free_doc(s.doc);
        *out = NULL;
    }
    return ret;
}

int avt_json_parse(Json **out, const char *text, size_t size, const char *name, const Log *log)
{
    return parse(out, text, size, name, 0, log);
}

int avt_json_parse_header(Json **out, const char *text, size_t size, const char *name, const Log *log)
{
    return parse(out, text, size, name, 1, log);
}

void avt_json_close(Json **j)
{
    if (*j)
        free_doc((*j)->doc);
    *j = NULL;
}
