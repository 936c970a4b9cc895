/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tagged allocation: the only malloc of the library. Each tag counts its bytes, so that tests can assert that
 * nothing leaks and that nothing is allocated after the first block. Thread-safe.
 */
#ifndef AVT_BASE_MEM_H
#define AVT_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

typedef enum MemTag { MEM_MISC, MEM_CKPT, MEM_BACKEND, MEM_TENSOR, MEM_NET, MEM_ENGINE, MEM_SESSION, MEM_COMM, MEM_NB } MemTag;

/** The C library's memory of the calling thread is made now, as libraries below end the process that has none left for it later. */
void  avt_mem_thread(void);
void *avt_malloc(MemTag tag, size_t size);                          // NULL on failure; 64-byte aligned
void *avt_calloc(MemTag tag, size_t nb, size_t size);               // zeroed; NULL on overflow too
void *avt_realloc(MemTag tag, void *p, size_t size);                // p may be NULL; on failure p stays valid
void  avt_free(void *p);                                            // NULL is fine
void  avt_freep(void *pp);                                          // free *(void **)pp and set it NULL
char *avt_strdup(MemTag tag, const char *s);                        // NULL in, NULL out
char *avt_sprintf(MemTag tag, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/** Pages straight from the system (tensor memory): zeroed, page-aligned, counted under the tag. */
void *avt_pages_alloc(MemTag tag, size_t size);
void  avt_pages_free(MemTag tag, void *p, size_t size);
/** Can the process still map so much? For what libraries take by themselves and crash without. 1 or 0. */
int   avt_pages_left(size_t size);
/** May the process make code as it runs? Systems can deny it. 1 or 0. */
int   avt_pages_may_run(void);
/** Ask for large pages (2 MB) under such a block, before it is touched: ops that go through megabytes miss the TLB with small ones. A
 *  wish: where the system has none, nothing changes. */
void  avt_pages_large(void *p, size_t size);

/** Count memory that is got elsewhere, a device's or pinned: 1, or 0 when this allocation is to fail (avt_mem_fail_at). */
int   avt_mem_claim(MemTag tag, size_t size);
void  avt_mem_give_back(MemTag tag, size_t size);

int64_t avt_mem_bytes(MemTag tag);                                  // in use now; MEM_NB sums all tags
int64_t avt_mem_calls(void);                                        // allocations since start, pages included

/** Bytes of host memory that can be had now: the least of MemAvailable, RLIMIT_AS and the cgroup's limit. */
int64_t avt_host_memory_left(void);

/** Let the n-th allocation from now (1 = the next) fail once; 0 switches it off. For tests. */
void avt_mem_fail_at(int64_t n);

#endif
