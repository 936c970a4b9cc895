/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Text and sound in front of the transformer. See front.h. */
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "engine/room.h"

/* ---- the work: for good, or on `dry` with `out` NULL ------------------------------------------------------------------------ */

static int encode_ids(Front *f, float *out, const int32_t *ids, int64_t nb)
{
    const size_t mark = avt_arena_mark(f->scratch);
    const Tensor context = avt_new(f->scratch, DT_F32, nb, f->w->t5.cfg.dim);
    int ret = avt_umt5_encode(f->be, f->copy, f->scratch, &f->w->t5, context, ids, nb, nb);

    if (ret >= 0 && out)
        ret = avt_download(f->be, out, context);
    avt_arena_release(f->scratch, mark);
    return ret;
}

/* The rows of frames `first` .. `first + nb - 1`, which lie in one block. */
static int pick_rows(Backend *be, Arena *scratch, const Piece *p, Tensor hidden, float *out, int64_t first, int64_t nb, int compat)
{
    const size_t mark = avt_arena_mark(scratch);
    const Tensor rows = avt_new(scratch, DT_F32, nb, hidden.dim[0], hidden.dim[2]);
    int ret;

    if (compat)
        ret = avt_features_pick(be, scratch, rows, hidden, first, FEATURES_UPSTREAM);
    else
        ret = avt_features_pick_window(be, scratch, rows, hidden, first, p->begin / WAV2VEC2_HOP);
    if (ret >= 0 && out)
        ret = avt_download(be, out, rows);
    avt_arena_release(scratch, mark);
    return ret;
}

static int encode_piece(Backend *be, Arena *scratch, const Wav2Vec2 *w, const Piece *p, const float *pcm, float *out, int64_t room, int compat)
{
    const size_t mark = avt_arena_mark(scratch);
    const int64_t layers = w->cfg.nb_layers + 1, end = p->first + p->nb;
    const Tensor hidden = avt_new(scratch, DT_F32, layers, avt_wav2vec2_frames(p->n), w->cfg.dim);
    int ret = avt_wav2vec2_encode(be, scratch, w, hidden, pcm, p->n);

    for (int64_t i = p->first, nb; i < end && ret >= 0; i += nb) {
        nb = BLOCK_FRAMES - i % BLOCK_FRAMES < end - i ? BLOCK_FRAMES - i % BLOCK_FRAMES : end - i;
        ret = pick_rows(be, scratch, p, hidden, out ? out + i % room * layers * w->cfg.dim : NULL, i, nb, compat);
    }
    avt_arena_release(scratch, mark);
    return ret;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------------- */

static int bind(FrontWeights *w, const PlanSizes *sizes, const FrontFiles *files, const Log *log)
{
    Binder b;
    int ret = avt_binder_open(&b, files->wav2vec2, NULL, w->arena, "wav2vec2", DT_F32, log);

    b.cancel = files->cancel;
    b.loading = files->loading;
    if (ret >= 0)
        ret = avt_wav2vec2_open(&w->wav2vec2, &sizes->wav2vec2, &b);
    avt_binder_close(&b);
    return ret;
}

static int is_host(const char *device)
{
    return avt_device_kind(device, strlen(device)) == DEVICE_HOST;
}

size_t avt_front_keep(int64_t left)
{
    return left > 0 ? (size_t)left / 4 : 0;
}

int avt_front_weights_open(FrontWeights *w, const PlanSizes *sizes, const FrontFiles *files, size_t keep, const BackendOptions *opt,
                           const char *device, size_t capacity)
{
    int ret = avt_backend_open(&w->be, device, opt);

    if (ret >= 0)
        ret = avt_arena_open(&w->arena, w->be, "front weights", capacity);
    if (ret >= 0)
        ret = bind(w, sizes, files, opt->log);
    if (ret >= 0)
        ret = avt_umt5_open(&w->t5, &sizes->umt5, files->t5, w->be, keep, is_host(avt_backend_is_dry(w->be) ? w->be->plan_for : device));
    if (ret >= 0)
        ret = avt_sync(w->be);
    if (ret < 0)
        avt_front_weights_close(w);
    return ret;
}

void avt_front_weights_close(FrontWeights *w)
{
    avt_wav2vec2_close(&w->wav2vec2);
    avt_umt5_close(&w->t5);
    if (w->be)
        avt_arena_close(&w->arena);
    avt_backend_close(&w->be);
}

int avt_front_open(Front *f, const FrontSetup *set, const FrontWeights *w, const BackendOptions *opt, const char *device,
                   const PlanMemory *room)
{
    int ret;

    *f = (Front){ .set = *set, .w = w, .opt = *opt, .room = *room };
    ret = avt_backend_open(&f->be, device, opt);
    if (ret < 0)
        return ret;
    pthread_mutex_init(&f->lock, NULL);
    f->be->cancel = set->cancel;
    f->copy = f->be;
    if (!avt_backend_is_dry(f->be) && !is_host(device))
        ret = avt_backend_open(&f->copy, device, opt);
    if (ret >= 0)
        ret = avt_arena_open(&f->scratch, f->be, "front scratch", room->scratch);
    if (ret >= 0)
        ret = avt_workspace_open(f->be, room->workspace);
    if (ret < 0)
        avt_front_close(f);
    return ret;
}

void avt_front_close(Front *f)
{
    if (!f->be)
        return;
    avt_arena_close(&f->scratch);
    if (f->copy != f->be)
        avt_backend_close(&f->copy);
    avt_backend_close(&f->be);
    pthread_mutex_destroy(&f->lock);
}

/* ---- rehearsal ------------------------------------------------------------------------------------------------------------------ */

static int rehearse(Front *f)
{
    const Piece p = { .n = f->set.samples, .nb = BLOCK_FRAMES };    // every block's rows take the same room
    int ret = 0;

    if (p.n)
        ret = encode_piece(f->be, f->scratch, &f->w->wav2vec2, &p, NULL, NULL, BLOCK_FRAMES, f->set.compat);
    if (ret >= 0 && f->set.tokens)
        ret = encode_ids(f, NULL, NULL, f->set.tokens);
    return ret;
}

int avt_front_measure(PlanMemory *m, const FrontSetup *set, const char *device, const BackendOptions *opt, OpStat *stat)
{
    BackendOptions dry = *opt;
    FrontSetup quiet = *set;
    FrontWeights w = { 0 };
    Front f;
    int ret;

    dry.plan_for = device;
    quiet.cancel = NULL;
    memset(m, 0, sizeof(*m));
    ret = avt_front_weights_open(&w, set->sizes, &(FrontFiles){ .t5 = NULL }, set->keep, &dry, "dry", ARENA_UNLIMITED);
    if (ret < 0)
        return ret;
    ret = avt_front_open(&f, &quiet, &w, &dry, "dry", &(PlanMemory){ .scratch = ARENA_UNLIMITED });
    if (ret >= 0) {
        ret = rehearse(&f);
        *m = (PlanMemory){ .weights = avt_arena_peak(w.arena) + (is_host(device) ? avt_shelf_planned(w.t5.shelf) : 0), .scratch = avt_arena_peak(f.scratch), .workspace = f.be->workspace_peak };
        if (stat)
            memcpy(stat, f.be->stat, sizeof(f.be->stat));
        avt_front_close(&f);
    }
    avt_front_weights_close(&w);
    return ret;
}

int avt_front_reserve(Front *f, int64_t samples, size_t result)
{
    FrontSetup set = f->set;
    Room room = { .nb = 0 };
    char who[128];
    PlanMemory m;
    int ret;

    set.samples = samples;
    ret = avt_front_measure(&m, &set, f->be->device, &f->opt, NULL);
    if (ret < 0 || (m.scratch <= f->room.scratch && m.workspace <= f->room.workspace))
        return ret;
    avt_room_add(&room, f->be->device, m.scratch + m.workspace);
    avt_room_add(&room, "cpu", result);
    snprintf(who, sizeof(who), "the speech encoder (compat=upstream takes the sound whole): %.0f s need", (double)samples / AVATAR_SAMPLE_RATE);
    ret = avt_room_check(&room, who, "take a shorter sound", f->set.log);
    if (ret < 0)
        return ret;
    pthread_mutex_lock(&f->lock);
    avt_arena_close(&f->scratch);
    f->room = m;
    ret = avt_arena_open(&f->scratch, f->be, "front scratch", m.scratch);
    if (ret >= 0)
        ret = avt_workspace_open(f->be, m.workspace);
    pthread_mutex_unlock(&f->lock);
    return ret;
}

/* ---- text ------------------------------------------------------------------------------------------------------------------------- */

static int encode_tokens(Front *f, float **context, int64_t *rows, const int32_t *ids, int nb)
{
    float *out = avt_malloc(MEM_SESSION, sizeof(float) * (size_t)nb * (size_t)f->w->t5.cfg.dim);
    int ret;

    if (!out)
        return AVT_ERR(ENOMEM);
    pthread_mutex_lock(&f->lock);
    ret = f->scratch ? encode_ids(f, out, ids, nb) : AVT_ERR(ENOMEM);
    pthread_mutex_unlock(&f->lock);
    if (ret < 0) {
        avt_free(out);
        return ret;
    }
    *context = out;
    *rows = nb;
    return 0;
}

int avt_front_text(Front *f, const Tokenizer *tokenizer, float **context, int64_t *rows, const char *prompt)
{
    const int max = f->set.tokens;
    const Log *log = f->set.log;
    int32_t *ids = avt_malloc(MEM_SESSION, sizeof(*ids) * (size_t)max);
    char *clean = NULL;
    int64_t left_out = 0;
    int ret = ids ? avt_text_clean(&clean, prompt, log) : AVT_ERR(ENOMEM);

    if (ret >= 0)
        ret = avt_ckpt_intact(f->w->t5.ckpt, log);                       // it is read for as long as the engine lives
    if (ret >= 0)
        ret = avt_tokenizer_encode(tokenizer, ids, max, clean, &left_out);
    if (ret == AVT_ERR(ENOMEM))
        avt_fail(log, ret, "prompt: there is no memory left for its tokens");
    if (ret >= 0 && left_out)
        avt_log(log, LOG_WARNING, "prompt: the model reads %d tokens; the last %lld of %lld are left out", max, (long long)left_out,
                (long long)(max + left_out));
    if (ret >= 0)
        ret = encode_tokens(f, context, rows, ids, ret);
    avt_free(clean);
    avt_free(ids);
    return ret;
}

/* ---- sound ------------------------------------------------------------------------------------------------------------------------ */

int64_t avt_front_upstream_rows(int64_t n)
{
    return 48 * avt_features_clips(avt_features_len30(avt_wav2vec2_frames(n)), 48, AVATAR_FPS);
}

int avt_front_rows(Front *f, const Piece *p, const float *pcm, float *out, int64_t room)
{
    int ret;

    AVT_REQUIRE(f->set.log, room % BLOCK_FRAMES == 0 && p->nb <= room && p->begin % WAV2VEC2_HOP == 0);
    if (f->set.compat && p->n < 400)
        return avt_fail(f->set.log, AVT_ERR(EINVAL), "compat=upstream: %lld samples are fewer than the 400 that the original needs", (long long)p->n);
    pthread_mutex_lock(&f->lock);
    ret = f->scratch ? encode_piece(f->be, f->scratch, &f->w->wav2vec2, p, pcm, out, room, f->set.compat) : AVT_ERR(ENOMEM);
    pthread_mutex_unlock(&f->lock);
    return ret;
}
