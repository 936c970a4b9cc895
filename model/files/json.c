/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON documents: read from files, asked for by key. The parser is json_parse.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "files/file.h"
#include "files/json.h"

#define MAX_FILE (64 << 20)

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
    void *text = NULL;
    size_t size = 0;
    int ret = avt_file_read_all(&text, &size, path, MAX_FILE, log);

    *out = NULL;
    if (ret >= 0)
        ret = check_disguise(text, size, path, log);
    if (ret >= 0)
        ret = avt_json_parse(out, text, size, path, log);
    avt_free(text);
    return ret;
}

/* ---- asking -------------------------------------------------------------------------------------------------------- */

const Json *avt_json_first(const Json *j)
{
    return j && (j->type == JSON_LIST || j->type == JSON_OBJECT) ? j->first : NULL;
}

const Json *avt_json_get(const Json *j, const char *key)
{
    const Json *m = j && j->type == JSON_OBJECT ? j->first : NULL;

    while (m && strcmp(m->key, key))
        m = m->next;
    return m;
}

/* The value as the file may spell it, for messages; what does not fit is left out. @return bytes written */
static size_t show(char *buf, size_t size, const Json *v)
{
    size_t n = 0;
    int k;

    if (v->type == JSON_LIST) {
        for (const Json *m = v->first; m && n + 2 < size; m = m->next) {
            n += (size_t)snprintf(buf + n, size - n, n ? ", " : "[");
            n += show(buf + n, size - n, m);
        }
        k = snprintf(buf + n, size - n, n ? "]" : "[]");
    } else if (v->type == JSON_TEXT) {
        k = snprintf(buf, size, "\"%s\"", v->text);
    } else if (v->type == JSON_REAL) {
        k = snprintf(buf, size, "%g", v->f);
    } else if (v->type == JSON_INT) {
        k = snprintf(buf, size, "%lld", (long long)v->i);
    } else {
        k = snprintf(buf, size, "%s", v->type == JSON_OBJECT ? "{...}" : v->type == JSON_NULL ? "null" : v->i ? "true" : "false");
    }
    n += (size_t)k;
    return n < size ? n : size - 1;
}

static int wrong(const Json *found, const char *wanted)
{
    char text[100];

    show(text, sizeof(text), found);
    return avt_fail(found->doc->log, AVT_INVALID, "%s: \"%s\" must be %s, but is %s", found->doc->name, found->key, wanted, text);
}

/* 1: found; 0: absent, and it may be; AVT_INVALID: absent or of another type */
static int get(const Json *j, const char *key, JsonType type, const char *wanted, int required, const Json **v)
{
    *v = avt_json_get(j, key);
    if (!*v)
        return required ? avt_fail(j->doc->log, AVT_INVALID, "%s: \"%s\" is missing; it must be %s", j->doc->name, key, wanted) : 0;
    return (*v)->type == type ? 1 : wrong(*v, wanted);
}

int avt_json_int(const Json *j, const char *key, int64_t *value, int64_t min, int64_t max, int required)
{
    const Json *v;
    const int ret = get(j, key, JSON_INT, "a whole number", required, &v);

    if (ret <= 0)
        return ret;
    if (v->i < min || v->i > max)
        return avt_fail(j->doc->log, AVT_INVALID, "%s: \"%s\" must be between %lld and %lld, but is %lld", j->doc->name, key,
                        (long long)min, (long long)max, (long long)v->i);
    *value = v->i;
    return 0;
}

int avt_json_float(const Json *j, const char *key, double *value, int required)
{
    const Json *v = avt_json_get(j, key);
    int ret;

    if (v && v->type == JSON_INT) {
        *value = (double)v->i;
        return 0;
    }
    ret = get(j, key, JSON_REAL, "a number", required, &v);
    if (ret > 0 && !isfinite(v->f))
        return wrong(v, "a finite number");
    if (ret > 0)
        *value = v->f;
    return ret < 0 ? ret : 0;
}

int avt_json_bool(const Json *j, const char *key, int *value, int required)
{
    const Json *v;
    const int ret = get(j, key, JSON_BOOL, "true or false", required, &v);

    if (ret > 0)
        *value = (int)v->i;
    return ret < 0 ? ret : 0;
}

int avt_json_string(const Json *j, const char *key, const char **value, int required)
{
    const Json *v;
    const int ret = get(j, key, JSON_TEXT, "a text", required, &v);

    if (ret > 0)
        *value = v->text;
    return ret < 0 ? ret : 0;
}

int avt_json_ints(const Json *j, const char *key, int64_t *values, int *nb, int max_nb, int required)
{
    const Json *v;
    const int ret = get(j, key, JSON_LIST, "a list of whole numbers", required, &v);
    int n = 0;

    if (ret <= 0)
        return ret;
    if (v->nb > max_nb)
        return avt_fail(j->doc->log, AVT_INVALID, "%s: \"%s\" has %d numbers, at most %d are allowed", j->doc->name, key, v->nb,
                        max_nb);
    for (const Json *e = v->first; e; e = e->next) {
        if (e->type != JSON_INT)
            return wrong(v, "a list of whole numbers");
        values[n++] = e->i;
    }
    *nb = n;
    return 0;
}
