/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * picture: 8 bits to [-1, 1]; pixels: [T, H, W, 3] in [-1, 1] to the 8-bit planes of a frame.
 *
 *   RGB   round(127.5 (v + 1)); rgb24: R G B per pixel; gbrp: planes G, B, R
 *   YUV   BT.709, limited range, from unrounded r, g, b in [0, 1]; cpu/pixels.c has the formulas
 *   4:2:0 a chroma sample is [1 2 1] / 4 around the left pixel of a pair (the edge repeated), averaged over both lines
 *
 * A thread has a patch of two lines and P pixels: P = 4 of f32, 8 of bf16 are 48 bytes a line, read in three pieces; bytes leave in words
 * of P, chroma in P / 2. P = 2, number by number, where width or address allow no more. The pixel left of a patch is read a second time,
 * out of the cache. Floor: one read, one write; 12 frames of 704 x 384, f32 to nv12: 44 MB, 13 us on an H100 (3.35 TB/s).
 */
#include "cuda/kernel.cuh"

/* ---- picture ---------------------------------------------------------------------------------------------------------------------- */

template <class T, class S> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT) picture_kernel(T *out, const uint8_t *x, int64_t nb)
{
    EACH_PACK(at, nb, S::V) {
        float v[S::V];

#pragma unroll
        for (int i = 0; i < S::V; i++)
            v[i] = at + i < nb ? (float)x[at + i] / 255 * 2 - 1 : 0;
        store_pack<S::V, S::WIDE>(out + at, v, nb - at);
    }
}

template <class T, class S> static int launch_picture(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t nb = avt_numel(c->out);
    const Span s = span_of(cuda, 1, divide_up(nb, S::V));

    return avt_cuda_check(be, LAUNCH((picture_kernel<T, S>), s.grid, s.block, 0, cuda->stream, (T *)c->out.data,
                                     (const uint8_t *)c->x.data, nb), "picture");
}

static int run_picture(Backend *be, const OpCall *c)
{
    return by_type(c->out.dtype, [&](auto as) {
        using T = TYPE(as);

        return aligned16(c->out.data) ? launch_picture<T, Shape<wide_pack<T>, true>>(be, c) : launch_picture<T, Shape<1, false>>(be, c);
    });
}

/* ---- pixels ----------------------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float unit(float v)              // [-1, 1] -> [0, 1], NaN -> 0
{
    return v > -1 ? v < 1 ? 0.5f * (v + 1) : 1 : 0;
}

static __device__ __forceinline__ uint8_t byte(float v)            // v in 0 .. 255
{
    return (uint8_t)__float2int_rn(v);
}

static __device__ __forceinline__ float luma(float r, float g, float b)
{
    return 0.2126f * r + 0.7152f * g + 0.0722f * b;
}

static __device__ __forceinline__ uint8_t y_of(const float *rgb) { return byte(16 + 219 * luma(rgb[0], rgb[1], rgb[2])); }
static __device__ __forceinline__ uint8_t u_of(const float *rgb) { return byte(128 + 224 / 1.8556f * (rgb[2] - luma(rgb[0], rgb[1], rgb[2]))); }
static __device__ __forceinline__ uint8_t v_of(const float *rgb) { return byte(128 + 224 / 1.5748f * (rgb[0] - luma(rgb[0], rgb[1], rgb[2]))); }

static __device__ __forceinline__ uint32_t word_of(const uint8_t b[4])
{
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* N bytes; WIDE: at an address that is a multiple of the largest power of two in N, up to 8 */
template <int N, bool WIDE> static __device__ __forceinline__ void store_bytes(uint8_t *p, const uint8_t b[N])
{
    if constexpr (!WIDE) {
#pragma unroll
        for (int i = 0; i < N; i++)
            p[i] = b[i];
    } else if constexpr (N % 8 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 8)
            st8(p + i, make_uint2(word_of(b + i), word_of(b + i + 4)));
    } else if constexpr (N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4)
            *(uint32_t *)(p + i) = word_of(b + i);
    } else {
        *(uint16_t *)p = (uint16_t)(b[0] | b[1] << 8);
    }
}

/* One value of each of P pixels, f(rgb), to p */
template <int P, bool WIDE, class F> static __device__ __forceinline__ void store_plane(uint8_t *p, const float *line, F f)
{
    uint8_t b[P];

#pragma unroll
    for (int i = 0; i < P; i++)
        b[i] = f(line + 3 * i);
    store_bytes<P, WIDE>(p, b);
}

typedef struct Frame {                  // of the result
    uint8_t *out;
    int64_t size;                       // bytes of a frame
    int h, w;
} Frame;

/* Chroma of a patch at lines y, y + 1 from pixel x on; left[line]: the pixel before it */
template <PixelFormat FORMAT, int P, bool WIDE> static __device__ __forceinline__ void
store_chroma(const Frame &f, uint8_t *out, int y, int x, const float px[2][3 * P], const float left[2][3])
{
    uint8_t *u = out + (int64_t)f.h * f.w, turns[P], plane[2][P / 2];
    const int64_t pair = (int64_t)y / 2 * (f.w / 2) + x / 2;

#pragma unroll
    for (int i = 0; i < P; i += 2) {
        float rgb[3] = { 0 };

#pragma unroll
        for (int k = 0; k < 6; k++) {
            const float *line = px[k / 3];
            const float before = i ? line[3 * i - 3 + k % 3] : left[k / 3][k % 3];

            rgb[k % 3] += 0.125f * before + 0.25f * line[3 * i + k % 3] + 0.125f * line[3 * i + 3 + k % 3];
        }
        turns[i] = plane[0][i / 2] = u_of(rgb);
        turns[i + 1] = plane[1][i / 2] = v_of(rgb);
    }
    if (FORMAT == PIX_NV12) {
        store_bytes<P, WIDE>(u + 2 * pair, turns);
    } else {
        store_bytes<P / 2, WIDE>(u + pair, plane[0]);
        store_bytes<P / 2, WIDE>(u + (int64_t)f.h * f.w / 4 + pair, plane[1]);
    }
}

/* Line y of a patch of P pixels that begins at pixel x, but for the chroma of 4:2:0 */
template <PixelFormat FORMAT, int P, bool WIDE> static __device__ __forceinline__ void
store_line(const Frame &f, uint8_t *out, int y, int x, const float px[3 * P])
{
    const int64_t plane = (int64_t)f.h * f.w, at = (int64_t)y * f.w + x;

    if constexpr (FORMAT == PIX_RGB24) {
        uint8_t b[3 * P];

#pragma unroll
        for (int i = 0; i < 3 * P; i++)
            b[i] = byte(255 * px[i]);
        store_bytes<3 * P, WIDE>(out + 3 * at, b);
    } else if constexpr (FORMAT == PIX_GBRP) {
        store_plane<P, WIDE>(out + at, px, [](const float *p) { return byte(255 * p[1]); });
        store_plane<P, WIDE>(out + plane + at, px, [](const float *p) { return byte(255 * p[2]); });
        store_plane<P, WIDE>(out + 2 * plane + at, px, [](const float *p) { return byte(255 * p[0]); });
    } else {
        store_plane<P, WIDE>(out + at, px, y_of);
    }
    if constexpr (FORMAT == PIX_YUV444P) {
        store_plane<P, WIDE>(out + plane + at, px, u_of);
        store_plane<P, WIDE>(out + 2 * plane + at, px, v_of);
    }
}

/* rows: pairs of lines of all frames */
template <PixelFormat FORMAT, class T, int P, bool WIDE> static __global__ void __launch_bounds__(SPAN_THREADS, 2)
pixels_kernel(Frame f, const T *x, int64_t rows)
{
    EACH_ROW(r, rows) {
        const int y = (int)(r % (f.h / 2)) * 2;
        uint8_t *out = f.out + r / (f.h / 2) * f.size;

        EACH_PACK(at, f.w, P) {
            const T *line[2] = { x + (2 * r * f.w + at) * 3, x + ((2 * r + 1) * f.w + at) * 3 };
            float px[2][3 * P], left[2][3];

#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_pack<3 * P, WIDE>(px[i], line[i], 3 * P);
#pragma unroll
                for (int k = 0; k < 3 * P; k++)
                    px[i][k] = unit(px[i][k]);
#pragma unroll
                for (int k = 0; k < 3; k++)
                    left[i][k] = at ? unit(to_f32(line[i][k - 3])) : px[i][k];
                store_line<FORMAT, P, WIDE>(f, out, y + i, (int)at, px[i]);
            }
            if constexpr (FORMAT == PIX_YUV420P || FORMAT == PIX_NV12)
                store_chroma<FORMAT, P, WIDE>(f, out, y, (int)at, px, left);
        }
    }
}

template <PixelFormat FORMAT, class T, int P, bool WIDE> static int launch_pixels(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int h = (int)c->x.dim[1], w = (int)c->x.dim[2];
    const Frame f = { (uint8_t *)c->out.data, avt_numel(c->out) / c->x.dim[0], h, w };
    const int64_t rows = c->x.dim[0] * (h / 2);
    const Span s = span_of(cuda, rows, w / P);

    return avt_cuda_check(be, LAUNCH((pixels_kernel<FORMAT, T, P, WIDE>), s.grid, s.block, 0, cuda->stream, f, (const T *)c->x.data, rows),
                          "pixels");
}

template <PixelFormat FORMAT> static int run_pixels(Backend *be, const OpCall *c)
{
    return by_type(c->x.dtype, [&](auto as) {
        using T = TYPE(as);
        constexpr int P = wide_pack<T>;

        return aligned16(c->x.data, c->out.data) && c->x.dim[2] % P == 0 ? launch_pixels<FORMAT, T, P, true>(be, c)
                                                                         : launch_pixels<FORMAT, T, 2, false>(be, c);
    });
}

int avt_cuda_pixels(Backend *be, const OpCall *c)
{
    if (!avt_numel(c->out))
        return 0;
    if (c->op == OP_PICTURE)
        return run_picture(be, c);
    switch (c->u.pixels.format) {
    case PIX_YUV420P: return run_pixels<PIX_YUV420P>(be, c);
    case PIX_YUV444P: return run_pixels<PIX_YUV444P>(be, c);
    case PIX_NV12:    return run_pixels<PIX_NV12>(be, c);
    case PIX_GBRP:    return run_pixels<PIX_GBRP>(be, c);
    default:          return run_pixels<PIX_RGB24>(be, c);
    }
}
