/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shelf: the layers of a network that are not all on its device. A layer is prepared once, in the device's own form, when it is first
 * asked for or by avt_shelf_fill(); how much stays of it is planned:
 *
 *   stands       it is bound into the shelf, in the device's memory, and used where it stands
 *   is fetched   it lies in host memory of avt_host_alloc() and comes into one of a few slots on the device, ahead of its use
 *   is read      there was no room: it is bound out of the file into a slot, each time
 *
 * Layers that stay are spread through the stack, so that those that come lie apart. A Shelf belongs to an engine and may be
 * used by several threads; each has a ShelfReader, which walks through the layers in order, once, or again and again.
 *
 *   avt_shelf_begin(&r, shelf, be, copy, scratch, 0);
 *   for (l = 0; l < nb_layers; l++)
 *       if (!(layer = avt_shelf_layer(&r, l)))                      // what `bind` filled
 *           break;
 *       else
 *           forward(be, layer);
 *   ret = avt_shelf_end(&r);
 */
#ifndef AVT_SHELF_H
#define AVT_SHELF_H

#include "files/bind.h"

#define SHELF_SLOTS 3                   // at most: the layer in use and two that are on their way

typedef struct ShelfBook {              // whose layers
    const Ckpt *ckpt;                   // or NULL: planning
    Lora *lora;                         // or NULL
    const char *what;                   // network, for messages
    DType dtype;                        // storage of matrices in the file, when planning
    int nb_layers;
    size_t size;                        // of what bind() fills
    /* The same calls of avt_bind() for a layer each time. @return avt_binder_finish()'s value */
    int (*bind)(void *layer, Binder *b, const void *opaque, int l);
    const void *opaque;
} ShelfBook;

typedef struct ShelfRoom {              // most bytes of layers that may
    size_t stand, host;                 // stand in the device's memory; lie in the host's, to be fetched
    int slots;                          // of a reader, at most: 1 where nothing comes while the device is at work
} ShelfRoom;

typedef struct Shelf Shelf;

/**
 * @param be    of the engine: memory that stays is its
 * @param seen  (opt) binder of the whole network: gets the tensors of all layers marked used
 * @return 0, ENOMEM, AVT_INVALID when a header does not fit (logged)
 */
int  avt_shelf_open(Shelf **s, const ShelfBook *book, Backend *be, ShelfRoom room, Binder *seen);
void avt_shelf_close(Shelf **s);
/** Prepare every layer now; those that will be read each time are read once, and found sound. loading: (opt) is told.
 *  @return 0; the first failure: AVT_INVALID (logged), ENOMEM, ECANCELED */
int  avt_shelf_fill(Shelf *s, const int *cancel, struct Loading *loading, const Log *log);
/** Bytes of all layers that stay, and of those that have been asked for. */
size_t avt_shelf_planned(const Shelf *s);
size_t avt_shelf_used(Shelf *s);
/** Of those that stay: bytes that stand in the device's memory. */
size_t avt_shelf_standing(const Shelf *s);
/** How many layers come each time, and their bytes. */
int    avt_shelf_coming(const Shelf *s, size_t *bytes);

typedef struct ShelfSlot {
    Arena *arena;                       // part of the reader's scratch
    Tensor bytes;                       // all of it
    void *layer;                        // [book.size]
    int l;                              // the layer in it, or -1
    Mark ready, done;                   // when it is there; when it is no longer used
} ShelfSlot;

typedef struct ShelfReader {
    Shelf *s;
    Backend *be, *copy;
    Arena *scratch;
    size_t mark;
    int again;                          // behind the last layer comes the first
    int nb_slots, current;              // slot in use, or -1
    int turn;                           // slot of the next layer that does not stand
    ShelfSlot slot[SHELF_SLOTS];
    int status;
} ShelfReader;

/** Take slots in `scratch`. @param copy  queue that layers come on: another one of the same device, so that they come while `be` is at
 *  work, or `be` itself. @param again  the reader will walk many times: the first layers come while the last ones are at work
 *  @return 0 or ENOMEM; avt_shelf_end() in any case */
int avt_shelf_begin(ShelfReader *r, Shelf *s, Backend *be, Backend *copy, Arena *scratch, int again);
/** Layer l, which later work of `be` finds, until the next call; those that follow are on their way. NULL after a failure. */
const void *avt_shelf_layer(ShelfReader *r, int l);
/** Wait, give the scratch back. @return 0, or the first failure of reader and queues: AVT_INVALID (logged) for a bad weight, ESTALE, ECANCELED, ... */
int avt_shelf_end(ShelfReader *r);

#endif
