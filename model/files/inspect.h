/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is in a model folder or a file of weights, in words: for `avatar inspect`. */
#ifndef AVT_INSPECT_H
#define AVT_INSPECT_H

#include "base/log.h"

/**
 * A summary of at most 24 lines: per file bytes, tensors, parameters, types; the network's sizes, the LoRA, avatar.json; what
 * is missing or cannot be read, and why. Reads headers alone.
 *
 * Of one file (.safetensors, its index, .pth, .gguf): the same line, its format, the network that it belongs to.
 *
 * @param text  the summary, freed by the caller with avt_free(); NULL after an error
 * @return 0 even when files of a folder are missing or damaged (the text says so); ENOENT: no such path; AVT_INVALID: a file that is
 *         damaged or holds no weights (logged); ENOMEM
 */
int avt_inspect(char **text, const char *path, const Log *log);

#endif
