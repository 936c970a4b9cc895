/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Graphics cards by what people call them: memory and published rates, for plans on paper. */
#ifndef AVT_TOOL_CARDS_H
#define AVT_TOOL_CARDS_H

#include "engine/plan.h"

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
/** Bytes a second between a card and its host's memory, on a machine with such a link between cards. */
double cards_host(const Link *l);

#endif
