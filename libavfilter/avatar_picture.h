/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Reference picture of the avatar filter, read from a file.
 */
#ifndef AVFILTER_AVATAR_PICTURE_H
#define AVFILTER_AVATAR_PICTURE_H

struct AVFrame;

/**
 * Read the first picture of a file that decodes, upright by its display matrix or EXIF, as rgb24 without transparency. A picture that is stored
 * in tiles (HEIC and AVIF of cameras, from FFmpeg 7.1 on) is put together.
 *
 * One that comes over a network has some 20 s; of a damaged one, of which a decoder gives a part, a line warns.
 *
 * @param log      context for log lines
 * @param picture  gets the picture in place of the one that was there; left alone after an error
 * @return 0 or a negative error, logged in one line that names the file
 */
int ff_avatar_picture_read(void *log, const char *path, struct AVFrame **picture);

/**
 * Convert a picture of any format that swscale reads to rgb24, by what it says of its matrix and range; transparency is dropped.
 *
 * @param picture  replaced; left alone after an error
 * @return 0 or a negative error
 */
int ff_avatar_picture_rgb(struct AVFrame **picture);

/**
 * Warn of pixels that are not square, as those of films on DVD or DV are: players stretch such a picture, the model does not.
 */
void ff_avatar_picture_pixels(void *log, const struct AVFrame *picture);

#endif
