/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* simt.h - CUDA device side on the CPU: what kernels see (host C++ compiler only). */
#pragma once
#include <math.h>
#include <string.h>
#include <tuple>
#include <type_traits>

struct SimtThread { uint3 tid, bid; dim3 bdim, gdim; };
extern thread_local SimtThread *simt_cur;                 /* lives on the running fiber's stack page */
#define threadIdx (simt_cur->tid)
#define blockIdx  (simt_cur->bid)
#define blockDim  (simt_cur->bdim)
#define gridDim   (simt_cur->gdim)
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ _Pragma("GCC error \"use SMEM_STATIC / SMEM_DYNAMIC\"")
#define __align__(n) __attribute__((aligned(n)))

extern "C" {
void simt_sync(int kind, int pred, int *out);               /* 0 plain 1 count 2 and 3 or */
void simt_syncwarp(unsigned mask);
struct SimtShfl { uint64_t v, r; int kind, arg, width; };
void simt_shfl(unsigned mask, SimtShfl *x);                  /* kind 0 idx 1 up 2 down 3 xor */
struct SimtVote { int pred, kind; unsigned r; };
void simt_vote(unsigned mask, SimtVote *x);                  /* kind 0 ballot 1 any 2 all */
void simt_ldsm(void *r, const void *p, int trans);
void simt_mma(float *c, const uint32_t *a, const uint32_t *b, int kind); /* 0 bf16 k16, 1 e4m3 k32 */
void simt_cp_async(void *dst, const void *src, int n, int pred);
void simt_cp_commit(void);
void simt_cp_wait(int n);
void *simt_smem_static(const void *key, size_t bytes, size_t align);
void *simt_smem_dynamic(void);
void simt_read(const void *p, size_t n, size_t align);       /* checked access, for hand-written vector ops */
void simt_write(void *p, size_t n, size_t align);
void simt_atomic(void *p, size_t n);
cudaError_t simt_launch(const char *name, const void *fn, dim3 g, dim3 b, size_t smem, cudaStream_t s, void (*run)(void *), const void *args, size_t nargs);
}
#define SMEM_STATIC(T, name, n) static char simt_key_##name; T *name = (T *)simt_smem_static(&simt_key_##name, sizeof(T) * (n), alignof(T))
#define SMEM_DYNAMIC(name) unsigned char *name = (unsigned char *)simt_smem_dynamic()

static inline void __syncthreads() { simt_sync(0, 0, 0); }
static inline int __syncthreads_or(int p) { int r; simt_sync(3, p, &r); return r; }
static inline int __syncthreads_and(int p) { int r; simt_sync(2, p, &r); return r; }
static inline int __syncthreads_count(int p) { int r; simt_sync(1, p, &r); return r; }
static inline void __syncwarp(unsigned m = FULL) { simt_syncwarp(m); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
template <class T> static inline T simt_shfl_t(unsigned m, T v, int kind, int arg, int width)
{
    SimtShfl x; x.v = 0; memcpy(&x.v, &v, sizeof v); x.kind = kind; x.arg = arg; x.width = width;
    simt_shfl(m, &x); memcpy(&v, &x.r, sizeof v); return v;
}
template <class T> static inline T __shfl_sync(unsigned m, T v, int s, int w = 32) { return simt_shfl_t(m, v, 0, s, w); }
template <class T> static inline T __shfl_up_sync(unsigned m, T v, int s, int w = 32) { return simt_shfl_t(m, v, 1, s, w); }
template <class T> static inline T __shfl_down_sync(unsigned m, T v, int s, int w = 32) { return simt_shfl_t(m, v, 2, s, w); }
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int s, int w = 32) { return simt_shfl_t(m, v, 3, s, w); }
static inline unsigned __ballot_sync(unsigned m, int p) { SimtVote x = {p, 0, 0}; simt_vote(m, &x); return x.r; }
static inline int __any_sync(unsigned m, int p) { SimtVote x = {p, 1, 0}; simt_vote(m, &x); return x.r; }
static inline int __all_sync(unsigned m, int p) { SimtVote x = {p, 2, 0}; simt_vote(m, &x); return x.r; }
/* blocks are not preempted between two checked calls, so atomics are plain operations */
#define SIMT_ATOMIC(name, expr) \
template <class T> __attribute__((no_sanitize("thread"))) static inline T name(T *p, typename std::common_type<T>::type v) { simt_atomic((void *)p, sizeof(T)); T o = *p; *p = (expr); return o; }
SIMT_ATOMIC(atomicAdd, o + v)
SIMT_ATOMIC(atomicMax, o > v ? o : v)
SIMT_ATOMIC(atomicMin, o < v ? o : v)
SIMT_ATOMIC(atomicOr, o | v)
SIMT_ATOMIC(atomicExch, v)
template <class T> __attribute__((no_sanitize("thread"))) static inline T atomicCAS(T *p, T c, T v) { simt_atomic((void *)p, sizeof(T)); T o = *p; if (o == c) *p = v; return o; }

static inline float __uint_as_float(unsigned u) { float f; memcpy(&f, &u, 4); return f; }
static inline unsigned __float_as_uint(float f) { unsigned u; memcpy(&u, &f, 4); return u; }
static inline int __float_as_int(float f) { int u; memcpy(&u, &f, 4); return u; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline int __float2int_rn(float v) { return (int)nearbyintf(v); }
static inline void sincospi(double x, double *s, double *c) { *s = sin(M_PI * x); *c = cos(M_PI * x); }
#define __expf(x) expf(x)          /* glibc declares __expf and friends itself */
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }

__attribute__((no_sanitize("thread"))) static inline uint4 ld16(const void *p) { simt_read(p, 16, 16); uint4 v; memcpy(&v, p, 16); return v; }
__attribute__((no_sanitize("thread"))) static inline uint2 ld8(const void *p) { simt_read(p, 8, 8); uint2 v; memcpy(&v, p, 8); return v; }
__attribute__((no_sanitize("thread"))) static inline void st16(void *p, uint4 v) { simt_write(p, 16, 16); memcpy(p, &v, 16); }
__attribute__((no_sanitize("thread"))) static inline void st8(void *p, uint2 v) { simt_write(p, 8, 8); memcpy(p, &v, 8); }
static inline void cp_async16(void *d, const void *s, bool pred) { simt_cp_async(d, s, 16, pred); }
static inline void cp_async_commit() { simt_cp_commit(); }
template <int N> static inline void cp_async_wait() { simt_cp_wait(N); }
static inline void ldsm4(uint32_t r[4], const void *p) { simt_ldsm(r, p, 0); }
static inline void ldsm4t(uint32_t r[4], const void *p) { simt_ldsm(r, p, 1); }
static inline void mma_bf16_16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { uint32_t b[2] = {b0, b1}; simt_mma(c, a, b, 0); }
static inline void mma_e4m3_16832(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) { uint32_t b[2] = {b0, b1}; simt_mma(c, a, b, 1); }

/* arguments are converted to the kernel's own types and copied to the "parameter space" */
template <class... P> struct SimtCall {
    void (*k)(P...); std::tuple<std::decay_t<P>...> t;
    static void run(void *p) { SimtCall *c = (SimtCall *)p; std::apply(c->k, c->t); }
};
template <class... P, class... A>
static inline cudaError_t launch_kernel(const char *name, void (*k)(P...), dim3 g, dim3 b, size_t smem, cudaStream_t s, A... a)
{
    SimtCall<P...> c = {k, std::tuple<std::decay_t<P>...>(a...)};
    return simt_launch(name, (const void *)k, g, b, smem, s, SimtCall<P...>::run, &c, sizeof c);
}
