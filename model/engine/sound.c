/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sound of a session. See sound.h. */
#include <string.h>

#include "engine/conductor.h"

#define FRAME_SAMPLES 640
#define ROW_SAMPLES 320                 // hop of a 50 Hz row, and a piece of loudness
#define LIVE_SLACK (4 * BLOCK_SAMPLES)  // sound older than the window that is kept, so that the rest moves seldom

int avt_sound_open(AvatarSession *s)
{
    const Core *c = s->e->core;
    const size_t rows = (size_t)(BLOCK_FRAMES * c->sizes.dit.nb_audio_layers * c->sizes.dit.audio_dim);

    s->sound.nb_frames = INT64_MAX;
    s->sound.wanted = INT64_MAX;
    if (!s->sound.live)
        return 0;
    s->sound.wanted = BLOCK_SAMPLES + s->sound.lookahead;
    avt_loudness_init(&s->sound.loudness);
    s->sound.rows = avt_malloc(MEM_SESSION, rows * sizeof(float));
    if (!s->sound.rows)
        return AVT_ERR(ENOMEM);
    return avt_window_open(&s->sound.window, c, s->sound.lookahead, &s->cancel, &s->e->log);
}

void avt_sound_close(AvatarSession *s)
{
    avt_window_close(&s->sound.window);
    avt_free(s->sound.rows);
    avt_free(s->sound.pcm);
}

int avt_sound_append(AvatarSession *s, const float *pcm, int64_t nb)
{
    Sound *o = &s->sound;
    const int64_t want = o->nb + nb;
    int64_t room = o->room ? o->room : o->live ? LIVE_LEFT + LIVE_SLACK + 2 * BLOCK_SAMPLES + o->lookahead : 16 * AVATAR_SAMPLE_RATE;
    float *p;

    if (want > o->room) {
        while (room < want)
            room += room / 2;
        p = avt_realloc(MEM_SESSION, o->pcm, (size_t)room * sizeof(*p));
        if (!p)
            return avt_fail(&s->e->log, AVT_ERR(ENOMEM), "no memory for %.0f s of sound", (double)want / AVATAR_SAMPLE_RATE);
        o->pcm = p;
        o->room = room;
    }
    memcpy(o->pcm + o->nb, pcm, (size_t)nb * sizeof(*pcm));
    o->nb += nb;
    return 0;
}

int avt_sound_starved(const AvatarSession *s)
{
    return !s->sound.closed && !s->sound.working && s->sound.start + s->sound.nb < s->sound.wanted;
}

/* ---- offline -------------------------------------------------------------------------------------------------------------- */

static int copy_hooked_rows(AvatarSession *s)
{
    const DitConfig *cfg = &s->e->core->sizes.dit;
    const size_t bytes = (size_t)(s->hooks.nb_rows * cfg->nb_audio_layers * cfg->audio_dim) * sizeof(float);

    s->sound.nb_rows = s->hooks.nb_rows;
    s->sound.rows = avt_malloc(MEM_SESSION, bytes);
    if (!s->sound.rows)
        return AVT_ERR(ENOMEM);
    memcpy(s->sound.rows, s->hooks.features, bytes);
    return 0;
}

static int64_t frames_of(const AvatarSession *s, int64_t n)
{
    if (s->e->core->compat || s->hooks.features)
        return s->sound.nb_rows - (s->e->core->compat ? 3 : 0);
    if (s->tail == AVATAR_TAIL_FLOOR)
        return n / FRAME_SAMPLES;
    if (s->tail == AVATAR_TAIL_BLOCK)
        return (n + BLOCK_SAMPLES - 1) / BLOCK_SAMPLES * BLOCK_FRAMES;
    return (n + FRAME_SAMPLES - 1) / FRAME_SAMPLES;
}

/* The whole sound -> rows, once. */
static int encode_whole(AvatarSession *s)
{
    Sound *o = &s->sound;
    int ret = 0;

    o->encoded = 1;
    if (s->hooks.features)
        ret = copy_hooked_rows(s);
    else if (o->nb)
        ret = avt_front_sound(s->e->core, &o->rows, &o->nb_rows, o->pcm, o->nb, &s->cancel, &s->e->log);
    o->nb_frames = frames_of(s, o->nb);
    if (o->nb_rows > o->nb_frames + BLOCK_FRAMES - 1)               // tail=floor may need a block less
        o->nb_rows -= BLOCK_FRAMES;
    return ret;
}

/* ---- state -------------------------------------------------------------------------------------------------------------------- */

static SoundState look(const AvatarSession *s)
{
    const Sound *o = &s->sound;

    if (!o->live)
        return !o->closed ? SOUND_MISSING : !o->encoded || o->next * BLOCK_FRAMES < o->nb_rows ? SOUND_READY : SOUND_OVER;
    if (o->closed)
        return o->next * BLOCK_FRAMES < frames_of(s, o->start + o->nb) ? SOUND_READY : SOUND_OVER;
    return o->start + o->nb >= o->wanted ? SOUND_READY : SOUND_MISSING;
}

int avt_sound_state(AvatarSession *s, int wait)
{
    Sound *o = &s->sound;
    SoundState state;
    int ret;

    pthread_mutex_lock(&s->lock);
    state = look(s);
    while (wait && state == SOUND_MISSING && !avt_cancelled(s)) {
        o->working = 0;
        pthread_cond_broadcast(&s->change);
        pthread_cond_wait(&s->change, &s->lock);
        state = look(s);
    }
    if (o->live && o->closed)
        o->nb_frames = frames_of(s, o->start + o->nb);
    pthread_mutex_unlock(&s->lock);
    if (avt_cancelled(s))
        return AVT_ERR(ECANCELED);
    if (!o->live && state == SOUND_READY && !o->encoded) {
        ret = encode_whole(s);                                      // closed: nothing is appended any more
        return ret < 0 ? ret : (int)look(s);
    }
    return (int)state;
}

int64_t avt_sound_skip(AvatarSession *s, int *repeat)
{
    Sound *o = &s->sound;
    int64_t end, skip = 0;

    pthread_mutex_lock(&s->lock);
    *repeat = o->late == AVATAR_LATE_REPEAT;
    end = o->start + o->nb;
    if (o->live && o->late != AVATAR_LATE_WAIT && o->next &&
        end - o->next * BLOCK_SAMPLES > o->max_late + BLOCK_SAMPLES + o->lookahead)
        skip = (end - o->lookahead) / BLOCK_SAMPLES - 1 - o->next;  // the newest whole block is next
    o->next += skip;
    o->wanted += skip * BLOCK_SAMPLES;
    pthread_mutex_unlock(&s->lock);
    return skip;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------------------- */

/* Copy the window of the next block, silence where the stream has ended, and forget what no later window needs. */
static void take_window(AvatarSession *s, int64_t begin, int64_t n)
{
    Sound *o = &s->sound;
    const int64_t heard = (o->next + 1) * BLOCK_SAMPLES + o->lookahead;    // never past the look-ahead, whatever has come already
    const int64_t end = o->start + o->nb, have = (end < heard ? end : heard) - begin;

    memcpy(o->window.pcm, o->pcm + (begin - o->start), (size_t)have * sizeof(float));
    memset(o->window.pcm + have, 0, (size_t)(n - have) * sizeof(float));
    while (o->heard + ROW_SAMPLES <= begin + have) {
        avt_loudness_add(&o->loudness, o->pcm + (o->heard - o->start));
        o->heard += ROW_SAMPLES;
    }
    if (begin - o->start >= LIVE_SLACK) {
        memmove(o->pcm, o->pcm + (begin - o->start), (size_t)(end - begin) * sizeof(float));
        o->nb = end - begin;
        o->start = begin;
    }
}

static int live_rows(AvatarSession *s)
{
    Sound *o = &s->sound;
    const int64_t block = o->next, want = block * BLOCK_SAMPLES - LIVE_LEFT;
    const int64_t row0 = want > 0 ? want / ROW_SAMPLES : 0, begin = row0 * ROW_SAMPLES;
    const int64_t n = (block + 1) * BLOCK_SAMPLES + (o->lookahead > 80 ? o->lookahead : 80) - begin;

    pthread_mutex_lock(&s->lock);
    take_window(s, begin, n);
    pthread_mutex_unlock(&s->lock);
    avt_loudness_normalize(&o->loudness, o->window.pcm, n);
    return avt_window_rows(&o->window, s->e->core, o->rows, block, row0, n);
}

int avt_sound_rows(AvatarSession *s, const float **rows)
{
    const DitConfig *cfg = &s->e->core->sizes.dit;
    Sound *o = &s->sound;
    int ret = 0;

    if (o->live)
        ret = live_rows(s);
    *rows = o->live ? o->rows : o->rows + o->next * BLOCK_FRAMES * cfg->nb_audio_layers * cfg->audio_dim;
    pthread_mutex_lock(&s->lock);
    o->next++;
    o->working = 1;
    if (o->live)
        o->wanted += BLOCK_SAMPLES;
    pthread_mutex_unlock(&s->lock);
    return ret;
}
