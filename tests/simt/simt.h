/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The device side of CUDA for g++: what gpu.cuh gives kernels in place of PTX. Included by gpu.cuh alone.
 *
 * Ordinary loads and stores need nothing: they are seen through -fsanitize=thread. What the hooks cannot see right (wide accesses,
 * atomics, asynchronous copies) goes through the calls of simt_ops.h.
 */
#ifndef AVT_SIMT_SIMT_H
#define AVT_SIMT_SIMT_H

#include <math.h>
#include <string.h>
#include <tuple>
#include <type_traits>

#include "simt_ops.h"

struct SimtThread {
    uint3 tid, bid;
    dim3 bdim, gdim;
};
extern thread_local SimtThread *simt_thread;    // of the fiber that runs
#define threadIdx (simt_thread->tid)
#define blockIdx  (simt_thread->bid)
#define blockDim  (simt_thread->bdim)
#define gridDim   (simt_thread->gdim)

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ _Pragma("GCC error \"use SMEM_STATIC or SMEM_DYNAMIC\"")
#define __align__(n) __attribute__((aligned(n)))
#define SIMT_UNSEEN __attribute__((no_sanitize("thread"))) static inline

#define SMEM_STATIC(T, name, n) \
    static char simt_key_of_##name; \
    T *name = (T *)simt_shared_static(&simt_key_of_##name, sizeof(T) * (n), alignof(T))
#define SMEM_DYNAMIC(name) unsigned char *name = (unsigned char *)simt_shared_dynamic()

/* ---- barriers, fences, warps --------------------------------------------------------------------------------------------------------- */

static inline void __syncthreads() { simt_barrier(1, 0); }
static inline int __syncthreads_count(int v) { return simt_barrier(2, v); }
static inline int __syncthreads_and(int v) { return simt_barrier(3, v); }
static inline int __syncthreads_or(int v) { return simt_barrier(4, v); }
static inline void __syncwarp(unsigned mask = FULL) { simt_syncwarp(mask); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T> static inline T simt_shuffled(unsigned mask, T v, int kind, int by, int width)
{
    SimtShuffle x = { 0, 0, kind, by, width };

    static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
    memcpy(&x.value, &v, sizeof(v));
    simt_shuffle(mask, &x);
    memcpy(&v, &x.result, sizeof(v));
    return v;
}

template <class T> static inline T __shfl_sync(unsigned m, T v, int lane, int width = 32) { return simt_shuffled(m, v, SIMT_SHUFFLE_INDEX, lane, width); }
template <class T> static inline T __shfl_up_sync(unsigned m, T v, int by, int width = 32) { return simt_shuffled(m, v, SIMT_SHUFFLE_UP, by, width); }
template <class T> static inline T __shfl_down_sync(unsigned m, T v, int by, int width = 32) { return simt_shuffled(m, v, SIMT_SHUFFLE_DOWN, by, width); }
template <class T> static inline T __shfl_xor_sync(unsigned m, T v, int by, int width = 32) { return simt_shuffled(m, v, SIMT_SHUFFLE_XOR, by, width); }

static inline unsigned simt_voted(unsigned mask, int predicate, int kind)
{
    SimtVote x = { predicate, kind, 0 };

    simt_vote(mask, &x);
    return x.result;
}

static inline unsigned __ballot_sync(unsigned mask, int v) { return simt_voted(mask, v, SIMT_VOTE_BALLOT); }
static inline int __any_sync(unsigned mask, int v) { return (int)simt_voted(mask, v, SIMT_VOTE_ANY); }
static inline int __all_sync(unsigned mask, int v) { return (int)simt_voted(mask, v, SIMT_VOTE_ALL); }

/* ---- atomics: threads change only where they wait, so a plain operation is one ------------------------------------------------------- */

#define SIMT_ATOMIC(name, result) \
    template <class T> SIMT_UNSEEN T name(T *p, std::common_type_t<T> v) \
    { \
        simt_atomic((void *)p, sizeof(T)); \
        const T old = *p; \
        *p = (result); \
        return old; \
    }
SIMT_ATOMIC(atomicAdd, old + v)
SIMT_ATOMIC(atomicMax, old > v ? old : v)
SIMT_ATOMIC(atomicMin, old < v ? old : v)
SIMT_ATOMIC(atomicOr, old | v)
SIMT_ATOMIC(atomicExch, v)

template <class T> SIMT_UNSEEN T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> v)
{
    simt_atomic((void *)p, sizeof(T));
    const T old = *p;
    if (old == expected)
        *p = v;
    return old;
}

/* ---- numbers -------------------------------------------------------------------------------------------------------------------------- */

template <class TO, class FROM> static inline TO simt_bits(FROM v)
{
    TO r;

    static_assert(sizeof(TO) == sizeof(FROM), "bits of another size");
    memcpy(&r, &v, sizeof(r));
    return r;
}

static inline float __uint_as_float(unsigned v) { return simt_bits<float>(v); }
static inline float __int_as_float(int v) { return simt_bits<float>(v); }
static inline unsigned __float_as_uint(float v) { return simt_bits<unsigned>(v); }
static inline int __float_as_int(float v) { return simt_bits<int>(v); }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fdividef(float a, float b) { return fabsf(b) > 0x1p126f ? 0 : a / b; }     // as documented: nothing beyond 2^126
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __saturatef(float v) { return v > 1 ? 1 : v > 0 ? v : 0; }
static inline int __float2int_rn(float v) { return (int)nearbyintf(v); }
static inline void sincospi(double x, double *s, double *c) { *s = sin(M_PI * x); *c = cos(M_PI * x); }
static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
static inline int __ffs(int v) { return __builtin_ffs(v); }
#define __expf(x) expf(x)                       // glibc has functions of these names
#define __logf(x) logf(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)

template <class A, class B> static inline std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B> static inline std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
template <class T> static inline T __ldg(const T *p) { return *p; }

/* ---- wide accesses, asynchronous copies, fragments: as in gpu.cuh --------------------------------------------------------------------- */

template <class T> SIMT_UNSEEN T simt_load(const void *p)
{
    T v;

    simt_read(p, sizeof(T), sizeof(T));
    memcpy(&v, p, sizeof(v));
    return v;
}

template <class T> SIMT_UNSEEN void simt_store(void *p, T v)
{
    simt_write(p, sizeof(T), sizeof(T));
    memcpy(p, &v, sizeof(v));
}

static inline uint4 ld16(const void *p) { return simt_load<uint4>(p); }
static inline uint2 ld8(const void *p) { return simt_load<uint2>(p); }
static inline void st16(void *p, uint4 v) { simt_store(p, v); }
static inline void st8(void *p, uint2 v) { simt_store(p, v); }

static inline void cp_async16(void *dst, const void *src, bool there) { simt_copy(dst, there ? src : NULL, 16); }
static inline void cp_async_commit() { simt_copy_commit(); }
template <int N> static inline void cp_async_wait() { simt_copy_wait(N); }

static inline void ldsm4(uint32_t r[4], const void *p) { simt_ldmatrix(r, p, 0); }
static inline void ldsm4t(uint32_t r[4], const void *p) { simt_ldmatrix(r, p, 1); }

static inline void mma_bf16_16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    const uint32_t b[2] = { b0, b1 };

    simt_mma(c, a, b);
}

/* ---- launches: arguments become the kernel's own types and are kept with the launch ----------------------------------------------------- */

template <class... P> struct SimtCall {
    void (*kernel)(P...);
    std::tuple<std::decay_t<P>...> argument;

    static void run(void *p)
    {
        SimtCall *c = (SimtCall *)p;

        std::apply(c->kernel, c->argument);
    }
};

template <class... P, class... A>
static inline cudaError_t launch_kernel(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t s, A... a)
{
    const SimtCall<P...> c = { kernel, std::tuple<std::decay_t<P>...>(a...) };

    return simt_launch(name, (const void *)kernel, grid, block, smem, s, SimtCall<P...>::run, &c, sizeof(c));
}

#endif
