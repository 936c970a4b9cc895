/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one header that every kernel includes: wide accesses, asynchronous copies, matrix fragments, launches.
 *
 *   nvcc               thin wrappers over PTX
 *   g++ -DAVT_SIMT     the same names out of tests/simt/simt.h: a GPU emulated on the CPU, every access checked
 *
 * So a kernel says SMEM_STATIC(float, sums, 8) instead of `__shared__ float sums[8]`, SMEM_DYNAMIC(smem) instead of `extern __shared__`,
 * and LAUNCH(kernel, grid, block, smem, stream, ...) instead of <<<>>>; all else is CUDA C++ as usual.
 *
 * Source of the instructions: PTX ISA 9.0, "cp.async", "ldmatrix", "mma.m16n8k16".
 */
#ifndef AVT_CUDA_GPU_CUH
#define AVT_CUDA_GPU_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

typedef __nv_bfloat16 bf16;

#define FULL 0xffffffffu                        // all lanes of a warp

#ifdef AVT_SIMT
#include "simt.h"
#else

#define SMEM_STATIC(T, name, n) __shared__ T name[n]
#define SMEM_DYNAMIC(name) extern __shared__ __align__(128) unsigned char name[]

/* ---- wide accesses: the address is a multiple of their size ------------------------------------------------------------------- */

static __device__ __forceinline__ uint4 ld16(const void *p) { return *(const uint4 *)p; }
static __device__ __forceinline__ uint2 ld8(const void *p) { return *(const uint2 *)p; }
static __device__ __forceinline__ void st16(void *p, uint4 v) { *(uint4 *)p = v; }
static __device__ __forceinline__ void st8(void *p, uint2 v) { *(uint2 *)p = v; }

/* ---- asynchronous copies: global to shared, 16 bytes; zeros when !there -------------------------------------------------------- */

static __device__ __forceinline__ uint32_t smem_u32(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

static __device__ __forceinline__ void cp_async16(void *dst, const void *src, bool there)
{
    const int n = there ? 16 : 0;

    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(dst)), "l"(src), "r"(n) : "memory");
}

static __device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* until at most N of this thread's groups are on their way; others see the bytes after a barrier */
template <int N> static __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* ---- matrix fragments, by all lanes of a warp ------------------------------------------------------------------------------------ */

/* Four 8x8 matrices of 16-bit words; lane 8 i + j gives the address of row j of matrix i. */
static __device__ __forceinline__ void ldsm4(uint32_t r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(p)) : "memory");
}

static __device__ __forceinline__ void ldsm4t(uint32_t r[4], const void *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(p)) : "memory");
}

/* c[16, 8] += a[16, 16] b[16, 8]: bf16 products, f32 sums */
static __device__ __forceinline__ void mma_bf16_16816(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- launches --------------------------------------------------------------------------------------------------------------------- */

/* Arguments become the kernel's own types first: cudaLaunchKernel would take whatever lies at their addresses. */
template <class... P, class... A>
static inline cudaError_t launch_kernel(const char *, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t s, A... a)
{
    return [&](P... p) {
        void *arg[] = { (void *)&p... };
        return cudaLaunchKernel((const void *)kernel, grid, block, arg, smem, s);
    }(a...);
}
#endif

/** @return cudaSuccess, or why the launch is refused; what fails on the way shows at a later call */
#define LAUNCH(kernel, grid, block, smem, stream, ...) launch_kernel(#kernel, kernel, grid, block, smem, stream, __VA_ARGS__)

/* ---- bf16 in pairs ----------------------------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    const __nv_bfloat162 pair = __floats2bfloat162_rn(lo, hi);
    uint32_t r;

    memcpy(&r, &pair, 4);
    return r;
}

static __device__ __forceinline__ float bf_lo(uint32_t pair) { return __uint_as_float(pair << 16); }
static __device__ __forceinline__ float bf_hi(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

#endif
