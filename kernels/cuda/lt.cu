/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Matrix products of cuBLASLt, a plan a shape.
 *
 * Our row-major out[m, n] = x[m, k] w[n, k]^T is, column-major, D (n x m) = w^T x: "A" is w, transposed, "B" is x, the library's TN form.
 * Vectors run along rows of D, so a bias of n features is the library's bias.
 *
 * bf16 operands with f32 sums; f32 operands with plain COMPUTE_32F, which rounds nothing down (TF32 is another compute type). Codes
 * of i8 with i32 sums, of e4m3 with f32 sums that no scale has met: fast accumulation, which is less exact, is off where it is not asked for.
 * Traps: heuristics assume addresses that are multiples of 256 unless told; the type of a bias beside a result in bf16 and the formula of
 * GELU are not documented, so avt_cuda_lt_ask() multiplies by one and looks.
 */
#include <math.h>
#include <string.h>

#include "cuda/plans.h"

enum { ALIGNMENT = 16 };

typedef struct LtPlan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
    int refused;                        // the library has none: so that it is asked once
} LtPlan;

static cudaDataType_t library_type(int dtype)
{
    switch (dtype) {
    case DT_BF16:       return CUDA_R_16BF;
    case DT_I8:         return CUDA_R_8I;
    case DT_I32:        return CUDA_R_32I;
    case DT_F8_E4M3:    return CUDA_R_8F_E4M3;
    default:            return CUDA_R_32F;
    }
}

static void close_plan(void *opaque)
{
    LtPlan *p = (LtPlan *)opaque;

    if (p->desc)
        cublasLtMatmulDescDestroy(p->desc);
    if (p->w)
        cublasLtMatrixLayoutDestroy(p->w);
    if (p->x)
        cublasLtMatrixLayoutDestroy(p->x);
    if (p->out)
        cublasLtMatrixLayoutDestroy(p->out);
    avt_free(p);
}

static cublasStatus_t set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name, const void *value, size_t size)
{
    return cublasLtMatmulDescSetAttribute(d, name, value, size);
}

static cublasStatus_t describe(LtPlan *plan, const LtProduct *p)
{
    const cublasOperation_t turned = CUBLAS_OP_T;
    const int bias = p->bias > 0;
    const cublasLtEpilogue_t epilogue = p->gelu ? (bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU) :
                                        bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const cudaDataType_t bias_type = library_type(p->bias - 1), type = library_type(p->x);
    const uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    cublasStatus_t e;

    if ((e = p->x == DT_I8 ? cublasLtMatmulDescCreate(&plan->desc, CUBLAS_COMPUTE_32I, CUDA_R_32I) :
                             cublasLtMatmulDescCreate(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)) ||
        (e = set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &turned, sizeof(turned))) ||
        (e = set(plan->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue))) ||
        (bias && (e = set(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof(bias_type)))) ||
        (e = cublasLtMatrixLayoutCreate(&plan->w, type, k, n, (int64_t)k)) ||
        (e = cublasLtMatrixLayoutCreate(&plan->x, type, k, m, (int64_t)k)))
        return e;
    return cublasLtMatrixLayoutCreate(&plan->out, library_type(p->out), n, m, p->row);
}

/* The library's choice for a plan that is described: the first, or another of its list. */
static cublasStatus_t choose(Cuda *cuda, LtPlan *plan, const LtProduct *p)
{
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    };
    const size_t library = (size_t)p->library;
    const uint32_t alignment = ALIGNMENT;
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found[LT_CHOICES];
    int nb = 0;
    cublasStatus_t e = cublasLtMatmulPreferenceCreate(&pref);

    memset(found, 0, sizeof(found));
    if (!e)
        e = cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &library, sizeof(library));
    for (size_t i = 0; !e && i < sizeof(aligned) / sizeof(aligned[0]); i++)
        e = cublasLtMatmulPreferenceSetAttribute(pref, aligned[i], &alignment, sizeof(alignment));
    if (!e)
        e = cublasLtMatmulAlgoGetHeuristic(cuda->lt, plan->desc, plan->w, plan->x, plan->out, plan->out, pref, p->choice + 1, found, &nb);
    if (pref)
        cublasLtMatmulPreferenceDestroy(pref);
    plan->algo = found[p->choice].algo;
    return e ? e : nb <= p->choice ? CUBLAS_STATUS_NOT_SUPPORTED : found[p->choice].state;
}

static bool is_refusal(cublasStatus_t e)
{
    return e == CUBLAS_STATUS_NOT_SUPPORTED || e == CUBLAS_STATUS_INVALID_VALUE || e == CUBLAS_STATUS_ARCH_MISMATCH;
}

static void refuse(Backend *be, LtPlan *plan, const LtProduct *p)
{
    plan->refused = 1;
    if (!p->choice && avt_cuda_lt_facts(avt_cuda(be)->plans)->asked)
        avt_log(be->log, LOG_WARNING, "%s: cuBLASLt has no product of %lld x %lld x %lld, %s to %s: %s", be->device,
                (long long)p->m, (long long)p->n, (long long)p->k, avt_dtype_name((DType)p->x), avt_dtype_name((DType)p->out),
                avt_is_code((DType)p->x) ? "cuDNN's or our own is used" : "our own is used, which is slow");
}

static int make(Backend *be, LtPlan **out, const LtProduct *p)
{
    LtPlan *plan = (LtPlan *)avt_calloc(MEM_BACKEND, 1, sizeof(*plan));
    cublasStatus_t e;
    int ret;

    if (!plan)
        return AVT_ERR(ENOMEM);
    e = describe(plan, p);
    if (!e)
        e = choose(avt_cuda(be), plan, p);
    if (is_refusal(e))
        refuse(be, plan, p);
    ret = plan->refused ? 0 : avt_cuda_check_lt(be, e, "a plan for a product");
    if (ret >= 0)
        ret = avt_cuda_plan_put(avt_cuda(be)->plans, p, sizeof(*p), plan, close_plan);
    if (ret < 0)
        close_plan(plan);
    else
        *out = plan;
    return ret;
}

int avt_cuda_lt_run(Backend *be, const LtProduct *p, const LtOperands *o)
{
    Cuda *cuda = avt_cuda(be);
    LtPlan *plan = (LtPlan *)avt_cuda_plan_get(cuda->plans, p, sizeof(*p));
    const float one = 1, beta = p->res ? 1 : 0;
    const int32_t one_i = 1, none_i = 0;                            // sums of i8 are scaled by whole numbers; they have no residual
    const bool whole = p->x == DT_I8;
    cublasStatus_t e = CUBLAS_STATUS_SUCCESS;
    const int ret = plan ? 0 : make(be, &plan, p);

    if (ret < 0)
        return ret;
    if (plan->refused)
        return AVT_ERR(ENOSYS);
    if (p->bias)
        e = set(plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &o->bias, sizeof(o->bias));
    if (!e)
        e = cublasLtMatmul(cuda->lt, plan->desc, whole ? (const void *)&one_i : &one, o->w, plan->w, o->x, plan->x,
                           whole ? (const void *)&none_i : &beta, p->res ? o->res : o->out, plan->out, o->out,
                           plan->out, &plan->algo, o->workspace, (size_t)p->library, cuda->stream);
    if (e == CUBLAS_STATUS_NOT_SUPPORTED || (is_refusal(e) && !avt_cuda_lt_facts(cuda->plans)->asked)) {
        refuse(be, plan, p);                                        // its list had it; nothing was done
        return AVT_ERR(ENOSYS);
    }
    return avt_cuda_check_lt(be, e, "a product");
}

/* ---- what it can ------------------------------------------------------------------------------------------------------------------ */

enum { ASKED = 64 };                    // side of the products that ask

typedef struct Question {               // on the device and here
    uint16_t x[ASKED * ASKED], one[ASKED * ASKED];
    float bias[ASKED], out[ASKED * ASKED];
} Question;

/* i / 512 from -4 to 4, exact in bf16 */
static float asked_value(int i)
{
    return (float)(i - ASKED * ASKED / 2) / 512;
}

static uint16_t bits_of(float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float value_of(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float v;

    memcpy(&v, &bits, sizeof(v));
    return v;
}

static void fill_question(Question *q)
{
    memset(q, 0, sizeof(*q));
    for (int i = 0; i < ASKED * ASKED; i++)
        q->x[i] = bits_of(asked_value(i));
    for (int i = 0; i < ASKED; i++) {
        q->one[i * ASKED + i] = bits_of(1);
        q->bias[i] = 1 + (float)i / 4096;                           // bf16 has not these digits
    }
}

/* The product of a question, result in q->out. @return 0, ENOSYS: no such product */
static int ask(Backend *be, Question *on_device, Question *q, LtProduct p)
{
    Cuda *cuda = avt_cuda(be);
    const LtOperands o = { on_device->out, NULL, on_device->x, on_device->one, on_device->bias, NULL };
    int ret;

    p.kind = PLAN_LINEAR;
    p.x = DT_BF16;
    p.m = p.n = p.k = p.row = ASKED;
    ret = avt_cuda_lt_run(be, &p, &o);
    if (ret >= 0)
        ret = avt_cuda_check(be, cudaMemcpyAsync(q->out, on_device->out, sizeof(q->out), cudaMemcpyDeviceToHost, cuda->stream),
                             "asking cuBLASLt");
    return ret < 0 ? ret : avt_cuda_check(be, cudaStreamSynchronize(cuda->stream), "asking cuBLASLt");
}

static double gelu_tanh(double v)
{
    return 0.5 * v * (1 + tanh(sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
}

static double gelu_erf(double v)
{
    return 0.5 * v * (1 + erf(v / sqrt(2)));
}

/* Largest distances of a GELU's results from the two forms. */
static void distances(const Question *q, double *from_tanh, double *from_erf)
{
    *from_tanh = *from_erf = 0;
    for (int i = 0; i < ASKED * ASKED; i++) {
        const double v = value_of(q->x[i]);

        *from_tanh = fmax(*from_tanh, fabs(q->out[i] - gelu_tanh(v)));
        *from_erf = fmax(*from_erf, fabs(q->out[i] - gelu_erf(v)));
    }
}

static int ask_gelu(Backend *be, Question *on_device, Question *q, LtFacts *facts)
{
    LtProduct p = {};
    double from_tanh, from_erf;
    int ret;

    p.out = DT_F32;
    p.gelu = 1;
    ret = ask(be, on_device, q, p);
    if (ret < 0)
        return ret;
    distances(q, &from_tanh, &from_erf);                            // the forms are 4.7e-4 apart
    facts->gelu = from_tanh < 1e-3 && from_tanh < from_erf / 2;
    facts->gelu_exact = from_tanh < 2e-6;
    return 0;
}

/* Are the sums what a bias in f32 makes of them, beside a result of type `out`? */
static int ask_bias(Backend *be, Question *on_device, Question *q, DType out, int *right)
{
    LtProduct p = {};
    int ret;

    p.out = out;
    p.bias = 1 + DT_F32;
    ret = ask(be, on_device, q, p);
    *right = ret >= 0;
    for (int i = 0; ret >= 0 && i < ASKED * ASKED; i++) {
        const float want = value_of(q->x[i]) + q->bias[i % ASKED];
        uint16_t half;

        memcpy(&half, (const char *)q->out + 2 * (size_t)i, 2);
        *right &= out == DT_BF16 ? half == bits_of(want) : q->out[i] == want;
    }
    return ret;
}

int avt_cuda_lt_ask(Backend *be)
{
    LtFacts *facts = avt_cuda_lt_facts(avt_cuda(be)->plans);
    Question *q = (Question *)avt_calloc(MEM_BACKEND, 1, sizeof(*q));
    Question *on_device = q ? (Question *)be->cls->alloc(be, sizeof(*q)) : NULL;
    int ret = on_device ? 0 : AVT_ERR(ENOMEM);

    if (ret >= 0) {
        fill_question(q);
        be->cls->upload(be, on_device, q, sizeof(*q));
        ret = ask_gelu(be, on_device, q, facts);
        if (ret >= 0 || ret == AVT_ERR(ENOSYS))
            ret = ask_bias(be, on_device, q, DT_F32, &facts->bias);
        if (ret >= 0 || ret == AVT_ERR(ENOSYS))
            ret = ask_bias(be, on_device, q, DT_BF16, &facts->bias_bf16);
        ret = ret == AVT_ERR(ENOSYS) ? 0 : ret;
        be->cls->free(be, on_device, sizeof(*q));
    }
    avt_free(q);
    facts->asked = 1;
    avt_log(be->log, LOG_DEBUG, "%s: cuBLASLt: bias in f32 beside f32 %s, beside bf16 %s, GELU %s", be->device, facts->bias ? "yes" : "no",
            facts->bias_bf16 ? "yes" : "no", facts->gelu_exact ? "exact" : facts->gelu ? "for bf16" : "of our own");
    return ret;
}
