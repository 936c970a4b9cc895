/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests/e2e/tool.py: what is in a NUT file, and what the tool sees in a picture or a sound.
 *
 * media nut FILE              a line a stream, a line a packet: index, pts in ticks of 1/25 s or 1/16000 s, bytes, Adler-32
 * media picture FILE OUT      width, height; RGB to OUT
 * media sound FILE OUT        samples; 16 kHz mono f32 to OUT
 * media film FILE             decoded: container, codec, size, frames, start, end, mean luma; codec, rate, channels, samples, start, end,
 *                             onset of the sound; times in seconds
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavformat/avformat.h>
#include <libavutil/adler32.h>
#include <libavutil/pixdesc.h>

#include "reader.h"
#include "speak.h"

static void say_stream(const AVStream *st)
{
    const AVCodecParameters *p = st->codecpar;

    if (p->codec_type == AVMEDIA_TYPE_VIDEO)
        printf("video %s %s %dx%d\n", avcodec_get_name(p->codec_id), av_get_pix_fmt_name(p->format), p->width, p->height);
    else
        printf("audio %s %d %d\n", avcodec_get_name(p->codec_id), p->sample_rate, p->ch_layout.nb_channels);
}

static int nut(const char *path)
{
    AVFormatContext *fmt = NULL;
    AVPacket *pkt = av_packet_alloc();

    if (!pkt || avformat_open_input(&fmt, path, NULL, NULL) < 0 || avformat_find_stream_info(fmt, NULL) < 0)
        return fprintf(stderr, "%s: not NUT\n", path), 1;
    for (unsigned i = 0; i < fmt->nb_streams; i++)
        say_stream(fmt->streams[i]);
    while (av_read_frame(fmt, pkt) >= 0) {
        const AVStream *st = fmt->streams[pkt->stream_index];
        const AVRational tick = { 1, st->codecpar->codec_type == AVMEDIA_TYPE_VIDEO ? 25 : 16000 };

        printf("%d %lld %d %u\n", pkt->stream_index, (long long)av_rescale_q(pkt->pts, st->time_base, tick), pkt->size,
               (unsigned)av_adler32_update(1, pkt->data, (unsigned)pkt->size));
        av_packet_unref(pkt);
    }
    av_packet_free(&pkt);
    avformat_close_input(&fmt);
    return 0;
}

static int picture(const char *path, FILE *out)
{
    uint8_t *rgb;
    int w, h;

    if (media_read_picture(path, &rgb, &w, &h, NULL) < 0)
        return 1;
    printf("%d %d\n", w, h);
    fwrite(rgb, 3, (size_t)w * (size_t)h, out);
    free(rgb);
    return 0;
}

static int sound(const char *path, FILE *out)
{
    SoundIn *s;
    const AVFrame *frame;
    const float *pcm;
    int64_t sum = 0;
    int n, more;

    if (media_open_sound(&s, path, NULL, NULL) < 0)
        return 1;
    while ((more = media_read_sound(s, &pcm, &n, &frame)) > 0) {
        fwrite(pcm, sizeof(*pcm), (size_t)n, out);
        sum += n;
    }
    media_close_sound(&s);
    printf("%lld\n", (long long)sum);
    return more < 0;
}

/* When the first channel is first louder than a tenth, in samples of this frame, or -1. */
static int onset(const AVFrame *f)
{
    for (int i = 0; i < f->nb_samples; i++) {
        const void *p = f->data[0];
        const int step = av_sample_fmt_is_planar(f->format) ? 1 : f->ch_layout.nb_channels;
        const int flt = av_get_packed_sample_fmt(f->format) == AV_SAMPLE_FMT_FLT;
        const double v = flt ? ((const float *)p)[i * step] : ((const int16_t *)p)[i * step] / 32768.0;

        if (fabs(v) > 0.1)
            return i;
    }
    return -1;
}

static double mean_luma(const AVFrame *f)
{
    int64_t sum = 0;

    for (int y = 0; y < f->height; y++)
        for (int x = 0; x < f->width; x++)
            sum += f->data[0][y * f->linesize[0] + x];
    return (double)sum / f->width / f->height;
}

/* One stream of a film, decoded: its times in seconds, from pts alone. */
static int film(const char *path, enum AVMediaType type)
{
    Reader r;
    double start = -1e9, end = 0, loud = -1, luma = 0;
    int64_t nb = 0;
    int ret = reader_open(&r, path, type, NULL, NULL);

    while (ret >= 0 && (ret = reader_next(&r)) > 0) {
        const AVFrame *f = r.frame;
        const double t = (double)f->best_effort_timestamp * av_q2d(r.fmt->streams[r.stream]->time_base);
        const int at = type == AVMEDIA_TYPE_AUDIO && loud < 0 ? onset(f) : -1;

        start = start < -1e8 ? t : start;
        nb += type == AVMEDIA_TYPE_AUDIO ? f->nb_samples : 1;
        end = type == AVMEDIA_TYPE_AUDIO ? t + (double)f->nb_samples / f->sample_rate : t + 0.04;
        loud = at >= 0 ? t + (double)at / f->sample_rate : loud;
        luma += type == AVMEDIA_TYPE_VIDEO ? mean_luma(f) : 0;
    }
    if (ret >= 0 && type == AVMEDIA_TYPE_VIDEO)
        printf("%s %s %dx%d %lld %.4f %.4f %.2f\n", r.fmt->iformat->name, avcodec_get_name(r.dec->codec_id), r.dec->width, r.dec->height,
               (long long)nb, start, end, luma / (double)(nb ? nb : 1));
    else if (ret >= 0)
        printf("%s %d %d %lld %.4f %.4f %.4f\n", avcodec_get_name(r.dec->codec_id), r.dec->sample_rate, r.dec->ch_layout.nb_channels,
               (long long)nb, start, end, loud);
    reader_close(&r);
    return ret < 0;
}

int main(int argc, char **argv)
{
    FILE *out = argc == 4 ? fopen(argv[3], "wb") : NULL;
    int ret = 2;

    av_log_set_level(AV_LOG_ERROR);
    if (argc == 3 && !strcmp(argv[1], "nut"))
        return nut(argv[2]);
    if (argc == 3 && !strcmp(argv[1], "film"))
        return film(argv[2], AVMEDIA_TYPE_VIDEO) || film(argv[2], AVMEDIA_TYPE_AUDIO);
    if (out && !strcmp(argv[1], "picture"))
        ret = picture(argv[2], out);
    if (out && !strcmp(argv[1], "sound"))
        ret = sound(argv[2], out);
    return out && fclose(out) ? 1 : ret;
}
