/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Products of bf16 in AMX tiles, see amx.h. A block's results are made while the tiles of the next one are being multiplied:
 * right after their store its sums would be waited for.
 *
 * Traps: gcc does not know that a tile is loaded from memory, hence fence(). The shape of the tiles is a state of the thread, which
 * others (oneDNN, attention) set for themselves: it is set in each parallel region and released there. AMX takes a subnormal for zero.
 */
#include "cpu/simd.h"
#include "cpu/amx.h"

enum { LIGHT = 256 << 10 };             // numbers of a weight

typedef struct Block {                  // 2 x 2 or 4 x 1 tiles of sums
    Rows a[SUMS];                       // of each row of tiles; nb = 0 behind the last
    int64_t n;                          // first column
    int two;                            // 2 x 2
    float *sum;
} Block;

INLINE void fence(void)
{
    __asm__ volatile("" ::: "memory");
}

void avt_amx_open(void)
{
    struct { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = { .palette = 1 };

    for (int i = 0; i < 8; i++)
        shape.bytes[i] = 64, shape.rows[i] = SIDE;
    fence();
    _tile_loadconfig(&shape);
}

void avt_amx_close(void)
{
    _tile_release();
}

/* Tiles 0 .. 3 += two tiles of rows x two of columns, c numbers apart */
INLINE void add_square(const Rows *a, int64_t run, const uint16_t *b, int64_t c, int64_t deep)
{
    const uint16_t *a0 = a[0].at + run, *a1 = a[1].at + run;
    const int64_t step0 = 2 * a[0].step, step1 = 2 * a[1].step;

    for (int64_t k = 0; k < deep; k++, a0 += DEEP, a1 += DEEP, b += TILE16) {
        _tile_loadd(4, a0, step0);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + c, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a1, step1);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* Tiles 0 .. 3 += four tiles of rows x one of columns */
INLINE void add_column(const Rows *a, int64_t run, const uint16_t *b, int64_t deep)
{
    for (int64_t k = 0; k < deep; k++, run += DEEP, b += TILE16) {
        _tile_loadd(6, b, 64);
        _tile_loadd(4, a[0].at + run, 2 * a[0].step);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a[1].at + run, 2 * a[1].step);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(4, a[2].at + run, 2 * a[2].step);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(5, a[3].at + run, 2 * a[3].step);
        _tile_dpbf16ps(3, 5, 6);
    }
}

INLINE void load_sums(const float *sum)
{
    _tile_loadd(0, sum, 64);
    _tile_loadd(1, sum + TILE32, 64);
    _tile_loadd(2, sum + 2 * TILE32, 64);
    _tile_loadd(3, sum + 3 * TILE32, 64);
}

INLINE void zero_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

INLINE void store_sums(float *sum)
{
    _tile_stored(0, sum, 64);
    _tile_stored(1, sum + TILE32, 64);
    _tile_stored(2, sum + 2 * TILE32, 64);
    _tile_stored(3, sum + 3 * TILE32, 64);
}

INLINE void sum_block(const Tiles *t, const Block *b)
{
    const uint16_t *w = t->w + b->n / SIDE * t->w_step;

    fence();
    if (t->add)
        load_sums(b->sum);
    else
        zero_sums();
    for (int64_t r = t->run; r < t->end_run; r++)
        if (b->two)
            add_square(b->a, t->at[r], w + r * t->deep * TILE16, t->w_step, t->deep);
        else
            add_column(b->a, t->at[r], w + r * t->deep * TILE16, t->deep);
    store_sums(b->sum);
}

INLINE V load_act(const void *x, DType type, int64_t at, __mmask16 m)
{
    if (type == DT_F32)
        return _mm512_maskz_loadu_ps(m, (const float *)x + at);
    return v_wide16(_mm256_maskz_loadu_epi16(m, (const uint16_t *)x + at));
}

INLINE void store_act(void *x, DType type, int64_t at, __mmask16 m, V v)
{
    if (type == DT_F32)
        _mm512_mask_storeu_ps((float *)x + at, m, v);
    else
        _mm256_mask_storeu_epi16((uint16_t *)x + at, m, v_narrow16(v));
}

typedef struct Columns {                // what all rows of a tile of columns share
    V bias, gate;
    __mmask16 mask;
} Columns;

INLINE Columns columns_of(const Tiles *t, int64_t n)
{
    const int64_t from = n < t->first ? t->first - n : 0, end = min_i64(SIDE, t->end - n);
    const __mmask16 m = (__mmask16)((1u << end) - (1u << from));

    return (Columns){ .bias = t->bias ? _mm512_maskz_loadu_ps(m, t->bias + n) : v_set(0),
                      .gate = t->gate ? _mm512_maskz_loadu_ps(m, t->gate + n) : v_set(1), .mask = m };
}

/* Results of a tile's rows. The result may be anywhere, for all that the compiler knows: what is read in the loop are locals. */
INLINE void finish_tile(const Tiles *t, const Rows *a, int64_t n, const float *sum, Act act)
{
    const Columns c = columns_of(t, n);
    const DType to = t->out.dtype, type = t->res.dtype;
    const int64_t width = t->width, end = a->nb;
    const void *const res = t->res.data;
    void *const out = t->out.data;

    for (int64_t r = 0, at = a->to * width + n; r < end; r++, at += width, sum += SIDE) {
        const V v = v_act(act, v_add(v_load(sum), c.bias), to);

        store_act(out, to, at, c.mask, res ? v_fma(v, c.gate, load_act(res, type, at, c.mask)) : v_mul(v, c.gate));
    }
}

INLINE void finish_tiles(const Tiles *t, const Block *b, Act act)
{
    for (int i = 0; i < SUMS; i++)
        finish_tile(t, &b->a[b->two ? i / 2 : i], b->n + (b->two ? i % 2 * SIDE : 0), b->sum + i * TILE32, act);
}

/* Do the rows of two neighbouring tiles of columns, or two neighbouring rows of one that is as wide as the result, lie side by side, to
 * be bf16 as they are? So do those of most convolutions. */
INLINE int in_lines(const Tiles *t, const Block *b)
{
    const int plain = t->act == ACT_NONE && !t->gate && t->out.dtype == DT_BF16 && (!t->res.be || t->res.dtype == DT_BF16);
    int even = 1;

    for (int i = 0; i < SUMS && !b->two; i++)
        even &= b->a[i].nb % 2 == 0;
    return plain && b->n >= t->first && b->n + (b->two ? 2 : 1) * SIDE <= t->end && (b->two || (t->width == SIDE && even));
}

/* Results of two times 16 sums, which are one store */
INLINE void finish_line(const float *left, const float *right, V bias_left, V bias_right, const uint16_t *res, uint16_t *out)
{
    V a = v_add(v_load(left), bias_left), b = v_add(v_load(right), bias_right);

    if (res) {
        a = v_add(a, v_load16(res));
        b = v_add(b, v_load16(res + SIDE));
    }
    _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}

INLINE void finish_lines(const Tiles *t, const Block *b, const uint16_t *res)
{
    const int64_t width = t->width, next = b->two ? width : 2 * SIDE, far = b->two ? TILE32 : SIDE, step = b->two ? SIDE : 2 * SIDE;
    const V left = t->bias ? v_load(t->bias + b->n) : v_set(0), right = b->two && t->bias ? v_load(t->bias + b->n + SIDE) : left;
    uint16_t *const out = t->out.data;

    for (int i = 0; i < (b->two ? SUMS / 2 : SUMS); i++) {
        const float *sum = b->sum + i * (b->two ? 2 : 1) * TILE32, *end = sum + b->a[i].nb * SIDE;

        for (int64_t at = b->a[i].to * width + b->n; sum < end; at += next, sum += step)
            finish_line(sum, sum + far, left, right, res ? res + at : NULL, out + at);
    }
}

static void finish_block(const Tiles *t, const Block *b)
{
    if (in_lines(t, b) && t->res.be)
        finish_lines(t, b, t->res.data);
    else if (in_lines(t, b))
        finish_lines(t, b, NULL);
    else if (t->act == ACT_NONE)
        finish_tiles(t, b, ACT_NONE);
    else
        finish_tiles(t, b, t->act);
}

/* Sums of the block, then the results of the one before it, which it takes the place of */
static void add_block(const Tiles *t, Block *last, int64_t n, int two, int64_t i, float *sum)
{
    Block b = { .n = n, .two = two, .sum = sum };

    for (int64_t j = 0; j < SUMS; j++) {
        b.a[j] = t->rows(t->ctx, min_i64(i + j, t->nb - 1));
        if (i + j >= t->nb)
            b.a[j].nb = 0;
    }
    sum_block(t, &b);
    if (t->keep)
        return;
    finish_block(t, last);
    *last = b;
}

/* A light weight stays in the cache, and each row of the result is written at once; with a heavy one all rows pass by its columns. */
void avt_amx_multiply(const Tiles *t)
{
    const int64_t begin = t->first / SIDE * SIDE, pairs = (t->end - begin + 2 * SIDE - 1) / (2 * SIDE), fours = (t->nb + SUMS - 1) / SUMS;
    const int light = pairs * 2 * t->w_step <= LIGHT, all = t->add || t->keep;
    Block last = { .n = begin };                             // none yet: it has no rows

    for (int64_t i = 0, nb = 0; i < pairs * fours; i++) {
        const int64_t n = begin + (light ? i % pairs : i / fours) * 2 * SIDE, row = (light ? i / pairs : i % fours) * SUMS;
        const int two = n + SIDE < t->end;

        for (int64_t r = row; r < min_i64(row + SUMS, t->nb); r += two ? SUMS / 2 : SUMS, nb++)
            add_block(t, &last, n, two, r, t->sum + (all ? nb : nb % 2) * SUMS * TILE32);
    }
    finish_block(t, &last);
}
