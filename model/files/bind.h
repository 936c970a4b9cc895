/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Binder: puts named weights of a checkpoint on a backend. A network asks for each of its tensors by name *and* shape;
 * everything that is missing, has another shape or type, holds NaN, or is left over is reported together.
 *
 * Without a checkpoint (ckpt == NULL) the same calls only reserve memory: that is how the plan of a network is made on
 * `dry` at any size, `dtype` being the storage that the file would have. With one, on `dry`, the headers are checked and no
 * weight is read.
 */
#ifndef AVT_BIND_H
#define AVT_BIND_H

#include "files/codes.h"
#include "files/lora.h"
#include "kernels.h"

typedef struct Binder {
    const Ckpt *ckpt;                   // or NULL: plan only
    Lora *lora;                         // or NULL
    Arena *weights;
    const Log *log;
    const char *what;                   // network, for messages: "dit", "vae", ...
    const char *prefix;                 // text in front of every name in the file, or NULL
    DType dtype;                        // plan only: storage type of matrices
    DType act;                          // of the activations that the matrices meet: the backend's, until a network says otherwise
    const struct ShelfRoom *shelf;      // layers of a network that can lie on a shelf, with this room; NULL: they are bound like all else
    int reserve;                        // look at the headers and make room; read nothing
    struct Loading *loading;            // gets the bytes that are placed; or NULL
    size_t counted;                     // of the arena, by then
    const int *cancel;                  // when it becomes non-zero (another thread's doing), binding fails with ECANCELED; or NULL
    int status;                         // first failure
    int nb_problems;                    // logged so far (the first five are)
    int nb_zero;                        // weights that are zero all over (a warning)
    uint8_t *used;                      // per tensor of ckpt; allocated by avt_binder_open
    void *raw;                          // one weight as the file has it
    size_t raw_size;
    float *scratch;                     // f32 copy of one weight: LoRA, conversion
    size_t scratch_size;
    float *scale;                       // of the rows of raw, if they are codes
    size_t scale_size;
    Codes codes;                        // what lies beside them
    Arena *room;                        // what merging the LoRA takes; NULL: no pair has come yet
    struct BinderScan *scan;            // weights whose numbers the device looks at; NULL: none now
    /* plan only: sees each tensor that is asked for, so that tests can write a file that fits; or NULL */
    void (*record)(void *opaque, const char *name, int nd, const int64_t *dim);
    void *record_opaque;
} Binder;

int  avt_binder_open(Binder *b, const Ckpt *ckpt, Lora *lora, Arena *weights, const char *what, DType dtype, const Log *log);
void avt_binder_close(Binder *b);

/**
 * The tensor `name` (after prefix) with exactly the shape given, placed for `use`. Names may be printf formats.
 * Codes (f8_e4m3, i8) come with their scales, "<name>_scale" [out] or one alone ("scale_weight" in older files of others), those of i8 with
 * "<name>_rotation", the size of a group; scales are above 0 and at most 65536. Where the network wants just these codes they keep their
 * bits, else they are what they stand for.
 * A file shape that differs only by dimensions of size 1 is accepted ([1, 6, D] for [6, D]).
 * WEIGHT_LINEAR tensors get their LoRA pair merged (module = name without ".weight").
 * @return the weight; after a problem something harmless, and avt_binder_finish() fails
 */
Tensor avt_bind(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *name, ...) AVT_PRINTF(5, 6);
#define AVT_DIMS(...) (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[]){ __VA_ARGS__ }

/** "<name>.weight" [out, in] and, when `bias`, "<name>.bias" [out]. */
Linear avt_bind_linear(Binder *b, int64_t out, int64_t in, int bias, const char *name, ...) AVT_PRINTF(5, 6);
/** The same of which only a part is bound, for the parts of a layer that lie on several devices: `part` of the weight [out, in], read and
 *  held alone, and of the bias what belongs to its rows: with columns all of it, where `bias` says so. part NULL: all. */
Linear avt_bind_linear_part(Binder *b, int64_t out, int64_t in, int bias, const WeightPart *part, const char *name, ...) AVT_PRINTF(6, 7);
/** Numbers `part` of a vector [n] (axis 0). */
Tensor avt_bind_vector_part(Binder *b, int64_t n, const WeightPart *part, const char *name, ...) AVT_PRINTF(4, 5);
/** "<name>.weight" with the shape given ([out, ...]) and "<name>.bias" [out]. */
Conv avt_bind_conv(Binder *b, WeightUse use, int nd, const int64_t *dim, const char *name, ...) AVT_PRINTF(5, 6);

/** Same, for a weight that the caller computed (folded weight norm); `names` are marked used by avt_bind_host(). */
Tensor avt_bind_computed(Binder *b, WeightUse use, int nd, const int64_t *dim, const float *data);
/** Host view of a tensor in f32, of [out, in] with its LoRA pair merged as avt_bind() does, freed by the caller with avt_free(); NULL after a problem (or when planning). */
float *avt_bind_host(Binder *b, int nd, const int64_t *dim, const char *name, ...) AVT_PRINTF(4, 5);
/** Is there such a tensor (after prefix)? Always 0 when planning. */
int avt_bind_has(const Binder *b, const char *name, ...) AVT_PRINTF(2, 3);
/** Tensors that may be in the file though nobody reads them: marked used. The pattern is a whole name or what follows prefix;
 *  a '*' at its end matches any rest. */
void avt_bind_ignore(Binder *b, const char *pattern);

/**
 * All bound? Reports what is left over in the checkpoint and in the LoRA.
 * @param partial  the caller binds only a part of the file (a rank with some layers): leftovers are not looked at
 * @return 0 or the first failure (AVT_INVALID, ENOMEM)
 */
int avt_binder_finish(Binder *b, int partial);

#endif
