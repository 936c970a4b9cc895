/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The calls behind simt.h: what a kernel's thread asks of the bed. */
#ifndef AVT_SIMT_OPS_H
#define AVT_SIMT_OPS_H

#include <cuda_runtime.h>
#include <stdint.h>

extern "C" {

enum { SIMT_SHUFFLE_INDEX, SIMT_SHUFFLE_UP, SIMT_SHUFFLE_DOWN, SIMT_SHUFFLE_XOR };
typedef struct SimtShuffle {
    uint64_t value, result;
    int kind, by, width;
} SimtShuffle;

enum { SIMT_VOTE_BALLOT, SIMT_VOTE_ANY, SIMT_VOTE_ALL };
typedef struct SimtVote {
    int predicate, kind;
    unsigned result;
} SimtVote;

/* kinds of barriers are bed::BARRIER_..; @return what the votes come to */
int simt_barrier(int kind, int vote);
void simt_syncwarp(unsigned mask);
void simt_shuffle(unsigned mask, SimtShuffle *x);
void simt_vote(unsigned mask, SimtVote *x);
void simt_ldmatrix(uint32_t r[4], const void *row, int turned);
void simt_mma(float c[4], const uint32_t a[4], const uint32_t b[2]);

/* An array of shared memory, by the address of anything that is its own; dynamic shared memory, from its begin. */
void *simt_shared_static(const void *key, size_t bytes, size_t align);
void *simt_shared_dynamic(void);

void simt_copy(void *dst, const void *src, int size);               // cp.async; src NULL: zeros
void simt_copy_commit(void);
void simt_copy_wait(int left);

/* Accesses that the compiler does not see. */
void simt_read(const void *p, size_t size, size_t align);
void simt_write(void *p, size_t size, size_t align);
void simt_atomic(void *p, size_t size);

cudaError_t simt_launch(const char *name, const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t s, void (*run)(void *arguments),
                        const void *arguments, size_t size);
}

#endif
