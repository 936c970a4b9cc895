/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Session: one stream. The caller's side: sound in, frames out, changes, abort. The work is the conductor's (conductor.c), in
 * a thread of its own, and the ranks', in theirs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/choose.h"
#include "engine/look.h"
#include "engine/orders.h"
#include "engine/room.h"
#include "engine/structs.h"
#include "engine/threads.h"

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

int avatar_engine_size(const AvatarEngine *e, const AvatarLook *look, int *width, int *height)
{
    AvatarLook own;
    int ret;

    if (avt_in_callback())
        return AVT_ERR(EDEADLK);
    ret = avt_look_take(&own, look, &e->log);
    return ret < 0 ? ret : avt_settle_size(width, height, &e->core->dir, e->core->compat, &own, &e->log);
}

int avatar_engine_device(const AvatarEngine *e)
{
    const PlanRank *vae = &e->core->plan.rank[e->core->plan.vae_rank];
    char name[PLAN_DEVICE];

    if (avt_in_callback())
        return AVT_ERR(EDEADLK);
    if (avt_device_kind(vae->device, strlen(vae->device)) == DEVICE_CUDA && vae->process == e->core->process)
        return atoi(vae->device + strlen("cuda"));
    return avt_fail(&e->log, AVT_ERR(ENOSYS), "frames cannot stay on a GPU: pictures are decoded on %s; give a GPU of this process with vae_device or devices "
                    "(cuda0), or take frames in host memory", avt_plan_device(&e->core->plan, e->core->plan.vae_rank, name));
}

/* Find the memory of each rank and of the front on `dry`; refuse what the devices have not left. */
static int plan_memory(AvatarSession *s)
{
    const Core *c = s->e->core;
    const PlanMemory *m = s->crew.planned;
    char text[160], who[256], remedy[256];
    Room room = { .nb = 0 };
    Shelf *shelf = c->front.t5.shelf;
    BackendOptions opt = avt_core_backend(c, 1, &s->e->log);
    int ret;

    opt.threads = c->plan.front_threads;
    ret = avt_front_measure(&s->front_planned, &s->front_set, c->plan.front_device, &opt, NULL);
    if (ret < 0)
        return ret;
    s->info.scratch_bytes += (int64_t)(s->front_planned.scratch + s->front_planned.workspace);
    avt_room_add(&room, c->plan.front_device, s->front_planned.scratch + s->front_planned.workspace);
    avt_room_add(&room, c->plan.front_device, 0);                   // its second queue, which umT5's layers come on
    avt_room_add(&room, "cpu", avt_shelf_planned(shelf) - avt_shelf_used(shelf));
    ret = avt_crew_measure(&s->crew);
    if (ret < 0)
        return ret;
    for (int r = 0; r < c->plan.nb_ranks; r++, m++) {
        s->info.state_bytes += (int64_t)(m->state + m->messages);
        s->info.scratch_bytes += (int64_t)(m->scratch + m->workspace);
    }
    avt_crew_room(&s->crew, &room);
    avt_room_add(&room, avt_frames_device(&s->crew), avt_frames_bytes(&s->crew));
    avt_room_add(&room, "cpu", (size_t)avt_sound_bytes(&s->sound));
    snprintf(who, sizeof(who), "%dx%d with %s takes", s->info.width, s->info.height, avt_plan_text(&c->plan, text, sizeof(text)));
    if (avt_room_check(&room, who, "", NULL) >= 0)
        return 0;
    if (!avt_choose_instead(remedy, sizeof(remedy), c, s->info.width, s->info.height, &s->e->log))
        snprintf(remedy, sizeof(remedy), "choose a smaller size=");
    return avt_room_check(&room, who, remedy, &s->e->log);
}

static int open_front(AvatarSession *s)
{
    const Core *c = s->e->core;
    const BackendOptions opt = avt_core_backend(c, c->plan.front_threads, &s->e->log);

    return avt_front_open(&s->front, &s->front_set, &c->front, &opt, c->plan.front_device, &s->front_planned);
}

static void set_sound(AvatarSession *s, const AvatarLook *look)
{
    const Core *c = s->e->core;
    Sound *o = &s->sound;

    o->lock = &s->lock;
    o->change = &s->change;
    o->cancel = &s->cancel;
    o->log = &s->e->log;
    o->front = &s->front;
    o->live = look->mode == AVATAR_LIVE;
    o->compat = c->compat;
    o->tail = look->tail;
    o->lookahead = (look->latency_ms < 0 ? LIVE_LATENCY_MS : look->latency_ms) * (AVATAR_SAMPLE_RATE / 1000);
    o->given = s->hooks.features;
    o->nb_given = s->hooks.nb_rows;
    o->row_size = (int64_t)c->sizes.dit.nb_audio_layers * c->sizes.dit.audio_dim;
    s->front_set = (FrontSetup){ .sizes = &c->sizes, .samples = avt_sound_piece(o->live, o->lookahead), .tokens = c->sizes.dit.text_len,
                                 .keep = c->keep, .compat = c->compat, .cancel = &s->cancel, .log = &s->e->log };
}

static void set_late(AvatarSession *s, int late, int max_late_ms)
{
    s->sound.late = late;
    s->sound.max_late = (max_late_ms < 0 ? 2000 : max_late_ms) * (int64_t)(AVATAR_SAMPLE_RATE / 1000);
}

static int fill_session(AvatarSession *s, const AvatarLook *look, const SessionHooks *hooks)
{
    const Core *c = s->e->core;
    const char *prompt = look->prompt ? look->prompt : c->dir.prompt ? c->dir.prompt : DEFAULT_PROMPT;
    int ret = avt_look_check(look, c->compat, &s->e->log);

    if (ret >= 0 && look->on_device)
        ret = avatar_engine_device(s->e);
    if (ret >= 0)
        ret = avt_settle_size(&s->info.width, &s->info.height, &c->dir, c->compat, look, &s->e->log);
    if (ret < 0)
        return ret;
    if (!c->compat && c->dir.width > 0 && (c->dir.width != s->info.width || c->dir.height != s->info.height))
        avt_log(&s->e->log, LOG_WARNING, "size=%dx%d: %s is made for %dx%d; at another size its film may stand still or melt", s->info.width,
                s->info.height, c->dir.name ? c->dir.name : "this model", c->dir.width, c->dir.height);
    s->crew.core = c;
    s->crew.id = avt_plan_is_spread(&c->plan) ? avt_workers_name() : 0;
    s->hooks = hooks ? *hooks : (SessionHooks){ 0 };
    s->format = look->format;
    set_sound(s, look);
    set_late(s, look->late, look->max_late_ms);
    s->info.seed = s->next.seed = look->seed < 0 ? avt_draw_seed() : look->seed;
    s->info.steps = c->plan.steps;
    s->info.weight_bytes = c->weight_bytes;
    snprintf(s->info.precision, sizeof(s->info.precision), "%s", avt_precision_name(c->act, c->product));
    snprintf(s->info.kv, sizeof(s->info.kv), "%s", avt_kv_name(&c->plan, c->act));
    avt_plan_text(&c->plan, s->info.plan, sizeof(s->info.plan));
    s->next.picture = avt_look_picture(c, look, s->info.width, s->info.height);
    s->next.prompt = avt_strdup(MEM_SESSION, prompt);
    if (!s->next.picture || !s->next.prompt)
        return avt_fail(&s->e->log, AVT_ERR(ENOMEM), "no memory for a picture of %dx%d", s->info.width, s->info.height);
    s->crew.set = (RankSetup){ .plan = &c->plan, .schedule = c->schedule, .shape = avt_dit_shape(s->info.height / 8, s->info.width / 8),
                          .format = avt_look_format(look->format), .receiver = look->on_device ? c->plan.rank[c->plan.vae_rank].device : NULL,
                          .text_len = c->sizes.dit.text_len, .comm = s->hooks.comm, .hooks = s->hooks.rank,
                          .direct = avt_workers_direct(c, &s->e->log), .cancel = &s->cancel, .log = &s->e->log };
    if (!look->prompt && !c->dir.prompt)
        avt_log(&s->e->log, LOG_INFO, "prompt: \"%s\" (the default)", prompt);
    return 0;
}

int avt_session_open(AvatarSession **out, AvatarEngine *e, const AvatarLook *look, const SessionHooks *hooks)
{
    AvatarSession *s = avt_calloc(MEM_SESSION, 1, sizeof(*s));
    int ret;

    *out = NULL;
    if (!s)
        return AVT_ERR(ENOMEM);
    s->e = e;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->change, NULL);
    ret = avt_threads_begin(&e->log);
    if (ret >= 0)
        ret = fill_session(s, look, hooks);
    if (ret >= 0)
        ret = plan_memory(s);
    if (ret >= 0)
        ret = avt_stats_open(s, look->stats);
    if (ret >= 0)
        ret = open_front(s);
    if (ret >= 0)
        ret = avt_sound_open(&s->sound);
    if (ret >= 0)
        ret = avt_crew_open(&s->crew);
    if (ret >= 0)
        ret = avt_frames_open(&s->frames, &s->crew);
    if (ret >= 0)
        ret = avt_workers_open(&s->crew);
    if (ret >= 0)
        ret = avt_workers_start(&s->crew);
    if (ret >= 0)
        ret = avt_threads_start(s);
    if (ret < 0) {
        avatar_session_close(&s);
        return ret;
    }
    avt_log(&e->log, LOG_INFO, "%dx%d at 25 fps, seed %lld, %s, memory %.1f MB + weights %.1f MB", s->info.width, s->info.height,
            (long long)s->info.seed, s->info.plan, (double)(s->info.state_bytes + s->info.scratch_bytes) / 1e6, (double)s->info.weight_bytes / 1e6);
    *out = s;
    return 0;
}

int avatar_session_open(AvatarSession **s, AvatarEngine *e, const AvatarLook *look)
{
    AvatarLook own;
    int ret;

    *s = NULL;
    if (avt_in_callback())
        return AVT_ERR(EDEADLK);
    ret = avt_look_take(&own, look, &e->log);
    return ret < 0 ? ret : avt_session_open(s, e, &own, NULL);
}

void avatar_session_abort(AvatarSession *s)
{
    if (avt_threads_refuse(s) == AVT_ERR(ECHILD))
        return;
    __atomic_store_n(&s->cancel, 1, __ATOMIC_RELAXED);
    avt_crew_abort(&s->crew, AVT_ERR(ECANCELED));
    pthread_mutex_lock(&s->lock);
    if (s->status >= 0 && !s->finished)
        s->status = AVT_ERR(ECANCELED);
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
}

void avatar_session_close(AvatarSession **ps)
{
    AvatarSession *s = *ps;

    if (!s || avt_in_callback())
        return;
    if (avt_threads_refuse(s) < 0) {                                // its locks may be held by threads that are not here
        *ps = NULL;
        return;
    }
    avatar_session_abort(s);
    avt_threads_stop(s);
    avt_workers_close(&s->crew);
    avt_crew_sync(&s->crew);                                        // ranks and frames wait for each other's marks
    avt_frames_close(&s->frames);
    avt_crew_close(&s->crew);
    avt_stats_close(s);
    avt_sound_close(&s->sound);
    avt_front_close(&s->front);
    avt_changes_free(s);
    pthread_cond_destroy(&s->change);
    pthread_mutex_destroy(&s->lock);
    avt_freep(ps);
}

void avatar_session_info_sized(const AvatarSession *s, AvatarInfo *info, size_t size)
{
    avt_struct_give(info, size, &s->info, sizeof(s->info));
}

int64_t avt_session_bytes(const AvatarSession *s, int src, int dst)
{
    return avt_comm_bytes_to(s->crew.comm[src], dst);
}

PlanMemory avt_session_planned(const AvatarSession *s, int rank)
{
    return s->crew.planned[rank];
}

PlanMemory avt_session_measured(const AvatarSession *s, int rank)
{
    const Rank *r = &s->crew.rank[rank];
    PlanMemory m = { .state = avt_arena_peak(r->state), .scratch = avt_arena_peak(r->scratch), .workspace = r->be->workspace_peak,
                     .messages = avt_arena_peak(r->messages) };

    avt_rank_weights_count(&m, r->w);
    avt_rank_rings_count(&m, r);
    if (m.host)
        m.host = avt_shelf_used(r->w->dit.shelf) - avt_shelf_standing(r->w->dit.shelf);
    return m;
}

/* ---- sound in ------------------------------------------------------------------------------------------------------------- */

/* Index of the first sample that is no number, or -1. */
static int64_t find_nonfinite(const float *pcm, int64_t nb)
{
    for (int64_t i = 0; i < nb; i++) {
        uint32_t bits;

        memcpy(&bits, &pcm[i], sizeof(bits));           // a host may trap on arithmetic with what is no number
        if ((bits & 0x7f800000) == 0x7f800000)
            return i;
    }
    return -1;
}

/* A sentence on why the sound was not taken; `at`: samples that were there. */
static int refuse_sound(const AvatarSession *s, int code, int64_t at, int64_t nb, int64_t bad)
{
    if (code == AVT_ERR(ENOMEM))
        return avt_fail(&s->e->log, code, "no memory for %.0f s of sound", (double)(at + nb) / AVATAR_SAMPLE_RATE);
    if (nb < 0)
        return avt_fail(&s->e->log, code, "%lld samples of sound: 0 or more", (long long)nb);
    return avt_fail(&s->e->log, code, "sample %lld of the sound is not a finite number; repair the sound first", (long long)(at + bad));
}

int avatar_session_send(AvatarSession *s, const float *pcm, int64_t nb_samples)
{
    const int64_t bad = pcm ? find_nonfinite(pcm, nb_samples) : -1;
    int64_t at;
    int over, ret = avt_threads_refuse(s);

    if (ret < 0)
        return ret;
    pthread_mutex_lock(&s->lock);
    over = s->status < 0 ? s->status : s->sound.closed ? AVATAR_EOF : pcm && avt_sound_full(&s->sound) ? AVATAR_EAGAIN : 0;
    at = s->sound.start + s->sound.nb;
    if (nb_samples < 0 || bad >= 0)
        ret = AVT_ERR(EINVAL);
    else if (!over && pcm && nb_samples)
        ret = avt_sound_append(&s->sound, pcm, nb_samples);
    else if (!over && !pcm)
        s->sound.closed = 1;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    return over ? over : ret < 0 ? refuse_sound(s, ret, at, nb_samples, bad) : 0;      // said without the lock: the callback may abort
}

/* ---- frames out -------------------------------------------------------------------------------------------------------------- */

static void give_frame(AvatarSession *s, AvatarFrame *f)
{
    FrameBlock *b = &s->ready[s->head];

    memset(f, 0, sizeof(*f));
    avt_frames_describe(&s->frames, f, s->head, b->repeated ? 0 : b->next);
    f->format = s->format;
    f->index = b->index + b->next - b->first;
    f->repeated = b->repeated;
    f->block = b->block;
    f->seed = (int64_t)b->seed;
    f->prompt_id = b->prompt_id;
    f->compute_ms = b->next == b->first ? b->ms : 0;
    b->next++;
}

/* Not to be cancelled in it: the thread would take the lock along. */
static void wait_for_change(AvatarSession *s)
{
    int before;

    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    pthread_cond_wait(&s->change, &s->lock);
    pthread_setcancelstate(before, NULL);
}

int avatar_session_receive_sized(AvatarSession *s, AvatarFrame *frame, size_t size, int wait)
{
    AvatarFrame own;
    int ret = avt_threads_refuse(s);

    if (ret < 0)
        return ret;
    ret = 1;                                                                        // none yet: a failure may be any negative number
    pthread_mutex_lock(&s->lock);
    while (ret > 0) {
        if (s->nb_ready && s->ready[s->head].next == s->ready[s->head].end) {     // its last frame was in use until now
            s->head = (s->head + 1) % FRAME_QUEUE;
            s->nb_ready--;
            pthread_cond_broadcast(&s->change);
        }
        if (s->nb_ready && s->ready[s->head].next < s->ready[s->head].end) {
            give_frame(s, &own);
            ret = 0;
        } else if (s->nb_ready) {
            continue;
        } else if (s->status < 0 && (s->finished || s->cancel)) {
            ret = s->status;
        } else if (s->finished) {
            ret = AVATAR_EOF;
        } else if (!wait || (avt_sound_starved(&s->sound) && s->status >= 0)) {
            ret = AVATAR_EAGAIN;
        } else {
            wait_for_change(s);
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (!ret)
        avt_struct_give(frame, size, &own, sizeof(own));
    return ret;
}

/* ---- changes ------------------------------------------------------------------------------------------------------------------- */

/* Copies of what is to change. What was made is in *ch after an error as well. */
static int copy_change(const AvatarSession *s, Changes *ch, const AvatarLook *look)
{
    *ch = (Changes){ .seed = look->seed == -1 ? avt_draw_seed() : look->seed, .prompt_id = !!look->prompt };
    if (look->rgb && !(ch->picture = avt_look_picture(s->e->core, look, s->info.width, s->info.height)))
        return AVT_ERR(ENOMEM);
    if (look->prompt && !(ch->prompt = avt_strdup(MEM_SESSION, look->prompt)))
        return AVT_ERR(ENOMEM);
    return 0;
}

/* First block that sample `from` or what is behind it begins, and that has not started. */
static int64_t block_from(const AvatarSession *s, int64_t from)
{
    const int64_t block = from > 0 ? (from - 1) / BLOCK_SAMPLES + 1 : 0;

    return block > s->settled ? block : s->settled;
}

int avatar_session_set_at(AvatarSession *s, const AvatarLook *look, int64_t from, int64_t *frame)
{
    int ret = avt_threads_refuse(s);
    Changes ch = { 0 };
    AvatarLook own;
    int64_t block;

    if (ret >= 0)
        ret = avt_look_take(&own, look, &s->e->log);
    if (ret >= 0)
        ret = avt_change_check(&own, &s->e->log);
    if (ret < 0)
        return ret;
    ret = copy_change(s, &ch, &own);
    pthread_mutex_lock(&s->lock);
    block = block_from(s, from);
    if (frame)
        *frame = block ? block * BLOCK_FRAMES - (s->e->core->compat ? 3 : 0) : 0;
    if (ret >= 0 && (s->finished || block * BLOCK_FRAMES >= s->sound.nb_frames))
        ret = AVATAR_EOF;
    if (ret >= 0)
        ret = avt_changes_add(s, block, &ch);
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
    if (ret < 0) {
        avt_free(ch.picture);
        avt_free(ch.prompt);
    }
    return ret;
}

int avatar_session_set(AvatarSession *s, const AvatarLook *look)
{
    const int ret = avatar_session_set_at(s, look, 0, NULL);

    return ret == AVATAR_EOF ? 0 : ret;
}

int avatar_session_late(AvatarSession *s, int late, int max_late_ms)
{
    const int ret = avt_threads_refuse(s);

    if (ret < 0)
        return ret;
    if (avt_late_check(late, max_late_ms, &s->e->log) < 0)
        return AVT_ERR(EINVAL);
    pthread_mutex_lock(&s->lock);
    set_late(s, late, max_late_ms);
    pthread_mutex_unlock(&s->lock);
    return 0;
}
