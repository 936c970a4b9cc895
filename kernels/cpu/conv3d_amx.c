/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conv3d in bf16 with AMX. All taps of a result are summed in f32 and rounded once.
 *
 *   strip   the input that a band of output rows sees, between zeros: [kT frames][rows][pad, W, pad][Cin]
 *   A       16 neighbouring pixels of an output row: their taps in a row of the kernel lie side by side, kW * Cin numbers, a run
 *   sum     over the kT * kH runs; those of the zero frames before the stream are left out
 *
 * A piece of work is a band of rows through all frames: the strip is a ring of kT frames, and each output frame adds those that it is
 * the first to see. So cached frames and new ones need no joining, and a frame's bits do not depend on where the stream was cut.
 */
#include <string.h>

#include "cpu/amx.h"

enum { STRIP = 384 << 10 };             // numbers of a strip that stays in the second cache

typedef struct Space {                  // a convolution under way
    const OpCall *c;
    int64_t prev, front;                // cached frames; frames before x, cached or zero
    int64_t rows, bands;                // output rows of a band; how many bands
    int64_t pitch, high;                // numbers of a strip's row; its rows in a frame
    int64_t across;                     // tiles of an output row
} Space;

typedef struct Band {
    const Space *s;
    int64_t t, y, end_y;                // frame and rows of the result
    float *sum;
    int64_t *at;                        // of the runs in the strip
    uint16_t *strip;
} Band;

/* Frame f of the list (zero frames, prev, x); NULL for a zero frame */
static const uint16_t *frame_at(const Space *s, int64_t f)
{
    const Tensor x = s->c->conv.x;
    const int64_t size = x.dim[1] * x.dim[2] * x.dim[3], from = f - s->front;

    if (from < -s->prev)
        return NULL;
    return from < 0 ? (const uint16_t *)s->c->conv.prev.data + (from + s->prev) * size : (const uint16_t *)x.data + from * size;
}

/* The rows of frame f that the band sees, into the frame's place in the ring; zeros of a zero frame, into which runs are read, too */
static void take_frame(const Band *b, int64_t f)
{
    const Space *s = b->s;
    const int64_t *d = s->c->conv.x.dim, width = d[2] * d[3], left = s->c->u.conv.pad0 * d[3];
    const uint16_t *x = frame_at(s, f);
    uint16_t *to = b->strip + f % s->c->conv.w.dim[2] * s->high * s->pitch;
    int64_t y = b->y * s->c->u.conv.stride - s->c->u.conv.pad0;

    for (int64_t r = 0; r < s->high; r++, y++, to += s->pitch) {
        const int64_t have = x && y >= 0 && y < d[1] ? width : 0;

        memset(to, 0, (size_t)left * sizeof(*to));
        if (have)
            memcpy(to + left, x + y * width, (size_t)have * sizeof(*to));
        memset(to + left + have, 0, (size_t)(s->pitch - left - have) * sizeof(*to));
    }
}

static Rows rows_of(const void *ctx, int64_t i)
{
    const Band *b = ctx;
    const Space *s = b->s;
    const int64_t *out = s->c->out.dim, step = s->c->u.conv.stride, y = i / s->across, x = i % s->across * SIDE;

    return (Rows){ b->strip + y * step * s->pitch + x * step * s->c->conv.x.dim[3], step * s->c->conv.x.dim[3],
                   (b->t * out[1] + b->y + y) * out[2] + x, min_i64(SIDE, out[2] - x) };
}

/* The rows of frame b->t */
static void band_frame(const Band *b)
{
    const Space *s = b->s;
    const OpCall *c = s->c;
    const int64_t *k = c->conv.w.dim, first = b->t * c->u.conv.stride_t, deep = (k[4] * k[1] + DEEP - 1) / DEEP;
    int64_t run = 0;

    for (int64_t i = 0; i < k[2] * k[3]; i++) {
        b->at[i] = ((first + i / k[3]) % k[2] * s->high + i % k[3]) * s->pitch;
        if (!frame_at(s, first + i / k[3]))
            run = i + 1;
    }
    avt_amx_multiply(&(Tiles){ .ctx = b, .rows = rows_of, .nb = (b->end_y - b->y) * s->across, .end = k[0], .w = c->conv.w.data,
                               .w_step = k[2] * k[3] * deep * TILE16, .at = b->at, .run = run, .end_run = k[2] * k[3], .deep = deep,
                               .sum = b->sum, .bias = c->conv.b.data, .res = c->conv.res, .out = c->out, .width = k[0] });
}

static void band(Band b)
{
    const OpCall *c = b.s->c;
    int64_t have = 0;

    for (; b.t < c->out.dim[0]; b.t++) {
        for (; have < b.t * c->u.conv.stride_t + c->conv.w.dim[2]; have++)
            take_frame(&b, have);
        band_frame(&b);
    }
}

/* As many rows as STRIP holds, and as many bands as keep all threads busy */
static Space space_of(const Backend *be, const OpCall *c)
{
    const ConvSpec *spec = &c->u.conv;
    const int64_t *in = c->conv.x.dim, *out = c->out.dim, *k = c->conv.w.dim;
    Space s = { .c = c, .prev = c->conv.prev.be ? c->conv.prev.dim[0] : 0, .pitch = (spec->pad0 + in[2] + spec->pad1) * in[3],
                .across = (out[2] + SIDE - 1) / SIDE };
    const int64_t fit = (STRIP / (k[2] * s.pitch) - k[3]) / spec->stride + 1, rows = fit < 1 ? 1 : min_i64(fit, out[1]);

    s.front = s.prev + spec->pad_t;
    s.bands = ((out[1] + rows - 1) / rows + be->threads - 1) / be->threads * be->threads;
    s.rows = (out[1] + s.bands - 1) / s.bands;
    s.bands = (out[1] + s.rows - 1) / s.rows;
    s.high = (s.rows - 1) * spec->stride + k[3];
    return s;
}

static int64_t ring_of(const Space *s)
{
    return s->c->conv.w.dim[2] * s->high * s->pitch;
}

/* Numbers behind the ring: a tile of pixels may begin at the last one, and a run goes on to the end of its last tile. */
static int64_t behind(const Space *s)
{
    return (SIDE * s->c->u.conv.stride + s->c->conv.w.dim[4]) * s->c->conv.x.dim[3] + DEEP;
}

static int64_t multiplied(const OpCall *c)
{
    const int64_t *k = c->conv.w.dim;

    return avt_numel(c->out) * k[1] * k[2] * k[3] * k[4];
}

int avt_amx_conv3d(Backend *be, const OpCall *c)
{
    const int64_t *k = c->conv.w.dim;
    const size_t sums = 2 * SUMS * TILE32 * sizeof(float), runs = (size_t)(k[2] * k[3] + 7) / 8 * 64;
    size_t size;
    char *work;
    Space s;

    if (c->conv.x.dtype != DT_BF16 || !avt_numel(c->out))
        return avt_cpu_widened(be, c);
    s = space_of(be, c);
    size = (sums + runs + (size_t)(ring_of(&s) + behind(&s)) * sizeof(uint16_t) + 63) / 64 * 64;
    work = avt_cpu_work(be, size * (size_t)be->threads);
    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel num_threads(be->threads) if (multiplied(c) > TILED * be->grain)
    {
        char *own = work + size * (size_t)avt_cpu_thread();
        Band b = { .s = &s, .sum = (float *)own, .at = (int64_t *)(own + sums), .strip = (uint16_t *)(own + sums + runs) };

        memset(b.strip + ring_of(&s), 0, (size_t)behind(&s) * sizeof(*b.strip));
        avt_amx_open();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s.bands; i++) {
            b.y = i * s.rows;
            b.end_y = min_i64(b.y + s.rows, c->out.dim[1]);
            if (!avt_cpu_given_up(be))
                band(b);
        }
        avt_amx_close();
    }
    return 0;
}
