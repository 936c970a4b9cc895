/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Channels of the avatar filter: any layout to mono.
 */
#ifndef AVFILTER_AVATAR_MONO_H
#define AVFILTER_AVATAR_MONO_H

struct AVFrame;
struct SwrContext;

typedef struct AvatarMono {
    struct SwrContext *swr;             ///< NULL: the channels are mixed in equal parts
    int ready;                          ///< the layout has been looked at
    int checked;                        ///< samples of the sum so far
    double in, out;                     ///< energy of a channel and of the mix
    int told;                           ///< that channels cancel each other was said
} AvatarMono;

/**
 * Mix a frame of interleaved float samples to mono: as swresample does where it can, with gains that add up to 1; else in equal parts,
 * which one line of log says. So does one line that the channels cancel each other out (left is minus right). The layout stays the same
 * for all frames.
 *
 * @param frame  replaced by the mixed frame; left alone after an error
 */
int ff_avatar_mono(AvatarMono *m, void *log, struct AVFrame **frame);
void ff_avatar_mono_uninit(AvatarMono *m);

#endif
