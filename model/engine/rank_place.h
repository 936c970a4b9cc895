/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a rank's work asks of its place in the plan, and its messages: for rank_work.c and rank_vae.c.
 */
#ifndef AVT_RANK_PLACE_H
#define AVT_RANK_PLACE_H

#include "engine/rank.h"

static inline int avt_rank_conductor(const Rank *r)
{
    return r->set->plan->nb_ranks;
}

/* Is a rank the first (last) of a pipe? */
static inline int avt_rank_begins(const PlanRank *p)
{
    return p->pipe >= 0 && p->prev < 0;
}

static inline int avt_rank_ends(const PlanRank *p)
{
    return p->pipe >= 0 && p->next < 0;
}

/* Has it the encoders of time, text and sound? */
static inline int avt_rank_encodes(const PlanRank *p)
{
    return avt_rank_begins(p) && !p->part;
}

/* Who gives a rank of the VAE the latents that a step's pipe ends with, which all parts of its last team have. */
static inline int avt_rank_gives_result(const Rank *r, int step, int vae)
{
    const Plan *p = r->set->plan;
    const int last = p->last[step], parts = p->rank[last].nb_parts;

    return vae <= last && vae > last - parts ? vae : last - parts + 1;
}

/* Does this rank encode pictures, and say what is to be said of them once? */
static inline int avt_rank_encodes_pictures(const Rank *r)
{
    return r->index == r->set->plan->vae_rank;
}

static inline Tensor avt_rank_latent(Rank *r, int64_t block)
{
    return avt_at(r->latent, block % r->nb_slots);
}

/* Messages: nothing moves when the rank is alone. */
static inline int avt_rank_send(Rank *r, int dst, CommTag tag, Tensor t)
{
    return !r->comm || dst == r->index ? 0 : avt_comm_send(r->comm, r->be, dst, tag, t);
}

static inline int avt_rank_recv(Rank *r, int src, CommTag tag, Tensor t)
{
    RankStage stage;
    int ret;

    if (!r->comm || src == r->index)
        return 0;
    stage = avt_rank_stage(r, STAGE_WAIT);
    ret = avt_comm_recv(r->comm, r->be, src, tag, t);
    avt_rank_stage(r, stage);
    return ret;
}

/** CMD_PICTURE: the VAE's first rank encodes the picture; first ranks of pipes and the VAE's others take what comes of it. rank_vae.c */
int avt_rank_picture(Rank *r, const Cmd *c);
/** VAE rank: a finished block's latents -> 12 frames, or a part's rows of them -> the conductor. rank_vae.c */
int avt_rank_decode(Rank *r, const CmdItem *it);

#endif
