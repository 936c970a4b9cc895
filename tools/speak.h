/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tool's own parts: what `avatar speak` reads and writes, over the system's libav*. Errors are AVERRORs, and were said on stderr. */
#ifndef AVT_SPEAK_H
#define AVT_SPEAK_H

#include <stdint.h>

#include <libavutil/frame.h>
#include <libswresample/swresample.h>

#include "file.h"

/** Run a subcommand; argv[0] is its name. @return exit code */
int cmd_speak(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_convert(int argc, char **argv);
int cmd_plan(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_worker(int argc, char **argv);
int cmd_top(int argc, char **argv);
int cmd_plot(int argc, char **argv);

/* ---- picture_in.c ---- */

/** A picture file -> [h][w][3] RGB, orientation applied, alpha dropped; *rgb is freed with free(). @return 0; 1: it is damaged, which was
 *  said; or an error */
int media_read_picture(const char *path, uint8_t **rgb, int *w, int *h, FileStop stop);

/* ---- sound_in.c ---- */

typedef struct SoundIn SoundIn;
/** A sound file, or "-", stdin. @param format  its demuxer's name, or NULL: told from the bytes. @return 0 or an error */
int  media_open_sound(SoundIn **s, const char *path, const char *format, FileStop stop);
/** What the decoder is about to give: Hz, channels. */
void media_sound_shape(const SoundIn *s, int *rate, int *channels);
/**
 * The next piece of sound, valid until the next call.
 * @param pcm    [*nb] 16 kHz mono f32; *nb may be 0
 * @param frame  the same sound as it was decoded, or NULL: behind the last frame
 * @return 1, 0 at the end, or an error, also when there was no sound at all
 */
int  media_read_sound(SoundIn *s, const float **pcm, int *nb, const AVFrame **frame);
void media_close_sound(SoundIn **s);
/**
 * A resampler from the shape of `f` to one or two channels of a format and rate, in the place of *swr.
 * @return 0, 1: no rule mixes these channels, so each has an equal part, or an error, of which nothing was said
 */
int  media_mixer(SwrContext **swr, const AVFrame *f, int channels, enum AVSampleFormat format, int rate);

/* ---- media_out.c ---- */

typedef struct MediaOut MediaOut;
/** What the film is: names NULL or 0: chosen. */
typedef struct MediaLook {
    const char *path;                   // or "-"
    const char *container, *video_codec, *audio_codec;
    int width, height;
    const char *pix_fmt;                // FFmpeg's name of what media_write_frame() is given
    int rate, channels;                 // of the sound that comes
    int live;                           // no frame waits for a later one
} MediaLook;

/** Container and codecs of a film, from its name and what was asked for; no file is touched. @return 0 or an error */
int  media_plan_out(MediaOut **m, const MediaLook *look);
/** Make the file; before this its name may lead to anything. */
int  media_open_out(MediaOut *m, FileStop stop);
/** Size, formats and the sound's shape are known: open the encoders, write the header. */
int  media_start_out(MediaOut *m, const MediaLook *look);
/** Sound goes in as it comes, NULL at its end; it is written up to the time of the frames. */
int  media_write_sound(MediaOut *m, const AVFrame *frame);
int  media_write_frame(MediaOut *m, const uint8_t *const data[4], const int linesize[4], int64_t pts);
/**
 * Finish the film: with all its sound when it is `complete`, else up to its last frame; without frames, or after an error, there is none,
 * and what had its name stays. @return 0 or the first error; *m NULL is fine
 */
int  media_close_out(MediaOut **m, int complete);

#endif
