/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * JSON of configuration files, over json-c: read with limits, then asked for by key with the file's name in every
 * complaint. The safetensors header and the index use the same reader (checkpoints.md 3).
 * The log must live as long as the object.
 */
#ifndef AVT_JSON_H
#define AVT_JSON_H

#include "base/log.h"
#include "base/mem.h"

typedef struct Json Json;               // an object, with the name of its file for messages

int  avt_json_read(Json **out, const char *path, const Log *log);       // a file, at most 64 MB
int  avt_json_parse(Json **out, const char *text, size_t size, const char *name, const Log *log);
/** The same for a tensor header: numbers whole and in 0 .. 2^63 - 1, depth at most 4 (checkpoints.md 3). */
int  avt_json_parse_header(Json **out, const char *text, size_t size, const char *name, const Log *log);
void avt_json_close(Json **j);

int avt_json_has(const Json *j, const char *key);
/** Name of the i-th key, NULL after the last; valid until close. */
const char *avt_json_key(const Json *j, int i);
/** Value of a key, by type. `required` 0: an absent key leaves *value as it is.
 *  @return 0 or AVT_INVALID (logged: key, wanted type) */
int avt_json_int(const Json *j, const char *key, int64_t *value, int64_t min, int64_t max, int required);
int avt_json_float(const Json *j, const char *key, double *value, int required);
int avt_json_bool(const Json *j, const char *key, int *value, int required);
int avt_json_string(const Json *j, const char *key, const char **value, int required);      // valid until close
int avt_json_ints(const Json *j, const char *key, int64_t *values, int *nb, int max_nb, int required);
/** The object behind json-c's pointer, for readers that walk it (struct json_object *). */
void *avt_json_root(const Json *j);

#endif
