/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sound for `avatar speak`: decoded once, and given twice: as 16 kHz mono, which the model hears, and as the frames it came in, of which
 * the film's sound is made. See speak.h.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <libavutil/channel_layout.h>
#include <libavutil/opt.h>

#include "reader.h"
#include "speak.h"

#define RATE 16000

struct SoundIn {
    Reader r;
    SwrContext *swr, *side;             // side: half the difference of two channels, to see them cancel out; NULL for other numbers
    float *pcm, *diff;
    int room, diff_room, rate, format, ended, told;
    double mid_sum, side_sum;           // energy of both
    int64_t nb;                         // samples given
    AVChannelLayout layout;
};

static int same_sound(const SoundIn *s, const AVFrame *f)
{
    return s->swr && s->rate == f->sample_rate && s->format == f->format && !av_channel_layout_compare(&s->layout, &f->ch_layout);
}

static int open_mixer(SwrContext **swr, const AVFrame *f, const AVChannelLayout *to, enum AVSampleFormat format, int rate,
                      const double *matrix)
{
    AVChannelLayout out = *to, in = f->ch_layout;                   // libswresample copies them; before 7 it takes no const
    int ret = swr_alloc_set_opts2(swr, &out, format, rate, &in, f->format, f->sample_rate, 0, NULL);

    if (ret >= 0)
        ret = av_opt_set_double(*swr, "rematrix_maxval", 1, 0);     // two equal channels are as loud as one
    if (ret >= 0 && matrix)
        ret = swr_set_matrix(*swr, matrix, f->ch_layout.nb_channels);
    if (ret >= 0)
        ret = swr_init(*swr);
    if (ret < 0)
        swr_free(swr);
    return ret;
}

/* Is there a rule for mixing this layout down? swresample says so by refusing, aloud. */
static int can_mix(const AVFrame *f, const AVChannelLayout *to, enum AVSampleFormat format, int rate)
{
    const int level = av_log_get_level();
    SwrContext *swr = NULL;
    int ret;

    if (f->ch_layout.order == AV_CHANNEL_ORDER_UNSPEC && f->ch_layout.nb_channels != to->nb_channels)
        return 0;
    av_log_set_level(AV_LOG_QUIET);
    ret = open_mixer(&swr, f, to, format, rate, NULL);
    av_log_set_level(level);
    swr_free(&swr);
    return ret >= 0;
}

int media_mixer(SwrContext **swr, const AVFrame *f, int channels, enum AVSampleFormat format, int rate)
{
    const int nb = f->ch_layout.nb_channels;
    double matrix[2 * 64];
    AVChannelLayout to;
    int ret = 0;

    swr_free(swr);
    av_channel_layout_default(&to, channels);
    if (can_mix(f, &to, format, rate))
        ret = open_mixer(swr, f, &to, format, rate, NULL);
    else if (nb > 64)
        return AVERROR(EINVAL);
    else {
        for (int i = 0; i < channels * nb; i++)
            matrix[i] = 1.0 / nb;
        ret = open_mixer(swr, f, &to, format, rate, matrix);
        ret = ret < 0 ? ret : 1;
    }
    return ret;
}

static int open_side(SoundIn *s, const AVFrame *f)
{
    const AVChannelLayout mono = AV_CHANNEL_LAYOUT_MONO;
    const double half_difference[] = { 0.5, -0.5 };

    swr_free(&s->side);
    return f->ch_layout.nb_channels == 2 ? open_mixer(&s->side, f, &mono, AV_SAMPLE_FMT_FLT, f->sample_rate, half_difference) : 0;
}

/* The resampler for the frame at hand; a new one when the stream changes in the middle. */
static int fit_resampler(SoundIn *s)
{
    const AVFrame *f = s->r.frame;
    char name[128];
    int ret;

    if (same_sound(s, f))
        return 0;
    s->rate = f->sample_rate;
    s->format = f->format;
    av_channel_layout_uninit(&s->layout);
    av_channel_layout_copy(&s->layout, &f->ch_layout);
    ret = media_mixer(&s->swr, f, 1, AV_SAMPLE_FMT_FLT, RATE);
    if (ret > 0 && f->ch_layout.order != AV_CHANNEL_ORDER_UNSPEC) {
        av_channel_layout_describe(&f->ch_layout, name, sizeof(name));
        fprintf(stderr, "avatar: warning: %s: no rule mixes the channels %s; each has an equal part\n", reader_name(s->r.path), name);
    }
    return ret < 0 ? ret : open_side(s, f);
}

static int convert(SwrContext *swr, const AVFrame *f, float **pcm, int *room)
{
    const int nb = f ? f->nb_samples : 0, want = swr_get_out_samples(swr, nb);
    uint8_t *dst[1];

    if (want > *room) {
        float *p = realloc(*pcm, sizeof(*p) * (size_t)want);

        if (!p)
            return AVERROR(ENOMEM);
        *pcm = p;
        *room = want;
    }
    dst[0] = (uint8_t *)*pcm;
    return swr_convert(swr, dst, want, f ? (const uint8_t **)f->extended_data : NULL, nb);
}

static double energy(const float *v, int nb)
{
    double sum = 0;

    for (int i = 0; i < nb; i++)
        sum += (double)v[i] * v[i];
    return sum;
}

/* One channel the other's negative: a second of sound has become silence. Once. */
static void look_for_silence(SoundIn *s, int nb)
{
    const int n = s->side && !s->told ? convert(s->side, s->r.frame, &s->diff, &s->diff_room) : 0;

    if (n <= 0)
        return;
    s->mid_sum += energy(s->pcm, nb) * s->rate / RATE;
    s->side_sum += energy(s->diff, n);
    if (s->side_sum < 1e-4 * s->rate || s->mid_sum > 1e-4 * s->side_sum)        // quieter than -40 dBFS for a second, or not cancelled
        return;
    fprintf(stderr, "avatar: warning: %s: one channel is the other's negative, mixed they are silence; give one of them alone\n",
            reader_name(s->r.path));
    s->told = 1;
}

int media_open_sound(SoundIn **out, const char *path, const char *format, FileStop stop)
{
    SoundIn *s = calloc(1, sizeof(*s));
    int ret = s ? reader_open(&s->r, path, AVMEDIA_TYPE_AUDIO, format, stop) : AVERROR(ENOMEM);

    *out = s;
    if (ret < 0 && s)
        media_close_sound(out);
    return ret;
}

void media_sound_shape(const SoundIn *s, int *rate, int *channels)
{
    *rate = s->r.dec->sample_rate;
    *channels = s->r.dec->ch_layout.nb_channels;
}

/* The next frame, or the resampler's rest behind the last one, into s->pcm. */
static int read_some(SoundIn *s, int *nb)
{
    int ret = reader_next(&s->r);

    if (ret < 0)
        return ret;
    s->ended = !ret;
    if (ret > 0 && (ret = fit_resampler(s)) < 0)
        return reader_complain(&s->r, "cannot be resampled", ret);
    *nb = s->swr ? convert(s->swr, s->ended ? NULL : s->r.frame, &s->pcm, &s->room) : 0;
    return *nb < 0 ? reader_complain(&s->r, "cannot be resampled", *nb) : 0;
}

int media_read_sound(SoundIn *s, const float **pcm, int *nb, const AVFrame **frame)
{
    int ret;

    if (s->ended)
        return 0;
    ret = read_some(s, nb);
    if (ret < 0)
        return ret;
    if (!s->ended)
        look_for_silence(s, *nb);
    *pcm = s->pcm;
    *frame = s->ended ? NULL : s->r.frame;
    s->nb += *nb;
    if (s->ended && !s->nb)
        return reader_complain(&s->r, "holds no sound that can be decoded", AVERROR_INVALIDDATA);
    return 1;
}

void media_close_sound(SoundIn **s)
{
    if (!*s)
        return;
    reader_close(&(*s)->r);
    swr_free(&(*s)->swr);
    swr_free(&(*s)->side);
    av_channel_layout_uninit(&(*s)->layout);
    free((*s)->pcm);
    free((*s)->diff);
    free(*s);
    *s = NULL;
}
