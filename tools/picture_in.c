/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A picture file as `avatar speak` sees it: RGB, upright. See speak.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>

#include "libavfilter/avatar_exif.h"
#include "reader.h"
#include "speak.h"

/* What a picture says about its matrix and range; swscale knows by the format what an unmarked one has. */
static void set_colors(struct SwsContext *sws, const AVFrame *f)
{
    int *from, *to, in_full, out_full, brightness, contrast, saturation;

    if (sws_getColorspaceDetails(sws, &from, &in_full, &to, &out_full, &brightness, &contrast, &saturation) < 0)
        return;
    if (f->color_range != AVCOL_RANGE_UNSPECIFIED)
        in_full = f->color_range == AVCOL_RANGE_JPEG;
    if (f->colorspace != AVCOL_SPC_UNSPECIFIED)
        from = (int *)sws_getCoefficients(f->colorspace);
    sws_setColorspaceDetails(sws, from, in_full, to, out_full, brightness, contrast, saturation);
}

static int to_rgb(const AVFrame *f, uint8_t *rgb)
{
    uint8_t *dst[4] = { rgb };
    const int stride[4] = { 3 * f->width };
    struct SwsContext *sws = sws_getContext(f->width, f->height, f->format, f->width, f->height, AV_PIX_FMT_RGB24,
                                            SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP, NULL, NULL, NULL);

    if (!sws)
        return AVERROR(EINVAL);
    set_colors(sws, f);
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

/* From the display matrix that newer libavcodec makes of EXIF, else from the EXIF orientation that it tells, else from that in the file. */
static Turn turn_of(const Reader *r)
{
    static const Turn exif[] = { { 1, 0, 0, 1 }, { 1, 0, 0, 1 }, { -1, 0, 0, 1 }, { -1, 0, 0, -1 }, { 1, 0, 0, -1 },
                                 { 0, 1, 1, 0 }, { 0, 1, -1, 0 }, { 0, -1, -1, 0 }, { 0, -1, 1, 0 } };
    const AVFrameSideData *sd = av_frame_get_side_data(r->frame, AV_FRAME_DATA_DISPLAYMATRIX);
    const AVDictionaryEntry *tag = av_dict_get(r->frame->metadata, "Orientation", NULL, 0);
    const int o = tag ? atoi(tag->value) : avatar_exif_orientation(r->dec->codec_id, r->last->data, r->last->size);

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

static void tell_pixels(Reader *r, const char *path)
{
    const AVRational sar = av_guess_sample_aspect_ratio(r->fmt, r->fmt->streams[r->stream], r->frame);

    if (sar.num > 0 && sar.den > 0 && sar.num != sar.den)
        fprintf(stderr, "avatar: warning: %s: its pixels are %d:%d and are taken for square, so faces are squeezed; if players stretch it, "
                "ffmpeg -i IN -vf scale=iw*sar:ih,setsar=1 OUT\n", reader_name(path), sar.num, sar.den);
}

int media_read_picture(const char *path, uint8_t **rgb, int *w, int *h, FileStop stop)
{
    Reader r;
    int ret = reader_open(&r, path, AVMEDIA_TYPE_VIDEO, NULL, stop), damaged = 0;

    *rgb = NULL;
    if (ret >= 0)
        ret = reader_next(&r);
    if (!ret && !r.error)
        ret = reader_complain(&r, "holds no picture", AVERROR_INVALIDDATA);
    if (ret > 0 && !(*rgb = malloc((size_t)r.frame->width * (size_t)r.frame->height * 3)))
        ret = AVERROR(ENOMEM);
    if (ret > 0) {
        *w = r.frame->width;
        *h = r.frame->height;
        ret = to_rgb(r.frame, *rgb);
        if (ret >= 0 && !(*rgb = turn(*rgb, w, h, turn_of(&r))))
            ret = AVERROR(ENOMEM);
        damaged = ret >= 0 && !reader_is_whole(&r);
    }
    if (ret >= 0)
        tell_pixels(&r, path);
    if (damaged)
        fprintf(stderr, "avatar: warning: %s: the picture is damaged, and parts of it are missing or wrong; take another copy\n", reader_name(path));
    reader_close(&r);
    return ret < 0 ? ret : damaged;
}
