/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rings that do not stand on their device: the keys and values of each layer wait in host memory that the device reads fast, and come
 * into one of a few slots when an item's turn is at that layer.
 *
 *   fetch queue   .. ring of the visit after the next                        those of the visits that follow, as far as slots are free
 *   work queue       the item at its layer: writes its frames, reads all
 *   store queue      the frames that were written, back to the host ..
 *
 * A visit is an item at a layer; the order is that of avt_dit_layers(). Of a ring there come the rows that are in use and are not written
 * in this visit. The numbers are those of rings that stand, bit for bit. Trap: what a walk stores the next one fetches, so the first fetch
 * of a walk waits for all that was stored.
 */
#ifndef AVT_RINGS_H
#define AVT_RINGS_H

#include "nets/dit.h"

#define RING_SLOTS 3                    // the ring in use and two that are on their way
#define RING_PARTS 4                    // k, v, and where they are codes their scales

typedef struct RingSlot {
    Tensor k, v;                        // [M, heads held, hd]
    Tensor part[RING_PARTS];            // [M, bytes of a row] u8: the same memory, as it is moved
    Mark ready, free;                   // it has come; what was written in it has gone back
} RingSlot;

typedef struct Rings {                  // of a rank
    Backend *be, *fetch, *store;        // three queues of one device
    RingSlot slot[RING_SLOTS];
    int nb_parts;
    int64_t M;                          // rows of a ring
    size_t bytes;                       // of one layer's ring
    int64_t asked;                      // visits of this walk whose rings have been asked for
} Rings;

/** Take slots for rings of M rows of `d` in `state`. @return 0 or ENOMEM */
int  avt_rings_open(Rings *r, Arena *state, const Dit *d, int64_t M, Backend *be, Backend *fetch, Backend *store);
/** A ring for each of nb layers, in host memory. @return 0 or ENOMEM; avt_rings_drop() in any case, after a sync of all queues */
int  avt_rings_add(Rings *r, DitKeys *keys, int64_t nb);
void avt_rings_drop(Rings *r, DitKeys *keys);

/** Item j of nb is next at layer i of `layers`: later work finds its ring, and those that follow are on their way. NULL, or an item whose
 *  ring stands or that has none: nothing is done, as in avt_rings_give(). */
void avt_rings_take(Rings *r, DitItem *items, int nb, int layers, int i, int j);
/** It is through: the rows that it wrote go back. */
void avt_rings_give(Rings *r, const DitItem *items, int nb, int i, int j);

#endif
