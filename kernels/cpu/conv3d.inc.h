/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * conv3d: who computes a call, and the convolutions with at most NARROW output channels that are not for winograd.inc.h. All taps
 * of a result are summed in registers, so that the result is written once; oneDNN, asked tap by tap, goes over it three times and
 * is held up by memory.
 *
 *   acc[pixel][channels]  over PIXELS neighbours of a row;   for each input row (kt, ky) that exists:
 *       acc += x[pixel * stride + 0 .. kW * Cin) w[kt, ky][kW * Cin][channels]          kW * Cin numbers lie side by side
 *
 * With three channels or fewer (the picture itself) lanes are numbers of the input instead, and a result is their sum:
 *
 *   acc[pixel][channel] += x[pixel * stride + i .. i + VN) w[kt, ky][channel][i .. i + VN)
 *
 * A piece of a row that reaches over the edge of the picture is first copied between zeros. Weights come in the order of plain C
 * and are laid out in vectors once a call. A weight that winograd.inc.h takes has that order too: a call with a stride is computed
 * here, NARROW channels after another. All others go where they went before (Cpu.conv3d_wide).
 */
#include <string.h>

#include "cpu/simd.h"
#include "cpu/winograd.inc.h"

#ifdef LEVEL

enum { VECTORS = NARROW / VN, PIXELS = VN == 16 ? 16 : 6, FOUR = VN == 16 ? 4 : 3, FEW = 3, FEW_PIXELS = VN == 16 ? 8 : 4 };

typedef struct Narrow {
    const OpCall *c;
    int64_t prev, front;                // cached frames; frames before x, cached or zero
    int64_t run;                        // numbers of one input row that a result takes: kW * Cin
    float *w;                           // [kT * kH][run][NARROW], or of few channels [kT * kH][FEW][run]
    float *edge;                        // a piece of an input row between zeros; one a thread
    int64_t first;                      // output channel; NARROW from there on are computed
    int few;
} Narrow;

/*
 * sum[PIXELS][vectors] += x[pixel * step + i] w[i][vectors], i < nb. The loop is bound by its loads, one a product: pixels are
 * addressed in fours from a pointer each, so that no address has to be fetched from the stack as well.
 */
INLINE void add_run(V sum[PIXELS][VECTORS], const float *x, int64_t step, const float *w, int64_t nb, const int vectors)
{
    const float *four[PIXELS / FOUR];
    const int64_t step3 = 3 * step;
    V acc[PIXELS][VECTORS];

    for (int p = 0; p < PIXELS; p++)
        for (int v = 0; v < vectors; v++)
            acc[p][v] = sum[p][v];
    for (int f = 0; f < PIXELS / FOUR; f++)
        four[f] = x + f * FOUR * step;
    for (int64_t i = 0; i < nb; i++, w += NARROW) {
        V b[VECTORS];

        for (int v = 0; v < vectors; v++)
            b[v] = v_load(w + v * VN);
        for (int p = 0; p < PIXELS; p++) {
            const float *q = four[p / FOUR];
            const V a = v_set(p % FOUR == 0 ? q[0] : p % FOUR == 1 ? q[step] : p % FOUR == 2 ? q[2 * step] : q[step3]);

            for (int v = 0; v < vectors; v++)
                acc[p][v] = v_fma(a, b[v], acc[p][v]);
        }
        for (int f = 0; f < PIXELS / FOUR; f++) {
            four[f]++;
            __asm__("" : "+r"(four[f]));                            // keep it in a register of its own
        }
    }
    for (int p = 0; p < PIXELS; p++)
        for (int v = 0; v < vectors; v++)
            sum[p][v] = acc[p][v];
}

/* Row y of the input frame that is `frame` frames from x's first; NULL where all is zero. */
INLINE const float *input_row(const Narrow *n, int64_t frame, int64_t y)
{
    const int64_t *d = n->c->in[0].dim;

    if (y < 0 || y >= d[1] || frame < -n->prev)
        return NULL;
    if (frame < 0)
        return (const float *)n->c->in[1].data + ((frame + n->prev) * d[1] + y) * d[2] * d[3];
    return (const float *)n->c->in[0].data + (frame * d[1] + y) * d[2] * d[3];
}

/* `nb` pixels from column `first` on, with zeros for those outside of the row */
static const float *between_zeros(const Narrow *n, const float *row, int64_t first, int64_t nb, float *edge)
{
    const int64_t width = n->c->in[0].dim[2], cin = n->c->in[0].dim[3];
    const int64_t from = first > 0 ? first : 0, to = min_i64(first + nb, width);

    memset(edge, 0, (size_t)(nb * cin) * sizeof(*edge));
    if (to > from)
        memcpy(edge + (from - first) * cin, row + from * cin, (size_t)((to - from) * cin) * sizeof(*edge));
    return edge;
}

/* Column of the input where a piece of the output begins, and whether the `nb` pixels from there are all inside of the row */
INLINE int64_t input_column(const Narrow *n, int64_t col, int64_t nb, int *inside)
{
    const int64_t first = col * n->c->u.conv.stride - n->c->u.conv.pad0;

    *inside = first >= 0 && first + nb <= n->c->in[0].dim[2];
    return first;
}

INLINE void finish(const Narrow *n, V sum[PIXELS][VECTORS], int64_t at, int64_t nb, const int vectors)
{
    const int64_t cout = n->c->out.dim[3];
    const float *bias = n->c->in[3].data, *res = n->c->in[4].data;

    for (int64_t p = 0; p < nb; p++)
        for (int v = 0; v < vectors; v++) {
            const int64_t channel = n->first + v * VN, left = cout - channel, i = at + p * cout + channel;
            V a = sum[p][v];

            if (left <= 0)
                continue;
            if (bias)
                a = v_add(a, load_some(bias + channel, left));
            if (res)
                a = v_add(a, load_some(res + i, left));
            store_some((float *)n->c->out.data + i, a, left);
        }
}

INLINE void some_pixels(const Narrow *n, float *edge, int64_t t, int64_t y, int64_t col, const int vectors)
{
    const OpCall *c = n->c;
    const ConvSpec *s = &c->u.conv;
    const int64_t *k = c->in[2].dim, *out = c->out.dim, cin = c->in[0].dim[3], need = (PIXELS - 1) * s->stride + k[4];
    V sum[PIXELS][VECTORS];
    int inside;
    const int64_t first = input_column(n, col, need, &inside);

    for (int p = 0; p < PIXELS; p++)
        for (int v = 0; v < vectors; v++)
            sum[p][v] = v_set(0);
    for (int64_t kt = 0; kt < k[2]; kt++)
        for (int64_t ky = 0; ky < k[3]; ky++) {
            const float *row = input_row(n, t * s->stride_t + kt - n->front, y * s->stride - s->pad0 + ky);

            if (row)
                add_run(sum, inside ? row + first * cin : between_zeros(n, row, first, need, edge), s->stride * cin,
                        n->w + (kt * k[3] + ky) * n->run * NARROW, n->run, vectors);
        }
    finish(n, sum, ((t * out[1] + y) * out[2] + col) * out[3], min_i64(PIXELS, out[2] - col), vectors);
}

/* The same for few channels, one run of an input row */
INLINE void add_few(V sum[FEW_PIXELS][FEW], const float *x, int64_t step, const float *w, int64_t nb)
{
    V acc[FEW_PIXELS][FEW];

    for (int p = 0; p < FEW_PIXELS; p++)
        for (int o = 0; o < FEW; o++)
            acc[p][o] = sum[p][o];
    for (int64_t i = 0; i < nb; i += VN) {
        V b[FEW];

        for (int o = 0; o < FEW; o++)
            b[o] = v_load(w + o * nb + i);
        for (int p = 0; p < FEW_PIXELS; p++) {
            const V a = v_load(x + p * step + i);

            for (int o = 0; o < FEW; o++)
                acc[p][o] = v_fma(a, b[o], acc[p][o]);
        }
    }
    for (int p = 0; p < FEW_PIXELS; p++)
        for (int o = 0; o < FEW; o++)
            sum[p][o] = acc[p][o];
}

/* inside is a constant: without calls in the loop the sums stay in registers */
INLINE void few_sums(const Narrow *n, V sum[FEW_PIXELS][FEW], float *edge, int64_t t, int64_t y, int64_t first, const int inside)
{
    const ConvSpec *s = &n->c->u.conv;
    const int64_t *k = n->c->in[2].dim, cin = n->c->in[0].dim[3], need = (FEW_PIXELS - 1) * s->stride + k[4];

    for (int64_t kt = 0; kt < k[2]; kt++)
        for (int64_t ky = 0; ky < k[3]; ky++) {
            const float *row = input_row(n, t * s->stride_t + kt - n->front, y * s->stride - s->pad0 + ky);

            if (row)
                add_few(sum, inside ? row + first * cin : between_zeros(n, row, first, need, edge), s->stride * cin,
                        n->w + (kt * k[3] + ky) * n->run * FEW, n->run);
        }
}

INLINE void few_pixels(const Narrow *n, float *edge, int64_t t, int64_t y, int64_t col)
{
    const int64_t *out = n->c->out.dim, at = ((t * out[1] + y) * out[2] + col) * out[3];
    const float *bias = n->c->in[3].data, *res = n->c->in[4].data;
    V sum[FEW_PIXELS][FEW];
    int inside;
    const int64_t first = input_column(n, col, (FEW_PIXELS - 1) * n->c->u.conv.stride + n->c->in[2].dim[4], &inside);

    for (int p = 0; p < FEW_PIXELS; p++)
        for (int o = 0; o < FEW; o++)
            sum[p][o] = v_set(0);
    if (inside)
        few_sums(n, sum, edge, t, y, first, 1);
    else
        few_sums(n, sum, edge, t, y, first, 0);
    for (int64_t p = 0; p < min_i64(FEW_PIXELS, out[2] - col); p++)
        for (int64_t o = 0; o < out[3]; o++) {
            const int64_t i = at + p * out[3] + o;

            ((float *)n->c->out.data)[i] = v_sum(sum[p][o]) + (bias ? bias[o] : 0) + (res ? res[i] : 0);
        }
}

/* [Cout / 8][kT][kH][kW][Cin][8] to [kT, kH][kW, Cin][NARROW], absent channels zero */
static void lay_out(float *w, const float *panels, int64_t nb_panels, int64_t nb)
{
    memset(w, 0, (size_t)(nb * NARROW) * sizeof(*w));
    for (int64_t p = 0; p < nb_panels; p++)
        for (int64_t i = 0; i < nb; i++)
            memcpy(w + i * NARROW + p * PANEL, panels + (p * nb + i) * PANEL, PANEL * sizeof(*w));
}

/* The same to [kT, kH][FEW][kW, Cin] */
static void lay_out_few(float *w, const float *panels, int64_t nb_rows, int64_t run)
{
    for (int64_t r = 0; r < nb_rows; r++)
        for (int64_t o = 0; o < FEW; o++)
            for (int64_t i = 0; i < run; i++)
                w[(r * FEW + o) * run + i] = panels[(r * run + i) * PANEL + o];
}

INLINE void one_row(const Narrow *n, float *edge, int64_t t, int64_t y)
{
    const int64_t cout = n->c->out.dim[3], width = n->c->out.dim[2];

    if (n->few)
        for (int64_t col = 0; col < width; col += FEW_PIXELS)
            few_pixels(n, edge, t, y, col);
    else if (cout - n->first > VN)
        for (int64_t col = 0; col < width; col += PIXELS)
            some_pixels(n, edge, t, y, col, VECTORS);
    else
        for (int64_t col = 0; col < width; col += PIXELS)
            some_pixels(n, edge, t, y, col, 1);
}

static int conv3d(Backend *be, const OpCall *c)
{
    const Cpu *cpu = be->priv;
    const int64_t *k = c->in[2].dim, *out = c->out.dim, taps = k[2] * k[3] * k[4] * k[1], rows = out[0] * out[1];
    const int64_t edge = ((PIXELS - 1) * c->u.conv.stride + k[4]) * k[1];
    const float *w = c->in[2].data;
    Narrow n = { .c = c, .prev = c->in[1].be ? c->in[1].dim[0] : 0, .run = k[4] * k[1], .few = k[0] <= FEW && k[1] % VN == 0 };

    if (!avt_conv3d_keeps_order(cpu, k))
        return cpu->measuring && cpu->conv3d_wide == avt_plain_conv3d ? 0 : cpu->conv3d_wide(be, c);
    if (is_for_winograd(c))
        return winograd(be, c);
    n.w = avt_cpu_work(be, (size_t)(taps * NARROW + be->threads * edge) * sizeof(float));
    if (!n.w)
        return AVT_ERR(ENOMEM);
    n.edge = n.w + taps * NARROW;
    n.front = n.prev + c->u.conv.pad_t;
    for (; n.first < k[0]; n.first += NARROW) {
        const int64_t panels = min_i64(panels_of(k[0] - n.first), NARROW / PANEL);

        if (n.few)
            lay_out_few(n.w, w, k[2] * k[3], n.run);
        else
            lay_out(n.w, w + n.first * taps, panels, taps);
#pragma omp parallel for num_threads(be->threads) if (avt_numel(c->out) > 2048)
        for (int64_t r = 0; r < rows; r++)
            if (!avt_cpu_given_up(be))
                one_row(&n, n.edge + avt_cpu_thread() * edge, r / out[1], r % out[1]);
    }
    return 0;
}

#endif
