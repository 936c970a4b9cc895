/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * avatar speak AUDIO PICTURE [-o FILE|-]: the engine for people without ffmpeg, or with one that has not got the filter.
 *
 *   avatar speak hello.wav face.png -o talk.mp4
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libavutil/error.h>
#include <libavutil/log.h>

#include "file.h"
#include "options.h"
#include "speak.h"
#include "stop.h"

typedef struct Talk {                   // progress on stderr, when that is a terminal
    int tty, quiet;
    struct timespec start;
    double block_ms;
} Talk;

static double seconds_since(const struct timespec *start)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)(t.tv_sec - start->tv_sec) + 1e-9 * (double)(t.tv_nsec - start->tv_nsec);
}

static void log_line(void *opaque, int level, const char *text)
{
    const Talk *t = opaque;

    if (level <= AVATAR_LOG_WARNING || !t->quiet)
        fprintf(stderr, "%savatar: %s%s\n", t->tty ? "\r\033[K" : "", level == AVATAR_LOG_WARNING ? "warning: " : "", text);
}

static void show_progress(Talk *t, const AvatarFrame *f)
{
    const double s = seconds_since(&t->start);

    if (f->compute_ms > 0)
        t->block_ms = f->compute_ms;
    if (t->tty && !t->quiet)
        fprintf(stderr, "\r\033[K%lld frames, %.1f fps, block %.0f ms", (long long)f->index + 1, (double)(f->index + 1) / (s > 0 ? s : 1),
                t->block_ms);
}

static int write_frame(AvatarSession *s, MediaOut *out, Talk *talk, int64_t *nb, int wait)
{
    AvatarFrame f;
    int ret = avatar_session_receive(s, &f, wait);

    if (ret >= 0)
        ret = media_write_frame(out, f.data, f.linesize, f.index);
    if (ret < 0)
        return ret;
    *nb = f.index + 1;
    show_progress(talk, &f);
    return 0;
}

/* Frames that can be made of what was sent, or are ready; 0 when more sound is needed or every frame was given. */
static int write_frames(AvatarSession *s, MediaOut *out, Talk *talk, int64_t *nb, int wait)
{
    int ret = 0;

    while (ret >= 0)
        ret = write_frame(s, out, talk, nb, wait);
    return ret == AVATAR_EOF || ret == AVATAR_EAGAIN ? 0 : ret;
}

/* Send, and as long as the session has no room, write a frame and try again. */
static int send_sound(AvatarSession *s, MediaOut *out, Talk *talk, int64_t *nb, const float *pcm, int n)
{
    int ret;

    while ((ret = avatar_session_send(s, pcm, n)) == AVATAR_EAGAIN)
        if ((ret = write_frame(s, out, talk, nb, AVATAR_WAIT)) < 0)
            break;
    return ret;
}

/* Live, frames are written as soon as they can be made. With late=repeat|drop nothing waits before the end: sound must come in for
 * the session to see that it is behind. Offline the sound is read ahead as far as there is room. */
static int speak_all(AvatarSession *s, MediaOut *out, SoundIn *in, Talk *talk, int64_t *nb, const AvatarLook *look)
{
    const int wait = look->mode == AVATAR_LIVE && look->late == AVATAR_LATE_WAIT ? AVATAR_WAIT : AVATAR_POLL;
    const AVFrame *sound;
    const float *pcm;
    int n, more, ret = 0;

    while (!ret && (more = media_read_sound(in, &pcm, &n, &sound)) != 0) {
        if (more < 0)
            return more;
        ret = n ? send_sound(s, out, talk, nb, pcm, n) : 0;
        if (!ret)
            ret = media_write_sound(out, sound);
        if (!ret)
            ret = write_frames(s, out, talk, nb, wait);
    }
    if (!ret)
        ret = avatar_session_send(s, NULL, 0);
    return ret && ret != AVATAR_ERR(ECANCELED) ? ret : write_frames(s, out, talk, nb, AVATAR_WAIT);
}

/* A model that is being read cannot be told to stop, and a file is not there yet: a signal just ends the program. */
static int open_model(AvatarEngine **e, AvatarSession **s, const ToolOptions *o)
{
    int ret;

    stop_at_once(1);
    ret = avatar_engine_open(e, &o->engine);
    if (ret >= 0)
        ret = avatar_session_open(s, *e, &o->look);
    stop_at_once(0);
    if (ret >= 0)
        stop_session(*s);
    return ret;
}

/* What is cheap to refuse comes first, then the file, then the model. */
static int open_all(AvatarEngine **e, AvatarSession **s, ToolOptions *o, const SoundIn *in, MediaOut *out)
{
    AvatarInfo info;
    MediaLook look = { .pix_fmt = tool_format_name(o->look.format), .live = o->look.mode == AVATAR_LIVE };
    uint8_t *rgb = NULL;
    int ret = media_read_picture(o->positional[1], &rgb, &o->look.width, &o->look.height, stop_asked);

    o->look.rgb = rgb;
    if (ret >= 0)
        ret = avatar_options_check(&o->engine);
    if (ret >= 0)
        ret = media_open_out(out, stop_asked);
    if (ret >= 0)
        ret = open_model(e, s, o);
    free(rgb);
    if (ret < 0)
        return ret;
    avatar_session_info(*s, &info);
    look.width = info.width;
    look.height = info.height;
    media_sound_shape(in, &look.rate, &look.channels);
    return media_start_out(out, &look);
}

static void close_all(AvatarEngine **e, AvatarSession **s, SoundIn **in)
{
    stop_session(NULL);
    media_close_sound(in);
    avatar_session_close(s);
    avatar_engine_close(e);
    avatar_engine_flush();
}

/* The library's words for an error; those of libav for one that only libav knows. */
static const char *reason(char *buf, size_t size, int ret)
{
    const char *text = avatar_error_text(ret);

    return strcmp(text, "unknown error") || av_strerror(ret, buf, size) < 0 ? text : buf;
}

static void say_end(const Talk *talk, const char *output, int64_t nb, int ret)
{
    const int named = strcmp(output, "-");
    char text[AV_ERROR_MAX_STRING_SIZE];

    if (talk->tty && !talk->quiet)
        fprintf(stderr, "\r\033[K");
    if (ret < 0)
        fprintf(stderr, "avatar: stopped after %lld frames: %s\n", (long long)nb, stop_asked() ? "interrupted" : reason(text, sizeof(text), ret));
    else if (!talk->quiet)
        fprintf(stderr, "avatar: %lld frames in %.1f s%s%s\n", (long long)nb, seconds_since(&talk->start), named ? " -> " : "",
                named ? file_shown(output) : "");
}

static int speak(ToolOptions *o)
{
    const MediaLook look = { .path = o->output, .container = o->container, .video_codec = o->video_codec, .audio_codec = o->audio_codec };
    Talk talk = { .tty = isatty(2), .quiet = o->quiet };
    AvatarEngine *e = NULL;
    AvatarSession *s = NULL;
    MediaOut *out = NULL;
    SoundIn *in = NULL;
    int64_t nb = 0;
    int ret, closed;

    o->engine.log = log_line;
    o->engine.log_opaque = &talk;
    av_log_set_level(AV_LOG_ERROR);
    clock_gettime(CLOCK_MONOTONIC, &talk.start);
    tool_protect(o);
    ret = media_plan_out(&out, &look);
    if (ret >= 0)
        ret = media_open_sound(&in, o->positional[0], o->input_format, stop_asked);
    if (ret >= 0)
        ret = open_all(&e, &s, o, in, out);
    if (ret >= 0)
        ret = speak_all(s, out, in, &talk, &nb, &o->look);
    closed = media_close_out(&out, ret >= 0);
    ret = ret < 0 ? ret : closed;
    close_all(&e, &s, &in);
    say_end(&talk, o->output, nb, ret);
    return ret < 0 ? 1 : 0;
}

/* 0, or the exit code behind a sentence. */
static int check_names(ToolOptions *o)
{
    int nb_stdin = 0;

    o->output = file_name(o->output ? o->output : "avatar.mp4");
    for (int i = 0; i < 2; i++) {
        o->positional[i] = file_name(o->positional[i]);
        nb_stdin += !strcmp(o->positional[i], "-");
    }
    if (!strcmp(o->output, "-") && isatty(1))
        return fprintf(stderr, "avatar: -o - writes NUT, which a terminal cannot show; pipe it into ffmpeg or name a file\n"), 2;
    if (strstr(o->output, "://"))
        return fprintf(stderr, "avatar: %s: only files and pipes are written here; -o - and an ffmpeg behind it reach servers\n", o->output), 2;
    if (o->look.stats && *o->look.stats && file_same(o->look.stats, o->output))
        return fprintf(stderr, "avatar: --stats %s: is the output; name another file for the statistics\n", o->look.stats), 2;
    if (nb_stdin > 1)
        return fprintf(stderr, "avatar: stdin is the sound or the picture, not both\n"), 2;
    if (nb_stdin && isatty(0))
        return fprintf(stderr, "avatar: stdin is a terminal, where nobody types a sound or a picture; pipe one into it or name a file\n"), 2;
    return 0;
}

int cmd_speak(int argc, char **argv)
{
    ToolOptions o;
    int ret = tool_options(&o, argc, argv);

    if (ret)
        return ret;
    if (o.help || o.nb_positional != 2) {
        fprintf(o.help ? stdout : stderr, "usage: avatar speak AUDIO PICTURE [-o FILE|-] [--OPTION VALUE ...]\n"
                "AUDIO, PICTURE: files of any kind that libavformat knows, one of them may be -, stdin. FILE: talk.mp4, .mov, .mkv, .webm, .ts, .nut\n");
        if (o.help)
            tool_options_help();
        return o.help ? 0 : 2;
    }
    ret = tool_takes(&o, "speak", TAKES_MODEL TAKES_FRAMES TAKES_RUN " prompt compat seed format tail mode latency late max_late stats output container"
                     " video_codec audio_codec input_format quiet");
    if (!ret)
        ret = check_names(&o);
    if (ret)
        return ret;
    return stop_watch() < 0 ? 1 : speak(&o);
}
