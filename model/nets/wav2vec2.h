/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * wav2vec2 (layer-norm variant, pre-norm layers): 16 kHz mono sound -> hidden states of every layer at 50 Hz, and the
 * picking of 25 Hz feature rows out of them. Spec: audio-encoder.md.
 *
 *   pcm [n] -> 7 strided convolutions -> projection -> position conv -> L layers -> [L + 1, T, D]
 */
#ifndef AVT_WAV2VEC2_H
#define AVT_WAV2VEC2_H

#include "files/bind.h"

#define WAV2VEC2_HOP 320                // samples from row to row

typedef struct Wav2Vec2Config {
    int dim, nb_layers, nb_heads, ffn_dim;
    int conv_dim[7];
    int pos_groups, pos_kernel;         // 16, 128
} Wav2Vec2Config;

typedef struct Wav2Vec2Layer {
    Tensor norm1_w, norm1_b, norm2_w, norm2_b;      // [D]
    Linear q, k, v, o, up, down;
} Wav2Vec2Layer;

typedef struct Wav2Vec2 {
    Wav2Vec2Config cfg;
    Conv conv[7];
    Tensor conv_norm_w[7], conv_norm_b[7];
    Tensor proj_norm_w, proj_norm_b;
    Linear proj;
    Conv pos;                           // weight norm folded
    Wav2Vec2Layer *layer;               // [nb_layers], owned
    Tensor norm_w, norm_b;
} Wav2Vec2;

/** Read and check config.json and preprocessor_config.json (checkpoints.md 1.2). */
int  avt_wav2vec2_config(Wav2Vec2Config *cfg, const char *config, const char *preprocessor, const Log *log);
int  avt_wav2vec2_open(Wav2Vec2 *w, const Wav2Vec2Config *cfg, Binder *b);
void avt_wav2vec2_close(Wav2Vec2 *w);

/** Feature rows for n samples: floor((n - 400) / 320) + 1; 0 when n < 400. */
int64_t avt_wav2vec2_frames(int64_t n);
/** (x - mean) / sqrt(var + 1e-7), mean and population variance of the first nb_stat samples, in f64. In place is fine. */
void avt_wav2vec2_normalize(float *out, const float *pcm, int64_t n, int64_t nb_stat);

/** @param hidden  [L + 1, T, D] f32: 0 = input of the first layer, L = after the last norm; T = avt_wav2vec2_frames(n)
 *  @param pcm     n normalized samples, host */
int avt_wav2vec2_encode(Backend *be, Arena *scratch, const Wav2Vec2 *w, Tensor hidden, const float *pcm, int64_t n);

/** Length of the original's 50 -> 30 Hz interpolation: trunc(T / 50.0 * 30.0) in f64, in that order. */
int64_t avt_features_len30(int64_t t50);
/** The original's number of clips of `clip` frames for L rows at 30 Hz and `fps` frames a second (25 here, 16 in its ancestor). */
int64_t avt_features_clips(int64_t len30, int clip, int fps);
/** 30 Hz row of frame i of a video of nb frames: 30 i / fps rounded to nearest; at 25 fps (12 i + 5) div 10. nb matters only
 *  where 30 i / fps is a half, which it never is at 25 fps: there the original's rounding errors decide. */
int64_t avt_features_row(int64_t i, int64_t nb, int fps);

enum { FEATURES_PRODUCT, FEATURES_UPSTREAM };       // fixed ratio 5/3, clamped | stretched over the clip, zeros after the end

/**
 * Rows for video frames first .. first + nb - 1 (features.h: ours, or the original's with compat).
 * @param out     [nb, L + 1, D] f32
 * @param hidden  [L + 1, T, D] f32
 */
int avt_features_pick(Backend *be, Arena *scratch, Tensor out, Tensor hidden, int64_t first, int mode);
/** The same in the product's way out of a window of the stream: hidden's first row is the stream's 50 Hz row `row0`. */
int avt_features_pick_window(Backend *be, Arena *scratch, Tensor out, Tensor hidden, int64_t first, int64_t row0);
/** The 30 Hz rows themselves, [len30, D] of one layer [T, D] (upstream's stretch); for parity. */
int avt_features_30hz(Backend *be, Arena *scratch, Tensor out, Tensor hidden);

#endif
