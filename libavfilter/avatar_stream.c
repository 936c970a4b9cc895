/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Stream of the avatar filter. See avatar_stream.h.
 */

#include "libavutil/avstring.h"
#include "libavutil/avutil.h"
#include "libavutil/fifo.h"
#include "libavutil/frame.h"
#include "libavutil/log.h"
#include "libavutil/macros.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/time.h"

#include "avatar_picture.h"
#include "avatar_stream.h"

#define BLOCK_SAMPLES (AVATAR_BLOCK_FRAMES * AVATAR_SAMPLES_PER_FRAME)
#define BLOCK_MS      (1000 * AVATAR_BLOCK_FRAMES / AVATAR_FPS)
#define LIVE_AHEAD    (4 * BLOCK_SAMPLES)       ///< sound that a live session gets beyond look-ahead and max_late
#define PROGRESS      5000000                   ///< microseconds between lines of progress
#define FAR           (INT64_C(1) << 60)

static const AVRational sample_tb = { 1, AVATAR_SAMPLE_RATE }, frame_tb = { 1, AVATAR_FPS };

typedef struct Item {
    AVFrame *frame;                             ///< or NULL:
    AvatarChange change;
} Item;

/* ---- log ---- */

void ff_avatar_stream_line(void *opaque, int level, const char *text)
{
    static const int levels[] = { AV_LOG_ERROR, AV_LOG_WARNING, AV_LOG_INFO, AV_LOG_DEBUG, AV_LOG_TRACE };
    AvatarStream *st = opaque;

    pthread_mutex_lock(&st->log_lock);
    av_log(st->log, levels[av_clip(level, 0, FF_ARRAY_ELEMS(levels) - 1)], "%s\n", text);
    pthread_mutex_unlock(&st->log_lock);
}

void ff_avatar_stream_log(AvatarStream *st, void *log)
{
    pthread_mutex_lock(&st->log_lock);
    st->log = log;
    pthread_mutex_unlock(&st->log_lock);
}

/* ---- life ---- */

static void free_change(AvatarChange *ch)
{
    av_frame_free(&ch->picture);
    av_freep(&ch->prompt);
}

AvatarStream *ff_avatar_stream_alloc(void *log)
{
    AvatarStream *st = av_mallocz(sizeof(*st));

    if (!st)
        return NULL;
    pthread_mutex_init(&st->log_lock, NULL);
    st->log   = log;
    st->queue = av_fifo_alloc2(16, sizeof(Item), AV_FIFO_FLAG_AUTO_GROW);
    if (!st->queue) {
        ff_avatar_stream_free(&st);
        return NULL;
    }
    av_fifo_auto_grow_limit(st->queue, SIZE_MAX / sizeof(Item));
    return st;
}

void ff_avatar_stream_forget(AvatarStream *st)
{
    Item item;

    avatar_session_close(&st->session);
    while (st->queue && av_fifo_read(st->queue, &item, 1) >= 0) {
        av_frame_free(&item.frame);
        free_change(&item.change);
    }
    st->ended = st->stuck = st->started = st->closed = st->jumped = st->rest = st->placed = 0;
    st->hungry = st->nb_frames = st->nb_samples = st->start_pts = st->next_pts = st->index = 0;
    st->clock.filled = st->clock.cut = st->clock.longest = 0;
}

void ff_avatar_stream_free(AvatarStream **pst)
{
    AvatarStream *st = *pst;

    if (!st)
        return;
    ff_avatar_stream_forget(st);
    avatar_engine_close(&st->engine);
    av_fifo_freep2(&st->queue);
    av_frame_free(&st->picture);
    av_freep(&st->prompt);
    av_freep(&st->stats);
    pthread_mutex_destroy(&st->log_lock);
    av_freep(pst);
}

static void set_picture(AvatarLook *look, const AVFrame *picture)
{
    look->rgb    = picture->data[0];
    look->stride = picture->linesize[0];
    look->width  = picture->width;
    look->height = picture->height;
}

int ff_avatar_stream_open(AvatarStream *st)
{
    AvatarLook look = st->look;
    AvatarInfo info;
    int ret;

    set_picture(&look, st->picture);
    look.prompt = st->prompt;
    look.stats  = st->stats;
    if ((ret = avatar_session_open(&st->session, st->engine, &look)) < 0)
        return ret;
    avatar_session_info(st->session, &info);
    av_strlcpy(st->precision, info.precision, sizeof(st->precision));
    av_strlcpy(st->kv, info.kv, sizeof(st->kv));
    if (info.width != st->width || info.height != st->height) {
        av_log(st->log, AV_LOG_ERROR, "The picture gives %dx%d, but the output was configured as %dx%d; set size\n",
               info.width, info.height, st->width, st->height);
        return AVERROR(EINVAL);
    }
    if (!st->nb_samples)
        ff_avatar_picture_pixels(st->log, st->picture);
    st->started = st->closed = st->jumped = st->stuck = st->placed = 0;
    st->sent = st->piece = st->index = 0;
    st->block_ms = 0;
    return 0;
}

/* ---- sound ---- */

int64_t ff_avatar_stream_stamp(const AVFrame *frame)
{
    return frame->pts == AV_NOPTS_VALUE ? AVATAR_CLOCK_NONE : av_clip64(frame->pts, -FAR, FAR);
}

int ff_avatar_stream_push(AvatarStream *st, AVFrame *frame)
{
    Item item = { .frame = frame };
    const int ret = av_fifo_write(st->queue, &item, 1);

    if (ret < 0)
        av_frame_free(&frame);
    st->stuck = 0;
    return ret;
}

int64_t ff_avatar_stream_queued(const AvatarStream *st, int64_t *pending)
{
    int64_t end = st->started ? st->clock.next : AVATAR_CLOCK_NONE, nb = FFMAX(st->sent - st->index * AVATAR_SAMPLES_PER_FRAME, 0);
    Item item;
    size_t i;

    for (i = 0; i < av_fifo_can_read(st->queue); i++) {
        if (av_fifo_peek(st->queue, &item, 1, i) < 0 || !item.frame)
            continue;
        if (item.frame->pts != AV_NOPTS_VALUE)
            end = ff_avatar_stream_stamp(item.frame);
        end  = end == AVATAR_CLOCK_NONE ? end : end + item.frame->nb_samples;
        nb  += item.frame->nb_samples;
    }
    if (pending)
        *pending = nb;
    return end;
}

void ff_avatar_stream_end(AvatarStream *st)
{
    st->ended = 1;
    st->stuck = 0;
}

static int give(AvatarStream *st, const float *pcm, int64_t nb)
{
    const int ret = avatar_session_send(st->session, pcm, nb);

    if (ret >= 0) {
        st->sent  += nb;
        st->hungry = FFMAX(st->hungry - nb, 0);
    }
    return ret;
}

/* A block of silence at most; what is left is in *nb. */
static int give_silence(AvatarStream *st, int64_t *nb)
{
    static const float silence[BLOCK_SAMPLES];
    const int64_t n = FFMIN(*nb, BLOCK_SAMPLES);

    *nb -= n;
    return n ? give(st, silence, n) : 0;
}

/* Sound with a sample put in or left out here and there, as the clock wants it. */
static int give_slipping(AvatarStream *st, const float *pcm, int64_t nb)
{
    int64_t n;
    int ret = 0;

    if (!st->clock.slip)
        return give(st, pcm, nb);
    for (; nb > 0 && ret >= 0; pcm += n, nb -= n) {
        int step = 0;

        n = FFMIN(nb, AVATAR_CLOCK_PIECE);
        if (n == AVATAR_CLOCK_PIECE)
            step = ff_avatar_clock_slip(&st->clock);
        ret = give(st, pcm, n + FFMIN(step, 0));
        if (ret >= 0 && step > 0)
            ret = give(st, pcm + n - 1, 1);
    }
    return ret;
}

static void start_take(AvatarStream *st, int64_t at)
{
    st->start_sample = at == AVATAR_CLOCK_NONE ? av_rescale_q(st->next_pts, frame_tb, sample_tb) : at;
    st->start_pts    = FFMAX(av_rescale_q(st->start_sample, sample_tb, frame_tb), st->nb_samples ? st->next_pts : INT64_MIN);
    st->next_pts     = st->start_pts;
    st->started      = 1;
    ff_avatar_clock_start(&st->clock, st->start_sample);
}

/* Stamp of the second frame in the queue. */
static int64_t peek_stamp(const AvatarStream *st)
{
    Item item;
    size_t i;

    for (i = 1; i < av_fifo_can_read(st->queue); i++)
        if (av_fifo_peek(st->queue, &item, 1, i) >= 0 && item.frame)
            return ff_avatar_stream_stamp(item.frame);
    return AVATAR_CLOCK_NONE;
}

static int end_take(AvatarStream *st, int place, int64_t at)
{
    const double by = (at - st->clock.next) / (double)AVATAR_SAMPLE_RATE;

    if (place == AVATAR_PLACE_HOLE)
        av_log(st->log, AV_LOG_WARNING, "A hole of %.3f s in the sound, longer than max_gap; a new take starts behind it\n", by);
    else
        av_log(st->log, AV_LOG_WARNING, "The clock of the sound jumps back by %.3f s; a new take starts there\n", -by);
    st->jumped = st->closed = 1;
    return avatar_session_send(st->session, NULL, 0);
}

static void tell_corrections(AvatarStream *st, int64_t fill, int64_t cut)
{
    if (fill && ff_avatar_clock_first_fill(&st->clock))
        av_log(st->log, AV_LOG_WARNING, "A hole of %.3f s in the sound was filled with silence\n", fill / (double)AVATAR_SAMPLE_RATE);
    if (cut && ff_avatar_clock_first_cut(&st->clock))
        av_log(st->log, AV_LOG_WARNING, "Sound that starts %.3f s before the end of what came was cut there\n",
               (cut + st->clock.cutting) / (double)AVATAR_SAMPLE_RATE);
}

/* Find the place of the first frame in the queue: 1: st->fill and st->cut are known; 0: it has to wait, or the take ends before it. */
static int place_sound(AvatarStream *st, const AVFrame *frame)
{
    const int64_t at = ff_avatar_stream_stamp(frame);
    int place, ret;

    if (!st->started)
        start_take(st, at);
    place = ff_avatar_clock_place(&st->clock, at, frame->nb_samples, peek_stamp(st), !st->ended, &st->fill, &st->cut);
    if (place == AVATAR_PLACE_WAIT) {
        st->stuck = 1;
        return 0;
    }
    if (place != AVATAR_PLACE_HERE) {
        ret = end_take(st, place, at);
        return FFMIN(ret, 0);
    }
    tell_corrections(st, st->fill, st->cut);
    st->placed = 1;
    return 1;
}

/* Give the first frame of the queue to the session, silence before it first. 1: all of it; 2: more is to come; 0: it has to wait. */
static int give_sound(AvatarStream *st, const AVFrame *frame)
{
    int ret = st->placed ? 1 : place_sound(st, frame);

    if (ret <= 0)
        return ret;
    if (st->fill)
        return (ret = give_silence(st, &st->fill)) < 0 ? ret : 2;
    if (st->cut < frame->nb_samples)
        ret = give_slipping(st, (const float *)frame->data[0] + st->cut, frame->nb_samples - st->cut);
    st->piece       = frame->nb_samples;
    st->nb_samples += frame->nb_samples - st->cut;
    st->placed      = 0;
    return ret < 0 ? ret : 1;
}

/* ---- changes ---- */

static void keep_change(AvatarStream *st, AvatarChange *ch)
{
    if (ch->picture)
        FFSWAP(AVFrame *, st->picture, ch->picture);
    if (ch->prompt)
        FFSWAP(char *, st->prompt, ch->prompt);
    if (ch->seed != AVATAR_KEEP_SEED)
        st->look.seed = ch->seed;
    free_change(ch);
}

static void tell_change(AvatarStream *st, const char *name, int ret, double asked, int64_t frame, double allowed)
{
    const double acts = (st->start_pts + frame) / (double)AVATAR_FPS;

    if (ret == AVATAR_EOF)
        av_log(st->log, AV_LOG_WARNING, "The command %s for %.3f s comes too late: all pictures are made or begun\n", name, asked);
    else if (acts - asked > allowed)
        av_log(st->log, AV_LOG_INFO, "The command %s for %.3f s comes too late for the pictures before %.3f s, which are made or begun\n",
               name, asked, acts);
}

void ff_avatar_change_look(AvatarLook *look, const AvatarChange *ch)
{
    look->seed   = ch->seed;
    look->prompt = ch->prompt;
    if (ch->picture)
        set_picture(look, ch->picture);
}

/* Make a change for sound that follows what was sent (a piece of sound counts as one moment), or for blocks that have not begun. */
static int apply_change(AvatarStream *st, AvatarChange *ch, int now)
{
    const double asked = now ? st->next_pts / (double)AVATAR_FPS
                             : st->start_pts / (double)AVATAR_FPS + st->sent / (double)AVATAR_SAMPLE_RATE;
    const int64_t from = now || !st->sent ? 0 : FFMAX(st->sent - st->piece + 1, 0);
    AvatarLook look;
    int64_t frame = 0;
    int ret = 0;

    avatar_look_default(&look);
    ff_avatar_change_look(&look, ch);
    if (ch->picture)
        ff_avatar_picture_pixels(st->log, ch->picture);
    if (st->session)
        ret = avatar_session_set_at(st->session, &look, from, &frame);
    if (st->session && (ret >= 0 || ret == AVATAR_EOF))
        tell_change(st, ch->name, ret, asked, frame,
                    now ? 1.5 / AVATAR_FPS : (BLOCK_SAMPLES + st->piece) / (double)AVATAR_SAMPLE_RATE);
    keep_change(st, ch);
    return ret == AVATAR_EOF ? 0 : ret;
}

int ff_avatar_stream_change(AvatarStream *st, AvatarChange *ch, int now)
{
    Item item = { .change = *ch };
    int ret;

    if (now || !av_fifo_can_read(st->queue))
        return apply_change(st, ch, now);
    if ((ret = av_fifo_write(st->queue, &item, 1)) < 0)
        free_change(ch);
    return ret;
}

/* ---- in and out ---- */

/* May the session have more sound? Offline it asks for each piece; live it gets some ahead, so that it notices when it is late. */
static int has_room(const AvatarStream *st)
{
    const int64_t late = st->look.late == AVATAR_LATE_WAIT ? 0 : st->look.max_late_ms;
    const int64_t ahead = st->sent - st->index * AVATAR_SAMPLES_PER_FRAME;

    if (st->hungry > 0)
        return 1;
    return st->look.mode == AVATAR_LIVE && ahead < LIVE_AHEAD + (st->look.latency_ms + late) * (AVATAR_SAMPLE_RATE / 1000);
}

/* The sound has ended: give a block of the silence of hold, or the end. All of it at once would look late to a live session. */
static int give_rest(AvatarStream *st)
{
    st->closed = !st->hold_left;
    return st->closed ? avatar_session_send(st->session, NULL, 0) : give_silence(st, &st->hold_left);
}

/* Give the first item of the queue. 1: there may be more; 0: it has to wait. */
static int give_item(AvatarStream *st)
{
    Item item;
    int ret;

    if (st->closed || st->stuck || !has_room(st) || av_fifo_peek(st->queue, &item, 1, 0) < 0)
        return 0;
    if (item.frame && (ret = give_sound(st, item.frame)) != 1)
        return FFMIN(ret, 1);
    av_fifo_drain2(st->queue, 1);
    if (!item.frame)
        ret = apply_change(st, &item.change, 0);
    av_frame_free(&item.frame);
    return ret < 0 ? ret : 1;
}

int ff_avatar_stream_feed(AvatarStream *st)
{
    int ret;

    while ((ret = give_item(st)) > 0)
        ;
    if (ret < 0 || st->closed || !st->ended || av_fifo_can_read(st->queue))
        return FFMIN(ret, 0);
    if (!st->rest) {
        st->rest      = 1;
        st->hold_left = st->started ? st->hold : 0;
        return give_rest(st);
    }
    return st->hungry > 0 ? give_rest(st) : 0;
}

/*
 * May one wait for the block in progress? A wait keeps the input from being read. Live, not while sound can still come and blocks take
 * about as long as they last, as the source would overrun; nor when being late has consequences, as what waits in the pipes before
 * the filter would not be counted as late; but when the session has all the sound that it can take.
 */
static int may_wait(const AvatarStream *st)
{
    return st->rest || st->closed || st->look.mode != AVATAR_LIVE || !has_room(st) ||
           (st->look.late == AVATAR_LATE_WAIT && st->block_ms < 0.8 * BLOCK_MS);
}

/* A line now and then for long runs: how far, and how long still where the end is known. */
static void tell_progress(AvatarStream *st)
{
    const int64_t now = av_gettime_relative(), total = (st->sent + st->hold_left) / AVATAR_SAMPLES_PER_FRAME;
    double fps;

    if (!st->first_time)
        st->first_time = st->last_time = now;
    if (st->look.mode == AVATAR_LIVE || now - st->last_time < PROGRESS)
        return;
    st->last_time = now;
    fps = st->nb_frames / (1e-6 * (now - st->first_time));
    if (st->rest && total > st->index) {
        const int left = (int)((total - st->index) / fps + 0.5);

        av_log(st->log, AV_LOG_INFO, "%.0f %%, %.*f fps, %d:%02d left\n", 100.0 * st->index / total, fps < 10, fps, left / 60, left % 60);
    } else
        av_log(st->log, AV_LOG_INFO, "frame %"PRId64", %.*f fps\n", st->nb_frames, fps < 10, fps);
}

/* Is there something that the session can be given when it asks for it? */
static int has_more(const AvatarStream *st)
{
    return !st->closed && (st->ended || (!st->stuck && av_fifo_can_read(st->queue)));
}

/* The take before a jump of the clock was delivered: open the next one, whose sound waits in the queue. */
static int next_take(AvatarStream *st)
{
    avatar_session_close(&st->session);
    return ff_avatar_stream_open(st);
}

int ff_avatar_stream_receive(AvatarStream *st, AvatarFrame *frame, int64_t *pts)
{
    int ret;

    for (;;) {
        if ((ret = ff_avatar_stream_feed(st)) < 0)
            return ret;
        ret = avatar_session_receive(st->session, frame, may_wait(st) ? AVATAR_WAIT : AVATAR_POLL);
        if (ret == AVATAR_EOF && st->jumped) {
            if ((ret = next_take(st)) < 0)
                return ret;
            continue;
        }
        if (ret != AVATAR_EAGAIN || !may_wait(st))
            break;
        st->hungry = AVATAR_SAMPLE_RATE;        // waiting gave nothing: the session needs more sound
        if (!has_more(st))
            break;
    }
    if (ret == AVATAR_EAGAIN && st->closed)
        return AVERROR_BUG;
    if (ret < 0)
        return ret;
    st->hungry   = 0;
    st->index    = frame->index + 1;
    st->next_pts = st->start_pts + st->index;
    *pts         = st->start_pts + frame->index;
    st->nb_frames++;
    if (frame->compute_ms > 0)
        st->block_ms = frame->compute_ms;
    tell_progress(st);
    return 0;
}
