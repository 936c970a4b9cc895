/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * oneDNN inside the CPU backend: a primitive for each shape, made at its first call and kept (onednn_items.c), and the ops and packed
 * weights that are built of them (onednn.c). All here is f32, but for the weights that avt_onednn_pack() reads.
 */
#ifndef AVT_CPU_ONEDNN_H
#define AVT_CPU_ONEDNN_H

#include "cpu/onednn_version.h"
#include "cpu/plain.h"

#define ALIGN 64

typedef struct Problem {                // one call's shape; the key of the cache, so every byte is set
    int32_t src[4], dst[4], wei[4];     // [M, K], [M, N], [K, N] or [N, C, H, W], [N, O, H', W'], [O, C, kH, kW]
    int32_t nd;                         // 2 product, 4 convolution
    int32_t stride, pad0, pad1;
    int32_t act, bias, gate, res;       // res: 0 none, 1 is the destination itself, 2 another tensor
    int32_t threads;                    // 0: only the order of the packed weights is wanted
} Problem;

typedef struct Item {                   // what is kept of a Problem
    Problem p;
    Md wei;                             // order of the packed weights
    size_t size;                        // their bytes
    size_t scratch_size;
    int slow;                           // oneDNN has only its reference for this
    dnnl_primitive_t run, repack;       // repack: NULL when the packed order is the wanted one
    dnnl_memory_t src, w, bias, dst, gate, res, scratch, packed;
} Item;

typedef struct Onednn {
    const Log *log;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    Item **slot;                        // hash table, a power of two, at most half full
    int64_t nb, room;
    char *buffer;                       // workspace of the primitive that runs: scratch, then reordered weights
} Onednn;

typedef struct Operands {
    const float *src, *bias, *gate, *res;
    const char *w;
    float *dst;
} Operands;

/* 0, or an error that says which part of oneDNN failed. */
int avt_onednn_check(const Onednn *o, dnnl_status_t s, const char *what);

/*
 * oneDNN takes the number of threads from OpenMP's setting of the calling thread, which may not be ours: sets it and returns the old
 * one, to be given back.
 */
int avt_onednn_threads(int nb);

/* The order in which weights of this shape are packed: chosen for a large problem, on one thread. nd: 2 or 4, of Problem. */
int avt_onednn_packed(Backend *be, Item **out, int nd, const int32_t *wei);

/* The primitive of `p`, whose `threads` are filled in; made where it is new. */
int avt_onednn_find(Backend *be, Item **it, Problem *p);

/* Runs it, its scratch out of the workspace. While the workspace is measured nothing else happens. */
int avt_onednn_execute(Backend *be, Item *it, const Operands *x);

/* One reorder: `src` of `type`, whose element strides are given, into the packed order. */
int avt_onednn_pack(const Onednn *o, const Item *packed, char *dst, dnnl_data_type_t type, const void *src, const int64_t *stride);

/* Frees all primitives. */
void avt_onednn_clear(Onednn *o);

#endif
