/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Stream of the avatar filter: sound and changes in, in the order of time; frames out. It outlives the filter instance when ffmpeg
 * rebuilds its graph (avatar_park.h).
 *
 *     sound, mono --> queue --> clock --> session --> frames, pts = start of the take + index
 *     changes ------^  (a change acts on the sound that is behind it in the queue)
 *
 * A stream is one take or several: behind a hole longer than max_gap, or a clock that jumps back, a new session starts.
 * Only so much sound is given to the session as it needs for the next block (live: some blocks more), so that endless sound takes
 * no memory.
 */
#ifndef AVFILTER_AVATAR_STREAM_H
#define AVFILTER_AVATAR_STREAM_H

#include <pthread.h>
#include <stdint.h>

#include <avatar.h>

#include "avatar_clock.h"

struct AVFifo;
struct AVFrame;

#define AVATAR_SAMPLES_PER_FRAME (AVATAR_SAMPLE_RATE / AVATAR_FPS)
#define AVATAR_KEEP_SEED         (-2)

/** A picture, a prompt or a seed that comes in mid-stream. */
typedef struct AvatarChange {
    const char *name;                   ///< of the command; static
    struct AVFrame *picture;            ///< rgb24 or NULL
    char *prompt;                       ///< or NULL
    int64_t seed;                       ///< or AVATAR_KEEP_SEED
} AvatarChange;

typedef struct AvatarStream {
    pthread_mutex_t log_lock;
    void *log;                          ///< the filter instance at hand, or NULL

    AvatarEngine *engine;
    AvatarSession *session;             ///< of the take in progress; NULL until the first picture is known
    AvatarLook look;                    ///< what a new take begins with; picture and prompt are those below
    struct AVFrame *picture;            ///< rgb24
    char *prompt;                       ///< NULL: the model's
    char *stats;                        ///< file of the session's statistics, or NULL
    int width, height;                  ///< of the frames
    uint32_t links;                     ///< sum of the links of the graph that it was left by
    char precision[8];                  ///< of the engine: f32, bf16, int8, fp8
    char kv[8];                         ///< of its keys and values: f32, bf16, fp8
    int64_t hold;                       ///< samples of silence behind the sound

    struct AVFifo *queue;                      ///< Item: sound and changes that the session has not been given
    AvatarClock clock;
    int ended;                          ///< no more sound comes into the queue
    int64_t hungry;                     ///< samples that the session is to be given, as it needs more for its next block
    int stuck;                          ///< the place of the first frame in the queue cannot be told yet

    int placed;                         ///< the place of the first frame in the queue is known:
    int64_t fill, cut;                  ///< silence still to be given before it, samples to leave out
    int started;                        ///< the take has its first sound
    int closed;                         ///< the session was told that its sound is complete
    int jumped;                         ///< by a jump of the clock: a new take follows
    int rest;                           ///< the stream's sound was given completely; silence and the end remain
    int64_t hold_left;
    int64_t sent, piece;                ///< samples given to the session, in the frame given last
    int64_t index;                      ///< of the next frame of the take
    int64_t start_sample;               ///< time of the take's first sample, in 1/16000 s
    int64_t start_pts, next_pts;        ///< the same in 1/25 s; end of the last frame
    int64_t nb_frames, nb_samples;      ///< of the whole stream
    double block_ms;                    ///< time that the newest block took
    int64_t first_time, last_time;      ///< of the progress lines, in microseconds
} AvatarStream;

/** NULL: no memory. */
AvatarStream *ff_avatar_stream_alloc(void *log);
void ff_avatar_stream_free(AvatarStream **st);
/** Whose lines the library's are from now on; NULL: nobody's. */
void ff_avatar_stream_log(AvatarStream *st, void *log);
/** avatar.h's callback; `opaque` is a stream. */
void ff_avatar_stream_line(void *opaque, int level, const char *text);

/** Start a take with st->look. */
int ff_avatar_stream_open(AvatarStream *st);
/** Forget take and queue, for a stream that is not the one that was left; the engine stays. */
void ff_avatar_stream_forget(AvatarStream *st);

/** Stamp of a frame in samples, away from the limits of arithmetic. */
int64_t ff_avatar_stream_stamp(const struct AVFrame *frame);
/** Queue a frame of mono sound, whose pts is in 1/16000 s or AV_NOPTS_VALUE. Takes it, also after an error. */
int ff_avatar_stream_push(AvatarStream *st, struct AVFrame *frame);
/**
 * Where the sound in the queue ends, in samples; AVATAR_CLOCK_NONE: there is no sound yet.
 *
 * @param pending  gets the samples that came and have not become frames, or NULL
 */
int64_t ff_avatar_stream_queued(const AvatarStream *st, int64_t *pending);
/** No more sound will be pushed. */
void ff_avatar_stream_end(AvatarStream *st);
/** What a change gives of a session's look; all else stays. The picture and the prompt are still the change's. */
void ff_avatar_change_look(AvatarLook *look, const AvatarChange *ch);
/**
 * Make a change that was checked: for the sound that is queued from now on, or (now) for what has not begun. Takes what is in `ch`.
 */
int ff_avatar_stream_change(AvatarStream *st, AvatarChange *ch, int now);
/** Give the session what it can take of the queue. */
int ff_avatar_stream_feed(AvatarStream *st);

/**
 * Next frame.
 *
 * @param pts  gets its time in 1/25 s
 * @return 0; AVATAR_EAGAIN: more sound is needed in the queue, or nothing is ready; AVATAR_EOF; or an error
 */
int ff_avatar_stream_receive(AvatarStream *st, AvatarFrame *frame, int64_t *pts);

#endif
