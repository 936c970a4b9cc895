/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umT5 encoder: token ids -> context rows. It runs once a prompt and is large (11 GB of the published model), so its layers come from a
 * shelf (shelf.h), and of the embedding only the rows of the prompt, out of the file. Spec: text-encoder.md.
 */
#ifndef AVT_UMT5_H
#define AVT_UMT5_H

#include "files/shelf.h"

typedef struct Umt5Config {
    int dim, attn_dim, ffn_dim, nb_heads, nb_layers, nb_buckets;
    int64_t vocab;
    DType dtype;                        // storage of a placed matrix: bf16 or f32
} Umt5Config;

/** All sizes from the tensors themselves (heads from the position embedding); every tensor must be there with its shape and
 *  nothing else. AVT_INVALID names what is not a umT5 encoder. */
int avt_umt5_config(Umt5Config *cfg, const Ckpt *ckpt, const Log *log);

typedef struct Umt5 {
    Umt5Config cfg;
    const Ckpt *ckpt;                   // not owned
    Shelf *shelf;
} Umt5;

/** @param ckpt  stays open for as long as the encoder; NULL when planning (cfg says the sizes)
 *  `be`, `keep`, `in_place` and errors: as avt_shelf_open(). `t` must not move while it is open. */
int  avt_umt5_open(Umt5 *t, const Umt5Config *cfg, const Ckpt *ckpt, Backend *be, size_t keep, int in_place);
void avt_umt5_close(Umt5 *t);

/** Bucket of rel = key - query (text-encoder.md 3.1). */
int avt_umt5_bucket(int64_t rel);

/**
 * @param copy  queue that layers come on, as avt_shelf_begin()
 * @param out   [n, dim] f32: every row, after the final norm
 * @param ids   n token ids, host; not read when planning
 * @param keys  keys that are attended to, the first ones (n, or fewer when the rest is padding)
 * @return 0, AVT_INVALID for a bad weight (logged), EINVAL for an id outside the vocabulary, ENOMEM, ECANCELED
 */
int avt_umt5_encode(Backend *be, Backend *copy, Arena *scratch, const Umt5 *t, Tensor out, const int32_t *ids, int64_t n, int64_t keys);

#endif
