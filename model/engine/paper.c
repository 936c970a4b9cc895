/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Time on paper: an op takes its FLOPs over the rate of its kind or its bytes over the bandwidth, whichever is longer; the sum
 * over an item's ops is spread over ranks by their layers, and over the parts of these; what parts exchange takes its bytes over the link's rate
 * and its latency each time, while nothing is computed. A pipe gives a block in the time of its busiest rank, or, when too few blocks
 * are under way to keep all busy, in the time of a block's whole way over their number. See search.h.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "avatar.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/search.h"
#include "engine/sound.h"

#define ENCODED_FRAMES 73                           // of the reference picture, as a film

/* ---- what there is to do ---------------------------------------------------------------------------------------------- */

static int add_item(Work *w, const RankSetup *set, const PlanSizes *sizes, const BackendOptions *be)
{
    DryCall *calls = NULL;
    int64_t nb = 0;
    const int ret = avt_rank_item(&calls, &nb, set, 0, sizes, be);

    for (int64_t i = 0; i < nb && ret >= 0; i++) {
        OpStat *s = &w->item[calls[i].first.op];

        s->calls += calls[i].calls;
        s->flops += calls[i].flops;
        s->bytes += calls[i].bytes;
    }
    avt_free(calls);
    return ret;
}

/* One device alone, its VAE on a rank of its own, separates what there is to do. */
int avt_paper_work(Work *w, int steps, const char *device, const PlanSizes *sizes, const BackendOptions *be)
{
    const FrontSetup sound = { .sizes = sizes, .samples = avt_sound_piece(0, 0) }, text = { .sizes = sizes, .tokens = sizes->dit.text_len };
    char own[40];
    const PlanOptions p = { .plan = "sequential", .devices = device, .vae_device = own, .steps = steps, .nb_layers = sizes->dit.nb_layers };
    PlanMemory m;
    RankSetup set;
    Plan plan;
    int ret;

    memset(w, 0, sizeof(*w));
    snprintf(own, sizeof(own), "%.30s:own", device);
    ret = avt_plan_make(&plan, &p, be->log);
    if (ret >= 0)
        ret = avt_search_setup(&set, &plan, sizes);
    if (ret >= 0)
        ret = add_item(w, &set, sizes, be);
    if (ret >= 0)
        ret = avt_rank_measure(&m, &set, plan.vae_rank, sizes, be, NULL, w->decode);
    if (ret >= 0)
        ret = avt_front_measure(&m, &sound, device, be, w->sound);
    if (ret >= 0)
        ret = avt_front_measure(&m, &text, device, be, w->text);
    w->hop_bytes = (double)sizes->width / 16 * sizes->height / 16 * 3 * (double)sizes->dit.dim * 4;
    return ret;
}

/* ---- how long it takes -------------------------------------------------------------------------------------------------- */

double avt_paper_op(OpId op, double flops, double bytes, const Rates *r)
{
    const int convolution = op == OP_CONV3D || op == OP_CONV1D, product = op == OP_LINEAR || op == OP_LINEAR_GROUP || op == OP_ATTENTION;
    const double compute = convolution ? flops / r->convolutions : product ? flops / r->products : 0;

    return fmax(compute, bytes / r->bytes);
}

/* Of attention there may be another share than of the rest. Small ops are over before the host has started the next. */
static double shared_seconds(const OpStat *stat, const Rates *rates, double share, double attention)
{
    double s = 0, starts = 0;

    for (int i = 0; i < OP_NB; i++) {
        s += avt_paper_op((OpId)i, stat[i].flops, stat[i].bytes, rates) * (i == OP_ATTENTION ? attention : share);
        starts += (double)stat[i].calls * rates->start;
    }
    return fmax(s, starts);
}

static double stat_seconds(const OpStat *stat, const Rates *rates)
{
    return shared_seconds(stat, rates, 1, 1);
}

/* Of a CPU a rank has some threads. */
static Rates rates_of(const Pool *pool, const PlanRank *rank)
{
    Rates r = pool->rates[avt_pool_find(pool, rank->device)];
    const double share = avt_device_kind(rank->device, strlen(rank->device)) == DEVICE_HOST ? fmin(1, (double)rank->threads / avt_nb_cores()) : 1;

    return (Rates){ r.products * share, r.convolutions * share, r.bytes * share, r.start };
}

/* Of a layer: its part that has most heads, which of columns has most of all. */
static double part_seconds(const Plan *p, const Work *w, const Rates *rates, const PlanSizes *sizes)
{
    const int parts = avt_plan_parts(p), heads = sizes->dit.nb_heads;
    const double most = (double)((heads + parts - 1) / parts) / heads;

    return shared_seconds(w->item, rates, p->split == TEAM_HEADS ? 1.0 / parts : most, most) / sizes->dit.nb_layers;
}

/* Seconds that an item is on a rank; parts of a team work at the same time. */
static double item_seconds(Found *f, int r, const Work *w, const Rates *rates, const PlanSizes *sizes, const Pool *pool)
{
    const PlanRank *rank = &f->plan.rank[r];
    const double compute = part_seconds(&f->plan, w, rates, sizes) * (rank->l1 - rank->l0);
    const double exchange = f->traffic[r].bytes / pool->link + f->traffic[r].turns * pool->latency;

    if (rank->pipe <= 0 && !rank->part) {
        f->paper.item += compute + exchange;
        f->paper.exchange += exchange;
    }
    return compute + exchange;
}

/* Layers and rings that come while others are at work: a walk takes the longer of both. A block's time on rank r, `steps` items of it; *way (in: an
 * item's) becomes what an item takes there. */
static double with_copies(Found *f, int r, int steps, double *way, const Pool *pool)
{
    Paper *p = &f->paper;
    const int walks = (steps + f->plan.batch - 1) / f->plan.batch;
    const double rings = (double)f->memory[r].moved * (steps < f->plan.batch ? steps : f->plan.batch);     // down; up takes the other direction
    const double item = *way, copy = ((double)f->memory[r].coming + rings) / pool->fetch;

    if (copy > p->copy) {
        p->copy = copy;
        p->beside = walks ? steps * item / walks : 0;
    }
    *way = fmax(item, copy);
    return fmax(steps * item, walks * copy);
}

static void vae_seconds(Found *f, int r, const Work *w, const Rates *rates, const Pool *pool)
{
    Paper *p = &f->paper;

    p->decode = stat_seconds(w->decode, rates) / f->plan.vae_parts;
    p->busy[r] += p->decode;
    p->encode = p->decode * f->plan.vae_parts * ENCODED_FRAMES / AVATAR_BLOCK_FRAMES / 2;       // the encoder is half of the decoder
    p->front = avt_pool_find(pool, f->plan.front_device) < 0 ? 0 : stat_seconds(w->sound, rates) + stat_seconds(w->text, rates);
}

/* busy[], and the way of a block through all steps, without its pictures. */
static double walk(Found *f, const Work *w, const Pool *pool, const PlanSizes *sizes)
{
    Paper *p = &f->paper;
    double way = 0;

    p->hop = w->hop_bytes / avt_plan_parts(&f->plan) / pool->link + pool->latency;
    for (int r = 0; r < f->plan.nb_ranks; r++) {
        const PlanRank *rank = &f->plan.rank[r];
        const Rates rates = rates_of(pool, rank);
        double item = item_seconds(f, r, w, &rates, sizes, pool);
        int steps = 0;

        for (int i = 0; i < f->plan.steps; i++)
            steps += rank->pipe >= 0 && avt_plan_holds(&f->plan, r, i);
        p->busy[r] = with_copies(f, r, steps, &item, pool);
        way += rank->part ? 0 : steps * (item + (rank->prev >= 0 ? p->hop : 0));
        if (rank->vae)
            vae_seconds(f, r, w, &rates, pool);
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

/* From what each rank takes, and a block's way, to the whole. */
static void finish(Found *f, double way)
{
    Paper *p = &f->paper;
    const double turn = f->plan.in_flight == 1 ? way + p->decode : way / f->plan.in_flight;       // alone, the next block waits for the pictures, too
    int most = 0;

    for (int r = 1; r < f->plan.nb_ranks; r++)
        most = p->busy[r] > p->busy[most] ? r : most;
    p->period = fmax(turn, p->busy[most]);
    p->first = p->front + p->encode + way + p->decode;
    p->bound = bound_of(f, most, p->busy[most] < turn);
}

void avt_paper_time(Found *f, const Work *w, const Pool *pool, const PlanSizes *sizes)
{
    f->paper = (Paper){ .item = 0 };
    finish(f, walk(f, w, pool, sizes));
}

/* ---- by a clock -------------------------------------------------------------------------------------------------------- */

typedef int Calls(DryCall **calls, int64_t *nb, const RankSetup *set, int index, const PlanSizes *sizes, const BackendOptions *opt);

static int clocked(PaperSeconds *s, Calls *calls_of, const PaperClock *clock, const RankSetup *set, int r, const PlanSizes *sizes,
                   const BackendOptions *be)
{
    DryCall *calls = NULL;
    int64_t nb = 0;
    const int ret = calls_of(&calls, &nb, set, r, sizes, be);

    *s = (PaperSeconds){ 0, 0 };
    for (int64_t i = 0; i < nb && ret >= 0; i++) {
        const PaperSeconds one = clock->seconds(clock->opaque, &calls[i].first, set->plan->rank[r].threads);

        s->alone += (double)calls[i].calls * one.alone;
        s->together += (double)calls[i].calls * one.together;
    }
    avt_free(calls);
    return ret;
}

typedef struct Clocked {                // of a rank
    PaperSeconds wave, item;            // a wave's calls, an item's
    double exchange;                    // what an item's parts send each other
    int steps;                          // items of a block
} Clocked;

static int clock_rank(Clocked *c, Found *f, int r, const PaperClock *clock, const RankSetup *set, const PlanSizes *sizes, const BackendOptions *be)
{
    const int layers = f->plan.rank[r].pipe >= 0;
    int ret = clocked(&c->wave, avt_rank_wave, clock, set, r, sizes, be);

    if (ret >= 0 && layers)
        ret = clocked(&c->item, avt_rank_item, clock, set, r, sizes, be);
    if (ret >= 0)
        ret = avt_rank_traffic(NULL, &f->traffic[r], set, r, sizes, be);
    c->exchange = f->traffic[r].bytes / clock->link + f->traffic[r].turns * clock->turn;
    for (int i = 0; i < f->plan.steps; i++)
        c->steps += layers && avt_plan_holds(&f->plan, r, i);
    return ret;
}

/* `crowd`: the share of the time that the other cores are at work. */
static double mixed(PaperSeconds s, double crowd)
{
    return s.alone + crowd * (s.together - s.alone);
}

/* Of the time in which a rank works; when blocks are made one after the other, only parts of a layer work at a time. */
static double crowd_of(const Found *f, int r)
{
    const Plan *p = &f->plan;
    const int others = avt_nb_cores() / p->rank[r].threads - 1;
    double busy = 0;

    for (int i = 0; i < p->nb_ranks; i++)
        busy += i == r ? 0 : f->paper.busy[i];
    return p->in_flight == 1 || others < 1 || f->paper.period <= 0 ? 0 : fmin(1, busy / f->paper.period / others);
}

/* @return what the rank adds to a block's way through all steps */
static double add_clocked(Found *f, int r, const Clocked *c, double crowd)
{
    const PlanRank *rank = &f->plan.rank[r];
    const int alone = f->plan.in_flight == 1, parts = rank->nb_parts > 1;           // alone, a wave is one item
    const int nb = alone && c->steps ? 1 : c->steps;                // items of a wave
    const double item = mixed(c->item, parts ? 1 : crowd), rest = mixed(c->wave, crowd) - nb * mixed(c->item, crowd);     // of a wave
    Paper *p = &f->paper;

    p->busy[r] = rest + c->steps * (item + c->exchange);
    if (rank->vae)
        p->decode = fmax(p->decode, rest);
    if (rank->pipe <= 0 && !rank->part) {
        p->item += item + c->exchange;
        p->exchange += c->exchange;
    }
    return rank->part ? 0 : c->steps * (item + c->exchange + (rank->prev >= 0 ? p->hop : 0));
}

/* Ranks share the cores: no block is made sooner than these can do its work. */
static void share_cores(Found *f, const Clocked *c)
{
    double work = 0;

    for (int r = 0; r < f->plan.nb_ranks; r++)
        work += (f->paper.busy[r] - c[r].steps * c[r].exchange) * f->plan.rank[r].threads / avt_nb_cores();
    if (work <= f->paper.period)
        return;
    f->paper.period = work;
    f->paper.bound = "cores, which ranks share";
}

#define ROUNDS 4                        // until times and the share of time that others work agree

int avt_paper_clocked(Found *f, const PaperClock *clock, const PlanSizes *sizes, const BackendOptions *be)
{
    Clocked c[PLAN_MAX_RANKS] = { 0 };
    RankSetup set;
    int ret = avt_search_setup(&set, &f->plan, sizes);

    f->paper = (Paper){ 0 };
    for (int r = 0; r < f->plan.nb_ranks && ret >= 0; r++)
        ret = clock_rank(&c[r], f, r, clock, &set, sizes, be);
    for (int i = 0; i < ROUNDS && ret >= 0; i++) {
        double crowd[PLAN_MAX_RANKS], way = 0;

        for (int r = 0; r < f->plan.nb_ranks; r++)
            crowd[r] = crowd_of(f, r);
        f->paper = (Paper){ .hop = clock->hop };
        for (int r = 0; r < f->plan.nb_ranks; r++)
            way += add_clocked(f, r, &c[r], crowd[r]);
        finish(f, way);
        share_cores(f, c);
    }
    return ret;
}

/* From an even split, and from what the first rank exchanges. */
double avt_paper_least(Found *f, const Work *w, const Pool *pool, const PlanSizes *sizes)
{
    const Plan *p = &f->plan;
    double sum = 0, turn;

    for (int r = 1; r < p->nb_ranks; r++) {
        const double share = (double)(p->rank[r].l1 - p->rank[r].l0) / (p->rank[0].l1 - p->rank[0].l0);

        f->traffic[r] = (CommTraffic){ share * f->traffic[0].bytes, share * f->traffic[0].turns };
    }
    turn = walk(f, w, pool, sizes) / p->in_flight;
    for (int r = 0; r < p->nb_ranks; r++)
        sum += f->paper.busy[r];
    f->paper = (Paper){ .item = 0 };
    return fmax(turn, sum / p->nb_ranks);
}
