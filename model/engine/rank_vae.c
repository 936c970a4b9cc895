/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a rank of the VAE does: the picture becomes latents, and primes the decoder; finished blocks become frames.
 */
#include <math.h>

#include "engine/rank_place.h"

/* ---- picture --------------------------------------------------------------------------------------------------------- */

/* The conductor's 8 bits -> px [1, H, W, 3]. */
static int take_still(Rank *r, Tensor px)
{
    const size_t mark = avt_arena_mark(r->scratch);
    const Tensor u8 = avt_new_dims(r->scratch, DT_U8, px.nd, px.dim);
    const int ret = avt_rank_recv(r, avt_rank_conductor(r), TAG_IMAGE, u8);

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

            if (avt_rank_encodes_pictures(r) && !avt_backend_is_dry(r->be))
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
        if (i != r->index && (avt_rank_begins(&p->rank[i]) || p->rank[i].vae))
            ret = avt_rank_send(r, i, TAG_PICTURE, z);
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

int avt_rank_picture(Rank *r, const Cmd *c)
{
    const DitShape *s = &r->set->shape;
    Tensor px = AVT_NONE, z;
    int ret;

    if (!r->place->vae && !avt_rank_begins(r->place))
        return 0;
    if (avt_rank_encodes_pictures(r))
        px = avt_new(r->scratch, DT_F32, 1, 8 * s->H, 8 * s->W, 3);
    z = avt_rank_begins(r->place) ? r->motion : avt_new(r->scratch, DT_F32, DIT_MOTION, LATENT, s->H, s->W);
    ret = avt_rank_encodes_pictures(r) ? encode_picture(r, z, px) : avt_rank_recv(r, r->set->plan->vae_rank, TAG_PICTURE, z);
    if (ret >= 0 && avt_rank_begins(r->place))
        ret = take_picture(r);
    return ret < 0 || !c->prime || !r->place->vae ? ret : prime_decoder(r, z, px);
}

/* ---- finished blocks -------------------------------------------------------------------------------------------------------- */

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

int avt_rank_decode(Rank *r, const CmdItem *it)
{
    const DitShape *s = &r->set->shape;
    const size_t mark = avt_arena_mark(r->scratch);
    const int64_t rows = 8 * r->dec.own, size = avt_pixels_size(r->set->format, rows, 8 * s->W);
    Tensor z = avt_rank_ends(r->place) ? avt_rank_latent(r, it->block) : avt_new(r->scratch, DT_F32, DIT_BLOCK, LATENT, s->H, s->W);
    const Tensor u8 = avt_new(r->scratch, DT_U8, BLOCK_FRAMES, size);
    const Tensor px = avt_new(r->scratch, DT_F32, BLOCK_FRAMES, rows, 8 * s->W, 3), bad = avt_new(r->scratch, DT_I32, 1);
    const RankStage stage = avt_rank_stage(r, STAGE_DECODE);
    int ret = avt_rank_recv(r, avt_rank_gives_result(r, it->step, r->index), TAG_RESULT, z);

    avt_count_nonfinite(r->be, bad, z);
    if (ret >= 0 && avt_rank_encodes_pictures(r))
        ret = show(r, r->set->hooks.latents, it->block, z);
    if (ret >= 0)
        ret = avt_vae_decode(r->be, r->scratch, &r->w->vae, &r->dec, px, z, NULL);
    avt_pixels(r->be, u8, px, r->set->format);
    if (ret >= 0 && avt_rank_encodes_pictures(r))
        ret = check_finite(r, bad, z, it->block);
    if (ret >= 0)
        ret = show(r, r->set->hooks.pixels, it->block, px);
    if (ret >= 0)
        ret = avt_rank_send(r, avt_rank_conductor(r), TAG_FRAMES, u8);
    avt_rank_stage(r, stage);
    avt_arena_release(r->scratch, mark);
    return ret;
}
