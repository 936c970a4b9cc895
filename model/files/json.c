/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON over json-c. A library lets pass what a hostile or damaged file may hold: a key given twice (the last one wins),
 * control bytes in names, NaN, deep nesting. One scan over the text refuses those first; json-c then checks the grammar
 * and builds the objects. A tensor header ("strict") is narrower still: its numbers are whole, from 0 to 2^63 - 1.
 *
 * Trap: a name may be spelled with escapes ("\u0061" is "a"), so names are decoded before they are compared.
 */
#include <fcntl.h>
#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files/json.h"

#define MAX_FILE    (64 << 20)
#define MAX_SIZE    100000000           // of a text; the cap of a safetensors header
#define MAX_NAME    1024
#define DEPTH       16                  // of a configuration
#define DEPTH_HEAD  4                   // of a tensor header

struct Json {
    struct json_object *root;
    char *name;
    const Log *log;
};

typedef struct Key {
    const char *text;
    size_t size;
} Key;

typedef struct Scan {
    const char *text, *p, *end;
    const char *name;
    const Log *log;
    int strict;
    char *pool, *pool_end;              // decoded names of the open objects; never longer than the text
    Key *key;                           // the same, as a stack
    size_t nb_keys, max_keys;
    int depth;
    size_t first_key[DEPTH + 1];        // per open bracket
    char *first_text[DEPTH + 1];
    char kind[DEPTH + 1];               // '{' or '['
} Scan;

static int bad(const Scan *s, const char *what)
{
    return avt_fail(s->log, AVT_INVALID, "%s: damaged JSON at byte %lld: %s", s->name, (long long)(s->p - s->text), what);
}

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

/* A string from its opening quote on; s->p moves behind it. Raw text in [*from, *to). */
static int scan_string(Scan *s, const char **from, const char **to)
{
    const char *p = s->p + 1;

    *from = p;
    for (; p < s->end && *p != '"'; p++) {
        s->p = p;
        if ((unsigned char)*p < 0x20)
            return bad(s, "a control byte in a string");
        if (*p == '\\')
            p++;
    }
    if (p >= s->end)
        return bad(s, "a string does not end");
    *to = p;
    s->p = p + 1;
    return 0;
}

static int push_key(Scan *s, const char *from, const char *to)
{
    char *o = s->pool_end;

    if (s->nb_keys == s->max_keys) {
        const size_t max = s->max_keys ? 2 * s->max_keys : 64;
        Key *key = avt_realloc(MEM_CKPT, s->key, max * sizeof(*key));

        if (!key)
            return AVT_ERR(ENOMEM);
        s->key = key;
        s->max_keys = max;
    }
    for (const char *p = from; p < to;) {
        int c = (unsigned char)*p++;

        if (c == '\\') {
            c = escape(&p, to);
            if (c < 0x20 || p > to)
                return bad(s, c < 0 || p > to ? "a wrong escape in a name" : "a control byte in a name");
            o = put_utf8(o, c);
        } else {
            if (c == 0x7f)
                return bad(s, "a control byte in a name");
            *o++ = (char)c;
        }
    }
    if (o - s->pool_end > MAX_NAME)
        return bad(s, "a name is longer than 1024 bytes");
    s->key[s->nb_keys++] = (Key){ s->pool_end, (size_t)(o - s->pool_end) };
    s->pool_end = o;
    return 0;
}

static int compare_keys(const void *a, const void *b)
{
    const Key *x = a, *y = b;
    const int c = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);

    return c ? c : (x->size > y->size) - (x->size < y->size);
}

static int close_bracket(Scan *s)
{
    const char kind = *s->p == '}' ? '{' : '[';
    Key *key;
    size_t nb;

    if (!s->depth || s->kind[s->depth] != kind)
        return bad(s, "a bracket closes that was not opened");
    nb = s->nb_keys - s->first_key[s->depth];
    key = nb ? s->key + s->first_key[s->depth] : NULL;
    if (nb > 1)
        qsort(key, nb, sizeof(*key), compare_keys);
    for (size_t i = 1; i < nb; i++)
        if (!compare_keys(&key[i - 1], &key[i]))
            return avt_fail(s->log, AVT_INVALID, "%s: damaged JSON: the name '%.*s' is given twice in one object", s->name,
                            (int)key[i].size, key[i].text);
    s->nb_keys = s->first_key[s->depth];
    s->pool_end = s->first_text[s->depth];
    s->depth--;
    s->p++;
    return 0;
}

static int open_bracket(Scan *s)
{
    if (s->depth == (s->strict ? DEPTH_HEAD : DEPTH))
        return bad(s, "brackets are nested too deep");
    s->depth++;
    s->kind[s->depth] = *s->p++;
    s->first_key[s->depth] = s->nb_keys;
    s->first_text[s->depth] = s->pool_end;
    return 0;
}

static const char *digits(const char *p, const char *end)
{
    while (p < end && *p >= '0' && *p <= '9')
        p++;
    return p;
}

/* -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?, or whole and not negative when strict */
static int scan_number(Scan *s)
{
    const char *p = s->p + (*s->p == '-'), *q = digits(p, s->end);
    const int whole = (int)(q - p);

    if (!whole || (*p == '0' && whole > 1))
        return bad(s, "this is not a number");
    if (s->strict && (p != s->p || whole > 19 || (whole == 19 && memcmp(p, "9223372036854775807", 19) > 0)))
        return bad(s, "a number must be between 0 and 2^63 - 1");
    if (q < s->end && (*q == '.' || (*q | 32) == 'e') && s->strict)
        return bad(s, "a number must be whole");
    if (q < s->end && *q == '.') {
        p = q + 1;
        q = digits(p, s->end);
        if (p == q)
            return bad(s, "this is not a number");
    }
    if (q < s->end && (*q | 32) == 'e') {
        p = q + 1;
        p += p < s->end && (*p == '+' || *p == '-');
        q = digits(p, s->end);
        if (p == q)
            return bad(s, "this is not a number");
    }
    s->p = q;
    return 0;
}

static int scan_word(Scan *s)
{
    static const char *const words[] = { "true", "false", "null" };

    for (int i = 0; i < 3; i++) {
        const size_t n = strlen(words[i]);

        if ((size_t)(s->end - s->p) >= n && !memcmp(s->p, words[i], n)) {
            s->p += n;
            return 0;
        }
    }
    return bad(s, "neither value nor name");
}

static void skip_space(Scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
        s->p++;
}

static int scan_one(Scan *s)
{
    const char *from = NULL, *to = NULL;
    int ret;

    switch (*s->p) {
    case '{': case '[':
        return open_bracket(s);
    case '}': case ']':
        return close_bracket(s);
    case ',': case ':':
        s->p++;
        return 0;
    case '"':
        ret = scan_string(s, &from, &to);
        skip_space(s);
        return ret < 0 || s->p >= s->end || *s->p != ':' ? ret : push_key(s, from, to);
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        return scan_number(s);
    default:
        return scan_word(s);
    }
}

/* The text up to the end of its first object; what follows must be blank. */
static int scan_text(Scan *s)
{
    int ret = 0;

    skip_space(s);
    if (s->p >= s->end || *s->p != '{')
        return bad(s, "an object was wanted, starting with '{'");
    do {
        ret = scan_one(s);
        skip_space(s);
    } while (ret >= 0 && s->depth && s->p < s->end);
    if (ret < 0)
        return ret;
    if (s->depth)
        return bad(s, "the text ends inside an object");
    return s->p < s->end ? bad(s, "something follows the object") : 0;
}

static int parse_text(struct json_object **root, const char *text, size_t size, const char *name, const Log *log)
{
    struct json_tokener *t = json_tokener_new_ex(DEPTH + 1);
    enum json_tokener_error e;

    if (!t)
        return AVT_ERR(ENOMEM);
    json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    *root = json_tokener_parse_ex(t, text, (int)size);
    e = *root ? json_tokener_success : json_tokener_get_error(t);
    json_tokener_free(t);
    if (!*root || !json_object_is_type(*root, json_type_object))
        return avt_fail(log, AVT_INVALID, "%s: damaged JSON: %s", name,
                        e == json_tokener_success || e == json_tokener_continue ? "not one object" : json_tokener_error_desc(e));
    return 0;
}

static int parse(Json **out, const char *text, size_t size, const char *name, int strict, const Log *log)
{
    Scan s = { .text = text, .p = text, .end = text + size, .name = name, .log = log, .strict = strict };
    Json *j = NULL;
    int ret;

    *out = NULL;
    if (size > MAX_SIZE)
        return avt_fail(log, AVT_INVALID, "%s: %lld bytes of JSON, at most 100 MB are allowed", name, (long long)size);
    s.pool = s.pool_end = avt_malloc(MEM_CKPT, size + 1);
    ret = s.pool ? scan_text(&s) : AVT_ERR(ENOMEM);
    avt_free(s.pool);
    avt_free(s.key);
    if (ret < 0)
        return ret;
    j = avt_calloc(MEM_CKPT, 1, sizeof(*j));
    if (!j)
        return AVT_ERR(ENOMEM);
    j->log = log;
    j->name = avt_strdup(MEM_CKPT, name);
    ret = j->name ? parse_text(&j->root, text, size, name, log) : AVT_ERR(ENOMEM);
    if (ret < 0)
        avt_json_close(&j);
    *out = j;
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

static int read_all(int fd, char *text, size_t size)
{
    for (size_t n = 0; n < size;) {
        const ssize_t got = read(fd, text + n, size - n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got ? AVT_ERR(errno) : AVT_INVALID;
        n += (size_t)got;
    }
    return 0;
}

/* What downloads leave under the name of a file. */
static int check_disguise(const char *text, size_t size, const char *path, const Log *log)
{
    if (size > 23 && !memcmp(text, "version https://git-lfs", 23))
        return avt_fail(log, AVT_INVALID, "%s: is a Git LFS pointer, not the file; fetch it with 'git lfs pull'", path);
    if (size && text[0] == '<')
        return avt_fail(log, AVT_INVALID,
                        "%s: is a web page, not JSON (an error page saved under this name?); download it again", path);
    return 0;
}

int avt_json_read(Json **out, const char *path, const Log *log)
{
    struct stat st;
    char *text = NULL;
    int fd, ret;

    *out = NULL;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return avt_fail(log, AVT_ERR(errno), "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        ret = avt_fail(log, AVT_ERR(EINVAL), "%s: is not a regular file", path);
    } else if (st.st_size > MAX_FILE) {
        ret = avt_fail(log, AVT_INVALID, "%s: %lld bytes of JSON, at most 64 MB are allowed", path, (long long)st.st_size);
    } else if (!(text = avt_malloc(MEM_CKPT, (size_t)st.st_size + 1))) {
        ret = AVT_ERR(ENOMEM);
    } else {
        ret = read_all(fd, text, (size_t)st.st_size);
        if (ret < 0)
            avt_log(log, LOG_ERROR, "%s: cannot be read to its end (%lld bytes)", path, (long long)st.st_size);
    }
    close(fd);
    if (ret >= 0)
        ret = check_disguise(text, (size_t)st.st_size, path, log);
    if (ret >= 0)
        ret = avt_json_parse(out, text, (size_t)st.st_size, path, log);
    avt_free(text);
    return ret;
}

void avt_json_close(Json **j)
{
    if (!*j)
        return;
    json_object_put((*j)->root);
    avt_free((*j)->name);
    avt_freep(j);
}

int avt_json_has(const Json *j, const char *key)
{
    return json_object_object_get_ex(j->root, key, NULL);
}

const char *avt_json_key(const Json *j, int i)
{
    json_object_object_foreach(j->root, key, value) {
        (void)value;
        if (!i--)
            return key;
    }
    return NULL;
}

void *avt_json_root(const Json *j)
{
    return j->root;
}

static int wrong(const Json *j, const char *key, const char *wanted, struct json_object *found)
{
    return avt_fail(j->log, AVT_INVALID, "%s: \"%s\" must be %s, but is %.100s", j->name, key, wanted,
                    json_object_to_json_string_ext(found, JSON_C_TO_STRING_PLAIN));
}

/* 1: found; 0: absent, and it may be; AVT_INVALID: absent or of another type */
static int get(const Json *j, const char *key, enum json_type type, const char *wanted, int required, struct json_object **o)
{
    if (!json_object_object_get_ex(j->root, key, o))
        return required ? avt_fail(j->log, AVT_INVALID, "%s: \"%s\" is missing; it must be %s", j->name, key, wanted) : 0;
    return json_object_is_type(*o, type) ? 1 : wrong(j, key, wanted, *o);
}

int avt_json_int(const Json *j, const char *key, int64_t *value, int64_t min, int64_t max, int required)
{
    struct json_object *o;
    const int ret = get(j, key, json_type_int, "a whole number", required, &o);

    if (ret <= 0)
        return ret;
    if (json_object_get_int64(o) < min || json_object_get_int64(o) > max)
        return avt_fail(j->log, AVT_INVALID, "%s: \"%s\" must be between %lld and %lld, but is %s", j->name, key, (long long)min,
                        (long long)max, json_object_to_json_string(o));
    *value = json_object_get_int64(o);
    return 0;
}

int avt_json_float(const Json *j, const char *key, double *value, int required)
{
    struct json_object *o;

    if (json_object_object_get_ex(j->root, key, &o) && json_object_is_type(o, json_type_int)) {
        *value = (double)json_object_get_int64(o);
        return 0;
    } else {
        const int ret = get(j, key, json_type_double, "a number", required, &o);

        if (ret > 0 && !isfinite(json_object_get_double(o)))
            return wrong(j, key, "a finite number", o);
        if (ret > 0)
            *value = json_object_get_double(o);
        return ret < 0 ? ret : 0;
    }
}

int avt_json_bool(const Json *j, const char *key, int *value, int required)
{
    struct json_object *o;
    const int ret = get(j, key, json_type_boolean, "true or false", required, &o);

    if (ret > 0)
        *value = json_object_get_boolean(o);
    return ret < 0 ? ret : 0;
}

int avt_json_string(const Json *j, const char *key, const char **value, int required)
{
    struct json_object *o;
    const int ret = get(j, key, json_type_string, "a text", required, &o);

    if (ret > 0)
        *value = json_object_get_string(o);
    return ret < 0 ? ret : 0;
}

int avt_json_ints(const Json *j, const char *key, int64_t *values, int *nb, int max_nb, int required)
{
    struct json_object *o;
    const int ret = get(j, key, json_type_array, "a list of whole numbers", required, &o);
    const size_t n = ret > 0 ? json_object_array_length(o) : 0;

    if (ret <= 0)
        return ret;
    if (n > (size_t)max_nb)
        return avt_fail(j->log, AVT_INVALID, "%s: \"%s\" has %zu numbers, at most %d are allowed", j->name, key, n, max_nb);
    for (size_t i = 0; i < n; i++) {
        struct json_object *e = json_object_array_get_idx(o, i);

        if (!json_object_is_type(e, json_type_int))
            return wrong(j, key, "a list of whole numbers", o);
        values[i] = json_object_get_int64(e);
    }
    *nb = (int)n;
    return 0;
}
