/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * linear:  out[M, N] = act(x[M, K] w[N, K]^T + b)    or    res + gate * (x w^T + b)
 *
 * cuBLASLt multiplies (lt.cu); what it can add behind the sum it adds: a bias, GELU where its formula is ours, a residual of out's type.
 * What it cannot (SiLU, erf, a gate, a result in bf16 of operands in f32 or beside a bias in f32) is a finish of our own over sums in f32: in place when the
 * result is f32 itself, else over rows of the workspace, so that a result is rounded once. A weight of another type than x is widened
 * into the workspace, as many rows at a time as fit.
 *
 * Codes: either cuDNN multiplies, scales, and finishes in one kernel (dnn_product.cu), or cuBLASLt gives the sums of the codes alone (i32 of
 * i8, which is exact; f32 of e4m3) and the scales are part of our own finish. Which comes first, by_codes() says. A card without
 * products of e4m3 (below 8.9) widens both sides to bf16, which has every code.
 *
 *      columns of w        one piece, or pieces of widened rows
 *        rows of x         one piece, or pieces of sums
 *          product, finish
 *
 * Rows that are no multiple of 16 bytes, and addresses that are none: our own product (product.cuh).
 */
#include <stdio.h>

#include "cuda/plans.h"
#include "cuda/product.cuh"

/* ---- elements --------------------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ float4 load_sums(const float *v) { return load4(v, DT_F32, 0); }

static __device__ __forceinline__ float4 load_sums(const int32_t *v)
{
    const uint4 u = ld16(v);

    return make_float4((float)(int)u.x, (float)(int)u.y, (float)(int)u.z, (float)(int)u.w);
}

/* out = finish(v), rows of n: V columns a thread, 4 where rows and addresses allow it */
template <int V, class T> __global__ void __launch_bounds__(256) finish_kernel(const T *v, Finish f, int64_t rows, int n)
{
    const int parts = n / V;

    for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < rows * parts; i += (int64_t)gridDim.x * 256) {
        const int64_t row = i / parts;
        const int column = (int)(i - row * parts) * V;
        const size_t at = (size_t)(row * f.row + column), from = (size_t)(row * ((const void *)v == f.out ? f.row : n) + column);

        if (V == 4) {
            float4 sum = load_sums(v + from);

            sum.x = finished(f, sum.x, at, row, column);
            sum.y = finished(f, sum.y, at + 1, row, column + 1);
            sum.z = finished(f, sum.z, at + 2, row, column + 2);
            sum.w = finished(f, sum.w, at + 3, row, column + 3);
            store4(f.out, f.dtype, at, sum);
        } else {
            store_value(f.out, f.dtype, at, finished(f, (float)v[from], at, row, column));
        }
    }
}

/* out = x of another type, both contiguous, 4 at a time; n is a multiple of 4 */
static __global__ void __launch_bounds__(256) convert_kernel(void *out, DType to, const void *x, DType from, int64_t n)
{
    for (int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 4; i < n; i += (int64_t)gridDim.x * 1024)
        store4(out, to, (size_t)i, load4(x, from, (size_t)i));
}

static unsigned blocks_for(Cuda *cuda, int64_t threads)
{
    const int64_t blocks = (threads + 255) / 256, most = (int64_t)cuda->multiprocessors * 8;

    return (unsigned)(blocks < most ? blocks : most);
}

int avt_cuda_convert(Backend *be, void *out, DType to, const void *x, DType from, int64_t n)
{
    Cuda *cuda = avt_cuda(be);

    return avt_cuda_check(be, LAUNCH(convert_kernel, blocks_for(cuda, n / 4), 256, 0, cuda->stream, out, to, x, from, n), "converting");
}

template <class T> static cudaError_t launch_finish(Cuda *cuda, const T *v, const Finish *f, int64_t rows, int64_t n)
{
    const int wide = can_load4(v, DT_F32, n) && can_load4(f->out, f->dtype, f->row) && can_load4(f->res, f->dtype, f->row);

    return wide ? LAUNCH((finish_kernel<4, T>), blocks_for(cuda, rows * n / 4), 256, 0, cuda->stream, v, *f, rows, (int)n) :
                  LAUNCH((finish_kernel<1, T>), blocks_for(cuda, rows * n), 256, 0, cuda->stream, v, *f, rows, (int)n);
}

int avt_cuda_finish(Backend *be, const void *v, DType sums, const Finish *f, int64_t rows, int64_t n)
{
    Cuda *cuda = avt_cuda(be);

    return avt_cuda_check(be, sums == DT_I32 ? launch_finish(cuda, (const int32_t *)v, f, rows, n) :
                                               launch_finish(cuda, (const float *)v, f, rows, n), "finishing a product");
}

/* ---- pieces ----------------------------------------------------------------------------------------------------------------------- */

/* How a call is computed */
typedef struct Way {
    const OpCall *c;
    int64_t m, n, k;
    DType x, out, sums;                 // types; w is of x's here
    char *library, *weight, *wide_x, *result;           // in the workspace; all but the first: or NULL
    size_t library_size;
    int64_t weight_rows, rows;          // at a time
    int gelu, own_finish;               // the library's GELU; ours
    int choice;                         // in the library's list
    Finish finish;
} Way;

static int gelu_of_library(const LtFacts *facts, const OpCall *c)
{
    return c->u.act == ACT_GELU_TANH && (avt_op_numbers_type(c) == DT_F32 ? facts->gelu_exact : facts->gelu && c->linear.x.dtype == DT_BF16);
}

static Finish finish_of(const OpCall *c)
{
    return { c->out.data, c->linear.res.data, (const float *)c->linear.b.data, (const float *)c->linear.gate.data, c->linear.w.dim[0],
             avt_op_numbers_type(c), c->u.act, (const float *)c->linear.x.scale, (const float *)c->linear.w.scale };
}

/* Rows of x and of the result at a time, by what is set aside for them. */
static int64_t rows_at_a_time(const Way *w, const LinearSpace *s)
{
    const int64_t of_result = w->result && w->own_finish ? (int64_t)(s->result / ((size_t)w->n * sizeof(float))) : w->m;
    const int64_t of_x = w->wide_x ? (int64_t)(s->x / ((size_t)w->k * avt_dtype_size(w->x))) : w->m;

    return of_result < of_x ? of_result : of_x;
}

static Way way_of(Backend *be, const OpCall *c, int choice)
{
    Cuda *cuda = avt_cuda(be);
    const LinearSpace s = avt_cuda_linear_space(c, cuda->arch);     // of a result in codes: that of its numbers
    const LtFacts *facts = avt_cuda_lt_facts(cuda->plans);
    const bool codes = avt_is_code(c->linear.x.dtype);
    Way w = {};

    w.c = c;
    w.choice = choice;
    w.m = avt_rows_of(c->out);
    w.n = c->linear.w.dim[0];
    w.k = c->linear.w.dim[1];
    w.x = codes && s.x ? DT_BF16 : c->linear.x.dtype;
    w.out = avt_op_numbers_type(c);
    w.sums = w.x == DT_I8 ? DT_I32 : DT_F32;
    w.library = (char *)cuda->workspace;
    w.library_size = s.library;
    w.weight = s.weight ? w.library + s.library : NULL;
    w.wide_x = s.x ? w.library + s.library + s.weight : NULL;
    w.result = s.result ? w.library + s.library + s.weight + s.x : NULL;
    w.own_finish = codes || c->linear.gate.be || (w.out == DT_BF16 && w.x == DT_F32) ||
                   (c->linear.b.be && !(w.out == DT_BF16 ? facts->bias_bf16 : facts->bias));
    w.gelu = !w.own_finish && gelu_of_library(facts, c);            // the library's comes before a bias of our own
    w.own_finish |= c->u.act != ACT_NONE && !w.gelu;
    w.weight_rows = s.weight ? (int64_t)(s.weight / ((size_t)w.k * avt_dtype_size(w.x))) : w.n;
    w.weight_rows = w.weight_rows < w.n ? w.weight_rows / 8 * 8 : w.n;          // columns of a piece stay aligned
    w.rows = rows_at_a_time(&w, &s);
    w.finish = finish_of(c);
    return w;
}

static const char *element(const void *p, DType dtype, int64_t i)
{
    return p ? (const char *)p + (size_t)i * avt_dtype_size(dtype) : NULL;
}

/* The finish of rows m0 .. and columns n0 .. */
static Finish finish_at(const Way *w, int64_t m0, int64_t n0)
{
    Finish f = w->finish;

    f.out = (void *)element(f.out, w->out, m0 * w->n + n0);
    f.res = element(f.res, w->out, m0 * w->n + n0);
    f.bias = f.bias ? f.bias + n0 : NULL;
    f.gate = f.gate ? f.gate + n0 : NULL;
    f.own = f.own ? f.own + m0 : NULL;
    f.scale = f.scale ? f.scale + n0 : NULL;
    return f;
}

/* Product and finish of rows m0 .. m0 + m and columns n0 .. n0 + n; weight: those columns' rows of w */
static int piece(Backend *be, const Way *w, const void *weight, int64_t m0, int64_t m, int64_t n0, int64_t n)
{
    const DType from = w->c->linear.x.dtype;
    const void *x = element(w->c->linear.x.data, from, m0 * w->k);
    const Finish f = finish_at(w, m0, n0);
    const bool fused = !w->own_finish, aside = w->own_finish && w->result;
    const LtProduct p = { PLAN_LINEAR, fused && f.bias ? 1 + DT_F32 : 0, w->x, fused ? w->out : w->sums, fused && w->gelu, fused && f.res, w->choice, 0, m, n, w->k,
                          aside ? n : w->n, (int64_t)w->library_size };
    const LtOperands o = { aside ? w->result : f.out, f.res, w->wide_x ? w->wide_x : x, weight, f.bias, w->library };
    int ret = w->wide_x ? avt_cuda_convert(be, w->wide_x, w->x, x, from, m * w->k) : 0;

    if (ret >= 0)
        ret = avt_cuda_lt_run(be, &p, &o);
    if (ret < 0 || fused)
        return ret;
    return avt_op_gives_codes(w->c) ? avt_cuda_finish_codes(be, w->c->out, o.out, w->sums, &f, m0, m) : avt_cuda_finish(be, o.out, w->sums, &f, m, n);
}

static int by_library(Backend *be, const Way *w)
{
    const OpCall *c = w->c;
    int ret = 0;

    for (int64_t n0 = 0; ret >= 0 && n0 < w->n; n0 += w->weight_rows) {
        const int64_t n = w->n - n0 < w->weight_rows ? w->n - n0 : w->weight_rows;
        const void *weight = element(c->linear.w.data, c->linear.w.dtype, n0 * w->k);

        if (w->weight) {
            ret = avt_cuda_convert(be, w->weight, w->x, weight, c->linear.w.dtype, n * w->k);
            weight = w->weight;
        }
        for (int64_t m0 = 0; ret >= 0 && m0 < w->m; m0 += w->rows)
            ret = piece(be, w, weight, m0, w->m - m0 < w->rows ? w->m - m0 : w->rows, n0, n);
    }
    return ret;
}

static int by_hand(Backend *be, const OpCall *c)
{
    const int64_t n = c->linear.w.dim[0], k = c->linear.w.dim[1], m = avt_rows_of(c->out);

    if (avt_op_gives_codes(c))
        return avt_cuda_codes_apart(be, c, by_hand);
    return run_product(be, rows_of(c->linear.x.data, c->linear.x.dtype, m, k), rows_of(c->linear.w.data, c->linear.w.dtype, n, k),
                       finish_of(c), m, n, k, 1);
}

static int aligned16(const void *p, const void *q)
{
    return ((uintptr_t)p | (uintptr_t)q) % 16 == 0;
}

/* Are the sums of a result in codes finished as such? Those of codes are, by whole rows. */
static bool finishes_codes(const Way *w)
{
    return avt_is_code(w->x) && w->result && w->weight_rows == w->n && avt_cuda_can_finish_codes(&w->finish, w->n);
}

/* cuBLASLt multiplies, in the way that is number `choice` of its list. */
static int by_sums(Backend *be, const OpCall *c, int choice)
{
    Way w = way_of(be, c, choice);

    if (!avt_op_gives_codes(c) || finishes_codes(&w))
        return by_library(be, &w);
    const OpCall numbers = avt_cuda_numbers(be, c);
    w = way_of(be, &numbers, choice);
    return avt_cuda_codes_of(be, c, &numbers, by_library(be, &w));
}

/* cuDNN multiplies, and finishes: its GELU is as near ours as a result in bf16 can tell. */
static int by_graph(Backend *be, const OpCall *c, int engine)
{
    Cuda *cuda = avt_cuda(be);
    const OpCall numbers = avt_cuda_numbers(be, c);
    const LinearSpace s = avt_cuda_linear_space(c, cuda->arch);
    const bool gelu = c->u.act == ACT_GELU_TANH && numbers.out.dtype == DT_BF16;
    const DnnProduct p = { PLAN_GRAPH_PRODUCT, c->linear.x.dtype, numbers.out.dtype, c->linear.b.be != NULL, gelu, c->linear.gate.be != NULL,
                           c->linear.res.be != NULL, engine, avt_rows_of(c->out), c->linear.w.dim[0], c->linear.w.dim[1], (int64_t)s.library };
    const Finish f = finish_of(&numbers);

    if ((c->u.act != ACT_NONE && !gelu) || !aligned16(f.own, f.scale))
        return AVT_ERR(ENOSYS);
    return avt_cuda_codes_of(be, c, &numbers, avt_cuda_dnn_product(be, &p, &f, c->linear.x.data, c->linear.w.data, cuda->workspace));
}

/* The libraries' ways for a product of codes, one after the other where the first has none. Hopper's own instructions are in cuBLASLt, what
 * cuDNN has there is Ampere's; elsewhere cuDNN's one kernel saves a pass over the sums. */
static int by_codes(Backend *be, const OpCall *c)
{
    const int arch = avt_cuda(be)->arch;
    int ret;

    if (c->linear.x.dtype == DT_F8_E4M3 && arch < 89)
        return by_sums(be, c, 0);
    ret = arch == 90 ? by_sums(be, c, 0) : by_graph(be, c, -1);
    return ret != AVT_ERR(ENOSYS) ? ret : arch == 90 ? by_graph(be, c, -1) : by_sums(be, c, 0);
}

/* ---- contests ---------------------------------------------------------------------------------------------------------------------- */

typedef struct ProductShape {                  // all that its time depends on, and the key of the choice
    int32_t kind, x, out, act;          // PLAN_LINEAR_CHOICE; types
    int32_t bias, gate, res, unused;    // 0 or 1; 0
    int64_t m, n, k;
} ProductShape;

static ProductShape shape_of(const OpCall *c)
{
    return { PLAN_LINEAR_CHOICE, c->linear.x.dtype, c->out.dtype, c->u.act, c->linear.b.be != NULL, c->linear.gate.be != NULL, c->linear.res.be != NULL, 0,
             avt_rows_of(c->out), c->linear.w.dim[0], c->linear.w.dim[1] };
}

static void write_shape(char *text, size_t size, const ProductShape *s)
{
    static const char *const act[] = { "", " silu", " gelu_tanh", " gelu_erf", " clamp" };

    snprintf(text, size, "linear %lldx%lldx%lld %s %s%s%s%s%s", (long long)s->m, (long long)s->n, (long long)s->k, avt_dtype_name((DType)s->x),
             avt_dtype_name((DType)s->out), s->bias ? " bias" : "", act[s->act], s->gate ? " gate" : "", s->res ? " residual" : "");
}

/* Who may compute it, the one that is taken without a contest first. On Hopper cuDNN's own kernel for bf16 is had by its number alone. */
static int entrants(CudaChoice *e, const OpCall *c, int arch)
{
    const bool codes = avt_is_code(c->linear.x.dtype), graph_first = codes && arch != 90;
    int nb = 0;

    if (graph_first)
        e[nb++] = { BY_DNN, -1 };
    for (int i = 0; i < LT_CHOICES; i++)
        e[nb++] = { BY_LT, i };
    if (!graph_first && c->linear.x.dtype != DT_F32)
        e[nb++] = { BY_DNN, -1 };
    if (arch == 90 && c->linear.x.dtype == DT_BF16)
        e[nb++] = { BY_DNN, 2 };
    return nb;
}

static int by_choice(Backend *be, const OpCall *c, const CudaChoice *by)
{
    return by->library == BY_DNN ? by_graph(be, c, by->number) : by_sums(be, c, by->number);
}

/* The call, so that it may be run again and again: a result that is an operand, too, goes where the workspace has sums. What is widened for
 * cuBLASLt, cuDNN does not take. */
static bool can_repeat(Backend *be, OpCall *again, const OpCall *c)
{
    const LinearSpace s = avt_cuda_linear_space(c, avt_cuda(be)->arch);
    const bool in_place = c->linear.res.data == c->out.data;

    *again = *c;
    if (in_place)
        again->out.data = (char *)avt_cuda(be)->workspace + s.library;
    return !s.weight && !s.x && (!in_place || (c->out.dtype == DT_F32 && s.result >= avt_nbytes(c->out)));
}

/* By who has won for its shape. @return ENOSYS: no contest is held for it */
static int by_contest(Backend *be, const OpCall *c)
{
    const ProductShape shape = shape_of(c);
    const CudaChoice *won = avt_cuda_choice(be, &shape, sizeof(shape));
    CudaChoice entrant[ENTRANTS_MOST];
    OpCall again;
    char text[128];

    if (won)
        return by_choice(be, c, won);
    if (2. * (double)shape.m * (double)shape.n * (double)shape.k < be->tuned->least || !can_repeat(be, &again, c))
        return AVT_ERR(ENOSYS);
    write_shape(text, sizeof(text), &shape);
    const Contest contest = { &shape, sizeof(shape), text, entrant, entrants(entrant, c, avt_cuda(be)->arch), by_choice, c, &again };
    return avt_cuda_contend(be, &contest);
}

static int product(Backend *be, const OpCall *c)
{
    int ret = AVT_ERR(ENOSYS);

    if (!avt_numel(c->out))
        return 0;
    if (avt_cuda_linear_suits(c) && avt_cuda_is_aligned(c)) {
        if (be->tuned)
            ret = by_contest(be, c);
        if (ret == AVT_ERR(ENOSYS))
            ret = avt_is_code(c->linear.x.dtype) ? by_codes(be, c) : by_sums(be, c, 0);
    }
    return ret == AVT_ERR(ENOSYS) ? by_hand(be, c) : ret;
}

int avt_cuda_linear(Backend *be, const OpCall *c)
{
    int ret = c->op == OP_LINEAR_GROUP ? 0 : product(be, c);

    for (int i = 0; c->op == OP_LINEAR_GROUP && ret >= 0 && i < OP_MAX_OUT && c->group.w[i].be; i++) {
        const OpCall one = avt_op_product(c, i);

        ret = product(be, &one);
    }
    return ret;
}
