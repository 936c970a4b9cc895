/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The original's text cleaning: ftfy's repairs line by line until nothing changes, HTML unescaped twice, every run of white
 * space one space. On arrays of code points; utf8proc composes (NFC).
 *
 *   text -> [ entities -> characters -> NFC ]* -> entities -> entities -> white space -> text
 *
 * Traps: inside the loop entities are replaced by stricter rules than after it, and not at all from the first line on that
 * has a '<' (it may be real HTML). C1 controls are what Windows-1252 means by them, so U+0085 is an ellipsis.
 * Not done: repair of text that was decoded wrongly ("â€™"); names of references beyond htmlentities.c.
 * Source: text-encoder.md 5; ftfy 6 fix_text; Python html.unescape.
 */
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "nets/textclean.h"
#include "nets/tokenizer.h"

#define MAX_PASSES 32                   // of the loop: each undoes one level of "&amp;amp;"
#define MAX_NAME   32                   // of a character reference
#define MAX_MARKS  256                  // that combine with one letter; Unicode's stream-safe text has 30
#define REPLACEMENT 0xFFFD

typedef struct Runes {                  // code points
    int32_t *v;
    int64_t nb, cap;
    int error;                          // out of memory, too many marks: later puts do nothing
} Runes;

static void put(Runes *r, int32_t c)
{
    if (r->nb == r->cap && !r->error) {
        const int64_t cap = r->cap ? 2 * r->cap : 256;
        int32_t *v = avt_realloc(MEM_NET, r->v, (size_t)cap * sizeof(*v));

        if (v) {
            r->v = v;
            r->cap = cap;
        } else
            r->error = AVT_ERR(ENOMEM);
    }
    if (!r->error)
        r->v[r->nb++] = c;
}

static void clear(Runes *r)
{
    r->nb = 0;
}

static int same(const Runes *a, const Runes *b)
{
    return a->nb == b->nb && (!a->nb || !memcmp(a->v, b->v, (size_t)a->nb * sizeof(*a->v)));
}

/* What Windows-1252 has where Latin-1 has C1 controls; five places are empty and stay. */
static int32_t windows_1252(int32_t c)
{
    static const uint16_t table[32] = {
        0x20AC, 0x81, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D, 0x017D, 0x8F,
        0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D, 0x017E, 0x0178,
    };

    return c >= 0x80 && c <= 0x9F ? table[c - 0x80] : c;
}

/* ---- character references ------------------------------------------------------------------------------------ */

static int digit_value(int32_t c, int base)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return base == 16 && c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int is_alnum(int32_t c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z' && c < 0x80);
}

/* The character that number n refers to; -1: none (the reference vanishes). */
static int32_t numbered(int64_t n)
{
    if (n >= 0x80 && n <= 0x9F)
        return windows_1252((int32_t)n);
    if (n == 0 || n > 0x10FFFF || (n >= 0xD800 && n <= 0xDFFF))
        return REPLACEMENT;
    if (n <= 0x08 || n == 0x0B || (n >= 0x0E && n <= 0x1F) || n == 0x7F || (n >= 0xFDD0 && n <= 0xFDEF) || (n & 0xFFFE) == 0xFFFE)
        return -1;
    return (int32_t)n;
}

/* "&#65;", "&#x41;" at v[0]: @return length, 0 when it is none. `strict`: a semicolon must end it, and may not be its result. */
static int64_t number_reference(Runes *out, const int32_t *v, int64_t nb, int strict)
{
    const int base = nb > 2 && (v[2] | 0x20) == 'x' ? 16 : 10;
    const int64_t first = base == 16 ? 3 : 2;
    int64_t i = first, n = 0;
    int32_t c;

    for (; i < nb && digit_value(v[i], base) >= 0; i++)
        n = n > 0x10FFFF ? n : n * base + digit_value(v[i], base);
    if (i == first)
        return 0;
    c = numbered(n);
    if (strict && (i == nb || v[i] != ';' || c == ';'))
        return 0;
    if (c >= 0)
        put(out, c);
    return i + (i < nb && v[i] == ';');
}

/* ftfy's addition: "&EACUTE;" shouts a name that has no capitals of its own. */
static int put_shouted(Runes *out, const char *name, size_t size)
{
    char low[MAX_NAME];
    int32_t c;

    for (size_t i = 0; i < size; i++) {
        if (name[i] >= 'a' && name[i] <= 'z')
            return 0;
        low[i] = name[i] >= 'A' && name[i] <= 'Z' ? name[i] | 0x20 : name[i];
    }
    c = avt_html_entity(low, size, 0);
    if (c < 0)
        return 0;
    if (c == 0xDF) {                                                // sharp s becomes two letters
        put(out, 'S');
        put(out, 'S');
    } else
        put(out, utf8proc_toupper(c));
    return 1;
}

/* "&eacute;" at v[0]: @return length, 0 when it is none. Not strict: the longest legacy name counts without a semicolon. */
static int64_t name_reference(Runes *out, const int32_t *v, int64_t nb, int strict)
{
    char name[MAX_NAME];
    size_t size = 0;
    int32_t c = -1;

    while (size < MAX_NAME && (int64_t)size + 1 < nb && is_alnum(v[size + 1])) {
        name[size] = (char)v[size + 1];
        size++;
    }
    if ((int64_t)size + 1 < nb && v[size + 1] == ';') {
        c = avt_html_entity(name, size, 0);
        if (c < 0 && strict && put_shouted(out, name, size))
            return (int64_t)size + 2;
        if (c >= 0) {
            put(out, c);
            return (int64_t)size + 2;
        }
    }
    for (; !strict && c < 0 && size >= 2; size--) {
        c = avt_html_entity(name, size, 1);
        if (c >= 0) {
            put(out, c);
            return (int64_t)size + 1;
        }
    }
    return 0;
}

/* strict: ftfy's rules, else html.unescape's. */
static void unescape(Runes *out, const int32_t *v, int64_t nb, int strict)
{
    for (int64_t i = 0, step; i < nb; i += step) {
        step = 0;
        if (v[i] == '&' && i + 1 < nb)
            step = v[i + 1] == '#' ? number_reference(out, v + i, nb - i, strict) : name_reference(out, v + i, nb - i, strict);
        if (!step) {
            put(out, v[i]);
            step = 1;
        }
    }
}

/* ---- characters ---------------------------------------------------------------------------------------------- */

static const char *ligature(int32_t c)
{
    static const struct { int32_t code; const char *text; } table[] = {
        { 0x0132, "IJ" }, { 0x0133, "ij" }, { 0x0149, "'n" }, { 0x01C4, "D\u017D" }, { 0x01C5, "D\u017E" }, { 0x01C6, "d\u017E" },
        { 0x01C7, "LJ" }, { 0x01C8, "Lj" }, { 0x01C9, "lj" }, { 0x01CA, "NJ" }, { 0x01CB, "Nj" }, { 0x01CC, "nj" },
        { 0x01F1, "DZ" }, { 0x01F2, "Dz" }, { 0x01F3, "dz" }, { 0xFB00, "ff" }, { 0xFB01, "fi" }, { 0xFB02, "fl" },
        { 0xFB03, "ffi" }, { 0xFB04, "ffl" }, { 0xFB05, "\u017Ft" }, { 0xFB06, "st" },
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (table[i].code == c)
            return table[i].text;
    return NULL;
}

static int is_dropped(int32_t c)
{
    return c < 0x09 || c == 0x0B || (c >= 0x0E && c < 0x20) || c == 0x7F || (c >= 0x206A && c <= 0x206F) || c == 0xFEFF ||
           (c >= 0xFFF9 && c <= 0xFFFC);
}

static void put_text(Runes *out, const char *text)
{
    utf8proc_int32_t c;

    for (const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text; *p; put(out, c))
        p += utf8proc_iterate(p, -1, &c);
}

/* Quotes become straight, line ends \n. */
static void put_plain(Runes *out, int32_t c)
{
    if (c == 0x3000)
        c = ' ';
    if (c >= 0x02BC && c <= 0x201F && (c == 0x02BC || (c >= 0x2018 && c <= 0x201B)))
        c = '\'';
    if (c >= 0x201C && c <= 0x201F)
        c = '"';
    if (c == '\r' || c == 0x2028 || c == 0x2029)
        c = '\n';
    put(out, c);
}

/* C1 controls, ligatures, halfwidth and fullwidth forms become what they stand for. */
static void put_fixed(Runes *out, int32_t c)
{
    const char *text;

    c = windows_1252(c);
    text = ligature(c);
    if (text)
        put_text(out, text);
    else if (c >= 0xFF01 && c <= 0xFFEF) {
        utf8proc_int32_t wide[8];
        int bound = 0;
        const utf8proc_ssize_t nb = utf8proc_decompose_char(c, wide, 8, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, &bound);

        for (utf8proc_ssize_t i = 0; i < nb && i < 8; i++)
            put_plain(out, wide[i]);
    } else
        put_plain(out, c);
}

/* Length of a terminal's colour sequence (ESC [ 1 ; 31 m) at v[0], or 0. */
static int64_t escape_sequence(const int32_t *v, int64_t nb)
{
    int64_t i = 2;

    if (nb < 3 || v[0] != 0x1B || v[1] != '[')
        return 0;
    while (i < nb && ((v[i] >= '0' && v[i] <= '9') || v[i] == ';'))
        i++;
    return i < nb && v[i] < 0x80 && is_alnum(v[i]) ? i + 1 : 0;
}

static void fix_characters(Runes *out, const Runes *in)
{
    for (int64_t i = 0; i < in->nb; i++)
        put_fixed(out, in->v[i]);
}

static void drop_controls(Runes *out, const Runes *in)
{
    for (int64_t i = 0, step; i < in->nb; i += step) {
        step = escape_sequence(in->v + i, in->nb - i);
        if (!step) {
            if (!is_dropped(in->v[i]))
                put(out, in->v[i]);
            step = 1;
        }
    }
}

/* ---- between UTF-8 and code points --------------------------------------------------------------------------- */

/* UTF-8 of `r`, NUL-terminated, freed by the caller; NULL: out of memory. */
static char *encode(const Runes *r)
{
    utf8proc_uint8_t *text = avt_malloc(MEM_NET, 4 * (size_t)r->nb + 1), *p = text;

    if (!text)
        return NULL;
    for (int64_t i = 0; i < r->nb; i++)
        p += utf8proc_encode_char(r->v[i], p);
    *p = 0;
    return (char *)text;
}

/* Marks that combine with one letter, at most: to put them into order takes time by the square of their number. */
static int too_many_marks(const Runes *r)
{
    int nb = 0;

    for (int64_t i = 0; i < r->nb && nb <= MAX_MARKS; i++)
        nb = utf8proc_get_property(r->v[i])->combining_class ? nb + 1 : 0;
    return nb > MAX_MARKS;
}

/* NFC of `in` -> `out`. */
static void compose(Runes *out, const Runes *in)
{
    utf8proc_uint8_t *text = (utf8proc_uint8_t *)encode(in);
    const utf8proc_option_t opt = UTF8PROC_NULLTERM | UTF8PROC_STABLE;
    const int refused = too_many_marks(in);
    utf8proc_ssize_t nb = text && !refused ? utf8proc_decompose(text, 0, NULL, 0, opt | UTF8PROC_DECOMPOSE) : -1;
    utf8proc_int32_t *v = nb >= 0 ? avt_malloc(MEM_NET, ((size_t)nb + 1) * sizeof(*v)) : NULL;

    if (v) {
        utf8proc_decompose(text, 0, v, nb, opt | UTF8PROC_DECOMPOSE);
        nb = utf8proc_normalize_utf32(v, nb, opt | UTF8PROC_COMPOSE);
        for (utf8proc_ssize_t i = 0; i < nb; i++)
            put(out, v[i]);
    } else
        out->error = refused ? AVT_ERR(EINVAL) : AVT_ERR(ENOMEM);
    avt_free(v);
    avt_free(text);
}

static int decode(Runes *out, const char *text, const Log *log)
{
    const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)text;
    const utf8proc_uint8_t *end = p + strlen(text);
    utf8proc_int32_t c;

    while (p < end) {
        const utf8proc_ssize_t n = utf8proc_iterate(p, end - p, &c);

        if (n <= 0)
            return avt_fail(log, AVT_ERR(EINVAL), "prompt: byte %lld (0x%02x) is not UTF-8; save the prompt as UTF-8",
                            (long long)((const char *)p - text), *p);
        put(out, c);
        p += n;
    }
    return 0;
}

/* ---- the whole ----------------------------------------------------------------------------------------------- */

typedef struct Work {                   // buffers of the loop
    Runes now, next, a, b;
} Work;

/* One line of `in`, repaired until nothing changes, to the end of `out`. */
static void fix_line(Runes *out, Work *w, const int32_t *v, int64_t nb, int entities)
{
    clear(&w->now);
    for (int64_t i = 0; i < nb; i++)
        put(&w->now, v[i]);
    for (int pass = 0; pass < MAX_PASSES; pass++) {
        clear(&w->a);
        clear(&w->b);
        clear(&w->next);
        if (entities)
            unescape(&w->a, w->now.v, w->now.nb, 1);
        fix_characters(&w->b, entities ? &w->a : &w->now);
        clear(&w->a);
        drop_controls(&w->a, &w->b);
        compose(&w->next, &w->a);
        if (w->next.error || same(&w->next, &w->now))
            break;
        const Runes t = w->now;
        w->now = w->next;
        w->next = t;
    }
    for (int64_t i = 0; i < w->now.nb; i++)
        put(out, w->now.v[i]);
}

static void fix_lines(Runes *out, Work *w, const Runes *in)
{
    int entities = 1;                                               // a '<' ends it for all lines that follow, as in ftfy

    for (int64_t first = 0, end; first < in->nb; first = end) {
        for (end = first; end < in->nb && (end == first || in->v[end - 1] != '\n'); end++)
            entities = entities && in->v[end] != '<';
        fix_line(out, w, in->v + first, end - first, entities);
    }
}

static int is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static void collapse_spaces(Runes *out, const Runes *in)
{
    int pending = 0;

    for (int64_t i = 0; i < in->nb; i++) {
        if (!is_space(in->v[i])) {
            if (pending && out->nb)
                put(out, ' ');
            put(out, in->v[i]);
        }
        pending = is_space(in->v[i]);
    }
}

static int first_error(const Runes *const *r, int nb)
{
    for (int i = 0; i < nb; i++)
        if (r[i]->error)
            return r[i]->error;
    return 0;
}

int avt_text_clean(char **out, const char *text, const Log *log)
{
    Runes in = { 0 }, fixed = { 0 };
    Work w = { 0 };
    int ret = decode(&in, text, log);

    *out = NULL;
    if (ret >= 0) {
        fix_lines(&fixed, &w, &in);
        clear(&w.a);
        unescape(&w.a, fixed.v, fixed.nb, 0);
        clear(&w.b);
        unescape(&w.b, w.a.v, w.a.nb, 0);
        clear(&w.now);
        collapse_spaces(&w.now, &w.b);
        ret = first_error((const Runes *[]){ &in, &fixed, &w.now, &w.next, &w.a, &w.b }, 6);
        if (ret >= 0) {
            *out = encode(&w.now);
            ret = *out ? 0 : AVT_ERR(ENOMEM);
        } else if (ret == AVT_ERR(EINVAL))
            avt_log(log, LOG_ERROR, "prompt: more than %d combining marks follow one another; shorten that", MAX_MARKS);
    }
    avt_free(in.v);
    avt_free(fixed.v);
    avt_free(w.now.v);
    avt_free(w.next.v);
    avt_free(w.a.v);
    avt_free(w.b.v);
    return ret;
}
