/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Power spectra of short pieces, over libavutil's transform. */
#ifndef AVT_TOOL_SPECTRUM_H
#define AVT_TOOL_SPECTRUM_H

#include <libavutil/tx.h>

typedef struct Spectrum {
    AVTXContext *tx;
    av_tx_fn run;
    AVComplexFloat *in, *out;           // [nb], aligned for any instruction
    int nb;
} Spectrum;

/** nb: a power of two. @return 1, or 0: no memory; spectrum_close() is due in any case */
int  spectrum_open(Spectrum *s, int nb);
/** |X|^2 of v[nb] under a Hann window into s->out[k].re, k = 0 .. nb - 1. */
void spectrum_power(Spectrum *s, const float *v);
/** The real part of the transform of s->in, into s->out[k].re. */
void spectrum_run(Spectrum *s);
void spectrum_close(Spectrum *s);

#endif
