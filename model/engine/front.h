/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What runs before the transformer, once a prompt or a sound, on the host: text -> context rows, speech -> feature rows. */
#ifndef AVT_FRONT_H
#define AVT_FRONT_H

#include "engine/engine.h"

/**
 * Context of a prompt: cleaned, tokenized, encoded.
 * @param context  gets a host array [*rows, text_dim], freed with avt_free()
 * @return 0; EINVAL (not UTF-8), AVT_INVALID (weights), ENOMEM, ECANCELED
 */
int avt_front_text(const Core *c, float **context, int64_t *rows, const char *prompt, const int *cancel, const Log *log);

/**
 * Feature rows of a whole sound: one for each video frame, padded to whole blocks (product.md 1), or the original's (compat).
 * @param pcm       n samples, 16 kHz mono
 * @param features  gets a host array [*rows, layers, dim], freed with avt_free(); *rows is a multiple of 12
 */
int avt_front_sound(const Core *c, float **features, int64_t *rows, const float *pcm, int64_t n, const int *cancel, const Log *log);

#endif
