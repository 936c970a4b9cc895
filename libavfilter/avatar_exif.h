/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * How a picture file says that it wants to be turned; of the avatar filter, and of the avatar program, which decodes pictures itself.
 *
 * Decoders before FFmpeg 8.0 pass on the EXIF of JPEG alone.
 */
#ifndef AVFILTER_AVATAR_EXIF_H
#define AVFILTER_AVATAR_EXIF_H

#include <stdint.h>
#include <string.h>

#include "libavutil/intreadwrite.h"
#include "libavcodec/codec_id.h"

/** @return the orientation that a TIFF says, as which EXIF is stored everywhere: 1 to 8, else 0 */
static inline int avatar_tiff_orientation(const uint8_t *p, int64_t size)
{
    const int be = size >= 8 && p[0] == 'M';
    int64_t at, nb;

    if (size < 8 || (memcmp(p, "II*\0", 4) && memcmp(p, "MM\0*", 4)))
        return 0;
    at = be ? AV_RB32(p + 4) : AV_RL32(p + 4);
    nb = at <= size - 2 ? be ? AV_RB16(p + at) : AV_RL16(p + at) : 0;
    for (at += 2; nb-- > 0 && at <= size - 12; at += 12)
        if ((be ? AV_RB16(p + at) : AV_RL16(p + at)) == 0x112) {
            const int o = be ? AV_RB16(p + at + 8) : AV_RL16(p + at + 8);

            return o >= 1 && o <= 8 ? o : 0;
        }
    return 0;
}

/**
 * @param p     a whole file: PNG (chunks with sums behind them), WebP (chunks of even length) or TIFF; others say nothing
 * @param size  bytes of it
 * @return 1 to 8, else 0
 */
static inline int avatar_exif_orientation(enum AVCodecID codec, const uint8_t *p, int64_t size)
{
    const int png = codec == AV_CODEC_ID_PNG;
    int64_t at = png ? 8 : 12, len;

    if (codec == AV_CODEC_ID_TIFF)
        return avatar_tiff_orientation(p, size);
    if (!png && codec != AV_CODEC_ID_WEBP)
        return 0;
    for (; at <= size - 8; at += 8 + len + (png ? 4 : len & 1)) {
        len = png ? AV_RB32(p + at) : AV_RL32(p + at + 4);
        if (len > size - at - 8)
            return 0;
        if (!memcmp(p + at + (png ? 4 : 0), png ? "eXIf" : "EXIF", 4)) {
            const int named = len > 6 && !memcmp(p + at + 8, "Exif\0", 6);

            return avatar_tiff_orientation(p + at + 8 + (named ? 6 : 0), len - (named ? 6 : 0));
        }
    }
    return 0;
}

#endif
