/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Frames of the avatar filter: which formats there are, and what a frame is given on its way out.
 */

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "libavutil/dict.h"
#include "libavutil/imgutils.h"
#include "libavutil/macros.h"
#include "libavutil/pixdesc.h"
#include "libavutil/version.h"
#include "video.h"

#include "avatar_cuda.h"
#include "avatar_filter.h"

#if LIBAVUTIL_VERSION_INT >= AV_VERSION_INT(57, 30, 100)
#define DURATION    duration
#else
#define DURATION    pkt_duration
#endif

static const struct {
    enum AVPixelFormat pix_fmt;
    enum AvatarFormat format;
} formats[] = {
    { AV_PIX_FMT_YUV420P, AVATAR_YUV420P },
    { AV_PIX_FMT_YUV444P, AVATAR_YUV444P },
    { AV_PIX_FMT_NV12,    AVATAR_NV12    },
    { AV_PIX_FMT_RGB24,   AVATAR_RGB24   },
    { AV_PIX_FMT_GBRP,    AVATAR_GBRP    },
};

int ff_avatar_output_is_rgb(enum AVPixelFormat pix_fmt)
{
    return !!(av_pix_fmt_desc_get(pix_fmt)->flags & AV_PIX_FMT_FLAG_RGB);
}

/* Of frames on a GPU FFmpeg knows no rgb24 and no gbrp in all of its versions. */
int ff_avatar_output_format(AVFilterContext *ctx)
{
    AvatarContext *s = ctx->priv;
    const int cuda = s->format == AV_PIX_FMT_CUDA;
    const char *name;
    int i;

    s->planes = cuda ? s->hw_format : s->format;
    for (i = 0; i < FF_ARRAY_ELEMS(formats) && formats[i].pix_fmt != s->planes; i++)
        ;
    if (i < FF_ARRAY_ELEMS(formats) && !(cuda && ff_avatar_output_is_rgb(s->planes))) {
        s->lib_format = formats[i].format;
        return cuda ? ff_avatar_cuda_check(ctx) : 0;
    }
    name = av_get_pix_fmt_name(s->planes);
    av_log(ctx, AV_LOG_ERROR, "%s=%s cannot be produced; use yuv420p, yuv444p, nv12%s\n", cuda ? "hw_format" : "format",
           name ? name : "none", cuda ? "" : ", rgb24, gbrp or cuda");
    return AVERROR(EINVAL);
}

/* With a decimal point, whatever the locale of the host writes. */
static void set_number(AVDictionary **metadata, const char *key, double v, int digits)
{
    const int64_t unit = digits == 6 ? 1000000 : 1000;
    char text[64];
    double whole;
    int64_t part = llrint(modf(fabs(v), &whole) * unit);

    if (part == unit) {
        whole++;
        part = 0;
    }
    snprintf(text, sizeof(text), "%s%.0f.%0*"PRId64, v < 0 ? "-" : "", whole, digits, part);
    av_dict_set(metadata, key, text, 0);
}

static void set_metadata(const AvatarStream *st, AVFrame *out, const AvatarFrame *in)
{
    const double sound = st->start_sample / (double)AVATAR_SAMPLE_RATE + in->index / (double)AVATAR_FPS;

    av_dict_set_int(&out->metadata, "lavfi.avatar.frame", in->index, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.block", in->block, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.seed", in->seed, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.prompt_id", in->prompt_id, 0);
    av_dict_set_int(&out->metadata, "lavfi.avatar.repeated", in->repeated, 0);
    av_dict_set(&out->metadata, "lavfi.avatar.precision", st->precision, 0);
    av_dict_set(&out->metadata, "lavfi.avatar.kv", st->kv, 0);
    set_number(&out->metadata, "lavfi.avatar.audio_pts", sound, 6);
    set_number(&out->metadata, "lavfi.avatar.filled", st->clock.filled / (double)AVATAR_SAMPLE_RATE, 3);
    set_number(&out->metadata, "lavfi.avatar.cut", st->clock.cut / (double)AVATAR_SAMPLE_RATE, 3);
    if (in->compute_ms > 0)
        set_number(&out->metadata, "lavfi.avatar.compute_ms", in->compute_ms, 3);
}

int ff_avatar_output_send(AVFilterContext *ctx, AvatarFrame *in, int64_t pts)
{
    AvatarContext *s = ctx->priv;
    AVFilterLink *outlink = ctx->outputs[0];
    AVFrame *out = ff_get_video_buffer(outlink, outlink->w, outlink->h);
    int rgb = ff_avatar_output_is_rgb(s->planes), ret = 0;

    if (!out)
        return AVERROR(ENOMEM);
    if (out->hw_frames_ctx)
        ret = ff_avatar_cuda_copy(ctx, out, in);
    else
        av_image_copy(out->data, out->linesize, in->data, in->linesize, outlink->format, outlink->w, outlink->h);
    if (ret < 0) {
        av_frame_free(&out);
        return ret;
    }
    out->pts                 = pts;
    out->DURATION            = 1;
    out->sample_aspect_ratio = outlink->sample_aspect_ratio;
    out->colorspace          = rgb ? AVCOL_SPC_RGB : AVCOL_SPC_BT709;
    out->color_range         = rgb ? AVCOL_RANGE_JPEG : AVCOL_RANGE_MPEG;
    out->color_primaries     = AVCOL_PRI_BT709;
    out->color_trc           = rgb ? AVCOL_TRC_IEC61966_2_1 : AVCOL_TRC_BT709;
    out->chroma_location     = rgb || s->planes == AV_PIX_FMT_YUV444P ? AVCHROMA_LOC_UNSPECIFIED : AVCHROMA_LOC_LEFT;
    if (s->metadata)
        set_metadata(s->stream, out, in);
    return ff_filter_frame(outlink, out);
}
