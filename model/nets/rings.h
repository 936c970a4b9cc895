/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rings and sinks that do not stand on their device: the keys and values of each layer wait in host memory that the device reads fast, and come
 * into one of a few slots when an item's turn is at that layer.
 *
 *   fetch queue   .. ring and sink of the visit after the next               those of the visits that follow, as far as slots are free
 *   work queue       the item at its layer: writes its frames, reads all; or fills a sink
 *   store queue      what was written, back to the host ..
 *
 * A visit is an item at a layer; the order is that of avt_dit_layers(). Of a ring there come the rows that are in use and are not written
 * in this visit, of a sink all unless it is filled. The numbers are those of what stands, bit for bit. Trap: what a walk stores the next
 * one fetches, so the first fetch of a walk waits for all that was stored.
 */
#ifndef AVT_RINGS_H
#define AVT_RINGS_H

#include "nets/dit.h"

#define RING_SLOTS 3                    // what is in use and two that are on their way
#define RING_PARTS 5                    // k, v, where they are codes their scales; of a sink the reference's keys

typedef struct RingTensors {            // of one layer: of a ring, or of a sink
    Tensor k, v;                        // [M, heads held, hd]
    Tensor ref;                         // [n, heads held, hd] of a sink
    Tensor part[RING_PARTS];            // [rows, bytes of a row] u8: the same memory, as it is moved
    int nb_parts;
    size_t bytes;
} RingTensors;

typedef struct RingSlot {
    RingTensors ring, sink;
    Mark ready, free;                   // they have come; what was written in them has gone back
} RingSlot;

typedef struct Rings {                  // of a rank
    Backend *be, *fetch, *store;        // three queues of one device
    RingSlot slot[RING_SLOTS];
    int64_t asked;                      // visits of this walk for which something has been asked
} Rings;

/** Take slots for rings and sinks of `d` in `state`. @return 0 or ENOMEM */
int  avt_rings_open(Rings *r, Arena *state, const Dit *d, const DitShape *shape, Backend *be, Backend *fetch, Backend *store);
/** A ring for each of nb layers, in host memory; the same, a sink. @return 0 or ENOMEM; avt_rings_drop() in any case, after a sync of all queues */
int  avt_rings_add(Rings *r, DitKeys *keys, int64_t nb);
int  avt_rings_add_sink(Rings *r, DitKeys *keys, int64_t nb);
void avt_rings_drop(Rings *r, DitKeys *keys);
/** Bytes that come for an item at one layer, of full rings. */
size_t avt_rings_moved(const Rings *r, const DitShape *shape);

/** Item j of nb is next at layer i of `layers`: later work finds its ring and its sink, and those that follow are on their way. NULL: nothing
 *  is done, as in avt_rings_give(). */
void avt_rings_take(Rings *r, DitItem *items, int nb, int layers, int i, int j);
/** It is through: what it wrote goes back. */
void avt_rings_give(Rings *r, const DitItem *items, int nb, int i, int j);

#endif
