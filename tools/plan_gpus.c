/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar plan --gpus 4x24: which plan, why, what it takes of each card, how fast it will be, and what would fit if it does not; for people,
 * for programs, and as a picture.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "file.h"
#include "plan.h"
#include "speak.h"

#define GB 1e9
#define INSTEAD 4
#define CHANGES 3
#define OTHERS 3                                    // plans of a kind that are named beside the one that is taken

static const double fsdp_gb = 25.65;                // of each card, when the original's FSDP gathers what it has sharded over 4 or 5

typedef struct Answer {
    Cards cards;
    const Link *link;
    Pool pool;                          // of both
    Found best, instead[INSTEAD], lighter;
    int nb_instead, has_lighter;        // lighter: what was asked for, its layers in 8 bits
    Found change[CHANGES];              // of one thing each: a step fewer, a smaller size, another precision
    const char *precision[CHANGES];
    int nb_changes;
    char options[1024];
    int is_named;                       // plan= was said
} Answer;

static double fps(const Found *f)
{
    return AVATAR_BLOCK_FRAMES / f->paper.period;
}

#define COLUMNS 10

static const char *const column[] = { "weights", "rings", "sinks", "text", "sound", "VAE", "latents", "scratch", "worksp.", "mess.", "front" };

static double column_of(const PlanMemory *m, int i)
{
    const size_t part[] = { m->weights + m->part[STATE_LAYERS], m->part[STATE_RINGS], m->part[STATE_SINKS], m->part[STATE_TEXT], m->part[STATE_SOUND], m->part[STATE_VAE],
                            m->part[STATE_LATENTS], m->scratch, m->workspace, m->messages };

    return (double)part[i];
}

/* ---- for people ------------------------------------------------------------------------------------------------------------ */

static void show_bar(double used, double usable)
{
    const int nb = 12;
    int n = (int)(nb * used / usable + 0.5);

    n = n > nb ? nb : n;
    printf("[%.*s%*s]", n, "############", nb - n, "");
}

static void show_cards(const Answer *a)
{
    const Found *f = &a->best;
    const int front = avt_pool_find(&a->pool, f->plan.front_device);

    printf("%-7s %-11s", "", "layers");
    for (int i = 0; i <= COLUMNS; i++)
        printf(" %7s", column[i]);
    printf("  GB used of usable\n");
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        const PlanRank *p = &f->plan.rank[r];
        char layers[32];

        if (p->pipe < 0)
            snprintf(layers, sizeof(layers), "VAE");
        else
            snprintf(layers, sizeof(layers), "%d-%d%s", p->l0, p->l1 - 1, p->vae ? " +VAE" : "");
        if (p->nb_parts > 1)
            snprintf(layers + strlen(layers), sizeof(layers) - strlen(layers), " %d/%d", p->part + 1, p->nb_parts);
        printf("%-7s %-11s", p->device, layers);
        for (int i = 0; i < COLUMNS; i++)
            printf(" %7.2f", column_of(&f->memory[r], i) / GB);
        printf(" %7.2f  ", front == r ? (double)avt_plan_sum(&f->front) / GB : 0);
        show_bar(f->used[r], a->cards.usable[r]);
        printf(" %.2f of %.2f%s\n", f->used[r] / GB, a->cards.usable[r] / GB, f->used[r] > a->cards.usable[r] ? "  TOO MUCH" : "");
    }
}

/* What a card has and a plan has not: once for each size. */
static void show_context(const Cards *c)
{
    for (int i = 0; i < c->nb; i++)
        if (!i || c->total[i] != c->total[i - 1])
            printf("of %.4g GB %.2f are counted as %s, its context's and its libraries'\n", c->total[i] / GB, (c->total[i] - c->usable[i]) / GB,
                   c->here ? "others', the driver's" : "the driver's");
}

static void show_host(const Answer *a)
{
    const double used = a->best.host, room = a->pool.host;

    if (used <= 0)
        return;
    printf("host    what comes from there, encoders on the CPU: %.2f GB", used / GB);
    if (room > 0)
        printf(" of %.2f%s", room / GB, used > room ? "  TOO MUCH" : "");
    printf("\n");
}

static const char *what_comes(const Plan *p)
{
    return p->offload == OFFLOAD_ALL ? "layers, rings and sinks" : "layers";
}

/* What offload=auto took from the cards. */
static void show_missing(const Found *f)
{
    if (f->missing > 0 && f->misses == LACKS_HOST)
        printf("offload=auto: %s come from the host, as it would lack %.2f GB with all on the cards; the frames are the same\n", what_comes(&f->plan),
               f->missing / GB);
    else if (f->missing > 0)
        printf("offload=auto: %s come from the host, as cuda%d would lack %.2f GB with all on it; the frames are the same\n", what_comes(&f->plan),
               f->misses, f->missing / GB);
}

static void show_lack(const Found *f)
{
    if (f->lacks == LACKS_HOST)
        printf("the host lacks %.2f GB: layers from there need it, or --offload none and more cards\n", f->lack / GB);
    else
        printf("cuda%d lacks %.2f GB\n", f->lacks, f->lack / GB);
}

/* Of the others from number `from` on those that fit, or those that do not. @return the number behind the last of the kind */
static int show_kind(const Found *f, int from, int lacking)
{
    int i = from, shown = 0;

    for (; i < f->nb_other && (f->other[i].lack > 0) == lacking; i++) {
        const Tried *t = &f->other[i];

        if (shown >= OTHERS)
            continue;
        printf("%s%s ", shown ? "; " : lacking ? "     without room: " : "     slower: ", t->plan);
        if (lacking)
            printf("lacks %.2f GB%s", t->lack / GB, t->bound ? " or more" : "");
        else
            printf("%s%.1f fps", t->bound ? "at most " : "", AVATAR_BLOCK_FRAMES / t->period);
        shown++;
    }
    if (i > from)
        printf(i - from > shown ? "; %d more\n" : "\n", i - from - shown);
    return i;
}

/* Why this plan: what the others would be. */
static void show_others(const Answer *a)
{
    const Found *f = &a->best;

    printf(f->nb_other ? "why: the fastest that fits of %d ways to use the cards\n" : "why: there is no other way to use the cards\n", f->nb_other + 1);
    show_kind(f, show_kind(f, 0, 0), 1);
}

static void show_time(const Answer *a)
{
    const Paper *p = &a->best.paper;

    printf("on paper: %.1f fps (25 is real time), first frame after %.1f s with the model loaded; what bounds it: %s\n", fps(&a->best), p->first, p->bound);
    printf("          an item through all layers %.0f ms, a block's pictures %.0f ms, from block to block %.0f ms\n", 1e3 * p->item, 1e3 * p->decode,
           1e3 * p->period);
    if (avt_pool_find(&a->pool, a->best.plan.front_device) < 0)
        printf("          without the encoders of speech and text, which are not on a card\n");
    if (p->exchange > 0)
        printf("          of an item %.0f ms pass between the parts of its layers, over %s: %.0f GB/s, %.0f us each time\n", 1e3 * p->exchange, a->link->name,
               a->link->rate / GB, 1e6 * a->link->latency);
    if (p->copy > 0)
        printf("          %s that come in a walk: %.0f ms over %.0f GB/s beside %.0f ms of work: %s\n", what_comes(&a->best.plan), 1e3 * p->copy,
               a->pool.fetch / GB, 1e3 * p->beside, p->copy > p->beside ? "the card waits for them" : "they are hidden");
    printf("          from %s%s, of which %.0f %% (products), %.0f %% (convolutions), %.0f %% (bandwidth) are counted on; not measured\n",
           a->cards.assumed ? "the rates of a usual card of that size, " : "published rates of ", a->cards.card[0]->name, 100 * SHARE_PRODUCTS,
           100 * SHARE_CONV, 100 * SHARE_BYTES);
}

static const char *offload_option(const Plan *p)
{
    return p->offload == OFFLOAD_ALL ? " --offload all" : p->offload ? " --offload weights" : "";
}

/* Bytes of the card that has most. */
static double most_used(const Answer *a, const Found *f)
{
    double most = 0;

    for (int i = 0; i < a->cards.nb; i++)
        most = f->used[i] > most ? f->used[i] : most;
    return most;
}

static void show_instead(const Answer *a)
{
    if (a->has_lighter)
        printf("instead: --precision " SEARCH_LIGHTER "%s fits: %.1f fps at the rates of bf16, at most %.2f GB of a card\n", offload_option(&a->lighter.plan), fps(&a->lighter),
               most_used(a, &a->lighter) / GB);
    for (int i = 0; i < a->nb_instead; i++)
        printf("instead: --size %dx%d --steps %d%s fits: %.1f fps\n", a->instead[i].width, a->instead[i].height, a->instead[i].steps,
               offload_option(&a->instead[i].plan), fps(&a->instead[i]));
    if (!a->nb_instead && !a->has_lighter)
        printf("instead: nothing smaller fits these cards either; take more of them, or larger ones\n");
}

/* The table has rates of bf16. */
static int rate_is_known(const Answer *a, int change)
{
    return strcmp(a->precision[change], "int8") && strcmp(a->precision[change], "fp8");
}

static void show_changes(const Answer *a)
{
    for (int i = 0; i < a->nb_changes; i++) {
        const Found *f = &a->change[i];

        printf("with ");
        if (f->steps != a->best.steps)
            printf("--steps %d", f->steps);
        else if (f->width != a->best.width)
            printf("--size %dx%d", f->width, f->height);
        else
            printf("--precision %s", a->precision[i]);
        if (f->plan.offload != a->best.plan.offload)
            printf(" and --offload %s", avt_offload_name(&f->plan));
        printf(": at most %.2f GB of a card%s", most_used(a, f) / GB, f->lack > 0 ? ", which does not fit" : "");
        if (rate_is_known(a, i))
            printf(", %.1f fps", fps(f));
        printf("\n");
    }
}

static void show(const Answer *a, const PlanSizes *sizes)
{
    const Found *f = &a->best;
    char text[256];

    printf("%s, %dx%d, %d steps: %s\n", avt_plan_text(&f->plan, text, sizeof(text)), f->width, f->height, f->steps,
           f->lack > 0 ? "does NOT fit" : "fits");
    show_cards(a);
    show_context(&a->cards);
    show_host(a);
    show_missing(f);
    if (f->lack > 0)
        show_lack(f);
    else {
        show_time(a);
        if (!a->is_named)
            show_others(a);
    }
    if (sizes->dit.nb_layers == 40 && (a->cards.nb == 4 || a->cards.nb == 5) && a->cards.usable[0] < fsdp_gb * GB)
        printf("the original's FSDP would need %.2f GB of each card: it gathers what it has sharded\n", fsdp_gb);
    if (f->lack > 0) {
        show_instead(a);
        return;
    }
    show_changes(a);
    printf("%s\n", a->options);
}

/* ---- for programs ---------------------------------------------------------------------------------------------------------- */

static void show_json(const Answer *a, const char *precision)
{
    const Found *f = &a->best;
    double least = a->cards.usable[0];
    char text[256];

    for (int i = 1; i < a->cards.nb; i++)
        least = a->cards.usable[i] < least ? a->cards.usable[i] : least;
    printf("{\"plan\": \"%s\", \"precision\": \"%s\", \"width\": %d, \"height\": %d, \"steps\": %d, \"offload\": \"%s\", \"missing\": %.0f, \"fits\": %s, \"fps\": %.3f, \"first_frame\": %.3f, \"exchange\": %.6f, "
           "\"usable\": %.0f, \"host\": %.0f, \"bound\": \"%s\", \"options\": \"%s\", \"ranks\": [", avt_plan_text(&f->plan, text, sizeof(text)), precision, f->width,
           f->height, f->steps, avt_offload_name(&f->plan), f->missing, f->lack > 0 ? "false" : "true", fps(f), f->paper.first, f->paper.exchange, least, f->host, f->paper.bound, a->options);
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        printf(r ? ", " : "");
        plan_json_memory(f->plan.rank[r].device, &f->memory[r]);
    }
    printf("], \"front\": ");
    plan_json_memory(f->plan.front_device, &f->front);
    printf(", \"instead\": [");
    for (int i = 0; i < a->nb_instead; i++)
        printf("%s{\"width\": %d, \"height\": %d, \"steps\": %d, \"offload\": \"%s\", \"fps\": %.3f}", i ? ", " : "", a->instead[i].width,
               a->instead[i].height, a->instead[i].steps, avt_offload_name(&a->instead[i].plan), fps(&a->instead[i]));
    printf("], \"others\": [");
    for (int i = 0; i < f->nb_other; i++)
        printf("%s{\"plan\": \"%s\", \"lack\": %.0f, \"fps\": %.3f, \"bound\": %s}", i ? ", " : "", f->other[i].plan, f->other[i].lack,
               f->other[i].lack > 0 ? 0 : AVATAR_BLOCK_FRAMES / f->other[i].period, f->other[i].bound ? "true" : "false");
    printf("], \"lighter\": ");
    if (a->has_lighter)
        printf("{\"precision\": \"" SEARCH_LIGHTER "\", \"offload\": \"%s\", \"fps\": %.3f, \"most\": %.0f}", avt_offload_name(&a->lighter.plan), fps(&a->lighter), most_used(a, &a->lighter));
    else
        printf("null");
    printf(", \"changes\": [");
    for (int i = 0; i < a->nb_changes; i++)
        printf("%s{\"width\": %d, \"height\": %d, \"steps\": %d, \"precision\": \"%s\", \"offload\": \"%s\", \"fps\": %.3f, \"most\": %.0f}", i ? ", " : "",
               a->change[i].width, a->change[i].height, a->change[i].steps, a->precision[i], avt_offload_name(&a->change[i].plan), rate_is_known(a, i) ? fps(&a->change[i]) : 0, most_used(a, &a->change[i]));
    printf("]}\n");
}

/* ---- the command ----------------------------------------------------------------------------------------------------------- */

/* What the plan that was found would be with one thing changed; nothing is said of what cannot be. */
static void try_change(Answer *a, const PlanOptions *asked, const PlanSizes *sizes, const BackendOptions *be)
{
    PlanOptions p = *asked;
    char name[40];

    p.plan = avt_plan_name(&a->best.plan, name, sizeof(name));
    a->precision[a->nb_changes] = avt_precision_name(be->act, be->product);
    if (p.steps >= 1 && sizes->width >= 64 && sizes->height >= 64)
        a->nb_changes += avt_search_plan(&a->change[a->nb_changes], &a->pool, &p, sizes, be) >= 0;
}

static void try_changes(Answer *a, const PlanOptions *p, const PlanSizes *sizes, const BackendOptions *be)
{
    const int codes = avt_is_code(be->product), wide = be->act == DT_F32;
    BackendOptions other = *be;
    PlanOptions fewer = *p;
    PlanSizes smaller = *sizes;

    other.log = NULL;
    fewer.steps--;
    if (a->best.plan.kind != PLAN_TIMESTEP)                         // there each step has its card
        try_change(a, &fewer, sizes, &other);
    smaller.width = sizes->width * 9 / 10 / 16 * 16;
    smaller.height = sizes->height * 9 / 10 / 16 * 16;
    try_change(a, p, &smaller, &other);
    other.act = DT_BF16;
    other.product = codes || wide ? DT_BF16 : DT_I8;
    try_change(a, p, sizes, &other);
}

static int search(Answer *a, const ToolOptions *o, const PlanSizes *sizes, const Log *log)
{
    const PlanOptions p = { .plan = o->engine.plan, .vae_device = o->engine.vae_device, .vae_split = o->engine.vae_split,
                            .front_device = o->engine.front_device, .offload = o->engine.offload, .kv = o->engine.kv, .resident = o->engine.resident,
                            .steps = plan_steps(&o->engine, sizes), .nb_layers = sizes->dit.nb_layers, .nb_heads = sizes->dit.nb_heads };
    BackendOptions be = { .level = CPU_AUTO, .act = DT_BF16, .log = log };
    int ret = avt_options_precision(&be, o->engine.precision, log);

    if (ret >= 0)
        ret = avt_search_plan(&a->best, &a->pool, &p, sizes, &be);
    if (ret < 0)
        return ret;
    avt_search_options(a->options, sizeof(a->options), &a->best);
    if (a->best.lack > 0) {
        a->nb_instead = avt_search_instead(a->instead, INSTEAD, &a->pool, &p, sizes, &be);
        a->has_lighter = avt_search_lighter(&a->lighter, &a->pool, &p, sizes, &be);
    } else
        try_changes(a, &p, sizes, &be);
    return 0;
}

int plan_for_cards(const ToolOptions *o, const PlanSizes *sizes, const Log *log)
{
    static Answer a;
    const char *link = o->link ? o->link : "pcie4";
    const char *precision = o->engine.precision && strcmp(o->engine.precision, "auto") ? o->engine.precision : "bf16";

    a.link = avt_link_named(link);
    if (!a.link)
        return fprintf(stderr, "avatar: --link: '%s' is not allowed; pcie4, pcie5, nvlink, 100g\n", link), 2;
    if (cards_parse(&a.cards, o->gpus) < 0)
        return 2;
    a.is_named = o->engine.plan && strcmp(o->engine.plan, "auto");
    cards_pool(&a.pool, &a.cards, a.link);
    if (plan_read_host(&a.pool.host, o) < 0)
        return 2;
    if (!o->host_memory && a.cards.here)
        a.pool.host = (double)avt_host_memory_left();
    if (search(&a, o, sizes, log) < 0)
        return 1;
    if (o->json)
        show_json(&a, precision);
    else
        show(&a, sizes);
    tool_protect(o);
    if (o->output && plan_draw(&(PlanPicture){ &a.best, &a.cards, &a.pool, precision }, o->output))
        return 1;
    return a.best.lack > 0;
}
