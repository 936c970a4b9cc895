/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * What an instance of the avatar filter leaves to its successor. When the parameters of any input change, ffmpeg frees the whole filter
 * graph and builds it anew, at once and in the same thread; the successor has the same name and options.
 */
#ifndef AVFILTER_AVATAR_PARK_H
#define AVFILTER_AVATAR_PARK_H

/**
 * Leave `what` under a key, for this thread. It is given to release() when nobody came for it: at the thread's end, at exit, or
 * when something is parked or asked for later than two minutes after.
 */
void ff_avatar_park(const char *key, void *what, void (*release)(void *what));
/** Take what this thread left under a key within the last two minutes, or NULL. */
void *ff_avatar_unpark(const char *key);

#endif
