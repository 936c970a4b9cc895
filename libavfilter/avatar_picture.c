/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Reference picture of the avatar filter, read from a file: demuxer, decoder, tiles, rgb24, upright. See avatar_picture.h.
 */

#include "libavutil/display.h"
#include "libavutil/imgutils.h"
#include "libavutil/mem.h"
#include "libavutil/pixdesc.h"
#include "libavutil/time.h"
#include "libavcodec/avcodec.h"
#include "libavcodec/codec_desc.h"
#include "libavformat/avformat.h"
#include "libavformat/version.h"
#include "libswscale/swscale.h"

#include "avatar_exif.h"
#include "avatar_picture.h"

#define PATIENCE    20000000                                ///< microseconds for a picture that comes over a network
#define HAVE_TILES  (LIBAVFORMAT_VERSION_MAJOR >= 61)       ///< AVStreamGroup
#define HAVE_MATRIX (LIBAVFORMAT_VERSION_MAJOR >= 62)       ///< how a picture in tiles is turned

/* Turn an rgb24 picture upright by a display matrix, which may be NULL; only the eight positions of EXIF are told apart. */
static int turn_upright(AVFrame **picture, const int32_t *m)
{
    const AVFrame *in = *picture;
    AVFrame *out;
    int swap, flip_x, flip_y, x, y, ret;

    if (!m)                                                 // (x, y) goes to (m0 x + m3 y, m1 x + m4 y)
        return 0;
    swap   = FFABS((int64_t)m[1]) > FFABS((int64_t)m[0]);
    flip_x = (swap ? m[3] : m[0]) < 0;
    flip_y = (swap ? m[1] : m[4]) < 0;
    if (!swap && !flip_x && !flip_y)
        return 0;
    if (!(out = av_frame_alloc()))
        return AVERROR(ENOMEM);
    out->format = in->format;
    out->width  = swap ? in->height : in->width;
    out->height = swap ? in->width  : in->height;
    if ((ret = av_frame_get_buffer(out, 0)) < 0) {
        av_frame_free(&out);
        return ret;
    }
    for (y = 0; y < in->height; y++) {
        for (x = 0; x < in->width; x++) {
            int dx = swap ? y : x, dy = swap ? x : y;
            dx = flip_x ? out->width  - 1 - dx : dx;
            dy = flip_y ? out->height - 1 - dy : dy;
            memcpy(out->data[0] + dy * (ptrdiff_t)out->linesize[0] + 3 * dx,
                   in->data[0]  + y  * (ptrdiff_t)in->linesize[0]  + 3 * x, 3);
        }
    }
    av_frame_free(picture);
    *picture = out;
    return 0;
}

/* What a picture says about its matrix and range; swscale knows by the format what an unmarked one has. */
static void set_colors(struct SwsContext *sws, const AVFrame *in)
{
    int *from, *to, in_full, out_full, brightness, contrast, saturation;

    if (sws_getColorspaceDetails(sws, &from, &in_full, &to, &out_full, &brightness, &contrast, &saturation) < 0)
        return;
    if (in->color_range != AVCOL_RANGE_UNSPECIFIED)
        in_full = in->color_range == AVCOL_RANGE_JPEG;
    if (in->colorspace != AVCOL_SPC_UNSPECIFIED)
        from = (int *)sws_getCoefficients(in->colorspace);
    sws_setColorspaceDetails(sws, from, in_full, to, out_full, brightness, contrast, saturation);
}

int ff_avatar_picture_rgb(AVFrame **picture)
{
    const int flags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP;
    const AVFrame *in = *picture;
    AVFrame *out = av_frame_alloc();
    struct SwsContext *sws = sws_getContext(in->width, in->height, in->format, in->width, in->height, AV_PIX_FMT_RGB24,
                                            flags, NULL, NULL, NULL);
    int ret = AVERROR(ENOMEM);

    if (!sws || !out)
        goto end;
    set_colors(sws, in);
    if ((ret = av_frame_copy_props(out, in)) < 0)
        goto end;
    out->format = AV_PIX_FMT_RGB24;
    out->width  = in->width;
    out->height = in->height;
    if ((ret = av_frame_get_buffer(out, 0)) < 0)
        goto end;
    ret = sws_scale(sws, (const uint8_t * const *)in->data, in->linesize, 0, in->height, out->data, out->linesize);
    if (ret >= 0)
        FFSWAP(AVFrame *, *picture, out);
end:
    sws_freeContext(sws);
    av_frame_free(&out);
    return FFMIN(ret, 0);
}

static const int32_t *frame_matrix(const AVFrame *frame)
{
    const AVFrameSideData *sd = av_frame_get_side_data(frame, AV_FRAME_DATA_DISPLAYMATRIX);

    return sd && sd->size >= 9 * sizeof(int32_t) ? (const int32_t *)sd->data : NULL;
}

/* How to turn a picture: by the decoder's word, else by the file's, which decoders before FFmpeg 8.0 pass on of JPEG alone. */
static const int32_t *find_matrix(const AVFrame *frame, const AVStream *st, const AVPacket *pkt)
{
    static const int32_t by_exif[9][5] = { { 1, 0, 0, 0, 1 }, { 1, 0, 0, 0, 1 }, { -1, 0, 0, 0, 1 }, { -1, 0, 0, 0, -1 }, { 1, 0, 0, 0, -1 },
                                           { 0, 1, 0, 1, 0 }, { 0, 1, 0, -1, 0 }, { 0, -1, 0, -1, 0 }, { 0, -1, 0, 1, 0 } };
    const int32_t *m = frame_matrix(frame);

    return m ? m : by_exif[avatar_exif_orientation(st->codecpar->codec_id, pkt->data, pkt->size)];
}

/* strict: what is damaged gives nothing. */
static int open_decoder(AVCodecContext **cc, const AVStream *st, int strict)
{
    const AVCodec *codec = avcodec_find_decoder(st->codecpar->codec_id);
    int ret;

    if (!codec)
        return AVERROR_DECODER_NOT_FOUND;
    if (!(*cc = avcodec_alloc_context3(codec)))
        return AVERROR(ENOMEM);
    if ((ret = avcodec_parameters_to_context(*cc, st->codecpar)) < 0)
        return ret;
    (*cc)->thread_count = 1;                                // no frame of delay
    if (strict)
        (*cc)->err_recognition |= AV_EF_EXPLODE | AV_EF_CRCCHECK;
    return avcodec_open2(*cc, codec, NULL);
}

static int decode_alone(AVCodecContext *cc, const AVPacket *pkt, AVFrame *frame)
{
    int ret;

    if ((ret = avcodec_send_packet(cc, pkt)) < 0 || (ret = avcodec_send_packet(cc, NULL)) < 0)
        return ret;
    return avcodec_receive_frame(cc, frame);
}

/* Of half a photograph a decoder gives what is there, the rest in grey, and so it goes into the film. */
static int is_whole(const AVStream *st, const AVPacket *pkt)
{
    const AVCodecDescriptor *codec = avcodec_descriptor_get(st->codecpar->codec_id);
    const int strict = codec && codec->props & AV_CODEC_PROP_INTRA_ONLY && codec->id != AV_CODEC_ID_TIFF;  // that takes each tag it does not know for damage
    AVFrame *frame = strict && pkt->size ? av_frame_alloc() : NULL;
    AVCodecContext *cc = NULL;
    int ret;

    if (!frame)
        return 1;
    if ((ret = open_decoder(&cc, st, 1)) >= 0)
        ret = decode_alone(cc, pkt, frame);
    avcodec_free_context(&cc);
    av_frame_free(&frame);
    return ret >= 0;
}

/* Decode the first frame of a stream, which is of pkt where each has one; damaged packets are passed over, as ffmpeg does. */
static int decode_first(AVFormatContext *fc, AVCodecContext *cc, int stream, AVPacket *pkt, AVFrame *frame)
{
    int ret, eof = 0;

    while (!eof) {
        av_packet_unref(pkt);
        eof = av_read_frame(fc, pkt) < 0;
        if (!eof && pkt->stream_index != stream)
            continue;
        avcodec_send_packet(cc, eof ? NULL : pkt);
        ret = avcodec_receive_frame(cc, frame);
        if (ret >= 0 || (ret != AVERROR(EAGAIN) && ret != AVERROR_INVALIDDATA && ret != AVERROR_EOF))
            return ret;
    }
    return AVERROR_INVALIDDATA;
}

/* Returns 1 when the picture is damaged. */
static int read_single(AVFormatContext *fc, AVPacket *pkt, AVFrame **picture)
{
    AVCodecContext *cc = NULL;
    const int stream = av_find_best_stream(fc, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    int ret = stream;

    if (ret >= 0 && (ret = open_decoder(&cc, fc->streams[stream], 0)) >= 0 &&
        (ret = decode_first(fc, cc, stream, pkt, *picture)) >= 0 && (ret = ff_avatar_picture_rgb(picture)) >= 0 &&
        (ret = turn_upright(picture, find_matrix(*picture, fc->streams[stream], pkt))) >= 0)
        ret = !is_whole(fc->streams[stream], pkt);
    avcodec_free_context(&cc);
    return ret;
}

#if HAVE_TILES
/* The largest picture of the file that is stored in tiles, or NULL. */
static const AVStreamGroup *find_tiles(const AVFormatContext *fc)
{
    const AVStreamGroup *best = NULL;
    int64_t area = 0;
    unsigned i;

    for (i = 0; i < fc->nb_stream_groups; i++) {
        const AVStreamGroup *g = fc->stream_groups[i];

        if (g->type == AV_STREAM_GROUP_PARAMS_TILE_GRID && (int64_t)g->params.tile_grid->width * g->params.tile_grid->height > area) {
            best = g;
            area = (int64_t)g->params.tile_grid->width * g->params.tile_grid->height;
        }
    }
    return best;
}

static int decode_tile(const AVStream *st, const AVPacket *pkt, AVFrame **tile)
{
    AVCodecContext *cc = NULL;
    int ret = open_decoder(&cc, st, 0);

    if (ret >= 0 && (ret = decode_alone(cc, pkt, *tile)) >= 0)
        ret = ff_avatar_picture_rgb(tile);
    avcodec_free_context(&cc);
    return ret;
}

/* Copy what of a tile lies on the canvas. */
static void place_tile(AVFrame *canvas, const AVFrame *tile, int x, int y)
{
    const int w = FFMIN(tile->width, canvas->width - x), h = FFMIN(tile->height, canvas->height - y);

    if (x >= 0 && y >= 0 && w > 0 && h > 0)
        av_image_copy_plane(canvas->data[0] + y * (ptrdiff_t)canvas->linesize[0] + 3 * x, canvas->linesize[0], tile->data[0],
                            tile->linesize[0], 3 * w, h);
}

/* Decode the tiles of one stream's packet, which may be used in several places. Returns how many. */
static int use_packet(const AVStreamGroup *g, const AVPacket *pkt, AVFrame *canvas)
{
    const AVStreamGroupTileGrid *grid = g->params.tile_grid;
    AVFrame *tile = NULL;
    unsigned i;
    int ret = 0, nb = 0;

    for (i = 0; i < grid->nb_tiles && ret >= 0; i++) {
        const AVStream *st = grid->offsets[i].idx < g->nb_streams ? g->streams[grid->offsets[i].idx] : NULL;

        if (!st || st->index != pkt->stream_index)
            continue;
        if (!tile) {
            tile = av_frame_alloc();
            ret  = tile ? decode_tile(st, pkt, &tile) : AVERROR(ENOMEM);
        }
        if (ret >= 0) {
            place_tile(canvas, tile, grid->offsets[i].horizontal, grid->offsets[i].vertical);
            nb++;
        }
    }
    av_frame_free(&tile);
    return ret < 0 ? ret : nb;
}

/* How the picture is to be turned, where this FFmpeg tells. */
static const int32_t *grid_matrix(const AVStreamGroupTileGrid *grid)
{
#if HAVE_MATRIX
    const AVPacketSideData *sd = av_packet_side_data_get(grid->coded_side_data, grid->nb_coded_side_data, AV_PKT_DATA_DISPLAYMATRIX);

    if (sd && sd->size >= 9 * sizeof(int32_t))
        return (const int32_t *)sd->data;
#endif
    return NULL;
}

static int read_tiles(AVFormatContext *fc, const AVStreamGroup *g, AVPacket *pkt, AVFrame **picture)
{
    const AVStreamGroupTileGrid *grid = g->params.tile_grid;
    AVFrame *canvas = *picture;
    unsigned left = grid->nb_tiles;
    int ret;

    canvas->format = AV_PIX_FMT_RGB24;
    canvas->width  = grid->coded_width;
    canvas->height = grid->coded_height;
    if (grid->horizontal_offset < 0 || grid->vertical_offset < 0 || grid->width > grid->coded_width - grid->horizontal_offset ||
        grid->height > grid->coded_height - grid->vertical_offset)
        return AVERROR_INVALIDDATA;
    if ((ret = av_image_check_size(canvas->width, canvas->height, 0, NULL)) < 0 || (ret = av_frame_get_buffer(canvas, 0)) < 0)
        return ret;
    memset(canvas->data[0], 0, canvas->height * (size_t)canvas->linesize[0]);
    while (left && (ret = av_read_frame(fc, pkt)) >= 0) {
        ret = use_packet(g, pkt, canvas);
        av_packet_unref(pkt);
        if (ret < 0)
            return ret;
        left -= FFMIN(left, ret);
    }
    if (left)
        return AVERROR_INVALIDDATA;
    canvas->data[0] += grid->vertical_offset * (ptrdiff_t)canvas->linesize[0] + 3 * grid->horizontal_offset;
    canvas->width    = grid->width;
    canvas->height   = grid->height;
    return turn_upright(picture, grid_matrix(grid));
}
#endif

static int read_picture(AVFormatContext *fc, AVPacket *pkt, AVFrame **picture)
{
#if HAVE_TILES
    const AVStreamGroup *g = find_tiles(fc);

    if (g)
        return read_tiles(fc, g, pkt, picture);
#endif
    return read_single(fc, pkt, picture);
}

static int is_over(void *deadline)
{
    return av_gettime_relative() > *(const int64_t *)deadline;
}

int ff_avatar_picture_read(void *log, const char *path, AVFrame **picture)
{
    int64_t deadline = av_gettime_relative() + PATIENCE;
    AVFormatContext *fc = avformat_alloc_context();
    AVDictionary *opts = NULL;
    AVFrame *frame = av_frame_alloc();
    AVPacket *pkt = av_packet_alloc();
    int ret = AVERROR(ENOMEM);

    av_dict_set(&opts, "pattern_type", "none", 0);          // a '%' in a file name is a '%'
    if (fc)
        fc->interrupt_callback = (AVIOInterruptCB){ is_over, &deadline };
    if (fc && frame && pkt && (ret = avformat_open_input(&fc, path, NULL, &opts)) >= 0 && (ret = avformat_find_stream_info(fc, NULL)) >= 0 &&
        (ret = read_picture(fc, pkt, &frame)) >= 0)
        FFSWAP(AVFrame *, *picture, frame);
    if (ret > 0)
        av_log(log, AV_LOG_WARNING, "image=%s is damaged, and parts of it are missing or wrong; take another copy\n", path);
    if (ret == AVERROR_EXIT)
        ret = AVERROR(ETIMEDOUT);
    if (ret < 0)
        av_log(log, AV_LOG_ERROR, "image=%s cannot be used: %s\n", path, av_err2str(ret));
    av_dict_free(&opts);
    av_frame_free(&frame);
    av_packet_free(&pkt);
    avformat_close_input(&fc);
    return ret < 0 ? ret : 0;
}

void ff_avatar_picture_pixels(void *log, const AVFrame *picture)
{
    const AVRational sar = picture->sample_aspect_ratio;

    if (sar.num > 0 && sar.den > 0 && sar.num != sar.den)
        av_log(log, AV_LOG_WARNING, "The picture's pixels are %d:%d and are taken for square, so faces are squeezed; if players stretch it, "
               "put scale=iw*sar:ih,setsar=1 before\n", sar.num, sar.den);
}
