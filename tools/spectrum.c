/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See spectrum.h. */
#include <math.h>
#include <string.h>

#include <libavutil/mem.h>

#include "spectrum.h"

int spectrum_open(Spectrum *s, int nb)
{
    const float scale = 1;

    memset(s, 0, sizeof(*s));
    s->nb = nb;
    s->in = av_calloc((size_t)nb, sizeof(*s->in));
    s->out = av_calloc((size_t)nb, sizeof(*s->out));
    return s->in && s->out && av_tx_init(&s->tx, &s->run, AV_TX_FLOAT_FFT, 0, nb, &scale, 0) >= 0;
}

void spectrum_run(Spectrum *s)
{
    s->run(s->tx, s->out, s->in, sizeof(*s->in));
}

void spectrum_power(Spectrum *s, const float *v)
{
    for (int i = 0; i < s->nb; i++)
        s->in[i] = (AVComplexFloat){ .re = v[i] * (float)(0.5 - 0.5 * cos(2 * M_PI * (i + 0.5) / s->nb)) };
    spectrum_run(s);
    for (int i = 0; i < s->nb; i++)
        s->out[i].re = s->out[i].re * s->out[i].re + s->out[i].im * s->out[i].im;
}

void spectrum_close(Spectrum *s)
{
    av_tx_uninit(&s->tx);
    av_freep(&s->in);
    av_freep(&s->out);
}
