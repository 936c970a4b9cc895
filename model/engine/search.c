/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * See search.h. Candidates are the ways of plan= over all of the pool's devices, alone and in teams, with the VAE beside layers and on the last
 * device alone. Of those that fit the one with the shortest period wins, of equals the first, which is the simplest.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/search.h"
#include "engine/sound.h"

int avt_search_setup(RankSetup *set, const Plan *plan, const PlanSizes *sizes)
{
    *set = (RankSetup){ .plan = plan, .format = PIX_YUV420P, .text_len = sizes->dit.text_len,
                        .shape = avt_dit_shape(sizes->height / 8, sizes->width / 8) };
    return avt_schedule(&set->schedule, plan->steps, 3);
}

int avt_pool_find(const Pool *pool, const char *device)
{
    for (int i = 0; i < pool->nb + pool->others; i++)
        if (!strcmp(pool->name[i], device))
            return i;
    return -1;
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static int on_host(const char *device)
{
    return avt_device_kind(device, strlen(device)) == DEVICE_HOST;
}

static void lack_of(Found *f, double used, double room, int where)
{
    if (room > 0 && used - room > f->lack) {
        f->lack = used - room;
        f->lacks = where;
    }
}

/* Bytes on each device, on the host, and what is missing. */
static void add_up(Found *f, const Pool *pool)
{
    const int front = avt_pool_find(pool, f->plan.front_device);

    for (int r = 0; r < f->plan.nb_ranks; r++) {
        f->used[avt_pool_find(pool, f->plan.rank[r].device)] += (double)avt_plan_sum(&f->memory[r]);
        f->host += (double)f->memory[r].host + (double)f->memory[r].rings + (on_host(f->plan.rank[r].device) ? (double)avt_plan_sum(&f->memory[r]) : 0);
    }
    if (front >= 0)
        f->used[front] += (double)avt_plan_sum(&f->front);
    f->host += on_host(f->plan.front_device) ? (double)avt_plan_sum(&f->front) : (double)f->front.host;
    for (int i = 0; i < pool->nb + pool->others; i++)
        lack_of(f, f->used[i], pool->room[i], i);
    lack_of(f, f->host, pool->host, LACKS_HOST);
}

/* How many layers of a rank have sound injected behind them. */
static int injections(const PlanRank *r, const DitConfig *c)
{
    int nb = 0;

    for (int i = 0; i < c->nb_inject; i++)
        nb += c->inject[i] >= r->l0 && c->inject[i] < r->l1;
    return nb;
}

/* Has each rank a device for itself? */
static int are_apart(const Plan *p)
{
    for (int r = 0; r < p->nb_ranks; r++)
        for (int i = 0; i < r; i++)
            if (avt_plan_same_device(&p->rank[i], &p->rank[r]))
                return 0;
    return 1;
}

/* Have two parts of a team, none of them the first, as much of everything that is split? What the others have is then the same as well. */
static int parts_are_alike(const Plan *p, int a, int b, const RankSetup *set, const DitConfig *c)
{
    const Team team = { .nb = avt_plan_parts(p) };
    const int64_t split[] = { c->nb_heads, c->dim, c->ffn_dim, set->shape.n, set->shape.Lc - set->shape.n };

    if (!a || !b)
        return a == b;
    for (size_t i = 0; i < sizeof(split) / sizeof(split[0]); i++)
        if (avt_team_share(&team, split[i], a) != avt_team_share(&team, split[i], b))
            return 0;
    return 1;
}

/* Of a step between the first, which draws noise, and the last, which hands on pictures? */
static int is_between(const Plan *p, const PlanRank *r)
{
    return r->pipe > 0 && r->pipe + 1 < p->steps;
}

/* Do two ranks, of no VAE, take the same? Those at the ends of a pipe have more than those between, the first part of a team more than the others. */
static int are_twins(const Plan *p, const PlanRank *a, const PlanRank *b, const DitConfig *c)
{
    return !a->vae && !b->vae && (a->pipe == b->pipe || (is_between(p, a) && is_between(p, b))) && a->process == b->process &&
           a->threads == b->threads && !a->l0 == !b->l0 && (a->prev < 0) == (b->prev < 0) && (a->next < 0) == (b->next < 0) &&
           a->l1 - a->l0 == b->l1 - b->l0 && injections(a, c) == injections(b, c);
}

/* A rank in front of rank r that takes the same, or -1. */
static int twin_of(const Plan *p, int r, const RankSetup *set, const DitConfig *c)
{
    for (int i = 0; i < r; i++)
        if (are_twins(p, &p->rank[i], &p->rank[r], c) && parts_are_alike(p, p->rank[i].part, p->rank[r].part, set, c))
            return i;
    return -1;
}

/* apart: on devices of their own; what ranks of one device send each other lies elsewhere. */
static int measure_rank(Found *f, RankSetup *set, int r, int apart, const PlanSizes *sizes, const BackendOptions *be)
{
    const int twin = apart ? twin_of(&f->plan, r, set, &sizes->dit) : -1;

    if (twin >= 0) {
        f->memory[r] = f->memory[twin];
        f->traffic[r] = f->traffic[twin];
        return 0;
    }
    return avt_rank_traffic(&f->memory[r], &f->traffic[r], set, r, sizes, be);
}

/* Does the rank alone lack more than `most`? */
static int lacks_more(const Found *f, int r, const Pool *pool, double most)
{
    const double room = pool->room[avt_pool_find(pool, f->plan.rank[r].device)];

    return room > 0 && (double)avt_plan_sum(&f->memory[r]) - room > most;
}

/* Memory and traffic. @return 0; EAGAIN: it lacks more than `most`, how much was not looked at; or an error */
static int measure(Found *f, const Pool *pool, double most, const PlanSizes *sizes, const BackendOptions *be)
{
    const FrontSetup front = { .sizes = sizes, .samples = avt_sound_piece(0, 0), .tokens = sizes->dit.text_len };
    const int apart = are_apart(&f->plan);
    RankSetup set;
    int ret = avt_search_setup(&set, &f->plan, sizes);

    for (int r = 0; r < f->plan.nb_ranks && ret >= 0; r++) {
        ret = measure_rank(f, &set, r, apart, sizes, be);
        if (ret >= 0 && lacks_more(f, r, pool, most))
            ret = AVT_ERR(EAGAIN);
    }
    if (ret >= 0)
        ret = avt_front_measure(&f->front, &front, f->plan.front_device, be, NULL);
    if (ret >= 0)
        add_up(f, pool);
    return ret;
}

/* ---- candidates ---------------------------------------------------------------------------------------------------- */

typedef struct Search {
    const Pool *pool;
    PlanOptions o;                      // as asked for, on one rung of what offload may be
    const PlanSizes *sizes;
    const BackendOptions *be;
    const char *asked, *vae;            // plan and the VAE's device, or NULL
    int named;                          // the plan is o's own
    Work work;
    Found *best;
    int found;
    Tried tried[TRIED_MAX];             // on this rung
    int nb_tried, taken;                // taken: of these, which `best` is
} Search;

/* The VAE's device may be one that nobody knows. */
static int all_known(const Plan *p, const Pool *pool)
{
    for (int r = 0; r < p->nb_ranks; r++)
        if (avt_pool_find(pool, p->rank[r].device) < 0)
            return 0;
    return 1;
}

/* Can a plan of teams be faster than the best so far? Its memory is long to find, what its first rank exchanges is not. *least: its period, if not */
static int may_win(Found *f, double *least, const Search *s)
{
    RankSetup set;

    if (!s->found || s->best->lack > 0 || avt_plan_parts(&f->plan) == 1)
        return 1;
    if (avt_search_setup(&set, &f->plan, s->sizes) < 0 || avt_rank_traffic(NULL, &f->traffic[0], &set, 0, s->sizes, s->be) < 0)
        return 0;
    *least = avt_paper_least(f, &s->work, s->pool, s->sizes);
    return *least < s->best->paper.period;
}

/* What the fullest of the ranks that were measured lacks. */
static double lacks_so_far(const Found *f, const Pool *pool)
{
    double most = 0;

    for (int r = 0; r < f->plan.nb_ranks; r++)
        most = fmax(most, (double)avt_plan_sum(&f->memory[r]) - pool->room[avt_pool_find(pool, f->plan.rank[r].device)]);
    return most;
}

static void note(Search *s, const char *kind, int own, double lack, double period, int bound)
{
    Tried *t = &s->tried[s->nb_tried < TRIED_MAX - 1 ? s->nb_tried++ : TRIED_MAX - 1];

    *t = (Tried){ .lack = lack, .period = period, .bound = bound };
    snprintf(t->plan, sizeof(t->plan), "%s%s", kind, own ? ", VAE alone" : "");
}

/* A candidate over all of the pool; own: its last device has the VAE alone. @return 1 when it is one, and may be better than `best` */
static int try_one(Found *f, const char *kind, int own, Search *s)
{
    const Pool *pool = s->pool;
    const int nb = pool->nb - (s->vae ? 0 : own);
    char devices[PLAN_MAX_RANKS * sizeof(pool->name[0])], vae[40];
    PlanOptions p = s->o;
    size_t n = 0;
    double least = 0;
    int ret;

    for (int i = 0; i < nb; i++)
        n += (size_t)snprintf(devices + n, sizeof(devices) - n, "%s%s", i ? "|" : "", pool->name[i]);
    p.plan = kind;
    p.devices = devices;
    p.vae_device = s->vae ? s->vae : own ? vae : NULL;
    p.room = pool->room;
    p.loads = NULL;
    snprintf(vae, sizeof(vae), "%.30s:own", pool->name[pool->nb - 1]);
    if (avt_plan_make(&f->plan, &p, NULL) < 0 || !all_known(&f->plan, pool))
        return 0;
    if (!may_win(f, &least, s)) {
        note(s, kind, own, 0, least, 1);
        return 0;
    }
    ret = avt_rank_plan(&f->plan, &p, s->sizes, s->be);
    if (ret >= 0)
        ret = measure(f, pool, s->found ? s->best->lack : INFINITY, s->sizes, s->be);
    if (ret == AVT_ERR(EAGAIN))
        note(s, kind, own, lacks_so_far(f, pool), 0, 1);
    return ret >= 0;
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

/* Do so many devices go with the plan? */
static int fits_plan(int kind, int parts, int nb, int steps)
{
    const int teams = nb % parts ? 0 : nb / parts;

    return kind < 2 ? teams == 1 : kind == 2 ? teams == steps : teams > 1;
}

static void take_if_better(Search *s, Found *f, const char *name, int own)
{
    avt_paper_time(f, &s->work, s->pool, s->sizes);
    note(s, name, own, f->lack, f->paper.period, 0);
    if (!s->found++ || better(f, s->best)) {
        *s->best = *f;
        s->taken = s->nb_tried - 1;
    }
}

static void try_plan(Search *s, int kind, int split, int parts, int own)
{
    Found f = { .width = s->sizes->width, .height = s->sizes->height, .steps = s->o.steps };
    char name[40];

    name_plan(name, sizeof(name), kind, split, parts);
    if (fits_plan(kind, parts, s->pool->nb - own, f.steps) && (!s->asked || !strcmp(s->asked, name)) && try_one(&f, name, own, s))
        take_if_better(s, &f, name, own);
}

static const char *said(const char *option)
{
    return option && *option && strcmp(option, "auto") ? option : NULL;
}

static int try_all(Search *s)
{
    const int nb = s->pool->nb;

    for (int parts = 1; parts <= nb && parts <= TEAM_MAX; parts++)
        for (int k = 0; k < 4; k++)
            for (int split = 0; split < (parts > 1 ? 2 : 1); split++)
                for (int own = 0; own < (s->o.vae_split > 1 ? 1 : 2); own++)        // a VAE that is split shares its devices
                    try_plan(s, k, split, parts, own);
    return s->found ? 0 : AVT_ERR(EINVAL);
}

static int try_named(Search *s)
{
    Found f = { .width = s->sizes->width, .height = s->sizes->height, .steps = s->o.steps };
    int ret = avt_rank_plan(&f.plan, &s->o, s->sizes, s->be);

    if (ret >= 0)
        ret = measure(&f, s->pool, INFINITY, s->sizes, s->be);
    if (ret >= 0)
        take_if_better(s, &f, "", 0);
    return ret;
}

static int by_worth(const void *a, const void *b)
{
    const Tried *x = a, *y = b;

    return x->lack != y->lack ? (x->lack > y->lack) - (x->lack < y->lack) : (x->period > y->period) - (x->period < y->period);
}

static void tell_others(const Search *s)
{
    Found *f = s->best;

    f->nb_other = 0;
    for (int i = 0; i < s->nb_tried; i++)
        if (i != s->taken)
            f->other[f->nb_other++] = s->tried[i];
    qsort(f->other, (size_t)f->nb_other, sizeof(*f->other), by_worth);
}

/* From all on the devices to all that can come, until something fits. */
static int climb(Search *s, const PlanOptions *o)
{
    int ret = avt_paper_work(&s->work, o->steps, s->pool->name[0], s->sizes, s->be), misses = 0;
    double missing = 0;

    for (int i = 0; ret >= 0 && (!i || s->best->lack > 0) && avt_plan_rung(&s->o, o, i); i++) {
        s->nb_tried = 0;
        s->taken = -1;
        ret = s->named ? try_named(s) : try_all(s);
        if (!i) {
            missing = s->best->lack;
            misses = s->best->lacks;
        }
    }
    if (ret >= 0)
        tell_others(s);
    if (ret >= 0 && s->best->plan.offload && !said(o->offload)) {
        s->best->missing = missing;
        s->best->misses = misses;
    }
    return ret;
}

int avt_search_plan(Found *f, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    BackendOptions quiet = *be;
    Search s = { .pool = pool, .sizes = sizes, .be = &quiet, .asked = said(o->plan), .vae = said(o->vae_device), .best = f };
    int ret;

    quiet.log = NULL;
    if (s.asked && !strncmp(s.asked, "sequential+", 11))
        s.asked += 11;
    memset(f, 0, sizeof(*f));
    ret = climb(&s, o);
    if (ret == AVT_ERR(EINVAL))
        avt_fail(be->log, ret, "no plan of the kind '%s' for %d devices and %d steps; leave plan= away", s.asked ? s.asked : "auto", pool->nb, o->steps);
    return ret;
}

int avt_search_offload(Found *f, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    Search s = { .pool = pool, .sizes = sizes, .be = be, .named = 1, .best = f };

    memset(f, 0, sizeof(*f));
    return climb(&s, o);
}

/* ---- what fits instead --------------------------------------------------------------------------------------------- */

static int try_instead(Found *f, int w, int h, int steps, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    BackendOptions quiet = *be;
    PlanOptions other = *o;
    PlanSizes sized = *sizes;

    quiet.log = NULL;
    other.steps = steps;
    sized.width = w;
    sized.height = h;
    return avt_search_plan(f, pool, &other, &sized, &quiet) >= 0 && f->lack <= 0;
}

/* As many of `most` steps as fit at the size asked for, then the largest size for all of them. @return how many were found */
static int less(Found *list, int max, int most, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    int nb = 0;

    for (int s = most; s >= 2 && nb < max; s--)
        if (try_instead(&list[nb], sizes->width, sizes->height, s, pool, o, sizes, be)) {
            nb++;
            break;
        }
    for (int k = 9; k >= 3 && nb < max && !(nb && list[0].steps == o->steps); k--) {        // tenths of each side
        const int w = sizes->width * k / 10 / 16 * 16, h = sizes->height * k / 10 / 16 * 16;

        if (w >= 64 && h >= 64 && try_instead(&list[nb], w, h, o->steps, pool, o, sizes, be)) {
            nb++;
            break;
        }
    }
    return nb;
}

/* Of the offers behind the first `nb`, those that none of these matches in steps and size. @return how many there are then, all together */
static int keep_better(Found *list, int nb, int more)
{
    int kept = nb;

    for (int i = nb; i < nb + more; i++) {
        int matched = 0;

        for (int k = 0; k < nb; k++)
            matched |= list[k].steps >= list[i].steps && list[k].width >= list[i].width && list[k].height >= list[i].height;
        if (!matched)
            list[kept++] = list[i];
    }
    return kept;
}

int avt_search_instead(Found *list, int max, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    PlanOptions rung;
    int nb = 0;

    for (int i = 0; nb < max && avt_plan_rung(&rung, o, i); i++)
        nb = keep_better(list, nb, less(list + nb, max - nb, i ? o->steps : o->steps - 1, pool, &rung, sizes, be));
    return nb;
}

int avt_search_lighter(Found *f, const Pool *pool, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *be)
{
    BackendOptions other = *be;

    other.log = NULL;
    other.act = DT_BF16;
    other.product = DT_I8;
    return !avt_is_code(be->product) && avt_search_plan(f, pool, o, sizes, &other) >= 0 && f->lack <= 0;
}

void avt_search_options(char *text, size_t size, const Found *f)
{
    const PlanRank *vae = &f->plan.rank[f->plan.vae_rank];
    char plan[40];
    size_t n = 0;
    int twice = 0;

    for (int r = 0; r < f->plan.nb_ranks && f->plan.rank[r].pipe >= 0 && n < size; r++) {
        n += (size_t)snprintf(text + n, size - n, "%s%s", r ? "|" : "devices=", f->plan.rank[r].device);
        twice |= avt_plan_same_device(&f->plan.rank[r], vae);
    }
    snprintf(text + strlen(text), size - strlen(text), ":plan=%s", avt_plan_name(&f->plan, plan, sizeof(plan)));
    if (vae->pipe < 0)
        snprintf(text + strlen(text), size - strlen(text), ":vae_device=%s%s", vae->device, twice ? ":own" : "");
    if (strcmp(f->plan.front_device, vae->device))                  // else it is there by itself
        snprintf(text + strlen(text), size - strlen(text), ":front_device=%s", f->plan.front_device);
    if (f->plan.offload)
        snprintf(text + strlen(text), size - strlen(text), ":offload=%s:resident=%g", avt_offload_name(&f->plan), f->plan.resident / 1e9);
    if (f->plan.vae_parts > 1)
        snprintf(text + strlen(text), size - strlen(text), ":vae_split=%d", f->plan.vae_parts);
}
