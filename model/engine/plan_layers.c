/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the layers of a pipe are cut into runs, one for each rank or team: of all ways the best by three aims, one after another, by dynamic
 * programming over (ranks so far, layers so far). See avt_plan_make().
 */
#include <math.h>
#include <string.h>

#include "engine/plan.h"

typedef enum Aim { OVER, SLOW, UNEVEN, AIM_NB } Aim;                 // by importance; the last is summed, of the others the largest counts

typedef struct Split {                  // what the first `nb` ranks would take
    const Plan *p;
    const PlanOptions *opt;
    int nb, nb_layers;                  // teams: ranks, where no layer is split
    int parts;
    double room[PLAN_MAX_RANKS];        // for layers, of a team's least
    PlanCost *until;                    // [nb_layers + 1] of the layers before
    double *best;                       // [nb + 1, nb_layers + 1] of the first ranks with the first layers
    int *begin;                         // [nb + 1, nb_layers + 1] where the last of them then begins
    double most[AIM_NB];                // that a rank may have of the aims that are settled
} Split;

static void add_cost(PlanCost *to, PlanCost c)
{
    to->flops += c.flops;
    to->bytes += c.bytes;
}

/* Is a rank of team r the VAE's? */
static int has_vae(const Split *s, int r)
{
    for (int k = 0; k < s->parts; k++)
        if (s->p->rank[r * s->parts + k].vae)
            return 1;
    return 0;
}

static double aim_of(const Split *s, Aim aim, int r, int l0, int l1)
{
    const PlanLoads *w = s->opt->loads;
    PlanCost c = { s->until[l1].flops - s->until[l0].flops, s->until[l1].bytes - s->until[l0].bytes };

    if (w) {
        add_cost(&c, w->any);
        add_cost(&c, !r ? w->first : (PlanCost){ 0 });
        add_cost(&c, r == s->nb - 1 ? w->last : (PlanCost){ 0 });
        add_cost(&c, has_vae(s, r) ? w->vae : (PlanCost){ 0 });
    }
    if (aim == OVER)
        return c.bytes > s->room[r] ? c.bytes - s->room[r] : 0;
    return aim == SLOW ? c.flops : c.bytes * c.bytes;
}

/* Where nothing else decides, ranks behind are the shorter ones. */
static void extend(Split *s, Aim aim, int r, int l1)
{
    const int row = s->nb_layers + 1;
    double *best = &s->best[(r + 1) * row + l1];

    *best = INFINITY;
    for (int l0 = l1 - 1; l0 >= r; l0--) {
        const double before = s->best[r * row + l0], own = aim_of(s, aim, r, l0, l1);
        const double all = aim == UNEVEN ? before + own : before > own ? before : own;
        int allowed = all < *best;

        for (int i = 0; i < (int)aim && allowed; i++)
            allowed = aim_of(s, (Aim)i, r, l0, l1) <= s->most[i];
        if (allowed) {
            *best = all;
            s->begin[(r + 1) * row + l1] = l0;
        }
    }
}

/* The best that an aim comes to under those before it. */
static double settle(Split *s, Aim aim)
{
    const int row = s->nb_layers + 1;

    for (int l = 0; l <= s->nb_layers; l++)
        s->best[l] = l ? INFINITY : 0;
    for (int r = 0; r < s->nb; r++)
        for (int l = r + 1; l <= s->nb_layers; l++)
            extend(s, aim, r, l);
    return s->best[s->nb * row + s->nb_layers];
}

/* A device's room is for all that is on it: what is no rank of the pipe is taken off, the rest shared by those that are. */
static double room_of(const Split *s, int r)
{
    const Plan *p = s->p;
    const PlanLoads *w = s->opt->loads;
    const int nb = s->nb * s->parts;
    double room = s->opt->room && s->opt->room[r] > 0 ? s->opt->room[r] : INFINITY;
    int ranks = 0;

    for (int i = 0; i < nb; i++)
        ranks += avt_plan_same_device(&p->rank[i], &p->rank[r]);
    if (w && !p->rank[r].process && !strcmp(p->front_device, p->rank[r].device))
        room -= w->front;
    for (int i = nb; i < p->nb_ranks && w; i++)                     // the VAE's own
        room -= avt_plan_same_device(&p->rank[i], &p->rank[r]) ? w->vae_alone : 0;
    return room / ranks;
}

static void share_room(Split *s)
{
    for (int r = 0; r < s->nb * s->parts; r++) {
        double *room = &s->room[r / s->parts];

        *room = r % s->parts ? fmin(*room, room_of(s, r)) : room_of(s, r);
    }
}

static int open_split(Split *s, const Plan *p, const PlanOptions *opt, int nb, int parts)
{
    const size_t row = (size_t)opt->nb_layers + 1, all = row * ((size_t)nb + 1);

    *s = (Split){ .p = p, .opt = opt, .nb = nb, .nb_layers = opt->nb_layers, .parts = parts };
    s->until = avt_calloc(MEM_ENGINE, row, sizeof(*s->until));
    s->best = avt_calloc(MEM_ENGINE, all, sizeof(*s->best));
    s->begin = avt_calloc(MEM_ENGINE, all, sizeof(*s->begin));
    if (!s->until || !s->best || !s->begin)
        return AVT_ERR(ENOMEM);
    for (int l = 0; l < opt->nb_layers; l++) {
        s->until[l + 1] = s->until[l];
        add_cost(&s->until[l + 1], opt->loads ? opt->loads->layer[l] : (PlanCost){ 1, 1 });
    }
    share_room(s);
    return 0;
}

int avt_plan_split_layers(Plan *p, const PlanOptions *opt, int nb, int parts)
{
    Split s;
    int ret = open_split(&s, p, opt, nb, parts);

    for (int aim = 0; aim < AIM_NB && ret >= 0; aim++)
        s.most[aim] = settle(&s, (Aim)aim);
    for (int r = nb, l = opt->nb_layers; r > 0 && ret >= 0; r--) {
        const int l0 = s.begin[r * (opt->nb_layers + 1) + l];

        for (int k = 0; k < parts; k++) {
            p->rank[(r - 1) * parts + k].l0 = l0;
            p->rank[(r - 1) * parts + k].l1 = l;
        }
        l = l0;
    }
    avt_free(s.until);
    avt_free(s.best);
    avt_free(s.begin);
    return ret;
}
