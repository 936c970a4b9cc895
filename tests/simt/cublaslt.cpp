/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* simt_lt.cpp - a CPU double of the part of cuBLASLt that the project calls */
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <functional>
#include <map>
#include <vector>
#include "simt_host.h"
extern "C" void simt_enqueue(cudaStream_t st, const char *name, std::function<bool()> *ready, std::function<void()> *run);
struct Attr { std::map<int, std::vector<char>> m; template <class T> T get(int k, T d) const { auto i = m.find(k); if (i == m.end()) return d; T t; memcpy(&t, i->second.data(), sizeof t); return t; } };
struct Mm { Attr a; cublasComputeType_t ct; cudaDataType_t st; };
struct Lay { Attr a; cudaDataType_t t; uint64_t rows, cols; int64_t ld; };
static int g_cc = 90;                                 /* the device the double plays */
static cublasStatus_t bad(const char *why) { fprintf(stderr, "simt: cublasLt: %s\n", why); return CUBLAS_STATUS_NOT_SUPPORTED; }
static bool fp8(cudaDataType_t t) { return t == CUDA_R_8F_E4M3 || t == CUDA_R_8F_E5M2; }
static size_t esz(cudaDataType_t t) { return t == CUDA_R_32F ? 4 : t == CUDA_R_16BF || t == CUDA_R_16F ? 2 : 1; }
static float ld(const void *p, size_t i, cudaDataType_t t)
{
    switch (t) {
    case CUDA_R_32F: return ((const float *)p)[i];
    case CUDA_R_16BF: return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    case CUDA_R_16F: return __half2float(((const __half *)p)[i]);
    case CUDA_R_8F_E4M3: return (float)((const __nv_fp8_e4m3 *)p)[i];
    case CUDA_R_8F_E5M2: return (float)((const __nv_fp8_e5m2 *)p)[i];
    default: return NAN;
    }
}
static void stv(void *p, size_t i, cudaDataType_t t, float v)
{
    switch (t) {
    case CUDA_R_32F: ((float *)p)[i] = v; break;
    case CUDA_R_16BF: ((__nv_bfloat16 *)p)[i] = __float2bfloat16(v); break;
    case CUDA_R_16F: ((__half *)p)[i] = __float2half(v); break;
    case CUDA_R_8F_E4M3: ((__nv_fp8_e4m3 *)p)[i] = __nv_fp8_e4m3(v); break;
    default: break;
    }
}
static cublasStatus_t verify(const Mm *d, const Lay *A, const Lay *B, const Lay *D)
{
    bool ta = d->a.get<int>(CUBLASLT_MATMUL_DESC_TRANSA, 0), tb = d->a.get<int>(CUBLASLT_MATMUL_DESC_TRANSB, 0);
    uint64_t m = ta ? A->cols : A->rows, k = ta ? A->rows : A->cols, n = tb ? B->rows : B->cols, k2 = tb ? B->cols : B->rows;
    if (m != D->rows || n != D->cols || k != k2) return bad("shapes do not agree");
    if (A->ld < (int64_t)A->rows || B->ld < (int64_t)B->rows || D->ld < (int64_t)D->rows) return bad("leading dimension too small");
    if (d->ct != CUBLAS_COMPUTE_32F || d->st != CUDA_R_32F) return bad("compute type");
    int sa = d->a.get<int>(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, 0), sb = d->a.get<int>(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, 0);
    if (fp8(A->t)) {
        if (g_cc < 89) return bad("fp8 needs sm_89");
        if (g_cc < 100 && (!ta || tb)) return bad("fp8 needs the TN format before sm_100");
        if (m % 16 || n % 16 || k % 16 || A->ld % 16 || B->ld % 16) return bad("fp8 needs dimensions that are multiples of 16");
        if (D->t != CUDA_R_16BF && D->t != CUDA_R_32F && D->t != CUDA_R_16F) return bad("fp8 output type");
        if ((sa == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F || sb == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F) && (g_cc != 90 || sa != sb)) return bad("outer-vector scales: sm_90 only, on both");
    } else if (sa || sb) return bad("scale modes are for fp8");
    int ep = d->a.get<int>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT);
    if (ep != CUBLASLT_EPILOGUE_DEFAULT && ep != CUBLASLT_EPILOGUE_BIAS && ep != CUBLASLT_EPILOGUE_GELU && ep != CUBLASLT_EPILOGUE_GELU_BIAS) return bad("epilogue");
    return CUBLAS_STATUS_SUCCESS;
}
static cublasStatus_t set(Attr &a, int k, const void *v, size_t n) { if (!v) return CUBLAS_STATUS_INVALID_VALUE; a.m[k] = std::vector<char>((const char *)v, (const char *)v + n); return CUBLAS_STATUS_SUCCESS; }
extern "C" {
void simt_lt_cc(int cc) { g_cc = cc; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) { *h = (cublasLtHandle_t)&g_cc; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t c, cudaDataType_t s) { Mm *m = new Mm(); m->ct = c; m->st = s; *d = (cublasLtMatmulDesc_t)m; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { delete (Mm *)d; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *v, size_t n) { return set(((Mm *)d)->a, a, v, n); }
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType t, uint64_t r, uint64_t c, int64_t ldd) { Lay *x = new Lay(); x->t = t; x->rows = r; x->cols = c; x->ld = ldd; *l = (cublasLtMatrixLayout_t)x; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { delete (Lay *)l; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void *v, size_t n) { return set(((Lay *)l)->a, a, v, n); }
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) { *p = (cublasLtMatmulPreference_t) new Attr(); return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { delete (Attr *)p; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, const void *v, size_t n) { return set(*(Attr *)p, a, v, n); }
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t A, cublasLtMatrixLayout_t B, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t D, cublasLtMatmulPreference_t p, int want, cublasLtMatmulHeuristicResult_t *r, int *got)
{
    cublasStatus_t e = verify((Mm *)d, (Lay *)A, (Lay *)B, (Lay *)D); *got = 0; if (e || want < 1) return e;
    memset(r, 0, sizeof *r); r->workspaceSize = ((Attr *)p)->get<size_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 0); if (r->workspaceSize > 4096) r->workspaceSize = 4096; r->state = CUBLAS_STATUS_SUCCESS; *got = 1; return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t dd, const void *alpha, const void *A, cublasLtMatrixLayout_t la, const void *B, cublasLtMatrixLayout_t lb, const void *beta, const void *C, cublasLtMatrixLayout_t, void *D, cublasLtMatrixLayout_t ldd, const cublasLtMatmulAlgo_t *, void *ws, size_t wsn, cudaStream_t st)
{
    Mm d = *(Mm *)dd; Lay a = *(Lay *)la, b = *(Lay *)lb, c = *(Lay *)ldd; cublasStatus_t e = verify(&d, &a, &b, &c); if (e) return e;
    if (((uintptr_t)A | (uintptr_t)B | (uintptr_t)D) & 15) return bad("pointers must be 16-byte aligned");
    float al = *(const float *)alpha, be = *(const float *)beta;
    std::function<void()> run = [=] {
        bool ta = d.a.get<int>(CUBLASLT_MATMUL_DESC_TRANSA, 0), tb = d.a.get<int>(CUBLASLT_MATMUL_DESC_TRANSB, 0);
        int m = c.rows, n = c.cols, k = ta ? a.rows : a.cols, nb = std::max(1, c.a.get<int32_t>(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 1));
        int64_t oa = a.a.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 0), ob = b.a.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 0), oc = c.a.get<int64_t>(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 0);
        int ep = d.a.get<int>(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_DEFAULT), sm = d.a.get<int>(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, 0);
        const void *bias = d.a.get<const void *>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, nullptr); cudaDataType_t bt = (cudaDataType_t)d.a.get<int>(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, fp8(a.t) ? CUDA_R_16BF : c.t);
        const float *sa = d.a.get<const float *>(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, nullptr), *sb = d.a.get<const float *>(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, nullptr);
        bool hb = ep & CUBLASLT_EPILOGUE_BIAS, hg = (ep & ~CUBLASLT_EPILOGUE_BIAS & ~1) == (CUBLASLT_EPILOGUE_GELU & ~1), vec = sm == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F; int bd = 0;
        for (int q = 0; q < nb; q++) { for (uint64_t j = 0; j < a.cols; j++) bd |= simt_range((const char *)A + (q * oa + j * a.ld) * esz(a.t), a.rows * esz(a.t), 0); for (uint64_t j = 0; j < b.cols; j++) bd |= simt_range((const char *)B + (q * ob + j * b.ld) * esz(b.t), b.rows * esz(b.t), 0);
            for (int j = 0; j < n; j++) { if (be != 0) bd |= simt_range((const char *)C + (q * oc + j * c.ld) * esz(c.t), m * esz(c.t), 0); bd |= simt_range((char *)D + (q * oc + j * c.ld) * esz(c.t), m * esz(c.t), 1); } }
        if (hb) bd |= simt_range(bias, m * esz(bt), 0);
        if (sa) bd |= simt_range(sa, 4 * (vec ? m : 1), 0);
        if (sb) bd |= simt_range(sb, 4 * (vec ? n : 1), 0);
        if (wsn) bd |= simt_range(ws, wsn < 4096 ? wsn : 4096, 1);     /* two streams that share a workspace are a race */
        if (bd) return;
        std::vector<float> fa((size_t)m * k), fb((size_t)n * k);
        for (int q = 0; q < nb; q++) {
            for (int i = 0; i < m; i++) for (int x = 0; x < k; x++) fa[(size_t)i * k + x] = ld(A, q * oa + (ta ? x + i * a.ld : i + x * a.ld), a.t);
            for (int j = 0; j < n; j++) for (int x = 0; x < k; x++) fb[(size_t)j * k + x] = ld(B, q * ob + (tb ? j + x * b.ld : x + j * b.ld), b.t);
            for (int j = 0; j < n; j++) for (int i = 0; i < m; i++) {
                float s = 0; const float *pa = &fa[(size_t)i * k], *pb = &fb[(size_t)j * k]; for (int x = 0; x < k; x++) s += pa[x] * pb[x];
                s *= al * (sa ? sa[vec ? i : 0] : 1) * (sb ? sb[vec ? j : 0] : 1); size_t o = q * oc + i + j * c.ld; if (be != 0) s += be * ld(C, o, c.t);
                if (hb) s += ld(bias, i, bt);
                if (hg) s = 0.5f * s * (1 + tanhf(0.7978845608f * (s + 0.044715f * s * s * s)));
                stv(D, o, c.t, s);
            }
        }
    };
    simt_enqueue(st, "cublasLtMatmul", 0, &run); return CUBLAS_STATUS_SUCCESS;
}
const char *cublasLtGetStatusString(cublasStatus_t e) { return e == CUBLAS_STATUS_SUCCESS ? "success" : e == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "an error"; }
}
