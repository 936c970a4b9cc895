/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Arena: the memory of tensors, one block of a backend, given out front to back. Three lifetimes, three arenas: weights
 * (engine), state (session), scratch (one step: mark on entry, release on exit).
 *
 * The plan is the same code run on the `dry` backend with an arena that has no limit: its high-water mark is the capacity
 * that the real arena is opened with. Released memory may be handed out at once, since a backend works in order.
 */
#ifndef AVT_ARENA_H
#define AVT_ARENA_H

#include "backend.h"

typedef struct Arena Arena;

#define ARENA_UNLIMITED ((size_t)1 << 46)       // for dry; elsewhere it would be reserved in full

/** @param name  static text for messages: "weights", "state", "scratch"
 *  @return 0, ENOMEM (logged with the bytes) when the device has not that much */
int  avt_arena_open(Arena **a, Backend *be, const char *name, size_t capacity);
void avt_arena_close(Arena **a);
/** A part of `of` as an arena of its own, for a queue `be` of the same device: closed before `of` is released to where it was.
 *  @return 0 or ENOMEM */
int  avt_arena_within(Arena **a, Arena *of, Backend *be, const char *name, size_t capacity);

/** A tensor of the arena, contents undefined. When full: the backend fails with ENOMEM and the tensor is AVT_NONE-like. */
Tensor avt_new_dims(Arena *a, DType dtype, int nd, const int64_t *dim);
#define avt_new(a, dtype, ...)                                                                        \
    avt_new_dims(a, dtype, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), (const int64_t[]){ __VA_ARGS__ })

/** The same of codes of the backend's activations, with a scale a row. */
Tensor avt_new_codes(Arena *a, DType type, int nd, const int64_t *dim);

size_t avt_arena_mark(const Arena *a);
void   avt_arena_release(Arena *a, size_t mark);
size_t avt_arena_peak(const Arena *a);                                  // highest use ever
size_t avt_arena_used(const Arena *a);
void  *avt_arena_base(const Arena *a);                                  // of its backend; NULL: of no bytes
Backend *avt_arena_backend(const Arena *a);

/** Raw bytes, 64-byte aligned (packed weights). NULL and a failed backend when full. */
void *avt_arena_bytes(Arena *a, size_t size);

#endif
