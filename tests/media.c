/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * For tests/e2e/tool.py: what is in a NUT file, and what the tool sees in a picture or a sound.
 *
 * media nut FILE              a line a stream, a line a packet: index, pts in ticks of 1/25 s or 1/16000 s, bytes, Adler-32
 * media picture FILE OUT      width, height; RGB to OUT
 * media sound FILE OUT        samples; 16 kHz mono f32 to OUT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavformat/avformat.h>
#include <libavutil/adler32.h>
#include <libavutil/pixdesc.h>

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

    if (media_read_picture(path, &rgb, &w, &h) < 0)
        return 1;
    printf("%d %d\n", w, h);
    fwrite(rgb, 3, (size_t)w * (size_t)h, out);
    free(rgb);
    return 0;
}

static int sound(const char *path, FILE *out)
{
    SoundIn *s;
    const float *pcm;
    int64_t sum = 0;
    int n;

    if (media_open_sound(&s, path, NULL) < 0)
        return 1;
    while ((n = media_read_sound(s, &pcm)) > 0) {
        fwrite(pcm, sizeof(*pcm), (size_t)n, out);
        sum += n;
    }
    media_close_sound(&s);
    printf("%lld\n", (long long)sum);
    return n < 0;
}

int main(int argc, char **argv)
{
    FILE *out = argc == 4 ? fopen(argv[3], "wb") : NULL;
    int ret = 2;

    av_log_set_level(AV_LOG_ERROR);
    if (argc == 3 && !strcmp(argv[1], "nut"))
        return nut(argv[2]);
    if (out && !strcmp(argv[1], "picture"))
        ret = picture(argv[2], out);
    if (out && !strcmp(argv[1], "sound"))
        ret = sound(argv[2], out);
    return out && fclose(out) ? 1 : ret;
}
