/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Linear in bf16 with AMX: out[M, N] = act(x w^T + b), or res + gate * (x w^T + b).
 *
 * A piece of work is at most ROWS rows by COLUMNS columns. Its rows stay in the second cache, as far as DEPTH goes: where there is more
 * depth, the sums of the whole piece are kept and added to. The packed weight then passes once for so many rows.
 */
#include <string.h>

#include "cpu/amx.h"

enum {
    DEPTH = 1536,                       // of x that is summed at once
    AREA = 384 << 10,                   // numbers of x in a piece, at once: they stay in the second cache
    ROWS = 256, COLUMNS = 384,          // of a piece whose sums are kept
    NARROWEST = 64, PAIR = 2 * SIDE
};

typedef struct Piece {
    const OpCall *c;
    int64_t m, end_m;                   // rows
    int64_t k, depth;                   // columns of x that are being summed; depth in whole tiles
    int64_t whole;                      // rows before this one are read where they are
    uint16_t *copy;                     // the others, filled up with zeros: [..][depth]
} Piece;

static void copy_rows(const Piece *p)
{
    const Tensor x = p->c->linear.x;
    const int64_t k = avt_last_dim(x), width = min_i64(p->depth, k - p->k);

    for (int64_t r = p->whole; r < p->end_m; r++) {
        uint16_t *to = p->copy + (r - p->whole) * p->depth;

        memcpy(to, (const uint16_t *)x.data + r * k + p->k, (size_t)width * sizeof(*to));
        memset(to + width, 0, (size_t)(p->depth - width) * sizeof(*to));
    }
}

static Rows rows_of(const void *ctx, int64_t i)
{
    const Piece *p = ctx;
    const int64_t m = p->m + i * SIDE, nb = min_i64(SIDE, p->end_m - m), k = avt_last_dim(p->c->linear.x);

    if (m < p->whole)
        return (Rows){ (const uint16_t *)p->c->linear.x.data + m * k + p->k, k, m, nb };
    return (Rows){ p->copy + (m - p->whole) * p->depth, p->depth, m, nb };
}

/* Rows m .. end_m - 1, columns first .. end - 1 of the result */
static void piece(const OpCall *c, int64_t m, int64_t end_m, int64_t first, int64_t end, float *sum, uint16_t *copy)
{
    static const int64_t zero;
    const int64_t k = c->linear.w.dim[1], deep = (k + DEEP - 1) / DEEP;
    Piece p = { .c = c, .m = m, .end_m = end_m, .copy = copy, .whole = k % DEEP ? m : m + (end_m - m) / SIDE * SIDE };
    Tiles t = { .ctx = &p, .rows = rows_of, .nb = (end_m - m + SIDE - 1) / SIDE, .first = first, .end = end, .w_step = deep * TILE16,
                .at = &zero, .end_run = 1, .sum = sum, .bias = c->linear.b.data, .gate = c->linear.gate.data, .act = c->u.act,
                .res = c->linear.res, .out = c->out, .width = c->linear.w.dim[0] };

    for (; p.k < k; p.k += p.depth) {
        p.depth = min_i64(DEPTH, deep * DEEP - p.k);
        copy_rows(&p);
        t.w = (const uint16_t *)c->linear.w.data + p.k / DEEP * TILE16;
        t.deep = p.depth / DEEP;
        t.add = p.k > 0;
        t.keep = p.k + p.depth < k;
        avt_amx_multiply(&t);
    }
}

/* Pieces: `rows` x `columns`; as many as keep all threads busy, if there can be */
typedef struct Cut {
    int64_t rows, columns, bands, groups;
} Cut;

static int64_t part_of(int64_t all, int64_t most, int64_t unit)                  // equal parts of whole units
{
    const int64_t parts = (all + most - 1) / most;

    return ((all + parts - 1) / parts + unit - 1) / unit * unit;
}

static Cut cut_of(const Backend *be, int64_t m, int64_t n, int64_t k)
{
    const int64_t rows = k > DEPTH ? ROWS : AREA / k / PAIR * PAIR;
    Cut c = { .rows = part_of(m, rows, PAIR), .columns = part_of(n, COLUMNS, PAIR) };

    c.bands = (m + c.rows - 1) / c.rows;
    while (c.bands * ((n + c.columns - 1) / c.columns) < 3 * be->threads && c.columns > NARROWEST)
        c.columns = part_of(c.columns, (c.columns + 1) / 2, PAIR);
    c.groups = (n + c.columns - 1) / c.columns;
    return c;
}

int avt_amx_linear(Backend *be, const OpCall *c)
{
    const int64_t n = c->linear.w.dim[0], k = c->linear.w.dim[1], m = avt_rows_of(c->out);
    size_t sums, size;
    char *work;
    Cut cut;

    if (c->linear.x.dtype != DT_BF16 || !avt_numel(c->linear.x))
        return avt_cpu_widened(be, c);
    cut = cut_of(be, m, n, k);
    sums = sizeof(float) * (size_t)(k > DEPTH ? cut.rows * cut.columns : 2 * SUMS * TILE32);
    size = sums + sizeof(uint16_t) * (size_t)((k % DEEP ? cut.rows : SIDE) * min_i64(DEPTH, (k + DEEP - 1) / DEEP * DEEP));
    work = avt_cpu_work(be, size * (size_t)be->threads);
    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel num_threads(be->threads) if (m * n * k > TILED * be->grain)
    {
        char *own = work + size * (size_t)avt_cpu_thread();

        avt_amx_open();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < cut.bands * cut.groups; i++) {
            const int64_t row = i / cut.groups * cut.rows, column = i % cut.groups * cut.columns;

            if (!avt_cpu_given_up(be))
                piece(c, row, min_i64(row + cut.rows, m), column, min_i64(column + cut.columns, n), (float *)own, (uint16_t *)(own + sums));
        }
        avt_amx_close();
    }
    return 0;
}
