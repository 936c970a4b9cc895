/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the dry backend saw, besides the sums in Backend.stat: each op once for every set of shapes that it was called with.
 */
#ifndef AVT_DRY_H
#define AVT_DRY_H

#include "backend.h"

typedef struct DryCall {
    OpCall first;                       // the first call of this kind; its addresses mean nothing
    int64_t calls;
    double flops, bytes;                // of all of them
} DryCall;

/** Begin the list, or begin it anew: without this there is none, as it takes a sixth of a rehearsal. */
void avt_dry_list(Backend *be);
/** @return the list, in the order of first calls, owned by the backend, valid until its next op; `nb` gets its length. */
const DryCall *avt_dry_calls(const Backend *be, int64_t *nb);

#endif
