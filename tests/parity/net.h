/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Three calls on the tiny diffusion transformer: sink, stream, and what they need. For the cases of
 * dit.c, dit_parts.c and sampling.c.
 */
#ifndef AVT_PARITY_NET_H
#define AVT_PARITY_NET_H

#include "nets/dit.h"
#include "parity.h"

typedef struct GoldenNet {
    Ckpt *ckpt;
    Lora *lora;
    Binder binder;
    DitConfig cfg;
    Dit d;
} GoldenNet;

/** Open layers l0 .. l1-1 (l1 < 0: all) of the checkpoint in folder `sub` of the set, with rotary tables in half precision.
 *  @param lora  path inside the set, or NULL  @return 0, or an error after golden_fail() */
int  net_open(Golden *g, GoldenNet *n, const char *sub, const char *lora, int l0, int l1);
void net_close(GoldenNet *n);
/** lora.alpha of golden_config.json, 0 when it says nothing. */
double net_lora_alpha(Golden *g);

/** Everything of sampling_inputs that a stream needs, and state made of it. */
typedef struct GoldenStream {
    Golden *g;
    const Dit *d;
    DitShape s;
    int64_t clips, frames, nb_actors;   // noise [clips, 16, frames, H, W]
    const float *noise;
    DitTime zero;
    DitKeys text, sink;
    Tensor embedded;                    // [text_len, D]
    DitAudio audio;                     // of the block in work
    Tensor x, x_sink;                   // [N, D], [Lc, D]
    Tensor velocity;                    // [3, 16, H, W], result of stream_step()
} GoldenStream;

int  stream_open(GoldenStream *st, Golden *g, const Dit *d, int nb_actors, int with_mask);
void stream_close(GoldenStream *st);
/** in.<name> of sampling_inputs, [1, 16, T, H, W], as the network takes it: [T, 16, H, W]. */
Tensor stream_latents(Golden *g, const char *name);
/** Fill `keys` from ref [1, 16, H, W] and motion [T, 16, H, W]. */
void stream_sink(GoldenStream *st, DitKeys *keys, Tensor ref, Tensor motion, const DitProbe *probe);
/** Encode 12 feature rows from `first` on of [A, layers, C, T] host values. */
void stream_audio(GoldenStream *st, const float *features, int64_t T, int64_t first);
/** Noise of block b (3 frames of clip 4 b / frames), [3, 16, H, W]. */
Tensor stream_noise(GoldenStream *st, int64_t b);
/** One call of the network: st->velocity of latents [3, 16, H, W]. pose and probe may be absent. */
void stream_step(GoldenStream *st, DitKeys *ring, const DitKeys *sink, const DitTime *time, Tensor latents, int64_t f0, int64_t distance,
                 Tensor pose, const DitProbe *probe);
/** A tensor without its leading dimension of 1. */
Tensor squeeze(Tensor t);

#endif
