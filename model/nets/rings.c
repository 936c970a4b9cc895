/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings and sinks that come when their turn is. See rings.h. */
#include <string.h>

#include "nets/rings.h"

/* ---- slots and homes ------------------------------------------------------------------------------------------------ */

/* The same memory, rows of bytes. */
static void add_part(RingTensors *t, Tensor of, void *data, size_t bytes)
{
    t->part[t->nb_parts++] = (Tensor){ .be = of.be, .data = data, .dtype = DT_U8, .nd = 2, .dim = { of.dim[0], (int64_t)bytes / of.dim[0] } };
    t->bytes += bytes;
}

static void open_tensors(RingTensors *t, Arena *state, const Dit *d, int64_t M, int64_t nb_ref)
{
    const Tensor *const kept[] = { &t->k, &t->v };

    *t = (RingTensors){ .nb_parts = 0 };
    avt_dit_layer_keys(&t->k, &t->v, nb_ref ? &t->ref : NULL, state, d, M, nb_ref);
    for (int i = 0; i < 2; i++)
        add_part(t, *kept[i], kept[i]->data, avt_nbytes(*kept[i]));
    for (int i = 0; i < 2 && kept[i]->scale; i++)
        add_part(t, *kept[i], kept[i]->scale, (size_t)(M * kept[i]->dim[1]) * sizeof(float));
    if (nb_ref)
        add_part(t, t->ref, t->ref.data, avt_nbytes(t->ref));
}

int avt_rings_open(Rings *r, Arena *state, const Dit *d, const DitShape *shape, Backend *be, Backend *fetch, Backend *store)
{
    *r = (Rings){ .be = be, .fetch = fetch, .store = store };
    for (int i = 0; i < RING_SLOTS; i++) {
        open_tensors(&r->slot[i].ring, state, d, shape->ring, 0);
        open_tensors(&r->slot[i].sink, state, d, shape->Lc, shape->n);
    }
    return be->status;
}

static int add(Rings *r, DitKeys *keys, int64_t nb, const RingTensors *like)
{
    *keys = (DitKeys){ .nb = nb };
    keys->k = avt_calloc(MEM_NET, (size_t)(3 * nb), sizeof(*keys->k));
    keys->home = avt_calloc(MEM_NET, (size_t)nb, sizeof(*keys->home));
    if (!keys->k || !keys->home)
        return AVT_ERR(ENOMEM);
    keys->v = keys->k + nb;
    keys->ref = like->ref.be ? keys->v + nb : NULL;
    for (int64_t i = 0; i < nb; i++) {
        keys->k[i] = like->k;                                       // its shape, until it comes
        keys->v[i] = like->v;
        if (keys->ref)
            keys->ref[i] = like->ref;
        keys->home[i] = avt_host_alloc(r->fetch, like->bytes);
        if (!keys->home[i])
            return avt_fail(r->be->log, AVT_ERR(ENOMEM), "no %.1f MB of host memory for the keys and values of a layer", (double)like->bytes / 1e6);
    }
    return 0;
}

int avt_rings_add(Rings *r, DitKeys *keys, int64_t nb)
{
    return add(r, keys, nb, &r->slot[0].ring);
}

int avt_rings_add_sink(Rings *r, DitKeys *keys, int64_t nb)
{
    return add(r, keys, nb, &r->slot[0].sink);
}

void avt_rings_drop(Rings *r, DitKeys *keys)
{
    const size_t bytes = keys->ref ? r->slot[0].sink.bytes : r->slot[0].ring.bytes;

    for (int64_t i = 0; keys->home && i < keys->nb; i++)
        avt_host_free(r->fetch, keys->home[i], bytes);
    avt_freep(&keys->home);
}

size_t avt_rings_moved(const Rings *r, const DitShape *shape)
{
    return r->slot[0].ring.bytes / (size_t)shape->ring * (size_t)(shape->ring - shape->N) + r->slot[0].sink.bytes;
}

/* ---- the way ---------------------------------------------------------------------------------------------------------- */

/* Rows first .. first + nb - 1 of each part, as far as it has them, from its home or to it. */
static void move_rows(Rings *r, const RingTensors *t, char *home, int64_t first, int64_t nb, int back)
{
    if (avt_backend_is_dry(r->be))                                  // whose host memory is none
        return;
    for (int p = 0; p < t->nb_parts; p++) {
        const int64_t left = t->part[p].dim[0] - first, n = nb < left ? nb : left;
        char *at = home + first * t->part[p].dim[1];

        home += avt_nbytes(t->part[p]);
        if (n <= 0)
            continue;
        if (back)
            avt_store(r->store, at, avt_rows(t->part[p], first, n));
        else
            avt_fetch(r->fetch, avt_rows(t->part[p], first, n), at);
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
    const int64_t layer = visit / nb, first = written(it);
    RingSlot *s = slot_of(r, visit);

    avt_wait(r->fetch, s->free);
    if (!it->sink_pass) {
        move_rows(r, &s->ring, it->ring->home[layer], 0, first, 0);
        if (it->f0 >= DIT_RING)                                     // before, nothing is there yet
            move_rows(r, &s->ring, it->ring->home[layer], first + it->shape->N, INT64_MAX, 0);
        move_rows(r, &s->sink, it->sink->home[layer], 0, INT64_MAX, 0);
    }
    s->ready = avt_mark(r->fetch);
}

static void lend(DitKeys *keys, int i, const RingTensors *t)
{
    keys->k[i] = t->k;
    keys->v[i] = t->v;
    if (keys->ref)
        keys->ref[i] = t->ref;
}

void avt_rings_take(Rings *r, DitItem *items, int nb, int layers, int i, int j)
{
    const int64_t visit = (int64_t)i * nb + j, all = (int64_t)layers * nb;

    if (!r)
        return;
    if (!visit) {
        avt_wait(r->fetch, avt_mark(r->store));
        r->asked = 0;
    }
    while (r->asked < all && r->asked < visit + RING_SLOTS)
        request(r, items, nb, r->asked++);
    lend(items[j].sink, i, &slot_of(r, visit)->sink);
    if (!items[j].sink_pass)
        lend(items[j].ring, i, &slot_of(r, visit)->ring);
    avt_wait(r->be, slot_of(r, visit)->ready);
}

void avt_rings_give(Rings *r, const DitItem *items, int nb, int i, int j)
{
    const DitItem *it = &items[j];

    if (r) {
        RingSlot *s = slot_of(r, (int64_t)i * nb + j);

        avt_wait(r->store, avt_mark(r->be));
        if (it->sink_pass)
            move_rows(r, &s->sink, it->sink->home[i], 0, INT64_MAX, 1);
        else
            move_rows(r, &s->ring, it->ring->home[i], written(it), it->shape->N, 1);
        s->free = avt_mark(r->store);
    }
}
