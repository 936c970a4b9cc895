/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Options of the avatar filter, and what libavatar is told of them. Beside the tool's (tools/options.c) and the manual's (doc/avatar.texi).
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "libavutil/avstring.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"

#include "avatar_filter.h"

#define OFFSET(x) offsetof(AvatarContext, x)
#define FLAGS (AV_OPT_FLAG_AUDIO_PARAM | AV_OPT_FLAG_VIDEO_PARAM | AV_OPT_FLAG_FILTERING_PARAM)
#define TFLAGS (FLAGS | AV_OPT_FLAG_RUNTIME_PARAM)
#define STRING(name, help, field, flags) { name, help, OFFSET(field), AV_OPT_TYPE_STRING, { .str = NULL }, 0, 0, flags }
#define CHOICE(name, help, value, group) { name, help, 0, AV_OPT_TYPE_CONST, { .i64 = value }, 0, 0, FLAGS, .unit = group }

const AVOption ff_avatar_options[] = {
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

int ff_avatar_options_get(AvatarContext *s, AvatarOptions *opt)
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

int ff_avatar_options_check(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    AvatarOptions opt;
    int ret;

    if (!(s->stream = ff_avatar_stream_alloc(ctx)))
        return AVERROR(ENOMEM);
    if ((ret = ff_avatar_options_get(s, &opt)) >= 0)
        ret = avatar_options_check(&opt);
    ff_avatar_stream_free(&s->stream);
    return ret;
}

int ff_avatar_options_key(AVFilterContext *ctx)
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

void ff_avatar_options_look(const AvatarContext *s, AvatarLook *look)
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
