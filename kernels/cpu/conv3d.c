/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Convolution over [T, H, W, C], channels last: for four neighbouring pixels and eight output channels at a time, the sum over
 * the taps of (pixel under the tap) x (panel of the tap). A pixel outside the picture is a row of zeros; a frame before the
 * stream is skipped. Weights: [Cout / 8][kT][kH][kW][Cin][8], see weights.c.
 */
#include "cpu/plain.h"

static const float zeros[CHUNK];

/* Frame f of the list (pad_t zero frames, prev, x), or NULL for a zero frame. */
static const float *frame(const OpCall *c, int64_t f)
{
    const Tensor x = c->in[0], prev = c->in[1];
    const int64_t nb_prev = prev.be ? prev.dim[0] : 0, size = x.dim[1] * x.dim[2] * x.dim[3];

    f -= c->u.conv.pad_t;
    if (f < 0)
        return NULL;
    return f < nb_prev ? (const float *)prev.data + f * size : (const float *)x.data + (f - nb_prev) * size;
}

/* sum += the tap's product: pixels of the picture row `x` [W, Cin] at columns first, first + step, ... */
static void add_tap(float sum[TILE][PANEL], const float *x, int64_t width, int64_t cin, int64_t first, int step, const float *w)
{
    const float *p[TILE];

    for (int64_t i = 0; i < cin; i += CHUNK) {
        int inside = 0;

        for (int r = 0; r < TILE; r++) {
            const int64_t col = first + r * step;

            p[r] = col >= 0 && col < width ? x + col * cin + i : zeros;
            inside |= p[r] != zeros;
        }
        if (inside)
            panel_add(sum, p, w + i * PANEL, min_i64(CHUNK, cin - i));
    }
}

/* Four pixels of output row (t, y) from column col on, one panel of channels. */
static void four_pixels(float sum[TILE][PANEL], const OpCall *c, int64_t t, int64_t y, int64_t col, const float *w)
{
    const int64_t h = c->in[0].dim[1], width = c->in[0].dim[2], *k = c->in[2].dim, cin = k[1];
    const ConvSpec *s = &c->u.conv;

    for (int64_t kt = 0; kt < k[2]; kt++) {
        const float *x = frame(c, t * s->stride_t + kt);

        for (int64_t ky = 0; x && ky < k[3]; ky++) {
            const int64_t row = y * s->stride - s->pad0 + ky;

            if (row < 0 || row >= h)
                continue;
            for (int64_t kx = 0; kx < k[4]; kx++)
                add_tap(sum, x + row * width * cin, width, cin, col * s->stride - s->pad0 + kx, s->stride,
                        w + ((kt * k[3] + ky) * k[4] + kx) * cin * PANEL);
        }
    }
}

static void output_row(const OpCall *c, int64_t t, int64_t y)
{
    const int64_t width = c->out.dim[2], cout = c->out.dim[3], *k = c->in[2].dim;
    const int64_t first = (t * c->out.dim[1] + y) * width * cout;
    const float *bias = c->in[3].data, *res = c->in[4].data;
    float *out = c->out.data;

    for (int64_t o = 0; o < cout; o += PANEL) {
        const float *w = (const float *)c->in[2].data + o * k[1] * k[2] * k[3] * k[4];

        for (int64_t col = 0; col < width; col += TILE) {
            float sum[TILE][PANEL] = { { 0 } };

            four_pixels(sum, c, t, y, col, w);
            for (int64_t r = 0; r < min_i64(TILE, width - col); r++)
                for (int64_t j = 0; j < min_i64(PANEL, cout - o); j++) {
                    const int64_t at = first + (col + r) * cout + o + j;
                    const float v = sum[r][j] + (bias ? bias[o + j] : 0);

                    out[at] = res ? v + res[at] : v;
                }
        }
    }
}

int avt_plain_conv3d(Backend *be, const OpCall *c)
{
    const int64_t h = c->out.dim[1], nb = c->out.dim[0] * h;

#pragma omp parallel for num_threads(be->threads) schedule(dynamic) if (avt_numel(c->out) > 512)
    for (int64_t i = 0; i < nb; i++)
        if (!avt_cpu_given_up(be))
            output_row(c, i / h, i % h);
    return 0;
}
