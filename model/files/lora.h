/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LoRA: low-rank pairs (A [r, in], B [out, r]) that are added to linear weights when these are placed:
 * W' = W + (alpha / r) * B A, in f32, rounded once to the storage of W (bf16 base -> bf16). Spec: checkpoints.md 2.
 */
#ifndef AVT_LORA_H
#define AVT_LORA_H

#include "files/ckpt.h"
#include "kernels.h"

typedef struct Lora Lora;

/**
 * Open a LoRA file; every naming style of checkpoints.md 2.2 becomes "<module>" -> (A, B).
 *
 * @param alpha  <= 0: from the file's .alpha tensors, else the published file's 64 / 128 = half the rank (logged)
 * @return 0, ENOENT, AVT_INVALID for half a pair, disagreeing ranks, a full checkpoint, unsupported members
 */
int  avt_lora_open(Lora **out, const char *path, double alpha, const Log *log);
/** The same for a checkpoint that is open; it is taken over, after an error too (*ckpt becomes NULL). */
int  avt_lora_open_ckpt(Lora **out, Ckpt **ckpt, double alpha, const Log *log);
void avt_lora_close(Lora **l);
int  avt_lora_rank(const Lora *l);
double avt_lora_scale(const Lora *l);
int64_t avt_lora_nb(const Lora *l);
const char *avt_lora_path(const Lora *l);
/** Is there a pair for `module` ("blocks.0.self_attn.q")? */
int avt_lora_has(const Lora *l, const char *module);

/**
 * Add the pair of `module` ("blocks.0.self_attn.q") to w [out, in] f32, in place, and mark it used.
 *
 * @param be  computes the product in f32, in an arena of its own: some MB that are given back
 * @return 1 added, 0 no such pair, AVT_INVALID when shapes disagree or values are not finite (logged), the backend's failure
 */
int avt_lora_merge(Lora *l, const char *module, Backend *be, float *w, int64_t out, int64_t in, const Log *log);

typedef struct WeightPart {             // nb rows (axis 0) or columns (1) of a matrix [out, in] from `first` on
    int axis;
    int64_t first, nb;
} WeightPart;

/** The same for a part of the weight [out, in]: w [nb, in] or [out, nb] f32 gets what it would have of the whole. part NULL: all of it. */
int avt_lora_merge_part(Lora *l, const char *module, Backend *be, float *w, int64_t out, int64_t in, const WeightPart *part, const Log *log);

/** Can avt_lora_place() merge a weight of the file's type `dtype` on a backend? Where weights lie row by row, what is of numbers that ops read. */
int avt_lora_can_place(const Backend *be, DType dtype);

typedef struct LoraRows {               // a weight, or a part of it, as its file has it
    DType dtype;
    const void *raw;                    // of the part, row by row
    int64_t out, in;                    // of the whole
    const WeightPart *part;             // NULL: all
} LoraRows;

/**
 * Fill w, a linear weight (or the part of one) that was placed without values, with `rows` + the pair of `module`, on w's backend: rounded to
 * rows->dtype if that is bf16, then to what w is kept in, codes as well. The numbers of avt_lora_merge_part() and avt_weight_put(), up to the
 * order in which the backend adds a pair's r products. Waits for the device; rows->raw may be used again when the call returns.
 *
 * @param bad  a number of the part that is not finite when merged, or -1
 * @return as avt_lora_merge_part()
 */
int avt_lora_place(Lora *l, const char *module, Tensor w, const LoraRows *rows, int64_t *bad, const Log *log);

/** Bytes that merging takes on the device that a `dry` backend plans for, for the largest pair; workspace included. @return 0 or ENOMEM */
int avt_lora_bytes(const Lora *l, Backend *dry, size_t *bytes);

/** Must a LoRA of the published kind have a pair for `module`? Every linear named q, k, v, o, ffn.0, ffn.2 of a DiT. */
int avt_lora_is_target(const char *module);

/** After binding: every pair must have been used. @return 0 or AVT_INVALID naming the first unmatched and the counts */
int avt_lora_finish(const Lora *l, const Log *log);

#endif
