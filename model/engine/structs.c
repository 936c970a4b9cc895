/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "engine/structs.h"

#define MAX_SIZE 4096                   // of any of them, ever: more was never filled with defaults

/* A member that is added begins where the struct ended: never in padding, which a caller who does not know it leaves as it is. */
#define ENDS_WITH(Type, last) _Static_assert(offsetof(Type, last) + sizeof(((Type *)0)->last) == sizeof(Type), "pad " #Type " by name")
ENDS_WITH(AvatarOptions, height);
ENDS_WITH(AvatarLook, stats);
ENDS_WITH(AvatarFrame, compute_ms);
ENDS_WITH(AvatarInfo, plan);

static int is_zero(const void *bytes, size_t size)
{
    const char *b = bytes;

    while (size && !b[size - 1])
        size--;
    return !size;
}

/* *own is default. */
static int take(void *own, size_t own_size, const void *his, size_t size, const char *type, const char *filler, const Log *log)
{
    if (size < sizeof(size) || size > MAX_SIZE)
        return avt_fail(log, AVT_ERR(EINVAL), "%s of %zu bytes: fill it with %s() before anything else", type, size, filler);
    if (size > own_size && !is_zero((const char *)his + own_size, size - own_size))
        return avt_fail(log, AVT_ERR(EINVAL), "%s: the program sets what libavatar %d.%d.%d, which is loaded, does not have; load the one that it was "
                        "built for, or leave that alone", type, AVATAR_VERSION_MAJOR, AVATAR_VERSION_MINOR, AVATAR_VERSION_MICRO);
    memcpy(own, his, size < own_size ? size : own_size);
    memcpy(own, &own_size, sizeof(own_size));                       // the first member
    return 0;
}

void avt_struct_give(void *his, size_t size, const void *own, size_t own_size)
{
    memcpy(his, own, size < own_size ? size : own_size);
    if (size > own_size)
        memset((char *)his + own_size, 0, size - own_size);
}

void avatar_options_default_sized(AvatarOptions *opt, size_t size)
{
    const AvatarOptions own = { .size = size, .steps = -1, .cpu_level = -1, .log_level = AVATAR_LOG_INFO, .tune = 1 };

    avt_struct_give(opt, size, &own, sizeof(own));
}

void avatar_look_default_sized(AvatarLook *look, size_t size)
{
    const AvatarLook own = { .size = size, .seed = -1, .latency_ms = -1, .max_late_ms = -1 };

    avt_struct_give(look, size, &own, sizeof(own));
}

int avt_options_take(AvatarOptions *own, const AvatarOptions *his, const Log *log)
{
    avatar_options_default(own);
    return take(own, sizeof(*own), his, his->size, "AvatarOptions", "avatar_options_default", log);
}

int avt_look_take(AvatarLook *own, const AvatarLook *his, const Log *log)
{
    avatar_look_default(own);
    return take(own, sizeof(*own), his, his->size, "AvatarLook", "avatar_look_default", log);
}
