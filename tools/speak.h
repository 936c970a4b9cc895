/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tool's own parts: what `avatar speak` reads and writes, over the system's libavformat. */
#ifndef AVT_SPEAK_H
#define AVT_SPEAK_H

#include <stdint.h>

/** Run a subcommand; argv[0] is its name. @return exit code */
int cmd_speak(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_plan(int argc, char **argv);

/* ---- media_in.c ---- */

/** A picture file -> [h][w][3] RGB, orientation applied, alpha dropped; *rgb is freed with free(). 0 or a negative AVERROR (said on stderr). */
int media_read_picture(const char *path, uint8_t **rgb, int *w, int *h);

typedef struct SoundIn SoundIn;
/** A sound file, or "-": WAV or raw 16 kHz s16 mono from stdin. @param stop  asked while reading waits: 1 ends it with an error */
int  media_open_sound(SoundIn **s, const char *path, int (*stop)(void));
/** Next samples, 16 kHz mono f32, valid until the next call. Number of them, 0 at the end, or a negative AVERROR (said). */
int  media_read_sound(SoundIn *s, const float **pcm);
void media_close_sound(SoundIn **s);

/* ---- media_out.c ---- */

typedef struct MediaOut MediaOut;
/** Open a file, or "-", for writing. */
int  media_open_out(MediaOut **m, const char *path);
/** Begin NUT with raw video of a format (FFmpeg's name) and 16 kHz s16 sound. */
int  media_start_out(MediaOut *m, int w, int h, const char *pix_fmt);
/** Sound goes in as it comes; it is written up to the time of the frames. */
int  media_write_sound(MediaOut *m, const float *pcm, int nb);
int  media_write_frame(MediaOut *m, const uint8_t *const data[4], const int linesize[4], int64_t pts);
/** Write the trailer, and before it the rest of the sound when the stream is `complete`; 0 or the first failure. */
int  media_close_out(MediaOut **m, int complete);

#endif
