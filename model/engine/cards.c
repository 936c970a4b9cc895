/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See cards.h. Rates are NVIDIA's data sheets': dense bf16 tensor products with f32 sums, and memory bandwidth. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "engine/cards.h"

/* The first of a size is what is assumed when only the size is said. */
static const Card cards[] = {
    { "3060",      12,   51,  360, 0 }, { "4080",      16,   97,  717, 0 }, { "4060ti",    16,   44,  288, 0 }, { "3090",      24,   71,  936, 0 },
    { "4090",      24,  165, 1008, 0 }, { "a10",       24,  125,  600, 0 }, { "l4",        24,  121,  300, 0 }, { "5090",      32,  210, 1792, 0 },
    { "a100-40",   40,  312, 1555, 1 }, { "a6000",     48,  155,  768, 0 }, { "l40s",      48,  362,  864, 0 }, { "a100-80",   80,  312, 2039, 1 },
    { "h100",      80,  989, 3350, 1 }, { "h100-pcie", 80,  756, 2000, 1 }, { "h200",     141,  989, 4800, 1 }, { "b200",     180, 2250, 8000, 1 },
};
#define START_SECONDS 4e-6              // of a kernel by the host, as its driver takes them
#define NB_CARDS ((int)(sizeof(cards) / sizeof(cards[0])))

const Card *avt_card_named(const char *name, size_t len)
{
    for (int i = 0; i < NB_CARDS; i++)
        if (strlen(cards[i].name) == len && !strncasecmp(cards[i].name, name, len))
            return &cards[i];
    return NULL;
}

/* Letters and digits alone, small. */
static void squeeze(char *out, size_t size, const char *name)
{
    size_t n = 0;

    for (; *name && n + 1 < size; name++)
        if (isalnum((unsigned char)*name))
            out[n++] = (char)tolower((unsigned char)*name);
    out[n] = 0;
}

/* The longest that is in it: an l40s is no l4. A size in a name, a100-80, is told by the memory. */
const Card *avt_card_called(const char *name, double gb)
{
    const Card *best = NULL;
    size_t longest = 0;
    char called[96], own[16];

    squeeze(called, sizeof(called), name);
    for (int i = 0; i < NB_CARDS; i++) {
        const size_t part = strcspn(cards[i].name, "-");

        squeeze(own, sizeof(own), cards[i].name);
        if (cards[i].name[part] && isdigit((unsigned char)cards[i].name[part + 1]))
            own[part] = 0;
        if (strstr(called, own) && strlen(own) > longest && gb > 0.85 * cards[i].gb && gb < 1.15 * cards[i].gb) {
            best = &cards[i];
            longest = strlen(own);
        }
    }
    return best;
}

const Card *avt_card_sized(double gb)
{
    for (int i = 0; i < NB_CARDS; i++)
        if (cards[i].gb >= gb)
            return &cards[i];
    return &cards[NB_CARDS - 1];
}

void avt_card_names(char *text, size_t size)
{
    size_t n = 0;

    text[0] = 0;
    for (int i = 0; i < NB_CARDS && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i ? " " : "", cards[i].name);
}

Rates avt_card_published(const Card *c)
{
    return (Rates){ c->tflops * 1e12, c->tflops * 1e12, c->bandwidth * 1e9, 0 };
}

/* What is counted on: of the published rates what copies reach, and for the latency the host's part in starting them. */
const Link *avt_link_named(const char *name)
{
    static const Link links[] = { { "pcie4", 25e9, 20e-6 }, { "pcie5", 50e9, 20e-6 }, { "nvlink", 380e9, 12e-6 }, { "100g", 12e9, 40e-6 } };

    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        if (!strcmp(links[i].name, name))
            return &links[i];
    return NULL;
}

void avt_pool_open(Pool *pool, const Link *link)
{
    const int fast = !strcmp(link->name, "pcie5") || !strcmp(link->name, "nvlink");     // of a machine with such cards

    *pool = (Pool){ .link = link->rate, .latency = link->latency, .fetch = avt_link_named(fast ? "pcie5" : "pcie4")->rate };
}

void avt_pool_add(Pool *pool, const char *device, const Card *card, double room, int other)
{
    const Rates r = avt_card_published(card);
    const int i = pool->nb + pool->others;

    snprintf(pool->name[i], sizeof(pool->name[i]), "%s", device);
    pool->rates[i] = (Rates){ SHARE_PRODUCTS * r.products, SHARE_CONV * r.convolutions, SHARE_BYTES * r.bytes, START_SECONDS };
    pool->room[i] = room;
    pool->nb += !other;
    pool->others += other;
}
