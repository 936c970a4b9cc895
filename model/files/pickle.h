/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stack machine of Python's pickle, protocol 2, with the opcodes of a state dict and no others. It knows no module and calls
 * nothing: names, persistent ids and calls go to a host (ckpt_pth.c), which answers for the few that it knows.
 */
#ifndef AVT_PICKLE_H
#define AVT_PICKLE_H

#include "base/log.h"
#include "base/mem.h"

typedef enum PickleKind {
    PK_MARK, PK_NONE, PK_BOOL, PK_INT, PK_FLOAT, PK_TEXT, PK_TUPLE, PK_LIST, PK_DICT, PK_SYMBOL,
    PK_HOST                             // from here on kinds of the host
} PickleKind;

/* Small and flat: what matters of an object lies in a pool that it points into by number, so nothing dangles. */
typedef struct PickleValue {
    uint8_t kind;
    uint8_t ordered;                    // PK_DICT: an OrderedDict
    uint32_t nb;                        // PK_TEXT: bytes; PK_TUPLE: items
    union {
        int64_t i;                      // PK_INT, PK_BOOL
        const char *text;               // PK_TEXT, in the pickle
        size_t at;                      // PK_TUPLE: first item; PK_DICT: in dicts; others: the host's number
    } u;
} PickleValue;

typedef struct PicklePool {
    void *p;
    size_t nb, max;
} PicklePool;

typedef struct Pickle Pickle;
struct Pickle {
    const char *path;                   // of the file, for messages
    const Log *log;
    const uint8_t *code, *p, *end;
    int error;                          // why avt_pickle_more() gave nothing
    PicklePool stack, memo, items, entries, dicts;
    void *host;
    int (*symbol)(Pickle *m, const char *module, size_t nb_module, const char *name, size_t nb_name, PickleValue *out);
    int (*persistent)(Pickle *m, const PickleValue *id, PickleValue *out);
    int (*call)(Pickle *m, const PickleValue *symbol, const PickleValue *args, PickleValue *out);       // args: a tuple
};

/** Run code .. end; the caller filled these, path, log, host and its functions, the rest with zeros.
 *  @param result  the one value that is left. @return 0, AVT_INVALID (logged), ENOMEM */
int  avt_pickle_run(Pickle *m, PickleValue *result);
void avt_pickle_close(Pickle *m);

/* For the host. */
int   avt_pickle_bad(const Pickle *m, const char *what);                // logs file, byte, what; AVT_INVALID
/** Room for n more elements of a pool (at most a million in all). NULL: m->error says why. */
void *avt_pickle_more(Pickle *m, PicklePool *pool, size_t n, size_t size);
const PickleValue *avt_pickle_item(const Pickle *m, const PickleValue *tuple, size_t i);                // i < tuple->nb
int   avt_pickle_is_text(const PickleValue *v, const char *text);
int   avt_pickle_new_dict(Pickle *m, int ordered, PickleValue *out);
/** Walk a dict: *at starts as 0. @return 1 with the next key and value, 0 at the end */
int   avt_pickle_next(const Pickle *m, const PickleValue *dict, size_t *at, PickleValue *key, PickleValue *value);

#endif
