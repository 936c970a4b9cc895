/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conv1d in bf16 with AMX: the k * Cin / groups numbers that a result sees lie side by side once a group's channels are by themselves.
 *
 *   strip   the input that a piece sees, with its padding: [times][Cin / groups]        A   16 results: rows a stride apart, one run
 *
 * A piece of work is some times of the result in one group.
 */
#include <string.h>

#include "cpu/amx.h"

enum { STRIP = 256 << 10 };             // numbers of a strip that stays in the second cache

typedef struct Times {
    const OpCall *c;
    int64_t t, end;                     // of the result
    int64_t cin, group;                 // channels of a group; its number
    uint16_t *strip;
} Times;

static Rows rows_of(const void *ctx, int64_t i)
{
    const Times *s = ctx;
    const int64_t step = s->c->u.conv1d.stride * s->cin;

    return (Rows){ s->strip + i * SIDE * step, step, s->t + i * SIDE, min_i64(SIDE, s->end - s->t - i * SIDE) };
}

static void take_strip(const Times *s)
{
    const Conv1dSpec *spec = &s->c->u.conv1d;
    const int64_t nb = s->c->conv1d.x.dim[0], width = s->c->conv1d.x.dim[1];
    const int64_t first = s->t * spec->stride - spec->pad0, end = (s->end - 1) * spec->stride - spec->pad0 + s->c->conv1d.w.dim[2];
    uint16_t *to = s->strip;

    for (int64_t t = first; t < end; t++, to += s->cin) {
        const int64_t edge = t < 0 ? 0 : min_i64(t, nb - 1);

        if (t == edge || spec->replicate)
            memcpy(to, (const uint16_t *)s->c->conv1d.x.data + edge * width + s->group * s->cin, (size_t)s->cin * sizeof(*to));
        else
            memset(to, 0, (size_t)s->cin * sizeof(*to));
    }
    memset(to, 0, DEEP * sizeof(*to));                              // the last run goes on to the end of its last tile
}

static void piece(const Times *s, float *sum)
{
    static const int64_t zero;
    const OpCall *c = s->c;
    const int64_t own = c->out.dim[1] / c->u.conv1d.groups, deep = (c->conv1d.w.dim[2] * s->cin + DEEP - 1) / DEEP;

    take_strip(s);
    avt_amx_multiply(&(Tiles){ .ctx = s, .rows = rows_of, .nb = (s->end - s->t + SIDE - 1) / SIDE, .first = s->group * own,
                               .end = (s->group + 1) * own, .w = c->conv1d.w.data, .w_step = deep * TILE16, .at = &zero, .end_run = 1,
                               .deep = deep, .sum = sum, .bias = c->conv1d.b.data, .act = c->u.conv1d.act, .out = c->out, .width = c->out.dim[1] });
}

/* Times of a piece: what STRIP holds, in whole tiles, and no more than leaves every thread its part */
static int64_t piece_times(const Backend *be, const OpCall *c)
{
    const int64_t fit = (STRIP / c->conv1d.w.dim[1] - c->conv1d.w.dim[2]) / c->u.conv1d.stride, groups = c->u.conv1d.groups;
    const int64_t part = (c->out.dim[0] * groups + be->threads - 1) / be->threads, tiles = (min_i64(fit, part) + SIDE - 1) / SIDE;

    return (tiles < 1 ? 1 : tiles) * SIDE;
}

int avt_amx_conv1d(Backend *be, const OpCall *c)
{
    const int64_t cin = c->conv1d.w.dim[1], times = piece_times(be, c), pieces = (c->out.dim[0] + times - 1) / times;
    const int64_t seen = times * c->u.conv1d.stride + c->conv1d.w.dim[2];
    const size_t sums = 2 * SUMS * TILE32 * sizeof(float), strip = ((size_t)(seen * cin + DEEP) * sizeof(uint16_t) + 63) / 64 * 64;
    char *work;

    if (c->conv1d.x.dtype != DT_BF16 || !avt_numel(c->conv1d.x))
        return avt_cpu_widened(be, c);
    work = avt_cpu_work(be, (sums + strip) * (size_t)be->threads);
    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel num_threads(be->threads) if (avt_numel(c->out) * cin * c->conv1d.w.dim[2] > TILED * be->grain)
    {
        char *own = work + (sums + strip) * (size_t)avt_cpu_thread();

        avt_amx_open();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < pieces * c->u.conv1d.groups; i++)
            if (!avt_cpu_given_up(be))
                piece(&(Times){ .c = c, .t = i % pieces * times, .end = min_i64((i % pieces + 1) * times, c->out.dim[0]), .cin = cin,
                                .group = i / pieces, .strip = (uint16_t *)(own + sums) }, (float *)own);
        avt_amx_close();
    }
    return 0;
}
