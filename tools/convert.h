/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* avatar convert: a conversion, and the files that it writes. */
#ifndef AVT_TOOL_CONVERT_H
#define AVT_TOOL_CONVERT_H

#include "engine/engine.h"
#include "options.h"
#include "progress.h"
#include "speak.h"

#define CONVERT_NAME 1088               // bytes of the longest name that a file may have, with what is put behind it

typedef struct Item {                   // of a file that is written
    const char *name, *tail;
    const char *type;                   // as safetensors spells it
    int nd;
    int64_t dim[CKPT_MAX_DIM];
    size_t size;
    const CkptTensor *from;             // NULL: scale or rotation of the item before
} Item;

typedef struct Convert {
    const char *out;
    size_t there;                       // so many characters of it were a folder before
    DType type;
    const Log *log;
    ModelDir dir;
    Ckpt *ckpt;
    Lora *lora;
    Backend *be;
    Arena *arena;                       // the binder's, which puts nothing there
    Binder binder;
    FileOut *file;
    Item *item;
    int64_t nb;
    size_t before, after;               // bytes of the transformer
    Progress progress;
} Convert;

/* ---- convert_files.c: each logs what fails, and returns 0 or a negative error ------------------------------------------------ */

/** The folder c->out, which holds no model yet. */
int convert_room(Convert *c);
/** After a failure: the folders that convert_room() made go again, if nothing is in them. */
void convert_tidy(const Convert *c);
/** A file of the folder, its bytes, its end; `ret` is what became of the bytes: after a failure nothing stays. */
int convert_open(Convert *c, const char *name);
int convert_write(Convert *c, const void *p, size_t size);
int convert_close(Convert *c, int ret);
/** A whole file of text. */
int convert_text(Convert *c, const char *name, const char *text);
/** avatar.json */
int convert_json(Convert *c);
/** Everything that is not the transformer. */
int convert_rest(Convert *c);
double convert_rest_bytes(const Convert *c);

#endif
