/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * count_nonfinite, and pixels: [T, H, W, 3] in [-1, 1] to the 8-bit planes of a frame.
 *
 *   RGB   round(127.5 (v + 1)); rgb24: R G B per pixel; gbrp: planes G, B, R
 *   YUV   BT.709, limited range, from unrounded r, g, b in [0, 1]:
 *         y' = 0.2126 r + 0.7152 g + 0.0722 b;  Y = 16 + 219 y'
 *         Cb = 128 + 224 (b - y') / 1.8556;     Cr = 128 + 224 (r - y') / 1.5748
 *   4:2:0 with left siting: chroma sits on the left pixel of a pair and between the two lines, so a chroma sample is
 *         [1 2 1] / 4 around the pair's left pixel (the edge repeated), averaged over both lines
 *
 * Everything in f32, rounded once, to nearest, ties to even. NaN counts as -1.
 */
#include <math.h>
#include <string.h>

#include "cpu/plain.h"

int avt_plain_count_nonfinite(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_numel(c->in[0]);
    const float *x = c->in[0].data;
    int64_t bad = 0;

#pragma omp parallel for num_threads(be->threads) reduction(+ : bad) if (nb > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++)
        bad += !isfinite(x[i]);
    *(int32_t *)c->out.data = (int32_t)min_i64(bad, INT32_MAX);
    return 0;
}

static float unit(float v)                                          // [-1, 1] -> [0, 1]
{
    return v > -1 ? v < 1 ? 0.5f * (v + 1) : 1 : 0;
}

static uint8_t byte(float v)                                        // v in 0 .. 255
{
    return (uint8_t)lrintf(v);
}

typedef struct Yuv {
    float y, u, v;
} Yuv;

static Yuv yuv_of(const float *p)
{
    const float r = unit(p[0]), g = unit(p[1]), b = unit(p[2]);
    const float y = 0.2126f * r + 0.7152f * g + 0.0722f * b;

    return (Yuv){ 16 + 219 * y, 128 + 224 / 1.8556f * (b - y), 128 + 224 / 1.5748f * (r - y) };
}

/* Chroma of the pair of columns 2i, 2i+1: [1 2 1] / 4 around column 2i of one line */
static Yuv chroma(const float *line, int64_t i)
{
    const Yuv l = yuv_of(line + 3 * (i ? 2 * i - 1 : 0)), m = yuv_of(line + 6 * i), r = yuv_of(line + 3 * (2 * i + 1));

    return (Yuv){ 0, 0.25f * l.u + 0.5f * m.u + 0.25f * r.u, 0.25f * l.v + 0.5f * m.v + 0.25f * r.v };
}

static void rgb_row(uint8_t *out, const float *x, PixelFormat format, int64_t w, int64_t plane)
{
    static const int at[3] = { 2, 0, 1 };                           // gbrp: where R, G, B go

    for (int64_t i = 0; i < w; i++)
        for (int k = 0; k < 3; k++)
            out[format == PIX_GBRP ? at[k] * plane + i : 3 * i + k] = byte(255 * unit(x[3 * i + k]));
}

static void yuv444_row(uint8_t *out, const float *x, int64_t w, int64_t plane)
{
    for (int64_t i = 0; i < w; i++) {
        const Yuv p = yuv_of(x + 3 * i);

        out[i] = byte(p.y);
        out[plane + i] = byte(p.u);
        out[2 * plane + i] = byte(p.v);
    }
}

/* Two lines of luma at `out`, one of chroma: planes u and v with `step` bytes between samples. */
static void yuv420_rows(uint8_t *out, uint8_t *u, uint8_t *v, int step, const float *x, int64_t w)
{
    for (int64_t i = 0; i < 2 * w; i++)
        out[i] = byte(yuv_of(x + 3 * i).y);
    for (int64_t i = 0; i < w / 2; i++) {
        const Yuv a = chroma(x, i), b = chroma(x + 3 * w, i);

        u[i * step] = byte(0.5f * (a.u + b.u));
        v[i * step] = byte(0.5f * (a.v + b.v));
    }
}

/* Two lines, from line y of a frame on. */
static void two_lines(uint8_t *out, const float *x, PixelFormat format, int64_t h, int64_t w, int64_t y)
{
    uint8_t *chroma_plane = out + h * w;
    const int64_t plane = h * w;

    x += y * w * 3;
    switch (format) {
    case PIX_YUV420P:
        yuv420_rows(out + y * w, chroma_plane + y / 2 * (w / 2), chroma_plane + plane / 4 + y / 2 * (w / 2), 1, x, w);
        break;
    case PIX_NV12:
        yuv420_rows(out + y * w, chroma_plane + y / 2 * w, chroma_plane + y / 2 * w + 1, 2, x, w);
        break;
    case PIX_YUV444P:
        yuv444_row(out + y * w, x, 2 * w, plane);                   // two lines are one of twice the width
        break;
    default:
        rgb_row(out + y * w * (format == PIX_RGB24 ? 3 : 1), x, format, 2 * w, plane);
    }
}

int avt_plain_pixels(Backend *be, const OpCall *c)
{
    const int64_t h = c->in[0].dim[1], w = c->in[0].dim[2], pairs = h / 2, nb = c->in[0].dim[0] * pairs;
    const size_t size = (size_t)avt_pixels_size(c->u.pixels.format, h, w);

#pragma omp parallel for num_threads(be->threads)
    for (int64_t i = 0; i < nb; i++) {
        const int64_t t = i / pairs, y = i % pairs * 2;

        two_lines((uint8_t *)c->out.data + (size_t)t * size, (const float *)c->in[0].data + t * h * w * 3, c->u.pixels.format, h, w, y);
    }
    return 0;
}
