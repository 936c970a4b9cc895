/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading for `avatar speak`: pictures and sound, over libavformat, libavcodec, libswscale, libswresample.
 *
 * Sound from stdin is a WAV when it starts with "RIFF", else raw 16 kHz mono s16: the first bytes decide, and an AVIOContext
 * of ours gives them back to the demuxer.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libswresample/swresample.h>
#include <libswscale/swscale.h>

#include "speak.h"

#define RATE 16000

static int complain(const char *path, const char *what, int ret)
{
    char text[AV_ERROR_MAX_STRING_SIZE];

    av_strerror(ret, text, sizeof(text));
    fprintf(stderr, "avatar: %s: %s: %s\n", path, what, text);
    return ret;
}

/* One decoder over one file; the parts that picture and sound share. */
typedef struct Reader {
    const char *path;
    AVFormatContext *fmt;
    AVCodecContext *dec;
    AVPacket *pkt;
    AVFrame *frame;
    AVIOContext *io;                    // stdin's
    uint8_t head[12];                   // stdin's first bytes
    int nb_head, at_head;
    int stream, drained;
} Reader;

static void reader_close(Reader *r)
{
    avcodec_free_context(&r->dec);
    avformat_close_input(&r->fmt);
    av_packet_free(&r->pkt);
    av_frame_free(&r->frame);
    if (r->io)
        av_freep(&r->io->buffer);
    avio_context_free(&r->io);
}

static int read_stdin(void *opaque, uint8_t *buf, int size)
{
    Reader *r = opaque;
    ssize_t n;

    if (r->at_head < r->nb_head) {
        const int left = r->nb_head - r->at_head, take = size < left ? size : left;

        memcpy(buf, r->head + r->at_head, (size_t)take);
        r->at_head += take;
        return take;
    }
    n = read(0, buf, (size_t)size);
    return n > 0 ? (int)n : n ? AVERROR(errno) : AVERROR_EOF;
}

static int open_stdin(Reader *r, AVDictionary **opt, AVInputFormat const **format)
{
    uint8_t *buf = av_malloc(4096);

    while (r->nb_head < (int)sizeof(r->head)) {
        const ssize_t n = read(0, r->head + r->nb_head, sizeof(r->head) - (size_t)r->nb_head);

        if (n <= 0)
            break;
        r->nb_head += (int)n;
    }
    *format = av_find_input_format(r->nb_head >= 4 && !memcmp(r->head, "RIFF", 4) ? "wav" : "s16le");
    if (strcmp((*format)->name, "wav")) {
        av_dict_set(opt, "sample_rate", "16000", 0);
        av_dict_set(opt, LIBAVFORMAT_VERSION_MAJOR >= 60 ? "ch_layout" : "channels", LIBAVFORMAT_VERSION_MAJOR >= 60 ? "mono" : "1", 0);
    }
    av_dict_set(opt, "probesize", "32", 0);
    av_dict_set(opt, "analyzeduration", "0", 0);
    r->fmt = avformat_alloc_context();
    r->io = buf ? avio_alloc_context(buf, 4096, 0, r, read_stdin, NULL, NULL) : NULL;
    if (!r->fmt || !r->io)
        return AVERROR(ENOMEM);
    r->fmt->pb = r->io;
    return 0;
}

static int reader_open(Reader *r, const char *path, enum AVMediaType type)
{
    const AVInputFormat *format = NULL;
    const AVCodec *codec;
    AVDictionary *opt = NULL;
    int ret = 0;

    memset(r, 0, sizeof(*r));
    r->path = path;
    if (!strcmp(path, "-"))
        ret = open_stdin(r, &opt, &format);
    if (ret >= 0)
        ret = avformat_open_input(&r->fmt, path, format, &opt);
    av_dict_free(&opt);
    if (ret < 0)
        return complain(path, "cannot be opened", ret);
    ret = avformat_find_stream_info(r->fmt, NULL);
    if (ret >= 0)
        ret = r->stream = av_find_best_stream(r->fmt, type, -1, -1, &codec, 0);
    if (ret < 0)
        return complain(path, type == AVMEDIA_TYPE_AUDIO ? "holds no sound" : "holds no picture", ret);
    r->dec = avcodec_alloc_context3(codec);
    r->pkt = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (!r->dec || !r->pkt || !r->frame)
        return AVERROR(ENOMEM);
    ret = avcodec_parameters_to_context(r->dec, r->fmt->streams[r->stream]->codecpar);
    if (ret >= 0)
        ret = avcodec_open2(r->dec, codec, NULL);
    return ret < 0 ? complain(path, "cannot be decoded", ret) : 0;
}

/* Next decoded frame into r->frame: 1, 0 at the end, or an error. A damaged packet is passed over, as ffmpeg does. */
static int reader_next(Reader *r)
{
    for (;;) {
        int ret = avcodec_receive_frame(r->dec, r->frame);

        if (ret >= 0)
            return 1;
        if (ret == AVERROR_EOF)
            return 0;
        if (ret != AVERROR(EAGAIN))
            return complain(r->path, "cannot be decoded", ret);
        ret = r->drained ? AVERROR_EOF : av_read_frame(r->fmt, r->pkt);
        if (ret < 0) {
            r->drained = 1;
            avcodec_send_packet(r->dec, NULL);
            continue;
        }
        if (r->pkt->stream_index == r->stream)
            avcodec_send_packet(r->dec, r->pkt);
        av_packet_unref(r->pkt);
    }
}

/* ---- pictures ------------------------------------------------------------------------------------------------------ */

static int to_rgb(const AVFrame *f, uint8_t *rgb)
{
    uint8_t *dst[4] = { rgb };
    const int stride[4] = { 3 * f->width };
    struct SwsContext *sws = sws_getContext(f->width, f->height, f->format, f->width, f->height, AV_PIX_FMT_RGB24,
                                            SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, NULL, NULL, NULL);

    if (!sws)
        return AVERROR(EINVAL);
    sws_scale(sws, (const uint8_t *const *)f->data, f->linesize, 0, f->height, dst, stride);
    sws_freeContext(sws);
    return 0;
}

/* Clockwise quarter turns (and a mirror, first) that the file asks for: EXIF orientation, or a display matrix. */
static void orientation(const Reader *r, int *turns, int *mirror)
{
    const AVFrameSideData *sd = av_frame_get_side_data(r->frame, AV_FRAME_DATA_DISPLAYMATRIX);
    const AVDictionaryEntry *tag = av_dict_get(r->frame->metadata, "Orientation", NULL, 0);
    static const struct { int turns, mirror; } exif[9] = { { 0, 0 }, { 0, 0 }, { 0, 1 }, { 2, 0 }, { 2, 1 }, { 3, 1 }, { 1, 0 }, { 1, 1 }, { 3, 0 } };
    int o = tag ? atoi(tag->value) : 0;

    *turns = *mirror = 0;
    if (sd) {
        const int32_t *m = (const int32_t *)sd->data;
        double angle = av_display_rotation_get(m);

        *mirror = (double)m[0] * m[4] - (double)m[1] * m[3] < 0;
        *turns = ((int)(angle < 0 ? -angle / 90 + 0.5 : 4.5 - angle / 90)) % 4;
    } else if (o >= 1 && o <= 8) {
        *turns = exif[o].turns;
        *mirror = exif[o].mirror;
    }
}

static uint8_t *turn(uint8_t *rgb, int *w, int *h, int turns, int mirror)
{
    const int iw = *w, ih = *h, ow = turns & 1 ? ih : iw, oh = turns & 1 ? iw : ih;
    uint8_t *out = malloc((size_t)iw * ih * 3);

    if (!out)
        return rgb;
    for (int y = 0; y < oh; y++)
        for (int x = 0; x < ow; x++) {
            int sx = turns == 1 ? y : turns == 2 ? iw - 1 - x : turns == 3 ? iw - 1 - y : x;
            const int sy = turns == 1 ? ih - 1 - x : turns == 2 ? ih - 1 - y : turns == 3 ? x : y;

            if (mirror)
                sx = iw - 1 - sx;
            memcpy(out + ((size_t)y * ow + x) * 3, rgb + ((size_t)sy * iw + sx) * 3, 3);
        }
    free(rgb);
    *w = ow;
    *h = oh;
    return out;
}

int media_read_picture(const char *path, uint8_t **rgb, int *w, int *h)
{
    Reader r;
    int ret = reader_open(&r, path, AVMEDIA_TYPE_VIDEO), turns, mirror;

    *rgb = NULL;
    if (ret >= 0)
        ret = reader_next(&r);
    if (!ret)
        ret = complain(path, "holds no picture", AVERROR_INVALIDDATA);
    if (ret > 0 && !(*rgb = malloc((size_t)r.frame->width * r.frame->height * 3)))
        ret = AVERROR(ENOMEM);
    if (ret > 0) {
        *w = r.frame->width;
        *h = r.frame->height;
        ret = to_rgb(r.frame, *rgb);
        orientation(&r, &turns, &mirror);
        if (turns || mirror)
            *rgb = turn(*rgb, w, h, turns, mirror);
    }
    reader_close(&r);
    return ret < 0 ? ret : 0;
}

/* ---- sound ----------------------------------------------------------------------------------------------------------- */

struct SoundIn {
    Reader r;
    SwrContext *swr;
    float *pcm;
    int room, rate, format, ended;
    AVChannelLayout layout;
};

int media_open_sound(SoundIn **out, const char *path)
{
    SoundIn *s = calloc(1, sizeof(*s));
    int ret = s ? reader_open(&s->r, path, AVMEDIA_TYPE_AUDIO) : AVERROR(ENOMEM);

    *out = s;
    if (ret < 0 && s)
        media_close_sound(out);
    return ret;
}

/* The resampler for the frame at hand; a new one when the stream changes in the middle. */
static int fit_resampler(SoundIn *s)
{
    const AVFrame *f = s->r.frame;
    AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;
    int ret;

    if (s->swr && s->rate == f->sample_rate && s->format == f->format && !av_channel_layout_compare(&s->layout, &f->ch_layout))
        return 0;
    swr_free(&s->swr);
    s->rate = f->sample_rate;
    s->format = f->format;
    av_channel_layout_uninit(&s->layout);
    av_channel_layout_copy(&s->layout, &f->ch_layout);
    ret = swr_alloc_set_opts2(&s->swr, &mono, AV_SAMPLE_FMT_FLT, RATE, &s->layout, f->format, f->sample_rate, 0, NULL);
    return ret < 0 ? ret : swr_init(s->swr);
}

static int convert(SoundIn *s, const AVFrame *f)
{
    const int nb = f ? f->nb_samples : 0, want = swr_get_out_samples(s->swr, nb);
    uint8_t *dst[1];

    if (want > s->room) {
        float *p = realloc(s->pcm, sizeof(*p) * (size_t)want);

        if (!p)
            return AVERROR(ENOMEM);
        s->pcm = p;
        s->room = want;
    }
    dst[0] = (uint8_t *)s->pcm;
    return swr_convert(s->swr, dst, want, f ? (const uint8_t **)f->extended_data : NULL, nb);
}

int media_read_sound(SoundIn *s, const float **pcm)
{
    int ret = 0;

    while (!ret && !s->ended) {
        ret = reader_next(&s->r);
        if (ret > 0) {
            ret = fit_resampler(s);
            ret = ret < 0 ? complain(s->r.path, "cannot be resampled", ret) : convert(s, s->r.frame);
        } else if (!ret) {
            s->ended = 1;
            ret = s->swr ? convert(s, NULL) : 0;
        }
    }
    *pcm = s->pcm;
    return ret;
}

void media_close_sound(SoundIn **s)
{
    if (!*s)
        return;
    reader_close(&(*s)->r);
    swr_free(&(*s)->swr);
    av_channel_layout_uninit(&(*s)->layout);
    free((*s)->pcm);
    free(*s);
    *s = NULL;
}
