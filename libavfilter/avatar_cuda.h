/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Frames of the avatar filter that stay on the GPU (format=cuda): FFmpeg's frames on the device that decodes, and the copy into them.
 */
#ifndef AVFILTER_AVATAR_CUDA_H
#define AVFILTER_AVATAR_CUDA_H

#include <avatar.h>

struct AVBufferRef;
struct AVFilterContext;
struct AVFrame;

/** Can this FFmpeg? @return 0, or AVERROR(ENOSYS) after a sentence that says what it was built without */
int ff_avatar_cuda_check(struct AVFilterContext *ctx);
/**
 * Frames of sw_format (enum AVPixelFormat), w x h, on GPU `device`: of the device that the filter was given, or of one with the GPU's primary
 * context.
 *
 * @return 0; AVERROR(EINVAL) after a sentence where the given device is another
 */
int ff_avatar_cuda_frames(struct AVFilterContext *ctx, struct AVBufferRef **frames, int device, int sw_format, int w, int h);
/** A frame of the library, on the GPU, into one of these; all is read when it returns. */
int ff_avatar_cuda_copy(struct AVFilterContext *ctx, struct AVFrame *out, const AvatarFrame *in);

#endif
