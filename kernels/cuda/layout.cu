/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * upsample, patchify, unpatchify, channels_last, channels_first: numbers change places.
 *
 *   upsample         out[T, 2H, 2W, C]: every pixel of x [T, H, W, C] four times, read once: 5 C numbers a pixel
 *   channels_last    out[T, H, W, C] = x[T, C, H, W] mul[C] + add[C]; channels_first the other way, of the first C channels
 *                    tiles of 32 x 32 turn in shared memory, so that both sides are touched in whole lines
 *   patchify         a number at a time: latents are small (16 x 3 x 48 x 88: 0.8 MB), rows of a patch have two numbers
 *
 * Floor: one read, one write. upsample to 704 x 384 x 12 frames of 192 channels, bf16: 1557 MB, 465 us on an H100 (3.35 TB/s).
 * Limit: a row of pixels has less than 2^31 numbers.
 */
#include "cuda/kernel.cuh"

/* ---- upsample ------------------------------------------------------------------------------------------------------------------- */

/* rows: T H of x; width: numbers of a row of pixels */
template <class T, class S> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
upsample_kernel(T *out, const T *x, int64_t rows, int64_t width, int channels)
{
    EACH_ROW(r, rows) {
        EACH_PACK(at, width, S::V) {
            T *to = out + 4 * r * width + at + (int)at / channels * channels;           // pixel i goes to 2 i and 2 i + 1
            float v[S::V];

            load_pack<S::V, S::WIDE>(v, x + r * width + at, S::V);
            store_pack<S::V, S::WIDE>(to, v, S::V);
            store_pack<S::V, S::WIDE>(to + channels, v, S::V);
            store_pack<S::V, S::WIDE>(to + 2 * width, v, S::V);
            store_pack<S::V, S::WIDE>(to + 2 * width + channels, v, S::V);
        }
    }
}

template <class T, class S> static int launch_upsample(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t rows = c->x.dim[0] * c->x.dim[1], width = c->x.dim[2] * c->x.dim[3];
    const Span s = span_of(cuda, rows, width / S::V);

    return avt_cuda_check(be, LAUNCH((upsample_kernel<T, S>), s.grid, s.block, 0, cuda->stream, (T *)c->out.data, (const T *)c->x.data,
                                     rows, width, (int)c->x.dim[3]), "upsample");
}

static int run_upsample(Backend *be, const OpCall *c)
{
    return by_type(c->out.dtype, [&](auto as) {
        using T = TYPE(as);
        constexpr int V = wide_pack<T>;

        return aligned16(c->out.data, c->x.data) && c->x.dim[3] % V == 0 ? launch_upsample<T, Shape<V, true>>(be, c)
                                                                         : launch_upsample<T, Shape<1, false>>(be, c);
    });
}

/* ---- patchify, unpatchify --------------------------------------------------------------------------------------------------------- */

typedef struct Patches {
    int channels, h, w;                 // of the picture
    int pt, ph, pw;
} Patches;

/* out[token, k]: k is channel, dt, dy, dx */
template <class TO, class TI> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
patchify_kernel(TO *out, const TI *x, Patches p, int64_t tokens, int64_t width)
{
    const int rows = p.h / p.ph, columns = p.w / p.pw;

    EACH_ROW(n, tokens) {
        const int64_t frame = n / ((int64_t)rows * columns) * p.pt;
        const int y = (int)(n / columns % rows) * p.ph, left = (int)(n % columns) * p.pw;

        EACH_PACK(at, width, 1) {
            const int k = (int)at, dx = k % p.pw, dy = k / p.pw % p.ph, dt = k / (p.pw * p.ph) % p.pt, channel = k / (p.pw * p.ph * p.pt);

            from_f32(out + n * width + at, to_f32(x[(((frame + dt) * p.channels + channel) * p.h + y + dy) * p.w + left + dx]));
        }
    }
}

/* rows: T C H of the picture; a token holds dy, dx, channel */
template <class TO, class TI> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
unpatchify_kernel(TO *out, const TI *x, Patches p, int64_t rows, int64_t width)
{
    EACH_ROW(r, rows) {
        const int y = (int)(r % p.h), channel = (int)(r / p.h % p.channels);
        const int64_t line = (r / p.h / p.channels * (p.h / p.ph) + y / p.ph) * (p.w / p.pw);           // its first token

        EACH_PACK(at, width, 1) {
            const int left = (int)at;

            from_f32(out + r * width + at, to_f32(x[(((line + left / p.pw) * p.ph + y % p.ph) * p.pw + left % p.pw) * p.channels + channel]));
        }
    }
}

static Patches patches_of(const OpCall *c, Tensor picture)
{
    return Patches{ (int)picture.dim[1], (int)picture.dim[2], (int)picture.dim[3], c->u.patch.pt, c->u.patch.ph, c->u.patch.pw };
}

static int run_patches(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const Patches p = patches_of(c, c->op == OP_PATCHIFY ? c->x : c->out);
    const int64_t rows = avt_rows_of(c->out), width = avt_last_dim(c->out);
    const Span s = span_of(cuda, rows, width);

    return by_type(c->out.dtype, [&](auto to) {
        return by_type(c->x.dtype, [&](auto from) {
            using TO = TYPE(to);
            using TI = TYPE(from);
            void (*const kernel)(TO *, const TI *, Patches, int64_t, int64_t) = c->op == OP_PATCHIFY ? &patchify_kernel<TO, TI>
                                                                                                     : &unpatchify_kernel<TO, TI>;

            return avt_cuda_check(be, LAUNCH(kernel, s.grid, s.block, 0, cuda->stream, (TO *)c->out.data, (const TI *)c->x.data, p,
                                             rows, width), avt_op_name(c->op));
        });
    });
}

/* ---- channels_last, channels_first ----------------------------------------------------------------------------------------------- */

enum { TILE = 32, TILE_ROWS = 8 };

/* A frame is a matrix of `rows` x `cols`, rows `step` apart, and is turned; channels are its rows or its columns. */
typedef struct Turn {
    int64_t frames, rows, cols, step;
    const float *mul, *add;             // [channels] or NULL
    int by_row;
} Turn;

static __device__ __forceinline__ float scaled(const Turn &t, float v, int64_t channel)
{
    return __fadd_rn(__fmul_rn(v, t.mul ? t.mul[channel] : 1), t.add ? t.add[channel] : 0);
}

template <class TO, class TI> static __global__ void __launch_bounds__(TILE * TILE_ROWS, SPAN_RESIDENT) turn_kernel(TO *out, const TI *x, Turn t)
{
    SMEM_STATIC(float, tile, TILE * (TILE + 1));
    const int64_t across = (t.cols + TILE - 1) / TILE, down = (t.rows + TILE - 1) / TILE;

    for (int64_t i = blockIdx.x; i < t.frames * down * across; i += gridDim.x) {
        const int64_t frame = i / across / down, row = i / across % down * TILE, col = i % across * TILE;

        for (int k = threadIdx.y; k < TILE; k += TILE_ROWS)
            if (row + k < t.rows && col + threadIdx.x < t.cols)
                tile[k * (TILE + 1) + threadIdx.x] = to_f32(x[(frame * t.rows + row + k) * t.step + col + threadIdx.x]);
        __syncthreads();
        for (int k = threadIdx.y; k < TILE; k += TILE_ROWS) {
            const int64_t r = row + threadIdx.x, c = col + k;

            if (r < t.rows && c < t.cols)
                from_f32(out + (frame * t.cols + c) * t.rows + r, scaled(t, tile[threadIdx.x * (TILE + 1) + k], t.by_row ? r : c));
        }
        __syncthreads();
    }
}

static int run_turn(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int last = c->op == OP_CHANNELS_LAST;
    const int64_t channels = last ? c->x.dim[1] : c->out.dim[1], pixels = last ? c->x.dim[2] * c->x.dim[3] : c->x.dim[1] * c->x.dim[2];
    const Turn t = { c->x.dim[0], last ? channels : pixels, last ? pixels : channels, last ? pixels : c->x.dim[3],
                     (const float *)c->channels.mul.data, (const float *)c->channels.add.data, last };
    const int64_t tiles = t.frames * divide_up(t.rows, TILE) * divide_up(t.cols, TILE);
    const dim3 grid(at_most(tiles, (int64_t)SPAN_BLOCKS * cuda->multiprocessors));

    return by_type(c->out.dtype, [&](auto to) {
        return by_type(c->x.dtype, [&](auto from) {
            using TO = TYPE(to);
            using TI = TYPE(from);

            return avt_cuda_check(be, LAUNCH((turn_kernel<TO, TI>), grid, dim3(TILE, TILE_ROWS), 0, cuda->stream, (TO *)c->out.data,
                                             (const TI *)c->x.data, t), avt_op_name(c->op));
        });
    });
}

int avt_cuda_layout(Backend *be, const OpCall *c)
{
    if (!avt_numel(c->out))
        return 0;
    switch (c->op) {
    case OP_UPSAMPLE:
        return run_upsample(be, c);
    case OP_PATCHIFY: case OP_UNPATCHIFY:
        return run_patches(be, c);
    default:
        return run_turn(be, c);
    }
}
