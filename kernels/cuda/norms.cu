/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * squares, norm_rope, channel_norm, layer_norm: a row is read once, its sums are taken while it is in registers.
 *
 *   squares        sum x^2
 *   norm_rope      x rsqrt(sum x^2 / whole + eps) w, then pairs turned by the angles of the row's token
 *   channel_norm   act(x sqrt(C) / max(|x|, 1e-12) w)
 *   layer_norm     act((x - mean) rsqrt(var + eps) (plus + w) + b); runs of rows share a w and a b
 *
 * A team of 1 to 32 lanes, or of up to 16 warps, has a row: HELD packs a lane in registers (rows of up to 16384 numbers, 8192 when all are
 * f32). Rows whose width or address allows no wide access, and longer ones, are read again for each sum: right, not fast.
 *
 * Sums are in f32, lane by lane and then in a tree. The mean is taken off in two steps: the mean of what the first leaves is its error.
 * So rows far off centre keep their digits. Limit: a row whose sum of squares leaves f32's range (numbers above 1e19) becomes zeros.
 *
 * Codes (codes.cuh) are made of a row while it is in registers: of layer_norm's, rotated, by teams of whole warps; of norm_rope's heads, each
 * of neighbouring lanes. They are those of a result in bf16, as every number is computed in one way.
 *
 * Floor: one read, one write; w, b and the angles, which many rows share, come from caches. H100, 3.35 TB/s:
 *   norm+modulate 3168 x 5120, f32 > bf16     97 MB   29 us      norm+RoPE, bf16 > bf16    65 MB   19 us
 *                              f32 > codes    81 MB   24 us                bf16 > codes    49 MB   15 us
 *   channel norm + SiLU, bf16, 704 x 384 x 12 frames, 96 channels   1246 MB   372 us; a quarter and an eighth of it at 192 and 384 channels
 */
#include "cuda/codes.cuh"

enum { HELD = 4, TEAM_MOST = 512, SMALL_BLOCK = 128 };

typedef struct Norm {                   // what a kernel needs to know
    void *out;
    const void *x;
    const float *w, *b;                 // [rows / run, width] or NULL
    const float *table;                 // norm_rope: [rows, hd] or NULL
    const float *squares;               // norm_rope: [rows] or NULL
    int64_t rows, width, run;
    int hd, team;                       // team: on the way to its launch the least
    CodeRows codes;                     // where the result is codes
    int head;                           // norm_rope: numbers that share a scale
    float whole, eps, plus;             // whole: numbers of a whole row, of which width are here
    Act act;
} Norm;

/* ---- a row ------------------------------------------------------------------------------------------------------------------ */

/* One lane's part of row r; a lane without a row has a width of 0. each(f): f(v, at) for each of its packs, v[] being x[at ..). Wide packs
 * stay in registers, others are read by each(). */
template <class T, class S> struct Row {
    const T *x;
    int64_t width, step;
    int64_t first;
    float held[S::WIDE ? HELD : 1][S::V];

    __device__ __forceinline__ Row(const Norm &n, int64_t r)
        : x((const T *)n.x + r * n.width), width(r < n.rows ? n.width : 0), step((int64_t)n.team * S::V),
          first((int64_t)(threadIdx.x % n.team) * S::V)
    {
        if (S::WIDE)
#pragma unroll
            for (int i = 0; i < HELD; i++)
                if (first + i * step < width)
                    load_pack<S::V, S::WIDE>(held[i], x + first + i * step, S::V);
    }

    template <class F> __device__ __forceinline__ void each(F f)
    {
        if (S::WIDE) {
#pragma unroll
            for (int i = 0; i < HELD; i++)
                if (first + i * step < width)
                    f(held[i], first + i * step);
        } else {
            for (int64_t at = first; at < width; at += step) {
                load_pack<S::V, S::WIDE>(held[0], x + at, width - at);
                f(held[0], at);
            }
        }
    }

    /* Wide packs, all lanes of a warp at once: f(v, at, in), those that have no numbers with in = false. */
    template <class F> __device__ __forceinline__ void in_step(F f)
    {
#pragma unroll
        for (int i = 0; i < HELD; i++)
            f(held[i], first + i * step, first + i * step < width);
    }

    template <class TO> __device__ __forceinline__ void store(const Norm &n, int64_t r, int64_t at, const float *v) const
    {
        store_pack<S::V, S::WIDE>((TO *)n.out + r * n.width + at, v, S::WIDE ? S::V : width - at);
    }

    /* numbers of a vector like the row */
    __device__ __forceinline__ void vector(float v[S::V], const float *p, int64_t at) const
    {
        load_pack<S::V, S::WIDE>(v, p + at, S::WIDE ? S::V : width - at);
    }

    __device__ __forceinline__ float squares(int team, float *part)
    {
        float sum[1] = { 0 };

        each([&](const float *v, int64_t) {
#pragma unroll
            for (int i = 0; i < S::V; i++)
                sum[0] = fmaf(v[i], v[i], sum[0]);
        });
        team_sum<1>(sum, team, part);
        return sum[0];
    }
};

/* Row r of this thread's team; the same number of turns for every thread of a block. */
#define EACH_TEAM_ROW(r, n)                                                                                                           \
    for (int64_t base = (int64_t)blockIdx.x * (blockDim.x / (n).team), r = base + threadIdx.x / (n).team; base < (n).rows;            \
         base += (int64_t)gridDim.x * (blockDim.x / (n).team), r = base + threadIdx.x / (n).team)

/* ---- kernels ---------------------------------------------------------------------------------------------------------------- */

template <class TO, class TI, class S> static __global__ void __launch_bounds__(TEAM_MOST, 1) squares_kernel(Norm n)
{
    SMEM_STATIC(float, part, 32);

    EACH_TEAM_ROW(r, n) {
        Row<TI, S> row(n, r);
        const float sum = row.squares(n.team, part);

        if (r < n.rows && threadIdx.x % n.team == 0)
            ((TO *)n.out)[r] = (TO)sum;
    }
}

/* What a row is multiplied by. */
template <class T, class S> static __device__ __forceinline__ float rope_factor(Row<T, S> &row, const Norm &n, int64_t r, float *part)
{
    const float sum = !n.squares ? row.squares(n.team, part) : r < n.rows ? n.squares[r] : 0;

    return 1 / sqrtf(sum / n.whole + n.eps);
}

template <class T, class S> static __device__ __forceinline__ void norm_and_turn(const Row<T, S> &row, const Norm &n, int64_t r, int64_t at, float f, float *v)
{
    float w[S::V];

    row.vector(w, n.w, at);
#pragma unroll
    for (int i = 0; i < S::V; i++)
        v[i] = v[i] * f * w[i];
    if (n.table) {
        load_pack<S::V, S::WIDE>(w, n.table + r * n.hd + (int)at % n.hd, S::V);
        turn_pack<S::V>(v, w);
    }
}

template <class TO, class TI, class S> static __global__ void __launch_bounds__(TEAM_MOST, 1) norm_rope_kernel(Norm n)
{
    SMEM_STATIC(float, part, 32);

    EACH_TEAM_ROW(r, n) {
        Row<TI, S> row(n, r);
        const float f = rope_factor(row, n, r, part);

        row.each([&](float *v, int64_t at) {
            norm_and_turn(row, n, r, at, f, v);
            row.template store<TO>(n, r, at, v);
        });
    }
}

/* The largest of a head, in each of its lanes. */
static __device__ __forceinline__ void head_top(float top[2], int lanes)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
        for (int o = lanes / 2; o; o >>= 1)
            top[i] = fmaxf(top[i], __shfl_xor_sync(FULL, top[i], o));
}

template <class TI> static __global__ void __launch_bounds__(TEAM_MOST, 1) norm_rope_codes_kernel(Norm n)
{
    SMEM_STATIC(float, part, 32);

    EACH_TEAM_ROW(r, n) {
        Row<TI, Shape<CODE_PACK, true>> row(n, r);
        const float f = rope_factor(row, n, r, part);

        row.in_step([&](float *v, int64_t at, bool in) {
            float top[2] = { 0, 0 };

            if (in) {
                norm_and_turn(row, n, r, at, f, v);
                round_pack(v);
                see_pack(top, v);
            }
            head_top(top, n.head / CODE_PACK);
            if (!in)
                return;
            put_codes(n.codes, r, n.width, at, v, code_factor(top, n.codes.type));
            if (at % n.head == 0)
                n.codes.scale[(r * n.width + at) / n.head] = code_scale(top, n.codes.type);
        });
    }
}

template <class TO, class TI, class S> static __global__ void __launch_bounds__(TEAM_MOST, 1) channel_norm_kernel(Norm n)
{
    SMEM_STATIC(float, part, 32);

    EACH_TEAM_ROW(r, n) {
        Row<TI, S> row(n, r);
        const float f = sqrtf(n.whole) / fmaxf(sqrtf(row.squares(n.team, part)), 1e-12f);

        row.each([&](float *v, int64_t at) {
            float w[S::V];

            row.vector(w, n.w, at);
#pragma unroll
            for (int i = 0; i < S::V; i++)
                v[i] = v[i] * f * w[i];
            act_pack<TO, S::V>(v, n.act);
            row.template store<TO>(n, r, at, v);
        });
    }
}

/* mean and 1 / sqrt(var + eps): x - mean is (x - coarse) - rest */
typedef struct Moments {
    float coarse, rest, scale;
} Moments;

template <class T, class S> static __device__ __forceinline__ Moments moments_of(Row<T, S> &row, const Norm &n, float *part)
{
    float sum[2] = { 0 };
    Moments m;

    row.each([&](const float *v, int64_t) {
#pragma unroll
        for (int i = 0; i < S::V; i++)
            sum[0] += v[i];
    });
    team_sum<1>(sum, n.team, part);
    m.coarse = sum[0] / n.whole;
    sum[0] = 0;
    row.each([&](const float *v, int64_t at) {
#pragma unroll
        for (int i = 0; i < S::V; i++) {
            const float d = S::WIDE || at + i < n.width ? v[i] - m.coarse : 0;

            sum[0] += d;
            sum[1] = fmaf(d, d, sum[1]);
        }
    });
    team_sum<2>(sum, n.team, part);
    m.rest = sum[0] / n.whole;
    m.scale = 1 / sqrtf(fmaxf(fmaf(-m.rest, m.rest, sum[1] / n.whole), 0) + n.eps);
    return m;
}

template <class TO, class T, class S> static __device__ __forceinline__ void normalize(const Row<T, S> &row, const Norm &n, int64_t r, int64_t at,
                                                                                      const Moments &m, float *v)
{
    const int64_t table = r / n.run * n.width;
    float w[S::V];

#pragma unroll
    for (int i = 0; i < S::V; i++)
        v[i] = __fmul_rn(v[i] - m.coarse - m.rest, m.scale);
    if (n.w) {
        row.vector(w, n.w + table, at);
#pragma unroll
        for (int i = 0; i < S::V; i++)
            v[i] = __fmul_rn(v[i], n.plus + w[i]);
    }
    if (n.b) {
        row.vector(w, n.b + table, at);
#pragma unroll
        for (int i = 0; i < S::V; i++)
            v[i] = __fadd_rn(v[i], w[i]);
    }
    act_pack<TO, S::V>(v, n.act);
}

template <class TO, class TI, class S> static __global__ void __launch_bounds__(TEAM_MOST, 1) layer_norm_kernel(Norm n)
{
    SMEM_STATIC(float, part, 64);

    EACH_TEAM_ROW(r, n) {
        Row<TI, S> row(n, r);
        const Moments m = moments_of(row, n, part);

        row.each([&](float *v, int64_t at) {
            normalize<TO>(row, n, r, at, m, v);
            row.template store<TO>(n, r, at, v);
        });
    }
}

template <class TI> static __global__ void __launch_bounds__(TEAM_MOST, 1) layer_norm_codes_kernel(Norm n)
{
    SMEM_STATIC(float, part, 64);

    EACH_TEAM_ROW(r, n) {
        Row<TI, Shape<CODE_PACK, true>> row(n, r);
        const Moments m = moments_of(row, n, part);
        float top[2] = { 0, 0 };

        row.in_step([&](float *v, int64_t at, bool in) {
            if (in) {
                normalize<bf16>(row, n, r, at, m, v);
                round_pack(v);
            } else {
                clear_pack(v);
            }
            rotate_pack(v, n.codes.group);
            see_pack(top, v);
        });
        team_top(top, n.team, part);
        row.in_step([&](const float *v, int64_t at, bool in) {
            if (in)
                put_codes(n.codes, r, n.width, at, v, code_factor(top, n.codes.type));
        });
        if (r < n.rows && threadIdx.x % n.team == 0)
            n.codes.scale[r] = code_scale(top, n.codes.type);
    }
}

/* ---- launching -------------------------------------------------------------------------------------------------------------- */

/* The smallest team that holds `packs`: a power of two within a warp, else whole warps; from `least` to TEAM_MOST. */
static int team_of(int64_t packs, int least)
{
    const int64_t lanes = divide_up(packs, HELD);
    int team = least;

    if (lanes > 32)
        return (int)at_most(divide_up(lanes, 32) * 32, TEAM_MOST);
    while (team < lanes)
        team *= 2;
    return team;
}

static int launch_norm(Backend *be, Norm n, void (*kernel)(Norm), int pack, const char *name)
{
    const Cuda *cuda = avt_cuda(be);
    unsigned block, grid;

    n.team = team_of(divide_up(n.width, pack), n.team);
    block = (unsigned)(n.team > 32 ? n.team : (int)SMALL_BLOCK);
    grid = at_most(divide_up(n.rows, block / (unsigned)n.team), (int64_t)SPAN_BLOCKS * cuda->multiprocessors);
    return avt_cuda_check(be, LAUNCH(kernel, dim3(grid), dim3(block), 0, cuda->stream, n), name);
}

/* pick(type of the result, of x, shape): a kernel */
template <class F> static int run_norm(Backend *be, const OpCall *c, const Norm *n, F pick)
{
    if (!n->rows || !n->width)
        return 0;
    return by_type(c->out.dtype, [&](auto to) {
        return by_type(c->x.dtype, [&](auto from) {
            constexpr int V = wide_pack<TYPE(to), TYPE(from)>;
            const bool wide = aligned16(n->out, n->x, n->w, n->b, n->table) && n->width % V == 0 && n->hd % V == 0 &&
                              n->width <= (int64_t)TEAM_MOST * HELD * V;

            return wide ? launch_norm(be, *n, pick(to, from, Shape<V, true>()), V, avt_op_name(c->op))
                        : launch_norm(be, *n, pick(to, from, Shape<2, false>()), 2, avt_op_name(c->op));
        });
    });
}

/* Has a result of codes a kernel, pick(type of x)? Else its numbers go through the workspace. */
template <class F> static int run_codes(Backend *be, const OpCall *c, const Norm *n, bool suits, int (*op)(Backend *be, const OpCall *c), F pick)
{
    if (!n->rows || !n->width)
        return 0;
    suits = suits && c->out.act == DT_BF16 && aligned16(n->x, n->w, n->b, n->table) && n->width % CODE_PACK == 0 && n->hd % CODE_PACK == 0 &&
            n->width <= (int64_t)TEAM_MOST * HELD * CODE_PACK;
    if (!suits)
        return avt_cuda_codes_apart(be, c, op);
    return by_type(c->x.dtype, [&](auto from) { return launch_norm(be, *n, pick(from), CODE_PACK, avt_op_name(c->op)); });
}

/* What all norms have. */
static Norm norm_of(const OpCall *c)
{
    Norm n = {};

    n.out = c->out.data;
    n.x = c->x.data;
    n.rows = avt_rows_of(c->x);
    n.width = avt_last_dim(c->x);
    n.run = n.rows + 1;
    n.whole = (float)n.width;
    n.team = 1;
    n.w = (const float *)c->norm.w.data;
    n.eps = c->u.norm.eps;
    n.plus = (float)c->u.norm.plus;
    n.act = c->u.norm.act;
    return n;
}

int avt_cuda_squares(Backend *be, const OpCall *c)
{
    const Norm n = norm_of(c);

    return run_norm(be, c, &n, [](auto, auto from, auto shape) { return &squares_kernel<float, TYPE(from), decltype(shape)>; });
}

/* Neighbouring lanes, a power of two of them, have a head, and no team ends within one. */
static bool heads_suit(const Norm &n)
{
    const int lanes = n.head / CODE_PACK;

    return n.head % CODE_PACK == 0 && lanes && lanes <= 32 && !(lanes & (lanes - 1)) && team_of(divide_up(n.width, CODE_PACK), 1) % lanes == 0;
}

int avt_cuda_norm_rope(Backend *be, const OpCall *c)
{
    Norm n = norm_of(c);

    n.table = (const float *)c->norm_rope.table.data;
    n.squares = (const float *)c->norm_rope.squares.data;
    n.hd = (int)(2 * c->norm_rope.table.dim[1]);
    n.whole = (float)c->u.norm.width;
    if (c->out.scale) {
        n.head = (int)avt_last_dim(c->out);
        n.codes = code_rows(c->out, n.width, 1);
        return run_codes(be, c, &n, heads_suit(n), avt_cuda_norm_rope, [](auto from) { return &norm_rope_codes_kernel<TYPE(from)>; });
    }
    return run_norm(be, c, &n, [](auto to, auto from, auto shape) { return &norm_rope_kernel<TYPE(to), TYPE(from), decltype(shape)>; });
}

int avt_cuda_channel_norm(Backend *be, const OpCall *c)
{
    const Norm n = norm_of(c);

    return run_norm(be, c, &n, [](auto to, auto from, auto shape) { return &channel_norm_kernel<TYPE(to), TYPE(from), decltype(shape)>; });
}

int avt_cuda_layer_norm(Backend *be, const OpCall *c)
{
    const int64_t values = avt_numel(c->norm.w.be ? c->norm.w : c->norm.b);
    Norm n = norm_of(c);

    n.b = (const float *)c->norm.b.data;
    if (values)
        n.run = n.rows * n.width / values;
    n.team = 32;                                                    // as codes want it, which have the same bits
    if (c->out.scale) {
        n.codes = code_rows(c->out, n.width, (int)avt_code_group(c->out.dtype, n.width));
        return run_codes(be, c, &n, true, avt_cuda_layer_norm, [](auto from) { return &layer_norm_codes_kernel<TYPE(from)>; });
    }
    return run_norm(be, c, &n, [](auto to, auto from, auto shape) { return &layer_norm_kernel<TYPE(to), TYPE(from), decltype(shape)>; });
}
