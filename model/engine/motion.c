/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See motion.h. */
#include <math.h>

#include "engine/motion.h"

void avt_motion_begin(Motion *m, int least, int64_t from)
{
    *m = (Motion){ .least = least, .from = from, .last_block = -1 };
}

int avt_motion_watches(const Motion *m, int64_t block)
{
    return m->least > 0 && block >= m->from && m->blocks < MOTION_BLOCKS;
}

/* What stands for brightness: Y, or green; a pixel is `step` bytes. */
static float mean_of(const uint8_t *p, int stride, int step, int w, int h)
{
    int64_t sum = 0;

    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            sum += p[(int64_t)y * stride + x * step];
    return (float)sum / (float)(w * h);
}

void avt_motion_add(Motion *m, const AvatarFrame *f, int64_t block)
{
    const int packed = f->format == AVATAR_RGB24, step = packed ? 3 : 1, w = f->width / MOTION_SIDE, h = f->height / MOTION_SIDE;
    const float level = (float)m->least * (packed || f->format == AVATAR_GBRP ? 255.0f / 219 : 1);     // Y has 219 levels
    const int follows = m->last_block >= 0 && block - m->last_block <= 1;

    for (int i = 0; i < MOTION_CELLS; i++) {
        const uint8_t *p = f->data[0] + packed + (int64_t)(i / MOTION_SIDE * h) * f->linesize[0] + i % MOTION_SIDE * w * step;
        const float v = mean_of(p, f->linesize[0], step, w, h);

        m->moved[i] += follows && fabsf(v - m->last[i]) >= level;
        m->last[i] = v;
    }
    m->frames += follows;
    m->last_block = block;
}

double avt_motion_end(Motion *m)
{
    int most = 0;

    if (++m->blocks < MOTION_BLOCKS)
        return -1;
    for (int i = 0; i < MOTION_CELLS; i++)
        most = m->moved[i] > most ? m->moved[i] : most;
    return (double)most / m->frames;
}
