/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings that come when their turn is. See rings.h. */
#include <string.h>

#include "nets/rings.h"

/* The same memory, rows of bytes. */
static Tensor as_bytes(Tensor t, void *data, size_t row)
{
    return (Tensor){ .be = t.be, .data = data, .dtype = DT_U8, .nd = 2, .dim = { t.dim[0], (int64_t)row } };
}

static void open_slot(Rings *r, RingSlot *s, Arena *state, const Dit *d)
{
    const Tensor *const kept[] = { &s->k, &s->v };

    r->nb_parts = 0;
    avt_dit_ring_tensors(&s->k, &s->v, state, d, r->M);
    for (int i = 0; i < 2; i++)
        s->part[r->nb_parts++] = as_bytes(*kept[i], kept[i]->data, avt_nbytes(*kept[i]) / (size_t)r->M);
    for (int i = 0; i < 2 && kept[i]->scale; i++)
        s->part[r->nb_parts++] = as_bytes(*kept[i], kept[i]->scale, (size_t)kept[i]->dim[1] * sizeof(float));
}

int avt_rings_open(Rings *r, Arena *state, const Dit *d, int64_t M, Backend *be, Backend *fetch, Backend *store)
{
    *r = (Rings){ .be = be, .fetch = fetch, .store = store, .M = M };
    for (int i = 0; i < RING_SLOTS; i++)
        open_slot(r, &r->slot[i], state, d);
    for (int p = 0; p < r->nb_parts; p++)
        r->bytes += avt_nbytes(r->slot[0].part[p]);
    return be->status;
}

int avt_rings_add(Rings *r, DitKeys *keys, int64_t nb)
{
    *keys = (DitKeys){ .nb = nb };
    keys->k = avt_calloc(MEM_NET, (size_t)(2 * nb), sizeof(*keys->k));
    keys->home = avt_calloc(MEM_NET, (size_t)nb, sizeof(*keys->home));
    if (!keys->k || !keys->home)
        return AVT_ERR(ENOMEM);
    keys->v = keys->k + nb;
    for (int64_t i = 0; i < nb; i++) {
        keys->k[i] = r->slot[0].k;                                  // its shape, until it comes
        keys->v[i] = r->slot[0].v;
        keys->home[i] = avt_host_alloc(r->fetch, r->bytes);
        if (!keys->home[i])
            return avt_fail(r->be->log, AVT_ERR(ENOMEM), "no %.1f MB of host memory for the keys and values of a layer", (double)r->bytes / 1e6);
    }
    return 0;
}

void avt_rings_drop(Rings *r, DitKeys *keys)
{
    for (int64_t i = 0; keys->home && i < keys->nb; i++)
        avt_host_free(r->fetch, keys->home[i], r->bytes);
    avt_freep(&keys->home);
}

/* Rows first .. first + nb - 1 of a slot, from the ring's home or to it. */
static void move_rows(Rings *r, const RingSlot *s, char *home, int64_t first, int64_t nb, int back)
{
    if (avt_backend_is_dry(r->be))                                  // whose host memory is none
        return;
    for (int p = 0; p < r->nb_parts && nb > 0; p++) {
        const Tensor rows = avt_rows(s->part[p], first, nb);
        char *at = home + first * s->part[p].dim[1];

        if (back)
            avt_store(r->store, at, rows);
        else
            avt_fetch(r->fetch, rows, at);
        home += avt_nbytes(s->part[p]);
    }
}

static RingSlot *slot_of(Rings *r, int64_t visit)
{
    return &r->slot[visit % RING_SLOTS];
}

/* What of a ring is written by an item: N rows from here on. */
static int64_t written(const DitItem *it)
{
    return it->f0 % DIT_RING * it->shape->n;
}

static void request(Rings *r, const DitItem *items, int nb, int64_t visit)
{
    const DitItem *it = &items[visit % nb];
    const int64_t first = written(it), behind = first + it->shape->N;
    RingSlot *s = slot_of(r, visit);

    avt_wait(r->fetch, s->free);
    move_rows(r, s, it->ring->home[visit / nb], 0, first, 0);
    if (it->f0 >= DIT_RING)                                         // before, nothing is there yet
        move_rows(r, s, it->ring->home[visit / nb], behind, r->M - behind, 0);
    s->ready = avt_mark(r->fetch);
}

static int comes(const Rings *r, const DitItem *it)
{
    return r && it->ring && it->ring->home;
}

void avt_rings_take(Rings *r, DitItem *items, int nb, int layers, int i, int j)
{
    const int64_t visit = (int64_t)i * nb + j, all = (int64_t)layers * nb;

    if (!comes(r, &items[j]))
        return;
    if (!visit) {
        avt_wait(r->fetch, avt_mark(r->store));
        r->asked = 0;
    }
    while (r->asked < all && r->asked < visit + RING_SLOTS)
        request(r, items, nb, r->asked++);
    items[j].ring->k[i] = slot_of(r, visit)->k;
    items[j].ring->v[i] = slot_of(r, visit)->v;
    avt_wait(r->be, slot_of(r, visit)->ready);
}

void avt_rings_give(Rings *r, const DitItem *items, int nb, int i, int j)
{
    const DitItem *it = &items[j];

    if (comes(r, it)) {
        RingSlot *s = slot_of(r, (int64_t)i * nb + j);

        avt_wait(r->store, avt_mark(r->be));
        move_rows(r, s, it->ring->home[i], written(it), it->shape->N, 1);
        s->free = avt_mark(r->store);
    }
}
