/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is in a model folder, in words: for `avatar inspect`. */
#ifndef AVT_INSPECT_H
#define AVT_INSPECT_H

#include "base/log.h"

/**
 * A summary of at most 24 lines: per file bytes, tensors, parameters, types; the network's sizes, the LoRA, avatar.json; what
 * is missing or cannot be read, and why. Reads headers alone.
 *
 * @param text  the summary, freed by the caller with avt_free(); NULL after an error
 * @return 0 even when files are missing or damaged (the text says so); ENOENT, ENOTDIR: no such folder; ENOMEM
 */
int avt_inspect(char **text, const char *dir, const Log *log);

#endif
