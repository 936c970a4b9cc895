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

static const double fsdp_gb = 25.65;                // of each card, when the original's FSDP gathers what it has sharded over 4 or 5

typedef struct Answer {
    Cards cards;
    const Link *link;
    Pool pool;                          // of both
    Found best, instead[INSTEAD];
    int nb_instead;
    Found change[CHANGES];              // of one thing each: a step fewer, a smaller size, another precision
    const char *precision[CHANGES];
    int nb_changes;
    char options[1024];
} Answer;

static double fps(const Found *f)
{
    return AVATAR_BLOCK_FRAMES / f->paper.period;
}

static double parts_of(const PlanMemory *m, int i)
{
    const size_t part[] = { m->weights, m->state, m->scratch, m->workspace, m->messages };

    return (double)part[i];
}

/* ---- for people ------------------------------------------------------------------------------------------------------------ */

static void show_bar(double used, double usable)
{
    const int nb = 24;
    int n = (int)(nb * used / usable + 0.5);

    n = n > nb ? nb : n;
    printf("[%.*s%*s]", n, "########################", nb - n, "");
}

static void show_cards(const Answer *a)
{
    const Found *f = &a->best;
    const int front = avt_pool_find(&a->pool, f->plan.front_device);

    printf("%-7s %-10s %8s %8s %8s %8s %8s %8s   GB used of usable\n", "", "layers", "weights", "rings", "scratch", "worksp.", "messages", "front");
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        const PlanRank *p = &f->plan.rank[r];
        char layers[32];

        if (p->pipe < 0)
            snprintf(layers, sizeof(layers), "VAE");
        else
            snprintf(layers, sizeof(layers), "%d-%d%s", p->l0, p->l1 - 1, p->vae ? " +VAE" : "");
        if (p->nb_parts > 1)
            snprintf(layers + strlen(layers), sizeof(layers) - strlen(layers), " %d/%d", p->part + 1, p->nb_parts);
        printf("%-7s %-10s", p->device, layers);
        for (int i = 0; i < 5; i++)
            printf(" %8.2f", parts_of(&f->memory[r], i) / GB);
        printf(" %8.2f   ", front == r ? (double)avt_plan_sum(&f->front) / GB : 0);
        show_bar(f->used[r], a->cards.usable[r]);
        printf(" %.2f of %.2f%s\n", f->used[r] / GB, a->cards.usable[r] / GB, f->used[r] > a->cards.usable[r] ? "  TOO MUCH" : "");
    }
}

/* What a card has and a plan has not. */
static void show_context(const Cards *c)
{
    const double sold = c->card[0]->gb, kept = sold - c->usable[0] / GB;

    if (!c->here && kept > 0)
        printf("of %.0f GB %.2f are counted as the driver's, its context's and its libraries'\n", sold, kept);
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

static void show_instead(const Answer *a)
{
    for (int i = 0; i < a->nb_instead; i++)
        printf("instead: --size %dx%d --steps %d%s fits: %.1f fps\n", a->instead[i].width, a->instead[i].height, a->instead[i].steps,
               offload_option(&a->instead[i].plan), fps(&a->instead[i]));
    if (!a->nb_instead)
        printf("instead: nothing smaller fits these cards either; take more of them, or larger ones\n");
}

/* Bytes of the card that has most. */
static double most_used(const Answer *a, const Found *f)
{
    double most = 0;

    for (int i = 0; i < a->cards.nb; i++)
        most = f->used[i] > most ? f->used[i] : most;
    return most;
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
    else
        show_time(a);
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
    printf("], \"changes\": [");
    for (int i = 0; i < a->nb_changes; i++)
        printf("%s{\"width\": %d, \"height\": %d, \"steps\": %d, \"precision\": \"%s\", \"offload\": \"%s\", \"fps\": %.3f, \"most\": %.0f}", i ? ", " : "",
               a->change[i].width, a->change[i].height, a->change[i].steps, a->precision[i], avt_offload_name(&a->change[i].plan), rate_is_known(a, i) ? fps(&a->change[i]) : 0, most_used(a, &a->change[i]));
    printf("]}\n");
}

/* ---- as a picture: memory bars of the cards, and four blocks on their way over them ------------------------------------------ */

#define SVG_W 1000
#define BAR_X 120
#define BAR_W 600
#define ROW   34

static const char *const colour[] = { "#4878a8", "#e0903c", "#8c8c8c", "#b07aa1", "#59a14f", "#d4c34a" };

static void svg_memory(FILE *out, const Answer *a)
{
    static const char *const name[] = { "weights", "rings and sinks", "scratch", "workspace", "messages", "speech and text" };
    const Found *f = &a->best;
    double most = 0;

    for (int c = 0; c < a->cards.nb; c++) {
        most = a->cards.usable[c] > most ? a->cards.usable[c] : most;
        most = f->used[c] > most ? f->used[c] : most;
    }
    for (int i = 0; i < 6; i++)
        fprintf(out, "<rect x=\"%d\" y=\"14\" width=\"12\" height=\"12\" fill=\"%s\"/><text x=\"%d\" y=\"25\">%s</text>\n", BAR_X + 140 * i, colour[i],
                BAR_X + 16 + 140 * i, name[i]);
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        const PlanRank *p = &f->plan.rank[r];
        const int y = 40 + ROW * r;
        double x = BAR_X;

        fprintf(out, "<text x=\"8\" y=\"%d\">%s</text><text x=\"58\" y=\"%d\">", y + 15, p->device, y + 15);
        fprintf(out, p->pipe < 0 ? "VAE" : p->vae ? "%d-%d+V" : "%d-%d", p->l0, p->l1 - 1);
        fprintf(out, "</text>\n");
        for (int i = 0; i < 6; i++) {
            const double part = i < 5 ? parts_of(&f->memory[r], i) : r == avt_pool_find(&a->pool, f->plan.front_device) ? (double)avt_plan_sum(&f->front) : 0;

            fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"20\" fill=\"%s\"/>\n", x, y, part / most * BAR_W, colour[i]);
            x += part / most * BAR_W;
        }
        fprintf(out, "<path d=\"M%.1f %d v28\" stroke=\"#c00\" stroke-width=\"2\"/><text x=\"%d\" y=\"%d\">%.2f of %.2f GB</text>\n",
                BAR_X + a->cards.usable[r] / most * BAR_W, y - 4, BAR_X + BAR_W + 20, y + 15, f->used[r] / GB, a->cards.usable[r] / GB);
    }
}

/* When each block's items are on each rank, from the steady state's times: block b, step i enters rank r in order. */
static void svg_time(FILE *out, const Answer *a, int top)
{
    static const char *const shade[] = { "#2b5d8a", "#c9742a", "#3f7f3a", "#8a4f86" };
    const Found *f = &a->best;
    double ready[PLAN_MAX_RANKS] = { 0 }, end = 0, x0 = BAR_X, scale;
    const int blocks = 4, parts = avt_plan_parts(&f->plan);

    for (int pass = 0; pass < 2; pass++) {                          // the first finds the end, the second draws
        scale = pass ? (SVG_W - BAR_X - 20) / end : 1;
        memset(ready, 0, sizeof(ready));
        for (int wave = 0; wave < blocks + f->steps - 1; wave++)
            for (int i = 0; i < f->steps; i++) {
                const int b = wave - i;
                double t = 0;

                if (b < 0 || b >= blocks)
                    continue;
                for (int r = f->plan.first[i]; r <= f->plan.last[i]; r += parts) {
                    const double d = f->paper.item * (f->plan.rank[r].l1 - f->plan.rank[r].l0) / f->plan.rank[f->plan.last[i]].l1;

                    for (int k = 0; k < parts; k++)                 // all parts at once
                        t = t > ready[r + k] ? t : ready[r + k];
                    for (int k = 0; k < parts && pass; k++)
                        fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"18\" fill=\"%s\" stroke=\"white\"/>\n", x0 + t * scale,
                                top + 24 * (r + k), d * scale, shade[b]);
                    t += d;
                    for (int k = 0; k < parts; k++)
                        ready[r + k] = t;
                }
                if (i + 1 == f->steps) {
                    const int r = f->plan.vae_rank;

                    t = t > ready[r] ? t : ready[r];
                    if (pass)
                        fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"18\" fill=\"%s\" opacity=\"0.45\"/>\n", x0 + t * scale, top + 24 * r,
                                f->paper.decode * scale, shade[b]);
                    t = ready[r] = t + f->paper.decode;
                }
                end = t > end ? t : end;
            }
    }
    for (int r = 0; r < f->plan.nb_ranks; r++)
        fprintf(out, "<text x=\"8\" y=\"%d\">%s</text>\n", top + 24 * r + 14, f->plan.rank[r].device);
    fprintf(out, "<text x=\"%d\" y=\"%d\">the first four blocks, %.2f s; pale: their pictures. %.1f fps on paper</text>\n", BAR_X, top + 24 * f->plan.nb_ranks + 18, end,
            fps(f));
}

static int draw(const Answer *a, const char *path)
{
    const int nb = a->best.plan.nb_ranks, top = 60 + ROW * nb, height = top + 24 * nb + 30;
    FILE *out = file_stream(path);

    if (!out)
        return 1;
    fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", SVG_W, height, SVG_W, height);
    svg_memory(out, a);
    svg_time(out, a, top);
    fprintf(out, "</svg>\n");
    return fclose(out) ? fprintf(stderr, "avatar: %s: %s\n", file_shown(path), strerror(errno)), 1 : 0;
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
    if (a->best.lack > 0)
        a->nb_instead = avt_search_instead(a->instead, INSTEAD, &a->pool, &p, sizes, &be);
    else
        try_changes(a, &p, sizes, &be);
    return 0;
}

int plan_for_cards(const ToolOptions *o, const PlanSizes *sizes, const Log *log)
{
    static Answer a;
    const char *link = o->link ? o->link : "pcie4";

    a.link = avt_link_named(link);
    if (!a.link)
        return fprintf(stderr, "avatar: --link: '%s' is not allowed; pcie4, pcie5, nvlink, 100g\n", link), 2;
    if (cards_parse(&a.cards, o->gpus) < 0)
        return 2;
    cards_pool(&a.pool, &a.cards, a.link);
    if (plan_read_host(&a.pool.host, o) < 0)
        return 2;
    if (!o->host_memory && a.cards.here)
        a.pool.host = (double)avt_host_memory_left();
    if (search(&a, o, sizes, log) < 0)
        return 1;
    if (o->json)
        show_json(&a, o->engine.precision && strcmp(o->engine.precision, "auto") ? o->engine.precision : "bf16");
    else
        show(&a, sizes);
    tool_protect(o);
    if (o->output && draw(&a, o->output))
        return 1;
    return a.best.lack > 0;
}
