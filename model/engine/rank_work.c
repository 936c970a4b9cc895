/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A rank's work: text, sink, waves of items; the pictures' part of it is in rank_vae.c. See rank.h for who sends what to whom.
 *
 * Traps: latents of a step belong to the last rank of its pipe (it does the Euler step), and the first rank of the next step's
 * pipe needs them for the embedding; so in a pipe of several ranks both make the noise of step 0. Nothing here waits
 * for a message that an earlier command of the same list does not send, and nothing relies on a message overtaking another or
 * on room for one: latents, which are used a wave after they were made, are expected before their sender can have them.
 */
#include <string.h>

#include "base/thread.h"
#include "engine/rank_place.h"

/* Rank of our part in the first (last) team of a step's pipe. */
static int first_of(const Rank *r, int step)
{
    return r->set->plan->first[step] + r->place->part;
}

static int last_of(const Rank *r, int step)
{
    return r->set->plan->last[step] - (r->place->nb_parts - 1 - r->place->part);
}

static int expect(Rank *r, int src, CommTag tag, Tensor t)
{
    return !r->comm || src == r->index ? 0 : avt_comm_expect(r->comm, r->be, src, tag, t);
}

/* What has been embedded, from who hands it to us, and on: down our column of the pipe, from the first rank to its team as well. */
static int take_embedded(Rank *r, CommTag tag, Tensor t)
{
    return avt_rank_recv(r, avt_rank_begins(r->place) ? r->index - r->place->part : r->place->prev, tag, t);
}

static int hand_on(Rank *r, CommTag tag, Tensor t)
{
    int ret = 0;

    for (int k = 1; k < r->place->nb_parts && avt_rank_encodes(r->place) && ret >= 0; k++)
        ret = avt_rank_send(r, r->index + k, tag, t);
    return ret < 0 || avt_rank_ends(r->place) ? ret : avt_rank_send(r, r->place->next, tag, t);
}

/* ---- before the first command ----------------------------------------------------------------------------------------- */

static int prepare_time(Rank *r, DitTime *t, float at)
{
    const int ret = avt_rank_encodes(r->place) ? avt_dit_time(r->be, r->scratch, &r->dit, t, at) : take_embedded(r, TAG_TIME, t->both);

    if (ret >= 0 && !avt_rank_encodes(r->place))
        avt_dit_modulation(r->be, &r->dit, t);
    return ret < 0 ? ret : hand_on(r, TAG_TIME, t->both);
}

/* Time embeddings are constants of the schedule. */
int avt_rank_prepare(Rank *r)
{
    int ret = 0;

    if (!avt_rank_has_layers(r))
        return 0;
    ret = prepare_time(r, &r->sink_time, 0);
    for (int i = 0; i < r->set->plan->steps && ret >= 0; i++)
        if (avt_plan_holds(r->set->plan, r->index, i))
            ret = prepare_time(r, &r->time[i], r->set->schedule.timestep[i]);
    return ret;
}

/* ---- text and sink --------------------------------------------------------------------------------------------------- */

static int take_text(Rank *r, const Cmd *c, Tensor embedded)
{
    const Tensor context = avt_new(r->scratch, DT_F32, c->rows, r->dit.cfg.text_dim);
    const int ret = avt_rank_recv(r, avt_rank_conductor(r), TAG_TEXT, context);

    return ret < 0 ? ret : avt_dit_text(r->be, r->scratch, &r->dit, embedded, context);
}

/* The first rank of a pipe embeds the text; its rows are handed on. */
static int do_text(Rank *r, const Cmd *c)
{
    const Dit *d = &r->dit;
    Tensor e;
    int ret;

    if (!avt_rank_has_layers(r))
        return 0;
    e = avt_new(r->scratch, r->be->act, d->cfg.text_len, d->cfg.dim);
    ret = avt_rank_encodes(r->place) ? take_text(r, c, e) : take_embedded(r, TAG_TEXT, e);
    if (ret >= 0)
        ret = hand_on(r, TAG_TEXT, e);
    return ret < 0 ? ret : avt_dit_text_keys(r->be, r->scratch, d, &r->text[c->slot], e);
}

/* The reference becomes latent frame 0 of block 0's result, which the last ranks of the last step kept. */
static int take_new_reference(Rank *r)
{
    const Plan *p = r->set->plan;
    const int owner = last_of(r, p->steps - 1);
    int ret = 0;

    if (r->index != owner)
        return avt_rank_begins(r->place) ? avt_rank_recv(r, owner, TAG_REFERENCE, r->ref) : 0;
    avt_copy(r->be, r->ref, r->ref_next);
    for (int i = 0; i < p->nb_ranks && ret >= 0; i++)
        if (i != r->index && avt_rank_begins(&p->rank[i]) && p->rank[i].part == r->place->part)
            ret = avt_rank_send(r, i, TAG_REFERENCE, r->ref);
    return ret;
}

static int do_sink(Rank *r, const Cmd *c)
{
    const DitShape *s = &r->set->shape;
    DitItem item = { .sink_pass = 1, .shape = s, .time = &r->sink_time };
    int ret = 0;

    if (!avt_rank_has_layers(r))
        return 0;
    if (c->from_block)
        ret = take_new_reference(r);
    if (ret < 0)
        return ret;
    item.text = &r->text[c->text];
    item.sink = &r->sink[c->slot];
    item.x = avt_new(r->scratch, DT_F32, avt_dit_rows(&r->dit, s, 1), r->dit.cfg.dim);
    ret = avt_rank_begins(r->place) ? avt_dit_embed_sink(r->be, r->scratch, &r->dit, item.x, r->ref, r->motion)
                           : avt_rank_recv(r, r->place->prev, TAG_TOKENS, item.x);
    if (ret >= 0)
        ret = avt_dit_layers(r->be, r->scratch, &r->dit, &item, 1);
    if (ret >= 0 && !avt_rank_ends(r->place))
        ret = avt_rank_send(r, r->place->next, TAG_TOKENS, item.x);
    return ret;
}

/* ---- waves --------------------------------------------------------------------------------------------------------------- */

/* r->noise, unless it is there. */
static void make_noise(Rank *r, int64_t block, uint64_t seed)
{
    const DitShape *s = &r->set->shape;
    const int64_t start = avt_now_ns();

    if (avt_backend_is_dry(r->be) || (r->noise_block == block && r->noise_seed == seed))
        return;
    if (r->set->hooks.noise)
        r->set->hooks.noise(r->set->hooks.opaque, r->noise, DIT_BLOCK * LATENT * s->H * s->W, block);
    else
        avt_noise(r->noise, DIT_BLOCK, LATENT, s->H * s->W, seed, block);
    r->noise_block = block;
    r->noise_seed = seed;
    r->drawn += avt_now_ns() - start;
}

/* First rank: latents -> tokens. Others: tokens from the rank before. The last rank has made its own copy of the noise. */
static int begin_item(Rank *r, const CmdItem *it, DitItem *item)
{
    const Dit *d = &r->dit;
    int ret = 0;

    memset(item, 0, sizeof(*item));
    item->x = avt_new(r->scratch, DT_F32, avt_dit_rows(d, &r->set->shape, 0), d->cfg.dim);
    item->f0 = DIT_BLOCK * it->block;
    item->relative_dist = it->distance;
    item->shape = &r->set->shape;
    item->time = &r->time[it->step];
    item->text = &r->text[it->text];
    item->sink = &r->sink[it->sink];
    item->ring = &r->ring[it->step];
    item->audio = &r->audio[it->block % r->nb_slots];
    item->probe = it->block || it->step ? NULL : r->set->hooks.probe;
    if (!it->step && avt_rank_draws_noise(r)) {
        make_noise(r, it->block, it->seed);
        avt_upload(r->be, avt_rank_latent(r, it->block), r->noise);
    }
    if (!avt_rank_begins(r->place))
        return avt_rank_recv(r, r->place->prev, TAG_TOKENS, item->x);
    if (it->step)
        ret = avt_rank_recv(r, last_of(r, it->step - 1), TAG_LATENTS, avt_rank_latent(r, it->block));
    return ret < 0 ? ret : avt_dit_embed_block(r->be, r->scratch, d, item->x, avt_rank_latent(r, it->block), AVT_NONE);
}

static int send_result(Rank *r, int step, Tensor x)
{
    const Plan *p = r->set->plan;
    int ret = 0;

    for (int i = p->vae_rank; i < p->vae_rank + p->vae_parts && ret >= 0; i++)
        if (avt_rank_gives_result(r, step, i) == r->index)
            ret = avt_rank_send(r, i, TAG_RESULT, x);
    return ret;
}

/* Last rank: velocity, Euler step, latents to whom they concern next. Others: tokens to the next rank. */
static int end_item(Rank *r, const CmdItem *it, DitItem *item)
{
    const RankSetup *set = r->set;
    const Schedule *sch = &set->schedule;
    const Tensor x = avt_rank_latent(r, it->block);
    Tensor v;
    int ret;

    if (!avt_rank_ends(r->place))
        return avt_rank_send(r, r->place->next, TAG_TOKENS, item->x);
    v = avt_new(r->scratch, DT_F32, DIT_BLOCK, LATENT, set->shape.H, set->shape.W);
    ret = avt_dit_head(r->be, r->scratch, &r->dit, v, item->x, item->time);
    avt_axpy(r->be, x, 1, x, sch->sigma[it->step + 1] - sch->sigma[it->step], v);
    if (ret >= 0 && it->step + 1 < set->plan->steps)
        return avt_rank_send(r, first_of(r, it->step + 1), TAG_LATENTS, x);
    if (ret >= 0 && !it->block)
        avt_copy(r->be, r->ref_next, avt_rows(x, 0, 1));            // for the sink of blocks from 4 on
    return ret < 0 ? ret : send_result(r, it->step, x);
}

/* The latents that this item will end with, if their next step begins here: their sender then need not wait for the next wave. */
static int expect_latents(Rank *r, const CmdItem *it)
{
    if (it->step + 1 == r->set->plan->steps || first_of(r, it->step + 1) != r->index)
        return 0;
    return expect(r, last_of(r, it->step), TAG_LATENTS, avt_rank_latent(r, it->block));
}

static int run_items(Rank *r, const CmdItem *it, int nb)
{
    const size_t mark = avt_arena_mark(r->scratch);
    int ret = 0, own = 0;

    for (int k = 0; k < nb && ret >= 0; k++)
        if (avt_plan_holds(r->set->plan, r->index, it[k].step))
            ret = begin_item(r, &it[k], &r->items[own++]);
    for (int k = 0; k < nb && ret >= 0; k++)
        ret = expect_latents(r, &it[k]);
    if (ret >= 0 && own)
        ret = avt_dit_layers(r->be, r->scratch, &r->dit, r->items, own);
    own = 0;
    for (int k = 0; k < nb && ret >= 0; k++)
        if (avt_plan_holds(r->set->plan, r->index, it[k].step))
            ret = end_item(r, &it[k], &r->items[own++]);
    avt_arena_release(r->scratch, mark);
    return ret;
}

static int take_features(Rank *r, DitAudio *out)
{
    const DitConfig *cfg = &r->dit.cfg;
    const Tensor rows = avt_new(r->scratch, DT_F32, 1, BLOCK_FRAMES, cfg->nb_audio_layers, cfg->audio_dim);
    const int ret = avt_rank_recv(r, avt_rank_conductor(r), TAG_SOUND, rows);

    return ret < 0 ? ret : avt_dit_audio(r->be, r->scratch, &r->dit, out, rows);
}

/* The first rank of a pipe encodes the block's features; what comes of them is handed on. */
static int take_sound(Rank *r, int64_t block)
{
    DitAudio *o = &r->audio[block % r->nb_slots];
    const RankStage stage = avt_rank_stage(r, STAGE_SOUND);
    int ret = avt_rank_encodes(r->place) ? take_features(r, o) : take_embedded(r, TAG_SOUND, o->both);

    if (ret >= 0)
        ret = hand_on(r, TAG_SOUND, o->both);
    if (ret >= 0)
        ret = avt_dit_audio_keys(r->be, r->scratch, &r->dit, o);
    avt_rank_stage(r, stage);
    return ret;
}

/* While the device is at work on the wave, the host makes the noise of the block after its newest: most likely with the same seed. */
static void look_ahead(Rank *r, const CmdItem *it, int nb)
{
    for (int k = 0; k < nb && avt_rank_draws_noise(r); k++)
        if (!it[k].step)
            make_noise(r, it[k].block + 1, it[k].seed);
}

static int do_wave(Rank *r, const Cmd *c)
{
    const Plan *p = r->set->plan;
    const size_t mark = avt_arena_mark(r->scratch);
    int ret = 0;

    if (c->new_block >= 0 && avt_rank_has_layers(r))
        ret = take_sound(r, c->new_block);
    avt_arena_release(r->scratch, mark);
    for (int k = 0, nb; k < c->nb_items && ret >= 0; k += nb) {
        nb = c->nb_items - k < p->batch ? c->nb_items - k : p->batch;
        ret = run_items(r, c->item + k, nb);
        look_ahead(r, c->item + k, ret < 0 ? 0 : nb);
        for (int j = k; j < k + nb && ret >= 0; j++)
            if (c->item[j].step + 1 == p->steps && r->place->vae)
                ret = avt_rank_decode(r, &c->item[j]);
    }
    return ret;
}

/* ---- the walk --------------------------------------------------------------------------------------------------------------- */

int avt_rank_obey(Rank *r, const Cmd *c)
{
    static int (*const deed[])(Rank *, const Cmd *) = {
        [CMD_PICTURE] = avt_rank_picture, [CMD_TEXT] = do_text, [CMD_SINK] = do_sink, [CMD_WAVE] = do_wave,
    };
    static const RankStage stage[] = {
        [CMD_PICTURE] = STAGE_PICTURE, [CMD_TEXT] = STAGE_TEXT, [CMD_SINK] = STAGE_SINK, [CMD_WAVE] = STAGE_LAYERS,
    };
    const size_t mark = avt_arena_mark(r->scratch);
    int ret;

    avt_rank_stage(r, stage[c->kind]);
    ret = deed[c->kind](r, c);
    avt_rank_stage(r, STAGE_WAIT);
    avt_arena_release(r->scratch, mark);
    return ret < 0 ? ret : r->be->status;
}
