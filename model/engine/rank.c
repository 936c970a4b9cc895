/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A rank's life: weights, state, the walk through the conductor's commands. What it does for a command is in rank_work.c and rank_vae.c,
 * its rehearsal on `dry`, which finds its memory, in rank_rehearse.c.
 */
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "engine/rank.h"

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static Team team_of(const Plan *plan, int r)
{
    const PlanRank *p = &plan->rank[r];

    return (Team){ .way = p->nb_parts > 1 ? plan->split : TEAM_ALONE, .part = p->part, .nb = p->nb_parts, .first = r - p->part };
}

/* Layers that come wait in memory that the device reads fast, and come two ahead; on a CPU, which has no other memory than the host's, they
 * are read out of the file when their turn is. */
static ShelfRoom room_for(const Plan *plan, const char *device)
{
    const int reads = !strcmp(device, "cpu");

    return (ShelfRoom){ .stand = (size_t)plan->resident, .host = reads ? 0 : SIZE_MAX, .slots = reads ? 1 : SHELF_SLOTS };
}

static int bind_dit(RankWeights *w, const Plan *plan, const PlanRank *place, const Team *team, const PlanSizes *sizes, const ModelFiles *files,
                    const Log *log)
{
    const ShelfRoom room = room_for(plan, place->device);
    Binder b;
    int ret = avt_binder_open(&b, files->dit, files->lora, w->arena, "dit", sizes->dtype, log);

    b.cancel = files->cancel;
    b.loading = files->loading;
    b.shelf = plan->offload ? &room : NULL;
    if (ret >= 0)
        ret = avt_dit_open_part(&w->dit, &sizes->dit, &b, place->l0, place->l1, team);
    if (ret >= 0 && w->dit.shelf && !avt_backend_is_dry(w->be))
        ret = avt_shelf_fill(w->dit.shelf, files->cancel, files->loading, log);
    avt_binder_close(&b);
    return ret;
}

/* All parts decode, the first encodes. */
static int bind_vae(RankWeights *w, int halves, const PlanSizes *sizes, const ModelFiles *files, const Log *log)
{
    Binder b;
    int ret = avt_binder_open(&b, files->vae, NULL, w->arena, "vae", DT_F32, log);

    b.cancel = files->cancel;
    b.loading = files->loading;
    if (ret >= 0)
        ret = avt_vae_open(&w->vae, &b, sizes->vae_width, halves);
    avt_binder_close(&b);
    return ret;
}

int avt_rank_weights_open(RankWeights *w, const Plan *plan, int r, const PlanSizes *sizes, const ModelFiles *files,
                          const BackendOptions *opt, const char *device, size_t capacity, const Log *log)
{
    const Team team = team_of(plan, r);
    int ret;

    memset(w, 0, sizeof(*w));
    ret = avt_backend_open(&w->be, device, opt);
    if (ret >= 0)
        ret = avt_arena_open(&w->arena, w->be, "weights", capacity);
    if (ret >= 0 && plan->rank[r].pipe >= 0)
        ret = bind_dit(w, plan, &plan->rank[r], &team, sizes, files, log);
    if (ret >= 0 && plan->rank[r].vae)
        ret = bind_vae(w, r == plan->vae_rank ? VAE_ENCODER | VAE_DECODER : VAE_DECODER, sizes, files, log);
    if (ret >= 0)
        ret = avt_sync(w->be);
    if (ret < 0)
        avt_rank_weights_close(w);
    return ret;
}

void avt_rank_weights_close(RankWeights *w)
{
    avt_dit_close(&w->dit);
    if (w->be)
        avt_arena_close(&w->arena);
    avt_backend_close(&w->be);
    memset(w, 0, sizeof(*w));
}

void avt_rank_weights_count(PlanMemory *m, const RankWeights *w)
{
    const size_t stand = w->dit.shelf ? avt_shelf_standing(w->dit.shelf) : 0;

    m->weights = avt_arena_peak(w->arena) + stand;
    m->host = w->dit.shelf ? avt_shelf_planned(w->dit.shelf) - stand : 0;
    m->coming = 0;
    if (w->dit.shelf)
        avt_shelf_coming(w->dit.shelf, &m->coming);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

/* What was taken of the state since the last call is `part`'s. */
static void count_state(Rank *r, StatePart part)
{
    size_t before = 0;

    for (int i = 0; i < STATE_NB; i++)
        before += r->part[i];
    r->part[part] += avt_arena_used(r->state) - before;
}

/* Of a step: on the device, or in the host's memory. */
static int open_ring(Rank *r, int step)
{
    const Dit *d = &r->dit;

    if (!avt_plan_moves_rings(r->set->plan, r->index))
        return avt_dit_keys_open(&r->ring[step], r->state, d, r->set->shape.ring, 0);
    return avt_rings_add(&r->rings, &r->ring[step], d->l1 - d->l0);
}

static int open_sink(Rank *r, int version)
{
    const Dit *d = &r->dit;

    if (!avt_plan_moves_rings(r->set->plan, r->index))
        return avt_dit_keys_open(&r->sink[version], r->state, d, r->set->shape.Lc, r->set->shape.n);
    return avt_rings_add_sink(&r->rings, &r->sink[version], d->l1 - d->l0);
}

static int open_rings(Rank *r)
{
    if (!avt_plan_moves_rings(r->set->plan, r->index))
        return 0;
    r->dit.rings = &r->rings;
    return avt_rings_open(&r->rings, r->state, &r->dit, &r->set->shape, r->be, r->copy, r->back);
}

void avt_rank_rings_count(PlanMemory *m, const Rank *r)
{
    const RingSlot *like = &r->rings.slot[0];

    for (int i = 0; i < r->set->plan->steps; i++)
        if (r->ring[i].home) {
            m->moved = (size_t)r->ring[i].nb * avt_rings_moved(&r->rings, &r->set->shape);
            m->rings += (size_t)r->ring[i].nb * like->ring.bytes;
        }
    for (int v = 0; v < r->nb_versions; v++)
        m->rings += r->sink[v].home ? (size_t)r->sink[v].nb * like->sink.bytes : 0;
}

static int open_layers(Rank *r)
{
    const RankSetup *set = r->set;
    const DitShape *s = &set->shape;
    const Dit *d = &r->dit;
    const int steps = set->plan->steps;
    int ret = avt_dit_time_open(&r->sink_time, r->state, d);

    count_state(r, STATE_LATENTS);
    if (ret >= 0)
        ret = open_rings(r);
    count_state(r, STATE_RINGS);
    if (r->place->prev < 0 || r->place->next < 0) {                 // between them there are tokens alone
        r->latent = avt_new(r->state, DT_F32, r->nb_slots, DIT_BLOCK, LATENT, s->H, s->W);
        r->ref = avt_new(r->state, DT_F32, 1, LATENT, s->H, s->W);
    }
    if (r->place->prev < 0)
        r->motion = avt_new(r->state, DT_F32, DIT_MOTION, LATENT, s->H, s->W);
    if (r->place->next < 0)
        r->ref_next = avt_new(r->state, DT_F32, 1, LATENT, s->H, s->W);
    for (int i = 0; i < steps && ret >= 0; i++) {
        if (!avt_plan_holds(r->set->plan, r->index, i))
            continue;
        ret = avt_dit_time_open(&r->time[i], r->state, d);
        count_state(r, STATE_LATENTS);
        if (ret >= 0)
            ret = open_ring(r, i);
        count_state(r, STATE_RINGS);
    }
    for (int v = 0; v < r->nb_versions && ret >= 0; v++) {
        ret = avt_dit_text_open(&r->text[v], r->state, d, d->cfg.text_len);
        count_state(r, STATE_TEXT);
        if (ret >= 0)
            ret = open_sink(r, v);
        count_state(r, STATE_SINKS);
    }
    for (int k = 0; k < r->nb_slots && ret >= 0; k++)
        ret = avt_dit_audio_open(&r->audio[k], r->state, d, s, 1, 0);
    count_state(r, STATE_SOUND);
    return ret;
}

static int open_host(Rank *r)
{
    const DitShape *s = &r->set->shape;
    const RankHooks *hooks = &r->set->hooks;
    const size_t latents = (size_t)(LATENT * DIT_BLOCK * s->H * s->W), frames = (size_t)(BLOCK_FRAMES * 64 * s->H * s->W * 3);
    const size_t noise = avt_rank_draws_noise(r) ? latents * sizeof(float) : 0;
    const size_t seen = (!r->place->vae ? 0 : hooks->pixels ? frames : hooks->latents ? latents : 0) * sizeof(float);

    r->noise_block = -1;
    r->noise = noise ? avt_malloc(MEM_SESSION, noise) : NULL;
    r->host = seen ? avt_malloc(MEM_SESSION, seen) : NULL;
    if ((noise && !r->noise) || (seen && !r->host))
        return avt_fail(r->set->log, AVT_ERR(ENOMEM), "rank %d: no memory for %.1f MB of staging", r->index, (double)(noise + seen) / 1e6);
    return 0;
}

static int open_decoder(Rank *r)
{
    const Plan *p = r->set->plan;
    const DitShape *s = &r->set->shape;
    const Team team = { .way = p->vae_parts > 1 ? TEAM_ROWS : TEAM_ALONE, .part = r->index - p->vae_rank, .nb = p->vae_parts,
                        .first = p->vae_rank, .comm = r->comm };

    if (s->H < p->vae_parts)
        return avt_fail(r->set->log, AVT_ERR(EINVAL), "vae_split=%d: pictures of %d lines can be split over %d; say so, or take a larger size",
                        p->vae_parts, (int)(8 * s->H), (int)s->H);
    return avt_vae_state_open_part(&r->dec, r->state, &r->w->vae, s->H, s->W, &team);
}

static int open_arrays(Rank *r, int steps)
{
    r->time = avt_calloc(MEM_SESSION, (size_t)steps, sizeof(*r->time));
    r->ring = avt_calloc(MEM_SESSION, (size_t)steps, sizeof(*r->ring));
    r->items = avt_calloc(MEM_SESSION, (size_t)steps, sizeof(*r->items));
    r->text = avt_calloc(MEM_SESSION, (size_t)r->nb_versions, sizeof(*r->text));
    r->sink = avt_calloc(MEM_SESSION, (size_t)r->nb_versions, sizeof(*r->sink));
    r->audio = avt_calloc(MEM_SESSION, (size_t)r->nb_slots, sizeof(*r->audio));
    return r->time && r->ring && r->items && r->text && r->sink && r->audio ? 0 : AVT_ERR(ENOMEM);
}

/* Mailboxes; a rank of a rehearsal has none. */
static int open_messages(Rank *r, size_t bytes)
{
    const int ret = avt_arena_open(&r->messages, r->be, "messages", bytes);

    return ret < 0 || !r->comm || avt_backend_is_dry(r->be) ? ret : avt_comm_attach(r->comm, r->messages);
}

/* The way through the layers: on `dry`, as on a CPU, one queue does all. */
static int open_walker(Rank *r, const BackendOptions *opt, const char *device)
{
    const int own = r->w->dit.shelf && !avt_backend_is_dry(r->be) && strcmp(device, "cpu");
    int ret = own ? avt_backend_open(&r->copy, device, opt) : 0;

    if (ret >= 0 && own && avt_plan_moves_rings(r->set->plan, r->index))
        ret = avt_backend_open(&r->back, device, opt);
    if (ret < 0)
        return ret;
    r->back->cancel = r->copy->cancel = r->set->cancel;
    ret = avt_dit_walker_open(&r->dit, &r->w->dit, r->be, r->copy, r->state);
    r->dit.team.comm = r->comm;
    r->dit.kv = r->set->plan->kv;
    return ret;
}

int avt_rank_open(Rank *r, const RankSetup *set, int index, const RankWeights *w, Comm *comm, const BackendOptions *opt, const char *device,
                  const PlanMemory *room)
{
    int ret;

    memset(r, 0, sizeof(*r));
    r->set = set;
    r->index = index;
    r->place = &set->plan->rank[index];
    r->comm = comm;
    r->w = w;
    r->nb_slots = set->plan->in_flight;
    r->nb_versions = set->plan->versions;
    ret = avt_backend_open(&r->be, device, opt);
    if (ret < 0)
        return ret;
    r->be->cancel = set->cancel;
    r->copy = r->back = r->be;
    ret = open_arrays(r, set->plan->steps);
    if (ret >= 0)
        ret = avt_arena_open(&r->state, r->be, "state", room->state);
    if (ret >= 0)
        ret = open_walker(r, opt, device);
    if (ret >= 0)
        count_state(r, STATE_LAYERS);
    if (ret >= 0)
        ret = avt_arena_open(&r->scratch, r->be, "scratch", room->scratch);
    if (ret >= 0)
        ret = avt_workspace_open(r->be, room->workspace);
    if (ret >= 0)
        ret = open_messages(r, room->messages);
    if (ret >= 0)
        ret = open_host(r);
    if (ret >= 0 && avt_rank_has_layers(r))
        ret = open_layers(r);
    if (ret >= 0 && r->place->vae)
        ret = open_decoder(r);
    if (ret >= 0)
        count_state(r, STATE_VAE);
    if (ret >= 0)
        ret = avt_sync(r->be);
    if (ret < 0)
        avt_rank_close(r);
    return ret;
}

void avt_rank_sync(Rank *r)
{
    if (r->be)
        avt_sync(r->be);
}

/* All that rings move has been moved: their host memory can go. */
static void close_rings(Rank *r)
{
    avt_sync(r->be);
    avt_sync(r->copy);
    avt_sync(r->back);
    for (int i = 0; r->ring && i < r->set->plan->steps; i++)
        avt_rings_drop(&r->rings, &r->ring[i]);
    for (int v = 0; r->sink && v < r->nb_versions; v++)
        avt_rings_drop(&r->rings, &r->sink[v]);
    if (r->back != r->be)
        avt_backend_close(&r->back);
}

void avt_rank_close(Rank *r)
{
    if (r->be && r->copy && r->back)
        close_rings(r);
    for (int i = 0; r->ring && i < r->set->plan->steps; i++)
        avt_dit_keys_close(&r->ring[i]);
    for (int v = 0; v < r->nb_versions; v++) {
        if (r->text)
            avt_dit_keys_close(&r->text[v]);
        if (r->sink)
            avt_dit_keys_close(&r->sink[v]);
    }
    avt_freep(&r->time);
    avt_freep(&r->ring);
    avt_freep(&r->items);
    avt_freep(&r->text);
    avt_freep(&r->sink);
    avt_freep(&r->audio);
    avt_freep(&r->noise);
    avt_freep(&r->host);
    if (r->be) {
        avt_sync(r->be);
        avt_dit_walker_close(&r->dit);
        if (r->copy != r->be)
            avt_backend_close(&r->copy);
        if (r->comm && r->messages && !avt_backend_is_dry(r->be))
            avt_comm_detach(r->comm);
        avt_arena_close(&r->messages);
        avt_arena_close(&r->scratch);
        avt_arena_close(&r->state);
    }
    avt_backend_close(&r->be);
}

/* ---- the walk --------------------------------------------------------------------------------------------------------------- */

static void tell_use(Rank *r)
{
    double ops = 0;

    for (int i = 0; i < OP_NB; i++)
        ops += r->be->stat[i].seconds;
    __atomic_store_n(&r->used[USE_OPS], (int64_t)(1e9 * ops) + r->drawn, __ATOMIC_RELAXED);
    __atomic_store_n(&r->used[USE_WAITING], r->comm->waited, __ATOMIC_RELAXED);
    __atomic_store_n(&r->used[USE_MESSAGES], r->comm->moved, __ATOMIC_RELAXED);
}

RankStage avt_rank_stage(Rank *r, RankStage stage)
{
    const RankStage before = r->stage;
    int64_t now;

    if (!r->set->timed || stage == before)
        return before;
    avt_sync(r->be);
    now = avt_now_ns();
    __atomic_fetch_add(&r->spent[before], now - r->since, __ATOMIC_RELAXED);
    tell_use(r);
    r->since = now;
    r->stage = stage;
    return before;
}

int avt_rank_run(Rank *r)
{
    Cmd c;
    int ret;

    avt_thread_flush_denormals();
    r->be->profile = avt_rank_counts_ops(r);
    r->since = avt_now_ns();
    ret = avt_rank_prepare(r);
    while (ret >= 0) {
        ret = avt_comm_recv_bytes(r->comm, r->set->plan->nb_ranks, TAG_COMMAND, &c, sizeof(c));
        if (ret < 0 || c.kind == CMD_END)
            break;
        ret = avt_rank_obey(r, &c);
    }
    if (ret >= 0)
        ret = avt_sync(r->be);
    if (ret < 0)
        avt_comm_abort(r->comm, ret);
    return ret;
}
