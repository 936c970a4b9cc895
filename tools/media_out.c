/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing for `avatar speak`: NUT with raw video and 16 kHz s16 sound, which every ffmpeg reads with its time stamps.
 *
 * Each frame is followed by its 640 samples, and the pipe is flushed after both: the reader sees a frame as soon as it is there.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libavutil/pixdesc.h>

#include "speak.h"

#define RATE 16000
#define FPS 25
#define FRAME_SAMPLES (RATE / FPS)

struct MediaOut {
    AVFormatContext *fmt;
    AVPacket *pkt;
    AVStream *video, *audio;
    int16_t *pcm;                       // sound: `taken` samples that were written, then `nb` that were not
    int64_t taken, nb, room;
    int64_t written;                    // samples in all
    int started, error;
};

static int complain(const char *what, int ret)
{
    char text[AV_ERROR_MAX_STRING_SIZE];

    av_strerror(ret, text, sizeof(text));
    fprintf(stderr, "avatar: %s: %s\n", what, text);
    return ret;
}

static AVStream *video_stream(AVFormatContext *fmt, int w, int h, enum AVPixelFormat format)
{
    AVStream *st = avformat_new_stream(fmt, NULL);

    if (!st)
        return NULL;
    st->time_base = (AVRational){ 1, FPS };
    st->avg_frame_rate = st->r_frame_rate = (AVRational){ FPS, 1 };
    st->codecpar->codec_type = AVMEDIA_TYPE_VIDEO;
    st->codecpar->codec_id = AV_CODEC_ID_RAWVIDEO;
    st->codecpar->codec_tag = avcodec_pix_fmt_to_codec_tag(format);
    st->codecpar->format = format;
    st->codecpar->width = w;
    st->codecpar->height = h;
    st->codecpar->sample_aspect_ratio = (AVRational){ 1, 1 };
    st->codecpar->color_space = av_pix_fmt_desc_get(format)->flags & AV_PIX_FMT_FLAG_RGB ? AVCOL_SPC_RGB : AVCOL_SPC_BT709;
    st->codecpar->color_range = av_pix_fmt_desc_get(format)->flags & AV_PIX_FMT_FLAG_RGB ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    return st;
}

static AVStream *audio_stream(AVFormatContext *fmt)
{
    AVStream *st = avformat_new_stream(fmt, NULL);

    if (!st)
        return NULL;
    st->time_base = (AVRational){ 1, RATE };
    st->codecpar->codec_type = AVMEDIA_TYPE_AUDIO;
    st->codecpar->codec_id = AV_CODEC_ID_PCM_S16LE;
    st->codecpar->format = AV_SAMPLE_FMT_S16;
    st->codecpar->sample_rate = RATE;
    st->codecpar->block_align = 2;
    st->codecpar->bits_per_coded_sample = 16;
    av_channel_layout_default(&st->codecpar->ch_layout, 1);
    return st;
}

int media_open_out(MediaOut **out, const char *path)
{
    const char *url = strcmp(path, "-") ? path : "pipe:1";
    MediaOut *m = calloc(1, sizeof(*m));
    int ret;

    *out = m;
    if (!m)
        return AVERROR(ENOMEM);
    ret = avformat_alloc_output_context2(&m->fmt, NULL, "nut", url);
    if (ret >= 0 && !(m->pkt = av_packet_alloc()))
        ret = AVERROR(ENOMEM);
    if (ret >= 0)
        ret = avio_open(&m->fmt->pb, url, AVIO_FLAG_WRITE);
    m->error = ret < 0 ? complain(path, ret) : 0;
    return m->error;
}

int media_start_out(MediaOut *m, int w, int h, const char *pix_fmt)
{
    int ret = AVERROR(ENOMEM);

    m->fmt->flags |= AVFMT_FLAG_FLUSH_PACKETS;
    m->video = video_stream(m->fmt, w, h, av_get_pix_fmt(pix_fmt));
    m->audio = audio_stream(m->fmt);
    if (m->video && m->audio)
        ret = avformat_write_header(m->fmt, NULL);
    m->started = ret >= 0;
    m->error = ret < 0 ? complain("output", ret) : 0;
    return m->error;
}

int media_write_sound(MediaOut *m, const float *pcm, int nb)
{
    if (m->taken)
        memmove(m->pcm, m->pcm + m->taken, sizeof(*m->pcm) * (size_t)m->nb);
    m->taken = 0;
    if (m->nb + nb > m->room) {
        const int64_t room = (m->nb + nb) * 3 / 2;
        int16_t *p = realloc(m->pcm, sizeof(*p) * (size_t)room);

        if (!p)
            return m->error = AVERROR(ENOMEM);
        m->pcm = p;
        m->room = room;
    }
    for (int i = 0; i < nb; i++) {
        const float v = pcm[i] * 32768;

        m->pcm[m->nb + i] = (int16_t)(v >= 32767 ? 32767 : v <= -32768 ? -32768 : lrintf(v));
    }
    m->nb += nb;
    return 0;
}

static int write_packet(MediaOut *m, AVStream *st, int64_t pts, int64_t duration)
{
    int ret;

    m->pkt->stream_index = st->index;
    m->pkt->pts = m->pkt->dts = pts;
    m->pkt->duration = duration;
    m->pkt->flags = AV_PKT_FLAG_KEY;
    av_packet_rescale_ts(m->pkt, st == m->video ? (AVRational){ 1, FPS } : (AVRational){ 1, RATE }, st->time_base);
    ret = av_write_frame(m->fmt, m->pkt);
    av_packet_unref(m->pkt);
    if (ret < 0 && !m->error)
        m->error = complain("output", ret);
    return ret;
}

static int write_samples(MediaOut *m, int64_t end)
{
    const int64_t want = end - m->written, nb = want < m->nb ? want : m->nb;
    int ret;

    if (nb <= 0)
        return 0;
    ret = av_new_packet(m->pkt, (int)nb * 2);
    if (ret < 0)
        return m->error = ret;
    memcpy(m->pkt->data, m->pcm + m->taken, (size_t)nb * 2);
    ret = write_packet(m, m->audio, m->written, nb);
    m->written += nb;
    m->taken += nb;
    m->nb -= nb;
    return ret;
}

int media_write_frame(MediaOut *m, const uint8_t *const data[4], const int linesize[4], int64_t pts)
{
    const AVCodecParameters *par = m->video->codecpar;
    const int size = av_image_get_buffer_size(par->format, par->width, par->height, 1);
    int ret = m->error ? m->error : av_new_packet(m->pkt, size);

    if (ret < 0)
        return ret;
    av_image_copy_to_buffer(m->pkt->data, size, data, linesize, par->format, par->width, par->height, 1);
    ret = write_packet(m, m->video, pts, 1);
    return ret < 0 ? ret : write_samples(m, (pts + 1) * FRAME_SAMPLES);
}

int media_close_out(MediaOut **out, int complete)
{
    MediaOut *m = *out;
    int ret = 0;

    if (!m)
        return 0;
    if (m->started && !m->error) {
        if (complete)
            write_samples(m, m->written + m->nb);
        ret = av_write_trailer(m->fmt);
        if (ret < 0 && !m->error)
            m->error = complain("output", ret);
    }
    ret = m->error;
    if (m->fmt && m->fmt->pb) {
        const int closed = avio_closep(&m->fmt->pb);

        ret = ret ? ret : closed < 0 ? complain("output", closed) : 0;
    }
    avformat_free_context(m->fmt);
    av_packet_free(&m->pkt);
    free(m->pcm);
    free(m);
    *out = NULL;
    return ret;
}
