/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The conductor's thread. A wave advances every block in flight by one step and may admit one more:
 *
 *   wave 0   (0,0)
 *   wave 1   (1,0) (0,1)                 by step, ascending: in a pipe of layers an item comes back S + 1 slots later
 *   wave 2   (2,0) (1,1) (0,2)
 *
 * A sequential plan is the same with one block in flight. When sound is missing the wave is sent without a new block, so items
 * in flight go on. Blocks from SINK_REFRESH on use the sink made of block 0's result: none is admitted before that exists.
 * Versions of text and sink are slots; a slot is filled again only when no block in flight uses it.
 */
#include <string.h>

#include "base/philox.h"
#include "base/thread.h"
#include "engine/conductor.h"

int avt_cancelled(const AvatarSession *s)
{
    return __atomic_load_n(&s->cancel, __ATOMIC_RELAXED);
}

static Comm *comm_of(AvatarSession *s)
{
    return avt_crew_conductor(&s->crew);
}

static int tell_all(AvatarSession *s, const Cmd *c)
{
    int ret = 0;

    for (int r = 0; r < s->crew.set.plan->nb_ranks && ret >= 0; r++)
        ret = avt_comm_send_bytes(comm_of(s), r, TAG_COMMAND, c, sizeof(*c));
    return ret;
}

/* To the first rank of each pipe, which hands on what the others need of it. */
static int send_to_pipes(AvatarSession *s, CommTag tag, const void *data, size_t size)
{
    int ret = 0;

    for (int r = 0; r < s->crew.set.plan->nb_ranks && ret >= 0; r++)
        if (s->crew.set.plan->rank[r].pipe >= 0 && s->crew.set.plan->rank[r].prev < 0 && !s->crew.set.plan->rank[r].part)
            ret = avt_comm_send_bytes(comm_of(s), r, tag, data, size);
    return ret;
}

/* ---- frames ------------------------------------------------------------------------------------------------------------------- */

/* Frames of a block that are given: the original drops three at the very start, and the end is cut to the sound's length. */
static void cut_block(const AvatarSession *s, FrameBlock *b, int64_t heard)
{
    const int lead = s->e->core->compat ? 3 : 0, first = heard ? 0 : lead;
    const int64_t left = s->sound.nb_frames - (heard * BLOCK_FRAMES - (heard ? lead : 0));

    b->index = heard * BLOCK_FRAMES - (heard ? lead : 0);
    b->first = b->next = first;
    b->end = left >= BLOCK_FRAMES - first ? BLOCK_FRAMES : first + (int)(left > 0 ? left : 0);
}

/* The queue's next free place, waited for; ECANCELED: given up. */
static int next_place(AvatarSession *s)
{
    int place;

    pthread_mutex_lock(&s->lock);
    while (s->nb_ready == FRAME_QUEUE && !avt_cancelled(s))
        pthread_cond_wait(&s->change, &s->lock);
    place = (s->head + s->nb_ready) % FRAME_QUEUE;
    pthread_mutex_unlock(&s->lock);
    return avt_cancelled(s) ? AVT_ERR(ECANCELED) : place;
}

static void hand_out(AvatarSession *s)
{
    pthread_mutex_lock(&s->lock);
    s->nb_ready++;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
}

/* Frames for sound that was left out: the last one again and again. The place before holds it: nothing was written since. */
static int repeat_last(AvatarSession *s, const Flight *f)
{
    const int place = next_place(s);
    const FrameBlock *last;
    int before, ret;

    if (place < 0)
        return place;
    before = (place + FRAME_QUEUE - 1) % FRAME_QUEUE;
    last = &s->ready[before];
    ret = avt_frames_repeat(&s->frames, place, before, last->repeated ? 0 : BLOCK_FRAMES - 1);
    if (ret < 0)
        return ret;
    s->ready[place] = (FrameBlock){ .block = f->block - 1, .prompt_id = last->prompt_id, .seed = last->seed, .repeated = 1,
                                    .index = (f->heard - f->skipped) * BLOCK_FRAMES, .end = (int)(f->skipped * BLOCK_FRAMES) };
    hand_out(s);
    return 0;
}

/* Say once of a picture that its film stands still. Frames that stay on a GPU are not looked at. */
static void watch(AvatarSession *s, const Flight *f, int place)
{
    const char *name = s->e->core->dir.name ? s->e->core->dir.name : "this model";
    AvatarFrame frame = { .format = s->format };
    double share;

    if (!f->speaks || s->crew.set.receiver || !avt_motion_watches(&s->motion, f->block))
        return;
    for (int i = 0; i < BLOCK_FRAMES; i++) {
        avt_frames_describe(&s->frames, &frame, place, i);
        avt_motion_add(&s->motion, &frame, f->block);
    }
    share = avt_motion_end(&s->motion);
    if (share >= 0 && s->hooks.moved)
        s->hooks.moved(s->hooks.rank.opaque, share);
    else if (share >= 0 && share < MOTION_SHARE)
        avt_log(&s->e->log, LOG_WARNING, "the film hardly moves although there is speech (in %.1f s of it the liveliest place changes by %d levels in %.0f %% of "
                "the frames, with pictures that %s knows in %.0f %% or more): take another picture, its face as large in the frame as theirs",
                MOTION_BLOCKS * BLOCK_FRAMES / (double)AVATAR_FPS, s->motion.least, 100 * share, name, 100 * MOTION_SHARE);
}

/* Wait for the oldest finished block's frames and put them into the queue, when the queue has room. */
static int take_frames(AvatarSession *s)
{
    const Flight f = s->done[0];
    FrameBlock *b;
    int place, ret = f.skipped && f.repeat ? repeat_last(s, &f) : 0;

    place = ret < 0 ? ret : next_place(s);
    ret = place < 0 ? place : avt_frames_take(&s->frames, place);
    if (ret < 0)
        return ret;
    b = &s->ready[place];
    *b = (FrameBlock){ .block = f.block, .prompt_id = f.prompt_id, .seed = f.seed, .ms = 1e-6 * (double)(avt_now_ns() - f.start) };
    cut_block(s, b, f.heard);
    memmove(s->done, s->done + 1, sizeof(s->done[0]) * (size_t)--s->nb_done);
    s->received++;
    avt_log(&s->e->log, LOG_DEBUG, "block %lld: %.0f ms", (long long)f.block, b->ms);
    watch(s, &f, place);
    avt_stats_block(s, b);
    hand_out(s);
    return 0;
}

static int take_all_frames(AvatarSession *s)
{
    int ret = 0;

    while (s->nb_done && ret >= 0)
        ret = take_frames(s);
    return ret;
}

/* ---- versions ------------------------------------------------------------------------------------------------------------------- */

static int slot_in_use(const AvatarSession *s, int sink, int slot)
{
    for (int i = 0; i < s->nb_flight; i++)
        if ((sink ? s->flight[i].sink : s->flight[i].text) == slot)
            return 1;
    return 0;
}

/* A slot that no block in flight uses, the present one last; -1: none yet. */
static int free_slot(const AvatarSession *s, int sink)
{
    const int nb = s->crew.set.plan->versions, now = sink ? s->sink : s->text;

    for (int i = 1; i <= nb; i++)
        if (!slot_in_use(s, sink, (now + i) % nb))
            return (now + i) % nb;
    return -1;
}

static int send_text(AvatarSession *s, const char *prompt)
{
    const Core *c = s->e->core;
    const int64_t dim = c->sizes.dit.text_dim;
    Cmd cmd = { .kind = CMD_TEXT, .slot = s->text };
    float *context = NULL;
    int ret;

    if (s->hooks.context) {
        cmd.rows = s->hooks.nb_context;
        ret = tell_all(s, &cmd);
        return ret < 0 ? ret : send_to_pipes(s, TAG_TEXT, s->hooks.context, (size_t)(cmd.rows * dim) * sizeof(float));
    }
    ret = avt_front_text(&s->front, c->tokenizer, &context, &cmd.rows, prompt);
    if (ret >= 0)
        ret = tell_all(s, &cmd);
    if (ret >= 0)
        ret = send_to_pipes(s, TAG_TEXT, context, (size_t)(cmd.rows * dim) * sizeof(float));
    avt_free(context);
    return ret;
}

static int send_picture(AvatarSession *s, const uint8_t *picture, int prime)
{
    const size_t size = (size_t)s->info.width * (size_t)s->info.height * 3;
    const int ret = tell_all(s, &(Cmd){ .kind = CMD_PICTURE, .prime = prime });

    return ret < 0 ? ret : avt_comm_send_bytes(comm_of(s), s->crew.set.plan->vae_rank, TAG_IMAGE, picture, size);
}

static int send_sink(AvatarSession *s, int from_block)
{
    return tell_all(s, &(Cmd){ .kind = CMD_SINK, .slot = s->sink, .text = s->text, .from_block = from_block });
}

/* Take what the caller wants changed; slots must be free (changes_fit). Before the first block a picture is the first one, however
 * many came; later the old face's first frame is no reference any more. */
static int take_changes(AvatarSession *s)
{
    const int fresh = !s->admitted;
    Changes ch;
    int ret = 0;

    pthread_mutex_lock(&s->lock);
    ch = s->next;
    s->next.prompt = NULL;
    s->next.picture = NULL;
    pthread_mutex_unlock(&s->lock);
    s->seed = (uint64_t)ch.seed;
    s->prompt_id = ch.prompt_id;
    if (ch.prompt) {
        s->text = free_slot(s, 0);
        ret = send_text(s, ch.prompt);
    }
    if (ch.picture && ret >= 0) {
        ret = send_picture(s, ch.picture, fresh);
        avt_motion_begin(&s->motion, s->e->core->dir.motion, s->admitted);
        s->refreshed |= !fresh;
    }
    if ((ch.prompt || ch.picture) && ret >= 0) {
        s->sink = free_slot(s, 1);
        ret = send_sink(s, 0);
    }
    avt_free(ch.prompt);
    avt_free(ch.picture);
    return ret;
}

/* 1: nothing is waiting to be changed, or it can be changed now. */
static int changes_fit(AvatarSession *s, int *waiting)
{
    pthread_mutex_lock(&s->lock);
    avt_changes_due(s, s->sound.next);
    *waiting = s->next.prompt || s->next.picture;
    s->seed = (uint64_t)s->next.seed;
    pthread_mutex_unlock(&s->lock);
    return !*waiting || (free_slot(s, 0) >= 0 && free_slot(s, 1) >= 0);
}

/* The next block starts with what is settled now. 0: something more was asked for it meanwhile. */
static int settle(AvatarSession *s)
{
    int ret;

    pthread_mutex_lock(&s->lock);
    ret = !s->later || s->later->block > s->sound.next;
    if (ret)
        s->settled = s->sound.next + 1;
    pthread_mutex_unlock(&s->lock);
    return ret;
}

/* ---- waves -------------------------------------------------------------------------------------------------------------------------- */

/* Block 0 is through: its latent frame 0 may become the reference of blocks from SINK_REFRESH on. */
static int refresh_sink(AvatarSession *s)
{
    s->sink = free_slot(s, 1);
    s->refreshed = 1;
    return send_sink(s, 1);
}

/* May block `admitted` start with this wave? Makes the changes and the refresh that come before it. 1, 0, or an error. */
static int try_admit(AvatarSession *s)
{
    const int oldest_block_0 = s->nb_flight && !s->flight[0].block;
    int waiting, ret = 0;

    if (s->nb_flight == s->crew.set.plan->in_flight)
        return 0;
    if (s->hooks.admit && !s->hooks.admit(s->hooks.rank.opaque, s->admitted, s->wave))
        return 0;
    if (!changes_fit(s, &waiting))
        return 0;
    if (waiting)
        ret = take_changes(s);
    if (ret >= 0 && s->admitted >= SINK_REFRESH && !s->refreshed) {
        if (oldest_block_0 || free_slot(s, 1) < 0)
            return 0;
        ret = refresh_sink(s);
    }
    return ret < 0 ? ret : settle(s);
}

static void add_flight(AvatarSession *s, int64_t skipped, int repeat)
{
    const int speaks = avt_motion_watches(&s->motion, s->admitted) && avt_sound_speaks(&s->sound);

    s->flight[s->nb_flight++] = (Flight){ .block = s->admitted++, .heard = s->sound.next, .skipped = skipped, .repeat = repeat, .speaks = speaks,
                                          .prompt_id = s->prompt_id, .seed = s->seed, .text = s->text, .sink = s->sink, .start = avt_now_ns() };
}

static int distance_of(const AvatarSession *s, const Flight *f)
{
    return s->hooks.distance ? s->hooks.distance(s->hooks.rank.opaque, f->block, f->step)
                             : avt_philox_distance(f->seed, (uint32_t)f->block, (uint32_t)f->step);
}

/* One step of every block in flight. */
static int send_wave(AvatarSession *s, int with_new)
{
    const DitConfig *cfg = &s->e->core->sizes.dit;
    const float *rows = NULL;
    Cmd c = { .kind = CMD_WAVE, .new_block = with_new ? s->admitted - 1 : -1, .nb_items = s->nb_flight };
    int ret;

    for (int i = 0; i < s->nb_flight; i++) {
        const Flight *f = &s->flight[s->nb_flight - 1 - i];        // youngest first: ascending steps

        c.item[i] = (CmdItem){ f->block, f->seed, f->step, distance_of(s, f), f->text, f->sink };
    }
    ret = tell_all(s, &c);
    if (ret >= 0 && with_new)
        ret = avt_sound_rows(&s->sound, &rows);
    if (ret >= 0 && with_new)
        ret = send_to_pipes(s, TAG_SOUND, rows, (size_t)(BLOCK_FRAMES * cfg->nb_audio_layers * cfg->audio_dim) * sizeof(float));
    for (int i = 0; i < s->nb_flight; i++)
        s->flight[i].step++;
    while (s->nb_flight && s->flight[0].step == s->crew.set.plan->steps) {
        s->done[s->nb_done++] = s->flight[0];
        memmove(s->flight, s->flight + 1, sizeof(s->flight[0]) * (size_t)--s->nb_flight);
    }
    s->wave++;
    return ret;
}

/* ---- the whole stream -------------------------------------------------------------------------------------------------------------------- */

/* Admit a block into the coming wave, if one may start. 1, 0, or an error. */
static int admit_next(AvatarSession *s)
{
    const int admit = try_admit(s);

    if (admit > 0) {
        int repeat;
        const int64_t skipped = avt_sound_skip(&s->sound, &repeat);

        if (skipped)
            avt_log(&s->e->log, LOG_WARNING, "the frames are behind the sound: %.2f s of sound are left out; see late",
                    (double)(skipped * BLOCK_SAMPLES) / AVATAR_SAMPLE_RATE);
        add_flight(s, skipped, repeat);
    }
    return admit;
}

static int play(AvatarSession *s)
{
    for (;;) {
        const int state = avt_sound_state(&s->sound, !s->nb_flight && !s->nb_done);
        int ret = state == SOUND_READY ? admit_next(s) : state < 0 ? state : 0;

        if (ret < 0 || (state == SOUND_OVER && !s->nb_flight))
            return ret < 0 ? ret : take_all_frames(s);
        if (s->nb_flight)
            ret = send_wave(s, ret);
        else
            s->wave++;
        // One finished block may wait while the ranks already have their next wave; more would pile up frames.
        while (ret >= 0 && s->nb_done > (s->nb_flight ? 1 : 0))
            ret = take_frames(s);
        if (ret < 0)
            return ret;
    }
}

int avt_conductor_play(AvatarSession *s)
{
    int ret = take_changes(s);

    if (ret >= 0)
        ret = play(s);
    return ret < 0 ? ret : tell_all(s, &(Cmd){ .kind = CMD_END });
}

void avt_conductor_finish(AvatarSession *s, int ret)
{
    if (ret < 0 && avt_comm_status(comm_of(s)) < 0)
        ret = avt_comm_status(comm_of(s));
    if (ret < 0 && !avt_cancelled(s))                                      // what was finished before the failure is still given
        take_all_frames(s);
    pthread_mutex_lock(&s->lock);
    if (s->status >= 0 && ret < 0)
        s->status = ret;
    s->finished = 1;
    pthread_cond_broadcast(&s->change);
    pthread_mutex_unlock(&s->lock);
}
