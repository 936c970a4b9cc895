/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Causal video VAE of Wan 2.1: pixels <-> latents, 4x in time, 8x in space.
 *
 *   [F, 8H, 8W, 3] --encode--> [16, T, H, W] --decode--> [F, 8H, 8W, 3]       F = 4T - 3 from a cold start
 *
 * Streaming: each causal convolution keeps its last two input frames in VaeState, so that decoding T latents in pieces
 * gives the frames that decoding them at once gives. Channels last inside. Latents are normalized, (mu - mean) / std, on
 * this side of the interface. Spec: vae.md.
 */
#ifndef AVT_VAE_H
#define AVT_VAE_H

#include "files/bind.h"

#define VAE_LATENT 16                   // latent channels
#define VAE_MAX_SLOTS 40

typedef struct VaeConv {                // 3x3x3 (or 3x1x1) causal convolution with its cache slot
    Conv conv;
    int slot;
} VaeConv;

typedef struct VaeResidual {
    Tensor norm1, norm2;                // [C]
    VaeConv conv1, conv2;
    Conv shortcut;                      // absent (w.be NULL) when widths agree
} VaeResidual;

typedef struct VaeAttention {
    Tensor norm;                        // [C]
    Linear qkv, proj;                   // [3C, C], [C, C]
} VaeAttention;

typedef struct VaeResample {
    Conv conv;                          // 3x3 in space
    VaeConv time;                       // 3x1x1, absent in a 2-D resampler
} VaeResample;

typedef struct VaeHalf {                // encoder or decoder: the same parts in another order
    VaeConv conv_in, conv_out;
    VaeResidual mid[2];
    VaeAttention attn;
    VaeResidual res[4][3];              // per stage; the encoder uses two of each
    VaeResample sample[3];
    Tensor norm_out;
    int nb_slots;
} VaeHalf;

typedef struct Vae {
    int width;                          // base width, 96 in the published file
    int has_encoder, has_decoder;
    VaeHalf enc, dec;
    Conv quant, post_quant;             // 1x1x1: 32 -> 32, 16 -> 16
    Tensor mean, inv_std, std, neg_mean_inv_std;    // [16] each
} Vae;

enum { VAE_ENCODER = 1, VAE_DECODER = 2 };

/** Base width of a VAE file (decoder.conv1.weight's rows / 4), or AVT_INVALID (logged) when it is none of this kind. */
int avt_vae_width(const Ckpt *ckpt, const Log *log);
/** Bind the weights of one or both halves. `width` as above (any width when planning). @return avt_binder_finish()'s value */
int avt_vae_open(Vae *v, Binder *b, int width, int halves);

typedef struct VaeState {
    Tensor slot[VAE_MAX_SLOTS];         // [2, H, W, C] previous inputs of each causal convolution
    int nb[VAE_MAX_SLOTS];              // frames that are valid in the slot (the last ones): 0, 1, 2
    int started;                        // frames were seen: the temporal resamplers' first-frame rule
    int encoder;
    int64_t h, w;                       // latent size
} VaeState;

/** Allocate a half's caches in `state` for latents of h x w. */
int  avt_vae_state_open(VaeState *st, Arena *state, const Vae *v, int half, int64_t h, int64_t w);
void avt_vae_state_reset(VaeState *st);

/* Called with each named stage's result when a probe is given: for the parity tests. */
typedef struct VaeProbe {
    void (*see)(void *opaque, const char *name, Tensor t);
    void *opaque;
} VaeProbe;

/**
 * Encode one chunk of a stream: its first frame alone, then four frames a call; one latent frame each.
 *
 * @param z   [16, 1, h, w] f32, normalized
 * @param px  [t, 8h, 8w, 3] f32 in [-1, 1]; t = 1 on the first call after a reset, else 4
 * @return 0 or EINVAL when shapes disagree; device errors appear at avt_sync(). `st` is undefined after an error
 */
int avt_vae_encode(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor z, Tensor px, const VaeProbe *probe);

/**
 * Decode latents to pixels, carrying the causal caches in `st` to the next call.
 *
 * @param px  [F, 8h, 8w, 3] f32 in [-1, 1] (clamped); F = 4T, or 4T - 3 on the first call after a reset
 * @param z   [16, T, h, w] f32, normalized; read only
 */
int avt_vae_decode(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor px, Tensor z, const VaeProbe *probe);

#endif
