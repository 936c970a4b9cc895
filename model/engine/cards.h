/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Graphics cards by what people call them: memory and published rates; and pools of them, on paper and of what is here. */
#ifndef AVT_CARDS_H
#define AVT_CARDS_H

#include "engine/search.h"

typedef struct Card {
    const char *name;                   // "4090"
    double gb;                          // as sold
    double tflops;                      // bf16, f32 sums, dense, published
    double bandwidth;                   // GB/s
    int stacked;                        // HBM
} Card;

typedef struct Link {                   // between cards
    const char *name;                   // "pcie4"
    double rate, latency;               // bytes a second that a card sends; seconds of an exchange, however little is sent
} Link;

/** Shares of the published rates that are counted on: of products and attention, of convolutions, of bandwidth. */
#define SHARE_PRODUCTS 0.68
#define SHARE_CONV     0.35
#define SHARE_BYTES    0.80

/** A card by the `len` characters of its name; NULL: none of these. */
const Card *avt_card_named(const char *name, size_t len);
/** The usual one of the smallest size that is at least this. */
const Card *avt_card_sized(double gb);
/** A card by what its driver calls it, "NVIDIA GeForce RTX 4060 Ti", and its size; NULL: none of these. */
const Card *avt_card_called(const char *name, double gb);
/** The names, joined by spaces. */
void  avt_card_names(char *text, size_t size);
/** What its data sheet says, a second; starts are left out. */
Rates avt_card_published(const Card *card);
/** A link by its name, "pcie4", "pcie5", "nvlink", "100g"; NULL: none of these. */
const Link *avt_link_named(const char *name);

/** Begin a pool with such a link between its devices. */
void  avt_pool_open(Pool *pool, const Link *link);
/** Behind what is there: a card with what is counted on of its rates, and `room` bytes. @param other  it is to have no layers by itself */
void  avt_pool_add(Pool *pool, const char *device, const Card *card, double room, int other);

#endif
