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

/** The room that merging takes on a backend, for the largest of a LoRA's pairs: made once, for one pair after another, closed by the caller.
 *  @return 0 or ENOMEM */
int avt_lora_room(Arena **room, const Lora *l, Backend *be);

/**
 * Add the pair of `module` ("blocks.0.self_attn.q") to w [out, in] f32, in place, and mark it used.
 *
 * @param be  computes the product in f32, in a room of its own
 * @return 1 added, 0 no such pair, AVT_INVALID when shapes disagree or values are not finite (logged), the backend's failure
 */
int avt_lora_merge(Lora *l, const char *module, Backend *be, float *w, int64_t out, int64_t in, const Log *log);

typedef struct WeightPart {             // nb rows (axis 0) or columns (1) of a matrix [out, in] from `first` on
    int axis;
    int64_t first, nb;
} WeightPart;

/** The same for a part of the weight [out, in]: w [nb, in] or [out, nb] f32 gets what it would have of the whole; by the room's backend. part NULL:
 *  all of it. */
int avt_lora_merge_part(Lora *l, const char *module, Arena *room, float *w, int64_t out, int64_t in, const WeightPart *part, const Log *log);

/** Can avt_lora_place() merge a weight of the file's type `dtype` on a backend? Where weights lie row by row, what is of numbers that ops read. */
int avt_lora_can_place(const Backend *be, DType dtype);

typedef struct LoraRows {               // a weight, or a part of it, as its file has it
    DType dtype;
    const void *raw;                    // of the part, row by row
    int64_t out, in;                    // of the whole
    const WeightPart *part;             // NULL: all
} LoraRows;

#define LORA_PIECES 64                  // that a weight is merged in, at most

/** How many pieces `out` rows, those of the part, are merged in. */
int64_t avt_lora_pieces(int64_t out);

/**
 * Fill w, a linear weight (or the part of one) that was placed without values, with `rows` + the pair of `module`, on w's backend, which is the
 * room's: rounded to rows->dtype if that is bf16, then to what w is kept in, codes as well. The numbers of avt_lora_merge_part() and
 * avt_weight_put(), up to the order in which the backend adds a pair's r products. Waits for nothing, allocates nothing there; rows->raw may be used
 * again when the call returns.
 *
 * @param bad  i32 [avt_lora_pieces()] of w's backend: gets how many merged numbers of each piece are not finite
 * @return as avt_lora_merge_part()
 */
int avt_lora_place(Lora *l, const char *module, Arena *room, Tensor w, const LoraRows *rows, Tensor bad, const Log *log);

/** Bytes that merging takes on the device that a `dry` backend plans for: the room, and the workspace of its products. @return 0 or ENOMEM */
int avt_lora_bytes(const Lora *l, Backend *dry, size_t *bytes);

/** Must a LoRA of the published kind have a pair for `module`? Every linear named q, k, v, o, ffn.0, ffn.2 of a DiT. */
int avt_lora_is_target(const char *module);

/** After binding: every pair must have been used. @return 0 or AVT_INVALID naming the first unmatched and the counts */
int avt_lora_finish(const Lora *l, const Log *log);

#endif
