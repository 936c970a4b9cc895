/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reference picture on its way to the VAE: size rules, Pillow's bilinear resampling (triangle filter with
 * antialiasing, horizontal pass first, 8 bits between the passes), crop and padding. Host only, 8-bit RGB.
 * Ours, or the original's with compat=upstream (doc/model.md).
 */
#ifndef AVT_PICTURE_H
#define AVT_PICTURE_H

#include <stdint.h>

/** Ours: sides 16 * round(sqrt(area * ratio) / 16), at least 64, at the picture's own ratio. */
void avt_picture_size(int *w, int *h, int iw, int ih, int64_t area);
/** The original's get_size_less_than_area: multiples of 64, never enlarged (streaming.md 2.1). */
void avt_picture_size_upstream(int *w, int *h, int iw, int ih, int64_t area);

/** Resample the real-valued box (x0, y0, x1, y1) of src [ih, iw, 3] to dst [h, w, 3]. @return 0 or ENOMEM */
int avt_picture_resize(uint8_t *dst, int w, int h, const uint8_t *src, int iw, int ih, const double box[4]);
/** Ours: scale to cover w x h, crop at the centre. src rows are `stride` bytes apart. @return 0 or ENOMEM */
int avt_picture_cover(uint8_t *dst, int w, int h, const uint8_t *src, int64_t stride, int iw, int ih);

typedef struct UpstreamFit {            // the original's geometry
    int resized_w, resized_h;
    int left, top;                      // crop offset in the resized picture (>= 0), or minus the black border
} UpstreamFit;
/** Shorter side to min(w, h), then centre crop or black border. */
UpstreamFit avt_picture_fit_upstream(int w, int h, int iw, int ih);
int avt_picture_upstream(uint8_t *dst, int w, int h, const uint8_t *src, int64_t stride, int iw, int ih);

#endif
