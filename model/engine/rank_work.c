/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A rank's work: picture, text, sink, waves of items. See rank.h for who sends what to whom.
 *
 * Traps: latents of a step belong to the last rank of its pipe (it does the Euler step), and the first rank of the next step's
 * pipe needs them for the embedding; so in a pipe of several ranks both make the noise of step 0. Nothing here waits
 * for a message that an earlier command of the same list does not send, and nothing relies on a message overtaking another or
 * on room for one: latents, which are used a wave after they were made, are expected before their sender can have them.
 */
#include <math.h>
#include <string.h>

#include "engine/rank.h"

/* ---- who am I --------------------------------------------------------------------------------------------------- */

static int conductor(const Rank *r)
{
    return r->set->plan->nb_ranks;
}

/* Rank of our part in the first (last) team of a step's pipe. */
static int first_of(const Rank *r, int step)
{
    return r->set->plan->first[step] + r->place->part;
}

static int last_of(const Rank *r, int step)
{
    return r->set->plan->last[step] - (r->place->nb_parts - 1 - r->place->part);
}

/* Is a rank the first (last) of a pipe? */
static int begins(const PlanRank *p)
{
    return p->pipe >= 0 && p->prev < 0;
}

static int ends(const PlanRank *p)
{
    return p->pipe >= 0 && p->next < 0;
}

/* Has it the encoders of time, text and sound? */
static int encodes(const PlanRank *p)
{
    return begins(p) && !p->part;
}

/* Who gives a rank of the VAE the latents that a step's pipe ends with, which all parts of its last team have. */
static int gives_result(const Rank *r, int step, int vae)
{
    const Plan *p = r->set->plan;
    const int last = p->last[step], parts = p->rank[last].nb_parts;

    return vae <= last && vae > last - parts ? vae : last - parts + 1;
}

/* Does this rank encode pictures, and say what is to be said of them once? */
static int encodes_pictures(const Rank *r)
{
    return r->index == r->set->plan->vae_rank;
}

/* ---- messages: nothing moves when the rank is alone --------------------------------------------------------------- */

static int send(Rank *r, int dst, CommTag tag, Tensor t)
{
    return !r->comm || dst == r->index ? 0 : avt_comm_send(r->comm, r->be, dst, tag, t);
}

static int recv(Rank *r, int src, CommTag tag, Tensor t)
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

static int expect(Rank *r, int src, CommTag tag, Tensor t)
{
    return !r->comm || src == r->index ? 0 : avt_comm_expect(r->comm, r->be, src, tag, t);
}

/* What has been embedded, from who hands it to us, and on: down our column of the pipe, from the first rank to its team as well. */
static int take_embedded(Rank *r, CommTag tag, Tensor t)
{
    return recv(r, begins(r->place) ? r->index - r->place->part : r->place->prev, tag, t);
}

static int hand_on(Rank *r, CommTag tag, Tensor t)
{
    int ret = 0;

    for (int k = 1; k < r->place->nb_parts && encodes(r->place) && ret >= 0; k++)
        ret = send(r, r->index + k, tag, t);
    return ret < 0 || ends(r->place) ? ret : send(r, r->place->next, tag, t);
}

/* ---- before the first command ----------------------------------------------------------------------------------------- */

static int prepare_time(Rank *r, DitTime *t, float at)
{
    const int ret = encodes(r->place) ? avt_dit_time(r->be, r->scratch, &r->dit, t, at) : take_embedded(r, TAG_TIME, t->both);

    if (ret >= 0 && !encodes(r->place))
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

/* ---- picture --------------------------------------------------------------------------------------------------------- */

/* The conductor's 8 bits -> px [1, H, W, 3]. */
static int take_still(Rank *r, Tensor px)
{
    const size_t mark = avt_arena_mark(r->scratch);
    const Tensor u8 = avt_new_dims(r->scratch, DT_U8, px.nd, px.dim);
    const int ret = recv(r, conductor(r), TAG_IMAGE, u8);

    avt_picture(r->be, px, u8);
    avt_arena_release(r->scratch, mark);
    return ret;
}

/* All 19 latents of the still px: out [19, 16, H, W]. They differ: the last box to settle sees 73 frames of its past. */
static int encode_still(Rank *r, Tensor out, Tensor px)
{
    const DitShape *s = &r->set->shape;
    VaeState enc;
    const int ret = avt_vae_state_open(&enc, r->scratch, &r->w->vae, VAE_ENCODER, s->H, s->W);

    return ret < 0 ? ret : avt_vae_encode_still(r->be, r->scratch, &r->w->vae, &enc, out, px);
}

/* back [H, W, 3] is the picture px as the VAE gives it back: a picture of a kind that the model does not know comes back badly, and its film
 * stands still or melts. PSNR, measured on nano: its own kind of drawings 34 to 36 dB, much larger or smaller in the frame 32, photographs
 * 20 to 27. */
#define KNOWN_PICTURE_DB 28.0

static int judge_picture(const Rank *r, Tensor px, Tensor back)
{
    const int64_t n = avt_numel(px);
    float *v = avt_malloc(MEM_SESSION, 2 * (size_t)n * sizeof(*v));
    double sum = 1e-9, db;
    int ret = v ? avt_download(r->be, v, px) : AVT_ERR(ENOMEM);

    if (ret >= 0)
        ret = avt_download(r->be, v + n, back);
    for (int64_t i = 0; i < n && ret >= 0; i++)
        sum += (double)(v[n + i] - v[i]) * (v[n + i] - v[i]);
    db = 10 * log10(4 * (double)n / sum);
    if (ret >= 0 && r->set->hooks.returned)
        r->set->hooks.returned(r->set->hooks.opaque, v, v + n, n);
    if (ret >= 0 && !(db >= KNOWN_PICTURE_DB))
        avt_log(r->set->log, LOG_WARNING, "the picture is of a kind that the model does not know (its VAE gives it back with %.1f dB, from %.0f dB "
                "on films come out well): the film may stand still or melt; take another picture or model", db, KNOWN_PICTURE_DB);
    avt_free(v);
    return ret;
}

/* All rows of a frame, of which each part of the decoder has made some. */
static Tensor whole_frame(Rank *r, Tensor px)
{
    const DitShape *s = &r->set->shape;
    const TeamCut cut = { 1, { s->H } };
    Tensor all;

    if (r->dec.team.nb == 1)
        return px;
    all = avt_new(r->scratch, DT_F32, s->H, 64 * s->W * 3);
    avt_team_gather(&r->dec.team, r->be, all, avt_view(px, r->dec.own, 64 * s->W * 3), &cut);
    return avt_view(all, 8 * s->H, 8 * s->W, 3);
}

/* still: of the rank that encodes */
static int prime_decoder(Rank *r, Tensor z, Tensor still)
{
    const DitShape *s = &r->set->shape;
    int ret = 0;

    avt_vae_state_reset(&r->dec);
    for (int t = 0; t < PRIME_LATENTS && ret >= 0; t++) {
        const size_t mark = avt_arena_mark(r->scratch);
        const Tensor px = avt_new(r->scratch, DT_F32, t ? 4 : 1, 8 * r->dec.own, 8 * s->W, 3);

        ret = avt_vae_decode(r->be, r->scratch, &r->w->vae, &r->dec, px, avt_rows(z, t, 1), NULL);
        if (ret >= 0 && t == PRIME_LATENTS - 1) {
            const Tensor back = whole_frame(r, avt_at(px, 3));

            if (encodes_pictures(r) && !avt_backend_is_dry(r->be))
                ret = judge_picture(r, still, back);
        }
        avt_arena_release(r->scratch, mark);
    }
    return ret;
}

static int show_picture(Rank *r, Tensor z)
{
    const int64_t one = avt_numel(z) / DIT_MOTION;
    float *v;
    int ret;

    if (!r->set->hooks.picture)
        return 0;
    v = avt_malloc(MEM_SESSION, avt_nbytes(z));
    if (!v)
        return AVT_ERR(ENOMEM);
    ret = avt_download(r->be, v, z);
    if (ret >= 0)
        r->set->hooks.picture(r->set->hooks.opaque, v, one, v, DIT_MOTION * one);
    avt_free(v);
    return ret;
}

/* The picture's latents are there: all are motion, the first is the reference as well. */
static int take_picture(Rank *r)
{
    avt_copy(r->be, r->ref, avt_rows(r->motion, 0, 1));
    return r->be->status;
}

/* The picture's latents, to every first rank and to the other parts of the VAE. */
static int send_picture(Rank *r, Tensor z)
{
    const Plan *p = r->set->plan;
    int ret = 0;

    for (int i = 0; i < p->nb_ranks && ret >= 0; i++)
        if (i != r->index && (begins(&p->rank[i]) || p->rank[i].vae))
            ret = send(r, i, TAG_PICTURE, z);
    return ret;
}

static int encode_picture(Rank *r, Tensor z, Tensor px)
{
    int ret = take_still(r, px);

    if (ret >= 0)
        ret = encode_still(r, z, px);
    if (ret >= 0)
        ret = show_picture(r, z);
    return ret < 0 ? ret : send_picture(r, z);
}

/* The VAE's first rank encodes the picture; first ranks of pipes and the VAE's others take what comes of it. */
static int do_picture(Rank *r, const Cmd *c)
{
    const DitShape *s = &r->set->shape;
    Tensor px = AVT_NONE, z;
    int ret;

    if (!r->place->vae && !begins(r->place))
        return 0;
    if (encodes_pictures(r))
        px = avt_new(r->scratch, DT_F32, 1, 8 * s->H, 8 * s->W, 3);
    z = begins(r->place) ? r->motion : avt_new(r->scratch, DT_F32, DIT_MOTION, LATENT, s->H, s->W);
    ret = encodes_pictures(r) ? encode_picture(r, z, px) : recv(r, r->set->plan->vae_rank, TAG_PICTURE, z);
    if (ret >= 0 && begins(r->place))
        ret = take_picture(r);
    return ret < 0 || !c->prime || !r->place->vae ? ret : prime_decoder(r, z, px);
}

/* ---- text and sink --------------------------------------------------------------------------------------------------- */

static int take_text(Rank *r, const Cmd *c, Tensor embedded)
{
    const Tensor context = avt_new(r->scratch, DT_F32, c->rows, r->dit.cfg.text_dim);
    const int ret = recv(r, conductor(r), TAG_TEXT, context);

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
    ret = encodes(r->place) ? take_text(r, c, e) : take_embedded(r, TAG_TEXT, e);
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
        return begins(r->place) ? recv(r, owner, TAG_REFERENCE, r->ref) : 0;
    avt_copy(r->be, r->ref, r->ref_next);
    for (int i = 0; i < p->nb_ranks && ret >= 0; i++)
        if (i != r->index && begins(&p->rank[i]) && p->rank[i].part == r->place->part)
            ret = send(r, i, TAG_REFERENCE, r->ref);
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
    ret = begins(r->place) ? avt_dit_embed_sink(r->be, r->scratch, &r->dit, item.x, r->ref, r->motion)
                           : recv(r, r->place->prev, TAG_TOKENS, item.x);
    if (ret >= 0)
        ret = avt_dit_layers(r->be, r->scratch, &r->dit, &item, 1);
    if (ret >= 0 && !ends(r->place))
        ret = send(r, r->place->next, TAG_TOKENS, item.x);
    return ret;
}

/* ---- waves --------------------------------------------------------------------------------------------------------------- */

static Tensor latent_of(Rank *r, int64_t block)
{
    return avt_at(r->latent, block % r->nb_slots);
}

/* r->noise, unless it is there. */
static void make_noise(Rank *r, int64_t block, uint64_t seed)
{
    const DitShape *s = &r->set->shape;

    if (avt_backend_is_dry(r->be) || (r->noise_block == block && r->noise_seed == seed))
        return;
    if (r->set->hooks.noise)
        r->set->hooks.noise(r->set->hooks.opaque, r->noise, DIT_BLOCK * LATENT * s->H * s->W, block);
    else
        avt_noise(r->noise, DIT_BLOCK, LATENT, s->H * s->W, seed, block);
    r->noise_block = block;
    r->noise_seed = seed;
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
    if (!it->step && avt_rank_draws_noise(r)) {
        make_noise(r, it->block, it->seed);
        avt_upload(r->be, latent_of(r, it->block), r->noise);
    }
    if (!begins(r->place))
        return recv(r, r->place->prev, TAG_TOKENS, item->x);
    if (it->step)
        ret = recv(r, last_of(r, it->step - 1), TAG_LATENTS, latent_of(r, it->block));
    return ret < 0 ? ret : avt_dit_embed_block(r->be, r->scratch, d, item->x, latent_of(r, it->block), AVT_NONE);
}

static int send_result(Rank *r, int step, Tensor x)
{
    const Plan *p = r->set->plan;
    int ret = 0;

    for (int i = p->vae_rank; i < p->vae_rank + p->vae_parts && ret >= 0; i++)
        if (gives_result(r, step, i) == r->index)
            ret = send(r, i, TAG_RESULT, x);
    return ret;
}

/* Last rank: velocity, Euler step, latents to whom they concern next. Others: tokens to the next rank. */
static int end_item(Rank *r, const CmdItem *it, DitItem *item)
{
    const RankSetup *set = r->set;
    const Schedule *sch = &set->schedule;
    const Tensor x = latent_of(r, it->block);
    Tensor v;
    int ret;

    if (!ends(r->place))
        return send(r, r->place->next, TAG_TOKENS, item->x);
    v = avt_new(r->scratch, DT_F32, DIT_BLOCK, LATENT, set->shape.H, set->shape.W);
    ret = avt_dit_head(r->be, r->scratch, &r->dit, v, item->x, item->time);
    avt_axpy(r->be, x, 1, x, sch->sigma[it->step + 1] - sch->sigma[it->step], v);
    if (ret >= 0 && it->step + 1 < set->plan->steps)
        return send(r, first_of(r, it->step + 1), TAG_LATENTS, x);
    if (ret >= 0 && !it->block)
        avt_copy(r->be, r->ref_next, avt_rows(x, 0, 1));            // for the sink of blocks from 4 on
    return ret < 0 ? ret : send_result(r, it->step, x);
}

/* The latents that this item will end with, if their next step begins here: their sender then need not wait for the next wave. */
static int expect_latents(Rank *r, const CmdItem *it)
{
    if (it->step + 1 == r->set->plan->steps || first_of(r, it->step + 1) != r->index)
        return 0;
    return expect(r, last_of(r, it->step), TAG_LATENTS, latent_of(r, it->block));
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

/* How many latents of a finished block are NaN or infinite, counted before it was decoded, asked for when its frames are there: the host waits
 * once a block. Some are: say so, and the block is not shown. */
static int check_finite(Rank *r, Tensor count, Tensor z, int64_t block)
{
    int32_t bad = 0;
    const int ret = avt_download(r->be, &bad, count);

    if (ret < 0 || !bad)
        return ret;
    return avt_fail(r->set->log, AVT_INVALID, "block %lld: %d of %lld latents are not finite; the weights do not fit this network, or the "
                    "sound is far too loud", (long long)block, (int)bad, (long long)avt_numel(z));
}

static int show(Rank *r, void (*see)(void *, int64_t, const float *, int64_t), int64_t block, Tensor t)
{
    int ret;

    if (!see)
        return 0;
    ret = avt_download(r->be, r->host, t);
    if (ret >= 0)
        see(r->set->hooks.opaque, block, r->host, avt_numel(t));
    return ret;
}

/* VAE rank: a finished block's latents -> 12 frames, or a part's rows of them -> the conductor. */
static int decode_block(Rank *r, const CmdItem *it)
{
    const DitShape *s = &r->set->shape;
    const size_t mark = avt_arena_mark(r->scratch);
    const int64_t rows = 8 * r->dec.own, size = avt_pixels_size(r->set->format, rows, 8 * s->W);
    Tensor z = ends(r->place) ? latent_of(r, it->block) : avt_new(r->scratch, DT_F32, DIT_BLOCK, LATENT, s->H, s->W);
    const Tensor u8 = avt_new(r->scratch, DT_U8, BLOCK_FRAMES, size);
    const Tensor px = avt_new(r->scratch, DT_F32, BLOCK_FRAMES, rows, 8 * s->W, 3), bad = avt_new(r->scratch, DT_I32, 1);
    const RankStage stage = avt_rank_stage(r, STAGE_DECODE);
    int ret = recv(r, gives_result(r, it->step, r->index), TAG_RESULT, z);

    avt_count_nonfinite(r->be, bad, z);
    if (ret >= 0 && encodes_pictures(r))
        ret = show(r, r->set->hooks.latents, it->block, z);
    if (ret >= 0)
        ret = avt_vae_decode(r->be, r->scratch, &r->w->vae, &r->dec, px, z, NULL);
    avt_pixels(r->be, u8, px, r->set->format);
    if (ret >= 0 && encodes_pictures(r))
        ret = check_finite(r, bad, z, it->block);
    if (ret >= 0)
        ret = show(r, r->set->hooks.pixels, it->block, px);
    if (ret >= 0)
        ret = send(r, conductor(r), TAG_FRAMES, u8);
    avt_rank_stage(r, stage);
    avt_arena_release(r->scratch, mark);
    return ret;
}

static int take_features(Rank *r, DitAudio *out)
{
    const DitConfig *cfg = &r->dit.cfg;
    const Tensor rows = avt_new(r->scratch, DT_F32, 1, BLOCK_FRAMES, cfg->nb_audio_layers, cfg->audio_dim);
    const int ret = recv(r, conductor(r), TAG_SOUND, rows);

    return ret < 0 ? ret : avt_dit_audio(r->be, r->scratch, &r->dit, out, rows);
}

/* The first rank of a pipe encodes the block's features; what comes of them is handed on. */
static int take_sound(Rank *r, int64_t block)
{
    DitAudio *o = &r->audio[block % r->nb_slots];
    const RankStage stage = avt_rank_stage(r, STAGE_SOUND);
    int ret = encodes(r->place) ? take_features(r, o) : take_embedded(r, TAG_SOUND, o->both);

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
                ret = decode_block(r, &c->item[j]);
    }
    return ret;
}

/* ---- the walk --------------------------------------------------------------------------------------------------------------- */

int avt_rank_obey(Rank *r, const Cmd *c)
{
    static int (*const deed[])(Rank *, const Cmd *) = {
        [CMD_PICTURE] = do_picture, [CMD_TEXT] = do_text, [CMD_SINK] = do_sink, [CMD_WAVE] = do_wave,
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
