/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * picture: 8 bits to [-1, 1]; count_nonfinite; pixels: [T, H, W, 3] in [-1, 1] to the 8-bit planes of a frame.
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

#include "base/half.h"
#include "cpu/plain.h"

int avt_plain_picture(Backend *be, const OpCall *c)
{
    const int64_t nb = avt_numel(c->out);
    const uint8_t *x = c->x.data;
    float *out = c->out.data;

#pragma omp parallel for num_threads(be->threads) if (nb > 4 * PARALLEL_MIN)
    for (int64_t i = 0; i < nb; i++)
        out[i] = (float)x[i] / 255 * 2 - 1;
    return 0;
}

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
    const float low = v > -1 ? v : -1, in = low < 1 ? low : 1;

    return 0.5f * (in + 1);
}

/* v in 0 .. 255. What is added leaves no bits for a fraction: the sum's last ones hold the integer, without lrintf's call. */
static uint8_t byte(float v)
{
    return (uint8_t)avt_f32_bits(v + 0x1.8p23f);
}

static float luma(const float rgb[3])
{
    return 0.2126f * rgb[0] + 0.7152f * rgb[1] + 0.0722f * rgb[2];
}

static uint8_t y_of(const float *p)
{
    const float rgb[3] = { unit(p[0]), unit(p[1]), unit(p[2]) };

    return byte(16 + 219 * luma(rgb));
}

static void chroma_of(uint8_t *u, uint8_t *v, const float rgb[3])
{
    const float y = luma(rgb);

    *u = byte(128 + 224 / 1.8556f * (rgb[2] - y));
    *v = byte(128 + 224 / 1.5748f * (rgb[0] - y));
}

/* rgb += half of the pair of columns 2i, 2i+1 of one line, [1 2 1] / 4 around column 2i (chroma is linear, so RGB is filtered) */
static void add_pair(float rgb[3], const float *line, int64_t i)
{
    const float *l = line + 3 * (i ? 2 * i - 1 : 0), *m = line + 6 * i;

    for (int k = 0; k < 3; k++)
        rgb[k] += 0.125f * unit(l[k]) + 0.25f * unit(m[k]) + 0.125f * unit(m[k + 3]);
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
        const float rgb[3] = { unit(x[3 * i]), unit(x[3 * i + 1]), unit(x[3 * i + 2]) };

        out[i] = byte(16 + 219 * luma(rgb));
        chroma_of(out + plane + i, out + 2 * plane + i, rgb);
    }
}

/* Two lines of luma at `out`, one of chroma: planes u and v with `step` bytes between samples. */
static void yuv420_rows(uint8_t *out, uint8_t *u, uint8_t *v, int step, const float *x, int64_t w)
{
    for (int64_t i = 0; i < 2 * w; i++)
        out[i] = y_of(x + 3 * i);
    for (int64_t i = 0; i < w / 2; i++) {
        float rgb[3] = { 0 };

        add_pair(rgb, x, i);
        add_pair(rgb, x + 3 * w, i);
        chroma_of(u + i * step, v + i * step, rgb);
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

        two_lines((uint8_t *)c->out.data + (size_t)t * size, (const float *)c->in[0].data + t * h * w * 3,
                  c->u.pixels.format, h, w, y);
    }
    return 0;
}
