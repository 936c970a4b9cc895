/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The film that `avatar speak` writes: frames and sound, encoded, in a container. See speak.h.
 *
 * Sound is encoded as it comes, often long before its pictures; its packets wait in a queue for the frame of their time. So an hour of
 * it costs no more than an hour of AAC, and a film that ends early ends with the sound of its last frame. A NUT without encoding has
 * each frame followed by its 640 samples, and the pipe is flushed after both: the reader sees a frame as soon as it is there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavutil/audio_fifo.h>
#include <libavutil/avstring.h>
#include <libavutil/imgutils.h>

#include "codecs.h"
#include "speak.h"

#define IO_BYTES 65536
#define FPS 25

struct MediaOut {
    Codecs codecs;
    char *path;
    FileOut *file;
    AVIOContext *io;
    AVFormatContext *fmt;
    AVCodecContext *video, *audio;
    AVStream *video_st, *audio_st;
    AVFrame *picture;
    AVPacket *pkt;
    SwrContext *swr;                    // to the sound's encoder, from what came last
    int rate, format;
    AVChannelLayout layout;
    AVAudioFifo *fifo;                  // sound that is less than a frame of its encoder
    int64_t nb_samples, nb_frames;      // given to the encoders
    AVPacket **queue;                   // encoded sound: [head, tail) waits for its pictures
    size_t head, tail, room;
    int started, error;
};

static int fail(MediaOut *m, int ret)
{
    if (m->error || ret >= 0)
        return m->error;
    m->error = ret;
    file_say(m->path, ret);
    return ret;
}

/* ---- file ------------------------------------------------------------------------------------------------------------------- */

#if LIBAVFORMAT_VERSION_MAJOR >= 61
static int io_write(void *opaque, const uint8_t *buf, int size)
#else
static int io_write(void *opaque, uint8_t *buf, int size)
#endif
{
    return file_write(opaque, buf, size);
}

static int64_t io_seek(void *opaque, int64_t offset, int whence)
{
    int64_t at, end;

    if (!(whence & AVSEEK_SIZE))
        return file_seek(opaque, offset, whence & ~AVSEEK_FORCE);
    at = file_seek(opaque, 0, SEEK_CUR);
    end = file_seek(opaque, 0, SEEK_END);
    file_seek(opaque, at, SEEK_SET);
    return end;
}

int media_plan_out(MediaOut **out, const MediaLook *look)
{
    MediaOut *m = *out = calloc(1, sizeof(*m));

    if (!m || !(m->path = strdup(look->path)))
        return AVERROR(ENOMEM);
    return m->error = codecs_choose(&m->codecs, look);
}

int media_open_out(MediaOut *m, FileStop stop)
{
    const int ret = file_create(&m->file, m->path, stop);

    return ret < 0 ? fail(m, ret) : 0;
}

static int open_io(MediaOut *m)
{
    const char *place = file_place(m->file);
    uint8_t *buf = av_malloc(IO_BYTES);

    m->io = buf ? avio_alloc_context(buf, IO_BYTES, 1, m->file, NULL, io_write, place ? io_seek : NULL) : NULL;
    if (!m->io)
        av_free(buf);
    m->fmt = avformat_alloc_context();
    if (!m->io || !m->fmt)
        return AVERROR(ENOMEM);
    m->fmt->oformat = m->codecs.format;
    m->fmt->pb = m->io;
    m->fmt->flags |= AVFMT_FLAG_CUSTOM_IO;
    m->fmt->url = place ? av_asprintf("file:%s", place) : av_strdup("pipe:");      // MP4 is read again from there
    if (!place || m->codecs.video->id == AV_CODEC_ID_RAWVIDEO)
        m->fmt->flags |= AVFMT_FLAG_FLUSH_PACKETS;
    return m->fmt->url ? 0 : AVERROR(ENOMEM);
}

static int add_stream(MediaOut *m, AVStream **st, const AVCodecContext *enc)
{
    *st = avformat_new_stream(m->fmt, NULL);
    if (!*st)
        return AVERROR(ENOMEM);
    (*st)->time_base = enc->time_base;
    (*st)->avg_frame_rate = (*st)->r_frame_rate = enc->framerate;
    return avcodec_parameters_from_context((*st)->codecpar, enc);
}

/* The index of an MP4 comes first, so that it plays while it is loaded; into a pipe there goes one of pieces. */
static int write_header(MediaOut *m)
{
    AVDictionary *opt = NULL;
    int ret = av_dict_set(&opt, "movflags", file_place(m->file) ? "faststart" : "frag_keyframe+empty_moov+default_base_moof", 0);

    if (ret >= 0)
        ret = avformat_write_header(m->fmt, &opt);
    av_dict_free(&opt);
    m->started = ret >= 0;
    return ret;
}

int media_start_out(MediaOut *m, const MediaLook *look)
{
    int ret = open_io(m);

    if (ret >= 0) {
        ret = codecs_open_video(&m->video, &m->codecs, look);
        if (ret < 0)
            fprintf(stderr, "avatar: -c:v %s does not open for %s of %dx%d; take another --format, --size or encoder\n", m->codecs.video->name,
                    look->pix_fmt, look->width, look->height);
    }
    if (ret >= 0) {
        ret = codecs_open_audio(&m->audio, &m->codecs, look);
        if (ret < 0)
            fprintf(stderr, "avatar: -c:a %s does not open for sound of %d Hz; take another encoder\n", m->codecs.audio->name, look->rate);
    }
    if (ret >= 0)
        ret = add_stream(m, &m->video_st, m->video);
    if (ret >= 0)
        ret = add_stream(m, &m->audio_st, m->audio);
    if (ret >= 0) {
        m->pkt = av_packet_alloc();
        m->fifo = av_audio_fifo_alloc(m->audio->sample_fmt, m->audio->ch_layout.nb_channels, 4096);
        m->picture = av_frame_alloc();
        ret = m->pkt && m->fifo && m->picture ? 0 : AVERROR(ENOMEM);
    }
    if (ret >= 0) {
        m->picture->format = m->video->pix_fmt;
        m->picture->width = m->video->width;
        m->picture->height = m->video->height;
        ret = av_frame_get_buffer(m->picture, 0);
    }
    return fail(m, ret < 0 ? ret : write_header(m));
}

/* ---- packets ---------------------------------------------------------------------------------------------------------------- */

/* Takes what the packet holds. Without encoding the order is ours. */
static int write_packet(MediaOut *m, AVPacket *pkt, const AVCodecContext *enc, const AVStream *st)
{
    int ret;

    pkt->stream_index = st->index;
    if (enc == m->video && !pkt->duration)
        pkt->duration = 1;
    av_packet_rescale_ts(pkt, enc->time_base, st->time_base);
    ret = m->video->codec_id == AV_CODEC_ID_RAWVIDEO ? av_write_frame(m->fmt, pkt) : av_interleaved_write_frame(m->fmt, pkt);
    av_packet_unref(pkt);
    return ret;
}

static int enqueue(MediaOut *m)
{
    if (m->tail == m->room) {
        const size_t room = m->room ? 2 * m->room : 64;
        AVPacket **p = realloc(m->queue, room * sizeof(*p));

        if (!p)
            return AVERROR(ENOMEM);
        m->queue = p;
        m->room = room;
    }
    m->queue[m->tail] = av_packet_clone(m->pkt);
    av_packet_unref(m->pkt);
    return m->queue[m->tail++] ? 0 : AVERROR(ENOMEM);
}

/* Sound of the times before frame `end`, or all of it. */
static int write_queue(MediaOut *m, int64_t end)
{
    int ret = 0;

    while (ret >= 0 && m->head < m->tail) {
        AVPacket *pkt = m->queue[m->head];

        if (end >= 0 && av_compare_ts(pkt->pts, m->audio->time_base, end, m->video->time_base) >= 0)
            break;
        ret = write_packet(m, pkt, m->audio, m->audio_st);
        av_packet_free(&m->queue[m->head++]);
    }
    if (m->head == m->tail)
        m->head = m->tail = 0;
    return ret;
}

/* A frame, or NULL, the end, through an encoder. */
static int encode(MediaOut *m, AVCodecContext *enc, const AVFrame *f)
{
    int ret = avcodec_send_frame(enc, f);

    while (ret >= 0) {
        ret = avcodec_receive_packet(enc, m->pkt);
        if (ret == AVERROR(EAGAIN) || ret == AVERROR_EOF)
            return 0;
        if (ret >= 0)
            ret = enc == m->video ? write_packet(m, m->pkt, enc, m->video_st) : enqueue(m);
    }
    return ret;
}

/* ---- sound ------------------------------------------------------------------------------------------------------------------- */

static int fit_resampler(MediaOut *m, const AVFrame *f)
{
    if (m->swr && m->rate == f->sample_rate && m->format == f->format && !av_channel_layout_compare(&m->layout, &f->ch_layout))
        return 0;
    m->rate = f->sample_rate;
    m->format = f->format;
    av_channel_layout_uninit(&m->layout);
    av_channel_layout_copy(&m->layout, &f->ch_layout);
    return media_mixer(&m->swr, f, m->audio->ch_layout.nb_channels, m->audio->sample_fmt, m->audio->sample_rate);
}

/* The frame, or the resampler's rest, to the fifo. */
static int resample(MediaOut *m, const AVFrame *f)
{
    int nb = swr_get_out_samples(m->swr, f ? f->nb_samples : 0), ret = 0;
    uint8_t *data[2] = { NULL };

    if (nb > 0)
        ret = av_samples_alloc(data, NULL, m->audio->ch_layout.nb_channels, nb, m->audio->sample_fmt, 0);
    if (nb > 0 && ret >= 0)
        ret = nb = swr_convert(m->swr, data, nb, f ? (const uint8_t **)f->extended_data : NULL, f ? f->nb_samples : 0);
    if (nb > 0 && ret >= 0)
        ret = av_audio_fifo_write(m->fifo, (void **)data, nb);
    av_freep(&data[0]);
    return ret < 0 ? ret : 0;
}

/* The next nb samples of the fifo through the encoder; the last ones, where it wants them all of one length, with silence behind. */
static int encode_sound(MediaOut *m, int nb, int size)
{
    const int pad = nb < size && m->audio->frame_size && !(m->audio->codec->capabilities & AV_CODEC_CAP_SMALL_LAST_FRAME);
    AVFrame *f = av_frame_alloc();
    int ret = f ? 0 : AVERROR(ENOMEM);

    if (ret >= 0) {
        f->format = m->audio->sample_fmt;
        f->sample_rate = m->audio->sample_rate;
        f->nb_samples = pad ? size : nb;
        f->pts = m->nb_samples;
        ret = av_channel_layout_copy(&f->ch_layout, &m->audio->ch_layout);
    }
    if (ret >= 0)
        ret = av_frame_get_buffer(f, 0);
    if (ret >= 0)
        ret = av_audio_fifo_read(m->fifo, (void **)f->extended_data, nb);
    if (ret >= 0 && pad)
        ret = av_samples_set_silence(f->extended_data, nb, size - nb, f->ch_layout.nb_channels, f->format);
    if (ret >= 0)
        ret = encode(m, m->audio, f);
    m->nb_samples += nb;
    av_frame_free(&f);
    return ret;
}

int media_write_sound(MediaOut *m, const AVFrame *frame)
{
    const int size = m->audio->frame_size ? m->audio->frame_size : m->audio->sample_rate / FPS;
    int ret = m->error, nb;

    if (ret >= 0 && frame)
        ret = fit_resampler(m, frame);
    if (ret >= 0 && m->swr)
        ret = resample(m, frame);
    while (ret >= 0 && (nb = FFMIN(av_audio_fifo_size(m->fifo), size)) > (frame ? size - 1 : 0))
        ret = encode_sound(m, nb, size);
    if (ret >= 0 && !frame)
        ret = encode(m, m->audio, NULL);
    return fail(m, FFMIN(ret, 0));
}

/* ---- pictures, end ------------------------------------------------------------------------------------------------------------ */

int media_write_frame(MediaOut *m, const uint8_t *const data[4], const int linesize[4], int64_t pts)
{
    int ret = m->error < 0 ? m->error : av_frame_make_writable(m->picture);
    const AVFrame *p = m->picture;

    if (ret >= 0) {
        av_image_copy(m->picture->data, m->picture->linesize, (const uint8_t **)(uintptr_t)data, linesize, p->format, p->width, p->height);
        m->picture->pts = pts;
        ret = encode(m, m->video, p);
    }
    if (ret >= 0) {
        m->nb_frames = pts + 1;
        ret = write_queue(m, pts + 1);
    }
    return fail(m, ret);
}

static int finish(MediaOut *m, int complete)
{
    int ret;

    if (!m->nb_frames) {
        if (complete)
            fprintf(stderr, "avatar: %s: no frame was made, so nothing is written\n", file_shown(m->path));
        return AVERROR_EXIT;
    }
    ret = encode(m, m->video, NULL);
    if (ret >= 0)
        ret = write_queue(m, complete ? -1 : m->nb_frames);
    if (ret >= 0)
        ret = av_write_trailer(m->fmt);
    avio_flush(m->io);
    return ret < 0 ? ret : m->io->error;
}

static void free_out(MediaOut *m)
{
    while (m->head < m->tail)
        av_packet_free(&m->queue[m->head++]);
    free(m->queue);
    if (m->io)
        av_freep(&m->io->buffer);
    avio_context_free(&m->io);
    avformat_free_context(m->fmt);
    avcodec_free_context(&m->video);
    avcodec_free_context(&m->audio);
    av_frame_free(&m->picture);
    av_packet_free(&m->pkt);
    swr_free(&m->swr);
    av_channel_layout_uninit(&m->layout);
    av_audio_fifo_free(m->fifo);
    free(m->path);
    free(m);
}

int media_close_out(MediaOut **out, int complete)
{
    MediaOut *m = *out;
    int ret;

    if (!m)
        return 0;
    if (m->started && !m->error)
        fail(m, finish(m, complete));
    ret = file_close(&m->file, m->started && !m->error);
    if (ret < 0)
        fail(m, ret);
    ret = m->error;
    free_out(m);
    *out = NULL;
    return ret;
}
