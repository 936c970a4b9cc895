/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Structs of avatar.h that lie in the caller's memory. He may have been compiled with another avatar.h than this library, of the same
 * first members:
 *
 *     his    [ size | known ]            he knows less: the rest of ours is default, and what he gets ends with his
 *     ours   [ size | known | added ]
 *     his    [ size | known | added | more ]          he knows more: that has to be 0, and is 0 in what he gets
 *
 * Whatever comes through the door goes through here first; all behind it sees ours.
 */
#ifndef AVT_STRUCTS_H
#define AVT_STRUCTS_H

#include <stddef.h>

#include "avatar.h"
#include "base/log.h"

/** Ours out of the caller's. @return 0, or EINVAL (logged): he did not fill it with its defaults first, or set what is not known here */
int avt_options_take(AvatarOptions *own, const AvatarOptions *his, const Log *log);
int avt_look_take(AvatarLook *own, const AvatarLook *his, const Log *log);
/** The caller's struct of `size` bytes out of ours of `own_size`. */
void avt_struct_give(void *his, size_t size, const void *own, size_t own_size);

#endif
