/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Boxes that encoder and decoder of the VAE are built of, for vae.c alone. All take frames [t, h, w, C] of this part's rows, in scratch or
 * in place, and are causal: frames may pass in pieces of any length.
 *
 * Trap: what a convolution remembers is its input, normalized and activated.
 */
#ifndef AVT_VAE_BOXES_H
#define AVT_VAE_BOXES_H

#include "nets/vae.h"

typedef struct VaePass {                // what every box of a call needs
    Backend *be;
    Arena *scratch;
    const VaeHalf *net;
    VaeState *st;
    const VaeProbe *probe;
    int64_t piece_bytes;
    struct VaeStill *still;             // encoder: all frames are equal; or NULL
    Tensor px;                          // decoder: where the frames go
    int64_t done;                       // frames written to px
} VaePass;

/** Show a tensor to the call's probe, if it has one. */
void avt_vae_see(const VaePass *p, Tensor t, const char *fmt, ...) AVT_PRINTF(3, 4);
/** [t, h, w, c] of the half's activations, in scratch. */
Tensor avt_vae_frames(VaePass *p, int64_t t, int64_t h, int64_t w, int64_t c);
/** How many frames of [h, w, C] stage s takes next, out of `left`: as many on every part. */
int64_t avt_vae_piece(const VaePass *p, int s, int64_t left, int64_t h, int64_t w);

/** Keep the last frames of a convolution's input for the next call. */
void avt_vae_remember(VaePass *p, int slot, Tensor x);
/** What is kept of them, [0 .. 2, h, w, C]; AVT_NONE: nothing yet. */
Tensor avt_vae_past(const VaePass *p, int slot);
/** out = conv(past ++ x) + res; frames before the stream are zeros. `res` may be AVT_NONE or `out`. */
void avt_vae_causal(VaePass *p, const VaeConv *c, Tensor out, Tensor x, Tensor res);
void avt_vae_conv_1x1(Backend *be, Tensor out, Tensor x, const Conv *c);
/** x [t, h, w, C] with a row of the parts above and below, [t, 0 .. 1 + h + 0 .. 1, w, C] in scratch. */
Tensor avt_vae_neighbours(VaePass *p, Tensor x);

/** x + conv2(act(norm(conv1(act(norm(x)))))). @return x itself, or a new one when the widths differ; x is used up then */
Tensor avt_vae_residual(VaePass *p, const VaeResidual *r, Tensor x);
/** x becomes residual(attention(residual(x))); `side` names it for the probe. */
void avt_vae_middle(VaePass *p, Tensor x, const char *side);
/** out = conv(act(norm(x))). x is used up. */
void avt_vae_head(VaePass *p, Tensor out, Tensor x);

#endif
