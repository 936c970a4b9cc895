/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umT5 encoder: token ids -> context rows. It runs once a prompt, so its weights never stay: one layer at a time is placed
 * in scratch out of the file, and of the embedding only the rows of the prompt. Spec: text-encoder.md.
 */
#ifndef AVT_UMT5_H
#define AVT_UMT5_H

#include "files/bind.h"

typedef struct Umt5Config {
    int dim, attn_dim, ffn_dim, nb_heads, nb_layers, nb_buckets;
    int64_t vocab;
    DType dtype;                        // storage of a placed matrix: bf16 or f32
} Umt5Config;

/** All sizes from the tensors themselves (heads from the position embedding); every tensor must be there with its shape and
 *  nothing else. AVT_INVALID names what is not a umT5 encoder. */
int avt_umt5_config(Umt5Config *cfg, const Ckpt *ckpt, const Log *log);

/** Bucket of rel = key - query (text-encoder.md 3.1). */
int avt_umt5_bucket(int64_t rel);

/**
 * @param out   [n, dim] f32: every row, after the final norm
 * @param ids   n token ids, host
 * @param keys  keys that are attended to, the first ones (n, or fewer when the rest is padding)
 * @param ckpt  NULL when planning (cfg says the sizes)
 * @return 0, AVT_INVALID for a bad weight (logged), EINVAL for an id outside the vocabulary, ENOMEM
 */
int avt_umt5_encode(Backend *be, Arena *scratch, const Umt5Config *cfg, const Ckpt *ckpt, Tensor out, const int32_t *ids, int64_t n,
                    int64_t keys);

#endif
