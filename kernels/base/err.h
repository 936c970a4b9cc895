/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Error codes: negative errno, so that the filter hands them to FFmpeg as they are. The public names of the
 * same numbers are AVATAR_ERR, AVATAR_EOF in model/avatar.h.
 */
#ifndef AVT_BASE_ERR_H
#define AVT_BASE_ERR_H

#include <errno.h>

#define AVT_ERR(e)  (-(e))
#define AVT_EOF     (-(('E') | ('O' << 8) | ('F' << 16) | (' ' << 24)))    // FFmpeg's AVERROR_EOF
#define AVT_INVALID (-(('I') | ('N' << 8) | ('D' << 16) | ('A' << 24)))    // FFmpeg's AVERROR_INVALIDDATA: a damaged file

#endif
