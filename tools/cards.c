/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See cards.h. Rates are NVIDIA's data sheets': dense bf16 tensor products with f32 sums, and memory bandwidth. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cards.h"
#include "nvml.h"

/* The first of a size is what is assumed when only the size is said. */
static const Card cards[] = {
    { "3060",      12,   51,  360, 0 }, { "4080",      16,   97,  717, 0 }, { "4060ti",    16,   44,  288, 0 }, { "3090",      24,   71,  936, 0 },
    { "4090",      24,  165, 1008, 0 }, { "a10",       24,  125,  600, 0 }, { "l4",        24,  121,  300, 0 }, { "5090",      32,  210, 1792, 0 },
    { "a100-40",   40,  312, 1555, 1 }, { "a6000",     48,  155,  768, 0 }, { "l40s",      48,  362,  864, 0 }, { "a100-80",   80,  312, 2039, 1 },
    { "h100",      80,  989, 3350, 1 }, { "h100-pcie", 80,  756, 2000, 1 }, { "h200",     141,  989, 4800, 1 }, { "b200",     180, 2250, 8000, 1 },
};
#define NB_CARDS ((int)(sizeof(cards) / sizeof(cards[0])))

/*
 * Of 24 GB, 22.15 could be used where the original failed: the rest was that of error correction, which GDDR takes out of itself, and of
 * the driver, its context and its libraries. HBM has memory of its own for that, and is sold by 2^30 bytes: the driver shows 84.9e9 of 80.
 */
#define USABLE (22.15 / 24)
#define USABLE_STACKED 1.05
#define CONTEXT 0.6e9                       // of a card that is here, and says what is free: what our own will take beside the plan

static const Card *by_name(const char *name, size_t len)
{
    for (int i = 0; i < NB_CARDS; i++)
        if (strlen(cards[i].name) == len && !strncasecmp(cards[i].name, name, len))
            return &cards[i];
    return NULL;
}

/* The card that is the smallest of at least this size. */
static const Card *by_size(double gb)
{
    for (int i = 0; i < NB_CARDS; i++)
        if (cards[i].gb >= gb)
            return &cards[i];
    return &cards[NB_CARDS - 1];
}

void cards_names(char *text, size_t size)
{
    size_t n = 0;

    text[0] = 0;
    for (int i = 0; i < NB_CARDS && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i ? " " : "", cards[i].name);
}

/* What is counted on: of the published rates what copies reach, and for the latency the host's part in starting them. */
const Link *cards_link(const char *name)
{
    static const Link links[] = { { "pcie4", 25e9, 20e-6 }, { "pcie5", 50e9, 20e-6 }, { "nvlink", 380e9, 12e-6 }, { "100g", 12e9, 40e-6 } };

    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        if (!strcmp(links[i].name, name))
            return &links[i];
    return NULL;
}

Rates cards_published(const Card *c)
{
    return (Rates){ c->tflops * 1e12, c->tflops * 1e12, c->bandwidth * 1e9 };
}

void cards_pool(Pool *pool, const Cards *cards, const Link *link)
{
    const int fast = !strcmp(link->name, "pcie5") || !strcmp(link->name, "nvlink");     // of a machine with such cards

    *pool = (Pool){ .nb = cards->nb, .link = link->rate, .latency = link->latency, .fetch = cards_link(fast ? "pcie5" : "pcie4")->rate };
    for (int i = 0; i < cards->nb; i++) {
        const Rates r = cards_published(cards->card[i]);

        snprintf(pool->name[i], sizeof(pool->name[i]), "cuda%d", i);
        pool->rates[i] = (Rates){ SHARE_PRODUCTS * r.products, SHARE_CONV * r.convolutions, SHARE_BYTES * r.bytes };
        pool->room[i] = cards->usable[i];
    }
}

/* "24", "24gb" -> 24; 0: no size */
static double size_of(const char *p, size_t len)
{
    char *end = NULL;
    const double gb = strtod(p, &end);

    if (end == p || gb < 1 || gb > 1024)
        return 0;
    if (end < p + len && tolower((unsigned char)*end) == 'g')
        end += end + 1 < p + len && tolower((unsigned char)end[1]) == 'b' ? 2 : 1;
    return end == p + len ? gb : 0;
}

/* COUNTxWHAT, or WHAT, up to `len`. A name wins over a size: 3090 is a card. */
static int add_group(Cards *c, const char *p, size_t len)
{
    char *end = NULL;
    long count = strtol(p, &end, 10);
    const char *what = end > p && *end == 'x' ? end + 1 : p;
    const size_t left = len - (size_t)(what - p);
    const Card *card = by_name(what, left);
    const double gb = card ? card->gb : size_of(what, left);

    if (what == p)
        count = 1;
    if (count < 1 || gb <= 0 || c->nb + count > PLAN_MAX_RANKS)
        return -1;
    c->assumed |= !card;
    for (long i = 0; i < count; i++, c->nb++) {
        c->card[c->nb] = card ? card : by_size(gb);
        c->usable[c->nb] = floor(gb * (c->card[c->nb]->stacked ? USABLE_STACKED : USABLE) * 1e9 + 0.5);
    }
    return 0;
}

static int ask_driver(Cards *c)
{
    unsigned nb = 0;
    Nvml n;

    if (!nvml_open(&n))
        return fprintf(stderr, "avatar: --gpus here: no NVIDIA driver on this machine; say what there will be: 4x24, h100\n"), -1;
    n.count(&nb);
    for (unsigned i = 0; i < nb && c->nb < PLAN_MAX_RANKS; i++) {
        NvmlMemory m = { 0, 0, 0 };
        void *d;

        if (n.handle(i, &d) || n.memory(d, &m))
            continue;
        c->card[c->nb] = by_size((double)m.total / 1.1e9);          // a card of 24 GB says 25.7e9
        c->usable[c->nb++] = (double)m.free > CONTEXT ? (double)m.free - CONTEXT : 0;
    }
    c->assumed = 1;
    nvml_close(&n);
    return c->nb ? 0 : (fprintf(stderr, "avatar: --gpus here: the driver shows no card\n"), -1);
}

int cards_parse(Cards *c, const char *text)
{
    char names[256];

    memset(c, 0, sizeof(*c));
    if (!strcmp(text, "here"))
        return ask_driver(c);
    for (const char *p = text; ; ) {
        const size_t len = strcspn(p, "+");

        if (add_group(c, p, len) < 0)
            break;
        p += len;
        if (!*p++)
            return 0;
    }
    cards_names(names, sizeof(names));
    fprintf(stderr, "avatar: --gpus: '%s' is not allowed; say here, or cards joined by '+': 4x24 (GB each), 2x48+1x24, 4x4090, h100. Names: %s\n", text, names);
    return -1;
}
