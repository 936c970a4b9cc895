/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sound of a session. See sound.h. */
#include <string.h>

#include "base/thread.h"
#include "engine/sound.h"

#define FRAME_SAMPLES 640
#define LIVE_SLACK (4 * BLOCK_SAMPLES)  // sound that no piece needs any more and is kept, so that the rest moves seldom
#define LIVE_ROWS (3 * BLOCK_FRAMES)    // ring: one block in use, two ahead
#define ROWS (SOUND_WINDOW / FRAME_SAMPLES + BLOCK_FRAMES)  // ring: one block in use, a whole sound or two windows ahead

/* ---- the stream's plan: what depends on samples and frames alone ---------------------------------------------------------- */

static int64_t blocks_of(int64_t n)
{
    return (n + BLOCK_SAMPLES - 1) / BLOCK_SAMPLES;
}

/* Frames to give of a stream of n samples. */
static int64_t frames_of(const Sound *o, int64_t n)
{
    if (o->given)
        return o->nb_given - (o->compat ? 3 : 0);
    if (o->compat)
        return n ? avt_front_upstream_rows(n) - 3 : 0;
    if (o->tail == AVATAR_TAIL_FLOOR)
        return n / FRAME_SAMPLES;
    if (o->tail == AVATAR_TAIL_BLOCK)
        return blocks_of(n) * BLOCK_FRAMES;
    return (n + FRAME_SAMPLES - 1) / FRAME_SAMPLES;
}

/* Rows that they need: of whole blocks. */
static int64_t rows_of(const Sound *o, int64_t n)
{
    return (frames_of(o, n) + BLOCK_FRAMES - 1) / BLOCK_FRAMES * BLOCK_FRAMES;
}

static int64_t end_of(const Sound *o)
{
    return o->start + o->nb;
}

int64_t avt_sound_piece(int live, int64_t lookahead)
{
    return live ? LIVE_LEFT + BLOCK_SAMPLES + (lookahead > FRONT_SILENCE ? lookahead : FRONT_SILENCE) : SOUND_WINDOW + FRONT_SILENCE;
}

/* Each of these three: the piece that begins with frame `made`, and the samples that must be there before it is taken. */

static int64_t whole_piece(const Sound *o, Piece *p)
{
    const int64_t n = end_of(o);

    *p = (Piece){ .n = o->compat ? n : blocks_of(n) * BLOCK_SAMPLES + FRONT_SILENCE, .nb = rows_of(o, n), .heard = n };
    return o->compat ? INT64_MAX : SOUND_WINDOW + 1;
}

static int64_t window_piece(const Sound *o, Piece *p)
{
    const int64_t before = o->made * FRAME_SAMPLES + SOUND_RIGHT;          // end of the window before, if there is one
    const int64_t begin = o->made ? before + SOUND_STEP - SOUND_WINDOW : 0, stop = begin + SOUND_WINDOW;

    if (o->closed && end_of(o) <= stop) {
        const int64_t last = blocks_of(end_of(o)) * BLOCK_SAMPLES;

        *p = (Piece){ .begin = last - SOUND_WINDOW, .n = SOUND_WINDOW + FRONT_SILENCE, .first = o->made, .heard = end_of(o), .norm = NORM_LEVEL };
        p->nb = rows_of(o, end_of(o)) - p->first;
    } else {
        *p = (Piece){ .begin = begin, .n = SOUND_WINDOW, .first = o->made, .heard = stop, .norm = NORM_LEVEL };
        p->nb = (stop - SOUND_RIGHT) / FRAME_SAMPLES - p->first;
    }
    return stop + 1;
}

static int64_t live_piece(const Sound *o, Piece *p)
{
    const int64_t end = (o->made / BLOCK_FRAMES + 1) * BLOCK_SAMPLES, left = end - BLOCK_SAMPLES - LIVE_LEFT;

    *p = (Piece){ .begin = left > 0 ? left / WAV2VEC2_HOP * WAV2VEC2_HOP : 0, .first = o->made, .nb = BLOCK_FRAMES, .norm = NORM_LOUDNESS };
    p->n = end + (o->lookahead > FRONT_SILENCE ? o->lookahead : FRONT_SILENCE) - p->begin;
    p->heard = end + o->lookahead;                                  // never past the look-ahead, whatever has come already
    return p->heard;
}

static int64_t plan_piece(const Sound *o, Piece *p)
{
    return o->live ? live_piece(o, p) : o->compat || end_of(o) <= SOUND_WINDOW ? whole_piece(o, p) : window_piece(o, p);
}

/* Is there a piece to be encoded now? */
static int next_piece(const Sound *o, Piece *p)
{
    const int64_t in_use = o->next ? (o->next - 1) * BLOCK_FRAMES : 0;      // the conductor may still be reading that block
    const int64_t wanted = plan_piece(o, p);

    if (o->given || (o->closed ? o->made >= rows_of(o, end_of(o)) : end_of(o) < wanted))
        return 0;
    return o->compat || o->made + p->nb - in_use <= o->rows_room;
}

/* ---- the listener ------------------------------------------------------------------------------------------------------------- */

/* Sound that no later piece needs: that before the piece, as a last window may reach back to the start of the one before. */
static void forget(Sound *o, const Piece *p)
{
    const int64_t old = p->begin - o->start;

    if (old < LIVE_SLACK)
        return;
    memmove(o->pcm, o->pcm + old, (size_t)(o->nb - old) * sizeof(float));
    o->start += old;
    o->nb -= old;
}

static int reserve_piece(Sound *o, int64_t n)
{
    float *p;

    if (n <= o->piece_room)
        return 0;
    p = avt_realloc(MEM_SESSION, o->piece, (size_t)n * sizeof(*p));
    if (!p)
        return avt_fail(o->log, AVT_ERR(ENOMEM), "no memory for %.0f s of sound", (double)n / AVATAR_SAMPLE_RATE);
    o->piece = p;
    o->piece_room = n;
    return 0;
}

/* The statistics take the samples before `end`. */
static void hear(Sound *o, PieceNorm norm, int64_t end)
{
    for (; norm == NORM_LOUDNESS && o->heard + LOUDNESS_PIECE <= end; o->heard += LOUDNESS_PIECE)
        avt_loudness_add(&o->loudness, o->pcm + (o->heard - o->start));
    if (norm == NORM_LEVEL && end > o->heard) {
        avt_level_add(&o->level, o->pcm + (o->heard - o->start), end - o->heard);
        o->heard = end;
    }
}

/* Copy a piece's samples, silence where the stream has ended. Lock held. */
static int take_piece(Sound *o, const Piece *p)
{
    const int64_t end = end_of(o) < p->heard ? end_of(o) : p->heard;
    const int64_t have = end - p->begin < p->n ? end - p->begin : p->n;
    const int ret = reserve_piece(o, p->n);

    if (ret < 0)
        return ret;
    memcpy(o->piece, o->pcm + (p->begin - o->start), (size_t)have * sizeof(float));
    memset(o->piece + have, 0, (size_t)(p->n - have) * sizeof(float));
    hear(o, p->norm, end);
    forget(o, p);
    return 0;
}

/* The original takes the whole sound: scratch and ring as long as that. Nobody reads the ring yet. */
static int make_room(Sound *o, const Piece *p)
{
    const size_t bytes = (size_t)(p->nb * o->row_size) * sizeof(float);
    const int ret = avt_front_reserve(o->front, p->n, bytes);

    if (ret < 0 || p->nb <= o->rows_room)
        return ret;
    avt_free(o->rows);
    o->rows = avt_malloc(MEM_SESSION, bytes);
    o->rows_room = o->rows ? p->nb : 0;
    return o->rows ? 0 : AVT_ERR(ENOMEM);
}

static int encode(Sound *o, const Piece *p)
{
    const int ret = o->compat ? make_room(o, p) : 0;

    if (ret < 0)
        return ret;
    if (p->norm == NORM_LOUDNESS)
        avt_loudness_normalize(&o->loudness, o->piece, p->n);
    else if (p->norm == NORM_LEVEL)
        avt_level_normalize(&o->level, o->piece, p->n);
    else
        avt_wav2vec2_normalize(o->piece, o->piece, p->n, p->heard);
    return avt_front_rows(o->front, p, o->piece, o->rows, o->rows_room);
}

void avt_sound_listen(Sound *o)
{
    Piece p;
    int ret;

    pthread_mutex_lock(o->lock);
    while (!o->over && o->status >= 0 && !__atomic_load_n(o->cancel, __ATOMIC_RELAXED)) {
        if (!next_piece(o, &p)) {
            pthread_cond_wait(o->change, o->lock);
            continue;
        }
        const int64_t start = avt_now_ns();

        ret = take_piece(o, &p);
        o->hearing = 1;
        pthread_mutex_unlock(o->lock);
        if (ret >= 0)
            ret = encode(o, &p);
        pthread_mutex_lock(o->lock);
        o->hearing = 0;
        o->listened += avt_now_ns() - start;
        o->status = ret < 0 ? ret : 0;
        if (ret >= 0 && o->made == p.first)                         // not so: it was left out meanwhile
            o->made += p.nb;
        pthread_cond_broadcast(o->change);
    }
    pthread_mutex_unlock(o->lock);
}

void avt_sound_stop(Sound *o)
{
    pthread_mutex_lock(o->lock);
    o->over = 1;
    pthread_cond_broadcast(o->change);
    pthread_mutex_unlock(o->lock);
}

int64_t avt_sound_bytes(const Sound *o)
{
    const int64_t rows = o->given ? o->nb_given : o->live ? LIVE_ROWS : ROWS;

    return (rows * o->row_size + SOUND_WAITS + avt_sound_piece(o->live, o->lookahead)) * (int64_t)sizeof(float);
}

/* ---- opening --------------------------------------------------------------------------------------------------------------------- */

int avt_sound_open(Sound *o)
{
    o->nb_frames = INT64_MAX;
    o->rows_room = o->given ? o->nb_given : o->live ? LIVE_ROWS : ROWS;
    o->rows = avt_malloc(MEM_SESSION, (size_t)(o->rows_room * o->row_size) * sizeof(float));
    if (!o->rows)
        return AVT_ERR(ENOMEM);
    if (o->given)
        memcpy(o->rows, o->given, (size_t)(o->nb_given * o->row_size) * sizeof(float));
    avt_loudness_init(&o->loudness);
    return 0;
}

void avt_sound_close(Sound *o)
{
    avt_freep(&o->piece);
    avt_freep(&o->rows);
    avt_freep(&o->pcm);
}

/* ---- the sender's ------------------------------------------------------------------------------------------------------------------ */

int avt_sound_append(Sound *o, const float *pcm, int64_t nb)
{
    const int64_t want = o->nb + nb;
    int64_t room = o->room ? o->room : o->live ? LIVE_LEFT + LIVE_SLACK + 2 * BLOCK_SAMPLES + o->lookahead : 16 * AVATAR_SAMPLE_RATE;
    float *p;

    if (want > o->room) {
        while (room < want)
            room += room / 2;
        p = avt_realloc(MEM_SESSION, o->pcm, (size_t)room * sizeof(*p));
        if (!p)
            return AVT_ERR(ENOMEM);
        o->pcm = p;
        o->room = room;
    }
    memcpy(o->pcm + o->nb, pcm, (size_t)nb * sizeof(*pcm));
    o->nb += nb;
    return 0;
}

int avt_sound_full(const Sound *o)
{
    return o->nb >= SOUND_ROOM && !o->compat && !o->given;
}

/* ---- state -------------------------------------------------------------------------------------------------------------------------- */

static SoundState look(const Sound *o)
{
    const int64_t made = o->given && o->closed ? o->nb_given : o->made;

    if (made >= (o->next + 1) * BLOCK_FRAMES)
        return SOUND_READY;
    return o->closed && o->next * BLOCK_FRAMES >= frames_of(o, end_of(o)) ? SOUND_OVER : SOUND_MISSING;
}

int avt_sound_starved(const Sound *o)
{
    Piece p;

    return !o->closed && !o->working && !o->hearing && o->status >= 0 && look(o) == SOUND_MISSING && end_of(o) < plan_piece(o, &p);
}

/* Wait until the next block can start, or never will; lock held. @return 0, ECANCELED, or the listener's failure */
static int wait_for_block(Sound *o)
{
    while (look(o) == SOUND_MISSING && o->status >= 0 && !__atomic_load_n(o->cancel, __ATOMIC_RELAXED))
        pthread_cond_wait(o->change, o->lock);
    return __atomic_load_n(o->cancel, __ATOMIC_RELAXED) ? AVT_ERR(ECANCELED) : look(o) == SOUND_MISSING ? o->status : 0;
}

int avt_sound_state(Sound *o, int wait)
{
    int ret = 0;

    pthread_mutex_lock(o->lock);
    if (wait && look(o) == SOUND_MISSING) {
        o->working = 0;
        pthread_cond_broadcast(o->change);
        ret = wait_for_block(o);
    } else if (o->status < 0 && look(o) == SOUND_MISSING) {
        ret = o->status;
    }
    if (o->closed)
        o->nb_frames = frames_of(o, end_of(o));
    if (ret >= 0)
        ret = (int)look(o);
    pthread_mutex_unlock(o->lock);
    return __atomic_load_n(o->cancel, __ATOMIC_RELAXED) ? AVT_ERR(ECANCELED) : ret;
}

int64_t avt_sound_skip(Sound *o, int *repeat)
{
    int64_t end, skip = 0;

    pthread_mutex_lock(o->lock);
    *repeat = o->late == AVATAR_LATE_REPEAT;
    end = end_of(o);
    if (o->live && o->late != AVATAR_LATE_WAIT && o->next &&
        end - o->next * BLOCK_SAMPLES > o->max_late + BLOCK_SAMPLES + o->lookahead)
        skip = (end - o->lookahead) / BLOCK_SAMPLES - 1 - o->next;  // the newest whole block is next
    o->next += skip;
    if (o->made < o->next * BLOCK_FRAMES)
        o->made = o->next * BLOCK_FRAMES;
    pthread_cond_broadcast(o->change);
    pthread_mutex_unlock(o->lock);
    return skip;
}

int avt_sound_speaks(Sound *o)
{
    int64_t at;
    int ret;

    pthread_mutex_lock(o->lock);
    at = o->next * BLOCK_SAMPLES - o->start;
    ret = at >= 0 && at + BLOCK_SAMPLES <= o->nb && avt_loudness_speaks(o->pcm + at, BLOCK_SAMPLES / LOUDNESS_PIECE);
    pthread_mutex_unlock(o->lock);
    return ret;
}

int avt_sound_rows(Sound *o, const float **rows)
{
    int ret;

    pthread_mutex_lock(o->lock);
    ret = wait_for_block(o);
    *rows = o->rows + o->next * BLOCK_FRAMES % o->rows_room * o->row_size;
    o->next++;
    o->working = 1;
    pthread_cond_broadcast(o->change);
    pthread_mutex_unlock(o->lock);
    return ret;
}
