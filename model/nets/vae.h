/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Causal video VAE of Wan 2.1: pixels <-> latents, 4x in time, 8x in space.
 *
 *   [F, 8H, 8W, 3] --encode--> [T, 16, H, W] --decode--> [F, 8H, 8W, 3]       F = 4T - 3 from a cold start
 *
 * Streaming: each causal convolution keeps its last two input frames in VaeState, so that decoding T latents in pieces
 * gives the frames that decoding them at once gives. Channels last inside. Latents are normalized, (mu - mean) / std, on
 * this side of the interface, with f32 constants. Reference: wan/modules/vae2_1.py.
 *
 * The decoder works in the backend's type of activations, the encoder in f32 always: what it loses goes into every frame that follows
 * (reference, sink), what the decoder loses is seen once.
 *
 * Weights: `Wan2.1_VAE.pth` and whatever has its names and proportions at another base width (LightVAE: 24).
 */
#ifndef AVT_VAE_H
#define AVT_VAE_H

#include "files/bind.h"
#include "nets/team.h"

#define VAE_LATENT 16                   // latent channels
#define VAE_MAX_SLOTS 40
#define VAE_STAGES 4

typedef struct VaeConv {                // 3x3x3 (or 3x1x1) causal convolution and the slot of its past
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
    VaeResidual res[VAE_STAGES][3];              // per stage; the encoder uses two of each
    VaeResample sample[VAE_STAGES - 1];
    Tensor norm_out;
    int nb_slots;
    DType act;                          // of its activations
} VaeHalf;

typedef struct Vae {
    int width;                          // base width, 96 in the published file
    int has_encoder, has_decoder;
    VaeHalf enc, dec;
    Conv quant, post_quant;             // 1x1x1: 32 -> 32, 16 -> 16
    Tensor norm_mul, norm_add;          // [16] out of the encoder: 1 / std, -mean / std
    Tensor std, mean;                   // [16] into the decoder
    int64_t piece_bytes;                // a stage takes 1 to 4 frames at a time, as many as fit; the numbers do not depend on it
} Vae;

enum { VAE_ENCODER = 1, VAE_DECODER = 2 };

/** Base width of a VAE file (decoder.conv1.weight's rows / 4), or AVT_INVALID, logged with what the file is instead. */
int avt_vae_width(const Ckpt *ckpt, const Log *log);
/**
 * Bind the weights of one or both halves; the other half's may be in the file.
 * @param width   as above; any width when planning
 * @param halves  VAE_ENCODER, VAE_DECODER or both
 * @return avt_binder_finish()'s value
 */
int avt_vae_open(Vae *v, Binder *b, int width, int halves);

typedef struct VaeState {
    Tensor slot[VAE_MAX_SLOTS];         // [2, H, W, C] last inputs of each causal convolution; [1, ..] in the encoder's resamplers
    int nb[VAE_MAX_SLOTS];              // how many of them are valid (the last ones)
    int64_t frames[VAE_MAX_SLOTS];      // how many have gone by
    int started[3];                     // per resampler: its first frame, which it treats differently, has gone by
    int half;                           // VAE_ENCODER or VAE_DECODER
    int64_t h, w;                       // latent size
    Team team;                          // decoder: whose rows these are
    int64_t own;                        // rows of latents of this part: h, where it is alone
} VaeState;

/** Allocate a half's caches in `state` for latents of h x w, and reset. @return 0, EINVAL, or the arena's failure (ENOMEM) */
int  avt_vae_state_open(VaeState *st, Arena *state, const Vae *v, int half, int64_t h, int64_t w);
/** The same for a part's rows of the pictures: a decoder's whose convolutions ask the parts above and below for a row, and whose attention
 *  for all keys. Exact: what comes out are these rows of what one decoder gives, but for the order of sums. h is at least team->nb. */
int  avt_vae_state_open_part(VaeState *st, Arena *state, const Vae *v, int64_t h, int64_t w, const Team *team);
/** Forget the past: the next frame is a stream's first. Costs nothing. */
void avt_vae_state_reset(VaeState *st);

/* For the parity tests: sees each box's result under its name in the file ("decoder.upsamples.3"), [t, H, W, C]. A box that
 * runs in pieces is seen once a piece, frames in order. */
typedef struct VaeProbe {
    void (*see)(void *opaque, const char *name, Tensor t);
    void *opaque;
} VaeProbe;

/**
 * Encode frames to latents, carrying the causal caches in `st` to the next call. Scratch does not grow with T.
 *
 * @param z   [T, 16, h, w] f32, normalized
 * @param px  [F, 8h, 8w, 3] f32 in [-1, 1]; F = 4T, or 4T - 3 on the first call after a reset; read only
 * @return 0 or EINVAL when shapes disagree; device errors appear at avt_sync(). `st` is undefined after an error
 */
int avt_vae_encode(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor z, Tensor px, const VaeProbe *probe);

/**
 * Encode a still: avt_vae_encode() of a stream whose frames all are px, the same bits for about a third of the work, as boxes
 * that see nothing new any more are not computed again.
 *
 * @param z   [T, 16, h, w] f32, normalized
 * @param px  [1, 8h, 8w, 3] f32 in [-1, 1]; read only
 * @param st  an encoder's; what it remembers is lost
 */
int avt_vae_encode_still(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor z, Tensor px);

/**
 * Decode latents to frames, carrying the causal caches in `st` to the next call. Scratch hardly grows with T.
 * NaN and infinities would stay in the caches for good: ask avt_count_nonfinite(z) first and refuse the block.
 *
 * @param px  [F, 8 own, 8w, 3] f32 in [-1, 1] (clamped); F = 4T, or 4T - 3 on the first call after a reset; own: h, or a part's rows
 * @param z   [T, 16, h, w] f32, normalized; read only; on every part the same
 * @return as avt_vae_encode()
 */
int avt_vae_decode(Backend *be, Arena *scratch, const Vae *v, VaeState *st, Tensor px, Tensor z, const VaeProbe *probe);

#endif
