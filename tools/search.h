/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which plan for which cards: tried on `dry` for memory, on paper for time. */
#ifndef AVT_TOOL_SEARCH_H
#define AVT_TOOL_SEARCH_H

#include "cards.h"
#include "engine/rank.h"
#include "options.h"

typedef struct Paper {                  // seconds, by published rates and the shares of them below
    double item, decode, encode, front; // an item through all layers; a block's pictures; the reference picture; 60 s of sound and a prompt
    double exchange;                    // of an item: what passes between the parts of layers
    double busy[PLAN_MAX_RANKS];        // of a block, of each rank
    double copy, beside;                // layers that come in a walk, where it takes longest; what is computed in that walk
    double hop;                         // a message between ranks of a pipe
    double period, first;               // from block to block; to the first frame, with everything loaded
    const char *bound;                  // what the period is: static
} Paper;

typedef struct Found {
    Plan plan;
    PlanMemory memory[PLAN_MAX_RANKS], front;
    CommTraffic traffic[PLAN_MAX_RANKS];    // of an item, to the other parts of its layers
    double used[PLAN_MAX_RANKS];        // bytes of each card, all that lies there
    double lack;                        // bytes that are missing where most are; 0: it fits
    int lacks;                          // that card
    int width, height, steps;
    Paper paper;
} Found;

/** Shares of the published rates that are counted on: of products and attention, of convolutions, of bandwidth. */
#define SHARE_PRODUCTS 0.68
#define SHARE_CONV     0.35
#define SHARE_BYTES    0.80

/**
 * The fastest plan that fits at the size and steps asked for; when none fits, the one that lacks least, with lack > 0.
 * @return 0 or an error (logged)
 */
int search_plan(Found *f, const Cards *cards, const Link *link, const ToolOptions *o, const PlanSizes *sizes, const Log *log);
/** What fits instead: fewer steps, a smaller size, and either with layers from the host if offload was left open. @return how many were found, at most `max` */
int search_instead(Found *list, int max, const Cards *cards, const Link *link, const ToolOptions *o, const PlanSizes *sizes);
/** The number of a card, "cuda1": 1; -1: no card. */
int search_card(const char *device);
/** "devices=...:plan=...", to paste. */
void search_options(char *text, size_t size, const Found *f);

#endif
