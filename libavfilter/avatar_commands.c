/* SPDX-License-Identifier: LGPL-2.1-or-later */
/**
 * @file
 * Commands of the avatar filter: another picture, prompt or seed from the sound on that is behind the command; what to do when sound runs
 * ahead. Nothing changes before all of it was checked.
 */

#include <string.h>
#include <sys/stat.h>

#include "libavutil/mem.h"

#include "avatar_filter.h"
#include "avatar_picture.h"

/*
 * Does asendcmd, in front of the filter, send this command? It does so while it has a frame in hand: one that has left its link's queue
 * and is not yet counted as taken out.
 */
static int comes_with_sound(const AVFilterContext *ctx)
{
    unsigned i;

    for (i = 0; i < ctx->graph->nb_filters; i++) {
        const AVFilterContext *f = ctx->graph->filters[i];

        AVFilterLink *l = f->nb_inputs == 1 ? f->inputs[0] : NULL;

        if (l && !strcmp(f->filter->name, "asendcmd") &&
            LINKEXT(l)->frame_count_in > LINKEXT(l)->frame_count_out + (int64_t)ff_inlink_queued_frames(l))
            return 1;
    }
    return 0;
}

/* A file of a command is there at once: a pipe without a writer would stop the graph. */
static int read_picture(AVFilterContext *ctx, const char *path, AVFrame **picture)
{
    struct stat st;

    if (!stat(path, &st) && S_ISFIFO(st.st_mode)) {
        av_log(ctx, AV_LOG_ERROR, "image=%s is a pipe, which a command cannot wait for; give a file\n", path);
        return AVERROR(EINVAL);
    }
    return ff_avatar_picture_read(ctx, path, picture);
}

/* Would the session take this change, now and when it starts anew? */
static int check_change(AVFilterContext *ctx, const AvatarChange *ch)
{
    AvatarContext *s = ctx->priv;
    AvatarLook look = s->stream->look;
    int w, h, ret;

    ff_avatar_change_look(&look, ch);
    if ((ret = avatar_look_check(s->stream->engine, &look)) < 0 || !ch->picture)
        return ret;
    if ((ret = avatar_engine_size(s->stream->engine, &look, &w, &h)) < 0)
        return ret;
    if (w != s->stream->width || h != s->stream->height) {
        av_log(ctx, AV_LOG_ERROR, "The picture gives %dx%d with compat=upstream, but the output is %dx%d; give one of the same ratio\n",
               w, h, s->stream->width, s->stream->height);
        return AVERROR(EINVAL);
    }
    return 0;
}

/* Nothing changes before all of it was checked, so that a command that is refused leaves no trace. */
static int change(AVFilterContext *ctx, const char *cmd, const char *arg)
{
    AvatarContext *s = ctx->priv;
    AvatarChange ch = { .seed = AVATAR_KEEP_SEED };
    int ret = 0;

    if (!strcmp(cmd, "image")) {
        ch.name = "image";
        ret = read_picture(ctx, arg, &ch.picture);
    } else if (!strcmp(cmd, "prompt")) {
        ch.name = "prompt";
        ret = (ch.prompt = av_strdup(arg)) ? 0 : AVERROR(ENOMEM);
    } else {
        ch.name = "seed";
        ch.seed = s->seed;
    }
    if (ret >= 0)
        ret = check_change(ctx, &ch);
    if (ret >= 0)
        ret = ff_avatar_read_sound(ctx);                    // what came before the command is before it in the queue
    if (ret >= 0)
        return ff_avatar_stream_change(s->stream, &ch, !comes_with_sound(ctx));
    av_frame_free(&ch.picture);
    av_freep(&ch.prompt);
    return ret;
}

int ff_avatar_command(AVFilterContext *ctx, const char *cmd, const char *arg, char *res, int res_len, int flags)
{
    AvatarContext *s = ctx->priv;
    int ret = ff_filter_process_command(ctx, cmd, arg, res, res_len, flags);

    if (ret < 0 || !s->stream)
        return ret;
    if (!strcmp(cmd, "image") || !strcmp(cmd, "prompt") || !strcmp(cmd, "seed"))
        return change(ctx, cmd, arg);
    if (strcmp(cmd, "late") && strcmp(cmd, "max_late"))
        return 0;
    s->stream->look.late        = s->late;
    s->stream->look.max_late_ms = s->max_late / 1000;
    return s->stream->session ? avatar_session_late(s->stream->session, s->late, s->max_late / 1000) : 0;
}
