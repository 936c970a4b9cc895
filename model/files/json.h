/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON of configuration files and tensor headers: read whole and checked, then asked for by key with the file's name in
 * every complaint, or walked (checkpoints.md 3). The log must live as long as the document.
 */
#ifndef AVT_JSON_H
#define AVT_JSON_H

#include "base/log.h"
#include "base/mem.h"

typedef enum JsonType { JSON_NULL, JSON_BOOL, JSON_INT, JSON_REAL, JSON_TEXT, JSON_LIST, JSON_OBJECT } JsonType;

typedef struct JsonDoc {
    char *name;                         // of the file, for messages
    const Log *log;
    struct Block *blocks;               // of values, the newest first
    char *pool;                         // of texts
} JsonDoc;

/* A value; the document that was read is the object around all others. Valid until avt_json_close(). */
typedef struct Json {
    JsonType type;
    int nb;                             // of a list's values, an object's members
    const char *key;                    // of a member; NULL for a list's value
    const struct Json *next;            // behind it in its list or object, in the file's order; NULL: the last
    union {
        int64_t i;                      // JSON_INT; JSON_BOOL: 0, 1
        double f;                       // JSON_REAL; may be infinite
        const char *text;               // JSON_TEXT: UTF-8 without NUL inside
        const struct Json *first;       // JSON_LIST, JSON_OBJECT
    };
    JsonDoc *doc;
} Json;

int  avt_json_read(Json **out, const char *path, const Log *log);       // a file, at most 64 MB
int  avt_json_parse(Json **out, const char *text, size_t size, const char *name, const Log *log);
/** The same for a tensor header: numbers whole and in 0 .. 2^63 - 1, depth at most 4 (checkpoints.md 3). */
int  avt_json_parse_header(Json **out, const char *text, size_t size, const char *name, const Log *log);
void avt_json_close(Json **j);

/** Member of an object; NULL when there is none, or `j` is no object. Looks through all members. */
const Json *avt_json_get(const Json *j, const char *key);
/** First value of a list or object; NULL of an empty one and of any other type, NULL included. */
const Json *avt_json_first(const Json *j);

/** Value of a key of an object, by type. `required` 0: an absent key leaves *value as it is.
 *  @return 0 or AVT_INVALID (logged: key, wanted type) */
int avt_json_int(const Json *j, const char *key, int64_t *value, int64_t min, int64_t max, int required);
int avt_json_float(const Json *j, const char *key, double *value, int required);
int avt_json_bool(const Json *j, const char *key, int *value, int required);
int avt_json_string(const Json *j, const char *key, const char **value, int required);      // valid until close
int avt_json_ints(const Json *j, const char *key, int64_t *values, int *nb, int max_nb, int required);

#endif
