/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Layers that come when they are wanted. See shelf.h. */
#include <pthread.h>
#include <string.h>

#include "files/shelf.h"

struct Shelf {
    ShelfBook book;
    Backend *be;
    size_t *bytes;                      // [nb_layers] in the device's form
    size_t slot;                        // of the largest that does not stand
    int nb_stand, nb_host;              // layers that stand; that do, or lie in host memory
    int nb_coming;                      // that do not stand
    int nb_slots;                       // of a reader
    size_t planned, standing, used;
    struct Loading *loading;            // while it is filled
    pthread_mutex_t lock;               // of what follows, and of `be`
    Arena *arena;                       // layers that stand
    char *layers;                       // [nb_layers, size]
    void **host;                        // [nb_layers] layers that are fetched
    char *there;                        // [nb_layers]
};

/* nb of the nb_layers, spread: those on which another one of them is due. */
static int is_one_of(const Shelf *s, int nb, int l)
{
    return (int64_t)(l + 1) * nb / s->book.nb_layers > (int64_t)l * nb / s->book.nb_layers;
}

static int stands(const Shelf *s, int l)
{
    return is_one_of(s, s->nb_stand, l);
}

/* Host memory is for those that do not stand; the bytes say which of them have it. */
static int stays(const Shelf *s, int l)
{
    return stands(s, l) || is_one_of(s, s->nb_host, l);
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

/* reserve: the headers are looked at and room is made; else the layer is read. */
static int bind(const Shelf *s, Arena *a, void *layer, int l, int reserve, Binder *seen, const int *cancel, const Log *log)
{
    Binder b;
    int ret = avt_binder_open(&b, s->book.ckpt, s->book.lora, a, s->book.what, s->book.dtype, log);

    b.reserve = reserve;
    b.cancel = cancel;
    b.loading = reserve ? NULL : s->loading;
    if (ret >= 0)
        ret = s->book.bind(layer, &b, s->book.opaque, l);
    for (int64_t i = 0; seen && b.used && i < avt_ckpt_nb(b.ckpt); i++)
        seen->used[i] |= b.used[i];
    avt_binder_close(&b);
    return ret;
}

/* Each layer's bytes, on a device that computes nothing. */
static int measure(Shelf *s, Arena *a, void *layer, Binder *seen)
{
    int ret = 0;

    for (int l = 0; l < s->book.nb_layers && ret >= 0; l++) {
        ret = bind(s, a, layer, l, 1, seen, NULL, s->be->log);
        s->bytes[l] = avt_arena_used(a);
        avt_arena_release(a, 0);
    }
    return ret;
}

static int weigh(Shelf *s, Binder *seen)
{
    const Backend *be = s->be;
    const BackendOptions opt = { .threads = be->threads, .level = be->level, .act = be->act, .product = be->product, .log = be->log,
                                 .plan_for = avt_backend_is_dry(be) ? be->plan_for : be->device };
    void *layer = avt_malloc(MEM_NET, s->book.size);
    Backend *dry = NULL;
    Arena *a = NULL;
    int ret = layer ? avt_backend_open(&dry, "dry", &opt) : AVT_ERR(ENOMEM);

    if (ret >= 0)
        ret = avt_arena_open(&a, dry, "shelf", ARENA_UNLIMITED);
    if (ret >= 0)
        ret = measure(s, a, layer, seen);
    if (a)
        avt_arena_close(&a);
    avt_backend_close(&dry);
    avt_free(layer);
    return ret;
}

/* Bytes of those that stand, or of those that stay and do not. */
static size_t sum_of(const Shelf *s, int standing)
{
    size_t sum = 0;

    for (int l = 0; l < s->book.nb_layers; l++)
        sum += stands(s, l) == standing && stays(s, l) ? s->bytes[l] : 0;
    return sum;
}

/* As many layers as there is room for; what they take, and what a slot must take. */
static void settle(Shelf *s, ShelfRoom room)
{
    for (s->nb_stand = s->book.nb_layers; (s->standing = sum_of(s, 1)) > room.stand; )
        s->nb_stand--;
    for (s->nb_host = s->book.nb_layers; sum_of(s, 0) > room.host; )
        s->nb_host--;
    s->planned = s->standing + sum_of(s, 0);
    for (int l = 0; l < s->book.nb_layers; l++)
        if (!stands(s, l)) {
            s->nb_coming++;
            s->slot = s->bytes[l] > s->slot ? s->bytes[l] : s->slot;
        }
}

static int open_arrays(Shelf *s)
{
    const size_t nb = (size_t)s->book.nb_layers;

    s->bytes = avt_calloc(MEM_NET, nb, sizeof(*s->bytes));
    s->layers = avt_calloc(MEM_NET, nb, s->book.size);
    s->host = avt_calloc(MEM_NET, nb, sizeof(*s->host));
    s->there = avt_calloc(MEM_NET, nb, 1);
    return s->bytes && s->layers && s->host && s->there ? 0 : AVT_ERR(ENOMEM);
}

int avt_shelf_open(Shelf **out, const ShelfBook *book, Backend *be, ShelfRoom room, Binder *seen)
{
    Shelf *s = avt_calloc(MEM_NET, 1, sizeof(*s));
    int ret;

    *out = NULL;
    if (!s)
        return AVT_ERR(ENOMEM);
    s->book = *book;
    s->be = be;
    s->nb_slots = room.slots < SHELF_SLOTS ? room.slots : SHELF_SLOTS;
    pthread_mutex_init(&s->lock, NULL);
    ret = open_arrays(s);
    if (ret >= 0)
        ret = weigh(s, seen);
    if (ret >= 0)
        settle(s, room);
    if (ret >= 0)
        ret = avt_arena_open(&s->arena, be, "shelf", s->standing);
    if (ret < 0)
        avt_shelf_close(&s);
    *out = s;
    return ret;
}

void avt_shelf_close(Shelf **p)
{
    Shelf *s = *p;

    if (!s)
        return;
    for (int l = 0; s->host && s->bytes && l < s->book.nb_layers; l++)
        avt_host_free(s->be, s->host[l], s->bytes[l]);
    if (s->arena)
        avt_arena_close(&s->arena);
    pthread_mutex_destroy(&s->lock);
    avt_free(s->bytes);
    avt_free(s->layers);
    avt_free(s->host);
    avt_free(s->there);
    avt_freep(p);
}

size_t avt_shelf_planned(const Shelf *s)
{
    return s->planned;
}

size_t avt_shelf_standing(const Shelf *s)
{
    return s->standing;
}

int avt_shelf_coming(const Shelf *s, size_t *bytes)
{
    *bytes = 0;
    for (int l = 0; l < s->book.nb_layers; l++)
        *bytes += stands(s, l) ? 0 : s->bytes[l];
    return s->nb_coming;
}

size_t avt_shelf_used(Shelf *s)
{
    size_t used;

    pthread_mutex_lock(&s->lock);
    used = s->used;
    pthread_mutex_unlock(&s->lock);
    return used;
}

/* ---- a layer that stands ------------------------------------------------------------------------------------------------ */

/* Under the lock. A layer that could not be read leaves no trace. */
static int set_up(Shelf *s, int l, const Backend *reader)
{
    const size_t mark = avt_arena_mark(s->arena);
    int ret = bind(s, s->arena, s->layers + (size_t)l * s->book.size, l, 0, NULL, reader->cancel, reader->log);

    if (ret >= 0)
        ret = avt_sync(s->be);                                      // other queues will read it
    if (ret < 0) {
        avt_reset(s->be);
        avt_arena_release(s->arena, mark);
        return ret;
    }
    s->there[l] = 1;
    s->used += s->bytes[l];
    return 0;
}

static const void *standing(ShelfReader *r, int l)
{
    Shelf *s = r->s;

    pthread_mutex_lock(&s->lock);
    if (!s->there[l])
        r->status = set_up(s, l, r->be);
    pthread_mutex_unlock(&s->lock);
    return r->status < 0 ? NULL : s->layers + (size_t)l * s->book.size;
}

/* ---- a layer that comes -------------------------------------------------------------------------------------------------- */

/* Under the lock: read layer l into the slot, and keep its bytes, if it stays and there is host memory for it. */
static int read_layer(ShelfReader *r, ShelfSlot *slot, int l)
{
    Shelf *s = r->s;
    void *host;
    int ret = bind(s, slot->arena, slot->layer, l, 0, NULL, r->be->cancel, r->be->log);

    if (ret >= 0 && s->book.ckpt)
        ret = avt_ckpt_intact(s->book.ckpt, r->be->log);                 // or parts of two models would be one
    if (ret < 0 || !stays(s, l) || avt_backend_is_dry(s->be) || !(host = avt_host_alloc(s->be, s->bytes[l])))
        return ret;
    ret = avt_download(r->copy, host, avt_rows(slot->bytes, 0, (int64_t)s->bytes[l]));
    if (ret < 0) {
        avt_host_free(s->be, host, s->bytes[l]);
        return ret;
    }
    s->host[l] = host;
    s->used += s->bytes[l];
    s->there[l] = 1;
    return 0;
}

static int fetch_layer(ShelfReader *r, ShelfSlot *slot, int l)
{
    Shelf *s = r->s;
    const int ret = bind(s, slot->arena, slot->layer, l, 1, NULL, NULL, r->be->log);

    avt_fetch(r->copy, avt_rows(slot->bytes, 0, (int64_t)s->bytes[l]), s->host[l]);
    return ret;
}

static int is_there(Shelf *s, int l)
{
    int there;

    pthread_mutex_lock(&s->lock);
    there = s->there[l];
    pthread_mutex_unlock(&s->lock);
    return there;
}

/* Layer l on its way into a slot, behind the work on the layer that is there. */
static int request(ShelfReader *r, ShelfSlot *slot, int l)
{
    Shelf *s = r->s;
    int ret;

    if (slot->l == l)
        return 0;
    slot->l = -1;
    avt_wait(r->copy, slot->done);
    avt_arena_release(slot->arena, 0);
    pthread_mutex_lock(&s->lock);
    ret = (s->there[l] ? fetch_layer : read_layer)(r, slot, l);
    pthread_mutex_unlock(&s->lock);
    slot->ready = avt_mark(r->copy);
    slot->l = ret < 0 ? -1 : l;
    return ret < 0 ? ret : r->copy->status;
}

/* The next layer behind l that does not stand, -1: none will be asked for. */
static int next_coming(const ShelfReader *r, int l)
{
    const int nb = r->s->book.nb_layers;

    for (int k = l + 1; k < l + 1 + nb; k++)
        if (k < nb ? !stands(r->s, k) : r->again && !stands(r->s, k - nb))
            return k % nb;
    return -1;
}

/* Those behind layer l that only want a copy, into all slots but the one in use. One that must be read is read when it is its turn, while the
 * device is at work on this one. */
static void look_ahead(ShelfReader *r, int l)
{
    const int free = r->nb_slots - (r->current >= 0);

    for (int i = 0, k = next_coming(r, l); i < free && k >= 0 && r->status >= 0; i++, k = next_coming(r, k))
        if (is_there(r->s, k))
            r->status = request(r, &r->slot[(r->turn + i) % r->nb_slots], k);
}

const void *avt_shelf_layer(ShelfReader *r, int l)
{
    const Shelf *s = r->s;
    ShelfSlot *slot;

    if (r->current >= 0)
        r->slot[r->current].done = avt_mark(r->be);
    r->current = -1;
    if (r->status >= 0 && stands(s, l)) {
        look_ahead(r, l);
        return r->status < 0 ? NULL : standing(r, l);
    }
    slot = &r->slot[r->turn];
    if (r->status >= 0)
        r->status = request(r, slot, l);
    r->current = r->turn;
    r->turn = (r->turn + 1) % r->nb_slots;
    look_ahead(r, l);
    if (r->status < 0)
        return r->current = -1, NULL;
    avt_wait(r->be, slot->ready);
    return slot->layer;
}

static int open_slot(ShelfReader *r, ShelfSlot *slot)
{
    const size_t size = r->s->slot;
    const int ret = avt_arena_within(&slot->arena, r->scratch, r->copy, "shelf", size);

    if (ret < 0)
        return ret;
    slot->bytes = (Tensor){ .be = r->copy, .data = avt_arena_base(slot->arena), .dtype = DT_U8, .nd = 1, .dim = { (int64_t)size } };
    slot->l = -1;
    slot->layer = avt_malloc(MEM_NET, r->s->book.size);
    return slot->layer ? 0 : AVT_ERR(ENOMEM);
}

int avt_shelf_begin(ShelfReader *r, Shelf *s, Backend *be, Backend *copy, Arena *scratch, int again)
{
    *r = (ShelfReader){ .s = s, .be = be, .copy = copy, .scratch = scratch, .mark = avt_arena_mark(scratch), .again = again, .current = -1,
                        .nb_slots = s->nb_coming < s->nb_slots ? s->nb_coming : s->nb_slots };
    for (int i = 0; i < r->nb_slots && r->status >= 0; i++)
        r->status = open_slot(r, &r->slot[i]);
    return r->status;
}

int avt_shelf_fill(Shelf *s, const int *cancel, struct Loading *loading, const Log *log)
{
    const int *cancel_before = s->be->cancel;
    const Log *log_before = s->be->log;
    ShelfReader r;
    Arena *slots;
    int ret = avt_arena_open(&slots, s->be, "shelf", SHELF_SLOTS * (s->slot + 64));

    if (ret < 0)
        return ret;
    s->be->cancel = cancel;
    s->be->log = log;
    s->loading = loading;
    ret = avt_shelf_begin(&r, s, s->be, s->be, slots, 0);
    for (int l = 0; l < s->book.nb_layers && ret >= 0; l++)
        ret = avt_shelf_layer(&r, l) ? 0 : -1;
    ret = avt_shelf_end(&r);
    s->loading = NULL;
    s->be->cancel = cancel_before;
    s->be->log = log_before;
    avt_arena_close(&slots);
    return ret;
}

int avt_shelf_end(ShelfReader *r)
{
    const int ran = avt_sync(r->be), copied = r->copy == r->be ? 0 : avt_sync(r->copy);

    for (int i = 0; i < r->nb_slots; i++) {
        if (r->slot[i].arena)
            avt_arena_close(&r->slot[i].arena);
        avt_free(r->slot[i].layer);
    }
    avt_arena_release(r->scratch, r->mark);
    return r->status < 0 ? r->status : copied < 0 ? copied : ran;
}
