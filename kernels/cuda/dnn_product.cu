/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Products by cuDNN, a plan a shape: one kernel, no pass over the sums.
 *
 *      x, w --product--> sums (* own * scale) (+ bias) (GELU) (* gate) (+ residual) --> out
 *
 * x is [1, M, K], w [1, K, N] by its dimensions and row-major [N, K] by its strides. Sums of i8 are i32, of e4m3 f32. The vectors are
 * [1, M, 1] and [1, 1, N]. Codes have scales, bf16 has none. Plans for e4m3: from sm_89 on; for i8 and bf16: everywhere.
 */
#include "cuda/dnn.cuh"
#include "cuda/product.cuh"

enum { X, W, OWN, SCALE, BIAS, GATE, RES, OUT, VIRTUAL };           // tensors, by the number that their addresses are bound to

typedef struct Chain {                  // of pointwise operations, each on the last one's result
    const DnnProduct *p;
    DnnPart at, op[8];
    int64_t nb, left;                   // operations so far; to come
} Chain;

static DnnPart matrix(DnnBuilder *b, int64_t uid, int dtype, bool is_virtual, int64_t rows, int64_t columns)
{
    const int64_t dim[3] = { 1, rows, columns }, stride[3] = { rows * columns, columns, 1 };

    return avt_dnn_tensor(b, uid, dtype, is_virtual, 3, dim, stride);
}

static void then(DnnBuilder *b, Chain *c, cudnnPointwiseMode_t mode, DnnPart t)
{
    const bool last = !--c->left;
    const DnnPart y = matrix(b, last ? (int64_t)OUT : VIRTUAL + c->nb, last ? c->p->out : DT_F32, !last, c->p->m, c->p->n);

    c->op[c->nb++] = avt_dnn_pointwise(b, mode, c->at, t, y);
    c->at = y;
}

static DnnPart multiply(DnnBuilder *b, const DnnProduct *p, DnnPart sums)
{
    const int64_t dim[3] = { 1, p->k, p->n }, stride[3] = { p->k * p->n, 1, p->k };
    const cudnnDataType_t type = p->x == DT_I8 ? CUDNN_DATA_INT32 : CUDNN_DATA_FLOAT;
    const DnnPart d = avt_dnn_make(b, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
    DnnPart op;

    avt_dnn_set(b, d, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    avt_dnn_finish(b, d);
    op = avt_dnn_make(b, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, matrix(b, X, p->x, false, p->m, p->k));
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, avt_dnn_tensor(b, W, p->x, false, 3, dim, stride));
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, sums);
    avt_dnn_set_part(b, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, d);
    return avt_dnn_finish(b, op);
}

static DnnPart graph_of(DnnBuilder *b, Cuda *cuda, const void *key)
{
    const DnnProduct *p = (const DnnProduct *)key;
    const bool codes = p->x != DT_BF16;
    Chain c = { p, NULL, {}, 0, 2 * codes + p->bias + p->gelu + p->gate + p->res };

    c.at = c.left ? matrix(b, VIRTUAL, p->x == DT_I8 ? DT_I32 : DT_F32, true, p->m, p->n) : matrix(b, OUT, p->out, false, p->m, p->n);
    c.op[c.nb++] = multiply(b, p, c.at);
    if (codes) {
        then(b, &c, CUDNN_POINTWISE_MUL, matrix(b, OWN, DT_F32, false, p->m, 1));
        then(b, &c, CUDNN_POINTWISE_MUL, matrix(b, SCALE, DT_F32, false, 1, p->n));
    }
    if (p->bias)
        then(b, &c, CUDNN_POINTWISE_ADD, matrix(b, BIAS, DT_F32, false, 1, p->n));
    if (p->gelu)
        then(b, &c, CUDNN_POINTWISE_GELU_APPROX_TANH_FWD, NULL);
    if (p->gate)
        then(b, &c, CUDNN_POINTWISE_MUL, matrix(b, GATE, DT_F32, false, 1, p->n));
    if (p->res)
        then(b, &c, CUDNN_POINTWISE_ADD, matrix(b, RES, p->out, false, p->m, p->n));
    return avt_dnn_graph(b, cuda, c.nb, c.op);
}

static void say_refused(Backend *be, const void *key)
{
    const DnnProduct *p = (const DnnProduct *)key;

    avt_log(be->log, LOG_WARNING, "%s: cuDNN has no plan for a product of %lld x %lld x %lld, %s to %s: cuBLASLt's or our own is used", be->device,
            (long long)p->m, (long long)p->n, (long long)p->k, avt_dtype_name((DType)p->x), avt_dtype_name((DType)p->out));
}

int avt_cuda_dnn_product(Backend *be, const DnnProduct *p, const Finish *f, const void *x, const void *w, void *workspace)
{
    const bool asked = p->x != DT_BF16 && p->engine < 0;            // nobody counts on the others
    const DnnWish wish = { p, sizeof(*p), graph_of, false, p->library, asked ? say_refused : NULL, p->engine };
    const struct { int64_t uid; const void *p; } operand[] = { { X, x }, { W, w }, { OWN, f->own }, { SCALE, f->scale }, { BIAS, f->bias },
                                                               { GATE, f->gate }, { RES, f->res }, { OUT, f->out } };
    int64_t uid[8], nb = 0;
    void *address[8];
    DnnPlan *plan;
    const int ret = avt_dnn_plan(be, &plan, &wish);

    if (ret < 0)
        return ret;
    for (const auto &o : operand)
        if (o.p)
            uid[nb] = o.uid, address[nb++] = (void *)o.p;
    return avt_dnn_execute(be, plan, nb, uid, address, workspace, "a product");
}
