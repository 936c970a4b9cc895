/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Graphics cards by what people call them: memory and published rates, for plans on paper. */
#ifndef AVT_TOOL_CARDS_H
#define AVT_TOOL_CARDS_H

#include "engine/search.h"

typedef struct Card {
    const char *name;                   // "4090"
    double gb;                          // as sold
    double tflops;                      // bf16, f32 sums, dense, published
    double bandwidth;                   // GB/s
    int stacked;                        // HBM
} Card;

typedef struct Cards {
    const Card *card[PLAN_MAX_RANKS];
    double usable[PLAN_MAX_RANKS];      // bytes: without what the driver, its context and its libraries take
    int nb, assumed;                    // assumed: only memory was said; the rates are those of a usual card of that size
} Cards;

/** "4x24", "2x48+1x24", "4x4090", "h100", "here" (the driver is asked). @return 0, or -1 after a sentence on stderr */
int cards_parse(Cards *c, const char *text);
/** The names, joined by spaces. */
void cards_names(char *text, size_t size);
typedef struct Link {                   // between cards
    const char *name;                   // "pcie4"
    double rate, latency;               // bytes a second that a card sends; seconds of an exchange, however little is sent
} Link;

/** A link by its name, "pcie4", "pcie5", "nvlink", "100g"; NULL: none of these. */
const Link *cards_link(const char *name);
/** Shares of the published rates that are counted on: of products and attention, of convolutions, of bandwidth. */
#define SHARE_PRODUCTS 0.68
#define SHARE_CONV     0.35
#define SHARE_BYTES    0.80

/** What a card's data sheet says, a second. */
Rates cards_published(const Card *card);
/** The cards as cuda0, cuda1, ... with such a link between them, for avt_search_plan(). */
void  cards_pool(Pool *pool, const Cards *cards, const Link *link);

#endif
