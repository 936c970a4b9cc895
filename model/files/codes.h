/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Codes in a checkpoint: X.weight of type f8_e4m3 or i8, and what lies beside it.
 *
 *   X.weight_scale     f32, bf16 or f16: one a row, [out] or [out, 1], or one alone       ours, and newer files of others
 *   X.scale_weight     one alone                                                          older files of others
 *   X.weight_rotation  i32: the size of the groups that i8 is rotated by, see quantize.h; 1 when it is not there      ours
 *   X.input_scale, X.scale_input, X.comfy_quant      what others say of activations: not used
 */
#ifndef AVT_CODES_H
#define AVT_CODES_H

#include "files/ckpt.h"

#define CODES_SCALE_MOST 65536          // a weight is about 1, a code up to 448

typedef struct Codes {
    const CkptTensor *scale;
    int group;
    const CkptTensor *part[5];          // all that belongs to X.weight
    int nb_parts;
} Codes;

/** Look for what lies beside `t`. @return 0; AVT_INVALID with a sentence in why[size]; what reading fails with (logged) */
int avt_codes_find(Codes *c, const Ckpt *ckpt, const CkptTensor *t, char *why, size_t size, const Log *log);
/** scale[2 out], of which the first half is given, one for each row. @return as above */
int avt_codes_scales(float *scale, const Codes *c, const CkptTensor *t, char *why, size_t size, const Log *log);

#endif
