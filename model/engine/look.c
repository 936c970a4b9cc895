/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <time.h>

#include "engine/conductor.h"
#include "engine/look.h"
#include "engine/structs.h"
#include "nets/picture.h"
#include "nets/textclean.h"

/* ---- is it as it should be? -------------------------------------------------------------------------------------------------- */

static int check_picture(const AvatarLook *look, const Log *log)
{
    if (look->width < 1 || look->height < 1 || look->width > 32768 || look->height > 32768)
        return avt_fail(log, AVT_ERR(EINVAL), "reference picture of %dx%d: 1 to 32768 a side; scale it first", look->width, look->height);
    if (look->stride && look->stride < 3 * (int64_t)look->width)
        return avt_fail(log, AVT_ERR(EINVAL), "reference picture: a stride of %lld bytes is less than a row of %d pixels in RGB",
                        (long long)look->stride, look->width);
    return 0;
}

static int check_seed(int64_t seed, int64_t least, const Log *log)
{
    if (seed < least || seed > UINT32_MAX)
        return avt_fail(log, AVT_ERR(EINVAL), "seed=%lld: -1 (drawn) or 0 to 4294967295", (long long)seed);
    return 0;
}

int avt_late_check(int late, int max_late_ms, const Log *log)
{
    if (late < 0 || late > AVATAR_LATE_DROP)
        return avt_fail(log, AVT_ERR(EINVAL), "late=%d: 0 (wait), 1 (repeat) or 2 (drop)", late);
    if (max_late_ms < -1 || max_late_ms == 0 || max_late_ms > 60000)
        return avt_fail(log, AVT_ERR(EINVAL), "max_late=%d ms: 1 to 60000, or -1 for 2000", max_late_ms);
    return 0;
}

static int check_live(const AvatarLook *look, int compat, const Log *log)
{
    if (look->mode < 0 || look->mode > AVATAR_LIVE)
        return avt_fail(log, AVT_ERR(EINVAL), "mode=%d: 0 (offline) or 1 (live)", look->mode);
    if (look->latency_ms < -1 || look->latency_ms > 10000)
        return avt_fail(log, AVT_ERR(EINVAL), "latency=%d ms: 0 to 10000, or -1 for %d", look->latency_ms, LIVE_LATENCY_MS);
    if (avt_late_check(look->late, look->max_late_ms, log) < 0)
        return AVT_ERR(EINVAL);
    if (look->mode == AVATAR_LIVE && compat)
        return avt_fail(log, AVT_ERR(EINVAL), "mode=live does not go with compat=upstream, which needs the whole sound; drop one of them");
    return 0;
}

/* A prompt that cannot be read is refused at once, not when its block comes. NULL is fine. */
static int check_prompt(const char *prompt, const Log *log)
{
    char *clean = NULL;
    const int ret = prompt ? avt_text_clean(&clean, prompt, log) : 0;

    avt_free(clean);
    return ret;
}

int avt_look_check(const AvatarLook *look, int compat, const Log *log)
{
    if (check_live(look, compat, log) < 0)
        return AVT_ERR(EINVAL);
    if (!look->rgb)
        return avt_fail(log, AVT_ERR(EINVAL), "no reference picture: give one with image=FILE or a second input");
    if (look->format < 0 || look->format > AVATAR_GBRP)
        return avt_fail(log, AVT_ERR(EINVAL), "format=%d: 0 to %d, the formats of avatar.h", look->format, AVATAR_GBRP);
    if (look->on_device < 0 || look->on_device > 1)
        return avt_fail(log, AVT_ERR(EINVAL), "on_device=%d: 0 (frames in host memory) or 1 (on the GPU that decodes)", look->on_device);
    if (look->tail < 0 || look->tail > AVATAR_TAIL_BLOCK)
        return avt_fail(log, AVT_ERR(EINVAL), "tail=%d: 0 (ceil), 1 (floor) or 2 (block)", look->tail);
    if (check_picture(look, log) < 0 || check_seed(look->seed, -1, log) < 0)
        return AVT_ERR(EINVAL);
    return check_prompt(look->prompt, log);
}

int avt_change_check(const AvatarLook *look, const Log *log)
{
    if (check_seed(look->seed, KEEP_SEED, log) < 0 || (look->rgb && check_picture(look, log) < 0))
        return AVT_ERR(EINVAL);
    return check_prompt(look->prompt, log);
}

int avatar_look_check(const AvatarEngine *e, const AvatarLook *look)
{
    AvatarLook own;
    int ret;

    if (avt_in_callback())
        return AVT_ERR(EDEADLK);
    ret = avt_look_take(&own, look, &e->log);
    return ret < 0 ? ret : avt_change_check(&own, &e->log);
}

/* ---- what is made of it -------------------------------------------------------------------------------------------------------- */

PixelFormat avt_look_format(int format)
{
    static const PixelFormat of[] = { [AVATAR_YUV420P] = PIX_YUV420P, [AVATAR_YUV444P] = PIX_YUV444P, [AVATAR_NV12] = PIX_NV12,
                                      [AVATAR_RGB24] = PIX_RGB24, [AVATAR_GBRP] = PIX_GBRP };

    return of[format];
}

uint8_t *avt_look_picture(const Core *c, const AvatarLook *look, int w, int h)
{
    const int64_t stride = look->stride ? look->stride : 3 * (int64_t)look->width;
    uint8_t *rgb = avt_malloc(MEM_SESSION, (size_t)w * (size_t)h * 3);
    int ret = AVT_ERR(ENOMEM);

    if (rgb)
        ret = c->compat ? avt_picture_upstream(rgb, w, h, look->rgb, stride, look->width, look->height)
                        : avt_picture_cover(rgb, w, h, look->rgb, stride, look->width, look->height);
    if (ret < 0)
        avt_freep(&rgb);
    return rgb;
}

int64_t avt_draw_seed(void)
{
    struct timespec t;
    uint64_t x;

    clock_gettime(CLOCK_REALTIME, &t);
    x = (uint64_t)t.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)t.tv_sec * 0xC2B2AE3D27D4EB4Fu;
    return (int64_t)(x >> 32);
}
