/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Channels of the avatar filter. See avatar_mono.h.
 */

#include "libavutil/channel_layout.h"
#include "libavutil/frame.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"
#include "libswresample/swresample.h"

#include "avatar_mono.h"

#define CHECKED 4000                    ///< samples over which channels are seen to cancel each other
#define AUDIBLE 1e-6                    ///< energy of a channel that is more than noise (-60 dB)

/* Layouts for which swresample has gains: speakers with names, one in front, the others in pairs. */
static int has_gains(const AVChannelLayout *layout)
{
    static const uint64_t pairs[] = {
        AV_CH_FRONT_LEFT | AV_CH_FRONT_RIGHT, AV_CH_SIDE_LEFT | AV_CH_SIDE_RIGHT, AV_CH_BACK_LEFT | AV_CH_BACK_RIGHT,
        AV_CH_FRONT_LEFT_OF_CENTER | AV_CH_FRONT_RIGHT_OF_CENTER, AV_CH_TOP_FRONT_LEFT | AV_CH_TOP_FRONT_RIGHT,
    };
    int i;

    if (layout->order != AV_CHANNEL_ORDER_NATIVE || !(layout->u.mask & AV_CH_LAYOUT_SURROUND))
        return 0;
    for (i = 0; i < FF_ARRAY_ELEMS(pairs); i++)
        if ((layout->u.mask & pairs[i]) && (layout->u.mask & pairs[i]) != pairs[i])
            return 0;
    return 1;
}

static int open_swr(AvatarMono *m, AVFrame *frame)
{
    AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;
    int ret = swr_alloc_set_opts2(&m->swr, &mono, AV_SAMPLE_FMT_FLT, frame->sample_rate, &frame->ch_layout, AV_SAMPLE_FMT_FLT,
                                  frame->sample_rate, 0, NULL);

    if (ret >= 0)
        ret = av_opt_set_double(m->swr, "rematrix_maxval", 1, 0);       // two equal channels are as loud as one
    return ret < 0 ? ret : swr_init(m->swr);
}

static void begin(AvatarMono *m, void *log, AVFrame *frame)
{
    char name[128];

    m->ready = 1;
    if (has_gains(&frame->ch_layout) && open_swr(m, frame) >= 0)
        return;
    swr_free(&m->swr);
    av_channel_layout_describe(&frame->ch_layout, name, sizeof(name));
    av_log(log, AV_LOG_INFO, "The %d channels of the sound (%s) are mixed to mono in equal parts\n", frame->ch_layout.nb_channels, name);
}

static void mix_evenly(float *out, const float *in, int nb_samples, int nb_channels)
{
    int i, c;

    for (i = 0; i < nb_samples; i++) {
        float sum = 0;

        for (c = 0; c < nb_channels; c++)
            sum += in[i * (ptrdiff_t)nb_channels + c];
        out[i] = sum / nb_channels;
    }
}

static double energy(const float *p, ptrdiff_t nb)
{
    double sum = 0;
    ptrdiff_t i;

    for (i = 0; i < nb; i++)
        sum += p[i] * (double)p[i];
    return sum;
}

static void check_cancelling(AvatarMono *m, void *log, const AVFrame *in, const AVFrame *out)
{
    const int nb = in->ch_layout.nb_channels;

    m->in      += energy((const float *)in->data[0], in->nb_samples * (ptrdiff_t)nb) / nb;
    m->out     += energy((const float *)out->data[0], out->nb_samples);
    m->checked += in->nb_samples;
    if (m->checked < CHECKED)
        return;
    if (m->in > AUDIBLE * m->checked && m->out < 1e-4 * m->in) {
        av_log(log, AV_LOG_WARNING, "The channels of the sound cancel each other out when they are mixed to mono, so the mouth stays shut; "
               "take one of them, as pan=mono|c0=c0 does\n");
        m->told = 1;
    }
    m->checked = 0;
    m->in = m->out = 0;
}

int ff_avatar_mono(AvatarMono *m, void *log, AVFrame **frame)
{
    AVFrame *in = *frame, *out;
    int ret;

    if (in->ch_layout.nb_channels == 1)
        return 0;
    if (!m->ready)
        begin(m, log, in);
    if (!(out = av_frame_alloc()))
        return AVERROR(ENOMEM);
    out->format      = AV_SAMPLE_FMT_FLT;
    out->sample_rate = in->sample_rate;
    out->nb_samples  = in->nb_samples;
    out->pts         = in->pts;
    out->ch_layout   = (AVChannelLayout)AV_CHANNEL_LAYOUT_MONO;
    ret = av_frame_get_buffer(out, 0);
    if (ret >= 0 && m->swr)
        ret = swr_convert(m->swr, out->data, out->nb_samples, (const uint8_t **)in->data, in->nb_samples);
    else if (ret >= 0)
        mix_evenly((float *)out->data[0], (const float *)in->data[0], in->nb_samples, in->ch_layout.nb_channels);
    if (ret < 0) {
        av_frame_free(&out);
        return ret;
    }
    if (!m->told)
        check_cancelling(m, log, in, out);
    av_frame_free(frame);
    *frame = out;
    return 0;
}

void ff_avatar_mono_uninit(AvatarMono *m)
{
    swr_free(&m->swr);
}
