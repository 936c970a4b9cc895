/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Talking avatar filter: speech and one reference picture in, video at 25 frames a second out, computed by libavatar.
 *
 *     speech (16 kHz) --> mono ------> stream: queue, clock, session ---> frames, in memory or on the GPU
 *     picture (pad or file) --> rgb24 ---^
 *
 * The picture's pad takes every format, so that ffmpeg puts no scaler in front of it: where a second picture came before any sound, that
 * one would make the first as large as the second.
 *
 * Traps: init() also runs for probe copies of the graph, so the model is opened in config_props. The picture input is
 * drained for ever and never closed: closing it deadlocks a rebuilt graph on 7.x and leaks every later frame on 5.1.
 * ffmpeg rebuilds the graph when a picture or sound of another format comes, so the stream is handed to the next instance.
 * The session works in threads of its own; activate() waits for it only when a frame is wanted and the sound for it was sent.
 */

#include "libavutil/fifo.h"
#include "libavutil/macros.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/pixdesc.h"
#include "libswscale/swscale.h"
#include "avfilter.h"
#include "filters.h"
#include "formats.h"
#include "version.h"

#include <avatar.h>

#include "avatar_cuda.h"
#include "avatar_filter.h"
#include "avatar_park.h"
#include "avatar_picture.h"

/* What differs between FFmpeg 5.1 and 9.0. */
#if LIBAVFILTER_VERSION_MAJOR >= 11
#define FILTER_TYPE FFFilter
#define PUB(field)  .p.field
#else
#define FILTER_TYPE AVFilter
#define PUB(field)  .field
#endif
#ifdef FILTER_QUERY_FUNC2
#define QUERY_ARGS  const AVFilterContext *ctx, AVFilterFormatsConfig **cfg_in, AVFilterFormatsConfig **cfg_out
#define QUERY_IN(i) cfg_in[i]
#define QUERY_OUT   cfg_out[0]
#define QUERY_REG   FILTER_QUERY_FUNC2
#else
#define QUERY_ARGS  AVFilterContext *ctx
#define QUERY_IN(i) (&ctx->inputs[i]->outcfg)
#define QUERY_OUT   (&ctx->outputs[0]->incfg)
#define QUERY_REG   FILTER_QUERY_FUNC
#endif
#define HAVE_COLOR_LISTS (LIBAVFILTER_VERSION_INT >= AV_VERSION_INT(9, 16, 100))

#ifdef AVFILTER_FLAG_HWDEVICE
#define USES_DEVICE AVFILTER_FLAG_HWDEVICE
#else
#define USES_DEVICE 0                               /* every filter is given it */
#endif

static const AVRational sample_tb = { 1, AVATAR_SAMPLE_RATE }, frame_tb = { 1, AVATAR_FPS };

AVFILTER_DEFINE_CLASS_EXT(avatar, "avatar", ff_avatar_options);

static int64_t to_samples(int64_t us)
{
    return av_rescale(us, AVATAR_SAMPLE_RATE, 1000000);
}

#define BUILT_FOR AV_STRINGIFY(AVATAR_VERSION_MAJOR) "." AV_STRINGIFY(AVATAR_VERSION_MINOR) "." AV_STRINGIFY(AVATAR_VERSION_MICRO)

/* Before 1.0 a minor version may change what there is. What it adds needs none: avatar.h's structs go with their sizes. */
static av_cold int check_library(AVFilterContext *ctx)
{
    const unsigned v = avatar_version();

    if (v >> 8 == (AVATAR_VERSION_MAJOR << 8 | AVATAR_VERSION_MINOR))
        return 0;
    av_log(ctx, AV_LOG_ERROR, "this filter was built for libavatar %s, and %u.%u.%u is loaded: build ffmpeg again, or put the "
           "library that it was built with first on the loader's path\n", BUILT_FOR, v >> 16, v >> 8 & 255, v & 255);
    return AVERROR_EXTERNAL;
}

static av_cold int init(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFilterPad speech  = { .name = "speech",  .type = AVMEDIA_TYPE_AUDIO };
    AVFilterPad picture = { .name = "picture", .type = AVMEDIA_TYPE_VIDEO };
    int ret;

    if ((ret = check_library(ctx)) < 0 || (ret = ff_avatar_output_format(ctx)) < 0 ||
        (ret = ff_avatar_options_check(ctx)) < 0 || (ret = ff_avatar_options_key(ctx)) < 0)
        return ret;
    if ((ret = ff_append_inpad(ctx, &speech)) < 0)
        return ret;
    return s->image ? 0 : ff_append_inpad(ctx, &picture);
}

#if HAVE_COLOR_LISTS
/* Without lists of their own all video links would share one, and a full-range picture would give full-range video. */
static int query_colors(AVFilterFormatsConfig *out, AVFilterFormatsConfig *picture, int rgb)
{
    const int spaces[] = { rgb ? AVCOL_SPC_RGB : AVCOL_SPC_BT709, -1 };
    const int ranges[] = { rgb ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG, -1 };
    int ret;

    if ((ret = ff_formats_ref(ff_make_format_list(spaces), &out->color_spaces)) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(ranges), &out->color_ranges)) < 0 || !picture)
        return ret;
    if ((ret = ff_formats_ref(ff_all_color_spaces(), &picture->color_spaces)) < 0)
        return ret;
    return ff_formats_ref(ff_all_color_ranges(), &picture->color_ranges);
}
#endif

static AVFilterFormats *picture_formats(void)
{
    const AVPixFmtDescriptor *desc = NULL;
    AVFilterFormats *list = NULL;

    while ((desc = av_pix_fmt_desc_next(desc))) {
        const enum AVPixelFormat pix_fmt = av_pix_fmt_desc_get_id(desc);

        if (sws_isSupportedInput(pix_fmt) && ff_add_format(&list, pix_fmt) < 0)
            return NULL;
    }
    return list;
}

static int query_formats(QUERY_ARGS)
{
    static const int sample_formats[] = { AV_SAMPLE_FMT_FLT, -1 }, sample_rates[] = { AVATAR_SAMPLE_RATE, -1 };
    const AvatarContext *s = ctx->priv;
    const int out_formats[] = { s->format, -1 };
    int ret;

    if ((ret = ff_channel_layouts_ref(ff_all_channel_counts(), &QUERY_IN(0)->channel_layouts)) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(sample_formats), &QUERY_IN(0)->formats)) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(sample_rates), &QUERY_IN(0)->samplerates)) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(out_formats), &QUERY_OUT->formats)) < 0)
        return ret;
    if (ctx->nb_inputs > 1 && (ret = ff_formats_ref(picture_formats(), &QUERY_IN(1)->formats)) < 0)
        return ret;
#if HAVE_COLOR_LISTS
    ret = query_colors(QUERY_OUT, ctx->nb_inputs > 1 ? QUERY_IN(1) : NULL, ff_avatar_output_is_rgb(s->planes));
#endif
    return ret;
}

/* A stream of our own: the engine, the picture if it is a file, the clock's settings. */
static int open_stream(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AvatarOptions opt;
    int ret;

    if (!s->stream && !(s->stream = ff_avatar_stream_alloc(ctx)))
        return AVERROR(ENOMEM);
    if ((ret = ff_avatar_options_get(s, &opt)) < 0 ||
        (!s->stream->engine && (ret = avatar_engine_open(&s->stream->engine, &opt)) < 0))
        return ret;
    if (s->image && (ret = ff_avatar_picture_read(ctx, s->image, &s->stream->picture)) < 0)
        return ret;
    av_freep(&s->stream->prompt);
    av_freep(&s->stream->stats);
    if ((s->prompt && !(s->stream->prompt = av_strdup(s->prompt))) || (s->stats && !(s->stream->stats = av_strdup(s->stats))))
        return AVERROR(ENOMEM);
    ff_avatar_options_look(s, &s->stream->look);
    s->stream->hold            = to_samples(s->hold);
    s->stream->clock.max_gap   = to_samples(s->max_gap);
    s->stream->clock.max_drift = to_samples(s->max_drift);
    return 0;
}

/* A picture that comes later must not change the size any more; with compat=upstream it does, and is refused. */
static void settle_size(AvatarContext *s)
{
    if (s->compat == AVATAR_COMPAT_NONE) {
        s->stream->look.out_width  = s->stream->width;
        s->stream->look.out_height = s->stream->height;
    }
}

/* The size of the frames, by the options and the first picture. */
static int find_size(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AvatarLook look = s->stream->look;
    int ret;

    look.width  = s->stream->picture ? s->stream->picture->width  : ctx->inputs[1]->w;
    look.height = s->stream->picture ? s->stream->picture->height : ctx->inputs[1]->h;
    if ((ret = avatar_engine_size(s->stream->engine, &look, &s->stream->width, &s->stream->height)) >= 0)
        settle_size(s);
    return ret;
}

/* Device frames for the link, where they stay on the GPU. */
static int config_frames(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    AvatarContext *s = ctx->priv;
    int device;

    if (s->format != AV_PIX_FMT_CUDA)
        return 0;
    device = avatar_engine_device(s->stream->engine);
    av_buffer_unref(&LINKEXT(outlink)->hw_frames_ctx);
    return device < 0 ? device : ff_avatar_cuda_frames(ctx, &LINKEXT(outlink)->hw_frames_ctx, device, s->planes, outlink->w, outlink->h);
}

static int config_output(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    AvatarContext *s = ctx->priv;
    int ret;

    if (!s->stream && (s->stream = ff_avatar_unpark(s->key))) {
        ff_avatar_stream_log(s->stream, ctx);
        s->inherited = 1;
        s->late      = s->stream->look.late;
        s->max_late  = s->stream->look.max_late_ms * INT64_C(1000);
    } else if ((ret = open_stream(ctx)) < 0 || (ret = find_size(ctx)) < 0) {
        return ret;
    }
    outlink->w                   = s->stream->width;
    outlink->h                   = s->stream->height;
    outlink->time_base           = frame_tb;
    outlink->sample_aspect_ratio = (AVRational){ 1, 1 };
    LINKEXT(outlink)->frame_rate = (AVRational){ AVATAR_FPS, 1 };
    if ((ret = config_frames(outlink)) < 0)
        return ret;
    return s->stream->picture && !s->stream->session ? ff_avatar_stream_open(s->stream) : 0;
}

/* Where the graph was set up for a later picture, as that came before any sound, the output has that one's ratio. */
static int keep_first(AVFilterContext *ctx, AVFrame **frame)
{
    AvatarContext *s = ctx->priv;
    const AVFilterLink *inlink = ctx->inputs[1];
    const AVFrame *f = *frame;

    if (!s->w && !s->stream->picture && f->width * (int64_t)inlink->h != f->height * (int64_t)inlink->w)
        av_log(ctx, AV_LOG_WARNING, "The second input's first picture has %dx%d, but ffmpeg set up the output by a later one of %dx%d; "
               "give size, or image\n", f->width, f->height, inlink->w, inlink->h);
    FFSWAP(AVFrame *, s->first, *frame);
    return ff_avatar_picture_rgb(&s->first);
}

/*
 * Take the first picture of the second input and drop all others, so that they do not pile up. Its display matrix is not
 * looked at: ffmpeg has turned the picture, and 5.1 leaves the matrix on it all the same.
 */
static int read_pictures(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *inlink = ctx->inputs[1];
    AVFrame *frame;
    int64_t pts;
    int ret, status;

    while ((ret = ff_inlink_consume_frame(inlink, &frame)) > 0) {
        ret = s->first ? 0 : keep_first(ctx, &frame);
        av_frame_free(&frame);
        if (ret < 0)
            return ret;
    }
    if (ret < 0)
        return ret;
    if (s->first && !s->stream->picture && !(s->stream->picture = av_frame_clone(s->first)))
        return AVERROR(ENOMEM);
    if (ff_inlink_acknowledge_status(inlink, &status, &pts) && !s->stream->picture) {
        av_log(ctx, AV_LOG_ERROR, "The second input ended without a picture; give one, or set image to a file\n");
        return status == AVERROR_EOF ? AVERROR_INVALIDDATA : status;
    }
    return 0;
}

/* A sum of what the graph's links carry, never 0. It is another one where ffmpeg builds a graph anew, as an input has changed. */
static uint32_t sum_links(const AVFilterGraph *graph)
{
    uint32_t sum = 1;
    unsigned i, j;

    for (i = 0; i < graph->nb_filters; i++)
        for (j = 0; j < graph->filters[i]->nb_outputs; j++) {
            const AVFilterLink *l = graph->filters[i]->outputs[j];
            const int native = l->ch_layout.order == AV_CHANNEL_ORDER_NATIVE;
            const int carries[] = { l->type, l->format, l->w, l->h, l->sample_rate, l->ch_layout.nb_channels,
                                    native ? (int)l->ch_layout.u.mask : 0 };
            unsigned k;

            for (k = 0; k < FF_ARRAY_ELEMS(carries); k++)
                sum = (sum ^ carries[k]) * 16777619u;
        }
    return sum | 1;
}

/*
 * Sound that follows what came before goes on with the stream; in a graph of other links, which is one built anew, also behind a jump
 * forward: the clock knows what to do with that. Else somebody has gone elsewhere in a film, or begun another one.
 */
static int goes_on(const AvatarContext *s, int64_t at)
{
    const AvatarStream *st = s->stream;
    const int64_t end = ff_avatar_stream_queued(st, NULL), jump = at == AVATAR_CLOCK_NONE || end == AVATAR_CLOCK_NONE ? 0 : at - end;

    return !st->ended && jump >= -AVATAR_SAMPLE_RATE &&
           (st->links != s->links || jump <= FFMAX(st->clock.max_gap, AVATAR_SAMPLE_RATE));
}

static int check_inheritance(AVFilterContext *ctx, int64_t at)
{
    AvatarContext *s = ctx->priv;
    int64_t left_out;
    int ret;

    s->inherited = 0;
    if (goes_on(s, at))
        return 0;
    ff_avatar_stream_queued(s->stream, &left_out);
    av_log(ctx, left_out ? AV_LOG_WARNING : AV_LOG_VERBOSE, "The sound begins elsewhere: a new stream; %.3f s of the one before, which had "
           "not become frames, are left out\n", left_out / (double)AVATAR_SAMPLE_RATE);
    ff_avatar_stream_forget(s->stream);
    av_frame_free(&s->stream->picture);
    if ((ret = open_stream(ctx)) < 0)
        return ret;
    settle_size(s);
    if (!s->stream->picture && s->first && !(s->stream->picture = av_frame_clone(s->first)))
        return AVERROR(ENOMEM);
    return 0;
}

int ff_avatar_read_sound(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *inlink = ctx->inputs[0];
    AVFrame *frame;
    int64_t pts;
    int ret, status;

    while ((ret = ff_inlink_consume_frame(inlink, &frame)) > 0) {
        if (frame->pts != AV_NOPTS_VALUE)
            frame->pts = av_rescale_q(frame->pts, inlink->time_base, sample_tb);
        if ((s->inherited && (ret = check_inheritance(ctx, ff_avatar_stream_stamp(frame))) < 0) ||
            (ret = ff_avatar_mono(&s->mono, ctx, &frame)) < 0) {
            av_frame_free(&frame);
            return ret;
        }
        if ((ret = ff_avatar_stream_push(s->stream, frame)) < 0)
            return ret;
    }
    if (ret < 0 || (s->stream->ended && !s->inherited) || !ff_inlink_acknowledge_status(inlink, &status, &pts))
        return ret;
    s->inherited = 0;
    if (!s->stream->nb_samples && !av_fifo_can_read(s->stream->queue) && pts != AV_NOPTS_VALUE)
        s->stream->next_pts = av_rescale_q(pts, inlink->time_base, frame_tb);
    ff_avatar_stream_end(s->stream);
    return 0;
}

static int finish(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    const AvatarStream *st = s->stream;

    s->finished = 1;
    av_log(ctx, AV_LOG_VERBOSE, "%"PRId64" frames from %.3f s of sound; %.3f s of silence were put in, %.3f s of sound were cut\n",
           st->nb_frames, st->nb_samples / (double)AVATAR_SAMPLE_RATE, st->clock.filled / (double)AVATAR_SAMPLE_RATE,
           st->clock.cut / (double)AVATAR_SAMPLE_RATE);
    ff_outlink_set_status(ctx->outputs[0], AVERROR_EOF, st->next_pts);
    return 0;
}

static int activate(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *outlink = ctx->outputs[0];
    AvatarStream *st = s->stream;
    AvatarFrame frame;
    int64_t pts;
    int ret;

    if (!s->links)
        s->links = sum_links(ctx->graph);
    s->finished |= !!ff_outlink_get_status(outlink);
    FF_FILTER_FORWARD_STATUS_BACK_ALL(outlink, ctx);
    if (ctx->nb_inputs > 1 && (ret = read_pictures(ctx)) < 0)
        return ret;
    if ((ret = ff_avatar_read_sound(ctx)) < 0)
        return ret;
    if (!st->session && st->picture && (ret = ff_avatar_stream_open(st)) < 0)
        return ret;
    if (st->session && (ret = ff_avatar_stream_feed(st)) < 0)
        return ret;
    if (!ff_outlink_frame_wanted(outlink))
        return FFERROR_NOT_READY;
    if (!st->session) {
        ff_inlink_request_frame(ctx->inputs[1]);
        return 0;
    }
    if (st->rest && !st->nb_samples)
        return finish(ctx);
    ret = s->inherited ? AVATAR_EAGAIN : ff_avatar_stream_receive(st, &frame, &pts);
    if (ret >= 0)
        return ff_avatar_output_send(ctx, &frame, pts);
    if (ret == AVATAR_EOF)
        return finish(ctx);
    if (ret != AVATAR_EAGAIN)
        return ret;
    ff_inlink_request_frame(ctx->inputs[0]);
    return 0;
}

static void release_stream(void *opaque)
{
    AvatarStream *st = opaque;

    ff_avatar_stream_free(&st);
}

/* The graph may be freed only to be built anew, for another format of an input. Then the stream goes on in the next instance. */
static av_cold void uninit(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;

    if (s->stream && s->stream->width && !s->finished) {
        ff_avatar_stream_log(s->stream, NULL);
        s->stream->links = s->links ? s->links : s->stream->links;
        ff_avatar_park(s->key, s->stream, release_stream);
        s->stream = NULL;
    }
    ff_avatar_stream_free(&s->stream);
    ff_avatar_mono_uninit(&s->mono);
    av_frame_free(&s->first);
    av_freep(&s->key);
}

static const AVFilterPad avatar_outputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
        .config_props = config_output,
    },
};

const FILTER_TYPE ff_avf_avatar = {
    PUB(name)        = "avatar",
    PUB(description) = NULL_IF_CONFIG_SMALL("Make a picture talk: speech and a picture to video (libavatar " BUILT_FOR ")."),
    PUB(priv_class)  = &avatar_class,
    PUB(inputs)      = NULL,
    PUB(flags)       = AVFILTER_FLAG_DYNAMIC_INPUTS | USES_DEVICE,
    .flags_internal  = FF_FILTER_FLAG_HWFRAME_AWARE,
    .priv_size       = sizeof(AvatarContext),
    .init            = init,
    .uninit          = uninit,
    .activate        = activate,
    .process_command = ff_avatar_command,
    FILTER_OUTPUTS(avatar_outputs),
    QUERY_REG(query_formats),
};
