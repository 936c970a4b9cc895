/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a stream is wanted (AvatarLook): is that possible, and what is made of it before a session has it. */
#ifndef AVT_LOOK_H
#define AVT_LOOK_H

#include "engine/engine.h"

/** All of it, for a session of an engine with or without compat=upstream. @return 0, or EINVAL after one sentence that names option, value, remedy */
int avt_look_check(const AvatarLook *look, int compat, const Log *log);
/** What a session can change: prompt, picture, seed, each or none. @return as avt_look_check() */
int avt_change_check(const AvatarLook *look, const Log *log);
/** late= and max_late= alone. @return as avt_look_check() */
int avt_late_check(int late, int max_late_ms, const Log *log);

PixelFormat avt_look_format(int format);
/** The picture at the frames' size. @return [h, w, 3] in 8 bits, to be freed with avt_free(); NULL: no memory */
uint8_t *avt_look_picture(const Core *c, const AvatarLook *look, int w, int h);
/** @return 0 .. 2^32 - 1, by the clock */
int64_t avt_draw_seed(void);

#endif
