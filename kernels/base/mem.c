/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tagged allocation. Each block has a header of 64 bytes (size and tag) in front, which keeps the block aligned.
 */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"

#define HEADER 64

typedef struct Header {
    size_t size;
    MemTag tag;
} Header;

// Counters, no behaviour: the one exception to "no global state" besides the engine list.
static _Atomic int64_t bytes_of[MEM_NB], nb_calls, fail_at;

static int must_fail(void)
{
    atomic_fetch_add(&nb_calls, 1);
    return atomic_load(&fail_at) > 0 && atomic_fetch_sub(&fail_at, 1) == 1;
}

void avt_mem_thread(void)
{
    void *volatile p = malloc(1 << 16);             // volatile, or the compiler leaves both calls out

    free(p);
}

void *avt_malloc(MemTag tag, size_t size)
{
    char *p;

    if (must_fail() || size > SIZE_MAX - 2 * HEADER)
        return NULL;
    p = aligned_alloc(HEADER, (size + 2 * HEADER - 1) / HEADER * HEADER);
    if (!p)
        return NULL;
    *(Header *)p = (Header){ .size = size, .tag = tag };
    atomic_fetch_add(&bytes_of[tag], (int64_t)size);
    return p + HEADER;
}

void *avt_calloc(MemTag tag, size_t nb, size_t size)
{
    void *p;

    if (size && nb > SIZE_MAX / size)
        return NULL;
    p = avt_malloc(tag, nb * size);
    if (p)
        memset(p, 0, nb * size);
    return p;
}

void *avt_realloc(MemTag tag, void *p, size_t size)
{
    void *q = avt_malloc(tag, size);

    if (q && p) {
        const size_t old = ((Header *)((char *)p - HEADER))->size;
        memcpy(q, p, old < size ? old : size);
        avt_free(p);
    }
    return q;
}

void avt_free(void *p)
{
    Header *h;

    if (!p)
        return;
    h = (Header *)((char *)p - HEADER);
    atomic_fetch_sub(&bytes_of[h->tag], (int64_t)h->size);
    free(h);
}

void avt_freep(void *pp)
{
    void *p;

    memcpy(&p, pp, sizeof(p));
    avt_free(p);
    memset(pp, 0, sizeof(p));
}

char *avt_strdup(MemTag tag, const char *s)
{
    const size_t n = s ? strlen(s) + 1 : 0;
    char *p = s ? avt_malloc(tag, n) : NULL;

    return p ? memcpy(p, s, n) : NULL;
}

char *avt_sprintf(MemTag tag, const char *fmt, ...)
{
    va_list ap;
    char *p;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    p = n < 0 ? NULL : avt_malloc(tag, (size_t)n + 1);
    if (!p)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

void *avt_pages_alloc(MemTag tag, size_t size)
{
    void *p;

    if (must_fail() || !size)
        return NULL;
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    atomic_fetch_add(&bytes_of[tag], (int64_t)size);
    return p;
}

int avt_pages_left(size_t size)
{
    void *p = must_fail() ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return 0;
    munmap(p, size);
    return 1;
}

int avt_pages_may_run(void)
{
    const size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int may;

    if (p == MAP_FAILED)
        return 1;                       // another matter
    may = !mprotect(p, size, PROT_READ | PROT_EXEC);
    munmap(p, size);
    return may;
}

void avt_pages_large(void *p, size_t size)
{
#ifdef MADV_HUGEPAGE
    if (p)
        (void)!madvise(p, size, MADV_HUGEPAGE);
#else
    (void)p, (void)size;
#endif
}

void avt_pages_free(MemTag tag, void *p, size_t size)
{
    if (!p)
        return;
    munmap(p, size);
    atomic_fetch_sub(&bytes_of[tag], (int64_t)size);
}

int avt_mem_claim(MemTag tag, size_t size)
{
    if (must_fail())
        return 0;
    atomic_fetch_add(&bytes_of[tag], (int64_t)size);
    return 1;
}

void avt_mem_give_back(MemTag tag, size_t size)
{
    atomic_fetch_sub(&bytes_of[tag], (int64_t)size);
}

int64_t avt_mem_bytes(MemTag tag)
{
    int64_t sum = 0;

    for (int i = 0; i < MEM_NB; i++)
        if (tag == MEM_NB || i == (int)tag)
            sum += atomic_load(&bytes_of[i]);
    return sum;
}

int64_t avt_mem_calls(void)
{
    return atomic_load(&nb_calls);
}

void avt_mem_fail_at(int64_t n)
{
    atomic_store(&fail_at, n);
}
