/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading for `avatar speak`: pictures and sound, over libavformat, libavcodec, libswscale, libswresample.
 *
 * Sound from stdin is a WAV when it starts with "RIFF", else raw 16 kHz mono s16: the first bytes decide, and an AVIOContext
 * of ours gives them back to the demuxer.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
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
    int (*stop)(void);                  // or NULL
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

static int asked_to_stop(void *opaque)
{
    const Reader *r = opaque;

    return r->stop && r->stop();
}

/* Wait for bytes, looking up now and then. */
static int wait_for_stdin(Reader *r)
{
    struct pollfd p = { .fd = 0, .events = POLLIN };

    while (!asked_to_stop(r))
        if (poll(&p, 1, 100))
            return 0;
    return AVERROR_EXIT;
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
    if (wait_for_stdin(r) < 0)
        return AVERROR_EXIT;
    n = read(0, buf, (size_t)size);
    return n > 0 ? (int)n : n ? AVERROR(errno) : AVERROR_EOF;
}

static int open_stdin(Reader *r, AVDictionary **opt, AVInputFormat const **format)
{
    uint8_t *buf = av_malloc(4096);

    while (r->nb_head < (int)sizeof(r->head) && wait_for_stdin(r) >= 0) {
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
    r->io = buf ? avio_alloc_context(buf, 4096, 0, r, read_stdin, NULL, NULL) : NULL;
    if (!r->io)
        return AVERROR(ENOMEM);
    r->fmt->pb = r->io;
    return 0;
}

static int reader_open(Reader *r, const char *path, enum AVMediaType type, int (*stop)(void))
{
    const AVInputFormat *format = NULL;
    const AVCodec *codec;
    AVDictionary *opt = NULL;
    int ret = 0;

    memset(r, 0, sizeof(*r));
    r->path = path;
    r->stop = stop;
    r->fmt = avformat_alloc_context();
    if (!r->fmt)
        return AVERROR(ENOMEM);
    r->fmt->interrupt_callback = (AVIOInterruptCB){ asked_to_stop, r };
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

/* One packet more to the decoder, or the end of them. */
static void feed(Reader *r)
{
    const int ret = av_read_frame(r->fmt, r->pkt);

    if (ret < 0 && ret != AVERROR_EOF && !asked_to_stop(r))
        complain(r->path, "reading ended early", ret);
    if (ret < 0 || r->pkt->stream_index == r->stream)
        avcodec_send_packet(r->dec, ret < 0 ? NULL : r->pkt);
    r->drained = ret < 0;
    av_packet_unref(r->pkt);
}

/* Next decoded frame into r->frame: 1, 0 at the end, or an error. A damaged packet is passed over, as ffmpeg does. */
static int reader_next(Reader *r)
{
    for (;;) {
        const int ret = avcodec_receive_frame(r->dec, r->frame);

        if (ret >= 0)
            return 1;
        if (ret != AVERROR(EAGAIN) && ret != AVERROR_EOF && ret != AVERROR_INVALIDDATA)
            return complain(r->path, "cannot be decoded", ret);
        if (r->drained)
            return 0;
        feed(r);
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

/* How the file wants its pixels shown: pixel (x, y) goes to (a x + c y, b x + d y), each -1, 0 or 1, moved so that none is negative. */
typedef struct Turn {
    int a, b, c, d;
} Turn;

static int sign(int32_t v)
{
    return (v > 0) - (v < 0);
}

/* From the display matrix that newer libavcodec makes of EXIF, else from the EXIF orientation itself. */
static Turn turn_of(const Reader *r)
{
    static const Turn exif[] = { { 1, 0, 0, 1 }, { 1, 0, 0, 1 }, { -1, 0, 0, 1 }, { -1, 0, 0, -1 }, { 1, 0, 0, -1 },
                                 { 0, 1, 1, 0 }, { 0, 1, -1, 0 }, { 0, -1, -1, 0 }, { 0, -1, 1, 0 } };
    const AVFrameSideData *sd = av_frame_get_side_data(r->frame, AV_FRAME_DATA_DISPLAYMATRIX);
    const AVDictionaryEntry *tag = av_dict_get(r->frame->metadata, "Orientation", NULL, 0);
    const int o = tag ? atoi(tag->value) : 0;

    if (sd) {
        const int32_t *m = (const int32_t *)sd->data;
        const Turn t = { sign(m[0]), sign(m[1]), sign(m[3]), sign(m[4]) };

        if (abs(t.a) + abs(t.b) == 1 && abs(t.c) + abs(t.d) == 1 && abs(t.a) == abs(t.d))
            return t;
    }
    return exif[o >= 1 && o <= 8 ? o : 0];
}

/* A turn's inverse is its transpose. */
static uint8_t *turn(uint8_t *rgb, int *w, int *h, Turn t)
{
    const int iw = *w, ih = *h, ow = t.a ? iw : ih, oh = t.a ? ih : iw;
    const int x0 = t.a + t.b < 0 ? iw - 1 : 0, y0 = t.c + t.d < 0 ? ih - 1 : 0;
    uint8_t *out = malloc((size_t)iw * (size_t)ih * 3);

    for (int y = 0; out && y < oh; y++)
        for (int x = 0; x < ow; x++) {
            const int sx = x0 + t.a * x + t.b * y, sy = y0 + t.c * x + t.d * y;

            memcpy(out + ((size_t)y * (size_t)ow + (size_t)x) * 3, rgb + ((size_t)sy * (size_t)iw + (size_t)sx) * 3, 3);
        }
    free(rgb);
    *w = ow;
    *h = oh;
    return out;
}

int media_read_picture(const char *path, uint8_t **rgb, int *w, int *h)
{
    Reader r;
    int ret = reader_open(&r, path, AVMEDIA_TYPE_VIDEO, NULL);

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
        if (ret >= 0 && !(*rgb = turn(*rgb, w, h, turn_of(&r))))
            ret = AVERROR(ENOMEM);
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

int media_open_sound(SoundIn **out, const char *path, int (*stop)(void))
{
    SoundIn *s = calloc(1, sizeof(*s));
    int ret = s ? reader_open(&s->r, path, AVMEDIA_TYPE_AUDIO, stop) : AVERROR(ENOMEM);

    *out = s;
    if (ret < 0 && s)
        media_close_sound(out);
    return ret;
}

/* Channels that nobody named are mixed in equal parts. */
static int mix_evenly(SwrContext *swr, int nb)
{
    double *part = malloc(sizeof(*part) * (size_t)nb);
    int ret = AVERROR(ENOMEM);

    for (int i = 0; part && i < nb; i++)
        part[i] = 1.0 / nb;
    if (part)
        ret = swr_set_matrix(swr, part, nb);
    free(part);
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
    if (ret >= 0)
        ret = av_opt_set_double(s->swr, "rematrix_maxval", 1, 0);   // two equal channels are as loud as one
    if (ret >= 0 && s->layout.order == AV_CHANNEL_ORDER_UNSPEC)
        ret = mix_evenly(s->swr, s->layout.nb_channels);
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
