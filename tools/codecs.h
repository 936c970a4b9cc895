/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which container and encoders a film of the tool gets, and how they are set. */
#ifndef AVT_TOOL_CODECS_H
#define AVT_TOOL_CODECS_H

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

#include "speak.h"

typedef struct Codecs {
    const AVOutputFormat *format;
    const AVCodec *video, *audio;
} Codecs;

/**
 * By the file's suffix and what was asked for by name; "-", and a pipe or device without a suffix that is known, are NUT with raw video
 * and sound. @return 0, or AVERROR(EINVAL) after a sentence
 */
int codecs_choose(Codecs *c, const MediaLook *look);
/** *enc is the caller's, also after an error (of which nothing was said). */
int codecs_open_video(AVCodecContext **enc, const Codecs *c, const MediaLook *look);
int codecs_open_audio(AVCodecContext **enc, const Codecs *c, const MediaLook *look);

#endif
