/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See search.h. Time on paper: an op takes its FLOPs over the rate of its kind or its bytes over the bandwidth, whichever is longer; the sum
 * over an item's ops is spread over ranks by their layers, and over the parts of these; what parts exchange takes its bytes over the link's rate
 * and its latency each time, while nothing is computed. A pipe gives a block in the time of its busiest rank, or, when too few blocks
 * are under way to keep all busy, in the time of a block's whole way over their number.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/sound.h"
#include "plan.h"
#include "search.h"

#define ENCODED_FRAMES 73                           // of the reference picture, as a film

/* ---- time ---------------------------------------------------------------------------------------------------------- */

static double op_seconds(OpId op, double flops, double bytes, const Card *c)
{
    const double share = op == OP_CONV3D || op == OP_CONV1D ? SHARE_CONV : SHARE_PRODUCTS;
    const double compute = flops / (c->tflops * 1e12 * share), memory = bytes / (c->bandwidth * 1e9 * SHARE_BYTES);

    return compute > memory ? compute : memory;
}

/* Of attention there may be another share than of the rest. */
static double shared_seconds(const OpStat *stat, const Card *c, double share, double attention)
{
    double s = 0;

    for (int i = 0; i < OP_NB; i++)
        s += op_seconds((OpId)i, stat[i].flops, stat[i].bytes, c) * (i == OP_ATTENTION ? attention : share);
    return s;
}

static double stat_seconds(const OpStat *stat, const Card *c)
{
    return shared_seconds(stat, c, 1, 1);
}

typedef struct Work {                   // what there is to do, whatever the plan: found once
    OpStat item[OP_NB], decode[OP_NB], sound[OP_NB], text[OP_NB];
    double hop_bytes;
} Work;

static int add_item(Work *w, const RankSetup *set, const PlanSizes *sizes, const BackendOptions *be)
{
    DryCall *calls = NULL;
    int64_t nb = 0;
    const int ret = avt_rank_item(&calls, &nb, set, sizes, be);

    for (int64_t i = 0; i < nb && ret >= 0; i++) {
        OpStat *s = &w->item[calls[i].first.op];

        s->flops += calls[i].flops;
        s->bytes += calls[i].bytes;
    }
    avt_free(calls);
    return ret;
}

static int setup_for(RankSetup *set, const Plan *plan, int w, int h, const PlanSizes *sizes)
{
    *set = (RankSetup){ .plan = plan, .format = PIX_YUV420P, .text_len = sizes->dit.text_len, .shape = avt_dit_shape(h / 8, w / 8) };
    return avt_schedule(&set->schedule, plan->steps, 3);
}

/* One device alone, its VAE on a rank of its own, separates what there is to do. */
static int find_work(Work *w, int width, int height, int steps, const PlanSizes *sizes, const BackendOptions *be)
{
    const FrontSetup sound = { .sizes = sizes, .samples = avt_sound_piece(0, 0) }, text = { .sizes = sizes, .tokens = sizes->dit.text_len };
    const PlanOptions p = { .plan = "sequential", .devices = "cuda0", .vae_device = "cuda0:own", .steps = steps, .nb_layers = sizes->dit.nb_layers };
    PlanMemory m;
    RankSetup set;
    Plan plan;
    int ret = avt_plan_make(&plan, &p, NULL);

    memset(w, 0, sizeof(*w));
    if (ret >= 0)
        ret = setup_for(&set, &plan, width, height, sizes);
    if (ret >= 0)
        ret = add_item(w, &set, sizes, be);
    if (ret >= 0)
        ret = avt_rank_measure(&m, &set, plan.vae_rank, sizes, be, NULL, w->decode);
    if (ret >= 0)
        ret = avt_front_measure(&m, &sound, "cuda0", be, w->sound);
    if (ret >= 0)
        ret = avt_front_measure(&m, &text, "cuda0", be, w->text);
    w->hop_bytes = (double)width / 16 * height / 16 * 3 * (double)sizes->dit.dim * 4;
    return ret;
}

/* Of a layer: its part that has most heads, which of columns has most of all. */
static double part_seconds(const Plan *p, const Work *w, const Card *card, const PlanSizes *sizes)
{
    const int parts = avt_plan_parts(p), heads = sizes->dit.nb_heads;
    const double most = (double)((heads + parts - 1) / parts) / heads;

    return shared_seconds(w->item, card, p->split == TEAM_HEADS ? 1.0 / parts : most, most) / sizes->dit.nb_layers;
}

/* Seconds that an item is on a rank; parts of a team work at the same time. */
static double item_seconds(Found *f, int r, const Work *w, const Card *card, const PlanSizes *sizes, const Link *link)
{
    const PlanRank *rank = &f->plan.rank[r];
    const double compute = part_seconds(&f->plan, w, card, sizes) * (rank->l1 - rank->l0);
    const double exchange = f->traffic[r].bytes / link->rate + f->traffic[r].turns * link->latency;

    if (rank->pipe <= 0 && !rank->part) {
        f->paper.item += compute + exchange;
        f->paper.exchange += exchange;
    }
    return compute + exchange;
}

/* busy[], and the way of a block through all steps, without its pictures. */
/* Layers that come while others are at work: a walk takes the longer of both. A block's time on rank r, `steps` items of it; *way (in: an
 * item's) becomes what an item takes there. */
static double with_copies(Found *f, int r, int steps, double *way, const Link *link)
{
    Paper *p = &f->paper;
    const int walks = (steps + f->plan.batch - 1) / f->plan.batch;
    const double item = *way, copy = (double)f->memory[r].coming / cards_host(link);

    if (copy > p->copy) {
        p->copy = copy;
        p->beside = walks ? steps * item / walks : 0;
    }
    *way = fmax(item, copy);
    return fmax(steps * item, walks * copy);
}

static double walk(Found *f, const Work *w, const Cards *cards, const PlanSizes *sizes, const Link *link)
{
    Paper *p = &f->paper;
    double way = 0;

    p->hop = w->hop_bytes / avt_plan_parts(&f->plan) / link->rate + link->latency;
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        const PlanRank *rank = &f->plan.rank[r];
        const Card *card = cards->card[atoi(rank->device + 4)];
        double item = item_seconds(f, r, w, card, sizes, link);
        int steps = 0;

        for (int i = 0; i < f->plan.steps; i++)
            steps += rank->pipe >= 0 && avt_plan_holds(&f->plan, r, i);
        p->busy[r] = with_copies(f, r, steps, &item, link);
        way += rank->part ? 0 : steps * (item + (rank->prev >= 0 ? p->hop : 0));
        if (rank->vae) {
            p->decode = stat_seconds(w->decode, card) / f->plan.vae_parts;
            p->busy[r] += p->decode;
            p->encode = p->decode * f->plan.vae_parts * ENCODED_FRAMES / AVATAR_BLOCK_FRAMES / 2;       // the encoder is half of the decoder
            p->front = search_card(f->plan.front_device) < 0 ? 0 : stat_seconds(w->sound, card) + stat_seconds(w->text, card);
        }
    }
    return way;
}

/* busiest: a rank; idle: even that one waits for blocks */
static const char *bound_of(const Found *f, int busiest, int idle)
{
    const Paper *p = &f->paper;
    const PlanRank *rank = &f->plan.rank[busiest];

    if (p->copy > p->beside)
        return "layers that come from the host";
    if (2 * p->exchange > p->item)
        return "what the parts of layers exchange";
    if (f->plan.in_flight == 1)
        return "one block is made after the other";
    if (idle)
        return "too few blocks are under way to keep all cards busy";
    return rank->pipe < 0 ? "the VAE" : rank->vae ? "the card with the VAE" : "the layers";
}

static void reckon(Found *f, const Work *w, const Cards *cards, const PlanSizes *sizes, const Link *link)
{
    Paper *p = &f->paper;
    const double way = walk(f, w, cards, sizes, link);
    const int alone = f->plan.in_flight == 1;                       // then the next block waits for the pictures, too
    const double turn = alone ? way + p->decode : way / f->plan.in_flight;
    int most = 0;

    for (int r = 1; r < f->plan.nb_ranks; r++)
        most = p->busy[r] > p->busy[most] ? r : most;
    p->period = fmax(turn, p->busy[most]);
    p->first = p->front + p->encode + way + p->decode;
    p->bound = bound_of(f, most, p->busy[most] < turn);
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

int search_card(const char *device)
{
    return strncmp(device, "cuda", 4) ? -1 : atoi(device + 4);
}

static int measure(Found *f, const Cards *cards, const PlanSizes *sizes, const BackendOptions *be)
{
    const FrontSetup front = { .sizes = sizes, .samples = avt_sound_piece(0, 0), .tokens = sizes->dit.text_len };
    OpStat stat[OP_NB];
    RankSetup set;
    int ret = setup_for(&set, &f->plan, f->width, f->height, sizes);

    for (int r = 0; r < f->plan.nb_ranks && ret >= 0; r++) {
        ret = avt_rank_measure(&f->memory[r], &set, r, sizes, be, NULL, stat);
        if (ret >= 0)
            ret = avt_rank_traffic(&f->traffic[r], &set, r, sizes, be);
        f->used[search_card(f->plan.rank[r].device)] += (double)avt_plan_sum(&f->memory[r]);
    }
    if (ret >= 0)
        ret = avt_front_measure(&f->front, &front, f->plan.front_device, be, stat);
    if (search_card(f->plan.front_device) >= 0)
        f->used[search_card(f->plan.front_device)] += (double)avt_plan_sum(&f->front);
    for (int c = 0; c < cards->nb; c++)
        if (f->used[c] - cards->usable[c] > f->lack) {
            f->lack = f->used[c] - cards->usable[c];
            f->lacks = c;
        }
    return ret;
}

/* ---- candidates ---------------------------------------------------------------------------------------------------- */

typedef struct Search {
    const Cards *cards;
    const Link *link;
    const ToolOptions *o;
    const PlanSizes *sizes;
    const BackendOptions *be;
    const char *asked;                  // or NULL
    Work work;
    Found *best;
    int found;
} Search;

static void device_list(char *text, size_t size, int nb)
{
    size_t n = 0;

    for (int i = 0; i < nb && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%scuda%d", i ? "|" : "", i);
}

/* The least that a plan's period can be, however its layers are split: from an even split, and from what the first rank exchanges. */
static double least_period(Found *f, const Work *w, const Cards *cards, const PlanSizes *sizes, const BackendOptions *be, const Link *link)
{
    const Plan *p = &f->plan;
    double sum = 0, turn;
    RankSetup set;

    if (setup_for(&set, p, f->width, f->height, sizes) < 0 || avt_rank_traffic(&f->traffic[0], &set, 0, sizes, be) < 0)
        return INFINITY;
    for (int r = 1; r < p->nb_ranks; r++) {
        const double share = (double)(p->rank[r].l1 - p->rank[r].l0) / (p->rank[0].l1 - p->rank[0].l0);

        f->traffic[r] = (CommTraffic){ share * f->traffic[0].bytes, share * f->traffic[0].turns };
    }
    turn = walk(f, w, cards, sizes, link) / p->in_flight;
    for (int r = 0; r < p->nb_ranks; r++)
        sum += f->paper.busy[r];
    f->paper = (Paper){ .item = 0 };
    return fmax(turn, sum / p->nb_ranks);
}

/* A candidate of `nb` cards; vae_own: the last of them has the VAE alone. @return 1 when it is one, and may be better than `best` */
static int try_one(Found *f, const char *kind, int vae_own, const Search *s)
{
    const Cards *cards = s->cards;
    const int nb = cards->nb;
    char devices[PLAN_MAX_RANKS * 8], vae[32];
    const PlanOptions p = { .plan = kind, .devices = devices, .vae_device = vae_own ? vae : NULL, .vae_split = s->o->engine.vae_split,
                            .front_device = s->o->engine.front_device, .offload = s->o->engine.offload, .resident = s->o->engine.resident,
                            .steps = f->steps, .nb_layers = s->sizes->dit.nb_layers, .nb_heads = s->sizes->dit.nb_heads, .room = cards->usable };
    PlanSizes sized = *s->sizes;

    sized.width = f->width;
    sized.height = f->height;
    device_list(devices, sizeof(devices), nb - vae_own);
    snprintf(vae, sizeof(vae), "cuda%d", nb - 1);
    if (s->found && s->best->lack <= 0 && avt_plan_make(&f->plan, &p, NULL) >= 0 && avt_plan_parts(&f->plan) > 1 &&
        least_period(f, &s->work, cards, &sized, s->be, s->link) >= s->best->paper.period)
        return 0;
    return avt_rank_plan(&f->plan, &p, &sized, s->be) >= 0 && measure(f, cards, &sized, s->be) >= 0;
}

static int better(const Found *a, const Found *b)
{
    return a->lack != b->lack ? a->lack < b->lack : a->paper.period < b->paper.period * 0.999;
}

static const char *const kinds[] = { "sequential", "wave", "timestep", "layer" };
static const char *const splits[] = { "tensor", "ulysses" };

/* "layer", "tensor2", "layer+tensor2" */
static void name_plan(char *name, size_t size, int kind, int split, int parts)
{
    if (parts == 1)
        snprintf(name, size, "%s", kinds[kind]);
    else
        snprintf(name, size, "%s%s%s%d", kind ? kinds[kind] : "", kind ? "+" : "", splits[split], parts);
}

/* Do so many cards go with the plan? */
static int fits_plan(int kind, int parts, int nb, int steps)
{
    const int teams = nb % parts ? 0 : nb / parts;

    return kind < 2 ? teams == 1 : kind == 2 ? teams == steps : teams > 1;
}

static void try_plan(Search *s, int kind, int split, int parts, int own)
{
    Found f = { .width = s->best->width, .height = s->best->height, .steps = s->best->steps };
    char name[40];

    name_plan(name, sizeof(name), kind, split, parts);
    if (!fits_plan(kind, parts, s->cards->nb - own, f.steps) || (s->asked && strcmp(s->asked, name)) ||
        !try_one(&f, name, own, s))
        return;
    reckon(&f, &s->work, s->cards, s->sizes, s->link);
    if (!s->found++ || better(&f, s->best))
        *s->best = f;
}

static int try_all(Found *best, const Cards *cards, const Link *link, const ToolOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    Search s = { .cards = cards, .link = link, .o = o, .sizes = sizes, .be = be, .best = best };
    const char *plan = o->engine.plan && strcmp(o->engine.plan, "auto") ? o->engine.plan : NULL;
    const int ret = find_work(&s.work, best->width, best->height, best->steps, sizes, be);

    s.asked = plan && !strncmp(plan, "sequential+", 11) ? plan + 11 : plan;
    for (int parts = 1; parts <= cards->nb && parts <= TEAM_MAX && ret >= 0; parts++)
        for (int k = 0; k < 4; k++)
            for (int split = 0; split < (parts > 1 ? 2 : 1); split++)
                for (int own = 0; own < (o->engine.vae_split > 1 ? 1 : 2); own++)    // a VAE that is split shares its cards
                    try_plan(&s, k, split, parts, own);
    return ret < 0 ? ret : s.found ? 0 : AVT_ERR(EINVAL);
}

int search_plan(Found *f, const Cards *cards, const Link *link, const ToolOptions *o, const PlanSizes *sizes, const Log *log)
{
    BackendOptions be = { .level = CPU_AUTO, .act = DT_BF16 };
    int ret = avt_options_precision(&be, o->engine.precision, log);

    if (ret >= 0 && avt_is_code(be.product))
        ret = avt_fail(log, AVT_ERR(ENOSYS), "precision=%s: a card has no products of it yet, a CPU has; use precision=bf16", o->engine.precision);
    memset(f, 0, sizeof(*f));
    f->width = o->look.out_width;
    f->height = o->look.out_height;
    f->steps = o->engine.steps > 0 ? o->engine.steps : 4;
    if (ret >= 0)
        ret = try_all(f, cards, link, o, sizes, &be);
    if (ret == AVT_ERR(EINVAL))
        avt_fail(log, ret, "no plan of the kind '%s' for %d cards and %d steps; leave --plan away", o->engine.plan, cards->nb, f->steps);
    return ret;
}

/* ---- what fits instead --------------------------------------------------------------------------------------------- */

static int try_instead(Found *f, int w, int h, int steps, const Cards *cards, const Link *link, const ToolOptions *o, const PlanSizes *sizes)
{
    const Log silent = { .level = -1 };
    ToolOptions other = *o;

    other.look.out_width = w;
    other.look.out_height = h;
    other.engine.steps = steps;
    return search_plan(f, cards, link, &other, sizes, &silent) >= 0 && f->lack <= 0;
}

/* As many of `most` steps as fit at the size asked for, then the largest size for all of them. @return how many were found */
static int less(Found *list, int max, int most, const Cards *cards, const Link *link, const ToolOptions *o, const PlanSizes *sizes)
{
    const int steps = o->engine.steps > 0 ? o->engine.steps : 4;
    int nb = 0;

    for (int s = most; s >= 2 && nb < max; s--)
        if (try_instead(&list[nb], o->look.out_width, o->look.out_height, s, cards, link, o, sizes)) {
            nb++;
            break;
        }
    for (int k = 9; k >= 3 && nb < max && !(nb && list[0].steps == steps); k--) {       // tenths of each side
        const int w = o->look.out_width * k / 10 / 16 * 16, h = o->look.out_height * k / 10 / 16 * 16;

        if (w >= 64 && h >= 64 && try_instead(&list[nb], w, h, steps, cards, link, o, sizes)) {
            nb++;
            break;
        }
    }
    return nb;
}

int search_instead(Found *list, int max, const Cards *cards, const Link *link, const ToolOptions *o, const PlanSizes *sizes)
{
    const int steps = o->engine.steps > 0 ? o->engine.steps : 4;
    const char *offload = o->engine.offload;
    ToolOptions other = *o;
    int nb = less(list, max, steps - 1, cards, link, o, sizes);

    other.engine.offload = "weights";
    if (!offload || !strcmp(offload, "auto"))                       // nobody has said anything about it
        nb += less(list + nb, max - nb, steps, cards, link, &other, sizes);
    return nb;
}

void search_options(char *text, size_t size, const Found *f)
{
    const PlanRank *vae = &f->plan.rank[f->plan.vae_rank];
    char devices[PLAN_MAX_RANKS * 8], name[40];

    device_list(devices, sizeof(devices), f->plan.nb_ranks - (vae->pipe < 0));
    snprintf(text, size, "devices=%s:plan=%s", devices, avt_plan_name(&f->plan, name, sizeof(name)));
    if (vae->pipe < 0)
        snprintf(text + strlen(text), size - strlen(text), ":vae_device=%s", vae->device);
    if (strcmp(f->plan.front_device, vae->device))                  // else it is there by itself
        snprintf(text + strlen(text), size - strlen(text), ":front_device=%s", f->plan.front_device);
    if (f->plan.offload)
        snprintf(text + strlen(text), size - strlen(text), ":offload=weights:resident=%g", f->plan.resident / 1e9);
    if (f->plan.vae_parts > 1)
        snprintf(text + strlen(text), size - strlen(text), ":vae_split=%d", f->plan.vae_parts);
}
