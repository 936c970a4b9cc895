/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * act, add, mul, axpy, gate_add: each result depends on one element of each operand.
 *
 *   act         out = act(x)
 *   pair        out = a b, or alpha a + beta b: add 1 and 1, axpy its numbers, gate_add 1 and mask[row]; b has a's shape or is one row
 *
 * One pass: every operand is read once, the result written once, and that is the floor. Of 3168 rows of 5120 (H100, 3.35 TB/s):
 *   x f32, y bf16, out f32: 162 MB, 48 us;  bf16 alone: 97 MB, 29 us
 */
#include "cuda/kernel.cuh"

/* ---- act -------------------------------------------------------------------------------------------------------------------- */

template <class TO, class TI, class S> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
act_kernel(TO *out, const TI *x, int64_t nb, Act act)
{
    EACH_PACK(at, nb, S::V) {
        float v[S::V];

        load_pack<S::V, S::WIDE>(v, x + at, nb - at);
        act_pack<TO, S::V>(v, act);
        store_pack<S::V, S::WIDE>(out + at, v, nb - at);
    }
}

template <class TO, class TI, class S> static int launch_act(Backend *be, const OpCall *c)
{
    const Cuda *cuda = avt_cuda(be);
    const int64_t nb = avt_numel(c->out);
    const Span s = span_of(cuda, 1, divide_up(nb, S::V));

    return avt_cuda_check(be, LAUNCH((act_kernel<TO, TI, S>), s.grid, s.block, 0, cuda->stream, (TO *)c->out.data, (const TI *)c->x.data,
                                     nb, c->u.act), "act");
}

static int run_act(Backend *be, const OpCall *c)
{
    const bool wide = aligned16(c->out.data, c->x.data);

    return by_type(c->out.dtype, [&](auto to) {
        return by_type(c->x.dtype, [&](auto from) {
            using TO = TYPE(to);
            using TI = TYPE(from);

            return wide ? launch_act<TO, TI, Shape<wide_pack<TO, TI>, true>>(be, c) : launch_act<TO, TI, Shape<1, false>>(be, c);
        });
    });
}

/* ---- pairs ------------------------------------------------------------------------------------------------------------------ */

typedef struct Pair {
    Tensor out, a, b;
    const float *mask;                  // [rows]: beta of each row, or NULL
    int64_t rows, width;                // one row unless b is one, or a mask is there
    int64_t step;                       // numbers from one row of b to the next: width or 0
    float alpha, beta;
    int product;
} Pair;

template <class TO, class TA, class TB, class S> static __global__ void __launch_bounds__(SPAN_THREADS, SPAN_RESIDENT)
pair_kernel(TO *out, const TA *a, const TB *b, const float *mask, int64_t rows, int64_t width, int64_t step, float alpha, float beta, int product)
{
    EACH_ROW(r, rows) {
        const float part = mask ? mask[r] : beta;

        EACH_PACK(at, width, S::V) {
            float x[S::V], y[S::V];

            load_pack<S::V, S::WIDE>(x, a + r * width + at, width - at);
            load_pack<S::V, S::WIDE>(y, b + r * step + at, width - at);
#pragma unroll
            for (int i = 0; i < S::V; i++)
                x[i] = product ? x[i] * y[i] : alpha * x[i] + part * y[i];
            store_pack<S::V, S::WIDE>(out + r * width + at, x, width - at);
        }
    }
}

template <class TO, class TA, class TB, class S> static int launch_pair(Backend *be, const Pair *p, const char *name)
{
    const Cuda *cuda = avt_cuda(be);
    const Span s = span_of(cuda, p->rows, divide_up(p->width, S::V));

    return avt_cuda_check(be, LAUNCH((pair_kernel<TO, TA, TB, S>), s.grid, s.block, 0, cuda->stream, (TO *)p->out.data, (const TA *)p->a.data,
                                     (const TB *)p->b.data, p->mask, p->rows, p->width, p->step, p->alpha, p->beta, p->product), name);
}

static int run_pair(Backend *be, const Pair *p, const char *name)
{
    return by_type(p->out.dtype, [&](auto to) {
        return by_type(p->a.dtype, [&](auto first) {
            return by_type(p->b.dtype, [&](auto second) {
                using TO = TYPE(to);
                using TA = TYPE(first);
                using TB = TYPE(second);
                constexpr int V = wide_pack<TO, TA, TB>;
                const bool wide = aligned16(p->out.data, p->a.data, p->b.data) && (p->rows == 1 || p->width % V == 0);

                return wide ? launch_pair<TO, TA, TB, Shape<V, true>>(be, p, name) : launch_pair<TO, TA, TB, Shape<1, false>>(be, p, name);
            });
        });
    });
}

static Pair pair_of(const OpCall *c)
{
    const int64_t nb = avt_numel(c->out);
    const int by_row = c->op == OP_GATE_ADD || avt_numel(c->in[1]) != nb;
    Pair p = {};

    p.out = c->out;
    p.a = c->in[0];
    p.b = c->in[1];
    p.width = by_row ? avt_last_dim(c->in[0]) : nb;
    p.rows = nb / p.width;
    p.step = avt_numel(c->in[1]) == nb ? p.width : 0;
    p.mask = c->op == OP_GATE_ADD ? (const float *)c->gate_add.mask.data : NULL;
    p.alpha = c->op == OP_AXPY ? c->u.axpy.alpha : 1;
    p.beta = c->op == OP_AXPY ? c->u.axpy.beta : 1;
    p.product = c->op == OP_MUL;
    return p;
}

int avt_cuda_elementwise(Backend *be, const OpCall *c)
{
    Pair p;

    if (!avt_numel(c->out))
        return 0;
    if (c->op == OP_ACT)
        return run_act(be, c);
    p = pair_of(c);
    return run_pair(be, &p, avt_op_name(c->op));
}
