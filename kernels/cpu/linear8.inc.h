/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pieces of a product of i8, and the way from its sums to results: see codes8.h. A level has its own way of the sums alone. */
#include "cpu/codes8.h"
#include "cpu/simd.h"

#ifdef __AVX512F__

typedef struct Level8 {
    int block;                          // rows
    /* nb rows x [nb, k], as block() wants them, filled up to whole blocks of rows of `depth` numbers */
    void (*copy_rows)(int8_t *to, const int8_t *x, int64_t k, int64_t nb, int64_t depth);
    /* sum[block][64] of such rows with the columns at w, of which `all` are the sums, for a level that adds something to each x */
    void (*block_sums)(int32_t (*sum)[GROUP8], const int8_t *rows, const int8_t *w, const int32_t *all, int64_t depth);
    void (*open)(void), (*close)(void); // around pieces, in their thread; or NULL
} Level8;

enum { CACHE = 768 << 10, ROWS = 192, COLUMNS = 2048, MOST = 32 };   // bytes and most rows of a piece's x; columns; rows of a block

/* One row of a block into the result, from column n on */
static void finish(const OpCall *c, const int32_t *sum, int64_t m, int64_t n)
{
    const int64_t width = c->linear.w.dim[0], at = m * width;
    const float *scale = c->linear.w.scale, *bias = c->linear.b.data, *gate = c->linear.gate.data;
    const V own = v_set(((const float *)c->linear.x.scale)[m]);

    for (int64_t end = min_i64(width, n + GROUP8); n < end; n += VN, sum += VN) {
        const int64_t nb = min_i64(VN, end - n);
        V v = v_mul(_mm512_cvtepi32_ps(_mm512_loadu_si512(sum)), v_mul(own, v_load_part(scale + n, nb)));

        if (bias)
            v = v_add(v, v_load_part(bias + n, nb));
        v = v_act(c->u.act, v, c->out.dtype);
        if (gate)
            v = v_mul(v, v_load_part(gate + n, nb));
        if (c->linear.res.be)
            v = v_add(v, load_typed(c->linear.res.data, c->linear.res.dtype, at + n, nb));
        store_typed(c->out.data, c->out.dtype, at + n, v, nb);
    }
}

typedef struct Cut {
    int64_t rows, columns, bands, groups;
} Cut;

static Cut cut_of(const Backend *be, int block, int64_t m, int64_t n, int64_t depth)
{
    const int64_t fit = CACHE / depth, most = fit < ROWS ? fit : ROWS;
    Cut c = { .rows = most / block * block, .columns = COLUMNS };

    if (c.rows < block)
        c.rows = block;
    c.bands = (m + c.rows - 1) / c.rows;
    while (c.columns > GROUP8 && c.bands * ((n + c.columns - 1) / c.columns) < 3 * be->threads)
        c.columns /= 2;
    c.groups = (n + c.columns - 1) / c.columns;
    return c;
}

static void piece(const Level8 *l, const OpCall *c, int8_t *rows, int64_t m, int64_t nb_m, int64_t n, int64_t end)
{
    const int64_t k = c->linear.w.dim[1], depth = avt_codes8_depth(k), columns = avt_codes8_columns(c->linear.w.dim[0]);
    const int8_t *w = c->linear.w.data;
    const int32_t *all = (const int32_t *)(w + columns * depth);
    int32_t sum[MOST][GROUP8] __attribute__((aligned(64)));

    l->copy_rows(rows, (const int8_t *)c->linear.x.data + m * k, k, nb_m, depth);
    for (; n < end; n += GROUP8)
        for (int64_t i = 0; i < nb_m; i += l->block) {
            l->block_sums(sum, rows + i * depth, w + n * depth, all + n, depth);
            for (int64_t r = 0; r < l->block && i + r < nb_m; r++)
                finish(c, sum[r], m + i + r, n);
        }
}

static int linear8(const Level8 *l, Backend *be, const OpCall *c)
{
    const int64_t n = c->linear.w.dim[0], depth = avt_codes8_depth(c->linear.w.dim[1]), m = avt_rows_of(c->out);
    const Cut cut = cut_of(be, l->block, m, n, depth);
    const size_t size = (size_t)(cut.rows * depth);
    int8_t *work = avt_cpu_work(be, size * (size_t)be->threads);

    if (!work)
        return AVT_ERR(ENOMEM);
#pragma omp parallel num_threads(be->threads) if (m * n * depth > TILED * be->grain)
    {
        if (l->open)
            l->open();
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < cut.bands * cut.groups; i++) {
            const int64_t row = i / cut.groups * cut.rows, column = i % cut.groups * cut.columns;

            if (!avt_cpu_given_up(be))
                piece(l, c, work + size * (size_t)avt_cpu_thread(), row, min_i64(cut.rows, m - row), column, min_i64(column + cut.columns, n));
        }
        if (l->close)
            l->close();
    }
    return 0;
}

#endif
