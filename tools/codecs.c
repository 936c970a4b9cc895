/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Containers and encoders for the tool. See codecs.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <libavutil/avstring.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>

#include "codecs.h"

#define FPS 25
#define HEARD_RATE 16000                // raw sound is what the model hears, in mono

/* The first encoder that libavcodec has here; a container that is not in the list gets what libavformat would choose. */
static const struct {
    const char *containers, *video, *audio;
} preferred[] = {
    { "mp4,mov,ipod,matroska,mpegts,flv", "libx264,libopenh264,mpeg4", "aac" },
    { "webm",                             "libvpx-vp9,libvpx",         "libopus,libvorbis" },
    { "nut",                              "rawvideo",                  "pcm_s16le" },
};

/* Close to what the eye can tell: films are small, and will be encoded again. */
static const struct {
    const char *encoder, *options, *live;
} settings[] = {
    { "libx264",     "crf=18",                             "tune=zerolatency:g=50" },
    { "libopenh264", "b=2M",                               "g=50" },
    { "libvpx-vp9",  "crf=24:b=0:cpu-used=4:row-mt=1",     "deadline=realtime:lag-in-frames=0:g=50" },
    { "libvpx",      "crf=10:b=2M:cpu-used=4",             "deadline=realtime:lag-in-frames=0:g=50" },
    { "mpeg4",       "flags=+qscale:global_quality=354",   "g=50" },          // 354: quantizer 3
};

/* Is `word` one of "a,b,c"? */
static int among(const char *list, const char *word)
{
    const size_t len = strlen(word);

    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == len && !strncmp(p, word, len))
            return 1;
    return 0;
}

static int is_stream(const char *path)
{
    struct stat st;

    return !strcmp(path, "-") || (!stat(path, &st) && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode));
}

static const AVOutputFormat *choose_format(const MediaLook *look)
{
    const AVOutputFormat *format = look->container ? av_guess_format(look->container, NULL, NULL) : av_guess_format(NULL, look->path, NULL);

    if (!format && !look->container && is_stream(look->path))
        format = av_guess_format("nut", NULL, NULL);
    if (!format && look->container)
        fprintf(stderr, "avatar: -f %s: libavformat has no such container here; try mp4, mov, matroska, webm, mpegts or nut\n", file_shown(look->container));
    else if (!format)
        fprintf(stderr, "avatar: %s: the name does not say what to write; end it in .mp4, .mov, .mkv, .webm, .ts or .nut, or name a container "
                "by -f\n", file_shown(look->path));
    else if (format->flags & AVFMT_NOFILE || format->video_codec == AV_CODEC_ID_NONE || format->audio_codec == AV_CODEC_ID_NONE) {
        fprintf(stderr, "avatar: %s: %s is no file of picture and sound; try .mp4, .mov, .mkv, .webm, .ts or .nut\n", file_shown(look->path), format->name);
        format = NULL;
    }
    return format;
}

static const AVCodec *first_of(const char *list)
{
    const AVCodec *codec = NULL;
    char name[32];

    for (const char *p = list; *p && !codec; p += strcspn(p, ","), p += *p == ',') {
        av_strlcpy(name, p, FFMIN(sizeof(name), strcspn(p, ",") + 1));
        codec = avcodec_find_encoder_by_name(name);
    }
    return codec;
}

/* By the name of an encoder or of a codec. */
static const AVCodec *by_name(const char *name)
{
    const AVCodec *codec = avcodec_find_encoder_by_name(name);
    const AVCodecDescriptor *d = codec ? NULL : avcodec_descriptor_get_by_name(name);

    return d ? avcodec_find_encoder(d->id) : codec;
}

static const AVCodec *choose_codec(const AVOutputFormat *format, enum AVMediaType type, const char *name)
{
    const int video = type == AVMEDIA_TYPE_VIDEO;
    const AVCodec *codec = name ? by_name(name) : NULL;

    for (size_t i = 0; i < sizeof(preferred) / sizeof(preferred[0]) && !name; i++)
        if (among(preferred[i].containers, format->name))
            codec = first_of(video ? preferred[i].video : preferred[i].audio);
    if (!codec && !name)
        codec = avcodec_find_encoder(video ? format->video_codec : format->audio_codec);
    if (!codec || codec->type != type)
        fprintf(stderr, "avatar: -c:%c %s: libavcodec has no such encoder here\n", "av"[video],
                name ? name : avcodec_get_name(video ? format->video_codec : format->audio_codec));
    else if (!avformat_query_codec(format, codec->id, FF_COMPLIANCE_NORMAL))
        fprintf(stderr, "avatar: -c:%c %s: %s does not hold it\n", "av"[video], codec->name, format->name);
    else
        return codec;
    return NULL;
}

int codecs_choose(Codecs *c, const MediaLook *look)
{
    c->format = choose_format(look);
    c->video = c->format ? choose_codec(c->format, AVMEDIA_TYPE_VIDEO, look->video_codec) : NULL;
    c->audio = c->video ? choose_codec(c->format, AVMEDIA_TYPE_AUDIO, look->audio_codec) : NULL;
    return c->audio ? 0 : AVERROR(EINVAL);
}

static int open_encoder(AVCodecContext *enc, const Codecs *c, int live)
{
    AVDictionary *opt = NULL;
    int ret = 0;

    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]) && ret >= 0; i++)
        if (!strcmp(settings[i].encoder, enc->codec->name)) {
            ret = av_dict_parse_string(&opt, settings[i].options, "=", ":", 0);
            if (ret >= 0 && live)
                ret = av_dict_parse_string(&opt, settings[i].live, "=", ":", 0);
        }
    if (enc->codec->capabilities & AV_CODEC_CAP_EXPERIMENTAL)       // then somebody has named it
        enc->strict_std_compliance = FF_COMPLIANCE_EXPERIMENTAL;
    if (c->format->flags & AVFMT_GLOBALHEADER)
        enc->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (ret >= 0)
        ret = avcodec_open2(enc, enc->codec, &opt);
    av_dict_free(&opt);
    return ret;
}

int codecs_open_video(AVCodecContext **out, const Codecs *c, const MediaLook *look)
{
    AVCodecContext *enc = *out = avcodec_alloc_context3(c->video);
    int rgb;

    if (!enc)
        return AVERROR(ENOMEM);
    enc->width = look->width;
    enc->height = look->height;
    enc->pix_fmt = av_get_pix_fmt(look->pix_fmt);
    enc->time_base = (AVRational){ 1, FPS };
    enc->framerate = (AVRational){ FPS, 1 };
    enc->sample_aspect_ratio = (AVRational){ 1, 1 };
    enc->bit_rate = (int64_t)look->width * look->height * 4;        // for an encoder that the table does not know
    rgb = av_pix_fmt_desc_get(enc->pix_fmt)->flags & AV_PIX_FMT_FLAG_RGB;
    enc->colorspace = rgb ? AVCOL_SPC_RGB : AVCOL_SPC_BT709;
    enc->color_range = rgb ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    enc->color_primaries = AVCOL_PRI_BT709;
    enc->color_trc = rgb ? AVCOL_TRC_IEC61966_2_1 : AVCOL_TRC_BT709;
    if (enc->pix_fmt == AV_PIX_FMT_YUV420P || enc->pix_fmt == AV_PIX_FMT_NV12)
        enc->chroma_sample_location = AVCHROMA_LOC_LEFT;
    return open_encoder(enc, c, look->live);
}

/* What an encoder takes, up to the end mark; NULL: anything. */
static const int *rates(const AVCodec *codec)
{
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(61, 13, 100)
    const void *list = NULL;

    return avcodec_get_supported_config(NULL, codec, AV_CODEC_CONFIG_SAMPLE_RATE, 0, &list, NULL) < 0 ? NULL : list;
#else
    return codec->supported_samplerates;
#endif
}

static enum AVSampleFormat first_format(const AVCodec *codec)
{
#if LIBAVCODEC_VERSION_INT >= AV_VERSION_INT(61, 13, 100)
    const void *list = NULL;
    const int ret = avcodec_get_supported_config(NULL, codec, AV_CODEC_CONFIG_SAMPLE_FORMAT, 0, &list, NULL);
    const enum AVSampleFormat *format = ret < 0 ? NULL : list;
#else
    const enum AVSampleFormat *format = codec->sample_fmts;
#endif
    return format ? format[0] : AV_SAMPLE_FMT_S16;
}

/* The source's own up to 48 kHz, else the next one above that the encoder takes, else its highest. */
static int choose_rate(const AVCodec *codec, int want)
{
    const int *list = rates(codec);
    int best = 0, highest = 0;

    want = FFMIN(want, 48000);
    if (!list)
        return want;
    for (; *list; list++) {
        highest = FFMAX(highest, *list);
        if (*list >= want && (!best || *list < best))
            best = *list;
    }
    return best ? best : highest;
}

int codecs_open_audio(AVCodecContext **out, const Codecs *c, const MediaLook *look)
{
    AVCodecContext *enc = *out = avcodec_alloc_context3(c->audio);
    const int raw = c->audio->id == AV_CODEC_ID_PCM_S16LE, channels = raw ? 1 : FFMIN(look->channels, 2);

    if (!enc)
        return AVERROR(ENOMEM);
    enc->sample_rate = raw ? HEARD_RATE : choose_rate(c->audio, look->rate);
    enc->sample_fmt = first_format(c->audio);
    av_channel_layout_default(&enc->ch_layout, channels);
    enc->time_base = (AVRational){ 1, enc->sample_rate };
    enc->bit_rate = FFMIN(96000, 4 * enc->sample_rate) * channels;
    return open_encoder(enc, c, look->live);
}
