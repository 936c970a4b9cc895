/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arena: a bump allocator over one block of backend memory. See arena.h. */
#include <string.h>

#include "arena.h"

#define ALIGN 64

struct Arena {
    Backend *be;
    const char *name;
    char *base;
    size_t capacity, used, peak;
    int within;                         // the block is another arena's
};

int avt_arena_open(Arena **out, Backend *be, const char *name, size_t capacity)
{
    Arena *a = avt_calloc(MEM_TENSOR, 1, sizeof(*a));

    *out = NULL;
    if (!a)
        return AVT_ERR(ENOMEM);
    a->be = be;
    a->name = name;
    a->capacity = (capacity + ALIGN - 1) / ALIGN * ALIGN;
    a->base = a->capacity ? be->cls->alloc(be, a->capacity) : NULL;
    if (a->capacity && !a->base) {
        avt_free(a);
        return avt_fail(be->log, AVT_ERR(ENOMEM), "%s: no %.1f MB for %s", be->device, (double)capacity / 1e6, name);
    }
    *out = a;
    return 0;
}

int avt_arena_within(Arena **out, Arena *of, Backend *be, const char *name, size_t capacity)
{
    const size_t size = (capacity + ALIGN - 1) / ALIGN * ALIGN;
    Arena *a = avt_calloc(MEM_TENSOR, 1, sizeof(*a));
    char *base = a ? avt_arena_bytes(of, size) : NULL;

    *out = NULL;
    if (!base) {
        avt_free(a);
        return AVT_ERR(ENOMEM);
    }
    *a = (Arena){ .be = be, .name = name, .base = base, .capacity = size, .within = 1 };
    *out = a;
    return 0;
}

void avt_arena_close(Arena **a)
{
    if (!*a)
        return;
    if ((*a)->base && !(*a)->within)
        (*a)->be->cls->free((*a)->be, (*a)->base, (*a)->capacity);
    avt_freep(a);
}

void *avt_arena_bytes(Arena *a, size_t size)
{
    const size_t want = (size + ALIGN - 1) / ALIGN * ALIGN;
    char *p = a->base + a->used;

    if (want < size || want > a->capacity - a->used) {
        avt_backend_fail(a->be, AVT_ERR(ENOMEM), "%s: %s is full: %.1f MB wanted, %.1f of %.1f MB in use", a->be->device, a->name,
                         (double)size / 1e6, (double)a->used / 1e6, (double)a->capacity / 1e6);
        return NULL;
    }
    a->used += want;
    if (a->peak < a->used)
        a->peak = a->used;
    return p;
}

Tensor avt_new_dims(Arena *a, DType dtype, int nd, const int64_t *dim)
{
    Tensor t = { .be = a->be, .dtype = dtype, .nd = nd };

    memcpy(t.dim, dim, sizeof(dim[0]) * (size_t)nd);
    t.data = avt_arena_bytes(a, avt_nbytes(t));
    return t;
}

Tensor avt_new_codes(Arena *a, DType type, int nd, const int64_t *dim)
{
    Tensor t = avt_new_dims(a, type, nd, dim);

    t.scale = avt_arena_bytes(a, (size_t)avt_rows_of(t) * sizeof(float));
    t.act = a->be->act;
    return t;
}

size_t avt_arena_mark(const Arena *a)
{
    return a->used;
}

void avt_arena_release(Arena *a, size_t mark)
{
    a->used = mark;
}

size_t avt_arena_peak(const Arena *a)
{
    return a->peak;
}

size_t avt_arena_used(const Arena *a)
{
    return a->used;
}

void *avt_arena_base(const Arena *a)
{
    return a->base;
}

Backend *avt_arena_backend(const Arena *a)
{
    return a->be;
}
