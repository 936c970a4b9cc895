/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rotary positions: the table of cos and sin, and the rotation of neighbouring pairs.
 *
 *   pairs of a head of hd = 2 P numbers:   0 .. PF-1 frame | PF .. PF+PH-1 row | PF+PH .. P-1 column,  PH = PW = P / 3
 *   angle = position * 10000^(-i / P_axis), i counted within the axis, in f64, as in plain C (cpu/rope.c says how positions lie)
 *
 * Trap: positions are rounded as NumPy's linspace rounds them, so the product and the sum behind trunc() may not become one fma.
 * cos and sin are of half turns: the device's own cos and sin of large angles want local memory.
 *
 * Floor of rope: one read, one write, angles from caches; 2640 keys of 5120 in bf16 54 MB, 16 us on an H100. The table is made once a block of
 * frames: 3168 x 64 pairs in f64, 1.6 MB.
 */
#include "cuda/kernel.cuh"

/* ---- table ------------------------------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ double position(int64_t start, int64_t stop, int cnt, int i)
{
    if (cnt < 2)
        return (double)start;
    if (i == cnt - 1)
        return (double)stop;
    return trunc(__dadd_rn(__dmul_rn(i, (double)(stop - start) / (cnt - 1)), (double)start));
}

/* Of token i of a group along axis 0 frame, 1 row, 2 column; the sign is the direction of turning. */
static __device__ __forceinline__ double axis_position(const RopeGroup &g, int axis, int64_t i)
{
    if (axis == 1)
        return position(0, g.h_size - 1, g.h_cnt, (int)(i / g.w_cnt % g.h_cnt));
    if (axis == 2)
        return position(0, g.w_size - 1, g.w_cnt, (int)(i % g.w_cnt));
    i /= (int64_t)g.h_cnt * g.w_cnt;
    if (g.f_start < 0)
        return -position(-g.f_start, -g.f_start - g.f_size + 1, g.f_cnt, (int)i);
    return position(g.f_start, g.f_start + g.f_size - 1, g.f_cnt, (int)i);
}

static __device__ __forceinline__ float half_or_float(double v, int half)
{
    return half ? __half2float(__float2half_rn((float)v)) : (float)v;
}

/* A group's part of the table, out [nb, pairs, 2] */
static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT) rope_table_kernel(float *out, RopeGroup g, int64_t nb, int pairs, int half)
{
    const int third = pairs / 3, frame = pairs - 2 * third;

    EACH_ROW(r, nb) {
        EACH_PACK(p, pairs, 1) {
            const int axis = p < frame ? 0 : p < frame + third ? 1 : 2;
            const int i = (int)p - (axis > 0 ? frame : 0) - (axis > 1 ? third : 0);
            const double turns = axis_position(g, axis, r) / pow(10000.0, (double)i / (axis ? third : frame)) * 0.318309886183790671538;
            double s, c;

            sincospi(turns, &s, &c);
            out[(r * pairs + p) * 2] = half_or_float(c, half);
            out[(r * pairs + p) * 2 + 1] = half_or_float(s, half);
        }
    }
}

int avt_cuda_rope_table(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const RopeGrid *grid = &c->u.rope;
    const int pairs = (int)c->out.dim[1];
    float *out = (float *)c->out.data;
    int ret = 0;

    for (int i = 0; i < grid->nb_groups && ret >= 0 && pairs; i++) {
        const RopeGroup g = grid->group[i];
        const int64_t nb = (int64_t)g.f_cnt * g.h_cnt * g.w_cnt;
        const Span s = span_of(cuda, nb, pairs);

        if (!nb)
            continue;
        ret = avt_cuda_check(be, LAUNCH(rope_table_kernel, s.grid, s.block, 0, cuda->stream, out, g, nb, pairs, grid->half), "rope_table");
        out += nb * pairs * 2;
    }
    return ret;
}

/* ---- rotation --------------------------------------------------------------------------------------------------------------- */

/* x, out [rows, width], heads of hd numbers side by side; table [rows, hd] */
template <class TO, class TI, class S> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
rope_kernel(TO *out, const TI *x, const float *table, int64_t rows, int64_t width, int hd)
{
    EACH_ROW(r, rows) {
        EACH_PACK(at, width, S::V) {
            float v[S::V], t[S::V];

            load_pack<S::V, S::WIDE>(v, x + r * width + at, S::V);
            load_pack<S::V, S::WIDE>(t, table + r * hd + at % hd, S::V);
            turn_pack<S::V>(v, t);
            store_pack<S::V, S::WIDE>(out + r * width + at, v, S::V);
        }
    }
}

template <class TO, class TI, class S> static int launch_rope(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t rows = c->x.dim[0], width = c->x.dim[1] * c->x.dim[2];
    const Span s = span_of(cuda, rows, width / S::V);

    return avt_cuda_check(be, LAUNCH((rope_kernel<TO, TI, S>), s.grid, s.block, 0, cuda->stream, (TO *)c->out.data, (const TI *)c->x.data,
                                     (const float *)c->rope.table.data, rows, width, (int)c->x.dim[2]), "rope");
}

int avt_cuda_rope(Backend *be, const OpCall *c)
{
    if (!avt_numel(c->out))
        return 0;
    if (c->out.scale)
        return avt_cuda_codes_apart(be, c, avt_cuda_rope);
    return by_type(c->out.dtype, [&](auto to) {
        return by_type(c->x.dtype, [&](auto from) {
            using TO = TYPE(to);
            using TI = TYPE(from);
            constexpr int V = wide_pack<TO, TI>;
            const bool wide = aligned16(c->out.data, c->x.data, c->rope.table.data) && c->x.dim[2] % V == 0;

            return wide ? launch_rope<TO, TI, Shape<V, true>>(be, c) : launch_rope<TO, TI, Shape<2, false>>(be, c);
        });
    });
}
