/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* simt_cudnn.cpp - a CPU double of the cuDNN backend API for two operations: SDPA forward and convolution forward */
#include <cudnn.h>
#include <cuda_bf16.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <functional>
#include <map>
#include <vector>
#include "simt_host.h"
extern "C" void simt_enqueue(cudaStream_t st, const char *name, std::function<bool()> *ready, std::function<void()> *run);
struct D { int type; bool fin = false; std::map<int, std::vector<char>> m;
    template <class T> std::vector<T> v(int k) const { auto i = m.find(k); if (i == m.end()) return {}; std::vector<T> r(i->second.size() / sizeof(T)); memcpy(r.data(), i->second.data(), r.size() * sizeof(T)); return r; }
    template <class T> T one(int k, T d) const { auto r = v<T>(k); return r.empty() ? d : r[0]; } D *ref(int k) const { return one<D *>(k, 0); } };
struct cudnnContext { cudaStream_t st; };
static char why[256];
static cudnnStatus_t no(cudnnStatus_t s, const char *w) { snprintf(why, sizeof why, "%s", w); return s; }
static size_t asz(cudnnBackendAttributeType_t t)
{
    switch (t) { case CUDNN_TYPE_BOOLEAN: case CUDNN_TYPE_CHAR: return 1; case CUDNN_TYPE_INT64: case CUDNN_TYPE_DOUBLE: case CUDNN_TYPE_VOID_PTR: case CUDNN_TYPE_HANDLE: case CUDNN_TYPE_BACKEND_DESCRIPTOR: return 8; default: return 4; }
}
struct T { std::vector<int64_t> d, s; int64_t uid; const char *p = 0; size_t es; int64_t at(const int64_t *i) const { int64_t o = 0; for (size_t k = 0; k < d.size(); k++) o += i[k] * s[k]; return o; } float get(int64_t o) const { return es == 2 ? __bfloat162float(((const __nv_bfloat16 *)p)[o]) : ((const float *)p)[o]; } void put(int64_t o, float f) const { if (es == 2) ((__nv_bfloat16 *)p)[o] = __float2bfloat16(f); else ((float *)p)[o] = f; } size_t bytes() const { int64_t n = 1; for (size_t k = 0; k < d.size(); k++) n += (d[k] - 1) * s[k]; return n * es; } };
static T tens(D *t) { T r; r.d = t->v<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS); r.s = t->v<int64_t>(CUDNN_ATTR_TENSOR_STRIDES); r.uid = t->one<int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID, -1); r.es = t->one<int>(CUDNN_ATTR_TENSOR_DATA_TYPE, 0) == CUDNN_DATA_BFLOAT16 ? 2 : 4; return r; }
static void sdpa(const T &q, const T &k, const T &v, const T &o, float sc)
{
    int64_t B = q.d[0], H = q.d[1], M = q.d[2], N = k.d[2], E = q.d[3]; std::vector<float> p(N), acc(E);
    for (int64_t b = 0; b < B; b++) for (int64_t h = 0; h < H; h++) for (int64_t i = 0; i < M; i++) {
        float mx = -INFINITY, l = 0; std::fill(acc.begin(), acc.end(), 0.f);
        for (int64_t j = 0; j < N; j++) { float s = 0; for (int64_t e = 0; e < E; e++) { int64_t a[4] = {b, h, i, e}, c[4] = {b, h * k.d[1] / H, j, e}; s += q.get(q.at(a)) * k.get(k.at(c)); } p[j] = s * sc; mx = fmaxf(mx, p[j]); }
        for (int64_t j = 0; j < N; j++) { float w = expf(p[j] - mx); l += w; for (int64_t e = 0; e < E; e++) { int64_t c[4] = {b, h * v.d[1] / H, j, e}; acc[e] += w * v.get(v.at(c)); } }
        for (int64_t e = 0; e < E; e++) { int64_t a[4] = {b, h, i, e}; o.put(o.at(a), acc[e] / l); }
    }
}
static void conv3(const T &x, const T &w, const T &y, const std::vector<int64_t> &pad, const std::vector<int64_t> &st, const std::vector<int64_t> &dl)
{
    for (int64_t n = 0; n < y.d[0]; n++) for (int64_t c = 0; c < y.d[1]; c++) for (int64_t t = 0; t < y.d[2]; t++) for (int64_t i = 0; i < y.d[3]; i++) for (int64_t j = 0; j < y.d[4]; j++) {
        float s = 0;
        for (int64_t q = 0; q < w.d[1]; q++) for (int64_t a = 0; a < w.d[2]; a++) for (int64_t b = 0; b < w.d[3]; b++) for (int64_t e = 0; e < w.d[4]; e++) {
            int64_t X[5] = {n, q, t * st[0] + a * dl[0] - pad[0], i * st[1] + b * dl[1] - pad[1], j * st[2] + e * dl[2] - pad[2]}, Wi[5] = {c, q, a, b, e};
            if (X[2] >= 0 && X[2] < x.d[2] && X[3] >= 0 && X[3] < x.d[3] && X[4] >= 0 && X[4] < x.d[4]) s += x.get(x.at(X)) * w.get(w.at(Wi));
        }
        int64_t Y[5] = {n, c, t, i, j}; y.put(y.at(Y), s);
    }
}
extern "C" {
size_t cudnnGetVersion(void) { return CUDNN_VERSION; }
const char *cudnnGetErrorString(cudnnStatus_t s) { return s ? "cudnn error" : "CUDNN_STATUS_SUCCESS"; }
void cudnnGetLastErrorString(char *m, size_t n) { snprintf(m, n, "%s", why); }
cudnnStatus_t cudnnCreate(cudnnHandle_t *h) { *h = new cudnnContext(); return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroy(cudnnHandle_t h) { delete h; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s) { h->st = s; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t t, cudnnBackendDescriptor_t *d) { D *x = new D(); x->type = t; *d = x; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d) { delete (D *)d; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t a, cudnnBackendAttributeType_t t, int64_t n, const void *v)
{
    D *x = (D *)d; if (x->fin) return no(CUDNN_STATUS_BAD_PARAM, "already finalised"); if (!v) return no(CUDNN_STATUS_BAD_PARAM, "null");
    if (t == CUDNN_TYPE_BACKEND_DESCRIPTOR) for (int64_t i = 0; i < n; i++) { D *r = ((D *const *)v)[i]; if (!r || !r->fin) return no(CUDNN_STATUS_BAD_PARAM, "refers to a descriptor that is not finalised"); }
    x->m[a].assign((const char *)v, (const char *)v + n * asz(t)); return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d)
{
    D *x = (D *)d;
    auto need = [&](std::initializer_list<int> l) { for (int k : l) if (!x->m.count(k)) { snprintf(why, sizeof why, "attribute %d missing", k); return false; } return true; };
    if (x->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR && (!need({CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT}) || x->m[CUDNN_ATTR_TENSOR_DIMENSIONS].size() != x->m[CUDNN_ATTR_TENSOR_STRIDES].size())) return CUDNN_STATUS_BAD_PARAM;
    if (x->type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR && !need({CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC})) return CUDNN_STATUS_BAD_PARAM;
    if (x->type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR) {
        if (!need({CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y})) return CUDNN_STATUS_BAD_PARAM;
        D *c = x->ref(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC); T X = tens(x->ref(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X)), W = tens(x->ref(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W)), Y = tens(x->ref(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y));
        auto p = c->v<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS), q = c->v<int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS), s = c->v<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES), l = c->v<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS);
        if (X.d[1] != W.d[1] || Y.d[1] != W.d[0]) return no(CUDNN_STATUS_BAD_PARAM, "channels");
        for (size_t i = 0; i < p.size(); i++) if ((X.d[2 + i] + p[i] + q[i] - l[i] * (W.d[2 + i] - 1) - 1) / s[i] + 1 != Y.d[2 + i]) return no(CUDNN_STATUS_BAD_PARAM, "output size");
    }
    x->fin = true; return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t a, cudnnBackendAttributeType_t, int64_t want, int64_t *got, void *v)
{
    D *x = (D *)d; (void)want;
    if (a == CUDNN_ATTR_ENGINEHEUR_RESULTS) { D *c = *(D **)v; c->m[0].assign((char *)&x, (char *)&x + 8); c->fin = true; *got = 1; return CUDNN_STATUS_SUCCESS; }
    if (a == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) { *(int64_t *)v = 512; *got = 1; return CUDNN_STATUS_SUCCESS; }
    if (a == CUDNN_ATTR_ENGINECFG_ENGINE) { *got = 1; return CUDNN_STATUS_SUCCESS; }
    if (a == CUDNN_ATTR_ENGINE_GLOBAL_INDEX) { *(int64_t *)v = 0; *got = 1; return CUDNN_STATUS_SUCCESS; }
    return no(CUDNN_STATUS_NOT_SUPPORTED, "attribute");
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack)
{
    D *p = (D *)plan, *k = (D *)pack; if (!p->fin || !k->fin) return no(CUDNN_STATUS_BAD_PARAM, "not finalised");
    D *eh; memcpy(&eh, p->ref(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)->m[0].data(), 8); D op = *eh->ref(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH)->ref(CUDNN_ATTR_OPERATIONGRAPH_OPS);
    auto uid = k->v<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS); auto ptr = k->v<char *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS); char *ws = k->one<char *>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, 0);
    auto bind = [&](int a) { T t = tens(op.ref(a)); for (size_t i = 0; i < uid.size(); i++) if (uid[i] == t.uid) t.p = ptr[i]; if (!t.p) snprintf(why, sizeof why, "uid %ld not in the variant pack", (long)t.uid); else if ((uintptr_t)t.p & 15 && t.es == 2) { snprintf(why, sizeof why, "uid %ld misaligned", (long)t.uid); t.p = 0; } return t; };
    std::vector<T> t; float sc = 1; bool at = op.type == CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR;
    if (at) { t = {bind(CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC), bind(CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC), bind(CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC), bind(CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC)}; if (op.ref(CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC)) { T s = bind(CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC); if (!s.p) return CUDNN_STATUS_BAD_PARAM; sc = *(const float *)s.p; /* by value: host pointer, read now */ } }
    else t = {bind(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X), bind(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W), bind(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y)};
    for (auto &x : t) if (!x.p) return CUDNN_STATUS_BAD_PARAM;
    D cd; if (!at) cd = *op.ref(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC);
    std::function<void()> run = [=] { int bad = simt_range(ws, 512, 1); for (size_t i = 0; i < t.size(); i++) bad |= simt_range(t[i].p, t[i].bytes(), i + 1 == t.size()); if (bad) return;
        if (at) sdpa(t[0], t[1], t[2], t[3], sc); else conv3(t[0], t[1], t[2], cd.v<int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS), cd.v<int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES), cd.v<int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS)); };
    simt_enqueue(h->st, "cudnnBackendExecute", 0, &run); return CUDNN_STATUS_SUCCESS;
}
}
