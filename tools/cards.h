/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Cards as people say them: --gpus. */
#ifndef AVT_TOOL_CARDS_H
#define AVT_TOOL_CARDS_H

#include "engine/cards.h"

typedef struct Cards {
    const Card *card[PLAN_MAX_RANKS];
    double total[PLAN_MAX_RANKS];       // bytes that the driver shows of each
    double usable[PLAN_MAX_RANKS];      // and of these: without what the driver, its context and its libraries take
    int nb, assumed;                    // assumed: only memory was said; the rates are those of a usual card of that size
    int here;                           // this machine's
} Cards;

/** "4x24", "2x48+1x24", "4x4090", "h100", "here" (the driver is asked). @return 0, or -1 after a sentence on stderr */
int  cards_parse(Cards *c, const char *text);
/** GB, of the `len` characters of "24", "24G", "24gb"; 0: no size, or not from 1 to 65536. */
double cards_size(const char *p, size_t len);
/** The cards as cuda0, cuda1, ... with such a link between them. */
void cards_pool(Pool *pool, const Cards *cards, const Link *link);

#endif
