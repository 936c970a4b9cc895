/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conv3d with 3x3x3 or 1x3x3 taps and stride 1 by Winograd's minimal filtering: a tile of the result, 2 frames of 4 x 4 pixels,
 * comes out of 4 frames of 6 x 6 pixels with 144 products for each pair of channels, where its definition has 864: six times fewer.
 * One frame alone, of a kernel without time, has 36 instead of 144.
 *
 *   input of a tile  --B-->  144 points, each a vector of Cin     in time (0, 1, -1, inf), rows and columns (0, +-3/4, +-3/2, inf)
 *   weights          --G-->  144 matrices Cin x Cout, once a call
 *   point by point, for some tiles at a time: [tiles, Cin] x [Cin, Cout]; then  --A-->  the tile, bias, residual
 *
 * The places are chosen for rounding: constants exact in binary, magnitudes near 1. As the sums are 27 times shorter, the errors
 * stay at 1.3 to 1.5 times those of the definition summed in order; with the usual places, +-1 and +-2, they are 3 times those.
 *
 * Bits: frames make pairs, ConvSpec.frame says which. A frame whose partner is not in the call is computed alone by the same
 * steps in the same order, so that its bits do not depend on where a stream was cut. Equal frames: the points that are
 * differences in time are zeros, so that the frames of a pair are equal to the last bit, as a still in the VAE wants it.
 *
 * Source: Lavin, Gray, Fast Algorithms for Convolutional Neural Networks, 2015; places: Barabasz and others, Error Analysis and
 * Improving the Accuracy of Winograd Convolution for Deep Neural Networks, 2020.
 */
#ifndef AVT_WINOGRAD_INC_H
#define AVT_WINOGRAD_INC_H

#include <string.h>

#include "cpu/simd.h"

#ifdef LEVEL

enum {
    DEPTH = 4, SIDE = 6, GRID = SIDE * SIDE,    // points of a tile: in time, along a side, in a plane
    STEP = SIDE - 2,                            // pixels of the result along a side
    RING = 8,                                   // columns that are kept: a tile shares two with its neighbour
    AT_ONCE = 8, AT_MOST = 32,                  // tiles that are multiplied together; with weights that no cache near holds
    ABREAST = 2,                                // vectors of output channels, likewise
    LINE = 16,                                  // floats between two points' rows, so that not all fall in one set of the cache
    GROUPS = VN == 16 ? 2 : 1                   // tiles of a product are addressed in fours: so many of them
};

static const float near2 = 0.5625f, far2 = 2.25f, near1 = 0.75f, far1 = 1.5f;       // squares of the places, and these

typedef struct Winograd {
    const OpCall *c;
    int second;                         // the first frame of the result is the second of a pair
    int64_t prev, front;                // cached frames; frames of input before x, cached or zero
    int64_t across, tiles;              // tiles in a row, in a picture
    int64_t at_once;
    int64_t vectors;                    // of output channels
    int64_t points;                     // of a tile
    int64_t t_step, m_step, u_step;     // floats from a point to the next; of the weights for one vector
    float *u;                           // weights [vectors / ABREAST][points][Cin][ABREAST, VN]
    float *t, *m;                       // a thread's input [points][tiles][Cin] and products [points][tiles][ABREAST, VN]
} Winograd;

typedef struct Pair {                   // two frames of the result, or one of them
    int64_t frame;                      // the first's number, also where it is not in the call
    int from, to;                       // points in time that are needed
    const float *d[DEPTH];              // the input's frames, NULL: zeros
} Pair;

/* ---- one dimension ------------------------------------------------------------------------------------------------ */

/* Six values of the input to six points */
INLINE void to_points(V e[SIDE], const V d[SIDE])
{
    const V p = v_fnma(v_set(far2), d[2], d[4]), q = v_fnma(v_set(far2), d[1], d[3]);
    const V r = v_fnma(v_set(near2), d[2], d[4]), s = v_fnma(v_set(near2), d[1], d[3]);

    e[0] = v_fma(v_set(near2 * far2), d[0], v_fnma(v_set(near2 + far2), d[2], d[4]));
    e[1] = v_fma(v_set(near1), q, p);
    e[2] = v_fnma(v_set(near1), q, p);
    e[3] = v_fma(v_set(far1), s, r);
    e[4] = v_fnma(v_set(far1), s, r);
    e[5] = v_fma(v_set(near2 * far2), d[1], v_fnma(v_set(near2 + far2), d[3], d[5]));
}

/* Three taps to six points */
INLINE void taps_to_points(V u[SIDE], V w0, V w1, V w2)
{
    const V near_norm = v_set(1 / (2 * near2 * (near2 - far2))), far_norm = v_set(1 / (2 * far2 * (far2 - near2)));
    const V p = v_fma(v_set(near2), w2, w0), q = v_mul(v_set(near1), w1);
    const V r = v_fma(v_set(far2), w2, w0), s = v_mul(v_set(far1), w1);

    u[0] = v_mul(v_set(1 / (near2 * far2)), w0);
    u[1] = v_mul(near_norm, v_add(p, q));
    u[2] = v_mul(near_norm, v_sub(p, q));
    u[3] = v_mul(far_norm, v_add(r, s));
    u[4] = v_mul(far_norm, v_sub(r, s));
    u[5] = w2;
}

/* Six points to four values of the result */
INLINE void from_points(V y[STEP], const V m[SIDE])
{
    const V p = v_add(m[1], m[2]), q = v_sub(m[1], m[2]), r = v_add(m[3], m[4]), s = v_sub(m[3], m[4]);

    y[0] = v_add(m[0], v_add(p, r));
    y[1] = v_fma(v_set(far1), s, v_mul(v_set(near1), q));
    y[2] = v_fma(v_set(far2), r, v_mul(v_set(near2), p));
    y[3] = v_fma(v_set(far1 * far2), s, v_fma(v_set(near1 * near2), q, m[5]));
}

/* ---- weights ------------------------------------------------------------------------------------------------------- */

/* Tap (k, ky, kx) of input channel i and vector v of output channels, out of panels [Cout / 8][kT][3][3][Cin][8] */
INLINE V tap_of(const Winograd *n, int64_t v, int64_t i, int k, int ky, int kx)
{
    static const float none[PANEL];
    const int64_t *dim = n->c->in[2].dim, panel = dim[1] * dim[2] * 9 * PANEL, nb = panels_of(dim[0]);
    const float *w = (const float *)n->c->in[2].data + v * (VN / PANEL) * panel + (((k * 3 + ky) * 3 + kx) * dim[1] + i) * PANEL;

    return v_panels(w, (v + 1) * (VN / PANEL) <= nb ? w + panel : none);
}

/* A plane of points from three rows of three taps */
INLINE void plane(float *u, int64_t step, V w[3][3])
{
    V rows[SIDE][3], e[SIDE];

    for (int x = 0; x < 3; x++) {
        taps_to_points(e, w[0][x], w[1][x], w[2][x]);
        for (int r = 0; r < SIDE; r++)
            rows[r][x] = e[r];
    }
    for (int r = 0; r < SIDE; r++) {
        taps_to_points(e, rows[r][0], rows[r][1], rows[r][2]);
        for (int k = 0; k < SIDE; k++)
            v_store(u + (r * SIDE + k) * step, e[k]);
    }
}

/* The points of input channel i and vector v */
static void weight(const Winograd *n, int64_t v, int64_t i)
{
    const int64_t first = v / ABREAST * ABREAST, abreast = min_i64(ABREAST, n->vectors - first), step = n->u_step * abreast + LINE;
    float *u = n->u + first * n->points * n->u_step + first / ABREAST * n->points * LINE + (i * abreast + v - first) * VN;
    V w[DEPTH][3][3];

    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 3; x++) {
            const V w0 = tap_of(n, v, i, 0, y, x);

            w[0][y][x] = w0;
            if (n->points > GRID) {
                const V w1 = tap_of(n, v, i, 1, y, x), w2 = tap_of(n, v, i, 2, y, x), half = v_mul(v_set(0.5f), v_add(w0, w2));

                w[1][y][x] = v_fma(v_set(0.5f), w1, half);
                w[2][y][x] = v_fnma(v_set(0.5f), w1, half);
                w[3][y][x] = w2;
            }
        }
    for (int k = 0; k < n->points / GRID; k++)
        plane(u + k * GRID * step, step, w[k]);
}

/* ---- input ----------------------------------------------------------------------------------------------------------- */

static const float *input_frame(const Winograd *n, int64_t frame)
{
    const int64_t *d = n->c->in[0].dim, size = d[1] * d[2] * d[3];

    if (frame < -n->prev || frame >= d[0])
        return NULL;
    return frame < 0 ? (const float *)n->c->in[1].data + (frame + n->prev) * size : (const float *)n->c->in[0].data + frame * size;
}

/* Pair i of the result; of a kernel without time, frame i. The first frame does without the last of the input, the second without
 * the first. */
static Pair pair_of(const Winograd *n, int64_t i)
{
    const int alone = n->points == GRID;
    Pair p = { .frame = alone ? i : 2 * i - n->second, .to = 1 };

    if (!alone) {
        p.from = p.frame < 0;
        p.to = p.frame + 1 < n->c->out.dim[0] ? DEPTH : DEPTH - 1;
    }
    for (int k = p.from; k < p.to; k++)
        p.d[k] = input_frame(n, p.frame - n->front + k);
    if (p.from)                                                     // any frame will do where none is needed
        p.d[0] = p.d[1];
    if (p.to == DEPTH - 1)
        p.d[DEPTH - 1] = p.d[1];
    return p;
}

INLINE V pixel(const float *x, int64_t at, int64_t left, const int inside, int there)
{
    return inside ? v_load(x + at) : x && there ? load_some(x + at, left) : v_set(0);
}

/*
 * Six pixels of a column, one below the other, to their points: in time d0 - d2, d1 + d2, d2 - d1, d1 - d3. inside: none is absent.
 * Each number is read once: frames and rows of common sizes all fall in one set of the cache.
 */
INLINE void column(const Pair *p, V *ring, int64_t at, int64_t row, int64_t left, unsigned there, const int alone, const int inside)
{
    V d[DEPTH][SIDE], e[SIDE];

    for (int r = 0; r < SIDE; r++, at += row) {
        const V d0 = pixel(p->d[0], at, left, inside, there >> r & 1);

        d[0][r] = d0;
        if (!alone) {
            const V d1 = pixel(p->d[1], at, left, inside, there >> r & 1), d2 = pixel(p->d[2], at, left, inside, there >> r & 1);

            d[0][r] = v_sub(d0, d2);
            d[1][r] = v_add(d1, d2);
            d[2][r] = v_sub(d2, d1);
            d[3][r] = v_sub(d1, pixel(p->d[3], at, left, inside, there >> r & 1));
        }
    }
    for (int k = 0; k < (alone ? 1 : DEPTH); k++) {
        to_points(e, d[k]);
        for (int r = 0; r < SIDE; r++)
            ring[(k * SIDE + r) * RING] = e[r];
    }
}

/* Columns from .. SIDE - 1 of a tile whose input begins at (y, x), channels c .. */
static void columns(const Winograd *n, const Pair *p, V *ring, int64_t y, int64_t x, int64_t c, int from, int slot)
{
    const int64_t *dim = n->c->in[0].dim, row = dim[2] * dim[3], left = dim[3] - c, at = y * row + x * dim[3] + c;
    int inside = y >= 0 && y + SIDE <= dim[1] && x >= 0 && x + SIDE <= dim[2] && left >= VN;
    unsigned rows = 0;

    for (int k = 0; k < (p->to > 1 ? DEPTH : 1); k++)
        inside &= p->d[k] != NULL;
    for (int r = 0; r < SIDE; r++)
        rows |= (unsigned)(y + r >= 0 && y + r < dim[1]) << r;
    for (int k = from; k < SIDE; k++) {
        V *to = ring + (slot + k) % RING;

        if (inside && p->to > 1)
            column(p, to, at + k * dim[3], row, left, 0, 0, 1);
        else if (p->to > 1)
            column(p, to, at + k * dim[3], row, left, x + k >= 0 && x + k < dim[2] ? rows : 0, 0, 0);
        else if (inside)
            column(p, to, at + k * dim[3], row, left, 0, 1, 1);
        else
            column(p, to, at + k * dim[3], row, left, x + k >= 0 && x + k < dim[2] ? rows : 0, 1, 0);
    }
}

/* Six columns out of the ring, from `slot` on, to points */
INLINE void across(const Pair *p, float *t, int64_t step, const V *ring, int slot, int64_t left)
{
    t += p->from * GRID * step;
    for (int q = p->from * SIDE; q < p->to * SIDE; q++) {
        V e[SIDE], d[SIDE];

        for (int k = 0; k < SIDE; k++)
            d[k] = ring[q * RING + (slot + k) % RING];
        to_points(e, d);
        for (int k = 0; k < SIDE; k++, t += step)
            store_some(t, e[k], left);
    }
}

/* Tiles first .. first + nb - 1 to their points; beyond the last tile it is given again. */
static void read_tiles(const Winograd *n, const Pair *p, float *t, int64_t first, int64_t nb)
{
    const int64_t cin = n->c->in[0].dim[3], pad = n->c->u.conv.pad0;
    V ring[DEPTH * SIDE * RING];                                    // [points][columns]

    for (int64_t c = 0; c < cin; c += VN)
        for (int64_t i = 0; i < nb; i++) {
            const int64_t tile = min_i64(first + i, n->tiles - 1), col = tile % n->across;
            const int slot = (int)(col * STEP) % RING;

            columns(n, p, ring, tile / n->across * STEP - pad, col * STEP - pad, c, i && col ? SIDE - STEP : 0, slot);
            if (c + VN <= cin && slot)
                across(p, t + i * cin + c, n->t_step, ring, STEP, VN);
            else if (c + VN <= cin)
                across(p, t + i * cin + c, n->t_step, ring, 0, VN);
            else
                across(p, t + i * cin + c, n->t_step, ring, slot, cin - c);
        }
}

/* ---- products -------------------------------------------------------------------------------------------------------- */

/* m[4 groups][vectors] = t[4 groups][nb] u[nb][vectors]; as in conv3d.inc.h, tiles are addressed in fours from a pointer each. */
INLINE void tiles_by(float *m, const float *t, const float *u, int64_t nb, const int groups, const int vectors)
{
    const float *four[2];
    V acc[4 * 2][ABREAST];

    for (int p = 0; p < 4 * groups; p++)
        for (int v = 0; v < vectors; v++)
            acc[p][v] = v_set(0);
    for (int g = 0; g < groups; g++)
        four[g] = t + g * 4 * nb;
    for (int64_t i = 0; i < nb; i++, u += vectors * VN) {
        V b[ABREAST];

        for (int v = 0; v < vectors; v++)
            b[v] = v_load(u + v * VN);
        for (int p = 0; p < 4 * groups; p++) {
            const V a = v_set(four[p / 4][p % 4 * nb]);

            for (int v = 0; v < vectors; v++)
                acc[p][v] = v_fma(a, b[v], acc[p][v]);
        }
        for (int g = 0; g < groups; g++) {
            four[g]++;
            __asm__("" : "+r"(four[g]));                            // keep it in a register of its own
        }
    }
    for (int p = 0; p < 4 * groups; p++)
        for (int v = 0; v < vectors; v++)
            v_store(m + (p * vectors + v) * VN, acc[p][v]);
}

/* All points of nb tiles, a multiple of 4, for `vectors` vectors of output channels */
INLINE void products(const Winograd *n, const Pair *p, float *m, const float *t, const float *u, int64_t nb, const int vectors)
{
    const int64_t cin = n->c->in[0].dim[3], step = n->u_step * vectors + LINE;
    const int groups = vectors == ABREAST ? GROUPS : 2;

    for (int64_t q = p->from * GRID; q < p->to * GRID; q++) {
        int64_t i = 0;

        for (; i + 4 * groups <= nb; i += 4 * groups)
            tiles_by(m + q * n->m_step + i * vectors * VN, t + q * n->t_step + i * cin, u + q * step, cin, groups, vectors);
        for (; i < nb; i += 4)
            tiles_by(m + q * n->m_step + i * vectors * VN, t + q * n->t_step + i * cin, u + q * step, cin, 1, vectors);
    }
}

/* ---- result ---------------------------------------------------------------------------------------------------------- */

typedef struct Place {                  // of a tile in a frame of the result
    float *out;
    const float *res;
    int64_t pixel, row;                 // floats
    int64_t width, height;              // of what there is of it
    int64_t left;                       // channels
    V bias;
} Place;

INLINE void put_rows(const Place *p, V rows[STEP][SIDE], int64_t height, int64_t width, int64_t left, const int res)
{
    for (int64_t r = 0; r < height; r++) {
        V y[STEP];

        from_points(y, rows[r]);
        for (int k = 0; k < STEP; k++)
            if (k < width) {
                const V v = v_add(y[k], p->bias);

                store_some(p->out + r * p->row + k * p->pixel,
                           res ? v_add(v, load_some(p->res + r * p->row + k * p->pixel, left)) : v, left);
            }
    }
}

/* Rows of points to pixels; the common case is compiled by itself. */
static void put_tile(const Place *p, V rows[STEP][SIDE])
{
    const int whole = p->height == STEP && p->width == STEP && p->left >= VN;

    if (whole && p->res)
        put_rows(p, rows, STEP, STEP, VN, 1);
    else if (whole)
        put_rows(p, rows, STEP, STEP, VN, 0);
    else if (p->res)
        put_rows(p, rows, p->height, p->width, p->left, 1);
    else
        put_rows(p, rows, p->height, p->width, p->left, 0);
}

/* A tile's points m to pixels at `p`: of the first and (or) the second frame, `frame` floats apart. time: whether there are points
 * in time. */
INLINE void write_tile(Place *p, int64_t frame, const float *m, int64_t step, const int time, const int first, const int second)
{
    V rows[2][STEP][SIDE], e[SIDE], f[SIDE], y[STEP];
    const int64_t plane = GRID * step;

    for (int k = 0; k < SIDE; k++) {
        for (int r = 0; r < SIDE; r++) {
            const float *q = m + (r * SIDE + k) * step;
            const V m1 = v_load(q + (time ? plane : 0)), m2 = time ? v_load(q + 2 * plane) : m1;

            e[r] = time && first ? v_add(v_load(q), v_add(m1, m2)) : m1;
            f[r] = second ? v_sub(v_sub(m1, m2), v_load(q + 3 * plane)) : m1;
        }
        if (first) {
            from_points(y, e);
            for (int r = 0; r < STEP; r++)
                rows[0][r][k] = y[r];
        }
        if (second) {
            from_points(y, f);
            for (int r = 0; r < STEP; r++)
                rows[1][r][k] = y[r];
        }
    }
    if (first)
        put_tile(p, rows[0]);
    if (first && second) {
        p->out += frame;
        p->res += p->res ? frame : 0;
    }
    if (second)
        put_tile(p, rows[1]);
}

/* Channels c .. of tile `tile` of the pair */
static void write_channels(const Winograd *n, const Pair *p, int64_t tile, int64_t c, const float *m)
{
    const int64_t *dim = n->c->out.dim, y = tile / n->across * STEP, x = tile % n->across * STEP, frame = dim[1] * dim[2] * dim[3];
    const int64_t at = (p->frame + p->from) * frame + (y * dim[2] + x) * dim[3] + c;
    const float *bias = n->c->in[3].data, *res = n->c->in[4].data;
    Place to = { (float *)n->c->out.data + at, res ? res + at : NULL, dim[3], dim[2] * dim[3], min_i64(STEP, dim[2] - x),
                 min_i64(STEP, dim[1] - y), dim[3] - c, bias ? load_some(bias + c, dim[3] - c) : v_set(0) };

    if (n->points == GRID)
        write_tile(&to, frame, m, n->m_step, 0, 1, 0);
    else if (p->from)
        write_tile(&to, frame, m, n->m_step, 1, 0, 1);
    else if (p->to < DEPTH)
        write_tile(&to, frame, m, n->m_step, 1, 1, 0);
    else
        write_tile(&to, frame, m, n->m_step, 1, 1, 1);
}

static void write_tiles(const Winograd *n, const Pair *p, const float *m, int64_t first, int64_t nb, int64_t v, int64_t vectors)
{
    for (int64_t i = 0; i < min_i64(nb, n->tiles - first); i++)
        for (int64_t k = 0; k < vectors; k++)
            write_channels(n, p, first + i, (v + k) * VN, m + (i * vectors + k) * VN);
}

static void some_tiles(const Winograd *n, int64_t pair, int64_t first, int thread)
{
    const int64_t left = (n->tiles - first + 3) / 4 * 4, nb = min_i64(n->at_once, left);
    const Pair p = pair_of(n, pair);
    float *t = n->t + thread * n->points * n->t_step, *m = n->m + thread * n->points * n->m_step;
    const float *u = n->u;

    read_tiles(n, &p, t, first, nb);
    for (int64_t v = 0; v < n->vectors; v += ABREAST, u += n->points * (ABREAST * n->u_step + LINE))
        if (v + ABREAST <= n->vectors) {
            products(n, &p, m, t, u, nb, ABREAST);
            write_tiles(n, &p, m, first, nb, v, ABREAST);
        } else {
            products(n, &p, m, t, u, nb, 1);
            write_tiles(n, &p, m, first, nb, v, 1);
        }
}

static int is_for_winograd(const OpCall *c)
{
    return avt_conv3d_is_minimal(c->in[2].dim) && c->u.conv.stride == 1 && c->u.conv.stride_t == 1;
}

static int winograd(Backend *be, const OpCall *c)
{
    const int64_t *dim = c->out.dim, cin = c->in[0].dim[3], depth = c->in[2].dim[2], threads = be->threads;
    const int second = !(c->u.conv.frame & 1);                      // is the first frame that of a pair?
    const int64_t pairs = depth == 1 ? dim[0] : (dim[0] + second + 1) / 2;
    Winograd n = { .c = c, .second = second, .prev = c->in[1].be ? c->in[1].dim[0] : 0, .across = (dim[2] + STEP - 1) / STEP,
                   .vectors = (dim[3] + VN - 1) / VN, .points = depth == 1 ? GRID : DEPTH * GRID,
                   .at_once = cin * dim[3] > 128 * 128 ? AT_MOST : AT_ONCE };
    int64_t batches;

    n.front = n.prev + c->u.conv.pad_t;
    n.tiles = n.across * ((dim[1] + STEP - 1) / STEP);
    while (n.at_once > 4 && pairs * ((n.tiles + n.at_once - 1) / n.at_once) < 2 * threads)
        n.at_once /= 2;
    n.t_step = n.at_once * cin + LINE;
    n.m_step = n.at_once * ABREAST * VN + LINE;
    n.u_step = cin * VN;
    n.u = avt_cpu_work(be, (size_t)(n.points * (n.vectors * (n.u_step + LINE) + threads * (n.t_step + n.m_step))) * sizeof(float));
    if (!n.u)
        return AVT_ERR(ENOMEM);
    n.t = n.u + n.points * n.vectors * (n.u_step + LINE);
    n.m = n.t + n.points * threads * n.t_step;
    batches = (n.tiles + n.at_once - 1) / n.at_once;
#pragma omp parallel num_threads(be->threads) if (avt_numel(c->out) > 2048)
    {
#pragma omp for
        for (int64_t i = 0; i < n.vectors * cin; i++)
            weight(&n, i / cin, i % cin);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < pairs * batches; i++)
            if (!avt_cpu_given_up(be))
                some_tiles(&n, i / batches, i % batches * n.at_once, avt_cpu_thread());
    }
    return 0;
}

#endif
#endif
