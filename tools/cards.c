/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See cards.h. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "cards.h"
#include "nvml.h"

/*
 * Of 24 GB, 22.15 could be used where the original failed: the rest was that of error correction, which GDDR takes out of itself, and of
 * the driver, its context and its libraries. HBM has memory of its own for that, and is sold by 2^30 bytes: the driver shows 84.9e9 of 80.
 */
#define USABLE (22.15 / 24)
#define USABLE_STACKED 1.05
#define SHOWN_STACKED (84.9 / 80)
#define CONTEXT 0.6e9                       // of a card that is here, and says what is free: what our own will take beside the plan

double cards_size(const char *p, size_t len)
{
    const size_t digits = strspn(p, "0123456789.");                 // alone: neither nan nor 0x18 is a size
    char *end = NULL;
    const double gb = avt_number(p, &end);

    if (!digits || end != p + digits || !(gb >= 1 && gb <= 65536))
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
    const Card *card = avt_card_named(what, left);
    const double gb = card ? card->gb : cards_size(what, left);

    if (what == p)
        count = 1;
    if (count < 1 || gb <= 0 || count > PLAN_MAX_RANKS - c->nb)
        return -1;
    c->assumed |= !card;
    for (long i = 0; i < count; i++, c->nb++) {
        c->card[c->nb] = card ? card : avt_card_sized(gb);
        c->total[c->nb] = gb * (c->card[c->nb]->stacked ? SHOWN_STACKED : 1) * 1e9;
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
        char name[96] = "";
        void *d;
        double gb;
        const Card *card;

        if (n.handle(i, &d) || n.memory(d, &m))
            continue;
        gb = (double)m.total / 1.1e9;                               // a card of 24 GB says 25.7e9
        card = n.name(d, name, sizeof(name)) ? NULL : avt_card_called(name, gb);
        c->assumed |= !card;
        c->card[c->nb] = card ? card : avt_card_sized(gb);
        c->total[c->nb] = (double)m.total;
        c->usable[c->nb++] = (double)m.free > CONTEXT ? (double)m.free - CONTEXT : 0;
    }
    c->here = 1;
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
    avt_card_names(names, sizeof(names));
    fprintf(stderr, "avatar: --gpus: '%s' is not allowed; say here, or cards joined by '+': 4x24 (GB each), 2x48+1x24, 4x4090, h100. Names: %s\n", text, names);
    return -1;
}

void cards_pool(Pool *pool, const Cards *cards, const Link *link)
{
    char device[16];

    avt_pool_open(pool, link);
    for (int i = 0; i < cards->nb; i++) {
        snprintf(device, sizeof(device), "cuda%d", i);
        avt_pool_add(pool, device, cards->card[i], cards->usable[i], 0);
    }
}
