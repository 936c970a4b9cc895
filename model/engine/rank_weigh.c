/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the parts of a plan ask of their devices, and plans that are made with that. All is found by rehearsals on `dry`, at the
 * model's own size of frames, so that a plan does not change with the size of a stream.
 *
 * Weights, state and FLOPs of a rank are sums over its layers and what is besides; scratch and workspace are those of the largest
 * command, the same for any number of layers. So ranks of one layer each, and differences of them, give what any rank takes.
 */
#include <stdio.h>
#include <string.h>

#include "engine/rank.h"
#include "engine/sound.h"

typedef struct Trial {                  // a plan of three ranks, or teams, in a pipe; the second has the layers that one asks about
    Plan plan;
    RankSetup set;
    const PlanSizes *sizes;
    const BackendOptions *opt;
    int parts;
} Trial;

/* The i-th device of a trial: GPUs are as many as the plan's, since what two of them send each other lies with the sender. */
static const char *device_of(char buf[32], const char *device, const Plan *like, int i)
{
    const int apart = like->nb_ranks > 1 && strcmp(like->rank[0].device, like->rank[like->nb_ranks - 1].device) &&
                      avt_device_kind(device, strlen(device)) == DEVICE_CUDA;

    if (apart)
        snprintf(buf, 32, "cuda%d", i);
    else
        snprintf(buf, 32, "%.20s", device);
    return buf;
}

/* The layers are split as in `like`. vae: the last of the three is the VAE's as well, and as many in front of it as in `like`; else a
 * fourth one is. */
static int trial_open(Trial *t, const PlanSizes *sizes, const char *device, const Plan *like, const BackendOptions *opt, int vae)
{
    char list[3 * TEAM_MAX * sizeof(like->rank[0].device)], name[40], own[40], buf[32];
    PlanOptions o = { .devices = list, .vae_device = vae ? NULL : own, .steps = like->steps, .nb_layers = 3, .cpu_threads = 1 };
    Plan layers = *like;
    size_t n = 0;
    int ret;

    *t = (Trial){ .sizes = sizes, .opt = opt, .parts = avt_plan_parts(like) };
    for (int i = 0; i < 3 * t->parts; i++)
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? "|" : "", device_of(buf, device, like, i));
    snprintf(own, sizeof(own), "%s:own", device_of(buf, device, like, 3 * t->parts));
    layers.kind = PLAN_LAYER;
    o.vae_split = !vae ? 0 : like->vae_parts < 3 * t->parts ? like->vae_parts : 3 * t->parts;
    o.plan = avt_plan_name(&layers, name, sizeof(name));
    t->set = (RankSetup){ .plan = &t->plan, .format = PIX_YUV420P, .text_len = sizes->dit.text_len, .log = opt->log,
                          .shape = avt_dit_shape(sizes->height / 8, sizes->width / 8) };
    ret = avt_plan_make(&t->plan, &o, opt->log);
    t->plan.kv = like->kv;
    return ret < 0 ? ret : avt_schedule(&t->set.schedule, like->steps, 3);
}

/* A part of team `team` with layers l0 .. l1-1. */
static int cost_of(PlanCost *c, Trial *t, int team, int part, int l0, int l1)
{
    const int r = team * t->parts + part;
    OpStat stat[OP_NB];
    PlanMemory m;
    int ret;

    t->plan.rank[r].l0 = l0;
    t->plan.rank[r].l1 = l1;
    ret = avt_rank_measure(&m, &t->set, r, t->sizes, t->opt, NULL, stat);
    if (ret < 0)
        return ret;
    *c = (PlanCost){ .bytes = (double)avt_plan_sum(&m) };
    for (int i = 0; i < OP_NB; i++)
        c->flops += stat[i].flops;
    return 0;
}

static PlanCost less(PlanCost a, PlanCost b)
{
    return (PlanCost){ a.flops - b.flops, a.bytes - b.bytes };
}

static int is_injected(const DitConfig *c, int l)
{
    for (int i = 0; i < c->nb_inject; i++)
        if (c->inject[i] == l)
            return 1;
    return 0;
}

/* A layer in front of layer l that is like it, or -1: a rank with the first has more to do. */
static int layer_like(const DitConfig *c, int l)
{
    for (int i = 1; i < l; i++)
        if (is_injected(c, i) == is_injected(c, l))
            return i;
    return -1;
}

/* Each layer, and what a rank has whichever it holds: twice in two ranks, once in one of both layers. */
static int weigh_layers(PlanLoads *w, Trial *t, int nb)
{
    PlanCost both = { 0, 0 };
    int ret = 0;

    for (int l = 0; l < nb && ret >= 0; l++) {
        const int like = layer_like(&t->sizes->dit, l);

        if (like >= 0)
            w->layer[l] = w->layer[like];
        else
            ret = cost_of(&w->layer[l], t, 1, 0, l, l + 1);
    }
    if (ret >= 0 && nb > 1) {
        ret = cost_of(&both, t, 1, 0, 0, 2);
        w->any = less(w->layer[0], less(both, w->layer[1]));
    }
    for (int l = 0; l < nb; l++)
        w->layer[l] = less(w->layer[l], w->any);
    return ret;
}

/* The ends of a pipe against its middle, each with the layer that is always there; and the VAE, the part that encodes, beside a layer. Parts
 * differ by a head at most, and by the encoders, which the first has. */
static int weigh_ends(PlanLoads *w, Trial *t, Trial *shared, int nb)
{
    const int v = shared->plan.vae_rank, team = v / t->parts, part = v % t->parts, l = team == 2 ? nb - 1 : 0;
    PlanCost c[4], alone = { 0, 0 };
    int ret = cost_of(&c[0], t, 0, 0, 0, 1);

    if (ret >= 0)
        ret = cost_of(&c[1], t, 2, 0, nb - 1, nb);
    if (ret >= 0)
        ret = cost_of(&c[2], t, team, part, l, l + 1);
    if (ret >= 0)
        ret = cost_of(&c[3], shared, team, part, l, l + 1);
    if (ret >= 0)
        ret = cost_of(&alone, t, 3, 0, 0, 0);
    if (ret < 0)
        return ret;
    w->first = less(less(c[0], w->layer[0]), w->any);
    w->last = less(less(c[1], w->layer[nb - 1]), w->any);
    w->vae = less(c[3], c[2]);
    w->vae_alone = alone.bytes;
    return 0;
}

/* A full prompt, and the largest piece of an offline sound. */
static int weigh_front(double *bytes, const PlanSizes *sizes, const char *device, const BackendOptions *opt)
{
    const FrontSetup set = { .sizes = sizes, .samples = avt_sound_piece(0, 0), .tokens = sizes->dit.text_len, .log = opt->log };
    PlanMemory m;
    const int ret = avt_front_measure(&m, &set, device, opt, NULL);

    *bytes = (double)avt_plan_sum(&m);
    return ret;
}

int avt_rank_loads(PlanLoads *w, const PlanSizes *sizes, const char *device, const Plan *like, const BackendOptions *opt)
{
    const int nb = sizes->dit.nb_layers;
    Trial t, shared;
    int ret = trial_open(&t, sizes, device, like, opt, 0);

    *w = (PlanLoads){ .layer = avt_calloc(MEM_ENGINE, (size_t)nb, sizeof(*w->layer)) };
    if (ret >= 0 && !w->layer)
        ret = AVT_ERR(ENOMEM);
    if (ret >= 0)
        ret = trial_open(&shared, sizes, device, like, opt, 1);
    if (ret >= 0)
        ret = weigh_layers(w, &t, nb);
    if (ret >= 0)
        ret = weigh_ends(w, &t, &shared, nb);
    if (ret < 0)
        avt_freep(&w->layer);
    return ret;
}

/* All that the plan puts on the device of rank r. */
static double bytes_on(const Plan *p, const double *rank, double front, int r)
{
    double sum = p->rank[r].process || strcmp(p->front_device, p->rank[r].device) ? 0 : front;

    for (int i = 0; i < p->nb_ranks; i++)
        sum += avt_plan_same_device(&p->rank[i], &p->rank[r]) ? rank[i] : 0;
    return sum;
}

int avt_rank_plan(Plan *p, const PlanOptions *o, const PlanSizes *sizes, const BackendOptions *opt)
{
    PlanOptions weighed = *o;
    PlanLoads w = { .layer = NULL };
    int ret = avt_plan_make(p, o, opt->log);

    if (ret < 0 || p->rank[p->first[0]].next < 0)                   // nothing to share out
        return ret;
    ret = avt_rank_loads(&w, sizes, p->rank[p->vae_rank].device, p, opt);
    if (ret >= 0 && o->room)
        ret = weigh_front(&w.front, sizes, p->front_device, opt);
    weighed.loads = &w;
    if (ret >= 0)
        ret = avt_plan_make(p, &weighed, opt->log);
    avt_free(w.layer);
    return ret;
}

int avt_rank_lack(double *lack, int *rank, const RankSetup *set, const double *room, const PlanSizes *sizes, const BackendOptions *opt)
{
    const Plan *p = set->plan;
    double bytes[PLAN_MAX_RANKS], front = 0;
    int ret = weigh_front(&front, sizes, p->front_device, opt);

    for (int r = 0; r < p->nb_ranks && ret >= 0; r++) {
        PlanMemory m;

        ret = avt_rank_measure(&m, set, r, sizes, opt, NULL, NULL);
        bytes[r] = (double)avt_plan_sum(&m);
    }
    *lack = 0;
    *rank = -1;
    for (int r = 0; r < p->nb_ranks && ret >= 0; r++) {
        const double more = room[r] > 0 ? bytes_on(p, bytes, front, r) - room[r] : 0;

        *rank = more > *lack ? r : *rank;
        *lack = more > *lack ? more : *lack;
    }
    return ret;
}
