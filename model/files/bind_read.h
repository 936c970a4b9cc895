/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reading half of the binder: a tensor is found, looked at, read and found finite. Inside bind*.c alone.
 */
#ifndef AVT_BIND_READ_H
#define AVT_BIND_READ_H

#include "files/bind.h"

#define BINDER_SHOWN 5                  // problems that are logged

typedef struct Extent {                 // what is wanted of a tensor: runs of neighbouring numbers, evenly apart
    int64_t first, run, stride, nb;
} Extent;

void avt_binder_fail(Binder *b, int code);
/* One sentence on the file; counted, and logged when it is among the first. */
void avt_binder_complain(Binder *b, const char *fmt, ...) AVT_PRINTF(2, 3);
/* Nothing more can be read: no memory, or a file that changes. What is wrong *in* a file does not end the search for more. */
int  avt_binder_stopped(const Binder *b);

/* The tensor `name`; NULL: there is none. */
const CkptTensor *avt_binder_find(const Binder *b, const char *name);
/* The same, found fit in every way and marked used; NULL after a problem. */
const CkptTensor *avt_binder_take(Binder *b, int nd, const int64_t *dim, const char *name);

/* `part` NULL: all of it */
Extent avt_binder_extent(const CkptTensor *t, const WeightPart *part);
/*
 * The values of a tensor, or of a part of it, as its dtype says, copied to b->raw and found finite; NULL after a problem. Valid until the
 * next one. Of codes always all, and their scales in b->scale.
 *
 * unseen: nobody has looked for NaN and infinity yet; avt_binder_finite() or avt_binder_scan() must. Not for codes.
 */
const void *avt_binder_load(Binder *b, const CkptTensor *t, const WeightPart *part, int unseen);
/* Are the values in b->raw finite? 0: there is a problem */
int avt_binder_finite(Binder *b, const CkptTensor *t, const WeightPart *part);
typedef struct Scanned {                // a weight that the device looks at, or a part of it
    const CkptTensor *t;
    WeightPart part;
    int is_part;
    int64_t dim[2];                     // of the whole, which was merged with its pair; 0, 0: it was not
    int nb;                             // counts
} Scanned;

/*
 * The same of a weight that was placed where it lies row by row (avt_weight_rows()): the device counts what is not finite, and
 * avt_binder_scanned() hears of it. Only then the values are read once more and looked at here, so that the sentence is the same, and a
 * number that the device alone has no room for is none.
 */
void avt_binder_scan(Binder *b, Tensor w, const CkptTensor *t, const WeightPart *part);
/* Where the device may put nb counts, i32, at most LORA_PIECES; no backend: nowhere, which is told. */
Tensor avt_binder_counts(Binder *b, int nb);
/* They are on their way, and what is in b->raw is done with: those that came before may be waited for, so that there is room for the next ones. */
void avt_binder_counted(Binder *b, const Scanned *s);
/* In bind.c: a merged weight is read and merged once more, by the host, and what is not finite is told. */
void avt_binder_look_merged(Binder *b, const Scanned *s);
/* Wait for the counts and complain of what they find. */
void avt_binder_scanned(Binder *b);
/* Without that, after an error. */
void avt_binder_scan_close(Binder *b);
/* Room for `size` bytes at *p, which has *have; what was there may be gone. NULL: no memory, which is told. */
void *avt_binder_grow(Binder *b, void **p, size_t *have, size_t size);

#endif
