/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * An instance of the avatar filter, and what its files share: avf_avatar.c (its life, inputs, output), avatar_options.c (what is asked
 * for), avatar_commands.c (what is changed in mid-stream), avatar_output.c (frames).
 */
#ifndef AVFILTER_AVATAR_FILTER_H
#define AVFILTER_AVATAR_FILTER_H

#include "libavutil/opt.h"
#include "avfilter.h"
#include "filters.h"

#include <avatar.h>

#include "avatar_mono.h"
#include "avatar_stream.h"

/* Between FFmpeg 5.1 and 9.0 a link's inner part got a struct of its own. */
#ifdef FILTER_QUERY_FUNC2
#define LINKEXT(l)  ff_filter_link(l)
#else
#define LINKEXT(l)  (l)
#endif

typedef struct AvatarContext {
    const AVClass *class;

    char *preset, *model, *lora, *devices, *plan, *vae_device, *front_device, *precision, *kv, *offload, *opts, *stats;
    char *image, *prompt;
    int w, h;                       ///< size asked for, 0: the library chooses
    int64_t seed;
    int64_t max_gap, max_drift, hold, latency, max_late;    ///< in microseconds
    int steps, cpu_threads, vae_split, tune;
    double resident;
    int compat, format, hw_format, tail, mode, late;
    int metadata;
    enum AVPixelFormat planes;      ///< format, or of format=cuda what lies on the GPU
    enum AvatarFormat lib_format;   ///< the same
    char cache[4096];               ///< folder for what can be found out again

    char *key;                      ///< name and options, as a rebuilt graph has them again
    AvatarStream *stream;           ///< from config_props on
    AvatarMono mono;
    AVFrame *first;                 ///< first picture of the second input
    int inherited;                  ///< the stream is another instance's, and no sound has told yet that it goes on
    uint32_t links;                 ///< sum of the graph's links
    int finished;                   ///< the output is closed, by us or by its reader
} AvatarContext;

extern const AVOption ff_avatar_options[];

/** What the library is opened with; strings and the log's opaque are those of `s`. @return 0 or EINVAL (logged) */
int ff_avatar_options_get(AvatarContext *s, AvatarOptions *opt);
/** Are the options fit for the library? Nothing is loaded. @return 0, or an error (logged) */
int ff_avatar_options_check(AVFilterContext *ctx);
/** Fill s->key: what a rebuilt graph's instance has in common with this one, its name and its options. */
int ff_avatar_options_key(AVFilterContext *ctx);
/** How a stream begins; picture, prompt and file of statistics are the stream's own. */
void ff_avatar_options_look(const AvatarContext *s, AvatarLook *look);

/** Can frames of the format that is asked for be given? Fills s->planes and s->lib_format. @return 0, or an error (logged) */
int ff_avatar_output_format(AVFilterContext *ctx);
int ff_avatar_output_is_rgb(enum AVPixelFormat pix_fmt);
/** Give the next filter a copy of a frame of the library's; `pts` in 1/25 s. */
int ff_avatar_output_send(AVFilterContext *ctx, AvatarFrame *in, int64_t pts);

/** What sound has come goes into the stream's queue. */
int ff_avatar_read_sound(AVFilterContext *ctx);

/** process_command of the filter. What is refused changes nothing. */
int ff_avatar_command(AVFilterContext *ctx, const char *cmd, const char *arg, char *res, int res_len, int flags);

#endif
