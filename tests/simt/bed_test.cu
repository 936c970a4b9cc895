/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bed itself: a small fault each must be told under its name, and what is right must not be told. One line a case, in each schedule.
 * Built like a kernel, so that its own host code is seen as well.
 */
#include <stdio.h>
#include <stdlib.h>

#include "control.h"
#include "cuda/gpu.cuh"

static cudaStream_t stream[2];
static int passed, failed;

/* ---- kernels: `right` or not --------------------------------------------------------------------------------------------------------------- */

__global__ void exchange_kernel(int *out, bool right)               // neighbours through shared memory, ordered by their warp
{
    SMEM_STATIC(int, word, 32);

    word[threadIdx.x] = (int)threadIdx.x;
    if (right)
        __syncwarp();
    out[threadIdx.x] = word[threadIdx.x ^ 1];
}

__global__ void block_sum_kernel(int *out, bool right)
{
    SMEM_STATIC(int, word, 64);

    word[threadIdx.x] = 1;
    __syncthreads();
    for (int n = 32; n; n /= 2) {
        if ((int)threadIdx.x < n)
            word[threadIdx.x] += word[threadIdx.x + n];
        if (right)
            __syncthreads();
    }
    if (!threadIdx.x)
        *out = word[0];
}

__global__ void halves_kernel(int *out, bool right)                 // each half of a warp shuffles on its own
{
    int v = (int)threadIdx.x;

    if (threadIdx.x < 16)
        v = __shfl_xor_sync(0xffff, v, right ? 1 : 16);
    else
        v = __shfl_xor_sync(0xffff0000u, v, 2);
    out[threadIdx.x] = v;
}

__global__ void divergent_kernel(int *out)                          // a mask that names lanes that go elsewhere
{
    int v = (int)threadIdx.x;

    if (threadIdx.x < 16)
        v = __shfl_xor_sync(FULL, v, 1);
    else
        __syncthreads();
    out[threadIdx.x] = v;
}

__global__ void count_kernel(int *out, bool right)
{
    if (right)
        atomicAdd(out, 1);
    else
        *out = *out + 1;
}

__global__ void early_kernel(int *out, int n)                       // a barrier of those that are left is allowed
{
    SMEM_STATIC(int, word, 64);

    if ((int)threadIdx.x >= n)
        return;
    word[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = word[n - 1 - (int)threadIdx.x];
}

__global__ void overrun_kernel(int *out)
{
    SMEM_STATIC(int, word, 32);

    word[threadIdx.x + 1] = 1;
    out[threadIdx.x] = 0;
}

__global__ void votes_kernel(int *out)
{
    const unsigned ballot = __ballot_sync(FULL, threadIdx.x & 1);

    out[threadIdx.x] = ballot == 0xaaaaaaaau && __any_sync(FULL, threadIdx.x == 3) && !__all_sync(FULL, threadIdx.x) &&
                       __syncthreads_count(threadIdx.x < 5) == 5;
}

__global__ void follow_kernel(int **at, int *out)
{
    *out = **at;
}

__global__ void beyond_kernel(int *out, int n)
{
    out[n] = (int)threadIdx.x;
}

__global__ void wide_kernel(int *out, int from)
{
    st16(out + 64 + 4 * threadIdx.x, ld16(out + from));
}

__global__ void async_kernel(int *out, int *in, int wait)           // wait: 0 not at all, 1 for the copy, 2 and for the others' as well
{
    SMEM_STATIC(int, word, 128);

    cp_async16(word + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
    cp_async_commit();
    if (wait)
        cp_async_wait<0>();
    if (wait == 2)
        __syncthreads();
    out[threadIdx.x] = word[(4 * threadIdx.x + 4) % 128];
}

__global__ void halves_of_words_kernel(bf16 *out)                   // neighbours write the two halves of a word: no race
{
    out[threadIdx.x] = __float2bfloat16_rn((float)threadIdx.x);
}

__global__ void read_kernel(const int *in, int *out)
{
    *out = *in;
}

__global__ void fill_kernel(int *out, int v)
{
    out[threadIdx.x] = v;
}

/* ---- cases ---------------------------------------------------------------------------------------------------------------------------------- */

static int *fresh(void)
{
    void *p = NULL;

    if (cudaMalloc(&p, 4096) != cudaSuccess || cudaMemsetAsync(p, 0, 4096, stream[0]) != cudaSuccess)
        exit(2);
    cudaStreamSynchronize(stream[0]);
    return (int *)p;
}

/* `want`: the kind that must be among the told ones; "": none may be */
static void verdict(const char *name, const char *want)
{
    cudaDeviceSynchronize();
    const char *told = simt_kinds();
    const int ok = *want ? strstr(told, want) != NULL : !*told;

    printf("%s %-58s %s\n", ok ? "ok  " : "FAIL", name, told);
    ok ? passed++ : failed++;
    simt_clear();
}

#define CASE(name, want, ...) do { int *p = fresh(); __VA_ARGS__; verdict(name, want); cudaFree(p); } while (0)
#define ONE(kernel, threads, ...) LAUNCH(kernel, dim3(1), dim3(threads), 0, stream[0], __VA_ARGS__)

static void expect(const char *name, int ok)
{
    printf("%s %s\n", ok ? "ok  " : "FAIL", name);
    ok ? passed++ : failed++;
}

static void in_a_warp(void)
{
    CASE("neighbours exchange behind __syncwarp", "", ONE(exchange_kernel, 32, p, true));
    CASE("neighbours exchange without it", "race-shared", ONE(exchange_kernel, 32, p, false));
    CASE("half a warp each", "", ONE(halves_kernel, 32, p, true));
    CASE("a shuffle from a lane outside the mask", "shfl-inactive", ONE(halves_kernel, 32, p, false));
    CASE("a mask that names lanes at a barrier", "barrier-d", ONE(divergent_kernel, 32, p));
    CASE("votes", "", ONE(votes_kernel, 32, p));

    int *p = fresh(), word[32], right = 0;
    ONE(votes_kernel, 32, p);
    cudaMemcpyAsync(word, p, sizeof(word), cudaMemcpyDeviceToHost, stream[0]);
    for (int v : word)
        right += v;
    expect("and what they come to", right == 32);
    cudaFree(p);
}

static void in_a_block(void)
{
    CASE("a sum over a block", "", ONE(block_sum_kernel, 64, p, true));
    CASE("a sum over a block without its barriers", "race-shared", ONE(block_sum_kernel, 64, p, false));
    CASE("a barrier after some threads have ended", "", ONE(early_kernel, 64, p, 40));
    CASE("a shared array overrun by one", "oob-shared", ONE(overrun_kernel, 32, p));
    CASE("asynchronous copies, waited for", "", int *q = fresh(); ONE(async_kernel, 32, p, q, 2); cudaDeviceSynchronize(); cudaFree(q));
    CASE("the own copy waited for, the neighbour's not", "race", int *q = fresh(); ONE(async_kernel, 32, p, q, 1); cudaDeviceSynchronize(); cudaFree(q));
    CASE("a copy nobody waits for", "cp.async-", int *q = fresh(); ONE(async_kernel, 32, p, q, 0); cudaDeviceSynchronize(); cudaFree(q));
}

static void in_memory(void)
{
    CASE("atomicAdd from many blocks", "", LAUNCH(count_kernel, dim3(4), dim3(64), 0, stream[0], p, true));
    CASE("plain addition from many blocks", "race-blocks", LAUNCH(count_kernel, dim3(4), dim3(1), 0, stream[0], p, false));
    CASE("plain addition from many threads", "race-global", LAUNCH(count_kernel, dim3(1), dim3(64), 0, stream[0], p, false));
    CASE("both halves of a word by neighbours", "", ONE(halves_of_words_kernel, 64, (bf16 *)p));
    CASE("one element beyond an allocation", "oob-global", ONE(beyond_kernel, 1, p, 1024));
    CASE("16 bytes at an address of 4", "misaligned", ONE(wide_kernel, 1, p, 1));
    CASE("16 bytes at an address of 16", "", ONE(wide_kernel, 1, p, 4));
    CASE("a pointer to the host's memory", "host-pointer", int x = 3; int *to = &x; cudaMemcpyAsync(p, &to, 8, cudaMemcpyHostToDevice, stream[0]);
         ONE(follow_kernel, 1, (int **)p, p + 16));
    CASE("memory that nobody has written", "uninit-global", void *q; cudaMalloc(&q, 64); ONE(follow_kernel, 1, (int **)q, p); cudaDeviceSynchronize();
         cudaFree(q));
    CASE("host code reads a device's memory", "host-touches-device", simt_read(p, 4, 4));
    CASE("another device's memory", "other-device", cudaSetDevice(1); cudaStream_t s; cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
         LAUNCH(fill_kernel, dim3(1), dim3(32), 0, s, p, 1); cudaStreamSynchronize(s); cudaStreamDestroy(s));
    cudaSetDevice(0);
}

static void operands(void)
{
    const auto told = [](int *p, int write, int first) {
        const SimtSpan span[] = { { p, 64, write, "the result" } };

        simt_operands("test", span, 1, NULL, NULL);
        ONE(fill_kernel, 16, p + first, 1);
        simt_operands(NULL, NULL, 0, NULL, NULL);
    };

    CASE("an op writes its result", "", told(p, 1, 0));
    CASE("an op writes past its result, in bounds of the arena", "outside-operands", told(p, 1, 1));
    CASE("an op writes what it is to read", "writes-operand", told(p, 0, 0));
}

static void on_the_host(void)
{
    CASE("a copy to the device said to be from it", "memcpy-kind", int h[4]; cudaMemcpyAsync(h, p, 16, cudaMemcpyHostToDevice, stream[0]));
    CASE("a copy longer than its target", "oob-global", static char h[5000]; cudaMemcpyAsync(p, h, 5000, cudaMemcpyHostToDevice, stream[0]));
    CASE("1025 threads", "launch-config", ONE(votes_kernel, 1025, p));
    CASE("64 KiB of shared memory unasked", "launch-config", LAUNCH(fill_kernel, dim3(1), dim3(32), 65536, stream[0], p, 1));
    CASE("the default stream", "default-stream", LAUNCH(fill_kernel, dim3(1), dim3(32), 0, (cudaStream_t)0, p, 1));
    CASE("memory freed twice", "bad-free", void *q; cudaMalloc(&q, 64); cudaFree(q); cudaFree(q));
    CASE("a wait for an event never recorded", "event-unrecorded", cudaEvent_t e; cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
         cudaStreamWaitEvent(stream[0], e, 0); cudaEventDestroy(e));
}

static void between_streams(void)
{
    cudaEvent_t e;

    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    CASE("write, event, read on another stream", "", ONE(fill_kernel, 32, p, 1); cudaEventRecord(e, stream[0]); cudaStreamWaitEvent(stream[1], e, 0);
         LAUNCH(count_kernel, dim3(1), dim3(1), 0, stream[1], p, true));
    CASE("the same without the wait", "race-streams", ONE(fill_kernel, 32, p, 1); LAUNCH(count_kernel, dim3(1), dim3(1), 0, stream[1], p, true));
    CASE("read, then written on another stream", "race-streams", ONE(read_kernel, 1, p, p + 64); cudaMemsetAsync(p, 1, 32, stream[1]));
    CASE("two readers, the writer after one of them", "race-streams", ONE(read_kernel, 1, p, p + 64);
         LAUNCH(read_kernel, dim3(1), dim3(1), 0, stream[1], p, p + 128); cudaMemsetAsync(p, 1, 32, stream[1]));
    CASE("two readers, the writer after both", "", ONE(read_kernel, 1, p, p + 64); cudaEventRecord(e, stream[0]);
         LAUNCH(read_kernel, dim3(1), dim3(1), 0, stream[1], p, p + 128); cudaStreamWaitEvent(stream[1], e, 0); cudaMemsetAsync(p, 1, 32, stream[1]));
    cudaEventDestroy(e);
}

static void pinned(void)
{
    int *h = NULL;

    cudaHostAlloc((void **)&h, 4096, cudaHostAllocDefault);
    memset(h, 0, 4096);
    const auto bring = [&](int *p, bool wait) {
        cudaMemcpyAsync(p, h, 4096, cudaMemcpyHostToDevice, stream[0]);
        if (wait)
            cudaStreamSynchronize(stream[0]);
        h[0]++;
    };

    CASE("a pinned buffer written after its copy", "", bring(p, true));
    simt_set("SCHEDULE", "lazy");
    CASE("a pinned buffer written before its copy", "pinned-changed", bring(p, false));
    cudaFreeHost(h);
}

static void losses(void)
{
    void *q = NULL;
    int *p = fresh();

    simt_set("FAIL", "memory:0");
    expect("no memory", cudaMalloc(&q, 64) == cudaErrorMemoryAllocation && !q && cudaGetLastError() == cudaErrorMemoryAllocation);
    expect("and again some", cudaMalloc(&q, 64) == cudaSuccess && cudaFree(q) == cudaSuccess);
    simt_clear();
    simt_set("FAIL", "lost:0");
    ONE(fill_kernel, 32, p, 1);
    expect("a lost device", cudaStreamSynchronize(stream[0]) == cudaErrorDevicesUnavailable && cudaMalloc(&q, 64) == cudaErrorDevicesUnavailable);
    simt_clear();
    cudaFree(p);
}

int main(void)
{
    static const char *const schedules[] = { "eager", "lazy", "random" }, *const orders[] = { "forward", "reverse", "random" };

    for (int i = 0; i < 3; i++) {
        printf("-- %s, threads %s\n", schedules[i], orders[i]);
        simt_set("SCHEDULE", schedules[i]);
        simt_set("ORDER", orders[i]);
        for (int k = 0; k < 2; k++)
            cudaStreamCreateWithFlags(&stream[k], cudaStreamNonBlocking);
        in_a_warp();
        in_a_block();
        in_memory();
        operands();
        on_the_host();
        between_streams();
        pinned();
        losses();
        simt_clear();
        for (int k = 0; k < 2; k++)
            cudaStreamDestroy(stream[k]);
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
