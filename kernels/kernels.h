/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The door: every op, its formula, shapes, dtypes, tolerance. Read this first.
 *
 * Rules, stated once
 *  - An activation is f32 or the backend's own type, be->act (f32 or bf16): `act` below. Operands of one call may differ; vectors,
 *    tables and masks are f32. An op is what its formula gives in f32 from the operands as they are, rounded once (to nearest, ties
 *    to even) when `out` is bf16. Accumulation is f32 or better.
 *  - A weight is what avt_weight_put() returned for its use and for the type of the activations that it meets: for bf16 it is
 *    rounded to bf16, whatever the file has. How it is stored (f32, bf16, the backend's packed order) is the backend's business.
 *  - Codes (i8, f8_e4m3) have a scale a row, see quantize.h. They are what avt_quantize() makes of an activation, and what a weight is
 *    stored as that was put for them: whatever the file has, its rows are quantised once. Products read them, and attention its keys.
 *  - A result marked (codes) may be codes: those that avt_quantize() makes of what the op gives in be->act, bit for bit, but on a device
 *    without a tensor of it. They are rotated as avt_quantize() does it, so they are for a product; keys (f8_e4m3) are not.
 *  - `[.., D]`: any leading dimensions; they count as rows. Shapes are checked here, so implementations do not check again.
 *  - Operands marked (opt) may be AVT_NONE. `out` may be the same tensor as an operand marked (=); any other overlap is refused.
 *  - An op never fails for its values. A wrong shape is a caller's mistake: the backend gets the sticky failure EINVAL.
 *  - Tolerance: largest difference of a faster version from plain C, relative to the largest magnitude in the result
 *    ("exact" = the same bits). A result in bf16 may differ by one more rounding, 2^-8 of it; where an op multiplies bf16, its sums
 *    may be taken in any order. avt_op_tolerance() gives the number to tests.
 *  - On plain C the result does not depend on the number of threads.
 */
#ifndef AVT_KERNELS_H
#define AVT_KERNELS_H

#include "arena.h"
#include "backend.h"

/* ---- moving numbers ------------------------------------------------------------------------------------------- */

/** Host -> tensor, row-major, dtype of the tensor. `src` may be reused at once. */
void avt_upload(Backend *be, Tensor dst, const void *src);
/** Tensor -> host; waits for the work before it. @return 0 or the backend's failure (dst undefined) */
int  avt_download(Backend *be, void *dst, Tensor src);
/** Wait for all work. @return 0 or the first failure since the last avt_reset() */
int  avt_sync(Backend *be);
/** Forget the failure: for an engine that goes on after a failed session. */
void avt_reset(Backend *be);

/* Two queues (backends of one class) run in no order, but that
 *      m = avt_mark(a);        // somewhere in a's work
 *      avt_wait(b, m);         // b's work from here on runs after a's work before the mark
 *  says so. The host never waits. A tensor that one queue writes and another reads wants two waits: the reader's before it reads, and the
 *  writer's before it writes there again. Any thread may be given a mark. Before a backend is closed, those that wait for its marks
 *  must have been synced. */
Mark avt_mark(Backend *be);
/** A mark that is passed, or of `be` itself: nothing to wait for. One of another class: EINVAL; such queues meet in avt_download(). */
void avt_wait(Backend *be, Mark m);
/** Host -> tensor like avt_upload(), but the queue reads `src` when it comes to it, and the call returns at once: `src` is memory of
 *  avt_host_alloc() and stays as it is until a mark behind the call is passed. */
void avt_fetch(Backend *be, Tensor dst, const void *src);
/** Tensor -> host like avt_download(), but the queue writes `dst` when it comes to it: what a mark behind the call says is there. `dst` is
 *  memory of avt_host_alloc(). */
void avt_store(Backend *be, void *dst, Tensor src);
/** Host memory for avt_fetch() and avt_store(), which the queues of all devices of a class may use. @return NULL when there is none. Free it with its size, after a sync. */
void *avt_host_alloc(Backend *be, size_t size);
void  avt_host_free(Backend *be, void *p, size_t size);

/** A weight out of host memory: `src` is row-major `dtype`, any alignment. Allocated in `a`, in the backend's form for `use` with
 *  activations of type `act` (vectors, WEIGHT_PLAIN: f32). src == NULL leaves the contents undefined (planning). */
Tensor avt_weight_put(Arena *a, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim, const void *src);
/** A weight [N, K] for WEIGHT_LINEAR that comes as codes, with scale[N]; `type` of both. codes == NULL: planning. */
Tensor avt_weight_put_codes(Arena *a, DType type, int64_t N, int64_t K, const void *codes, const float *scale);
/** A linear weight as the rows [N, K] that it is, numbers or codes, for ops that fill it; AVT_NONE: its backend keeps it otherwise. */
Tensor avt_weight_rows(Tensor w);
size_t avt_weight_bytes(Backend *be, WeightUse use, DType act, DType dtype, int nd, const int64_t *dim);

/** out = x; same number of elements; dtypes f32, bf16, f16 convert. Tolerance: exact. Either may be on another device of the
 *  backend's class, cuda1 for one on cuda0. */
void avt_copy(Backend *be, Tensor out, Tensor x);
/** out = value; f32, bf16. */
void avt_fill(Backend *be, Tensor out, float value);

/* ---- products ------------------------------------------------------------------------------------------------- */

typedef struct Linear {
    Tensor w;                           // [N, K] WEIGHT_LINEAR
    Tensor b;                           // [N] or AVT_NONE
} Linear;

/** The codes of x [.., D] (f32 or bf16), rotated if they are i8, and their scales: what a product takes whose weight was put for out's type. A scale
 *  is NaN where its row has a NaN or an infinity. Exact. */
void avt_quantize(Backend *be, Tensor out, Tensor x);
/** x as the product l takes it: x itself, or its codes, in scratch. */
Tensor avt_factor(Backend *be, Arena *scratch, const Linear *l, Tensor x);
/** A tensor for what the product l will take, which another op gives: an activation, or codes. */
Tensor avt_new_factor(Arena *scratch, const Linear *l, int nd, const int64_t *dim);
/** out[M, N] (codes) = act(x[M, K] w^T + b). x has the type that w was put for; of codes out is what their values give, code * scale. Tolerance
 *  2e-6 * sqrt(K). */
void avt_linear(Backend *be, Tensor out, Tensor x, const Linear *l, Act act);
/** out[M, N] = res[M, N] (=) + gate[N] (opt) * (x[M, K] w^T + b). Tolerance 2e-6 * sqrt(K). */
void avt_linear_add(Backend *be, Tensor out, Tensor res, Tensor x, const Linear *l, Tensor gate);
/** out[i][M, N_i] = x[M, K] w_i^T + b_i for the nb (2 or 3) products of one x, such as q, k, v: each as avt_linear() gives it. The
 *  results lie apart from each other and may have types of their own. Tolerance 2e-6 * sqrt(K). */
void avt_linear_group(Backend *be, int nb, const Tensor *out, Tensor x, const Linear *const *l);

/* ---- norms ---------------------------------------------------------------------------------------------------- */

/** out[.., D] = x (=) * rsqrt(mean_D(x^2) + eps) * w[D], then its heads rotated as avt_rope() does. out: f32 or bf16, a ring's rows,
 *  or codes of such [.., D / hd, hd], a scale a head. table (opt) [rows, hd / 2, 2]; D is a multiple of hd. Tolerance 2e-6. */
void avt_norm_rope(Backend *be, Tensor out, Tensor x, Tensor w, Tensor table, float eps);
/** The same for D columns of a row of `width`, of which others hold the rest: squares [rows] f32 are the whole rows' sums of x^2, added up
 *  from what avt_squares() gives of each part. */
void avt_norm_rope_part(Backend *be, Tensor out, Tensor x, Tensor w, Tensor table, float eps, Tensor squares, int64_t width);
/** out[rows] f32 = sum_D(x[.., D]^2). Tolerance 2e-6. */
void avt_squares(Backend *be, Tensor out, Tensor x);
/** out[.., C] = act(x (=) / max(|x|_2, 1e-12) * sqrt(C) * w[C]): the VAE's norm; a zero vector gives zeros. Tolerance 1e-6. */
void avt_channel_norm(Backend *be, Tensor out, Tensor x, Tensor w, Act act);
/** out[.., D] (codes) = act((x (=) - mean) * rsqrt(var + eps) * w[D] (opt) + b[D] (opt)). Tolerance 2e-6. */
void avt_layer_norm(Backend *be, Tensor out, Tensor x, Tensor w, Tensor b, float eps, Act act);
/** The same op with a scale that is added to one: out[.., D] (codes) = LN(x (=), eps) * (1 + scale[G, D]) + shift[G, D]; G equal runs of rows
 *  have a scale and shift each. Trap: the shift comes first in the tables, scale first here. Tolerance 2e-6. */
void avt_norm_modulate(Backend *be, Tensor out, Tensor x, Tensor scale, Tensor shift, float eps);

/* ---- positions and attention ---------------------------------------------------------------------------------- */

/** out[N, P, 2] = (cos, sin) of position * 10000^(-i / P_axis) for the tokens of `grid`; P = hd / 2 split frame | row | column
 *  as P - 2 (P / 3), P / 3, P / 3. Angles in f64. Source: causal_s2v_utils.py rope_precompute. Tolerance 1e-7. */
void avt_rope_table(Backend *be, Tensor out, const RopeGrid *grid);
/** Number of tokens that a grid describes. */
int64_t avt_rope_tokens(const RopeGrid *grid);
/** Pairs (a, b) = x[n, h, 2p], x[n, h, 2p+1] become (a c - b s, a s + b c). out (codes), x (=): [N, NH, hd], table [N, hd/2, 2]. Tolerance 1e-6. */
void avt_rope(Backend *be, Tensor out, Tensor x, Tensor table);

/** out[N, NH, hd] = softmax(scale * q k^T + bias) v over the keys of two segments, as if they were one list:
 *  q [N, NH, hd]; k1, v1 [M1, NH, hd]; k2, v2 [M2, NH, hd] (opt). No mask. Keys and values: f32, bf16 or f8_e4m3 codes, each segment its own.
 *  q may be codes of i8, a scale a token and head as avt_quantize() gives them of [N, NH, hd]; then all keys are such, too, and no values.
 *  With one more dimension in front, out, q [B, N, NH, hd] and k1, v1 [B, M1, NH, hd]: B attentions, then no k2, no rel.
 *  rel (opt) [N + M1 - 1, NH]: bias of query i and key j (first segment only, then M2 = 0) is rel[j - i + N - 1].
 *  No N x M buffer; a copy of the keys only of codes. Tolerance 5e-6; with keys of bf16 or codes 2^-7: the weights may be rounded before they meet v. */
void avt_attention(Backend *be, Tensor out, Tensor q, Tensor k1, Tensor v1, Tensor k2, Tensor v2, Tensor rel, float scale);

/* ---- convolutions, channels last ------------------------------------------------------------------------------ */

typedef struct Conv {
    Tensor w;                           // [Cout, Cin, kT, kH, kW] WEIGHT_CONV3D or [Cout, Cin / groups, k] WEIGHT_CONV1D
    Tensor b;                           // [Cout] or AVT_NONE
} Conv;

/** out[T', H', W', Cout] = conv3d(prev ++ x) + b + res.
 *  x [T, H, W, Cin]; prev (opt) [P, H, W, Cin]: the frames before x; spec.pad_t zero frames before those.
 *  T' = (spec.pad_t + P + T - kT) / stride_t + 1; H' = (pad0 + H + pad1 - kH) / stride + 1, W' likewise.
 *  res (opt) has out's shape, may be out itself (=). Tolerance 2e-6 * sqrt(Cin kT kH kW).
 *  Bits: a backend may compute frames of out in pairs, first and second in different ways: frame 0 of a stream alone, 1 and 2, 3 and 4.
 *  spec.frame says where out begins, so that a stream that is cut anywhere has the bits of one call; whole pairs are faster. */
void avt_conv3d(Backend *be, Tensor out, Tensor x, Tensor prev, const Conv *c, Tensor res, ConvSpec spec);
/** out[T', Cout] = act(conv1d(x[T, Cin]) + b), T' = (pad0 + T + pad1 - k) / stride + 1. Tolerance 2e-6 * sqrt(Cin k / groups). */
void avt_conv1d(Backend *be, Tensor out, Tensor x, const Conv *c, Conv1dSpec spec, Act act);
/** out[T, 2H, 2W, C]: every pixel of x [T, H, W, C] four times. Exact. */
void avt_upsample(Backend *be, Tensor out, Tensor x);

/* ---- element by element --------------------------------------------------------------------------------------- */

/** out = act(x (=)). Tolerance 2e-6. */
void avt_act(Backend *be, Tensor out, Tensor x, Act act);
/** out = a (=) + b (=); b has a's shape, or is a row [D] that is added to every row. Tolerance 1e-7. */
void avt_add(Backend *be, Tensor out, Tensor a, Tensor b);
/** out = a (=) * b (=); b as in avt_add. Tolerance 1e-7. */
void avt_mul(Backend *be, Tensor out, Tensor a, Tensor b);
/** out = alpha * x (=) + beta * y (=): the Euler step is alpha = 1, beta = sigma[i+1] - sigma[i]. Tolerance 1e-6. */
void avt_axpy(Backend *be, Tensor out, float alpha, Tensor x, float beta, Tensor y);
/** out[N, D] = x[N, D] (=) + y[N, D] * mask[N]: one weight a row (an actor's place in the picture). Tolerance 1e-6. */
void avt_gate_add(Backend *be, Tensor out, Tensor x, Tensor y, Tensor mask);

/* ---- rows, layouts -------------------------------------------------------------------------------------------- */

/** out[n, D] = table[ids[n], D]; ids i32, out of range gives zeros. Exact. */
void avt_gather(Backend *be, Tensor out, Tensor table, Tensor ids);
/** out[n, D] = (1 - w[n]) x[i[n], D] + w[n] x[min(i[n] + 1, T - 1), D]; i < 0 gives zeros. x [T, D], i i32 [n], w f32 [n]. Tolerance 1e-6. */
void avt_lerp_rows(Backend *be, Tensor out, Tensor x, Tensor i, Tensor w);
/** out[T, C] = sum_l x[T, L, C] * silu(w[l]) / sum_l silu(w[l]). Tolerance 1e-6. */
void avt_layer_mix(Backend *be, Tensor out, Tensor x, Tensor w);
/** out[B, A, C] from x[A, B, C]. Exact. */
void avt_transpose(Backend *be, Tensor out, Tensor x);
/** out[T/pt * H/ph * W/pw, C pt ph pw] from x[T, C, H, W]: token order frame, row, column; element order channel, dt, dy, dx.
 *  Rows and columns that do not fill a patch are dropped. Exact. */
void avt_patchify(Backend *be, Tensor out, Tensor x, int pt, int ph, int pw);
/** out[T, C, H, W] from x[T * H/ph * W/pw, ph pw C]: element order dy, dx, channel. Exact. */
void avt_unpatchify(Backend *be, Tensor out, Tensor x, int ph, int pw);
/** out[T, H, W, C] = x[T, C, H, W] * mul[C] + add[C] (both opt). Tolerance 1e-7. */
void avt_channels_last(Backend *be, Tensor out, Tensor x, Tensor mul, Tensor add);
/** out[T, C, H, W] = x[T, H, W, 0 .. C) * mul[C] + add[C] (both opt): x may have more channels, which are dropped. Tolerance 1e-7. */
void avt_channels_first(Backend *be, Tensor out, Tensor x, Tensor mul, Tensor add);

/* ---- entering, leaving ---------------------------------------------------------------------------------------- */

/** out[.., 3] = x[.., 3] / 255 * 2 - 1 of a u8 picture: what avt_pixels() gives as PIX_RGB24 again. Exact. */
void avt_picture(Backend *be, Tensor out, Tensor x);

/** out i32 [1] = how many elements of x, f32 or bf16, are NaN or infinite. */
void avt_count_nonfinite(Backend *be, Tensor out, Tensor x);
/** 8-bit planes of x [T, H, W, 3] in [-1, 1] (clamped). out u8 [T, avt_pixels_size()]: the planes of a frame one after another,
 *  no padding. RGB: round(127.5 (v + 1)). YUV: BT.709, limited range, 4:2:0 with left siting ([1 2 1] / 4 across, edge repeated,
 *  mean of two lines), from the unrounded RGB, rounded to nearest. H and W are even; NaN is black. Within 1 level of plain C. */
void avt_pixels(Backend *be, Tensor out, Tensor x, PixelFormat format);
int64_t avt_pixels_size(PixelFormat format, int64_t h, int64_t w);

/** Tolerance of a call as stated above (0 = exact). */
float avt_op_tolerance(const OpCall *c);

#endif
