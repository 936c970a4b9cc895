/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Talking avatar filter: speech and one reference picture in, video at 25 frames a second out, computed by libavatar.
 *
 *     speech (16 kHz mono) ---> gaps filled, overlaps cut -----> session ---> frames, pts = start of the sound + n
 *     picture (pad or file) --> rgb24, a file turned upright ----^
 *
 * Traps: init() also runs for probe copies of the graph, so the model is opened in config_props. The picture input is
 * drained for ever and never closed: closing it deadlocks a rebuilt graph on 7.x and leaks every later frame on 5.1.
 * The session works in threads of its own; activate() waits for it only when a frame is wanted and the sound for it was sent.
 */

#include "libavutil/display.h"
#include "libavutil/imgutils.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"
#include "libavutil/pixdesc.h"
#include "libavcodec/avcodec.h"
#include "libavformat/avformat.h"
#include "libswscale/swscale.h"
#include "avfilter.h"
#include "filters.h"
#include "formats.h"
#include "version.h"
#include "video.h"

#include <avatar.h>

/* What differs between FFmpeg 5.1 and 9.0. */
#if LIBAVFILTER_VERSION_MAJOR >= 11
#define FILTER_TYPE FFFilter
#define PUB(field)  .p.field
#else
#define FILTER_TYPE AVFilter
#define PUB(field)  .field
#endif
#ifdef FILTER_QUERY_FUNC2
#define LINKEXT(l)  ff_filter_link(l)
#define QUERY_ARGS  const AVFilterContext *ctx, AVFilterFormatsConfig **cfg_in, AVFilterFormatsConfig **cfg_out
#define QUERY_IN(i) cfg_in[i]
#define QUERY_OUT   cfg_out[0]
#define QUERY_REG   FILTER_QUERY_FUNC2
#else
#define LINKEXT(l)  (l)
#define QUERY_ARGS  AVFilterContext *ctx
#define QUERY_IN(i) (&ctx->inputs[i]->outcfg)
#define QUERY_OUT   (&ctx->outputs[0]->incfg)
#define QUERY_REG   FILTER_QUERY_FUNC
#endif
#define HAVE_COLOR_LISTS (LIBAVFILTER_VERSION_INT >= AV_VERSION_INT(9, 16, 100))
#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 30, 100)
#define DURATION    duration
#else
#define DURATION    pkt_duration
#endif

#define MAX_CHANNELS      64
#define SAMPLES_PER_FRAME (AVATAR_SAMPLE_RATE / AVATAR_FPS)
#define KEEP_SEED         (-2)
#define BLOCK_MS          (1000 * AVATAR_BLOCK_FRAMES / AVATAR_FPS)

static const AVRational sample_tb = { 1, AVATAR_SAMPLE_RATE }, frame_tb = { 1, AVATAR_FPS };

static const struct {
    enum AVPixelFormat pix_fmt;
    enum AvatarFormat format;
} formats[] = {
    { AV_PIX_FMT_YUV420P, AVATAR_YUV420P },
    { AV_PIX_FMT_YUV444P, AVATAR_YUV444P },
    { AV_PIX_FMT_NV12,    AVATAR_NV12    },
    { AV_PIX_FMT_RGB24,   AVATAR_RGB24   },
    { AV_PIX_FMT_GBRP,    AVATAR_GBRP    },
};

typedef struct AvatarContext {
    const AVClass *class;

    char *model, *lora, *devices, *plan, *vae_device, *precision, *opts;
    char *image, *prompt;
    int w, h;                       ///< size asked for, 0: the library chooses
    int64_t seed;
    int64_t max_gap, hold, latency, max_late;       ///< in microseconds
    int steps, cpu_threads;
    int compat, format, tail, mode, late;
    int metadata;
    enum AvatarFormat lib_format;

    AvatarEngine *engine;
    AvatarSession *session;         ///< NULL until the picture is known
    AVFrame *picture;               ///< rgb24; kept, as a new take needs it again

    int64_t start_sample;           ///< time of the take's first sample, in 1/16000 s
    int64_t next_sample;            ///< where the next frame of sound is expected, in 1/16000 s
    int64_t start_pts;              ///< the same start in 1/25 s
    int64_t next_pts;               ///< end of the last frame sent
    int64_t nb_frames, nb_samples;
    int64_t hold_left;              ///< samples of silence still to be sent after the sound
    double block_ms;                ///< time that the newest block took
    AVFrame *held;                  ///< sound behind a long gap: waits until the take before it is drained
    int started;                    ///< some sound came
    int closed;                     ///< the session was told that its sound is complete
    int eof;                        ///< no more sound comes from the input
    int in_overlap;                 ///< the episode has been reported
    int finished;                   ///< the output is closed, by us or by its reader
} AvatarContext;

#define OFFSET(x) offsetof(AvatarContext, x)
#define FLAGS (AV_OPT_FLAG_AUDIO_PARAM | AV_OPT_FLAG_VIDEO_PARAM | AV_OPT_FLAG_FILTERING_PARAM)
#define TFLAGS (FLAGS | AV_OPT_FLAG_RUNTIME_PARAM)
#define STRING(name, help, field, flags) { name, help, OFFSET(field), AV_OPT_TYPE_STRING, { .str = NULL }, 0, 0, flags }
#define CHOICE(name, help, value, group) { name, help, 0, AV_OPT_TYPE_CONST, { .i64 = value }, 0, 0, FLAGS, .unit = group }

static const AVOption avatar_options[] = {
    STRING("model",      "set the model, a folder or a name in AVATAR_MODELS (default: nano, for drawn faces at 128x128)", model,      FLAGS),
    STRING("m",          "set the model, a folder or a name in AVATAR_MODELS (default: nano, for drawn faces at 128x128)", model,      FLAGS),
    STRING("image",      "set the reference picture file, instead of the second input", image, TFLAGS),
    STRING("lora",       "set the LoRA file, or auto, or none",                lora,       FLAGS),
    STRING("prompt",     "set the text prompt (default: the model's)",         prompt,     TFLAGS),
    { "size", "set the size of the output (default: the picture's ratio at the model's area)", OFFSET(w), AV_OPT_TYPE_IMAGE_SIZE,
        { .str = NULL }, 0, 0, FLAGS },
    { "s",    "set the size of the output (default: the picture's ratio at the model's area)", OFFSET(w), AV_OPT_TYPE_IMAGE_SIZE,
        { .str = NULL }, 0, 0, FLAGS },
    { "compat", "set whose habits to follow", OFFSET(compat), AV_OPT_TYPE_INT, { .i64 = AVATAR_COMPAT_NONE },
        AVATAR_COMPAT_NONE, AVATAR_COMPAT_UPSTREAM, FLAGS, .unit = "compat" },
    CHOICE("none",     "exact size, sound and picture aligned",      AVATAR_COMPAT_NONE,     "compat"),
    CHOICE("upstream", "the original program's, for parity runs",    AVATAR_COMPAT_UPSTREAM, "compat"),
    { "steps", "set the number of denoising steps, -1 for the model's", OFFSET(steps), AV_OPT_TYPE_INT,
        { .i64 = -1 }, -1, 100, FLAGS },
    { "seed", "set the random seed, -1 to draw one", OFFSET(seed), AV_OPT_TYPE_INT64, { .i64 = -1 }, -1, UINT32_MAX, TFLAGS },
    STRING("devices",    "set the devices, joined by '|' (default: auto)",     devices,    FLAGS),
    STRING("plan",       "set how work is split over the devices (default: auto)", plan,   FLAGS),
    STRING("precision", "set the numbers between operations: auto (what the devices run fastest), f32, bf16", precision, FLAGS),
    STRING("vae_device", "set where pictures are encoded and decoded (default: auto)", vae_device, FLAGS),
    { "cpu_threads", "set the number of CPU threads, 0 for one a core", OFFSET(cpu_threads), AV_OPT_TYPE_INT,
        { .i64 = 0 }, 0, 1024, FLAGS },
    { "format", "set the output pixel format", OFFSET(format), AV_OPT_TYPE_PIXEL_FMT,
        { .i64 = AV_PIX_FMT_YUV420P }, 0, INT_MAX, FLAGS },
    { "max_gap", "set the longest hole in the sound that is filled with silence", OFFSET(max_gap), AV_OPT_TYPE_DURATION,
        { .i64 = 10000000 }, 0, INT64_C(3600000000), FLAGS },
    { "tail", "set which frames end the output", OFFSET(tail), AV_OPT_TYPE_INT, { .i64 = AVATAR_TAIL_CEIL },
        AVATAR_TAIL_CEIL, AVATAR_TAIL_BLOCK, FLAGS, .unit = "tail" },
    CHOICE("ceil",  "cover all the sound",                           AVATAR_TAIL_CEIL,  "tail"),
    CHOICE("floor", "only frames that are covered by sound",         AVATAR_TAIL_FLOOR, "tail"),
    CHOICE("block", "complete the last block with silence",          AVATAR_TAIL_BLOCK, "tail"),
    { "hold", "set how long to go on with silence after the sound", OFFSET(hold), AV_OPT_TYPE_DURATION,
        { .i64 = 0 }, 0, INT64_C(3600000000), FLAGS },
    { "mode", "set how the sound is encoded", OFFSET(mode), AV_OPT_TYPE_INT, { .i64 = AVATAR_OFFLINE },
        AVATAR_OFFLINE, AVATAR_LIVE, FLAGS, .unit = "mode" },
    CHOICE("offline", "whole, when it has ended",                    AVATAR_OFFLINE, "mode"),
    CHOICE("live",    "block by block, as it comes",                 AVATAR_LIVE,    "mode"),
    { "latency", "set how much sound after a block is waited for, in live mode", OFFSET(latency), AV_OPT_TYPE_DURATION,
        { .i64 = 160000 }, 0, 10000000, FLAGS },
    { "late", "set what to do when sound runs ahead of the frames, in live mode", OFFSET(late), AV_OPT_TYPE_INT,
        { .i64 = AVATAR_LATE_WAIT }, AVATAR_LATE_WAIT, AVATAR_LATE_DROP, TFLAGS, .unit = "late" },
    CHOICE("wait",   "show all of it, later and later",              AVATAR_LATE_WAIT,   "late"),
    CHOICE("repeat", "leave some out, repeat the last frame",        AVATAR_LATE_REPEAT, "late"),
    CHOICE("drop",   "leave some out, and its frames too",           AVATAR_LATE_DROP,   "late"),
    { "max_late", "set how far ahead before late acts", OFFSET(max_late), AV_OPT_TYPE_DURATION,
        { .i64 = 2000000 }, 40000, 60000000, TFLAGS },
    { "metadata", "attach lavfi.avatar.* metadata to the frames", OFFSET(metadata), AV_OPT_TYPE_BOOL, { .i64 = 0 }, 0, 1, TFLAGS },
    STRING("opts",       "set expert settings of libavatar, key=value pairs joined by ':'", opts, FLAGS),
    { NULL }
};

AVFILTER_DEFINE_CLASS(avatar);

static void log_line(void *opaque, int level, const char *text)
{
    static const int levels[] = { AV_LOG_ERROR, AV_LOG_WARNING, AV_LOG_INFO, AV_LOG_DEBUG, AV_LOG_TRACE };

    av_log(opaque, levels[av_clip(level, 0, FF_ARRAY_ELEMS(levels) - 1)], "%s\n", text);
}

static void get_options(AVFilterContext *ctx, AvatarOptions *opt)
{
    const AvatarContext *s = ctx->priv;

    avatar_options_default(opt);
    opt->model       = s->model;
    opt->models      = getenv("AVATAR_MODELS");
    opt->lora        = s->lora;
    opt->devices     = s->devices;
    opt->plan        = s->plan;
    opt->vae_device  = s->vae_device;
    opt->precision   = s->precision;
    opt->steps       = s->steps;
    opt->cpu_threads = s->cpu_threads;
    opt->compat      = s->compat;
    opt->opts        = s->opts;
    opt->log         = log_line;
    opt->log_opaque  = ctx;
    opt->log_level   = av_log_get_level() >= AV_LOG_TRACE ? AVATAR_LOG_TRACE :
                       av_log_get_level() >= AV_LOG_DEBUG ? AVATAR_LOG_DEBUG : AVATAR_LOG_INFO;
}

static av_cold int init(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFilterPad speech  = { .name = "speech",  .type = AVMEDIA_TYPE_AUDIO };
    AVFilterPad picture = { .name = "picture", .type = AVMEDIA_TYPE_VIDEO };
    AvatarOptions opt;
    int i, ret;

    for (i = 0; i < FF_ARRAY_ELEMS(formats) && formats[i].pix_fmt != s->format; i++)
        ;
    if (i == FF_ARRAY_ELEMS(formats)) {
        const char *name = av_get_pix_fmt_name(s->format);
        av_log(ctx, AV_LOG_ERROR, "format=%s cannot be produced; use yuv420p, yuv444p, nv12, rgb24 or gbrp\n",
               name ? name : "none");
        return AVERROR(EINVAL);
    }
    s->lib_format = formats[i].format;

    get_options(ctx, &opt);
    if ((ret = avatar_options_check(&opt)) < 0)
        return ret;
    if ((ret = ff_append_inpad(ctx, &speech)) < 0)
        return ret;
    return s->image ? 0 : ff_append_inpad(ctx, &picture);
}

static int is_rgb(enum AVPixelFormat pix_fmt)
{
    return !!(av_pix_fmt_desc_get(pix_fmt)->flags & AV_PIX_FMT_FLAG_RGB);
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

/* Mono, to which the graph converts channels that have names; and any number that has none by custom, which nothing converts. */
static int query_channels(AVFilterFormatsConfig *sound)
{
    AVFilterChannelLayouts *layouts = NULL;
    int i, ret = 0;

    for (i = 1; i <= MAX_CHANNELS && ret >= 0; i++) {
        AVChannelLayout layout;

        av_channel_layout_default(&layout, i);
        if (i == 1 || layout.order == AV_CHANNEL_ORDER_UNSPEC)
            ret = ff_add_channel_layout(&layouts, &layout);
    }
    return ret < 0 ? ret : ff_channel_layouts_ref(layouts, &sound->channel_layouts);
}

static int query_formats(QUERY_ARGS)
{
    static const int sample_formats[] = { AV_SAMPLE_FMT_FLT, -1 }, sample_rates[] = { AVATAR_SAMPLE_RATE, -1 };
    static const int picture_formats[] = { AV_PIX_FMT_RGB24, -1 };
    const AvatarContext *s = ctx->priv;
    const int out_formats[] = { s->format, -1 };
    int ret;

    if ((ret = query_channels(QUERY_IN(0))) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(sample_formats), &QUERY_IN(0)->formats)) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(sample_rates), &QUERY_IN(0)->samplerates)) < 0 ||
        (ret = ff_formats_ref(ff_make_format_list(out_formats), &QUERY_OUT->formats)) < 0)
        return ret;
    if (ctx->nb_inputs > 1 && (ret = ff_formats_ref(ff_make_format_list(picture_formats), &QUERY_IN(1)->formats)) < 0)
        return ret;
#if HAVE_COLOR_LISTS
    ret = query_colors(QUERY_OUT, ctx->nb_inputs > 1 ? QUERY_IN(1) : NULL, is_rgb(s->format));
#endif
    return ret;
}

/* Turn an rgb24 picture upright by its display matrix; only the eight positions of EXIF are told apart. */
static int turn_upright(AVFrame **picture)
{
    const AVFrameSideData *sd = av_frame_get_side_data(*picture, AV_FRAME_DATA_DISPLAYMATRIX);
    const AVFrame *in = *picture;
    const int32_t *m;
    AVFrame *out;
    int swap, flip_x, flip_y, x, y, ret;

    if (!sd || sd->size < 9 * sizeof(*m))
        return 0;
    m      = (const int32_t *)sd->data;                     // (x, y) goes to (m0 x + m3 y, m1 x + m4 y)
    swap   = FFABS((int64_t)m[1]) > FFABS((int64_t)m[0]);
    flip_x = (swap ? m[3] : m[0]) < 0;
    flip_y = (swap ? m[1] : m[4]) < 0;
    if (!swap && !flip_x && !flip_y)
        return 0;
    if (!(out = av_frame_alloc()))
        return AVERROR(ENOMEM);
    out->format = in->format;
    out->width  = swap ? in->height : in->width;
    out->height = swap ? in->width  : in->height;
    if ((ret = av_frame_get_buffer(out, 0)) < 0) {
        av_frame_free(&out);
        return ret;
    }
    for (y = 0; y < in->height; y++) {
        for (x = 0; x < in->width; x++) {
            int dx = swap ? y : x, dy = swap ? x : y;
            dx = flip_x ? out->width  - 1 - dx : dx;
            dy = flip_y ? out->height - 1 - dy : dy;
            memcpy(out->data[0] + dy * (ptrdiff_t)out->linesize[0] + 3 * dx,
                   in->data[0]  + y  * (ptrdiff_t)in->linesize[0]  + 3 * x, 3);
        }
    }
    av_frame_free(picture);
    *picture = out;
    return 0;
}

/* What a picture says about its matrix and range; swscale knows by the format what an unmarked one has. */
static void set_colors(struct SwsContext *sws, const AVFrame *in)
{
    int *from, *to, in_full, out_full, brightness, contrast, saturation;

    if (sws_getColorspaceDetails(sws, &from, &in_full, &to, &out_full, &brightness, &contrast, &saturation) < 0)
        return;
    if (in->color_range != AVCOL_RANGE_UNSPECIFIED)
        in_full = in->color_range == AVCOL_RANGE_JPEG;
    if (in->colorspace != AVCOL_SPC_UNSPECIFIED)
        from = (int *)sws_getCoefficients(in->colorspace);
    sws_setColorspaceDetails(sws, from, in_full, to, out_full, brightness, contrast, saturation);
}

/* Convert a decoded picture to rgb24; alpha is dropped. */
static int to_rgb(AVFrame **picture)
{
    const int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP;
    const AVFrame *in = *picture;
    AVFrame *out = av_frame_alloc();
    struct SwsContext *sws = sws_getContext(in->width, in->height, in->format, in->width, in->height, AV_PIX_FMT_RGB24,
                                            flags, NULL, NULL, NULL);
    int ret = AVERROR(ENOMEM);

    if (!sws || !out)
        goto end;
    set_colors(sws, in);
    if ((ret = av_frame_copy_props(out, in)) < 0)
        goto end;
    out->format = AV_PIX_FMT_RGB24;
    out->width  = in->width;
    out->height = in->height;
    if ((ret = av_frame_get_buffer(out, 0)) < 0)
        goto end;
    ret = sws_scale(sws, (const uint8_t * const *)in->data, in->linesize, 0, in->height, out->data, out->linesize);
    if (ret >= 0)
        FFSWAP(AVFrame *, *picture, out);
end:
    sws_freeContext(sws);
    av_frame_free(&out);
    return FFMIN(ret, 0);
}

/* Decode the first frame of a file's video stream. */
static int decode_first(AVFormatContext *fc, AVCodecContext *cc, int stream, AVFrame *frame)
{
    AVPacket *pkt = av_packet_alloc();
    int ret = pkt ? 0 : AVERROR(ENOMEM), eof = 0;

    while (ret >= 0 && !eof) {
        eof = av_read_frame(fc, pkt) < 0;
        if (!eof && pkt->stream_index != stream) {
            av_packet_unref(pkt);
            continue;
        }
        ret = avcodec_send_packet(cc, eof ? NULL : pkt);
        av_packet_unref(pkt);
        if (ret >= 0 && (ret = avcodec_receive_frame(cc, frame)) != AVERROR(EAGAIN))
            break;
        if (ret == AVERROR(EAGAIN))
            ret = 0;
    }
    av_packet_free(&pkt);
    return ret < 0 ? ret : frame->width ? 0 : AVERROR_INVALIDDATA;
}

/* Read a picture file into s->picture; after an error the old one stays. */
static int load_picture(AVFilterContext *ctx, const char *path)
{
    AvatarContext *s = ctx->priv;
    AVFormatContext *fc = NULL;
    AVCodecContext *cc = NULL;
    AVDictionary *opts = NULL;
    const AVCodec *codec;
    AVFrame *frame = av_frame_alloc();
    int ret, stream;

    if (!frame)
        return AVERROR(ENOMEM);
    av_dict_set(&opts, "pattern_type", "none", 0);          // a '%' in a file name is a '%'
    if ((ret = avformat_open_input(&fc, path, NULL, &opts)) < 0 || (ret = avformat_find_stream_info(fc, NULL)) < 0 ||
        (ret = stream = av_find_best_stream(fc, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0)) < 0)
        goto end;
    ret = AVERROR(ENOMEM);
    if (!(cc = avcodec_alloc_context3(codec)) || (ret = avcodec_parameters_to_context(cc, fc->streams[stream]->codecpar)) < 0)
        goto end;
    cc->thread_count = 1;
    if ((ret = avcodec_open2(cc, codec, NULL)) >= 0 && (ret = decode_first(fc, cc, stream, frame)) >= 0 &&
        (ret = to_rgb(&frame)) >= 0 && (ret = turn_upright(&frame)) >= 0)
        FFSWAP(AVFrame *, s->picture, frame);
end:
    if (ret < 0)
        av_log(ctx, AV_LOG_ERROR, "image=%s cannot be used: %s\n", path, av_err2str(ret));
    av_dict_free(&opts);
    av_frame_free(&frame);
    avcodec_free_context(&cc);
    avformat_close_input(&fc);
    return ret;
}

static void set_picture(AvatarLook *look, const AVFrame *picture)
{
    look->rgb    = picture->data[0];
    look->stride = picture->linesize[0];
    look->width  = picture->width;
    look->height = picture->height;
}

static void get_look(const AvatarContext *s, AvatarLook *look)
{
    avatar_look_default(look);
    if (s->picture)
        set_picture(look, s->picture);
    look->prompt      = s->prompt;
    look->out_width   = s->w;
    look->out_height  = s->h;
    look->seed        = s->seed;
    look->format      = s->lib_format;
    look->tail        = s->tail;
    look->mode        = s->mode;
    look->latency_ms  = s->latency / 1000;
    look->late        = s->late;
    look->max_late_ms = s->max_late / 1000;
}

/* Start a take. Output size and picture are known. */
static int open_session(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    const AVFilterLink *outlink = ctx->outputs[0];
    AvatarLook look;
    AvatarInfo info;
    int ret;

    get_look(s, &look);
    if (s->compat == AVATAR_COMPAT_NONE) {                  // a picture that came by command must not change the size any more
        look.out_width  = outlink->w;
        look.out_height = outlink->h;
    }
    if ((ret = avatar_session_open(&s->session, s->engine, &look)) < 0)
        return ret;
    avatar_session_info(s->session, &info);
    if (info.width != outlink->w || info.height != outlink->h) {
        av_log(ctx, AV_LOG_ERROR, "The picture gives %dx%d, but the output was configured as %dx%d; set size\n",
               info.width, info.height, outlink->w, outlink->h);
        return AVERROR(EINVAL);
    }
    s->closed   = 0;
    s->block_ms = 0;
    return 0;
}

static int config_output(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    AvatarContext *s = ctx->priv;
    AvatarOptions opt;
    AvatarLook look;
    int ret;

    get_options(ctx, &opt);
    if (!s->engine && (ret = avatar_engine_open(&s->engine, &opt)) < 0)
        return ret;
    if (s->image && (ret = load_picture(ctx, s->image)) < 0)
        return ret;
    get_look(s, &look);
    if (!s->picture) {
        look.width  = ctx->inputs[1]->w;
        look.height = ctx->inputs[1]->h;
    }
    if ((ret = avatar_engine_size(s->engine, &look, &outlink->w, &outlink->h)) < 0)
        return ret;
    outlink->time_base           = frame_tb;
    outlink->sample_aspect_ratio = (AVRational){ 1, 1 };
    LINKEXT(outlink)->frame_rate = (AVRational){ AVATAR_FPS, 1 };
    return s->picture ? open_session(ctx) : 0;
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
        if (!s->picture)
            FFSWAP(AVFrame *, s->picture, frame);
        av_frame_free(&frame);
    }
    if (ret < 0)
        return ret;
    if (ff_inlink_acknowledge_status(inlink, &status, &pts) && !s->picture) {
        av_log(ctx, AV_LOG_ERROR, "The second input ended without a picture; give one, or set image to a file\n");
        return status == AVERROR_EOF ? AVERROR_INVALIDDATA : status;
    }
    return 0;
}

static int send_silence(AvatarContext *s, int64_t nb)
{
    static const float silence[SAMPLES_PER_FRAME];
    int ret = 0;

    for (; nb > 0 && ret >= 0; nb -= FFMIN(nb, SAMPLES_PER_FRAME))
        ret = avatar_session_send(s->session, silence, FFMIN(nb, SAMPLES_PER_FRAME));
    return ret;
}

static void start_take(AvatarContext *s, int64_t sample)
{
    s->start_sample = s->next_sample = sample;
    s->start_pts    = s->next_pts = FFMAX(av_rescale_q(sample, sample_tb, frame_tb), s->started ? s->next_pts : INT64_MIN);
    s->started      = 1;
}

/* How far a frame of sound lies behind (or, negative, before) the place where it was expected, in samples. */
static int64_t sound_jump(AVFilterContext *ctx, const AVFrame *frame)
{
    AvatarContext *s = ctx->priv;
    int64_t at = frame->pts == AV_NOPTS_VALUE ? s->next_sample : av_rescale_q(frame->pts, ctx->inputs[0]->time_base, sample_tb);

    if (!s->started)
        start_take(s, at);
    return at - s->next_sample;
}

/* Channels that nobody named are mixed in equal parts. */
static int mix_evenly(AVFrame *frame)
{
    const int nb = frame->ch_layout.nb_channels;
    float *p;
    int i, c, ret;

    if ((ret = av_frame_make_writable(frame)) < 0)
        return ret;
    p = (float *)frame->data[0];
    for (i = 0; i < frame->nb_samples; i++) {
        float sum = 0;

        for (c = 0; c < nb; c++)
            sum += p[i * (ptrdiff_t)nb + c];
        p[i] = sum / nb;
    }
    return av_channel_layout_copy(&frame->ch_layout, &(AVChannelLayout)AV_CHANNEL_LAYOUT_MONO);
}

/*
 * Give one frame of sound to the session, at its place in time. Less than a video frame of disorder is left alone, as
 * lossy sources have it; silence fills a gap, an overlap is cut. Takes the frame, which is held back behind a long gap.
 */
static int place_sound(AVFilterContext *ctx, AVFrame *frame)
{
    AvatarContext *s = ctx->priv;
    int64_t jump = sound_jump(ctx, frame), skip = 0;
    int ret = 0;

    if (jump > av_rescale(s->max_gap, AVATAR_SAMPLE_RATE, 1000000) && jump > SAMPLES_PER_FRAME) {
        av_log(ctx, AV_LOG_WARNING, "A hole of %.3f s in the sound, longer than max_gap; a new take starts behind it\n",
               jump / (double)AVATAR_SAMPLE_RATE);
        s->held   = frame;
        s->closed = 1;
        return avatar_session_send(s->session, NULL, 0);
    }
    if (jump > SAMPLES_PER_FRAME) {
        av_log(ctx, AV_LOG_WARNING, "A hole of %.3f s in the sound was filled with silence\n", jump / (double)AVATAR_SAMPLE_RATE);
        ret = send_silence(s, jump);
        s->next_sample += jump;
    } else if (jump < -SAMPLES_PER_FRAME) {
        skip = FFMIN(-jump, frame->nb_samples);
        if (!s->in_overlap)
            av_log(ctx, AV_LOG_WARNING, "Sound that starts %.3f s before the end of what came was cut there\n",
                   -jump / (double)AVATAR_SAMPLE_RATE);
    }
    s->in_overlap = skip > 0;
    if (ret >= 0 && frame->ch_layout.nb_channels > 1)
        ret = mix_evenly(frame);
    if (ret >= 0 && skip < frame->nb_samples)
        ret = avatar_session_send(s->session, (const float *)frame->data[0] + skip, frame->nb_samples - skip);
    s->next_sample += frame->nb_samples - skip;
    s->nb_samples  += frame->nb_samples - skip;
    av_frame_free(&frame);
    return ret;
}

/* The input has ended: send a block of the silence of hold, or the end. All of it at once would look late to a live session. */
static int send_rest(AvatarContext *s)
{
    int64_t nb = FFMIN(s->hold_left, AVATAR_BLOCK_FRAMES * SAMPLES_PER_FRAME);

    s->hold_left -= nb;
    s->closed     = !nb;
    return nb ? send_silence(s, nb) : avatar_session_send(s->session, NULL, 0);
}

static int read_sound(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *inlink = ctx->inputs[0];
    AVFrame *frame;
    int64_t pts;
    int ret, status;

    while (!s->held && (ret = ff_inlink_consume_frame(inlink, &frame)) != 0)
        if (ret < 0 || (ret = place_sound(ctx, frame)) < 0)
            return ret;
    if (s->held || s->eof || !ff_inlink_acknowledge_status(inlink, &status, &pts))
        return 0;
    s->eof = 1;
    if (s->started)
        s->hold_left = av_rescale(s->hold, AVATAR_SAMPLE_RATE, 1000000);
    else
        s->next_pts = pts == AV_NOPTS_VALUE ? 0 : av_rescale_q(pts, inlink->time_base, frame_tb);
    return send_rest(s);
}

/* The take before a long gap was delivered: open the next one with the sound that waited. */
static int next_take(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFrame *frame = s->held;
    int ret;

    s->held = NULL;
    avatar_session_close(&s->session);
    if ((ret = open_session(ctx)) < 0) {
        av_frame_free(&frame);
        return ret;
    }
    start_take(s, av_rescale_q(frame->pts, ctx->inputs[0]->time_base, sample_tb));
    return place_sound(ctx, frame);
}

static void set_metadata(const AvatarContext *s, AVFrame *out, const AvatarFrame *in)
{
    double sound = s->start_sample / (double)AVATAR_SAMPLE_RATE + in->index / (double)AVATAR_FPS;
    char text[32];

    av_dict_set_int(&out->metadata, "lavfi.avatar.frame", in->index, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.block", in->block, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.seed", in->seed, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.prompt_id", in->prompt_id, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.repeated", in->repeated, 0);
    snprintf(text, sizeof(text), "%.6f", sound);
    av_dict_set(&out->metadata, "lavfi.avatar.audio_pts", text, 0);
    if (in->compute_ms > 0) {
        snprintf(text, sizeof(text), "%.3f", in->compute_ms);
        av_dict_set(&out->metadata, "lavfi.avatar.compute_ms", text, 0);
    }
}

static int send_frame(AVFilterContext *ctx, AvatarFrame *in)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *outlink = ctx->outputs[0];
    AVFrame *out = ff_get_video_buffer(outlink, outlink->w, outlink->h);
    int rgb = is_rgb(s->format);

    if (!out)
        return AVERROR(ENOMEM);
    av_image_copy(out->data, out->linesize, in->data, in->linesize, outlink->format, outlink->w, outlink->h);
    out->pts                 = s->start_pts + in->index;
    out->DURATION            = 1;
    out->sample_aspect_ratio = outlink->sample_aspect_ratio;
    out->colorspace          = rgb ? AVCOL_SPC_RGB : AVCOL_SPC_BT709;
    out->color_range         = rgb ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    out->color_primaries     = AVCOL_PRI_BT709;
    out->color_trc           = rgb ? AVCOL_TRC_IEC61966_2_1 : AVCOL_TRC_BT709;
    out->chroma_location     = rgb || s->format == AV_PIX_FMT_YUV444P ? AVCHROMA_LOC_UNSPECIFIED : AVCHROMA_LOC_LEFT;
    if (s->metadata)
        set_metadata(s, out, in);
    s->next_pts = out->pts + 1;
    if (in->compute_ms > 0)
        s->block_ms = in->compute_ms;
    s->nb_frames++;
    return ff_filter_frame(outlink, out);
}

static int finish(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;

    s->finished = 1;
    av_log(ctx, AV_LOG_VERBOSE, "%"PRId64" frames from %.3f s of sound\n", s->nb_frames,
           s->nb_samples / (double)AVATAR_SAMPLE_RATE);
    ff_outlink_set_status(ctx->outputs[0], AVERROR_EOF, s->next_pts);
    return 0;
}

/*
 * May activate() wait for the block in progress? A wait keeps the input from being read. So not while sound can still come and
 * blocks take about as long as they last, as a live source would overrun; nor when being late has consequences, as what waits
 * in the pipes before the filter would not be counted as late.
 */
static int may_wait(const AvatarContext *s)
{
    return s->eof || s->closed || (s->mode == AVATAR_LIVE && s->late == AVATAR_LATE_WAIT && s->block_ms < 0.8 * BLOCK_MS);
}

static int activate(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *outlink = ctx->outputs[0];
    AvatarFrame frame;
    int ret;

    s->finished |= !!ff_outlink_get_status(outlink);
    FF_FILTER_FORWARD_STATUS_BACK_ALL(outlink, ctx);
    if (ctx->nb_inputs > 1 && (ret = read_pictures(ctx)) < 0)
        return ret;
    if (!s->session && s->picture && (ret = open_session(ctx)) < 0)
        return ret;
    if (s->session && (ret = read_sound(ctx)) < 0)
        return ret;
    if (!ff_outlink_frame_wanted(outlink))
        return FFERROR_NOT_READY;
    if (!s->session) {
        ff_inlink_request_frame(ctx->inputs[1]);
        return 0;
    }
    if (s->eof && !s->started)
        return finish(ctx);

    ret = avatar_session_receive(s->session, &frame, may_wait(s) ? AVATAR_WAIT : AVATAR_POLL);
    if (ret >= 0)
        return send_frame(ctx, &frame);
    if (ret == AVATAR_EOF && s->held) {
        if ((ret = next_take(ctx)) < 0)
            return ret;
        ff_filter_set_ready(ctx, 100);                      // the input may hold more that nobody announces again
        return 0;
    }
    if (ret == AVATAR_EOF)
        return finish(ctx);
    if (ret != AVATAR_EAGAIN)
        return ret;
    if (s->closed)
        return AVERROR_BUG;
    if (s->eof) {
        ff_filter_set_ready(ctx, 100);
        return send_rest(s);
    }
    ff_inlink_request_frame(ctx->inputs[0]);
    return 0;
}

static int process_command(AVFilterContext *ctx, const char *cmd, const char *arg, char *res, int res_len, int flags)
{
    AvatarContext *s = ctx->priv;
    AvatarLook look;
    int ret = ff_filter_process_command(ctx, cmd, arg, res, res_len, flags);

    if (ret < 0)
        return ret;
    avatar_look_default(&look);
    look.seed = KEEP_SEED;
    if (!strcmp(cmd, "image")) {
        if ((ret = load_picture(ctx, s->image)) < 0)
            return ret;
        set_picture(&look, s->picture);
    } else if (!strcmp(cmd, "prompt")) {
        look.prompt = s->prompt;
    } else if (!strcmp(cmd, "seed")) {
        look.seed = s->seed;
    } else if (!strcmp(cmd, "late") || !strcmp(cmd, "max_late")) {
        return s->session ? avatar_session_late(s->session, s->late, s->max_late / 1000) : 0;
    } else {
        return 0;
    }
    return s->session ? avatar_session_set(s->session, &look) : 0;
}

static av_cold void uninit(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    int64_t shown = s->nb_frames * SAMPLES_PER_FRAME;

    if (s->session && !s->finished && s->nb_samples > shown)
        av_log(ctx, AV_LOG_WARNING, "The graph was closed before the sound ended: %.3f seconds of sound were not shown. "
               "If the sound changed its parameters, convert it beforehand\n", (s->nb_samples - shown) / (double)AVATAR_SAMPLE_RATE);
    avatar_session_close(&s->session);
    avatar_engine_close(&s->engine);
    av_frame_free(&s->picture);
    av_frame_free(&s->held);
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
    PUB(description) = NULL_IF_CONFIG_SMALL("Make a picture talk: speech and a picture to video."),
    PUB(priv_class)  = &avatar_class,
    PUB(inputs)      = NULL,
    PUB(flags)       = AVFILTER_FLAG_DYNAMIC_INPUTS,
    .priv_size       = sizeof(AvatarContext),
    .init            = init,
    .uninit          = uninit,
    .activate        = activate,
    .process_command = process_command,
    FILTER_OUTPUTS(avatar_outputs),
    QUERY_REG(query_formats),
};
