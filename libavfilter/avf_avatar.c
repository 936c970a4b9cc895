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

#include <sys/stat.h>

#include "libavutil/avstring.h"
#include "libavutil/fifo.h"
#include "libavutil/imgutils.h"
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"
#include "libavutil/pixdesc.h"
#include "libswscale/swscale.h"
#include "avfilter.h"
#include "filters.h"
#include "formats.h"
#include "version.h"
#include "video.h"

#include <avatar.h>

#include "avatar_cuda.h"
#include "avatar_mono.h"
#include "avatar_park.h"
#include "avatar_picture.h"
#include "avatar_stream.h"

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

#ifdef AVFILTER_FLAG_HWDEVICE
#define USES_DEVICE AVFILTER_FLAG_HWDEVICE
#else
#define USES_DEVICE 0                               /* every filter is given it */
#endif

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

    char *preset, *model, *lora, *devices, *plan, *vae_device, *front_device, *precision, *kv, *offload, *opts, *stats;
    char *image, *prompt;
    int w, h;                       ///< size asked for, 0: the library chooses
    int64_t seed;
    int64_t max_gap, max_drift, hold, latency, max_late;    ///< in microseconds
    int steps, cpu_threads, vae_split, tune;
    double resident;
    int compat, format, hw_format, tail, mode, late;
    int metadata;
    enum AVPixelFormat planes;      ///< format, or of format=cuda what lies on the GPU
    enum AvatarFormat lib_format;   ///< the same
    char cache[4096];               ///< folder for what can be found out again

    char *key;                      ///< name and options, as a rebuilt graph has them again
    AvatarStream *stream;           ///< from config_props on
    AvatarMono mono;
    AVFrame *first;                 ///< first picture of the second input
    int inherited;                  ///< the stream is another instance's, and no sound has told yet that it goes on
    uint32_t links;                 ///< sum of the graph's links
    int finished;                   ///< the output is closed, by us or by its reader
} AvatarContext;

#define OFFSET(x) offsetof(AvatarContext, x)
#define FLAGS (AV_OPT_FLAG_AUDIO_PARAM | AV_OPT_FLAG_VIDEO_PARAM | AV_OPT_FLAG_FILTERING_PARAM)
#define TFLAGS (FLAGS | AV_OPT_FLAG_RUNTIME_PARAM)
#define STRING(name, help, field, flags) { name, help, OFFSET(field), AV_OPT_TYPE_STRING, { .str = NULL }, 0, 0, flags }
#define CHOICE(name, help, value, group) { name, help, 0, AV_OPT_TYPE_CONST, { .i64 = value }, 0, 0, FLAGS, .unit = group }

static const AVOption avatar_options[] = {
    STRING("preset",     "set size, steps and plan for the published model: none, preview, standard, long, quality; other options win", preset, FLAGS),
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
    STRING("precision", "set the numbers between operations: auto (what the devices run fastest), f32, bf16, int8, fp8", precision, FLAGS),
    STRING("kv", "set the attention's keys and values: auto (as between operations), bf16, fp8 (half of bf16's memory)", kv, FLAGS),
    STRING("offload", "set where layers' weights are: auto (what fits), none (on the devices), weights (in host memory until their turn), all (rings, sinks as well)", offload, FLAGS),
    { "resident", "set how many GB of the layers stay on each device with offload", OFFSET(resident), AV_OPT_TYPE_DOUBLE,
        { .dbl = 0 }, 0, 1e6, FLAGS },
    STRING("vae_device", "set where pictures are encoded and decoded (default: auto)", vae_device, FLAGS),
    { "vae_split", "set how many devices decode the pictures, some rows each; 0 for one", OFFSET(vae_split), AV_OPT_TYPE_INT,
      { .i64 = 0 }, 0, 16, FLAGS },
    STRING("front_device", "set where speech and text are encoded (default: auto)", front_device, FLAGS),
    { "cpu_threads", "set the number of CPU threads, 0 for one a core", OFFSET(cpu_threads), AV_OPT_TYPE_INT,
        { .i64 = 0 }, 0, 1024, FLAGS },
    { "tune", "time the ways in which a GPU's libraries multiply once, keep the fastest", OFFSET(tune), AV_OPT_TYPE_BOOL, { .i64 = 1 }, 0, 1, FLAGS },
    { "format", "set the output pixel format; cuda: frames stay on the GPU that decodes them", OFFSET(format), AV_OPT_TYPE_PIXEL_FMT,
        { .i64 = AV_PIX_FMT_YUV420P }, 0, INT_MAX, FLAGS },
    { "hw_format", "set what lies on the GPU with format=cuda: nv12, yuv420p, yuv444p", OFFSET(hw_format), AV_OPT_TYPE_PIXEL_FMT,
        { .i64 = AV_PIX_FMT_NV12 }, 0, INT_MAX, FLAGS },
    { "max_gap", "set the longest hole in the sound that is filled with silence", OFFSET(max_gap), AV_OPT_TYPE_DURATION,
        { .i64 = 10000000 }, 0, INT64_C(3600000000), FLAGS },
    { "max_drift", "set the difference of time stamps and samples that is neither filled nor cut", OFFSET(max_drift),
        AV_OPT_TYPE_DURATION, { .i64 = 100000 }, 0, 1000000, FLAGS },
    { "tail", "set which frames end the output", OFFSET(tail), AV_OPT_TYPE_INT, { .i64 = AVATAR_TAIL_CEIL },
        AVATAR_TAIL_CEIL, AVATAR_TAIL_BLOCK, FLAGS, .unit = "tail" },
    CHOICE("ceil",  "cover all the sound",                           AVATAR_TAIL_CEIL,  "tail"),
    CHOICE("floor", "only frames that are covered by sound",         AVATAR_TAIL_FLOOR, "tail"),
    CHOICE("block", "complete the last block with silence",          AVATAR_TAIL_BLOCK, "tail"),
    { "hold", "set how long to go on with silence after the sound", OFFSET(hold), AV_OPT_TYPE_DURATION,
        { .i64 = 0 }, 0, INT64_C(3600000000), FLAGS },
    { "mode", "set how the sound is encoded", OFFSET(mode), AV_OPT_TYPE_INT, { .i64 = AVATAR_OFFLINE },
        AVATAR_OFFLINE, AVATAR_LIVE, FLAGS, .unit = "mode" },
    CHOICE("offline", "up to 60 s at once, longer sound in windows", AVATAR_OFFLINE, "mode"),
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
    STRING("stats",      "set the file or pipe for a line of JSON a block: times, memory, delay", stats, FLAGS),
    { NULL }
};

AVFILTER_DEFINE_CLASS(avatar);

static int64_t to_samples(int64_t us)
{
    return av_rescale(us, AVATAR_SAMPLE_RATE, 1000000);
}

static int get_options(AvatarContext *s, AvatarOptions *opt)
{
    avatar_options_default(opt);
    opt->model       = s->model;
    opt->models      = getenv("AVATAR_MODELS");
    opt->launched    = avatar_is_launched(getenv);
    opt->lora        = s->lora;
    opt->devices     = s->devices;
    opt->plan        = s->plan;
    opt->vae_device  = s->vae_device;
    opt->vae_split   = s->vae_split;
    opt->precision   = s->precision;
    opt->kv          = s->kv;
    opt->offload     = s->offload;
    opt->resident    = s->resident;
    opt->front_device = s->front_device;
    opt->steps       = s->steps;
    opt->width       = s->w;
    opt->height      = s->h;
    opt->cpu_threads = s->cpu_threads;
    opt->compat      = s->compat;
    opt->tune        = s->tune;
    opt->cache       = avatar_cache_folder(s->cache, sizeof(s->cache), getenv);
    opt->opts        = s->opts;
    opt->log         = ff_avatar_stream_line;
    opt->log_opaque  = s->stream;
    opt->log_level   = av_log_get_level() >= AV_LOG_TRACE ? AVATAR_LOG_TRACE :
                       av_log_get_level() >= AV_LOG_DEBUG ? AVATAR_LOG_DEBUG : AVATAR_LOG_INFO;
    return avatar_preset(s->preset, opt, NULL);
}

/* What the library says of the options, without loading anything. */
static int check_options(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AvatarOptions opt;
    int ret;

    if (!(s->stream = ff_avatar_stream_alloc(ctx)))
        return AVERROR(ENOMEM);
    if ((ret = get_options(s, &opt)) >= 0)
        ret = avatar_options_check(&opt);
    ff_avatar_stream_free(&s->stream);
    return ret;
}

/* What a rebuilt graph's instance has in common with this one: its name and its options. */
static int make_key(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    char *options;
    int ret = av_opt_serialize(s, AV_OPT_FLAG_FILTERING_PARAM, 0, &options, '=', ':');

    if (ret < 0)
        return ret;
    s->key = av_asprintf("%s %s", ctx->name ? ctx->name : "", options);
    av_free(options);
    return s->key ? 0 : AVERROR(ENOMEM);
}

static int is_rgb(enum AVPixelFormat pix_fmt)
{
    return !!(av_pix_fmt_desc_get(pix_fmt)->flags & AV_PIX_FMT_FLAG_RGB);
}

/* Of frames on a GPU FFmpeg knows no rgb24 and no gbrp in all of its versions. */
static int find_format(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    const int cuda = s->format == AV_PIX_FMT_CUDA;
    const char *name;
    int i;

    s->planes = cuda ? s->hw_format : s->format;
    for (i = 0; i < FF_ARRAY_ELEMS(formats) && formats[i].pix_fmt != s->planes; i++)
        ;
    if (i < FF_ARRAY_ELEMS(formats) && !(cuda && is_rgb(s->planes))) {
        s->lib_format = formats[i].format;
        return cuda ? ff_avatar_cuda_check(ctx) : 0;
    }
    name = av_get_pix_fmt_name(s->planes);
    av_log(ctx, AV_LOG_ERROR, "%s=%s cannot be produced; use yuv420p, yuv444p, nv12%s\n", cuda ? "hw_format" : "format",
           name ? name : "none", cuda ? "" : ", rgb24, gbrp or cuda");
    return AVERROR(EINVAL);
}

#define BUILT_FOR AV_STRINGIFY(AVATAR_VERSION_MAJOR) "." AV_STRINGIFY(AVATAR_VERSION_MINOR) "." AV_STRINGIFY(AVATAR_VERSION_MICRO)

/* Before 1.0 options are added in any minor version. */
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

    if ((ret = check_library(ctx)) < 0 || (ret = find_format(ctx)) < 0 || (ret = check_options(ctx)) < 0 || (ret = make_key(ctx)) < 0)
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
    ret = query_colors(QUERY_OUT, ctx->nb_inputs > 1 ? QUERY_IN(1) : NULL, is_rgb(s->planes));
#endif
    return ret;
}

static void get_look(const AvatarContext *s, AvatarLook *look)
{
    avatar_look_default(look);
    look->out_width   = s->w;
    look->out_height  = s->h;
    look->seed        = s->seed;
    look->format      = s->lib_format;
    look->on_device   = s->format == AV_PIX_FMT_CUDA;
    look->tail        = s->tail;
    look->mode        = s->mode;
    look->latency_ms  = s->latency / 1000;
    look->late        = s->late;
    look->max_late_ms = s->max_late / 1000;
    avatar_preset(s->preset, NULL, look);
}

/* A stream of our own: the engine, the picture if it is a file, the clock's settings. */
static int open_stream(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AvatarOptions opt;
    int ret;

    if (!s->stream && !(s->stream = ff_avatar_stream_alloc(ctx)))
        return AVERROR(ENOMEM);
    if ((ret = get_options(s, &opt)) < 0 ||
        (!s->stream->engine && (ret = avatar_engine_open(&s->stream->engine, &opt)) < 0))
        return ret;
    if (s->image && (ret = ff_avatar_picture_read(ctx, s->image, &s->stream->picture)) < 0)
        return ret;
    av_freep(&s->stream->prompt);
    av_freep(&s->stream->stats);
    if ((s->prompt && !(s->stream->prompt = av_strdup(s->prompt))) || (s->stats && !(s->stream->stats = av_strdup(s->stats))))
        return AVERROR(ENOMEM);
    get_look(s, &s->stream->look);
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

/* Sound into the stream's queue, as it comes. */
static int read_sound(AVFilterContext *ctx)
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

static void set_metadata(const AvatarStream *st, AVFrame *out, const AvatarFrame *in)
{
    const double sound = st->start_sample / (double)AVATAR_SAMPLE_RATE + in->index / (double)AVATAR_FPS;
    char text[32];

    av_dict_set_int(&out->metadata, "lavfi.avatar.frame", in->index, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.block", in->block, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.seed", in->seed, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.prompt_id", in->prompt_id, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.repeated", in->repeated, 0);
    av_dict_set(&out->metadata, "lavfi.avatar.precision", st->precision, 0);
    av_dict_set(&out->metadata, "lavfi.avatar.kv", st->kv, 0);
    snprintf(text, sizeof(text), "%.6f", sound);
    av_dict_set(&out->metadata, "lavfi.avatar.audio_pts", text, 0);
    snprintf(text, sizeof(text), "%.3f", st->clock.filled / (double)AVATAR_SAMPLE_RATE);
    av_dict_set(&out->metadata, "lavfi.avatar.filled", text, 0);
    snprintf(text, sizeof(text), "%.3f", st->clock.cut / (double)AVATAR_SAMPLE_RATE);
    av_dict_set(&out->metadata, "lavfi.avatar.cut", text, 0);
    if (in->compute_ms > 0) {
        snprintf(text, sizeof(text), "%.3f", in->compute_ms);
        av_dict_set(&out->metadata, "lavfi.avatar.compute_ms", text, 0);
    }
}

static int send_frame(AVFilterContext *ctx, AvatarFrame *in, int64_t pts)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *outlink = ctx->outputs[0];
    AVFrame *out = ff_get_video_buffer(outlink, outlink->w, outlink->h);
    int rgb = is_rgb(s->planes), ret = 0;

    if (!out)
        return AVERROR(ENOMEM);
    if (out->hw_frames_ctx)
        ret = ff_avatar_cuda_copy(ctx, out, in);
    else
        av_image_copy(out->data, out->linesize, in->data, in->linesize, outlink->format, outlink->w, outlink->h);
    if (ret < 0) {
        av_frame_free(&out);
        return ret;
    }
    out->pts                 = pts;
    out->DURATION            = 1;
    out->sample_aspect_ratio = outlink->sample_aspect_ratio;
    out->colorspace          = rgb ? AVCOL_SPC_RGB : AVCOL_SPC_BT709;
    out->color_range         = rgb ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    out->color_primaries     = AVCOL_PRI_BT709;
    out->color_trc           = rgb ? AVCOL_TRC_IEC61966_2_1 : AVCOL_TRC_BT709;
    out->chroma_location     = rgb || s->planes == AV_PIX_FMT_YUV444P ? AVCHROMA_LOC_UNSPECIFIED : AVCHROMA_LOC_LEFT;
    if (s->metadata)
        set_metadata(s->stream, out, in);
    return ff_filter_frame(outlink, out);
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
    if ((ret = read_sound(ctx)) < 0)
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
        return send_frame(ctx, &frame, pts);
    if (ret == AVATAR_EOF)
        return finish(ctx);
    if (ret != AVATAR_EAGAIN)
        return ret;
    ff_inlink_request_frame(ctx->inputs[0]);
    return 0;
}

/*
 * Does asendcmd, in front of the filter, send this command? It does so while it has a frame in hand: one that has left its link's queue
 * and is not yet counted as taken out.
 */
static int comes_with_sound(const AVFilterContext *ctx)
{
    unsigned i;

    for (i = 0; i < ctx->graph->nb_filters; i++) {
        const AVFilterContext *f = ctx->graph->filters[i];

        AVFilterLink *l = f->nb_inputs == 1 ? f->inputs[0] : NULL;

        if (l && !strcmp(f->filter->name, "asendcmd") &&
            LINKEXT(l)->frame_count_in > LINKEXT(l)->frame_count_out + (int64_t)ff_inlink_queued_frames(l))
            return 1;
    }
    return 0;
}

/* A file of a command is there at once: a pipe without a writer would stop the graph. */
static int read_picture(AVFilterContext *ctx, const char *path, AVFrame **picture)
{
    struct stat st;

    if (!stat(path, &st) && S_ISFIFO(st.st_mode)) {
        av_log(ctx, AV_LOG_ERROR, "image=%s is a pipe, which a command cannot wait for; give a file\n", path);
        return AVERROR(EINVAL);
    }
    return ff_avatar_picture_read(ctx, path, picture);
}

/* Would the session take this change, now and when it starts anew? */
static int check_change(AVFilterContext *ctx, const AvatarChange *ch)
{
    AvatarContext *s = ctx->priv;
    AvatarLook look = s->stream->look;
    int w, h, ret;

    look.seed   = ch->seed;
    look.prompt = ch->prompt;
    if (ch->picture) {
        look.rgb    = ch->picture->data[0];
        look.stride = ch->picture->linesize[0];
        look.width  = ch->picture->width;
        look.height = ch->picture->height;
    }
    if ((ret = avatar_look_check(s->stream->engine, &look)) < 0 || !ch->picture)
        return ret;
    if ((ret = avatar_engine_size(s->stream->engine, &look, &w, &h)) < 0)
        return ret;
    if (w != s->stream->width || h != s->stream->height) {
        av_log(ctx, AV_LOG_ERROR, "The picture gives %dx%d with compat=upstream, but the output is %dx%d; give one of the same ratio\n",
               w, h, s->stream->width, s->stream->height);
        return AVERROR(EINVAL);
    }
    return 0;
}

/* Nothing changes before all of it was checked, so that a command that is refused leaves no trace. */
static int change(AVFilterContext *ctx, const char *cmd, const char *arg)
{
    AvatarContext *s = ctx->priv;
    AvatarChange ch = { .seed = AVATAR_KEEP_SEED };
    int ret = 0;

    if (!strcmp(cmd, "image")) {
        ch.name = "image";
        ret = read_picture(ctx, arg, &ch.picture);
    } else if (!strcmp(cmd, "prompt")) {
        ch.name = "prompt";
        ret = (ch.prompt = av_strdup(arg)) ? 0 : AVERROR(ENOMEM);
    } else {
        ch.name = "seed";
        ch.seed = s->seed;
    }
    if (ret >= 0)
        ret = check_change(ctx, &ch);
    if (ret >= 0)
        ret = read_sound(ctx);                              // what came before the command is before it in the queue
    if (ret >= 0)
        return ff_avatar_stream_change(s->stream, &ch, !comes_with_sound(ctx));
    av_frame_free(&ch.picture);
    av_freep(&ch.prompt);
    return ret;
}

static int process_command(AVFilterContext *ctx, const char *cmd, const char *arg, char *res, int res_len, int flags)
{
    AvatarContext *s = ctx->priv;
    int ret = ff_filter_process_command(ctx, cmd, arg, res, res_len, flags);

    if (ret < 0 || !s->stream)
        return ret;
    if (!strcmp(cmd, "image") || !strcmp(cmd, "prompt") || !strcmp(cmd, "seed"))
        return change(ctx, cmd, arg);
    if (strcmp(cmd, "late") && strcmp(cmd, "max_late"))
        return 0;
    s->stream->look.late        = s->late;
    s->stream->look.max_late_ms = s->max_late / 1000;
    return s->stream->session ? avatar_session_late(s->stream->session, s->late, s->max_late / 1000) : 0;
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
    .process_command = process_command,
    FILTER_OUTPUTS(avatar_outputs),
    QUERY_REG(query_formats),
};
