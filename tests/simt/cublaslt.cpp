/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A double of cuBLASLt: the calls that the backend makes, and no more than the real library does.
 *
 * Refused as by cuBLAS 13 (../../shared/spec/cuda.md 4.1, its own message texts and header): shapes that do not agree, a leading
 * dimension below the rows, types that have no kernel (f32 operands with a result in bf16; i8 with other than i32 sums; e4m3 below sm_89,
 * with a side that is no multiple of 16, or in another order than TN), an epilogue or a residual beside i32 sums, a bias whose type is not the result's, a bias
 * with a result in row order, a result in place of a C that is described otherwise, addresses below the alignment that the heuristic was
 * asked for (256 when it was told nothing), a workspace below the plan's, epilogues with no kernel. A plan asked for one shape and used
 * for another, which the real one may take or not, is a fault here.
 */
#include <cublasLt.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <algorithm>

#include "bed.h"
#include "products.h"

using namespace bed;

enum { WORKSPACE_WANTED = 4096, DEFAULT_ALIGNMENT = 256, WAYS = 3 };

struct Attributes {
    std::map<int, std::vector<char>> value;

    template <class T> T get(int name, T otherwise) const
    {
        const auto i = value.find(name);
        T v = otherwise;

        if (i != value.end())
            memcpy(&v, i->second.data(), i->second.size() < sizeof(v) ? i->second.size() : sizeof(v));
        return v;
    }
    cublasStatus_t set(int name, const void *v, size_t size)
    {
        if (!v || !size)
            return CUBLAS_STATUS_INVALID_VALUE;
        value[name].assign((const char *)v, (const char *)v + size);
        return CUBLAS_STATUS_SUCCESS;
    }
};

struct Product : Attributes {
    cublasComputeType_t compute;
    cudaDataType_t scale;
};

struct Layout : Attributes {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t leading;
};

/* What is kept in cublasLtMatmulAlgo_t. */
struct Plan {
    uint64_t problem;                           // a sum over all that describes it
    uint32_t alignment, workspace;
    int32_t number;                             // in the heuristics' list: n adds the sums of n + 1 parts of k, but of i8
};
static_assert(sizeof(Plan) <= sizeof(cublasLtMatmulAlgo_t), "a plan does not fit");

static Number number(cudaDataType_t t)
{
    switch (t) {
    case CUDA_R_32F:        return Number::F32;
    case CUDA_R_32I:        return Number::I32;
    case CUDA_R_8I:         return Number::I8;
    case CUDA_R_8F_E4M3:    return Number::E4M3;
    case CUDA_R_16F:        return Number::F16;
    default:                return Number::BF16;
    }
}

/* ---- what there is a kernel for --------------------------------------------------------------------------------------------------------- */

struct Shape {
    bool turned_a, turned_b;
    int64_t m, n, k;
};

static Shape shape_of(const Product &p, const Layout &a, const Layout &b)
{
    const bool ta = p.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N) != CUBLAS_OP_N;
    const bool tb = p.get<int32_t>(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N) != CUBLAS_OP_N;

    return { ta, tb, (int64_t)(ta ? a.columns : a.rows), (int64_t)(tb ? b.rows : b.columns), (int64_t)(ta ? a.rows : a.columns) };
}

/* i8, on every card: TN, rows of w and k multiples of four */
static const char *wrong_whole(const Product &p, const Layout &a, const Layout &b, const Layout &d, const Shape &s)
{
    if (p.compute != CUBLAS_COMPUTE_32I || p.scale != CUDA_R_32I || b.type != CUDA_R_8I || d.type != CUDA_R_32I)
        return "i8 wants i8 beside it, sums and a scale of i32";
    if (!s.turned_a || s.turned_b || s.m % 4 || s.k % 4 || a.leading % 4 || b.leading % 4 || d.leading % 4)
        return "i8 is multiplied in the TN form, by fours";
    return p.get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) == CUBLASLT_EPILOGUE_DEFAULT ? NULL : "no epilogue behind i32";
}

static const char *wrong_e4m3(const Product &p, const Layout &b, const Layout &d, const Shape &s)
{
    if (settings.arch < 89)
        return "the architecture has no e4m3";
    if (b.type != CUDA_R_8F_E4M3 || p.compute != CUBLAS_COMPUTE_32F || (d.type != CUDA_R_32F && d.type != CUDA_R_16BF))
        return "a product of e4m3 that has no kernel (or none that is emulated)";
    if (!s.turned_a || s.turned_b || s.m % 16 || s.k % 16)
        return "e4m3 is multiplied in the TN form, by sixteens";
    return p.get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) == CUBLASLT_EPILOGUE_DEFAULT ? NULL : "an epilogue of e4m3 is not emulated";
}

static const char *wrong_types(const Product &p, const Layout &a, const Layout &b, const Layout &d)
{
    if (a.type == CUDA_R_8I)
        return wrong_whole(p, a, b, d, shape_of(p, a, b));
    if (a.type == CUDA_R_8F_E4M3 && wrong_e4m3(p, b, d, shape_of(p, a, b)))
        return wrong_e4m3(p, b, d, shape_of(p, a, b));
    if (p.scale != CUDA_R_32F)
        return "a scale that is not f32";
    if (p.compute != CUBLAS_COMPUTE_32F && p.compute != CUBLAS_COMPUTE_32F_FAST_TF32 && p.compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        return "a compute type that has no kernel for these types";
    if (a.type != b.type || (a.type != CUDA_R_32F && a.type != CUDA_R_16BF && a.type != CUDA_R_8F_E4M3))
        return "operands of these types have no kernel (or none that is emulated)";
    if (d.type != CUDA_R_32F && d.type != a.type && a.type != CUDA_R_8F_E4M3)
        return "a result of this type has no kernel";
    return NULL;
}

static const char *wrong_epilogue(const Product &p, const Layout &d)
{
    const int32_t e = p.get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
    const int32_t bias = p.get<int32_t>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, d.type);

    if (e != CUBLASLT_EPILOGUE_DEFAULT && e != CUBLASLT_EPILOGUE_BIAS && e != CUBLASLT_EPILOGUE_GELU && e != CUBLASLT_EPILOGUE_GELU_BIAS &&
        e != CUBLASLT_EPILOGUE_RELU && e != CUBLASLT_EPILOGUE_RELU_BIAS)
        return "no such epilogue";
    if ((e & CUBLASLT_EPILOGUE_BIAS) && bias != d.type)
        return "a bias must have the result's type";
    if ((e & CUBLASLT_EPILOGUE_BIAS) && d.get<int32_t>(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL) == CUBLASLT_ORDER_ROW)
        return "no bias with a result in row order";
    return NULL;
}

static cublasStatus_t verify(const Product &p, const Layout &a, const Layout &b, const Layout &c, const Layout &d)
{
    const Shape s = shape_of(p, a, b);
    const char *why = wrong_types(p, a, b, d);

    if (!why)
        why = wrong_epilogue(p, d);
    if (!why && ((uint64_t)s.m != d.rows || (uint64_t)s.n != d.columns || (uint64_t)s.k != (s.turned_b ? b.columns : b.rows)))
        why = "shapes that do not agree";
    if (!why && (c.rows != d.rows || c.columns != d.columns || c.type != d.type))
        why = "C is not described as D is";
    for (const Layout *l : { &a, &b, &c, &d })
        if (!why && (l->leading < (int64_t)l->rows || l->get<int32_t>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1) != 1 ||
                     l->get<int32_t>(CUBLASLT_MATRIX_LAYOUT_ORDER, CUBLASLT_ORDER_COL) != CUBLASLT_ORDER_COL))
            why = "a leading dimension below the rows (batches and other orders are not emulated)";
    return why ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}

static uint64_t problem_of(const Product &p, const Layout *const layout[4])
{
    uint64_t h = 14695981039346656037u;
    const auto add = [&h](uint64_t v) { h = (h ^ v) * 1099511628211u; };

    add(p.compute);
    for (const auto &v : p.value)
        if (v.first != CUBLASLT_MATMUL_DESC_BIAS_POINTER)
            for (char byte : v.second)
                add((uint64_t)(unsigned char)byte << 32 | (uint64_t)v.first);
    for (int i = 0; i < 4; i++)
        for (uint64_t v : { (uint64_t)layout[i]->type, layout[i]->rows, layout[i]->columns, (uint64_t)layout[i]->leading })
            add(v);
    return h;
}

/* ---- the product ------------------------------------------------------------------------------------------------------------------------- */

struct Call {
    Product p;
    Layout a, b, d;
    Shape s;
    float alpha, beta;
    const void *A, *B, *C, *bias;
    void *D, *workspace;
    size_t workspace_size;
    int number;                                 // as a plan's
};

static bool matrix_range(const void *p, const Layout &l, bool write)
{
    const size_t size = size_of(number(l.type));
    bool ok = true;

    if (l.leading == (int64_t)l.rows)
        return shadow_range(p, size * l.rows * l.columns, write);
    for (uint64_t j = 0; j < l.columns; j++)
        ok &= shadow_range((const char *)p + j * (uint64_t)l.leading * size, size * l.rows, write);
    return ok;
}

/* The real library writes D while it reads what it multiplies, in an order that nobody knows. */
static bool apart(const Call &c, const void *p, size_t size, const char *what)
{
    const Address d = (Address)c.D, end = d + size_of(number(c.d.type)) * (size_t)c.d.leading * c.d.columns;

    if ((Address)p >= end || (Address)p + size <= d)
        return true;
    report("operands-overlap", "%s: the result at %p and %s at %p overlap", running.name, c.D, what, p);
    return false;
}

static size_t bytes_of(const Layout &l)
{
    return size_of(number(l.type)) * (size_t)l.leading * l.columns;
}

static bool ranges(const Call &c)
{
    bool ok = apart(c, c.A, bytes_of(c.a), "A") & apart(c, c.B, bytes_of(c.b), "B") & apart(c, c.workspace, c.workspace_size, "the workspace");

    ok &= matrix_range(c.A, c.a, false) & matrix_range(c.B, c.b, false);

    if (c.beta != 0)
        ok &= matrix_range(c.C, c.d, false);
    if (c.bias)
        ok &= shadow_range(c.bias, (size_t)c.s.m * size_of(number(c.d.type)), false);
    if (c.workspace_size)                                           // two streams that share a workspace are a race
        ok &= shadow_range(c.workspace, c.workspace_size < WORKSPACE_WANTED ? c.workspace_size : (size_t)WORKSPACE_WANTED, true);
    return ok & matrix_range(c.D, c.d, true);
}

/* A matrix as dense rows of k */
static std::vector<float> gather(const void *p, const Layout &l, bool k_first, int64_t rows, int64_t k, bool tf32)
{
    std::vector<float> v((size_t)(rows * k));

    for (int64_t i = 0; i < rows; i++)
        for (int64_t x = 0; x < k; x++) {
            const float f = get_number(p, (size_t)(k_first ? x + i * l.leading : i + x * l.leading), number(l.type));

            v[(size_t)(i * k + x)] = tf32 ? to_tf32(f) : f;
        }
    return v;
}

static float finish(const Call &c, int32_t e, float sum, int64_t i, size_t at)
{
    const Number t = number(c.d.type);
    float v = c.alpha * sum;

    if (c.beta != 0)
        v += c.beta * get_number(c.C, at, t);
    if (c.bias)
        v += get_number(c.bias, (size_t)i, t);
    if (e == CUBLASLT_EPILOGUE_GELU || e == CUBLASLT_EPILOGUE_GELU_BIAS)
        return 0.5f * v * (1 + tanhf(0.7978845608f * (v + 0.044715f * v * v * v)));
    return (e == CUBLASLT_EPILOGUE_RELU || e == CUBLASLT_EPILOGUE_RELU_BIAS) && v < 0 ? 0 : v;
}

/* Sums of i8: no scale, no residual. */
static void run_whole(const Call &c, const std::vector<float> &a, const std::vector<float> &b)
{
    std::vector<int32_t> sums((size_t)(c.s.m * c.s.n));

    multiply_whole(sums.data(), b.data(), a.data(), c.s.n, c.s.m, c.s.k);
    for (int64_t j = 0; j < c.s.n; j++)
        memcpy((int32_t *)c.D + j * c.d.leading, &sums[(size_t)(j * c.s.m)], (size_t)c.s.m * sizeof(int32_t));
}

/* Columns from .. to of dense rows */
static std::vector<float> columns_of(const std::vector<float> &v, int64_t rows, int64_t k, int64_t from, int64_t to)
{
    std::vector<float> part((size_t)(rows * (to - from)));

    for (int64_t i = 0; i < rows; i++)
        std::copy(v.begin() + i * k + from, v.begin() + i * k + to, part.begin() + i * (to - from));
    return part;
}

/* Column-major: rows of D^T are columns of D. */
static void multiply_in_parts(std::vector<float> *sums, const std::vector<float> &b, const std::vector<float> &a, const Shape &s, int64_t parts)
{
    std::vector<float> part(sums->size());

    for (int64_t i = 0; i < parts; i++) {
        const int64_t from = s.k * i / parts, to = s.k * (i + 1) / parts;

        multiply(part.data(), columns_of(b, s.n, s.k, from, to).data(), columns_of(a, s.m, s.k, from, to).data(), s.n, s.m, to - from);
        for (size_t j = 0; j < part.size(); j++)
            (*sums)[j] += part[j];
    }
}

static void run(const Call &c)
{
    const Shape s = c.s;
    const bool tf32 = c.a.type == CUDA_R_32F && c.p.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    std::vector<float> sums((size_t)(s.m * s.n));

    if (!ranges(c))
        return;
    const std::vector<float> a = gather(c.A, c.a, s.turned_a, s.m, s.k, tf32), b = gather(c.B, c.b, !s.turned_b, s.n, s.k, tf32);
    if (c.d.type == CUDA_R_32I) {
        run_whole(c, a, b);
        return;
    }
    const int32_t epilogue = c.p.get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
    multiply_in_parts(&sums, b, a, s, c.number + 1);
    for (int64_t j = 0; j < s.n; j++)
        for (int64_t i = 0; i < s.m; i++) {
            const size_t at = (size_t)(i + j * c.d.leading);

            put_number(c.D, at, number(c.d.type), finish(c, epilogue, sums[(size_t)(j * s.m + i)], i, at));
        }
}

static const char *wrong_call(const Call &c, const Plan &plan, uint64_t problem, const Layout &described)
{
    if (c.d.type == CUDA_R_32I && (c.alpha != 1 || c.beta != 0))
        return "sums of i8 that are scaled are not emulated";
    if (plan.problem != problem) {
        report("stale-plan", "cublasLtMatmul with an algorithm that was chosen for another product");
        return "an algorithm for another product";
    }
    for (const void *p : { c.A, c.B, (const void *)c.D, c.beta != 0 ? c.C : c.D })
        if ((Address)p % plan.alignment)
            return "an address below the alignment that the heuristic was asked for";
    if (c.workspace_size < plan.workspace || (c.workspace_size && (Address)c.workspace % DEFAULT_ALIGNMENT))
        return "the workspace is too small or no multiple of 256";
    if (c.C == c.D && described.leading != c.d.leading)
        return "in place, but C and D are not described alike";
    if ((c.p.get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) & CUBLASLT_EPILOGUE_BIAS) && !c.bias)
        return "a bias without an address";
    return NULL;
}

extern "C" {

/* ---- the interface ------------------------------------------------------------------------------------------------------------------------- */

size_t cublasLtGetVersion(void)
{
    return CUBLAS_VERSION;
}

const char *cublasLtGetStatusString(cublasStatus_t s)
{
    switch (s) {
    case CUBLAS_STATUS_SUCCESS:         return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_SUPPORTED:   return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_INVALID_VALUE:   return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:                            return "another status";
    }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h)
{
    *h = (cublasLtHandle_t) new int(0);
    return sticky ? CUBLAS_STATUS_NOT_INITIALIZED : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    delete (int *)h;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t scale)
{
    Product *p = new Product();

    p->compute = compute;
    p->scale = scale;
    *d = (cublasLtMatmulDesc_t)p;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d)
{
    delete (Product *)d;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t name, const void *v, size_t size)
{
    return ((Product *)d)->set(name, v, size);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading)
{
    Layout *l = new Layout();

    l->type = type;
    l->rows = rows;
    l->columns = columns;
    l->leading = leading;
    *out = (cublasLtMatrixLayout_t)l;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    delete (Layout *)l;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t name, const void *v, size_t size)
{
    return ((Layout *)l)->set(name, v, size);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = (cublasLtMatmulPreference_t) new Attributes();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    delete (Attributes *)p;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t name, const void *v, size_t size)
{
    return ((Attributes *)p)->set(name, v, size);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t pref, int wanted,
                                              cublasLtMatmulHeuristicResult_t *result, int *got)
{
    const Product &p = *(Product *)desc;
    const Layout *const layout[4] = { (Layout *)a, (Layout *)b, (Layout *)c, (Layout *)d };
    const Attributes &asked = *(Attributes *)pref;
    const cublasStatus_t e = verify(p, *layout[0], *layout[1], *layout[2], *layout[3]);
    const uint64_t most = asked.get<uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0);
    Plan plan = { problem_of(p, layout), DEFAULT_ALIGNMENT, (uint32_t)(most < WORKSPACE_WANTED ? most : (uint64_t)WORKSPACE_WANTED), 0 };

    *got = 0;
    if (e != CUBLAS_STATUS_SUCCESS || wanted < 1)
        return e;
    for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES; i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; i++)
        plan.alignment = std::min(plan.alignment, asked.get<uint32_t>(i, DEFAULT_ALIGNMENT));
    for (; plan.number < wanted && plan.number < WAYS; plan.number++, result++, ++*got) {
        memset((void *)result, 0, sizeof(*result));
        memcpy((void *)&result->algo, &plan, sizeof(plan));
        result->workspaceSize = plan.workspace;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C, cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_size, cudaStream_t s)
{
    Guard guard(lock);
    const Layout *const layout[4] = { (Layout *)a, (Layout *)b, (Layout *)c, (Layout *)d };
    const bool whole = ((Product *)desc)->scale == CUDA_R_32I;
    Call call = { *(Product *)desc, *layout[0], *layout[1], *layout[3], {}, whole ? (float)*(const int32_t *)alpha : *(const float *)alpha,
                  whole ? (float)*(const int32_t *)beta : *(const float *)beta, A, B, C, NULL, D, workspace, workspace_size, 0 };
    const cublasStatus_t e = verify(call.p, call.a, call.b, *layout[2], call.d);
    Plan plan = { problem_of(call.p, layout), DEFAULT_ALIGNMENT, 0, 0 };
    Operation o;

    if (cudaPeekAtLastError())                                      // an error of an earlier call counts as one of its own launch
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (e != CUBLAS_STATUS_SUCCESS)
        return e;
    if (settings.fail_product >= 0 && !settings.fail_product--)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (algo)
        memcpy((void *)&plan, algo, sizeof(plan));
    if (call.p.get<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT) & CUBLASLT_EPILOGUE_BIAS)
        call.bias = call.p.get<const void *>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, NULL);
    if (const char *why = wrong_call(call, plan, problem_of(call.p, layout), *layout[2])) {
        fprintf(stderr, "simt: cublasLtMatmul: %s\n", why);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    call.s = shape_of(call.p, call.a, call.b);
    call.number = plan.number;
    stats.products++;
    o.name = "cublasLtMatmul";
    o.pace = pace_of("cuBLASLt", plan.number);
    o.run = [call] { run(call); };
    submit(stream_of(s), std::move(o));
    return CUBLAS_STATUS_SUCCESS;
}

}
