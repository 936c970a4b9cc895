/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Demuxing and decoding for the tool. See reader.h.
 *
 * What the system opens is read through an AVIOContext of ours, so that a FIFO, a silent stdin and a name with '%' are as good as a
 * file; a URL is left to libavformat.
 * Traps: MP4 may have its index at the end, so what comes through a pipe is put into a file first. libavformat would collect seconds
 * of a live pipe to see what is in it: of PCM the header says enough.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/stat.h>

#include <libavutil/time.h>

#include "reader.h"

#define IO_BYTES 32768

const char *reader_name(const char *path)
{
    return strcmp(path, "-") ? file_shown(path) : "stdin";
}

int reader_complain(const Reader *r, const char *what, int ret)
{
    char text[AV_ERROR_MAX_STRING_SIZE];

    if (ret != AVERROR_EXIT && !(r->stop && r->stop())) {
        av_strerror(ret, text, sizeof(text));
        fprintf(stderr, "avatar: %s: %s: %s\n", reader_name(r->path), what, text);
    }
    return ret;
}

int reader_is_late(void *since)
{
    return av_gettime_relative() - *(const int64_t *)since > READER_PATIENCE * INT64_C(1000000);
}

static int asked_to_stop(void *opaque)
{
    Reader *r = opaque;

    return r->stop ? r->stop() : !r->io && reader_is_late(&r->since);
}

/* What an interrupt means that nobody has asked for. */
static int why(const Reader *r, int ret)
{
    return ret == AVERROR_EXIT && !r->stop ? AVERROR(ETIMEDOUT) : ret;
}

/* ---- bytes ----------------------------------------------------------------------------------------------------------------- */

static int io_read(void *opaque, uint8_t *buf, int size)
{
    Reader *r = opaque;
    const int n = file_read(r->fd, buf, size, r->stop);

    if (n < 0)
        r->error = n;
    return n ? n : AVERROR_EOF;
}

static int64_t io_seek(void *opaque, int64_t offset, int whence)
{
    const Reader *r = opaque;
    struct stat st;
    int64_t at;

    if (whence & AVSEEK_SIZE)
        return fstat(r->fd, &st) < 0 ? AVERROR(errno) : st.st_size - r->base;
    whence &= ~AVSEEK_FORCE;
    at = lseek(r->fd, whence == SEEK_SET ? offset + r->base : offset, whence);
    return at < 0 ? AVERROR(errno) : at - r->base;
}

static int open_io(Reader *r)
{
    uint8_t *buf = av_malloc(IO_BYTES);
    struct stat st;

    r->seekable = !fstat(r->fd, &st) && S_ISREG(st.st_mode);
    r->base = r->seekable ? lseek(r->fd, 0, SEEK_CUR) : 0;
    r->io = buf ? avio_alloc_context(buf, IO_BYTES, 0, r, io_read, NULL, r->seekable ? io_seek : NULL) : NULL;
    if (!r->io)
        av_free(buf);
    return r->io ? 0 : AVERROR(ENOMEM);
}

static void close_io(Reader *r)
{
    if (r->io)
        av_freep(&r->io->buffer);
    avio_context_free(&r->io);
}

/* Everything that is still to come, into a file without a name. */
static int spool(Reader *r)
{
    uint8_t buf[IO_BYTES];
    FILE *f = tmpfile();
    int n, ret = f ? 0 : AVERROR(errno);

    while (!ret && (n = avio_read_partial(r->io, buf, sizeof(buf))) != AVERROR_EOF)
        ret = n < 0 ? n : fwrite(buf, 1, (size_t)n, f) < (size_t)n ? AVERROR(errno) : 0;
    if (!ret && (fflush(f) || fseek(f, 0, SEEK_SET)))
        ret = AVERROR(errno);
    if (!ret && (n = dup(fileno(f))) >= 0) {
        close_io(r);
        file_close_in(r->fd);
        r->fd = n;
        ret = open_io(r);
    }
    if (f)
        fclose(f);
    return ret;
}

/* An index may be at the end: "ftyp" is how MP4 and its kin begin. */
static int wants_spool(Reader *r)
{
    uint8_t head[8];
    const int n = r->seekable ? 0 : avio_read(r->io, head, sizeof(head));

    if (n > 0)
        avio_seek(r->io, -n, SEEK_CUR);                             // inside the buffer
    return n == sizeof(head) && !memcmp(head + 4, "ftyp", 4);
}

static int is_url(const char *path)
{
    const char *protocol = avio_find_protocol_name(path);

    return protocol && strcmp(protocol, "file");
}

static int open_bytes(Reader *r)
{
    int ret = file_open_in(r->path);

    if ((ret == AVERROR(ENOENT) || ret == AVERROR(ENAMETOOLONG)) && is_url(r->path))        // data:image/png;base64,... is long
        return 0;
    if (ret < 0)
        return ret;
    r->fd = ret;
    ret = open_io(r);
    return ret < 0 ? ret : wants_spool(r) ? spool(r) : r->error;
}

/* ---- streams ---------------------------------------------------------------------------------------------------------------- */

static int open_format(Reader *r, const char *name, const AVInputFormat *format)
{
    AVDictionary *opt = NULL;
    int ret;

    r->fmt = avformat_alloc_context();
    if (!r->fmt)
        return AVERROR(ENOMEM);
    r->fmt->interrupt_callback = (AVIOInterruptCB){ asked_to_stop, r };
    r->fmt->pb = r->io;
    if (format) {                                                   // of raw sound; other demuxers leave these alone
        av_dict_set(&opt, "sample_rate", "16000", 0);
        av_dict_set(&opt, LIBAVFORMAT_VERSION_MAJOR >= 60 ? "ch_layout" : "channels", LIBAVFORMAT_VERSION_MAJOR >= 60 ? "mono" : "1", 0);
    }
    av_dict_set(&opt, "pattern_type", "none", 0);                   // a '%' in a picture's name is a '%'
    if (!r->seekable)
        av_dict_set(&opt, "max_size", "1280", 0);                   // WAV: do not wait for more
    ret = avformat_open_input(&r->fmt, name, format, &opt);
    av_dict_free(&opt);
    return ret;
}

static int header_is_enough(const AVFormatContext *fmt)
{
    const AVCodecParameters *p = fmt->nb_streams == 1 ? fmt->streams[0]->codecpar : NULL;

    return p && p->codec_type == AVMEDIA_TYPE_AUDIO && av_get_exact_bits_per_sample(p->codec_id) > 0 && p->sample_rate > 0
           && p->ch_layout.nb_channels > 0;
}

/* What a picture's name says is heard only when its bytes say nothing: libavformat would take "100%.png" for a series of files. */
static int open_streams(Reader *r, enum AVMediaType type, const AVInputFormat *format)
{
    const int by_bytes = type == AVMEDIA_TYPE_VIDEO && r->io && !format;
    int ret = open_format(r, by_bytes ? "" : strcmp(r->path, "-") ? r->path : "stdin", format);

    if (ret < 0 && by_bytes && r->seekable && !r->error && avio_seek(r->io, 0, SEEK_SET) >= 0)
        ret = open_format(r, r->path, NULL);
    if (ret >= 0 && !header_is_enough(r->fmt))
        ret = avformat_find_stream_info(r->fmt, NULL);
    return r->error ? r->error : why(r, ret);
}

/* @param strict  whether what is damaged gives nothing */
static int start_decoder(AVCodecContext **dec, const AVCodec *codec, const AVCodecParameters *par, int strict)
{
    int ret;

    *dec = avcodec_alloc_context3(codec);
    if (!*dec)
        return AVERROR(ENOMEM);
    ret = avcodec_parameters_to_context(*dec, par);
    if (strict)
        (*dec)->err_recognition = AV_EF_EXPLODE | AV_EF_CRCCHECK;
    return ret < 0 ? ret : avcodec_open2(*dec, codec, NULL);
}

static int open_decoder(Reader *r, enum AVMediaType type)
{
    const AVCodec *codec;
    int ret = r->stream = av_find_best_stream(r->fmt, type, -1, -1, &codec, 0);

    if (ret < 0)
        return reader_complain(r, type == AVMEDIA_TYPE_AUDIO ? "holds no sound" : "holds no picture", ret);
    r->pkt = av_packet_alloc();
    r->last = av_packet_alloc();
    r->frame = av_frame_alloc();
    if (!r->pkt || !r->last || !r->frame)
        return AVERROR(ENOMEM);
    ret = start_decoder(&r->dec, codec, r->fmt->streams[r->stream]->codecpar, 0);
    return ret < 0 ? reader_complain(r, "cannot be decoded", ret) : 0;
}

int reader_open(Reader *r, const char *path, enum AVMediaType type, const char *format, FileStop stop)
{
    const AVInputFormat *demuxer = format ? av_find_input_format(format) : NULL;
    int ret;

    memset(r, 0, sizeof(*r));
    r->path = path;
    r->stop = stop;
    r->since = av_gettime_relative();
    r->fd = -1;
    if (format && !demuxer)
        return reader_complain(r, format, AVERROR_DEMUXER_NOT_FOUND);
    ret = open_bytes(r);
    if (ret >= 0)
        ret = open_streams(r, type, demuxer);
    if (ret == AVERROR_INVALIDDATA && type == AVMEDIA_TYPE_AUDIO)
        return reader_complain(r, "is in no format that libavformat knows by its bytes (raw 16 kHz mono sound: --input_format s16le)", ret);
    return ret < 0 ? reader_complain(r, "cannot be opened", ret) : open_decoder(r, type);
}

/* One packet more to the decoder, or the end of them. */
static int feed(Reader *r)
{
    const int ret = av_read_frame(r->fmt, r->pkt);

    if (ret == AVERROR(EAGAIN))
        return 0;
    if (r->error)
        return reader_complain(r, "cannot be read", r->error);
    if (asked_to_stop(r))
        return reader_complain(r, "reading ended early", why(r, AVERROR_EXIT));
    if (ret < 0 && ret != AVERROR_EOF)
        reader_complain(r, "reading ended early", ret);
    if (ret < 0 || r->pkt->stream_index == r->stream)
        avcodec_send_packet(r->dec, ret < 0 ? NULL : r->pkt);
    if (ret >= 0 && r->pkt->stream_index == r->stream) {
        av_packet_unref(r->last);
        av_packet_move_ref(r->last, r->pkt);
    }
    r->drained = ret < 0;
    av_packet_unref(r->pkt);
    return 0;
}

int reader_next(Reader *r)
{
    for (;;) {
        int ret = avcodec_receive_frame(r->dec, r->frame);

        if (ret >= 0)
            return 1;
        if (ret != AVERROR(EAGAIN) && ret != AVERROR_EOF && ret != AVERROR_INVALIDDATA)
            return reader_complain(r, "cannot be decoded", ret);
        if (r->drained)
            return 0;
        ret = feed(r);
        if (ret < 0)
            return ret;
    }
}

int reader_is_whole(const Reader *r)
{
    const AVCodecDescriptor *what = avcodec_descriptor_get(r->dec->codec_id);
    const int level = av_log_get_level();
    const int strict = what && what->props & AV_CODEC_PROP_INTRA_ONLY && what->id != AV_CODEC_ID_TIFF;     // that takes each tag it does not know for damage
    AVFrame *frame = strict && r->last->size ? av_frame_alloc() : NULL;
    AVCodecContext *dec = NULL;
    int ret = 0;

    if (!frame)
        return 1;
    av_log_set_level(AV_LOG_QUIET);                                 // it was said the first time
    if (start_decoder(&dec, r->dec->codec, r->fmt->streams[r->stream]->codecpar, 1) >= 0 && (ret = avcodec_send_packet(dec, r->last)) >= 0 &&
        (ret = avcodec_send_packet(dec, NULL)) >= 0)
        ret = avcodec_receive_frame(dec, frame);
    av_log_set_level(level);
    avcodec_free_context(&dec);
    av_frame_free(&frame);
    return ret >= 0;
}

void reader_close(Reader *r)
{
    avcodec_free_context(&r->dec);
    avformat_close_input(&r->fmt);
    av_packet_free(&r->pkt);
    av_packet_free(&r->last);
    av_frame_free(&r->frame);
    close_io(r);
    file_close_in(r->fd);
    r->fd = -1;
}
